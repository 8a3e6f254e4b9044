"""Clustering of rows with continuous and categorical columns, as methods before DIBmix do it.

Every function takes a `Mixed`, which `check_mixed` lets in, and gives labels `[n]`. They share their restarts: the
labels of the best of `restarts` starts by the method's own objective are returned. Columns of one type alone will do. A
constant column says nothing: no method divides by its spread, or counts it among those that vary. Where rows are equal,
a cluster may stay without any.

- `k_means`: on the scaled continuous columns and the indicators of the levels (scikit-learn).
- `k_prototypes`: Huang 1998, "Extensions to the k-Means Algorithm for Clustering Large Data Sets with Categorical
  Values": squared distance to the mean plus gamma times the columns that differ from the mode.
- `gower_pam`: Gower 1971, "A General Coefficient of Similarity and Some of Its Properties"; Kaufman and Rousseeuw's
  partitioning around medoids of that dissimilarity, build and swap.
- `famd_k_means`: factor analysis of mixed data (Pagès 2004), a principal component analysis in which every column has
  the same weight, then k-means on the leading scores.
- `kamila`: Foss, Markatou, Ray, Heching 2016, "A semiparametric method for clustering mixed data": each cluster is
  spherical with one radial density, estimated by a kernel, and independent multinomials.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Mixed(NamedTuple):
    """Rows of mixed type.

    Attributes:
        continuous: `[n, p]` float, scaled to mean 0 and variance 1.
        categorical: `[n, q]` int, codes from 0.
        num_categories: levels of each categorical column.
        ordinal: indices of the categorical columns whose levels are ordered; the functions here do not use it.
        labels: `[n]` int, the true clusters, for evaluation alone.
        num_clusters: how many there are.
    """

    continuous: np.ndarray
    categorical: np.ndarray
    num_categories: tuple[int, ...]
    ordinal: tuple[int, ...]
    labels: np.ndarray
    num_clusters: int


def check_mixed(data: Mixed) -> Mixed:
    """The rows with float64 and int64 columns, once they are what `Mixed` says.

    Raises:
        ValueError: no row or column, shapes that do not fit, a value that is not finite, a code that is no level,
            ordinal columns that are none, or more clusters than rows. Values are named by column and row.

    Example:
        >>> x = np.array([[0.0], [np.nan]])
        >>> check_mixed(Mixed(x, np.zeros((2, 0), int), (), (), np.array([0, 1]), 2))
        Traceback (most recent call last):
        ValueError: continuous must be finite, got nan in column 0, row 1.
    """
    continuous, categorical, labels = (np.asarray(x) for x in (data.continuous, data.categorical, data.labels))
    for name, array in (("continuous", continuous), ("categorical", categorical)):
        if array.ndim != 2:
            raise ValueError(f"{name} must have shape [rows, columns], got shape {list(array.shape)}.")
    n, columns = len(continuous), continuous.shape[1] + categorical.shape[1]
    if len(categorical) != n:
        raise ValueError(f"categorical must have {n} rows as continuous, got {len(categorical)}.")
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape [{n}], one a row, got shape {list(labels.shape)}.")
    if n == 0 or columns == 0:
        raise ValueError(f"continuous and categorical must have at least one row and one column, got [{n}, {columns}].")
    if not (np.issubdtype(categorical.dtype, np.integer) or categorical.size == 0):
        raise ValueError(f"categorical must hold integer codes of levels, got {categorical.dtype}.")
    continuous, categorical = continuous.astype(float), categorical.astype(int)
    _refuse("continuous must be finite", continuous, ~np.isfinite(continuous))

    levels, q = tuple(int(count) for count in data.num_categories), categorical.shape[1]
    if len(levels) != q or min(levels, default=1) < 1:
        raise ValueError(
            f"num_categories must have a positive number for each of {q} categorical columns, got {levels}."
        )
    _refuse(
        f"categorical must hold codes from 0, below {levels}", categorical, (categorical < 0) | (categorical >= levels)
    )
    if not set(data.ordinal) <= set(range(q)):
        raise ValueError(f"ordinal must hold indices of the {q} categorical columns, got {tuple(data.ordinal)}.")
    if not (isinstance(data.num_clusters, int | np.integer) and 1 <= data.num_clusters <= n):
        raise ValueError(f"num_clusters must be an integer from 1 to the number of rows, {n}, got {data.num_clusters}.")
    return data._replace(continuous=continuous, categorical=categorical, num_categories=levels, labels=labels)


def _refuse(expected: str, values: np.ndarray, bad: np.ndarray) -> None:
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(f"{expected}, got {values[row, column]} in column {column}, row {row}.")


def varying(columns: np.ndarray) -> np.ndarray:
    """Which of the columns `[n, p]` are not constant: bool `[p]`."""
    return (columns != columns[:1]).any(axis=0)


def _method(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A method whose rows and restarts are checked before it starts."""

    @functools.wraps(function)
    def checked(data: Mixed, *, restarts: int, seed: int, **options: Any) -> np.ndarray:
        if restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {restarts}.")
        return function(check_mixed(data), restarts=restarts, seed=seed, **options)

    return checked


