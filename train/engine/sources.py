"""Where a task's examples come from, as a protocol: arrays in memory, a distribution, a stream, a user's own iterator.

A `Source` says what a batch looks like, and makes a `Feed` for training and a `HeldOut` for evaluation; the engine asks
nothing else of it. `as_source` turns what a user has at hand into one.
"""

import abc
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .order import EpochOrder

Tree = Any


class Run(NamedTuple):
    """What a source is read for."""

    seeds: tuple[int, ...]  # one training each, side by side
    size: int  # examples a step, over all devices
    mesh: Mesh
    salt: tuple[int, ...] = ()  # tells apart the orders of sources that are read together


class Feed(abc.ABC):
    """How training reads a source: what is on the device, what each dispatch brings, and one step's batch of the two.

    As it stands it brings nothing; a kind of source overrides what it has.
    """

    span: int | None = None  # most steps that one dispatch may take; None: any number
    arrays: Tree = ()  # on the device, whole
    by_seed: bool | dict[str, Any] = False  # whether inputs have an axis of seeds in front, where there are several

    def inputs(self, step: int, length: int) -> Tree:
        """What the steps from `step` on read, made on the host: leaves `[length, ...]`, `[seeds, length, ...]`."""
        return None

    def abstract_inputs(self, length: int) -> Tree:
        """The shapes of `inputs`, to compile for."""
        return None

    @abc.abstractmethod
    def pool(self, arrays: Tree, inputs: Tree, key: jax.Array) -> tuple[Tree, jax.Array]:
        """Examples `[n, ...]` and the rows `[size]` of them that a step is offered; traced.

        Args:
            arrays: as above.
            inputs: of one step.
            key: of one step.
        """

    def batch(self, arrays: Tree, inputs: Tree, key: jax.Array) -> Tree:
        """One step's batch, leaves `[size, ...]`; traced."""
        examples, rows = self.pool(arrays, inputs, key)
        return jax.tree.map(lambda x: x[rows], examples)

    def position(self) -> dict | None:
        """Where the source stands after all that `inputs` has handed out, as JSON; None where the step says it all."""
        return None

    def seek(self, position: dict | None) -> None:
        """Go to a position; where the step says it all, there is nowhere to go."""
        return None


class HeldOut(NamedTuple):
    """How evaluation reads a source, from its beginning each time, in batches of one size.

    A batch comes with `real` `[size]`, True where an example counts: where the last one is short, it is filled up.
    """

    arrays: Tree  # on the device, whole
    batch: Callable[[Tree, Tree, jax.Array, jax.Array], tuple[Tree, jax.Array]] | None
    # (arrays, own, index, key) -> (batch, real), traced; None where the host reads them
    count: int = 0  # batches, where they are made on the device
    own: Tree = None  # what differs from seed to seed, leaves `[seeds, ...]`
    read: Callable[[], Iterator[tuple[Tree, np.ndarray]]] | None = None  # this process's part of each batch, in order


@runtime_checkable
class Source(Protocol):
    """Examples to train or to evaluate on."""

    def spec(self, size: int) -> Tree:
        """Shapes and dtypes of a batch of `size` examples."""
        ...

    def first(self, size: int) -> Tree | None:
        """The values of a first batch, for what starts from data; None: `Feed.batch` draws it."""
        ...

    def feed(self, run: Run) -> Feed:
        """To train on."""
        ...

    def held_out(self, run: Run, batches: int) -> HeldOut:
        """To evaluate on, `batches` of `run.size` where there is no end, else all of it."""
        ...


class Resident(NamedTuple):
    """A batch, and the arrays that every batch comes with: whole, on each device once, no constants of the program."""

    batch: Any
    arrays: Any
    own: Any = None  # what differs from seed to seed: `Task.own` of this one


class Deferred(NamedTuple):
    """Arrays that take work to have, such as a base model's weights: their shapes are known without it.

    Given as `Task.resident`, they are made when a run starts; to compile alone, as `--aot` does, they need not exist.
    """

    spec: Tree  # ShapeDtypeStructs
    make: Callable[[], Tree]


# -------------------------------------------------------------------------------------------------------------- arrays


