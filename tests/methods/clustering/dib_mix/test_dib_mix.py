"""DIBmix: the oracles of its card."""

import functools
import itertools

import dib_mix_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from lemmata.methods.clustering import dib_mix
from lemmata.methods.clustering.dib_mix import _bottleneck as bottleneck

LEVELS = (3, 4)
N, K = 24, 3


def columns(seed=0, n=N):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2)).astype(np.float32)
    z = np.stack([rng.permutation(np.arange(n) % levels) for levels in LEVELS], axis=1).astype(np.int32)
    return jnp.asarray(x), jnp.asarray(z)


@functools.cache
def random_conditional(seed=0, n=N):
    x, z = columns(seed, n)
    return dib_mix.mixed_conditional(x, z, 0.6, jnp.array([0.3, 0.4]), num_categories=LEVELS)


def random_labels(seed, n=N, k=K):
    return jax.random.permutation(jax.random.key(seed), jnp.arange(n) % k)


def blobs(n=20, distance=8.0):
    x = jax.random.normal(jax.random.key(1), (n, 2)) + jnp.where(jnp.arange(n)[:, None] < n // 2, 0.0, distance)
    return dib_mix.mixed_conditional(x, None, 1.0, None, num_categories=()), np.arange(n) >= n // 2


def numpy64(conditional):
    return np.asarray(conditional, np.float64)


# --- the conditional


def test_rows_are_distributions_and_those_of_the_equation():
    x, z = columns()
    conditional = random_conditional()
    np.testing.assert_allclose(conditional.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(conditional, reference.conditional(x, z, 0.6, [0.3, 0.4], LEVELS), rtol=1e-4, atol=1e-9)


def test_every_factor_is_that_of_its_definition():
    """One column each, the ratio of p(y|x) to p(x|x)."""
    x = jnp.array([[0.0], [0.5], [2.0], [9.0]])
    codes = jnp.array([[0], [1], [2], [2]])

    def ratios(*arguments, **options):
        p = numpy64(dib_mix.mixed_conditional(*arguments, **options))
        return p / np.diag(p)[:, None]

    z = (np.asarray(x) - np.asarray(x).T) / 2
    np.testing.assert_allclose(ratios(x, None, 2.0, None, num_categories=()), np.exp(-(z**2) / 2), rtol=1e-5)
    np.testing.assert_allclose(
        ratios(x, None, 2.0, None, num_categories=(), continuous_kernel="epanechnikov"),
        np.maximum(0, 1 - z**2 / 5),
        rtol=1e-5,
    )
    gap = np.abs(np.asarray(codes) - np.asarray(codes).T)
    lam = 0.3
    expected = {
        ("aitchison_aitken", "li_racine", ()): np.where(gap == 0, 1, lam / 2 / (1 - lam)),
        ("li_racine", "li_racine", ()): np.where(gap == 0, 1, lam),
        ("aitchison_aitken", "li_racine", (0,)): lam**gap,
        ("li_racine", "wang_van_ryzin", (0,)): np.where(gap == 0, 1, lam**gap / 2),
    }
    for (nominal, ordinal, which), values in expected.items():
        got = ratios(
            None, codes, None, lam, num_categories=(3,), nominal_kernel=nominal, ordinal_kernel=ordinal, ordinal=which
        )
        np.testing.assert_allclose(got, values, rtol=1e-5, err_msg=f"{nominal} {ordinal} {which}")


def test_largest_bandwidths_make_columns_irrelevant():
    x, z = columns()
    both = functools.partial(dib_mix.mixed_conditional, num_categories=LEVELS)
    levels = jnp.asarray(LEVELS, jnp.float32)
    continuous_alone = dib_mix.mixed_conditional(x, None, 0.6, None, num_categories=())
    np.testing.assert_allclose(both(x, z, 0.6, (levels - 1) / levels), continuous_alone, rtol=1e-5)
    categorical_alone = dib_mix.mixed_conditional(None, z, None, 0.4, num_categories=LEVELS)
    np.testing.assert_allclose(both(x, z, 1e6, 0.4), categorical_alone, rtol=1e-5)


def test_smallest_bandwidths_give_the_identity():
    x, z = columns()
    np.testing.assert_allclose(dib_mix.mixed_conditional(x, None, 1e-3, None, num_categories=()), np.eye(N), atol=1e-12)
    same = (np.asarray(z)[:, None] == np.asarray(z)).all(-1)
    strict = dib_mix.mixed_conditional(None, z, None, 0.0, num_categories=LEVELS)
    np.testing.assert_allclose(strict, same / same.sum(1, keepdims=True), rtol=1e-6)
    assert not np.asarray(strict)[~same].any()


def test_rows_far_from_zero_keep_their_differences():
    """Against float64 on the same rows; dividing by the bandwidth first would round them by 1e4 eps / s."""
    x = columns()[0] + 1e4
    conditional = dib_mix.mixed_conditional(x, None, 0.1, None, num_categories=())
    np.testing.assert_allclose(
        conditional, reference.conditional(x, np.zeros((N, 0)), 0.1, [], ()), rtol=1e-4, atol=1e-12
    )


def test_rows_of_any_distance_have_a_positive_kernel():
    x = jnp.array([[0.0], [0.0], [1e25], [-1e30]])
    conditional = dib_mix.mixed_conditional(x, None, 1.0, None, num_categories=())
    np.testing.assert_allclose(conditional[:2, :2], 0.5)
    assert (np.asarray(conditional) > 0).all()


def test_half_precision_comes_back_in_full():
    x, z = columns()
    half, exact = x.astype(jnp.bfloat16), x.astype(jnp.bfloat16).astype(jnp.float32)
    for found, expected in zip(
        dib_mix.select_bandwidths(half, z, num_categories=LEVELS),
        dib_mix.select_bandwidths(exact, z, num_categories=LEVELS),
        strict=True,
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected)
    s = dib_mix.select_continuous_bandwidth(half)
    assert s.dtype == jnp.float32
    bandwidths = s.astype(jnp.bfloat16), jnp.array([0.25, 0.5], jnp.bfloat16)
    conditional = dib_mix.mixed_conditional(half, z, *bandwidths, num_categories=LEVELS)
    assert conditional.dtype == jnp.float32
    np.testing.assert_allclose(conditional.sum(axis=1), 1.0, rtol=1e-6)
    rounded, labels = conditional.astype(jnp.bfloat16), random_labels(0)
    search = dict(key=jax.random.key(0), num_clusters=K, num_restarts=2)
    columns_ = dib_mix.dib_mix_columns(half, z, *bandwidths, **search, num_categories=LEVELS)
    found = dib_mix.dib_mix(rounded, **search)
    values = [
        *dib_mix.cluster_information(rounded, labels, num_clusters=K),
        dib_mix.dib_step(rounded, labels, num_clusters=K)[1],
        *(getattr(r, name) for r in (found, columns_) for name in ("mutual_information", "entropy", "beta")),
    ]
    assert all(value.dtype == jnp.float32 for value in values)


def test_what_underflows_stays_positive_and_far():
    conditional, truth = blobs(distance=1e3)
    assert (np.asarray(conditional) > 0).all()
    labels = dib_mix.dib_mix(conditional, key=jax.random.key(0), num_clusters=2, num_restarts=12).assignments
    assert adjusted_rand_score(truth, labels) == 1.0


# --- bandwidths


def pairwise(x):
    x = np.asarray(x, np.float64)
    squared = np.square(x[:, None] - x).sum(-1)
    return np.where(np.eye(len(x)), np.inf, squared).min(1), squared.max(1)


@pytest.mark.parametrize(("scale", "ratio"), [(1.0, 1.1), (7.0, 1.5), (0.01, 1.1), (1e5, 1.1)])
def test_continuous_bandwidth_is_the_root_rounded_down(scale, ratio):
    x = scale * columns()[0]
    s = float(dib_mix.select_continuous_bandwidth(x, ratio=ratio))
    nearest, _ = pairwise(x)

    def mean_ratio(s):
        return np.exp(np.minimum(nearest / (2 * s**2), 500)).mean()

    assert s == pytest.approx(round(10 * s) / 10, rel=1e-6)
    assert 0.1 <= s <= 100 * (1 + 1e-6)
    assert mean_ratio(s - 1e-4) >= ratio or s < 0.1001
    assert mean_ratio(s + 0.1 + 1e-4) < ratio or s > 99.9


def test_duplicate_rows_have_the_least_bandwidth():
    assert dib_mix.select_continuous_bandwidth(jnp.zeros((4, 2))) == pytest.approx(0.1)


CONSTANT = jnp.full((N, 1), 7.0)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_columns_without_information_leave_the_categorical_ones_theirs(wrap, first):
    """Constant columns alone, one or more of them, or columns of nothing: as if there were none."""
    _, z = columns()
    alone = dib_mix.select_bandwidths(None, z, num_categories=LEVELS)[1]
    for blind in (CONSTANT, jnp.tile(CONSTANT, (1, 3)), jnp.zeros((N, 0))):
        select = functools.partial(dib_mix.select_bandwidths, num_categories=LEVELS, categorical_first=first)
        s, lambdas = wrap(select)(blind, z)
        np.testing.assert_allclose(lambdas, alone, rtol=1e-6)
        if blind.shape[1]:
            assert s == pytest.approx(0.1)
        conditional = dib_mix.mixed_conditional(blind, z, s, lambdas, num_categories=LEVELS)
        expected = dib_mix.mixed_conditional(None, z, None, alone, num_categories=LEVELS)
        np.testing.assert_allclose(conditional, expected, rtol=1e-6)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.02])  # the second: far^(1/p) below 2
