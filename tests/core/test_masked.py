"""Masked reductions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.core import masked


def test_all_true_or_no_mask_is_the_plain_mean():
    x = jax.random.normal(jax.random.key(0), (4, 5))
    np.testing.assert_allclose(masked.mean(x, axis=1), x.mean(1), rtol=1e-6)
    np.testing.assert_allclose(masked.mean(x, jnp.ones((4, 1), bool)), x.mean(), rtol=1e-6)


def test_what_is_left_out_changes_neither_value_nor_gradient():
    where = jnp.array([True, False, True])
    for junk in (jnp.nan, jnp.inf, 1e30):
        value, gradient = jax.value_and_grad(masked.mean)(jnp.array([1.0, junk, 3.0]), where)
        assert value == 2.0
        np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.5])


def test_an_empty_mask_gives_the_stated_value_and_no_gradient():
    value, gradient = jax.value_and_grad(lambda x: masked.mean(x, jnp.zeros(3, bool), empty=1.0))(jnp.ones(3))
    assert value == 1.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_bfloat16_sums_in_float32():
    x = jnp.ones(1000, jnp.bfloat16)
    assert masked.mean(x) == 1.0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_mean_of_narrow_losses_is_not_rounded(dtype):
    """Two batches of losses that differ by less than the spacing of their dtype."""
    losses = jnp.arange(256.0, 512.0, 2).astype(dtype)
    means = [masked.mean(losses), masked.mean(losses.at[0].add(2.0)), masked.mean(losses, losses < 300)]
    assert all(mean.dtype == jnp.float32 for mean in means)
    np.testing.assert_allclose(means, [383.0, 383.0 + 2 / 128, 277.0], rtol=1e-7)


def test_max_is_that_of_the_entries_that_count():
    x = jnp.array([[3.0, 1.0, -2.0], [-5.0, -4.0, jnp.nan], [jnp.inf, 7.0, 7.0]])
    where = jnp.array([[True, True, True], [True, True, False], [False, False, False]])
    np.testing.assert_array_equal(masked.max(x, where, axis=1, empty=-1.0), [3.0, -4.0, -1.0])
    np.testing.assert_array_equal(masked.max(x[:1], axis=0), x[0])
    gradient = jax.grad(lambda x: masked.max(x, where, axis=1).sum())(x)
    np.testing.assert_array_equal(gradient, [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert masked.max(x.astype(jnp.bfloat16), where, axis=1).dtype == jnp.bfloat16
    assert masked.max(jnp.zeros((2, 0)), axis=1).tolist() == [0.0, 0.0]
