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


NO_CONTINUOUS, NO_CATEGORICAL = np.zeros((45, 0)), np.zeros((45, 0), int)


def changed(data, **fields):
    return data._replace(**fields)


def blind(columns=1, n=45):
    return np.full((n, columns), 3.7)


DATA = groups()
SITUATIONS = {
    "continuous alone": changed(DATA, categorical=NO_CATEGORICAL, num_categories=()),
    "categorical alone": changed(DATA, continuous=NO_CONTINUOUS),
    "constant columns": changed(DATA, continuous=np.concatenate([DATA.continuous, blind(3)], axis=1)),
    "constant columns alone": changed(DATA, continuous=blind(2)),
    "a column of one level": changed(
        DATA, categorical=np.insert(DATA.categorical, 1, 0, axis=1), num_categories=(3, 1, 4)
    ),
    "levels that no row has": changed(DATA, num_categories=(9, 7)),
    "integers and lists": changed(DATA, continuous=np.round(9 * DATA.continuous).astype(int).tolist()),
    "every row twice": Mixed(
        *(np.repeat(x, 2, axis=0) for x in (DATA.continuous, DATA.categorical)),
        (3, 4),
        (),
        np.repeat(DATA.labels, 2),
        3,
    ),
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_columns_that_say_nothing_do_not_hide_the_others(method, situation):
    data = SITUATIONS[situation]
    labels = method(data, restarts=10, seed=0)
    assert labels.min() >= 0
    assert labels.max() < 3
    alone = situation in ("categorical alone", "constant columns alone")
    assert adjusted_rand_score(data.labels, labels) > (0.6 if alone else 0.9)


@pytest.mark.parametrize("method", [mc.k_prototypes, mc.gower_pam, mc.kamila], ids=lambda method: method.__name__)
def test_constant_columns_change_nothing(method):
    """With noise, where labels would follow another weight."""
    noisy = groups(distance=1.5, noise=0.5)
    beside = changed(noisy, continuous=np.concatenate([noisy.continuous, blind(4)], axis=1))
    for data, with_constant in (
        (noisy, beside),
        (changed(noisy, continuous=NO_CONTINUOUS), changed(noisy, continuous=blind())),
    ):
        expected = method(data, restarts=5, seed=1)
        np.testing.assert_array_equal(method(with_constant, restarts=5, seed=1), expected)


def test_prototypes_without_continuous_columns_count_mismatches():
    """Any gamma gives the labels of gamma 1."""
    data = changed(groups(noise=0.3), continuous=NO_CONTINUOUS)
    expected = mc.k_prototypes(data, restarts=5, seed=0, gamma=1.0)
    np.testing.assert_array_equal(mc.k_prototypes(data, restarts=5, seed=0), expected)
    assert prototypes_cost(data, expected, 1.0) < prototypes_cost(data, np.zeros(45, int), 1.0) / 2


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # of scikit-learn
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_as_many_clusters_as_rows_or_one_or_more_than_there_are_different_rows(method):
    few = groups(n=6)
    assert len(set(method(changed(few, num_clusters=6), restarts=2, seed=0))) == 6 or method is mc.kamila
    assert not method(changed(few, num_clusters=1), restarts=2, seed=0).any()
    same = Mixed(np.zeros((5, 2)), np.zeros((5, 1), int), (2,), (), np.zeros(5, int), 3)
    labels = method(same, restarts=2, seed=0)
    assert set(labels) <= {0, 1, 2}


def test_no_cluster_of_prototypes_or_medoids_is_empty():
    rows = np.repeat([[0.0], [1.0]], 4, axis=0)  # two different rows, four clusters
    data = Mixed(rows, np.zeros((8, 0), int), (), (), np.zeros(8, int), 4)
    for method in (mc.k_prototypes, mc.gower_pam):
        for seed in range(3):
            assert set(method(data, restarts=1, seed=seed)) == {0, 1, 2, 3}


def test_swaps_end_whatever_the_distances():
    distances = mc.gower(groups(n=12))
    for bad in (np.nan, np.inf):
        broken = distances.copy()
        broken[3, 5] = broken[5, 3] = bad
        assert len(mc.swap_medoids(broken, np.array([0, 1, 2]))) == 3


def test_a_cost_of_nan_never_wins():
    results = iter([(0, np.nan), (1, 2.0), (2, np.nan), (3, 1.0), (4, np.nan)])
    assert mc._best(lambda rng: next(results), 5, 0) == 3


def with_value(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


X, Z = DATA.continuous, DATA.categorical


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (dict(continuous=with_value(X, (7, 1), np.nan)), "continuous must be finite, got nan in column 1, row 7"),
        (dict(continuous=with_value(X, (7, 1), -np.inf)), "continuous must be finite, got -inf in column 1, row 7"),
        (dict(categorical=with_value(Z, (4, 0), -1)), "categorical must hold codes from 0.* got -1 in column 0, row 4"),
        (dict(categorical=with_value(Z, (4, 1), 4)), r"below \(3, 4\), got 4 in column 1, row 4"),
        (dict(categorical=Z * 1.0), "categorical must hold integer codes"),
        (dict(categorical=Z[:, 0]), "categorical must have shape"),
        (dict(categorical=Z[1:]), "categorical must have 45 rows"),
        (dict(labels=DATA.labels[1:]), "labels must have shape"),
        (dict(num_categories=(3,)), "num_categories must have a positive number for each of 2"),
        (dict(ordinal=(2,)), "ordinal must hold indices"),
        (dict(num_clusters=0), "num_clusters must be an integer from 1 to the number of rows, 45, got 0"),
        (dict(num_clusters=46), "num_clusters"),
        (dict(continuous=X[:0], categorical=Z[:0], labels=DATA.labels[:0]), "at least one row and one column"),
        (dict(continuous=NO_CONTINUOUS, categorical=NO_CATEGORICAL, num_categories=()), "at least one row and one"),
    ],
)
def test_rows_that_are_none_are_named_at_the_door(method, fields, match):
    with pytest.raises(ValueError, match=match):
        method(changed(DATA, **fields), restarts=1, seed=0)


def test_options_outside_their_ranges():
    for method in METHODS:
        with pytest.raises(ValueError, match="restarts must be at least 1"):
            method(DATA, restarts=0, seed=0)
    for gamma in (-1.0, np.nan):
        with pytest.raises(ValueError, match="gamma"):
            mc.k_prototypes(DATA, restarts=1, seed=0, gamma=gamma)
    with pytest.raises(ValueError, match="smoothing"):
        mc.kamila(DATA, restarts=1, seed=0, smoothing=0.0)
    with pytest.raises(ValueError, match="components"):
        mc.famd_k_means(DATA, restarts=1, seed=0, components=-1)


def test_kamila_follows_the_columns_that_tell_more():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    for apart in (0, 1):  # in the continuous column alone, then in the categorical ones alone
        x = rng.standard_normal((120, 2)) + 5 * (apart == 0) * labels[:, None]
        z = np.where(rng.random((120, 4)) < (0.15 if apart else 1.0), rng.integers(2, size=(120, 4)), labels[:, None])
        data = Mixed((x - x.mean(0)) / x.std(0), z, (2, 2, 2, 2), (), labels, 2)
        assert adjusted_rand_score(labels, mc.kamila(data, restarts=10, seed=0)) > 0.8
