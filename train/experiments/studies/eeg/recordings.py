"""Epochs of electroencephalograms: simulated ones, where the truth is known, those that MNE has cut, and a user's own.

What a user hands in passes `check_recording` once, before anything is learned from it.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .....core import checks
from ....engine.arrays import first_nonfinite

logger = logging.getLogger(__name__)


class Recording(NamedTuple):
    """Epochs of several subjects."""

    x: Any  # [n, channels, time] float32
    label: Any  # [n] int32
    subject: Any  # [n] int32


def simulate_eeg(
    *,
    key: jax.Array,
    num_subjects: int = 6,
    trials_per_subject: int = 100,
    num_channels: int = 16,
    num_samples: int = 128,
    sampling_rate: float = 128.0,
    frequencies: Sequence[float] = (22.0, 10.0),
    amplitudes: Sequence[float] = (1.5, 1.5),
    burst_seconds: float = 0.6,
    noise: float = 1.0,
    sensor_noise: float = 0.0,
    subject_spread: float = 0.0,
) -> Recording:
    """Channels that mix sources of 1/f noise, one of which has a burst of the class's frequency and amplitude.

    There are as many sources as channels, of standard deviation `noise`. Source 0 gets a sine of `frequencies[class]`
    for `burst_seconds`, from an onset that leaves room for it, with a random phase. Each subject mixes the sources by
    sqrt(1 - s) A + sqrt(s) A_subject, Gaussian matrices, s the spread.

    Args:
        key: PRNG key.
        num_subjects: subjects, who all know all classes equally often.
        trials_per_subject: a multiple of the number of classes.
        num_channels: channels, and sources.
        num_samples: samples of an epoch.
        sampling_rate: Hz.
        frequencies: of the burst, in Hz, one a class; below half the sampling rate.
        amplitudes: of the burst, one a class; 0 is no burst.
        burst_seconds: length of the burst, at most that of the epoch.
        noise: standard deviation of every source's 1/f noise.
        sensor_noise: standard deviation of white noise that is added to every channel.
        subject_spread: s in [0, 1]: 0, all heads are one; 1, they have nothing in common.

    Returns:
        `Recording` of `num_subjects * trials_per_subject` epochs, subject by subject, classes in turn.

    Raises:
        ValueError: an argument outside its range.
    """
    checks.in_interval("sampling_rate", sampling_rate, 0.0, jnp.inf, closed="neither")
    classes, seconds = len(frequencies), num_samples / sampling_rate
    for name, value in (("num_subjects", num_subjects), ("num_channels", num_channels), ("num_samples", num_samples)):
        checks.in_interval(name, value, 1, jnp.inf, closed="left")
    if len(amplitudes) != classes or classes < 2:
        raise ValueError(f"amplitudes must be as many as frequencies, 2 or more; got {amplitudes} for {frequencies}.")
    checks.in_interval("frequencies", jnp.asarray(frequencies), 0.0, sampling_rate / 2)
    if trials_per_subject < classes or trials_per_subject % classes:
        raise ValueError(f"trials_per_subject must be a multiple of {classes} classes, got {trials_per_subject}.")
    checks.in_interval("burst_seconds", burst_seconds, 0.0, seconds)
    checks.in_interval("noise", noise, 0.0, jnp.inf, closed="left")
    checks.in_interval("sensor_noise", sensor_noise, 0.0, jnp.inf, closed="left")
    checks.in_interval("subject_spread", subject_spread, 0.0, 1.0)

    trials = num_subjects * trials_per_subject
    label, subject = jnp.arange(trials) % classes, jnp.arange(trials) // trials_per_subject
    noise_key, onset_key, phase_key, mix_key, sensor_key = jax.random.split(key, 5)
    sources = noise * pink_noise(key=noise_key, shape=(trials, num_channels), num_samples=num_samples)

    time = jnp.arange(num_samples) / sampling_rate
    onset = jax.random.uniform(onset_key, (trials, 1), maxval=seconds - burst_seconds)
    phase = jax.random.uniform(phase_key, (trials, 1), maxval=2 * jnp.pi)
    angle = 2 * jnp.pi * jnp.asarray(frequencies)[label][:, None] * time + phase
    during = (time >= onset) & (time < onset + burst_seconds)
    burst = jnp.asarray(amplitudes)[label][:, None] * jnp.where(during, jnp.sin(angle), 0.0)
    sources = sources.at[:, 0].add(burst)

    matrices = jax.random.normal(mix_key, (num_subjects + 1, num_channels, num_channels))
    mixing = (1 - subject_spread) ** 0.5 * matrices[0] + subject_spread**0.5 * matrices[1:]
    by_subject = sources.reshape(num_subjects, trials_per_subject, num_channels, num_samples)
    x = jnp.einsum("scd,sndt->snct", mixing, by_subject).reshape(trials, num_channels, num_samples)
    x = x + sensor_noise * jax.random.normal(sensor_key, x.shape)
    return Recording(x, label.astype(jnp.int32), subject.astype(jnp.int32))


def pink_noise(*, key: jax.Array, shape: tuple[int, ...], num_samples: int) -> jax.Array:
    """Gaussian noise `[*shape, num_samples]` of power 1 / f and unit standard deviation, without an offset."""
    index = jnp.arange(num_samples // 2 + 1)
    amplitude = jnp.where(index > 0, jnp.maximum(index, 1) ** -0.5, 0.0)
    both_sides = jnp.where((index > 0) & (2 * index < num_samples), 4.0, 1.0)
    amplitude = amplitude * num_samples / jnp.sqrt(jnp.maximum(jnp.sum(both_sides * amplitude**2), 1e-30))
    real, imaginary = jax.random.normal(key, (2, *shape, len(index)))
    return jnp.fft.irfft(amplitude * (real + 1j * imaginary), n=num_samples)


def check_recording(recording: Recording) -> Recording:
    """A recording that someone else made, as classifiers take it.

    Args:
        recording: anything with `x` `[n, channels, time]` real, `label` and `subject` `[n]` integers: arrays, or what
            becomes one.

    Returns:
        `Recording` of float32, int32 and integers, on the host. Labels other than 0, ..., k - 1 are numbered so in
        their order, which is logged as a warning.

    Raises:
        ValueError: names what is missing or has another shape or dtype, the first trial and channel that holds a NaN,
            an infinity or what float32 cannot hold, or the only class.

    Example:
        >>> check_recording(Recording(np.zeros((2, 3, 4)), [0, 1], [0, 0, 1]))
        Traceback (most recent call last):
        ValueError: subject must have shape [n] with n = 2 as in x, got shape [3].
    """
    missing = [name for name in Recording._fields if not hasattr(recording, name)]
    if missing:
        raise ValueError(
            f"a recording must have x, label and subject, got {type(recording).__name__} without {missing}."
        )
    x, label, subject = (_array(name, getattr(recording, name)) for name in Recording._fields)
    sizes = checks.shapes(("x", x, "n channels time"), ("label", label, "n"), ("subject", subject, "n"))
    if not all(sizes.values()):
        raise ValueError(f"x must hold at least one trial, channel and sample, got shape {list(x.shape)}.")
    if not jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.kind not in "iu":
        raise ValueError(f"x must be real numbers, got {x.dtype}.")
    for name, values in (("label", label), ("subject", subject)):
        if values.dtype.kind not in "iu":
            raise ValueError(
                f"{name} must be integers, got {values.dtype}; np.unique({name}, return_inverse=True)[1] numbers "
                f"whatever it holds."
            )
    x = _finite32(x)
    classes, numbered = np.unique(label, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"label must hold at least two classes, got {classes[0]} in every trial.")
    if not np.array_equal(classes, np.arange(len(classes))):
        logger.warning("labels %s are taken as classes 0 to %d", ", ".join(map(str, classes)), len(classes) - 1)
    return Recording(x, numbered.astype(np.int32), subject)


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name} must be an array, with one shape for all trials: {error}.") from error


def _finite32(x: np.ndarray) -> np.ndarray:
    """`x` `[n, channels, time]` as float32; refuses what is not finite then."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is an infinity, and told as one
        narrow = np.asarray(x, np.float32)
    trial = first_nonfinite(narrow)
    if trial is not None:
        bad = ~np.isfinite(narrow)
        _, channel, sample = np.argwhere(bad)[0]
        raise ValueError(
            f"x must be finite, got {x[trial, channel, sample]} in trial {trial}, channel {channel}, sample {sample}; "
            f"{bad.any((1, 2)).sum()} of {len(x)} trials hold such values: leave them out, or interpolate the channel."
        )
    return narrow


