"""Clipped uniform quantization: the oracles of its card."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import optimize, stats

from lemmata.methods.quantizers import clipped_uniform as cu


def normal(n=200_001):
    """A sample that stands for N(0, 1): its quantiles at equal distances."""
    return stats.norm.ppf((np.arange(n) + 0.5) / n)


def kappa(bits, stochastic=False):
    return (2 if stochastic else 1) * 4.0**-bits / 3


def normal_mse(s, bits):
    """J(s) of N(0, 1), in closed form."""
    outside = 2 * ((1 + s * s) * stats.norm.sf(s) - s * stats.norm.pdf(s))
    return kappa(bits) * s * s * (1 - 2 * stats.norm.sf(s)) + outside


def sample_mse(x, s, bits, stochastic=False):
    """J(s) of a sample, from the equation in float64."""
    magnitude = np.abs(np.asarray(x, np.float64))
    return np.where(magnitude <= s, kappa(bits, stochastic) * s * s, (s - magnitude) ** 2).mean()


# ---------------------------------------------------------------------------------------------------------------- clip


@pytest.mark.parametrize(
    ("bits", "minimum", "above"), [(2, 1.688, 4e-3), (3, 2.135, 1e-3), (4, 2.551, 2e-4), (8, 3.924, 1e-4)]
)
def test_clip_of_a_normal_is_near_the_known_minimum(bits, minimum, above):
    """The rule's fixed point lies above the minimum of J, the card's number, by what the docstring says."""
    assert optimize.minimize_scalar(normal_mse, bounds=(0.5, 6), args=(bits,)).x == pytest.approx(minimum, abs=1e-3)
    clip = float(cu.optimal_clip(jnp.asarray(normal(), jnp.float32), bits=bits))
    assert minimum * (1 - 3e-3) < clip < 1.04 * minimum
    assert normal_mse(clip, bits) < (1 + above) * normal_mse(minimum, bits)


@pytest.mark.parametrize("stochastic", [False, True])
def test_expected_error_is_at_its_minimum(stochastic):
    """Within 1e-4 of the least of 2000 clips, for a smooth density and 6 bits; fewer bits have the gap above."""
    x = jnp.asarray(normal(4001), jnp.float32)
    grid = jnp.linspace(0.0, 4.0, 2001)[1:]
    of_clip = jax.jit(lambda s: cu.expected_clip_mse(x, s, bits=6, stochastic=stochastic))
    clip = cu.optimal_clip(x, bits=6, stochastic=stochastic)
    assert of_clip(clip) < (1 + 1e-4) * jax.lax.map(of_clip, grid).min()
    np.testing.assert_allclose(of_clip(clip), sample_mse(x, float(clip), 6, stochastic), rtol=1e-4)


def test_clip_is_the_fixed_point_and_grows_with_the_bits():
    x = jax.random.laplace(jax.random.key(0), (4001,))
    magnitude = np.abs(np.asarray(x, np.float64))
    clips = {}
    for stochastic in (False, True):
        found = jax.jit(jax.vmap(lambda bits, s=stochastic: cu.optimal_clip(x, bits=bits, stochastic=s)))
        clips[stochastic] = found(jnp.arange(1, 13))
        for bits, s in zip(range(1, 13), np.asarray(clips[stochastic], np.float64), strict=True):
            outside = magnitude > s
            weighted = kappa(bits, stochastic) * np.sum(~outside) + np.sum(outside)
            again = magnitude[outside].sum() / weighted if outside.any() else magnitude.max()
            assert again == pytest.approx(s, rel=1e-3)  # one entry on the other side moves it by less
    assert np.all(np.diff(clips[False]) >= 0)
    assert np.all(clips[True] <= clips[False])  # where rounding costs more, clipping does more


@given(st.floats(2**-10, 2**10), st.permutations(range(12)))
def test_clip_follows_the_scale_and_no_order(scale, order):
    x = jnp.asarray(np.random.default_rng(0).normal(size=12), jnp.float32)
    clip = cu.optimal_clip(x, bits=3)
    np.testing.assert_allclose(cu.optimal_clip(scale * x, bits=3), scale * clip, rtol=1e-5)
    np.testing.assert_allclose(cu.optimal_clip(x[jnp.array(order)], bits=3), clip, rtol=1e-5)


def test_clip_of_few_magnitudes_is_the_largest():
    assert cu.optimal_clip(jnp.array([0.5, -0.5, 0.5]), bits=4) == 0.5
    assert cu.optimal_clip(jnp.array([3.0]), bits=4) == 3.0
    assert cu.optimal_clip(jnp.zeros((4, 2)), bits=4) == 0.0


def test_clip_of_a_split_tensor_is_that_of_one_device():
    x = jax.random.normal(jax.random.key(1), (64, 33))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    found = jax.jit(lambda x: cu.optimal_clip(x, bits=4))
    np.testing.assert_allclose(found(split), found(x), rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------ rounding


def test_nearest_is_within_half_a_step_and_clips_beyond():
    bits, s = 3, 2.0
    step = 2 * s / 2**bits
    x = jnp.linspace(-3.0, 3.0, 601)
    codes, values = cu.quantize(x, s, bits=bits)
    assert codes.dtype == jnp.int32
    assert codes.min() == -4
    assert codes.max() == 3  # two's complement: the top code reaches s - D alone
    inside = (x >= -s) & (x <= s - step)
    assert np.all(np.abs(values - x)[inside] <= step / 2 + 1e-6)
    np.testing.assert_array_equal(values[x > s - step], s - step)
    np.testing.assert_array_equal(values[x < -s], -s)
    np.testing.assert_allclose(values, codes * step, rtol=1e-6)


def test_ties_go_to_even():
    codes, _ = cu.quantize(jnp.array([-1.5, -0.5, 0.5, 1.5, 2.5]), 8.0, bits=4)
    assert codes.tolist() == [-2, 0, 0, 2, 2]


quantize = jax.jit(lambda x, bits: cu.quantize(x, 1.5, bits=bits))


@given(st.integers(1, 24), st.lists(st.floats(-4, 4, width=32), min_size=8, max_size=8))
def test_quantizing_again_changes_nothing(bits, x):
    codes, values = quantize(jnp.asarray(x, jnp.float32), bits)
    again, same = quantize(values, bits)
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(same, values)


def test_stochastic_rounding_is_right_on_average_with_the_known_variance():
    bits, s = 3, 2.0
    step = 2 * s / 2**bits
    x = jnp.linspace(-s, s - step, 101)
    draws = (np.arange(4000) + 0.5) / 4000  # every u alike
    uniform = jnp.broadcast_to(jnp.asarray(draws, jnp.float32)[:, None], (4000, 101))
    _, values = cu.stochastic_quantize(jnp.broadcast_to(x, uniform.shape), s, uniform, bits=bits)
    values = np.asarray(values, np.float64)
    assert np.all(np.abs(values - x) <= step * (1 + 1e-6))
    np.testing.assert_allclose(values.mean(axis=0), x, atol=step / 2000)
    fraction = np.asarray(x, np.float64) / step % 1
    np.testing.assert_allclose(values.var(axis=0), step**2 * fraction * (1 - fraction), atol=step**2 / 1000)


@pytest.mark.parametrize("stochastic", [False, True])
def test_measured_error_is_the_expected_one(stochastic):
    """On the negative side; the positive one lacks a code for s, which adds a sixth with 4 bits, 0.4 with 3."""
    x = jax.random.normal(jax.random.key(2), (200_000,))
    uniform = jax.random.uniform(jax.random.key(3), x.shape)

    @jax.jit
    def ratios(x, uniform, bits):
        clip = cu.optimal_clip(x, bits=bits, stochastic=stochastic)
        if stochastic:
            _, values = cu.stochastic_quantize(x, clip, uniform, bits=bits)
        else:
            _, values = cu.quantize(x, clip, bits=bits)
        error = jnp.square(values - x)
        expected = cu.expected_clip_mse(x, clip, bits=bits, stochastic=stochastic)
        return jnp.mean(error) / expected, jnp.mean(error, where=x < 0) / expected, jnp.mean(error)

    for bits in (3, 4, 8):
        whole, negative, error = ratios(x, uniform, bits)
        assert negative == pytest.approx(1, abs=0.04)
        assert 1 < whole < {3: 1.45, 4: 1.2, 8: 1.03}[bits]
        if bits == 8 and not stochastic:
            assert error == pytest.approx(8.71e-5, rel=0.05)


def test_bits_may_differ_by_client_and_be_traced():
    x = jax.random.normal(jax.random.key(4), (3, 50))
    bits = jnp.array([2, 4, 8])
    clip = jax.vmap(lambda x, b: cu.optimal_clip(x, bits=b))(x, bits)
    together = jax.jit(lambda x, clip, bits: cu.quantize(x, clip[:, None], bits=bits[:, None]))(x, clip, bits)
    for i, width in enumerate((2, 4, 8)):
        np.testing.assert_allclose(clip[i], cu.optimal_clip(x[i], bits=width), rtol=1e-6)
        for part, alone in zip(together, cu.quantize(x[i], clip[i], bits=width), strict=True):
            np.testing.assert_array_equal(part[i], alone)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 7, 8])
def test_codes_travel_in_that_many_bits(bits):
    x = jax.random.normal(jax.random.key(5), (1001,))
    codes, values = cu.quantize(x, 1.7, bits=bits)
    packed = cu.pack_bits(codes, bits=bits)
    assert packed.nbytes == -(-1001 * bits // 8)
    received = cu.unpack_bits(packed, bits=bits, size=1001)
    np.testing.assert_array_equal(received, codes)
    np.testing.assert_array_equal(received * jnp.float32(2 * 1.7 / 2**bits), values)


# -------------------------------------------------------------------------------------------------- average, training


def test_weights_are_inverse_to_the_errors():
    mse = jnp.array([[1.0, 0.2], [2.0, 0.2], [4.0, 0.2]])
    weights = cu.inverse_mse_weights(mse)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(weights[:, 0], np.array([4, 2, 1]) / 7, rtol=1e-6)
    np.testing.assert_allclose(weights[:, 1], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(cu.inverse_mse_weights(mse * jnp.array([1e-3, 1e3])), weights, rtol=1e-5)


def test_error_of_zero_takes_the_weight_and_an_infinite_one_none():
    np.testing.assert_allclose(cu.inverse_mse_weights(jnp.array([[0.0], [1e-3]]))[:, 0], [1.0, 0.0], atol=1e-8)
    np.testing.assert_allclose(cu.inverse_mse_weights(jnp.zeros((2, 1)))[:, 0], 0.5)
    np.testing.assert_allclose(cu.inverse_mse_weights(jnp.array([[jnp.inf], [0.1]]))[:, 0], [0.0, 1.0])
    assert not cu.inverse_mse_weights(jnp.full((2, 1), jnp.inf)).any()


def test_weighted_average_has_the_least_variance():
    """Independent unbiased errors: 1 / sum(1 / e) against the uniform sum(e) / M^2."""
    mse = jnp.array([0.01, 0.1, 1.0, 2.0])
    noise = jnp.sqrt(mse)[:, None] * jax.random.normal(jax.random.key(6), (4, 20_000))
    weights = cu.inverse_mse_weights(mse[:, None])
    by_error = cu.aggregate([noise], weights)[0]
    uniform = cu.aggregate([noise], jnp.full((4, 1), 0.25))[0]
    assert by_error.var() == pytest.approx(1 / np.sum(1 / np.asarray(mse)), rel=0.05)
    assert by_error.var() < 0.1 * uniform.var()


def test_every_layer_has_its_own_weights():
    values = {"b": jnp.array([1.0, 3.0]), "a": jnp.array([[[1.0, 2.0]], [[5.0, jnp.nan]]])}
    average = cu.aggregate(values, jnp.array([[1.0, 0.5], [0.0, 0.5]]))  # columns: a, b
    np.testing.assert_array_equal(average["a"], [[1.0, 2.0]])
    assert average["b"] == 2.0


def test_gradient_is_one_inside_and_zero_outside():
    x = jnp.array([-2.0, -1.0, -0.3, 0.0, 0.9, 1.0, 1.1])
    clip = jnp.float32(1.0)
    values, pull = jax.vjp(lambda x, clip: cu.fake_quantize(x, clip, bits=3), x, clip)
    np.testing.assert_array_equal(values, cu.quantize(x, clip, bits=3)[1])
    gradient, of_clip = pull(jnp.ones(7))
    np.testing.assert_array_equal(gradient, [0, 1, 1, 1, 1, 1, 0])
    assert of_clip == 0


# --------------------------------------------------------------------------------------------------------------- edges


def every_call(x, clip, bits):
    return {
        "optimal_clip": lambda: cu.optimal_clip(x, bits=bits),
        "quantize": lambda: cu.quantize(x, clip, bits=bits),
        "stochastic_quantize": lambda: cu.stochastic_quantize(x, clip, jnp.zeros(x.shape), bits=bits),
        "expected_clip_mse": lambda: cu.expected_clip_mse(x, clip, bits=bits),
        "fake_quantize": lambda: cu.fake_quantize(x, clip, bits=bits),
    }


@pytest.mark.parametrize("bits", [0, -3, 25, 4.0])
def test_bits_outside_their_range(bits):
    for call in every_call(jnp.ones(3), 1.0, bits).values():
        with pytest.raises(ValueError, match="bits must be"):
            call()


def test_empty_tensor_is_refused():
    for call in every_call(jnp.zeros((0, 3)), 1.0, 4).values():
        with pytest.raises(ValueError, match="x must have at least one entry"):
            call()
    with pytest.raises(ValueError, match="mse must have at least one client"):
        cu.inverse_mse_weights(jnp.zeros((0, 3)))


@pytest.mark.parametrize("clip", [jnp.ones(2), jnp.ones((2, 3)), jnp.ones((1, 1, 1))])
def test_clip_that_does_not_broadcast(clip):
    for name, call in every_call(jnp.ones(3), clip, 4).items():
        if name != "optimal_clip":
            with pytest.raises(ValueError, match=r"clip must broadcast to the shape \[3\] of x"):
                call()


def test_other_arguments_that_do_not_fit():
    x = jnp.ones(3)
    with pytest.raises(ValueError, match="clip must not be negative, got -1"):
        cu.quantize(x, -1.0, bits=4)
    with pytest.raises(ValueError, match=r"uniform must have shape \[3\] as x, got \[1\]"):
        cu.stochastic_quantize(x, 1.0, jnp.zeros(1), bits=4)
    with pytest.raises(ValueError, match="bits must be one number"):
        cu.optimal_clip(x, bits=jnp.array([2, 4, 8]))
    with pytest.raises(ValueError, match="num_iterations must be in"):
        cu.optimal_clip(x, bits=4, num_iterations=0)
    with pytest.raises(ValueError, match="weights must have 1 columns"):
        cu.aggregate({"w": jnp.ones((2, 3))}, jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="floor must be in"):
        cu.inverse_mse_weights(jnp.ones((2, 2)), floor=0.0)


def test_zero_tensor_stays_zero():
    x = jnp.zeros((2, 3))
    clip = cu.optimal_clip(x, bits=4)
    rounded = cu.quantize(x, clip, bits=4), cu.stochastic_quantize(x, clip, jnp.full((2, 3), 0.99), bits=4)
    for codes, values in rounded:
        assert clip == 0
        assert not codes.any()
        assert not values.any()
    assert cu.expected_clip_mse(x, clip, bits=4) == 0


BAD = [jnp.inf, -jnp.inf, jnp.nan]


def test_nan_comes_out_as_nan():
    x = jnp.array([0.3, jnp.nan, -0.2])
    for clip in (1.0, 0.0, cu.optimal_clip(x, bits=4)):
        for codes, values in (cu.quantize(x, clip, bits=4), cu.stochastic_quantize(x, clip, jnp.zeros(3), bits=4)):
            np.testing.assert_array_equal(jnp.isnan(values), [False, True, False])
            assert codes[1] == 0


@pytest.mark.parametrize("bad", [[jnp.inf], [-jnp.inf], [jnp.nan], [jnp.inf, jnp.nan, -jnp.inf]])
@pytest.mark.parametrize("stochastic", [False, True])
def test_entries_that_are_not_finite_change_no_other(bad, stochastic):
    """Neither the clip nor any other code, value or gradient; they take the code at their end."""
    x = jax.random.normal(jax.random.key(7), (101,))
    with_bad = jnp.concatenate([x, jnp.array(bad)])
    clip = cu.optimal_clip(x, bits=4, stochastic=stochastic)
    for found in (cu.optimal_clip, jax.jit(cu.optimal_clip, static_argnames=("bits", "stochastic"))):
        np.testing.assert_allclose(found(with_bad, bits=4, stochastic=stochastic), clip, rtol=1e-6)

    def rounded(x):
        uniform = jnp.full(x.shape, 0.3)
        return cu.stochastic_quantize(x, clip, uniform, bits=4) if stochastic else cu.quantize(x, clip, bits=4)

    for part, alone in zip(rounded(with_bad), rounded(x), strict=True):
        np.testing.assert_array_equal(part[:101], alone)
    codes, values = (np.asarray(part[101:]) for part in rounded(with_bad))
    ends = np.nan_to_num(np.asarray(bad), nan=0.0, posinf=7, neginf=-8)
    np.testing.assert_array_equal(codes, ends)
    np.testing.assert_allclose(values, np.where(np.isnan(bad), np.nan, ends * float(clip) / 8), rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.nansum(cu.fake_quantize(x, clip, bits=4)))(with_bad)
    np.testing.assert_array_equal(gradient, jnp.concatenate([jnp.abs(x) <= clip, jnp.zeros(len(bad))]))


def test_clip_without_a_finite_entry_is_nan():
    for bad in BAD:
        clip = cu.optimal_clip(jnp.full(3, bad), bits=4)
        assert jnp.isnan(clip)
        codes, values = cu.quantize(jnp.full(3, bad), clip, bits=4)
        assert not codes.any()
        assert jnp.isnan(values).all()


def test_infinite_clip_is_refused_or_gives_nan_where_traced():
    x = jnp.array([1.0, jnp.inf])
    for clip in (jnp.max(jnp.abs(x)), jnp.array([1.0, jnp.inf])):
        for name, call in every_call(x, clip, 4).items():
            if name != "optimal_clip":
                with pytest.raises(ValueError, match="clip must be finite, got inf"):
                    call()
    codes, values = jax.jit(lambda x, clip: cu.quantize(x, clip, bits=4))(x, jnp.inf)
    assert not codes.any()
    assert jnp.isnan(values).all()


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e30, 1e38])
def test_weights_of_any_size(scale):
    """Against the same weights near 1: sums pass the largest float, squares and steps the smallest normal number."""
    x = jax.random.uniform(jax.random.key(8), (1000,), minval=-3.0, maxval=3.0)
    x = jnp.where(jnp.abs(x) > 0.2, x, 0.0)  # no product with scale below the normal numbers, which XLA takes for 0
    scale = jnp.float32(scale)
    for bits in (4, 24):
        clip = cu.optimal_clip(x, bits=bits)
        np.testing.assert_allclose(cu.optimal_clip(scale * x, bits=bits), scale * clip, rtol=1e-5)
        codes, values = cu.quantize(scale * x, scale * clip, bits=bits)
        expected = np.asarray(x, np.float64) / float(clip) * 2.0 ** (bits - 1)
        np.testing.assert_allclose(codes, np.clip(np.round(expected), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1), atol=2)
        np.testing.assert_allclose(
            np.asarray(values, np.float64) / float(scale), cu.quantize(x, clip, bits=bits)[1], atol=2e-6, rtol=1e-5
        )


def test_error_is_right_where_its_sum_passes_the_largest_float():
    x = jnp.full(1000, 1e19)
    np.testing.assert_allclose(cu.expected_clip_mse(x, 0.0, bits=4), 1e38, rtol=1e-5)
    assert cu.expected_clip_mse(jnp.array([1.0, jnp.inf]), 1.0, bits=4) == jnp.inf
    assert jnp.isnan(cu.expected_clip_mse(jnp.array([1.0, jnp.nan]), 1.0, bits=4))


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e38])
def test_error_weights_of_any_size(scale):
    weights = cu.inverse_mse_weights(jnp.array([[1.0], [3.0], [jnp.inf]]) * scale)
    np.testing.assert_allclose(weights[:, 0], [0.75, 0.25, 0.0], rtol=1e-6)


def test_errors_that_are_none_are_named():
    for bad in (jnp.nan, -1.0):
        with pytest.raises(ValueError, match="mse must not be negative or NaN"):
            cu.inverse_mse_weights(jnp.array([[1.0], [bad]]))
    weights = jax.jit(cu.inverse_mse_weights)(jnp.array([[1.0, 1.0], [jnp.nan, 1.0]]))
    np.testing.assert_array_equal(jnp.isnan(weights), [[True, False], [True, False]])
    with pytest.raises(ValueError, match="uniform must be in"):
        cu.stochastic_quantize(jnp.ones(2), 1.0, jnp.array([0.5, 1.5]), bits=4)
    with pytest.raises(ValueError, match="weights must have at least one client"):
        cu.aggregate({"w": jnp.zeros((0, 3))}, jnp.zeros((0, 1)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_weights_and_widens_what_is_measured(dtype):
    x = jax.random.normal(jax.random.key(9), (3000,)).astype(dtype)
    exact = x.astype(jnp.float32)
    clip = cu.optimal_clip(x, bits=4)
    error = cu.expected_clip_mse(x, clip, bits=4)
    assert clip.dtype == error.dtype == jnp.float32
    np.testing.assert_allclose(clip, cu.optimal_clip(exact, bits=4), rtol=1e-6)
    np.testing.assert_allclose(error, cu.expected_clip_mse(exact, clip, bits=4), rtol=1e-6)
    mse = jnp.array([[1.0], [3.0]], dtype)
    np.testing.assert_allclose(cu.inverse_mse_weights(mse)[:, 0], [0.75, 0.25], rtol=1e-6)
    half = clip.astype(dtype)
    codes, values = cu.quantize(x, half, bits=4)
    assert values.dtype == cu.fake_quantize(x, half, bits=4).dtype == dtype
    np.testing.assert_array_equal(codes, cu.quantize(exact, half.astype(jnp.float32), bits=4)[0])
    # a clip that is a Python number is not rounded to half before it is compared
    between = jnp.asarray([0.3], dtype) if float(jnp.asarray(0.3, dtype)) > 0.3 else jnp.asarray([0.7], dtype)
    limit = 0.3 if float(jnp.asarray(0.3, dtype)) > 0.3 else 0.7
    expected = float(between[0]) <= limit
    assert jax.grad(lambda x: cu.fake_quantize(x, limit, bits=4).sum())(between)[0] == expected
