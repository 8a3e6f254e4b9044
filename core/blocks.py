"""Row blocks: a function of many rows at once, applied to a few at a time, so that its temporaries stay small."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def map_rows(function: Callable[..., Any], arrays: Any, *, block_size: int) -> Any:
    """`function(arrays)`, computed on `block_size` rows at a time, one block after the other.

    Args:
        function: takes `arrays` with b rows and returns a tree of arrays `[..., b]`, rows *last*; what it gives for one
            row does not depend on the others.
        arrays: tree of arrays `[n, ...]`, rows first, n at least 1.
        block_size: b, static. Where it does not divide n, zeros fill up the last block; their results are dropped.

    Returns:
        The tree of arrays `[..., n]`.

    Example:
        >>> x = jnp.arange(5.0)
        >>> map_rows(lambda rows: jnp.min(jnp.abs(rows[:, None] - x - 0.25), axis=1), x, block_size=2)
        Array([0.25, 0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    n = jax.tree.leaves(arrays)[0].shape[0]
    if n <= block_size:
        return function(arrays)

    def join(blocks):  # [blocks, ..., b] -> [..., n]
        joined = jnp.moveaxis(blocks, 0, -2)
        return joined.reshape(*joined.shape[:-2], -1)[..., :n]

    return jax.tree.map(join, jax.lax.map(function, _split(arrays, block_size)))


def sum_rows(function: Callable[..., Any], arrays: Any, *, block_size: int) -> Any:
    """`function(arrays)` where that is a sum over rows, added up over blocks of `block_size` rows.

    Args:
        function: takes `arrays` with b rows and returns a tree of sums over them. Rows of zeros must add nothing.
        arrays: tree of arrays `[n, ...]`, rows first, n at least 1.
        block_size: b, static.

    Returns:
        What `function` returns.

    Example:
        >>> sum_rows(lambda rows: rows.T @ rows, jnp.ones((5, 1)), block_size=2)
        Array([[5.]], dtype=float32)
    """
    if jax.tree.leaves(arrays)[0].shape[0] <= block_size:
        return function(arrays)
    blocks = _split(arrays, block_size)
    shapes = jax.eval_shape(function, jax.tree.map(lambda block: block[0], blocks))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(lambda total, block: (jax.tree.map(jnp.add, total, function(block)), None), zero, blocks)[0]


def _split(arrays, block_size):
    def split(array):
        count = -(-len(array) // block_size)
        padding = [(0, count * block_size - len(array))] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(count, block_size, *array.shape[1:])

    return jax.tree.map(split, arrays)
