"""The network that a federation trains: a perceptron, written out."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def init_network(key: jax.Array, widths: tuple[int, ...], scale: float) -> list[dict[str, jax.Array]]:
    """A perceptron's layers: normal weights of that standard deviation and zero biases."""
    sizes = list(itertools.pairwise(widths))
    ends = np.cumsum([fan_in * fan_out for fan_in, fan_out in sizes])
    draws = jnp.split(scale * jax.random.normal(key, (ends[-1],)), ends[:-1])  # one draw compiles faster than many
    return [
        {"kernel": draw.reshape(shape), "bias": jnp.zeros(shape[1])} for draw, shape in zip(draws, sizes, strict=True)
    ]


def logits_of(params: list[dict[str, jax.Array]], inputs: jax.Array) -> jax.Array:
    """Logits `[batch, classes]`. Written out: `core.networks.mlp` pins the batch of each client to the mesh, and here
    it is the clients that are split.
    """
    hidden = inputs
    for layer in params[:-1]:
        hidden = jax.nn.relu(hidden @ layer["kernel"] + layer["bias"])
    return hidden @ params[-1]["kernel"] + params[-1]["bias"]


def mean_loss(params: Any, batch: Any) -> jax.Array:
    """Mean cross-entropy of a batch, in nats."""
    logits = logits_of(params, batch["inputs"])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))


grad_fn = jax.grad(mean_loss)  # one object: local loops are compiled for the function that they are given


def accuracy_of(params: Any, batch: Any) -> jax.Array:
    """`[batch]`, 1 where the most probable class is right."""
    return (jnp.argmax(logits_of(params, batch["inputs"]), axis=-1) == batch["label"]).astype(jnp.float32)
