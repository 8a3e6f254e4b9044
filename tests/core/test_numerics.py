"""Dtypes to compute in, and weights that are safe when all are zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.core import numerics


@pytest.mark.parametrize(
    ("inputs", "result", "wide"),
    [
        ((jnp.zeros(1, jnp.bfloat16),), jnp.bfloat16, jnp.float32),
        ((jnp.zeros(1, jnp.bfloat16), 1.0), jnp.bfloat16, jnp.float32),
        ((jnp.zeros(1, jnp.bfloat16), jnp.zeros(1, jnp.float16)), jnp.float32, jnp.float32),
        ((jnp.zeros(1, jnp.bfloat16), jnp.zeros(1)), jnp.float32, jnp.float32),
        ((jnp.zeros(1, jnp.int32), np.zeros(1, bool)), jnp.float32, jnp.float32),
    ],
)
def test_dtypes(inputs, result, wide):
    assert numerics.float_dtypes(*inputs) == (result, wide)


def test_double_precision_stays():
    with jax.enable_x64(True):
        assert numerics.float_dtypes(np.zeros(1), jnp.zeros(1, jnp.bfloat16)) == (jnp.float64, jnp.float64)


def test_weights_sum_to_one_and_zero_weights_stay_zero():
    log_weights = jnp.array([[1e4, 1e4 - 1.0, -jnp.inf], [-jnp.inf, -jnp.inf, 3.0], [-jnp.inf, -jnp.inf, -jnp.inf]])
    weights = np.exp(numerics.log_normalize(log_weights))
    np.testing.assert_allclose(weights.sum(-1), [1, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(weights[0], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0], rtol=1e-5)
    np.testing.assert_allclose(np.exp(numerics.log_normalize(log_weights[:2].T, axis=0)), weights[:2].T)
    assert numerics.log_normalize(jnp.zeros((2, 0))).shape == (2, 0)


def test_weights_have_the_gradient_of_log_softmax_and_a_finite_one_where_all_are_zero():
    def slope(normalize):
        return jax.grad(lambda x: jnp.sum(normalize(x) * jnp.array([1.0, -2.0, 0.5])))

    x = jnp.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(slope(numerics.log_normalize)(x), slope(jax.nn.log_softmax)(x), rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(jnp.exp(numerics.log_normalize(x))))(jnp.full(3, -jnp.inf))
    assert np.isfinite(gradient).all()
