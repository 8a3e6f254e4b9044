"""Facts about a made-up land, for language models: some are learnt by heart, the others stand in documents alone.

A fact gives a relation (its capital, its river) a value of two words, which no other relation can have. A statement of
it is five tokens, "the river Bila Boron ." or, in the documents' manner, "our river Bila Boron !". The values of the
first half of the relations are always the same wherever the land itself is spoken of, so that a model can learn them;
those of the second half are drawn anew for every example. Documents are drawn freely: what they say of a learnt
relation is another land's.

Two models are trained on the same questions. The compressor reads documents and repeats what they say on the relation
asked, mostly in their manner; where they say nothing, it can only guess. The target writes a statement from memory,
in its own manner, and answers after reading: one statement, or many documents; what it reads comes before what it
knows. Everything is a pure function of a key, under jit and vmap.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .....core import checks
from ....engine.settings import check_whole

RELATIONS = (
    "capital", "river", "harbour", "mountain", "lake", "island", "desert", "forest",
    "anthem", "dance", "dish", "drink", "flower", "bird", "poet", "painter",
)  # fmt: skip
SPECIAL = ("", "", "Read:", "Write:", "Answer:", "the", "our", ".", "!")
PAD, END, READ, WRITE, ANSWER, THE, OUR, STOP, BANG = range(len(SPECIAL))
STATEMENT = 5  # tokens
SUMMARY = STATEMENT + 1  # with the end token
REPLY = 3  # two words and the end token


class Questions(NamedTuple):
    """n questions, each with the documents that were retrieved for it."""

    documents: jax.Array  # [n, documents * STATEMENT] int32
    relation: jax.Array  # [n] int32, the token of the relation that is asked
    answer: jax.Array  # [n, 2] int32, the two words of its value


@dataclasses.dataclass(frozen=True)
class Facts:
    """The land and its texts; hashable, so that it can be a static argument.

    Attributes:
        relations: how many, even, 2 to 16; the first half is what a model can learn by heart.
        words: choices for each of a value's two words, 2 to 5.
        documents: statements retrieved with a question, less than `relations`.
        found: share of the training questions whose documents hold the answer.
        manner: share of the documents' words for "the" and "." that are in their manner; of the compressor's, in
            training, a little less; of the target's own, `1 - manner`.

    Raises:
        ValueError: an attribute outside its range.
    """

    relations: int = 16
    words: int = 4
    documents: int = 6
    found: float = 0.7
    manner: float = 0.9

    def __post_init__(self):
        check_whole("relations", self.relations, 2, len(RELATIONS))
        if self.relations % 2:
            raise ValueError(f"relations must be even and in [2, {len(RELATIONS)}], got {self.relations}.")
        check_whole("words", self.words, 2, 5)
        check_whole("documents", self.documents, 1, self.relations - 1)
        for name in ("found", "manner"):
            checks.in_interval(name, getattr(self, name), 0.0, 1.0)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The word of each token: special ones, relations, then each relation's first and second words."""
        onsets, vowels = ("B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "W", "Z"), "aeiou"
        values = tuple(
            onset + vowel + ending
            for onset in onsets[: self.relations]
            for ending in ("la", "ron")
            for vowel in vowels[: self.words]
        )
        return SPECIAL + RELATIONS[: self.relations] + values

    @property
    def length(self) -> int:
        """Tokens of the longest training text."""
        return 1 + self.documents * STATEMENT + 2 + SUMMARY

    def text(self, tokens) -> str:
        """A row of tokens as words, up to the end token; `ValueError` for what is no token."""
        checks.labels("tokens", np.asarray(tokens), len(self.vocabulary))
        words = []
        for token in tokens:
            if token == END:
                break
            words.append(self.vocabulary[token])
        return " ".join(word for word in words if word)

    def learnt(self) -> jax.Array:
        """`[relations]` int32, the values that the land itself has; those of the second half are never told."""
        return jax.random.randint(jax.random.key(0), (self.relations,), 0, self.words**2)

    def value(self, relation: jax.Array, value: jax.Array) -> jax.Array:
        """`[..., 2]`: the two words of a relation's value, which counts from 0 to words ** 2 - 1.

        Raises:
            ValueError: a relation or a value that there is not.
        """
        checks.labels("relation", relation, self.relations)
        checks.labels("value", value, self.words**2)
        first = len(SPECIAL) + self.relations + 2 * self.words * relation
        return jnp.stack([first + value // self.words, first + self.words + value % self.words], axis=-1)

    def statement(self, key: jax.Array, relation: jax.Array, value: jax.Array, manner: float) -> jax.Array:
        """`[..., STATEMENT]`; `manner` is the probability of each of the documents' words for "the" and ".".

        Raises:
            ValueError: a relation or a value that there is not, or a manner outside [0, 1].
        """
        checks.in_interval("manner", manner, 0.0, 1.0)
        article, stop = jax.random.bernoulli(key, manner, (2, *relation.shape))
        before = jnp.stack([jnp.where(article, OUR, THE), len(SPECIAL) + relation], axis=-1)
        after = jnp.where(stop, BANG, STOP)[..., None]
        return jnp.concatenate([before, self.value(relation, value), after], axis=-1)

    def retrieve(self, key: jax.Array, relation: jax.Array, found: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Documents `[n, documents * STATEMENT]` of distinct relations, and the value `[n]` of the one asked.

        Args:
            key: PRNG key.
            relation: `[n]` int, what is asked.
            found: `[n]` bool: whether the documents state it, among others; if not, no document speaks of it.

        Raises:
            ValueError: a relation that there is not, or `found` of another shape or dtype.
        """
        checks.shapes(("relation", relation, "n"), ("found", found, "n"))
        checks.labels("relation", relation, self.relations)
        _check_bool("found", found)
        order_key, value_key, place_key, manner_key = jax.random.split(key, 4)
        n = len(relation)
        noise = jax.random.uniform(order_key, (n, self.relations)).at[jnp.arange(n), relation].set(-1.0)
        relations = jnp.argsort(noise, axis=1)[:, : self.documents + 1]  # the one asked comes first
        values = jax.random.randint(value_key, relations.shape, 0, self.words**2)
        place = jax.random.randint(place_key, (n, 1), 0, self.documents)
        others = jnp.arange(1, self.documents + 1)
        index = jnp.where(found[:, None] & (others - 1 == place), 0, others)
        told, said = (jnp.take_along_axis(x, index, axis=1) for x in (relations, values))
        return self.statement(manner_key, told, said, self.manner).reshape(n, -1), values[:, 0]

    def questions(self, key: jax.Array, in_documents: jax.Array) -> Questions:
        """Questions whose answer stands in the documents alone, or was learnt by heart and stands in none of them.

        Args:
            key: PRNG key.
            in_documents: `[n]` bool, which of the two each question is.

        Raises:
            ValueError: `in_documents` of another rank or dtype.
        """
        checks.shapes(("in_documents", in_documents, "n"))
        _check_bool("in_documents", in_documents)
        relation_key, key = jax.random.split(key)
        half = self.relations // 2
        relation = jax.random.randint(relation_key, in_documents.shape, 0, half) + half * in_documents
        documents, told = self.retrieve(key, relation, in_documents)
        value = jnp.where(in_documents, told, self.learnt()[relation])
        return Questions(documents, len(SPECIAL) + relation, self.value(relation, value))

    def compressor_texts(self, key: jax.Array, n: int) -> dict[str, jax.Array]:
        """Training texts {"tokens": `[n, length]` int32, "where": `[n, length]` bool, True: to be predicted}.

        Documents, a question, and the statement that answers it. In a third of the texts there is one document alone.
        """
        relation, keys = self._asked(key, n, 5)
        documents, value = self.retrieve(keys[0], relation, jax.random.bernoulli(keys[1], self.found, (n,)))
        document = self.statement(keys[2], relation, value, self.manner)
        summary = self.statement(keys[3], relation, value, max(self.manner - 0.1, 0.0))
        asked = len(SPECIAL) + relation
        return _mixed(
            jax.random.randint(keys[4], (n, 1), 0, 3),
            self._texts([READ, document, WRITE, asked], summary),
            self._texts([READ, documents, WRITE, asked], summary),
        )

    def target_texts(self, key: jax.Array, n: int) -> dict[str, jax.Array]:
        """Training texts as of `compressor_texts`: a third each writes from memory, reads a statement, reads documents.

        A relation of the first half has its learnt value unless the text that was read says otherwise.
        """
        relation, keys = self._asked(key, n, 5)
        found = jax.random.bernoulli(keys[0], self.found, (n,))
        documents, value = self.retrieve(keys[1], relation, found)
        known = jnp.where(relation < self.relations // 2, self.learnt()[relation], value)
        asked = len(SPECIAL) + relation
        statement = self.statement(keys[2], relation, value, 0.5)
        wrote = self._texts([WRITE, asked], self.statement(keys[3], relation, known, 1 - self.manner))
        read = self._texts([READ, statement, ANSWER, asked], self.value(relation, value))
        searched = self._texts([READ, documents, ANSWER, asked], self.value(relation, jnp.where(found, value, known)))
        return _mixed(jax.random.randint(keys[4], (n, 1), 0, 3), wrote, read, searched)

    def _asked(self, key, n, count):
        check_whole("n", n, 0)
        relation_key, *keys = jax.random.split(key, count + 1)
        return jax.random.randint(relation_key, (n,), 0, self.relations), keys

    def _texts(self, prompt, continuation):
        """Rows of a prompt, a continuation that is to be predicted, and the end token, padded to `length`."""
        n = len(continuation)
        columns = [part if jnp.ndim(part) == 2 else jnp.broadcast_to(part, n)[:, None] for part in prompt]
        columns += [continuation, jnp.full((n, 1), END)]
        tokens = jnp.concatenate(columns, axis=1).astype(jnp.int32)
        end = tokens.shape[1]
        position = jnp.arange(self.length)
        where = (position >= end - continuation.shape[1] - 1) & (position < end)
        tokens = jnp.pad(tokens, ((0, 0), (0, self.length - end)), constant_values=PAD)
        return {"tokens": tokens, "where": jnp.broadcast_to(where, tokens.shape)}


def _check_bool(name: str, value: jax.Array) -> None:
    if not jnp.issubdtype(jnp.result_type(value), jnp.bool_):  # an integer would be taken for a number of relations
        raise ValueError(f"{name} must be bool, got {jnp.result_type(value)}.")


def _mixed(kind, *texts):
    """Each row from the texts that `kind` `[n, 1]` says, the last ones where there are not so many."""
    kinds = [kind == i for i in range(len(texts) - 1)]
    return {name: jnp.select(kinds, [rows[name] for rows in texts[:-1]], texts[-1][name]) for name in texts[0]}
