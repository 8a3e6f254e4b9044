r"""RCRL: an auxiliary loss for an agent, which tells state-action pairs of different return apart.

Liu, Zhang, Zhao, Qin, Zhu, Li, Yu, Liu. "Return-Based Contrastive Representation Learning for Reinforcement Learning."
ICLR 2021, arXiv:2102.10960.

Let Z_k(x) be the probability that the return of x = (s, a) falls into bin k of K. An encoder phi is a Z-irrelevance
abstraction if phi(x1) = phi(x2) implies Z(x1) = Z(x2). With drawn returns R1 ~ Z(x1), R2 ~ Z(x2) of bins b1, b2, and a
discriminator w in [0, 1], Z-learning minimises

    L(phi, w) = E ( w(phi(x1), phi(x2)) - y )^2,    y = 1[b1 != b2],

whose minimiser for a lossless phi is w*(x1, x2) = P(b1 != b2) = 1 - sum_k Z_k(x1) Z_k(x2). So w says "different".

In practice pairs come from trajectories cut into segments of nearly equal return. With sparse rewards a new segment
starts after each non-zero reward; with dense ones after the step at which the sum of |r| since the last cut reaches a
threshold; an episode's end always cuts. The positive of an anchor is another step of its segment (y = 0), the negative
a step of any other (y = 1). With l the discriminator's logits, the loss of an anchor is

    ( sigmoid(l+)^2 + (1 - sigmoid(l-))^2 ) / 2,

added to the agent's own. Embeddings of the positive and the negative come from a slowly moving copy of the encoder and
get no gradient; that is for the caller to arrange.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from ....core import checks, numerics
from ....core.networks.mlp import MLP


def return_segments(
    rewards: jax.Array, *, threshold: ArrayLike | None = None, dones: jax.Array | None = None
) -> jax.Array:
    """Cut a trajectory into segments of nearly equal return.

    The step that cuts is the last of its segment:

        threshold None    r_t != 0
        else              |r_s| + ... + |r_t| >= threshold, where s is the first step of the segment
        and, either way,  dones_t

    Args:
        rewards: `[T]`, the reward received at each step. A NaN counts as non-zero, and reaches any threshold.
        threshold: positive scalar in the unit of the rewards; None is the rule for sparse rewards.
        dones: `[T]` bool, True at the last step of an episode; None where there is one episode.

    Returns:
        `[T]` int32, the segment of each step: it starts at 0 and grows by one at each cut. The sparse rule is a
        cumulative sum; a threshold takes a scan over T.

    Raises:
        ValueError: rewards that are not one-dimensional, dones of another shape, or a threshold that is not positive.

    Example:
        >>> return_segments(jnp.array([0.0, 1.0, 0.0, 0.0]))
        Array([0, 0, 1, 1], dtype=int32)
        >>> return_segments(jnp.ones(4), threshold=2.0)
        Array([0, 0, 1, 1], dtype=int32)
    """
    checks.shapes(("rewards", rewards, "t"), *([] if dones is None else [("dones", dones, "t")]))
    _, wide = numerics.float_dtypes(rewards)
    ends = jnp.zeros(rewards.shape, bool) if dones is None else dones.astype(bool)
    if threshold is None:
        cuts = (rewards != 0) | ends
    else:
        checks.shapes(("threshold", threshold, ""))
        checks.in_interval("threshold", threshold, 0.0, jnp.inf, closed="neither")
        cuts = _dense_cuts(jnp.abs(rewards.astype(wide)), ends, jnp.asarray(threshold, wide))
    counts = cuts.astype(jnp.int32)
    return jnp.cumsum(counts) - counts


def sample_segment_pairs(
    segments: jax.Array, *, key: jax.Array, num_pairs: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draw anchors, for each another step of its segment, and for each a step of another segment, all uniformly.

    Args:
        segments: `[T]` int, non-decreasing, as `return_segments` gives it; T at least 1. Of several trajectories, one
            after the other: mark the end of each in `dones`.
        key: PRNG key.
        num_pairs: how many of each, static, at least 1; drawn with replacement.

    Returns:
        `(anchor, positive, negative)`, each `[num_pairs]` int32, indices into `segments`. In a segment of one step the
        positive is the anchor itself. Where `segments` is traced and holds one segment alone, the negative is the
        anchor; mask such a pair by `segments[anchor] == segments[negative]`.

    Raises:
        ValueError: segments that are empty, not one-dimensional, decreasing somewhere (where known) or one segment
            alone (where known); num_pairs below 1.

    Example:
        >>> _, positive, negative = sample_segment_pairs(jnp.array([0, 0, 1]), key=jax.random.key(0), num_pairs=64)
        >>> bool(jnp.all(positive[negative != 2] == 2))   # the anchor of a negative in segment 0 is step 2
        True
    """
    steps = checks.shapes(("segments", segments, "t"))["t"]
    if steps == 0:
        raise ValueError("segments must have at least one step, got shape [0].")
    checks.in_interval("num_pairs", num_pairs, 1, jnp.inf)
    if checks.is_known(segments):
        ids = np.asarray(segments)
        if np.any(np.diff(ids) < 0):
            raise ValueError("segments must not decrease from step to step; number them as return_segments does.")
        if ids[0] == ids[-1]:
            raise ValueError(f"segments must hold at least two segments to draw negatives from, got {ids[0]} alone.")

    # Whole numbers and their remainders: one draw serves spans of any length, off uniform by at most T / 2^32.
    bits = jax.random.bits(key, (3, num_pairs), jnp.uint32)

    def below(draw, span):
        return (draw % span.astype(jnp.uint32)).astype(jnp.int32)

    anchor = below(bits[0], jnp.asarray(steps))
    start = jnp.searchsorted(segments, segments[anchor], side="left").astype(jnp.int32)
    stop = jnp.searchsorted(segments, segments[anchor], side="right").astype(jnp.int32)
    inside, outside = stop - start, steps - (stop - start)

    hop = 1 + below(bits[1], jnp.maximum(inside - 1, 1))
    positive = start + (anchor - start + hop) % inside  # with one step inside, any hop leads back to it
    place = below(bits[2], jnp.maximum(outside, 1))
    negative = jnp.where(place < start, place, place + inside)  # the steps outside, counted past the segment
    return anchor, positive, jnp.where(outside > 0, negative, anchor)


