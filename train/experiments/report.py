"""What figures of experiments are made of: an arm's result, intervals over seeds, colors, axes.

Figures are made without pyplot, so that plotting works without a display and leaves no global state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..engine.task import Metric
from ..engine.types import ConfigDict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart by readers with any colour vision; yellow, too light on white, is left out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#5f5f5f"


class ArmResult(NamedTuple):
    """What one arm of a comparison gave."""

    metrics: dict[str, np.ndarray]  # name -> [seeds], at the end
    history: dict[str, tuple[np.ndarray, np.ndarray]]  # name -> (steps [t], values [seeds, t]); {} if nothing trained
    seconds: float  # wall time of all seeds, compilation included
    skipped: np.ndarray | None = None  # [seeds] updates dropped because they were not finite; None if nothing trained
    config: Any = None  # the arm's own, with every setting that was used


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and its Student-t confidence interval.

    Args:
        values: `[seeds, ...]`.
        level: coverage of the interval, in (0, 1).

    Returns:
        `(mean, low, high)`, each `[...]` float64. `low` and `high` are NaN with one seed, which has no interval, and
        equal the mean where all seeds agree exactly.

    Raises:
        ValueError: no seeds, or level outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    if values.ndim < 1 or values.shape[0] < 1:
        raise ValueError(f"values must be [seeds, ...] with at least one seed, got shape {values.shape}.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be between 0 and 1, exclusive, got {level}.")
    from scipy.special import stdtrit

    seeds = values.shape[0]
    # Rounding in the sums would give equal values a tiny spread; then the mean is any one of them and the spread is 0.
    equal = np.all(values == values[0], axis=0)
    with np.errstate(invalid="ignore"):  # inf - inf; the NaN that comes of it is the answer
        mean = np.where(equal, values[0], values.mean(axis=0))
        if seeds == 1:
            return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        spread = np.where(equal, 0.0, values.std(axis=0, ddof=1))
    half = stdtrit(seeds - 1, 0.5 + level / 2) * spread / np.sqrt(seeds)
    return mean, mean - half, mean + half


def new_figure(width: float = 7.0, height: float = 4.2, *, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` plots side by side that share their y axis; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, list(axes)


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure to a file; the ending of its name is the format."""
    figure.savefig(path, dpi=160)


def arm_colors(arms: Mapping[str, object]) -> dict[str, str]:
    """One color an arm, by their order; they repeat after seven."""
    return {arm: COLORS[i % len(COLORS)] for i, arm in enumerate(arms)}


def axis_label(name: str, metrics: Mapping[str, Metric]) -> str:
    """`label [unit]`; a metric without an entry goes by its own name."""
    metric = metrics.get(name, Metric(name))
    return f"{metric.label} [{metric.unit}]" if metric.unit else metric.label


def title(what: str, config: ConfigDict, results: Mapping[str, ArmResult]) -> str:
    """`What: arm against arm, arm`; the arm that is claimed to be better comes first."""
    first, *others = sorted(results, key=lambda arm: arm != config.claim.better)
    text = f"{what[:1].upper()}{what[1:]}: {first}"
    return f"{text} against {', '.join(others)}" if others else text


def draw_references(ax: Axes, references: Mapping[str, float]) -> None:
    """Dashed horizontal lines, each named at the right end; names of lines that are close are moved apart."""
    if not references:
        return
    for value in references.values():
        ax.axhline(value, color=GREY, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
    low, high = ax.get_ylim()
    gap = 0.055 * (high - low)  # the height of a line of type
    place = -np.inf
    for label, value in sorted(references.items(), key=lambda item: item[1]):
        place = max(value, place + gap)
        text = f"{label}: {value:.3g}"
        ax.annotate(
            text, (1.0, value), (1.03, place), xycoords=ax.get_yaxis_transform(), textcoords=ax.get_yaxis_transform(),
            fontsize=8, color=GREY, va="center", arrowprops=dict(arrowstyle="-", color=GREY, linewidth=0.6),
        )  # fmt: skip


def comparison_figure(
    config: ConfigDict,
    results: Mapping[str, ArmResult],
    metrics: Mapping[str, Metric],
    references: Mapping[str, Mapping[str, float]],
) -> Figure:
    """The claim's metric of every arm: over training where all arms have its history, else as a dot and its interval.

    Args:
        config: with `claim` (metric, better, than, direction).
        results: arm -> what it gave.
        metrics: metric -> label and unit.
        references: metric -> label -> value, drawn as horizontal dashed lines.

    Raises:
        ValueError: an arm does not have the claim's metric, or there are no arms.
    """
    name = config.claim.metric
    if not results:
        raise ValueError("results must hold at least one arm, got none.")
    for arm, result in results.items():
        if name not in result.metrics:
            raise ValueError(f"claim.metric is {name!r}, which arm {arm!r} lacks; it has {sorted(result.metrics)}.")

    figure, (ax,) = new_figure()
    trained = all(name in r.history and len(r.history[name][0]) > 1 for r in results.values())
    (_draw_curves if trained else _draw_dots)(ax, name, results)
    ax.set_ylabel(axis_label(name, metrics))
    draw_references(ax, references.get(name, {}))
    if trained:  # otherwise the ticks name the arms
        ax.legend(frameon=False, fontsize=9)
    ax.set_title(title(metrics.get(name, Metric(name)).label, config, results), loc="left", fontsize=11)
    return figure


def _draw_curves(ax: Axes, name: str, results: Mapping[str, ArmResult]) -> None:
    for arm, color in arm_colors(results).items():
        steps, values = results[arm].history[name]
        mean, low, high = mean_interval(values)
        ax.plot(steps, mean, color=color, linewidth=1.8, label=arm)
        ax.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    ax.set_xlabel("training step")
    ax.margins(x=0.01)


def _draw_dots(ax: Axes, name: str, results: Mapping[str, ArmResult]) -> None:
    for place, (arm, color) in enumerate(arm_colors(results).items()):
        values = results[arm].metrics[name]
        mean, low, high = mean_interval(values)
        ax.errorbar(
            place, mean, yerr=[[mean - low], [high - mean]], fmt="o", color=color, capsize=4, markersize=7, label=arm
        )
        ax.plot(np.full(len(values), place + 0.12), values, ".", color=color, alpha=0.5, markersize=5)  # the seeds
    ax.set_xticks(range(len(results)), list(results))
    ax.set_xlim(-0.6, len(results) - 0.4)
    ax.set_xlabel("arm")
