"""Language model: its metrics, learning, the two sources, and what a wrong config is told."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lemmata.train.engine.sources import Arrays
from lemmata.train.engine.stream import Stream
from lemmata.train.experiments import language_model
from lemmata.train.judge import config as configs

MODEL = dict(num_layers=1, num_heads=2, model_dim=32, mlp_dim=64)


def make_config(**sections):
    config = ConfigDict(dict(experiment="language_model", data=dict(window=32), model=MODEL, train=dict(batch_size=16)))
    for name, section in sections.items():
        config[name].update(section)
    return configs.resolve_arm(configs.complete(config), "main")


@functools.cache
def small():
    return language_model.build(make_config())


def first_batch(task):
    batch = {"tokens": jnp.asarray(task.train.arrays["tokens"][:16])}
    return batch, *jax.jit(task.objective.init)(jax.random.key(0), batch)


def test_sequences_are_one_byte_longer_than_the_context():
    task = small()
    for split in (task.train, task.test):
        assert split.arrays["tokens"].dtype == np.uint8
        assert split.arrays["tokens"].shape[1] == 33


def test_loss_starts_at_the_uniform_one_and_is_the_mean_of_the_evaluation():
    task = small()
    batch, params, variables = first_batch(task)
    loss, (after, metrics) = jax.jit(task.objective.loss)(params, variables, batch, jax.random.key(1))
    np.testing.assert_allclose(loss, math.log(256), rtol=0.01)
    assert after == variables == {}
    held_out = jax.jit(task.objective.evaluate)(params, variables, batch, jax.random.key(1))
    assert set(held_out) == set(language_model.METRICS)
    for name, values in held_out.items():
        assert values.shape == (16,)
        np.testing.assert_allclose(values.mean(), metrics[name], rtol=1e-5)
    np.testing.assert_allclose(held_out["bits_per_byte"], held_out["loss"] / math.log(2), rtol=1e-6)


def test_a_prediction_is_scored_against_the_next_byte():
    """A head that always says "e" scores exactly the share of e among the predicted bytes."""
    task = small()
    batch, params, variables = first_batch(task)
    params = jax.tree.map(jnp.zeros_like, params)
    inner = params["params"]
    # The one direction of the stream that is left: the embedding feeds it, the head maps it to "e".
    inner["embedding"]["embedding"] = inner["embedding"]["embedding"].at[:, 0].set(1.0)
    inner["final_norm"]["scale"] = jnp.ones_like(inner["final_norm"]["scale"])
    inner["head"] = inner["head"].at[0, ord("e")].set(1.0)
    held_out = task.objective.evaluate(params, variables, batch, jax.random.key(0))
    np.testing.assert_allclose(held_out["accuracy"], (batch["tokens"][:, 1:] == ord("e")).mean(axis=1), rtol=1e-6)


def test_a_few_steps_learn():
    task = small()
    batch, params, variables = first_batch(task)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def train(params, state):
        def step(carry, _):
            params, state = carry
            (loss, _), grads = jax.value_and_grad(task.objective.loss, has_aux=True)(
                params, variables, batch, jax.random.key(0)
            )
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, state), length=30)

    _, losses = train(params, optimizer.init(params))
    assert losses[-1] < 0.6 * losses[0]


def test_stream_gives_the_same_sequences_in_another_order():
    task = language_model.build(make_config(data=dict(stream=True)))
    assert isinstance(task.train, Stream)
    assert isinstance(task.test, Arrays)
    batch = next(task.train)["tokens"]
    assert (batch.dtype, batch.shape) == (np.uint8, (16, 33))
    known = {row.tobytes() for row in small().train.arrays["tokens"]}
    assert all(row.tobytes() in known for row in batch)
    other = language_model.build(make_config(data=dict(stream=True, stream_seed=1)))
    assert not np.array_equal(next(other.train)["tokens"], batch)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_config_reaches_the_network(positions):
    network = language_model.make_network(make_config(model=dict(positions=positions), train=dict(remat="full")))
    assert (network.positions, network.remat, network.num_layers, network.max_length) == (positions, "full", 1, 32)


def test_wrong_config_names_the_key():
    with pytest.raises(ValueError, match=r"data\.window must be at least 1"):
        language_model.build(make_config(data=dict(window=0)))
    with pytest.raises(ValueError, match="digits"):
        language_model.build(make_config(data=dict(name="digits")))
    for model in (dict(num_heads=3), dict(positions="sinusoidal")):
        objective = language_model.build(make_config(model=model)).objective
        with pytest.raises(ValueError, match=f"{next(iter(model))} must"):
            objective.init(jax.random.key(0), {"tokens": np.zeros((1, 33), np.uint8)})
