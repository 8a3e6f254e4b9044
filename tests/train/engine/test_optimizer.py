"""The optax chain that a config names."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lemmata.train.engine.optimizer import make_optimizer, make_schedule, settings
from lemmata.train.judge import config as configs


@pytest.fixture
def section():
    return configs.defaults().optimizer


def one_update(optimizer, gradient, params):
    return optimizer.update(gradient, optimizer.init(params), params)[0]


def test_names_are_those_of_optax(section):
    section.name, section.options, section.weight_decay = "adamw", {"b1": 0.8}, 0.3
    gradient, params = jnp.array([0.5, -2.0]), jnp.array([1.0, 3.0])
    expected = one_update(optax.adamw(1e-3, b1=0.8, weight_decay=0.3), gradient, params)
    np.testing.assert_allclose(one_update(make_optimizer(section, 10), gradient, params), expected)


def _parameters(function):
    try:
        return inspect.signature(function).parameters if callable(function) else {}
    except (TypeError, ValueError):
        return {}


ALIASES = [
    name
    for name in dir(optax)
    if "weight_decay" in _parameters(getattr(optax, name)) and "learning_rate" in _parameters(getattr(optax, name))
]


@pytest.mark.parametrize("name", ALIASES)
def test_no_weight_decay_is_none(section, name):
    """A gradient of zero moves nothing, whatever decay is the alias's own default."""
    section.name = name
    params = {"kernel": jnp.ones((3, 4))}
    update = one_update(make_optimizer(section, 10), jax.tree.map(jnp.zeros_like, params), params)
    np.testing.assert_array_equal(update["kernel"], 0.0)


@pytest.mark.parametrize("name", ["adam", "adamw", "lion", "nadamw", "sgd", "rmsprop", "lamb"])
def test_the_settings_shown_are_the_settings_used(section, name, monkeypatch):
    """Every argument that a config can hold is passed on, so that no default of optax acts unseen."""
    section.name = name
    shown, used = settings(section), {}
    alias = getattr(optax, name)

    @functools.wraps(alias)
    def spy(**arguments):
        used.update(arguments)
        return alias(**arguments)

    monkeypatch.setattr(optax, name, spy)
    make_optimizer(section, 10)
    used.pop("learning_rate")
    assert used.pop("weight_decay", 0.0) == shown.weight_decay
    assert used == shown.options.to_dict()
    whole = set(inspect.signature(alias).parameters) - {"learning_rate", "weight_decay"}
    assert set(used) == whole


def test_an_options_weight_decay_is_the_section_s_own(section):
    section.name, section.options = "adamw", {"weight_decay": 0.5}
    assert settings(section).weight_decay == 0.5
    section.weight_decay = 0.1
    with pytest.raises(ValueError, match="not both"):
        settings(section)


def test_transforms_come_before_the_optimizer(section):
    section.name, section.learning_rate = "sgd", 1.0
    section.transforms = (("scale", {"step_size": 3.0}), ("optax:centralize", {}))
    update = one_update(make_optimizer(section, 10), jnp.array([[1.0, 2.0, 6.0]]), jnp.zeros((1, 3)))
    np.testing.assert_allclose(update, [[6.0, 3.0, -9.0]])  # -(3 g - mean)


@pytest.mark.parametrize(("name", "end"), [("constant", 1e-3), ("cosine", 1e-4), ("linear", 1e-4)])
def test_schedules_warm_up_and_end_where_they_should(section, name, end):
    section.schedule, section.warmup_steps, section.final_fraction = name, 10, 0.1
    schedule = make_schedule(section, 100)
    np.testing.assert_allclose([schedule(0), schedule(5), schedule(10)], [0.0, 5e-4, 1e-3], rtol=1e-6)
    np.testing.assert_allclose(schedule(100), end, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("name", "adamm", "adamm"),
        ("schedule", "cosin", "schedule"),
        ("warmup_steps", 200, "warmup_steps"),
        ("options", {"beta": 1.0}, "beta"),
        ("transforms", (("no_such", {}),), "no_such"),
        ("transforms", ("clip",), "transforms.*clip"),
        ("weight_decay", 0.1, "weight_decay.*adam"),
        ("weight_decay", -0.1, "weight_decay"),
        ("learning_rate", -1.0, "learning_rate"),
        ("learning_rate", float("inf"), "learning_rate"),
        ("clip_norm", -1.0, "clip_norm"),
        ("name", "no.such.module:adam", "no.such"),
    ],
)
def test_bad_input_names_the_key(section, key, value, match):
    section[key] = value
    with pytest.raises(ValueError, match=match):
        make_optimizer(section, 100)
