r"""KTO: align a small language model with unpaired good and bad answers, after SFT or instead of it, and fuse weights.

Zhai. "A Post-Training Enhanced Optimization Approach for Small Language Models." 2024, arXiv:2411.02939. The loss is
that of Ethayarajh, Xu, Muennighoff, Jurafsky, Kiela. "KTO: Model Alignment as Prospect Theoretic Optimization." ICML
2024, arXiv:2402.01306.

With l(y|x) the log-probability of the whole answer y to the prompt x (a sum over its tokens), a policy is judged by how
far it has moved from a fixed reference,

    r_i = l_policy(y_i|x_i) - l_ref(y_i|x_i),        z0 = max(0, mean_j( l_policy(y'_j|x_j) - l_ref(y'_j|x_j) )),
    desirable:    w_D (1 - sigmoid(beta (r_i - z0))),
    undesirable:  w_U (1 - sigmoid(beta (z0 - r_i))).

z0 stands for KL(policy || ref), without gradient. Its rows are *mismatched*: the prompts of the batch, each with the
answer of the next, y'_j = y_{j+1 mod m}. For unbalanced data the KTO paper advises w_D n_D / (w_U n_U) in [1, 4/3].

Two stages: SFT from the base, then KTO with the SFT model as the reference, at a lower learning rate; SFT after KTO
would undo it. The models of the stages are then fused: linearly, by SLERP, or by TIES (Yadav et al., arXiv:2306.01708).
Data is chosen from candidates that a larger model has scored: accurate ones first, none too similar to one before it.

Departures: for z0 the KTO program (ContextualAI/HALOs) leaves out the mismatched rows whose log-ratio is exactly zero,
TRL averages over all; here over `where`, all by default. All clamp at zero after the mean over the global batch.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ....core import checks, distances, masked, numerics, sequences

_INFINITE = 1e30  # nats: what an infinite log-ratio counts as
_PARALLEL = 0.9995  # |cos| from which an arc is as good as its chord


def sequence_logps(
    logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None, length_normalized: bool = False
) -> jax.Array:
    """Log-probability of each answer: l = sum_t log softmax(logits_t)[label_t], over the tokens that count.

    Args:
        logits: `[batch, time, vocab]` float, aligned: position t predicts `labels[:, t]`.
        labels: `[batch, time]` int, in [0, vocab); anything where `where` is False.
        where: `[batch, time]` bool, True: a token of the answer; prompt and padding do not count. None: all do.
        length_normalized: the mean over the tokens that count. KTO takes the sum.

    Returns:
        `[batch]` in nats, in at least float32; 0 where no token counts, NaN where one that does is not in the
        vocabulary.

    Raises:
        ValueError: shapes that do not match, or labels that are not integers.

    Example:
        >>> sequence_logps(jnp.zeros((1, 3, 4)), jnp.zeros((1, 3), int))   # -3 log 4
        Array([-4.158883], dtype=float32)
    """
    return sequences.sequence_logps(logits, labels, where=where, length_normalized=length_normalized)


def sft_loss(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Supervised fine-tuning: the negative log-likelihood of each answer, a mean over its tokens.

    Args:
        logits: `[batch, time, vocab]` float, aligned: position t predicts `labels[:, t]`.
        labels: `[batch, time]` int, in [0, vocab); anything where `where` is False.
        where: `[batch, time]` bool, True: a token of the answer. None: all do.

    Returns:
        `[batch]` in nats a token, in at least float32; 0 where no token counts, NaN where one that does is not in the
        vocabulary.

    Raises:
        ValueError: shapes that do not match, or labels that are not integers.

    Example:
        >>> sft_loss(jnp.zeros((1, 3, 4)), jnp.zeros((1, 3), int))   # log 4
        Array([1.3862944], dtype=float32)
    """
    return -sequences.sequence_logps(logits, labels, where=where, length_normalized=True)


