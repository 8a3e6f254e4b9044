"""Mixed kernels: what the tests of the public functions do not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.methods.clustering.dib_mix import _kernels as kernels
from lemmata.methods.clustering.dib_mix._kernels import Columns, Kernel

ROWS = Columns(jnp.array([[0.0, 1.0], [2.0, -1.0], [0.5, 3.0]]), jnp.array([[0, 2], [1, 0], [0, 1]]))
LAMBDAS = jnp.array([0.2, 0.5])


@pytest.mark.parametrize("continuous", kernels.CONTINUOUS)
@pytest.mark.parametrize("nominal", kernels.NOMINAL)
@pytest.mark.parametrize("ordinal", kernels.ORDINAL)
def test_equal_rows_have_most_and_order_does_not_matter(continuous, nominal, ordinal):
    kernel = Kernel((2, 3), continuous, nominal, ordinal, ordinal_columns=(1,))
    log_k = np.asarray(kernels.log_product(ROWS, ROWS, LAMBDAS, kernel))
    np.testing.assert_array_equal(np.diag(log_k), 0.0)
    np.testing.assert_allclose(log_k, log_k.T, rtol=1e-6)
    assert (log_k[~np.eye(3, dtype=bool)] < 0).all()


def test_a_product_is_the_sum_of_its_columns():
    kernel = Kernel((2, 3))
    whole = kernels.log_product(ROWS, ROWS, LAMBDAS, kernel)
    parts = jnp.zeros((3, 3))
    for j in range(2):
        alone = Columns(ROWS.continuous[:, j : j + 1], jnp.zeros((3, 0), jnp.int32))
        parts += kernels.log_product(alone, alone, jnp.zeros(0), Kernel(()))
        alone = Columns(jnp.zeros((3, 0)), ROWS.categorical[:, j : j + 1])
        parts += kernels.log_product(alone, alone, LAMBDAS[j : j + 1], Kernel(kernel.num_categories[j : j + 1]))
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_gradients_are_finite_beyond_the_support():
    kernel = Kernel((2, 3), continuous="epanechnikov")

    def some(x):
        columns = Columns(x, ROWS.categorical)
        return jnp.sum(kernels.conditional(columns, columns, LAMBDAS, kernel)[0] ** 2)

    assert np.isfinite(jax.grad(some)(ROWS.continuous)).all()


def test_row_without_support_is_zero_and_not_nan():
    far = Columns(jnp.full((1, 2), 99.0), jnp.zeros((1, 2), jnp.int32))
    p = kernels.conditional(far, ROWS, LAMBDAS, Kernel((2, 3), continuous="epanechnikov"))
    np.testing.assert_array_equal(p, 0.0)


@pytest.mark.parametrize("level", [1.01, 1.1, 3.0, 1e30])
def test_largest_bandwidth_brackets_the_root(level):
    squared = jnp.array([0.5, 1.0, 2.0, 4.0])
    tenths = float(kernels.largest_bandwidth(squared, jnp.log(level)))

    def gain(s):
        return np.mean(np.exp(np.asarray(squared, np.float64) / (2 * s**2)))

    assert gain(tenths / 10) >= level > gain(tenths / 10 + 0.1)


def test_no_bandwidth_reaches_a_gain_of_nothing():
    assert kernels.largest_bandwidth(jnp.zeros(3), jnp.log(1.1)) == 0
    assert kernels.largest_bandwidth(jnp.full(3, 1e9), jnp.log(1.1)) == 1000


def test_lambdas_give_the_importance_asked_for():
    xi = jnp.asarray(1.7)
    for nominal, ratio in (("aitchison_aitken", lambda lam: (1 - lam) / (lam / 2)), ("li_racine", lambda lam: 1 / lam)):
        lam = kernels.lambdas_at(xi, Kernel((3, 5), nominal=nominal, ordinal_columns=(1,)))
        assert ratio(float(lam[0])) == pytest.approx(1.7, rel=1e-5)
        assert float(lam[1]) ** -4 == pytest.approx(1.7, rel=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_largest_lambda_may_be_rounded_up(dtype):
    kernel = Kernel((3,))
    largest = jnp.asarray([2 / 3], dtype)
    kernels.check_bandwidths(None, largest, kernel, p=0)
    with pytest.raises(ValueError, match="categorical_bandwidths"):
        kernels.check_bandwidths(None, largest * 1.02, kernel, p=0)
