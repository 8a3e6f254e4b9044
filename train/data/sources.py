"""What a task trains and tests on: arrays that fit the device, or a sampler that draws fresh examples there.

The third kind, data that streams from disk, is `stream.Stream`. Beside any of them a task may have resident arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


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
