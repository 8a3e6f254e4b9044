"""A gridworld seen through a random code and noise: what to do is easy, what to look at has to be found.

The agent starts at the centre of a square and moves up, down, left or right; walls stop it, and with probability
`slip` its move is a random one. Two opposite corners pay, one of them more, and send it back to the centre. Each cell
has some codes of random numbers, drawn once a run; an observation is one of them, any, beside numbers of fresh noise.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .....core import checks
from ....engine.settings import check_whole
from .base import Environment, Step

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])  # row and column


def make(
    *,
    size: int = 5,
    rewards: tuple[float, float] = (1.0, 2.0),
    slip: float = 0.0,
    horizon: int = 60,
    code_dim: int = 32,
    looks: int = 1,
    noise_dim: int = 32,
    noise: float = 1.0,
) -> Environment:
    """The gridworld with these settings.

    Args:
        size: cells a side, odd and at least 3.
        rewards: of the first and of the last cell, opposite corners.
        slip: probability of a random move.
        horizon: steps of an episode.
        code_dim: numbers of a cell's code.
        looks: codes of a cell.
        noise_dim: numbers of noise beside it.
        noise: its standard deviation, that of the code being 1.

    Raises:
        ValueError: a size that is even or below 3, rewards that are not two finite numbers, a slip outside [0, 1], no
            step, no look, a negative dimension or both 0, or a noise that is negative or infinite.
    """
    for name, value, low in (
        ("size", size, 3), ("horizon", horizon, 1), ("looks", looks, 1), ("code_dim", code_dim, 0),
        ("noise_dim", noise_dim, 0),
    ):  # fmt: skip
        check_whole(name, value, low)
    if size % 2 == 0:
        raise ValueError(f"size must be odd and at least 3, got {size}.")
    if not code_dim + noise_dim:
        raise ValueError("code_dim and noise_dim must not both be 0: nothing would be observed.")
    paid = np.asarray(rewards)
    if paid.shape != (2,) or paid.dtype.kind not in "iuf" or not np.isfinite(paid).all():
        raise ValueError(f"rewards must be two finite numbers, got {rewards!r}.")
    checks.in_interval("slip", slip, 0.0, 1.0)
    checks.in_interval("noise", noise, 0.0, np.inf)

    successor, reward = transitions(size, rewards)
    start, actions = size**2 // 2, len(MOVES)

    def make_world(key):
        return jax.random.normal(key, (size**2, looks, code_dim))

    def observe(codes, cells, key):
        key, look_key = jax.random.split(key)
        fresh = noise * jax.random.normal(key, (len(cells), noise_dim))
        look = (jax.random.uniform(look_key, cells.shape) * looks).astype(jnp.int32)
        return jnp.concatenate([codes[cells, look], fresh], axis=-1)

    def reset(codes, key, n):
        state = {"cell": jnp.full(n, start), "time": jnp.zeros(n, jnp.int32)}
        return state, observe(codes, state["cell"], key)

    def step(codes, state, action, key):
        if slip:
            key, slip_key = jax.random.split(key)
            slips, move = jax.random.uniform(slip_key, (2, len(action)))
            action = jnp.where(slips < slip, (move * actions).astype(jnp.int32), action)
        pay, cell = jnp.asarray(reward)[state["cell"], action], jnp.asarray(successor)[state["cell"], action]
        last = state["time"] == horizon - 1
        cell, time = jnp.where(last, start, cell), jnp.where(last, 0, state["time"] + 1)
        return {"cell": cell, "time": time}, Step(observe(codes, cell, key), pay, last)

    def references():
        return known_returns(successor, reward, start=start, slip=slip, horizon=horizon)

    return Environment(actions, code_dim + noise_dim, horizon, make_world, reset, step, references)


def transitions(size: int, rewards: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Where each move leads without slipping, and what it pays: `[cells, moves]` int32 and float32.

    A move into a paying corner leads to the centre.
    """
    cells = np.stack(np.divmod(np.arange(size**2), size), axis=-1)
    moved = np.clip(cells[:, None] + MOVES, 0, size - 1)
    target = moved[..., 0] * size + moved[..., 1]
    reward = np.where(target == 0, rewards[0], 0.0) + np.where(target == size**2 - 1, rewards[1], 0.0)
    successor = np.where((target == 0) | (target == size**2 - 1), size**2 // 2, target)
    return successor.astype(np.int32), reward.astype(np.float32)


def known_returns(
    successor: np.ndarray, reward: np.ndarray, *, start: int, slip: float, horizon: int
) -> dict[str, float]:
    """Undiscounted returns of an episode, of the best policy that knows the time left and of the random one."""
    best, random = np.zeros(len(successor)), np.zeros(len(successor))
    for _ in range(horizon):
        value = reward + best[successor]
        best = (1 - slip) * value.max(axis=1) + slip * value.mean(axis=1)
        random = (reward + random[successor]).mean(axis=1)
    return {"optimal": float(best[start]), "random": float(random[start])}
