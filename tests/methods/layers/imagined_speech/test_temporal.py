"""Convolutions along time against their sums, at lengths that blocks do and do not divide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.methods.layers.imagined_speech import _temporal as temporal

SIZES = [(5, 1), (40, 9), (40, 16), (10, 31)]  # (samples, taps): one block, several, a rest
each_size = pytest.mark.parametrize(("samples", "taps"), SIZES)


moments = jax.jit(temporal.same_moments)


def same(x, kernel):
    """`[..., T]` with `[K, F]` to `[..., T, F]`, in float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [((len(kernel) - 1) // 2, len(kernel) // 2)])
    return np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=-1) @ kernel


@each_size
def test_depthwise_is_the_sum(samples, taps):
    x = jax.random.normal(jax.random.key(0), (2, samples, 3, 2))
    kernel = jax.random.normal(jax.random.key(1), (taps, 3))
    got = jax.jit(temporal.depthwise_same)(x, kernel)
    assert got.shape == x.shape
    for f in range(3):
        expected = same(jnp.moveaxis(x[:, :, f], 1, -1), kernel[:, f : f + 1])[..., 0]
        np.testing.assert_allclose(got[:, :, f], np.moveaxis(expected, -1, 1), rtol=1e-4, atol=1e-5)


@each_size
def test_moments_are_those_of_the_outputs(samples, taps):
    x = jax.random.normal(jax.random.key(2), (4, samples)) + jnp.arange(4.0)[:, None]
    kernel = jax.random.normal(jax.random.key(3), (taps, 3))
    y = same(x, kernel)
    mean, variance = moments(x, kernel)
    np.testing.assert_allclose(mean, y.mean((0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, y.var((0, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e5])
@pytest.mark.parametrize("of_each_row", [False, True])
@pytest.mark.parametrize("taps", [1, 16])
@pytest.mark.parametrize("blind", [False, True])
def test_offset_far_above_the_signal_keeps_the_moments(offset, of_each_row, taps, blind):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(16, 64)) + offset * (rng.normal(size=(16, 1)) if of_each_row else 1.0)
    kernel = rng.uniform(-0.1, 0.1, size=(taps, 3))
    x, kernel = jnp.asarray(x, jnp.float32), jnp.asarray(kernel - (kernel.mean(0) if blind else 0.0), jnp.float32)
    y = same(x, kernel)
    mean, variance = moments(x, kernel)
    np.testing.assert_allclose(mean, y.mean((0, 1)), rtol=1e-6, atol=1e-6 * y.std())
    np.testing.assert_allclose(variance, y.var((0, 1)), rtol=1e-6 if offset < 1e5 else 1e-4)


def test_nothing_has_no_moments():
    with pytest.raises(ValueError, match=r"x must hold at least one row and one sample, got shape \[0, 5\]"):
        temporal.same_moments(jnp.zeros((0, 5)), jnp.ones((3, 2)))


def test_no_rows_have_no_outputs():
    assert temporal.depthwise_same(jnp.zeros((0, 5, 3, 2)), jnp.ones((4, 3))).shape == (0, 5, 3, 2)
    assert temporal.convolve_valid(jnp.zeros((0, 5, 3)), jnp.ones((4, 3, 7))).shape == (0, 2, 7)


def test_gradient_of_the_moments_is_that_of_the_outputs():
    x = jax.random.normal(jax.random.key(6), (3, 21))
    kernel = jax.random.normal(jax.random.key(7), (4, 2))

    def formed(x, kernel):
        y = temporal.depthwise_same(x[:, :, None, None], kernel[:, :1])[..., 0]
        return jnp.var(y) + 2 * jnp.mean(y)

    def from_moments(x, kernel):
        mean, variance = temporal.same_moments(x, kernel)
        return variance[0] + 2 * mean[0]

    for one, other in zip(
        *(jax.jit(jax.grad(f, argnums=(0, 1)))(x, kernel) for f in (formed, from_moments)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_valid_convolution_is_the_sum():
    x = jax.random.normal(jax.random.key(8), (2, 9, 3))
    kernel = jax.random.normal(jax.random.key(9), (4, 3, 5))
    expected = sum(np.einsum("bti,io->bto", x[:, k : k + 6], kernel[k]) for k in range(4))
    np.testing.assert_allclose(temporal.convolve_valid(x, kernel), expected, rtol=1e-4, atol=1e-5)
