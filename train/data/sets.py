"""Data sets as they are opened: what they hold, how they are split, and random access to their examples.

Three kinds look alike from here on: sets on disk (`store`), sets made in memory (`placed`), a user's files (`tables`).
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..engine import arrays
from ..engine.settings import nearest
from ..engine.stream import Places, Rows
from . import bundled, placed, splits, store, tables, text
from .splits import Side

Example = dict[str, Any]

MADE: dict[str, Callable[..., dict[str, dict[str, np.ndarray]]]] = {"placed_digits": placed.placed_digits}


class Info(NamedTuple):
    """What a data set holds.

    Attributes:
        splits: name -> number of examples (documents, for text): train, validation, test, and what else there is.
        features: name ("a/b" where nested) -> (shape of an example, dtype); None is any length, and text is uint8.
        num_classes: of the feature "label"; None where there is none.
        description: what it is and how it is split.
        class_names: of the labels, in their order; None without a label, or where they have no names.
        levels: of each categorical and ordinal column of a file, in the order of their codes.
    """

    splits: dict[str, int]
    features: dict[str, tuple[tuple[int | None, ...], np.dtype]]
    num_classes: int | None
    description: str
    class_names: tuple[str, ...] | None = None
    levels: dict[str, tuple[str, ...]] = {}  # noqa: RUF012


class Opened:
    """A data set, opened: what all kinds of sets have in common.

    Attributes:
        name: by which it was asked for.
        sides: its splits.
        counts: the number of classes of each label, by the label's name.
    """

    name: str
    sides: dict[str, Side]
    counts: dict[str, int]

    def info(self) -> Info:
        """What it holds."""
        raise NotImplementedError

    def features(self) -> dict[str, tuple[tuple[int | None, ...], np.dtype]]:
        """As in `Info`."""
        raise NotImplementedError

    def source(self, split: str) -> Sequence[Example]:
        """Random access to the examples of a split, from several threads."""
        raise NotImplementedError

    def columns(self, split: str) -> dict[str, Any]:
        """A split in memory, checked."""
        raise NotImplementedError

    def lengths(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Of the documents of a split: their lengths, and the place of the first byte 0 in each, or -1."""
        raise NotImplementedError

    def texts(self, split: str) -> Sequence[bytes]:
        """The documents of a split, read as they are asked for."""
        features = self.features()
        if features.get("text") != ((None,), np.uint8):
            raise ValueError(f"data set {self.name!r} has no feature 'text' of documents, only {', '.join(features)}.")
        return _Texts(self.source(split))


def open_set(name: str, columns: Any = None, options: Mapping[str, Any] | None = None) -> Opened:
    """The data set of a name.

    Args:
        name: a bundled set, a file, or any TFDS name whose data has been prepared.
        columns: of a file, what its columns are for; see `tables.read`.
        options: of a set that has any.

    Raises:
        ValueError: unknown or unprepared name; columns or options that the set does not take; a file's faults.
    """
    options = dict(options or {})
    if tables.is_file(name):
        _no_options(name, options)
        return _File(name, columns)
    if tables.plain(columns):
        raise ValueError(f"columns are those of a file; data set {name!r} has its features, got {columns!r}.")
    if name in MADE:
        return _Made(name, tables.plain(options))
    _no_options(name, options)
    return _Stored(name)


def _no_options(name: str, options: Mapping[str, Any]) -> None:
    if options:
        raise ValueError(f"data set {name!r} has no options, got {', '.join(options)}.")


class _Texts(Sequence):
    """The feature `text` of a sequence of examples."""

    def __init__(self, source: Sequence[Example]):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> bytes:
        return self._source[index]["text"]


class _Joined(Sequence):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Example]]):
        self._parts, self._ends = parts, np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Example:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][int(index) - (int(self._ends[part - 1]) if part else 0)]


# ------------------------------------------------------------------------------------------------------ sets on disk


