"""An experiment of one's own: a function from a config to a task, and the metrics that it reports."""

import jax
import jax.numpy as jnp

from lemmata.train import Metric, Objective, Sampler, Task

METRICS = {"error": Metric("squared error")}


def build(config):
    """A line through points; `data.slope` is what is to be found."""

    def sample(key, n):
        x = jax.random.normal(key, (n,))
        return {"x": x, "y": config.data.slope * x}

    def errors(params, batch):
        return (params["slope"] * batch["x"] - batch["y"]) ** 2

    def loss(params, variables, batch, key):
        return jnp.mean(jnp.abs(errors(params, batch)) ** config.method.power), (variables, {})

    objective = Objective(
        init=lambda key, batch: ({"slope": jnp.zeros(())}, {}),
        loss=loss,
        evaluate=lambda params, variables, batch, key: {"error": errors(params, batch)},
        couples=False,
    )
    return Task(objective, train=Sampler(sample), test=Sampler(sample))
