"""What the seeds say: whether a claim held.

A claim is judged on the paired difference of its two arms, seed by seed, since arms of one seed share their data and
initial draws; its interval is Student's t over seeds.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..experiments.report import mean_interval

Outcome = Literal["reproduced", "not reproduced", "inconclusive"]


class Verdict(NamedTuple):
    """Whether a claim held. `difference`, `low` and `high` are positive where `better` did as claimed."""

    outcome: Outcome
    difference: float
    low: float
    high: float
    better_mean: float
    than_mean: float
    seeds: int
    note: str = ""  # why the verdict is inconclusive, where the interval alone does not say


def verdict(better: ArrayLike, than: ArrayLike, *, direction: str, level: float = 0.95) -> Verdict:
    """Judge the claim that one arm beats another.

    The interval is that of the paired difference over seeds, signed so that positive is the claim's way: all of it
    above zero is "reproduced", none of it is "not reproduced", else "inconclusive".

    Args:
        better: `[seeds]`, the metric of the arm that is claimed to be better.
        than: `[seeds]`, the metric of the other, in the same order of seeds.
        direction: "higher" or "lower", whichever is better.
        level: coverage of the interval, in (0, 1).

    Raises:
        ValueError: direction is neither, the shapes differ or are not `[seeds]`, or level is outside (0, 1).
    """
    if direction not in ("higher", "lower"):
        raise ValueError(f'direction must be "higher" or "lower", got {direction!r}.')
    better, than = np.asarray(better, np.float64), np.asarray(than, np.float64)
    if better.ndim != 1 or better.shape != than.shape:
        raise ValueError(f"better and than must both be [seeds], got shapes {better.shape} and {than.shape}.")

    seeds = better.shape[0]
    better_mean, than_mean = (float(mean_interval(x)[0]) for x in (better, than))
    with np.errstate(invalid="ignore"):
        paired = better - than if direction == "higher" else than - better
    difference, low, high = (float(x) for x in mean_interval(paired, level))
    finite = np.isfinite(better) & np.isfinite(than)

    outcome, note = "inconclusive", ""
    if not finite.all():
        note = f"{np.sum(~finite)} of {seeds} seeds gave a value that is not finite"
    elif seeds == 1:
        note = "one seed has no interval"
    elif low > 0:
        outcome = "reproduced"
    elif high <= 0:
        outcome = "not reproduced"
    return Verdict(outcome, difference, low, high, better_mean, than_mean, seeds, note)
