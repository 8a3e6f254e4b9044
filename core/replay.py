"""A ring buffer of rows: what an agent has seen, the keys of a queue. The newest rows replace the oldest."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import checks


class Replay(NamedTuple):
    """The rows kept, each a tree of arrays."""

    rows: Any  # tree of [capacity, ...]
    head: jax.Array  # [] int32, the slot that the next row takes
    size: jax.Array  # [] int32, how many rows there are


def init_replay(row: Any, *, capacity: int) -> Replay:
    """An empty buffer.

    Args:
        row: tree of arrays, or of `jax.ShapeDtypeStruct`: one row, without an axis of rows.
        capacity: rows that it holds, static, at least 1.

    Returns:
        A `Replay` of size 0; what it has not been given yet is zero.

    Raises:
        ValueError: capacity below 1.
    """
    checks.in_interval("capacity", capacity, 1, jnp.inf)
    rows = jax.tree.map(lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.result_type(x)), row)
    return Replay(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def update_replay(replay: Replay, rows: Any) -> Replay:
    """Add rows, in their order; where there is no room left they replace the oldest.

    Args:
        replay: the buffer; under `jit`, donate it, or all of it is copied.
        rows: tree of `[n, ...]`, n at most the capacity; cast to the buffer's dtypes.

    Raises:
        ValueError: more rows than the buffer holds, or rows of another tree or shape than those that it holds.

    Example:
        >>> replay = update_replay(init_replay(jnp.zeros(()), capacity=3), jnp.array([1.0, 2.0]))
        >>> replay = update_replay(replay, jnp.array([3.0, 4.0]))
        >>> take(replay, jnp.arange(3))
        Array([2., 3., 4.], dtype=float32)
    """
    capacity, count = _length(replay.rows), _length(rows)
    _check_rows(replay.rows, rows, count)
    if count > capacity:
        raise ValueError(f"rows must be at most the capacity, {capacity}, got {count}.")
    slots = (replay.head + jnp.arange(count)) % capacity
    kept = jax.tree.map(lambda old, new: old.at[slots].set(new.astype(old.dtype)), replay.rows, rows)
    return Replay(kept, (replay.head + count) % capacity, jnp.minimum(replay.size + count, capacity))


def take(replay: Replay, positions: jax.Array, *others: jax.Array) -> Any:
    """Rows, or entries of rows, by their order of arrival.

    Args:
        replay: the buffer.
        positions: int, any shape, in `[0, size)`: 0 is the oldest row kept, `size - 1` the newest.
        *others: int, broadcast against `positions`: indices into the axes of a row, from its first on.

    Returns:
        Tree of `[*broadcast shape, ...]`.

    Example:
        >>> replay = update_replay(init_replay(jnp.zeros(2), capacity=3), jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> take(replay, jnp.array([1, 0]), jnp.array([0, 1]))
        Array([3., 2.], dtype=float32)
    """
    slots = (replay.head - replay.size + positions) % _length(replay.rows)
    return jax.tree.map(lambda x: x[slots, *others], replay.rows)


def _check_rows(kept: Any, rows: Any, count: int) -> None:
    if jax.tree.structure(rows) != jax.tree.structure(kept):
        raise ValueError(f"rows must be a tree {jax.tree.structure(kept)}, got {jax.tree.structure(rows)}.")
    for leaf, held in zip(jax.tree.leaves(rows), jax.tree.leaves(kept), strict=True):
        expected = (count, *held.shape[1:])  # another shape might broadcast, in silence
        if jnp.shape(leaf) != expected:
            raise ValueError(f"rows must have leaves of shape {list(expected)}, got {list(jnp.shape(leaf))}.")


def _length(rows: Any) -> int:
    return jax.tree.leaves(rows)[0].shape[0]
