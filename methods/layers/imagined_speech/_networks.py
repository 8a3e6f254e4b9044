"""Convolutional networks for multichannel recordings: EEGNet, ShallowConvNet, DeepConvNet.

Lawhern, Solon, Waytowich, Gordon, Hung, Lance, "EEGNet: a compact convolutional neural network for EEG-based
brain-computer interfaces", arXiv:1611.08024; Schirrmeister et al., "Deep learning with convolutional neural networks
for EEG decoding and visualization", arXiv:1703.05051, in the sizes that the first paper uses at 128 Hz.

Inputs are `[batch, channels, time]`; inside, features come last, and all is computed in at least float32. Running
statistics are in the collection "batch_stats"; training needs an rng "dropout" where `dropout_rate` is positive. What
is linear is done in the cheaper order: the spatial filter, which leaves few features of many channels, before or with
the temporal one.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ....core import checks, numerics
from ....core.networks.batch import split_batch
from . import _temporal as temporal

Moments = Callable[[], tuple[jax.Array, jax.Array]]  # mean and variance of each feature of a batch


class EEGNet(nn.Module):
    """Temporal filters, spatial filters of each, a separable convolution; about two thousand parameters.

    Attributes:
        num_classes: number of logits.
        num_temporal: temporal filters, F1.
        depth: spatial filters of each temporal one, D.
        num_separable: outputs of the separable convolution, F2.
        kernel_size: taps of the temporal filters; half the sampling rate reaches down to 2 Hz.
        separable_size: taps of the separable convolution.
        pool_sizes: of the two average pools.
        dropout_rate: after each pool, in training.

    Args:
        x: `[batch, channels, time]` float.
        train: take the batch's statistics, move the running ones, and drop out.

    Returns:
        Logits `[batch, num_classes]` in at least float32.

    Raises:
        ValueError: an attribute outside its range, inputs that are not `[b, c, t]` or too short for the pools, or
            parameters of other sizes; no epoch to train with.

    Example:
        >>> network, x = EEGNet(num_classes=2), jnp.zeros((5, 3, 32))
        >>> logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
        >>> logits.shape, sorted(variables)
        ((5, 2), ['batch_stats', 'params'])
    """

    num_classes: int
    num_temporal: int = 8
    depth: int = 2
    num_separable: int = 16
    kernel_size: int = 64
    separable_size: int = 16
    pool_sizes: Sequence[int] = (4, 8)
    dropout_rate: float = 0.5

    @classmethod
    def of(cls, params: Mapping[str, Any], **attributes: Any) -> "EEGNet":
        """The module that has these parameters; `attributes` are those that leave no trace in them."""
        (kernel_size, num_temporal), (_, _, depth) = jnp.shape(params["temporal"]), jnp.shape(params["spatial"])
        (separable_size, _), (_, separable) = (jnp.shape(params[f"separable_{name}"]) for name in ("depth", "point"))
        return cls(_outputs(params), num_temporal, depth, separable, kernel_size, separable_size, **attributes)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits `[b, num_classes]`; `train` takes the batch's statistics, moves the running ones, and drops out."""
        sizes = ("num_classes", "num_temporal", "depth", "num_separable", "kernel_size", "separable_size")
        _check(self, x, train, sizes, self.pool_sizes)
        if len(self.pool_sizes) != 2:
            raise ValueError(f"pool_sizes must be two numbers, got {tuple(self.pool_sizes)}.")
        first, second = self.pool_sizes
        _check_samples(x, first * second)
        x = _wide(x)
        channels, f1, width = x.shape[1], self.num_temporal, self.num_temporal * self.depth
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        norm = functools.partial(BatchNorm, momentum=0.99, epsilon=1e-3)

        kernel = _param(self, "temporal", (self.kernel_size, f1), self.kernel_size, self.kernel_size * f1)
        spatial = _param(self, "spatial", (channels, f1, self.depth), channels * f1, channels * self.depth)
        affine = MomentNorm(f1, momentum=0.99, epsilon=1e-3, name="bn1")
        gain, shift = affine(lambda: temporal.same_moments(x, kernel), train)
        # bn1 is affine in each temporal filter, so it commutes with the sum over channels.
        z = temporal.depthwise_same(split_batch(jnp.einsum("bct,cfd->btfd", x, spatial)), kernel)
        z = z * gain[:, None] + shift[:, None] * jnp.sum(spatial, axis=0)
        z = nn.elu(norm(name="bn2")(z.reshape(*z.shape[:2], width), train))
        z = drop(split_batch(_mean_pool(z, first)))

        depthwise = _param(self, "separable_depth", (self.separable_size, width), self.separable_size * width, 16)
        pointwise = _param(self, "separable_point", (width, self.num_separable), width, self.num_separable)
        z = temporal.depthwise_same(z[..., None], depthwise)[..., 0] @ pointwise
        z = drop(split_batch(_mean_pool(nn.elu(norm(name="bn3")(z, train)), second)))
        return Dense(self.num_classes, name="dense")(_flat(z))


