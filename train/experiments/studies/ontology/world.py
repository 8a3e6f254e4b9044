"""A generated ontology of disorders: named entities, the triples that follow from their names, sentences about them.

A disorder is a modifier, a site and a head word. Its name has these three in this order ("acute renal failure"), or the
head first ("failure acute renal"); a third of the words have a synonym, which stands in for them half of the time. The
relations of a disorder whose words are the m-th modifier, s-th site and h-th head lead to concepts of one word each:

    has_site        the site s,
    is_a            the head h,
    progresses_to   the head (7 h + 5 (m mod 4)) mod 30, which the whole name tells and none of its words does.

Concepts are the words themselves: concept c is called by token c. Everything is drawn on the device, so that each seed
can have an ontology of its own. Entities come in random order, so that any part of them is a random split.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .....core import checks
from ....engine.settings import check_whole

_WORDS = {
    "head": """
        failure infection fibrosis ischemia neoplasm hemorrhage stenosis inflammation abscess calculus
        cyst embolism thrombosis atrophy hypertrophy necrosis edema ulcer fistula trauma
        prolapse dysplasia rupture spasm obstruction effusion malformation degeneration perforation sclerosis""",
    "modifier": """
        acute chronic recurrent congenital sudden persistent episodic hereditary severe mild
        bilateral diffuse early late primary secondary benign occult stable advanced""",
    "site": "renal hepatic cardiac pulmonary gastric cerebral cutaneous osseous ocular vascular",
    # Other words for the first third of each kind.
    "head_synonym": "insufficiency sepsis scarring hypoperfusion tumor bleeding narrowing swelling suppuration stone",
    "modifier_synonym": "abrupt longstanding relapsing inborn unexpected continuous intermittent",
    "site_synonym": "nephric liver myocardial",
}
HEADS, MODIFIERS, SITES = (tuple(_WORDS[kind].split()) for kind in ("head", "modifier", "site"))
SYNONYMS = {
    word: other
    for kind in ("head", "modifier", "site")
    for word, other in zip(_WORDS[kind].split(), _WORDS[f"{kind}_synonym"].split(), strict=False)
}

RELATIONS = ("has_site", "is_a", "progresses_to")
COURSES = 4

# Where sentences come from; a classifier is fitted on the first and tested on the second.
TEMPLATES = {
    "train": (
        "patient admitted with {}",
        "imaging confirmed {} yesterday",
        "history of {} noted on review",
        "treated for {} last year",
        "signs of {} were found",
        "family reports {} in the mother",
    ),
    "test": (
        "the clinic follows up on {}",
        "referred because of {} after surgery",
        "we suspect {}",
        "discharged with {} under control",
    ),
}

CONCEPTS = (*HEADS, *MODIFIERS, *SITES)
_FILLERS = dict.fromkeys(" ".join(sum(TEMPLATES.values(), ())).replace("{}", "").split())
VOCABULARY = (*CONCEPTS, *SYNONYMS.values(), *_FILLERS)  # token -> word

NAME_LENGTH = 3
SENTENCE_LENGTH = NAME_LENGTH + max(len(text.split()) - 1 for texts in TEMPLATES.values() for text in texts)
MOST_NAMES = len(HEADS) * len(MODIFIERS) * len(SITES)

_TOKEN = {word: token for token, word in enumerate(VOCABULARY)}
_FIRST = {"head": 0, "modifier": len(HEADS), "site": len(HEADS) + len(MODIFIERS)}  # the concept of a kind's first word


class Ontology(NamedTuple):
    """Entities in random order.

    Attributes:
        names: `[entities, 3]` int32, tokens.
        tails: `[entities, relations]` int32, the concept that each relation leads to; a site is a label as well.
    """

    names: jax.Array
    tails: jax.Array


def sample(*, key: jax.Array, num_names: int = 900, head_first: float = 0.3, synonym: float = 0.5) -> Ontology:
    """Draw `num_names` different disorders and name them.

    Args:
        key: JAX random key.
        num_names: how many, at most 6000.
        head_first: share of the names that have their head first.
        synonym: how often a word that has a synonym is replaced by it.

    Raises:
        ValueError: num_names outside its range, or a share outside [0, 1].
    """
    check_whole("num_names", num_names, 1, MOST_NAMES)
    checks.in_interval("head_first", head_first, 0.0, 1.0)
    checks.in_interval("synonym", synonym, 0.0, 1.0)
    key_drawn, key_order, key_synonym = jax.random.split(key, 3)
    _, drawn = jax.lax.top_k(jax.random.uniform(key_drawn, (MOST_NAMES,)), num_names)  # without replacement
    m, s, h = jnp.unravel_index(drawn, (len(MODIFIERS), len(SITES), len(HEADS)))
    names = jnp.stack([_FIRST["modifier"] + m, _FIRST["site"] + s, _FIRST["head"] + h], axis=-1)
    replaced = jax.random.bernoulli(key_synonym, synonym, names.shape)
    names = jnp.where(replaced, jnp.asarray(_other_words())[names], names)
    names = jnp.where(jax.random.bernoulli(key_order, head_first, (num_names, 1)), jnp.roll(names, 1, axis=-1), names)
    later = (7 * h + 5 * (m % COURSES)) % len(HEADS)
    tails = jnp.stack([_FIRST["site"] + s, _FIRST["head"] + h, _FIRST["head"] + later], axis=-1)
    return Ontology(names.astype(jnp.int32), tails.astype(jnp.int32))


def sentences(names: jax.Array, split: str) -> tuple[jax.Array, jax.Array]:
    """One sentence around each name, from the templates of a split in turn.

    Args:
        names: `[n, 3]` int, tokens.
        split: "train" or "test".

    Returns:
        `(tokens, where)`: `[n, SENTENCE_LENGTH]` int32, padded by 0, and bool, True: a real token.

    Raises:
        ValueError: another split, names of another shape, or what is no token.
    """
    if split not in TEMPLATES:
        raise ValueError(f"split must be one of {', '.join(TEMPLATES)}, got {split!r}.")
    if jnp.ndim(names) != 2 or jnp.shape(names)[1] != NAME_LENGTH:
        raise ValueError(f"names must have shape [n, {NAME_LENGTH}], got {list(jnp.shape(names))}.")
    checks.labels("names", names, len(VOCABULARY))
    rows = np.arange(len(names)) % len(TEMPLATES[split])
    slots, fillers, lengths = (table[rows] for table in _template_tables(split))
    tokens = jnp.where(slots < 0, fillers, jnp.take_along_axis(names, jnp.maximum(slots, 0), axis=1))
    return tokens.astype(jnp.int32), jnp.asarray(np.arange(SENTENCE_LENGTH) < lengths[:, None])


def text(tokens: jax.typing.ArrayLike) -> str:
    """Words of `[length]` tokens; `ValueError` for what is no token."""
    checks.labels("tokens", np.asarray(tokens), len(VOCABULARY))
    return " ".join(VOCABULARY[token] for token in np.asarray(tokens))


def _other_words() -> np.ndarray:
    """Token of the synonym of each concept, or its own where it has none."""
    return np.array([_TOKEN[SYNONYMS.get(word, word)] for word in CONCEPTS])


def _template_tables(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By template: which word of the name stands at each place (-1: none), the token elsewhere, and the length."""
    texts = TEMPLATES[split]
    slots = np.full((len(texts), SENTENCE_LENGTH), -1)
    fillers = np.zeros_like(slots)
    for row, words in enumerate(text.split() for text in texts):
        start = words.index("{}")
        slots[row, start : start + NAME_LENGTH] = range(NAME_LENGTH)
        fillers[row, :start] = [_TOKEN[word] for word in words[:start]]
        after = [_TOKEN[word] for word in words[start + 1 :]]
        fillers[row, start + NAME_LENGTH : start + NAME_LENGTH + len(after)] = after
    return slots, fillers, np.array([len(text.split()) - 1 + NAME_LENGTH for text in texts])
