"""Segmentation: matching, the loss of a set, the objective on scenes, the figure, and what a wrong config is told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from scipy.optimize import linear_sum_assignment

from lemmata.methods.layers import prompt_guided_masks as pmp
from lemmata.train.experiments.report import ArmResult
from lemmata.train.experiments.studies import prompted_scenes as segmentation
from lemmata.train.judge import config as configs

DATA = dict(size=12, cell=6, objects=(1, 3), prompts=2)
MODEL = dict(dim=8, num_heads=2, hidden=8, features=(8,), text_dim=8, num_layers=1, num_queries=2)


def make_config(**sections):
    config = ConfigDict(dict(experiment="prompted_scenes", data=DATA, model=MODEL, method={}))
    for name, section in sections.items():
        config[name].update(section)
    config.arms = dict(main=config.method)
    del config.method
    return configs.resolve_arm(configs.complete(config), "main")


# --- sets


@pytest.mark.parametrize(("queries", "targets"), [(3, 3), (5, 3), (2, 4)])
def test_matching_is_the_cheapest(queries, targets):
    random = np.random.default_rng(0)
    costs = random.uniform(0, 30, (40, queries, targets)).astype(np.float32)
    where = random.uniform(size=(40, targets)) < 0.7
    paired = np.asarray(jax.jit(jax.vmap(segmentation.match))(costs, where))
    for cost, real, pairs in zip(costs, where, paired, strict=True):
        rows, columns = linear_sum_assignment(cost[:, real])
        assert pairs.sum() == len(rows)
        assert not pairs[:, ~real].any()
        assert pairs.sum(0).max() <= 1
        assert pairs.sum(1).max() <= 1
        np.testing.assert_allclose(cost[pairs].sum(), cost[:, real][rows, columns].sum(), rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_matching_ends_where_costs_are_not_finite(value):
    pairs = segmentation.match(jnp.array([[value, 1.0], [value, value]]), jnp.ones(2, bool))
    assert pairs.tolist() == [[False, True], [True, False]]


def predictions_of(seed, depth=2, batch=3, queries=3, prompts=2, side=6):
    random = np.random.default_rng(seed)
    class_logits = random.normal(size=(depth, batch, queries, prompts + 1))
    masks = 2 * random.normal(size=(depth, batch, queries, side, side))
    targets = random.uniform(size=(batch, prompts, side, side)) < 0.3
    where = np.array([[1, 1], [1, 0], [1, 1]], bool)
    class_logits[..., :prompts] = np.where(where[:, None], class_logits[..., :prompts], -np.inf)
    predictions = segmentation.Predictions(jnp.asarray(class_logits, jnp.float32), jnp.asarray(masks, jnp.float32))
    return predictions, {"target": jnp.asarray(targets), "where": jnp.asarray(where)}


WEIGHTS = dict(class_weight=2.0, mask_weight=5.0)
set_loss = jax.jit(functools.partial(segmentation.set_loss, **WEIGHTS))


def test_cost_of_a_pair_is_its_loss():
    predictions, batch = predictions_of(0)
    costs = segmentation.pair_costs(predictions, batch["target"], class_weight=0.0, mask_weight=1.0)
    for query in range(3):
        masks, targets = predictions.masks[1, :, query, None], batch["target"][:, :1].astype(jnp.float32)
        expected = optax.sigmoid_binary_cross_entropy(masks, targets).mean((-1, -2)) + pmp.dice_loss(masks, targets)
        np.testing.assert_allclose(costs[1, :, query, 0], expected[:, 0], rtol=1e-5)


def test_loss_of_a_set_has_no_order_of_queries():
    predictions, batch = predictions_of(1)
    order = np.array([2, 0, 1])
    permuted = jax.tree.map(lambda x: x[:, :, order], predictions)
    np.testing.assert_allclose(set_loss(permuted, batch), set_loss(predictions, batch), rtol=1e-5)


def test_right_answers_in_any_order_cost_nothing():
    predictions, batch = predictions_of(2)
    for order in ([0, 1, 2], [2, 0, 1]):  # the third query finds no object
        label = np.where(np.asarray(batch["where"]), [0, 1], 2)
        label = np.concatenate([label, np.full((3, 1), 2)], axis=1)[:, order]
        logits = jnp.where(label[..., None] == np.arange(3), 30.0, 0.0)
        logits = jnp.where(jnp.isneginf(predictions.class_logits[0]), -jnp.inf, logits)
        masks = jnp.pad(60.0 * batch["target"] - 30.0, ((0, 0), (0, 1), (0, 0), (0, 0)))[:, jnp.array(order)]
        right = segmentation.Predictions(*(jnp.stack([x, x]) for x in (logits, masks)))
        np.testing.assert_allclose(set_loss(right, batch), 0.0, atol=1e-4)


@pytest.mark.parametrize("asked", [True, False])
def test_prompt_that_fits_nothing_is_an_empty_mask(asked):
    predictions, batch = predictions_of(3)
    batch = {"target": jnp.zeros_like(batch["target"]), "where": batch["where"] & asked}
    if not asked:
        class_logits = predictions.class_logits.at[..., :-1].set(-jnp.inf)
        predictions = predictions._replace(class_logits=class_logits)
    value, gradient = jax.value_and_grad(lambda masks: set_loss(predictions._replace(masks=masks), batch))(
        predictions.masks
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.all(np.asarray(gradient) >= 0)  # every matched mask shrinks
    assert np.any(np.asarray(gradient) > 0) == asked


def test_intersection_over_union():
    half, other = jnp.arange(4).reshape(2, 2) < 2, jnp.arange(4).reshape(2, 2) % 2 == 0
    nothing = jnp.zeros((2, 2), bool)
    pairs = [(half, half), (half, other), (half, ~half), (nothing, nothing), (nothing, half)]
    masks, targets = (jnp.stack(side) for side in zip(*pairs, strict=True))
    np.testing.assert_allclose(segmentation.intersection_over_union(masks, targets), [1, 1 / 3, 0, 1, 0], rtol=1e-6)


def test_each_prompt_takes_the_mask_of_its_query():
    class_logits = jnp.array([[[9.0, 0.0, 0.0], [8.0, 9.0, 0.0], [5.0, 5.0, 20.0]]])
    masks = jnp.where(jnp.eye(3, dtype=bool), 1.0, -1.0).reshape(1, 3, 1, 3)
    chosen = segmentation.choose(class_logits, masks)
    np.testing.assert_array_equal(chosen[0, :, 0], np.eye(3, dtype=bool)[[0, 1]])


# --- the objective


@functools.cache
def started(prompt):
    """The task, a batch of it, and fresh parameters."""
    task = segmentation.build(make_config(method=dict(prompt=prompt)))
    batch = jax.jit(task.train.sample, static_argnums=1)(jax.random.key(0), 8)
    return task.objective, batch, *jax.jit(task.objective.init)(jax.random.key(1), batch)


def test_a_few_steps_learn_a_batch():
    objective, batch, params, variables = started(True)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            (loss, _), grads = jax.value_and_grad(objective.loss, has_aux=True)(params, variables, batch, None)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, optimizer.init(params)), length=60)[1]

    losses = train(params)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("prompt", [True, False])
def test_only_a_guided_decoder_proposes_by_the_prompts(prompt):
    """Where other prompts are asked, the best proposals for the same targets change, or they do not."""
    objective, batch, params, variables = started(prompt)
    evaluate = jax.jit(lambda batch: objective.evaluate(params, variables, batch, None))
    others = batch | {"shape": jnp.roll(batch["shape"], 1, 0), "color": jnp.roll(batch["color"], 1, 0)}
    metrics, elsewhere = evaluate(batch), evaluate(others)
    assert np.array_equal(metrics["best_miou"], elsewhere["best_miou"]) == (not prompt)
    assert set(metrics) == set(segmentation.METRICS)
    assert all(value.shape == (8,) for value in metrics.values())
    assert np.all((metrics["miou"] >= 0) & (metrics["miou"] <= metrics["best_miou"] + 1e-6))
    assert np.all(metrics["best_miou"] <= 1)


def test_queries_may_be_fewer_than_prompts():
    config = make_config(model=dict(num_queries=1))
    task = segmentation.build(config)

    def loss(key):
        batch = task.train.sample(key, 2)
        params, variables = task.objective.init(key, batch)
        return task.objective.loss(params, variables, batch, key)[0]

    assert jax.eval_shape(loss, jax.random.key(0)).shape == ()


def test_figure_shows_the_curves_and_what_is_asked():
    config = configs.complete(
        ConfigDict(
            dict(
                experiment="prompted_scenes",
                data=DATA,
                arms=dict(guided=dict(prompt=True), unguided=dict(prompt=False)),
                claim=dict(metric="miou", better="guided", than="unguided"),
            )
        )
    )
    results = {
        arm: ArmResult({"miou": np.full(3, top)}, {"miou": (np.array([10, 20]), np.full((3, 2), top))}, 1.0)
        for arm, top in (("guided", 0.6), ("unguided", 0.4))
    }
    drawing = segmentation.figure(config, results)
    curves, *pictures = drawing.axes
    assert curves.get_xlabel() == "training step"
    assert curves.get_ylabel() == "mean IoU of the asked masks"
    assert sum(len(ax.images) for ax in pictures) == len(pictures) > 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"data": dict(size=13)}, "data.size must be even"),
        ({"data": dict(cell=4)}, "data.cell"),
        ({"data": dict(prompts=0)}, "data.prompts"),
        ({"model": dict(num_queries=0)}, "model.num_queries"),
        ({"model": dict(num_heads=3)}, "num_heads must divide"),
        ({"model": dict(temperature=0.0)}, "temperature"),
    ],
)
def test_wrong_config_names_the_key(section, message):
    def start():
        task = segmentation.build(make_config(**section))
        jax.eval_shape(lambda key: task.objective.init(key, task.train.sample(key, 2)), jax.random.key(0))

    with pytest.raises(ValueError, match=message):
        start()
