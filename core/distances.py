"""Geometry of rows: norms and distances."""

import jax
import jax.numpy as jnp

from . import numerics


def l2_normalize(x: jax.Array, *, axis: int = -1) -> jax.Array:
    """Vectors scaled to unit Euclidean length, `x / |x|`.

    Args:
        x: `[..., d]` float.
        axis: the axis that holds a vector.

    Returns:
        The same shape and dtype, computed in at least float32. A zero vector stays zero and passes no gradient, where
        the plain quotient gives NaN for both. Neither large nor small entries overflow or vanish when squared.

    Example:
        >>> l2_normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
        Array([[0.6, 0.8],
               [0. , 0. ]], dtype=float32)
    """
    result, wide = numerics.float_dtypes(x)
    x = x.astype(wide)
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0))
    nonzero = peak >= jnp.finfo(wide).tiny  # what is smaller counts as zero: XLA flushes it in some places
    scaled = x / jnp.where(nonzero, peak, 1.0)  # the direction does not depend on the scale, so nor does its gradient
    square = jnp.sum(jnp.square(scaled), axis=axis, keepdims=True)
    unit = scaled * jax.lax.rsqrt(jnp.where(nonzero, square, 1.0))
    return jnp.where(nonzero, unit, 0.0).astype(result)
