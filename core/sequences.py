r"""Log-probabilities of tokens and of sequences under a model's logits.

With z_v the logits at a position, p = softmax(z) and y the label,

    log p(y) = z_y - log sum_v exp z_v,        d log p(y) / dz_v = [v = y] - p(v).

Logits are the largest arrays of a language model, so no other of their size is kept for the backward pass: p is formed
anew, straight into the gradient.
"""

import jax
import jax.numpy as jnp

from . import masked, numerics


def token_logps(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Log-probability of each label.

    Args:
        logits: `[..., vocab]` float, unnormalised; -inf marks an impossible token.
        labels: `[...]` int, in [0, vocab): the token that the logits at that place predict.

    Returns:
        `[...]` in nats, of the dtype of `logits`; computed in at least float32. -inf for an impossible token, also
        where every token is. NaN for a label outside the vocabulary, such as the -100 that some programs write where
        nothing is to be predicted; mask it, and the gradient is finite.

    Raises:
        ValueError: shapes that do not match, no vocabulary, or labels that are not integers.

    Example:
        >>> token_logps(jnp.zeros((2, 4)), jnp.array([0, 3]))   # -log 4
        Array([-1.3862944, -1.3862944], dtype=float32)
    """
    result, _ = numerics.float_dtypes(logits)
    return _checked_logps(logits, labels).astype(result)


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
        `[...]` in nats, of the dtype of `logits`; computed in at least float32. 0 where no position counts.

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
    result, _ = numerics.float_dtypes(logits)
    logps = _checked_logps(logits, labels)
    if length_normalized:
        return masked.mean(logps, where, axis=-1).astype(result)
    return jnp.sum(logps if where is None else jnp.where(where, logps, 0), axis=-1).astype(result)


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
