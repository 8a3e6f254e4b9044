"""The ConvNet: its two convolutions agree, examples do not mix, pooling, dtypes, sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lemmata.core.networks.convnet import ConvNet, convolve_patches

X = jax.random.normal(jax.random.key(0), (8, 9, 6, 3))


@functools.cache
def make(**overrides):
    network = ConvNet(**{"features": (8, 12), "num_outputs": 5, **overrides})
    return network, jax.jit(network.init)(jax.random.key(1), X)


@functools.partial(jax.jit, static_argnums=0)
def outputs_of(network, params, x):
    return network.apply(params, x)


@functools.partial(jax.jit, static_argnums=0)
def gradient_of(network, params):
    return jax.grad(lambda p: jnp.mean(network.apply(p, X) ** 2))(params)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_patches_are_the_native_convolution(side):
    kernel = jax.random.normal(jax.random.key(1), (side, 3, 3, 5))
    native = jax.lax.conv_general_dilated(X, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(convolve_patches(X, kernel), native, rtol=1e-4, atol=1e-5)


def test_activations_start_at_order_one():
    network, params = make(features=(64, 64))
    kernels = [params["params"][f"convolution_{i}"]["kernel"] for i in range(2)]
    np.testing.assert_allclose([k.var() * k[..., 0].size for k in kernels], 1.0, rtol=0.15)  # 1 / fan-in
    assert 0.2 < float(outputs_of(network, params, X).std()) < 2.0


@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_both_convolutions_share_parameters_and_gradients(pool):
    (native, params), (patches, _) = (make(pool=pool, convolution=name) for name in ("native", "patches"))
    grads = [gradient_of(network, params) for network in (native, patches)]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_examples_do_not_mix():
    network, params = make(features=(8, 8, 8, 8))  # more stages than halvings
    together, alone = outputs_of(network, params, X), outputs_of(network, params, X[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-5, atol=1e-6)


def test_remat_changes_no_gradient():
    (plain, params), (frugal, same) = make(), make(remat="full")
    assert jax.tree.structure(same) == jax.tree.structure(params)
    grads = [gradient_of(network, params) for network in (plain, frugal)]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_bfloat16_stays_close_and_its_outputs_are_not_rounded(dtype):
    network, params = make(dtype=dtype)
    half = outputs_of(network, jax.tree.map(lambda p: p.astype(jnp.bfloat16), params), X.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    assert (half != half.astype(jnp.bfloat16)).any()
    np.testing.assert_allclose(half, outputs_of(make()[0], params, X), atol=0.05)


@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_no_image_has_no_outputs(pool):
    network, params = make(pool=pool)
    assert network.apply(params, X[:0]).shape == (0, 5)


def test_brightness_far_above_the_contrast_is_normalised_away():
    network, params = make(features=(8,))
    centre = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)  # one tap, so that the border does not see the offset
    stage = params["params"]["convolution_0"]
    params = {"params": params["params"] | {"convolution_0": {"kernel": stage["kernel"] * centre}}}
    expected = outputs_of(network, params, X)
    np.testing.assert_allclose(outputs_of(network, params, X + 3000.0), expected, atol=5e-3)


def test_sharded_batch_gives_the_same_values():
    network, params = make()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
    got, expected = outputs_of(network, params, sharded), outputs_of(network, params, X)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "bad", [{"features": ()}, {"num_outputs": 0}, {"pool": "max"}, {"convolution": "fft"}, {"remat": "some"}]
)
def test_bad_attribute_is_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ConvNet(**bad).init(jax.random.key(0), X)


def test_bad_input_shape_is_told():
    with pytest.raises(ValueError, match=r"x must be \[batch, height, width, channels\], got shape \(8, 9, 6\)"):
        ConvNet().init(jax.random.key(0), X[..., 0])
