"""Federated classification: what a round does, what it counts, whose algorithms, and clients split over devices."""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lemmata.core import trees
from lemmata.train import experiments
from lemmata.train.engine import sharding
from lemmata.train.engine.loop import fit
from lemmata.train.engine.sources import Resident
from lemmata.train.experiments import federated
from lemmata.train.experiments.federated import clipped_uniform
from lemmata.train.experiments.report import ArmResult
from lemmata.train.judge import config as configs

PARAMS = 64 * 8 + 8 + 8 * 10 + 10  # of the small network
CLIENTS, STEPS = 8, 3


FAMILY = experiments.get("federated")
SENT = {"fedavg": (1, 1), "fedadam": (1, 1), "scaffold": (2, 2), "mime": (3, 2), "mvr": (3, 2)}  # models down, up


def make_config(*, data=(), train=(), protocol=(), name="fedavg", **method):
    config = ConfigDict(dict(experiment="federated", arms=dict(main=dict(name=name) | method), seeds=(0,)))
    config.data = ConfigDict(dict(clients=CLIENTS, partitions=4) | dict(data))
    config.model = ConfigDict(dict(hidden=(8,)))
    config.protocol = ConfigDict(dict(local_steps=STEPS, local_batch=4) | dict(protocol))
    config.train = ConfigDict(dict(steps=6, batch_size=4, eval_batch_size=360, steps_per_dispatch=6) | dict(train))
    return configs.resolve_arm(configs.complete(config), "main")


def items(**method):
    return tuple(method.items())


MVR, SCAFFOLD = items(name="mvr", adaptive=True), items(name="scaffold")
QUANTIZED = items(name="clipped_uniform", bits=(2, 4), weighting="inverse_mse")
SPARSE = items(clients=40, concentration=0.02)  # so that some clients have no data


def test_methods_are_found_with_their_own_settings():
    assert set(FAMILY.methods) == {*SENT, "clipped_uniform"}
    settings = {name: FAMILY.method_settings(name) for name in FAMILY.methods}
    assert settings["fedavg"] == settings["scaffold"] == dict(learning_rate=0.2)
    assert settings["mime"] == dict(learning_rate=0.2, momentum=0.9)
    assert set(settings["mvr"]) - set(settings["fedadam"]) == {"step_scale", "offset", "momentum_scale", "adaptive"}
    assert set(settings["clipped_uniform"]) == {"learning_rate", "bits", "clip", "rounding", "weighting"}


@functools.cache
def started(method):
    """Task, initial state and a jitted round of 8 clients, shared by the tests."""
    config = make_config(**dict(method), data=SPARSE, train=dict(batch_size=8))
    task = federated.build(config)
    params, variables = jax.jit(task.objective.init)(jax.random.key(0), Resident(None, task.resident))
    return task, params, variables, jax.jit(task.objective.update)


# -------------------------------------------------------------------------------------------------------------- rounds


@pytest.mark.parametrize("method", [MVR, SCAFFOLD, QUANTIZED, items(name="fedadam"), items(name="mime")])
def test_a_round_moves_the_model_and_counts_what_was_sent(method):
    task, before, start, update = started(method)
    batch = Resident(task.train.sample(jax.random.key(0), 8), task.resident)
    params, variables, metrics = update(before, start, batch, jax.random.key(1))
    assert trees.all_finite((params, variables))
    assert jax.tree.structure(variables) == jax.tree.structure(start)
    assert not np.array_equal(params[0]["kernel"], before[0]["kernel"])
    assert 0 < metrics["without_data"] < 1  # clients without data are asked, send nothing and do no harm
    assert variables["round"] == 1
    assert start["reached"] == 6 + 1  # a target that is never reached: one more than there are rounds
    algorithm = dict(method)["name"]
    down, up = SENT.get(algorithm, (1, 1))
    assert variables["bytes_down"] - start["bytes_down"] == 8 * down * 4 * PARAMS
    assert start["bytes_up"] == (40 * 4 * PARAMS if algorithm == "mvr" else 0)  # its first direction
    senders = round(8 * (1 - float(metrics["without_data"])))
    sent = variables["bytes_up"] - start["bytes_up"]
    if method == QUANTIZED:
        assert senders * PARAMS / 4 < sent < senders * (PARAMS / 2 + 4 * 9)  # 2 or 4 bits a weight, little beside them
    else:
        assert sent == senders * up * 4 * PARAMS


