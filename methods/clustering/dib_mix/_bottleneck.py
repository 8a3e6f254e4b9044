"""Hard information-bottleneck clustering of rows x by what a conditional p(y|x) says about y.

The conditional is seen through two products alone, whole or in blocks of rows. Arrays over clusters are `[k, n]`, rows
last: with many restarts vmapped, each product is then one matrix product of `[restarts k, n]` with the conditional.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ....core import blocks, checks, numerics

_EXACT = jax.lax.Precision.HIGHEST  # accelerators would round the factors of a product


class Conditional(NamedTuple):
    """p(y|x) as the steps use it. The arrays under it are those of the closures."""

    num_rows: int
    dtype: Any
    map_rows: Callable[[Callable], Any]  # f(rows [b, n]) -> [..., b], for all rows: [..., n]
    weighted_sum: Callable[[jax.Array], jax.Array]  # weights [k, n] -> sum_x weights[:, x] p(.|x), [k, n]


class Marginal(NamedTuple):
    """What does not depend on the labels."""

    log_p: jax.Array  # [n], log p(y), p the mean of all rows; 0 where p(y) = 0
    divergence: jax.Array  # [n], KL( p(.|x) || p )
    has_zeros: jax.Array  # bool, whether a p(y|x) is 0


class Search(NamedTuple):
    """Where a search stands: labels `[n]` int32, beta of the last step, and what happened so far."""

    labels: jax.Array
    beta: jax.Array
    num_iterations: jax.Array
    rescued: jax.Array  # bool, whether a step left a cluster empty
    moved: jax.Array  # bool, whether the last step changed a label


def whole(matrix: jax.Array) -> Conditional:
    """A conditional given as a matrix `[n, n]`, row x is p(.|x)."""
    return Conditional(
        num_rows=matrix.shape[0],
        dtype=matrix.dtype,
        map_rows=lambda function: function(matrix),
        weighted_sum=lambda weights: jnp.matmul(weights, matrix, precision=_EXACT),
    )


def check_distributions(name: str, matrix: jax.Array) -> None:
    """Check that the rows of a known matrix are distributions, but for the rounding of each entry to half precision.

    Raises:
        ValueError: names the first row that has another sum than 1, or an entry that is negative or NaN.

    Example:
        >>> check_distributions("conditional", jnp.array([[0.5, 0.5], [2.0, 3.0]]))
        Traceback (most recent call last):
        ValueError: conditional must have rows that sum to 1 without negative entries, got sum 5, least 2 in row 1.
    """
    if not checks.is_known(matrix):
        return
    with jax.ensure_compile_time_eval():  # a known matrix may meet a trace
        wide = jnp.asarray(matrix, numerics.float_dtypes(matrix)[1])
        totals, least = np.asarray(jnp.sum(wide, axis=1)), np.asarray(jnp.min(wide, axis=1))  # it stays where it is
    bad = np.flatnonzero(~((np.abs(totals - 1) <= 1e-2) & (least >= 0)))
    if len(bad):
        row = bad[0]
        raise ValueError(
            f"{name} must have rows that sum to 1 without negative entries, "
            f"got sum {totals[row]:g}, least {least[row]:g} in row {row}."
        )


def in_blocks(rows_of: Callable[[Any], jax.Array], arrays: Any, dtype: Any, *, block_size: int) -> Conditional:
    """A conditional computed anew from blocks of rows whenever it is used.

    Args:
        rows_of: gives p(.|x) `[b, n]` of a block of `arrays` `[b, ...]`; finite for a block of zeros.
        arrays: tree of arrays `[n, ...]`.
        dtype: of what `rows_of` returns.
        block_size: b, static.
    """

    def weighted_sum(weights):
        def add(block):
            rows, weight = block
            return jnp.matmul(weight.T, rows_of(rows), precision=_EXACT)

        return blocks.sum_rows(add, (arrays, weights.T), block_size=block_size)

    return Conditional(
        num_rows=jax.tree.leaves(arrays)[0].shape[0],
        dtype=dtype,
        map_rows=lambda function: blocks.map_rows(lambda rows: function(rows_of(rows)), arrays, block_size=block_size),
        weighted_sum=weighted_sum,
    )


def marginal(conditional: Conditional) -> Marginal:
    """p(y) and what each row says beyond it."""
    n = conditional.num_rows
    p = conditional.weighted_sum(jnp.ones((1, n), conditional.dtype))[0] / n
    log_p = _safe_log(p)

    def look(rows):
        return jnp.sum(_log_ratio_terms(rows, log_p), axis=1), jnp.any(rows == 0, axis=1)

    divergence, has_zeros = conditional.map_rows(look)
    return Marginal(log_p, divergence, jnp.any(has_zeros))


def information(
    conditional: Conditional, known: Marginal, labels: jax.Array, num_clusters: int
) -> tuple[jax.Array, jax.Array]:
    """I(T;Y) and H(T) of labels `[n]`, nats."""
    sizes, q, log_ratio = _clusters(conditional, known, labels, num_clusters)
    share = sizes.astype(q.dtype) / conditional.num_rows
    kept = jnp.sum(share * jnp.sum(q * log_ratio, axis=1))  # sum_t q(t) KL( q(.|t) || p )
    return kept, -jnp.sum(share * _safe_log(share))


def step(
    conditional: Conditional, known: Marginal, labels: jax.Array, num_clusters: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """New labels `[n]`, beta, and whether a cluster had to be rescued."""
    n = conditional.num_rows
    sizes, q, log_ratio = _clusters(conditional, known, labels, num_clusters)
    # KL_xt = divergence_xt - agreement_xt, both against p(y). Without zeros the first is the same for every t, and what
    # beta and the labels depend on, differences over t, are those of the second, which keep their digits.
    agreement = conditional.map_rows(lambda rows: jnp.matmul(log_ratio, rows.T, precision=_EXACT))
    divergence = jax.lax.cond(
        known.has_zeros,
        lambda: conditional.map_rows(
            lambda rows: jnp.matmul((q > 0).astype(q.dtype), _log_ratio_terms(rows, known.log_p).T, precision=_EXACT)
        ),
        lambda: jnp.broadcast_to(known.divergence, agreement.shape),
    )
    occupied = sizes > 0
    log_q = jnp.where(occupied, _safe_log(sizes.astype(q.dtype) / n), -jnp.inf)
    smallest = jnp.argmin(jnp.where(occupied, sizes, n + 1))
    gap = (divergence[smallest] - divergence) - (agreement[smallest] - agreement)  # KL_xm - KL_xt
    rounding = 4 * jnp.finfo(q.dtype).eps * (1 + jnp.abs(agreement) + jnp.abs(agreement[smallest]))
    counts = (jnp.abs(gap) > rounding) & occupied[:, None] & (labels == smallest)  # t = m has no gap; its ratio is 0
    ratio = (log_q[smallest] - jnp.where(occupied, log_q, 0.0))[:, None] / jnp.where(counts, gap, 1.0)
    beta = jnp.maximum(1.0, 1e-3 + jnp.max(jnp.where(counts, ratio, 0.0)))
    scores = log_q[:, None] - beta * (divergence - agreement)
    new, rescued = _rescue(jnp.argmax(scores, axis=0).astype(jnp.int32), scores)
    return new, beta, rescued


def search(
    conditional: Conditional, known: Marginal, labels: jax.Array, num_clusters: int, max_iterations: ArrayLike
) -> Search:
    """Steps from labels `[n]` until none changes, or `max_iterations` are done."""

    def again(state):
        return state.moved & (state.num_iterations < max_iterations)

    def advance(state):
        new, beta, rescued = step(conditional, known, state.labels, num_clusters)
        moved = jnp.any(new != state.labels)
        return Search(new, beta, state.num_iterations + 1, state.rescued | rescued, moved)

    one, zero, false = jnp.ones((), conditional.dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    return jax.lax.while_loop(again, advance, Search(labels, one, zero, false, ~false))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def balanced_labels(key: jax.Array, n: int, num_clusters: int, count: int) -> jax.Array:
    """`[count, n]` int32 random labels; clusters differ by one row at most."""
    balanced = jnp.arange(n, dtype=jnp.int32) % num_clusters
    return jax.vmap(lambda key: jax.random.permutation(key, balanced))(jax.random.split(key, count))


def best_of(
    frozen: Conditional, live: Conditional, starts: jax.Array, num_clusters: int, max_iterations: ArrayLike
) -> tuple[Search, jax.Array, jax.Array]:
    """Search from every start, and keep the most informative labels; those that needed no rescue come first.

    Args:
        frozen: the conditional, without gradient: a search has none.
        live: the same, with what gradient its information shall have.
        starts: `[restarts, n]` int32.
        num_clusters: k, static.
        max_iterations: at least 1.

    Returns:
        `(search, mutual_information, entropy)` of the best start.
    """
    known = marginal(frozen)
    found = jax.vmap(lambda labels: search(frozen, known, labels, num_clusters, max_iterations))(starts)
    known = known if live is frozen else marginal(live)
    kept, entropy = jax.vmap(lambda labels: information(live, known, labels, num_clusters))(found.labels)
    best = jnp.argmax(jnp.where(found.rescued & ~jnp.all(found.rescued), -jnp.inf, kept))
    return jax.tree.map(lambda leaf: leaf[best], (found, kept, entropy))


def _clusters(conditional, known, labels, num_clusters):
    """Sizes `[k]`, q(y|t) `[k, n]`, and log q(y|t) / p(y) `[k, n]`, 0 where q is."""
    members = labels == jnp.arange(num_clusters)[:, None]
    sizes = jnp.sum(members, axis=1)
    sums = conditional.weighted_sum(members.astype(conditional.dtype))
    q = sums / jnp.maximum(sizes, 1)[:, None]
    return sizes, q, jnp.where(q > 0, _safe_log(q) - known.log_p, 0.0)


def _rescue(labels, scores):
    """Each empty cluster, the first one first, takes the row with the largest score for it."""
    num_clusters = scores.shape[0]

    def sizes(labels):
        return jnp.sum(labels == jnp.arange(num_clusters)[:, None], axis=1)

    def fill(labels):
        size = sizes(labels)
        empty = jnp.argmin(size)
        score = jnp.maximum(scores[empty], jnp.finfo(scores.dtype).min)  # -inf for a cluster that was empty before
        row = jnp.argmax(jnp.where(size[labels] > 1, score, -jnp.inf))
        return labels.at[row].set(empty.astype(labels.dtype))

    filled = jax.lax.while_loop(lambda labels: jnp.min(sizes(labels)) == 0, fill, labels)
    return filled, jnp.any(filled != labels)


def _safe_log(x):
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0)


def _log_ratio_terms(rows, log_p):
    """p(y|x) log( p(y|x) / p(y) ), 0 where p(y|x) is."""
    return rows * (_safe_log(rows) - jnp.where(rows > 0, log_p, 0.0))