class Arrays(NamedTuple):
    """A split in memory: a tree of NumPy arrays `[n, ...]`, put on the device once and indexed there.

    With `rows`, a function of the seed, each seed has a part of its own: which rows, `[m]` int, as many for every seed.
    So seeds can vary the draw of the data, and training and held-out parts share the arrays.
    """

    arrays: Any
    rows: Callable[[int], np.ndarray] | None = None

    @property
    def size(self) -> int:
        """Number of examples, of one seed."""
        return jax.tree.leaves(self.arrays)[0].shape[0] if self.rows is None else len(self.rows(0))

    def table(self, seeds: tuple[int, ...]) -> np.ndarray | None:
        """The rows of each seed, `[seeds, m]`; None where they are all.

        Raises:
            ValueError: seeds that differ in their number of rows, or rows that are not there.
        """
        if self.rows is None:
            return None
        tables = [np.asarray(self.rows(seed)) for seed in seeds]
        total = jax.tree.leaves(self.arrays)[0].shape[0]
        for seed, table in zip(seeds, tables, strict=True):
            if table.ndim != 1 or table.dtype.kind not in "iu" or table.shape != tables[0].shape or not table.size:
                raise ValueError(f"rows must be [m] int, m >= 1 the same for all seeds; of seed {seed}: {table.shape}.")
            if table.min() < 0 or table.max() >= total:
                raise ValueError(
                    f"rows of seed {seed} must be from 0 to {total - 1}, got {table.min()}, {table.max()}."
                )
        return np.stack(tables).astype(np.int32)

    def spec(self, size: int) -> Tree:
        """Shapes and dtypes of a batch."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), self.arrays)

    def first(self, size: int) -> Tree:
        """The first rows."""
        return jax.tree.map(lambda x: x[:size], self.arrays)

    def feed(self, run: Run) -> Feed:
        """Every epoch visits each example once, in an order of its seed's own."""
        return _RowFeed(self, run)

    def held_out(self, run: Run, batches: int) -> HeldOut:
        """All rows in their order; the last batch wraps round, and its repeats do not count."""
        examples = self.size

        def batch(arrays, own, index, key):
            places = index * run.size + jnp.arange(run.size)
            rows = places % examples
            return jax.tree.map(lambda x: x[rows if own is None else own[rows]], arrays), places < examples

        return HeldOut(self.arrays, batch, math.ceil(examples / run.size), self.table(run.seeds))


class _RowFeed(Feed):
    by_seed = True

    def __init__(self, source: Arrays, run: Run):
        self.arrays, self.run = source.arrays, run
        self.order = EpochOrder(run.seeds, source.size, salt=run.salt)
        self.table = source.table(run.seeds)

    def inputs(self, step: int, length: int) -> np.ndarray:
        size, count = self.run.size, len(self.run.seeds)
        rows = self.order.rows(step * size, length * size)
        if self.table is not None:
            rows = np.take_along_axis(self.table, rows, axis=1)
        rows = rows.reshape(count, length, size)
        return rows if count > 1 else rows[0]

    def abstract_inputs(self, length: int) -> jax.ShapeDtypeStruct:
        seeds = (len(self.run.seeds),) if len(self.run.seeds) > 1 else ()
        return jax.ShapeDtypeStruct((*seeds, length, self.run.size), np.int32)

    def pool(self, arrays: Tree, inputs: Tree, key: jax.Array) -> tuple[Tree, jax.Array]:
        return arrays, inputs


class Joint(NamedTuple):
    """Several sources at once, each in an order of its own: labelled and unlabelled examples, old ones and new.

    A batch is a dict of their batches; `train.batch_size` is that of one with the factor 1.
    """

    sources: Mapping[str, Any]  # name -> source
    factors: Mapping[str, int] = {}  # name -> how many times the batch size; 1 where it is not named

    def each(self, size: int) -> dict[str, tuple[Any, int]]:
        """Each source, and the examples of it in a batch."""
        return {name: (as_source(name, x), size * self.factors.get(name, 1)) for name, x in self.sources.items()}

    def spec(self, size: int) -> Tree:
        """Shapes and dtypes of a batch."""
        return {name: source.spec(count) for name, (source, count) in self.each(size).items()}

    def first(self, size: int) -> Tree | None:
        """The first batches; None where one of them has to be drawn."""
        found = {name: source.first(count) for name, (source, count) in self.each(size).items()}
        return None if any(batch is None for batch in found.values()) else found

    def feed(self, run: Run) -> Feed:
        """All of them, step by step."""
        return _JointFeed(self.each(run.size), run)

    def held_out(self, run: Run, batches: int) -> HeldOut:
        """Sources of different sizes have no common end."""
        raise ValueError("test: a joint source is for training; evaluate on each with Splits.")


