"""Splits by name: which rows of a data set "train", "validation", "test", or an expression of them, stand for.

A set that brings no validation split gets one by a hash of its training rows. A row's number in [0, 1) is a function of
what it holds alone (BLAKE2b over the bytes of its features, in the order of their names), so it is the same on every
machine and for every order of the rows, and equal rows fall on one side. Hashed are the inputs, the first of `INPUTS`
that the set has; a set without any of them is hashed by all features but its labels and targets.

For validation go, of a stored set, the tenth of the training rows with the lowest numbers (`lowest`; of python_docs and
python_source a tenth of the bytes, `within_budget`). A file, which may grow, is cut at fixed numbers (`below`): a row
keeps its side when rows are added.
"""

import hashlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

VALIDATION = 0.1  # of the training rows, where a set has no validation split
TEST = 0.2  # of the rows of a file that names no split
INPUTS = ("image", "features", "text", "prompt")
ORDER = ("train", "validation", "test")  # what other splits there are come after these
_ANSWERS = ("label", "labels", "target")


class Side(NamedTuple):
    """Some rows of what is stored.

    Attributes:
        stored: which of the stored splits.
        rows: in it, in the order of reading: all of them as a range, or `[n]` int.
    """

    stored: str
    rows: range | np.ndarray


def fraction(example: Mapping[str, Any]) -> float:
    """The number in [0, 1) of one example, by what it holds.

    Args:
        example: feature -> array, scalar, bytes, string, or a list or dict of these.
    """
    name = next((name for name in INPUTS if name in example), None)
    chosen = {name} if name else set(example) - set(_ANSWERS)
    digest = hashlib.blake2b(digest_size=8)
    _update(digest, {key: example[key] for key in chosen})
    return int.from_bytes(digest.digest(), "big") / 2**64


def _update(digest: Any, value: Any) -> None:
    """Feed a value to a hash: the length of each part goes before it, so that no two values are one string of bytes."""
    if isinstance(value, Mapping):
        parts: list[Any] = [part for key in sorted(value) for part in (key, value[key])]
    elif isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object and value.ndim):
        parts = list(value)
    else:
        if isinstance(value, str):
            value = value.encode()
        if not isinstance(value, bytes):
            array = np.asarray(value)
            value = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        digest.update(len(value).to_bytes(8, "little") + value)
        return
    digest.update(len(parts).to_bytes(8, "little"))
    for part in parts:
        _update(digest, part)


def below(fractions: Sequence[float] | np.ndarray, share: float) -> np.ndarray:
    """Rows `[n]` int, ascending, whose number is below `share`: a row keeps its side when others come."""
    return np.flatnonzero(np.asarray(fractions) < share)


def lowest(fractions: Sequence[float], share: float) -> np.ndarray:
    """Rows `[n]` int, ascending: the share of them, rounded, with the lowest numbers; with what equals the last."""
    numbers = np.asarray(fractions)
    count = round(share * len(numbers))
    return np.flatnonzero(numbers <= np.sort(numbers)[count - 1]) if count else np.zeros(0, np.int64)


def within_budget(fractions: Sequence[float], sizes: Sequence[int], share: float) -> np.ndarray:
    """Rows `[n]` int, ascending: in the order of their numbers, each that fits in what is left of a share of all sizes.

    For documents, of which few hold most of the text.
    """
    left, rows = share * sum(sizes), []
    for row in np.argsort(np.asarray(fractions), kind="stable"):
        if sizes[row] <= left:
            left -= sizes[row]
            rows.append(int(row))
    return np.array(sorted(rows), np.int64)


def divided(stored: str, size: int, validation: np.ndarray) -> dict[str, Side]:
    """Training and validation rows of one stored split.

    Args:
        stored: its name.
        size: its rows.
        validation: `[n]` int, ascending, those for validation.
    """
    return {"train": Side(stored, np.delete(np.arange(size), validation)), "validation": Side(stored, validation)}


def ordered(sides: Mapping[str, Side]) -> dict[str, Side]:
    """The same with train, validation and test in front."""
    return {key: sides[key] for key in (*(key for key in ORDER if key in sides), *sides)}


def resolve(
    name: str, split: Any, sides: Mapping[str, Side], shards: Mapping[str, Sequence[int]] | None = None
) -> list[Side]:
    """What an expression of splits stands for, as TFDS reads it: "train", "train[:80%]", "train+test".

    A slice counts the rows of the split that it names. A union reads one part after the other, but for two whole splits
    that were made of one: "train+validation" is then in the order in which that one is stored.

    Args:
        name: of the data set, for messages.
        split: the expression, or one of TFDS's own.
        sides: the splits of the set.
        shards: examples of each shard of the stored splits, for the unit `shard`.

    Returns:
        The parts in order; no part is empty, and there is at least one.

    Raises:
        ValueError: none of the set's splits, a part outside of one, or no rows.
    """
    names = [part.strip() for part in split.split("+")] if isinstance(split, str) else []
    try:
        if names and all(part in sides for part in names):
            parts = [(part, slice(None)) for part in names]
        else:
            parts = _parts(split, sides, shards or {})
    except (KeyError, ValueError, AttributeError, NotImplementedError) as error:
        sizes = ", ".join(f"{key} has {len(side.rows)}" for key, side in sides.items())
        raise ValueError(
            f"split {split!r} is none of {name}'s: {', '.join(sides)}; nor a part of one, written as "
            f"'train[:80%]' and within its examples ({sizes})."
        ) from error
    found = [Side(sides[key].stored, sides[key].rows[part]) for key, part in parts]
    if sorted(names) == ["train", "validation"] and found[0].stored == found[1].stored:
        found = [Side(found[0].stored, np.sort(np.concatenate([side.rows for side in found])))]
    found = [side for side in found if len(side.rows)]
    if not found:
        raise ValueError(f"split {split!r} of {name} has no examples.")
    return found


def _parts(split: Any, sides: Mapping[str, Side], shards: Mapping[str, Sequence[int]]) -> list[tuple[str, slice]]:
    """TFDS's reading of an expression: names of splits and the slice of each."""
    from tensorflow_datasets.core import splits  # two seconds to import, and most expressions are names

    described: Any = {}
    for key, side in sides.items():
        described[key] = SimpleNamespace(num_examples=len(side.rows))
        if isinstance(side.rows, range) and side.stored in shards:
            described[key].shard_lengths = shards[side.stored]
    absolute = splits.AbstractSplit.from_spec(split).to_absolute(described)
    return [(str(part.splitname), slice(part.from_, part.to)) for part in absolute]


def check_apart(settings: Any, eval_split: str) -> None:
    """Refuse held-out metrics on rows that are trained on.

    Args:
        settings: a `data` section with the names `train` and `validation`.
        eval_split: `train.eval_split`.

    Raises:
        ValueError: it is "validation", and the training split holds it.
    """
    if eval_split == "validation" and settings.validation in settings.train.split("+"):
        raise ValueError(
            f"data.train = {settings.train!r} holds the rows of data.validation = {settings.validation!r}, which "
            'train.eval_split = "validation" is to be measured on; make data.train "train".'
        )