def kl_reference_point(policy_logps: jax.Array, ref_logps: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """z0 = max(0, mean_j(l_policy - l_ref)) over mismatched rows: prompts of the batch with each other's answers.

    Args:
        policy_logps: `[m]` float, log-probabilities of the mismatched answers under the policy, nats.
        ref_logps: `[m]` float, the same under the reference.
        where: `[m]` bool, True: the row counts. None: all do.

    Returns:
        Scalar in nats, in at least float32, with no gradient; 0 where no row counts.

    Raises:
        ValueError: shapes that differ or are not `[m]`.

    Example:
        >>> kl_reference_point(jnp.array([-1.0, -4.0]), jnp.array([-2.0, -4.5]))
        Array(0.75, dtype=float32)
    """
    specs = [("policy_logps", policy_logps, "m"), ("ref_logps", ref_logps, "m")]
    checks.shapes(*specs, *([] if where is None else [("where", where, "m")]))
    _, wide = numerics.float_dtypes(policy_logps, ref_logps)
    mean = masked.mean(_log_ratio(policy_logps, ref_logps, wide), where)
    return jax.lax.stop_gradient(jnp.maximum(mean, 0))


def kto_loss(
    policy_logps: jax.Array,
    ref_logps: jax.Array,
    desirable: jax.Array,
    reference_point: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    desirable_weight: ArrayLike = 1.0,
    undesirable_weight: ArrayLike = 1.0,
) -> jax.Array:
    """KTO's loss of each answer, steepest where r = z0 and flat on both sides of it.

    `reference_point` couples the answers of a batch: it is to come from all of them, also where gradients are
    accumulated over parts of the batch.

    Args:
        policy_logps: `[batch]` float, log-probabilities of whole answers under the policy, nats.
        ref_logps: `[batch]` float, the same under the reference, a fixed model.
        desirable: `[batch]` bool, or 0 and 1. One kind may be missing.
        reference_point: z0, scalar, from `kl_reference_point`; no gradient.
        beta: inverse temperature, positive scalar.
        desirable_weight: w_D, scalar, at least 0.
        undesirable_weight: w_U, scalar, at least 0.

    Returns:
        `[batch]` in [0, w], in at least float32; finite where log-probabilities are -inf. An answer that is impossible
        under both models has r = 0.

    Raises:
        ValueError: shapes other than these, desirable that is neither bool nor 0 and 1, beta that is not positive, or a
            negative weight.

    Example:
        >>> logps, ref = jnp.array([-1.0, -1.0]), jnp.array([-3.0, -3.0])
        >>> kto_loss(logps, ref, jnp.array([True, False]), 2.0)   # r = z0
        Array([0.5, 0.5], dtype=float32)
    """
    checks.shapes(
        ("policy_logps", policy_logps, "batch"),
        ("ref_logps", ref_logps, "batch"),
        ("desirable", desirable, "batch"),
        ("reference_point", reference_point, ""),
    )
    checks.in_interval("beta", beta, 0.0, jnp.inf, closed="neither")
    checks.in_interval("desirable_weight", desirable_weight, 0.0, jnp.inf)
    checks.in_interval("undesirable_weight", undesirable_weight, 0.0, jnp.inf)
    if not jnp.issubdtype(jnp.result_type(desirable), jnp.bool_):
        checks.labels("desirable", desirable, 2)  # -1, as others write for undesirable, would count as True
    _, wide = numerics.float_dtypes(policy_logps, ref_logps, reference_point)
    beta, w_d, w_u = (jnp.asarray(x, wide) for x in (beta, desirable_weight, undesirable_weight))
    z0 = jax.lax.stop_gradient(jnp.clip(jnp.asarray(reference_point, wide), -_INFINITE, _INFINITE))
    desirable = jnp.asarray(desirable, bool)

    gain = _log_ratio(policy_logps, ref_logps, wide) - z0
    gain = jnp.where(desirable, gain, -gain)
    return jnp.where(desirable, w_d, w_u) * jax.nn.sigmoid(-beta * gain)


def two_stage_weights(step: ArrayLike, *, sft_steps: int) -> tuple[jax.Array, jax.Array]:
    """Weights of the two losses at a step: SFT alone for `sft_steps` steps, KTO alone after.

    Args:
        step: `[...]` int, from 0.
        sft_steps: length of the first stage, at least 0. When it ends, the reference becomes the model of that moment.

    Returns:
        `(sft_weight, kto_weight)`, each `[...]` float32: 1 and 0, then 0 and 1.

    Raises:
        ValueError: sft_steps is negative.

    Example:
        >>> two_stage_weights(jnp.arange(4), sft_steps=2)
        (Array([1., 1., 0., 0.], dtype=float32), Array([0., 0., 1., 1.], dtype=float32))
    """
    checks.in_interval("sft_steps", sft_steps, 0, jnp.inf)
    first = jnp.asarray(step) < sft_steps
    return first.astype(jnp.float32), (~first).astype(jnp.float32)


def linear_merge(
    trees: Sequence[Any], *, weights: Sequence[float] | jax.Array | None = None, normalize: bool = True
) -> Any:
    """sum_k w_k theta_k, leaf by leaf.

    Args:
        trees: pytrees of one structure and one shape a leaf, at least one.
        weights: `[k]` float or int; None: 1 each. A negative one moves away from its tree; a tree of weight 0 is left
            out, whatever it holds.
        normalize: divide the weights by their sum.

    Returns:
        A pytree like `trees[0]`, each leaf of its inputs' promotion; what is not floating is taken from `trees[0]`.

    Raises:
        ValueError: no trees, trees that differ in structure or shape, weights of another number, or (where known) not
            finite or, but for rounding, of sum 0.

    Example:
        >>> linear_merge([{"w": jnp.zeros(2)}, {"w": jnp.ones(2)}], weights=[3.0, 1.0])
        {'w': Array([0.25, 0.25], dtype=float32)}
    """
    trees = list(trees)
    shares = _merge_weights(trees, weights)
    _check_trees(trees, "trees")
    if normalize:
        shares = _scaled_weights(shares)
        total = jnp.sum(shares)
        if checks.is_known(total) and jnp.abs(total) <= len(trees) * jnp.finfo(shares.dtype).eps:
            raise ValueError("weights must not sum to 0 where normalize is True.")
        shares = shares / total

    def merge(wide, *leaves):
        pairs = zip(shares.astype(wide), leaves, strict=True)
        return sum(w * _left_out(w, leaf) for w, leaf in pairs)

    return _merge_leaves(merge, trees)


def slerp_merge(tree_a: Any, tree_b: Any, *, t: ArrayLike = 0.5) -> Any:
    """Spherical interpolation, each leaf as one vector: along the great circle from a to b.

        sin((1 - t) W) / sin W a + sin(t W) / sin W b,        W = arccos(<a, b> / |a| |b|)

    Where |cos W| > 0.9995 or a norm is 0, (1 - t) a + t b instead. Leaves may be of any length that floats have.

    Args:
        tree_a: pytree, the answer at t = 0.
        tree_b: pytree of the same structure and shapes, the answer at t = 1.
        t: scalar; outside [0, 1] it extrapolates. At 0 and 1 the other tree is left out, whatever it holds.

    Returns:
        As `linear_merge`; what is not floating is taken from `tree_a`. A norm that both share is kept.

    Raises:
        ValueError: trees that differ in structure or shape, or t that is no scalar.

    Example:
        >>> slerp_merge(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))   # 2 ** -0.5
        Array([0.70710677, 0.70710677], dtype=float32)
    """
    _check_trees([tree_a, tree_b], "tree_b")
    checks.shapes(("t", t, ""))

    def merge(wide, a, b):
        s = jnp.asarray(t, wide)
        a, b = _left_out(1 - s, a), _left_out(s, b)
        unit_a, unit_b = (distances.l2_normalize(x, axis=None) for x in (a, b))
        nonzero = jnp.any(unit_a != 0) & jnp.any(unit_b != 0)
        curved = nonzero & (jnp.abs(jnp.sum(unit_a * unit_b)) <= _PARALLEL)
        chords = (distances.norm(x, axis=None) for x in (unit_a - unit_b, unit_a + unit_b))
        angle = jnp.where(curved, 2 * jnp.arctan2(*chords), 1)  # an arccos would be lost to rounding near its ends
        weight_a = jnp.where(curved, jnp.sin((1 - s) * angle) / jnp.sin(angle), 1 - s)
        weight_b = jnp.where(curved, jnp.sin(s * angle) / jnp.sin(angle), s)
        return weight_a * a + weight_b * b

    return _merge_leaves(merge, [tree_a, tree_b])


def ties_merge(
    base: Any,
    trees: Sequence[Any],
    *,
    weights: Sequence[float] | jax.Array | None = None,
    density: float = 0.2,
    scale: ArrayLike = 1.0,
) -> Any:
    """TIES: trim each model's changes to the largest, elect a sign for each entry, average those that have it.

    With d_k = theta_k - base, of which each leaf keeps its ceil(density n) largest in magnitude (but for rounding: 7 of
    100 at 0.07) and zeroes the rest:

        sign = sign(sum_k w_k d_k),    base + scale sum_{k: sign d_k = sign} w_k d_k / sum_{k: sign d_k = sign} w_k,

    entry by entry; where no sign wins, base stays.

    Args:
        base: pytree, what all were trained from.
        trees: pytrees of the structure and shapes of `base`, at least one.
        weights: `[k]` float or int, at least 0, of any scale; None: 1 each. A tree of weight 0 is left out, whatever it
            holds.
        density: share of a leaf's entries that stays, static, in (0, 1]; of equal ones the lower flat index stays.
        scale: scalar.

    Returns:
        As `linear_merge`; what is not floating is taken from `base`.

    Raises:
        ValueError: no trees, trees unlike `base` in structure or shape, weights of another number or negative, or
            density outside (0, 1].

    Example:
        >>> ties_merge(jnp.zeros(3), [jnp.array([1.0, 3.0, 0.0]), jnp.array([1.0, -1.0, 0.1])], density=1.0)
        Array([1. , 3. , 0.1], dtype=float32)
    """
    checks.in_interval("density", density, 0.0, 1.0, closed="right")
    trees = list(trees)
    shares = _merge_weights(trees, weights)
    checks.in_interval("weights", shares, 0.0, jnp.inf)
    shares = _scaled_weights(shares)
    _check_trees([base, *trees], "trees")

    def merge(wide, start, *leaves):
        w = shares.astype(wide)
        kept = numerics.share_count(density, start.size)
        changes = jnp.stack([_keep_largest(_left_out(v, x - start), kept) for v, x in zip(w, leaves, strict=True)])
        w = w.reshape((-1,) + (1,) * start.ndim)
        agrees = (changes != 0) & (jnp.sign(changes) == jnp.sign(jnp.sum(w * changes, axis=0)))
        w = jnp.where(agrees, w, 0)
        total = jnp.sum(w, axis=0)
        mean = jnp.sum(w * changes, axis=0) / jnp.where(total > 0, total, 1)
        return start + jnp.asarray(scale, wide) * mean

    return _merge_leaves(merge, [base, *trees])


def select_alignment_data(
    embeddings: jax.Array, scores: jax.Array, *, k: int, min_score: ArrayLike, max_similarity: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Accurate and diverse examples: by decreasing score, those not too similar to one already kept.

    Which of them are desirable and which undesirable is then read off the scores, by a threshold for each.

    Args:
        embeddings: `[n, d]` float, finite, any scale; a zero vector is similar to nothing.
        scores: `[n]` float, the accuracy that the guide gives each; NaN and -inf are never kept.
        k: how many to keep, static, at least 1.
        min_score: the lowest score kept, scalar.
        max_similarity: the cosine of any two kept is below it, by more than rounding; above 1 it excludes nothing.

    Returns:
        `(indices, where)`, `[k]` int32 and bool, by decreasing score, of equal ones the lower index first; where fewer
        are found, `where` is False at the tail, with index 0.

    Raises:
        ValueError: shapes other than these, no example, embeddings that are not finite (where known), or k below 1.

    Example:
        >>> embeddings = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> select_alignment_data(embeddings, jnp.array([0.7, 0.9, 0.8]), k=3, min_score=0.5, max_similarity=0.9)
        (Array([1, 2, 0], dtype=int32), Array([ True,  True, False], dtype=bool))
    """
    if checks.shapes(("embeddings", embeddings, "n d"), ("scores", scores, "n"))["n"] < 1:
        raise ValueError(f"embeddings must have at least one row, got shape {list(embeddings.shape)}.")
    checks.finite("embeddings", embeddings)  # a NaN is similar to everything: it would end the search
    checks.in_interval("k", k, 1, jnp.inf)
    checks.shapes(("min_score", min_score, ""), ("max_similarity", max_similarity, ""))
    return _select(embeddings, scores, min_score, max_similarity, k=k)


@functools.partial(jax.jit, static_argnames="k")
def _select(embeddings, scores, min_score, max_similarity, *, k):
    _, wide = numerics.float_dtypes(embeddings)
    directions = distances.l2_normalize(embeddings.astype(wide))
    limit = jnp.asarray(max_similarity, wide) - 16 * jnp.finfo(wide).eps
    _, wide = numerics.float_dtypes(scores)
    scores, min_score = scores.astype(wide), jnp.asarray(min_score, wide)

    def take(left, _):
        best = jnp.argmax(jnp.where(left, scores, -jnp.inf))  # of equal scores the first
        found = left[best]
        similarity = jnp.matmul(directions, directions[best], precision=jax.lax.Precision.HIGHEST)
        left &= (similarity < limit) & (jnp.arange(len(left)) != best)
        return left, (jnp.where(found, best, 0).astype(jnp.int32), found)

    _, (indices, where) = jax.lax.scan(take, scores >= min_score, length=k)
    return indices, where


def _log_ratio(policy_logps, ref_logps, wide):
    """`policy - ref`, a number whatever is -inf."""
    policy, ref = policy_logps.astype(wide), ref_logps.astype(wide)
    impossible = jnp.isneginf(policy) & jnp.isneginf(ref)
    ratio = jnp.where(impossible, 0, policy) - jnp.where(impossible, 0, ref)
    return jnp.clip(ratio, -_INFINITE, _INFINITE)


def _keep_largest(x, count):
    """`x` with all but the `count` entries of largest magnitude zeroed."""
    magnitude = jax.lax.stop_gradient(jnp.abs(x.ravel()))
    _, kept = jax.lax.top_k(magnitude, count)  # of equal entries the lower index first
    return jnp.where(jnp.zeros(x.size, bool).at[kept].set(True).reshape(x.shape), x, 0)


def _merge_weights(trees, weights):
    checks.in_interval("the number of trees", len(trees), 1, jnp.inf)
    weights = jnp.ones(len(trees)) if weights is None else jnp.asarray(weights, float)
    if weights.shape != (len(trees),):
        raise ValueError(f"weights must have shape [{len(trees)}], one a tree, got shape {list(weights.shape)}.")
    checks.finite("weights", weights)
    return weights


def _scaled_weights(weights):
    """`weights` with the largest in magnitude 1, so that sums of them neither overflow nor vanish; zeros stay."""
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(weights)))
    return weights / jnp.where(peak > 0, peak, 1)


def _left_out(weight, x):
    """`x` without what is infinite or NaN, if `weight` is 0. What is finite stays, or the weight had no gradient."""
    return jnp.where((weight == 0) & ~jnp.isfinite(x), 0, x)


def _check_trees(trees, name):
    first, *others = [(jax.tree.structure(tree), [list(jnp.shape(x)) for x in jax.tree.leaves(tree)]) for tree in trees]
    for other in others:
        if other != first:
            raise ValueError(f"{name} must be alike in structure and shapes, {first[0]} {first[1]}, got {other}.")


def _merge_leaves(merge, trees):
    """`merge(wide, *leaves)` of each floating leaf, in its promotion; any other leaf is the first tree's."""

    def one(*leaves):
        result = jnp.result_type(*leaves)
        if not jnp.issubdtype(result, jnp.inexact):
            return leaves[0]
        wide = jnp.promote_types(result, jnp.float32)
        return merge(wide, *(jnp.asarray(leaf, wide) for leaf in leaves)).astype(result)

    return jax.tree.map(one, *trees)