class _JointFeed(Feed):
    def __init__(self, parts: dict[str, tuple[Any, int]], run: Run):
        self.parts = {
            name: source.feed(run._replace(size=count, salt=(*run.salt, index)))
            for index, (name, (source, count)) in enumerate(parts.items())
        }
        spans = [feed.span for feed in self.parts.values() if feed.span]
        self.span = min(spans, default=None)
        self.arrays = {name: feed.arrays for name, feed in self.parts.items()}
        self.by_seed = {name: feed.by_seed for name, feed in self.parts.items()}

    def inputs(self, step: int, length: int) -> Tree:
        return {name: feed.inputs(step, length) for name, feed in self.parts.items()}

    def abstract_inputs(self, length: int) -> Tree:
        return {name: feed.abstract_inputs(length) for name, feed in self.parts.items()}

    def pool(self, arrays: Tree, inputs: Tree, key: jax.Array) -> tuple[Tree, jax.Array]:
        raise ValueError("choose needs one source of examples, not a joint one.")

    def batch(self, arrays: Tree, inputs: Tree, key: jax.Array) -> Tree:
        return {
            name: feed.batch(arrays[name], inputs[name], jax.random.fold_in(key, index))
            for index, (name, feed) in enumerate(self.parts.items())
        }

    def position(self) -> dict | None:
        found = {name: feed.position() for name, feed in self.parts.items()}
        return found if any(found.values()) else None

    def seek(self, position: dict | None) -> None:
        for name, feed in self.parts.items():
            feed.seek(position and position[name])


class Splits(NamedTuple):
    """Several held-out sets in place of one: "clean" and "noisy", say, whose metrics are "clean/accuracy", …"""

    sets: Mapping[str, Any]  # name -> source


# ------------------------------------------------------------------------------------------------------- distributions


class Sampler(NamedTuple):
    """A distribution: `sample(key, n)` draws a batch of n examples on the device, under jit."""

    sample: Callable[[jax.Array, int], Any]

    def spec(self, size: int) -> Tree:
        """Shapes and dtypes of a batch."""
        return jax.eval_shape(lambda: self.sample(jax.random.key(0), size))

    def first(self, size: int) -> None:
        """None is kept: it is drawn."""

    def feed(self, run: Run) -> Feed:
        """A fresh batch a step, a function of its key."""
        return _SampleFeed(self, run)

    def held_out(self, run: Run, batches: int) -> HeldOut:
        """So many batches, the same at every evaluation."""

        def batch(arrays, own, index, key):
            return self.sample(key, run.size), jnp.ones(run.size, bool)

        return HeldOut((), batch, batches)


class _SampleFeed(Feed):
    def __init__(self, source: Sampler, run: Run):
        self.source, self.run = source, run

    def pool(self, arrays: Tree, inputs: Tree, key: jax.Array) -> tuple[Tree, jax.Array]:
        return self.batch(arrays, inputs, key), jnp.arange(self.run.size)

    def batch(self, arrays: Tree, inputs: Tree, key: jax.Array) -> Tree:
        return self.source.sample(key, self.run.size)


no_data = Sampler(lambda key, size: ())  # batches for a procedure that makes its own


# ------------------------------------------------------------------------------------------------------------- batches


class Batches:
    """Batches of a user's own: an iterator that never ends to train on, or any iterable to evaluate on.

    A batch is a tree of NumPy arrays `[n, ...]`, with n and dtypes the same for all but the last of a held-out one; on
    several hosts, this process's part of it. The iterator's `get_state` and `set_state`, if it has them, go into
    checkpoints; without them a run that was cut off reads again from the beginning up to where it was.

    Args:
        iterable: what `iter` takes.

    Raises:
        ValueError: it is none, or gives no batch.
    """

    def __init__(self, iterable: Any):
        if not hasattr(iterable, "__iter__"):
            raise ValueError(f"batches must be an iterator or an iterable, got {type(iterable).__name__}.")
        self._iterable = iterable
        self._iterator = iter(iterable)
        self._start = self._iterator.get_state() if hasattr(self._iterator, "get_state") else None
        self._peeked = next(self._iterator, None)  # of which training has not seen anything yet
        if self._peeked is None:
            raise ValueError("batches must give at least one batch, got none.")
        self._example = jax.tree.map(np.asarray, self._peeked)

    def spec(self, size: int) -> Tree:
        """Shapes and dtypes of a batch of `size` over all processes."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), self._example)

    def first(self, size: int) -> Tree:
        """The first batch; it is trained on all the same."""
        return self._example

    def feed(self, run: Run) -> Feed:
        """One batch a dispatch, as they come."""
        check_rows("train.batch_size", self._example, run.size // jax.process_count())
        return BatchFeed(self, run)

    def held_out(self, run: Run, batches: int) -> HeldOut:
        """All batches of an iterable, from its beginning; of an iterator, which has no end, `batches`."""
        endless = iter(self._iterable) is self._iterable
        if endless and self._start is None:
            raise ValueError(
                "test: an iterator cannot be read a second time; give an iterable (a list, an object whose __iter__ "
                "starts anew), or an iterator with get_state and set_state."
            )

        def read() -> Iterator[tuple[Tree, np.ndarray]]:
            if endless:
                self.set_state(self._start)
            return filled_up(iter(self._iterable), run.size // jax.process_count(), batches if endless else None)

        return HeldOut((), None, read=read)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Tree:
        if self._peeked is not None:
            batch, self._peeked = self._peeked, None
            return batch
        return next(self._iterator)

    def get_state(self) -> dict | None:
        """The iterator's own position; None where it has none."""
        return None if self._start is None else self._start if self._peeked is not None else self._iterator.get_state()

    def set_state(self, state: dict | None) -> None:
        """Go to a position."""
        self._iterator.set_state(state)
        self._peeked = None


