"""What an environment gives an agent: pure functions on many streams at once, so that each draw is one large one."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ....engine.settings import check_whole

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


def check_environment(environment: Environment, *, streams: int = 3, most_steps: int = 1000) -> None:
    """Raise if an environment does not do what `Environment` says. Its shapes are traced, then an episode is played.

    Args:
        environment: any.
        streams: how many play it, with random actions.
        most_steps: of a longer episode, only so many are played.

    Raises:
        ValueError: names what is wrong: a number of actions, a size or a horizon below 1; observations, rewards or ends
            of another shape or dtype, or not finite; states that change their structure in a step; an episode that ends
            before or after its horizon; a known return that is no number.
    """
    if not isinstance(environment, Environment):
        raise ValueError(f"environment must be an Environment, got {type(environment).__name__}.")
    for name in ("num_actions", "observation_size", "horizon"):
        check_whole(f"environment.{name}", getattr(environment, name), 1)
    for n in (1, streams):  # two numbers, of which one may be built in
        _check_shapes(environment, n)
    _check_episode(environment, streams, min(environment.horizon, most_steps))
    known = environment.references()
    if not isinstance(known, Mapping) or not all(_is_number(value) for value in known.values()):
        raise ValueError(f"environment.references must give finite returns by label, got {known!r}.")


def _check_shapes(environment: Environment, n: int) -> None:
    size = environment.observation_size
    key, actions = jax.random.key(0), jax.ShapeDtypeStruct((n,), jnp.int32)
    world = jax.eval_shape(environment.make_world, key)
    start = jax.eval_shape(lambda world, key: environment.reset(world, key, n), world, key)
    if not isinstance(start, tuple) or len(start) != 2:
        raise ValueError(f"environment.reset must give (states, observations), got {_shown(start)}.")
    states, observation = start
    _check_array("environment.reset's observation", observation, (n, size), jnp.floating, "a float")
    followed = jax.eval_shape(environment.step, world, states, actions, key)
    if not isinstance(followed, tuple) or len(followed) != 2 or not isinstance(followed[1], Step):
        raise ValueError(f"environment.step must give (states, Step), got {_shown(followed)}.")
    after, step = followed
    if _shown(after) != _shown(states):
        raise ValueError(
            f"environment.step must give states of the structure, shapes and dtypes that it takes, {_shown(states)}, "
            f"got {_shown(after)}."
        )
    dtype = observation.dtype
    _check_array("environment.step's observation", step.observation, (n, size), dtype, f"{dtype}, as of reset,")
    _check_array("environment.step's reward", step.reward, (n,), jnp.float32, "float32")
    _check_array("environment.step's last", step.last, (n,), jnp.bool_, "bool")


def _check_episode(environment: Environment, n: int, steps: int) -> None:
    """Play the first `steps` steps of an episode: what is seen and paid is finite, and it ends where it should."""

    @jax.jit
    def play(key):
        world_key, reset_key, action_key, step_key = jax.random.split(key, 4)
        world = environment.make_world(world_key)
        states, observation = environment.reset(world, reset_key, n)
        actions = jax.random.randint(action_key, (steps, n), 0, environment.num_actions)

        def step(states, inputs):
            states, after = environment.step(world, states, *inputs)
            return states, (_all_finite(after.observation), _all_finite(after.reward), after.last)

        _, (seen, paid, last) = jax.lax.scan(step, states, (actions, jax.random.split(step_key, steps)))
        return _all_finite(observation), seen, paid, last

    start, seen, paid, last = jax.device_get(play(jax.random.key(0)))
    if not start:
        raise ValueError("environment.reset's observation must be finite, got a NaN or an infinity.")
    for name, finite in (("observation", seen), ("reward", paid)):
        if not finite.all():
            raise ValueError(
                f"environment.step's {name} must be finite, got a NaN or an infinity in step {int(np.argmin(finite))}."
            )
    due = np.arange(steps) == environment.horizon - 1
    wrong = np.flatnonzero(np.any(last != due[:, None], axis=1))
    if len(wrong):
        is_last = "True" if not due[wrong[0]] else "not True for all streams"
        raise ValueError(
            f"environment.step's last must be True in the last of the {environment.horizon} steps of an episode alone "
            f"(its horizon), but in step {wrong[0]} it is {is_last}."
        )


def _check_array(name: str, value: Any, shape: tuple[int, ...], kind: Any, expected: str) -> None:
    if getattr(value, "shape", None) != shape or not jnp.issubdtype(value.dtype, kind):
        raise ValueError(f"{name} must be {expected} of shape {list(shape)}, got {_shown(value)}.")


def _all_finite(x: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(x))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value)


def _shown(tree: Any) -> str:
    """A tree with the shapes and dtypes of its arrays."""
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")
