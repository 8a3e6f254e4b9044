"""A small convolutional network, without batch statistics."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from .. import numerics
from .batch import split_batch
from .remat import rematerialized

KERNEL = (3, 3)


class ConvNet(nn.Module):
    """Stages of 3x3 convolution, group normalisation, activation and 2x2 average pooling; then a linear layer.

    Maps images `[batch, height, width, channels]` to `[batch, num_outputs]`. Each example is computed by itself: no
    statistic crosses the batch, so a sharded batch and a batch of one give the same values.

    Attributes:
        features: channels of each stage. A stage halves height and width, rounding down, unless one of them is 1.
        num_outputs: width of the last, linear layer.
        activation: follows each normalisation.
        pool: "mean" averages the last stage over positions; "flatten" keeps them apart, which ties the parameters to
            the image's size.
        convolution: "native", or "patches": the same value as one product of shifted copies with the kernel. Under
            vmap over parameters a native convolution becomes a grouped one, which a CPU runs at half the speed of
            patches; alone, and on accelerators, native is faster and takes a ninth of the memory.
        dtype: computes in this dtype instead of the promotion of inputs and parameters; the linear layer, whose outputs
            may be scores, in at least float32.
        remat: "none", "dots" or "full", for each stage; see `remat.rematerialized`.

    Raises:
        ValueError: an attribute outside its range, or an input that is not `[b, h, w, c]`.
    """

    features: Sequence[int] = (32, 64)
    num_outputs: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    pool: str = "mean"
    convolution: str = "native"
    dtype: Any = None
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs `[b, num_outputs]` of images `[b, h, w, c]`."""
        self._check(x)
        multiply = convolve_patches if self.convolution == "patches" else None

        def stage(module, convolution, normalization, x):
            x = module.activation(normalization(split_batch(convolution(x))))
            return nn.avg_pool(x, (2, 2), (2, 2)) if min(x.shape[1:3]) > 1 else x

        stage = rematerialized(stage, self.remat)
        for i, width in enumerate(self.features):
            convolution = nn.Conv(
                width,
                KERNEL,
                use_bias=False,
                kernel_init=_flat_lecun_normal,
                conv_general_dilated=multiply,
                dtype=self.dtype,
                name=f"convolution_{i}",
            )
            normalization = nn.GroupNorm(
                math.gcd(width, 8), dtype=self.dtype, use_fast_variance=False, name=f"normalization_{i}"
            )
            x = stage(self, convolution, normalization, x)
        x = x.mean(axis=(1, 2)) if self.pool == "mean" else x.reshape(len(x), math.prod(x.shape[1:]))
        _, wide = numerics.float_dtypes(x)
        return nn.Dense(self.num_outputs, dtype=wide, name="head")(x)

    def _check(self, x: jax.Array) -> None:
        if x.ndim != 4:
            raise ValueError(f"x must be [batch, height, width, channels], got shape {x.shape}.")
        if not self.features or min(self.features) < 1:
            raise ValueError(f"features must be one or more widths of at least 1, got {tuple(self.features)}.")
        if self.num_outputs < 1:
            raise ValueError(f"num_outputs must be at least 1, got {self.num_outputs}.")
        if self.pool not in ("mean", "flatten"):
            raise ValueError(f'pool must be "mean" or "flatten", got {self.pool!r}.')
        if self.convolution not in ("native", "patches"):
            raise ValueError(f'convolution must be "native" or "patches", got {self.convolution!r}.')


def _flat_lecun_normal(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    # The same distribution, drawn as a matrix: XLA's CPU compiler takes seconds for random numbers of rank 4.
    matrix = (math.prod(shape[:-1]), shape[-1])
    return nn.initializers.lecun_normal()(key, matrix, dtype).reshape(shape)


def convolve_patches(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
    """Stride-1 "same" convolution of `x` `[b, h, w, c]` with `kernel` `[kh, kw, c, d]`, odd sides, as one product.

    Further arguments, those of `jax.lax.conv_general_dilated`, are what this function already is.
    """
    height, width = x.shape[1:3]
    rows, columns, channels, features = kernel.shape
    padded = jnp.pad(x, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(rows * columns * channels, features)