def check_rows(name: str, batch: Tree, size: int) -> None:
    """A batch that comes ready-made has as many rows as the config says."""
    if {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)} != {(size,)}:
        shapes = [list(np.shape(leaf)) for leaf in jax.tree.leaves(batch)]
        raise ValueError(f"{name}: a batch of this process must have {size} rows in each array, got shapes {shapes}.")


class BatchFeed(Feed):
    """Batches of an iterator, each a dispatch of its own: the next is read while the device is at the one before.

    Args:
        source: a `Source` that is an iterator with `get_state` and `set_state`; where the state is None, a position is
            found again by reading.
        run: what it is read for.
    """

    span = 1

    def __init__(self, source: Any, run: Run):
        self.source, self.run, self.count = source, run, 0
        self.where = NamedSharding(run.mesh, P(None, "data"))

    def inputs(self, step: int, length: int) -> Tree:
        """The next batches, stacked."""
        batches = [self._next() for _ in range(length)]
        return jax.tree.map(lambda *x: jax.make_array_from_process_local_data(self.where, np.stack(x)), *batches)

    def _next(self) -> Tree:
        try:
            batch = next(self.source)
        except StopIteration:
            raise ValueError(f"train: the data ended after {self.count} batches; it must not end.") from None
        self.count += 1
        return batch

    def abstract_inputs(self, length: int) -> Tree:
        """Their shapes."""

        def stacked(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((length, *x.shape), x.dtype, sharding=self.where)

        return jax.tree.map(stacked, self.source.spec(self.run.size))

    def pool(self, arrays: Tree, inputs: Tree, key: jax.Array) -> tuple[Tree, jax.Array]:
        """A batch is all there is."""
        return inputs, jnp.arange(self.run.size)

    def batch(self, arrays: Tree, inputs: Tree, key: jax.Array) -> Tree:
        """As it came."""
        return inputs

    def position(self) -> dict | None:
        """How many batches, and the iterator's own state."""
        return {"count": self.count, "state": self.source.get_state()}

    def seek(self, position: dict | None) -> None:
        """By the iterator's own state, or by reading."""
        if position is None:
            return
        if position["state"] is None:
            while self.count < position["count"]:
                self._next()
        else:
            self.source.set_state(position["state"])
            self.count = position["count"]


def filled_up(batches: Iterator[Tree], size: int, most: int | None = None) -> Iterator[tuple[Tree, np.ndarray]]:
    """Batches of `size` rows with a mask of what counts: one with fewer is filled up with its own.

    Raises:
        ValueError: a batch with more rows, or none.
    """
    for index, batch in enumerate(itertools.islice(batches, most)):
        count = len(jax.tree.leaves(batch)[0])
        if not 0 < count <= size:
            raise ValueError(
                f"train.eval_batch_size: held-out batch {index} has {count} rows, expected up to {size} a process."
            )
        rows = np.arange(size)
        yield jax.tree.map(lambda x, rows=rows % count: np.asarray(x)[rows], batch), rows < count


def drawn(source: Source, size: int) -> Tree:
    """A first batch where some of it has to be drawn; traced."""
    if isinstance(source, Joint):
        return {name: drawn(part, count) for name, (part, count) in source.each(size).items()}
    return source.sample(jax.random.key(0), size) if isinstance(source, Sampler) else source.first(size)


def as_source(name: str, data: Any) -> Source:
    """What a user has at hand as a source.

    Args:
        name: what the caller calls it: "train", "test".
        data: a `Source`; a dict of arrays `[n, ...]` (a tuple of them, nested ones too); a function
            `(key, n) -> batch` that JAX can trace; an iterator of batches, or for evaluation an iterable.

    Raises:
        ValueError: anything else.

    Example:
        >>> as_source("train", {"x": np.zeros((3, 2))}).size
        3
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, (dict, tuple)):
        return Arrays(data)
    if callable(data):
        return Sampler(data)
    if hasattr(data, "__iter__") and not isinstance(data, (str, bytes)):
        return Batches(data)
    raise ValueError(
        f"{name} must be a dict of arrays, a function (key, n) -> batch, an iterator of batches or a Source, got "
        f"{type(data).__name__}."
    )
