"""One update: value_and_grad, optax, apply; with accumulation, bf16 compute, averaging and a guard as options."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ...core import trees
from .sources import Resident
from .state import TrainState
from .task import Batch, Metrics, Objective, Procedure, TwoPass


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
        ValueError: options that a procedure has no place for; accumulation of a loss that couples the examples of a
            batch, or that does not say whether it does.
    """
    if isinstance(objective, Procedure):
        return _procedure_step(objective, options)
    gradient, optimizer = _gradient(objective, options), optax.with_extra_args_support(optimizer)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, (variables, metrics)), grads = gradient(state.params, state.variables, batch, key)
        grad_norm = optax.tree.norm(grads)
        before = (state.params, state.opt_state, state.variables, state.ema)

        def update() -> tuple:
            beside = {"value": loss, "variables": variables}
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **beside)
            params = optax.apply_updates(state.params, updates)
            if objective.project is not None:
                params = objective.project(params, variables)
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


def _gradient(objective: Objective, options: StepOptions) -> Callable:
    """`(params, variables, batch, key) -> (loss, (variables, metrics)), gradient` of the whole batch's loss."""
    if options.accumulate == 1:
        return _value_and_gradient(objective.loss, options)
    if isinstance(objective.loss, TwoPass):
        return _in_two_passes(objective.loss, options)
    if objective.couples is not False:
        reason = "couples the examples of a batch" if objective.couples else "does not say whether it couples examples"
        raise ValueError(
            f"train.accumulate must be 1 for this objective, whose loss {reason}, got {options.accumulate}: "
            "micro-batches would give another loss. Say Objective(..., couples=False) if it is a mean over examples; "
            "give a TwoPass as its loss if it is not; or use a smaller train.batch_size, or more devices."
        )
    return _averaged(objective, options)


def _value_and_gradient(loss: Callable, options: StepOptions) -> Callable:
    def cast_loss(params, variables, batch, key):
        # The cast is inside the differentiated function, so the gradient comes back in the parameters' float32.
        value, (after, metrics) = loss(*_cast((params, variables, batch, key), options))
        return value.astype(jnp.float32), (_as_before(after, variables), metrics)

    return jax.value_and_grad(cast_loss, has_aux=True)


def _averaged(objective: Objective, options: StepOptions) -> Callable:
    """The mean over micro-batches, which share one pass of `variables`."""
    gradient, count = _value_and_gradient(objective.loss, options), options.accumulate

    def averaged(params, variables, batch, key):
        def add(carry, inputs):
            variables, total = carry
            rows, index = inputs
            (value, (variables, metrics)), grads = gradient(params, variables, rows, jax.random.fold_in(key, index))
            share = jax.tree.map(lambda x: x.astype(jnp.float32) / count, (value, metrics, grads))
            return (variables, jax.tree.map(jnp.add, total, share)), None

        split = _Split(batch, count)
        (value, (_, metrics)), grads = jax.eval_shape(gradient, params, variables, split.part(0), key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (value, metrics, grads))
        (variables, (value, metrics, grads)), _ = split.scan(add, (variables, zeros), jnp.arange(count))
        return (value, (variables, metrics)), jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return averaged


def _in_two_passes(loss: TwoPass, options: StepOptions) -> Callable:
    """Forward over the micro-batches, the derivative of what the batch makes of it, and back through each of them."""
    count = options.accumulate

    def gradient(params, variables, batch, key):
        batch = loss.prepare(batch)
        split, keys = _Split(batch, count), jax.random.split(key, count)

        def forward(params, rows, key):
            return loss.forward(*_cast((params, variables, rows, key), options))

        def combine(outputs, params):
            value, (after, metrics) = loss.combine(outputs, *_cast((params, variables, batch, key), options))
            return value.astype(jnp.float32), (_as_before(after, variables), metrics)

        _, outputs = split.scan(lambda _, x: (None, forward(params, *x)), None, keys)
        whole = jax.tree.map(_whole, outputs)
        value, (slopes, direct) = jax.value_and_grad(combine, (0, 1), has_aux=True)(whole, params)

        def add(total, inputs):
            rows, (key, slope) = inputs
            _, pull = jax.vjp(lambda params: forward(params, rows, key), params)
            return jax.tree.map(lambda t, g: t + g.astype(jnp.float32), total, pull(slope)[0]), None

        direct = jax.tree.map(lambda g: g.astype(jnp.float32), direct)
        grads, _ = split.scan(add, direct, (keys, jax.tree.map(lambda x: _parts(x, count), slopes)))
        return value, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return gradient


class _Split:
    """A batch as `count` micro-batches; resident arrays come whole with each."""

    def __init__(self, batch: Any, count: int):
        self.whole = batch if isinstance(batch, Resident) else None
        rows = batch.batch if isinstance(batch, Resident) else batch
        self.rows = jax.tree.map(lambda x: _parts(x, count), rows)

    def _beside(self, rows: Any) -> Any:
        return rows if self.whole is None else self.whole._replace(batch=rows)

    def part(self, index: int) -> Any:
        """One of them."""
        return self._beside(jax.tree.map(lambda x: x[index], self.rows))

    def scan(self, function: Callable, carry: Any, others: Any) -> tuple[Any, Any]:
        """`jax.lax.scan` of `function(carry, (micro-batch, its entry of others))`."""
        return jax.lax.scan(lambda c, x: function(c, (self._beside(x[0]), x[1])), carry, (self.rows, others))


def _parts(x: jax.Array, count: int) -> jax.Array:
    """`[batch, ...]` as `[count, batch / count, ...]`, strided: each takes its share of every device's rows."""
    return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)


def _whole(x: jax.Array) -> jax.Array:
    """The inverse of `_parts`."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def _cast(arguments: tuple, options: StepOptions) -> tuple:
    """Params, variables, batch and key with params and batch as they are computed in."""
    params, variables, batch, key = arguments
    if options.compute_dtype != "float32":
        params, batch = trees.cast_floats((params, batch), jnp.dtype(options.compute_dtype))
    return params, variables, batch, key


def _as_before(after: Any, before: Any) -> Any:
    return jax.tree.map(lambda new, old: new.astype(old.dtype), after, before)
