"""What agent and auxiliaries are made of: the network, what is drawn from replay, and what an auxiliary is."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from ....core.networks.batch import split_batch
from ....core.networks.mlp import MLP


class Outputs(NamedTuple):
    """What the network makes of observations `[n, size]`."""

    z: jax.Array  # [n, d], of the encoder
    phi: jax.Array  # [n, actions, embedding]
    values: jax.Array  # [n, actions]


class QNetwork(nn.Module):
    """Observations to z, z to an embedding of each action, embeddings to values."""

    encoder: tuple[int, ...]
    embedding: int
    num_actions: int

    def setup(self) -> None:
        """The layers."""
        self.encode = MLP((*self.encoder,))
        self.embed = nn.Dense(self.num_actions * self.embedding)
        self.value = nn.Dense(1)

    def __call__(self, observation: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of observations `[n, size]`: z `[n, d]`, phi `[n, actions, embedding]` and values `[n, actions]`."""
        z = split_batch(nn.relu(self.encode(observation)))
        phi = nn.relu(self.embed(z)).reshape(-1, self.num_actions, self.embedding)
        return z, phi, self.value(phi)[..., 0]


def outputs_of(network: QNetwork, params: Any, observation: jax.Array) -> Outputs:
    """The network's outputs with those parameters."""
    return Outputs(*cast(Any, network.apply(params, observation)))


def of_action(values: jax.Array, action: jax.Array) -> jax.Array:
    """Entries `[n, ...]` of the actions `[n]` in `[n, actions, ...]`."""
    return jnp.take_along_axis(values, action.reshape(-1, *[1] * (values.ndim - 1)), axis=1)[:, 0]


class Transitions(NamedTuple):
    """What values are learned from."""

    observation: jax.Array  # [n, size]
    action: jax.Array  # [n]
    reward: jax.Array  # [n, n_step], from the action on
    whole: jax.Array  # [n] bool: the n steps are within one episode and within what replay holds
    after: jax.Array  # [n, size], the observation n_step later


class Steps(NamedTuple):
    """Further steps from replay."""

    observation: jax.Array  # [m, size]
    action: jax.Array  # [m]


class Batch(NamedTuple):
    """A minibatch from replay."""

    transitions: Transitions
    others: Steps | None  # the rows of `Drawn.others`, one array after the other; None where there are none
    beside: Any  # as `Drawn` has it


class Drawn(NamedTuple):
    """Which steps make a minibatch, as rows of all that replay holds."""

    anchor: jax.Array  # [n] int: values are learned from these
    others: tuple[jax.Array, ...] = ()  # further steps that an auxiliary wants to see, each [n] int
    beside: Any = None  # what it knows of them


def uniform_steps(reward: jax.Array, last: jax.Array, key: jax.Array, n: int) -> Drawn:
    """Any of the steps that are stored, with replacement.

    With one key these are the anchors of `rcrl.sample_segment_pairs`: arms that differ in what they add learn their
    values from the same steps.
    """
    bits = jax.random.bits(key, (n,), jnp.uint32)
    return Drawn((bits % jnp.uint32(len(reward))).astype(jnp.int32))


class Auxiliary(NamedTuple):
    """What is added to the agent's loss.

    Its parameters are trained with the network's. Its variables are carried from step to step and get no gradient.
    `params` below is {"network": …, "auxiliary": its own}.
    """

    init: Callable[[jax.Array, Any], tuple[Any, Any]]
    # (keys [2], the network's first parameters) -> its parameters and its variables
    terms: Callable[[Any, Any, Batch, Outputs, jax.Array], dict[str, jax.Array]]
    # (params, variables, minibatch, the network's outputs on its transitions, key) -> name -> scalar
    weights: dict[str, float]  # of each term in the loss
    update: Callable[[Any, Any], Any] = lambda variables, network: variables
    # (variables, the network's new parameters) -> variables
    draw: Callable[[jax.Array, jax.Array, jax.Array, int], Drawn] = uniform_steps
    # (rewards [t] of all that is stored, stream after stream in order of time, whether an episode or a stream ends
    # [t], key, n) -> n anchors
