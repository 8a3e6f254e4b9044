"""Federated classification: what a round does, what it counts, and that clients may be split over devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lemmata.core import trees
from lemmata.train import config as configs
from lemmata.train import sharding
from lemmata.train.experiments import federated
from lemmata.train.loop import fit
from lemmata.train.statistics import ArmResult

PARAMS = 64 * 8 + 8 + 8 * 10 + 10  # of the small network
CLIENTS, STEPS = 8, 3


def make_config(*, data=(), train=(), **method):
    config = ConfigDict(dict(experiment="federated", arms=dict(main={}), seeds=(0,)))
    config.data = ConfigDict(dict(clients=CLIENTS, partitions=4) | dict(data))
    config.model = ConfigDict(dict(hidden=(8,)))
    config.method = ConfigDict(dict(local_steps=STEPS, local_batch=4) | method)
    config.train = ConfigDict(dict(steps=6, batch_size=4, eval_batch_size=360, steps_per_dispatch=6) | dict(train))
    return configs.resolve_arm(configs.complete(config), "main")


def started(config, seed=0):
    task = federated.build(config)
    batch = task.train.sample(jax.random.key(seed), config.train.batch_size)
    params, variables = jax.jit(task.objective.init)(jax.random.key(seed), batch)
    return task, params, variables, batch


def one_round(config, batch=None, seed=0):
    task, params, variables, drawn = started(config, seed)
    batch = drawn if batch is None else batch
    after = jax.jit(task.objective.update)(params, variables, batch, jax.random.key(seed + 1))
    return params, variables, after


# -------------------------------------------------------------------------------------------------------------- rounds


@pytest.mark.parametrize("algorithm", list(federated.MODELS_SENT))
def test_a_round_moves_the_model_and_counts_what_was_sent(algorithm):
    config = make_config(algorithm=algorithm, adaptive=algorithm == "mvr")
    before, start, (params, variables, metrics) = one_round(config)
    assert trees.all_finite((params, variables))
    assert jax.tree.structure(variables) == jax.tree.structure(start)
    assert not np.array_equal(params[0]["kernel"], before[0]["kernel"])
    down, up = federated.MODELS_SENT[algorithm]
    taking_part = round(4 * (1 - float(metrics["without_data"])))
    assert variables["bytes_up"] - start["bytes_up"] == taking_part * up * 4 * PARAMS
    assert variables["bytes_down"] - start["bytes_down"] == 4 * down * 4 * PARAMS
    assert start["bytes_up"] == (CLIENTS * 4 * PARAMS if algorithm == "mvr" else 0)  # its first direction
    assert variables["round"] == 1


def test_rounds_to_the_target_are_the_first_that_reaches_it():
    def reached(target):
        _, _, (_, variables, metrics) = one_round(make_config(target=target))
        return int(variables["reached"]), float(metrics["accuracy"])

    first, accuracy = reached(0.0)
    assert first == 1
    assert reached(accuracy + 1e-3)[0] == 6 + 1  # one more than there are rounds


def test_partition_is_that_of_the_seed_whatever_the_arm():
    drawn = [started(make_config(algorithm=name), seed=3) for name in ("fedavg", "scaffold", "mvr")]
    assert len({int(variables["partition"]) for _, _, variables, _ in drawn}) == 1
    for _, params, _, _ in drawn[1:]:
        jax.tree.map(np.testing.assert_array_equal, params, drawn[0][1])
    across = {int(started(make_config(), seed=seed)[2]["partition"]) for seed in range(8)}
    assert len(across) > 1


def test_clients_of_a_round_are_drawn_without_replacement():
    task = federated.build(make_config())
    draws = np.array([task.train.sample(jax.random.key(seed), 4) for seed in range(50)])
    assert all(len(set(row)) == 4 for row in draws.tolist())
    assert set(draws.ravel().tolist()) == set(range(CLIENTS))


# ------------------------------------------------------------------------------------------------- clients without data


@pytest.mark.parametrize("method", [dict(), dict(algorithm="mvr"), dict(bits=(2, 4), weighting="inverse_mse")])
def test_rounds_in_which_clients_have_no_data(method):
    config = make_config(data=dict(concentration=0.02, clients=40), train=dict(batch_size=8), **method)
    _, _, (params, variables, metrics) = one_round(config)
    assert metrics["without_data"] > 0
    assert trees.all_finite((params, variables))


def test_a_round_in_which_nobody_has_data_changes_nothing(monkeypatch):
    def deals(labels, settings):  # client 0 holds everything
        counts = np.zeros((1, CLIENTS), np.int32)
        counts[0, 0] = len(labels)
        return np.tile(np.arange(len(labels), dtype=np.int32), (1, CLIENTS, 1)), counts

    monkeypatch.setattr(federated, "deals", deals)
    for method in (dict(algorithm="mvr"), dict(bits=(4,))):
        before, start, (params, variables, metrics) = one_round(make_config(**method), batch=jnp.arange(1, 5))
        assert metrics["without_data"] == 1
        jax.tree.map(np.testing.assert_array_equal, params, before)
        jax.tree.map(np.testing.assert_array_equal, variables["server"], start["server"])
        assert variables["bytes_up"] == start["bytes_up"]


# -------------------------------------------------------------------------------------------------------------- uplink


def models(clients=3):
    keys = jax.random.split(jax.random.key(0), clients)
    return jax.vmap(lambda key: federated.init_network(key, (5, 4, 3), 0.3))(keys)


@functools.partial(jax.jit, static_argnums=(3, 4))
def uplink(models, weights, widths, bits, choices):
    method = make_config(bits=bits, **dict(choices)).method
    return federated.quantized_uplink(models, weights, widths, key=jax.random.key(1), method=method)


@pytest.mark.parametrize("weighting", ["data", "inverse_mse"])
def test_bytes_are_those_of_the_packed_codes(weighting):
    sent, widths = models(), (2, 3, 8)
    _, sizes = uplink(sent, jnp.full(3, 1 / 3), jnp.array(widths), widths, (("weighting", weighting),))
    layers = [leaf[0].size for leaf in jax.tree.leaves(sent)]
    beside = 8 if weighting == "inverse_mse" else 4
    assert sizes.tolist() == [sum(-(-n * width // 8) + beside for n in layers) for width in widths]


@pytest.mark.parametrize(
    "choices", [(), (("rounding", "nearest"),), (("clip", "max"),), (("weighting", "inverse_mse"),)]
)
def test_many_bits_give_the_weighted_mean(choices):
    sent, weights = models(), jnp.array([0.2, 0.3, 0.5])
    if ("weighting", "inverse_mse") in choices:  # all alike: any weights average to the same
        sent = jax.tree.map(lambda x: jnp.repeat(x[:1], 3, axis=0), sent)
    received, _ = uplink(sent, weights, jnp.full(3, 16), (16,), choices)
    expected = trees.weighted_sum(sent, weights)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4), received, expected)


def test_a_noisy_client_gets_less_weight_by_its_error():
    sent = jax.tree.map(lambda x: jnp.repeat(x[:1], 2, axis=0), models())  # one model, sent in 2 and in 8 bits
    args = jnp.full(2, 0.5), jnp.array([2, 8]), (2, 8)
    exact = jax.tree.map(lambda x: x[0], sent)
    errors = {}
    for weighting in ("data", "inverse_mse"):
        received, _ = uplink(sent, *args, (("weighting", weighting),))
        errors[weighting] = sum(
            jnp.sum((x - y) ** 2) for x, y in zip(*map(jax.tree.leaves, (received, exact)), strict=True)
        )
    assert errors["inverse_mse"] < 0.1 * errors["data"]


def test_a_client_of_weight_zero_sends_nothing_and_counts_for_nothing():
    sent = jax.tree.map(lambda x: x.at[1].set(jnp.nan), models())
    kept = jax.tree.map(lambda x: x[::2], sent)
    for weighting in ("data", "inverse_mse"):
        choices = (("weighting", weighting), ("rounding", "nearest"))
        received, sizes = uplink(sent, jnp.array([0.4, 0.0, 0.6]), jnp.full(3, 4), (4,), choices)
        without, _ = uplink(kept, jnp.array([0.4, 0.6]), jnp.full(2, 4), (4,), choices)
        assert sizes[1] == 0
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), received, without)


# -------------------------------------------------------------------------------------------------------------- engine


def test_clients_split_over_devices_train_as_on_one():
    config = make_config(algorithm="mvr", train=dict(batch_size=8, steps=2), data=dict(clients=16))
    task = federated.build(config)
    fitted = []
    for devices in (1, 8):
        config.mesh.data = devices
        mesh = sharding.make_mesh(config.mesh, jax.devices()[:devices])
        fitted.append(fit(task, config, (0,), mesh=mesh, progress=False))
    one, many = (result.state.params for result in fitted)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), many, one)


def test_averaging_learns_digits_and_reports_every_metric():
    config = make_config(
        data=dict(split="iid"), train=dict(steps=25, batch_size=8, eval_every=5), local_batch=16, learning_rate=0.5
    )
    config.mesh.data = 1
    result = fit(federated.build(config), config, (0, 1), progress=False)
    assert set(result.metrics) == set(federated.METRICS)
    assert np.all(result.metrics["accuracy"] > 0.85)
    assert np.all(result.metrics["rounds_to_target"] <= 25)
    assert np.all(result.metrics["grad_norm2"] < 1.0)
    np.testing.assert_allclose(result.metrics["uplink"], 25 * 8 * 4 * PARAMS / 1e6, rtol=1e-5)


def arm(accuracy, uplink):
    values = np.array([accuracy, accuracy + 0.02])
    curve = np.arange(1, 4), np.linspace(0.3, values, 3).T
    metrics = {"accuracy": values, "uplink": np.full(2, uplink), "grad_norm2": 1 - values}
    return ArmResult(metrics, {"accuracy": curve, "grad_norm2": curve}, 1.0)


@pytest.mark.parametrize("bits", [(), (4,)])
def test_figures_say_what_their_axes_are(bits):
    config = configs.defaults()
    config.arms = ConfigDict(dict(mvr=dict(), fedavg=dict(bits=bits)))
    config.method = federated.defaults().method
    config.claim = ConfigDict(dict(metric="accuracy", better="mvr", than="fedavg", direction="higher", paper=""))
    drawing = federated.figure(config, {"mvr": arm(0.9, 1.0), "fedavg": arm(0.8, 0.25)})
    labels = [ax.get_xlabel() for ax in drawing.axes]
    assert labels == (["sent up, all clients [MB]"] if bits else ["round", "round"])
    assert all(ax.get_ylabel() for ax in drawing.axes)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (dict(algorithm="fedprox"), "method.algorithm must be one of"),
        (dict(clip="median"), "method.clip must be one of"),
        (dict(rounding="down"), "method.rounding must be one of"),
        (dict(weighting="loss"), "method.weighting must be one of"),
        (dict(algorithm="mvr", bits=(4,)), 'method.bits must be () but with algorithm "fedavg"'),
        (dict(weighting="inverse_mse"), 'method.weighting must be "data" where nothing is quantized'),
        (dict(bits=(0, 4)), "method.bits must be integers from 1 to 24"),
        (dict(local_steps=0), "method.local_steps must be at least 1"),
        (dict(local_batch=0), "method.local_batch must be at least 1"),
        (dict(train=dict(batch_size=9)), "the clients of a round, must be at most 8, got 9"),
        (dict(data=dict(clients=0)), "data.clients must be at least 1"),
        (dict(data=dict(name="python_docs")), "data.name must be a set with a class label"),
    ],
)
def test_a_wrong_setting_is_named(bad, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        federated.build(make_config(**bad))
