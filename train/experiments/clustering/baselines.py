"""Clustering of rows with continuous and categorical columns, as methods before DIBmix do it.

Each returns the labels of the best of `restarts` starts by its own objective. Columns of one type alone will do. A
constant column says nothing: no method divides by its spread, or counts it among those that vary. Where rows are equal,
a cluster may stay without any. The order of ordinal levels is not used.

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

import numpy as np

from ...engine.settings import check_whole
from . import Mixed
from ._mixed import checked, varying
from ._partition import (
    best,
    build_medoids,
    gower,
    indicators,
    k_means_labels,
    radial_log_density,
    swap_medoids,
)


def k_means(rows: Mixed, restarts: int, seed: int) -> np.ndarray:
    """K-means on scaled columns and indicators."""
    rows = checked(rows, restarts)
    return k_means_labels(
        np.concatenate([rows.continuous, indicators(rows)], axis=1), rows.num_clusters, restarts, seed
    )


def famd_k_means(rows: Mixed, restarts: int, seed: int, *, components: int = 0) -> np.ndarray:
    """K-means on the leading factors of mixed rows.

    Args:
        rows: the rows.
        restarts: of k-means.
        seed: of its starts.
        components: factors kept; 0: those whose variance is above the average, 1 for a column's own.
    """
    rows = checked(rows, restarts)
    check_whole("components", components, 0)
    shown = indicators(rows)
    share = shown.mean(axis=0)
    present = share > 0  # a level that no row has says nothing
    scaled = (shown - share)[:, present] / np.sqrt(share[present])
    table = np.concatenate([rows.continuous, scaled], axis=1)
    left, singular, _ = np.linalg.svd(table - table.mean(axis=0), full_matrices=False)
    variance = singular**2 / len(table)
    count = components or max(1, int(np.sum(variance > 1)))
    return k_means_labels(left[:, :count] * singular[:count], rows.num_clusters, restarts, seed)


def k_prototypes(
    rows: Mixed, restarts: int, seed: int, *, gamma: float | None = None, max_iterations: int = 100
) -> np.ndarray:
    """K-prototypes from random rows.

    Args:
        rows: the rows.
        restarts: starts.
        seed: of the starts.
        gamma: weight of a categorical mismatch, not negative; None: half the mean standard deviation of the continuous
            columns that vary. Where none does there is nothing to weigh against, and it is 1.
        max_iterations: of one start.
    """
    rows = checked(rows, restarts)
    if gamma is not None and not 0 <= gamma < np.inf:
        raise ValueError(f"gamma must be finite and not negative, got {gamma}.")
    check_whole("max_iterations", max_iterations, 1)
    spread = rows.continuous.std(axis=0)[varying(rows.continuous)]
    weight = gamma if gamma is not None else spread.mean() / 2 if len(spread) else 1.0
    shown = indicators(rows)
    offsets = np.concatenate([[0], np.cumsum(rows.num_categories)])
    q = len(rows.num_categories)

    def cost_to(means, modes):  # [n, k]
        squared = np.square(rows.continuous[:, None] - means).sum(axis=-1)
        return squared + weight * (q - shown @ modes.T)

    def run(rng):
        chosen = rng.choice(len(shown), rows.num_clusters, replace=False)
        means, modes = rows.continuous[chosen], shown[chosen]
        labels = np.full(len(shown), -1)
        for _ in range(max_iterations):
            costs = cost_to(means, modes)
            moved = costs.argmin(axis=1)
            if (moved == labels).all():
                break
            labels = moved
            fit = costs.min(axis=1)
            for t in np.setdiff1d(np.arange(rows.num_clusters), labels):
                spare = np.bincount(labels, minlength=rows.num_clusters)[labels] > 1  # rows that leave no cluster empty
                labels[np.where(spare, fit, -np.inf).argmax()] = t  # the one that fits worst
            members = np.eye(rows.num_clusters)[labels]
            means = members.T @ rows.continuous / members.sum(axis=0)[:, None]
            counts = members.T @ shown
            modes = np.zeros_like(counts)
            for start, end in itertools.pairwise(offsets):
                modes[np.arange(rows.num_clusters), start + counts[:, start:end].argmax(axis=1)] = 1
        return labels, cost_to(means, modes)[np.arange(len(labels)), labels].sum()

    return best(run, restarts, seed)


def gower_pam(rows: Mixed, restarts: int, seed: int) -> np.ndarray:
    """Partitioning around medoids of Gower's dissimilarity, from the greedy start and from random ones."""
    rows = checked(rows, restarts)
    distances = gower(rows)

    def run(rng, start=None):
        chosen = rng.choice(len(distances), rows.num_clusters, replace=False) if start is None else start
        medoids = swap_medoids(distances, chosen)
        labels = distances[:, medoids].argmin(axis=1)
        labels[medoids] = np.arange(len(medoids))  # also where another one is equal to it
        return labels, distances[:, medoids].min(axis=1).sum()

    greedy = build_medoids(distances, rows.num_clusters)
    first = run(None, greedy)
    if restarts == 1:
        return first[0]
    return best(run, restarts - 1, seed, first=first)


def kamila(rows: Mixed, restarts: int, seed: int, *, max_iterations: int = 25, smoothing: float = 0.025) -> np.ndarray:
    """KAMILA from random rows and random multinomials.

    Args:
        rows: the rows.
        restarts: starts; the one with the largest total score is kept.
        seed: of the starts.
        max_iterations: of one start.
        smoothing: lambda of the Aitchison-Aitken kernel that smooths the multinomials, in (0, 1).
    """
    rows = checked(rows, restarts)
    if not 0 < smoothing < 1:
        raise ValueError(f"smoothing must be in (0, 1), got {smoothing}.")
    check_whole("max_iterations", max_iterations, 1)
    shown, continuous = indicators(rows), rows.continuous[:, varying(rows.continuous)]
    n, p = continuous.shape
    levels = np.repeat(rows.num_categories, rows.num_categories).astype(int)

    def scores(means, log_levels):  # [n, k]; of one type of columns alone, the other has nothing to add
        distances = np.sqrt(np.square(continuous[:, None] - means).sum(axis=-1))
        radial = radial_log_density(distances.min(axis=1), distances, p) if p else 0.0
        return radial + shown @ log_levels.T

    def run(rng):
        means = continuous[rng.choice(n, rows.num_clusters, replace=False)]
        draws = [rng.dirichlet(np.ones(count), rows.num_clusters) for count in rows.num_categories]
        draws = np.concatenate([np.zeros((rows.num_clusters, 0)), *draws], axis=1)
        log_levels = np.log(np.maximum(draws, 1e-6))
        labels = np.full(n, -1)
        for _ in range(max_iterations):
            score = scores(means, log_levels)
            moved = score.argmax(axis=1)
            if (moved == labels).all():
                break
            labels = moved
            members = np.eye(rows.num_clusters)[labels]
            size = members.sum(axis=0)[:, None]
            occupied = size[:, 0] > 0  # a cluster without rows stays where it was
            share = members.T @ shown / np.maximum(size, 1)
            means = np.where(occupied[:, None], members.T @ continuous / np.maximum(size, 1), means)
            smooth = (1 - smoothing) * share + smoothing / np.maximum(levels - 1, 1) * (1 - share)
            log_levels = np.where(occupied[:, None], np.log(smooth), log_levels)
        return labels, -scores(means, log_levels).max(axis=1).sum()

    return best(run, restarts, seed)
