"""Where leaves live, and that a mesh changes nothing but that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lemmata.train.engine import sharding
from lemmata.train.engine.loop import fit


def test_minus_one_takes_the_rest(config):
    config.mesh.data, config.mesh.model = -1, 2
    assert dict(sharding.make_mesh(config.mesh).shape) == {"data": 4, "model": 2}


@pytest.mark.parametrize(("data", "model"), [(3, 1), (-1, 5), (-1, -1), (0, 1), (16, 1)])
def test_a_mesh_that_does_not_fit_is_refused(config, data, model):
    config.mesh.data, config.mesh.model = data, model
    with pytest.raises(ValueError, match="mesh"):
        sharding.make_mesh(config.mesh)


def test_a_batch_that_does_not_divide_is_refused(task, config):
    config.mesh.data, config.train.batch_size = 8, 12
    with pytest.raises(ValueError, match=r"train.batch_size.*12.*8"):
        fit(task, config, (0,))


def test_fsdp_splits_the_largest_axis_that_divides(config):
    config.mesh.data, config.mesh.strategy = 8, "fsdp"
    mesh = sharding.make_mesh(config.mesh)
    tree = {"wide": (64, 512), "tall": (1000, 30), "odd": (999, 77), "small": (8, 8), "scalar": ()}
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in tree.items()}
    specs = jax.tree.map(lambda s: s.spec, sharding.state_shardings(tree, mesh, config.mesh))
    assert specs == {"wide": P(None, "data"), "tall": P("data", None), "odd": P(), "small": P(), "scalar": P()}


def test_rules_place_parameters_and_their_moments(config):
    config.mesh.data, config.mesh.model = 4, 2
    config.mesh.rules = (("dense/kernel$", (None, "model")),)
    mesh = sharding.make_mesh(config.mesh)
    leaf = jax.ShapeDtypeStruct((6, 4), jnp.float32)
    tree = {"params": {"dense": {"kernel": leaf}}, "opt_state": [{"mu": {"dense": {"kernel": leaf}}}], "other": leaf}
    specs = jax.tree.map(lambda s: s.spec, sharding.state_shardings(tree, mesh, config.mesh))
    assert specs["params"]["dense"]["kernel"] == specs["opt_state"][0]["mu"]["dense"]["kernel"] == P(None, "model")
    assert specs["other"] == P()


@pytest.mark.parametrize(
    ("rules", "strategy", "match"),
    [
        ((("w", ("nope",)),), "replicate", "nope"),
        ((("w", ("data", None, None)),), "replicate", "3 axes"),
        ((("w", ("data",)),), "replicate", "splits"),
        ((), "zero3", "zero3"),
    ],
)
def test_rules_and_strategies_that_do_not_fit(config, rules, strategy, match):
    config.mesh.data, config.mesh.rules, config.mesh.strategy = 8, rules, strategy
    mesh = sharding.make_mesh(config.mesh)
    with pytest.raises(ValueError, match=match):
        sharding.state_shardings({"w": jax.ShapeDtypeStruct((9, 3), jnp.float32)}, mesh, config.mesh)


@pytest.mark.parametrize("strategy", ["replicate", "fsdp"])
def test_eight_devices_give_the_result_of_one(task, config, monkeypatch, strategy):
    monkeypatch.setattr(sharding, "FSDP_MIN_SIZE", 1)
    config.train.accumulate, config.train.ema = 2, 0.5
    one = fit(task, config, (0,))
    config.mesh.data, config.mesh.strategy = 8, strategy
    eight = fit(task, config, (0,))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one.state.params, eight.state.params
    )
    np.testing.assert_allclose(one.history["train/loss"][1], eight.history["train/loss"][1], rtol=1e-5)
    spec = eight.state.params["kernel"].sharding.spec
    assert spec == (P("data", None) if strategy == "fsdp" else P())