@pytest.mark.parametrize("method", [MVR, QUANTIZED])
def test_a_round_in_which_nobody_has_data_changes_nothing(method):
    task, before, start, update = started(method)
    empty = np.flatnonzero(task.resident.counts[int(start["partition"])] == 0)
    assert len(empty)
    params, variables, metrics = update(
        before, start, Resident(jnp.full(8, empty[0]), task.resident), jax.random.key(1)
    )
    assert metrics["without_data"] == 1
    jax.tree.map(np.testing.assert_array_equal, params, before)
    jax.tree.map(np.testing.assert_array_equal, variables["server"], start["server"])
    assert variables["bytes_up"] == start["bytes_up"]


def test_partition_and_weights_are_those_of_the_seed_whatever_the_arm():
    keys = jax.random.split(jax.random.key(0), 16)

    def inits(algorithm):
        task = federated.build(make_config(name=algorithm))
        return jax.jit(jax.vmap(task.objective.init, (0, None)))(keys, Resident(None, task.resident))

    (params, variables), (same, other) = inits("fedavg"), inits("mvr")
    jax.tree.map(np.testing.assert_array_equal, params, same)
    np.testing.assert_array_equal(variables["partition"], other["partition"])
    assert set(variables["partition"].tolist()) == set(range(4))
    assert params[0]["kernel"].std() == pytest.approx(0.15, rel=0.05)


def test_clients_of_a_round_are_drawn_without_replacement():
    task = federated.build(make_config())
    draws = jax.jit(jax.vmap(lambda key: task.train.sample(key, 4)))(jax.random.split(jax.random.key(0), 50))
    assert all(len(set(row)) == 4 for row in draws.tolist())
    assert set(draws.ravel().tolist()) == set(range(CLIENTS))


# -------------------------------------------------------------------------------------------------------------- uplink


def models():
    keys = jax.random.split(jax.random.key(0), 3)
    return jax.vmap(lambda key: federated.init_network(key, (5, 4, 3), 0.3))(keys)


@functools.partial(jax.jit, static_argnums=(3, 4))
def uplink(models, weights, widths, bits, choices):
    settings = FAMILY.method_settings("clipped_uniform") | dict(choices) | dict(bits=bits)
    settings.pop("learning_rate")
    return clipped_uniform._quantized_uplink(models, weights, widths, key=jax.random.key(1), **settings)


def test_bytes_are_those_of_the_packed_codes():
    sent, widths = models(), (2, 3, 8)
    _, sizes = uplink(sent, jnp.full(3, 1 / 3), jnp.array(widths), widths, items(weighting="inverse_mse"))
    layers = [leaf[0].size for leaf in jax.tree.leaves(sent)]
    assert sizes.tolist() == [sum(-(-n * width // 8) + 8 for n in layers) for width in widths]


@pytest.mark.parametrize("choices", [items(rounding="nearest"), items(clip="max")])
def test_many_bits_give_the_weighted_mean(choices):
    sent, weights = models(), jnp.array([0.2, 0.3, 0.5])
    received, _ = uplink(sent, weights, jnp.full(3, 16), (16,), choices)
    expected = trees.weighted_sum(sent, weights)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4), received, expected)


def test_a_noisy_client_gets_less_weight_by_its_error():
    sent = jax.tree.map(lambda x: jnp.repeat(x[:1], 3, axis=0), models())  # one model, in 2, 2 and 8 bits
    errors = {}
    for weighting in ("data", "inverse_mse"):
        received, _ = uplink(sent, jnp.full(3, 1 / 3), jnp.array([2, 2, 8]), (2, 8), items(weighting=weighting))
        difference = jax.tree.map(lambda x, y: jnp.sum((x - y[0]) ** 2), received, sent)
        errors[weighting] = sum(jax.tree.leaves(difference))
    assert errors["inverse_mse"] < 0.1 * errors["data"]


def test_a_client_of_weight_zero_sends_nothing_and_counts_for_nothing():
    filled, weights = models(), jnp.array([0.4, 0.0, 0.6])
    sent = jax.tree.map(lambda x: x.at[1].set(jnp.nan), filled)
    choices = items(weighting="inverse_mse", rounding="nearest")
    received, sizes = uplink(sent, weights, jnp.full(3, 4), (4,), choices)
    without, _ = uplink(filled, weights, jnp.full(3, 4), (4,), choices)
    assert sizes[1] == 0
    assert sizes[0] > 0
    jax.tree.map(np.testing.assert_array_equal, received, without)


@pytest.mark.parametrize("clip", ["optimal", "max"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_weight_that_is_not_finite_harms_no_other_than_it_must(clip, bad):
    """An infinite one is clipped; a NaN, which has no code, shows in its layer, and there alone."""
    sent, weights = models(), jnp.array([0.2, 0.3, 0.5])
    place = (1, 2, 1)
    broken = [dict(layer) for layer in sent]
    broken[0]["kernel"] = sent[0]["kernel"].at[place].set(bad)
    choices = items(clip=clip, rounding="nearest")
    received, _ = uplink(broken, weights, jnp.full(3, 8), (8,), choices)
    without, _ = uplink(sent, weights, jnp.full(3, 8), (8,), choices)
    if np.isnan(bad):
        assert np.isnan(received[0].pop("kernel")).all()
        without[0].pop("kernel")
    else:
        got, expected = received[0]["kernel"], without[0]["kernel"]
        assert np.isfinite(got).all()
        received[0]["kernel"] = got.at[place[1:]].set(expected[place[1:]])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=5e-3), received, without)


# -------------------------------------------------------------------------------------------------------------- engine


def test_clients_split_over_devices_train_as_on_one():
    task, params, variables, update = started(MVR)
    batch = jnp.argsort(-task.resident.counts.sum(0))[:8]
    config = make_config()
    config.mesh.data = 8
    mesh = sharding.make_mesh(config.mesh)

    def on_mesh(params, variables, batch, resident, key):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return task.objective.update(params, variables, Resident(batch, resident), key)

    split = jax.device_put(batch, sharding.batch_sharding(mesh))
    whole = (params, variables, task.resident, jax.random.key(1))
    params_, variables_, resident, key = jax.device_put(whole, sharding.replicated(mesh))
    compiled = jax.jit(on_mesh).lower(params_, variables_, split, resident, key).compile()
    many, _, metrics = compiled(params_, variables_, split, resident, key)
    one, _, _ = update(params, variables, Resident(batch, task.resident), jax.random.key(1))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), many, one)
    assert metrics["without_data"] < 1
    assert f"f32[1,{STEPS},4,64]" in compiled.as_text()  # each device holds the minibatches of its own client alone


