"""The door for environments: ours passes, and each way in which another may not be one is named."""

import sys

import jax
import jax.numpy as jnp
import pytest

from lemmata.train.experiments.reinforcement.environments import (
    ENVIRONMENTS,
    Environment,
    Step,
    check_environment,
    make_environment,
)

SIZE, HORIZON = 4, 5


def walk(change=lambda after, time: after, start=lambda states, observation, n: (states, observation), **fields):
    """A walk on a line whose position is seen; `change` and `start` spoil what a step and a reset give."""

    def reset(world, key, n):
        states = {"x": jnp.zeros(n), "time": jnp.zeros(n, jnp.int32)}
        return start(states, jnp.zeros((n, SIZE)), n)

    def step(world, states, actions, key):
        last = states["time"] == HORIZON - 1
        x = jnp.where(last, 0.0, states["x"] + world + 2.0 * actions - 1.0)
        after = Step(jnp.broadcast_to(x[:, None], (len(x), SIZE)), x, last)
        return change(({"x": x, "time": jnp.where(last, 0, states["time"] + 1)}, after), states["time"])

    ours = Environment(2, SIZE, HORIZON, lambda key: jax.random.normal(key), reset, step, lambda: {"random": 0.0})
    return ours._replace(**fields)


def spoilt(**fields):
    """A walk one of whose steps' fields are functions of the right ones and of the time."""

    def change(result, time):
        states, after = result
        return states, after._replace(**{name: f(getattr(after, name), time) for name, f in fields.items()})

    return walk(change)


def test_environments_that_are_some_pass():
    check_environment(walk())
    check_environment(walk(horizon=HORIZON + 7), most_steps=HORIZON - 1)  # no more is played than asked
    check_environment(ENVIRONMENTS["gridworld"](size=3, horizon=3, looks=2, slip=0.5, code_dim=0, noise_dim=2))


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ("gridworld", "must be an Environment, got str"),
        (walk(num_actions=0), "environment.num_actions must be an integer of at least 1, got 0"),
        (walk(observation_size=2.0), "environment.observation_size must be an integer"),
        (walk(horizon=0), "environment.horizon must be an integer of at least 1"),
        (walk(observation_size=3), r"reset's observation must be a float of shape \[1, 3\], got float32\[1, 4\]"),
        (walk(start=lambda s, o, n: (s, o.astype(int))), "reset's observation must be a float"),
        (walk(start=lambda s, o, n: (s, jnp.zeros((1, SIZE)))), r"of shape \[3, 4\], got float32\[1, 4\]"),
        (walk(start=lambda s, o, n: (s, o.at[0].set(jnp.nan))), "reset's observation must be finite"),
        (walk(start=lambda s, o, n: o), r"reset must give \(states, observations\)"),
        (walk(start=lambda s, o, n: (s | {"x": s["x"].astype(int)}, o)), "states of the structure, shapes and dtypes"),
        (walk(start=lambda s, o, n: ({**s, "more": o}, o)), "states of the structure, shapes and dtypes"),
        (walk(lambda result, time: (result[0], tuple(result[1]))), r"step must give \(states, Step\)"),
        (walk(lambda result, time: result[1]), r"step must give \(states, Step\)"),
        (spoilt(observation=lambda x, time: x[0]), r"step's observation must be .* of shape \[1, 4\]"),
        (spoilt(observation=lambda x, time: x.astype(jnp.float16)), "step's observation must be float32, as of reset"),
        (
            spoilt(reward=lambda x, time: x[:, None]),
            r"step's reward must be float32 of shape \[1\], got float32\[1, 1\]",
        ),
        (spoilt(reward=lambda x, time: time), "step's reward must be float32 of shape"),
        (spoilt(last=lambda x, time: x.astype(jnp.float32)), "step's last must be bool"),
        (spoilt(observation=lambda x, time: x / (time != 2)[:, None]), "step's observation must be finite.*in step 2"),
        (
            spoilt(reward=lambda x, time: x + jnp.where(time == 3, jnp.inf, 0)),
            "step's reward must be finite.*in step 3",
        ),
        (spoilt(last=lambda x, time: time == 1), "last must be True in the last of the 5 .* in step 1 it is True"),
        (spoilt(last=lambda x, time: x & False), "in step 4 it is not True for all"),
        (walk(horizon=HORIZON + 2), "last of the 7 .* in step 4 it is True"),
        (walk(references=lambda: {"best": float("nan")}), "references must give finite returns"),
        (walk(references=lambda: [1.0]), "references must give finite returns"),
    ],
)
def test_what_is_no_environment_is_named(environment, named):
    with pytest.raises(ValueError, match=named):
        check_environment(environment)


OWN = """
import jax.numpy as jnp

from lemmata.train.experiments.reinforcement.environments import Environment, Step


def corridor(*, length=3, horizon=4, reward=1.0):
    def reset(world, key, n):
        return jnp.zeros((n, 1)), jnp.zeros((n, 1))

    def step(world, states, actions, key):
        time = states[:, 0] + 1
        last = time == horizon
        states = jnp.where(last, 0.0, time)[:, None]
        return states, Step(states, jnp.where(actions == 1, reward, 0.0), last)

    return Environment(2, 1, horizon, lambda key: (), reset, step, lambda: {"optimal": horizon * reward})


ready = corridor(horizon=2)
broken = ready._replace(horizon=5)
number = 3


def anything(**options):
    return corridor(**options)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's module that can be imported, under a name of its own: environments are made once a name."""
    name = f"own_environments_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_an_environment_of_a_user_is_made_with_its_options(own):
    assert make_environment(f"{own}:corridor", dict(horizon=6, reward=2)).references() == {"optimal": 12.0}
    assert make_environment(f"{own}:corridor", {}) is make_environment(f"{own}:corridor", {})
    assert make_environment(f"{own}:ready", {}).horizon == 2
    assert make_environment(f"{own}:anything", dict(horizon=3)).horizon == 3


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("gridwold", {}, r"data\.environment: no environment 'gridwold'\. Did you mean 'gridworld'\?"),
        ("gridworld", dict(sise=3), r"data\.options\.sise: environment 'gridworld' has no .* Did you mean 'size'\?"),
        ("gridworld", dict(size=3.0), r"data\.options\.size must be int, like 5; got 3\.0"),
        ("gridworld", dict(size=4), "size must be odd"),
        ("{own}:corridor", dict(lenght=3), r"data\.options\.lenght: .* Did you mean 'length'\?"),
        ("{own}:corridors", {}, r"data\.environment: .* has no 'corridors'\. Did you mean 'corridor'\?"),
        ("{own}:broken", {}, "last must be True in the last of the 5 steps"),
        ("{own}:ready", dict(horizon=3), r"data\.options must be empty"),
        ("{own}:number", {}, "is neither a function nor an Environment"),
        ("no_such_module:corridor", {}, "there is no module 'no_such_module'"),
    ],
)
def test_a_wrong_environment_or_option_is_named(own, name, options, named):
    with pytest.raises(ValueError, match=named) as error:
        make_environment(name.format(own=own), options)
    assert "\n" not in str(error.value)
