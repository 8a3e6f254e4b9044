"""Small numerical helpers: the dtypes to compute in, shares of counts, reductions that are safe at the edges."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from . import checks


def float_dtypes(*arrays: jax.typing.ArrayLike) -> tuple[Any, Any]:
    """The floating dtype of the inputs, and the one to compute in.

    What is of the inputs' own kind (features, filtered logits, weights, an update) is returned in `result`. A loss, a
    score, a distance, a bound, a count or a log-probability is returned in `wide`: it will be subtracted from another.

    Args:
        *arrays: the inputs; Python numbers are weakly typed and never widen the result.

    Returns:
        `(result, wide)`: `result` is the floating promotion of the inputs (integers and booleans count as the default
        float), `wide` is `result` widened to at least float32.

    Example:
        >>> float_dtypes(jnp.zeros(3, jnp.bfloat16), 1.0)
        (dtype(bfloat16), dtype('float32'))
    """
    result = jnp.result_type(*arrays)
    if not jnp.issubdtype(result, jnp.inexact):
        result = jnp.result_type(float)
    return result, jnp.promote_types(result, jnp.float32)


def log_normalize(log_weights: jax.Array, *, axis: int = -1) -> jax.Array:
    """Log of the self-normalised weights, `log_weights - logsumexp(log_weights)`.

    Args:
        log_weights: `[..., k]` float; -inf is a weight of zero.
        axis: the axis that sums to one.

    Returns:
        The same shape and dtype. Where every weight is zero, or there is none, they all stay zero (-inf), where
        `jax.nn.log_softmax` gives NaN.
    """
    if log_weights.shape[axis] == 0:
        return log_weights
    peak = jnp.max(log_weights, axis=axis, keepdims=True)
    shifted = log_weights - jax.lax.stop_gradient(jnp.where(jnp.isneginf(peak), 0.0, peak))
    total = jnp.sum(jnp.exp(shifted), axis=axis, keepdims=True)
    return shifted - jnp.log(jnp.where(total > 0, total, 1.0))


def power_of_two(x: jax.Array) -> jax.Array:
    """A power of two near `x`, to divide by: that rounds nothing, and what is left can be squared or summed.

    Args:
        x: `[...]` float32 or wider, not negative.

    Returns:
        The same shape and dtype, without gradient; its inverse is a normal number, too. 1 where `x` is below the
        smallest normal number, infinite or NaN.

    Example:
        >>> power_of_two(jnp.array([6.0, 0.0, 1e38]))
        Array([4.000000e+00, 1.000000e+00, 8.507059e+37], dtype=float32)
    """
    x, tiny = jax.lax.stop_gradient(x), jnp.finfo(x.dtype).tiny
    usual = (x >= tiny) & jnp.isfinite(x)
    mantissa, _ = jnp.frexp(jnp.where(usual, x, 1.0))
    return jnp.where(usual, jnp.minimum(x / (2 * mantissa), 1 / tiny), 1.0)


def share_count(
    share: float | jax.Array, size: int, *, rounding: Literal["ceil", "floor", "nearest"] = "ceil"
) -> int | jax.Array:
    """How many of `size` entries a share of them is: `share * size` as a whole number.

    A product that misses a whole number by rounding alone is that number: 0.07 * 100 = 7.000000000000001 is 7, and
    (1 - 0.9) * 100 = 9.999999999999998 is 10.

    Args:
        share: scalar in [0, 1]; may be traced.
        size: number of entries, static, at least 0.
        rounding: what to do with a product that is no whole number; "nearest" takes a half to the even one.

    Returns:
        An int in [0, size]; where `share` is traced, an int32 scalar, rounded in float32.

    Raises:
        ValueError: share outside [0, 1] (unchecked where traced), or an unknown rounding.

    Example:
        >>> share_count(0.07, 100), share_count(0.071, 100), share_count(0.079, 100, rounding="floor")
        (7, 8, 7)
    """
    if rounding not in ("ceil", "floor", "nearest"):
        raise ValueError(f'rounding must be "ceil", "floor" or "nearest", got {rounding!r}.')
    checks.shapes(("share", share, ""))
    checks.in_interval("share", share, 0.0, 1.0)
    if checks.is_known(share):
        dtype = jnp.result_type(share) if hasattr(share, "dtype") else np.float64
        eps = float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.floating) else 0.0
        product = float(share) * size
        whole = round(product)
        if abs(product - whole) > min(4 * eps * max(product, size / 16), 0.25):
            whole = {"ceil": math.ceil, "floor": math.floor, "nearest": round}[rounding](product)
        return min(max(whole, 0), size)
    product = jnp.asarray(share, jnp.float32) * size
    whole = jnp.round(product)
    slack = jnp.minimum(4 * jnp.finfo(jnp.float32).eps * jnp.maximum(product, size / 16), 0.25)
    rounded = {"ceil": jnp.ceil, "floor": jnp.floor, "nearest": jnp.round}[rounding](product)
    return jnp.clip(jnp.where(jnp.abs(product - whole) <= slack, whole, rounded), 0, size).astype(jnp.int32)
