"""Directions that diagonalise two classes of trials against SciPy, and where there is little to diagonalise."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg as scipy_linalg

from lemmata.methods.layers.imagined_speech import _spatial as spatial


def scaled_trials(seed, spread, n=12, time=60):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(5, 5)) * np.logspace(0, spread, 5)[:, None]
    return np.einsum("cd,ndt->nct", mixing, rng.normal(size=(n, 5, time))).astype(np.float32)


@pytest.mark.parametrize("spread", [0, 6, -9])
@pytest.mark.parametrize("ridge", [0.0, 0.1, 10.0])
def test_joint_diagonalizer_is_scipys_for_channels_of_any_scale(spread, ridge):
    x = scaled_trials(13, spread)
    member = np.arange(12)[None] % 2 == np.arange(2)[:, None]
    values, vectors, rank = spatial.joint_diagonalizer(
        jnp.asarray(x), jnp.asarray(member / 6.0, jnp.float32), ridge=ridge
    )
    exact = np.einsum("ki,ict,idt->kcd", member / 6.0, x.astype(np.float64), x.astype(np.float64))
    composite = exact.sum(0) + ridge * np.trace(exact.sum(0)) / 5 * np.eye(5)
    scale = 1 / np.sqrt(np.diagonal(composite))  # which SciPy needs, too
    expected = scipy_linalg.eigh(
        exact[0] * scale[:, None] * scale, composite * scale[:, None] * scale, eigvals_only=True
    )
    assert rank == 5
    np.testing.assert_allclose(values, expected, atol=1e-5)
    w = np.asarray(vectors, np.float64)
    np.testing.assert_allclose(w.T @ composite @ w, np.eye(5), atol=1e-4)


def test_joint_diagonalizer_resolves_directions_that_squares_would_drown():
    """A channel that is the sum of two others to one part in 1000, which the second moments know to no digit."""
    x = scaled_trials(13, 0).astype(np.float64)
    x[:, 4] = x[:, 0] + x[:, 1] + 1e-3 * x[:, 4]
    x = x.astype(np.float32)
    member = np.arange(12)[None] % 2 == np.arange(2)[:, None]
    values, _, rank = spatial.joint_diagonalizer(jnp.asarray(x), jnp.asarray(member / 6.0, jnp.float32))
    exact = np.einsum("ki,ict,idt->kcd", member / 6.0, x.astype(np.float64), x.astype(np.float64))
    assert rank == 5
    np.testing.assert_allclose(values, scipy_linalg.eigh(exact[0], exact.sum(0), eigvals_only=True), atol=1e-4)


def test_joint_diagonalizer_of_nothing_has_no_rank():
    values, vectors, rank = spatial.joint_diagonalizer(jnp.zeros((3, 4, 5)), jnp.ones((2, 3)))
    assert rank == 0
    np.testing.assert_array_equal(values, 0.5)
    np.testing.assert_array_equal(vectors, 0.0)
