"""The algorithms that a new one is held against: FedAvg, FedAdam, SCAFFOLD and MIME."""

import functools
from typing import Any

from ....core import checks, federated
from . import Algorithm, Problem
from ._whole import nothing_sent, whole_models


def fedavg(problem: Problem, *, learning_rate: float = 0.2) -> Algorithm:
    """FedAvg (arXiv:1602.05629): local gradient steps, then the mean of the models.

    Args:
        problem: what it is built for.
        learning_rate: of the local steps.
    """
    run = functools.partial(federated.fedavg_round, grad_fn=problem.grad_fn, learning_rate=learning_rate)
    return _of_core("fedavg", problem, run, down=1, up=1)


def fedadam(
    problem: Problem,
    *,
    learning_rate: float = 0.2,
    server_learning_rate: float = 0.1,
    b1: float = 0.9,
    b2: float = 0.99,
    tau: float = 1e-3,
) -> Algorithm:
    """FedAdam (arXiv:2003.00295): local gradient steps, then an adaptive step along their mean change.

    Args:
        problem: what it is built for.
        learning_rate: of the local steps.
        server_learning_rate: of the server's step.
        b1: decay of its first moment.
        b2: decay of its second moment.
        tau: how small a second moment still counts.
    """
    checks.in_interval("server_learning_rate", server_learning_rate, 0.0, float("inf"), closed="neither")
    server = dict(server_learning_rate=server_learning_rate, b1=b1, b2=b2, tau=tau)
    run = functools.partial(federated.fedadam_round, grad_fn=problem.grad_fn, learning_rate=learning_rate, **server)
    return _of_core("fedadam", problem, run, down=1, up=1)


def scaffold(problem: Problem, *, learning_rate: float = 0.2) -> Algorithm:
    """SCAFFOLD (arXiv:1910.06378): each client's drift is taken off its local steps.

    Args:
        problem: what it is built for.
        learning_rate: of the local steps.
    """
    run = functools.partial(federated.scaffold_round, grad_fn=problem.grad_fn, learning_rate=learning_rate)
    return _of_core("scaffold", problem, run, down=2, up=2)


def mime(problem: Problem, *, learning_rate: float = 0.2, momentum: float = 0.9) -> Algorithm:
    """MIME (arXiv:2008.03606): local steps mimic the server's momentum method.

    Args:
        problem: what it is built for.
        learning_rate: of the local steps.
        momentum: of the server's direction.
    """
    constants = dict(learning_rate=learning_rate, momentum=momentum)
    run = functools.partial(federated.mime_round, grad_fn=problem.grad_fn, **constants)
    return _of_core("mime", problem, run, down=3, up=2)


def _of_core(algorithm: str, problem: Problem, run: Any, *, down: int, up: int) -> Algorithm:
    def start(params, first):
        clients = problem.num_clients
        return nothing_sent(federated.init_federated(params, algorithm=algorithm, num_clients=clients))

    def advance(state, given):
        further = {"clients": given.clients} if algorithm == "scaffold" else {}
        return run(state, given.batches, weights=given.weights, **further)

    return whole_models(start, advance, down=down, up=up)
