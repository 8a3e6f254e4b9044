"""A user's own files: .csv, .jsonl, .npz and .parquet, with columns that the user names by what they are for.

    read("flowers.csv", {"inputs": ("length", "width"), "label": "species"}).features["features"]

Nothing is dropped, repaired or guessed: what is missing or of another kind is an error that names file, column and row.
"""

import contextlib
import csv
import functools
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..engine import arrays
from ..engine.settings import nearest
from . import splits, store

NUMBERS = ("inputs", "continuous")
LEVELS = ("categorical", "ordinal")
TEXTS = ("text", "prompt", "completion")
ONE = ("label", "target", *TEXTS, "split")  # roles of a single column
ROLES = (*NUMBERS, *LEVELS, *ONE)
# Of a column of CSV all of whose values are numbers, the levels are numbers: -1, 2, 10. Codes such as 007 stay strings.
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ZEROS = re.compile(r"[+-]?0\d+")


class Table(NamedTuple):
    """What a file holds, by what its columns are for.

    Attributes:
        features: `image` or `features`, `continuous`, `categorical`, `ordinal`, `label`, `target`, `text`, `prompt`,
            `completion`: those that the columns give, `[n, ...]`.
        class_names: of the labels, in their order; None without a label.
        levels: of each categorical and ordinal column, in the order of their codes.
        split: `[n]` "train", "validation" or "test"; None where no column says so.
        fraction: `[n]` float64 in [0, 1), each row's number by what it holds; see `splits`.
    """

    features: dict[str, np.ndarray]
    class_names: tuple[str, ...] | None
    levels: dict[str, tuple[str, ...]]
    split: np.ndarray | None
    fraction: np.ndarray


class _Column(NamedTuple):
    """A column as a reader found it."""

    path: Path
    name: str
    values: Any  # a list of Python values, where None is missing, or an array [n, ...]
    lines: Sequence[int] | None = None  # of the file, where it has any
    textual: bool = False  # all values are strings, numbers too

    def error(self, row: int, found: Any, expected: str) -> ValueError:
        """What is wrong in a row, to raise."""
        line = "" if self.lines is None else f" (line {self.lines[row]})"
        shown = found if isinstance(found, _Said) else f"{found!r:.60}"
        return ValueError(f"{self.path}: column {self.name!r} has {shown} in row {row}{line}; expected {expected}.")


class _Said(str):
    """Words for a message, in no quotes."""


_MISSING = _Said("no value")


def is_file(name: Any) -> bool:
    """Whether a data set's name is that of a file which `read` takes."""
    return isinstance(name, str) and name.lower().endswith(tuple(READERS))


def read(name: str, columns: Any) -> Table:
    """A file in memory.

    Args:
        name: of the file: absolute, or relative to the working directory or, where it is not there, to the data folder.
            .csv: UTF-8, a header, fields quoted where needed; .jsonl: an object a line; .npz: an array `[n, ...]` a
            key; .parquet: needs pyarrow.
        columns: role -> name of a column, or several:
            `inputs`: columns of numbers, side by side "features" float32 `[n, d]`; in a file that can hold them, a
                column may be vectors `[n, d]`, or images `[n, h, w, c]`, which give "image".
            `label`: whole numbers or strings, "label" int32 `[n]`: places among the sorted distinct values.
            `target`: a number, "target" float32 `[n]`.
            `continuous`: columns of numbers, float32 `[n, p]`.
            `categorical`: columns of strings or numbers, int32 `[n, q]`: places among the sorted distinct values.
            `ordinal`: the same, in an order; a dict names the levels of each column from the lowest, and an empty tuple
                of levels sorts them.
            `text`, `prompt`, `completion`: strings, bytes in UTF-8 `[n]` (objects).
            `split`: "train", "validation" or "test" in each row.

    Raises:
        ValueError: no such file, or one that cannot be read; a role or a column that does not exist, a column with two
            roles; a value that is missing, not finite, or of another kind than its role says; a row with too many or
            too few fields; no row. Names file, column and row (counted from 0) or line.
    """
    path = _found(name)
    roles = _roles(path, columns)
    known = path.stat()
    return _read(path, known.st_mtime_ns, known.st_size, json.dumps(roles))


