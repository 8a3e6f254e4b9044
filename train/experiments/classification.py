"""Classification of images or rows of features by a small network.

Inputs are standardised by the training split: images by the mean and standard deviation of each channel, rows by those
of each feature. `method.loss` is a key of `LOSSES`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ...core.networks.convnet import ConvNet
from ...core.networks.mlp import MLP
from .. import data
from ..data.sources import Arrays
from ..types import ConfigDict
from .base import Metric, Objective, Task

MODELS = ("convnet", "mlp")
INPUTS = ("image", "features")  # what a data set may call them

METRICS = {
    "loss": Metric("cross-entropy", "nats"),
    "accuracy": Metric("accuracy"),
}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`."""
    return ConfigDict(dict(
        data=dict(name="digits"),  # breast_cancer, wine, iris, or a prepared TFDS name with a label
        model=dict(
            name="convnet",  # or "mlp", which also takes rows of features
            features=(32, 64),  # channels of each stage, or widths of the hidden layers
            pool="mean",  # convnet: what follows the last stage, or "flatten"
            convolution="native",  # or "patches", the faster where seeds are vmapped on a CPU
        ),
        method=dict(loss="cross_entropy", label_smoothing=0.0),
    ))  # fmt: skip


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy with the mixture (1 - s) onehot(label) + s / classes, per example, in nats.

    Args:
        logits: `[batch, classes]` float32.
        labels: `[batch]` int.
        label_smoothing: s, in [0, 1).
    """
    to_label = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not label_smoothing:
        return to_label
    to_uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    return (1 - label_smoothing) * to_label + label_smoothing * to_uniform


def _cross_entropy(logits: jax.Array, labels: jax.Array, method: ConfigDict) -> jax.Array:
    return smoothed_cross_entropy(logits, labels, label_smoothing=method.label_smoothing)


# (logits [batch, classes], labels [batch], config.method) -> [batch]
LOSSES: dict[str, Callable[[jax.Array, jax.Array, ConfigDict], jax.Array]] = {"cross_entropy": _cross_entropy}


def make_network(config: ConfigDict, num_classes: int) -> nn.Module:
    """The network that `config.model` describes."""
    model, remat = config.model, config.train.remat
    if model.name not in MODELS:
        raise ValueError(f"model.name must be one of {MODELS}, got {model.name!r}.")
    if model.name == "mlp":
        return MLP(features=(*model.features, num_classes), remat=remat)
    return ConvNet(tuple(model.features), num_classes, pool=model.pool, convolution=model.convolution, remat=remat)


def make_objective(config: ConfigDict, network: nn.Module) -> Objective:
    """Fits `network` to batches {"inputs": `[batch, ...]`, "label": `[batch]`}."""
    method = config.method
    if method.loss not in LOSSES:
        raise ValueError(f"method.loss must be one of {tuple(LOSSES)}, got {method.loss!r}.")
    if not 0 <= method.label_smoothing < 1:
        raise ValueError(f"method.label_smoothing must be in [0, 1), got {method.label_smoothing}.")
    per_example = LOSSES[method.loss]
    flat = isinstance(network, MLP)

    def logits_of(params, inputs) -> jax.Array:
        logits: Any = network.apply(params, inputs.reshape(len(inputs), -1) if flat else inputs)
        return logits.astype(jnp.float32)

    def accuracy(logits, labels):
        return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)

    def init(key, batch):
        inputs = batch["inputs"][:1]
        return network.init(key, inputs.reshape(1, -1) if flat else inputs), {}

    def loss(params, variables, batch, key):
        logits = logits_of(params, batch["inputs"])
        value = jnp.mean(per_example(logits, batch["label"], method))
        return value, (variables, {"accuracy": jnp.mean(accuracy(logits, batch["label"]))})

    def evaluate(params, variables, batch, key):
        logits = logits_of(params, batch["inputs"])
        plain = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])  # the same for every arm
        return {"loss": plain, "accuracy": accuracy(logits, batch["label"])}

    return Objective(init, loss, evaluate, couples=False)


def load_standardized(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The training and the test split as {"inputs": float32 `[n, ...]`, "label": int32 `[n]`}.

    Inputs have mean 0 and standard deviation 1 over the training split: per channel for images `[n, h, w, c]`, per
    feature for rows `[n, d]`. A constant feature becomes 0.

    Raises:
        ValueError: the data set has no classes, or neither images nor rows of features.
    """
    found = data.info(name)
    key = next((key for key in INPUTS if key in found.features), None)
    if found.num_classes is None or key is None:
        raise ValueError(
            f"data.name must be a set with a class label and one of {INPUTS}; {name!r} has {', '.join(found.features)}."
        )
    splits = [data.load(name, split) for split in ("train", "test")]
    data.check(splits[0], num_classes={"label": found.num_classes}, every_class=True)
    inputs = [np.asarray(split[key], np.float32) for split in splits]
    axes = tuple(range(inputs[0].ndim - 1))
    mean, deviation = inputs[0].mean(axes), inputs[0].std(axes)
    scale = np.where(deviation > 0, deviation, 1.0).astype(np.float32)
    train, test = ({"inputs": (x - mean) / scale, "label": s["label"]} for x, s in zip(inputs, splits, strict=True))
    return train, test


def build(config: ConfigDict) -> Task:
    """The network on the data set that the config names."""
    num_classes = data.info(config.data.name).num_classes
    train, test = load_standardized(config.data.name)
    assert num_classes is not None  # load_standardized has refused a set without classes
    if config.model.name == "convnet" and train["inputs"].ndim != 4:
        raise ValueError(
            f'model.name must be "mlp" for rows of features, got "convnet" for {config.data.name!r}, whose examples '
            f"have shape {train['inputs'].shape[1:]}."
        )
    return Task(make_objective(config, make_network(config, num_classes)), train=Arrays(train), test=Arrays(test))
