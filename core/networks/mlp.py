"""The multilayer perceptron."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn

from .batch import split_batch
from .remat import rematerialized


class MLP(nn.Module):
    """Dense layers with an activation between them; the last is linear.

    Maps `[..., inputs]` to `[..., features[-1]]`, in the promotion of the input's and the parameters' dtypes.

    Attributes:
        features: width of each layer; the last is the number of outputs.
        activation: follows every layer but the last.
        dtype: computes in this dtype instead.
        remat: "none", "dots" or "full", for each hidden layer; see `remat.rematerialized`.

    Raises:
        ValueError: `features` is empty or holds a width below 1; `remat` is unknown.
    """

    features: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: Any = None
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs `[..., features[-1]]` of inputs `[..., inputs]`."""
        if not self.features or min(self.features) < 1:
            raise ValueError(f"features must be one or more widths of at least 1, got {tuple(self.features)}.")
        layers = [nn.Dense(width, dtype=self.dtype, name=f"layer_{i}") for i, width in enumerate(self.features)]

        hidden = rematerialized(lambda module, layer, x: module.activation(split_batch(layer(x))), self.remat)
        for layer in layers[:-1]:
            x = hidden(self, layer, x)
        return layers[-1](x)
