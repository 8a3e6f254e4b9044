"""What the seeds say: intervals over them, and whether a claim held.

Every interval is Student's t over seeds; a claim is judged on the paired difference of its two arms, seed by seed,
since arms of one seed share their data and initial draws.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Outcome = Literal["reproduced", "not reproduced", "inconclusive"]


class ArmResult(NamedTuple):
    """What one arm of a comparison gave."""

    metrics: dict[str, np.ndarray]  # name -> [seeds], at the end
    history: dict[str, tuple[np.ndarray, np.ndarray]]  # name -> (steps [t], values [seeds, t]); {} if nothing trained
    seconds: float  # wall time of all seeds, compilation included
    skipped: np.ndarray | None = None  # [seeds] updates dropped because they were not finite; None if nothing trained


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


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and its Student-t confidence interval.

    Args:
        values: `[seeds, ...]`.
        level: coverage of the interval, in (0, 1).

    Returns:
        `(mean, low, high)`, each `[...]` float64. `low` and `high` are NaN with one seed, which has no interval, and
        equal the mean where all seeds agree exactly.

    Raises:
        ValueError: no seeds, or level outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    if values.ndim < 1 or values.shape[0] < 1:
        raise ValueError(f"values must be [seeds, ...] with at least one seed, got shape {values.shape}.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be between 0 and 1, exclusive, got {level}.")
    from scipy.special import stdtrit

    seeds = values.shape[0]
    # Rounding in the sums would give equal values a tiny spread; then the mean is any one of them and the spread is 0.
    equal = np.all(values == values[0], axis=0)
    with np.errstate(invalid="ignore"):  # inf - inf; the NaN that comes of it is the answer
        mean = np.where(equal, values[0], values.mean(axis=0))
        if seeds == 1:
            return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        spread = np.where(equal, 0.0, values.std(axis=0, ddof=1))
    half = stdtrit(seeds - 1, 0.5 + level / 2) * spread / np.sqrt(seeds)
    return mean, mean - half, mean + half


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
