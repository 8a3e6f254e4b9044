"""Checks and dtypes of examples in memory, shared by whole splits and streams: the door for what a user hands in."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.checks import is_known
from .settings import check_whole
from .sources import Arrays, Joint, Sampler, Source, as_source

_NARROW = {"int64": np.int32, "uint64": np.uint32, "float64": np.float32, "complex128": np.complex64}
_LABELS = ("label", "labels")


def check(
    arrays: Mapping[str, Any],
    *,
    num_classes: int | Mapping[str, int] | None = None,
    every_class: bool = False,
) -> None:
    """Raise if the arrays of a split are not what can be learned from.

    Strings (as TFDS hands them out: bytes) may stand among them.

    Args:
        arrays: name -> `[n, ...]`, possibly nested; n is the same for all, and at least 1.
        num_classes: with it, features named "label" or "labels" must be integers in [0, num_classes); or the number of
            classes of each feature, by its name ("a/b" where nested).
        every_class: each class must have at least one example. For a split that is trained on.

    Raises:
        ValueError: names the feature and what is wrong: no array, a scalar, another length than the others', none at
            all, an object; the first row that holds a NaN or an infinity; the first label that is no class, with its
            row; the classes that have no example.

    Example:
        >>> check({"label": np.array([1, 2, 2])}, num_classes=2)
        Traceback (most recent call last):
        ValueError: feature 'label' is 2 in row 1; expected one of 2 classes, an integer in [0, 2). Its values are 1 \
and 2: np.unique(labels, return_inverse=True)[1] numbers them from 0.
    """
    leaves = dict(named_leaves(arrays))
    _check_sizes(leaves)
    for name, values in leaves.items():
        _refuse_objects(name, values)
        row = first_nonfinite(values)
        if row is not None:
            raise ValueError(f"feature {name!r} has {_what(values[row])} in row {row}; expected finite numbers.")
    for name, count in _class_counts(leaves, num_classes).items():
        check_labels(name, leaves[name], count, every_class=every_class)


def check_labels(name: str, values: np.ndarray, num_classes: int, *, every_class: bool = False) -> None:
    """Raise if a label is no class, or a class has no label.

    Args:
        name: of the feature.
        values: `[n, ...]`, or a scalar: the label of one example.
        num_classes: how many there are.
        every_class: each must occur.

    Raises:
        ValueError: names the feature, and the first label that is no class, or the classes without an example.
    """
    check_whole("num_classes", num_classes, 1)
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise ValueError(f"feature {name!r} must be integers, one of {num_classes} classes, got {values.dtype}.")
    wrong = np.argwhere((values < 0) | (values >= num_classes))
    if len(wrong):
        where = tuple(wrong[0].tolist())
        place = f" in row {where[0]}" if where else ""
        found = np.unique(values).tolist()
        hint = ""
        if 1 < len(found) <= num_classes:  # as many as there are, under other numbers
            hint = f" Its values are {_listed(found)}: np.unique(labels, return_inverse=True)[1] numbers them from 0."
        raise ValueError(
            f"feature {name!r} is {values[where]}{place}; expected one of {num_classes} classes, an integer in "
            f"[0, {num_classes}).{hint}"
        )
    missing = np.setdiff1d(np.arange(num_classes), values).tolist() if every_class else []
    if missing:
        raise ValueError(
            f"feature {name!r} has no example of {'class' if len(missing) == 1 else 'classes'} "
            f"{_listed(missing)}; expected at least one of each of the {num_classes} classes."
        )


def check_numbers(name: str, tree: Any) -> None:
    """Raise if a tree of arrays holds what a device cannot, or would change without a word.

    Args:
        name: what the caller calls the tree.
        tree: of NumPy or JAX arrays of any shapes. Those that are traced or partly elsewhere keep their values
            unchecked.

    Raises:
        ValueError: names the array, if it is none (a list, a string, an object), an integer does not fit the dtype that
            JAX takes it to, or the first entry of the first axis that holds a NaN or an infinity.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = f"{name}: array {_name(path)!r}" if path else f"{name}: the array"
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise ValueError(f"{array} must be an array of numbers, got {type(leaf).__name__}.")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):  # random keys
            continue
        if not (leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.number)):
            raise ValueError(f"{array} must be an array of numbers, got dtype {leaf.dtype}.")
        if not is_known(leaf):
            continue
        values = np.asarray(leaf)
        row = first_nonfinite(values)
        if row is not None:
            raise ValueError(f"{array} has {_what(values[row] if values.ndim else values)} in row {row}.")
        _refuse_overflow(array, values, np.dtype(jax.dtypes.canonicalize_dtype(values.dtype)))


