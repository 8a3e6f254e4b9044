"""Federated MVR: local STORM steps of adaptive size."""

import math
from typing import Any

from ....core import checks, local_steps, trees
from ....methods.transforms import federated_mvr
from . import Algorithm, Problem, Sent
from ._whole import whole_models


def mvr(
    problem: Problem,
    *,
    step_scale: float = 0.2,
    offset: float = 1.0,
    momentum_scale: float = 3.0,
    adaptive: bool = False,
    server_learning_rate: float = 0.1,
    b1: float = 0.9,
    b2: float = 0.99,
    tau: float = 1e-3,
) -> Algorithm:
    """MVR from the mean gradient of one minibatch of every client, which are sent the model for it.

    Args:
        problem: what it is built for.
        step_scale: k of the local steps.
        offset: w of the local steps.
        momentum_scale: c of the local steps.
        adaptive: the server steps as FedAdam's, and not by the mean change. What follows is read then alone.
        server_learning_rate: of that step.
        b1: decay of its first moment.
        b2: decay of its second moment.
        tau: how small a second moment still counts.
    """
    checks.in_interval("server_learning_rate", server_learning_rate, 0.0, math.inf, closed="neither")
    local = dict(step_scale=step_scale, offset=offset, momentum_scale=momentum_scale)
    server = dict(learning_rate=server_learning_rate, b1=b1, b2=b2, tau=tau)

    def start(params, first):
        own = local_steps.gradients(params, first.batches, grad_fn=problem.grad_fn)
        direction, size = trees.weighted_sum(own, first.weights), trees.size_in_bytes(params)
        state = federated_mvr.init_federated(params, algorithm="mvr", adaptive=adaptive, direction=direction)
        return state, Sent(size, size)

    def advance(state, given):
        further: dict[str, Any] = dict(weights=given.weights, **local, **server)
        return federated_mvr.mvr_round(state, given.batches, grad_fn=problem.grad_fn, **further)

    return whole_models(start, advance, down=3, up=2)
