"""What an environment gives an agent: pure functions on many streams at once, so that each draw is one large one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

World = Any
State = Any


class Step(NamedTuple):
    """What follows an action, of n streams."""

    observation: jax.Array  # [n, observation_size]; where the episode is over, the first one of the next
    reward: jax.Array  # [n] float32
    last: jax.Array  # [n] bool: the episode is over, for want of time: what lay beyond still counts for a value


class Environment(NamedTuple):
    """An environment whose episodes end by their length alone, and start again by themselves."""

    num_actions: int
    observation_size: int
    horizon: int  # steps of an episode
    make_world: Callable[[jax.Array], World]  # (key): what differs between runs and stays within one
    reset: Callable[[World, jax.Array, int], tuple[State, jax.Array]]  # (world, key, n) -> states, observations
    step: Callable[[World, State, jax.Array, jax.Array], tuple[State, Step]]  # (world, states, actions [n], key)
    references: Callable[[], dict[str, float]]  # undiscounted returns of an episode that are known, by label
