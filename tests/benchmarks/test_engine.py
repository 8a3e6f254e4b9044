"""The engine against a bare jitted scan of the same step, in one process: `pytest tests/benchmarks -p benchmark -s`.

Both run the same number of steps a dispatch on the same data in memory; the bare one is what a user writes by hand: a
scan over rows drawn beforehand, value_and_grad, the same optax chain and metrics, donation. Each prints a ratio of
medians, and that of the fastest rounds, which other work on the machine disturbs least.
"""

import statistics
import subprocess
import sys
import time

import jax
import optax
import pytest
from ml_collections import ConfigDict
from racing import race

from lemmata.train import experiments, feed, sharding
from lemmata.train.engine.optimizer import make_optimizer
from lemmata.train.engine.program import Program
from lemmata.train.judge import config as configs

LENGTH = 50
ROUNDS = {"mlp": 150, "transformer": 15}

PROBLEMS = {
    "mlp": dict(
        experiment="classification",
        data=dict(name="digits"),
        model=dict(name="mlp", features=(128, 128)),
        train=dict(batch_size=128, steps=100_000),
        limit=1.10,
    ),
    "transformer": dict(
        experiment="language_model",
        data=dict(name="python_docs", window=64),
        model=dict(num_layers=2, num_heads=4, model_dim=64, mlp_dim=256),
        train=dict(batch_size=32, steps=100_000),
        limit=1.05,
    ),
}


def bare_scan(task, optimizer, batch_size):
    """A hand-written training loop of `LENGTH` steps on arrays in memory."""

    def step(carry, rows):
        params, opt_state, variables, key, data = carry
        key, step_key = jax.random.split(key)
        batch = jax.tree.map(lambda x: x[rows], data)
        (loss, (variables, metrics)), grads = jax.value_and_grad(task.objective.loss, has_aux=True)(
            params, variables, batch, step_key
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, variables, key, data), (loss, metrics)

    def chunk(params, opt_state, variables, key, data):
        key, order_key = jax.random.split(key)
        rows = jax.random.randint(order_key, (LENGTH, batch_size), 0, task.train.size)
        carry, losses = jax.lax.scan(step, (params, opt_state, variables, key, data), rows)
        return *carry[:4], jax.tree.map(lambda x: x.mean(), losses)

    return jax.jit(chunk, donate_argnums=(0, 1, 2, 3))


@pytest.mark.parametrize("name", PROBLEMS)
def test_engine_against_a_bare_scan(name, benchmark):
    problem = dict(PROBLEMS[name])
    limit = problem.pop("limit")
    config = configs.resolve_arm(configs.complete(ConfigDict(problem)), "main")
    config.mesh.data = 1
    task = experiments.get(config.experiment).module.build(config)
    program = Program(task, config, sharding.make_mesh(config.mesh))
    engine = program.advance(LENGTH)
    bare = bare_scan(task, make_optimizer(config.optimizer, 100_000), config.train.batch_size)

    state = program.init()
    start = program.init()
    hand = (start.params, start.opt_state, start.variables, jax.random.key(0))
    data = jax.device_put(task.train.arrays)

    def advance_engine():
        nonlocal state, dispatched
        inputs = feed.inputs(program, dispatched * LENGTH, LENGTH)
        state, metrics = engine(state, program.train_data, inputs)
        dispatched += 1
        return metrics

    def advance_by_hand():
        nonlocal hand
        *hand, loss = bare(*hand, data)
        return loss

    dispatched = 0
    times = race(ROUNDS[name], engine=advance_engine, bare=advance_by_hand)
    ratio, step = times.ratio("engine", "bare"), 1e3 * times.median("engine") / LENGTH
    print(
        f"\n{name}: engine / bare scan = {ratio:.3f} (of the fastest {times.fastest('engine', 'bare'):.3f}), "
        f"{step:.2f} ms a step; aim {limit}"
    )
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(lambda: ratio, rounds=1)


def test_start_up(benchmark):
    def seconds(code):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    jax_alone = statistics.median(seconds("import jax") for _ in range(5))
    method = statistics.median(seconds("import lemmata.methods.bounds.demi") for _ in range(5))
    command = statistics.median(
        seconds("import sys; sys.argv = ['x']; import lemmata.train.__main__") for _ in range(5)
    )
    print(f"\nstart-up: import jax {jax_alone:.2f} s, a method {method:.2f} s, the command {command:.2f} s")
    print(f"method / jax = {method / jax_alone:.3f}")
    benchmark.pedantic(lambda: method, rounds=1)
