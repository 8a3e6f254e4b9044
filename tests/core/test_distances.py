"""Unit vectors, with a gradient everywhere; nearest and farthest rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.core import distances
from lemmata.core.distances import l2_normalize

X = jax.random.normal(jax.random.key(0), (6, 5))


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])  # the squares of the last two leave float32
def test_rows_have_length_one_and_keep_their_direction(scale):
    unit = l2_normalize(scale * X)
    expected = np.asarray(X, np.float64) / np.linalg.norm(np.asarray(X, np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(unit, expected, rtol=1e-5)


def test_zero_stays_zero_and_passes_no_gradient():
    x = X.at[2].set(0.0)
    unit, pull = jax.vjp(l2_normalize, x)
    gradient = pull(jnp.ones_like(unit))[0]
    assert not unit[2].any()
    assert not gradient[2].any()
    assert np.isfinite(gradient).all()


def test_gradient_is_that_of_the_quotient():
    weights = jax.random.normal(jax.random.key(1), X.shape)
    plain = jax.grad(lambda x: jnp.sum(weights * x / jnp.linalg.norm(x, axis=-1, keepdims=True)))(X)
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(weights * l2_normalize(x)))(X), plain, rtol=1e-4, atol=1e-6)
    along = jnp.sum(plain * X, axis=-1)
    np.testing.assert_allclose(along, 0.0, atol=1e-5)  # length does not matter, so there is no slope along it


def test_other_axis_and_dtype():
    np.testing.assert_allclose(l2_normalize(X.T, axis=0), l2_normalize(X).T, rtol=1e-6)
    assert l2_normalize(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert l2_normalize(jnp.array([3, 4])).dtype == jnp.float32
    assert l2_normalize(jnp.zeros((3, 0))).shape == (3, 0)


@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_nearest_and_farthest_are_those_of_all_pairs(block_size):
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    squared = np.square(x[:, None].astype(np.float64) - x).sum(-1)
    nearest, farthest = distances.nearest_and_farthest(jnp.asarray(x), block_size=block_size)
    np.testing.assert_allclose(nearest, np.where(np.eye(9), np.inf, squared).min(1), rtol=1e-5)
    np.testing.assert_allclose(farthest, squared.max(1), rtol=1e-5)


def test_near_rows_far_from_the_origin_keep_their_distance():
    nearest, _ = distances.nearest_and_farthest(jnp.array([[4096.0], [4096.25], [8192.0]]))
    np.testing.assert_allclose(nearest[:2], 0.0625, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_distances_of_narrow_rows_are_neither_rounded_nor_infinite(dtype):
    x = jnp.array([[0.0], [1.0078125], [300.0]]).astype(dtype)  # 300^2 is beyond float16
    nearest, farthest = distances.nearest_and_farthest(x)
    np.testing.assert_array_equal(nearest, np.square([1.0078125, 1.0078125, 300.0 - 1.0078125]).astype(np.float32))
    np.testing.assert_array_equal(farthest[:1], 90_000.0)


def test_nearest_of_duplicates_is_zero_and_one_row_has_none():
    nearest, farthest = distances.nearest_and_farthest(jnp.ones((3, 2), jnp.bfloat16))
    assert nearest.dtype == farthest.dtype == jnp.float32
    assert not nearest.any()
    assert not farthest.any()
    with pytest.raises(ValueError, match="two rows"):
        distances.nearest_and_farthest(jnp.ones((1, 2)))
