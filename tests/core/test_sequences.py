"""Log-probabilities of tokens and sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import special

from lemmata.core import sequences


def problem(dtype=jnp.float32, vocab=11):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(4, 6, vocab))
    return jnp.asarray(logits, dtype), jnp.asarray(rng.integers(vocab, size=(4, 6)), jnp.int32)


def plain(logits, labels):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]


def test_tokens_are_log_softmax_at_the_label():
    logits, labels = problem()
    np.testing.assert_allclose(sequences.token_logps(logits, labels), plain(logits, labels), rtol=1e-5, atol=1e-6)
    every = jnp.broadcast_to(jnp.arange(11)[:, None, None], (11, 4, 6))
    tiled = jnp.broadcast_to(logits, (11, 4, 6, 11))
    np.testing.assert_allclose(jnp.exp(sequences.token_logps(tiled, every)).sum(0), 1.0, rtol=1e-5)


def test_derivatives_of_both_modes_and_second_order_are_those_of_log_softmax():
    logits, labels = problem()
    rng = np.random.default_rng(1)
    weights, direction = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 6), (4, 6, 11)))
    ours, theirs = (lambda z, f=f: jnp.vdot(f(z, labels), weights) for f in (sequences.token_logps, plain))
    np.testing.assert_allclose(jax.grad(ours)(logits), jax.grad(theirs)(logits), atol=1e-6)
    for order in (
        lambda f: jax.jvp(f, (logits,), (direction,)),
        lambda f: jax.jvp(jax.grad(f), (logits,), (direction,)),
    ):
        np.testing.assert_allclose(order(ours)[1], order(theirs)[1], rtol=1e-4, atol=1e-5)


def test_backward_keeps_nothing_of_the_size_of_the_logits_but_the_logits():
    logits, labels = problem()
    _, backward = jax.vjp(lambda z: sequences.token_logps(z, labels), logits)
    kept = [x for x in jax.tree.leaves(backward) if jnp.shape(x) == logits.shape]
    assert len(kept) == 1
    np.testing.assert_array_equal(kept[0], logits)


def test_impossible_tokens():
    logits = jnp.array([[0.0, -jnp.inf, 0.0], [-jnp.inf] * 3])
    labels = jnp.array([0, 0])
    value, gradient = jax.value_and_grad(lambda z: sequences.token_logps(z, labels)[0])(logits)
    np.testing.assert_allclose(value, -np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0.5, 0.0, -0.5], [0.0] * 3], atol=1e-6)
    np.testing.assert_array_equal(sequences.token_logps(logits, jnp.array([1, 0])), -jnp.inf)


@pytest.mark.parametrize("outside", [-100, -1, 11])
def test_label_outside_the_vocabulary_is_seen_unless_masked(outside):
    logits, labels = problem()
    labels = labels.at[:, 0].set(outside)
    assert np.isnan(sequences.token_logps(logits, labels)[:, 0]).all()
    where = jnp.arange(6) > 0
    value, gradient = jax.value_and_grad(
        lambda z: sequences.sequence_logps(z, labels, where=jnp.broadcast_to(where, (4, 6))).sum()
    )(logits)
    np.testing.assert_allclose(value, plain(logits, labels)[:, 1:].sum(), rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert not gradient[:, 0].any()


def test_sequences_are_sums_or_means_over_what_counts():
    logits, labels = problem()
    where = jnp.array([[1, 1, 0, 0, 1, 0], [1] * 6, [0] * 6, [0, 0, 0, 0, 0, 1]], bool)
    tokens = np.where(where, plain(logits, labels), 0)
    counts = np.array([3, 6, 1, 1])  # the empty row divides 0 by 1
    np.testing.assert_allclose(
        sequences.sequence_logps(logits, labels, where=where), tokens.sum(1), rtol=1e-5, atol=1e-6
    )
    means = sequences.sequence_logps(logits, labels, where=where, length_normalized=True)
    np.testing.assert_allclose(means, tokens.sum(1) / counts, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sequences.sequence_logps(logits, labels), plain(logits, labels).sum(1), rtol=1e-5)


def test_narrow_logits_are_summed_wide_and_narrow_labels_are_labels():
    logits, labels = problem(jnp.bfloat16)
    value = sequences.sequence_logps(logits, labels.astype(jnp.uint8))
    assert value.dtype == sequences.token_logps(logits, labels).dtype == jnp.float32
    expected = plain(logits.astype(jnp.float32), labels).sum(1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    gradient = jax.grad(lambda z: sequences.sequence_logps(z, labels).sum())(logits)
    assert gradient.dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_long_sequences_of_narrow_logits_keep_their_log_probability(dtype):
    """40,000 tokens: beyond the largest number of float16, and beyond what bfloat16 tells apart by 1024 nats."""
    rng = np.random.default_rng(2)
    logits = jnp.asarray(rng.normal(size=(2, 40_000, 8)), dtype)
    labels = jnp.asarray(rng.integers(8, size=(2, 40_000)), jnp.int32)
    tokens = special.log_softmax(np.asarray(logits, np.float64), -1)
    sums = np.take_along_axis(tokens, np.asarray(labels)[..., None], -1)[..., 0].sum(1)
    assert (sums < -65_504).all()
    np.testing.assert_allclose(sequences.sequence_logps(logits, labels), sums, rtol=1e-6)
    means = sequences.sequence_logps(logits, labels, length_normalized=True)
    np.testing.assert_allclose(means, sums / 40_000, rtol=1e-6)


@pytest.mark.parametrize("eos_id", [[2, 7], (2, 7), np.array([2, 7]), jnp.array([7, 2, 7]), [jnp.int32(2), 7]])
def test_any_of_several_end_tokens_ends_any_row(eos_id):
    tokens = jnp.array([[2, 3, 7], [7, 7, 1]])
    np.testing.assert_array_equal(sequences.ends(tokens, eos_id), [[True, False, True], [True, True, False]])
    np.testing.assert_array_equal(jax.jit(sequences.ends)(tokens, eos_id), sequences.ends(tokens, eos_id))


def test_one_end_token_or_one_that_no_token_has():
    tokens = jnp.array([2, 3, 7])
    for two in (2, np.int64(2), jnp.uint8(2), [2]):
        np.testing.assert_array_equal(sequences.ends(tokens, two), [True, False, False])
    assert not sequences.ends(tokens, -1).any()
    assert sequences.ends(tokens[:0], [2, 7]).shape == (0,)


@pytest.mark.parametrize("eos_id", [[], 2.0, [1.5, 2.0], [[1, 2]], [1, [2]], True, None, "end", jnp.zeros((2, 1), int)])
def test_bad_end_tokens_are_named(eos_id):
    with pytest.raises(ValueError, match="eos_id must be"):
        sequences.ends(jnp.array([1]), eos_id)


def test_sharded_batch_and_vocabulary():
    logits, labels = problem(vocab=12)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    placed = (
        jax.device_put(logits, NamedSharding(mesh, PartitionSpec("data", None, "model"))),
        jax.device_put(labels, NamedSharding(mesh, PartitionSpec("data"))),
    )
    np.testing.assert_allclose(jax.jit(sequences.token_logps)(*placed), plain(logits, labels), rtol=1e-5, atol=1e-6)


LOGITS, LABELS = jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), jnp.int32)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: sequences.token_logps(LOGITS, LABELS[0]), r"labels must have shape \[2, 3\]"),
        (lambda: sequences.token_logps(LOGITS, LABELS * 1.0), "labels must be integers"),
        (lambda: sequences.token_logps(jnp.zeros((2, 0)), LABELS[:, 0]), "logits"),
        (lambda: sequences.sequence_logps(LOGITS[0, 0], LABELS[0, 0]), "labels must be"),
        (lambda: sequences.sequence_logps(LOGITS, LABELS, where=jnp.ones(3, bool)), r"where must have shape \[2, 3\]"),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()
