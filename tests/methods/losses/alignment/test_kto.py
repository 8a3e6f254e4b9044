"""KTO: the oracles of its card."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import special

from lemmata.methods.losses.alignment import kto

both_kinds = pytest.mark.parametrize("desirable", [True, False])


def loss_of(r, desirable, z0=0.0, **options):
    """KTO's loss of log-ratios `r`, all of one kind."""
    r = jnp.atleast_1d(jnp.asarray(r, jnp.float32))
    return kto.kto_loss(r - 3, jnp.full(r.shape, -3.0), jnp.full(r.shape, desirable), z0, **options)


# ------------------------------------------------------------------------------------------------- log-probabilities


def test_sequence_logps_sum_what_counts_and_sft_is_minus_their_mean():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 5, 7)).astype(np.float32), rng.integers(7, size=(3, 5))
    where = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    tokens = np.take_along_axis(special.log_softmax(logits.astype(np.float64), -1), labels[..., None], -1)[..., 0]
    sums, counts = np.where(where, tokens, 0).sum(1), np.array([5, 2, 1])
    np.testing.assert_allclose(kto.sequence_logps(logits, labels, where=where), sums, rtol=1e-5, atol=1e-6)
    means = kto.sequence_logps(logits, labels, where=where, length_normalized=True)
    np.testing.assert_allclose(means, sums / counts, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(kto.sft_loss(logits, labels, where=where), -sums / counts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_logits_of_long_answers_keep_the_difference_of_two_models(dtype):
    """Four answers of 512 tokens: log-probabilities near -2300, told apart by less than the spacing of their dtype."""
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(4, 512, 64)).astype(np.float32)
    policy = reference + 0.02 * rng.normal(size=reference.shape).astype(np.float32)
    narrow, labels = [jnp.asarray(x, dtype) for x in (policy, reference)], rng.integers(64, size=(4, 512))
    desirable = jnp.array([True, False, True, False])

    logps = [kto.sequence_logps(x, labels) for x in narrow]
    point = kto.kl_reference_point(*(x[::-1] for x in logps))
    losses = kto.kto_loss(*logps, desirable, point, beta=1.0)

    wide = [special.log_softmax(np.asarray(x, np.float64), -1) for x in narrow]
    right = [np.take_along_axis(x, labels[..., None], -1)[..., 0].sum(1) for x in wide]
    r = right[0] - right[1]
    z0 = max(r.mean(), 0)
    assert all(x.dtype == jnp.float32 for x in (*logps, point, losses))
    np.testing.assert_allclose(logps, right, rtol=1e-6)
    np.testing.assert_allclose(logps[0] - logps[1], r, atol=2e-3)
    np.testing.assert_allclose(losses, special.expit(np.where(desirable, z0 - r, r - z0)), atol=1e-3)
    assert np.ptp(losses) > 0.05
    for x, right_x in zip(narrow, wide, strict=True):
        nats = -np.take_along_axis(right_x, labels[..., None], -1)[..., 0].mean(1)
        np.testing.assert_allclose(kto.sft_loss(x, labels), nats, rtol=1e-6)


# ------------------------------------------------------------------------------------------------- the reference point


def test_reference_point_is_the_clamped_mean_log_ratio_of_what_counts():
    policy, ref = jnp.array([-1.0, -2.0, -6.0, -9.0]), jnp.array([-2.0, -2.5, -5.0, -1.0])
    assert kto.kl_reference_point(policy[:3], ref[:3]) == pytest.approx(0.5 / 3)  # 1, 0.5 and -1: no row is clamped
    assert kto.kl_reference_point(policy, ref) == 0  # the mean is
    where = jnp.array([True, True, False, False])
    assert kto.kl_reference_point(policy, ref, where=where) == pytest.approx(0.75)
    assert kto.kl_reference_point(policy, ref, where=~where) == 0


def test_rows_of_log_ratio_zero_count():
    """As in TRL and unlike HALOs."""
    assert kto.kl_reference_point(jnp.array([-1.0, -3.0]), jnp.array([-2.0, -3.0])) == pytest.approx(0.5)


@pytest.mark.parametrize("where", [jnp.zeros(3, bool), None])
def test_no_rows_give_zero(where):
    rows = jnp.ones(0 if where is None else 3)
    assert kto.kl_reference_point(rows, 0 * rows, where=where) == 0


def test_no_gradient_reaches_the_mismatched_rows():
    rows = jnp.array([-1.0, -2.0])

    def loss(policy_rows, ref_rows, z0):
        point = kto.kl_reference_point(policy_rows, ref_rows) + z0
        return loss_of(jnp.array([0.3, -0.7]), True, point).sum()

    for gradient in jax.grad(loss, argnums=(0, 1, 2))(rows, rows - 1, 0.0):
        assert not np.any(gradient)


def test_reference_point_is_that_of_the_global_batch():
    """Eight devices, each with rows whose own mean has another sign: clamping a device's mean would show."""
    policy, ref = jnp.tile(jnp.array([3.0, 1.0, -7.0, 1.0]), 4) - 5, jnp.full(16, -5.0)
    policy = policy.at[0].add(12.0)  # mean log-ratio (16 * -0.5 + 12) / 16
    where = jnp.arange(16) != 15
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    placed = jax.device_put((policy, ref, where), NamedSharding(mesh, PartitionSpec("data")))
    point = jax.jit(lambda p, r, w: kto.kl_reference_point(p, r, where=w))
    assert point(policy, ref, jnp.ones(16, bool)) == pytest.approx(4 / 16)
    assert point(*placed) == pytest.approx(3 / 15)  # the masked row had 1


# ------------------------------------------------------------------------------------------------------------ the loss


@both_kinds
def test_at_the_reference_point_the_loss_is_half_the_weight(desirable):
    loss = loss_of(1.7, desirable, 1.7, desirable_weight=3.0, undesirable_weight=3.0)
    np.testing.assert_allclose(loss, 1.5, rtol=1e-6)


@both_kinds
def test_policy_equal_to_reference(desirable):
    logps = jnp.array([-4.0, -1.0, -0.5])
    point = kto.kl_reference_point(logps, logps)
    assert point == 0
    np.testing.assert_array_equal(kto.kto_loss(logps, logps, jnp.full(3, desirable), point), 0.5)


def test_the_other_kind_is_the_mirror_image():
    r, z0 = jnp.linspace(-30, 30, 13), 2.0
    np.testing.assert_allclose(loss_of(r, True, z0), loss_of(2 * z0 - r, False, z0), rtol=1e-5)


@both_kinds
def test_loss_is_monotone_and_within_its_weight(desirable):
    loss = np.asarray(loss_of(jnp.linspace(-60, 60, 41), desirable, 1.0, desirable_weight=2.0, undesirable_weight=0.7))
    assert np.all(loss > 0)
    assert np.all(loss < (2.0 if desirable else 0.7))
    assert np.all(np.diff(loss) < 0 if desirable else np.diff(loss) > 0)


@both_kinds
def test_slope_is_beta_s_one_minus_s_and_largest_at_the_reference_point(desirable):
    r, z0, beta = np.linspace(-20, 20, 41), 1.0, 0.3
    slope = np.asarray(jax.grad(lambda r: loss_of(r, desirable, z0, beta=beta).sum())(jnp.asarray(r, jnp.float32)))
    s = special.expit(beta * (r - z0))
    np.testing.assert_allclose(slope, (-1 if desirable else 1) * beta * s * (1 - s), rtol=1e-4)
    assert r[np.argmax(np.abs(slope))] == z0


@both_kinds
def test_small_beta_gives_one_half(desirable):
    np.testing.assert_allclose(loss_of(jnp.array([-50.0, 3.0, 50.0]), desirable, beta=1e-7), 0.5, atol=1e-5)


def test_each_row_takes_its_own_kind_and_weight():
    logps, ref = jnp.array([-1.0, -2.0, -3.0]), jnp.full(3, -2.0)
    desirable = jnp.array([True, False, False])
    loss = kto.kto_loss(logps, ref, desirable, 0.5, beta=2.0, desirable_weight=1.5, undesirable_weight=0.5)
    r = np.array([1.0, 0.0, -1.0])
    expected = np.where(desirable, 1.5 * special.expit(-2 * (r - 0.5)), 0.5 * special.expit(-2 * (0.5 - r)))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(("policy", "ref"), list(itertools.product([-1.0, -np.inf], repeat=2)))
def test_impossible_answers_keep_values_and_gradients_finite(policy, ref):
    policy, ref, desirable = jnp.full(2, policy), jnp.full(2, ref), jnp.array([True, False])
    for z0 in (0.0, kto.kl_reference_point(policy, ref)):
        loss, gradient = jax.value_and_grad(lambda p, z0=z0: kto.kto_loss(p, ref, desirable, z0).sum())(policy)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
    expected = [0.5, 0.5] if policy[0] == ref[0] else ([1, 0] if np.isneginf(policy[0]) else [0, 1])
    np.testing.assert_allclose(kto.kto_loss(policy, ref, desirable, 0.0), expected, atol=1e-6)


def test_stages_follow_one_another():
    sft, preference = kto.two_stage_weights(jnp.arange(5), sft_steps=3)
    np.testing.assert_array_equal(sft, [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(preference, [0, 0, 0, 1, 1])
    assert kto.two_stage_weights(0, sft_steps=0) == (0, 1)


# -------------------------------------------------------------------------------------------------------------- merges


def tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(scale * rng.normal(size=(3, 4)), jnp.float32),
        "bias": jnp.asarray(scale * rng.normal(size=5), jnp.float32),
        "steps": jnp.asarray(seed),
    }


def assert_trees_close(actual, expected, **tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


def test_one_tree_or_a_one_hot_weight_gives_that_tree():
    a, b, c = tree(1), tree(2), tree(3)
    assert_trees_close(kto.linear_merge([a]), a)
    picked = kto.linear_merge([a, b, c], weights=[0.0, 4.0, 0.0])
    assert_trees_close(picked, b | {"steps": a["steps"]})  # a counter is not averaged: it is the first tree's


def test_linear_merge_is_the_weighted_sum():
    a, b = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, -2.0])}
    np.testing.assert_allclose(kto.linear_merge([a, b])["w"], [2.0, 0.0])
    np.testing.assert_allclose(kto.linear_merge([a, b], weights=[3.0, 1.0])["w"], [1.5, 1.0])
    np.testing.assert_allclose(kto.linear_merge([a, b], weights=[3.0, 1.0], normalize=False)["w"], [6.0, 4.0])
    np.testing.assert_allclose(kto.linear_merge([a, b], normalize=False)["w"], [4.0, 0.0])


