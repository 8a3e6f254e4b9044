"""Writing with a language model that keeps what attention saw, token by token."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from ...core import sequences
from ...core.networks.transformer import Cache, Transformer


@functools.cache
def step_of(network: Transformer) -> Callable:
    """`((params, cache), token [batch]) -> ((params, cache), logits [batch, vocab])`: the same one for a network."""

    def step(state: tuple[Any, Cache], token: jax.Array) -> tuple[tuple[Any, Cache], jax.Array]:
        params, cache = state
        cache, logits = cast(tuple[Cache, jax.Array], network.apply(params, cache, token, method="decode_step"))
        return (params, cache), logits

    return step


def prompted(network: Transformer, params: Any, size: int, *parts: tuple[jax.Array, jax.Array | None]) -> tuple:
    """The state of `step_of` after a prompt.

    Args:
        network: the model.
        params: its parameters.
        size: most tokens that the prompt and what is written after it will have.
        *parts: (tokens `[batch, n]`, which of them count `[batch, n]` or None for all), read one after the other.

    Example:
        >>> state = prompted(network, params, 20, (prompt[:, :-1], None))
        >>> text = generate(step_of(network), state, prompt[:, -1], key=key, choose=greedy, num_steps=8, eos_id=0)
    """
    cache = network.init_cache(len(parts[0][0]), size)
    for tokens, where in parts:
        cache, _ = network.apply(params, cache, tokens, method="extend", where=where)
    return params, cache


def generate(
    step: Callable,
    state: Any,
    first_token: jax.Array,
    *,
    key: jax.Array,
    choose: Callable[[jax.Array, jax.Array], jax.Array],
    num_steps: int,
    eos_id: int | Sequence[int],
) -> jax.Array:
    """Tokens `[batch, num_steps]` of one model, after its prompt's last token `[batch]`.

    Args:
        step: `(state, token [batch]) -> (state, logits [batch, vocab])`.
        state: any pytree.
        first_token: `[batch]` int32, read first.
        key: PRNG key, split over the steps.
        choose: `(key, logits [batch, vocab]) -> token [batch]`.
        num_steps: tokens to write, static.
        eos_id: the end token, or several: the one that a row writes first fills the rest of it.
    """

    def write(carry, key):
        state, token, done = carry
        state, logits = step(state, token)
        token = jnp.where(done, token, choose(key, logits)).astype(jnp.int32)
        return (state, token, done | sequences.ends(token, eos_id)), token

    start = state, first_token, jnp.zeros(first_token.shape, bool)
    return jax.lax.scan(write, start, jax.random.split(key, num_steps))[1].T


def greedy(key: jax.Array, logits: jax.Array) -> jax.Array:
    """The most probable token."""
    return jnp.argmax(logits, axis=-1)
