"""One update: value_and_grad, optax, apply; with accumulation, bf16 compute, averaging and a guard as options."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..core import trees
from .data.sources import Resident
from .experiments.base import Batch, Metrics, Objective, Procedure
from .state import TrainState


class StepOptions(NamedTuple):
    """The options of `config.train` that change an update."""

    accumulate: int = 1  # micro-batches per update
    compute_dtype: str = "float32"  # of activations; parameters and gradients stay float32
    ema: float = 0.0  # decay of the parameters' average; 0 keeps none
    skip_nonfinite: bool = True


def make_step(
    objective: Objective | Procedure, optimizer: optax.GradientTransformation, options: StepOptions
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The update as a pure function of (state, batch); jit, scan, vmap and shard it as you like.

    The metrics are the objective's own, `loss`, and `grad_norm` (before clipping). An update whose loss or gradient is
    not finite leaves parameters, optimizer, variables and average as they were and adds one to `state.skipped`. A
    procedure brings its own update; it is the new parameters that are then looked at.

    Raises:
        ValueError: options that a procedure has no place for.
    """
    if isinstance(objective, Procedure):
        return _procedure_step(objective, options)
    gradient = _accumulated(objective, options)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, (variables, metrics)), grads = gradient(state.params, state.variables, batch, key)
        grad_norm = optax.tree.norm(grads)
        before = (state.params, state.opt_state, state.variables, state.ema)

        def update() -> tuple:
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            ema = trees.ema(state.ema, params, options.ema) if options.ema else state.ema
            return params, opt_state, variables, ema

        if options.skip_nonfinite:
            finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
            # A branch, not a select of every leaf: on one run it costs nothing. Over vmapped seeds it becomes a select.
            params, opt_state, variables, ema = jax.lax.cond(finite, update, lambda: before)
            skipped = state.skipped + jnp.where(finite, 0, 1)
        else:
            (params, opt_state, variables, ema), skipped = update(), state.skipped
        state = TrainState(state.step + 1, params, opt_state, variables, state.key, ema, skipped)
        return state, {**metrics, "loss": loss, "grad_norm": grad_norm}

    return step


def _procedure_step(
    procedure: Procedure, options: StepOptions
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    for name in ("accumulate", "compute_dtype"):
        value, default = getattr(options, name), StepOptions._field_defaults[name]
        if value != default:
            raise ValueError(f"train.{name} must be {default!r} where the method has its own update, got {value!r}.")

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        params, variables, metrics = procedure.update(state.params, state.variables, batch, key)
        skipped = state.skipped
        if options.skip_nonfinite:
            finite = trees.all_finite(params)
            before = (state.params, state.variables)
            params, variables = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (params, variables), before)
            skipped += jnp.where(finite, 0, 1)
        ema = trees.ema(state.ema, params, options.ema) if options.ema else state.ema
        return TrainState(state.step + 1, params, state.opt_state, variables, state.key, ema, skipped), metrics

    return step


def _accumulated(objective: Objective, options: StepOptions) -> Callable:
    """`value_and_grad` of the loss, averaged over `accumulate` micro-batches that share one pass of `variables`."""

    def loss(params, variables, batch, key):
        if options.compute_dtype != "float32":
            # The cast is inside the differentiated function, so the gradient comes back in the parameters' float32.
            params, batch = trees.cast_floats((params, batch), jnp.dtype(options.compute_dtype))
        value, (after, metrics) = objective.loss(params, variables, batch, key)
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, variables)
        return value.astype(jnp.float32), (after, metrics)

    gradient = jax.value_and_grad(loss, has_aux=True)
    count = options.accumulate
    if count == 1:
        return gradient

    def accumulated(params, variables, batch, key):
        whole = batch if isinstance(batch, Resident) else None
        rows = batch if whole is None else whole.batch
        # Strided, so that each micro-batch takes its share of every device's rows and nothing moves.
        micro = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), rows)

        def of_micro_batch(variables, rows, key):
            return gradient(params, variables, rows if whole is None else whole._replace(batch=rows), key)

        def add(carry, inputs):
            variables, total = carry
            rows, index = inputs
            (value, (variables, metrics)), grads = of_micro_batch(variables, rows, jax.random.fold_in(key, index))
            share = jax.tree.map(lambda x: x.astype(jnp.float32) / count, (value, metrics, grads))
            return (variables, jax.tree.map(jnp.add, total, share)), None

        first = jax.tree.map(lambda x: x[0], micro)
        (value, (_, metrics)), grads = jax.eval_shape(of_micro_batch, variables, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (value, metrics, grads))
        (variables, (value, metrics, grads)), _ = jax.lax.scan(add, (variables, zeros), (micro, jnp.arange(count)))
        return (value, (variables, metrics)), jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return accumulated