def test_slerp_ends_at_its_trees_and_fixes_equal_ones():
    a, b = tree(4), tree(5)
    assert_trees_close(kto.slerp_merge(a, b, t=0.0), a)
    assert_trees_close(kto.slerp_merge(a, b, t=1.0), b | {"steps": a["steps"]}, atol=1e-6)
    assert_trees_close(kto.slerp_merge(a, a, t=0.3), a, rtol=1e-6)


def test_slerp_keeps_a_common_norm_and_turns_evenly():
    a, b = (x / np.linalg.norm(x) * 2.5 for x in np.random.default_rng(6).normal(size=(2, 3, 4)))
    angle = np.arccos((a * b).sum() / 2.5**2)
    for t in (0.2, 0.5, 0.9):
        merged = np.asarray(kto.slerp_merge(jnp.asarray(a), jnp.asarray(b), t=t))
        np.testing.assert_allclose(np.linalg.norm(merged), 2.5, rtol=1e-5)
        np.testing.assert_allclose(np.arccos((a * merged).sum() / 2.5**2), t * angle, rtol=1e-4)


@pytest.mark.parametrize("scales", [(1e-19, 1e-19), (1e20, 1e20), (1e-30, 1e-30), (1e37, 1e37), (1e-19, 1e20)])
def test_slerp_is_the_great_circle_for_leaves_of_any_length(scales):
    directions = np.random.default_rng(12).normal(size=(2, 30))
    a, b = (np.float32(scale * x) for scale, x in zip(scales, directions, strict=True))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    angle = np.arccos(wide_a @ wide_b / np.linalg.norm(wide_a) / np.linalg.norm(wide_b))
    for t in (0.0, 0.25, 0.5, 1.0):
        expected = (np.sin((1 - t) * angle) * wide_a + np.sin(t * angle) * wide_b) / np.sin(angle)
        merged = np.asarray(kto.slerp_merge(jnp.asarray(a), jnp.asarray(b), t=t), np.float64)
        np.testing.assert_allclose(merged, expected, rtol=2e-5, atol=2e-6 * np.abs(expected).max())
    gradient = jax.grad(lambda a: kto.slerp_merge(a, jnp.asarray(b), t=0.25).sum())(jnp.asarray(a))
    assert np.isfinite(gradient).all()


