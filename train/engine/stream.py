"""Batches that stream: shuffled, sharded over processes, prefetched, and resumed exactly."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from . import arrays
from .settings import SEEDS, check_seed, check_whole
from .sources import BatchFeed, HeldOut, Run

Example = dict[str, Any]
Batch = dict[str, np.ndarray]

# Grain orders epoch e of its seed s as epoch 0 of seed s + e (modulo 2**32), so seeds are spread out. An odd factor
# makes no two of them one, and this one, 2**32 over the golden ratio, keeps the first n at least 2**32 / (3 n) apart,
# for n up to 10,000: a hundred runs share no epoch's order in ten million.
_SPREAD = 2654435769


class Rows(Sequence):
    """Arrays `[n, ...]` in memory, possibly nested, as a sequence of n examples.

    Raises:
        ValueError: the arrays differ in their first axis, or there is none.
    """

    def __init__(self, columns: Mapping[str, Any]):
        self._columns = jax.tree.map(_column, dict(columns), is_leaf=lambda node: not isinstance(node, dict))
        leaves = jax.tree.leaves(self._columns)
        sizes = {np.shape(leaf)[:1] for leaf in leaves}
        if len(sizes) != 1 or () in sizes:
            shapes = {name: list(np.shape(leaf)) for name, leaf in self._columns.items() if not isinstance(leaf, dict)}
            raise ValueError(f"columns must be arrays with one common first axis, got shapes {shapes or leaves}.")
        self._size = len(leaves[0])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Example:
        return jax.tree.map(lambda values: values[index], self._columns)


class Places(Sequence):
    """The examples at some places of a sequence."""

    def __init__(self, rows: Sequence, places: np.ndarray | range):
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Example:
        return self._rows[int(self._places[index])]


def _column(values: Any) -> Any:
    """What can be indexed quickly from any thread; what is read from disk as needed (memory maps, HDF5) stays so."""
    on_device = isinstance(values, jax.Array)
    return np.asarray(values) if on_device or not hasattr(values, "shape") else values


class Stream:
    """An endless iterator of batches.

    The source is shuffled anew each epoch and repeated; global batch s holds elements [s * batch_size,
    (s + 1) * batch_size) of that order, so a batch may straddle two epochs and none is dropped. Process p of P gets the
    p-th of P equal parts of every batch: the parts of all processes, in order, are the same global batch whatever P is.

    Iterating gives name -> NumPy array `[batch_size // process_count, ...]`, 64-bit values narrowed to 32-bit. What is
    no batch raises `ValueError`, which names the feature, without moving on: a float that is not finite, an integer
    that does not fit, examples that differ in features, shape or dtype from each other or from those before; and so
    does an error in `transform`.

    Args:
        source: any sequence of examples (dicts of arrays or scalars, possibly nested) with random access from several
            threads, or a dict of arrays `[n, ...]`, possibly nested.
        batch_size: size of the global batch.
        seed: sets the order, together with the epoch; in [0, 2**32), and no two of these give the same.
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

        rows: Any = Rows(source) if isinstance(source, Mapping) else source
        if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
            raise ValueError(
                f"source must be a sequence of examples (with len() and an index) or a dict of arrays, got "
                f"{type(rows).__name__}."
            )
        process_count = check_whole("process_count", process_count, 1)
        process_index = check_whole("process_index", process_index, 0, process_count - 1)
        batch_size = check_whole("batch_size", batch_size, 1)
        seed, prefetch = check_seed("seed", seed), check_whole("prefetch", prefetch, 0)
        if batch_size % process_count:
            raise ValueError(f"batch_size must be a multiple of process_count {process_count}, got {batch_size}.")
        if batch_size > len(rows):
            raise ValueError(f"batch_size {batch_size} is larger than the data, which has {len(rows)} examples.")
        self.size, self.batch_size = len(rows), batch_size
        self._identity = {"size": len(rows), "batch_size": batch_size, "seed": seed}
        self._lock, self._spec = threading.Lock(), None
        self._rows, self._transform = rows, transform
        self._process_index, self._process_count = process_index, process_count
        self._options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
        dataset = grain.MapDataset.source(rows).shuffle(seed=seed * _SPREAD % SEEDS).repeat()
        if transform is not None:
            dataset = dataset.map(transform)
        # The order is endless, so no remainder is dropped; were one kept, Grain's length would overflow for parts of 1.
        self._batches: Any = self._batched(dataset, batch_size // process_count, process_index, process_count)
        self._iterator = iter(self._batches.to_iter_dataset(self._options))

    def _batched(self, dataset: Any, part: int, index: int = 0, count: int = 1) -> Any:
        """Every `count`-th batch of `part` examples."""
        return dataset.batch(part, drop_remainder=True, batch_fn=list)[index::count].map_with_index(self._stacked)

    @property
    def example(self) -> Batch:
        """This process's part of the first batch, for shapes and initialisation; consumes nothing."""
        return self._batches[0]

    def spec(self, size: int) -> Any:
        """Shapes and dtypes of a batch of `size` examples, over all processes."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), self.example)

    def first(self, size: int) -> Batch:
        """As `example`."""
        return self.example

    def feed(self, run: Run) -> BatchFeed:
        """One batch a dispatch."""
        if run.size != self.batch_size:
            raise ValueError(f"train.batch_size must be the stream's, {self.batch_size}, got {run.size}.")
        return BatchFeed(self, run)

    def held_out(self, run: Run, batches: int) -> HeldOut:
        """Every example once, in the order of the source."""
        import grain

        part = run.size // self._process_count
        own = np.arange(math.ceil(self.size / run.size) * run.size).reshape(-1, self._process_count, part)
        rows = own[:, self._process_index].ravel()  # of this process's part of every batch

        def read() -> Iterator[tuple[Batch, np.ndarray]]:
            dataset: Any = grain.MapDataset.source(Places(self._rows, rows % self.size))
            dataset = dataset if self._transform is None else dataset.map(self._transform)
            batches = iter(self._batched(dataset, part).to_iter_dataset(self._options))
            return zip(batches, (rows < self.size).reshape(-1, part), strict=True)

        return HeldOut((), None, read=read)

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
        self._iterator.set_state({"next_index": check_whole("state's next_index", state.get("next_index"), 0)})

    def _stacked(self, index: int, examples: list[Example]) -> Batch:
        """The batch of some examples, if it is finite and like those before."""
        batch = arrays.stack(examples)
        for name, values in arrays.named_leaves(batch):
            row = arrays.first_nonfinite(values)
            if row is not None:
                what = "a NaN" if np.isnan(values[row]).any() else "an infinity"
                raise ValueError(f"feature {name!r} has {what} in batch {index} (row {row} of this process's part).")
        spec = arrays.spec(batch)
        with self._lock:  # batches come from several threads
            self._spec = before = self._spec or spec
        if spec != before:
            raise ValueError(f"batch {index} has features {spec}, unlike those before: {before}.")
        return batch
