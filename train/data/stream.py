"""Batches that stream: shuffled, sharded over processes, prefetched, and resumed exactly."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from . import arrays

Example = dict[str, Any]
Batch = dict[str, np.ndarray]


class Rows(Sequence):
    """Arrays `[n, ...]` in memory as a sequence of n examples.

    Raises:
        ValueError: the arrays differ in their first axis, or there is none.
    """

    def __init__(self, columns: Mapping[str, np.ndarray]):
        sizes = {name: len(values) for name, values in columns.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"columns must be arrays with one common first axis, got lengths {sizes}.")
        self._columns, self._size = columns, next(iter(sizes.values()))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Example:
        return {name: values[index] for name, values in self._columns.items()}


class Stream:
    """An endless iterator of batches.

    The source is shuffled anew each epoch and repeated; global batch s holds elements [s * batch_size,
    (s + 1) * batch_size) of that order, so a batch may straddle two epochs and none is dropped. Process p of P gets the
    p-th of P equal parts of every batch: the parts of all processes, in order, are the same global batch whatever P is.

    Iterating gives name -> NumPy array `[batch_size // process_count, ...]`, 64-bit values narrowed to 32-bit. A float
    batch with a NaN, or an error in `transform`, raises without moving on.

    Args:
        source: any sequence of examples (dicts of arrays or scalars, possibly nested) with random access from several
            threads, or a dict of arrays `[n, ...]`.
        batch_size: size of the global batch.
        seed: sets the order, together with the epoch.
        process_index: which part this process gets, such as `jax.process_index()`.
        process_count: number of parts; divides batch_size.
        transform: a pure function example -> example, run on the reading threads.
        prefetch: batches read ahead, each by a thread of its own; 0 reads on demand.

    Raises:
        ValueError: an argument outside its range, or fewer examples than one batch.
    """

    def __init__(
        self,
        source: Sequence[Example] | Mapping[str, np.ndarray],
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        transform: Callable[[Example], Example] | None = None,
        prefetch: int = 2,
    ):
        import grain  # a second and a half to import

        rows = Rows(source) if isinstance(source, Mapping) else source
        batch_size, process_count = operator.index(batch_size), operator.index(process_count)
        if process_count < 1 or not 0 <= process_index < process_count:
            raise ValueError(f"process_index must lie in [0, process_count), got {process_index} of {process_count}.")
        if batch_size < 1 or batch_size % process_count:
            raise ValueError(f"batch_size must be a multiple of process_count {process_count}, got {batch_size}.")
        if batch_size > len(rows):
            raise ValueError(f"batch_size {batch_size} is larger than the data, which has {len(rows)} examples.")
        if seed < 0 or prefetch < 0:
            raise ValueError(f"seed and prefetch must not be negative, got {seed} and {prefetch}.")
        self.size, self.batch_size = len(rows), batch_size
        self._identity = {"size": len(rows), "batch_size": batch_size, "seed": operator.index(seed)}
        # Grain orders epoch e of seed s as epoch 0 of seed s + e, so neighbouring seeds would share their orders.
        order = int(np.random.SeedSequence(seed).generate_state(1)[0])
        dataset = grain.MapDataset.source(rows).shuffle(seed=order).repeat()
        if transform is not None:
            dataset = dataset.map(transform)
        # The order is endless, so no remainder is dropped; were one kept, Grain's length would overflow for parts of 1.
        dataset = dataset.batch(batch_size // process_count, drop_remainder=True)[process_index::process_count]
        self._batches: Any = dataset.map_with_index(_checked)
        options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
        self._iterator = iter(self._batches.to_iter_dataset(options))

    @property
    def example(self) -> Batch:
        """This process's part of the first batch, for shapes and initialisation; consumes nothing."""
        return self._batches[0]

    @property
    def element_spec(self) -> Any:
        """Shape and dtype of one example: the tree of a batch with `jax.ShapeDtypeStruct` leaves, no batch axis."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.example)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Batch:
        position = self._iterator.get_state()
        try:
            return next(self._iterator)
        except Exception:
            self._iterator.set_state(position)  # Grain has dropped the failed batch from its buffer, but not counted it
            raise

    def get_state(self) -> dict[str, int]:
        """The position, as JSON: batches consumed (not those read ahead), and what the order depends on.

        The same on every process, and valid for any `process_count`.
        """
        return {**self._iterator.get_state(), **self._identity}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go to a position: the next batch is the one that would have come next where the state was taken.

        Raises:
            ValueError: the state is of a stream with another size, batch size or seed; names which.
        """
        for key, mine in self._identity.items():
            if state.get(key) != mine:
                raise ValueError(f"state is of a stream with {key} {state.get(key)}, this one has {key} {mine}.")
        self._iterator.set_state({"next_index": state["next_index"]})


def _checked(index: int, batch: Batch) -> Batch:
    batch = arrays.narrow(batch)
    for name, values in arrays.named_leaves(batch):
        row = arrays.first_nan(values)
        if row is not None:
            raise ValueError(f"feature {name!r} has a NaN in batch {index} (row {row} of this process's part).")
    return batch