def test_slerp_of_nearly_parallel_leaves_turns_evenly():
    """A cosine of 0.9996 is beyond the bound; 0.9994 is within it, where an arccos would lose half the digits."""
    for cosine in (0.9994, -0.9994, 0.9996):
        a, b = np.array([1.0, 0.0]), np.array([cosine, np.sqrt(1 - cosine**2)])
        merged = kto.slerp_merge(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), t=0.3)
        angle = np.arccos(cosine)
        expected = np.array([np.cos(0.3 * angle), np.sin(0.3 * angle)]) if cosine < 0.9995 else 0.7 * a + 0.3 * b
        np.testing.assert_allclose(merged, expected, rtol=1e-5)


def test_slerp_is_linear_where_there_is_no_arc():
    x, zero = jnp.array([1.0, 2.0]), jnp.zeros(2)
    for a, b in ((x, zero), (x, 3 * x), (x, -x), (zero, zero)):
        value, gradient = jax.value_and_grad(lambda b, a=a: kto.slerp_merge(a, b, t=0.25).sum())(b)
        np.testing.assert_allclose(value, (0.75 * a + 0.25 * b).sum(), rtol=1e-6)
        assert np.isfinite(gradient).all()


def test_ties_of_one_tree_in_full_is_the_scaled_change():
    base, one = tree(7), tree(8)
    merged = kto.ties_merge(base, [one], density=1.0, scale=0.6)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(merged[name], base[name] + 0.6 * (one[name] - base[name]), rtol=1e-5, atol=1e-6)
    assert merged["steps"] == base["steps"]


