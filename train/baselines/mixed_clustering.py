"""Clustering of rows with continuous and categorical columns, as methods before DIBmix do it.

Every function takes a `Mixed` and gives labels `[n]`. They share their restarts: the labels of the best of `restarts`
starts by the method's own objective are returned.

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

import itertools
from collections.abc import Callable
from typing import NamedTuple

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


def indicators(data: Mixed) -> np.ndarray:
    """`[n, sum of levels]` float: 1 where a row has a level."""
    pairs = zip(data.categorical.T, data.num_categories, strict=True)
    return np.concatenate([column[:, None] == np.arange(levels) for column, levels in pairs], axis=1).astype(float)


def k_means(data: Mixed, *, restarts: int, seed: int) -> np.ndarray:
    """K-means on scaled columns and indicators."""
    return _k_means(np.concatenate([data.continuous, indicators(data)], axis=1), data.num_clusters, restarts, seed)


def famd_k_means(data: Mixed, *, restarts: int, seed: int, components: int = 0) -> np.ndarray:
    """K-means on the leading factors of mixed data.

    Args:
        data: the rows.
        restarts: of k-means.
        seed: of its starts.
        components: factors kept; 0: those whose variance is above the average, 1 for a column's own.
    """
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


def k_prototypes(
    data: Mixed, *, restarts: int, seed: int, gamma: float | None = None, max_iterations: int = 100
) -> np.ndarray:
    """K-prototypes from random rows.

    Args:
        data: the rows.
        restarts: starts.
        seed: of the starts.
        gamma: weight of a categorical mismatch; None: half the mean standard deviation of the continuous columns.
        max_iterations: of one start.
    """
    weight = data.continuous.std(axis=0).mean() / 2 if gamma is None else gamma
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
            for t in range(data.num_clusters):
                if not (labels == t).any():
                    labels[costs.min(axis=1).argmax()] = t  # the row that fits worst
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


def gower_pam(data: Mixed, *, restarts: int, seed: int) -> np.ndarray:
    """Partitioning around medoids of Gower's dissimilarity, from the greedy start and from random ones."""
    distances = gower(data)

    def run(rng, start=None):
        chosen = rng.choice(len(distances), data.num_clusters, replace=False) if start is None else start
        medoids = swap_medoids(distances, chosen)
        return distances[:, medoids].argmin(axis=1), distances[:, medoids].min(axis=1).sum()

    greedy = build_medoids(distances, data.num_clusters)
    first = run(None, greedy)
    if restarts == 1:
        return first[0]
    return _best(run, restarts - 1, seed, first=first)


def build_medoids(distances: np.ndarray, num_clusters: int) -> np.ndarray:
    """The row with the least total distance, then the rows that lower the cost the most, one by one."""
    medoids = [int(distances.sum(axis=0).argmin())]
    for _ in range(num_clusters - 1):
        nearest = distances[:, medoids].min(axis=1)
        medoids.append(int(np.minimum(distances, nearest[:, None]).sum(axis=0).argmin()))
    return np.array(medoids)


def swap_medoids(distances: np.ndarray, medoids: np.ndarray) -> np.ndarray:
    """Swap the medoid and the row that lower the cost the most, until none does."""
    medoids = np.array(medoids)
    cost = distances[:, medoids].min(axis=1).sum()
    while True:
        costs = np.stack([  # [k, n], with each medoid replaced by each row
            np.minimum(distances, np.delete(distances[:, medoids], i, axis=1).min(axis=1)[:, None]).sum(axis=0)
            for i in range(len(medoids))
        ])  # fmt: skip
        i, row = np.unravel_index(costs.argmin(), costs.shape)
        if costs[i, row] >= cost - 1e-12 * abs(cost):
            return medoids
        medoids[i], cost = row, costs[i, row]


def kamila(data: Mixed, *, restarts: int, seed: int, max_iterations: int = 25, smoothing: float = 0.025) -> np.ndarray:
    """KAMILA from random rows and random multinomials.

    Args:
        data: the rows.
        restarts: starts; the one with the largest total score is kept.
        seed: of the starts.
        max_iterations: of one start.
        smoothing: lambda of the Aitchison-Aitken kernel that smooths the multinomials.
    """
    shown = indicators(data)
    n, p = data.continuous.shape
    levels = np.repeat(data.num_categories, data.num_categories)

    def scores(means, log_levels):  # [n, k]
        distances = np.sqrt(np.square(data.continuous[:, None] - means).sum(axis=-1))
        return radial_log_density(distances.min(axis=1), distances, p) + shown @ log_levels.T

    def run(rng):
        means = data.continuous[rng.choice(n, data.num_clusters, replace=False)]
        draws = [rng.dirichlet(np.ones(count), data.num_clusters) for count in data.num_categories]
        log_levels = np.log(np.maximum(np.concatenate(draws, axis=1), 1e-6))
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
            means = np.where(occupied[:, None], members.T @ data.continuous / np.maximum(size, 1), means)
            smooth = (1 - smoothing) * share + smoothing / (levels - 1) * (1 - share)
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
    """Labels of the run with the lowest cost."""
    rng = np.random.default_rng(seed)
    results = [run(rng) for _ in range(restarts)] + ([first] if first is not None else [])
    return min(results, key=lambda result: result[1])[0]