def test_constant_columns_among_others_change_nothing(first, scale):
    x, z = columns()
    select = functools.partial(dib_mix.select_bandwidths, num_categories=LEVELS, categorical_first=first)
    plain = select(scale * x, z)
    for found, expected in zip(select(jnp.concatenate([scale * x, CONSTANT], axis=1), z), plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_clusters_are_found_beside_constant_columns():
    rng = np.random.default_rng(0)
    truth = np.arange(90) % 3
    z = np.where(rng.random((90, 4)) < 0.3, rng.integers(3, size=(90, 4)), truth[:, None])
    z, blind = jnp.asarray(z, jnp.int32), jnp.zeros((90, 2))
    s, lambdas = dib_mix.select_bandwidths(blind, z, num_categories=[3] * 4)
    conditional = dib_mix.mixed_conditional(blind, z, s, lambdas, num_categories=[3] * 4)
    labels = dib_mix.dib_mix(conditional, key=jax.random.key(0), num_clusters=3, num_restarts=10).assignments
    assert adjusted_rand_score(truth, labels) > 0.7


@pytest.mark.parametrize("nominal_kernel", ["aitchison_aitken", "li_racine"])
def test_relative_importance_is_two_at_most_and_that_of_the_continuous_columns_below(nominal_kernel):
    x, z = columns()
    for data in (x, 0.02 * x):  # the second: s at its least, farthest rows hardly farther
        s, lambdas = dib_mix.select_bandwidths(data, z[:, :1], num_categories=(3,), nominal_kernel=nominal_kernel)
        far = np.exp(pairwise(data)[1] / (2 * float(s) ** 2)).mean()
        xi = min(2.0, far ** (1 / 2))
        expected = 2 / (2 + xi) if nominal_kernel == "aitchison_aitken" else 1 / xi
        np.testing.assert_allclose(lambdas, [expected], rtol=1e-5)
        assert s == dib_mix.select_continuous_bandwidth(data)
    assert xi < 1.9


@pytest.mark.parametrize("requested", [False, True])
def test_categories_that_dominate_choose_first(requested):
    x, z = columns()
    x = x[:, :1]
    z = z if not requested else z[:, :1]  # two of three columns, or one of two and asked for
    q = z.shape[1]
    xi = 2 - q / (1 + q)
    s, lambdas = dib_mix.select_bandwidths(x, z, num_categories=LEVELS[:q], categorical_first=requested)
    levels = np.asarray(LEVELS[:q])
    np.testing.assert_allclose(lambdas, (levels - 1) / (levels - 1 + xi), rtol=1e-6)
    _, farthest = pairwise(x)

    def mean_ratio(s):
        return np.exp(farthest / (2 * s**2)).mean()

    assert mean_ratio(float(s) + 1e-4) < xi**q <= mean_ratio(float(s) - 0.1 - 1e-4)


def test_ordered_levels_are_as_far_at_the_ends_as_nominal_ones():
    _, z = columns()
    s, lambdas = dib_mix.select_bandwidths(None, z, num_categories=LEVELS, ordinal=(1,))
    assert s is None
    np.testing.assert_allclose(lambdas, [2 / 4, 0.5 ** (1 / 3)], rtol=1e-6)
    conditional = dib_mix.mixed_conditional(None, z[:, 1:], None, lambdas[1:], num_categories=LEVELS[1:], ordinal=(0,))
    low, high = np.argmin(z[:, 1]), np.argmax(z[:, 1])
    np.testing.assert_allclose(conditional[low, low] / conditional[low, high], 2.0, rtol=1e-5)


# --- steps


@pytest.mark.parametrize("seed", range(4))
def test_a_step_is_that_of_the_equations(seed):
    conditional, labels = random_conditional(), random_labels(seed)
    p = numpy64(conditional)
    new, beta = dib_mix.dib_step(conditional, labels, num_clusters=K)
    expected, expected_beta, _ = reference.step(p, reference.entropies(p), np.asarray(labels), K)
    np.testing.assert_array_equal(new, expected)
    np.testing.assert_allclose(beta, expected_beta, rtol=1e-3)


def test_kl_leaves_out_what_a_cluster_never_reaches():
    """Epanechnikov rows without common support: exact zeros, which the equations leave out of KL."""
    x, z = columns()
    conditional = dib_mix.mixed_conditional(
        x, z, 0.3, 0.0, num_categories=LEVELS, continuous_kernel="epanechnikov", nominal_kernel="li_racine"
    )
    p = numpy64(conditional)
    assert (p == 0).mean() > 0.5
    for seed in range(3):
        labels = random_labels(seed)
        new, beta = dib_mix.dib_step(conditional, labels, num_clusters=K)
        expected, expected_beta, _ = reference.step(p, reference.entropies(p), np.asarray(labels), K)
        np.testing.assert_array_equal(new, expected)
        np.testing.assert_allclose(beta, expected_beta, rtol=1e-3)


def test_beta_is_one_when_the_smallest_cluster_prefers_itself():
    conditional, truth = blobs()
    labels = jnp.asarray(truth, jnp.int32).at[10].set(0)  # 9 rows in the second cluster, all of its blob
    assert dib_mix.dib_step(conditional, labels, num_clusters=2)[1] == 1.0


def test_beta_is_the_least_that_keeps_the_smallest_cluster():
    conditional = random_conditional()
    p = numpy64(conditional)
    labels = np.asarray(random_labels(3)).copy()
    labels[np.flatnonzero(labels == 2)[2:]] = 0  # the third cluster has two rows left
    beta = float(dib_mix.dib_step(conditional, jnp.asarray(labels), num_clusters=K)[1])
    sizes, kl = reference.divergences(p, reference.entropies(p), labels, K)
    rows = labels == 2
    assert beta > 1.1

    def keeps(beta):
        scores = np.log(sizes / N) - beta * kl
        prefers = kl[rows].argmin(1) == 2  # the others would leave at any beta
        return (scores[rows][prefers].argmax(1) == 2).all()

    assert keeps(beta)
    assert not keeps(beta - 5e-3)


def test_cluster_empty_from_the_start_gets_a_row():
    labels = jnp.zeros(N, jnp.int32).at[3].set(1)  # the third has none
    new, _ = dib_mix.dib_step(random_conditional(), labels, num_clusters=K)
    assert set(np.asarray(new).tolist()) == {0, 1, 2}


def test_rows_that_say_the_same_make_beta_one():
    """All differences of KL are rounding alone: the largest cluster takes all and gives back one row to each other."""
    labels = jnp.where(jnp.arange(N) < 3, 0, jnp.where(jnp.arange(N) < 8, 1, 2))
    new, beta = dib_mix.dib_step(jnp.full((N, N), 1 / N), labels, num_clusters=K)
    assert beta == 1.0
    np.testing.assert_array_equal(np.bincount(new), [1, 1, N - 2])


def test_search_is_that_of_the_equations_and_ends_at_a_fixed_point():
    conditional = random_conditional()
    for seed in range(4):
        labels = random_labels(seed)
        found = dib_mix.dib(conditional, labels, num_clusters=K)
        expected, steps, rescued = reference.dib(numpy64(conditional), np.asarray(labels), K)
        np.testing.assert_array_equal(found.assignments, expected)
        assert found.num_iterations == steps
        assert found.rescued == rescued
        kept, entropy = reference.information(numpy64(conditional), expected, K)
        np.testing.assert_allclose(found.mutual_information, kept, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.entropy, entropy, rtol=1e-5)
        if found.num_iterations < 100:
            again, beta = dib_mix.dib_step(conditional, found.assignments, num_clusters=K)
            np.testing.assert_array_equal(again, found.assignments)
            np.testing.assert_allclose(beta, found.beta, rtol=1e-5)


def test_steps_stop_where_they_are_told():
    conditional, labels = random_conditional(), random_labels(0)
    found = dib_mix.dib(conditional, labels, num_clusters=K, max_iterations=1)
    assert found.num_iterations == 1
    np.testing.assert_array_equal(found.assignments, dib_mix.dib_step(conditional, labels, num_clusters=K)[0])


def test_separated_blobs_are_a_fixed_point_and_are_found():
    conditional, truth = blobs()
    labels, _ = dib_mix.dib_step(conditional, jnp.asarray(truth, jnp.int32), num_clusters=2)
    np.testing.assert_array_equal(labels, truth)
    for seed in range(3):
        found = dib_mix.dib_mix(conditional, key=jax.random.key(seed), num_clusters=2, num_restarts=12)
        assert adjusted_rand_score(truth, found.assignments) == 1.0


def test_brute_force_over_all_labellings_is_never_beaten_and_mostly_reached():
    """Eight rows: without structure, where the search settles for less at times, and in two groups."""
    labels = jnp.asarray([(0, *rest) for rest in itertools.product((0, 1), repeat=7)][1:])
    every = jax.jit(jax.vmap(lambda p, t: dib_mix.cluster_information(p, t, num_clusters=2)[0], (None, 0)))
    reached = {0.0: [], 4.0: []}
    for distance, results in reached.items():
        for seed in range(8):
            x, z = columns(seed, n=8)
            x += jnp.where(jnp.arange(8)[:, None] < 4, 0.0, distance)
            conditional = dib_mix.mixed_conditional(x, z[:, :1], 1.0, 0.5, num_categories=LEVELS[:1])
            best = float(every(conditional, labels).max())
            found = dib_mix.dib_mix(conditional, key=jax.random.key(seed), num_clusters=2, num_restarts=20)
            assert found.mutual_information <= best + 1e-6
            results.append(found.mutual_information >= best - 1e-6)
    assert np.mean(reached[4.0]) > 0.5
    assert np.mean(reached[0.0]) > 0.1


def test_best_start_is_that_of_the_equations_and_starts_without_rescue_come_first():
    """Ten clusters of two or three rows: some die, and are rescued with the row that fits best."""
    conditional, key = random_conditional(), jax.random.key(0)
    p, starts = numpy64(conditional), np.asarray(bottleneck.balanced_labels(key, N, 10, 6))
    runs = [reference.dib(p, start, 10) for start in starts]
    assert 0 < sum(rescued for _, _, rescued in runs) < 6
    found = dib_mix.dib_mix(conditional, key=key, num_clusters=10, num_restarts=6)
    np.testing.assert_array_equal(found.assignments, reference.dib_mix(p, starts, 10))
    assert not found.rescued


# --- information


def test_information_is_bounded_and_reaches_its_ends():
    conditional = random_conditional()
    p = numpy64(conditional)
    whole = np.sum(p * np.log(p / p.mean(0))) / N  # I(X;Y)
    for seed in range(3):
        kept, entropy = dib_mix.cluster_information(conditional, random_labels(seed), num_clusters=K)
        assert 0 <= kept <= min(float(entropy), whole) + 1e-6
    singletons, entropy = dib_mix.cluster_information(conditional, jnp.arange(N), num_clusters=N)
    np.testing.assert_allclose(singletons, whole, rtol=1e-5)
    np.testing.assert_allclose(entropy, np.log(N), rtol=1e-6)
    for k in (1, K):  # one cluster, whether or not there could be more
        assert dib_mix.cluster_information(conditional, jnp.zeros(N, jnp.int32), num_clusters=k) == (0.0, 0.0)


def test_names_of_clusters_do_not_matter():
    conditional, labels = random_conditional(), random_labels(3)
    other = jnp.array([2, 0, 1])[labels]
    for first, second in zip(
        dib_mix.cluster_information(conditional, labels, num_clusters=K),
        dib_mix.cluster_information(conditional, other, num_clusters=K),
        strict=True,
    ):
        np.testing.assert_allclose(first, second, rtol=1e-5)
    uneven = jnp.where(jnp.arange(N) < 5, 0, jnp.where(jnp.arange(N) < 12, 1, 2))  # sizes without ties
    renamed = jnp.array([2, 0, 1])[uneven]
    step = dib_mix.dib_step(conditional, uneven, num_clusters=K)
    other_step = dib_mix.dib_step(conditional, renamed, num_clusters=K)
    np.testing.assert_array_equal(jnp.array([2, 0, 1])[step[0]], other_step[0])
    np.testing.assert_allclose(step[1], other_step[1], rtol=1e-4)


def test_information_has_its_gradient():
    x, z = columns()

    def kept(s):
        conditional = dib_mix.mixed_conditional(x, z, s, 0.4, num_categories=LEVELS)
        return dib_mix.cluster_information(conditional, random_labels(0), num_clusters=K)[0]

    low, high = kept(0.6 - 1e-2), kept(0.6 + 1e-2)
    np.testing.assert_allclose(jax.grad(kept)(0.6), (high - low) / 2e-2, rtol=2e-2)


# --- row blocks


@pytest.mark.parametrize("block_size", [7, None])  # 24 = 3 x 7 + 3
def test_row_blocks_give_what_the_matrix_gives(block_size):
    x, z = columns()
    arguments = (x, z, jnp.array([0.6, 0.8]), jnp.array([0.3, 0.4]))
    options = dict(
        num_categories=LEVELS, ordinal=(1,), ordinal_kernel="wang_van_ryzin", continuous_kernel="epanechnikov"
    )
    search = dict(key=jax.random.key(2), num_clusters=K, num_restarts=6)
    whole = dib_mix.dib_mix(dib_mix.mixed_conditional(*arguments, **options), **search)
    blocks = dib_mix.dib_mix_columns(*arguments, **options, **search, block_size=block_size)
    for name in ("assignments", "num_iterations", "rescued"):
        np.testing.assert_array_equal(getattr(blocks, name), getattr(whole, name), err_msg=name)
    for name in ("mutual_information", "entropy", "beta"):
        np.testing.assert_allclose(getattr(blocks, name), getattr(whole, name), rtol=1e-3, atol=1e-6, err_msg=name)


def test_row_blocks_hold_no_square_array():
    n, block = 4096, 64
    x, z = (jax.ShapeDtypeStruct((n, 2), dtype) for dtype in (jnp.float32, jnp.int32))
    compiled = (
        jax.jit(
            lambda x, z: dib_mix.dib_mix_columns(
                *(x, z, 0.6, 0.4),
                key=jax.random.key(0),
                num_categories=LEVELS,
                num_clusters=2,
                num_restarts=2,
                block_size=block,
            )
        )
        .lower(x, z)
        .compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < n * n * 4 / 4
