"""Rounds of 100 clients against a bare vmapped loop: `pytest tests/benchmarks/test_federated_mvr.py -s`.

Both are one jitted call on the same minibatches of the same network. The bare one is what a user writes by hand: every
client's gradient steps under vmap and scan, and the mean of the models. A round of FedAvg takes K gradients a client;
one of MVR takes two gradients at each of K steps, so it is held against a loop of 2 K steps. Rounds alternate; the aim
is 1.3 times the bare loop's time.
"""

import functools

import jax
import pytest
from racing import race

from lemmata.methods.transforms import federated_mvr as mvr
from lemmata.train.experiments import federated

CLIENTS, STEPS, BATCH, ROUNDS, AIM = 100, 10, 16, 60, 1.3


def minibatches(steps):
    key, label_key = jax.random.split(jax.random.key(0))
    return {
        "inputs": jax.random.uniform(key, (CLIENTS, steps, BATCH, 64)),
        "label": jax.random.randint(label_key, (CLIENTS, steps, BATCH), 0, 10),
    }


def bare(params, batches):
    def client(batches):
        def step(y, batch):
            return jax.tree.map(lambda y, g: y - 0.2 * g, y, federated.grad_fn(y, batch)), None

        return jax.lax.scan(step, params, batches)[0]

    return jax.tree.map(lambda models: models.mean(axis=0), jax.vmap(client)(batches))


@pytest.mark.parametrize("algorithm", ["fedavg", "mvr"])
def test_rounds_against_a_bare_loop(algorithm, benchmark, capsys):
    params = federated.init_network(jax.random.key(1), (64, 64, 10), 0.15)
    state = mvr.init_federated(params, algorithm=algorithm)
    round_fn = functools.partial(getattr(mvr, f"{algorithm}_round"), grad_fn=federated.grad_fn)
    gradients = 2 if algorithm == "mvr" else 1
    own_batches, bare_batches = minibatches(STEPS), minibatches(gradients * STEPS)
    ours = jax.jit(round_fn).lower(state, own_batches).compile()
    theirs = jax.jit(bare).lower(params, bare_batches).compile()

    times = race(ROUNDS, ours=lambda: ours(state, own_batches), bare=lambda: theirs(params, bare_batches))
    ratio = times.ratio("ours", "bare")
    with capsys.disabled():
        print(
            f"\n{algorithm}: {CLIENTS} clients, {STEPS} steps: {1e3 * times.median('ours'):.1f} ms a round; "
            f"round / bare loop of as many gradients = {ratio:.2f} "
            f"(of the fastest {times.fastest('ours', 'bare'):.2f}); aim {AIM}"
        )
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(lambda: ratio, rounds=1)
