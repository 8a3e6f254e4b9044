"""Checks and dtypes of examples in memory, shared by whole splits and streams."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NARROW = {"int64": np.int32, "uint64": np.uint32, "float64": np.float32, "complex128": np.complex64}
_LABELS = ("label", "labels")


def check(arrays: Mapping[str, Any], *, num_classes: int | None = None) -> None:
    """Raise if an array holds a NaN, or a label is no class.

    Args:
        arrays: name -> `[n, ...]`, possibly nested.
        num_classes: with it, integers named "label" or "labels" must lie in [0, num_classes).

    Raises:
        ValueError: names the feature, the first row that is wrong and, for a label, its value.
    """
    for name, values in named_leaves(arrays):
        row = first_nan(values)
        if row is not None:
            raise ValueError(f"feature {name!r} has a NaN in row {row}; expected numbers.")
        if num_classes is not None and name.split("/")[-1] in _LABELS and values.dtype.kind in "iu":
            wrong = np.argwhere((values < 0) | (values >= num_classes))
            if len(wrong):
                where = tuple(wrong[0].tolist())
                row = where[0] if where else 0
                raise ValueError(
                    f"feature {name!r} is {values[where]} in row {row}; expected one of {num_classes} "
                    f"classes, an integer in [0, {num_classes})."
                )


def first_nan(values: np.ndarray) -> int | None:
    """Index on the first axis of the first NaN of an array (0 for a scalar); None where there is none."""
    if not jnp.issubdtype(values.dtype, jnp.inexact):  # jnp's: knows bfloat16
        return None
    wrong = np.isnan(values)
    if not wrong.any():
        return None
    return int(np.argwhere(wrong)[0][0]) if values.ndim else 0


def named_leaves(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a nested dict, each with its name: "a", or "a/b" below "a"."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield _name(path), np.asarray(leaf)


def narrow(tree: Any) -> Any:
    """The same tree with 64-bit leaves as 32-bit, which is what JAX makes of them, but never with wrapped integers.

    Raises:
        ValueError: an integer does not fit; names the feature.
    """

    def cast(path, leaf):
        leaf = np.asarray(leaf)
        dtype = _NARROW.get(leaf.dtype.name)
        if dtype is None:
            return leaf
        if leaf.dtype.kind in "iu" and leaf.size:
            limits = np.iinfo(dtype)
            if leaf.min() < limits.min or leaf.max() > limits.max:
                raise ValueError(f"feature {_name(path)!r} holds an integer that does not fit {limits.dtype}.")
        return leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, tree)


def stack(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack examples of one structure: leaves `[n, ...]`, 64-bit narrowed to 32-bit.

    Raises:
        ValueError: no examples, or a feature whose shape differs between them; names the feature.
    """
    if not examples:
        raise ValueError("the split has no examples.")

    def join(path, *values):
        shapes = sorted({np.shape(value) for value in values})
        if len(shapes) > 1:
            few = ", ".join(map(str, shapes[:3]))
            raise ValueError(f"feature {_name(path)!r} has no fixed shape ({few}, …), so it cannot be stacked.")
        return np.stack([np.asarray(value) for value in values])

    return narrow(jax.tree_util.tree_map_with_path(join, *examples))


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
