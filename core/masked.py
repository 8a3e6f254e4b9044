"""Reductions over the entries that a mask counts, defined where it counts none."""

import jax
import jax.numpy as jnp

from . import numerics


def mean(
    x: jax.Array, where: jax.Array | None = None, *, axis: int | tuple[int, ...] | None = None, empty: float = 0.0
) -> jax.Array:
    """Mean of the entries that count.

    Args:
        x: `[...]` float.
        where: bool, broadcasts to `x`; True counts. None: all do. What it leaves out may be infinite or NaN.
        axis: reduced axes; None: all.
        empty: the value where nothing counts; no gradient passes there.

    Returns:
        `x` without `axis`, in at least float32: the mean of losses is a loss.

    Example:
        >>> mean(jnp.array([[1.0, jnp.nan], [3.0, 4.0]]), jnp.array([[True, False], [False, False]]), axis=1)
        Array([1., 0.], dtype=float32)
    """
    _, wide = numerics.float_dtypes(x)
    where = jnp.broadcast_to(True if where is None else where, x.shape)
    count = jnp.sum(where, axis=axis)
    total = jnp.sum(jnp.where(where, x.astype(wide), 0), axis=axis)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), empty)


def max(
    x: jax.Array, where: jax.Array | None = None, *, axis: int | tuple[int, ...] | None = None, empty: float = 0.0
) -> jax.Array:
    """Largest of the entries that count.

    Args:
        x: `[...]` float.
        where: bool, broadcasts to `x`; True counts. None: all do. What it leaves out may be infinite or NaN.
        axis: reduced axes; None: all.
        empty: the value where nothing counts; no gradient passes there.

    Returns:
        `x` without `axis`, of its dtype. Entries that tie share the gradient.

    Example:
        >>> where = jnp.array([[True, True, False], [False, False, False]])
        >>> max(jnp.array([[1.0, 2.0, jnp.nan], [3.0, 4.0, 5.0]]), where, axis=1)
        Array([2., 0.], dtype=float32)
    """
    where = jnp.broadcast_to(True if where is None else where, x.shape)
    largest = jnp.max(jnp.where(where, x, -jnp.inf), axis=axis, initial=-jnp.inf)
    return jnp.where(jnp.any(where, axis=axis), largest, empty).astype(x.dtype)
