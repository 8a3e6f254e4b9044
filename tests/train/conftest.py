"""A small learning problem and its config, for the engine's tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.train.engine.sources import Arrays
from lemmata.train.engine.task import Objective, Task
from lemmata.train.judge import config as configs


def least_squares(examples: int = 96, dim: int = 8) -> Task:
    """Linear regression with an exact solution; the metrics of `evaluate` are per example."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, dim)).astype(np.float32)
    data = {"x": x, "y": x @ rng.normal(size=(dim, 3)).astype(np.float32)}

    def init(key, batch):
        return {"kernel": jax.random.normal(key, (batch["x"].shape[-1], 3))}, {"seen": jnp.zeros(())}

    def errors(params, batch):
        return jnp.sum((batch["x"] @ params["kernel"] - batch["y"]) ** 2, axis=-1)

    def loss(params, variables, batch, key):
        seen = {"seen": variables["seen"] + batch["x"].shape[0]}
        return jnp.mean(errors(params, batch)), (seen, {"norm": jnp.linalg.norm(params["kernel"])})

    def evaluate(params, variables, batch, key):
        return {"error": errors(params, batch)}

    held_out = {name: value[:40] for name, value in data.items()}
    return Task(Objective(init, loss, evaluate, couples=False), Arrays(data), Arrays(held_out))


@pytest.fixture
def task():
    return least_squares()


@pytest.fixture
def config():
    config = configs.defaults()
    config.train.steps, config.train.batch_size, config.train.steps_per_dispatch = 24, 16, 4
    config.train.log_every, config.mesh.data = 8, 1
    config.optimizer.learning_rate = 0.05
    return config
