"""Writing with a model: the choice is followed, and the cache gives what the whole text gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.train.models import generation


@pytest.mark.parametrize("ends", [4, [4], (4, 7), jnp.array([7, 0, 4])])
def test_generation_follows_the_choice_until_an_end_token(ends):
    table = jax.random.normal(jax.random.key(0), (9, 9))
    written = generation.generate(
        lambda state, token: (state, state[token]), table, jnp.arange(9),
        key=jax.random.key(1), choose=generation.greedy, num_steps=7, eos_id=ends,
    )  # fmt: skip
    best = np.argmax(table, axis=-1)
    for first, row in enumerate(np.asarray(written)):
        token, ended = first, False
        for got in row:
            token = token if ended else best[token]
            ended = ended or token in np.atleast_1d(ends)
            assert got == token


class Sums:
    """A network whose next token is the sum of all that it was scaled and read, modulo 11, as a cache has it."""

    def init_cache(self, rows, size):
        return jnp.zeros(rows, jnp.int32)

    def apply(self, scale, cache, tokens, method, where=None):
        if method == "decode_step":
            cache = cache + scale * tokens
            return cache, jax.nn.one_hot(cache % 11, 11)
        counted = tokens if where is None else jnp.where(where, tokens, 0)
        cache = cache + scale * counted.sum(axis=1)
        return cache, jax.nn.one_hot(cache[:, None] % 11, 11)


def test_what_is_written_goes_on_from_all_parts_of_the_prompt():
    network, scale = Sums(), 3
    prompt, more = jnp.array([[1, 2], [4, 5]]), jnp.array([[7, 8], [9, 1]])
    where = jnp.array([[True, False], [True, True]])
    state = generation.prompted(network, scale, 9, (prompt, None), (more, where))
    last = jnp.array([2, 6])
    written = generation.generate(
        generation.step_of(network), state, last,
        key=jax.random.key(0), choose=generation.greedy, num_steps=3, eos_id=-1,
    )  # fmt: skip
    for row, before in enumerate([1 + 2 + 7 + 2, 4 + 5 + 9 + 1 + 6]):
        total = scale * before
        for token in np.asarray(written[row]):
            assert token == total % 11
            total += scale * int(token)
    assert generation.step_of(network) is generation.step_of(network)
