r"""Clipped uniform quantization: a few bits a weight, the clip that loses least, averages weighted by the errors.

Bozorgasl, Chen. "Communication-Efficient Federated Learning via Clipped Uniform Quantization." 2024, arXiv:2405.13365.

Weights x of one layer are sent as codes q of B bits, on the grid of step D = 2 s / 2^B for a clip s > 0:

    nearest      q = clip( round(x / D), -2^{B-1}, 2^{B-1} - 1 ),        value D q      (half to even)
    stochastic   q = clip( floor(x / D + u), -2^{B-1}, 2^{B-1} - 1 ),    u ~ U[0, 1)    (unbiased inside the range)

in two's complement, so that the top code reaches s - D alone. The expected error of a clip counts rounding inside and
clipping outside,

    J(s) = kappa s^2 P(|X| <= s) + E[ (s - |X|)^2 1{|X| > s} ],    kappa = 4^{-B} / 3,  twice that if stochastic,

and `optimal_clip` iterates the rule of OCTAV (Sakr et al., "Optimal Clipping and Magnitude-aware Differentiation for
Improved Quantization-aware Training", ICML 2022), Newton's for J with the indicators held fixed:

    s <- sum_{|x| > s} |x| / ( kappa #{|x| <= s} + #{|x| > s} ),    from s = mean |x|.

It leaves out what J gains as entries change sides, so its fixed point lies above the minimum of J, the more the fewer
the bits: for N(0, 1) at 1.739 against 1.688 with 2 bits (J 0.35 % higher), at 2.562 against 2.551 with 4 (0.013 %), and
both at 3.924 with 8.

The server averages layer j of the clients i by their mean squared errors e_ij, which need no data sizes:

    theta_j = sum_i w_ij D_ij q_ij,    w_ij = (1 / e_ij) / sum_k (1 / e_kj).

An infinite entry is clipped like any other beyond the range, and takes no part in the choice of the range: one entry
that has diverged must not move all others. A NaN stays one.

Training with quantized weights uses `fake_quantize`: forward D q, gradient 1 inside [-s, s] and 0 outside. What is
sent are the codes without gaps, `pack_bits` and `unpack_bits`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ....core import checks, numerics, trees
from ....core.straight_through import straight_through
from ._bits import pack_bits as pack_bits
from ._bits import unpack_bits as unpack_bits

MAX_BITS = 24  # codes are exact in float32


def optimal_clip(x: jax.Array, *, bits: ArrayLike, stochastic: bool = False, num_iterations: int = 30) -> jax.Array:
    """The clip s of least expected squared error, by fixed-point iteration from mean |x|.

    Args:
        x: `[...]` float, one layer; the statistics are of all its finite entries. `jax.vmap` gives a clip a channel.
        bits: B, from 1 to 24; an integer, or an int array `[]` that may be traced.
        stochastic: whether rounding is, which doubles its error.
        num_iterations: static; 20 to 30 suffice.

    Returns:
        Scalar, in at least float32: max |x| where the iteration leaves nothing to clip, 0 where x is all zeros, NaN
        where no entry is finite.

    Raises:
        ValueError: bits outside 1 to 24 (unchecked where traced), num_iterations < 1, or an empty x.

    Example:
        >>> optimal_clip(jnp.linspace(-1.0, 1.0, 1001), bits=4)   # a flat density is hardly worth clipping
        Array(0.952..., dtype=float32)
    """
    _check(x, bits=bits)
    checks.in_interval("num_iterations", num_iterations, 1, jnp.inf)
    if jnp.ndim(bits) > 0:
        raise ValueError(f"bits must be one number, got shape {list(jnp.shape(bits))}; vmap over clients or channels.")
    _, wide = numerics.float_dtypes(x)
    return _fixed_point(x.astype(wide), _rounding_error(bits, stochastic, wide), num_iterations)


def quantize(x: jax.Array, clip: ArrayLike, *, bits: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Codes and values by rounding to the nearest, half to even.

    Args:
        x: `[...]` float.
        clip: s, a scalar or what broadcasts to `x`, not negative and finite (unchecked where traced); `optimal_clip`
            gives one. Below the smallest normal number it counts as 0.
        bits: B, from 1 to 24; an integer, or an int array that broadcasts to `x` and may be traced.

    Returns:
        `(codes, values)`, both of the shape of `x`: int32 in [-2^(B-1), 2^(B-1) - 1], and D codes of the dtype of the
        inputs' promotion. Where x is infinite the code is the last one at that end. Where the clip is 0 both are 0;
        where x is NaN, or the clip is NaN or infinite, the code is 0 and the value NaN.

    Raises:
        ValueError: bits outside 1 to 24 (unchecked where traced), a clip or bits of a shape that does not broadcast to
            that of x, a negative or infinite clip, or an empty x.

    Example:
        >>> quantize(jnp.array([-2.0, -0.3, 0.1, 0.7]), 1.0, bits=2)
        (Array([-2, -1,  0,  1], dtype=int32), Array([-1. , -0.5,  0. ,  0.5], dtype=float32))
    """
    _check(x, clip=clip, bits=bits)
    return _codes_and_values(x, clip, bits, jnp.round)


