"""Conceptual-contextual embeddings: the oracles of their card."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemmata.methods.layers import conceptual_contextual as cc

BATCH, LENGTH, DIM, UNITS = 4, 6, 3, 5
LENGTHS = jnp.array([6, 1, 3, 0])
WHERE = jnp.arange(LENGTH) < LENGTHS[:, None]
X = jax.random.normal(jax.random.key(0), (BATCH, LENGTH, DIM))
PARAMS = cc.init_bilstm(key=jax.random.key(1), input_dim=DIM, hidden_dim=UNITS)

encode = jax.jit(cc.bilstm_encode)
embed = jax.jit(cc.entity_embedding)


# --- the encoder


@pytest.mark.parametrize("row", [0, 1, 2])
def test_each_row_is_what_it_is_alone_without_padding(row):
    length = int(LENGTHS[row])
    alone = cc.bilstm_encode(PARAMS, X[row : row + 1, :length])
    together = encode(PARAMS, X, where=WHERE)
    np.testing.assert_allclose(together[row, :length], alone[0], atol=1e-6)
    np.testing.assert_array_equal(together[row, length:], 0.0)
    np.testing.assert_allclose(embed(PARAMS, X, where=WHERE)[row], alone[0].max(axis=0), atol=1e-6)


def test_more_padding_changes_nothing():
    padding = ((0, 0), (0, 3), (0, 0))
    longer = encode(PARAMS, jnp.pad(X, padding, constant_values=jnp.nan), where=jnp.pad(WHERE, padding[:2]))
    np.testing.assert_allclose(longer[:, :LENGTH], encode(PARAMS, X, where=WHERE), atol=1e-6)
    np.testing.assert_array_equal(longer[:, LENGTH:], 0.0)


def test_no_mask_means_every_token():
    everything = jnp.ones((BATCH, LENGTH), bool)
    np.testing.assert_allclose(encode(PARAMS, X), encode(PARAMS, X, where=everything), atol=1e-6)
    np.testing.assert_array_equal(embed(PARAMS, X), encode(PARAMS, X).max(axis=1))


def test_reading_backwards_with_exchanged_directions_gives_the_reverse():
    exchanged = {"forward": PARAMS["backward"], "backward": PARAMS["forward"]}
    forward, backward = jnp.split(encode(PARAMS, X), 2, axis=-1)
    reverse = encode(exchanged, X[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(reverse, jnp.concatenate([backward, forward], axis=-1), atol=1e-6)


def test_a_name_without_a_token_is_zero():
    np.testing.assert_array_equal(embed(PARAMS, X, where=WHERE)[3], 0.0)


def test_vmap_over_names_is_a_loop():
    one = functools.partial(cc.entity_embedding, PARAMS)
    vmapped = jax.jit(jax.vmap(lambda x, where: one(x[None], where=where[None])[0]))(X, WHERE)
    looped = [embed(PARAMS, x[None], where=where[None])[0] for x, where in zip(X, WHERE, strict=True)]
    np.testing.assert_allclose(vmapped, np.stack(looped), atol=1e-6)
    np.testing.assert_allclose(embed(PARAMS, X, where=WHERE), np.stack(looped), atol=1e-6)


def test_a_long_row_stays_finite_and_bounded():
    x = 10 * jax.random.normal(jax.random.key(2), (1, 3000, DIM))
    features = np.asarray(encode(PARAMS, x))
    assert np.isfinite(features).all()
    assert np.abs(features).max() <= 1


def test_gradient_of_an_embedding_misses_padding_alone():
    def total(x):
        return jnp.sum(jnp.cos(cc.entity_embedding(PARAMS, x, where=WHERE)))

    gradient = np.asarray(jax.jit(jax.grad(total))(jnp.where(WHERE[..., None], X, jnp.nan)))
    np.testing.assert_array_equal(gradient.any(axis=-1), WHERE)


def test_features_of_a_sentence_stand_beside_its_word_vectors():
    words = jax.random.normal(jax.random.key(3), (BATCH, LENGTH, 2))
    features = cc.contextual_features(PARAMS, X, words, where=WHERE)
    np.testing.assert_array_equal(features[..., :2], words)
    np.testing.assert_allclose(features[..., 2:], encode(PARAMS, X, where=WHERE), atol=1e-6)
    mixed = cc.contextual_features(PARAMS, X.astype(jnp.bfloat16), words.astype(jnp.bfloat16), where=WHERE)
    assert mixed.dtype == jnp.float32  # of the parameters


def test_the_flax_module_is_the_functions():
    encoder = cc.BiLSTM(hidden_dim=UNITS)
    variables = jax.jit(encoder.init)(jax.random.key(4), X)
    assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(jnp.shape, PARAMS)
    np.testing.assert_array_equal(encoder.apply({"params": PARAMS}, X, where=WHERE), encode(PARAMS, X, where=WHERE))
    forward, backward = (variables["params"][side]["w_x"] for side in ("forward", "backward"))
    assert not np.allclose(forward, backward)
    np.testing.assert_array_equal(variables["params"]["forward"]["b"][UNITS : 2 * UNITS], 1.0)  # the forget gate


# --- scores and loss


def vectors(seed):
    return jax.random.normal(jax.random.key(seed), (3, 7, 4))


def test_translation_is_at_most_zero_and_zero_where_it_holds():
    head, relation, tail = vectors(0)
    assert np.all(cc.triple_score(head, relation, tail) < 0)
    np.testing.assert_allclose(cc.triple_score(head, relation, head + relation), 0.0, atol=1e-6)


def test_distmult_does_not_tell_head_from_tail():
    head, relation, tail = vectors(1)
    scores = cc.triple_score(head, relation, tail, kind="distmult")
    np.testing.assert_allclose(scores, cc.triple_score(tail, relation, head, kind="distmult"), rtol=1e-6)
    np.testing.assert_allclose(scores, np.einsum("be,be,be->b", head, relation, tail), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", cc.KINDS)
def test_leading_axes_broadcast(kind):
    head, relation, tail = vectors(2)
    scores = cc.triple_score(head[:, None], relation[0], tail, kind=kind)
    assert scores.shape == (7, 7)
    np.testing.assert_allclose(scores[2, 5], cc.triple_score(head[2], relation[0], tail[5], kind=kind), rtol=1e-6)


@st.composite
def score_arrays(draw):
    m = draw(st.sampled_from([0, 1, 4]))  # few, since every shape compiles
    finite = st.floats(-1e4, 1e4, width=32)
    values = np.array(draw(st.lists(finite, min_size=m + 1, max_size=m + 1)), np.float32)
    where = np.array(draw(st.lists(st.booleans(), min_size=m, max_size=m)), bool)
    return jnp.asarray(values[:1]), jnp.asarray(values[None, 1:]), jnp.asarray(where[None])


@given(score_arrays())
def test_loss_is_the_cross_entropy_of_the_candidates_that_count(arrays):
    positive, negative, where = arrays
    loss = float(cc.triple_loss(positive, negative, where=where)[0])
    candidates = np.append(np.asarray(positive), np.asarray(negative)[np.asarray(where)]).astype(np.float64)
    np.testing.assert_allclose(loss, np.logaddexp.reduce(candidates) - candidates[0], rtol=1e-5, atol=1e-6)
    assert loss >= 0


@pytest.mark.parametrize("m", [0, 1, 9])
def test_equal_scores_give_log_of_their_number(m):
    loss = cc.triple_loss(jnp.array([5.0, -3.0]), jnp.tile(jnp.array([[5.0], [-3.0]]), (1, m)))
    np.testing.assert_allclose(loss, np.log(1 + m), rtol=1e-6)


def test_loss_falls_as_the_positive_rises():
    positive = jnp.linspace(-5.0, 5.0, 11)
    losses, slopes = jax.vmap(
        jax.value_and_grad(lambda s: cc.triple_loss(s[None], jnp.array([[0.0, 1.0, -jnp.inf]]))[0])
    )(positive)
    assert np.all(np.diff(losses) < 0)
    assert np.all((slopes < 0) & (slopes > -1))


def test_no_negative_that_counts_is_no_loss_and_no_gradient():
    positive, negative = jnp.array([2.0, -1.0]), jnp.full((2, 3), jnp.nan)
    for negatives, where in ((negative, jnp.zeros((2, 3), bool)), (negative[:, :0], None)):
        losses, gradients = jax.value_and_grad(
            lambda s, n, where=where: cc.triple_loss(s, n, where=where).sum(), argnums=(0, 1)
        )(positive, negatives)
        assert losses == 0.0
        assert not any(np.asarray(gradient).any() for gradient in gradients)


def test_a_small_loss_is_not_lost_to_large_scores():
    loss = cc.triple_loss(jnp.array([1000.0]), jnp.array([[985.0]]))
    np.testing.assert_allclose(loss, np.log1p(np.exp(-15.0)), rtol=1e-5)


# --- bad input

E = jnp.zeros((4, 3))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: cc.bilstm_encode(PARAMS, X[..., :2]), r"w_x.*d = 2 as in x"),
        (lambda: cc.bilstm_encode(PARAMS, X[0]), r"x must have shape \[B, T, d\]"),
        (lambda: cc.bilstm_encode(PARAMS, X[:, :0]), "x must have at least one step"),
        (lambda: cc.bilstm_encode(PARAMS, X, where=WHERE.astype(jnp.float32)), "where must be boolean"),
        (lambda: cc.bilstm_encode(PARAMS, X, where=WHERE[:2]), "where"),
        (lambda: cc.entity_embedding(PARAMS, X, where=WHERE[:, :2]), "where"),
        (lambda: cc.entity_embedding(PARAMS, X[..., :2]), "w_x"),
        (lambda: cc.contextual_features(PARAMS, X, X[:, :2]), "word_vectors"),
        (lambda: cc.contextual_features(PARAMS, X, X, where=WHERE[:2]), "where"),
        (lambda: cc.triple_score(E, E, E, kind="transE"), "kind must be one of .*transE"),
        (lambda: cc.triple_score(E, E, jnp.zeros((4, 2))), "tail"),
        (lambda: cc.triple_score(E, E, jnp.zeros((5, 3))), r"tail.*broadcast.*\[5, 3\]"),
        (lambda: cc.triple_loss(E, E), "score_positive"),
        (lambda: cc.triple_loss(E[:, 0], E[:3]), "score_negative"),
        (lambda: cc.triple_loss(E[:, 0], E, where=WHERE), "where"),
        (lambda: cc.triple_loss(E[:, 0], E, where=E), "where must be boolean"),
        (lambda: cc.init_bilstm(key=jax.random.key(0), input_dim=0, hidden_dim=1), "input_dim"),
        (lambda: cc.init_bilstm(key=jax.random.key(0), input_dim=1, hidden_dim=0), "hidden_dim"),
        (lambda: cc.BiLSTM(hidden_dim=0).init(jax.random.key(0), X), "hidden_dim"),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(call)  # while tracing, too
