r"""Log-probabilities of tokens and of sequences under a model's logits, and where a sequence ends.

With z_v the logits at a position, p = softmax(z) and y the label,

    log p(y) = z_y - log sum_v exp z_v,        d log p(y) / dz_v = [v = y] - p(v).

Logits are the largest arrays of a language model, so no other of their size is kept for the backward pass: p is formed
anew, straight into the gradient.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import masked, numerics


def token_logps(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Log-probability of each label.

    Args:
        logits: `[..., vocab]` float, unnormalised; -inf marks an impossible token.
        labels: `[...]` int, in [0, vocab): the token that the logits at that place predict.

    Returns:
        `[...]` in nats, in at least float32. -inf for an impossible token, also where every token is. NaN for a label
        outside the vocabulary, such as the -100 that some programs write where nothing is to be predicted; mask it,
        and the gradient is finite.

    Raises:
        ValueError: shapes that do not match, no vocabulary, or labels that are not integers.

    Example:
        >>> token_logps(jnp.zeros((2, 4)), jnp.array([0, 3]))   # -log 4
        Array([-1.3862944, -1.3862944], dtype=float32)
    """
    return _checked_logps(logits, labels)


def sequence_logps(
    logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None, length_normalized: bool = False
) -> jax.Array:
    """Log-probability of each sequence: the sum of its tokens' log-probabilities, or their mean.

    Args:
        logits: `[..., time, vocab]` float, unnormalised; position t predicts `labels[..., t]`.
        labels: `[..., time]` int, in [0, vocab); anything where `where` is False.
        where: `[..., time]` bool, True: the position counts. None: all do.
        length_normalized: the mean over the positions that count, instead of the sum.

    Returns:
        `[...]` in nats, in at least float32: in bfloat16 the sum over 512 tokens would be rounded to whole nats. 0
        where no position counts.

    Raises:
        ValueError: shapes that do not match, no axis of time, no vocabulary, or labels that are not integers.

    Example:
        >>> sequence_logps(jnp.zeros((1, 3, 4)), jnp.zeros((1, 3), int), where=jnp.array([[True, True, False]]))
        Array([-2.7725887], dtype=float32)
    """
    if jnp.ndim(labels) < 1:
        raise ValueError(f"labels must be [..., time], got shape {list(jnp.shape(labels))}.")
    if where is not None and jnp.shape(where) != jnp.shape(labels):
        raise ValueError(f"where must have shape {list(jnp.shape(labels))} as labels, got {list(jnp.shape(where))}.")
    logps = _checked_logps(logits, labels)
    if length_normalized:
        return masked.mean(logps, where, axis=-1)
    return jnp.sum(logps if where is None else jnp.where(where, logps, 0), axis=-1)


def end_ids(eos_id: ArrayLike | Sequence[int]) -> jax.Array:
    """The end tokens as an array, whether one was given or several.

    Args:
        eos_id: int, or a sequence or an array `[k]` of ints, k at least 1. One that no token has, such as -1, ends
            nothing.

    Returns:
        `[k]` int32.

    Raises:
        ValueError: no end token, more than one axis, or what is not integers.

    Example:
        >>> end_ids(2), end_ids([2, 7])
        (Array([2], dtype=int32), Array([2, 7], dtype=int32))
    """
    try:
        ids = jnp.asarray(eos_id)
    except (TypeError, ValueError):  # such as a list of unequal lists
        raise ValueError(f"eos_id must be an integer or several, got {eos_id!r}.") from None
    if ids.size and not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"eos_id must be integers, got {ids.dtype}.")
    if ids.ndim > 1 or not ids.size:
        raise ValueError(f"eos_id must be an integer or have shape [k], k at least 1, got shape {list(ids.shape)}.")
    return jnp.atleast_1d(ids).astype(jnp.int32)


def ends(token: jax.Array, eos_id: ArrayLike | Sequence[int]) -> jax.Array:
    """Which tokens end their row: those that are one of the end tokens.

    Args:
        token: `[...]` int.
        eos_id: int, or a sequence or an array `[k]` of ints: any of them ends any row.

    Returns:
        `[...]` bool.

    Raises:
        ValueError: as `end_ids`.

    Example:
        >>> ends(jnp.array([2, 3, 7]), [2, 7])
        Array([ True, False,  True], dtype=bool)
    """
    return jnp.any(jnp.expand_dims(token, -1) == end_ids(eos_id), axis=-1)


def _checked_logps(logits, labels):
    """Token log-probabilities, in the wide dtype."""
    shape = jnp.shape(logits)
    if len(shape) < 1 or shape[-1] < 1:
        raise ValueError(f"logits must be [..., vocab] with a token at least, got shape {list(shape)}.")
    if jnp.shape(labels) != shape[:-1]:
        raise ValueError(f"labels must have shape {list(shape[:-1])} as logits, got {list(jnp.shape(labels))}.")
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(f"labels must be integers, got {jnp.result_type(labels)}.")
    return _logps(jnp.asarray(logits), jnp.asarray(labels, jnp.int32))


@jax.custom_jvp
def _logps(logits, labels):
    return _logps_and_partition(logits, labels)[0]


def _logps_and_partition(logits, labels):
    _, wide = numerics.float_dtypes(logits)
    wide_logits = logits.astype(wide)
    partition = jax.nn.logsumexp(wide_logits, axis=-1)
    partition = jnp.where(jnp.isneginf(partition), 0, partition)  # where no token is possible: p = 0, log p = -inf
    known = jnp.where(labels < 0, logits.shape[-1], labels)  # a negative index would count from the end
    label_logits = jnp.take_along_axis(wide_logits, known[..., None], axis=-1, mode="fill", fill_value=jnp.nan)
    return label_logits[..., 0] - partition, partition


@_logps.defjvp
def _logps_jvp(primals, tangents):
    logits, labels = primals
    logps, partition = _logps_and_partition(logits, labels)

    @jax.checkpoint
    def tangent(logits, partition, d_logits):
        p = jnp.exp(logits.astype(partition.dtype) - partition[..., None])
        is_label = jnp.arange(logits.shape[-1]) == labels[..., None]
        return jnp.sum((is_label - p) * d_logits, axis=-1)

    return logps, tangent(logits, partition, tangents[0])
