"""Everything that training carries from step to step: one pytree, one checkpoint."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .task import Batch, Objective, Procedure


class TrainState(NamedTuple):
    """The state of one run; with seeds in parallel, every leaf has a leading axis `[seeds]`."""

    step: jax.Array  # [] int32, updates tried so far (skipped ones count)
    params: Any  # float32 master weights
    opt_state: Any
    variables: Any  # what the method carries: prototypes, queues, temperatures
    key: jax.Array  # [] typed key; every draw folds the step into it, so it never changes
    ema: Any  # average of the parameters, or None
    skipped: jax.Array  # [] int32, updates dropped because they were not finite


def init_state(
    objective: Objective | Procedure,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    batch: Batch,
    *,
    ema: bool = False,
) -> TrainState:
    """A fresh state; `batch` gives shapes, and values where the objective starts from data."""
    init_key, run_key = jax.random.split(key)
    params, variables = objective.init(init_key, batch)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        variables=variables,
        key=run_key,
        # A copy: two leaves of a donated state must not share a buffer.
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        skipped=jnp.zeros((), jnp.int32),
    )


def eval_params(state: TrainState) -> Any:
    """The parameters to evaluate: the average where there is one."""
    return state.params if state.ema is None else state.ema
