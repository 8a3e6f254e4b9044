"""Timing several calls against each other in one process."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

PAUSE = 0.1  # seconds


class Race(NamedTuple):
    """Seconds of each call by name, a list of as many rounds."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Seconds of a call."""
        return statistics.median(self.seconds[name])

    def ratio(self, one: str, other: str) -> float:
        """Of the medians."""
        return self.median(one) / self.median(other)

    def fastest(self, one: str, other: str) -> float:
        """Ratio of the fastest rounds, which other work on the machine disturbs least."""
        return min(self.seconds[one]) / min(self.seconds[other])


def race(rounds: int, *, warm_up: int = 1, **calls: Callable[[], Any]) -> Race:
    """Time `calls` one after the other, `rounds` times, so that what else the machine does falls on all of them.

    Their results are waited for. The first `warm_up` rounds, which compile and touch memory, do not count. Between two
    calls is a pause: the threads of a library may spin on for a while after its call.
    """
    seconds = {name: [] for name in calls}
    for index in range(rounds + warm_up):
        for name, call in calls.items():
            time.sleep(PAUSE)
            begin = time.perf_counter()
            jax.block_until_ready(call())
            if index >= warm_up:
                seconds[name].append(time.perf_counter() - begin)
    return Race(seconds)