def from_epochs(epochs: Sequence[Any], *, sampling_rate: float, event_id: Mapping[str, int] | None = None) -> Recording:
    """A recording of MNE's epochs, in microvolts; MNE itself is not needed.

    Args:
        epochs: one `mne.Epochs`, or anything with `get_data()` in volts `[n, channels, time]`, `info["sfreq"]` and
            `events` `[n, 3]`, for each subject.
        sampling_rate: Hz that the classifier expects.
        event_id: event codes by name; labels are in its order, and epochs with other codes are left out. None: all
            codes that occur, in ascending order.

    Raises:
        ValueError: no epochs, another sampling rate, subjects whose channels or lengths differ, another number of
            events than of epochs, an event_id without codes, with one code twice or with one that no epoch has, or a
            NaN or an infinity in an epoch that is taken.
    """
    if not epochs:
        raise ValueError("epochs must hold at least one subject's, got none.")
    for each in epochs:
        rate = float(each.info["sfreq"])
        if not abs(rate - sampling_rate) <= 1e-6 * sampling_rate:
            raise ValueError(
                f"epochs must be sampled at {sampling_rate:g} Hz, got {rate:g} Hz; epochs.resample({sampling_rate:g}) "
                f"brings them there."
            )
    arrays = [np.asarray(each.get_data(), np.float64) for each in epochs]
    if len({array.shape[1:] for array in arrays}) > 1:
        shapes = sorted({array.shape[1:] for array in arrays})
        raise ValueError(f"epochs must have the same channels and samples for every subject, got {shapes}.")
    events = [np.asarray(each.events) for each in epochs]
    for number, (array, rows) in enumerate(zip(arrays, events, strict=True)):
        if rows.shape != (len(array), 3):
            raise ValueError(
                f"epochs: events must have shape [n, 3] with n = {len(array)} epochs of subject {number}, got shape "
                f"{list(rows.shape)}."
            )
    codes = np.concatenate(events)[:, 2].tolist()
    known = sorted(set(codes)) if event_id is None else _known_codes(event_id, codes)
    label = np.array([known.index(code) if code in known else -1 for code in codes], np.int32)
    subject = np.repeat(np.arange(len(arrays), dtype=np.int32), [len(array) for array in arrays])
    taken = label >= 0
    return Recording(_finite32(1e6 * np.concatenate(arrays)[taken]), label[taken], subject[taken])


def _known_codes(event_id: Mapping[str, int], codes: Sequence[int]) -> list[int]:
    known = list(event_id.values())
    if not known:
        raise ValueError("event_id must name at least one code, or be None for all that occur; got none.")
    twice = [name for name, code in event_id.items() if known.count(code) > 1]
    if twice:
        raise ValueError(
            f"event_id must have a code of its own for each name, got {dict(event_id)} with one for {twice}."
        )
    absent = {name: code for name, code in event_id.items() if code not in set(codes)}
    if absent:
        raise ValueError(f"event_id must hold codes that occur, {sorted(set(codes))}, got {absent}.")
    return known
