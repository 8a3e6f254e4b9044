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
from .evaluation import Evaluation
from .layout import Layout
from .optimizer import make_optimizer
from .sources import Arrays, drawn
from .state import TrainState, init_state
from .step import StepOptions, make_step
from .task import Objective, Offer, Procedure, Task
from .types import ConfigDict

# Streams of randomness that are not the step's own: folded into the state's key, at indices that no step reaches.
SAMPLE, CHOICE = 2**32 - 1, 2**32 - 3  # and 2**32 - 2 is evaluation's


class Program(Layout):
    """The compiled parts of a run: `init`, `advance`, `evaluate`, all of them over `seeds` in parallel if asked.

    With several seeds, every leaf of the state and every metric has a leading axis of their number, and each seed draws
    its own batches; with one, there is no such axis and nothing is vmapped.

    Args:
        task: objective and data.
        config: `train`, `optimizer` and `mesh` are read.
        mesh: from `sharding.make_mesh`.
        seeds: one run each.
        check_size: as for `Layout`.

    Raises:
        ValueError: what `Layout` refuses, or options of the config that the objective has no place for.
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
        super().__init__(task, train, mesh, seeds=seeds, check_size=check_size)
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

    # ------------------------------------------------------------------------------------------------------ training

    def init(self) -> TrainState:
        """A fresh state, laid out on the mesh. Data may shape it: it sees the first batch."""
        first, by_seed = self._first()

        def start(keys, first, resident):
            first = drawn(self.source, self.batch_size) if first is None else first

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

    def _keys(self) -> jax.Array:
        keys = jnp.stack([jax.random.key(seed) for seed in self.seeds])
        return keys if self.vmapped else keys[0]

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
