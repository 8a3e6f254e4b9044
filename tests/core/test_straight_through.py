"""Straight-through values: the value of one thing, the gradient of another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.core.straight_through import straight_through


def test_value_is_exact_and_gradient_is_the_surrogates():
    x = jnp.array([0.3, 1e8, -7.5])
    value, gradient = jax.value_and_grad(lambda x: straight_through(jnp.round(x) * 0.1, jnp.sin(x)).sum())(x)
    np.testing.assert_array_equal(straight_through(jnp.round(x) * 0.1, jnp.sin(x)), jnp.round(x) * 0.1)
    assert jnp.isfinite(value)
    np.testing.assert_allclose(gradient, jnp.cos(x))


def test_infinite_values_stay_what_they_are():
    value = jnp.array([jnp.inf, -jnp.inf, jnp.nan])
    np.testing.assert_array_equal(straight_through(value, value), value)


def test_works_under_jit_vmap_and_forward_mode():
    x = jnp.linspace(-2, 2, 8).reshape(2, 4)
    rounded = jax.jit(jax.vmap(lambda x: straight_through(jnp.round(x), x)))
    value, tangent = jax.jvp(rounded, (x,), (3 * jnp.ones_like(x),))
    np.testing.assert_array_equal(value, jnp.round(x))
    np.testing.assert_array_equal(tangent, 3.0)


def test_another_shape_or_an_integer_is_refused():
    with pytest.raises(ValueError, match=r"surrogate must have shape \[2\] as value, got \[3\]"):
        straight_through(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(ValueError, match="value must be a float, got int32"):
        straight_through(jnp.zeros(2, jnp.int32), jnp.zeros(2))
