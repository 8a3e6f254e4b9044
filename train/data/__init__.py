"""Data sets on disk and batches in memory.

Seven real sets need no network (`names()`); any other TFDS name works where its data has been prepared. Data is written
once, in array_record format, under `$LEMMATA_DATA` (default `~/.cache/lemmata`), and read through TFDS and Grain;
TensorFlow is never imported, and TFDS, Grain and scikit-learn only when a function needs them.

    load("digits", "train")["image"]                          a whole split, stacked
    windows("python_docs", "train", 128)["tokens"]            text, cut into windows of bytes
    stream("digits", "train", batch_size=256, seed=0)         batches: sharded, prefetched, resumed exactly

    python -m lemmata.train.data --all                        writes the bundled sets ahead and lists them
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from . import arrays, store
from .arrays import check
from .sources import check_whole
from .stream import Stream

__all__ = ["Info", "Stream", "check", "documents", "info", "load", "names", "stream", "windows"]

SEPARATOR = 0  # the byte that follows each document in `windows`; no document contains it


class Info(NamedTuple):
    """What a data set holds.

    Attributes:
        splits: name -> number of examples (documents, for text).
        features: name ("a/b" where nested) -> (shape of an example, dtype); None is any length, and text is uint8.
        num_classes: of the feature "label"; None where there is none.
        description: what it is and how it is split.
    """

    splits: dict[str, int]
    features: dict[str, tuple[tuple[int | None, ...], np.dtype]]
    num_classes: int | None
    description: str


def names() -> tuple[str, ...]:
    """The bundled data sets: `load` reads digits, breast_cancer, wine, iris, diabetes, `documents` the python_ ones."""
    return store.NAMES


def info(name: str) -> Info:
    """What a data set holds; a bundled one is written first where it is not on disk.

    Args:
        name: a bundled set, or any TFDS name whose data has been prepared.

    Raises:
        ValueError: unknown or unprepared name.
    """
    described = store.builder(name).info
    return Info(
        splits={split: found.num_examples for split, found in described.splits.items()},
        features=dict(_specs(described.features.shape, described.features.np_dtype)),
        num_classes=getattr(dict(described.features).get("label"), "num_classes", None),
        description=described.description,
    )


def load(name: str, split: str) -> dict[str, np.ndarray]:
    """A whole split in memory.

    Args:
        name: a set whose features have fixed shapes.
        split: "train" or "test", or what else the set has; a part of one as TFDS writes it, "train[:100]".

    Returns:
        Feature -> `[n, ...]`, nested where the set's features are; in the order on disk; 64-bit values narrowed to
        32-bit, so labels are int32. The bundled sets have "label" int32 `[n]` (diabetes: "target" float32 `[n]`) and
        "image" float32 `[n, 8, 8, 1]` in [0, 1] (digits) or "features" float32 `[n, d]`, standardised.

    Raises:
        ValueError: unknown name or split, or one without examples; a feature without a fixed shape; a NaN or an
            infinity; a number that 32 bits cannot hold; a label that is no class.
    """
    if name in store.bundled.DOCUMENTS:
        raise ValueError(f"data set {name!r} holds text of any length; read it with documents() or windows().")
    source = store.source(name, split)
    columns = arrays.stack([source[index] for index in range(len(source))])
    check(columns, num_classes=_class_counts(store.builder(name).info.features))
    return columns


def documents(name: str, split: str) -> list[np.ndarray]:
    """The documents of a split of text, each uint8 `[length]`, in a fixed order.

    Args:
        name: python_docs, python_source, or a prepared TFDS set with a feature "text".
        split: "train" or "test", or what else the set has. No document is in two splits.

    Raises:
        ValueError: unknown name or split, one without examples, or a set without text.
    """
    source, features = store.source(name, split), info(name).features
    if features.get("text") != ((None,), np.uint8):
        raise ValueError(f"data set {name!r} has no feature 'text' of documents, only {', '.join(features)}.")
    return [np.frombuffer(source[index]["text"], np.uint8) for index in range(len(source))]


def windows(name: str, split: str, length: int) -> dict[str, np.ndarray]:
    """A split of text as windows of bytes for a language model.

    The documents are joined in their order, each followed by byte 0, and cut without overlap; what does not fill the
    last window is dropped. An empty document is that byte alone.

    Args:
        name: as for `documents`.
        split: as for `documents`.
        length: bytes a window.

    Returns:
        {"tokens": uint8 `[n, length]`}, read-only.

    Raises:
        ValueError: as `documents`; a length that is not positive or exceeds the text; a document with a byte 0, which
            would be taken for the end of it.
    """
    length = check_whole("length", length, 1)
    texts = documents(name, split)
    for index, text in enumerate(texts):
        if SEPARATOR in text:
            place = int(np.argmax(text == SEPARATOR))
            raise ValueError(
                f"feature 'text' of document {index} of {name}'s {split} split has a byte {SEPARATOR} at {place}, but "
                "that is what separates documents in windows."
            )
    joined = b"".join(text.tobytes() + bytes([SEPARATOR]) for text in texts)
    count = len(joined) // length
    if not count:
        raise ValueError(f"length {length} exceeds the {len(joined)} bytes of {name}'s {split} split.")
    return {"tokens": np.frombuffer(joined, np.uint8, count * length).reshape(count, length)}


def stream(
    name: str,
    split: str,
    *,
    batch_size: int,
    seed: int,
    window: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    prefetch: int = 2,
) -> Stream:
    """Batches of a split, endlessly; see `Stream`, which also takes data of your own.

    Args:
        name: a bundled set, or any TFDS name whose data has been prepared.
        split: as for `load`.
        batch_size: size of the global batch.
        seed: sets the order; in [0, 2**32).
        window: stream `windows` of that many bytes; text needs it.
        process_index: which part of each batch this process gets.
        process_count: number of parts; divides batch_size.
        transform: a pure function example -> example.
        prefetch: batches read ahead.

    Raises:
        ValueError: unknown name or split; text without a window; what `Stream` and `windows` raise. A label that is no
            class raises where its batch is read.
    """
    if window is None and name in store.bundled.DOCUMENTS:
        raise ValueError(f"window must be set to stream {name!r}: its documents have no common length.")
    if window is None:
        source, counts = store.source(name, split), _class_counts(store.builder(name).info.features)
        transform = _labels_checked(counts, transform)
    else:
        source = windows(name, split, check_whole("window", window, 1))
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


def _class_counts(feature: Any, name: str = "") -> dict[str, int]:
    """The number of classes of each label below a TFDS feature, by the label's name."""
    if isinstance(feature, Mapping):
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
