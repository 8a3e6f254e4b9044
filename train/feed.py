"""What `Program.advance` needs for its next steps, by the kind of the data's source."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .data.sources import Arrays, Sampler
from .program import Program


def inputs(program: Program, step: int, length: int) -> Any:
    """Inputs of the `length` steps from `step` on.

    Arrays: the rows of each batch, `[length, batch]`, with an axis of seeds in front where there are several. A
    sampler: nothing, the step is enough. A stream: the next `length` batches, stacked `[length, batch, ...]` and split
    over `data`.
    """
    source = program.task.train
    if isinstance(source, Arrays):
        rows = program.order.rows(step * program.batch_size, length * program.batch_size)
        rows = rows.reshape(len(program.seeds), length, program.batch_size)
        return rows if program.vmapped else rows[0]
    if isinstance(source, Sampler):
        return None
    batches = [next(source) for _ in range(length)]
    where = NamedSharding(program.mesh, P(None, "data"))
    return jax.tree.map(lambda *x: jax.make_array_from_process_local_data(where, np.stack(x)), *batches)


def abstract_inputs(program: Program, length: int) -> Any:
    """Shapes of `inputs`, to compile for."""
    source = program.task.train
    if isinstance(source, Sampler):
        return None
    if isinstance(source, Arrays):
        seeds = (len(program.seeds),) if program.vmapped else ()
        return jax.ShapeDtypeStruct((*seeds, length, program.batch_size), np.int32)
    where = NamedSharding(program.mesh, P(None, "data"))

    def stacked(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((length, program.batch_size, *x.shape[1:]), x.dtype, sharding=where)

    return jax.tree.map(stacked, source.example)


def position(program: Program) -> dict | None:
    """The stream's position after what `inputs` has handed out; None for the other sources."""
    source = program.task.train
    return None if isinstance(source, (Arrays, Sampler)) else source.get_state()


def seek(program: Program, state: dict | None) -> None:
    """Put the stream where `position` was."""
    source = program.task.train
    if state is not None and not isinstance(source, (Arrays, Sampler)):
        source.set_state(state)
