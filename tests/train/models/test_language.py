"""The byte-level language model: what is minimised, how it is tested, and the base that is kept."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lemmata.train import aot, data
from lemmata.train.engine import losses
from lemmata.train.engine.hooks import Hooks
from lemmata.train.engine.loop import fit
from lemmata.train.engine.sources import Arrays, Deferred
from lemmata.train.engine.state import init_state
from lemmata.train.engine.step import StepOptions, make_step
from lemmata.train.engine.task import Task
from lemmata.train.judge import config as configs
from lemmata.train.models import language, store

MODEL = dict(num_layers=1, num_heads=2, model_dim=8, mlp_dim=8)
HOW = dict(steps=2, batch_size=4)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Models of one test alone; data sets stay where they are."""
    monkeypatch.setattr(store, "folder", lambda spec: tmp_path / "models" / store.digest(spec))
    return tmp_path / "models"


class Bigrams(nn.Module):
    """Logits that depend on the last byte alone: quick to compile."""

    @nn.compact
    def __call__(self, tokens):
        return nn.Embed(language.VOCABULARY, language.VOCABULARY)(tokens)


@functools.cache
def rows(n=8):
    return {"tokens": jnp.asarray(np.random.default_rng(0).integers(256, size=(n, 6)), jnp.uint8)}


def start(objective):
    return init_state(objective, optax.sgd(1.0), jax.random.key(0), rows())


# --------------------------------------------------------------------------------------------------- what is minimised


def test_a_method_sees_what_was_read_what_follows_and_the_logits_of_it():
    seen = []

    def method(text):
        seen.append(text)
        return language.next_byte_nats(text.logits, text.targets)

    objective = language.make_objective(Bigrams(), method)
    params, variables = objective.init(jax.random.key(0), rows())
    value, (_, metrics) = objective.loss(params, variables, rows(), jax.random.key(1))
    text = seen[-1]
    np.testing.assert_array_equal(text.tokens, rows()["tokens"][:, :-1])
    np.testing.assert_array_equal(text.targets, rows()["tokens"][:, 1:])
    assert text.logits is text.logits
    assert text.logits.shape == (8, 5, 256)
    np.testing.assert_array_equal(value, metrics["loss"])
    np.testing.assert_allclose(metrics["bits_per_byte"], value / math.log(2), rtol=1e-6)


def test_losses_of_sequences_are_averaged_and_metrics_beside_them():
    def method(text):
        nats = jnp.mean(language.next_byte_nats(text.logits, text.targets), axis=1)
        return nats**2, {"worst": nats}

    objective = language.make_objective(Bigrams(), method)
    params, _ = objective.init(jax.random.key(0), rows())
    value, (_, metrics) = objective.loss(params, {}, rows(), jax.random.key(1))
    nats = objective.evaluate(params, {}, rows(), jax.random.key(1))["loss"]
    assert nats.shape == (8,)
    np.testing.assert_allclose(value, jnp.mean(nats**2), rtol=1e-6)
    np.testing.assert_allclose(metrics["worst"], jnp.mean(nats), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], jnp.mean(nats), rtol=1e-6)  # the cross-entropy, whatever is minimised


def softmax_weighted(text):
    """The hardest sequences count most, by weights that the whole batch decides."""

    def of_each():
        return jnp.mean(language.next_byte_nats(text.logits, text.targets), axis=1)

    def of_batch(nats):
        weights = jax.nn.softmax(jax.lax.stop_gradient(5 * nats))
        return jnp.sum(weights * nats), {"largest": weights.max()}

    return losses.Coupled(of_each, of_batch)


def test_a_loss_that_couples_the_batch_accumulates_exactly():
    objective = language.make_objective(Bigrams(), softmax_weighted)
    state = start(objective)
    whole, parts = (
        jax.jit(make_step(objective, optax.sgd(1.0), StepOptions(accumulate=n)))(state, rows()) for n in (1, 8)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole[0].params, parts[0].params)
    assert whole[1]["largest"] == pytest.approx(float(parts[1]["largest"]), rel=1e-5)
    assert whole[1]["largest"] > 1 / 8


def test_a_method_may_hold_what_it_needs_from_step_to_step():
    def loss(text, held):
        return language.next_byte_nats(text.logits, text.targets) * held["scale"]

    def halved(held, text, each):
        return {"scale": held["scale"] / 2}

    hooks = Hooks(loss, variables=lambda key: {"scale": jnp.float32(1)}, update=halved)
    objective = language.make_objective(Bigrams(), hooks)
    state, step = start(objective), jax.jit(make_step(objective, optax.sgd(0.0), StepOptions()))
    seen = []
    for _ in range(3):
        state, metrics = step(state, rows())
        seen.append(float(metrics["loss"]))
    np.testing.assert_allclose(np.array(seen) / seen[0], [1, 0.5, 0.25], rtol=1e-6)


def test_a_prediction_rule_is_what_is_tested():
    plain = language.make_objective(Bigrams())
    ruled = language.make_objective(Bigrams(), Hooks(lambda text: text.logits[..., 0], predict=jnp.zeros_like))
    params, _ = plain.init(jax.random.key(0), rows())
    flat = ruled.evaluate(params, {}, rows(), jax.random.key(0))["loss"]
    np.testing.assert_allclose(flat, math.log(256), rtol=1e-6)
    assert plain.evaluate(params, {}, rows(), jax.random.key(0))["loss"].min() != pytest.approx(math.log(256))
    with pytest.raises(ValueError, match=r"Hooks\.outputs must be None"):
        language.make_objective(Bigrams(), Hooks(lambda text: text.logits, outputs=3))


