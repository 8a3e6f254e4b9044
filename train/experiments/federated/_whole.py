"""Algorithms of `lemmata.core.federated`'s form, whose clients are sent, and send, whole models."""

from collections.abc import Callable

import jax.numpy as jnp

from ....core import trees
from ....core.federated import FederatedState
from . import Algorithm, Params, Round, Sent


def nothing_sent(state: FederatedState) -> tuple[FederatedState, Sent]:
    """A first state that took no word between server and clients."""
    return state, Sent(0, 0)


def whole_models(
    start: Callable[[Params, Round], tuple[FederatedState, Sent]],
    advance: Callable[[FederatedState, Round], FederatedState],
    *,
    down: int,
    up: int,
) -> Algorithm:
    """The algorithm of a state and its rounds.

    Args:
        start: (params, one minibatch of every client) -> the state, and what was sent to have it.
        advance: (state, round) -> the next state.
        down: models that a client of a round is sent.
        up: models that it sends; one without data sends none.
    """

    def init(params, first):
        state, sent = start(params, first)
        return state._replace(params=None), sent

    def run(params, carried, given):
        state = advance(carried._replace(params=params), given)
        size = trees.size_in_bytes(params)
        sent = Sent(jnp.where(given.weights > 0, float(up * size), 0.0), down * size)
        return state.params, state._replace(params=None), sent

    return Algorithm(init, run)
