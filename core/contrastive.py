r"""In-batch contrastive objectives without the n x n matrix of scores.

The scores of n queries against m keys are formed a block of keys at a time, in the forward pass and again in the
backward pass, so memory grows as `n * block_size` (Rabe and Staats, "Self-attention Does Not Need O(n^2) Memory",
arXiv:2112.05682). With z_i = log sum_j exp(q_i . k_j) and p_ij = exp(q_i . k_j - z_i), the cotangent g of z gives

    dq_i = g_i sum_j p_ij k_j,        dk_j = sum_i g_i p_ij q_i.

A block takes every (m / block_size)-th key, not neighbours: then a key axis that is sharded stays sharded inside every
block, no device ever holds all keys, and each block costs one all-gather and one reduction of its own size.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import checks, numerics

_ONE_BLOCK = 1024  # up to here the whole matrix is small and blocking only costs
_BLOCK = 512  # keeps matrix units busy and the tile near the caches; timings are flat around it


def info_nce_loss(
    queries: jax.Array, keys: jax.Array, *, temperature: ArrayLike = 0.07, block_size: int | None = None
) -> jax.Array:
    """InfoNCE of matched rows: the cross-entropy of telling key i from all keys, given query i.

        loss_i = -q_i . k_i / T + log sum_j exp(q_i . k_j / T)

    van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748, with the
    scaled dot product as the critic. Rows are taken as they come: for cosine similarities pass them through
    `distances.l2_normalize` first. For the symmetric two-view loss, add the loss with the arguments exchanged. The rows
    of a batch are each other's negatives: over parts of a batch it is another loss.

    Args:
        queries: `[n, d]` float.
        keys: `[n, d]` float; row i is the positive of query i, the other rows are its negatives.
        temperature: T, positive scalar; may be traced, and has a gradient.
        block_size: how many keys are scored at once; by default all of them up to 1024, else 512. Memory beside the
            inputs is about `3 n block_size` numbers. The value does not depend on it but for rounding.

    Returns:
        `[n]` losses in nats, in at least float32. They differentiate in reverse mode. One row alone has nothing to be
        told from: its loss is 0.

    Raises:
        ValueError: inputs that are not two matrices of one shape with n and d at least 1, a temperature that is not a
            positive scalar, or block_size < 1.

    Example:
        >>> info_nce_loss(jnp.eye(2), jnp.eye(2), temperature=1.0)   # log(1 + exp(-1))
        Array([0.3132..., 0.3132...], dtype=float32)
    """
    sizes = checks.shapes(("queries", queries, "n d"), ("keys", keys, "n d"), ("temperature", temperature, ""))
    if min(sizes.values()) < 1:
        raise ValueError(f"queries must have at least one row and one column, got shape {list(queries.shape)}.")
    checks.in_interval("temperature", temperature, 0.0, jnp.inf, closed="neither")
    if block_size is not None:
        checks.in_interval("block_size", block_size, 1, jnp.inf)
    _, wide = numerics.float_dtypes(queries, keys)
    if sizes["n"] == 1:
        return jnp.zeros(1, wide)  # not the rounding left between two ways of taking one product

    queries = queries.astype(wide) / jnp.asarray(temperature, wide)
    keys = keys.astype(wide)
    partition = product_logsumexp(queries, keys, block_size=block_size)
    return partition - jnp.sum(queries * keys, axis=-1)


def product_logsumexp(queries: jax.Array, keys: jax.Array, *, block_size: int | None = None) -> jax.Array:
    """Log-sum-exp of each query's products with all keys: z_i = log sum_j exp(q_i . k_j).

    Args:
        queries: `[n, d]` float.
        keys: `[m, d]` float, m at least 1.
        block_size: how many keys are scored at once; by default all of them up to 1024, else 512.

    Returns:
        `[n]` in at least float32. Differentiable in reverse mode with respect to both.

    Raises:
        ValueError: inputs that are not matrices of one width, no key, or block_size < 1.
    """
    num_keys = checks.shapes(("queries", queries, "n d"), ("keys", keys, "m d"))["m"]
    if num_keys < 1:
        raise ValueError(f"keys must have at least one row, got shape {list(keys.shape)}.")
    if block_size is None:
        block_size = num_keys if num_keys <= _ONE_BLOCK else _BLOCK
    checks.in_interval("block_size", block_size, 1, jnp.inf)
    num_blocks = -(-num_keys // block_size)
    _, wide = numerics.float_dtypes(queries, keys)
    return _compiled(queries.astype(wide), keys.astype(wide), num_blocks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _logsumexp(queries, keys, num_blocks):
    return _logsumexp_forward(queries, keys, num_blocks)[0]


def _logsumexp_forward(queries, keys, num_blocks):
    def step(carry, block):
        peak, total = carry
        scores = _scores(queries, block)
        new_peak = jnp.maximum(peak, jnp.max(scores, axis=-1))
        total = total * jnp.exp(peak - new_peak) + jnp.sum(jnp.exp(scores - new_peak[:, None]), axis=-1)
        return (new_peak, total), None

    nothing = jnp.full(queries.shape[0], -jnp.inf, queries.dtype), jnp.zeros(queries.shape[0], queries.dtype)
    (peak, total), _ = jax.lax.scan(step, nothing, _split(keys, num_blocks))
    partition = peak + jnp.log(total)
    return partition, (queries, keys, partition)


def _logsumexp_backward(num_blocks, residuals, cotangent):
    queries, keys, partition = residuals

    def step(dqueries, block):
        weights = jnp.exp(_scores(queries, block) - partition[:, None]) * cotangent[:, None]
        return dqueries + weights @ block[0], weights.T @ queries

    dqueries, dblocks = jax.lax.scan(step, jnp.zeros_like(queries), _split(keys, num_blocks))
    dkeys = dblocks.swapaxes(0, 1).reshape(-1, keys.shape[1])[: keys.shape[0]]
    return dqueries, dkeys


_logsumexp.defvjp(_logsumexp_forward, _logsumexp_backward)
_compiled = jax.jit(_logsumexp, static_argnums=2)  # or each call outside a jit would compile its loop again


def _split(keys, num_blocks):
    """Keys as blocks `[num_blocks, size, d]`, each a strided slice, and which of their rows are not padding."""
    num_keys, dim = keys.shape
    size = -(-num_keys // num_blocks)
    padding = size * num_blocks - num_keys
    blocks = jnp.pad(keys, ((0, padding), (0, 0))).reshape(size, num_blocks, dim).swapaxes(0, 1)
    if padding == 0:
        return blocks, None
    return blocks, (jnp.arange(size * num_blocks) < num_keys).reshape(size, num_blocks).T


def _scores(queries, block):
    rows, valid = block
    scores = queries @ rows.T
    return scores if valid is None else jnp.where(valid, scores, -jnp.inf)
