"""How well clusters of mixed-type rows agree with known ones: the adjusted Rand index, without training.

The data sets of a config are simulated mixtures (`data.simulations`) and tables of scikit-learn with half of their
columns cut into levels (`data.tables`). A seed draws the mixtures anew and chooses which columns are cut; the rows are
the same for every arm, and so is the number of restarts, `protocol.restarts`.

A method is a function `(rows: Mixed, restarts, seed, *, settings) -> labels [n]`: of `restarts` starts, which the seed
sets, it returns the best by its own objective. It sees no true label.
"""

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ... import experiments
from ...engine.settings import check_whole
from ...engine.task import Metric
from ...engine.types import ConfigDict
from .. import report
from ..report import ArmResult, mean_interval
from ._mixed import Labelled, Mixed, check_mixed, make_mixed
from ._sets import cut_table, data_sets, set_names, simulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "METRICS",
    "SMALL",
    "Labelled",
    "Mixed",
    "check_mixed",
    "cut_table",
    "data_sets",
    "defaults",
    "figure",
    "make_mixed",
    "run",
    "set_names",
    "simulate",
]

SMALL = {"data.rows": 40, "data.tables": ("wine",), "protocol.restarts": 3}


def defaults() -> ConfigDict:
    """Every key of `data` and `protocol`."""
    return ConfigDict(dict(
        data=dict(
            simulations=(("continuous", 0.3, 0.6), ("categorical", 0.6, 0.3)),  # name, overlap of columns of each type
            rows=300,  # of a simulation, as are shares, continuous and levels
            shares=(1.0, 1.0, 1.0),  # of each cluster, up to a factor
            continuous=4,  # columns
            levels=(3, 4, 5, 3),  # of each categorical column; at least as many as there are clusters
            tables=("wine", "breast_cancer"),
            bins=4,  # levels of a table's column that is cut, at its quantiles
        ),
        protocol=dict(restarts=50),  # of every method
    ))  # fmt: skip


def METRICS(config: ConfigDict) -> dict[str, Metric]:
    """What `run` returns."""
    each = {f"ari_{name}": Metric(f"adjusted Rand index, {name}") for name in set_names(config)}
    return {"ari": Metric("adjusted Rand index, mean over data sets")} | each


def run(config: ConfigDict, *, seed: int) -> dict[str, float]:
    """The adjusted Rand index on every data set, and their mean.

    Raises:
        ValueError: a setting outside its range, or a method that gives no label for every row.
    """
    from sklearn.metrics import adjusted_rand_score

    restarts = check_whole("protocol.restarts", config.protocol.restarts, 1)
    method = experiments.get(config.experiment).bound(config.method)
    scores = {}
    for name, (rows, labels) in data_sets(config, seed=seed).items():
        found = np.asarray(method(rows, restarts, seed))
        if found.shape != labels.shape:
            raise ValueError(
                f"method.name: {config.method.name!r} must give labels of shape {list(labels.shape)}, one a row of "
                f"{name}, got shape {list(found.shape)}."
            )
        scores[f"ari_{name}"] = float(adjusted_rand_score(labels, found))
    return {"ari": statistics.fmean(scores.values())} | scores


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """A group of dots a data set, one dot an arm, with its interval over seeds."""
    names = [name for name in METRICS(config) if name != "ari"] + ["ari"]
    drawing, (ax,) = report.new_figure(1.7 * len(names) + 1.2, 4.4)
    width = 0.7 / max(len(results) - 1, 1)
    for index, (arm, color) in enumerate(report.arm_colors(results).items()):
        mean, low, high = mean_interval(np.stack([results[arm].metrics[name] for name in names], axis=-1))
        place = np.arange(len(names)) + (index - (len(results) - 1) / 2) * width
        error = np.nan_to_num([mean - low, high - mean])
        ax.errorbar(place, mean, yerr=error, fmt="o", color=color, capsize=3, markersize=6, label=arm)
    kinds = {name: f"simulated,\n{name}\ncolumns tell more" for name, *_ in config.data.simulations}
    tables = {name: f"{name},\nhalf of its\ncolumns cut" for name in config.data.tables}
    titles = kinds | tables | {"": "mean"}
    ax.set_xticks(range(len(names)), [titles[name.removeprefix("ari").removeprefix("_")] for name in names])
    ax.set_xlabel("data set")
    ax.set_ylabel("adjusted Rand index")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.set_title("Agreement with the true clusters (1: all of it, 0: chance), one dot an arm", loc="left", fontsize=11)
    return drawing
