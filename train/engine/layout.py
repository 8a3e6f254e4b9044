"""What training and evaluation of a task share: its sources, a mesh, seeds side by side, resident arrays."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from . import sharding
from .arrays import check_numbers, check_source
from .settings import check_seed
from .sources import Arrays, Deferred, Feed, Resident, Run, Splits, as_source
from .task import Objective, Task
from .types import ConfigDict


class Layout:
    """A task on a mesh, over `seeds` in parallel if there are several.

    Args:
        task: objective and data.
        train: the `train` section of a config.
        mesh: from `sharding.make_mesh`.
        seeds: one run each.
        check_size: refuse a batch larger than the data; to compile alone, it need not be there.

    Raises:
        ValueError: data that no batch can be taken from (see `arrays.check_source`), a batch larger than the data, one
            that the mesh does not divide, seeds that are not distinct, or a split to evaluate on that is not there.
    """

    def __init__(self, task: Task, train: ConfigDict, mesh: Mesh, *, seeds: Sequence[int], check_size: bool = True):
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

    def on_mesh(self, function: Callable) -> Callable:
        """The function traced with the mesh as its ambient one: networks then keep activations split over `data`."""

        @functools.wraps(function)
        def traced(*arguments: Any) -> Any:
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return function(*arguments)

        return traced

    def over_seeds(self, function: Callable, in_axes: Any) -> Callable:
        """The function over an axis of seeds, where there is one."""
        return jax.vmap(function, in_axes=in_axes) if self.vmapped else function