def _found(name: str) -> Path:
    given = Path(name).expanduser()
    places = [given] if given.is_absolute() else [Path.cwd() / given, store.root() / given]
    for place in places:
        if place.is_file():
            return place
    folders = " or ".join(str(place.parent) for place in places)
    names = [near.name for place in places if place.parent.is_dir() for near in place.parent.iterdir()]
    raise ValueError(f"data set {name!r} is a file that is not in {folders}.{nearest(given.name, names)}")


def plain(columns: Any) -> Any:
    """Settings as dicts, tuples and scalars, whatever kind of dict or list they came as."""
    if hasattr(columns, "items"):
        return {key: plain(value) for key, value in columns.items()}
    return tuple(map(plain, columns)) if isinstance(columns, (list, tuple)) else columns


def _roles(path: Path, columns: Any) -> dict[str, dict[str, list]]:
    """Role -> column -> its levels from the lowest, for each column that is named."""
    columns = plain(columns)
    if not isinstance(columns, dict) or not columns:
        held = ", ".join(_named(path))
        raise ValueError(
            f'columns must say what the columns of {path} are for, such as {{"inputs": ("a", "b"), "label": "c"}}, '
            f"got {columns!r}. The file has {held}."
        )
    roles: dict[str, dict[str, list]] = {}
    for role, named in columns.items():
        if role not in ROLES:
            raise ValueError(f"columns: {role!r} is no role; expected one of {', '.join(ROLES)}.{nearest(role, ROLES)}")
        if named is None or named == () or named == {}:
            continue
        if isinstance(named, str):
            named = (named,)
        if isinstance(named, dict) and role != "ordinal":
            raise ValueError(f"columns.{role} must be a name or several, got {named!r}.")
        by_name = {key: _given(key, named[key]) if isinstance(named, dict) else [] for key in named}
        if not all(isinstance(key, str) for key in by_name) or len(by_name) < len(named):
            raise ValueError(f"columns.{role} must be different names of columns, got {named!r}.")
        if role in ONE and len(by_name) > 1:
            raise ValueError(f"columns.{role} must be one column, got {named!r}.")
        for key in by_name:
            other = next((other for other, held in roles.items() if key in held), None)
            if other is not None:
                raise ValueError(f"column {key!r} is in columns.{other} and columns.{role}; it can be for one of them.")
        roles[role] = by_name
    if not set(roles) - {"split"}:
        raise ValueError(f"columns must name at least one column to learn from, got {columns!r}.")
    return roles


def _given(column: Any, levels: Any) -> list[str]:
    """The names of the levels that a user lists."""
    if levels is None:
        return []
    if not isinstance(levels, tuple) or not all(isinstance(level, (str, int, float)) for level in levels):
        raise ValueError(f"columns.ordinal must list the levels of {column!r} from the lowest, got {levels!r}.")
    names = [_name(level) for level in levels]
    if len(set(names)) < len(names):
        raise ValueError(f"columns.ordinal: the levels of {column!r} must differ, got {levels!r}.")
    return names


def _name(level: Any) -> str:
    return str(int(level) if isinstance(level, float) and level.is_integer() else level)


@functools.lru_cache(maxsize=4)  # a task asks for the splits of a file one by one
def _read(path: Path, changed: int, size: int, settings: str) -> Table:
    roles = json.loads(settings)
    names = [name for held in roles.values() for name in held]
    found = READERS[path.suffix.lower()](path, names)
    rows = len(next(iter(found.values())).values)
    if not rows:
        raise ValueError(f"{path} has no rows.")
    features: dict[str, np.ndarray] = {}
    content: dict[str, np.ndarray] = {}
    class_names, levels = None, {}
    for role, held in roles.items():
        columns = [found[name] for name in held]
        if role == "inputs":
            joined = _joined(columns)
            features["image" if joined.ndim == 4 else "features"] = joined
        elif role == "continuous":
            features[role] = _joined(columns, scalars=True)
        elif role in LEVELS:
            coded = [_coded(column, given) for column, given in zip(columns, held.values(), strict=True)]
            features[role] = np.stack([codes for codes, _ in coded], axis=1)
            levels.update({name: names for name, (_, names) in zip(held, coded, strict=True)})
            # By the levels' names: their numbers change where the file gets a row with a new level.
            content[role] = np.stack([np.array(names, object)[codes] for codes, names in coded], axis=1)
        elif role == "label":
            features[role], class_names = _coded(columns[0], [], real=False)
        elif role == "target":
            features[role] = _joined(columns, scalars=True)[:, 0]
        elif role in TEXTS:
            features[role] = _texts(columns[0])
    split = _splits(found[next(iter(roles["split"]))]) if "split" in roles else None
    content = {**features, **content}
    numbers = (splits.fraction({key: values[row] for key, values in content.items()}) for row in range(rows))
    return Table(features, class_names, levels, split, np.fromiter(numbers, np.float64, rows))


