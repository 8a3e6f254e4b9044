"""Data sets on disk and batches in memory.

Real sets that need no network (`names()`), any other TFDS name whose data has been prepared, and a user's own files.
Data is written once, in array_record format, under `$LEMMATA_DATA` (default `~/.cache/lemmata`), and read through TFDS
and Grain; TensorFlow is never imported, and TFDS, Grain and scikit-learn only when a function needs them.

    load("digits", "train")["image"]                          a whole split, stacked
    load("placed_digits", "test", canvas=16, clutter=2)       images that raw pixels do not tell apart
    load("mine.csv", "train", columns={"inputs": ("a", "b"), "label": "c"})
    windows("python_docs", "train", 128)["tokens"]            text, cut into windows of bytes
    stream("digits", "train", batch_size=256, seed=0)         batches: sharded, prefetched, resumed exactly

    python -m lemmata.train.data --all                        writes the bundled sets ahead and lists them

Every set has the splits "train", "validation" and "test" as far as it has rows for them. Where a set brings no
validation split, a tenth of its training rows are one, chosen by a hash of their content, and "train" are the others:
"train[:100]" then means the first hundred of these, and "train+validation" all training rows as they are stored. A file
that names no split gives a fifth of its rows to "test" by the same hash (`splits` has the rules).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..engine import arrays
from ..engine.arrays import check
from ..engine.settings import check_whole
from ..engine.stream import Stream
from . import bundled, store
from .scale import standardize
from .sets import Info, Opened, open_set
from .text import SEPARATOR, Windows, check_separators

__all__ = [
    "Info",
    "Stream",
    "Windows",
    "check",
    "documents",
    "info",
    "load",
    "names",
    "standardize",
    "stream",
    "windows",
]


def names() -> tuple[str, ...]:
    """The bundled data sets: tables and images, `placed_digits`, which is made of digits, and the python_ sets of text.

    `load` reads all of them, `documents`, `windows` and `stream` the text.
    """
    return store.NAMES


def info(name: str, *, columns: Any = None, **options: Any) -> Info:
    """What a data set holds; a bundled one is written first where it is not on disk.

    Args:
        name: as for `load`.
        columns: as for `load`.
        **options: as for `load`.

    Raises:
        ValueError: unknown or unprepared name, columns or options that the set does not take, a file's faults.
    """
    return open_set(name, columns, options).info()


def load(name: str, split: str, *, columns: Any = None, **options: Any) -> dict[str, np.ndarray]:
    """A whole split in memory.

    Args:
        name: a bundled set, a TFDS name whose data has been prepared, or a file: .npz, .csv, .parquet or .jsonl,
            absolute or relative to the working directory or else to the data folder.
        split: "train", "validation" or "test", or what else the set has; a part of one as TFDS writes it,
            "train[:100]"; or a union, "train+validation".
        columns: of a file, what each of its columns is for: `tables.read` has the roles and what becomes of them.
        **options: of a set that has any; of placed_digits those of `placed.placed_digits`.

    Returns:
        Feature -> `[n, ...]`, nested where the set's features are; in the order on disk; 64-bit values narrowed to
        32-bit, so labels are int32; strings are objects, bytes. The bundled sets have "label" int32 `[n]` (diabetes:
        "target" float32 `[n]`) and "image" float32 `[n, h, w, 1]`, in [0, 1] unless noise was asked for, "features"
        float32 `[n, d]`, standardised, or "text" (python_docs and python_source: with "name" in place of a label).

    Raises:
        ValueError: unknown name or split, or one without examples; columns or options that the set does not take, a
            file's faults; a feature without a fixed shape; a NaN or an infinity; a number that 32 bits cannot hold; a
            label that is no class.
    """
    return open_set(name, columns, options).columns(split)


def documents(name: str, split: str, *, columns: Any = None) -> list[np.ndarray]:
    """The documents of a split of text, each uint8 `[length]`, in a fixed order.

    Args:
        name: one of the python_ sets, a prepared TFDS set with a feature "text", or a file.
        split: as for `load`. No document is in two splits.
        columns: as for `load`.

    Raises:
        ValueError: unknown name or split, one without examples, or a set without text.
    """
    texts = open_set(name, columns).texts(split)
    return [np.frombuffer(texts[index], np.uint8) for index in range(len(texts))]


def windows(name: str, split: str, length: int, *, columns: Any = None) -> dict[str, np.ndarray]:
    """A split of text as windows of bytes for a language model, in memory; `stream` reads them from disk.

    The documents are joined in their order, each followed by byte 0, and cut without overlap; what does not fill the
    last window is dropped. An empty document is that byte alone.

    Args:
        name: as for `documents`.
        split: as for `documents`.
        length: bytes a window.
        columns: as for `load`.

    Returns:
        {"tokens": uint8 `[n, length]`}, read-only.

    Raises:
        ValueError: as `documents`; a length that is not positive or exceeds the text; a document with a byte 0, which
            would be taken for the end of it.
    """
    length = check_whole("length", length, 1)
    texts = open_set(name, columns).texts(split)
    found = [texts[index] for index in range(len(texts))]
    check_separators(np.array([text.find(SEPARATOR) for text in found]), f"{name}'s {split} split")
    joined = b"".join(text + bytes([SEPARATOR]) for text in found)
    count = len(joined) // length
    if not count:
        raise ValueError(f"length {length} exceeds the {len(joined)} bytes of {name}'s {split} split.")
    return {"tokens": np.frombuffer(joined, np.uint8, count * length).reshape(count, length)}


def _lazy_windows(opened: Opened, split: str, length: int) -> Windows:
    """The same windows, read as they are asked for."""
    texts = opened.texts(split)
    sizes, separators = opened.lengths(split)
    what = f"{opened.name}'s {split} split"
    check_separators(separators, what)
    found = Windows(texts, sizes, length)
    if not len(found):
        raise ValueError(f"window {length} exceeds the {int(np.sum(sizes)) + len(sizes)} bytes of {what}.")
    return found


def stream(
    name: str,
    split: str,
    *,
    batch_size: int,
    seed: int,
    window: int | None = None,
    columns: Any = None,
    options: Mapping[str, Any] | None = None,
    process_index: int = 0,
    process_count: int = 1,
    transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    prefetch: int = 2,
) -> Stream:
    """Batches of a split, endlessly or as data to evaluate on; see `Stream`, which also takes data of your own.

    Examples are read from disk as they are asked for; with a window, the documents that it overlaps. The first stream
    of a text takes one pass over it for the documents' lengths, which are kept in the data folder.

    Args:
        name: as for `load`.
        split: as for `load`.
        batch_size: size of the global batch.
        seed: sets the order; in [0, 2**32).
        window: stream `windows` of that many bytes; bundled text needs it, or a transform.
        columns: as for `load`.
        options: as for `load`.
        process_index: which part of each batch this process gets.
        process_count: number of parts; divides batch_size.
        transform: a pure function example -> example.
        prefetch: batches read ahead.

    Raises:
        ValueError: unknown name or split; text without a window; what `load`, `Stream` and `windows` raise. A label
            that is no class raises where its batch is read.
    """
    window = None if window is None else check_whole("window", window, 1)
    opened = open_set(name, columns, options)
    if window is not None:
        source = _lazy_windows(opened, split, window)
    elif transform is None and (name in bundled.DOCUMENTS or name in bundled.CHUNKS):
        raise ValueError(f"window must be set to stream {name!r}: its documents have no common length.")
    else:
        source, transform = opened.source(split), _labels_checked(opened.counts, transform)
    return Stream(
        source,
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        transform=transform,
        prefetch=prefetch,
    )


def _labels_checked(
    counts: dict[str, int], transform: Callable[[dict[str, Any]], dict[str, Any]] | None
) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """The transform after a check of an example's labels; None where there is nothing to do."""
    if not counts:
        return transform

    def checked(example: dict[str, Any]) -> dict[str, Any]:
        leaves = dict(arrays.named_leaves(example))
        for feature, count in counts.items():
            arrays.check_labels(feature, leaves[feature], count)
        return example if transform is None else transform(example)

    return checked
