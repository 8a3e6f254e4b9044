"""Information-bottleneck steps: the parts that the tests of the methods do not see."""

import jax
import jax.numpy as jnp
import numpy as np

from lemmata.core import bottleneck

N, K = 11, 3
MATRIX = jax.nn.softmax(2 * jax.random.normal(jax.random.key(0), (N, N)), axis=1)


def test_random_labels_are_balanced_and_differ():
    labels = np.asarray(bottleneck.balanced_labels(jax.random.key(0), N, K, 5))
    for row in labels:
        assert sorted(np.bincount(row, minlength=K)) == [3, 4, 4]
    assert len({tuple(row) for row in labels}) == 5


def test_blocks_see_what_the_matrix_sees():
    whole = bottleneck.whole(MATRIX)
    blocks = bottleneck.in_blocks(lambda rows: rows, MATRIX, MATRIX.dtype, block_size=4)
    weights = jax.random.normal(jax.random.key(1), (K, N))
    np.testing.assert_allclose(blocks.weighted_sum(weights), whole.weighted_sum(weights), rtol=1e-5, atol=1e-6)
    for one, other in zip(bottleneck.marginal(blocks), bottleneck.marginal(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    labels = jnp.arange(N, dtype=jnp.int32) % K
    first = bottleneck.step(blocks, bottleneck.marginal(blocks), labels, K)
    second = bottleneck.step(whole, bottleneck.marginal(whole), labels, K)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_allclose(first[1], second[1], rtol=1e-4)


def test_marginal_is_the_mean_and_the_divergence_from_it():
    known = bottleneck.marginal(bottleneck.whole(MATRIX))
    p = np.asarray(MATRIX, np.float64)
    np.testing.assert_allclose(known.log_p, np.log(p.mean(0)), rtol=1e-5)
    np.testing.assert_allclose(known.divergence, np.sum(p * np.log(p / p.mean(0)), axis=1), rtol=1e-4)
    assert not known.has_zeros
    assert bottleneck.marginal(bottleneck.whole(jnp.eye(3))).has_zeros


def test_rows_that_say_the_same_move_to_no_one_and_beta_is_one():
    same = bottleneck.whole(jnp.full((4, 4), 0.25))
    labels = jnp.array([0, 0, 0, 1], jnp.int32)
    new, beta, rescued = bottleneck.step(same, bottleneck.marginal(same), labels, 2)
    assert beta == 1.0  # differences of KL that are rounding alone do not count
    assert rescued  # the larger cluster takes all, and gives one back
    assert sorted(np.bincount(new, minlength=2)) == [1, 3]
