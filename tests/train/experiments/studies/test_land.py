"""Facts: what documents state, who can know what, and that training texts say only what is so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.train.experiments.studies.facts import land as facts
from lemmata.train.experiments.studies.facts.land import Facts

LAND = Facts(relations=8, words=3, documents=4, found=0.5)
FIRST = len(facts.SPECIAL)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def drawn(method, n, seed=0, **options):
    return getattr(LAND, method)(jax.random.key(seed), n, **options)


def statements(row):
    """Relation -> the two words that the documents give it."""
    return {int(s[1]) - FIRST: tuple(int(x) for x in s[2:4]) for s in np.reshape(row, (-1, facts.STATEMENT))}


@pytest.mark.parametrize("in_documents", [True, False])
def test_an_answer_is_in_the_documents_or_was_learnt_but_not_both(in_documents):
    questions = jax.jit(LAND.questions)(jax.random.key(1), jnp.full(64, in_documents))
    learnt = np.asarray(LAND.value(jnp.arange(8), LAND.learnt()))
    places = set()
    for documents, asked, answer in zip(*map(np.asarray, questions), strict=True):
        told, relation = statements(documents), int(asked) - FIRST
        assert len(told) == 4  # distinct relations
        assert all(LAND.vocabulary[word] for word in documents)
        if in_documents:
            assert relation >= 4
            assert told[relation] == tuple(answer)
            places.add(list(told).index(relation))
        else:
            assert relation < 4
            assert relation not in told
            np.testing.assert_array_equal(answer, learnt[relation])
    assert not in_documents or places == {0, 1, 2, 3}  # anywhere among them


def test_words_of_a_value_belong_to_their_relation_alone():
    relation, value = jnp.meshgrid(jnp.arange(8), jnp.arange(9), indexing="ij")
    words = np.asarray(LAND.value(relation, value))
    assert len({tuple(pair) for pair in words.reshape(-1, 2)}) == 72
    by_relation = [set(rows.ravel()) for rows in words]
    assert sum(map(len, by_relation)) == len(set.union(*by_relation)) == 48
    assert words.max() == len(LAND.vocabulary) - 1
    assert len(set(LAND.vocabulary[1:])) == len(LAND.vocabulary) - 1


@pytest.mark.parametrize("method", ["compressor_texts", "target_texts"])
def test_what_is_to_be_predicted_answers_the_question_from_what_was_read_or_learnt(method):
    texts = drawn(method, 200)
    learnt = np.asarray(LAND.value(jnp.arange(8), LAND.learnt()))
    kinds = set()
    for tokens, where in zip(np.asarray(texts["tokens"]), np.asarray(texts["where"]), strict=True):
        start = int(np.argmax(where))
        end = start + int(where.sum())
        assert where[start:end].all()
        assert tokens[end - 1] == facts.END
        assert not tokens[end:].any()
        read = statements(tokens[1 : start - 2]) if tokens[0] == facts.READ else {}
        relation = int(tokens[start - 1]) - FIRST
        body = tokens[start : end - 1]
        words = tuple(body) if tokens[start - 2] == facts.ANSWER else statements(body)[relation]
        kinds.add((int(tokens[start - 2]), len(read)))
        if relation in read:
            assert words == read[relation]
        elif method == "target_texts" and relation < 4:
            assert words == tuple(learnt[relation])
    known = {(facts.WRITE, 1), (facts.WRITE, 4)}
    if method == "target_texts":
        known = {(facts.WRITE, 0), (facts.ANSWER, 1), (facts.ANSWER, 4)}
    assert kinds == known


def test_text_ends_at_the_end_token():
    row = jnp.array([facts.OUR, FIRST + 1, *LAND.value(jnp.array(1), jnp.array(5)), facts.BANG, facts.END, facts.READ])
    assert LAND.text(np.asarray(row)) == "our river Dela Diron !"


@pytest.mark.parametrize(
    "bad",
    [
        {"relations": 7},
        {"relations": 18},
        {"relations": 0},
        {"relations": 8.0},
        {"words": 6},
        {"words": 1},
        {"words": 2.5},
        {"documents": 16},
        {"documents": 0},
        {"documents": True},
        {"found": 1.5},
        {"found": np.nan},
        {"manner": -0.1},
        {"manner": np.inf},
    ],
)
def test_bad_attribute_is_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Facts(**bad)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda key: LAND.value(jnp.array([8]), jnp.array([0])), "relation must be integers from 0 to 7, got 8"),
        (lambda key: LAND.value(jnp.array([0]), jnp.array([9])), "value must be integers from 0 to 8, got 9"),
        (lambda key: LAND.value(jnp.array([-1]), jnp.array([0])), "relation must be integers from 0 to 7, got -1"),
        (lambda key: LAND.statement(key, jnp.array([0]), jnp.array([0]), 1.5), r"manner must be in \[0, 1\]"),
        (lambda key: LAND.retrieve(key, jnp.array([8]), jnp.array([True])), "relation must be integers from 0 to 7"),
        (lambda key: LAND.retrieve(key, jnp.array([1]), jnp.array([1])), "found must be bool, got int32"),
        (lambda key: LAND.retrieve(key, jnp.array([1]), jnp.array([True, True])), r"found must have shape \[n\]"),
        (lambda key: LAND.questions(key, jnp.array([2, 0])), "in_documents must be bool, got int32"),
        (lambda key: LAND.compressor_texts(key, -1), "n must be an integer of at least 0"),
        (lambda key: LAND.text([facts.THE, -1]), "tokens must be integers from 0"),
        (lambda key: LAND.text([facts.THE, len(LAND.vocabulary)]), "tokens must be integers from 0"),
    ],
)
def test_what_the_land_does_not_have_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call(jax.random.key(0))
