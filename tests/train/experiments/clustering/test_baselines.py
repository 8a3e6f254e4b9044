"""Baselines of mixed clustering: what each minimises, and the libraries that there are."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from lemmata.train.experiments.clustering import Mixed, _partition
from lemmata.train.experiments.clustering import baselines as mc
from lemmata.train.experiments.clustering.dib_mix import dib_mix

METHODS = (mc.k_means, mc.famd_k_means, mc.k_prototypes, mc.gower_pam, mc.kamila)


def turns(n=45):
    return np.arange(n) % 3


def groups(n=45, distance=6.0, noise=0.1, seed=0):
    """Three groups, apart in two continuous and two categorical columns; the rows take turns (`turns`)."""
    rng = np.random.default_rng(seed)
    labels = turns(n)
    x = rng.standard_normal((n, 2)) + distance * np.array([[0, 0], [1, 0], [0, 1]])[labels]
    z = np.where(rng.random((n, 2)) < noise, rng.integers((3, 4), size=(n, 2)), labels[:, None])
    return Mixed((x - x.mean(0)) / x.std(0), z, (3, 4), (), 3)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_separate_groups_are_found(method):
    labels = method(groups(), 5, 0)
    assert labels.shape == (45,)
    assert adjusted_rand_score(turns(), labels) == 1.0


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_labels_depend_on_the_seed_alone(method):
    rows = groups(distance=1.0, noise=0.8)
    np.testing.assert_array_equal(method(rows, 2, 3), method(rows, 2, 3))


def prototypes_cost(rows, labels, gamma):
    cost = 0.0
    for t in np.unique(labels):
        x, z = rows.continuous[labels == t], rows.categorical[labels == t]
        cost += np.square(x - x.mean(0)).sum()
        cost += gamma * sum(len(column) - np.bincount(column).max() for column in z.T)
    return cost


def test_prototypes_reach_what_the_library_reaches():
    library = pytest.importorskip("kmodes.kprototypes")
    rows = groups(distance=1.5, noise=0.6)
    labels = mc.k_prototypes(rows, 20, 0, gamma=0.7)
    table = np.concatenate([rows.continuous, rows.categorical], axis=1)
    peer = library.KPrototypes(3, n_init=5, gamma=0.7, random_state=0).fit(table, categorical=[2, 3])
    assert prototypes_cost(rows, labels, 0.7) <= peer.cost_ * (1 + 1e-6)


def test_gower_is_the_mean_over_columns():
    x = np.array([[0.0], [1.0], [4.0]])
    rows = Mixed(x, np.array([[0], [0], [1]]), (2,), (), 3)
    expected = np.array([[0, 0.25, 2], [0.25, 0, 1.75], [2, 1.75, 0]]) / 2
    np.testing.assert_allclose(_partition.gower(rows), expected)


def test_medoids_are_the_best_of_all_triples():
    distances = _partition.gower(groups(n=18, distance=1.5, noise=0.5))
    best = min(distances[:, list(triple)].min(1).sum() for triple in itertools.combinations(range(18), 3))
    built = _partition.build_medoids(distances, 3)
    swapped = _partition.swap_medoids(distances, built)
    cost = distances[:, swapped].min(1).sum()
    assert best - 1e-12 <= cost <= distances[:, built].min(1).sum() + 1e-12
    starts = [np.random.default_rng(seed).choice(18, 3, replace=False) for seed in range(10)]
    costs = [distances[:, _partition.swap_medoids(distances, start)].min(1).sum() for start in starts]
    assert min([cost, *costs]) == pytest.approx(best)


def test_medoids_reach_what_the_library_reaches():
    library = pytest.importorskip("kmedoids")
    distances = _partition.gower(groups(distance=1.5, noise=0.6))
    swapped = _partition.swap_medoids(distances, _partition.build_medoids(distances, 3))
    peer = library.pam(distances, 3, init="build")
    assert distances[:, swapped].min(1).sum() <= peer.loss * (1 + 1e-6)


def test_factors_of_continuous_columns_are_principal_components():
    rows = groups(distance=2.0)._replace(categorical=np.zeros((45, 0), int), num_categories=())
    table = rows.continuous
    with pytest.MonkeyPatch.context() as patch:
        seen = {}
        patch.setattr(mc, "k_means_labels", lambda table, *rest: seen.setdefault("table", table))
        mc.famd_k_means(rows, 1, 0, components=2)
    expected = PCA(2).fit_transform(table)
    np.testing.assert_allclose(np.abs(seen["table"]), np.abs(expected), atol=1e-9)


def test_factors_weigh_a_categorical_column_by_its_levels():
    """The variance of the scaled indicators of a column of L levels is L - 1, however frequent they are."""
    rows = groups()
    shown = _partition.indicators(rows)
    share = shown.mean(0)
    variance = ((shown - share) / np.sqrt(share)).var(0)
    np.testing.assert_allclose([variance[:3].sum(), variance[3:].sum()], [2.0, (share[3:] > 0).sum() - 1])


@pytest.mark.parametrize("p", [1, 3])
def test_radial_density_is_that_of_a_normal(p):
    """Of distances from the centre of a standard normal; differences of the log density do not know its constant."""
    radii = np.sqrt(stats.chi2(p).ppf((np.arange(4000) + 0.5) / 4000))
    at = np.sqrt(stats.chi2(p).ppf([0.2, 0.5, 0.8]))
    log_density = _partition.radial_log_density(radii, at, p)
    np.testing.assert_allclose(np.diff(log_density), np.diff(-(at**2) / 2), atol=0.1)


NO_CONTINUOUS, NO_CATEGORICAL = np.zeros((45, 0)), np.zeros((45, 0), int)


def changed(rows, **fields):
    return rows._replace(**fields)


def blind(columns=1, n=45):
    return np.full((n, columns), 3.7)


ROWS = groups()
SITUATIONS = {
    "continuous alone": changed(ROWS, categorical=NO_CATEGORICAL, num_categories=()),
    "categorical alone": changed(ROWS, continuous=NO_CONTINUOUS),
    "constant columns": changed(ROWS, continuous=np.concatenate([ROWS.continuous, blind(3)], axis=1)),
    "constant columns alone": changed(ROWS, continuous=blind(2)),
    "a column of one level": changed(
        ROWS, categorical=np.insert(ROWS.categorical, 1, 0, axis=1), num_categories=(3, 1, 4)
    ),
    "levels that no row has": changed(ROWS, num_categories=(9, 7)),
    "integers and lists": changed(ROWS, continuous=np.round(9 * ROWS.continuous).astype(int).tolist()),
    "every row twice": Mixed(
        np.repeat(ROWS.continuous, 2, axis=0), np.repeat(ROWS.categorical, 2, axis=0), (3, 4), (), 3
    ),
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_columns_that_say_nothing_do_not_hide_the_others(method, situation):
    rows = SITUATIONS[situation]
    labels = method(rows, 10, 0)
    assert labels.min() >= 0
    assert labels.max() < 3
    alone = situation in ("categorical alone", "constant columns alone")
    truth = np.repeat(turns(), 2) if situation == "every row twice" else turns()
    assert adjusted_rand_score(truth, labels) > (0.6 if alone else 0.9)


@pytest.mark.parametrize("method", [mc.k_prototypes, mc.gower_pam, mc.kamila], ids=lambda method: method.__name__)
def test_constant_columns_change_nothing(method):
    """With noise, where labels would follow another weight."""
    noisy = groups(distance=1.5, noise=0.5)
    beside = changed(noisy, continuous=np.concatenate([noisy.continuous, blind(4)], axis=1))
    for rows, with_constant in (
        (noisy, beside),
        (changed(noisy, continuous=NO_CONTINUOUS), changed(noisy, continuous=blind())),
    ):
        expected = method(rows, 5, 1)
        np.testing.assert_array_equal(method(with_constant, 5, 1), expected)


def test_prototypes_without_continuous_columns_count_mismatches():
    """Any gamma gives the labels of gamma 1."""
    rows = changed(groups(noise=0.3), continuous=NO_CONTINUOUS)
    expected = mc.k_prototypes(rows, 5, 0, gamma=1.0)
    np.testing.assert_array_equal(mc.k_prototypes(rows, 5, 0), expected)
    assert prototypes_cost(rows, expected, 1.0) < prototypes_cost(rows, np.zeros(45, int), 1.0) / 2


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # of scikit-learn
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_as_many_clusters_as_rows_or_one_or_more_than_there_are_different_rows(method):
    few = groups(n=6)
    assert len(set(method(changed(few, num_clusters=6), 2, 0))) == 6 or method is mc.kamila
    assert not method(changed(few, num_clusters=1), 2, 0).any()
    same = Mixed(np.zeros((5, 2)), np.zeros((5, 1), int), (2,), (), 3)
    labels = method(same, 2, 0)
    assert set(labels) <= {0, 1, 2}


def test_no_cluster_of_prototypes_or_medoids_is_empty():
    two = np.repeat([[0.0], [1.0]], 4, axis=0)  # two different rows, four clusters
    rows = Mixed(two, np.zeros((8, 0), int), (), (), 4)
    for method in (mc.k_prototypes, mc.gower_pam):
        for seed in range(3):
            assert set(method(rows, 1, seed)) == {0, 1, 2, 3}


def test_swaps_end_whatever_the_distances():
    distances = _partition.gower(groups(n=12))
    for bad in (np.nan, np.inf):
        broken = distances.copy()
        broken[3, 5] = broken[5, 3] = bad
        assert len(_partition.swap_medoids(broken, np.array([0, 1, 2]))) == 3


def test_a_cost_of_nan_never_wins():
    results = iter([(0, np.nan), (1, 2.0), (2, np.nan), (3, 1.0), (4, np.nan)])
    assert _partition.best(lambda rng: next(results), 5, 0) == 3


def with_value(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


X, Z = ROWS.continuous, ROWS.categorical


@pytest.mark.parametrize("method", [*METHODS, dib_mix], ids=lambda method: method.__name__)
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
        (dict(num_categories=(3,)), "num_categories must have a positive number for each of 2"),
        (dict(ordinal=(2,)), "ordinal must hold indices"),
        (dict(num_clusters=0), "num_clusters must be an integer from 1 to the number of rows, 45, got 0"),
        (dict(num_clusters=46), "num_clusters"),
        (dict(continuous=X[:0], categorical=Z[:0]), "at least one row and one column"),
        (dict(continuous=NO_CONTINUOUS, categorical=NO_CATEGORICAL, num_categories=()), "at least one row and one"),
    ],
)
def test_rows_that_are_none_are_named_at_the_door(method, fields, match):
    with pytest.raises(ValueError, match=match):
        method(changed(ROWS, **fields), 1, 0)


def test_options_outside_their_ranges():
    for method in (*METHODS, dib_mix):
        with pytest.raises(ValueError, match="restarts must be at least 1"):
            method(ROWS, 0, 0)
    for method in (mc.k_prototypes, mc.kamila):
        with pytest.raises(ValueError, match="max_iterations must be an integer of at least 1, got 0"):
            method(ROWS, 1, 0, max_iterations=0)
    for gamma in (-1.0, np.nan):
        with pytest.raises(ValueError, match="gamma"):
            mc.k_prototypes(ROWS, 1, 0, gamma=gamma)
    with pytest.raises(ValueError, match="smoothing"):
        mc.kamila(ROWS, 1, 0, smoothing=0.0)
    with pytest.raises(ValueError, match="components"):
        mc.famd_k_means(ROWS, 1, 0, components=-1)


def test_kamila_follows_the_columns_that_tell_more():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    for apart in (0, 1):  # in the continuous column alone, then in the categorical ones alone
        x = rng.standard_normal((120, 2)) + 5 * (apart == 0) * labels[:, None]
        z = np.where(rng.random((120, 4)) < (0.15 if apart else 1.0), rng.integers(2, size=(120, 4)), labels[:, None])
        rows = Mixed((x - x.mean(0)) / x.std(0), z, (2, 2, 2, 2), (), 2)
        assert adjusted_rand_score(labels, mc.kamila(rows, 10, 0)) > 0.8
