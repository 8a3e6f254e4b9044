"""Networks by name: this library's, or a user's own, each as a pair of functions.

A user's is named as "module:function". Called with the number of outputs and `model.options`, it gives a Flax (Linen)
module or a pair `(init, apply)`: `init(key, inputs) -> params`, `apply(params, inputs) -> outputs`, which is what any
library's model comes down to. Of Flax NNX and of Equinox:

    def nnx_pair(outputs, width=32):
        graph = nnx.graphdef(nnx.eval_shape(lambda: Net(width, outputs, rngs=nnx.Rngs(0))))
        return (lambda key, x: nnx.state(Net(width, outputs, rngs=nnx.Rngs(key))).to_pure_dict(),
                lambda params, x: nnx.merge(graph, nnx.State(params))(x))

    def equinox_pair(outputs):
        _, static = eqx.partition(make(jax.random.key(0)), eqx.is_array)
        return (lambda key, x: eqx.filter(make(key), eqx.is_array),
                lambda params, x: jax.vmap(eqx.combine(params, static))(x))
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from ...core.networks.convnet import ConvNet
from ...core.networks.mlp import MLP
from ..engine.settings import is_reference, nearest, resolve
from ..engine.types import ConfigDict

NAMES = ("convnet", "mlp")


class Network(NamedTuple):
    """A network as pure functions."""

    init: Callable[[jax.Array, jax.Array], Any]  # (key, inputs [n, ...]) -> params
    apply: Callable[[Any, jax.Array], jax.Array]  # (params, inputs [n, ...]) -> outputs [n, outputs]


def defaults() -> ConfigDict:
    """The `model` section of a family whose network reads images or rows of features."""
    return ConfigDict(dict(
        name="convnet",  # "mlp", which also takes rows of features, or "module:function"
        features=(32, 64),  # channels of each stage, or widths of the hidden layers
        pool="mean",  # convnet: what follows the last stage, or "flatten"
        convolution="native",  # or "patches", the faster where seeds are vmapped on a CPU
        options={},  # keyword arguments of a function of your own
    ))  # fmt: skip


def make_network(model: ConfigDict, outputs: int, shape: tuple[int, ...], *, remat: str = "none") -> Network:
    """The network that a `model` section describes.

    Args:
        model: as `defaults`.
        outputs: numbers that it gives for an example.
        shape: of an example.
        remat: what blocks recompute in the backward pass; this library's own networks alone.

    Raises:
        ValueError: no such network, one that does not take these examples, or options that it does not have.
    """
    if is_reference(model.name):
        return as_network("model.name", _called(model, outputs))
    if model.name not in NAMES:
        raise ValueError(f'model.name must be one of {NAMES} or "module:function", got {model.name!r}.')
    if model.options:
        raise ValueError(f"model.options are a function of your own's, and must be empty with {model.name!r}.")
    if model.name == "mlp":
        mlp = MLP(features=(*model.features, outputs), remat=remat)
        return as_network(
            "model.name", (lambda key, x: mlp.init(key, _flat(x)), lambda params, x: mlp.apply(params, _flat(x)))
        )
    if len(shape) != 3:
        raise ValueError(f'model.name must be "mlp" for rows of features, got "convnet" for examples of shape {shape}.')
    convnet = ConvNet(tuple(model.features), outputs, pool=model.pool, convolution=model.convolution, remat=remat)
    return as_network("model.name", convnet)


def as_network(argument: str, model: Any) -> Network:
    """A Linen module or a pair of functions as a `Network`.

    Args:
        argument: what the caller calls `model`.
        model: the module or pair.

    Raises:
        ValueError: something else.
    """
    if isinstance(model, nn.Module):
        return Network(model.init, lambda params, x: model.apply(params, x))  # pyright: ignore[reportArgumentType, reportReturnType]
    if isinstance(model, tuple) and len(model) == 2 and all(callable(part) for part in model):
        return Network(*model)
    raise ValueError(f"{argument} must give a Flax module or a pair (init, apply) of functions, got {model!r}.")


def _called(model: ConfigDict, outputs: int) -> Any:
    function = resolve("model.name", model.name)
    if not callable(function):
        raise ValueError(f"model.name: {model.name!r} is no function.")
    options = dict(model.options)
    parameters = inspect.signature(function).parameters
    known = [name for name in parameters if name != next(iter(parameters), None)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in options:
            if key not in known:
                takes = ", ".join(known) or "none"
                raise ValueError(
                    f"model.options: {model.name} takes no {key!r}.{nearest(key, known)} It takes {takes}."
                )
    return function(outputs, **options)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1)
