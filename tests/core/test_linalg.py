"""Small symmetric problems against SciPy, and where they are singular."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg as scipy_linalg

from lemmata.core import linalg


def positive(seed, n=5, rank=5):
    factor = np.random.default_rng(seed).normal(size=(n, rank))
    return jnp.asarray(factor @ factor.T, jnp.float32)


def test_generalized_eigenvalues_are_scipys():
    a, b = positive(0), positive(1, rank=9)
    values, vectors = linalg.generalized_eigh(a, b)
    np.testing.assert_allclose(values, scipy_linalg.eigh(a, b, eigvals_only=True), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(vectors.T @ b @ vectors, np.eye(5), atol=1e-4)
    np.testing.assert_allclose(vectors.T @ a @ vectors, np.diag(values), atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_whitening_whitens_rows_of_any_scale(scale):
    spread = jnp.asarray(np.logspace(-4, 4, 5), jnp.float32)
    b = scale * positive(2, rank=9) * spread[:, None] * spread
    root = linalg.whitening(b)
    np.testing.assert_allclose(root.T @ b @ root, np.eye(5), atol=1e-3)


def test_whitening_leaves_out_what_is_not_there():
    b = positive(3, rank=3).at[4].set(0.0).at[:, 4].set(0.0)
    root = linalg.whitening(b)
    np.testing.assert_allclose(b @ root @ root.T @ b, b, atol=1e-3)
    np.testing.assert_array_equal(root[4], 0.0)
    assert (jnp.abs(root).max(0) > 0).sum() == np.linalg.matrix_rank(np.asarray(b), tol=1e-3)
    assert np.isfinite(linalg.whitening(jnp.zeros((3, 3)))).all()


def test_derivative_is_finite_where_eigenvalues_are_equal():
    """R R' is the inverse, whose derivative in direction E is -E at the identity."""

    def inverse(b):
        root = linalg.whitening(b)
        return root @ root.T

    direction = positive(4)
    _, slope = jax.jvp(inverse, (jnp.eye(5),), (direction,))
    np.testing.assert_allclose(slope, -direction, atol=1e-4)


def test_class_moments_are_numpys():
    x, label = np.random.default_rng(5).normal(size=(12, 3)), np.arange(12) % 3
    means, covariance = linalg.class_moments(jnp.asarray(x, jnp.float32), jax.nn.one_hot(label, 4))
    expected = np.stack([x[label == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(means[:3], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(means[3], 0.0)
    np.testing.assert_allclose(covariance, np.cov((x - expected[label]).T, bias=True), rtol=1e-4, atol=1e-5)


def test_class_moments_leave_rows_of_no_class_out_and_keep_their_digits_far_from_zero():
    rng = np.random.default_rng(6)
    label = np.arange(24) % 4 - 1  # a quarter is of no class
    x = (rng.normal(size=(24, 3)) + 1e4).astype(np.float32)
    x[label < 0] = np.nan
    means, covariance = linalg.class_moments(jnp.asarray(x), jax.nn.one_hot(label, 3))
    exact, label = x[label >= 0].astype(np.float64), label[label >= 0]
    expected = np.stack([exact[label == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    np.testing.assert_allclose(covariance, np.cov((exact - expected[label]).T, bias=True), rtol=1e-4, atol=1e-5)


def test_generalized_eigh_puts_directions_without_b_last_whatever_a_is_there():
    a, b = positive(7), positive(8, rank=3).at[4].set(0.0).at[:, 4].set(0.0)
    values, vectors = linalg.generalized_eigh(a - 4 * jnp.eye(5), b)
    rank = np.linalg.matrix_rank(np.asarray(b), tol=1e-3)
    assert (np.diff(values[:rank]) >= 0).all()
    np.testing.assert_array_equal(values[rank:], 0.0)
    np.testing.assert_array_equal(vectors[:, rank:], 0.0)
    np.testing.assert_allclose(vectors.T @ b @ vectors, np.diag(np.arange(5) < rank), atol=1e-3)


def test_derivative_of_eigenvalues_is_scipys_difference_and_finite_where_they_are_equal():
    a, b, direction = positive(9), positive(10, rank=9), positive(11)
    values, slope = jax.jvp(lambda a: linalg.generalized_eigh(a, b)[0], (a,), (direction,))
    exact = [np.asarray(array, np.float64) for array in (a, b, direction)]
    moved = [scipy_linalg.eigh(exact[0] + t * exact[2], exact[1], eigvals_only=True) for t in (-1e-5, 1e-5)]
    np.testing.assert_allclose(slope, (moved[1] - moved[0]) / 2e-5, rtol=2e-3, atol=2e-3 * np.abs(values).max())
    singular = jnp.diag(jnp.array([1.0, 1.0, 0.0, 0.0]))
    gradient = jax.grad(lambda b: sum(part.sum() for part in linalg.generalized_eigh(jnp.eye(4), b)))(singular)
    assert np.isfinite(gradient).all()
