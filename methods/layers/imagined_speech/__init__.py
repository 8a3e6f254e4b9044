r"""Imagined speech from EEG: EEGNet, ShallowConvNet and DeepConvNet, common spatial patterns and linear classifiers.

Ko, Kim, Lee. "Imagined Speech State Classification for Robust Brain-Computer Interface." 2024, arXiv:2412.12215.
Also at the International Winter Conference on Brain-Computer Interface, 2025.

The paper asks which classifier of EEG epochs `[channels, time]` tells imagined speech from idling. The networks are

    EEGNet          filters in time; batch norm; filters in space of each; batch norm; ELU; mean of 4;
                    separable filters in time; batch norm; ELU; mean of 8; linear
    ShallowConvNet  filters in time, then in space; batch norm; square; mean of 35 every 7; log; linear
    DeepConvNet     filters in time, then in space; batch norm; ELU; max of 2; three more such stages in time; linear

with weights projected by `max_norm` after each update. EEGNet: norm of each spatial filter over the channels at most 1,
of each column of the last layer 0.25. The others: 2 for every kernel, 0.5 for the last layer.

Common spatial patterns (CSP) are the filters w at the ends of the spectrum of two classes' covariances C_0 and C_1,

    C_0 w = lambda (C_0 + C_1) w,   w' (C_0 + C_1) w = 1;   features log( p_i / sum_j p_j ), p_i = mean_t (w_i . x_t)^2.

Linear discriminant analysis (LDA), with pooled covariance S, scores class k by mu_k' S^-1 x - mu_k' S^-1 mu_k / 2 +
log(n_k / n); a support vector machine (SVM) minimises `hinge_loss`. CSP sees power alone, summed over all bands that
the recording holds: classes that differ in the frequency of a burst, not in its power, are one to it.

`EEGNet`, `ShallowConvNet` and `DeepConvNet` are the Flax modules. The functions run them on dictionaries: `params` and
`stats` are a module's collections "params" and "batch_stats".

Departures: the program of EEGNet's authors (vlawhern/arl-eegmodels) ends in a softmax; here are logits.
"""

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ....core import checks, distances, linalg, numerics
from . import _functional as functional
from . import _spatial as spatial

if TYPE_CHECKING:
    from ._networks import DeepConvNet as DeepConvNet
    from ._networks import EEGNet as EEGNet
    from ._networks import ShallowConvNet as ShallowConvNet

Tree = dict[str, Any]
Sizes = tuple[int, ...] | list[int]


def _flax() -> Any:
    from . import _networks  # Flax takes a while to import: only for those who use a network

    return _networks