def indicators(data: Mixed) -> np.ndarray:
    """`[n, sum of levels]` float: 1 where a row has a level."""
    pairs = zip(data.categorical.T, data.num_categories, strict=True)
    each = [column[:, None] == np.arange(levels) for column, levels in pairs]
    return np.concatenate([np.zeros((len(data.continuous), 0)), *each], axis=1)


@_method
def k_means(data: Mixed, *, restarts: int, seed: int) -> np.ndarray:
    """K-means on scaled columns and indicators."""
    return _k_means(np.concatenate([data.continuous, indicators(data)], axis=1), data.num_clusters, restarts, seed)


@_method
def famd_k_means(data: Mixed, *, restarts: int, seed: int, components: int = 0) -> np.ndarray:
    """K-means on the leading factors of mixed data.

    Args:
        data: the rows.
        restarts: of k-means.
        seed: of its starts.
        components: factors kept; 0: those whose variance is above the average, 1 for a column's own.
    """
    if components < 0:
        raise ValueError(f"components must not be negative, got {components}.")
    shown = indicators(data)
    share = shown.mean(axis=0)
    present = share > 0  # a level that no row has says nothing
    scaled = (shown - share)[:, present] / np.sqrt(share[present])
    table = np.concatenate([data.continuous, scaled], axis=1)
    left, singular, _ = np.linalg.svd(table - table.mean(axis=0), full_matrices=False)
    variance = singular**2 / len(table)
    count = components or max(1, int(np.sum(variance > 1)))
    return _k_means(left[:, :count] * singular[:count], data.num_clusters, restarts, seed)


