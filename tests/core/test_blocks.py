"""Row blocks against the function of all rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.core import blocks

X = jax.random.normal(jax.random.key(0), (7, 3))


def distances(arrays):
    rows, index = arrays
    return {"to": jnp.abs(rows @ X.T).T, "index": index}  # [7, b] and [b], rows last


@pytest.mark.parametrize("block_size", [1, 3, 7, 100])
def test_mapped_rows_are_those_of_the_whole(block_size):
    arrays = (X, jnp.arange(7))
    blocked = jax.jit(lambda arrays: blocks.map_rows(distances, arrays, block_size=block_size))(arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), blocked, distances(arrays))


@pytest.mark.parametrize("block_size", [1, 3, 7, 100])
def test_sums_are_those_of_the_whole(block_size):
    total = blocks.sum_rows(lambda rows: (rows.T @ rows, rows.sum(0)), X, block_size=block_size)
    np.testing.assert_allclose(total[0], X.T @ X, rtol=1e-5)
    np.testing.assert_allclose(total[1], X.sum(0), rtol=1e-5, atol=1e-6)


def test_rows_may_have_no_columns():
    sizes = blocks.map_rows(lambda rows: rows[0].sum(1) + rows[1], (jnp.zeros((5, 0)), jnp.arange(5.0)), block_size=2)
    np.testing.assert_array_equal(sizes, jnp.arange(5.0))


def test_blocks_can_be_vmapped_over_what_the_function_holds():
    weights = jax.random.normal(jax.random.key(1), (2, 3))
    both = jax.vmap(lambda w: blocks.map_rows(lambda rows: rows @ w, X, block_size=2))(weights)
    np.testing.assert_allclose(both, weights @ X.T, rtol=1e-5, atol=1e-6)