def return_pair_labels(returns1: jax.Array, returns2: jax.Array, bin_edges: jax.Array) -> jax.Array:
    """Labels of Z-learning: whether two returns fall into different bins.

        b(R) = number of edges <= R,    y = 1[b(R1) != b(R2)]

    Args:
        returns1: `[batch]` float.
        returns2: `[batch]` float.
        bin_edges: `[edges]`, ascending, at least one; they make edges + 1 bins. A NaN return falls into the last.

    Returns:
        `[batch]`, 1 where the bins differ and 0 where they are the same, in at least float32.

    Raises:
        ValueError: shapes other than these, no edge, or edges that descend (where known).

    Example:
        >>> return_pair_labels(jnp.array([0.2, 0.2]), jnp.array([0.4, 0.5]), jnp.array([0.5]))
        Array([0., 1.], dtype=float32)
    """
    sizes = checks.shapes(("returns1", returns1, "n"), ("returns2", returns2, "n"), ("bin_edges", bin_edges, "k"))
    if sizes["k"] == 0:
        raise ValueError("bin_edges must have at least one edge, got shape [0].")
    if checks.is_known(bin_edges) and not np.all(np.diff(np.asarray(bin_edges, np.float64)) >= 0):
        raise ValueError("bin_edges must be ascending.")
    _, wide = numerics.float_dtypes(returns1, returns2, bin_edges)
    # A label is constant between edges: nothing is lost by asking for no gradient, and the search has none.
    values = jax.lax.stop_gradient([x.astype(wide) for x in (bin_edges, returns1, returns2)])
    first, second = (jnp.searchsorted(values[0], x, side="right") for x in values[1:])
    return (first != second).astype(wide)