def check_source(name: str, source: Any, batch_size: int) -> None:
    """Raise if a task's source cannot give batches. Reads arrays once; draws nothing from a sampler.

    Args:
        name: what the caller calls the source: "train", "test".
        source: any `Source`.
        batch_size: what is asked of a sampler.

    Raises:
        ValueError: names the source, the array and what is wrong: arrays of different lengths or none, one that does
            not hold finite numbers (see `check_numbers`), or a sampler that draws another number of examples.

    Example:
        >>> check_source("train", Arrays({"x": np.zeros((3, 2)), "y": np.zeros(4)}), 2)
        Traceback (most recent call last):
        ValueError: train: arrays must have one common first axis, got x [3, 2], y [4].
    """
    check_whole("batch_size", batch_size, 1)
    if isinstance(source, Joint):
        for part, one in source.sources.items():
            check_source(f"{name}/{part}", as_source(part, one), batch_size * source.factors.get(part, 1))
        return
    if isinstance(source, Sampler):
        drawn = jax.eval_shape(lambda key: source.sample(key, batch_size), jax.random.key(0))
        for path, leaf in jax.tree_util.tree_flatten_with_path(drawn)[0]:
            if leaf.shape[:1] != (batch_size,):
                raise ValueError(
                    f"{name}: the sampler must draw as many examples as asked, {batch_size} along the first axis, got "
                    f"shape {list(leaf.shape)}{f' of {_name(path)!r}' if path else ''}."
                )
        return
    if not isinstance(source, Source):
        raise ValueError(f"{name} must be a source of examples, got {type(source).__name__}.")
    tree = source.arrays if isinstance(source, Arrays) else source.first(batch_size)
    check_numbers(name, tree)
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
    try:
        _check_sizes(leaves)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def first_nonfinite(values: np.ndarray) -> int | None:
    """Index on the first axis of the first NaN or infinity (0 for a scalar); None where there is none."""
    if not jnp.issubdtype(values.dtype, jnp.inexact):  # jnp's: knows bfloat16
        return None
    finite = np.isfinite(values)
    if finite.all():
        return None
    return int(np.argwhere(~finite)[0][0]) if values.ndim else 0


