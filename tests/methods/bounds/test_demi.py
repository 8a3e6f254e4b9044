"""DEMI: the oracles of its card."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from lemmata.methods.bounds import demi

SHAPES = [(1, 0), (1, 1), (3, 1), (3, 4)]  # few, since every shape compiles
finite = st.floats(-1e4, 1e4, width=32)


def scores(seed, n=5, m=7, scale=3.0):
    pos, neg = jax.random.split(jax.random.key(seed))
    return scale * jax.random.normal(pos, (n,)), scale * jax.random.normal(neg, (n, m))


def reference(pos, neg):
    """InfoNCE of the equation, in float64."""
    pos, neg = np.asarray(pos, np.float64), np.asarray(neg, np.float64)
    everything = np.concatenate([pos[:, None], neg], axis=1)
    return np.mean(pos - special.logsumexp(everything, axis=1) + np.log(everything.shape[1]))


@st.composite
def score_arrays(draw):
    n, m = draw(st.sampled_from(SHAPES))
    rows = draw(st.lists(st.lists(finite, min_size=m + 1, max_size=m + 1), min_size=n, max_size=n))
    array = np.asarray(rows, np.float32)
    return jnp.asarray(array[:, 0]), jnp.asarray(array[:, 1:])


# --- scores alone


def every_bound(pos, neg):
    return {
        "info_nce": demi.info_nce_bound(pos, neg),
        "conditional": demi.conditional_info_nce_bound(pos, neg),
        "importance": demi.importance_sampled_bound(pos, neg, jax.random.normal(jax.random.key(9), neg.shape)),
        "boosted": demi.boosted_critic_bound(pos / 2, neg / 2, pos / 2, neg / 2),
        "demi": demi.demi_bound(pos, neg, pos, neg),
    }


@pytest.mark.parametrize("value", [0.0, -3.0, 1e4])
def test_equal_scores_say_nothing(value):
    for name, bound in every_bound(jnp.full(5, value), jnp.full((5, 7), value)).items():
        np.testing.assert_allclose(bound, 0.0, atol=1e-6, err_msg=name)


def test_a_constant_per_row_changes_nothing():
    pos, neg = scores(0)
    shift = jnp.array([0.0, 1.0, -8.0, 64.0, -512.0])  # sums with the scores stay accurate to 1e-4
    moved = every_bound(pos + shift, neg + shift[:, None])
    for name, bound in every_bound(pos, neg).items():
        np.testing.assert_allclose(moved[name], bound, atol=1e-4, err_msg=name)


@given(score_arrays())
def test_value_is_that_of_the_equation_and_at_most_log_k(arrays):
    pos, neg = arrays
    bound = float(demi.info_nce_bound(pos, neg))
    np.testing.assert_allclose(bound, reference(pos, neg), rtol=1e-6, atol=1e-6)
    assert bound <= np.log(neg.shape[1] + 1) + 1e-6


@given(score_arrays(), finite)
def test_equal_weights_leave_info_nce(arrays, weight):
    pos, neg = arrays
    bound = demi.importance_sampled_bound(pos, neg, jnp.full(neg.shape, weight))
    np.testing.assert_allclose(bound, demi.info_nce_bound(pos, neg), rtol=1e-6, atol=2e-6)


def test_critic_of_zero_leaves_the_base():
    base_pos, base_neg = scores(1)
    bound = demi.boosted_critic_bound(jnp.zeros(5), jnp.zeros((5, 7)), base_pos, base_neg)
    np.testing.assert_allclose(bound, demi.info_nce_bound(base_pos, base_neg), rtol=1e-6)


def test_fixed_critic_gets_no_gradient_and_the_learnt_one_does():
    (pos, neg), (base_pos, base_neg) = scores(2), scores(3)
    for gradient in jax.grad(demi.boosted_critic_bound, argnums=(2, 3))(pos, neg, base_pos, base_neg):
        assert not gradient.any()
    assert not jax.grad(demi.importance_sampled_bound, argnums=2)(pos, neg, base_neg).any()
    weighted = jax.grad(lambda w: demi.demi_bound(base_pos, base_neg, pos, neg, log_weights=w))(base_neg)
    assert not weighted.any()
    for gradient in jax.grad(demi.importance_sampled_bound, argnums=(0, 1))(pos, neg, base_neg):
        assert gradient.all()
    for gradient in jax.grad(demi.boosted_critic_bound, argnums=(0, 1))(pos, neg, base_pos, base_neg):
        assert gradient.all()


def test_demi_is_the_sum_of_its_terms():
    (pos, neg), (base_pos, base_neg) = scores(4, m=3), scores(5)
    kl = jnp.linspace(0.0, 1.0, 5)
    first = demi.info_nce_bound(base_pos, base_neg)
    np.testing.assert_allclose(
        demi.demi_bound(base_pos, base_neg, pos, neg, proposal_kl=kl),
        first + demi.info_nce_bound(pos, neg) - 0.5,
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        demi.demi_bound(base_pos, base_neg, pos, neg, log_weights=neg / 2),
        first + demi.importance_sampled_bound(pos, neg, neg / 2),
        rtol=1e-6,
    )


def test_proposal_equal_to_the_conditional_gives_the_plain_bound():
    pos, neg = scores(6)
    plain = demi.info_nce_bound(pos, neg)
    for kl in (0.0, jnp.zeros(()), jnp.zeros(5)):
        assert demi.conditional_info_nce_bound(pos, neg, proposal_kl=kl) == plain


# --- the Gaussian set-up, where the truth is known


def log_ratio(y, views, covariance):
    """Log p(y|views) / p(y) in one dimension from the joint covariance of (y, *views), in float64."""
    gain = covariance[0, 1:] @ np.linalg.inv(covariance[1:, 1:])
    variance = covariance[0, 0] - gain @ covariance[1:, 0]
    mean = sum(weight * np.asarray(view, np.float64) for weight, view in zip(gain, views, strict=True))
    return stats.norm.logpdf(y, mean, np.sqrt(variance)) - stats.norm.logpdf(y)


def covariance_of(total_mi, subview_mi, dim):
    p1 = np.exp(2 * subview_mi / dim) - 1
    p2 = np.exp(2 * total_mi / dim) - np.exp(2 * subview_mi / dim)
    return np.ones((3, 3)) + np.diag([0.0, 1 / p1, 1 / p2])


def test_critics_are_the_log_density_ratios():
    mi = {"total_mi": 7.0, "subview_mi": 3.0}
    y, x_sub, x_full = demi.sample_gaussian_subviews(key=jax.random.key(0), n=64, dim=4, **mi)
    psi, phi = demi.gaussian_subview_critics(y, x_sub, x_full, **mi)
    covariance = covariance_of(7.0, 3.0, 4)
    np.testing.assert_allclose(psi, log_ratio(y, [x_sub], covariance[:2, :2]).sum(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(psi + phi, log_ratio(y, [x_sub, x_full], covariance).sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("total_mi", "subview_mi"), [(10.0, 5.0), (15.0, 3.0), (4.0, 4.0), (2.0, 0.0)])
def test_mean_critics_are_the_two_informations(total_mi, subview_mi):
    mi = {"total_mi": total_mi, "subview_mi": subview_mi}
    samples = demi.sample_gaussian_subviews(key=jax.random.key(1), n=20_000, **mi)
    for values, truth in zip(
        demi.gaussian_subview_critics(*samples, **mi), (subview_mi, total_mi - subview_mi), strict=True
    ):
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - truth) <= 4 * error + 1e-5


@pytest.mark.parametrize(("x_sub", "x_full"), [(-1.5, 0.7), (0.2, -2.0), (1.0, 3.0)])
def test_exponentiated_critics_average_to_one(x_sub, x_full):
    """E_{p(y)} exp psi = 1 and E_{p(y|x')} exp phi = 1 for every pair of views, by quadrature over y."""
    grid = np.linspace(-9, 9, 4001)
    psi, phi = demi.gaussian_subview_critics(
        jnp.asarray(grid, jnp.float32)[:, None], jnp.full(1, x_sub), jnp.full(1, x_full), total_mi=1.3, subview_mi=0.5
    )
    assert psi.shape == phi.shape == grid.shape
    p1 = np.expm1(2 * 0.5)
    marginal = stats.norm.logpdf(grid)
    conditional = stats.norm.logpdf(grid, p1 * x_sub / (1 + p1), (1 + p1) ** -0.5)
    for log_density, critic in ((marginal, psi), (conditional, phi)):
        np.testing.assert_allclose(np.trapezoid(np.exp(log_density + critic), grid), 1.0, rtol=1e-4)


@pytest.mark.parametrize("subview_mi", [1.0, 3.0])
def test_info_nce_reaches_small_information_and_never_passes_it(subview_mi):
    """2e4 rows, K = 1024; the negatives are drawn anew for every 500 rows."""
    mi = {"total_mi": 2 * subview_mi, "subview_mi": subview_mi}

    def block(key):
        key, other = jax.random.split(key)
        y, x_sub, x_full = demi.sample_gaussian_subviews(key=key, n=500, **mi)
        negatives, _, _ = demi.sample_gaussian_subviews(key=other, n=1023, **mi)
        pos, _ = demi.gaussian_subview_critics(y, x_sub, x_full, **mi)
        neg, _ = demi.gaussian_subview_critics(negatives[None], x_sub[:, None], x_full[:, None], **mi)
        return demi.info_nce_bound(pos, neg)

    blocks = jax.jit(lambda keys: jax.lax.map(block, keys))(jax.random.split(jax.random.key(2), 40))
    error = blocks.std(ddof=1) / np.sqrt(len(blocks))
    assert abs(blocks.mean() - subview_mi) < 0.1
    assert blocks.mean() <= subview_mi + error


def test_demi_reports_what_info_nce_cannot():
    """15 nats, K = 64: InfoNCE saturates at log 64 = 4.16, the sum of two terms does not, and stays below the truth."""
    mi, dim, n, m = {"total_mi": 15.0, "subview_mi": 7.5}, 20, 512, 63
    y, x_sub, x_full = demi.sample_gaussian_subviews(key=jax.random.key(3), n=n, dim=dim, **mi)
    p1 = np.expm1(2 * 7.5 / dim)
    marginal, noise = jax.random.normal(jax.random.key(4), (2, n, m, dim))
    conditional = (p1 * x_sub / (1 + p1))[:, None] + noise / np.sqrt(1 + p1)
    views = x_sub[:, None], x_full[:, None]
    base_pos, pos = demi.gaussian_subview_critics(y, x_sub, x_full, **mi)
    base_neg, phi_neg = demi.gaussian_subview_critics(marginal, *views, **mi)
    _, neg = demi.gaussian_subview_critics(conditional, *views, **mi)

    whole = demi.info_nce_bound(base_pos + pos, base_neg + phi_neg)
    assert whole <= np.log(64) + 1e-5
    np.testing.assert_allclose(demi.boosted_critic_bound(pos, phi_neg, base_pos, base_neg), whole, rtol=1e-5)
    assert np.log(64) + 2 < demi.demi_bound(base_pos, base_neg, pos, neg) < 2 * np.log(64)
    assert np.log(64) + 2 < demi.demi_bound(base_pos, base_neg, pos, phi_neg, log_weights=base_neg) < 15


def test_samples_have_the_stated_law():
    y, x_sub, x_full = demi.sample_gaussian_subviews(
        key=jax.random.key(5), n=40_000, dim=2, total_mi=3.0, subview_mi=1.0
    )
    assert y.shape == x_sub.shape == x_full.shape == (40_000, 2)
    stacked = np.stack([y, x_sub, x_full])
    for dimension in range(2):
        np.testing.assert_allclose(np.cov(stacked[:, :, dimension]), covariance_of(3.0, 1.0, 2), atol=0.06)
    first_key = jax.random.split(jax.random.key(5), 3)[0]
    np.testing.assert_array_equal(y, jax.random.normal(first_key, (40_000, 2)))


def test_view_without_information_is_independent_noise():
    y, x_sub, x_full = demi.sample_gaussian_subviews(
        key=jax.random.key(6), n=20_000, dim=1, total_mi=0.0, subview_mi=0.0
    )
    correlations = np.corrcoef(np.stack([y, x_sub, x_full])[..., 0])
    np.testing.assert_allclose(correlations, np.eye(3), atol=0.04)
    for critic in demi.gaussian_subview_critics(y, x_sub, x_full, total_mi=0.0, subview_mi=0.0):
        assert not critic.any()


# --- edges and bad input


def test_no_negatives_give_zero():
    pos, neg = jnp.array([1.0, -2.0]), jnp.zeros((2, 0))
    for name, bound in every_bound(pos, neg).items():
        assert bound == 0.0, name
    np.testing.assert_array_equal(jax.grad(demi.info_nce_bound)(pos, neg), [0.0, 0.0])


def test_masked_candidate_adds_nothing_and_still_counts():
    pos, neg = scores(7)
    masked = jnp.concatenate([neg, jnp.full((5, 1), -jnp.inf)], axis=1)
    grown = np.log(9 / 8)  # K is 9, not 8
    np.testing.assert_allclose(demi.info_nce_bound(pos, masked), demi.info_nce_bound(pos, neg) + grown, rtol=1e-5)

    log_weights = jnp.pad(neg / 2, ((0, 0), (0, 1)), constant_values=-jnp.inf)
    w = special.softmax(np.asarray(neg, np.float64) / 2, axis=1)  # the masked candidate takes no share
    total = np.exp(pos) + 8 * np.sum(w * np.exp(neg), axis=1)
    expected = np.mean(np.asarray(pos) - np.log(total / 9))
    np.testing.assert_allclose(demi.importance_sampled_bound(pos, masked, log_weights), expected, rtol=1e-5)


def test_row_with_every_candidate_masked_has_a_value_and_gradients():
    pos, neg = jnp.array([2.0]), jnp.full((1, 3), -jnp.inf)
    for bound in (
        lambda pos, neg: demi.info_nce_bound(pos, neg),
        lambda pos, neg: demi.importance_sampled_bound(pos, neg, neg),
        lambda pos, neg: demi.boosted_critic_bound(pos, jnp.zeros((1, 3)), pos, neg),
    ):
        value, gradients = jax.value_and_grad(bound, argnums=(0, 1))(pos, neg)
        np.testing.assert_allclose(value, np.log(4), rtol=1e-6)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_narrow_inputs_are_computed_wide(dtype):
    pos, neg = (jnp.round(values).astype(dtype) for values in scores(8))
    bound = demi.demi_bound(pos, neg, pos, neg, proposal_kl=0.0)
    assert bound.dtype == jnp.float32
    np.testing.assert_allclose(float(bound), 2 * reference(pos, neg), rtol=2.0**-8)


def test_float64_is_kept():
    with jax.enable_x64(True):
        pos, neg = (jnp.asarray(values, jnp.float64) for values in scores(9))
        bound = demi.info_nce_bound(pos, neg)
        assert bound.dtype == jnp.float64
        np.testing.assert_allclose(bound, reference(pos, neg), rtol=1e-14)


N, NM = jnp.zeros(4), jnp.zeros((4, 3))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: demi.info_nce_bound(N, jnp.zeros((5, 3))), r"neg must have shape \[n, m\] with n = 4.*\[5, 3\]"),
        (lambda: demi.info_nce_bound(NM, NM), "pos"),
        (lambda: demi.info_nce_bound(N, N), "neg"),
        (lambda: demi.info_nce_bound(jnp.zeros(0), jnp.zeros((0, 3))), "pos"),
        (lambda: demi.conditional_info_nce_bound(N, jnp.zeros((5, 3))), "neg"),
        (lambda: demi.conditional_info_nce_bound(N, NM, proposal_kl=jnp.zeros(3)), "proposal_kl"),
        (lambda: demi.importance_sampled_bound(N, jnp.zeros((5, 3)), jnp.zeros((5, 3))), "neg"),
        (lambda: demi.importance_sampled_bound(N, NM, jnp.zeros((4, 2))), "log_weights"),
        (lambda: demi.boosted_critic_bound(N, NM, jnp.zeros(3), NM), "base_pos"),
        (lambda: demi.boosted_critic_bound(N, NM, N, jnp.zeros((4, 2))), "base_neg"),
        (lambda: demi.demi_bound(N, jnp.zeros((5, 3)), N, NM), "base_neg"),
        (lambda: demi.demi_bound(N, NM, N, jnp.zeros((5, 3))), "neg"),
        (lambda: demi.demi_bound(N, NM, N, NM, log_weights=jnp.zeros((4, 2))), "log_weights"),
        (lambda: demi.gaussian_subview_critics(NM, NM, jnp.zeros(2), total_mi=2.0, subview_mi=1.0), "x_full"),
        (lambda: demi.gaussian_subview_critics(NM, NM, NM, total_mi=1.0, subview_mi=2.0), "total_mi"),
        (lambda: demi.gaussian_subview_critics(NM, NM, NM, total_mi=1.0, subview_mi=-1.0), "subview_mi"),
        (lambda: demi.sample_gaussian_subviews(key=jax.random.key(0), n=2, total_mi=-1.0, subview_mi=-2.0), "mi"),
        (lambda: demi.sample_gaussian_subviews(key=jax.random.key(0), n=2, total_mi=1.0), "total_mi"),
        (lambda: demi.sample_gaussian_subviews(key=jax.random.key(0), n=0), "n must"),
        (lambda: demi.sample_gaussian_subviews(key=jax.random.key(0), n=2, dim=0), "dim"),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(call)  # while tracing, too
