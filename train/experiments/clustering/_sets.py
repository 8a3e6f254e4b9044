"""The data sets of a config: simulated mixtures, and tables half of whose columns are cut into levels.

The overlap of two clusters in a column is the sum, or integral, of the smaller of their two densities. In a continuous
column of a mixture all clusters are normal with unit variance, and one of them stands apart from the others by as much
as gives the overlap, each in its turn; in a categorical column, each cluster has a level of its own that is more
frequent than the others by as much as gives the overlap.
"""

import statistics
from typing import Any

import numpy as np

from ... import data
from ...engine.types import ConfigDict
from ._mixed import Labelled, make_mixed


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


def data_sets(config: ConfigDict, *, seed: int) -> dict[str, Labelled]:
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


def simulate(
    rng: np.random.Generator,
    *,
    rows: int,
    shares: tuple[float, ...],
    continuous: int,
    levels: tuple[int, ...],
    overlaps: tuple[float, float],
) -> Labelled:
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


def cut_table(rng: np.random.Generator, name: str, *, bins: int) -> Labelled:
    """All rows of one of scikit-learn's tables, a random half of its columns cut into levels at their quantiles.

    Raises:
        ValueError: fewer than two bins, or a data set without rows of features or a class label.
    """
    if bins < 2:
        raise ValueError(f"data.bins must be at least 2, got {bins}.")
    splits = [data.load(name, split) for split in ("train+validation", "test")]
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
