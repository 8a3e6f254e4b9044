"""Flax modules with running statistics as functions of plain dictionaries."""

from typing import Any

import jax
import jax.numpy as jnp

from ....core import checks, numerics

Tree = dict[str, Any]


def initialize(network: Any, key: jax.Array, *shape: int) -> tuple[Tree, Tree]:
    """`(params, stats)` of a module for inputs `[1, *shape]`: its collections "params" and "batch_stats".

    Raises:
        ValueError: a size below 1.
    """
    if min(shape) < 1:
        raise ValueError(f"num_channels and num_samples must be at least 1, got {shape}.")
    variables = jax.jit(network.init)(key, jnp.zeros((1, *shape)))
    return variables["params"], variables["batch_stats"]


def apply(
    network: Any, params: Tree, stats: Tree, x: jax.Array, *, train: bool, key: jax.Array | None
) -> tuple[jax.Array, Tree]:
    """`(outputs, stats)` of `network(x, train)`, computed in at least float32.

    Args:
        network: Linen module whose call takes `(x, train)`, with an attribute `dropout_rate`.
        params: its collection "params".
        stats: its collection "batch_stats".
        x: inputs.
        train: whether the statistics move and dropout acts.
        key: for dropout.

    Returns:
        Outputs in at least float32, which are scores; statistics of the dtypes that they came in, the same arrays
        where not `train`.

    Raises:
        ValueError: no key to drop out with, or a dropout_rate outside [0, 1).
    """
    checks.in_interval("dropout_rate", network.dropout_rate, 0.0, 1.0, closed="left")
    if train and network.dropout_rate > 0 and key is None:
        raise ValueError(f"key must be given to train with dropout_rate = {network.dropout_rate}, got None.")
    _, wide = numerics.float_dtypes(*jax.tree.leaves((params, stats)), x)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, wide), {"params": params, "batch_stats": stats})
    rngs = {} if key is None else {"dropout": key}
    outputs, moved = network.apply(variables, jnp.asarray(x, wide), train, mutable=["batch_stats"], rngs=rngs)
    if not train:
        return outputs, stats
    after = jax.tree.map(lambda new, old: new.astype(jnp.asarray(old).dtype), moved["batch_stats"], stats)
    return outputs, after