def test_averaging_learns_digits_and_reports_every_metric():
    train, protocol = (
        dict(steps=24, batch_size=8, eval_every=4, steps_per_dispatch=4),
        dict(local_batch=16, local_steps=10),
    )
    config = make_config(data=dict(split="iid"), train=train, protocol=protocol, learning_rate=0.5)
    config.mesh.data = 1
    result = fit(federated.build(config), config, (0, 1), progress=False)
    assert set(result.metrics) == set(federated.METRICS)
    assert np.all(result.metrics["accuracy"] > 0.85)
    assert np.all(result.metrics["grad_norm2"] < 1.0)
    np.testing.assert_allclose(result.metrics["uplink"], 24 * 8 * 4 * PARAMS / 1e6, rtol=1e-5)
    rounds, curve = result.history["test/accuracy"]
    for seed in range(2):  # at the latest when an evaluation first shows it
        assert result.metrics["rounds_to_target"][seed] <= rounds[np.argmax(curve[seed] >= 0.85)]


def result(accuracy, uplink, **method):
    values = np.array([accuracy, accuracy + 0.02])
    curve = np.arange(1, 4), np.linspace(0.3, values, 3).T
    metrics = {"accuracy": values, "uplink": np.full(2, uplink), "grad_norm2": 1 - values}
    return ArmResult(metrics, {"accuracy": curve, "grad_norm2": curve}, 1.0, config=make_config(**method))


@pytest.mark.parametrize("packed", [False, True])
def test_figures_say_what_their_axes_are(packed):
    config = ConfigDict(dict(experiment="federated", arms=dict(mvr=dict(name="mvr"), other=dict(name="fedavg"))))
    config.claim = ConfigDict(dict(metric="accuracy", better="mvr", than="other"))
    other = result(0.8, 0.25, name="clipped_uniform") if packed else result(0.8, 1.0, name="fedavg")
    drawing = federated.figure(configs.complete(config), {"mvr": result(0.9, 1.0, name="mvr"), "other": other})
    labels = [ax.get_xlabel() for ax in drawing.axes]
    assert labels == (["sent up, all clients [MB]"] if packed else ["round", "round"])
    assert all(ax.get_ylabel() for ax in drawing.axes)


# ------------------------------------------------------------------------------------------------- a user's own method

