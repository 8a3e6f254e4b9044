"""What losses of this family are made of: rows of all versions, class vectors, distances, support and queries."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ....core import blocks, distances
from . import Coupled, Problem, Seen

BLOCK = 1024  # anchors that are held against all rows at once
LEAST = float(jnp.finfo(jnp.float32).min)  # in place of -inf where nothing may be left, which has no gradient


def by_example(seen: Seen, loss: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """`[batch]`, the mean over an example's versions of a loss of rows that do not see each other.

    Args:
        seen: the batch.
        loss: (rows `[n, d]`, labels `[n]`) -> `[n]`.
    """
    views, batch, width = seen.embeddings.shape
    losses = loss(seen.embeddings.reshape(-1, width), jnp.tile(seen.label, views))
    return jnp.mean(losses.reshape(views, batch), axis=0)


def class_vectors(problem: Problem) -> Callable[[jax.Array], jax.Array]:
    """`key -> [num_classes, embedding]`, about 1 long."""
    return lambda key: jax.random.normal(key, (problem.num_classes, problem.embedding)) * problem.embedding**-0.5


def of_unit_rows(seen: Seen, loss: Callable[[jax.Array, jax.Array], Any]) -> Coupled:
    """A loss of all unit rows of a batch together.

    Args:
        seen: the batch, or a part of it.
        loss: (rows `[batch * views, d]` of length 1, the versions of an example side by side; labels alike) -> what a
            `Coupled` may give of a batch.
    """
    views = len(seen.embeddings)

    def of_each():
        return jnp.moveaxis(distances.l2_normalize(seen.embeddings), 0, 1)

    def of_batch(unit):
        return loss(unit.reshape(-1, unit.shape[-1]), jnp.repeat(seen.label, views))

    return Coupled(of_each, of_batch)


def by_anchor(function: Callable[..., Any], unit: jax.Array, label: jax.Array) -> Any:
    """What each row gives when it is held against all rows, in blocks: memory is `BLOCK` x n.

    Args:
        function: (cosines `[b, n]`; which rows are of the anchor's class, but not itself; which are of another) -> a
            tree of `[b]`.
        unit: `[n, d]` of length 1.
        label: `[n]`.

    Returns:
        A tree of `[n]`.
    """

    def block(anchors):
        rows, own, index = anchors
        alike = own[:, None] == label
        itself = index[:, None] == jnp.arange(len(label))
        return function(jnp.matmul(rows, unit.T, precision=jax.lax.Precision.HIGHEST), alike & ~itself, ~alike)

    return blocks.map_rows(block, (unit, label, jnp.arange(len(label))), block_size=BLOCK)


def distance(cosine: jax.Array) -> jax.Array:
    """Of rows of length 1, sqrt(2 - 2 cosine), with a gradient of 0 where that is 0."""
    square = 2 - 2 * cosine
    apart = square > 1e-12
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)


def support(label: jax.Array, key: jax.Array, shots: int) -> jax.Array:
    """`[n]` bool: so many rows of each class, or all of fewer, drawn at random; the others are queries."""
    n = len(label)
    order = jnp.lexsort((jax.random.bits(key, (n,), jnp.uint32), label))
    in_order = label[order]
    rank = jnp.arange(n) - jnp.searchsorted(in_order, in_order, side="left")  # among those of its class
    return jnp.zeros(n, bool).at[order].set(rank < shots)


def logsumexp(x: jax.Array, where: jax.Array) -> jax.Array:
    """Of the entries of each row that count; `LEAST` or below where none does, with gradients of 0."""
    return jax.nn.logsumexp(jnp.where(where, x, LEAST), axis=-1)
