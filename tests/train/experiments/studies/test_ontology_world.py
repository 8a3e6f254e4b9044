"""The generated ontology: names, triples and sentences say the same."""

import jax
import numpy as np
import pytest

from lemmata.train.experiments.studies.ontology import world as ontology
from lemmata.train.experiments.studies.ontology.world import (
    CONCEPTS,
    HEADS,
    MODIFIERS,
    SITES,
    SYNONYMS,
    TEMPLATES,
    VOCABULARY,
)

GRAPH = jax.jit(lambda key: ontology.sample(key=key, num_names=900))(jax.random.key(0))
MEANT = {other: word for word, other in SYNONYMS.items()}


def words_of(name):
    return [MEANT.get(word, word) for word in ontology.text(name).split()]


def test_vocabulary_has_no_word_twice():
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert [len(words) for words in (HEADS, MODIFIERS, SITES)] == [30, 20, 10]
    assert VOCABULARY[: len(CONCEPTS)] == CONCEPTS  # a concept is called by the token of its number


def test_triples_follow_from_the_words_of_the_name():
    for name, tails in zip(GRAPH.names, GRAPH.tails, strict=True):
        words = words_of(name)
        modifier, site, head = words if words[0] in MODIFIERS else (*words[1:], words[0])
        later = (7 * HEADS.index(head) + 5 * (MODIFIERS.index(modifier) % 4)) % 30
        assert [CONCEPTS[tail] for tail in tails] == [site, head, HEADS[later]]


def test_entities_are_different_and_named_in_the_stated_shares():
    meant = {tuple(sorted(words_of(name))) for name in GRAPH.names}
    assert len(meant) == 900
    words = [ontology.text(name).split() for name in GRAPH.names]
    head_first = np.mean([MEANT.get(name[0], name[0]) in HEADS for name in words])
    assert head_first == pytest.approx(0.3, abs=0.05)
    replaceable = [word in MEANT for name in words for word in name if word in MEANT or word in SYNONYMS]
    assert np.mean(replaceable) == pytest.approx(0.5, abs=0.06)


def test_any_part_is_a_random_split():
    """The first entities have the same mix of heads as all: no chi-squared beyond three deviations."""
    counts = np.bincount(np.asarray(GRAPH.tails[:450, 1]), minlength=30)
    whole = np.bincount(np.asarray(GRAPH.tails[:, 1]), minlength=30) / 2
    chi_squared = np.sum((counts - whole) ** 2 / (whole / 2))  # drawn without replacement: half the variance
    assert chi_squared < 29 + 3 * np.sqrt(2 * 29)


@pytest.mark.parametrize("split", list(TEMPLATES))
def test_sentences_are_the_templates_with_the_names_in_turn(split):
    tokens, where = ontology.sentences(GRAPH.names[:7], split)
    assert tokens.shape == where.shape == (7, ontology.SENTENCE_LENGTH)
    for row in range(7):
        template = TEMPLATES[split][row % len(TEMPLATES[split])]
        assert ontology.text(tokens[row][where[row]]) == template.format(ontology.text(GRAPH.names[row]))
        assert not np.asarray(tokens[row])[~np.asarray(where[row])].any()


def test_keys_draw_other_ontologies():
    other = ontology.sample(key=jax.random.key(1), num_names=900)
    assert not np.array_equal(other.names, GRAPH.names)


@pytest.mark.parametrize("num_names", [0, 6001, 10.0])
def test_bad_number_is_named(num_names):
    with pytest.raises(ValueError, match=f"num_names.*{num_names}"):
        ontology.sample(key=jax.random.key(0), num_names=num_names)


@pytest.mark.parametrize("share", ["head_first", "synonym"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_bad_share_is_named(share, value):
    with pytest.raises(ValueError, match=rf"{share} must be in \[0, 1\]"):
        ontology.sample(key=jax.random.key(0), num_names=10, **{share: value})


@pytest.mark.parametrize(
    ("names", "split", "named"),
    [
        (GRAPH.names[:2], "valid", "split must be one of train, test, got 'valid'"),
        (GRAPH.names[:2, :2], "train", r"names must have shape \[n, 3\], got \[2, 2\]"),
        (np.array([[0, 1, len(VOCABULARY)]]), "train", "names must be integers from 0"),
        (np.array([[0, 1, -1]]), "train", "names must be integers from 0"),
    ],
)
def test_bad_names_of_sentences_are_named(names, split, named):
    with pytest.raises(ValueError, match=named):
        ontology.sentences(names, split)


@pytest.mark.parametrize("token", [-1, len(VOCABULARY)])
def test_what_is_no_token_has_no_text(token):
    with pytest.raises(ValueError, match=f"tokens must be integers .*, got {token}"):
        ontology.text([0, token])
