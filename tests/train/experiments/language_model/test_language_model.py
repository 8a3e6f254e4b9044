"""Language model: its metrics, learning, the sources, and what a wrong config is told."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lemmata.train import data
from lemmata.train.engine.hooks import Hooks, hooks
from lemmata.train.engine.loop import fit
from lemmata.train.engine.sources import Arrays
from lemmata.train.engine.stream import Stream
from lemmata.train.experiments import get, language_model
from lemmata.train.judge import config as configs

MODEL = dict(num_layers=1, num_heads=2, model_dim=32, mlp_dim=64)


def make_config(method=(), **sections):
    config = ConfigDict(dict(experiment="language_model", data=dict(window=32), model=MODEL, train=dict(batch_size=16)))
    for name, section in sections.items():
        config[name].update(section)
    config.arms = ConfigDict(dict(main=dict(method)))
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
    held_out = jax.jit(task.objective.evaluate)(params, variables, batch, jax.random.key(1))
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


# ------------------------------------------------------------------------------------------------------------- sources


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


@pytest.mark.slow
def test_a_split_that_is_streamed_is_evaluated_as_one_in_memory():
    """All of its windows once, the last batch short."""
    found = {}
    for streamed in (False, True):
        train = dict(steps=1, batch_size=16, eval_batch_size=500, eval_split="validation")
        config = make_config(data=dict(stream_held_out=streamed, train="train"), train=train)
        config.mesh.data = 1
        task = language_model.build(config)
        assert isinstance(task.test, Stream) == isinstance(task.validation, Stream) == streamed
        assert task.validation.size % 500
        found[streamed] = fit(task, config, progress=False).metrics
    for name in language_model.METRICS:
        np.testing.assert_allclose(found[True][name], found[False][name], rtol=1e-6)


def test_splits_go_by_their_names():
    config = make_config(data=dict(train="train[:50%]", test="validation"))
    task = language_model.build(config)
    half, validation = (data.windows("python_docs", split, 33)["tokens"] for split in ("train[:50%]", "validation"))
    np.testing.assert_array_equal(task.train.arrays["tokens"], half)
    np.testing.assert_array_equal(task.test.arrays["tokens"], validation)
    assert task.validation is None
    with pytest.raises(ValueError, match=r"data\.train = 'train\+validation' holds the rows of data\.validation"):
        language_model.build(make_config(train=dict(eval_split="validation")))


def test_text_of_a_file_is_read(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("body\n" + "".join(f"number {index} of forty\n" for index in range(40)))
    settings = dict(name=str(path), columns=dict(text="body"), window=8, train="train+validation+test", test="test")
    task = language_model.build(make_config(data=settings))
    assert b"number" in task.train.arrays["tokens"].tobytes()
    assert task.train.size > task.test.size > 0


# ------------------------------------------------------------------------------------------------------------- methods


def confident(text, *, weight: float = 0.5):
    """A loss with a setting, of a user's own."""
    nats = language_model.next_byte_nats(text.logits, text.targets)
    return weight * nats, {"sure": jnp.exp(-nats)}


@hooks
def told(problem, *, scale: float = 1.0):
    """One that is told of its problem."""
    assert problem == language_model.Problem(256, 32, small().train.size, 1000)
    return Hooks(lambda text: scale * text.logits[..., 0])


@pytest.fixture
def own(monkeypatch):
    import sys
    import types

    module = types.ModuleType("my_losses")
    module.confident, module.told = confident, told
    monkeypatch.setitem(sys.modules, "my_losses", module)


@pytest.mark.usefixtures("own")
def test_a_user_s_own_loss_is_minimised_with_its_settings():
    batch, params, _ = first_batch(small())
    plain, _ = jax.jit(small().objective.loss)(params, {}, batch, jax.random.key(0))
    task = language_model.build(make_config(method=dict(name="my_losses:confident", weight=0.25)))
    value, (_, metrics) = jax.jit(task.objective.loss)(params, {}, batch, jax.random.key(0))
    np.testing.assert_allclose(value, plain / 4, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], plain, rtol=1e-6)
    assert 0 < metrics["sure"] < 1
    with pytest.raises(ValueError, match=r"arms\.main\.weigth: .*Did you mean 'weight'"):
        make_config(method=dict(name="my_losses:confident", weigth=1.0))


@pytest.mark.usefixtures("own")
def test_a_method_with_hooks_is_told_of_its_problem():
    task = language_model.build(make_config(method=dict(name="my_losses:told", scale=0.0)))
    batch, params, _ = first_batch(small())
    assert jax.jit(task.objective.loss)(params, {}, batch, jax.random.key(0))[0] == 0
    assert not get("language_model").method_settings("cross_entropy")


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_config_reaches_the_network(positions, monkeypatch):
    networks = []
    real = language_model.language.make_objective
    monkeypatch.setattr(language_model.language, "make_objective", lambda net, m: networks.append(net) or real(net, m))
    language_model.build(make_config(model=dict(positions=positions), train=dict(remat="full")))
    (network,) = networks
    assert (network.positions, network.remat, network.num_layers, network.max_length) == (positions, "full", 1, 32)


def test_wrong_config_names_the_key():
    with pytest.raises(ValueError, match=r"data\.window must be an integer of at least 1"):
        language_model.build(make_config(data=dict(window=0)))
    with pytest.raises(ValueError, match="digits"):
        language_model.build(make_config(data=dict(name="digits")))
    for model in (dict(num_heads=3), dict(positions="sinusoidal")):
        objective = language_model.build(make_config(model=model)).objective
        with pytest.raises(ValueError, match=f"{next(iter(model))} must"):
            objective.init(jax.random.key(0), {"tokens": np.zeros((1, 33), np.uint8)})