class ShallowConvNet(nn.Module):
    """Log band power of learned bands: temporal and spatial filters, square, average over time, log.

    Attributes:
        num_classes: number of logits.
        num_filters: temporal filters, and as many spatial ones over all of them.
        kernel_size: taps of the temporal filters.
        pool_size: samples of an average.
        pool_stride: samples between averages.
        dropout_rate: before the last layer, in training.

    Args:
        x: `[batch, channels, time]` float.
        train: take the batch's statistics, move the running ones, and drop out.

    Returns:
        Logits `[batch, num_classes]` in at least float32.

    Raises:
        ValueError: an attribute outside its range, inputs that are not `[b, c, t]` or too short for kernel and pool, or
            parameters of other sizes; no epoch to train with.

    Example:
        >>> network, x = ShallowConvNet(num_classes=2), jnp.zeros((5, 3, 64))
        >>> logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
        >>> logits.shape, sorted(variables)
        ((5, 2), ['batch_stats', 'params'])
    """

    num_classes: int
    num_filters: int = 40
    kernel_size: int = 13
    pool_size: int = 35
    pool_stride: int = 7
    dropout_rate: float = 0.5

    @classmethod
    def of(cls, params: Mapping[str, Any], **attributes: Any) -> "ShallowConvNet":
        """The module that has these parameters; `attributes` are those that leave no trace in them."""
        kernel_size, width = jnp.shape(params["temporal"])
        return cls(_outputs(params), width, kernel_size, **attributes)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits `[b, num_classes]`; `train` takes the batch's statistics, moves the running ones, and drops out."""
        _check(self, x, train, ("num_classes", "num_filters", "kernel_size", "pool_size", "pool_stride"))
        _check_samples(x, self.kernel_size + self.pool_size - 1)
        width = self.num_filters
        z = _filter_bank(self, _wide(x), self.kernel_size, width, spatial_bias=False)
        z = jnp.square(BatchNorm(momentum=0.9, epsilon=1e-5, name="bn")(z, train))
        z = _strided_mean(z, self.pool_size, self.pool_stride)
        z = jnp.log(jnp.clip(z, 1e-7, 1e4))
        z = nn.Dropout(self.dropout_rate, deterministic=not train)(split_batch(z))
        return Dense(self.num_classes, name="dense")(_flat(z))