def test_a_loss_of_another_size_is_refused():
    objective = language.make_objective(Bigrams(), lambda text: jnp.mean(text.logits))
    params, _ = objective.init(jax.random.key(0), rows())
    with pytest.raises(ValueError, match=r"\[8, …\], one an example, got \[\].*Coupled"):
        objective.loss(params, {}, rows(), jax.random.key(1))


# -------------------------------------------------------------------------------------------------------- the base


GOLDEN = 4.182127  # nats a byte, after the steps below


def test_version_is_raised_when_the_numbers_change():
    """Where this fails, training gives other numbers, and kept bases are of the old ones: raise `language.VERSION`."""
    tokens = np.random.default_rng(0).integers(97, 123, size=(16, 9)).astype(np.uint8)
    objective, text = language.make_objective(language.make_network(MODEL, 8)), Arrays({"tokens": tokens})
    optimizer = dict(learning_rate=0.05, schedule="cosine")
    how = dict(train=dict(steps=6, batch_size=8), optimizer=optimizer, mesh=dict(data=1))
    found = fit(Task(objective, text, text), how, (3,), progress=False).metrics["loss"]
    assert (language.VERSION, float(found[0])) == (1, pytest.approx(GOLDEN, rel=1e-4))


def test_the_base_is_trained_once_on_the_text_as_its_settings_say(folder, monkeypatch):
    trained, real = [], store.fit
    monkeypatch.setattr(store, "fit", lambda *a, **k: trained.append(a) or real(*a, **k))
    base = language.pretrained("python_docs", 8, MODEL, HOW | {"seed": 7}, mesh=dict(data=1))
    assert isinstance(base, Deferred)
    assert not trained
    first = base.make()
    again = language.pretrained("python_docs", 8, MODEL, HOW | {"seed": 7}, mesh=dict(data=1)).make()
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), base.spec) == jax.tree.map(lambda x: (x.shape, x.dtype), first)
    ((task, config, seeds),) = trained
    assert len(list(folder.iterdir())) == 1
    assert seeds == (7,)
    assert (config.train.steps, config.train.batch_size, config.mesh.data) == (2, 4, 1)
    assert (config.optimizer.name, config.optimizer.schedule, config.optimizer.learning_rate) == (
        "adam",
        "cosine",
        3e-3,
    )
    text = data.windows("python_docs", "train", 9)["tokens"]
    np.testing.assert_array_equal(task.train.arrays["tokens"], text)


def test_another_text_is_another_base(monkeypatch):
    """Of one name: a file that was edited."""
    specs = []
    monkeypatch.setattr(store, "kept", lambda spec, *_: specs.append(spec()))
    for text in (b"a" * 100, b"a" * 99 + b"b", b"a" * 100):
        windows = {"tokens": np.frombuffer(text, np.uint8).reshape(20, 5)}
        monkeypatch.setattr(data, "windows", lambda *_, windows=windows: windows)
        language.pretrained("mine", 4, MODEL, HOW)
    one, other, same = map(store.digest, specs)
    assert one == same != other


def test_no_steps_is_the_untrained_network(folder):
    base = language.pretrained("python_docs", 8, MODEL, dict(steps=0, seed=5))
    network = language.make_network(MODEL, 8)
    expected = jax.jit(network.init)(jax.random.key(5), jnp.zeros((1, 8), jnp.int32))
    jax.tree.map(np.testing.assert_array_equal, base.make(), expected)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("python_docs", 0, MODEL, HOW), r"data\.window must be an integer of at least 1, got 0"),
        (("python_docs", 8, dict(layers=1), HOW), r"model\.layers.*num_layers"),
        (("python_docs", 8, MODEL, dict(step=1)), r"model\.pretraining\.step'.*steps"),
        (("python_docs", 8, MODEL, dict(steps=-1)), r"model\.pretraining\.steps must be an integer of at least 0"),
        (("python_docs", 8, MODEL, dict(seed=-1)), r"model\.pretraining\.seed must be an integer"),
    ],
)
def test_bad_settings_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        language.pretrained(*arguments)


# ----------------------------------------------------------------------------------------------------------- --aot


@pytest.mark.parametrize("arm", ["kto", "fused"])
def test_to_compile_ahead_of_time_trains_nothing(arm, folder, monkeypatch):
    def refused(*arguments, **options):
        raise AssertionError("a base was trained")

    monkeypatch.setattr(store, "fit", refused)
    config = configs.load("configs/losses/alignment/kto.py")
    config.model.update(MODEL)
    config.data.test_rows = 32
    lowered, head = aot.lower(configs.complete(config), jax.devices()[:1], arm)
    assert f"arm {arm}" in head
    assert not folder.exists()
    state, (_, (resident, _)), _ = lowered.args_info[0]
    policies = 2 if arm == "fused" else 1
    parameters = sum(leaf._aval.size for leaf in jax.tree.leaves(resident))
    found = sum(leaf._aval.size for leaf in jax.tree.leaves(state.params))
    assert found == len(config.seeds) * policies * parameters  # the base is an argument, of which there is one
