r"""NormFace: a softmax over cosines, whose embedding also tells apart classes that were never trained on.

Pereira, Joly, Valduriez, Porto. "Hyperspherical embedding for novel class classification." 2021, arXiv:2102.03243. The
loss: Wang, Xiang, Cheng, Yuille. "NormFace: L2 hypersphere embedding for face verification." ACM MM 2017,
arXiv:1704.06369.

With features f_i, a vector W_j for each of C classes and no bias, u_i = f_i / |f_i| and v_j = W_j / |W_j|,

    loss_i = -log softmax_j( s u_i . v_j )_{y_i} + w (|f_i| - 1)^2.

Cosines are at most 1, so that the scale s bounds what can be reached. Balanced classes do best where features equal
their class vectors and these are the corners of a regular simplex, with cosines -1 / (C - 1) in between, which takes
d >= C - 1 (Proposition 2 of NormFace):

    bound = log( 1 + (C - 1) exp( -s C / (C - 1) ) ),    so that a loss of eps needs
    s = (C - 1) / C  log( (C - 1) / (exp(eps) - 1) ).

The part without w does not change when a feature or a class vector is scaled: its gradient with respect to f_i is
orthogonal to f_i and its size goes as 1 / |f_i|, so that plain gradient descent lets norms grow. The second part holds
them near 1.

A class that was not trained on is a unit prototype, v = unit(mean_i u_i) over a few examples of it, and the prediction
is the class of the largest cosine: among novel classes alone (disjoint), or among all (joint).

Departures: none is released. The paper puts a constraint on the latent space and its text gives no formula that could
be confirmed; the penalty with w is this module's form of it, and w = 0 is NormFace.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ....core import checks, distances, numerics


def normalized_softmax_logits(features: jax.Array, class_vectors: jax.Array, *, scale: ArrayLike = 16.0) -> jax.Array:
    """Cosines of features and class vectors, times a scale.

        logits_ij = s u_i . v_j

    Args:
        features: `[n, d]` float, of any length.
        class_vectors: `[C, d]` float, of any length; may be split over C.
        scale: s, scalar of at least 0; may be traced, and has a gradient.

    Returns:
        `[n, C]` in at least float32, from -s to s. A feature or class vector of length 0 has cosine 0 with all.

    Raises:
        ValueError: inputs that are not two matrices of one width, or a scale that is negative or no scalar.

    Example:
        >>> normalized_softmax_logits(jnp.array([[3.0, 4.0]]), jnp.array([[2.0, 0.0], [0.0, -1.0]]), scale=10.0)
        Array([[ 6., -8.]], dtype=float32)
    """
    checks.shapes(("features", features, "n d"), ("class_vectors", class_vectors, "c d"), ("scale", scale, ""))
    checks.in_interval("scale", scale, 0.0, jnp.inf)
    cosines = _cosines(features, class_vectors)
    return jnp.asarray(scale, cosines.dtype) * cosines


def normalized_softmax_loss(
    features: jax.Array,
    class_vectors: jax.Array,
    labels: jax.Array,
    *,
    scale: ArrayLike = 16.0,
    norm_weight: ArrayLike = 0.0,
) -> jax.Array:
    """Cross-entropy of the softmax over scaled cosines, and a penalty on lengths of features other than 1.

        loss_i = log sum_j exp(s u_i . v_j) - s u_i . v_{y_i} + w (|f_i| - 1)^2

    Where the class vectors are split over C, so are the logits: devices exchange a maximum and two sums for each
    feature, and no class vector.

    Args:
        features: `[n, d]` float, f.
        class_vectors: `[C, d]` float, W, C at least 1.
        labels: `[n]` int, y, from 0 to C - 1. Where they are traced, a label outside gives a loss without meaning.
        scale: s, scalar of at least 0; may be traced, and has a gradient.
        norm_weight: w, scalar of at least 0; may be traced.

    Returns:
        `[n]` in nats, in at least float32; what is near 0 keeps its digits, and its gradient. log C where the scale is
        0. A feature of length 0 has cosine 0 with all classes and passes no gradient.

    Raises:
        ValueError: shapes other than these, labels that are no classes (where known), or a scale or norm_weight that is
            negative or no scalar.

    Example:
        >>> vectors = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
        >>> normalized_softmax_loss(2 * vectors, vectors, jnp.array([0, 1]), scale=1.0)   # log(1 + exp(-2))
        Array([0.1269..., 0.1269...], dtype=float32)
        >>> normalized_softmax_loss(2 * vectors, vectors, jnp.array([0, 1]), scale=1.0, norm_weight=0.5)
        Array([0.6269..., 0.6269...], dtype=float32)
    """
    checks.shapes(
        ("features", features, "n d"), ("class_vectors", class_vectors, "c d"), ("labels", labels, "n"),
        ("norm_weight", norm_weight, ""),
    )  # fmt: skip
    checks.in_interval("norm_weight", norm_weight, 0.0, jnp.inf)
    num_classes = class_vectors.shape[0]
    if num_classes < 1:
        raise ValueError(f"class_vectors must have at least one row, got shape {list(class_vectors.shape)}.")
    checks.labels("labels", labels, num_classes)
    logits = normalized_softmax_logits(features, class_vectors, scale=scale)

    # log(1 + sum_{j != y} exp(l_j - l_y)): a difference of two numbers near s would leave no digits of a small loss.
    is_own = labels[:, None] == jnp.arange(num_classes)
    own = jnp.sum(jnp.where(is_own, logits, 0.0), axis=-1)
    nats = jax.nn.softplus(_logsumexp_where(logits, ~is_own) - own) if num_classes > 1 else 0.0 * own

    weight = jnp.asarray(norm_weight, logits.dtype)
    excess = distances.norm(features).astype(logits.dtype) - 1.0
    return nats + weight * excess * excess  # from the left: a weight of 0 gives 0, also where the square overflows


def normalized_softmax_lower_bound(num_classes: int, *, scale: ArrayLike) -> jax.Array:
    """The least loss that the normalised softmax can have over balanced classes.

        log( 1 + (C - 1) exp( -s C / (C - 1) ) )

    Args:
        num_classes: C, static, at least 2.
        scale: s, scalar of at least 0; may be traced.

    Returns:
        Scalar in nats, in at least float32: log C where the scale is 0, and 0 in the limit. It is attained on a regular
        simplex, where d >= C - 1.

    Raises:
        ValueError: num_classes below 2, or a scale that is negative or no scalar.

    Example:
        >>> normalized_softmax_lower_bound(2, scale=1.0)   # log(1 + exp(-2))
        Array(0.1269..., dtype=float32)
    """
    checks.in_interval("num_classes", num_classes, 2, jnp.inf)
    checks.shapes(("scale", scale, ""))
    checks.in_interval("scale", scale, 0.0, jnp.inf)
    _, wide = numerics.float_dtypes(scale)
    others = num_classes - 1
    return jax.nn.softplus(jnp.log(jnp.asarray(others, wide)) - jnp.asarray(scale, wide) * (num_classes / others))


def required_scale(num_classes: int, *, target_loss: ArrayLike) -> jax.Array:
    """The smallest scale with which the normalised softmax can have so low a loss: the inverse of the bound.

        s = (C - 1) / C  log( (C - 1) / (exp(eps) - 1) )

    Args:
        num_classes: C, static, at least 2.
        target_loss: eps, positive scalar in nats; may be traced.

    Returns:
        Scalar in at least float32; 0 where eps is log C or more, which any scale can reach.

    Raises:
        ValueError: num_classes below 2, or a target_loss that is not a positive scalar.

    Example:
        >>> required_scale(1000, target_loss=0.1)
        Array(9.149..., dtype=float32)
    """
    checks.in_interval("num_classes", num_classes, 2, jnp.inf)
    checks.shapes(("target_loss", target_loss, ""))
    checks.in_interval("target_loss", target_loss, 0.0, jnp.inf, closed="neither")
    _, wide = numerics.float_dtypes(target_loss)
    target, others = jnp.asarray(target_loss, wide), num_classes - 1
    log_expm1 = target + jnp.log(-jnp.expm1(-target))  # of large targets, too
    return jnp.maximum((jnp.log(jnp.asarray(others, wide)) - log_expm1) * (others / num_classes), 0.0)


def class_prototypes(features: jax.Array, labels: jax.Array, *, num_classes: int) -> jax.Array:
    """The direction of each class: the mean of its unit features, scaled to length 1.

    Args:
        features: `[n, d]` float.
        labels: `[n]` int, from 0 to num_classes - 1. Where they are traced, rows with a label outside are left out.
        num_classes: static, at least 1.

    Returns:
        `[num_classes, d]` unit rows of the features' dtype. A class without an example has a row of zeros, as has one
        whose unit features cancel.

    Raises:
        ValueError: shapes other than these, labels that are no classes (where known), or num_classes below 1.

    Example:
        >>> class_prototypes(jnp.array([[2.0, 0.0], [0.0, 9.0], [5.0, 0.0]]), jnp.array([0, 1, 0]), num_classes=3)
        Array([[1., 0.],
               [0., 1.],
               [0., 0.]], dtype=float32)
    """
    checks.shapes(("features", features, "n d"), ("labels", labels, "n"))
    checks.in_interval("num_classes", num_classes, 1, jnp.inf)
    checks.labels("labels", labels, num_classes)
    result, wide = numerics.float_dtypes(features)
    unit = distances.l2_normalize(features.astype(wide))
    return distances.l2_normalize(jax.ops.segment_sum(unit, labels, num_classes)).astype(result)


def novel_class_predict(features: jax.Array, prototypes: jax.Array) -> jax.Array:
    """The class whose prototype has the largest cosine with a feature.

    Args:
        features: `[n, d]` float.
        prototypes: `[C, d]` float, C at least 1, of any length: those of novel classes alone (disjoint), or with those
            of the classes that were trained on (joint).

    Returns:
        `[n]` int32, rows of `prototypes`; of equal cosines the lowest. A row of zeros has cosine 0: it never wins over
        a positive one.

    Raises:
        ValueError: inputs that are not two matrices of one width, or no prototype.

    Example:
        >>> novel_class_predict(jnp.array([[1.0, 0.2], [0.0, -3.0]]), jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
        Array([1, 1], dtype=int32)
    """
    checks.shapes(("features", features, "n d"), ("prototypes", prototypes, "c d"))
    if prototypes.shape[0] < 1:
        raise ValueError(f"prototypes must have at least one row, got shape {list(prototypes.shape)}.")
    return jnp.argmax(_cosines(features, prototypes), axis=-1).astype(jnp.int32)


def _cosines(x, y):
    """`[n, m]`; 0 with a row of zeros."""
    _, wide = numerics.float_dtypes(x, y)
    x, y = (distances.l2_normalize(rows.astype(wide)) for rows in (x, y))
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def _logsumexp_where(x, where):
    """Over the last axis, of the entries that count: at least one of them in each row."""
    peak = jax.lax.stop_gradient(jnp.max(jnp.where(where, x, -jnp.inf), axis=-1, keepdims=True))
    total = jnp.sum(jnp.where(where, jnp.exp(jnp.where(where, x - peak, 0.0)), 0.0), axis=-1)
    return peak[..., 0] + jnp.log(total)
