"""The one compiled loop against the same steps by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lemmata.train import minimize

START = {"w": jnp.array([1.0, -2.0]), "b": jnp.zeros(())}


def loss(params, key):
    x = jax.random.normal(key, (8, 2))
    return jnp.mean((x @ params["w"] + params["b"] - x[:, 0]) ** 2)


def test_it_takes_the_steps_that_a_loop_by_hand_takes():
    optimizer, key = optax.adamw(0.1, weight_decay=0.1), jax.random.key(1)
    found, losses = minimize(loss, START, key=key, optimizer=optimizer, steps=5)
    params, state = START, optimizer.init(START)
    for step_key, value in zip(jax.random.split(key, 5), losses, strict=True):
        np.testing.assert_allclose(value, loss(params, step_key), rtol=1e-5)
        updates, state = optimizer.update(jax.grad(loss)(params, step_key), state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, params)


def test_it_finds_the_minimum():
    found, losses = minimize(loss, START, key=jax.random.key(0), optimizer=optax.adam(0.05), steps=300)
    np.testing.assert_allclose(found["w"], [1.0, 0.0], atol=1e-2)
    assert losses.shape == (300,)
    assert losses[-1] < 1e-3 < losses[0]


def test_one_loss_with_one_optimizer_is_traced_once():
    traced = []

    def counting(params, key):
        traced.append(None)
        return loss(params, key)

    optimizer = optax.sgd(0.1)
    first, _ = minimize(counting, START, key=jax.random.key(0), optimizer=optimizer, steps=2)
    count = len(traced)
    minimize(counting, first, key=jax.random.key(1), optimizer=optimizer, steps=2)
    assert len(traced) == count


@pytest.mark.parametrize("steps", [0, 2.0])
def test_bad_steps_are_named(steps):
    with pytest.raises(ValueError, match="steps must be an integer of at least 1"):
        minimize(loss, START, key=jax.random.key(0), optimizer=optax.sgd(0.1), steps=steps)
