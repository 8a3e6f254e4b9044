"""Gradient accumulation is the gradient of the whole batch, or it is refused: every objective of the package."""

import jax
import numpy as np
import optax
import pytest
from small_runs import shrink

from lemmata.train import experiments
from lemmata.train.engine.sources import Arrays, Deferred, Resident, as_source, drawn
from lemmata.train.engine.state import init_state
from lemmata.train.engine.step import StepOptions, make_step
from lemmata.train.engine.task import Procedure
from lemmata.train.judge import config as configs
from lemmata.train.ledger import claims

PARTS = 8
ROWS = {"representation": 6}  # of a part, where a batch has to hold several of each class; else 1
REFUSED = ("eeg",)  # batch norm takes the moments of its micro-batch; and procedures, which take no gradient
EVERY_METHOD = ("alignment", "representation")  # families whose methods couple the examples of a batch in many ways


def chosen(config):
    """The arm that a claim is about, one of each other method of some families, and both critics of the quickstart."""
    arms = {config.claim.better: config.claim.better}
    if config.experiment in EVERY_METHOD:
        for arm in config.arms:
            arms.setdefault(configs.resolve_arm(config, arm).method.name, arm)
        arms |= {"fused": "fused"} if "fused" in config.arms else {}
    if config.name == "quickstart":
        arms["boosted"] = "demi_boosted"
    return list(dict.fromkeys(arms.values()))


def tasks():
    for path in claims():
        config = shrink(configs.load(path))
        config.train.batch_size = PARTS * ROWS.get(config.experiment, 1)
        config = configs.complete(config)
        for arm in chosen(config):
            resolved = configs.resolve_arm(config, arm)
            if experiments.get(config.experiment).kind(resolved) == "build":
                yield pytest.param(resolved, arm, id=f"{config.name}-{arm}")


def first_batch(task, size):
    source = as_source("train", task.train)
    batch = source.first(size)
    if batch is None:
        batch = jax.jit(lambda: drawn(source, size))()
    if isinstance(source, Arrays) and source.rows is not None:
        batch = jax.tree.map(lambda x: x[source.rows(0)[:size]], source.arrays)
    if task.resident is None and task.own is None:
        return batch
    resident = task.resident.make() if isinstance(task.resident, Deferred) else task.resident
    return Resident(batch, resident, None if task.own is None else task.own(0))


@pytest.mark.slow
@pytest.mark.parametrize(("config", "arm"), list(tasks()))
def test_accumulation_gives_the_gradient_of_the_whole_batch(config, arm):
    task = experiments.get(config.experiment).build(config, arm)
    optimizer = optax.sgd(1.0)
    if isinstance(task.objective, Procedure) or config.experiment in REFUSED:
        with pytest.raises(ValueError, match=r"train\.accumulate must be 1"):
            make_step(task.objective, optimizer, StepOptions(accumulate=4))
        return
    batch = first_batch(task, config.train.batch_size)
    state = jax.jit(lambda key, batch: init_state(task.objective, optimizer, key, batch))(jax.random.key(0), batch)
    # Away from where it starts, so that every term has a slope: a policy that is its reference has none in r - z0.
    noise = jax.tree.map(lambda x: 0.02 * np.random.default_rng(0).standard_normal(x.shape, np.float32), state.params)
    state = state._replace(params=jax.tree.map(jax.numpy.add, state.params, noise))
    whole, parts = (
        jax.jit(make_step(task.objective, optimizer, StepOptions(accumulate=n)))(state, batch) for n in (1, PARTS)
    )
    moved, also = (
        np.concatenate(
            [np.ravel(x - y) for x, y in zip(*map(jax.tree.leaves, (after.params, state.params)), strict=True)]
        )
        for after, _ in (whole, parts)
    )
    np.testing.assert_allclose(also, moved, rtol=0, atol=2e-4 * np.abs(moved).max())
    np.testing.assert_allclose(parts[1]["loss"], whole[1]["loss"], rtol=1e-5, atol=1e-6)
    for before, after in zip(jax.tree.leaves(whole[0].variables), jax.tree.leaves(parts[0].variables), strict=True):
        np.testing.assert_array_equal(after, before)
