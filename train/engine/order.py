"""The order in which training visits examples in memory."""

from collections.abc import Sequence

import numpy as np


class EpochOrder:
    """Rows of the data in the order of training: every epoch visits each example once, in an order of its own.

    A batch may take the last rows of one epoch and the first of the next, so none is left out and no step is short. The
    order is a function of seed and epoch alone. It is drawn on the host while the device is busy, once an epoch: on the
    device, a dispatch would sort every epoch that it touches.

    Args:
        seeds: each has its own order.
        size: examples.
        salt: further numbers that the order is a function of.
    """

    def __init__(self, seeds: Sequence[int], size: int, salt: tuple[int, ...] = ()):
        self.seeds, self.size, self.salt = seeds, size, salt
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def rows(self, start: int, count: int) -> np.ndarray:
        """Rows `[seeds, count]` int32, from place `start` of the endless sequence of epochs on."""
        first, last = start // self.size, (start + count - 1) // self.size
        wanted = [(seed, epoch) for seed in self.seeds for epoch in range(first, last + 1)]
        self._orders = {key: self._orders[key] if key in self._orders else self._draw(*key) for key in wanted}
        whole = np.stack([np.concatenate([self._orders[s, e] for e in range(first, last + 1)]) for s in self.seeds])
        offset = start - first * self.size
        return whole[:, offset : offset + count]

    def _draw(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((seed % 2**64, epoch, *self.salt)).permutation(self.size).astype(np.int32)