OWN = """
import jax
import jax.numpy as jnp

from lemmata.core import local_steps, trees
from lemmata.train.experiments.federated import Algorithm, Problem, Sent


def sign_sgd(problem: Problem, *, learning_rate=0.01, decay=0.5):
    def init(params, first):
        return jax.tree.map(lambda x: jnp.zeros((problem.num_clients, *x.shape)), params), Sent(0, 0)

    def run(params, carried, given):
        own = local_steps.gradients(params, given.batches, grad_fn=problem.grad_fn)
        own = jax.tree.map(lambda old, new: decay * old[given.clients] + new, carried, own)
        carried = jax.tree.map(lambda all, some: all.at[given.clients].set(some), carried, own)
        votes = trees.weighted_sum(jax.tree.map(jnp.sign, own), given.weights)
        after = jax.tree.map(lambda x, vote: x - learning_rate * jnp.sign(vote), params, votes)
        return after, carried, Sent(trees.num_params(params) / 8, 4 * trees.num_params(params))

    return Algorithm(init, run, packed=True)


def growing(problem):
    return Algorithm(lambda params, first: ((), Sent(0, 0)), lambda params, carried, given: (params, (0,), Sent(0, 0)))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's module that can be imported."""
    (tmp_path / "own_rounds.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_rounds", None)


def test_an_algorithm_of_a_user_is_run_like_ours(own):
    train = dict(steps=30, batch_size=8, steps_per_dispatch=30)
    config = make_config(name="own_rounds:sign_sgd", data=dict(split="iid"), train=train, protocol=dict(local_batch=16))
    assert config.method.to_dict() == dict(name="own_rounds:sign_sgd", learning_rate=0.01, decay=0.5)
    config.mesh.data = 1
    fitted = fit(federated.build(config), config, (0,), progress=False)
    assert fitted.metrics["accuracy"] > 0.5
    np.testing.assert_allclose(fitted.metrics["uplink"], 30 * 8 * PARAMS / 8 / 1e6, rtol=1e-5)
    np.testing.assert_allclose(fitted.metrics["downlink"], 30 * 8 * 4 * PARAMS / 1e6, rtol=1e-5)
    with pytest.raises(ValueError, match=r"arms\.main\.decai: .*Did you mean 'decay'\?"):
        make_config(name="own_rounds:sign_sgd", decai=0.1)


def test_what_is_carried_must_stay_of_one_form(own):
    task = federated.build(make_config(name="own_rounds:growing"))
    params, variables = jax.eval_shape(task.objective.init, jax.random.key(0), Resident(None, task.resident))
    batch = Resident(jnp.arange(4), task.resident)
    with pytest.raises(ValueError, match="method 'own_rounds:growing': params and state must have the structure"):
        jax.eval_shape(task.objective.update, params, variables, batch, jax.random.key(1))


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (dict(name="fedavrg"), "method.name: federated has no method 'fedavrg'. Did you mean 'fedavg'?"),
        (dict(name="clipped_uniform", clip="median"), "clip must be one of"),
        (dict(name="clipped_uniform", rounding="down"), "rounding must be one of"),
        (dict(name="clipped_uniform", weighting="loss"), "weighting must be one of"),
        (dict(name="clipped_uniform", bits=()), "bits must be integers from 1 to 24, at least one"),
        (dict(name="clipped_uniform", bits=(True, 4)), "bits must hold int elements"),
        (dict(name="clipped_uniform", bits=(0, 4)), "bits must be integers from 1 to 24"),
        (dict(name="fedadam", server_learning_rate=0.0), "server_learning_rate must be in (0, inf)"),
        (dict(name="mvr", server_learning_rate=-1.0), "server_learning_rate must be in (0, inf)"),
        (dict(protocol=dict(local_steps=0)), "protocol.local_steps must be an integer of at least 1"),
        (dict(protocol=dict(local_batch=0)), "protocol.local_batch must be an integer of at least 1"),
        (dict(train=dict(batch_size=9)), "the clients of a round, must be at most 8, got 9"),
        (dict(data=dict(clients=0)), "data.clients must be at least 1"),
        (dict(data=dict(name="diabetes")), "data.name must be a set with a class label"),
    ],
)
def test_a_wrong_setting_is_named(bad, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        federated.build(make_config(**bad))


@pytest.mark.parametrize(
    ("method", "owner"),
    [
        (dict(name="mvr", bits=(4,)), "clipped_uniform"),
        (dict(name="fedavg", weighting="inverse_mse"), "clipped_uniform"),
        (dict(name="mvr", learning_rate=0.1), "fedavg, fedadam, scaffold, mime, clipped_uniform"),
        (dict(name="scaffold", momentum=0.5), "mime"),
    ],
)
def test_a_setting_of_another_method_is_refused_by_name(method, owner):
    setting, name = list(method)[1], method["name"]
    expected = rf"arms\.main\.{setting}: method '{name}' has no such setting.*{owner}\."
    with pytest.raises(ValueError, match=expected) as error:
        make_config(**method)
    assert "\n" not in str(error.value)
