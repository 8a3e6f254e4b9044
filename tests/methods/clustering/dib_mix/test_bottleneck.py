"""The parts of an information-bottleneck step that the tests of the public functions do not see."""

import jax
import jax.numpy as jnp
import numpy as np

from lemmata.methods.clustering.dib_mix import _bottleneck as bottleneck

N, K = 11, 3
MATRIX = jax.nn.softmax(2 * jax.random.normal(jax.random.key(0), (N, N)), axis=1)


def test_random_labels_are_balanced_and_differ():
    labels = np.asarray(bottleneck.balanced_labels(jax.random.key(0), N, K, 5))
    for row in labels:
        assert sorted(np.bincount(row, minlength=K)) == [3, 4, 4]
    assert len({tuple(row) for row in labels}) == 5


def test_blocks_see_what_the_matrix_sees():
    weights = jax.random.normal(jax.random.key(1), (K, N))

    @jax.jit
    def seen(matrix):
        blocks = bottleneck.in_blocks(lambda rows: rows, matrix, matrix.dtype, block_size=4)
        both = blocks, bottleneck.whole(matrix)
        return [(conditional.weighted_sum(weights), bottleneck.marginal(conditional)) for conditional in both]

    one, other = seen(MATRIX)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


def test_marginal_is_the_mean_and_the_divergence_from_it():
    known = bottleneck.marginal(bottleneck.whole(MATRIX))
    p = np.asarray(MATRIX, np.float64)
    np.testing.assert_allclose(known.log_p, np.log(p.mean(0)), rtol=1e-5)
    np.testing.assert_allclose(known.divergence, np.sum(p * np.log(p / p.mean(0)), axis=1), rtol=1e-4)
    assert not known.has_zeros
    assert bottleneck.marginal(bottleneck.whole(jnp.eye(3))).has_zeros
