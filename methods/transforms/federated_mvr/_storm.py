r"""The recursion of STORM (Cutkosky and Orabona, arXiv:1905.10018): variance-reduced directions, adaptive step sizes.

    d = g + (1 - a) (d - g'),   S += |g|^2,   eta = k / (w + S)^{1/3},   a = min(1, c eta^2)

g and g' are gradients of one minibatch at the present and the previous point. Trees are in at least float32. S is kept
as its root, which has the range of a gradient: squares of entries near 1e20 or 1e-20 have no float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ....core import checks, distances, numerics

Tree = Any


class Constants(NamedTuple):
    """k, w and c."""

    step_scale: ArrayLike
    offset: ArrayLike
    momentum_scale: ArrayLike


class StormState(NamedTuple):
    """Between two steps: d, sqrt(S), and the a of the next step."""

    direction: Tree
    norm: jax.Array
    decay: jax.Array


def constants(step_scale: ArrayLike, offset: ArrayLike, momentum_scale: ArrayLike) -> Constants:
    """The three of them, checked: k > 0, w > 0, c >= 0, or a ValueError. Arrays in at least float32."""
    for name, value in (("step_scale", step_scale), ("offset", offset)):
        checks.in_interval(name, value, 0.0, jnp.inf, closed="neither")
    checks.in_interval("momentum_scale", momentum_scale, 0.0, jnp.inf, closed="left")

    def widened(value):  # a Python number takes the dtype of what it meets
        return value if isinstance(value, int | float) else jnp.asarray(value, numerics.float_dtypes(value)[1])

    return Constants(widened(step_scale), widened(offset), widened(momentum_scale))


def start(direction: Tree, decay: ArrayLike) -> StormState:
    """Before the first step, which corrects `direction` with a = `decay`; 1 makes that step a plain gradient."""
    dtype = jnp.result_type(*jax.tree.leaves(direction))
    return StormState(direction, jnp.zeros((), dtype), jnp.asarray(decay, dtype))


def advance(state: StormState, grads: Tree, previous_grads: Tree, constants: Constants) -> tuple[StormState, jax.Array]:
    """One step: the next state, whose direction is d, and eta."""
    d = direction(grads, previous_grads, state.direction, state.decay)
    norms = [distances.norm(g, axis=None) for g in jax.tree.leaves(grads)]
    norm = distances.norm(jnp.stack([state.norm, *norms])).astype(state.norm.dtype)
    root = distances.norm(jnp.stack([jnp.sqrt(jnp.asarray(constants.offset, norm.dtype)), norm]))  # of w + S
    step_size = jnp.asarray(constants.step_scale / jnp.square(jnp.cbrt(root)))
    return StormState(d, norm, decay(step_size, constants)), step_size


def direction(grads: Tree, previous_grads: Tree, momentum: Tree, decay: float | jax.Array) -> Tree:
    """The sum g + (1 - a) (d - g'), alone g where a = 1: in a first step the rest may be anything."""

    def corrected(g, before, m):
        a = jnp.asarray(decay, g.dtype)
        return g + jnp.where(a < 1, (1 - a) * (m - before), 0.0)

    return jax.tree.map(corrected, grads, previous_grads, momentum)


def decay(step_size: ArrayLike, constants: Constants) -> jax.Array:
    """The a that follows a step of size eta."""
    return jnp.minimum(1.0, constants.momentum_scale * step_size * step_size)  # in this order 0 stays 0


def first_decay(constants: Constants) -> jax.Array:
    """The a that follows a step of size k / w^{1/3}, which no gradient has made shorter."""
    return decay(constants.step_scale / jnp.cbrt(constants.offset), constants)