def stochastic_quantize(
    x: jax.Array, clip: ArrayLike, uniform: jax.Array, *, bits: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Codes and values by stochastic rounding: up with the probability that makes the value right on average.

    Args:
        x: `[...]` float.
        clip: s, a scalar or what broadcasts to `x`, not negative.
        uniform: the shape of `x`, float in [0, 1) (unchecked where traced), such as `jax.random.uniform(key, x.shape)`.
        bits: B, from 1 to 24; an integer, or an int array that broadcasts to `x` and may be traced.

    Returns:
        `(codes, values)` as `quantize` gives. For x in [-s, s - D] the values' mean over u is x, and their variance
        D^2 f (1 - f) with f the fractional part of x / D.

    Raises:
        ValueError: as `quantize`, or a uniform of another shape than x or outside [0, 1].

    Example:
        >>> stochastic_quantize(jnp.array([0.1, 0.1]), 1.0, jnp.array([0.7, 0.9]), bits=2)
        (Array([0, 1], dtype=int32), Array([0. , 0.5], dtype=float32))
    """
    _check(x, clip=clip, bits=bits)
    if uniform.shape != x.shape:
        raise ValueError(f"uniform must have shape {list(x.shape)} as x, got {list(uniform.shape)}.")
    if checks.is_known(uniform):
        with jax.ensure_compile_time_eval():
            ends = jnp.stack([jnp.min(uniform), jnp.max(uniform)]).astype(jnp.float32)
        checks.in_interval("uniform", ends, 0.0, 1.0)  # in half precision, the largest draws are rounded to 1
    return _codes_and_values(x, clip, bits, lambda scaled: jnp.floor(scaled + uniform.astype(scaled.dtype)))


def expected_clip_mse(x: jax.Array, clip: ArrayLike, *, bits: ArrayLike, stochastic: bool = False) -> jax.Array:
    """J(s), the mean squared error that the noise model expects: rounding within the clip, distance beyond it.

    Args:
        x: `[...]` float.
        clip: s, a scalar or what broadcasts to `x`, not negative.
        bits: B, from 1 to 24; an integer, or an int array that broadcasts to `x` and may be traced.
        stochastic: whether rounding is, which doubles its error.

    Returns:
        Scalar, in at least float32. Infinite where an entry is or where the square of an error has no float; NaN where
        an entry is NaN.

    Raises:
        ValueError: as `quantize`.

    Example:
        >>> expected_clip_mse(jnp.array([0.5, 3.0]), 1.0, bits=1)   # (1 / 12 + 4) / 2
        Array(2.0416..., dtype=float32)
    """
    _check(x, clip=clip, bits=bits)
    _, wide = numerics.float_dtypes(x, clip)
    magnitude, s = jnp.abs(x.astype(wide)), jnp.asarray(clip, wide)
    # The sum of squares may pass the largest float.
    scale = numerics.power_of_two(jnp.maximum(_largest(magnitude), _largest(s)))
    magnitude, s = magnitude / scale, s / scale
    rounding = _rounding_error(bits, stochastic, wide) * jnp.square(s)
    return jnp.mean(jnp.where(magnitude <= s, rounding, jnp.square(s - magnitude))) * scale * scale


def inverse_mse_weights(mse: jax.Array, *, floor: ArrayLike = 1e-12) -> jax.Array:
    """Weights of the clients' layers, inverse to their mean squared errors.

    Args:
        mse: `[clients, layers]` float, not negative; inf leaves a client out. A traced NaN makes its column NaN.
        floor: smallest error that counts, positive. A client of no error at all takes (almost) all the weight: with
            clients in full precision, weigh the quantized ones alone.

    Returns:
        `[clients, layers]`, in at least float32; columns sum to 1 (to 0 where all errors are infinite).

    Raises:
        ValueError: mse of another rank or without clients, a known error that is negative or NaN, or a floor that is
            not positive.

    Example:
        >>> inverse_mse_weights(jnp.array([[1.0, 2.0], [3.0, 2.0]]))
        Array([[0.75, 0.5 ],
               [0.25, 0.5 ]], dtype=float32)
    """
    clients = checks.shapes(("mse", mse, "clients layers"))["clients"]
    if clients == 0:
        raise ValueError(f"mse must have at least one client, got shape {list(mse.shape)}.")
    checks.in_interval("floor", floor, 0.0, jnp.inf, closed="neither")
    if checks.is_known(mse):
        with jax.ensure_compile_time_eval():
            least = jnp.min(jnp.asarray(mse), initial=jnp.inf)  # NaN where there is one
        if not least >= 0:
            raise ValueError(f"mse must not be negative or NaN, got {least:g}.")
    _, wide = numerics.float_dtypes(mse)
    error = jnp.maximum(mse.astype(wide), jnp.maximum(jnp.asarray(floor, wide), jnp.finfo(wide).tiny))
    least = jnp.min(error, axis=0)
    precision = jnp.where(jnp.isinf(error), 0.0, jnp.where(jnp.isinf(least), 1.0, least) / error)  # of the best: 1
    total = jnp.sum(precision, axis=0)
    return precision / jnp.where(total == 0, 1.0, total)


def aggregate(values: Any, weights: ArrayLike) -> Any:
    """The server's average of what the clients sent, layer by layer with weights of its own.

    Args:
        values: tree of floats with leaves `[clients, ...]`, a leaf a layer.
        weights: `[clients, layers]`, layers in the order of `jax.tree.leaves`; `inverse_mse_weights` gives them.
            A weight of 0 leaves a client out, even one that sent NaN.

    Returns:
        The tree without the axis of clients, each leaf in its own dtype.

    Raises:
        ValueError: weights of another shape than the tree asks for, or no client.

    Example:
        >>> aggregate({"w": jnp.array([1.0, 3.0])}, jnp.array([[0.75], [0.25]]))
        {'w': Array(1.5, dtype=float32)}
    """
    leaves, tree = jax.tree.flatten(values)
    weights = jnp.asarray(weights)
    if checks.shapes(("weights", weights, "clients layers"))["clients"] == 0:
        raise ValueError(f"weights must have at least one client, got shape {list(weights.shape)}.")
    if weights.shape[1] != len(leaves):
        raise ValueError(f"weights must have {len(leaves)} columns, one a leaf of values, got {weights.shape[1]}.")
    return tree.unflatten([trees.weighted_sum(leaf, weights[:, layer]) for layer, leaf in enumerate(leaves)])


def fake_quantize(x: jax.Array, clip: ArrayLike, *, bits: ArrayLike) -> jax.Array:
    """The values of `quantize` with a straight-through gradient, to train a network that will be quantized.

    Args:
        x: `[...]` float.
        clip: s, a scalar or what broadcasts to `x`, not negative. It gets no gradient.
        bits: B, from 1 to 24; an integer, or an int array that broadcasts to `x` and may be traced.

    Returns:
        The values, of the shape of `x` and the dtype of the inputs' promotion; their gradient with respect to x is 1
        where |x| <= s and 0 elsewhere.

    Raises:
        ValueError: as `quantize`.

    Example:
        >>> jax.grad(lambda x: fake_quantize(x, 1.0, bits=2).sum())(jnp.array([-2.0, 0.3, 1.0]))
        Array([0., 1., 1.], dtype=float32)
    """
    _, values = quantize(x, clip, bits=bits)
    _, wide = numerics.float_dtypes(x, clip)
    inside = jnp.abs(x.astype(wide)) <= jnp.asarray(clip, wide)
    return straight_through(values, jnp.where(inside, x, jax.lax.stop_gradient(x)))


@functools.partial(jax.jit, static_argnums=2)
def _fixed_point(x, rounding, num_iterations):
    finite = jnp.isfinite(x)
    size = jnp.sum(finite)
    scale = numerics.power_of_two(_largest(jnp.abs(x)))  # the sum of magnitudes may pass the largest float
    magnitude = jnp.where(finite, jnp.abs(x), 0.0) / scale
    largest = jnp.max(magnitude)

    def step(s, _):
        outside = magnitude > s
        count = jnp.sum(outside)  # an integer: a sum of float32 ones stops at 2^24
        beyond = jnp.sum(jnp.where(outside, magnitude, 0.0))
        weighted = rounding * (size - count).astype(x.dtype) + count.astype(x.dtype)
        return jnp.where(count > 0, beyond / weighted, largest), None

    mean = jnp.sum(magnitude) / jnp.maximum(size, 1)
    s, _ = jax.lax.scan(step, mean, None, length=num_iterations)
    return jnp.where(size > 0, s * scale, jnp.nan)


def _largest(x):
    """The largest of finite entries that are not negative; 0 where there is none."""
    return jnp.max(jnp.where(jnp.isfinite(x), x, 0.0))


def _codes_and_values(x, clip, bits, round_to_grid):
    """The pass over x, without a branch: XLA makes one loop of it."""
    result, wide = numerics.float_dtypes(x, clip)
    s, half = jnp.asarray(clip, wide), _half_range(bits, wide)
    none = s < jnp.finfo(wide).tiny
    scale = numerics.power_of_two(s)  # neither s / half nor 1 / s, which XLA may form, need be a normal number
    scaled = (x.astype(wide) / scale) / jnp.where(none, 1.0, s / scale) * half
    # A NaN passes through both ends; a clip of NaN or infinity makes the value NaN by the last product.
    rounded = jnp.clip(round_to_grid(scaled), -half, half - 1)
    rounded = jnp.where(none & ~jnp.isnan(scaled), 0.0, rounded)
    codes = jnp.where(jnp.isnan(rounded), 0.0, rounded).astype(jnp.int32)
    return codes, (rounded / half * s).astype(result)


def _half_range(bits, dtype):
    """2^(B-1) exactly, also of a traced B."""
    return jnp.left_shift(1, jnp.asarray(bits, jnp.int32) - 1).astype(dtype)


def _rounding_error(bits, stochastic, dtype):
    """kappa: the mean squared rounding error of a clip of 1."""
    return (2 if stochastic else 1) / (12 * jnp.square(_half_range(bits, dtype)))


def _check(x: jax.Array, *, bits: ArrayLike, clip: ArrayLike = 0.0) -> None:
    if x.size == 0:
        raise ValueError(f"x must have at least one entry, got shape {list(x.shape)}.")
    if not jnp.issubdtype(jnp.result_type(bits), jnp.integer):
        raise ValueError(f"bits must be an integer, got {jnp.result_type(bits)}.")
    checks.in_interval("bits", bits, 1, MAX_BITS)
    for name, value in (("clip", clip), ("bits", bits)):
        shape = jnp.shape(value)
        if len(shape) > x.ndim or any(a not in (1, b) for a, b in zip(shape[::-1], x.shape[::-1], strict=False)):
            raise ValueError(f"{name} must broadcast to the shape {list(x.shape)} of x, got shape {list(shape)}.")
    if checks.is_known(clip):
        with jax.ensure_compile_time_eval():  # a known clip may meet a traced x
            lowest = float(jnp.nanmin(jnp.asarray(clip), initial=jnp.inf))
            infinite = bool(jnp.any(jnp.isinf(jnp.asarray(clip))))
        if lowest < 0:  # NaN passes: it comes from an x without a finite entry, and goes into the values
            raise ValueError(f"clip must not be negative, got {lowest:g}.")
        if infinite:
            raise ValueError("clip must be finite, got inf; optimal_clip leaves out infinite entries.")