class _Stored(Opened):
    """A set that `store` opens. One without a validation split gets it from its training split."""

    def __init__(self, name: str):
        self.name, self._builder = name, store.builder(name)
        self._described = self._builder.info
        self.counts = _class_counts(self._described.features)
        self._native = {
            split: Side(split, range(found.num_examples)) for split, found in self._described.splits.items()
        }
        self._divides = "train" in self._native and "validation" not in self._native

    @functools.cached_property
    def sides(self) -> dict[str, Side]:  # pyright: ignore[reportIncompatibleVariableOverride]
        if not self._divides:
            return splits.ordered(self._native)
        halves = splits.divided("train", len(self._native["train"].rows), self._validation())
        return splits.ordered(self._native | halves)

    def _validation(self) -> np.ndarray:
        """Rows for validation of the stored split "train"."""

        def rows() -> dict[str, np.ndarray]:
            source = store.source(self._builder, "train", _jpeg_as_it_is(self._described.features))
            numbers, sizes = [], []
            for example in map(source.__getitem__, range(len(source))):
                numbers.append(splits.fraction(example))
                sizes.append(len(example["text"]) if by_bytes else 1)
            if by_bytes:
                return {"rows": splits.within_budget(numbers, sizes, splits.VALIDATION)}
            return {"rows": splits.lowest(numbers, splits.VALIDATION)}

        by_bytes = self.name in bundled.DOCUMENTS  # of which few hold most of the text
        return store.kept(self._builder, "validation", rows)["rows"]

    def features(self) -> dict[str, tuple[tuple[int | None, ...], np.dtype]]:
        return dict(_specs(self._described.features.shape, self._described.features.np_dtype))

    def info(self) -> Info:
        label = dict(self._described.features).get("label")
        named = getattr(label, "names", None)
        how = " Validation: a tenth of the training split, by a hash of its rows." if self._divides else ""
        return Info(
            splits={split: len(side.rows) for split, side in self.sides.items()},
            features=self.features(),
            num_classes=getattr(label, "num_classes", None),
            description=self._described.description + how,
            class_names=tuple(named) if named else None,
        )

    def _resolved(self, split: str) -> list[Side]:
        names = [part.strip() for part in split.split("+")] if isinstance(split, str) else []
        sides = self._native
        if self._divides and sorted(names) == ["train", "validation"]:  # as it is stored
            split = "train"
        elif not self._divides or "train" in names or not names or not all(name in sides for name in names):
            sides = self.sides  # which may take a pass over the training split
        shards = {key: found.shard_lengths for key, found in self._described.splits.items()}
        return splits.resolve(self.name, split, sides, shards)

    def source(self, split: str) -> Sequence[Example]:
        parts = []
        for side in self._resolved(split):
            stored = store.source(self._builder, side.stored)
            parts.append(stored if len(side.rows) == len(stored) else Places(stored, side.rows))
        return parts[0] if len(parts) == 1 else _Joined(parts)

    def columns(self, split: str) -> dict[str, Any]:
        source = self.source(split)
        columns = arrays.stack([source[index] for index in range(len(source))])
        arrays.check(columns, num_classes=self.counts)
        return columns

    def lengths(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for side in self._resolved(split):
            texts = _Texts(store.source(self._builder, side.stored))
            known = store.kept(self._builder, f"documents-{side.stored}", lambda texts=texts: text.lengths_of(texts))
            found.append({key: values[np.asarray(side.rows)] for key, values in known.items()})
        length, separator = (np.concatenate([part[key] for part in found]) for key in ("length", "separator"))
        return length, separator


def _jpeg_as_it_is(features: Any) -> dict[str, Any] | None:
    """Decoders that leave JPEG as bytes: what comes out of it differs between programs, and by a hash all does."""
    import tensorflow_datasets as tfds

    @tfds.decode.make_decoder()
    def decode(data: bytes, feature: Any) -> Any:
        return bytes(data) if data[:2] == b"\xff\xd8" else feature.decode_example_np(data)

    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    return {key: decode() for key in images} or None  # pyright: ignore[reportCallIssue]


# ---------------------------------------------------------------------------------------------------- sets in memory


class _InMemory(Opened):
    """Rows of arrays, and which of them each split has."""

    _columns: dict[str, np.ndarray]
    _classes: tuple[str, ...] | None
    _levels: dict[str, tuple[str, ...]]
    _description: str

    def features(self) -> dict[str, tuple[tuple[int | None, ...], np.dtype]]:
        string = ((None,), np.dtype(np.uint8))
        return {
            key: string if values.dtype == object else (values.shape[1:], values.dtype)
            for key, values in self._columns.items()
        }

    def info(self) -> Info:
        return Info(
            splits={split: len(side.rows) for split, side in self.sides.items()},
            features=self.features(),
            num_classes=self.counts.get("label"),
            description=self._description,
            class_names=self._classes,
            levels=self._levels,
        )

    def columns(self, split: str) -> dict[str, Any]:
        found = splits.resolve(self.name, split, self.sides)
        rows = np.concatenate([side.rows for side in found])
        return {key: values[rows] for key, values in self._columns.items()}

    def source(self, split: str) -> Sequence[Example]:
        return Rows(self.columns(split))

    def lengths(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        known = text.lengths_of(self.texts(split))
        return known["length"], known["separator"]


class _File(_InMemory):
    """A user's own file."""

    def __init__(self, name: str, columns: Any):
        self.name = name
        table = tables.read(name, columns)
        self._columns, self._classes, self._levels = table.features, table.class_names, table.levels
        self.counts = {"label": len(table.class_names)} if table.class_names else {}
        size = len(next(iter(table.features.values())))
        tenth = "a tenth of the training rows"
        if table.split is not None:
            sides = {key: Side("", np.flatnonzero(table.split == key)) for key in splits.ORDER if key in table.split}
            how = "Split by a column."
            if "train" in sides and "validation" not in sides:
                train = sides["train"].rows
                chosen = splits.below(table.fraction[train], splits.VALIDATION)
                sides |= {
                    "train": Side("", np.delete(train, chosen)),
                    "validation": Side("", np.asarray(train)[chosen]),
                }
                how = f"Split by a column; validation: {tenth}, by a hash of their inputs."
        else:
            validation = splits.TEST + (1 - splits.TEST) * splits.VALIDATION
            side = np.searchsorted([splits.TEST, validation], table.fraction, side="right")
            sides = {key: Side("", np.flatnonzero(side == i)) for i, key in enumerate(("test", "validation", "train"))}
            how = f"Split by a hash of a row's inputs: a fifth for testing, {tenth} for validation."
        self.sides = splits.ordered(sides)
        self._description = f"{name}: {size} rows. {how}"


@functools.lru_cache(maxsize=2)  # a task asks for the splits one by one
def _whole(name: str, folder: str) -> tuple[Opened, dict[str, dict[str, np.ndarray]]]:
    """A stored set with all its splits in memory."""
    origin = _Stored(name)
    return origin, {split: origin.columns(split) for split in origin.sides}


class _Made(_InMemory):
    """A set that is made from a stored one, whose splits it keeps."""

    def __init__(self, name: str, options: dict[str, Any]):
        self.name, make = name, MADE[name]
        known = [key for key, given in inspect.signature(make).parameters.items() if given.kind == given.KEYWORD_ONLY]
        for key in options:
            if key not in known:
                expected = f"expected one of {', '.join(known)}.{nearest(key, known)}"
                raise ValueError(f"{key!r} is no option of data set {name!r}; {expected}")
        origin, columns = _whole(store.MADE_OF[name], str(store.root()))
        found = make(columns, **options)
        self.counts, self._levels, self._classes = origin.counts, {}, origin.info().class_names
        # In the order in which the origin is stored, where its training and validation rows lie among each other.
        ends = {"train": 0, "test": len(origin.sides["train"].rows) + len(origin.sides["validation"].rows)}
        self.sides = {
            split: Side("", np.asarray(side.rows) + ends[side.stored]) for split, side in origin.sides.items()
        }
        order = np.argsort(np.concatenate([side.rows for side in self.sides.values()]))
        self._columns = {
            key: np.concatenate([found[split][key] for split in self.sides])[order] for key in found["train"]
        }
        asked = ", ".join(f"{key}={value}" for key, value in options.items()) or "as they come"
        what = (inspect.getdoc(make) or "").splitlines()[0]
        self._description = f"{what} Options: {asked}. Made of {origin.name}: {origin.info().description}"


# ----------------------------------------------------------------------------------------------------- TFDS's features


def _class_counts(feature: Any, name: str = "") -> dict[str, int]:
    """The number of classes of each label below a TFDS feature, by the label's name."""
    if hasattr(feature, "items"):  # TFDS's own kind of dict
        return {
            key: count
            for child, inner in feature.items()
            for key, count in _class_counts(inner, f"{name}/{child}" if name else child).items()
        }
    if getattr(feature, "num_classes", None):
        return {name: feature.num_classes}
    inner = getattr(feature, "feature", None)  # of a sequence
    return {} if inner is None else _class_counts(inner, name)


def _specs(shapes: dict[str, Any], dtypes: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple]]:
    """The (shape, dtype) of every feature of TFDS's two trees, by its name."""
    for key, shape in shapes.items():
        dtype = dtypes[key]
        if isinstance(shape, dict):
            yield from _specs(shape, dtype, f"{prefix}{key}/")
        elif np.dtype(dtype) == np.object_:  # TFDS's type of a string, which it hands out as bytes
            yield prefix + key, ((*shape, None), np.dtype(np.uint8))
        else:
            yield prefix + key, (shape, arrays.narrow(np.empty(0, dtype)).dtype)
