"""How well clusters of mixed-type rows agree with known ones: the adjusted Rand index, without training.

The data sets of a config are simulated mixtures (`data.simulations`) and tables of scikit-learn with half of their
columns cut into levels (`data.tables`). A seed draws the mixtures anew and chooses which columns are cut; the rows are
the same for every arm. `method.name` is a key of `METHODS`; every arm has the same number of restarts.

The overlap of two clusters in a column is the sum, or integral, of the smaller of their two densities. In a continuous
column of a mixture all clusters are normal with unit variance, and one of them stands apart from the others by as much
as gives the overlap, each in its turn; in a categorical column, each cluster has a level of its own that is more
frequent than the others by as much as gives the overlap.
"""

import statistics
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ...methods.clustering import dib_mix
from .. import data, plots
from ..baselines import mixed_clustering as baselines
from ..baselines.mixed_clustering import Mixed
from ..statistics import ArmResult, mean_interval
from ..types import ConfigDict
from .base import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`."""
    return ConfigDict(dict(
        data=dict(
            simulations=(("continuous", 0.3, 0.6), ("categorical", 0.6, 0.3)),  # name, overlap of columns of each type
            rows=300,
            shares=(1.0, 1.0, 1.0),  # of each cluster, up to a factor
            continuous=4,  # columns
            levels=(3, 4, 5, 3),  # of each categorical column; at least as many as there are clusters
            tables=("wine", "breast_cancer"),
            bins=4,  # levels of a column that is cut, at its quantiles
        ),
        model=dict(),
        method=dict(
            name="dib_mix",  # a key of METHODS
            restarts=50,
            ordered=True,  # dib_mix: columns that were cut count as ordinal; False: as nominal
            categorical_first=False,  # dib_mix
            nominal_kernel="aitchison_aitken",  # dib_mix
        ),
    ))  # fmt: skip


def METRICS(config: ConfigDict) -> dict[str, Metric]:
    """What `run` returns."""
    each = {f"ari_{name}": Metric(f"adjusted Rand index, {name}") for name in set_names(config)}
    return {"ari": Metric("adjusted Rand index, mean over data sets")} | each


def set_names(config: ConfigDict) -> list[str]:
    """Names of the data sets, of simulations and then of tables.

    Raises:
        ValueError: no set, one without a name, or a name that two sets share: one would take the other's place.
    """
    for simulation in config.data.simulations:
        if len(simulation) != 3 or not isinstance(simulation[0], str):
            raise ValueError(f"data.simulations must hold a name and two overlaps each, got {simulation!r}.")
    names = [name for name, *_ in config.data.simulations] + list(config.data.tables)
    if not names:
        raise ValueError("data.simulations and data.tables must name at least one data set together, got none.")
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice or "" in names:
        found = f"{twice[0]!r} twice" if twice else "an empty one"
        raise ValueError(f"data.simulations and data.tables must have different names, got {found}.")
    return names


# ----------------------------------------------------------------------------------------------------------------- data


def simulate(
    rng: np.random.Generator,
    *,
    rows: int,
    shares: tuple[float, ...],
    continuous: int,
    levels: tuple[int, ...],
    overlaps: tuple[float, float],
) -> Mixed:
    """A mixture as the module describes it.

    Args:
        rng: its random draws.
        rows: n.
        shares: of each cluster, up to a factor; sizes are these shares, rounded.
        continuous: number of continuous columns.
        levels: of each categorical column.
        overlaps: of the cluster that stands apart with another in a continuous column, and of any two in a categorical
            one, in (0, 1].

    Raises:
        ValueError: a share that is not positive or too small for a row, no columns, fewer levels than clusters, or an
            overlap outside (0, 1].
    """
    k = len(shares)
    if not (k and all(0 < share < np.inf for share in shares)):
        raise ValueError(f"data.shares must be positive, one a cluster, got {shares}.")
    if continuous < 0:
        raise ValueError(f"data.continuous must not be negative, got {continuous}.")
    if min(levels, default=k) < k:
        raise ValueError(f"data.levels must be at least the number of clusters, {k}, got {levels}.")
    if not all(0 < overlap <= 1 for overlap in overlaps):
        raise ValueError(f"data.simulations must have overlaps in (0, 1], got {overlaps}.")
    ends = np.round(rows * np.cumsum(shares) / np.sum(shares)).astype(int)
    if np.diff(ends, prepend=0).min() < 1:
        raise ValueError(f"data.rows must give every cluster a row, got {rows} for data.shares {shares}.")
    labels = rng.permutation(np.searchsorted(ends, np.arange(rows), side="right"))

    step = -2 * statistics.NormalDist().inv_cdf(overlaps[0] / 2)  # two unit normals so far apart share that area
    means = step * np.eye(k)[:, rng.permutation(k)[np.arange(continuous) % k]]
    columns = [np.zeros((rows, 0), int)]
    for count in levels:
        own = rng.permutation(count)[:k]
        background = rng.random(rows) < overlaps[1]  # any level at random, else the cluster's own
        columns.append(np.where(background, rng.integers(count, size=rows), own[labels])[:, None])
    return make_mixed(
        means[labels] + rng.standard_normal((rows, continuous)), np.concatenate(columns, axis=1), levels, labels=labels
    )


def cut_table(rng: np.random.Generator, name: str, *, bins: int) -> Mixed:
    """All rows of one of scikit-learn's tables, a random half of its columns cut into levels at their quantiles.

    Raises:
        ValueError: fewer than two bins, or a data set without rows of features or a class label.
    """
    if bins < 2:
        raise ValueError(f"data.bins must be at least 2, got {bins}.")
    splits = [data.load(name, split) for split in ("train", "test")]
    held = {key: values.dtype for split in splits for key, values in split.items()}
    if "features" not in held or not np.issubdtype(held.get("label", float), np.integer):
        found = ", ".join(f"{key} ({dtype})" for key, dtype in held.items())
        raise ValueError(f"data.tables must be sets with features and a class label; {name!r} has {found}.")
    features = np.concatenate([split["features"] for split in splits]).astype(float)
    labels = np.concatenate([split["label"] for split in splits])
    chosen = rng.permutation(features.shape[1])
    cut, kept = np.sort(chosen[: len(chosen) // 2]), np.sort(chosen[len(chosen) // 2 :])
    codes = [np.zeros((len(features), 0), int)]
    for column in features[:, cut].T:
        edges = np.unique(np.quantile(column, np.arange(1, bins) / bins))
        codes.append(np.unique(np.searchsorted(edges, column, side="right"), return_inverse=True)[1][:, None])
    categorical = np.concatenate(codes, axis=1)
    levels = tuple(int(column.max()) + 1 for column in categorical.T)
    return make_mixed(features[:, kept], categorical, levels, labels=labels, ordinal=tuple(range(len(levels))))


def make_mixed(
    continuous: np.ndarray,
    categorical: np.ndarray,
    num_categories: tuple[int, ...],
    *,
    labels: np.ndarray,
    ordinal: tuple[int, ...] = (),
) -> Mixed:
    """Rows with their continuous columns scaled to mean 0 and variance 1; a constant one becomes 0.

    Raises:
        ValueError: as `baselines.check_mixed`.
    """
    rows = baselines.check_mixed(
        Mixed(continuous, categorical, tuple(num_categories), ordinal, labels, len(np.unique(labels)))
    )
    varies = baselines.varying(rows.continuous)
    largest = np.abs(rows.continuous).max(axis=0, initial=0.0)
    columns = rows.continuous / np.where(largest > 0, largest, 1.0)  # whose squares neither overflow nor vanish
    centred = columns - columns.mean(axis=0)
    spread = np.sqrt(np.square(centred).sum(axis=0) / max(len(centred) - 1, 1))
    return rows._replace(continuous=np.where(varies, centred / np.where(varies, spread, 1.0), 0.0))


def data_sets(config: ConfigDict, *, seed: int) -> dict[str, Mixed]:
    """Name -> rows, the same for every arm."""
    settings = config.data
    shape: dict[str, Any] = dict(
        rows=settings.rows, shares=settings.shares, continuous=settings.continuous, levels=settings.levels
    )
    set_names(config)  # which refuses two of one name
    sets = {}
    for index, (name, *overlaps) in enumerate(settings.simulations):
        sets[name] = simulate(np.random.default_rng((seed, 0, index)), **shape, overlaps=tuple(overlaps))
    for index, name in enumerate(settings.tables):
        sets[name] = cut_table(np.random.default_rng((seed, 1, index)), name, bins=settings.bins)
    return sets


# -------------------------------------------------------------------------------------------------------------- methods


def cluster_dib_mix(rows: Mixed, method: ConfigDict, seed: int) -> np.ndarray:
    """Labels of DIBmix with the bandwidths that its rules choose, on the columns with more than one level."""
    shown = np.flatnonzero(baselines.varying(rows.categorical))
    continuous = jnp.asarray(rows.continuous, jnp.float32) if rows.continuous.size else None
    categorical = jnp.asarray(rows.categorical[:, shown], jnp.int32) if shown.size else None
    columns: dict[str, Any] = dict(
        num_categories=[rows.num_categories[j] for j in shown],
        nominal_kernel=method.nominal_kernel,
        ordinal=[place for place, j in enumerate(shown) if j in rows.ordinal] if method.ordered else (),
    )
    s, lambdas = dib_mix.select_bandwidths(
        continuous, categorical, categorical_first=method.categorical_first, **columns
    )
    conditional = dib_mix.mixed_conditional(continuous, categorical, s, lambdas, **columns)
    found = dib_mix.dib_mix(
        conditional, key=jax.random.key(seed), num_clusters=rows.num_clusters, num_restarts=method.restarts
    )
    return np.asarray(found.assignments)


def _baseline(function: Callable[..., np.ndarray]) -> Callable[[Mixed, ConfigDict, int], np.ndarray]:
    return lambda rows, method, seed: function(rows, restarts=method.restarts, seed=seed)


# (rows, config.method, seed) -> labels [n]
METHODS: dict[str, Callable[[Mixed, ConfigDict, int], np.ndarray]] = {
    "dib_mix": cluster_dib_mix,
    "k_means": _baseline(baselines.k_means),
    "k_prototypes": _baseline(baselines.k_prototypes),
    "gower_pam": _baseline(baselines.gower_pam),
    "famd_k_means": _baseline(baselines.famd_k_means),
    "kamila": _baseline(baselines.kamila),
}


def run(config: ConfigDict, *, seed: int) -> dict[str, float]:
    """The adjusted Rand index on every data set, and their mean."""
    from sklearn.metrics import adjusted_rand_score

    method = config.method
    if method.name not in METHODS:
        raise ValueError(f"method.name must be one of {', '.join(METHODS)}; got {method.name!r}.")
    if method.restarts < 1:
        raise ValueError(f"method.restarts must be at least 1, got {method.restarts}.")
    scores = {
        f"ari_{name}": float(adjusted_rand_score(rows.labels, METHODS[method.name](rows, method, seed)))
        for name, rows in data_sets(config, seed=seed).items()
    }
    return {"ari": statistics.fmean(scores.values())} | scores


# --------------------------------------------------------------------------------------------------------------- report


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """A group of dots a data set, one dot an arm, with its interval over seeds."""
    names = [name for name in METRICS(config) if name != "ari"] + ["ari"]
    drawing, (ax,) = plots.new_figure(1.7 * len(names) + 1.2, 4.4)
    width = 0.7 / max(len(results) - 1, 1)
    for index, (arm, color) in enumerate(plots.arm_colors(results).items()):
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
    plots.write_claim(drawing, config, results, METRICS(config))
    return drawing
