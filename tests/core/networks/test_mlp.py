"""The MLP and rematerialisation by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.core.networks.mlp import MLP

X = jax.random.normal(jax.random.key(0), (5, 4))


def test_last_layer_is_linear():
    network = MLP((8, 3))
    params = network.init(jax.random.key(1), X)
    weights = params["params"]["layer_1"]
    hidden = jax.nn.relu(X @ params["params"]["layer_0"]["kernel"] + params["params"]["layer_0"]["bias"])
    np.testing.assert_allclose(network.apply(params, X), hidden @ weights["kernel"] + weights["bias"], rtol=1e-6)


def test_any_leading_axes():
    network = MLP((8, 3))
    params = network.init(jax.random.key(1), X)
    deep = network.apply(params, X[None, :, None])
    assert deep.shape == (1, 5, 1, 3)
    np.testing.assert_allclose(deep[0, :, 0], network.apply(params, X), rtol=1e-6)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_recomputes_and_changes_no_value(remat):
    def loss(params, network):
        return jnp.mean(network.apply(params, X) ** 2)

    plain, frugal = MLP((8, 8, 3), jnp.tanh), MLP((8, 8, 3), jnp.tanh, remat=remat)
    params = plain.init(jax.random.key(1), X)
    assert jax.tree.structure(frugal.init(jax.random.key(1), X)) == jax.tree.structure(params)
    for got, expected in zip(
        jax.tree.leaves(jax.grad(loss)(params, frugal)), jax.tree.leaves(jax.grad(loss)(params, plain)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    count = [str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(params, n)).count("tanh") for n in (plain, frugal)]
    assert count == [2, 4]  # each hidden activation once more on the way back


def test_dtype_follows_parameters_and_inputs():
    network = MLP((8, 3))
    params = network.init(jax.random.key(1), X)
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    assert network.apply(half, X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert network.apply(params, X.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("bad", [{"features": ()}, {"features": (4, 0)}, {"features": (2,), "remat": "some"}])
def test_bad_input_names_the_argument(bad):
    with pytest.raises(ValueError, match=list(bad)[-1]):
        MLP(**bad).init(jax.random.key(0), X)
