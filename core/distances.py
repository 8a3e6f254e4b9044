"""Geometry of rows: norms and distances."""

import functools

import jax
import jax.numpy as jnp

from . import blocks, checks, numerics


def norm(x: jax.Array, *, axis: int | tuple[int, ...] | None = -1, keepdims: bool = False) -> jax.Array:
    """Euclidean length, sqrt(sum x^2), of vectors with entries of any size.

    Args:
        x: `[...]` float.
        axis: the axes that hold a vector; None: all.
        keepdims: keep them, with size 1.

    Returns:
        `x` without `axis`, in at least float32. Neither large nor small entries overflow or vanish when squared. A zero
        vector (entries below the smallest normal number count as zero) has length 0 and passes no gradient; one with an
        infinity has length inf, one with a NaN has NaN.

    Example:
        >>> norm(jnp.array([[3e20, 4e20], [3e-25, 4e-25], [0.0, 0.0]]))
        Array([5.e+20, 5.e-25, 0.e+00], dtype=float32)
    """
    _, wide = numerics.float_dtypes(x)
    scaled, scale, nonzero = unit_peak(x.astype(wide), axis)
    length = jnp.where(nonzero, scale * jnp.sqrt(jnp.where(nonzero, _sum_squares(scaled, axis), 1.0)), 0.0)
    return length if keepdims else jnp.squeeze(length, axis)


def l2_normalize(x: jax.Array, *, axis: int | tuple[int, ...] | None = -1) -> jax.Array:
    """Vectors scaled to unit Euclidean length, `x / |x|`.

    Args:
        x: `[..., d]` float.
        axis: the axes that hold a vector; None: all.

    Returns:
        The same shape and dtype, computed in at least float32. A zero vector stays zero and passes no gradient, where
        the plain quotient gives NaN for both. Neither large nor small entries overflow or vanish when squared.

    Example:
        >>> l2_normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
        Array([[0.6, 0.8],
               [0. , 0. ]], dtype=float32)
    """
    result, wide = numerics.float_dtypes(x)
    scaled, _, nonzero = unit_peak(x.astype(wide), axis)
    unit = scaled * jax.lax.rsqrt(jnp.where(nonzero, _sum_squares(scaled, axis), 1.0))
    return jnp.where(nonzero, unit, 0.0).astype(result)


def unit_peak(x: jax.Array, axis: int | tuple[int, ...] | None = -1) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Vectors divided by a power of two near their largest entry, so that their squares neither overflow nor vanish.

    Args:
        x: `[...]` float32 or wider.
        axis: the axes that hold a vector; None: all.

    Returns:
        `(scaled, scale, nonzero)`: `x / scale`, exactly; the power, with `axis` kept as size 1, held fixed; and where
        there is an entry that is not zero. One below the smallest normal number is: XLA flushes it in some places.

    Example:
        >>> unit_peak(jnp.array([6.0, 1.0]))
        (Array([1.5 , 0.25], dtype=float32), Array([4.], dtype=float32), Array([ True], dtype=bool))
    """
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0))
    scale = numerics.power_of_two(peak)
    return x / scale, scale, ~(peak < jnp.finfo(x.dtype).tiny)


def _sum_squares(x, axis):
    return jnp.sum(jnp.square(x), axis=axis, keepdims=True)


def nearest_and_farthest(x: jax.Array, *, block_size: int = 512) -> tuple[jax.Array, jax.Array]:
    """Squared Euclidean distances of each row to its nearest and to its farthest other row.

    Args:
        x: `[n, d]` float, n at least 2.
        block_size: rows whose n distances are held at once, static: memory is block_size x n, not n x n.

    Returns:
        `(nearest, farthest)`, each `[n]` in at least float32, computed from the differences themselves: near rows far
        from the origin keep their distance. Equal rows have nearest 0.

    Raises:
        ValueError: fewer than two rows.

    Example:
        >>> nearest_and_farthest(jnp.array([[0.0], [1.0], [3.0]]))
        (Array([1., 1., 4.], dtype=float32), Array([9., 4., 9.], dtype=float32))
    """
    n = checks.shapes(("x", x, "n d"))["n"]
    if n < 2:
        raise ValueError(f"x must have at least two rows, got {n}.")
    _, wide = numerics.float_dtypes(x)
    return _nearest_and_farthest(x.astype(wide), block_size=block_size)


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