class DeepConvNet(nn.Module):
    """Temporal and spatial filters, then stages of convolution, normalisation, ELU and max pooling.

    Attributes:
        num_classes: number of logits.
        num_filters: filters of each stage.
        kernel_size: taps of every convolution.
        pool_size: samples of every maximum.
        dropout_rate: after every stage, in training.

    Args:
        x: `[batch, channels, time]` float.
        train: take the batch's statistics, move the running ones, and drop out.

    Returns:
        Logits `[batch, num_classes]` in at least float32.

    Raises:
        ValueError: an attribute outside its range, inputs that are not `[b, c, t]` or too short for the stages, or
            parameters of other sizes; no epoch to train with.

    Example:
        >>> network, x = DeepConvNet(num_classes=2), jnp.zeros((5, 3, 76))
        >>> logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
        >>> logits.shape, sorted(variables)
        ((5, 2), ['batch_stats', 'params'])
    """

    num_classes: int
    num_filters: Sequence[int] = (25, 50, 100, 200)
    kernel_size: int = 5
    pool_size: int = 2
    dropout_rate: float = 0.5

    @classmethod
    def of(cls, params: Mapping[str, Any], **attributes: Any) -> "DeepConvNet":
        """The module that has these parameters; `attributes` are those that leave no trace in them."""
        kernel_size, first = jnp.shape(params["temporal"])
        stages = sum(name.startswith("conv") for name in params)
        rest = (len(params[f"conv{stage}"]["b"]) for stage in range(2, stages + 2))
        return cls(_outputs(params), (first, *rest), kernel_size, **attributes)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits `[b, num_classes]`; `train` takes the batch's statistics, moves the running ones, and drops out."""
        _check(self, x, train, ("num_classes", "kernel_size", "pool_size"), self.num_filters)
        needed = 1
        for _ in self.num_filters:
            needed = needed * self.pool_size + self.kernel_size - 1
        _check_samples(x, needed)
        norm = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5)
        z = _filter_bank(self, _wide(x), self.kernel_size, self.num_filters[0], spatial_bias=True)
        for stage, width in enumerate(self.num_filters, start=1):
            if stage > 1:
                z = TemporalConv(width, self.kernel_size, name=f"conv{stage}")(z)
            z = _max_pool(nn.elu(norm(name=f"bn{stage}")(z, train)), self.pool_size)
            z = nn.Dropout(self.dropout_rate, deterministic=not train)(split_batch(z))
        return Dense(self.num_classes, name="dense")(_flat(z))


# --------------------------------------------------------------------------------------------------------------- layers


class MomentNorm(nn.Module):
    """Batch normalisation of values that are not there, from their moments: y = gain x + shift.

    Attributes:
        size: number of features.
        momentum: running = momentum running + (1 - momentum) batch; the variance is the biased one.
        epsilon: added to the variance.
    """

    size: int
    momentum: float
    epsilon: float

    @nn.compact
    def __call__(self, moments: Moments, train: bool) -> tuple[jax.Array, jax.Array]:
        """`(gain, shift)`, each `[size]`; `moments()` is the batch's `(mean, variance)`, called in training alone."""
        mean, gain, bias = _normalisation(self, self.size, moments, train)
        return gain, bias - mean * gain


class BatchNorm(nn.Module):
    """Batch normalisation of features `[..., size]` over all other axes; attributes as those of `MomentNorm`."""

    momentum: float
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`x` normalised by the batch, which moves the running statistics, or by these."""

        def moments() -> tuple[jax.Array, jax.Array]:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axis=axes)
            return mean, jnp.mean(jnp.square(x - mean), axis=axes)

        mean, gain, bias = _normalisation(self, x.shape[-1], moments, train)
        return (x - mean) * gain + bias


class Dense(nn.Module):
    """x w + b, Glorot-uniform and zero."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, features]` of `[b, inputs]`."""
        w = _param(self, "w", (x.shape[-1], self.features), x.shape[-1], self.features)
        return x @ w + self.param("b", nn.initializers.zeros, (self.features,))


