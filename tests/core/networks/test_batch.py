"""Activations follow the batch where weights are sharded over the same axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lemmata.core.networks.batch import split_batch
from lemmata.core.networks.mlp import MLP
from lemmata.core.networks.transformer import Transformer

MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def test_nothing_happens_without_a_mesh_or_where_it_does_not_divide():
    x = jnp.ones((3, 2))
    assert split_batch(x) is x
    with jax.set_mesh(MESH):
        assert split_batch(x) is x
        assert split_batch(jnp.ones((8, 2)), axis="rows").shape == (8, 2)


def test_batch_is_split_in_the_result():
    with jax.set_mesh(MESH):
        y = jax.jit(split_batch)(jnp.arange(16.0).reshape(16, 1))
    assert y.sharding.is_equivalent_to(NamedSharding(MESH, P("data")), 2)
    np.testing.assert_array_equal(y[:, 0], np.arange(16.0))


def test_seeds_in_front_stay_whole():
    with jax.set_mesh(MESH):
        y = jax.jit(jax.vmap(split_batch))(jnp.ones((3, 16, 2)))
    assert y.sharding.is_equivalent_to(NamedSharding(MESH, P(None, "data")), 3)


def sharded_over_the_largest_axis(leaf):
    axes = [axis for axis, size in enumerate(leaf.shape) if size % 8 == 0]
    largest = max(axes, key=lambda axis: leaf.shape[axis], default=None)
    spec = P(*("data" if axis == largest else None for axis in range(leaf.ndim)))
    return jax.device_put(leaf, NamedSharding(MESH, spec))


@pytest.mark.parametrize("network", ["mlp", "transformer"])
def test_fully_sharded_weights_do_not_replicate_the_work(network):
    if network == "mlp":
        module, x = MLP((256, 256, 16)), jax.random.normal(jax.random.key(0), (64, 32))
    else:
        module = Transformer(64, num_layers=2, num_heads=2, model_dim=64, mlp_dim=256, max_length=16)
        x = jax.random.randint(jax.random.key(0), (16, 16), 0, 64)
    params = jax.jit(module.init)(jax.random.key(1), x)
    expected = jax.jit(module.apply)(params, x)

    def gradient(params, x):
        with jax.sharding.use_abstract_mesh(MESH.abstract_mesh):
            return jax.grad(lambda p: jnp.mean(module.apply(p, x) ** 2))(params)

    flops = [
        jax.jit(gradient, out_shardings=jax.tree.map(lambda p: p.sharding, p))
        .lower(p, x)
        .compile()
        .cost_analysis()["flops"]
        for p, x in (
            (params, x),
            (jax.tree.map(sharded_over_the_largest_axis, params), jax.device_put(x, NamedSharding(MESH, P("data")))),
        )
    ]
    assert flops[1] < 0.2 * flops[0]  # an eighth, and some bookkeeping
    with jax.set_mesh(MESH):
        got = jax.jit(module.apply)(jax.tree.map(sharded_over_the_largest_axis, params), x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