def rcrl_loss(logits_positive: jax.Array, logits_negative: jax.Array) -> jax.Array:
    """Squared error of the discriminator on a positive pair (target 0) and on a negative one (target 1).

        ( sigmoid(l+)^2 + (1 - sigmoid(l-))^2 ) / 2

    Args:
        logits_positive: `[batch]` float, l+: of the anchor and a step of its own segment.
        logits_negative: `[batch]` float, l-: of the anchor and a step of another segment.

    Returns:
        `[batch]` in [0, 1], 0.25 where the discriminator does not know; in at least float32.

    Raises:
        ValueError: logits of different shapes, or not one-dimensional.

    Example:
        >>> rcrl_loss(jnp.zeros(2), jnp.array([0.0, 100.0]))
        Array([0.25 , 0.125], dtype=float32)
    """
    checks.shapes(("logits_positive", logits_positive, "n"), ("logits_negative", logits_negative, "n"))
    _, wide = numerics.float_dtypes(logits_positive, logits_negative)

    def square(x):
        """sigmoid(x)^2; the slope of jax.nn.sigmoid is lost to rounding from x = 17 on, where it matters most."""
        return jnp.exp(2 * jax.nn.log_sigmoid(x))

    positive, negative = logits_positive.astype(wide), logits_negative.astype(wide)
    return (square(positive) + square(-negative)) / 2


def optimal_discriminator(return_probs: jax.Array) -> jax.Array:
    """What the discriminator tends to with enough data: the probability that two returns fall into different bins.

        w*(i, j) = 1 - sum_k Z_k(i) Z_k(j)

    Args:
        return_probs: `[n, bins]` float, Z: the distribution of the return of each state-action pair, in rows.

    Returns:
        `[n, n]` in at least float32, symmetric; the diagonal, 1 - |Z(i)|^2, is zero where the return is certain.

    Raises:
        ValueError: return_probs that are not a matrix.

    Example:
        >>> optimal_discriminator(jnp.array([[1.0, 0.0], [0.5, 0.5]]))
        Array([[0. , 0.5],
               [0.5, 0.5]], dtype=float32)
    """
    checks.shapes(("return_probs", return_probs, "n k"))
    _, wide = numerics.float_dtypes(return_probs)
    probs = return_probs.astype(wide)
    same = jnp.einsum("ik,jk->ij", probs, probs, precision=jax.lax.Precision.HIGHEST)
    return 1 - same


class PairDiscriminator(nn.Module):
    """The discriminator: an MLP of one hidden layer on two embeddings side by side.

    Args:
        hidden: width of the hidden layer.

    Returns:
        Called on `z1 [batch, d]` and `z2 [batch, d]`: logits `[batch]`, high where the returns differ, in at least
        float32.

    Raises:
        ValueError: embeddings that are not two matrices of one shape, or hidden below 1.

    Example:
        >>> z = jnp.zeros((3, 8))
        >>> discriminator = PairDiscriminator(hidden=16)
        >>> discriminator.apply(discriminator.init(jax.random.key(0), z, z), z, z)
        Array([0., 0., 0.], dtype=float32)
    """

    hidden: int = 256

    @nn.compact
    def __call__(self, z1: jax.Array, z2: jax.Array) -> jax.Array:
        """Logits `[batch]` of the pairs."""
        checks.in_interval("hidden", self.hidden, 1, jnp.inf)
        checks.shapes(("z1", z1, "n d"), ("z2", z2, "n d"))
        _, wide = numerics.float_dtypes(z1, z2)
        return MLP((self.hidden, 1), name="mlp")(jnp.concatenate([z1, z2], axis=-1).astype(wide))[:, 0]


@jax.jit  # or every eager call would compile the loop again
def _dense_cuts(sizes, ends, threshold):
    """`[T]` bool: where the sum of `sizes` since the last cut reaches the threshold, or an episode ends."""

    def step(total, inputs):
        size, end = inputs
        total = total + size
        cut = ~(total < threshold) | end  # a NaN cuts
        return jnp.where(cut, 0.0, total), cut

    return jax.lax.scan(step, jnp.zeros((), sizes.dtype), (sizes, ends))[1]