class TemporalConv(nn.Module):
    """Convolution along time without padding, with a bias."""

    features: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, t - kernel_size + 1, features]` of `[b, t, inputs]`."""
        size, inputs = self.kernel_size, x.shape[-1]
        w = _param(self, "w", (size, inputs, self.features), size * inputs, size * self.features)
        return temporal.convolve_valid(x, w) + self.param("b", nn.initializers.zeros, (self.features,))


def _normalisation(module: Any, size: int, moments: Moments, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(mean, gain, bias)` of y = (x - mean) gain + bias, each `[size]`; in training the running statistics move."""
    scale = module.param("scale", nn.initializers.ones, (size,))
    bias = module.param("bias", nn.initializers.zeros, (size,))
    running_mean = module.variable("batch_stats", "mean", jnp.zeros, (size,))
    running_var = module.variable("batch_stats", "var", jnp.ones, (size,))
    mean, var = moments() if train else (_wide(running_mean.value), _wide(running_var.value))
    if train and not module.is_initializing():
        running_mean.value = module.momentum * running_mean.value + (1 - module.momentum) * mean
        running_var.value = module.momentum * running_var.value + (1 - module.momentum) * var
    return mean, scale * jax.lax.rsqrt(var + module.epsilon), bias


def _filter_bank(module: nn.Module, x: jax.Array, size: int, width: int, *, spatial_bias: bool) -> jax.Array:
    """A temporal filter of each channel, then a spatial one over all channels and filters: one convolution."""
    channels = x.shape[1]
    kernel = _param(module, "temporal", (size, width), size, size * width)
    bias = module.param("temporal_bias", nn.initializers.zeros, (width,))
    spatial = _param(module, "spatial", (channels, width, width), channels * width, channels * width)
    both = jnp.einsum("kf,cfg->kcg", kernel, spatial)
    offset = jnp.einsum("f,cfg->g", bias, spatial)
    if spatial_bias:
        offset = offset + module.param("spatial_bias", nn.initializers.zeros, (width,))
    return split_batch(temporal.convolve_valid(jnp.swapaxes(x, 1, 2), both) + offset)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(numerics.float_dtypes(x)[1])


def _outputs(params: Mapping[str, Any]) -> int:
    return len(params["dense"]["b"])


def _param(module: nn.Module, name: str, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
    """A Glorot-uniform parameter in at least float32, drawn flat: XLA's CPU compiler is slow at draws of high rank."""
    if module.has_variable("params", name):
        found = jnp.shape(module.get_variable("params", name))
        if found != shape:
            raise ValueError(f"params: {name} must have shape {list(shape)} for this x, got {list(found)}.")
    limit = math.sqrt(6 / (fan_in + fan_out))

    def init(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (math.prod(shape),), minval=-limit, maxval=limit).reshape(shape)

    return _wide(module.param(name, init))


def _mean_pool(x: jax.Array, size: int) -> jax.Array:
    """Means of `size` neighbours in time; a tail that does not fill one is dropped."""
    return jnp.mean(_groups(x, size), axis=2)


def _max_pool(x: jax.Array, size: int) -> jax.Array:
    """Maxima of `size` neighbours in time.

    Pair by pair: the derivative of a reduction asks which values equal the maximum, and finds none (0 / 0) if the
    compiler rounds the values that it compares otherwise than those that it reduced.
    """
    return functools.reduce(jnp.maximum, jnp.unstack(_groups(x, size), axis=2))


def _groups(x: jax.Array, size: int) -> jax.Array:
    batch, samples, features = x.shape
    return x[:, : samples // size * size].reshape(batch, samples // size, size, features)


def _strided_mean(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Means of `size` neighbours, every `stride` samples, as one product."""
    start = stride * jnp.arange((x.shape[1] - size) // stride + 1)[:, None]
    place = jnp.arange(x.shape[1])
    weights = ((place >= start) & (place < start + size)).astype(x.dtype) / size
    return jnp.einsum("btf,pt->bpf", x, weights)


def _flat(x: jax.Array) -> jax.Array:
    """`[b, ...]` as rows, also where b is 0."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _check(module: Any, x: jax.Array, train: bool, sizes: Sequence[str], several: Sequence[int] = (1,)) -> None:
    for name in sizes:
        if getattr(module, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(module, name)}.")
    checks.in_interval("dropout_rate", module.dropout_rate, 0.0, 1.0, closed="left")
    if not several or min(several) < 1:
        raise ValueError(f"pool_sizes and num_filters must be numbers of at least 1, got {tuple(several)}.")
    if x.ndim != 3:
        raise ValueError(f"x must have shape [batch, channels, time], got shape {list(x.shape)}.")
    if train and not x.shape[0]:
        raise ValueError(f"x must hold at least one epoch to train with, got shape {list(x.shape)}.")


def _check_samples(x: jax.Array, needed: int) -> None:
    if x.shape[2] < needed:
        raise ValueError(
            f"x must have at least {needed} samples in time for these kernels and pools, got {x.shape[2]}."
        )
