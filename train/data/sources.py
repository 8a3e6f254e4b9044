"""What a task trains and tests on: arrays that fit the device, or a sampler that draws fresh examples there.

The third kind, data that streams from disk, is `stream.Stream`. Beside any of them a task may have resident arrays.
`arrays.check_source` looks at all of them once, before a program is built on them.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import numpy as np

SEEDS = 2**32  # JAX, NumPy and Grain all tell apart the seeds below it, and not all of them those beyond


class Arrays(NamedTuple):
    """A split in memory: a tree of NumPy arrays `[n, ...]`, put on the device once and indexed there."""

    arrays: Any

    @property
    def size(self) -> int:
        """Number of examples."""
        return jax.tree.leaves(self.arrays)[0].shape[0]


class Sampler(NamedTuple):
    """A distribution: `sample(key, n)` draws a batch of n examples on the device, under jit."""

    sample: Callable[[jax.Array, int], Any]


class Resident(NamedTuple):
    """A batch, and the arrays that every batch comes with: whole, on each device once, no constants of the program."""

    batch: Any
    arrays: Any


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """The integer that a setting is.

    Args:
        name: what the caller calls `value`.
        value: a Python or NumPy integer; a bool is none.
        low: its least value.
        high: its largest; None: there is none.

    Raises:
        ValueError: `value` is something else or lies outside.

    Example:
        >>> check_whole("horizon", 0, 1)
        Traceback (most recent call last):
        ValueError: horizon must be an integer of at least 1, got 0.
    """
    whole = not isinstance(value, (bool, np.bool_)) and hasattr(type(value), "__index__")
    if not whole or value < low or (high is not None and value > high):
        expected = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {expected}, got {value!r}.")
    return operator.index(cast(Any, value))


def check_seed(name: str, seed: Any) -> int:
    """The integer that a seed is; two that pass are two different seeds wherever they are used.

    Raises:
        ValueError: no integer, or one outside [0, 2**32).

    Example:
        >>> check_seed("seed", 2**32)
        Traceback (most recent call last):
        ValueError: seed must be an integer from 0 to 4294967295, got 4294967296.
    """
    return check_whole(name, seed, 0, SEEDS - 1)
