"""The picture of a comparison: its experiment's figure, or the standard one, with what the claim came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .. import experiments
from ..engine.task import Metric
from ..engine.types import ConfigDict
from ..experiments import report
from ..experiments.report import ArmResult
from .statistics import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def picture(
    config: ConfigDict, results: Mapping[str, ArmResult], experiment: experiments.Experiment | None = None
) -> Figure:
    """The experiment's own figure, or the standard one, with the claim's verdict below it.

    Args:
        config: completed, with a claim.
        results: arm -> what it gave.
        experiment: default: the one that the config names.
    """
    experiment = experiment or experiments.get(config.experiment)
    metrics = experiment.metrics(config)
    if hasattr(experiment.module, "figure"):
        figure = experiment.module.figure(config, results)
    else:
        figure = report.comparison_figure(config, results, metrics, experiment.references(config))
    write_claim(figure, config, results, metrics)
    return figure


def claim_text(claim: ConfigDict, result: Verdict, unit: str = "") -> str:
    """The verdict in one line."""
    first, second = (claim.better, claim.than) if claim.direction == "higher" else (claim.than, claim.better)
    text = f"{result.outcome}: {first} − {second} = {result.difference:.3g}{' ' + unit if unit else ''}"
    if np.isfinite(result.low):
        text += f", 95 % interval [{result.low:.3g}, {result.high:.3g}]"
    text += f", {result.seeds} seed{'s' if result.seeds > 1 else ''}"
    return f"{text} ({result.note})" if result.note else text


def write_claim(
    figure: Figure, config: ConfigDict, results: Mapping[str, ArmResult], metrics: Mapping[str, Metric]
) -> None:
    """Put the claim's verdict below the figure, in small type."""
    claim = config.claim
    for name in (claim.better, claim.than):
        if name not in results or claim.metric not in results[name].metrics:
            return  # a part of the comparison has no verdict
    better, than = (results[name].metrics[claim.metric] for name in (claim.better, claim.than))
    metric = metrics.get(claim.metric, Metric(claim.metric))
    text = claim_text(claim, verdict(better, than, direction=claim.direction), metric.unit)
    figure.supxlabel(f"{metric.label}: {text}", fontsize=8, color=report.GREY, x=0.01, ha="left")
