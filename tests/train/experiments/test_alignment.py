"""Alignment: the feedback, stages and references, fusion, and what a wrong config is told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from lemmata.methods.losses.alignment import kto
from lemmata.train import config as configs
from lemmata.train import data
from lemmata.train.experiments import alignment
from lemmata.train.state import init_state
from lemmata.train.statistics import ArmResult
from lemmata.train.step import StepOptions, make_step


def make_config(*, steps=0, **method):
    config = ConfigDict(dict(
        experiment="alignment",
        data=dict(prompt=4, answer=5, test_rows=64),
        model=dict(num_layers=1, num_heads=2, model_dim=8, mlp_dim=8, pretraining=dict(steps=steps, batch_size=8)),
        mesh=dict(data=1),
        arms=dict(main=method),
    ))  # fmt: skip
    return configs.resolve_arm(configs.complete(config), "main")


class Bigrams(nn.Module):
    """Logits that depend on the last byte alone: quick to compile."""

    @nn.compact
    def __call__(self, tokens):
        return nn.Embed(256, 256)(tokens)


@functools.cache
def base():
    return Bigrams().init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))


def objective_of(**method):
    return alignment.make_objective(make_config(**method), Bigrams(), base())


@functools.cache
def batch(n=8):
    rng = np.random.default_rng(0)
    good = rng.integers(256, size=(n, 5))
    return {
        "prompt": jnp.asarray(rng.integers(256, size=(n, 4)), jnp.uint8),
        "good": jnp.asarray(good, jnp.uint8),
        "bad": jnp.asarray(rng.permuted(good, axis=1), jnp.uint8),
    }


def moved(tree, amount):
    return jax.tree.map(lambda x: x + amount * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), tree)


@functools.cache
def compiled(loss):
    return jax.jit(loss)


def gradient_of(objective, policies, variables):
    gradient, _ = jax.jit(jax.grad(objective.loss, has_aux=True))(policies, variables, batch(), jax.random.key(0))
    return gradient


def loss_and_after(objective, policies, variables, rows=None):
    rows = batch() if rows is None else rows
    value, (after, metrics) = compiled(objective.loss)(policies, variables, rows, jax.random.key(0))
    return value, after, metrics


# ------------------------------------------------------------------------------------------------------------ feedback


def test_answers_continue_their_prompts_and_bad_ones_are_the_same_bytes():
    rows = alignment.feedback("python_docs", "test", prompt=6, answer=10, seed=1)
    text = data.windows("python_docs", "test", 16)["tokens"]
    np.testing.assert_array_equal(np.concatenate([rows["prompt"], rows["good"]], axis=1), text)
    np.testing.assert_array_equal(np.sort(rows["good"], axis=1), np.sort(rows["bad"], axis=1))
    assert np.mean((rows["good"] == rows["bad"]).all(axis=1)) < 0.1  # runs of blanks have one order
    few = alignment.feedback("python_docs", "test", prompt=6, answer=10, seed=1, rows=7)
    assert few["prompt"].shape == (7, 6)
    np.testing.assert_array_equal(few["good"][[0, -1]], text[[0, -1], 6:])


def test_the_same_seed_shuffles_alike_and_another_does_not():
    one, same, other = (alignment.feedback("python_docs", "test", prompt=4, answer=5, seed=s)["bad"] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


# ------------------------------------------------------------------------------------------------------------- stages


def test_sft_learns_from_the_desirable_rows_alone():
    objective = objective_of(policies=(("sft",),))
    policies, variables = objective.init(jax.random.key(0), batch())
    value, _, metrics = loss_and_after(objective, policies, variables)
    every_other = {name: rows[::2] for name, rows in batch().items()}
    nats = jax.jit(objective.evaluate)(policies, variables, every_other, jax.random.key(0))["cross_entropy"]
    np.testing.assert_allclose(value, nats.mean(), rtol=1e-5)
    assert metrics["sft_loss"] == value


def test_kto_starts_at_one_half():
    """The policy is its reference, so that z0 = 0 and every loss is half of its weight."""
    for weight in (1.0, 3.0):
        objective = objective_of(policies=(("kto",),), undesirable_weight=weight)
        policies, variables = objective.init(jax.random.key(0), batch())
        value, _, metrics = loss_and_after(objective, policies, variables)
        np.testing.assert_allclose(value, (0.5 + 0.5 * weight) / 2, rtol=1e-6)
        assert metrics["reference_point"] == 0


def test_two_stages_are_sft_then_kto_with_the_sft_model_as_reference():
    both, sft = objective_of(policies=(("sft", "kto"),), first_steps=2), objective_of(policies=(("sft",),))
    policies, variables = both.init(jax.random.key(0), batch())
    models = [moved(policies[0], amount) for amount in (0.0, 0.01, 0.05, 0.09)]
    values = []
    for model in models:  # as if these were what the updates led to
        value, variables, _ = loss_and_after(both, (model,), variables)
        values.append(value)
        if len(values) <= 2:
            np.testing.assert_allclose(value, loss_and_after(sft, (model,), sft.init(None, batch())[1])[0], rtol=1e-6)
    np.testing.assert_allclose(values[2], 0.5, rtol=1e-6)  # the model at the change of stages is now the reference
    assert abs(values[3] - 0.5) > 1e-4
    jax.tree.map(np.testing.assert_array_equal, variables["references"][0], models[2])


def one_update(objective, state, rows, accumulate):
    optimizer = optax.sgd(1.0)
    return jax.jit(make_step(objective, optimizer, StepOptions(accumulate=accumulate)))(state, rows)


def test_micro_batches_of_one_row_give_the_loss_of_the_batch():
    """A row alone would be its own reference point, and so tell nothing of whether it is good."""
    objective = objective_of(policies=(("kto",),), beta=0.5)
    rows = batch()
    state = init_state(objective, optax.sgd(1.0), jax.random.key(0), rows)
    state = state._replace(params=moved(state.params, 0.3))
    whole, parts = (one_update(objective, state, rows, accumulate) for accumulate in (1, 8))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole[0].params, parts[0].params)
    assert whole[1]["reference_point"] == pytest.approx(float(parts[1]["reference_point"]), rel=1e-5)
    replaced, _ = one_update(objective, state, rows | {"bad": 255 - rows["bad"]}, 8)
    assert (
        max(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), replaced.params, parts[0].params))) > 1e-3
    )


def test_micro_batches_do_not_shorten_the_first_stage():
    objective = objective_of(policies=(("sft", "kto"),), first_steps=2)
    state = init_state(objective, optax.sgd(1.0), jax.random.key(0), batch())
    losses = []
    for _ in range(3):
        state, metrics = one_update(objective, state, batch(), 2)
        losses.append(float(metrics["loss"]))
    assert min(losses[:2]) > 1
    assert losses[2] == pytest.approx(0.5)


def test_the_base_stays_as_it_is():
    objective = objective_of(policies=((),))
    policies, variables = objective.init(jax.random.key(0), batch())
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient_of(objective, policies, variables)))


def test_loss_of_a_sharded_batch_is_that_of_one_device():
    """z0 is a mean over the global batch, of rows that were rolled over the edges of the shards."""
    objective = objective_of(policies=(("kto",),), beta=0.5)
    (policy,), variables = objective.init(jax.random.key(0), batch())
    bytes_of = np.bincount(np.asarray(batch(16)["good"]).ravel(), minlength=256)
    policies = (jax.tree.map(lambda x: x + jnp.asarray(bytes_of > 0, x.dtype), policy),)  # likelier, all of them
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    placed = jax.device_put(batch(16), NamedSharding(mesh, PartitionSpec("data")))
    value, _, metrics = loss_and_after(objective, policies, variables, batch(16))
    sharded, _, sharded_metrics = loss_and_after(objective, policies, variables, placed)
    assert metrics["reference_point"] > 0
    np.testing.assert_allclose(sharded, value, rtol=1e-5)
    np.testing.assert_allclose(sharded_metrics["reference_point"], metrics["reference_point"], rtol=1e-4)


# ------------------------------------------------------------------------------------------------------------- fusion


@pytest.mark.parametrize("merge", alignment.MERGES)
def test_several_policies_are_fused_for_the_evaluation(merge):
    fused = objective_of(policies=(("sft",), ("kto",)), merge=merge, density=1.0, merge_t=0.5)
    alone = objective_of(policies=(("sft",),))
    policies, variables = fused.init(jax.random.key(0), batch())
    policies = tuple(moved(policy, amount) for policy, amount in zip(policies, (0.02, 0.06), strict=True))
    merged = {
        "linear": lambda: kto.linear_merge(policies),
        "slerp": lambda: kto.slerp_merge(*policies),
        "ties": lambda: kto.ties_merge(base(), policies, density=1.0),
    }[merge]()
    metrics = jax.jit(fused.evaluate)(policies, variables, batch(), jax.random.key(0))
    expected = jax.jit(alone.evaluate)((merged,), variables, batch(), jax.random.key(0))
    assert set(metrics) == set(alignment.METRICS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), metrics, expected)


def test_policies_that_train_side_by_side_do_not_mix():
    both, sft = objective_of(policies=(("kto",), ("sft",))), objective_of(policies=(("sft",),))
    policies, variables = both.init(jax.random.key(0), batch())
    gradient = gradient_of(both, policies, variables)
    alone = gradient_of(sft, policies[1:], sft.init(None, batch())[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), gradient[1:], alone)


# ------------------------------------------------------------------------------------------------- the base, the report


def test_the_base_is_trained_once_and_shared():
    config = make_config(steps=3)
    first = alignment.pretrained(config)
    assert alignment.pretrained(make_config(steps=3, policies=(("kto",),))) is first
    untrained = alignment.pretrained(make_config())
    assert jax.tree.structure(first) == jax.tree.structure(untrained)
    task = alignment.build(config)
    (policy,), variables = task.objective.init(jax.random.key(5), batch())
    jax.tree.map(np.testing.assert_array_equal, policy, first)
    jax.tree.map(np.testing.assert_array_equal, variables["base"], first)
    assert task.test.size == 64


def test_figure_shows_every_arm_in_the_plane():
    config = ConfigDict(dict(experiment="alignment", arms=dict(base=dict(policies=((),)), sft={}, kto={})))
    config.claim = dict(metric="margin", better="kto", than="sft")
    config = configs.complete(config)
    rng = np.random.default_rng(0)
    results = {
        arm: ArmResult(
            {name: rng.normal(size=3) for name in alignment.METRICS},
            {name: (np.array([1, 2]), rng.normal(size=(3, 2))) for name in alignment.METRICS},
            1.0,
        )
        for arm in ("base", "sft", "kto")
    }
    (ax,) = alignment.figure(config, results).axes
    assert ax.get_xlabel() == "cross-entropy of good answers [nats/byte]"
    assert ax.get_ylabel() == "margin of good over bad answers [nats]"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(results)
    ways = [line for line in ax.lines if line.get_marker() == "." and len(line.get_xdata()) == 3]
    assert len(ways) == 2
    assert all(way.get_xdata()[0] == pytest.approx(results["base"].metrics["cross_entropy"].mean()) for way in ways)


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (dict(policies=()), r"method\.policies"),
        (dict(policies=("sft",)), r"method\.policies"),
        (dict(policies=(("sft", "dpo"),)), r"method\.policies.*dpo"),
        (dict(policies=(("sft", "kto", "sft"),)), r"method\.policies"),
        (dict(merge="average"), r"method\.merge"),
        (dict(first_steps=-1), r"method\.first_steps"),
        (dict(merge="slerp", policies=(("sft",),) * 3), r"method\.policies must be two"),
    ],
)
def test_bad_settings_are_named(method, named):
    with pytest.raises(ValueError, match=named):
        objective_of(**method)


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match=r"data\.answer"):
        alignment.feedback("python_docs", "test", prompt=4, answer=0, seed=0)