def _k_means(table: np.ndarray, num_clusters: int, restarts: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # scikit-learn's own

    options: dict = dict(n_init=restarts, random_state=seed)
    with threadpool_limits(1):  # for so few rows, threads cost more than they save
        return KMeans(num_clusters, **options).fit_predict(table)


@_method
def k_prototypes(
    data: Mixed, *, restarts: int, seed: int, gamma: float | None = None, max_iterations: int = 100
) -> np.ndarray:
    """K-prototypes from random rows.

    Args:
        data: the rows.
        restarts: starts.
        seed: of the starts.
        gamma: weight of a categorical mismatch, not negative; None: half the mean standard deviation of the continuous
            columns that vary. Where none does there is nothing to weigh against, and it is 1.
        max_iterations: of one start.
    """
    if gamma is not None and not 0 <= gamma < np.inf:
        raise ValueError(f"gamma must be finite and not negative, got {gamma}.")
    spread = data.continuous.std(axis=0)[varying(data.continuous)]
    weight = gamma if gamma is not None else spread.mean() / 2 if len(spread) else 1.0
    shown = indicators(data)
    offsets = np.concatenate([[0], np.cumsum(data.num_categories)])
    q = len(data.num_categories)

    def cost_to(means, modes):  # [n, k]
        squared = np.square(data.continuous[:, None] - means).sum(axis=-1)
        return squared + weight * (q - shown @ modes.T)

    def run(rng):
        chosen = rng.choice(len(shown), data.num_clusters, replace=False)
        means, modes = data.continuous[chosen], shown[chosen]
        labels = np.full(len(shown), -1)
        for _ in range(max_iterations):
            costs = cost_to(means, modes)
            moved = costs.argmin(axis=1)
            if (moved == labels).all():
                break
            labels = moved
            fit = costs.min(axis=1)
            for t in np.setdiff1d(np.arange(data.num_clusters), labels):
                spare = np.bincount(labels, minlength=data.num_clusters)[labels] > 1  # rows that leave no cluster empty
                labels[np.where(spare, fit, -np.inf).argmax()] = t  # the one that fits worst
            members = np.eye(data.num_clusters)[labels]
            means = members.T @ data.continuous / members.sum(axis=0)[:, None]
            counts = members.T @ shown
            modes = np.zeros_like(counts)
            for start, end in itertools.pairwise(offsets):
                modes[np.arange(data.num_clusters), start + counts[:, start:end].argmax(axis=1)] = 1
        return labels, cost_to(means, modes)[np.arange(len(labels)), labels].sum()

    return _best(run, restarts, seed)


def gower(data: Mixed) -> np.ndarray:
    """`[n, n]`: the mean over columns of the difference in units of the range, or of whether levels differ."""
    spread = np.ptp(data.continuous, axis=0)
    scaled = data.continuous / np.where(spread > 0, spread, 1.0)
    differences = np.abs(scaled[:, None] - scaled).sum(axis=-1)
    mismatches = len(data.num_categories) - (shown := indicators(data)) @ shown.T
    return (differences + mismatches) / (data.continuous.shape[1] + len(data.num_categories))


@_method
def gower_pam(data: Mixed, *, restarts: int, seed: int) -> np.ndarray:
    """Partitioning around medoids of Gower's dissimilarity, from the greedy start and from random ones."""
    distances = gower(data)

    def run(rng, start=None):
        chosen = rng.choice(len(distances), data.num_clusters, replace=False) if start is None else start
        medoids = swap_medoids(distances, chosen)
        labels = distances[:, medoids].argmin(axis=1)
        labels[medoids] = np.arange(len(medoids))  # also where another one is equal to it
        return labels, distances[:, medoids].min(axis=1).sum()

    greedy = build_medoids(distances, data.num_clusters)
    first = run(None, greedy)
    if restarts == 1:
        return first[0]
    return _best(run, restarts - 1, seed, first=first)


def build_medoids(distances: np.ndarray, num_clusters: int) -> np.ndarray:
    """The row with the least total distance, then the rows that lower the cost the most, one by one, none twice."""
    medoids = [int(distances.sum(axis=0).argmin())]
    for _ in range(num_clusters - 1):
        nearest = distances[:, medoids].min(axis=1)
        costs = np.minimum(distances, nearest[:, None]).sum(axis=0)
        costs[medoids] = np.inf
        medoids.append(int(costs.argmin()))
    return np.array(medoids)


def swap_medoids(distances: np.ndarray, medoids: np.ndarray) -> np.ndarray:
    """Swap the medoid and the row that lower the cost the most, until none does."""
    medoids = np.array(medoids)
    cost = distances[:, medoids].min(axis=1).sum()
    while True:
        costs = np.stack([  # [k, n], with each medoid replaced by each row
            np.minimum(distances, others.min(axis=1, initial=np.inf)[:, None]).sum(axis=0)
            for others in (np.delete(distances[:, medoids], i, axis=1) for i in range(len(medoids)))
        ])  # fmt: skip
        i, row = np.unravel_index(costs.argmin(), costs.shape)
        if not costs[i, row] < cost - 1e-12 * abs(cost):  # so put, a cost of NaN ends it, too
            return medoids
        medoids[i], cost = row, costs[i, row]


@_method
def kamila(data: Mixed, *, restarts: int, seed: int, max_iterations: int = 25, smoothing: float = 0.025) -> np.ndarray:
    """KAMILA from random rows and random multinomials.

    Args:
        data: the rows.
        restarts: starts; the one with the largest total score is kept.
        seed: of the starts.
        max_iterations: of one start.
        smoothing: lambda of the Aitchison-Aitken kernel that smooths the multinomials, in (0, 1).
    """
    if not 0 < smoothing < 1:
        raise ValueError(f"smoothing must be in (0, 1), got {smoothing}.")
    shown, continuous = indicators(data), data.continuous[:, varying(data.continuous)]
    n, p = continuous.shape
    levels = np.repeat(data.num_categories, data.num_categories).astype(int)

    def scores(means, log_levels):  # [n, k]; of one type of columns alone, the other has nothing to add
        distances = np.sqrt(np.square(continuous[:, None] - means).sum(axis=-1))
        radial = radial_log_density(distances.min(axis=1), distances, p) if p else 0.0
        return radial + shown @ log_levels.T

    def run(rng):
        means = continuous[rng.choice(n, data.num_clusters, replace=False)]
        draws = [rng.dirichlet(np.ones(count), data.num_clusters) for count in data.num_categories]
        draws = np.concatenate([np.zeros((data.num_clusters, 0)), *draws], axis=1)
        log_levels = np.log(np.maximum(draws, 1e-6))
        labels = np.full(n, -1)
        for _ in range(max_iterations):
            score = scores(means, log_levels)
            moved = score.argmax(axis=1)
            if (moved == labels).all():
                break
            labels = moved
            members = np.eye(data.num_clusters)[labels]
            size = members.sum(axis=0)[:, None]
            occupied = size[:, 0] > 0  # a cluster without rows stays where it was
            share = members.T @ shown / np.maximum(size, 1)
            means = np.where(occupied[:, None], members.T @ continuous / np.maximum(size, 1), means)
            smooth = (1 - smoothing) * share + smoothing / np.maximum(levels - 1, 1) * (1 - share)
            log_levels = np.where(occupied[:, None], np.log(smooth), log_levels)
        return labels, -scores(means, log_levels).max(axis=1).sum()

    return _best(run, restarts, seed)


def radial_log_density(radii: np.ndarray, at: np.ndarray, p: int) -> np.ndarray:
    """Log density of a point at distance `at` from the centre of a spherical law in p dimensions, up to a constant.

    The density of the distance is a Gaussian kernel estimate from `radii` `[n]` (Silverman's bandwidth), divided by
    r^(p - 1), the surface of a sphere. Within the innermost twentieth of the radii, where few rows decide, it is level.
    """
    spread = min(radii.std(), np.subtract(*np.percentile(radii, [75, 25])) / 1.349)
    bandwidth = 0.9 * max(spread, 1e-6) * len(radii) ** -0.2
    inner = np.percentile(radii, 5)
    grid = np.linspace(inner, max(at.max(), inner + 1e-6), 400)
    kernel = np.exp(-np.square((grid[:, None] - radii) / bandwidth) / 2).mean(axis=1)
    log_density = np.log(np.maximum(kernel, 1e-100)) - (p - 1) * np.log(np.maximum(grid, 1e-6))
    return np.interp(at, grid, log_density)


def _best(
    run: Callable[..., tuple[np.ndarray, float]],
    restarts: int,
    seed: int,
    first: tuple[np.ndarray, float] | None = None,
) -> np.ndarray:
    """Labels of the run with the lowest cost; one of NaN is the highest."""
    rng = np.random.default_rng(seed)
    results = [run(rng) for _ in range(restarts)] + ([first] if first is not None else [])
    return min(results, key=lambda result: (np.isnan(result[1]), result[1]))[0]
