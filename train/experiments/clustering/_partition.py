"""What the baselines are made of: indicators of levels, k-means, medoids, a radial density, the best of the starts."""

from collections.abc import Callable

import numpy as np

from ._mixed import Mixed


def best(
    run: Callable[..., tuple[np.ndarray, float]],
    restarts: int,
    seed: int,
    first: tuple[np.ndarray, float] | None = None,
) -> np.ndarray:
    """Labels of the run with the lowest cost; one of NaN is the highest."""
    rng = np.random.default_rng(seed)
    results = [run(rng) for _ in range(restarts)] + ([first] if first is not None else [])
    return min(results, key=lambda result: (np.isnan(result[1]), result[1]))[0]


def indicators(rows: Mixed) -> np.ndarray:
    """`[n, sum of levels]` float: 1 where a row has a level."""
    pairs = zip(rows.categorical.T, rows.num_categories, strict=True)
    each = [column[:, None] == np.arange(levels) for column, levels in pairs]
    return np.concatenate([np.zeros((len(rows.continuous), 0)), *each], axis=1)


def k_means_labels(table: np.ndarray, num_clusters: int, restarts: int, seed: int) -> np.ndarray:
    """Labels of scikit-learn's k-means on numbers `[n, d]`."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # scikit-learn's own

    options: dict = dict(n_init=restarts, random_state=seed)
    with threadpool_limits(1):  # for so few rows, threads cost more than they save
        return KMeans(num_clusters, **options).fit_predict(table)


def gower(rows: Mixed) -> np.ndarray:
    """`[n, n]`: the mean over columns of the difference in units of the range, or of whether levels differ."""
    spread = np.ptp(rows.continuous, axis=0)
    scaled = rows.continuous / np.where(spread > 0, spread, 1.0)
    differences = np.abs(scaled[:, None] - scaled).sum(axis=-1)
    mismatches = len(rows.num_categories) - (shown := indicators(rows)) @ shown.T
    return (differences + mismatches) / (rows.continuous.shape[1] + len(rows.num_categories))


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
