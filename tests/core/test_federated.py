"""Rounds of FedAvg, SCAFFOLD and MIME: what they are where clients are alike, and where few of them take part.

What every round owes its callers, weights, clients without data, shards, is tested where all of them stand side by
side, in tests/methods/transforms/federated_mvr.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from least_squares import grad_fn, least_squares, mean_gradient, repeated

from lemmata.core import federated


def start(algorithm, problem):
    x, clients = jnp.zeros(problem[0].shape[-1]), problem[0].shape[0]
    return federated.init_federated(x, algorithm=algorithm, num_clients=clients, direction=mean_gradient(x, problem))


def run(round_fn, state, batches, rounds):
    def step(state, _):
        return round_fn(state, batches, grad_fn=grad_fn), None

    return jax.lax.scan(step, state, None, length=rounds)[0]


def test_baselines_with_identical_clients_are_federated_averaging():
    A, b = least_squares(clients=1)
    clients = jnp.repeat(A, 4, axis=0), jnp.repeat(b, 4, axis=0)
    batches = repeated(clients, 3)
    rounds = {
        "fedavg": federated.fedavg_round,
        "scaffold": federated.scaffold_round,
        "mime": functools.partial(
            federated.mime_round, momentum=0.0
        ),  # g(y) - g(x) + c = g(y) where batches are all alike
    }
    after = {name: run(function, start(name, clients), batches, 5).params for name, function in rounds.items()}
    for name in ("scaffold", "mime"):
        np.testing.assert_allclose(after[name], after["fedavg"], rtol=1e-4, atol=1e-4)


def test_scaffold_with_a_few_clients_a_round_still_finds_the_optimum():
    problem = least_squares(rows=12)
    batches = repeated(problem, 5)

    @jax.jit
    def final(key):
        def step(state, key):
            clients = jax.random.choice(key, 10, (4,), replace=False)
            taking_part = jax.tree.map(lambda x: x[clients], batches)
            return federated.scaffold_round(
                state, taking_part, grad_fn=grad_fn, clients=clients, learning_rate=0.1
            ), None

        return jax.lax.scan(step, start("scaffold", problem), jax.random.split(key, 1000))[0]

    state = final(jax.random.key(0))
    assert jnp.sum(mean_gradient(state.params, problem) ** 2) < 1e-6
    np.testing.assert_allclose(state.control, state.client_controls.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize(
    ("clients", "match"),
    [
        (jnp.array([0, 3]), r"clients must be integers from 0 to 2, got 3 at \[1\]"),
        ([-1, 0], r"clients must be integers from 0 to 2, got -1 at \[0\]"),
        (np.array([1, 1]), "clients must be different ones, got 1 twice"),
        (jnp.array([0.0, 1.0]), "clients must be integers, got float32"),
        ([0, 1, 2], r"clients must have shape \[2\] as client_batches, got \[3\]"),
    ],
)
def test_clients_that_are_none_are_named(clients, match):
    problem = least_squares(clients=2, dim=4)
    state = federated.init_federated(jnp.zeros(4), algorithm="scaffold", num_clients=3)
    with pytest.raises(ValueError, match=match):
        federated.scaffold_round(state, repeated(problem, 1), grad_fn=grad_fn, clients=clients)


@pytest.mark.parametrize(
    ("algorithm", "carried"),
    [
        ("fedavg", set()),
        ("fedadam", {"momentum", "second_moment"}),
        ("scaffold", {"control", "client_controls"}),
        ("mime", {"direction"}),
    ],
)
def test_a_state_carries_what_its_algorithm_needs(algorithm, carried):
    state = federated.init_federated(jnp.ones(2, jnp.float16), algorithm=algorithm, num_clients=3)
    assert {name for name, value in state._asdict().items() if value is not None} == {"params", *carried}
    wide = {name for name in carried if getattr(state, name).dtype == jnp.float32}
    assert wide == {"second_moment"} & carried  # its entries are squares


def test_an_algorithm_of_a_paper_is_none_of_these():
    with pytest.raises(ValueError, match=r"algorithm must be one of .*, got 'mvr'"):
        federated.init_federated(jnp.ones(2), algorithm="mvr")
