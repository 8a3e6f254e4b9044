"""A task compiled for a mesh: start a state, advance it by several steps in one dispatch, evaluate it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from . import sharding
from .arrays import check_numbers, check_source
from .evaluation import Evaluation
from .optimizer import make_optimizer
from .settings import check_seed
from .sources import Arrays, Deferred, Feed, Resident, Run, Splits, as_source
from .state import TrainState, init_state
from .step import StepOptions, make_step
from .task import Objective, Offer, Procedure, Task
from .types import ConfigDict

# Streams of randomness that are not the step's own: folded into the state's key, at indices that no step reaches.
SAMPLE, CHOICE = 2**32 - 1, 2**32 - 3  # and 2**32 - 2 is evaluation's


class Program:
    """The compiled parts of a run: `init`, `advance`, `evaluate`, all of them over `seeds` in parallel if asked.

    With several seeds, every leaf of the state and every metric has a leading axis of their number, and each seed draws
    its own batches; with one, there is no such axis and nothing is vmapped.

    Args:
        task: objective and data.
        config: `train`, `optimizer` and `mesh` are read.
        mesh: from `sharding.make_mesh`.
        seeds: one run each.
        check_size: refuse a batch larger than the data; to compile alone, it need not be there.

    Raises:
        ValueError: data that no batch can be taken from (see `arrays.check_source`), a batch larger than the data, one
            that the mesh does not divide, seeds that are not distinct, or a split to evaluate on that is not there.
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
        self.batch_size, self.eval_batches = train.batch_size, train.eval_batches
        self.eval_batch_size = train.eval_batch_size or train.batch_size
        sharding.check_batch("train.batch_size", self.batch_size // train.accumulate, mesh)
        sharding.check_batch("train.eval_batch_size", self.eval_batch_size, mesh)
        self.source, self.eval_sources = as_source("train", task.train), self._eval_sources(train.eval_split)
        check_source("train", self.source, self.batch_size)
        for name, source in self.eval_sources.items():
            check_source(name or train.eval_split, source, self.eval_batch_size)
        if not isinstance(task.resident, Deferred):
            check_numbers("resident", task.resident)
        if check_size and isinstance(self.source, Arrays) and self.source.size < self.batch_size:
            raise ValueError(
                f"train.batch_size = {self.batch_size} is larger than the data, {self.source.size} examples."
            )
        objective = task.objective
        optimizer = _optimizer(objective, config)
        options = StepOptions(train.accumulate, train.compute_dtype, train.ema, train.skip_nonfinite)
        self.step = make_step(objective, optimizer, options)
        self._init = functools.partial(init_state, objective, optimizer, ema=bool(train.ema))

        keys = jax.eval_shape(self._keys)
        abstract = jax.eval_shape(self.over_seeds(self._init, (0, None)), keys, self.abstract_batch())
        self.state_sharding = sharding.state_shardings(abstract, mesh, config.mesh, leading=int(self.vmapped))
        self.abstract_state = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            abstract,
            self.state_sharding,
        )

    def _eval_sources(self, split: str) -> dict[str, Any]:
        """The held-out sets by name; one without a name where there is but one."""
        found = getattr(self.task, split)
        if found is None:
            raise ValueError(f"train.eval_split: the task has no {split} split.")
        if not isinstance(found, Splits):
            return {"": as_source(split, found)}
        return {name: as_source(f"{split}/{name}", source) for name, source in found.sets.items()}

    # ----------------------------------------------------------------------------------------------------- shapes

    @property
    def vmapped(self) -> bool:
        """Whether there is an axis of seeds."""
        return len(self.seeds) > 1

    def abstract_batch(self) -> Any:
        """Shapes of a training batch over all devices, with its sharding."""
        where = sharding.batch_sharding(self.mesh)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), self.source.spec(self.batch_size)
        )
        own = self._abstract_whole(None if self.task.own is None else self.task.own(self.seeds[0]))
        return self.beside(batch, (self._abstract_resident, own))

    def abstract_data(self) -> tuple[Any, Any]:
        """Shapes of what `train_data` holds: the training arrays and the resident ones, whole on every device."""
        return self._abstract_whole(self.feed.arrays), (self._abstract_resident, self._abstract_whole(self._own))

    @property
    def _abstract_resident(self) -> Any:
        resident = self.task.resident
        return self._abstract_whole(resident.spec if isinstance(resident, Deferred) else resident)

    def _abstract_whole(self, tree: Any) -> Any:
        whole = sharding.replicated(self.mesh)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=whole), tree)

    # ------------------------------------------------------------------------------------------------------- data

    @functools.cached_property
    def feed(self) -> Feed:
        """How training reads its source."""
        candidates = self.task.objective.candidates if isinstance(self.task.objective, Objective) else 1
        return self.source.feed(Run(self.seeds, self.batch_size * candidates, self.mesh))

    @functools.cached_property
    def train_data(self) -> tuple[Any, Any]:
        """What `advance` reads: the training arrays (nothing for the other sources) and the resident ones."""
        return self.put(self.feed.arrays), self.resident

    @functools.cached_property
    def resident(self) -> tuple[Any, Any]:
        """The task's resident arrays and what each seed has of its own, on the mesh."""
        resident = self.task.resident
        return self.put(resident.make() if isinstance(resident, Deferred) else resident), self.put(self._own)

    @functools.cached_property
    def _own(self) -> Any:
        """Of each seed, with an axis of seeds where there are several."""
        if self.task.own is None:
            return None
        own = [self.task.own(seed) for seed in self.seeds]
        shapes = [jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree) for tree in own]
        if any(each != shapes[0] for each in shapes):
            raise ValueError("own: arrays of all seeds must have the same shapes and dtypes.")
        check_numbers("own", own)
        return jax.tree.map(lambda *x: np.stack(x), *own) if self.vmapped else own[0]

    @property
    def resident_axes(self) -> tuple[None, int | None]:
        """For vmap over seeds: of `resident`."""
        return None, None if self.task.own is None else 0

    def put(self, arrays: Any) -> Any:
        """Arrays whole on every device."""
        return jax.device_put(arrays, sharding.replicated(self.mesh))

    def beside(self, batch: Any, resident: tuple[Any, Any]) -> Any:
        """A batch with the resident arrays, where the task has any."""
        whole = self.task.resident is None and self.task.own is None
        return batch if whole else Resident(batch, *resident)

    # ------------------------------------------------------------------------------------------------------ training

    def init(self) -> TrainState:
        """A fresh state, laid out on the mesh. Data may shape it: it sees the first batch."""
        first, by_seed = self._first()

        def start(keys, first, resident):
            if first is None:
                inputs = jax.tree.map(lambda x: x[0], self.feed.inputs(0, 1))  # none, of a source that is drawn alone
                drawn = self.feed.batch(self.feed.arrays, inputs, jax.random.key(0))
                first = jax.tree.map(lambda x: x[: self.batch_size], drawn)

            def init(key, first, resident):
                return self._init(key, self.beside(first, resident))

            return self.over_seeds(init, (0, 0 if by_seed else None, self.resident_axes))(keys, first, resident)

        return jax.jit(start, out_shardings=self.state_sharding)(self._keys(), first, self.resident)

    def _first(self) -> tuple[Any, bool]:
        """A first batch, if there is one without a draw, and whether each seed has its own."""
        if isinstance(self.source, Arrays) and self.source.rows is not None:
            table = self.source.table(self.seeds)
            assert table is not None  # there are rows
            rows = table[:, : self.batch_size] if self.vmapped else table[0, : self.batch_size]
            return jax.tree.map(lambda x: x[rows], self.source.arrays), self.vmapped
        first = self.source.first(self.batch_size)
        if first is not None and not isinstance(self.source, Arrays):
            first = multihost_utils.broadcast_one_to_all(first)
        return first, False

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

    def over_seeds(self, function: Callable, in_axes: Any) -> Callable:
        """The function over an axis of seeds, where there is one."""
        return jax.vmap(function, in_axes=in_axes) if self.vmapped else function

    @functools.cache  # noqa: B019  a program lives as long as its run
    def advance(self, length: int) -> Callable:
        """`(state, data, inputs) -> (state, metrics)`: `length` steps in one dispatch, the state donated.

        `inputs` come from the `feed`; the metrics are means over the steps.
        """

        def chunk(state: TrainState, data: Any, inputs: Any) -> tuple[TrainState, Any]:
            arrays, resident = data

            def one(state: TrainState, x: Any) -> tuple[TrainState, Any]:
                batch, variables = self._next_batch(state, arrays, x, resident)
                batch = jax.lax.with_sharding_constraint(batch, where)
                return self.step(state._replace(variables=variables), self.beside(batch, resident))

            state, metrics = jax.lax.scan(one, state, inputs, length=length)
            metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
            return state, metrics | {"skipped": state.skipped}

        where = sharding.batch_sharding(self.mesh)
        whole = sharding.replicated(self.mesh)
        return jax.jit(
            self.on_mesh(self.over_seeds(chunk, (0, (None, self.resident_axes), _axes(self.feed.by_seed)))),
            out_shardings=(self.state_sharding, whole),
            donate_argnums=0,
        )

    def _next_batch(self, state: TrainState, arrays: Any, x: Any, resident: Any) -> tuple[Any, Any]:
        """The batch of a step, and the variables after its choice."""
        key = jax.random.fold_in(jax.random.fold_in(state.key, SAMPLE), state.step)
        choose = getattr(self.task.objective, "choose", None)
        if choose is None:
            return self.feed.batch(arrays, x, key), state.variables
        examples, offered = self.feed.pool(arrays, x, key)
        key = jax.random.fold_in(jax.random.fold_in(state.key, CHOICE), state.step)
        rows, variables = choose(
            state.params, state.variables, Offer(examples, offered, state.step, resident[0], resident[1], key)
        )
        if rows.shape != (self.batch_size,):
            raise ValueError(f"choose must give rows [{self.batch_size}], the batch, got {list(rows.shape)}.")
        return jax.tree.map(lambda values: values[rows], examples), variables

    def evaluate(self, state: TrainState) -> dict[str, np.ndarray]:
        """Held-out metrics `[seeds]`, of the whole split; of data without an end, of batches that never change."""
        return self._evaluation.metrics(state)

    @functools.cached_property
    def _evaluation(self) -> Evaluation:
        return Evaluation(self)


def _axes(by_seed: Any) -> Any:
    """For vmap: 0 where a leaf has an axis of seeds."""
    return jax.tree.map(lambda own: 0 if own else None, by_seed)


def _optimizer(objective: Objective | Procedure, config: ConfigDict) -> optax.GradientTransformation:
    """The config's, between what the objective puts before and after it."""
    if isinstance(objective, Procedure):
        return optax.identity()
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    parts = [part for part in (objective.before, optimizer, objective.after) if part is not None]
    return optax.chain(*parts) if len(parts) > 1 else optimizer