def __getattr__(name: str) -> Any:
    if name in ("EEGNet", "ShallowConvNet", "DeepConvNet"):
        return getattr(_flax(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def init_eegnet(
    *, key: jax.Array, num_channels: int, num_samples: int, num_classes: int, num_temporal: int = 8, depth: int = 2,
    num_separable: int = 16, kernel_size: int = 64, pool_sizes: Sizes = (4, 8),
) -> tuple[Tree, Tree]:  # fmt: skip
    """Parameters of `eegnet`: Glorot-uniform kernels, zero biases, running mean 0 and variance 1.

    Args:
        key: PRNG key.
        num_channels, num_samples: of an epoch.
        num_classes: number of logits, k.
        num_temporal, depth, num_separable: F1 temporal filters, D spatial ones of each, F2 separable ones.
        kernel_size, pool_sizes: taps of the temporal filters, K, half the sampling rate in Hz; of the two pools.

    Returns:
        `(params, stats)`: temporal `[K, F1]`, spatial `[channels, F1, D]`, separable_depth `[16, F1 D]`,
        separable_point `[F1 D, F2]`, bn1 to bn3 {scale, bias}, dense {w, b}; in stats bn1 to bn3 {mean, var}.

    Raises:
        ValueError: a size below 1, or num_samples too short for the pools.

    Example:
        >>> params, _ = init_eegnet(key=jax.random.key(0), num_channels=64, num_samples=128, num_classes=4)
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        2388
    """
    network = _flax().EEGNet(num_classes, num_temporal, depth, num_separable, kernel_size, 16, tuple(pool_sizes))
    return functional.initialize(network, key, num_channels, num_samples)


def eegnet(
    params: Tree, stats: Tree, x: jax.Array, *, train: bool = False, pool_sizes: Sizes = (4, 8),
    dropout_rate: float = 0.5, key: jax.Array | None = None,
) -> tuple[jax.Array, Tree]:  # fmt: skip
    """EEGNet: logits of epochs.

    Args:
        params: as `init_eegnet` gives them; they set every size but the pools'.
        stats: running means and variances of the batch norms.
        x: `[batch, channels, T]` float; in microvolts, say: the batch norms add 1e-3 to a variance.
        train: normalise by the batch, drop out, and move the running statistics. Static.
        pool_sizes, dropout_rate: of the two average pools, and after each, in [0, 1). Static.
        key: PRNG key, needed to train with a positive dropout_rate.

    Returns:
        `(logits, stats)`: `[batch, k]` in at least float32, and 0.99 stats + 0.01 of the batch, of the dtypes of stats,
        if train, else stats as they were. A batch of none has no logits.

    Raises:
        ValueError: x of another rank, too short, or with other channels than params; no key where one is needed; no
            epoch to train with.

    Example:
        >>> params, stats = init_eegnet(key=jax.random.key(0), num_channels=3, num_samples=32, num_classes=2)
        >>> eegnet(params, stats, jnp.zeros((5, 3, 32)))[0].shape
        (5, 2)
    """
    network = _flax().EEGNet.of(params, pool_sizes=tuple(pool_sizes), dropout_rate=dropout_rate)
    return functional.apply(network, params, stats, x, train=train, key=key)


def init_shallow_convnet(
    *, key: jax.Array, num_channels: int, num_samples: int, num_classes: int, num_filters: int = 40,
    kernel_size: int = 13, pool_size: int = 35, pool_stride: int = 7,
) -> tuple[Tree, Tree]:  # fmt: skip
    """Parameters of `shallow_convnet`, drawn as by `init_eegnet`.

    Args:
        key: PRNG key.
        num_channels, num_samples: of an epoch.
        num_classes: number of logits, k.
        num_filters: temporal and spatial filters, F.
        kernel_size, pool_size, pool_stride: K taps, samples of an average, and between two; 25, 75, 15 at 250 Hz.

    Returns:
        `(params, stats)`: temporal `[K, F]`, temporal_bias `[F]`, spatial `[channels, F, F]`, bn {scale, bias}, dense
        {w, b}; in stats bn {mean, var}.

    Raises:
        ValueError: a size below 1, or num_samples too short for kernel and pool.

    Example:
        >>> params, _ = init_shallow_convnet(key=jax.random.key(0), num_channels=8, num_samples=128, num_classes=2)
        >>> params["dense"]["w"].shape   # 40 filters at each of 12 places
        (480, 2)
    """
    network = _flax().ShallowConvNet(num_classes, num_filters, kernel_size, pool_size, pool_stride)
    return functional.initialize(network, key, num_channels, num_samples)


def shallow_convnet(
    params: Tree, stats: Tree, x: jax.Array, *, train: bool = False, pool_size: int = 35, pool_stride: int = 7,
    dropout_rate: float = 0.5, key: jax.Array | None = None,
) -> tuple[jax.Array, Tree]:  # fmt: skip
    """ShallowConvNet: logits of epochs. Powers are clipped to [1e-7, 1e4] before their logarithm.

    Args:
        params: as `init_shallow_convnet` gives them.
        stats: running mean and variance of the batch norm.
        x: `[batch, channels, time]` float.
        train: as in `eegnet`, static.
        pool_size, pool_stride: samples of an average, and between two; static.
        dropout_rate: before the last layer, in [0, 1); static.
        key: PRNG key, needed to train with a positive dropout_rate.

    Returns:
        `(logits, stats)`, as `eegnet` does; trained statistics are 0.9 stats + 0.1 of the batch.

    Raises:
        ValueError: as `eegnet` does.

    Example:
        >>> params, stats = init_shallow_convnet(key=jax.random.key(0), num_channels=3, num_samples=64, num_classes=2)
        >>> jax.eval_shape(shallow_convnet, params, stats, jnp.zeros((5, 3, 64)))[0].shape
        (5, 2)
    """
    sizes = dict(pool_size=pool_size, pool_stride=pool_stride, dropout_rate=dropout_rate)
    return functional.apply(_flax().ShallowConvNet.of(params, **sizes), params, stats, x, train=train, key=key)


def init_deep_convnet(
    *, key: jax.Array, num_channels: int, num_samples: int, num_classes: int,
    num_filters: Sizes = (25, 50, 100, 200), kernel_size: int = 5,
) -> tuple[Tree, Tree]:  # fmt: skip
    """Parameters of `deep_convnet`, drawn as by `init_eegnet`.

    Args:
        key: PRNG key.
        num_channels, num_samples: of an epoch; four stages need 76 samples.
        num_classes: number of logits, k.
        num_filters: of each stage, F1, F2, ...
        kernel_size: taps of every convolution, K.

    Returns:
        `(params, stats)`: temporal `[K, F1]`, temporal_bias and spatial_bias `[F1]`, spatial `[channels, F1, F1]`,
        conv2 ... {w `[K, in, out]`, b}, bn1 ... {scale, bias}, dense {w, b}; in stats bn1 ... {mean, var}.

    Raises:
        ValueError: a size below 1, or num_samples too short for the stages.

    Example:
        >>> params, _ = init_deep_convnet(key=jax.random.key(0), num_channels=8, num_samples=128, num_classes=2)
        >>> params["conv4"]["w"].shape, params["dense"]["w"].shape
        ((5, 100, 200), (800, 2))
    """
    network = _flax().DeepConvNet(num_classes, tuple(num_filters), kernel_size)
    return functional.initialize(network, key, num_channels, num_samples)


def deep_convnet(
    params: Tree, stats: Tree, x: jax.Array, *, train: bool = False, dropout_rate: float = 0.5,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Tree]:  # fmt: skip
    """DeepConvNet: logits of epochs.

    Args:
        params: as `init_deep_convnet` gives them.
        stats: running means and variances of the batch norms.
        x: `[batch, channels, time]` float.
        train: as in `eegnet`, static.
        dropout_rate: after every stage, in [0, 1); static.
        key: PRNG key, needed to train with a positive dropout_rate.

    Returns:
        `(logits, stats)`, as `eegnet` does; trained statistics are 0.9 stats + 0.1 of the batch.

    Raises:
        ValueError: as `eegnet` does.

    Example:
        >>> params, stats = init_deep_convnet(key=jax.random.key(0), num_channels=3, num_samples=76, num_classes=2)
        >>> jax.eval_shape(deep_convnet, params, stats, jnp.zeros((5, 3, 76)))[0].shape
        (5, 2)
    """
    network = _flax().DeepConvNet.of(params, dropout_rate=dropout_rate)
    return functional.apply(network, params, stats, x, train=train, key=key)


def max_norm(w: jax.Array, *, limit: float | jax.Array, axis: int | tuple[int, ...] = 0) -> jax.Array:
    """Weights with every norm above `limit` brought down to it: w clip(n, 0, limit) / (1e-7 + n), n the L2 norm.

    Args:
        w: `[...]` float.
        limit: largest norm, not negative.
        axis: the axes that the norm is over.

    Returns:
        The same shape and dtype, for entries of any size. Zero stays zero; its gradient there is zero, too.

    Raises:
        ValueError: limit < 0.

    Example:
        >>> max_norm(jnp.array([[3.0, 0.3], [4.0, 0.4]]), limit=1.0)
        Array([[0.6..., 0.29...], [0.8..., 0.39...]], dtype=float32)
    """
    checks.in_interval("limit", limit, 0.0, jnp.inf, closed="left")
    result, wide = numerics.float_dtypes(w)
    w = jnp.asarray(w, wide)
    norm = distances.norm(w, axis=axis, keepdims=True)
    within = norm <= limit
    low, high = jnp.where(within, norm, 0.0), jnp.where(within, 1.0, norm)
    kept = w * (low / (1e-7 + low))
    brought_down = distances.l2_normalize(w, axis=axis) * (limit / (1 + 1e-7 / high))
    return jnp.where(within, kept, brought_down).astype(result)


class CSP(NamedTuple):
    """Spatial filters `[m, channels]` and their eigenvalues `[m]`, the share of class 0 in the power, descending."""

    filters: jax.Array
    eigenvalues: jax.Array


def fit_csp(x: jax.Array, labels: jax.Array, *, num_filters: int = 4, regularization: float | jax.Array = 0.0) -> CSP:
    """Common spatial patterns of two classes.

    The covariance of a trial is x x' / trace, without centring; C_0 and C_1 are the means of each class. An offset far
    above the signal is one direction among the others, which keep their digits: they are those of exact arithmetic.

    Args:
        x: `[n, channels, time]` float.
        labels: `[n]` int, 0 or 1; trials with another label are left out.
        num_filters: m, even, at most the number of channels; static.
        regularization: r >= 0, adds r tr(B) / channels I to B = C_0 + C_1.

    Returns:
        `CSP(filters, eigenvalues)`, filters of the dtype of x, eigenvalues in at least float32: of the directions that
        hold data, the m / 2 with the largest eigenvalues and the m / 2 with the smallest, in descending order; the
        entry of each filter that is largest in magnitude is positive. A direction without data (a flat channel, an
        average reference) is taken only where those with data are fewer than m, and then stands where its eigenvalue
        puts it: 1/2 and a filter of zeros if r = 0, eigenvalue 0 and w' B w = 1 if r > 0.

    Raises:
        ValueError: wrong shapes, no trial or no sample, m odd or not in [2, channels], a negative r, labels that are no
            integers; where concrete, a class without trials, or x that is not finite in a trial of either class.

    Example:
        >>> x = jnp.array([[[2.0, -2.0], [1.0, 1.0]], [[1.0, 1.0], [2.0, -2.0]]])   # each class has its channel
        >>> fit_csp(x, jnp.array([0, 1]), num_filters=2).eigenvalues
        Array([0.8..., 0.1999...], dtype=float32)
    """
    sizes = checks.shapes(("x", x, "n channels time"), ("labels", labels, "n"))
    channels = sizes["channels"]
    if not (sizes["n"] and sizes["time"]):
        raise ValueError(f"x must hold at least one trial and one sample, got shape {list(jnp.shape(x))}.")
    if num_filters < 2 or num_filters % 2 or num_filters > channels:
        raise ValueError(f"num_filters must be even and in [2, {channels}], the number of channels, got {num_filters}.")
    checks.in_interval("regularization", regularization, 0.0, jnp.inf, closed="left")
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(f"labels must be integers, got {jnp.result_type(labels)}.")
    if checks.is_known(labels):
        known = np.asarray(labels)
        if not {0, 1} <= set(known.tolist()):
            raise ValueError(f"labels must hold both 0 and 1, got {sorted(set(known.tolist()))}.")
        if checks.is_known(x):
            checks.finite("x", np.where(np.isin(known, (0, 1))[:, None, None], x, 0))
    return _fit_csp(x, labels, regularization, num_filters=num_filters)


@functools.partial(jax.jit, static_argnames="num_filters")
def _fit_csp(x: jax.Array, labels: jax.Array, regularization: float | jax.Array, *, num_filters: int) -> CSP:
    result, wide = numerics.float_dtypes(x)
    member = labels == jnp.arange(2)[:, None]
    x = jnp.where(jnp.any(member, axis=0)[:, None, None], jnp.asarray(x, wide), 0.0)
    size = distances.norm(x, axis=(1, 2), keepdims=True)
    x = x / jnp.where(size > 0, size, 1.0)
    weights = member / jnp.maximum(jnp.sum(member, axis=1, keepdims=True), 1).astype(wide)
    eigenvalues, vectors, rank = spatial.joint_diagonalizer(x, weights, ridge=regularization)

    half = num_filters // 2
    # With data first, ascending: `half` from either end; where they do not suffice, all of them and some of the rest.
    rank = jnp.maximum(rank, num_filters)
    kept = jnp.concatenate([jnp.arange(half), rank - half + jnp.arange(half)])
    kept = kept[jnp.argsort(-eigenvalues[kept])]
    eigenvalues, filters = eigenvalues[kept], vectors.T[kept]
    largest = jnp.take_along_axis(filters, jnp.argmax(jnp.abs(filters), axis=1, keepdims=True), axis=1)
    return CSP((filters * jnp.where(largest < 0, -1.0, 1.0)).astype(result), eigenvalues)


def csp_features(x: jax.Array, filters: jax.Array) -> jax.Array:
    """Log relative power behind each spatial filter: log( p_i / sum_j p_j ), p_i = mean_t (w_i . x_t)^2.

    Args:
        x, filters: `[n, channels, time]` and `[m, channels]` float.

    Returns:
        `[n, m]` in at least float32. They do not change when a trial is scaled or a filter changes its sign. A share
        below the smallest normal number, and so that of a filter of zeros, counts as that number, about exp(-87), in
        every trial. In a trial without any power all shares are 1 / m.

    Raises:
        ValueError: wrong shapes, or no sample.

    Example:
        >>> csp_features(jnp.array([[[1.0, -1.0], [3.0, 3.0]]]), jnp.eye(2))   # log 0.1, log 0.9
        Array([[-2.302..., -0.105...]], dtype=float32)
    """
    sizes = checks.shapes(("x", x, "n channels time"), ("filters", filters, "m channels"))
    if not sizes["time"]:
        raise ValueError(f"x must hold at least one sample, got shape {list(jnp.shape(x))}.")
    _, wide = numerics.float_dtypes(x, filters)
    x, filters = jnp.asarray(x, wide), jnp.asarray(filters, wide)
    x, _, _ = distances.unit_peak(x, (1, 2))  # volts, squared, would leave float32
    filters, size, _ = distances.unit_peak(filters, 1)
    mean = jnp.mean(x, axis=-1, keepdims=True)  # apart: an offset far above the signal is left out by many filters
    output = jnp.einsum("mc,nct->nmt", filters, x - mean, precision="highest")
    output = output + jnp.einsum("mc,nct->nmt", filters, mean, precision="highest")
    power = jnp.mean(jnp.square(output), axis=-1)
    has_power = power > 0
    log_power = jnp.where(has_power, jnp.log(jnp.where(has_power, power, 1.0)) + 2 * jnp.log(size[:, 0]), -jnp.inf)
    silent = ~jnp.any(has_power, axis=-1, keepdims=True)
    share = numerics.log_normalize(jnp.where(silent, 0.0, log_power))
    return jnp.maximum(share, math.log(jnp.finfo(wide).tiny))


class LDA(NamedTuple):
    """A linear classifier: scores `features @ weights + bias`, weights `[d, k]`, bias `[k]`."""

    weights: jax.Array
    bias: jax.Array


def fit_lda(features: jax.Array, labels: jax.Array, *, num_classes: int, shrinkage: float | jax.Array = 0.0) -> LDA:
    """Linear discriminant analysis of k classes.

        S = (1/n) sum_i (f_i - mu_{y_i}) (f_i - mu_{y_i})',    S <- (1 - s) S + s tr(S) / d I,
        weights S^-1 mu_k,    bias -mu_k' S^-1 mu_k / 2 + log(n_k / n)

    Features far from zero: with g the mean of all rows, the scores above are as large as g' S^-1 g, and rounding them
    hides by what classes differ. Where that exceeds eps^-1/2 (g some 54 standard deviations off, in float32), what all
    classes have in common is left out of the scores, which moves none against another:

        weights S^-1 (mu_k - g),    bias -(mu_k - g)' S^-1 (mu_k - g) / 2 - g . weights_k + log(n_k / n)

    Args:
        features: `[n, d]` float.
        labels: `[n]` int in 0, ..., k - 1. Where they are traced, rows with another label are left out.
        num_classes: k, static.
        shrinkage: s in [0, 1].

    Returns:
        `LDA(weights, bias)` in at least float32; the softmax of the scores is the model's posterior. A class without
        rows has weights of 0 and a bias of -inf. Directions in which S is zero are left out.

    Raises:
        ValueError: wrong shapes, no row, no class, or s outside [0, 1]; labels that are no integers; where concrete,
            a label that is no class, or features that are not finite.

    Example:
        >>> fit_lda(jnp.array([[0.0], [2.0], [4.0], [6.0]]), jnp.array([0, 0, 1, 1]), num_classes=2).weights
        Array([[1., 5.]], dtype=float32)
    """
    sizes = checks.shapes(("features", features, "n d"), ("labels", labels, "n"))
    if not sizes["n"]:
        raise ValueError(f"features must hold at least one row, got shape {list(jnp.shape(features))}.")
    checks.in_interval("num_classes", num_classes, 1, jnp.inf, closed="left")
    checks.in_interval("shrinkage", shrinkage, 0.0, 1.0)
    checks.labels("labels", labels, num_classes)
    checks.finite("features", features)
    return _fit_lda(features, labels, shrinkage, num_classes=num_classes)


@functools.partial(jax.jit, static_argnames="num_classes")
def _fit_lda(features: jax.Array, labels: jax.Array, shrinkage: float | jax.Array, *, num_classes: int) -> LDA:
    _, wide = numerics.float_dtypes(features)
    member = (jnp.asarray(labels)[:, None] == jnp.arange(num_classes)).astype(wide)
    counted = jnp.any(member > 0, axis=1)
    x, unit, _ = distances.unit_peak(jnp.where(counted[:, None], jnp.asarray(features, wide), 0.0), 0)

    centre = jax.lax.stop_gradient(jnp.sum(x, axis=0) / jnp.maximum(jnp.sum(counted), 1))  # any point near the data
    apart, pooled = linalg.class_moments(x - centre, member)  # mu_k - centre, S
    scale = jnp.maximum(unit[0] / jnp.max(unit), jnp.finfo(wide).eps ** 2)
    variance = jnp.mean(jnp.diagonal(pooled) * jnp.square(scale))  # tr(S) / d is of the features as they came
    root = linalg.whitening((1 - shrinkage) * pooled + jnp.diag(shrinkage * variance / jnp.square(scale)))

    far_off = jnp.sum(jnp.square(jnp.matmul(centre, root, precision="highest"))) > jnp.finfo(wide).eps ** -0.5
    counts = jnp.sum(member, axis=0)
    means = jnp.where(counts[:, None] > 0, apart + jnp.where(far_off, 0.0, centre), 0.0)
    whitened = jnp.matmul(means, root, precision="highest")
    weights = jnp.matmul(root, whitened.T, precision="highest")
    at_centre = jnp.where(far_off, jnp.matmul(centre, weights, precision="highest"), 0.0)
    prior = jnp.log(counts / jnp.sum(counts))
    return LDA(weights / unit[0][:, None], prior - jnp.sum(jnp.square(whitened), axis=1) / 2 - at_centre)


def hinge_loss(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """What a support vector machine minimises, with an L2 penalty on its weights: max(0, 1 - y s).

    Args:
        scores: `[batch]` float, s.
        labels: `[batch]`, y, -1 or 1.

    Returns:
        `[batch]` in at least float32.

    Raises:
        ValueError: other shapes, or labels that are not -1 or 1 (where concrete).

    Example:
        >>> hinge_loss(jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1]))
        Array([0. , 0.5, 2. ], dtype=float32)
    """
    checks.shapes(("scores", scores, "batch"), ("labels", labels, "batch"))
    if checks.is_known(labels) and not set(np.asarray(labels).tolist()) <= {-1, 1}:
        raise ValueError(f"labels must be -1 or 1, got {sorted(set(np.asarray(labels).tolist()))}.")
    _, wide = numerics.float_dtypes(scores)
    return jnp.maximum(0.0, 1.0 - jnp.asarray(labels, wide) * jnp.asarray(scores, wide))
