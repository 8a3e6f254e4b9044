"""Gridworld: its walls, its pay, its clock, and the returns that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.train.experiments.reinforcement.environments import ENVIRONMENTS

UP, DOWN, LEFT, RIGHT = range(4)


def make(**settings):
    return ENVIRONMENTS["gridworld"](**settings)


def walk(environment, actions, *, seed=0):
    """Observations before, rewards and ends of `actions [steps, streams]`, each `[steps, streams, ...]`."""

    def step(carry, inputs):
        states, observation = carry
        states, after = environment.step(world, states, *inputs)
        return (states, after.observation), (observation, after.reward, after.last)

    world = environment.make_world(jax.random.key(seed))
    start = environment.reset(world, jax.random.key(seed + 1), actions.shape[1])
    keys = jax.random.split(jax.random.key(seed + 2), len(actions))
    run = jax.jit(lambda: jax.lax.scan(step, start, (actions, keys))[1])
    return world, *map(np.asarray, run())


def test_corners_pay_and_send_back_to_the_centre():
    to_first, to_last = [UP, UP, LEFT, LEFT], [DOWN, RIGHT, DOWN, RIGHT]
    actions = jnp.array([to_first * 2, to_last * 2, [UP] * 8, [DOWN, DOWN, LEFT, LEFT] * 2]).T
    codes, seen, reward, last = walk(make(code_dim=6, noise_dim=2, horizon=8), actions)
    np.testing.assert_array_equal(reward.sum(0), [2.0, 4.0, 0.0, 0.0])
    np.testing.assert_array_equal(np.nonzero(reward[:, 1])[0], [3, 7])
    np.testing.assert_array_equal(seen[4, 1, :6], codes[12, 0])  # the centre of 5 x 5
    np.testing.assert_array_equal(seen[4, 2, :6], codes[2, 0])  # a wall stops it
    np.testing.assert_array_equal(last, np.broadcast_to(np.arange(8)[:, None] == 7, (8, 4)))


def test_noise_is_fresh_and_the_code_is_not():
    _, seen, _, _ = walk(make(noise_dim=400, noise=3.0, code_dim=4), jnp.full((6, 2), UP))
    code, noise = seen[3:, :, :4], seen[3:, :, 4:]
    np.testing.assert_array_equal(code, np.broadcast_to(code[:1, :1], code.shape))
    assert abs(noise.std() - 3.0) < 0.2
    assert len(np.unique(noise)) > 0.99 * noise.size


def test_a_cell_has_as_many_looks_as_said():
    codes, seen, _, _ = walk(make(looks=3, code_dim=2, noise_dim=1, slip=0.0), jnp.full((60, 40), UP))
    top = seen[2:, :, :2].reshape(-1, 2)
    np.testing.assert_array_equal(np.unique(top, axis=0), np.unique(codes[2], axis=0))


def test_slips_are_as_frequent_as_said():
    *_, reward, _ = walk(make(size=3, slip=0.4, horizon=2), jnp.tile(jnp.array([[UP], [LEFT]]), (1, 5000)))
    straight = 0.6 + 0.4 / 4
    crossed = (0.4 / 4) ** 2  # left, then up, by two slips
    assert abs(np.mean(reward[1] == 1.0) - (straight**2 + crossed)) < 0.03


def test_known_returns():
    known = make().references()
    assert known["optimal"] == 30.0  # twice in eight steps, for sixty
    actions = jax.random.randint(jax.random.key(5), (60, 2000), 0, 4)
    *_, reward, _ = walk(make(code_dim=1, noise_dim=1), actions)
    returns = reward.sum(0)
    assert abs(returns.mean() - known["random"]) < 4 * returns.std() / np.sqrt(2000)
    assert make(slip=1.0).references()["optimal"] == pytest.approx(known["random"])


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"size": 4}, "size"),
        ({"size": 1}, "size"),
        ({"size": 5.0}, "size"),
        ({"looks": 0}, "looks"),
        ({"slip": 1.5}, "slip"),
        ({"slip": float("nan")}, "slip"),
        ({"horizon": 0}, "horizon"),
        ({"code_dim": -1}, "code_dim"),
        ({"noise_dim": -1}, "noise_dim"),
        ({"code_dim": 0, "noise_dim": 0}, "code_dim"),
        ({"noise": -1.0}, "noise"),
        ({"noise": float("inf")}, "noise"),
        ({"rewards": (1.0, float("nan"))}, "rewards"),
        ({"rewards": (1.0, 2.0, 3.0)}, "rewards"),
        ({"rewards": ("1", "2")}, "rewards"),
    ],
)
def test_bad_settings_are_named(bad, named):
    with pytest.raises(ValueError, match=named):
        make(**bad)
