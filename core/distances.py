"""Geometry of rows: norms and distances."""

import functools

import jax
import jax.numpy as jnp

from . import blocks, checks, numerics


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


def nearest_and_farthest(x: jax.Array, *, block_size: int = 512) -> tuple[jax.Array, jax.Array]:
    """Squared Euclidean distances of each row to its nearest and to its farthest other row.

    Args:
        x: `[n, d]` float, n at least 2.
        block_size: rows whose n distances are held at once, static: memory is block_size x n, not n x n.

    Returns:
        `(nearest, farthest)`, each `[n]`, of the same dtype, computed in at least float32 from the differences
        themselves: near rows far from the origin keep their distance. Equal rows have nearest 0.

    Raises:
        ValueError: fewer than two rows.

    Example:
        >>> nearest_and_farthest(jnp.array([[0.0], [1.0], [3.0]]))
        (Array([1., 1., 4.], dtype=float32), Array([9., 4., 9.], dtype=float32))
    """
    n = checks.shapes(("x", x, "n d"))["n"]
    if n < 2:
        raise ValueError(f"x must have at least two rows, got {n}.")
    result, wide = numerics.float_dtypes(x)
    nearest, farthest = _nearest_and_farthest(x.astype(wide), block_size=block_size)
    return nearest.astype(result), farthest.astype(result)


@functools.partial(jax.jit, static_argnames="block_size")
def _nearest_and_farthest(x, *, block_size):
    n, d = x.shape

    def extremes(block):
        rows, index = block
        squared = jnp.zeros((rows.shape[0], n), x.dtype)
        for j in range(d):  # one fused pass over the pairs
            squared += jnp.square(rows[:, j, None] - x[None, :, j])
        itself = index[:, None] == jnp.arange(n)
        return jnp.min(jnp.where(itself, jnp.inf, squared), axis=1), jnp.max(squared, axis=1)

    return blocks.map_rows(extremes, (x, jnp.arange(n)), block_size=block_size)
