"""Held-out metrics of a state: means over exactly the examples of a split, and summaries of all that it gave."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import sharding
from .layout import Layout
from .sources import HeldOut, Run, Source
from .state import TrainState, eval_params

EVALUATION = 2**32 - 2  # folded into the state's key, at an index that no step reaches


class Evaluation:
    """What is evaluated of a task: each of its held-out sets, and the training set where a summary asks for it."""

    def __init__(self, layout: Layout):
        self.summary = layout.task.objective.summary
        self.sets = {name: _Reader(layout, source) for name, source in layout.eval_sources.items()}
        self.train = _Reader(layout, layout.source, metrics=False) if self.summary and self.summary.train else None
        self.seeds = len(layout.seeds)

    def metrics(self, state: TrainState) -> dict[str, np.ndarray]:
        """Metric -> `[seeds]`; "set/metric" where there are several sets.

        Raises:
            ValueError: a metric that `evaluate` and `summarize` both give.
        """
        train = self.train(state)[1] if self.train else None
        found = {}
        for name, reader in self.sets.items():
            means, collected = reader(state)
            summaries = self._summarized(collected, train)
            twice = means.keys() & summaries.keys()
            if twice:
                raise ValueError(f"summary: evaluate gives {sorted(twice)[0]!r} already.")
            prefix = f"{name}/" if name else ""
            found |= {prefix + metric: value for metric, value in (means | summaries).items()}
        return found

    def _summarized(self, collected: list[Any] | None, train: list[Any] | None) -> dict[str, np.ndarray]:
        if self.summary is None or collected is None:
            return {}
        rows = [
            self.summary.summarize(collected[seed], *([] if train is None else [train[seed]]))
            for seed in range(self.seeds)
        ]
        return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}


class _Reader:
    """Goes through one set: `(state) -> means by metric [seeds], what is collected of each seed`."""

    def __init__(self, layout: Layout, source: Source, *, metrics: bool = True):
        self.layout, self.measures = layout, metrics
        run = Run(layout.seeds, layout.eval_batch_size, layout.mesh)
        self.held_out: HeldOut = source.held_out(run, layout.eval_batches)

    def __call__(self, state: TrainState) -> tuple[dict[str, np.ndarray], list[Any] | None]:
        if self.held_out.read is None:
            sums, collected = self._on_device(state, self.arrays, self.own, self.layout.resident)
            sums, collected = jax.device_get((sums, collected))
        else:
            sums, collected = self._from_host(state, self.held_out.read)
        means = {name: np.atleast_1d(total / np.asarray(weight, total.dtype)) for name, (total, weight) in sums.items()}
        return means, None if collected is None else self._by_seed(*collected)

    @functools.cached_property
    def arrays(self) -> Any:
        """On the mesh; the training arrays are there already."""
        arrays, layout = self.held_out.arrays, self.layout
        shared = jax.tree.leaves(arrays) and arrays is layout.feed.arrays
        return layout.train_data[0] if shared else layout.put(arrays)

    @functools.cached_property
    def own(self) -> Any:
        """What differs from seed to seed; without their axis where there is one seed."""
        own = self.held_out.own
        return self.layout.put(own if self.layout.vmapped else jax.tree.map(lambda x: x[0], own))

    @functools.cached_property
    def _on_device(self) -> Callable:
        held_out, layout = self.held_out, self.layout

        def whole(state: TrainState, arrays: Any, own: Any, resident: Any) -> Any:
            def one(index: jax.Array) -> Any:
                batch_key, key = _keys(state, index)
                assert held_out.batch is not None  # the host does not read it
                batch, real = held_out.batch(arrays, own, index, batch_key)
                return self._measure(state, batch, real, resident, key)

            sums, collected = jax.lax.map(one, jnp.arange(held_out.count))
            return jax.tree.map(lambda x: jnp.sum(x, axis=0), sums), collected

        own = None if held_out.own is None else 0
        over_seeds = layout.over_seeds(whole, (0, None, own, layout.resident_axes))
        return jax.jit(layout.on_mesh(over_seeds), out_shardings=sharding.replicated(layout.mesh))

    def _from_host(self, state: TrainState, read: Callable) -> tuple[dict, Any]:
        """Batch by batch, as the host reads them: the next one is read while the device works."""
        layout, parts = self.layout, []
        where = sharding.batch_sharding(layout.mesh)
        for index, pair in enumerate(read()):
            batch, real = jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, np.asarray(x)), pair)
            parts.append(self._of_batch(state, batch, real, layout.resident, index))
        if not parts:
            raise ValueError("test: the data has no examples.")
        sums, collected = zip(*jax.device_get(parts), strict=True)
        axis = 1 if layout.vmapped else 0
        together = None if collected[0] is None else jax.tree.map(lambda *x: np.stack(x, axis=axis), *collected)
        return jax.tree.map(lambda *x: np.sum(x, axis=0, dtype=x[0].dtype), *sums), together

    @functools.cached_property
    def _of_batch(self) -> Callable:
        layout = self.layout

        def one(state: TrainState, batch: Any, real: jax.Array, resident: Any, index: jax.Array) -> Any:
            return self._measure(state, batch, real, resident, _keys(state, index)[1])

        over_seeds = layout.over_seeds(one, (0, None, None, layout.resident_axes, None))
        return jax.jit(layout.on_mesh(over_seeds), out_shardings=sharding.replicated(layout.mesh))

    def _measure(self, state: TrainState, batch: Any, real: jax.Array, resident: Any, key: jax.Array) -> Any:
        """Of one batch: the sum of each metric and how many it is of; what the summary collects, with `real`."""
        layout, params = self.layout, eval_params(state)
        objective = layout.task.objective
        batch = jax.lax.with_sharding_constraint(batch, sharding.batch_sharding(layout.mesh))
        given, sums, collected = (params, state.variables, layout.beside(batch, resident), key), {}, None
        if self.measures:
            sums = {name: _sum_and_count(value, real) for name, value in objective.evaluate(*given).items()}
        if objective.summary is not None:
            collected = (objective.summary.collect(*given), real)
        return sums, collected

    def _by_seed(self, rows: Any, real: np.ndarray) -> list[Any]:
        """Leaves `[examples, ...]` of each seed, from `[seeds, batches, batch, ...]`."""
        if not self.layout.vmapped:
            rows, real = jax.tree.map(lambda x: x[None], (rows, real))
        return [
            jax.tree.map(lambda x, seed=seed: x[seed].reshape(-1, *x.shape[3:])[real[seed].ravel()], rows)
            for seed in range(len(real))
        ]


def _keys(state: TrainState, index: Any) -> jax.Array:
    """Of a batch that is drawn, and of its metrics."""
    return jax.random.split(jax.random.fold_in(jax.random.fold_in(state.key, EVALUATION), index))


def _sum_and_count(value: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    value = value.astype(jnp.float32)
    if value.ndim == 0:
        return value, jnp.ones(())
    return jnp.sum(jnp.where(real, value, 0.0)), jnp.sum(real)
