"""The loop: order of the data, dispatches, seeds in parallel, exact resume."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.train.engine import loop, program
from lemmata.train.engine.mistakes import RunFailed
from lemmata.train.engine.order import EpochOrder
from lemmata.train.engine.sources import Arrays, Sampler
from lemmata.train.engine.stream import Stream
from lemmata.train.engine.task import Objective, Procedure, Task, no_data


def same(a, b):
    """Bit for bit, keys included."""

    def data(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(data(x), data(y)), a, b)


def with_source(task, kind):
    if kind == "sampler":

        def sample(key, n):
            x = jax.random.normal(key, (n, 8))
            return {"x": x, "y": x[:, :3]}

        return task._replace(train=Sampler(sample))
    return task._replace(train=Stream(task.train.arrays, batch_size=16, seed=0)) if kind == "stream" else task


def test_training_reaches_the_solution(task, config):
    config.train.steps = 400
    result = loop.fit(task, config, (0,))
    assert result.metrics["error"].shape == (1,)
    assert result.metrics["error"][0] < 1e-4
    steps, losses = result.history["train/loss"]
    assert steps[-1] == 400
    assert losses[0, -1] < 1e-3 * losses[0, 0]


def test_every_epoch_visits_every_example_once():
    size, batch, steps = 23, 5, 46  # ten epochs, few of which start with a batch
    rows = EpochOrder((3, -4), size).rows(0, steps * batch)
    for seed in rows.reshape(2, 10, size):
        assert all(sorted(epoch) == list(range(size)) for epoch in seed)
        assert len({tuple(epoch) for epoch in seed}) == 10
    assert not np.array_equal(*rows)
    np.testing.assert_array_equal(EpochOrder((3, -4), size).rows(17 * batch, 35), rows[:, 85:120])
    in_parts = EpochOrder((3, -4), size)
    parts = [in_parts.rows(start, 23) for start in range(0, 230, 23)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), rows)


def test_held_out_metrics_are_exact_means_for_any_batch_size(task, config):
    means = []
    for size in (1, 7, 16, 40, 64):  # 40 examples
        config.train.eval_batch_size = size
        result = loop.fit(task, config, (0,))
        means.append(result.metrics["error"][0])
    x, y = (task.test.arrays[k].astype(np.float64) for k in "xy")
    exact = np.mean(np.sum((x @ np.asarray(result.state.params["kernel"], np.float64) - y) ** 2, -1))
    np.testing.assert_allclose(means, exact, rtol=1e-5)


@pytest.mark.parametrize("kind", ["arrays", "sampler"])
def test_seeds_in_parallel_are_the_seeds_one_by_one(task, config, kind):
    task = with_source(task, kind)
    together = loop.fit(task, config, (3, 5))
    for index, seed in enumerate((3, 5)):
        alone = loop.fit(task, config, (seed,))
        np.testing.assert_allclose(together.metrics["error"][index], alone.metrics["error"][0], rtol=1e-4)
        np.testing.assert_allclose(together.state.params["kernel"][index], alone.state.params["kernel"], rtol=1e-4)


@pytest.mark.parametrize("kind", ["arrays", "sampler", "stream"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_run_that_stopped_anywhere_goes_on_to_the_same_bits(task, config, tmp_path, kind, seeds):
    config.train.eval_every, config.train.checkpoint_every, config.train.ema = 10, 6, 0.9
    whole = loop.fit(with_source(task, kind), config, seeds)
    stops = []

    def stop_at(self, step):
        stops.append(step)
        return len(stops) in (2, 5)

    original, loop.Termination.requested = loop.Termination.requested, stop_at
    try:
        for _ in range(2):
            with pytest.raises(loop.Preempted) as exit_:
                loop.fit(with_source(task, kind), config, seeds, workdir=tmp_path)
            assert exit_.value.code == 0
        with (tmp_path / "metrics.jsonl").open("a") as file:  # a line past the checkpoint, and half a line
            file.write('{"step": 23, "name": "train/loss", "value": 1.0, "seed": 0, "time": 0.0}\n{"step": 24, "na')
    finally:
        loop.Termination.requested = original
    resumed = loop.fit(with_source(task, kind), config, seeds, workdir=tmp_path)
    same(resumed.state, whole.state)
    same(resumed.metrics, whole.metrics)
    assert resumed.history.keys() == whole.history.keys()
    for name in whole.history:
        same(resumed.history[name], whole.history[name])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    keys = [(row["step"], row["name"], row["seed"]) for row in rows]
    assert len(keys) == len(set(keys))
    again = loop.fit(with_source(task, kind), config, seeds, workdir=tmp_path)
    same(again.metrics, whole.metrics)


def test_sigterm_saves_and_exits_with_zero(task, config, tmp_path):
    config.train.steps, config.train.steps_per_dispatch = 100000, 10

    original = loop._Run._prepare

    def prepare(self, step):
        if step == 50:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, step)

    loop._Run._prepare = prepare
    try:
        with pytest.raises(SystemExit) as exit_:
            loop.fit(task, config, (0,), workdir=tmp_path)
    finally:
        loop._Run._prepare = original
    assert exit_.value.code == 0
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["50"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_dispatches_depend_on_the_step_alone(config):
    config.train.steps, config.train.eval_every, config.train.checkpoint_every = 103, 30, 25
    stops, step = [], 0
    while step < 103:
        step = loop.next_stop(step, config.train)
        stops.append(step)
    assert {25, 30, 50, 60, 75, 90, 100, 103} <= set(stops)
    assert all(loop.next_stop(s, config.train) == next(t for t in stops if t > s) for s in range(103))


def test_a_batch_larger_than_the_data_is_refused(task, config):
    config.train.batch_size = 97
    with pytest.raises(ValueError, match=r"batch_size = 97.*96"):
        loop.fit(task, config, (0,))


def test_advance_compiles_once_a_length(task, config):
    run = program.Program(task, config, loop.make_mesh(config.mesh))
    state = run.init()
    function = run.advance(4)
    for step in range(0, 24, 4):
        state, _ = function(state, run.train_data, run.feed.inputs(step, 4))
    assert function._cache_size() == 1
    assert run.advance(4) is function


@pytest.mark.parametrize(("seeds", "accumulate"), [((0,), 2), ((0, 1), 1)])
def test_resident_arrays_come_whole_with_every_batch(task, config, seeds, accumulate):
    """Batches of row numbers beside the rows train as batches of rows do, and the rows are inputs of the program."""
    config.train.accumulate = accumulate
    plain, whole = task.objective, task.train.arrays

    def rows(batch):
        return jax.tree.map(lambda x: x[batch.batch], batch.arrays)

    def init(key, batch):
        assert jax.tree.map(jnp.shape, batch.arrays) == jax.tree.map(jnp.shape, whole)
        return plain.init(key, rows(batch))

    indirect = task._replace(
        objective=Objective(
            init,
            lambda params, variables, batch, key: plain.loss(params, variables, rows(batch), key),
            lambda params, variables, batch, key: plain.evaluate(params, variables, rows(batch), key),
            couples=False,
        ),
        train=Arrays(np.arange(96)),
        test=Arrays(np.arange(40)),
        resident=whole,
    )
    expected, found = (loop.fit(each, config, seeds) for each in (task, indirect))
    for a, b in zip(*(jax.tree.leaves(each.state.params) for each in (expected, found)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(found.metrics["error"], expected.metrics["error"], rtol=1e-5)

    run = program.Program(indirect, config, loop.make_mesh(config.mesh), seeds=seeds)
    text = run.advance(4).lower(run.init(), run.train_data, run.feed.inputs(0, 4)).as_text()
    assert "tensor<96x8xf32>" in text
    assert "dense<" not in "".join(line for line in text.splitlines() if "tensor<96x8xf32>" in line)


def test_a_procedure_makes_its_own_data_for_each_seed(config):
    """A random walk: no batch comes in, and each seed draws its own."""

    def update(params, variables, batch, key):
        assert batch == ()
        return params + jax.random.normal(key), {"time": variables["time"] + 1}, {"place": params}

    walk = Procedure(
        lambda key, batch: (jax.random.normal(key), {"time": jnp.zeros(())}),
        update,
        lambda params, variables, batch, key: {"place": params, "time": variables["time"]},
    )
    task = Task(walk, no_data, no_data)
    config.train.eval_every, config.train.eval_batches = 8, 1
    together = loop.fit(task, config, (3, 4))
    alone = loop.fit(task, config, (4,))
    np.testing.assert_array_equal(together.metrics["time"], config.train.steps)
    np.testing.assert_allclose(together.metrics["place"][1], alone.metrics["place"][0], rtol=1e-6)
    assert together.metrics["place"][0] != together.metrics["place"][1]
    steps, places = together.history["test/place"]
    np.testing.assert_array_equal(steps, [8, 16, 24])
    assert places.shape == (2, 3)


def poisoned(task, rows):
    """The task with targets in the first `rows` examples whose squares overflow."""
    y = task.train.arrays["y"].copy()
    y[:rows] = 1e30
    return task._replace(train=Arrays({**task.train.arrays, "y": y}))


def test_skipped_updates_are_told_at_the_end(task, config, caplog):
    config.train.steps, config.train.batch_size = 48, 4  # two epochs: each meets the row once
    fitted = loop.fit(poisoned(task, 1), config, (3, 5), progress=False, label="some arm")
    np.testing.assert_array_equal(fitted.skipped, [2, 2])
    assert "some arm: skipped 2 of 48 updates of seed 3, 2 of 48 updates of seed 5" in caplog.text
    assert np.isfinite(fitted.state.params["kernel"]).all()


def test_a_run_that_skips_more_than_a_tenth_fails(task, config, tmp_path):
    config.train.checkpoint_every = 8
    with pytest.raises(RunFailed, match=r"\d of 24 updates of seed 0 .*skipped, more than a tenth"):
        loop.fit(poisoned(task, 60), config, (0,), workdir=tmp_path, progress=False)
    assert (tmp_path / "checkpoints").is_dir()  # what was written stays
    config.train.skip_nonfinite = False  # asked to go on, it does
    assert loop.fit(poisoned(task, 60), config, (0,), progress=False).skipped == [0]
