"""A loss that is minimised in one compiled loop: for what needs neither data, evaluations nor checkpoints."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from .settings import check_whole


@functools.partial(jax.jit, static_argnames=("loss", "optimizer", "steps"))
def minimize(
    loss: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    *,
    key: jax.Array,
    optimizer: optax.GradientTransformation,
    steps: int,
) -> tuple[Any, jax.Array]:
    """Parameters after some steps of an optimizer; `fit` is for what takes longer than a minute.

    Args:
        loss: `(params, key) -> scalar`, lower is better; each step has a key of its own. One function object with one
            optimizer object is compiled once.
        params: tree of floating arrays to start from.
        key: what the steps' keys are split from.
        optimizer: of optax.
        steps: how many, at least 1.

    Returns:
        The parameters, and the loss before each step, `[steps]`.

    Raises:
        ValueError: steps below 1.

    Example:
        >>> optimizer = optax.sgd(0.25)
        >>> minimize(lambda x, key: (x - 3.0) ** 2, 1.0, key=jax.random.key(0), optimizer=optimizer, steps=2)
        (Array(2.5, dtype=float32), Array([4., 1.], dtype=float32, weak_type=True))
    """
    check_whole("steps", steps, 1)

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))
    return params, losses
