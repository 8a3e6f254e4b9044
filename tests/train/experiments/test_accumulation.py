"""Gradient accumulation is the gradient of the whole batch, or it is refused: every objective of the package."""

import jax
import numpy as np
import optax
import pytest
from small_runs import shrink

from lemmata.train import experiments
from lemmata.train.engine.sources import Arrays
from lemmata.train.engine.state import init_state
from lemmata.train.engine.step import StepOptions, make_step
from lemmata.train.engine.task import Procedure
from lemmata.train.judge import config as configs
from lemmata.train.ledger import claims

BATCH = 8
REFUSED = {
    "time_series": "batch norm takes the moments of its micro-batch"
}  # beside procedures, which take no gradient
# Beside the arm that a claim is about: losses of the same family that couple examples in other ways.
OTHERS = {
    "losses/alignment/kto": {"kto": dict(policies=(("kto",),)), "fused": dict(policies=(("sft",), ("sft", "kto")))},
    "quickstart": {"boosted": dict(estimator="demi", conditional="boosted")},
}


def tasks():
    for path in claims():
        config = shrink(configs.load(path))
        config.train.batch_size = BATCH
        arms = {config.claim.better: config.arms[config.claim.better]}
        config.arms = arms | OTHERS.get(config.name, {})
        config.claim.metric = ""
        config = configs.complete(config)
        for arm in config.arms:
            resolved = configs.resolve_arm(config, arm)
            if experiments.get(config.experiment).kind(resolved) == "build":
                yield pytest.param(resolved, id=f"{config.name}-{arm}")


@pytest.mark.slow
@pytest.mark.parametrize("config", list(tasks()))
def test_accumulation_gives_the_gradient_of_the_whole_batch(config):
    task = experiments.get(config.experiment).module.build(config)
    optimizer = optax.sgd(1.0)
    if isinstance(task.objective, Procedure) or config.experiment in REFUSED:
        with pytest.raises(ValueError, match=r"train\.accumulate must be 1"):
            make_step(task.objective, optimizer, StepOptions(accumulate=4))
        return
    source = task.train
    if isinstance(source, Arrays):
        batch = jax.tree.map(lambda x: x[:BATCH], source.arrays)
    else:
        batch = jax.jit(source.sample, static_argnums=1)(jax.random.key(1), BATCH)
    state = jax.jit(lambda key, batch: init_state(task.objective, optimizer, key, batch))(jax.random.key(0), batch)
    # Away from where it starts, so that every term has a slope: a policy that is its reference has none in r - z0.
    noise = jax.tree.map(lambda x: 0.02 * np.random.default_rng(0).standard_normal(x.shape, np.float32), state.params)
    state = state._replace(params=jax.tree.map(jax.numpy.add, state.params, noise))
    whole, parts = (
        jax.jit(make_step(task.objective, optimizer, StepOptions(accumulate=n)))(state, batch) for n in (1, BATCH)
    )
    moved, also = (
        np.concatenate(
            [np.ravel(x - y) for x, y in zip(*map(jax.tree.leaves, (after.params, state.params)), strict=True)]
        )
        for after, _ in (whole, parts)
    )
    np.testing.assert_allclose(also, moved, rtol=0, atol=1e-4 * np.abs(moved).max())
    np.testing.assert_allclose(parts[1]["loss"], whole[1]["loss"], rtol=1e-5, atol=1e-6)
    for before, after in zip(jax.tree.leaves(whole[0].variables), jax.tree.leaves(parts[0].variables), strict=True):
        np.testing.assert_array_equal(after, before)
