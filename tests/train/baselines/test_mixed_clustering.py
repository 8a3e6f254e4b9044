"""Baselines of mixed clustering: what each minimises, and the libraries that there are."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from lemmata.train.baselines import mixed_clustering as mc
from lemmata.train.baselines.mixed_clustering import Mixed

METHODS = (mc.k_means, mc.famd_k_means, mc.k_prototypes, mc.gower_pam, mc.kamila)


def groups(n=45, distance=6.0, noise=0.1, seed=0):
    """Three groups, apart in two continuous and two categorical columns."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = rng.standard_normal((n, 2)) + distance * np.array([[0, 0], [1, 0], [0, 1]])[labels]
    z = np.where(rng.random((n, 2)) < noise, rng.integers((3, 4), size=(n, 2)), labels[:, None])
    return Mixed((x - x.mean(0)) / x.std(0), z, (3, 4), (), labels, 3)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_separate_groups_are_found(method):
    data = groups()
    labels = method(data, restarts=5, seed=0)
    assert labels.shape == (45,)
    assert adjusted_rand_score(data.labels, labels) == 1.0


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_labels_depend_on_the_seed_alone(method):
    data = groups(distance=1.0, noise=0.8)
    np.testing.assert_array_equal(method(data, restarts=2, seed=3), method(data, restarts=2, seed=3))


def prototypes_cost(data, labels, gamma):
    cost = 0.0
    for t in np.unique(labels):
        x, z = data.continuous[labels == t], data.categorical[labels == t]
        cost += np.square(x - x.mean(0)).sum()
        cost += gamma * sum(len(column) - np.bincount(column).max() for column in z.T)
    return cost


def test_prototypes_reach_what_the_library_reaches():
    library = pytest.importorskip("kmodes.kprototypes")
    data = groups(distance=1.5, noise=0.6)
    labels = mc.k_prototypes(data, restarts=20, seed=0, gamma=0.7)
    table = np.concatenate([data.continuous, data.categorical], axis=1)
    peer = library.KPrototypes(3, n_init=5, gamma=0.7, random_state=0).fit(table, categorical=[2, 3])
    assert prototypes_cost(data, labels, 0.7) <= peer.cost_ * (1 + 1e-6)


def test_gower_is_the_mean_over_columns():
    x = np.array([[0.0], [1.0], [4.0]])
    data = Mixed(x, np.array([[0], [0], [1]]), (2,), (), np.arange(3), 3)
    expected = np.array([[0, 0.25, 2], [0.25, 0, 1.75], [2, 1.75, 0]]) / 2
    np.testing.assert_allclose(mc.gower(data), expected)


def test_medoids_are_the_best_of_all_triples():
    distances = mc.gower(groups(n=18, distance=1.5, noise=0.5))
    best = min(distances[:, list(triple)].min(1).sum() for triple in itertools.combinations(range(18), 3))
    built = mc.build_medoids(distances, 3)
    swapped = mc.swap_medoids(distances, built)
    cost = distances[:, swapped].min(1).sum()
    assert best - 1e-12 <= cost <= distances[:, built].min(1).sum() + 1e-12
    costs = [
        distances[:, mc.swap_medoids(distances, np.random.default_rng(seed).choice(18, 3, replace=False))].min(1).sum()
        for seed in range(10)
    ]
    assert min([cost, *costs]) == pytest.approx(best)


def test_medoids_reach_what_the_library_reaches():
    library = pytest.importorskip("kmedoids")
    distances = mc.gower(groups(distance=1.5, noise=0.6))
    swapped = mc.swap_medoids(distances, mc.build_medoids(distances, 3))
    peer = library.pam(distances, 3, init="build")
    assert distances[:, swapped].min(1).sum() <= peer.loss * (1 + 1e-6)


def test_factors_of_continuous_columns_are_principal_components():
    data = groups(distance=2.0)._replace(categorical=np.zeros((45, 0), int), num_categories=())
    table = data.continuous
    with pytest.MonkeyPatch.context() as patch:
        seen = {}
        patch.setattr(mc, "_k_means", lambda table, *rest: seen.setdefault("table", table))
        patch.setattr(mc, "indicators", lambda data: np.zeros((45, 0)))
        mc.famd_k_means(data, restarts=1, seed=0, components=2)
    expected = PCA(2).fit_transform(table)
    np.testing.assert_allclose(np.abs(seen["table"]), np.abs(expected), atol=1e-9)


def test_factors_weigh_a_categorical_column_by_its_levels():
    """The variance of the scaled indicators of a column of L levels is L - 1, however frequent they are."""
    data = groups()
    shown = mc.indicators(data)
    share = shown.mean(0)
    variance = ((shown - share) / np.sqrt(share)).var(0)
    np.testing.assert_allclose([variance[:3].sum(), variance[3:].sum()], [2.0, (share[3:] > 0).sum() - 1])


@pytest.mark.parametrize("p", [1, 3])
def test_radial_density_is_that_of_a_normal(p):
    """Of distances from the centre of a standard normal; differences of the log density do not know its constant."""
    radii = np.sqrt(stats.chi2(p).ppf((np.arange(4000) + 0.5) / 4000))
    at = np.sqrt(stats.chi2(p).ppf([0.2, 0.5, 0.8]))
    log_density = mc.radial_log_density(radii, at, p)
    np.testing.assert_allclose(np.diff(log_density), np.diff(-(at**2) / 2), atol=0.1)


def test_kamila_follows_the_columns_that_tell_more():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    for apart in (0, 1):  # in the continuous column alone, then in the categorical ones alone
        x = rng.standard_normal((120, 2)) + 5 * (apart == 0) * labels[:, None]
        z = np.where(rng.random((120, 4)) < (0.15 if apart else 1.0), rng.integers(2, size=(120, 4)), labels[:, None])
        data = Mixed((x - x.mean(0)) / x.std(0), z, (2, 2, 2, 2), (), labels, 2)
        assert adjusted_rand_score(labels, mc.kamila(data, restarts=10, seed=0)) > 0.8