def named_leaves(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a nested dict, each with its name: "a", or "a/b" below "a"."""
    for path, leaf in _flatten(tree)[0]:
        yield _name(path), np.asarray(leaf)


def narrow(tree: Any) -> Any:
    """The same tree with 64-bit leaves as 32-bit, which is what JAX makes of them, but never with wrapped integers.

    Raises:
        ValueError: a number does not fit; names the feature.
    """

    def cast(path, leaf):
        leaf = np.asarray(leaf)
        dtype = _NARROW.get(leaf.dtype.name)
        if dtype is None:
            return leaf
        _refuse_overflow(f"feature {_name(path)!r}", leaf, np.dtype(dtype))
        return leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, tree, is_leaf=_is_leaf)


def stack(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack examples of one structure: leaves `[n, ...]`, 64-bit narrowed to 32-bit.

    Raises:
        ValueError: no examples, one that is not a dict of arrays, or features that differ between them; names the
            feature.
    """
    if not len(examples):
        raise ValueError("the split has no examples.")
    columns: list[list[np.ndarray]] = []
    paths, structure = [], None
    for row, example in enumerate(examples):
        if not isinstance(example, dict):
            raise ValueError(f"an example must be a dict of arrays, got {type(example).__name__}.")
        found, its_structure = _flatten(example)
        if structure is None:
            if not found:
                raise ValueError("an example must be a dict of arrays, got one without any.")
            paths, structure = [path for path, _ in found], its_structure
            columns = [[] for _ in found]
        elif its_structure != structure:
            names = [", ".join(map(_name, which)) for which in (paths, [path for path, _ in found])]
            raise ValueError(f"examples must have the same features, got {names[0]} and, in row {row}, {names[1]}.")
        for column, (path, leaf) in zip(columns, found, strict=True):
            column.append(_array(path, leaf))
    assert structure is not None  # there are examples
    return narrow(structure.unflatten(map(_join, paths, columns)))


def spec(batch: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """What all batches of a stream have in common: the shape of an example and the dtype, by the feature's name."""
    return {
        name: (values.shape[1:], values.dtype.kind if values.dtype.kind in "OSU" else str(values.dtype))
        for name, values in named_leaves(batch)
    }


def _array(path: tuple, leaf: Any) -> np.ndarray:
    try:  # NumPy's own strings have one length in an array, and lose a byte 0 at their end
        return np.array(leaf, object) if isinstance(leaf, bytes) else np.asarray(leaf)
    except ValueError as error:
        raise ValueError(f"feature {_name(path)!r} is ragged: lists of different lengths are no array.") from error


def _join(path: tuple, values: list[np.ndarray]) -> np.ndarray:
    shapes = sorted({value.shape for value in values})
    if len(shapes) > 1:
        few = ", ".join(map(str, shapes[:3]))
        raise ValueError(f"feature {_name(path)!r} has no fixed shape ({few}, …), so it cannot be stacked.")
    dtypes = sorted({value.dtype.name for value in values if value.dtype.kind not in "SU"})
    if len(dtypes) > 1:
        raise ValueError(f"feature {_name(path)!r} has no fixed dtype ({', '.join(dtypes)}), so it cannot be stacked.")
    joined = np.stack(values)
    _refuse_objects(_name(path), joined)
    return joined


def _check_sizes(leaves: Mapping[str, Any]) -> None:
    """Arrays, at least one, whose first axes are the same and not empty."""
    shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in leaves.items())
    if not leaves:
        raise ValueError("expected at least one array, got none.")
    if any(values.ndim == 0 for values in leaves.values()) or len({len(values) for values in leaves.values()}) > 1:
        raise ValueError(f"arrays must have one common first axis, got {shapes}.")
    if not len(next(iter(leaves.values()))):
        raise ValueError(f"there must be at least one example, got {shapes}.")


def _class_counts(leaves: Mapping[str, Any], num_classes: int | Mapping[str, int] | None) -> dict[str, int]:
    """Feature -> number of its classes, of those that have any."""
    if num_classes is None:
        return {}
    if isinstance(num_classes, Mapping):
        return {name: count for name, count in num_classes.items() if name in leaves}
    return dict.fromkeys([name for name in leaves if name.split("/")[-1] in _LABELS], num_classes)


def _refuse_objects(name: str, values: np.ndarray) -> None:
    """Neither numbers nor strings: None, dates, lists of different lengths."""
    if values.dtype.kind == "O":
        others = sorted({type(value).__name__ for value in values.flat if not isinstance(value, (str, bytes))})
        if others:
            raise ValueError(f"feature {name!r} must hold numbers, or strings, got objects: {', '.join(others)}.")
    elif values.dtype.kind not in "biufcSU" and not jnp.issubdtype(values.dtype, jnp.number):  # jnp's: has bfloat16
        raise ValueError(f"feature {name!r} must hold numbers, or strings, got {values.dtype}.")


def _refuse_overflow(what: str, values: np.ndarray, dtype: np.dtype) -> None:
    """A number that `dtype` cannot hold. Whatever is infinite already stays so."""
    if values.dtype == dtype or not values.size:
        return
    if values.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise ValueError(f"{what} holds an integer that does not fit {dtype}.")
    elif values.dtype.kind in "fc":
        size = np.abs(values)
        if np.any((size > np.finfo(dtype).max) & np.isfinite(size)):
            raise ValueError(f"{what} holds a number that does not fit {dtype}.")


def _what(values: np.ndarray) -> str:
    return "a NaN" if np.isnan(values).any() else "an infinity"


def _listed(values: list) -> str:
    """As text: 1, 2 and 3; of many the first five."""
    if len(values) > 6:
        return f"{', '.join(map(str, values[:5]))} and {len(values) - 5} more"
    return " and ".join(filter(None, [", ".join(map(str, values[:-1])), str(values[-1])]))


def _flatten(tree: Any) -> tuple[list[tuple[tuple, Any]], Any]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_leaf)


def _is_leaf(node: Any) -> bool:
    """Examples nest by dicts alone: a list in one is an array, and None is no array."""
    return not isinstance(node, dict)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
