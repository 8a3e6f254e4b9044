"""The agent by itself, and with the contrastive loss that is usual."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ....core import checks, contrastive, distances
from . import Auxiliary, QNetwork, outputs_of
from ._slow import first_copy, follow


def dqn(network: QNetwork) -> Auxiliary:
    """Nothing beside the values."""
    return Auxiliary(init=lambda keys, first: ({}, ()), terms=lambda *_: {}, weights={})


def curl(
    network: QNetwork, *, weight: float = 1.0, noise: float = 0.5, temperature: float = 0.1, slow_decay: float = 0.99
) -> Auxiliary:
    """InfoNCE on z of an observation disturbed twice by noise, as CURL (arXiv:2004.04136) does with crops.

    Args:
        network: the agent's.
        weight: of the loss.
        noise: standard deviation of what disturbs an observation.
        temperature: of InfoNCE.
        slow_decay: of the slowly moving copy that sees the other view.

    Raises:
        ValueError: one of these is outside its range.
    """
    for name, value in (("weight", weight), ("noise", noise)):
        checks.in_interval(name, value, 0.0, np.inf)
    checks.in_interval("temperature", temperature, 0.0, np.inf, closed="neither")
    predictor = nn.Dense(network.encoder[-1], use_bias=False)

    def init(keys, first):
        return {"predictor": predictor.init(keys[1], jnp.zeros((1, network.encoder[-1])))}, first_copy(first)

    def terms(params, slow, batch, outputs, key):
        observation = batch.transitions.observation
        disturbance = noise * jax.random.normal(key, (2, *observation.shape))
        query = outputs_of(network, params["network"], observation + disturbance[0]).z
        target = outputs_of(network, slow, observation + disturbance[1]).z
        query = distances.l2_normalize(cast(jax.Array, predictor.apply(params["auxiliary"]["predictor"], query)))
        target = distances.l2_normalize(jax.lax.stop_gradient(target))
        return {"curl": jnp.mean(contrastive.info_nce_loss(query, target, temperature=temperature))}

    return Auxiliary(init, terms, {"curl": weight}, update=follow(slow_decay))