# ---------------------------------------------------------------------------------------------------------- the readers


def _csv(path: Path, names: Sequence[str]) -> dict[str, _Column]:
    rows, lines = [], []
    with _utf8(path), open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            _check_names(path, header, names)
            blank = None
            for fields in reader:
                if not fields:  # nothing is lost with a blank line at the end
                    blank = blank or reader.line_num
                    continue
                if blank is not None or len(fields) != len(header):
                    what = f"line {blank} is blank" if blank else f"line {reader.line_num} has {len(fields)} fields"
                    raise ValueError(f"{path}: {what}; expected {len(header)} fields, as in the header.")
                rows.append(fields)
                lines.append(reader.line_num)
        except csv.Error as error:
            raise ValueError(f"{path}: line {reader.line_num} is no CSV: {error}.") from error
    places = [header.index(name) for name in names]
    return {
        name: _Column(path, name, [row[place] or None for row in rows], lines, textual=True)
        for name, place in zip(names, places, strict=True)
    }


def _csv_header(path: Path) -> list[str]:
    with _utf8(path), open(path, encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def _jsonl(path: Path, names: Sequence[str]) -> dict[str, _Column]:
    values: dict[str, list] = {name: [] for name in names}
    lines, known, blank = [], {}, None
    with _utf8(path), open(path, encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                blank = blank or line
                continue
            if blank is not None:
                raise ValueError(f"{path}: line {blank} is blank; expected an object.")
            row = _object(path, line, text)
            known |= dict.fromkeys(row)
            lines.append(line)
            for name in names:
                values[name].append(row.get(name))
    if lines:
        _check_names(path, list(known), names)
    return {name: _Column(path, name, values[name], lines) for name in names}


def _object(path: Path, line: int, text: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise ValueError(f"{path}: line {line} has {twice!r} twice.")
        return dict(pairs)

    try:
        row = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {line} is no JSON: {error}.") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}: line {line} must be an object, got {text.strip()[:40]}.")
    return row


def _jsonl_names(path: Path) -> list[str]:
    with _utf8(path), open(path, encoding="utf-8-sig") as file:
        text = file.readline()
    return list(_object(path, 1, text)) if text.strip() else []


def _npz(path: Path, names: Sequence[str]) -> dict[str, _Column]:
    with _npz_file(path) as file:
        _check_names(path, file.files, names)
        found = {}
        for name in names:
            try:
                found[name] = file[name]
            except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # objects, or a broken file
                raise ValueError(f"{path}: column {name!r} cannot be read: {error}") from error
    sizes = {name: list(values.shape) for name, values in found.items()}
    if any(not shape for shape in sizes.values()) or len({shape[0] for shape in sizes.values()}) > 1:
        raise ValueError(f"{path}: columns must have one common first axis, got shapes {sizes}.")
    return {name: _Column(path, name, values) for name, values in found.items()}


def _npz_file(path: Path) -> Any:
    try:
        file = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz file: {error}") from error
    if isinstance(file, np.ndarray):
        raise ValueError(f"{path} is no .npz file: it holds one array without a name, as .npy files do.")
    return file


def _npz_names(path: Path) -> list[str]:
    with _npz_file(path) as file:
        return list(file.files)


def _parquet(path: Path, names: Sequence[str]) -> dict[str, _Column]:
    file = _parquet_file(path)
    _check_names(path, file.schema_arrow.names, names)
    try:
        table = file.read(columns=list(names))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    found = {}
    for name in names:
        column = table.column(name)
        plainly = column.null_count == 0 and str(column.type) in ("int32", "int64", "float", "double")
        found[name] = _Column(path, name, column.to_numpy() if plainly else column.to_pylist())
    return found


def _parquet_file(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError(f'{path} needs pyarrow to be read: pip install -e ".[tables]" in the checkout.') from error
    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error


READERS: dict[str, Callable[[Path, Sequence[str]], dict[str, _Column]]] = {
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
}
_NAMES: dict[str, Callable[[Path], list[str]]] = {
    ".npz": _npz_names,
    ".csv": _csv_header,
    ".parquet": lambda path: list(_parquet_file(path).schema_arrow.names),
    ".jsonl": _jsonl_names,
}


def _named(path: Path) -> list[str]:
    """The columns of a file."""
    return _NAMES[path.suffix.lower()](path)


@contextlib.contextmanager
def _utf8(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8, but has {error.reason} at byte {error.start}.") from error


def _check_names(path: Path, held: Sequence[str], wanted: Sequence[str]) -> None:
    twice = next((name for index, name in enumerate(held) if name in held[:index]), None)
    if twice is not None:
        raise ValueError(f"{path} has two columns {twice!r}.")
    for name in wanted:
        if name not in held:
            few = ", ".join(map(repr, held[:20])) + (", …" if len(held) > 20 else "")
            raise ValueError(f"{path} has no column {name!r}, only {few or 'none'}.{nearest(name, held)}")


# -------------------------------------------------------------------------------------------------- what columns become


def _joined(columns: Sequence[_Column], *, scalars: bool = False) -> np.ndarray:
    """Columns of numbers side by side: float32 `[n, d]`; a single one of images as it is, `[n, h, w, c]`."""
    found = [_numbers(column) for column in columns]
    for column, values in zip(columns, found, strict=True):
        if values.ndim == 4 and len(columns) == 1 and not scalars:
            return values
        if values.ndim > (1 if scalars else 2):
            allowed = "[n]" if scalars else "[n], [n, d] or, alone, images [n, h, w, c]"
            raise ValueError(
                f"{column.path}: column {column.name!r} has shape {list(values.shape)}; expected {allowed}."
            )
    return np.concatenate([values.reshape(len(values), -1) for values in found], axis=1).astype(np.float32)


def _numbers(column: _Column) -> np.ndarray:
    """Finite numbers `[n, ...]`: float32, or for images that are whole numbers these."""
    values = column.values
    if not isinstance(values, np.ndarray):
        values = _array(column)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{column.path}: column {column.name!r} holds {values.dtype}; expected numbers.")
    row = arrays.first_nonfinite(values)
    if row is not None:
        found = _Said("a NaN" if np.isnan(values[row]).any() else "an infinity")
        raise column.error(row, found, "a finite number")
    if values.ndim == 4 and values.dtype.kind in "iu":
        return values
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    row = arrays.first_nonfinite(single)
    if row is not None:
        raise column.error(row, _Said("a number that does not fit float32"), "a smaller one")
    return single


def _array(column: _Column) -> np.ndarray:
    """A list of numbers, or of vectors of one length, as an array."""
    values, kinds = column.values, set(map(type, column.values))
    if kinds == {str} and column.textual and not any("_" in value for value in values):
        with contextlib.suppress(ValueError):  # else the row is looked for below
            return np.array(list(map(float, values)))
    if kinds <= {int, float}:
        with contextlib.suppress(OverflowError):
            return np.array(list(map(float, values)))
    kept = []
    for row, value in enumerate(values):
        if value is None:
            raise column.error(row, _MISSING, "a number")
        kept.append(_vector(column, row, value) if isinstance(value, list) else _number(column, row, value))
        if np.shape(kept[-1]) != np.shape(kept[0]):
            what = [f"a list of {len(x)}" if np.ndim(x) else "a number" for x in (kept[-1], kept[0])]
            raise column.error(row, _Said(what[0]), f"{what[1]}, as in row 0")
    return np.array(kept, np.float64)


def _vector(column: _Column, row: int, value: list) -> list[float]:
    if not value or any(item is None or isinstance(item, list) for item in value):
        raise column.error(row, value, "a list of numbers")
    return [_number(column, row, item) for item in value]


def _number(column: _Column, row: int, value: Any) -> float:
    if isinstance(value, str) and column.textual and "_" not in value:
        try:
            value = float(value)
        except ValueError:
            raise column.error(row, value, "a number") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise column.error(row, value, "a number")
    if isinstance(value, int) and abs(value) > 2**1000:  # beyond what float() takes
        raise column.error(row, _Said("a number that does not fit float32"), "a smaller one")
    if not math.isfinite(value):
        raise column.error(row, _Said("a NaN" if math.isnan(value) else "an infinity"), "a finite number")
    return float(value)


def _coded(column: _Column, given: Sequence[str], *, real: bool = True) -> tuple[np.ndarray, tuple[str, ...]]:
    """Places among the levels, int32 `[n]`, and the levels' names.

    Args:
        column: of strings, or of numbers.
        given: the levels' names from the lowest; none: the distinct values, sorted.
        real: numbers that are not whole may be levels.
    """
    values = _level_values(column, real)
    if not given:
        order = sorted(set(values))
        place = {value: index for index, value in enumerate(order)}
        return np.array([place[value] for value in values], np.int32), tuple(map(_name, order))
    place = {name: index for index, name in enumerate(given)}
    for row, value in enumerate(values):
        if _name(value) not in place:
            raise column.error(row, value, f"one of the levels {', '.join(given)}")
    return np.array([place[_name(value)] for value in values], np.int32), tuple(given)


def _level_values(column: _Column, real: bool) -> list:
    """Values of one kind in all rows: strings, truth values or finite numbers."""
    values = column.values
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind not in "biufUS":
            shown = f"{values.dtype} {list(values.shape)}"
            raise ValueError(f"{column.path}: column {column.name!r} holds {shown}; expected strings or numbers, [n].")
        values = [x.decode() if isinstance(x, bytes) else x for x in values.tolist()]
    expected = "a string or a number" if real else "a whole number or a string"
    for row, value in enumerate(values):
        if value is None or value == "":
            raise column.error(row, _MISSING, expected)
        if not isinstance(value, (str, int, float)):
            raise column.error(row, value, expected)
        if (isinstance(value, float) and math.isnan(value)) or (column.textual and str(value).lower() == "nan"):
            raise column.error(row, _Said("a NaN"), expected)
    if column.textual and all(map(_DECIMAL.fullmatch, values)):
        if all(_WHOLE.fullmatch(value) for value in values):
            values = list(map(int, values))
        elif not any(_ZEROS.fullmatch(value) for value in values):
            values = list(map(float, values))
    for row, value in enumerate(values):
        if _kind(value) != _kind(values[0]):
            raise column.error(row, _Said(_kind(value)), f"{_kind(values[0])}, as in row 0")
        if isinstance(value, float) and not (value.is_integer() or (real and math.isfinite(value))):
            raise column.error(row, value, f"{expected}, or name the column as a target" if not real else expected)
    return values


def _kind(value: Any) -> str:
    return "a string" if isinstance(value, str) else "a truth value" if isinstance(value, bool) else "a number"


def _texts(column: _Column) -> np.ndarray:
    """Strings as bytes in UTF-8, objects `[n]`."""
    values = column.values.tolist() if isinstance(column.values, np.ndarray) else column.values
    texts = np.empty(len(values), object)
    for row, value in enumerate(values):
        if value is None:
            raise column.error(row, _MISSING, "a string")
        if not isinstance(value, (str, bytes)):
            raise column.error(row, value, "a string")
        texts[row] = value.encode() if isinstance(value, str) else value
    return texts


def _splits(column: _Column) -> np.ndarray:
    values = column.values.tolist() if isinstance(column.values, np.ndarray) else column.values
    for row, value in enumerate(values):
        if value not in splits.ORDER:
            raise column.error(row, _MISSING if value is None else value, f"one of {', '.join(splits.ORDER)}")
    return np.array(values)
