"""Classification: loading, the loss, learning, and what a wrong config is told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lemmata.train import config as configs
from lemmata.train import data
from lemmata.train.experiments import classification


def make_config(**sections):
    config = ConfigDict(dict(experiment="classification", arms=dict(main={})))
    for name, section in sections.items():
        if name != "method":
            config[name] = ConfigDict(section)
    config.arms.main = ConfigDict(sections.get("method", {}))
    return configs.resolve_arm(configs.complete(config), "main")


@functools.cache
def digits():
    return classification.build(make_config(model=dict(features=(8, 16), pool="flatten")))


def test_inputs_are_standardised_by_the_training_split():
    for name in ("digits", "breast_cancer", "wine", "iris"):
        train, test = classification.load_standardized(name)
        axes = tuple(range(train["inputs"].ndim - 1))
        np.testing.assert_allclose(train["inputs"].mean(axes), 0.0, atol=1e-4)
        np.testing.assert_allclose(train["inputs"].std(axes), 1.0, atol=1e-4)
        assert train["inputs"].dtype == np.float32
        assert train["label"].dtype == np.int32
        assert test["inputs"].shape[1:] == train["inputs"].shape[1:]


def test_a_constant_feature_becomes_zero(monkeypatch):
    rows = {"features": np.array([[1.0, 3.0], [2.0, 3.0]]), "label": np.array([0, 1])}
    monkeypatch.setattr(data, "load", lambda name, split: rows)
    train, _ = classification.load_standardized("breast_cancer")
    np.testing.assert_array_equal(train["inputs"], [[-1.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"label.* 2"):  # of the three classes of this set, one has no example
        classification.load_standardized("iris")


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.7])
def test_smoothed_loss_is_the_cross_entropy_with_the_mixture(label_smoothing):
    logits = 3 * jax.random.normal(jax.random.key(0), (6, 5))
    labels = jnp.array([0, 1, 2, 3, 4, 0])
    expected = optax.softmax_cross_entropy(logits, optax.smooth_labels(jax.nn.one_hot(labels, 5), label_smoothing))
    got = classification.smoothed_cross_entropy(logits, labels, label_smoothing=label_smoothing)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_evaluation_is_per_example_and_leaves_smoothing_out():
    plain = digits()
    smoothed = classification.build(
        make_config(model=dict(features=(8, 16), pool="flatten"), method=dict(label_smoothing=0.3))
    )
    batch = jax.tree.map(lambda x: x[:7], plain.test.arrays)
    params, variables = jax.jit(plain.objective.init)(jax.random.key(0), batch)
    metrics = [
        jax.jit(task.objective.evaluate)(params, variables, batch, jax.random.key(1)) for task in (plain, smoothed)
    ]
    assert set(metrics[0]) == set(classification.METRICS)
    assert all(value.shape == (7,) for value in metrics[0].values())
    np.testing.assert_array_equal(metrics[0]["loss"], metrics[1]["loss"])
    losses = [task.objective.loss(params, variables, batch, jax.random.key(1))[0] for task in (plain, smoothed)]
    np.testing.assert_allclose(losses[0], metrics[0]["loss"].mean(), rtol=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize(("name", "model"), [("digits", "convnet"), ("wine", "mlp")])
def test_a_few_steps_learn(name, model):
    config = make_config(data=dict(name=name), model=dict(name=model, features=(8, 16)))
    task = digits() if name == "digits" else classification.build(config)
    batch = jax.tree.map(lambda x: jnp.asarray(x[:128]), task.train.arrays)
    params, variables = jax.jit(task.objective.init)(jax.random.key(0), batch)
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

        return jax.lax.scan(step, (params, state), length=25)

    (params, _), losses = train(params, optimizer.init(params))
    assert losses[-1] < 0.5 * losses[0]
    metrics = task.objective.evaluate(params, variables, batch, jax.random.key(0))
    assert metrics["accuracy"].mean() > 0.6


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"model": dict(name="resnet")}, "model.name must be one of"),
        ({"method": dict(loss="hinge")}, "method.loss must be one of"),
        ({"method": dict(label_smoothing=1.0)}, "method.label_smoothing must be in"),
        ({"data": dict(name="wine")}, 'model.name must be "mlp" for rows of features'),
        ({"data": dict(name="diabetes")}, "data.name must be a set with a class label"),
        ({"data": dict(name="python_docs")}, "data.name must be a set with a class label"),
    ],
)
def test_wrong_config_names_the_key(section, message):
    with pytest.raises(ValueError, match=message):
        classification.build(make_config(**section))
