"""An arm compiled for a mesh: start a state, advance it by several steps in one dispatch, evaluate it."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from . import sharding
from .data.arrays import check_numbers, check_source
from .data.sources import Arrays, Resident, Sampler, check_seed
from .experiments.base import Procedure, Task
from .optimizer import make_optimizer
from .order import EpochOrder
from .state import TrainState, eval_params, init_state
from .step import StepOptions, make_step
from .types import ConfigDict

# Streams of randomness that are not the step's own: folded into the state's key, at indices that no step reaches.
SAMPLE, EVALUATION = 2**32 - 1, 2**32 - 2


class Program:
    """The compiled parts of one arm: `init`, `advance`, `evaluate`, all of them over `seeds` in parallel if asked.

    With several seeds, every leaf of the state and every metric has a leading axis of their number, and each seed draws
    its own batches; with one, there is no such axis and nothing is vmapped.

    Args:
        task: objective and data.
        config: an arm's, resolved.
        mesh: from `sharding.make_mesh`.
        seeds: one run each.
        check_size: refuse a batch larger than the data; to compile alone, it need not be there.

    Raises:
        ValueError: data that no batch can be taken from (see `data.arrays.check_source`), a batch larger than the data,
            one that the mesh does not divide, or seeds that are not distinct.
    """

    def __init__(
        self,
        task: Task,
        config: ConfigDict,
        mesh: Mesh,
        *,
        seeds: Sequence[int] = (0,),
        check_size: bool = True,
    ):
        train = config.train
        self.task, self.mesh, self.seeds = task, mesh, tuple(check_seed("seeds", seed) for seed in seeds)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be distinct, and one at least, got {self.seeds}.")
        self.batch_size = train.batch_size
        self.eval_batch_size = train.eval_batch_size or train.batch_size
        self.eval_batches = train.eval_batches
        sharding.check_batch("train.batch_size", self.batch_size // train.accumulate, mesh)
        sharding.check_batch("train.eval_batch_size", self.eval_batch_size, mesh)
        check_source("train", task.train, self.batch_size)
        check_source("test", task.test, self.eval_batch_size)
        check_numbers("resident", task.resident)
        if check_size and isinstance(task.train, Arrays) and task.train.size < self.batch_size:
            raise ValueError(
                f"train.batch_size = {self.batch_size} is larger than the data, {task.train.size} examples."
            )
        own_update = isinstance(task.objective, Procedure)
        optimizer = optax.identity() if own_update else make_optimizer(config.optimizer, train.steps)
        options = StepOptions(train.accumulate, train.compute_dtype, train.ema, train.skip_nonfinite)
        self.step = make_step(task.objective, optimizer, options)
        self._init = functools.partial(init_state, task.objective, optimizer, ema=bool(train.ema))

        keys = jax.eval_shape(self._keys)
        abstract = jax.eval_shape(self._over_seeds(self._init, (0, None)), keys, self.abstract_batch())
        self.state_sharding = sharding.state_shardings(abstract, mesh, config.mesh, leading=int(self.vmapped))
        self.abstract_state = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            abstract,
            self.state_sharding,
        )

    def abstract_batch(self) -> Any:
        """Shapes of a training batch over all devices, with its sharding."""
        source, size = self.task.train, self.batch_size
        if isinstance(source, Arrays):
            batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), source.arrays)
        elif isinstance(source, Sampler):
            batch = jax.eval_shape(lambda: source.sample(jax.random.key(0), size))
        else:
            batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), source.example)
        where, whole = sharding.batch_sharding(self.mesh), sharding.replicated(self.mesh)
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), batch)
        resident = self.task.resident
        return self._beside(
            batch, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), resident)
        )

    def abstract_data(self) -> tuple[Any, Any]:
        """Shapes of what `train_data` holds: the training arrays and the resident ones, whole on every device."""
        source, whole = self.task.train, sharding.replicated(self.mesh)
        arrays = source.arrays if isinstance(source, Arrays) else ()
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=whole),
            (arrays, self.task.resident),
        )

    @property
    def vmapped(self) -> bool:
        """Whether there is an axis of seeds."""
        return len(self.seeds) > 1

    def init(self) -> TrainState:
        """A fresh state, laid out on the mesh. Data may shape it: it sees the first batch."""
        source = self.task.train

        def start(keys, example, resident):
            if isinstance(source, Sampler):
                example = source.sample(jax.random.key(0), self.batch_size)
            return self._over_seeds(self._init, (0, None))(keys, self._beside(example, resident))

        if isinstance(source, Arrays):
            example = jax.tree.map(lambda x: x[: self.batch_size], source.arrays)
        else:
            example = None if isinstance(source, Sampler) else multihost_utils.broadcast_one_to_all(source.example)
        return jax.jit(start, out_shardings=self.state_sharding)(self._keys(), example, self._resident)

    def on_mesh(self, function: Callable) -> Callable:
        """The function traced with the mesh as its ambient one: networks then keep activations split over `data`."""

        @functools.wraps(function)
        def traced(*arguments: Any) -> Any:
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return function(*arguments)

        return traced

    def _keys(self) -> jax.Array:
        keys = jnp.stack([jax.random.key(seed) for seed in self.seeds])
        return keys if self.vmapped else keys[0]

    def _over_seeds(self, function: Callable, in_axes: Any) -> Callable:
        return jax.vmap(function, in_axes=in_axes) if self.vmapped else function

    @functools.cached_property
    def order(self) -> EpochOrder:
        """Which rows of the training arrays each step takes."""
        assert isinstance(self.task.train, Arrays)  # the other sources have no rows
        return EpochOrder(self.seeds, self.task.train.size)

    @functools.cached_property
    def train_data(self) -> tuple[Any, Any]:
        """What `advance` reads: the training arrays (nothing for the other sources) and the resident ones."""
        return self._put(self.task.train), self._resident

    @functools.cached_property
    def test_data(self) -> tuple[Any, Any]:
        """What `evaluate` reads."""
        train, test = self.task.train, self.task.test
        if isinstance(train, Arrays) and isinstance(test, Arrays) and test.arrays is train.arrays:
            return self.train_data
        return self._put(test), self._resident

    @functools.cached_property
    def _resident(self) -> Any:
        return jax.device_put(self.task.resident, sharding.replicated(self.mesh))

    def _put(self, source: Any) -> Any:
        return jax.device_put(source.arrays if isinstance(source, Arrays) else (), sharding.replicated(self.mesh))

    def _beside(self, batch: Any, resident: Any) -> Any:
        return batch if self.task.resident is None else Resident(batch, resident)

    @functools.cache  # noqa: B019  a program lives as long as its run
    def advance(self, length: int) -> Callable:
        """`(state, data, inputs) -> (state, metrics)`: `length` steps in one dispatch, the state donated.

        `inputs` come from a `feed`; the metrics are means over the steps.
        """

        def chunk(state: TrainState, data: Any, inputs: Any) -> tuple[TrainState, Any]:
            arrays, resident = data

            def one(state: TrainState, x: Any) -> tuple[TrainState, Any]:
                batch = jax.lax.with_sharding_constraint(self._batch(state, arrays, x), where)
                return self.step(state, self._beside(batch, resident))

            state, metrics = jax.lax.scan(one, state, inputs, length=length)
            metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
            return state, metrics | {"skipped": state.skipped}

        where = sharding.batch_sharding(self.mesh)
        whole = sharding.replicated(self.mesh)
        return jax.jit(
            self.on_mesh(self._over_seeds(chunk, (0, None, 0 if isinstance(self.task.train, Arrays) else None))),
            out_shardings=(self.state_sharding, whole),
            donate_argnums=0,
        )

    def _batch(self, state: TrainState, arrays: Any, x: Any) -> Any:
        source = self.task.train
        if isinstance(source, Arrays):
            return jax.tree.map(lambda array: array[x], arrays)
        if isinstance(source, Sampler):
            return source.sample(jax.random.fold_in(jax.random.fold_in(state.key, SAMPLE), state.step), self.batch_size)
        return x

    @functools.cached_property
    def evaluate(self) -> Callable:
        """`(state, data) -> metrics`: means over the test split, or over `eval_batches` batches that never change."""
        source, size = self.task.test, self.eval_batch_size
        count = self.eval_batches if isinstance(source, Sampler) else math.ceil(source.size / size)
        where = sharding.batch_sharding(self.mesh)

        def means(state: TrainState, data: Any) -> Any:
            params, key = eval_params(state), jax.random.fold_in(state.key, EVALUATION)
            arrays, resident = data

            def one(index: jax.Array) -> Any:
                batch_key, metric_key = jax.random.split(jax.random.fold_in(key, index))
                if isinstance(source, Sampler):
                    batch, real = source.sample(batch_key, size), jnp.ones(size, bool)
                else:
                    rows, examples = index * size + jnp.arange(size), source.size
                    batch = jax.tree.map(lambda x: x[rows % examples], arrays)
                    real = rows < examples  # the last batch wraps round; its repeats do not count
                batch = self._beside(jax.lax.with_sharding_constraint(batch, where), resident)
                metrics = self.task.objective.evaluate(params, state.variables, batch, metric_key)
                return {name: _sum_and_count(value, real) for name, value in metrics.items()}

            sums = jax.lax.map(one, jnp.arange(count))
            return {name: jnp.sum(total) / jnp.sum(weight) for name, (total, weight) in sums.items()}

        return jax.jit(self.on_mesh(self._over_seeds(means, (0, None))), out_shardings=sharding.replicated(self.mesh))


def _sum_and_count(value: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    value = value.astype(jnp.float32)
    if value.ndim == 0:
        return value, jnp.ones(())
    return jnp.sum(jnp.where(real, value, 0.0)), jnp.sum(real)
