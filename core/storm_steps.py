r"""The recursion of STORM (Cutkosky and Orabona, arXiv:1905.10018): variance-reduced directions, adaptive step sizes.

    d = g + (1 - a) (d - g'),   S += |g|^2,   eta = k / (w + S)^{1/3},   a = min(1, c eta^2)

g and g' are gradients of one minibatch at the present and the previous point. Trees are in at least float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import checks

Tree = Any


class Constants(NamedTuple):
    """k, w and c."""

    step_scale: ArrayLike
    offset: ArrayLike
    momentum_scale: ArrayLike


class StormState(NamedTuple):
    """Between two steps: d, S, and the a of the next step."""

    direction: Tree
    sum_squares: jax.Array
    decay: jax.Array


def constants(step_scale: ArrayLike, offset: ArrayLike, momentum_scale: ArrayLike) -> Constants:
    """The three of them, checked: k > 0, w > 0, c >= 0, or a ValueError."""
    for name, value in (("step_scale", step_scale), ("offset", offset)):
        checks.in_interval(name, value, 0.0, jnp.inf, closed="neither")
    checks.in_interval("momentum_scale", momentum_scale, 0.0, jnp.inf, closed="left")
    return Constants(step_scale, offset, momentum_scale)


def start(direction: Tree, decay: ArrayLike) -> StormState:
    """Before the first step, which corrects `direction` with a = `decay`; 1 makes that step a plain gradient."""
    dtype = jnp.result_type(*jax.tree.leaves(direction))
    return StormState(direction, jnp.zeros((), dtype), jnp.asarray(decay, dtype))


def advance(state: StormState, grads: Tree, previous_grads: Tree, constants: Constants) -> tuple[StormState, jax.Array]:
    """One step: the next state, whose direction is d, and eta."""
    d = direction(grads, previous_grads, state.direction, state.decay)
    sum_squares = state.sum_squares + sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
    step_size = jnp.asarray(constants.step_scale / jnp.cbrt(constants.offset + sum_squares))
    return StormState(d, sum_squares, decay(step_size, constants)), step_size


def direction(grads: Tree, previous_grads: Tree, momentum: Tree, decay: float | jax.Array) -> Tree:
    """The sum g + (1 - a) (d - g'), alone g where a = 1: in a first step the rest may be anything."""
    return jax.tree.map(
        lambda g, before, m: g + jnp.where(decay < 1, (1 - decay) * (m - before), 0.0), grads, previous_grads, momentum
    )


def decay(step_size: ArrayLike, constants: Constants) -> jax.Array:
    """The a that follows a step of size eta."""
    return jnp.minimum(1.0, constants.momentum_scale * jnp.square(step_size))


def first_decay(constants: Constants) -> jax.Array:
    """The a that follows a step of size k / w^{1/3}, which no gradient has made shorter."""
    return decay(constants.step_scale / jnp.cbrt(constants.offset), constants)
