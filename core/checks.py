"""Argument checks: each raises a `ValueError` that names the argument, what came and what was expected.

Shapes are known while tracing, so shape checks always run. Values are not: a check of a value is skipped where the
value is traced (under `jit`, `vmap`, `grad`) or lives partly on other hosts.
"""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

_BRACKETS = {"both": "[]", "left": "[)", "right": "(]", "neither": "()"}


def is_known(value: object) -> bool:
    """Whether the numbers in `value` can be read now, without a trace or another host."""
    if isinstance(value, jax.core.Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


def in_interval(
    name: str, value: ArrayLike, low: float | jax.Array, high: float | jax.Array, *, closed: str = "both"
) -> None:
    """Check that every entry of `value` lies between `low` and `high`.

    Args:
        name: what the caller calls `value`.
        value: number or array. NaN lies in no interval. A traced value passes unchecked.
        low: lower end, scalar; `-jnp.inf` for none. A traced end leaves `value` unchecked.
        high: upper end, scalar; `jnp.inf` for none.
        closed: which ends belong to the interval: "both", "left", "right" or "neither". An infinite value is outside
            however it is closed.

    Raises:
        ValueError: an entry lies outside.

    Example:
        >>> in_interval("alpha", 1.5, 0.0, 1.0, closed="right")
        Traceback (most recent call last):
        ValueError: alpha must be in (0, 1], got 1.5.
    """
    if not (is_known(value) and is_known(low) and is_known(high)):
        return
    x = np.asarray(value)
    above = x >= low if closed in ("both", "left") else x > low
    below = x <= high if closed in ("both", "right") else x < high
    inside = above & below & np.isfinite(x)
    if not inside.all():
        left, right = _BRACKETS[closed]
        low_text, high_text = f"{float(low):g}", f"{float(high):g}"
        interval = f"{'(' if np.isinf(low) else left}{low_text}, {high_text}{')' if np.isinf(high) else right}"
        offender = x[~inside].flat[0]
        raise ValueError(f"{name} must be in {interval}, got {offender:g}.")


def shapes(*specs: tuple[str, ArrayLike, str]) -> dict[str, int]:
    """Check shapes against one another by the names of their axes.

    Args:
        *specs: `(name, array, axes)`; `axes` lists the axes by name, "n m", and a name means one size wherever it
            stands. A leading "..." takes any axes, which are not compared.

    Returns:
        The size of each named axis.

    Raises:
        ValueError: the rank is another, or an axis has another size than under an earlier argument.

    Example:
        >>> shapes(("pos", jnp.zeros(3), "n"), ("neg", jnp.zeros((3, 5)), "n m"))
        {'n': 3, 'm': 5}
        >>> shapes(("pos", jnp.zeros(3), "n"), ("neg", jnp.zeros((2, 5)), "n m"))
        Traceback (most recent call last):
        ValueError: neg must have shape [n, m] with n = 3 as in pos, got shape [2, 5].
    """
    sizes: dict[str, int] = {}
    first_in: dict[str, str] = {}
    for name, array, axes in specs:
        names = axes.split()
        shape = jnp.shape(array)
        expected = f"{name} must have shape [{', '.join(names)}]"
        got = f"got shape {list(shape)}."
        if names[:1] == ["..."]:
            names = names[1:]
            trailing = shape[len(shape) - len(names) :] if len(shape) >= len(names) else shape
        else:
            trailing = shape
        if len(trailing) != len(names):
            raise ValueError(f"{expected}, {got}")
        for axis, size in zip(names, trailing, strict=True):
            source = first_in.setdefault(axis, name)
            if sizes.setdefault(axis, size) != size:
                elsewhere = "" if source == name else f" as in {source}"
                raise ValueError(f"{expected} with {axis} = {sizes[axis]}{elsewhere}, {got}")
    return sizes


def finite(name: str, value: ArrayLike) -> None:
    """Check that no entry of `value` is infinite or NaN. A traced value passes unchecked.

    Raises:
        ValueError: names the first entry that is, and where it stands.

    Example:
        >>> finite("x", jnp.array([[0.0, jnp.nan]]))
        Traceback (most recent call last):
        ValueError: x must be finite, got nan at [0, 1].
    """
    if is_known(value) and jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        x = np.asarray(value)
        _refuse_first(f"{name} must be finite", x, ~np.isfinite(x))


def labels(name: str, value: ArrayLike, num_classes: int) -> None:
    """Check that `value` holds integers from 0 to `num_classes` - 1. Traced values pass, but for their dtype.

    Raises:
        ValueError: a dtype that is not an integer's, or the first label that is no class, and where it stands.

    Example:
        >>> labels("labels", jnp.array([0, 2]), 2)
        Traceback (most recent call last):
        ValueError: labels must be integers from 0 to 1, got 2 at [1].
    """
    if not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise ValueError(f"{name} must be integers, got {jnp.result_type(value)}.")
    if is_known(value):
        x = np.asarray(value)
        _refuse_first(f"{name} must be integers from 0 to {num_classes - 1}", x, (x < 0) | (x >= num_classes))


def _refuse_first(expected: str, x: np.ndarray, bad: np.ndarray) -> None:
    if bad.any():
        place = np.argwhere(bad)[0].tolist()
        where = f" at {place}" if place else ""
        raise ValueError(f"{expected}, got {x[tuple(place)]}{where}.")
