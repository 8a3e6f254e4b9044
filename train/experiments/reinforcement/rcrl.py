"""RCRL on the embeddings of state-action pairs; its segments are cut from the rewards in replay."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from ....core import checks, masked
from ....methods.losses.contrastive import rcrl as method
from ...engine.settings import check_whole
from . import Auxiliary, Drawn, QNetwork, of_action, outputs_of
from ._slow import first_copy, follow
from .baselines import curl


def rcrl(
    network: QNetwork, *, weight: float = 1.0, hidden: int = 64, threshold: float = 0.0, slow_decay: float = 0.99
) -> Auxiliary:
    """Pairs of one segment against pairs of two.

    Args:
        network: the agent's.
        weight: of the loss.
        hidden: width of the discriminator.
        threshold: summed |reward| that cuts a segment; 0: every non-zero reward does.
        slow_decay: of the slowly moving copy that sees the other step of a pair.

    Raises:
        ValueError: one of these is outside its range.
    """
    for name, value in (("weight", weight), ("threshold", threshold)):
        checks.in_interval(name, value, 0.0, np.inf)
    check_whole("hidden", hidden, 1)
    discriminator = method.PairDiscriminator(hidden=hidden)

    def init(keys, first):
        phi = jnp.zeros((1, network.embedding))
        return {"discriminator": discriminator.init(keys[0], phi, phi)}, first_copy(first)

    def draw(reward, last, key, n):
        segments = method.return_segments(reward, threshold=threshold or None, dones=last)
        anchor, positive, negative = method.sample_segment_pairs(segments, key=key, num_pairs=n)
        return Drawn(anchor, (positive, negative), segments[anchor] != segments[negative])  # or there is one segment

    def terms(params, slow, batch, outputs, key):
        phi = outputs_of(network, slow, batch.others.observation).phi
        other = jnp.split(jax.lax.stop_gradient(of_action(phi, batch.others.action)), 2)
        anchor, own = of_action(outputs.phi, batch.transitions.action), params["auxiliary"]["discriminator"]
        logits = [cast(jax.Array, discriminator.apply(own, anchor, z)) for z in other]
        return {"rcrl": masked.mean(method.rcrl_loss(*logits), batch.beside)}

    return Auxiliary(init, terms, {"rcrl": weight}, update=follow(slow_decay), draw=draw)


def rcrl_curl(
    network: QNetwork,
    *,
    rcrl_weight: float = 1.0,
    curl_weight: float = 1.0,
    hidden: int = 64,
    threshold: float = 0.0,
    noise: float = 0.5,
    temperature: float = 0.1,
    slow_decay: float = 0.99,
) -> Auxiliary:
    """RCRL and CURL together, on one slowly moving copy.

    Args:
        network: the agent's.
        rcrl_weight: of RCRL's loss.
        curl_weight: of CURL's.
        hidden: as for `rcrl`, as is `threshold`.
        threshold: see there.
        noise: as for `curl`, as is `temperature`.
        temperature: see there.
        slow_decay: as for both.

    Raises:
        ValueError: one of these is outside its range.
    """
    for name, value in (("rcrl_weight", rcrl_weight), ("curl_weight", curl_weight)):
        checks.in_interval(name, value, 0.0, np.inf)
    first = rcrl(network, weight=rcrl_weight, hidden=hidden, threshold=threshold, slow_decay=slow_decay)
    second = curl(network, weight=curl_weight, noise=noise, temperature=temperature, slow_decay=slow_decay)

    def init(keys, network):
        (own, slow), (more, _) = first.init(keys, network), second.init(keys, network)
        return own | more, slow

    def terms(*given):
        return first.terms(*given) | second.terms(*given)

    return first._replace(init=init, terms=terms, weights=first.weights | second.weights)