def test_ties_elects_the_larger_of_opposite_changes():
    base, changes = jnp.array([1.0, 1.0, 1.0]), jnp.array([[2.0, -1.0, 1.0], [-1.0, 3.0, -1.0]])
    np.testing.assert_allclose(kto.ties_merge(base, list(base + changes), density=1.0), [3.0, 4.0, 1.0])
    weighted = kto.ties_merge(base, list(base + changes), weights=[1.0, 3.0], density=1.0)
    np.testing.assert_allclose(weighted, [0.0, 4.0, 0.0])  # 2 - 3 and 1 - 3 are negative now


def test_ties_averages_those_that_agree_by_weight():
    changes = [jnp.array([1.0, 4.0]), jnp.array([3.0, -1.0]), jnp.array([-1.0, 2.0])]
    merged = kto.ties_merge(jnp.zeros(2), changes, weights=[3.0, 1.0, 1.0], density=1.0)
    np.testing.assert_allclose(merged, [6 / 4, 14 / 4], rtol=1e-6)


@pytest.mark.parametrize(("density", "kept"), [(0.2, 2), (0.21, 3), (0.5, 5), (1e-6, 1)])
def test_ties_trims_to_the_exact_share_and_of_equal_entries_keeps_the_first(density, kept):
    change = jnp.array([[1.0, -1.0, 1.0, -1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    merged = kto.ties_merge(jnp.zeros((2, 5)), [change], density=density)
    np.testing.assert_array_equal(merged.ravel(), np.where(np.arange(10) < kept, change.ravel(), 0))


@pytest.mark.parametrize(
    ("density", "size", "kept"),
    [(0.07, 100, 7), (0.55, 100, 55), (0.29, 100, 29), (0.14, 50, 7), (1 - 0.9, 100, 10), (0.071, 100, 8)],
)
def test_ties_keeps_the_share_that_is_meant(density, size, kept):
    """0.07 * 100 = 7.000000000000001 is 7."""
    merged = kto.ties_merge(jnp.zeros(size), [jnp.arange(1.0, size + 1)], density=density)
    assert jnp.count_nonzero(merged) == kept


BROKEN = pytest.mark.parametrize("broken", [jnp.nan, jnp.inf, -jnp.inf])


@BROKEN
def test_a_tree_of_weight_zero_is_left_out_whatever_it_holds(broken):
    a, b, lost = jnp.array([1.0, 2.0, 3.0]), jnp.array([3.0, 0.0, 1.0]), jnp.array([broken, 5.0, broken])
    np.testing.assert_array_equal(kto.linear_merge([a, lost, b], weights=[1.0, 0.0, 1.0]), (a + b) / 2)
    np.testing.assert_array_equal(kto.linear_merge([lost, a], weights=[0.0, 2.0], normalize=False), 2 * a)
    base = jnp.zeros(3)
    for density in (0.3, 1.0):
        with_it = kto.ties_merge(base, [a, lost, b], weights=[2.0, 0.0, 1.0], density=density)
        np.testing.assert_array_equal(with_it, kto.ties_merge(base, [a, b], weights=[2.0, 1.0], density=density))
    np.testing.assert_allclose(kto.slerp_merge(a, lost, t=0.0), a, rtol=1e-6)
    np.testing.assert_allclose(kto.slerp_merge(lost, a, t=1.0), a, rtol=1e-6)
    assert not np.isfinite(kto.linear_merge([lost, a], weights=[1.0, 1.0])).all()  # with a weight it shows


@BROKEN
def test_gradients_pass_by_a_tree_of_weight_zero(broken):
    a, lost, w = jnp.array([1.0, 2.0]), jnp.array([broken, 5.0]), jnp.array([1.0, 0.0])

    def linear(a, w):
        return kto.linear_merge([a, lost], weights=w, normalize=False).sum()

    def ties(a, w):
        return kto.ties_merge(jnp.zeros(2), [a, lost], weights=w, density=1.0).sum()

    by_tree, by_weight = jax.grad(linear, argnums=(0, 1))(a, w)
    np.testing.assert_array_equal(by_tree, 1.0)
    np.testing.assert_array_equal(by_weight, [3.0, 5.0])  # of what is finite in it
    for gradient in jax.grad(ties, argnums=(0, 1))(a, w):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("weights", [[10, 20], (10, 20), np.array([10, 20]), jnp.array([10, 20]), [1e37, 2e37]])
def test_weights_may_be_integers_and_of_any_scale(weights):
    a, b = jnp.array([3.0, 0.0]), jnp.array([0.0, 3.0])
    np.testing.assert_allclose(kto.linear_merge([a, b], weights=weights), [1.0, 2.0], rtol=1e-6)
    merged = kto.ties_merge(jnp.zeros(2), [a, a + b], weights=weights, density=1.0)
    np.testing.assert_allclose(merged, [3.0, 3.0], rtol=1e-6)
    if weights[0] == 10:
        np.testing.assert_allclose(kto.linear_merge([a, b], weights=weights, normalize=False), [30.0, 60.0])


def test_weights_that_cancel_are_refused_although_rounding_leaves_a_rest():
    trees = [jnp.ones(2)] * 3
    for weights in ([0.1, 0.2, -0.3], [1.0, 1.0, -2.0], [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match="weights must not sum to 0"):
            kto.linear_merge(trees, weights=weights)
    with pytest.raises(ValueError, match="weights must be finite"):
        kto.linear_merge(trees, weights=[1.0, np.nan, 1.0])


def test_leaves_without_entries_stay_so():
    a = {"w": jnp.zeros((0, 3)), "b": jnp.ones(2)}
    for merged in (kto.linear_merge([a, a]), kto.slerp_merge(a, a), kto.ties_merge(a, [a, a])):
        assert merged["w"].shape == (0, 3)
        np.testing.assert_allclose(merged["b"], 1.0, rtol=1e-6)


def test_merges_keep_each_leaf_dtype():
    a, b = ({"w": x["kernel"].astype(jnp.bfloat16), "b": x["bias"]} for x in (tree(9), tree(10)))
    for merged in (kto.linear_merge([a, b]), kto.slerp_merge(a, b), kto.ties_merge(a, [b])):
        assert [merged["w"].dtype, merged["b"].dtype] == [jnp.bfloat16, jnp.float32]


# ------------------------------------------------------------------------------------------------------ choice of data


def test_selected_data_is_accurate_diverse_and_best_first():
    rng = np.random.default_rng(11)
    embeddings = rng.normal(size=(60, 3)).astype(np.float32)
    scores = rng.uniform(size=60).round(1).astype(np.float32)  # with ties
    indices, where = map(
        np.asarray, kto.select_alignment_data(embeddings, scores, k=12, min_score=0.25, max_similarity=0.8)
    )
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    kept: list[int] = []
    for candidate in np.lexsort((np.arange(60), -scores)):  # the rule, one candidate after the other
        if scores[candidate] >= 0.25 and len(kept) < 12 and all(unit[candidate] @ unit[i] < 0.8 for i in kept):
            kept.append(candidate)
    np.testing.assert_array_equal(indices[where], kept)
    assert where.sum() == len(kept)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_scores_are_compared_with_the_bound_itself(dtype):
    """In bfloat16 the bound 0.7 would be rounded to the score just below it."""
    scores = jnp.asarray([0.7, 0.71, 0.69]).astype(dtype)
    _, where = kto.select_alignment_data(jnp.eye(3), scores, k=3, min_score=0.7, max_similarity=0.9)
    assert where.sum() == np.sum(np.asarray(scores, np.float64) >= 0.7)


def test_duplicates_are_kept_once_and_the_tail_is_marked():
    embeddings = jnp.array([[0.1, 0.7, 0.3]] * 4 + [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    scores = jnp.array([0.5, 0.9, 0.9, 0.2, 0.6, 0.4, jnp.nan])
    indices, where = kto.select_alignment_data(embeddings, scores, k=9, min_score=0.3, max_similarity=1.0)
    np.testing.assert_array_equal(where, [True] * 3 + [False] * 6)
    np.testing.assert_array_equal(indices, [1, 4, 5] + [0] * 6)


# ----------------------------------------------------------------------------------------------------------- bad input

ROWS, TREE = jnp.zeros(3), {"w": jnp.zeros(2)}
KINDS = jnp.ones(3, bool)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: kto.kl_reference_point(ROWS, jnp.zeros(2)), "ref_logps"),
        (lambda: kto.kl_reference_point(ROWS, ROWS, where=KINDS[:2]), "where"),
        (lambda: kto.kto_loss(ROWS, jnp.zeros(2), KINDS, 0.0), "ref_logps"),
        (lambda: kto.kto_loss(ROWS, ROWS, KINDS[:2], 0.0), "desirable"),
        (lambda: kto.kto_loss(ROWS, ROWS, KINDS, ROWS), "reference_point"),
        (lambda: kto.kto_loss(ROWS, ROWS, KINDS, 0.0, beta=0.0), "beta"),
        (lambda: kto.kto_loss(ROWS, ROWS, KINDS, 0.0, beta=-0.1), "beta"),
        (lambda: kto.kto_loss(ROWS, ROWS, KINDS, 0.0, undesirable_weight=-1.0), "undesirable_weight"),
        (lambda: kto.kto_loss(ROWS, ROWS, jnp.ones(3), 0.0), "desirable must be integers"),
        (lambda: kto.two_stage_weights(0, sft_steps=-1), "sft_steps"),
        (lambda: kto.linear_merge([]), "trees"),
        (lambda: kto.linear_merge([TREE, {"v": jnp.zeros(2)}]), "trees must be alike"),
        (lambda: kto.linear_merge([TREE, {"w": jnp.zeros(3)}]), "trees must be alike"),
        (lambda: kto.linear_merge([TREE, TREE], weights=[1.0]), "weights"),
        (lambda: kto.slerp_merge(TREE, [jnp.zeros(2)]), "tree_b"),
        (lambda: kto.slerp_merge(TREE, TREE, t=ROWS), "t must"),
        (lambda: kto.ties_merge(TREE, []), "trees"),
        (lambda: kto.ties_merge(TREE, [{"w": jnp.zeros(3)}]), "trees must be alike"),
        (lambda: kto.ties_merge(TREE, [TREE], density=0.0), "density"),
        (lambda: kto.ties_merge(TREE, [TREE], density=1.1), "density"),
        (lambda: kto.select_alignment_data(ROWS, ROWS, k=1, min_score=0.0, max_similarity=0.9), "embeddings"),
        (lambda: kto.select_alignment_data(jnp.zeros((2, 3)), ROWS, k=1, min_score=0.0, max_similarity=0.9), "scores"),
        (lambda: kto.select_alignment_data(jnp.zeros((3, 3)), ROWS, k=0, min_score=0.0, max_similarity=0.9), "k must"),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(call)  # while tracing, too


def test_values_that_are_wrong_whatever_the_trees():
    with pytest.raises(ValueError, match="weights must not sum to 0"):
        kto.linear_merge([TREE, TREE], weights=[1.0, -1.0])
    with pytest.raises(ValueError, match="weights"):
        kto.ties_merge(TREE, [TREE], weights=[-1.0])


@both_kinds
def test_a_batch_of_one_kind_is_fine(desirable):
    assert np.isfinite(loss_of(jnp.array([0.1, 2.0]), desirable)).all()


def test_values_that_only_eager_calls_can_check_are_named():
    with pytest.raises(ValueError, match="desirable must be integers from 0 to 1, got -1"):
        kto.kto_loss(ROWS, ROWS, jnp.array([1, -1, 1]), 0.0)
    broken = jnp.full((3, 2), jnp.nan)
    with pytest.raises(ValueError, match="embeddings must be finite"):  # before the loop, which is compiled
        kto.select_alignment_data(broken, ROWS, k=1, min_score=0.0, max_similarity=0.9)
