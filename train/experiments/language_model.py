"""A Transformer that predicts each byte of a text from those before it.

A sequence is `data.window` + 1 bytes: all but the last are read, all but the first predicted. No document of the test
split is in the training split.
"""

import math
from typing import cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from ...core.networks.transformer import Transformer
from .. import data
from ..data.sources import Arrays, check_seed
from ..types import ConfigDict
from .base import Metric, Objective, Task

VOCABULARY = 256  # bytes

METRICS = {
    "loss": Metric("cross-entropy", "nats/byte"),
    "bits_per_byte": Metric("bits per byte", "bit"),
    "accuracy": Metric("next-byte accuracy"),
}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`."""
    return ConfigDict(dict(
        data=dict(
            name="python_docs",  # or python_source, or a prepared TFDS name with a feature "text"
            window=128,  # bytes of context
            stream=False,  # batches read from disk by each process; False: the whole split on the device
            stream_seed=0,  # order of a stream
        ),
        model=dict(
            num_layers=4,
            num_heads=4,
            model_dim=128,
            mlp_dim=512,
            positions="rotary",  # or "learned"
            tie_embeddings=False,
        ),
        method=dict(),
    ))  # fmt: skip


def make_network(config: ConfigDict) -> Transformer:
    """The Transformer that `config.model` describes, for contexts of `data.window` bytes."""
    if config.data.window < 1:
        raise ValueError(f"data.window must be at least 1, got {config.data.window}.")
    return Transformer(VOCABULARY, max_length=config.data.window, remat=config.train.remat, **config.model)


def make_objective(network: nn.Module) -> Objective:
    """Next-byte cross-entropy on batches {"tokens": uint8 `[batch, window + 1]`}."""

    def scores(params, batch) -> tuple[jax.Array, jax.Array]:
        """Cross-entropy in nats and correctness of each prediction, `[batch, window]`."""
        tokens = batch["tokens"].astype(jnp.int32)
        read, predicted = tokens[:, :-1], tokens[:, 1:]
        logits = cast(jax.Array, network.apply(params, read))
        return optax.softmax_cross_entropy_with_integer_labels(logits, predicted), jnp.argmax(logits, -1) == predicted

    def metrics_of(nats, correct, axis):
        value = jnp.mean(nats, axis=axis)
        return {"loss": value, "bits_per_byte": value / math.log(2), "accuracy": jnp.mean(correct, axis=axis)}

    def init(key, batch):
        return network.init(key, batch["tokens"][:1, :-1].astype(jnp.int32)), {}

    def loss(params, variables, batch, key):
        metrics = metrics_of(*scores(params, batch), axis=None)
        return metrics["loss"], (variables, metrics)

    def evaluate(params, variables, batch, key):
        return metrics_of(*scores(params, batch), axis=1)

    return Objective(init, loss, evaluate, couples=False)


def build(config: ConfigDict) -> Task:
    """The Transformer on windows of the text that the config names."""
    network = make_network(config)
    name, length = config.data.name, config.data.window + 1
    check_seed("data.stream_seed", config.data.stream_seed)
    if config.data.stream:
        train = data.stream(
            name,
            "train",
            batch_size=config.train.batch_size,
            seed=config.data.stream_seed,
            window=length,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
    else:
        train = Arrays(data.windows(name, "train", length))
    return Task(make_objective(network), train=train, test=Arrays(data.windows(name, "test", length)))
