"""Classification: loading, the loss, learning, and what a wrong config is told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lemmata.train.experiments import classification
from lemmata.train.experiments.classification.cross_entropy import cross_entropy
from lemmata.train.judge import config as configs


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


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.7])
def test_smoothed_loss_is_the_cross_entropy_with_the_mixture(label_smoothing):
    logits = 3 * jax.random.normal(jax.random.key(0), (6, 5))
    labels = jnp.array([0, 1, 2, 3, 4, 0])
    expected = optax.softmax_cross_entropy(logits, optax.smooth_labels(jax.nn.one_hot(labels, 5), label_smoothing))
    seen = classification.Seen(None, labels, None, logits, None, None)
    np.testing.assert_allclose(cross_entropy(seen, label_smoothing=label_smoothing), expected, rtol=1e-5)


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
    assert all(value.shape == (7,) for value in metrics[0].values())
    np.testing.assert_array_equal(metrics[0]["loss"], metrics[1]["loss"])
    losses = [task.objective.loss(params, variables, batch, jax.random.key(1))[0] for task in (plain, smoothed)]
    np.testing.assert_allclose(losses[0], metrics[0]["loss"].mean(), rtol=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-3


def test_summary_agrees_with_counts_by_hand():
    label = np.array([0, 0, 0, 1, 2])
    probs = np.eye(3)[[0, 0, 1, 1, 2]] * 0.7 + 0.1  # confidence 0.8 each; the third is wrong
    found = classification.summarize(probs, label)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert found["f1"] == pytest.approx((0.8 + 2 / 3 + 1) / 3)
    assert found["calibration_error"] == pytest.approx(0, abs=1e-6)  # four of five are right, at a confidence of 0.8


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
        ({"model": dict(options=dict(width=3))}, "model.options .* must be empty"),
        ({"method": dict(name="hinge")}, "has no method 'hinge'.*cross_entropy"),
        ({"method": dict(label_smothing=0.1)}, "label_smothing.*Did you mean 'label_smoothing'"),
        ({"data": dict(scale="half")}, "data.scale must be one of"),
        ({"train": dict(eval_split="validation")}, "data.train = 'train.validation' holds the rows"),
        ({"data": dict(name="wine")}, 'model.name must be "mlp" for rows of features'),
        ({"data": dict(name="diabetes")}, "data.name must be a set with a class label"),
        ({"data": dict(name="python_docs")}, "data.name must be a set with a class label"),
    ],
)
def test_wrong_config_names_the_key(section, message):
    with pytest.raises(ValueError, match=message):
        classification.build(make_config(**section))


def test_a_setting_outside_its_range_is_named_when_the_loss_is_traced():
    task = classification.build(make_config(method=dict(label_smoothing=1.0)))
    batch = jax.tree.map(lambda x: x[:7], task.train.arrays)
    params, held = jax.eval_shape(task.objective.init, jax.random.key(0), batch)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got 1.0"):
        jax.eval_shape(task.objective.loss, params, held, batch, jax.random.key(0))
