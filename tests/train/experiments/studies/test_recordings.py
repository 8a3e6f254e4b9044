"""The simulation has the spectrum, the bursts and the subjects that it promises; MNE's epochs come in whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.train.experiments.studies.eeg import recordings as eeg

SMALL = dict(num_subjects=2, trials_per_subject=4, num_channels=3, num_samples=64, sampling_rate=64.0)
SMALL |= dict(burst_seconds=0.5)


def simulate(seed=0, **settings):
    return eeg.simulate_eeg(key=jax.random.key(seed), **SMALL | settings)


@pytest.mark.parametrize("samples", [64, 65])
def test_pink_noise_has_unit_variance_and_power_one_over_f(samples):
    x = np.asarray(eeg.pink_noise(key=jax.random.key(0), shape=(4000,), num_samples=samples), np.float64)
    np.testing.assert_allclose(x.std(0), 1.0, atol=0.06)
    np.testing.assert_allclose(x.mean(1), 0.0, atol=1e-5)
    power = np.square(np.abs(np.fft.rfft(x))).mean(0)
    frequency = np.arange(1, 31)
    np.testing.assert_allclose(power[1:31] * frequency / power[1], 1.0, atol=0.15)


def test_arrangement_is_balanced_and_subject_by_subject():
    x, label, subject = simulate()
    assert x.shape == (8, 3, 64)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(label, [0, 1] * 4)
    np.testing.assert_array_equal(subject, [0] * 4 + [1] * 4)


def test_classes_have_bursts_of_their_frequency_and_equal_power():
    x, label, _ = simulate(noise=0.0, frequencies=(8.0, 16.0), amplitudes=(1.0, 1.0), trials_per_subject=40)
    spectrum = np.abs(np.fft.rfft(np.asarray(x[:, 0])))  # 1 Hz a bin
    peak = spectrum.argmax(1)
    assert (np.abs(peak - np.where(label == 0, 8, 16)) <= 1).all()
    power = np.square(np.asarray(x[:, 0])).mean(1)
    np.testing.assert_allclose(power / power[0], 1.0, rtol=0.15)
    active = np.abs(np.asarray(x[:, 0])) > 1e-6
    assert (active.sum(1) <= 32).all()  # half a second of 64 Hz
    assert len({int(row.argmax()) for row in active}) > 5  # onsets differ
    silent = simulate(noise=0.0, amplitudes=(0.0, 1.0))
    assert not silent.x[silent.label == 0].any()


def test_spread_is_what_subjects_do_not_share():
    """Without noise an epoch is one column of the mixing times a burst: its direction is the subject's."""

    def directions(spread):
        x = np.asarray(simulate(noise=0.0, subject_spread=spread).x)
        columns = x[np.arange(8), :, np.abs(x).sum(1).argmax(1)]
        return columns / columns[:, :1]

    same, other = directions(0.0), directions(1.0)
    np.testing.assert_allclose(same, same[:1].repeat(8, 0), rtol=1e-3)
    np.testing.assert_allclose(other[:4], other[:1].repeat(4, 0), rtol=1e-3)
    assert not np.allclose(other[0], other[4], rtol=0.1)


def test_sensor_noise_is_white():
    x = np.asarray(simulate(noise=0.0, amplitudes=(0.0, 0.0), sensor_noise=2.0, trials_per_subject=100).x)
    np.testing.assert_allclose(x.std(), 2.0, rtol=0.03)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (dict(num_subjects=0), "num_subjects"),
        (dict(amplitudes=(1.0,)), "amplitudes"),
        (dict(frequencies=(1.0,), amplitudes=(1.0,)), "amplitudes"),
        (dict(frequencies=(10.0, 40.0)), "frequencies"),
        (dict(trials_per_subject=3), "trials_per_subject"),
        (dict(burst_seconds=2.0), "burst_seconds"),
        (dict(noise=-1.0), "noise"),
        (dict(sensor_noise=-1.0), "sensor_noise"),
        (dict(subject_spread=1.5), "subject_spread"),
    ],
)
def test_wrong_simulation_names_the_argument(bad, named):
    with pytest.raises(ValueError, match=named):
        simulate(**bad)


# --- epochs


class Epochs:
    """What is read of MNE's."""

    def __init__(self, codes, rate=128.0, channels=3, samples=16, seed=0):
        self.info = {"sfreq": rate}
        self.events = np.stack([np.arange(len(codes)) * samples, np.zeros(len(codes), int), codes], axis=1)
        self._data = 1e-6 * np.random.default_rng(seed).normal(size=(len(codes), channels, samples))

    def get_data(self):
        return self._data


def test_epochs_become_microvolts_with_labels_and_subjects():
    first, second = Epochs([3, 7, 3]), Epochs([7, 3], seed=1)
    x, label, subject = eeg.from_epochs([first, second], sampling_rate=128)
    np.testing.assert_allclose(x, 1e6 * np.concatenate([first.get_data(), second.get_data()]), rtol=1e-6)
    np.testing.assert_array_equal(label, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(subject, [0, 0, 0, 1, 1])
    assert (x.dtype, label.dtype, subject.dtype) == (np.float32, np.int32, np.int32)
    chosen = eeg.from_epochs([first, second], sampling_rate=128, event_id={"speech": 7})
    np.testing.assert_array_equal(chosen.label, [0, 0])
    np.testing.assert_array_equal(chosen.subject, [0, 1])


@pytest.mark.parametrize(
    ("event_id", "message"),
    [
        ({}, "event_id must name at least one code"),
        ({"speech": 3, "idle": 3}, r"event_id must have a code of its own for each name, .* \['speech', 'idle'\]"),
        ({"speech": 3, "idle": 5}, r"event_id must hold codes that occur, \[3, 7\], got \{'idle': 5\}"),
    ],
)
def test_wrong_codes_are_named(event_id, message):
    with pytest.raises(ValueError, match=message):
        eeg.from_epochs([Epochs([3, 7, 3])], sampling_rate=128, event_id=event_id)


def test_hole_in_an_epoch_that_is_taken_is_named():
    epochs = Epochs([3, 7, 3])
    epochs.get_data()[1, 2, 5] = np.nan
    with pytest.raises(ValueError, match="got nan in trial 1, channel 2, sample 5; 1 of 3 trials"):
        eeg.from_epochs([epochs], sampling_rate=128)
    assert np.isfinite(eeg.from_epochs([epochs], sampling_rate=128, event_id={"speech": 3}).x).all()
    epochs.events = epochs.events[:2]
    with pytest.raises(
        ValueError, match=r"events must have shape \[n, 3\] with n = 3 epochs of subject 0, got .* \[2, 3\]"
    ):
        eeg.from_epochs([epochs], sampling_rate=128)


def test_another_sampling_rate_is_refused_and_says_what_helps():
    with pytest.raises(ValueError, match=r"sampled at 128 Hz, got 256 Hz; epochs.resample\(128\)"):
        eeg.from_epochs([Epochs([1, 2]), Epochs([1, 2], rate=256.0)], sampling_rate=128.0)


def test_subjects_must_have_the_same_channels():
    with pytest.raises(ValueError, match="same channels and samples"):
        eeg.from_epochs([Epochs([1]), Epochs([1], channels=4)], sampling_rate=128.0)
    with pytest.raises(ValueError, match="at least one subject"):
        eeg.from_epochs([], sampling_rate=128.0)


def test_mnes_own_epochs_are_read():
    mne = pytest.importorskip("mne")
    data = 1e-6 * np.random.default_rng(0).normal(size=(4, 2, 32))
    info = mne.create_info(["C3", "C4"], sfreq=64.0, ch_types="eeg")
    events = np.stack([np.arange(4), np.zeros(4, int), [1, 2, 1, 2]], axis=1)
    epochs = mne.EpochsArray(data, info, events, verbose=False)
    x, label, _ = eeg.from_epochs([epochs], sampling_rate=64.0)
    np.testing.assert_allclose(x, 1e6 * data, rtol=1e-5)
    np.testing.assert_array_equal(label, [0, 1, 0, 1])
    with pytest.raises(ValueError, match="got 64 Hz"):
        eeg.from_epochs([epochs], sampling_rate=128.0)


# --- what a user hands in

OWN = dict(x=np.zeros((4, 3, 8)), label=np.array([0, 1, 0, 1]), subject=np.array([5, 5, 7, 7]))


def own(**changes):
    return eeg.Recording(**OWN | changes)


def with_entry(value, dtype=np.float64):
    x = np.zeros((4, 3, 8), dtype)
    x[2, 1, 6] = x[3, 0, 0] = value
    return x


@pytest.mark.parametrize(
    "x", [OWN["x"], OWN["x"].astype(np.int16), jnp.zeros((4, 3, 8), jnp.bfloat16), OWN["x"].tolist()]
)
def test_good_recording_becomes_float32_with_its_labels(x, caplog):
    got = eeg.check_recording(own(x=x))
    assert (got.x.dtype, got.label.dtype, got.x.shape) == (np.float32, np.int32, (4, 3, 8))
    np.testing.assert_array_equal(got.label, OWN["label"])
    np.testing.assert_array_equal(got.subject, OWN["subject"])
    assert not caplog.records


@pytest.mark.parametrize("values", [(1, 2), (-1, 1), (0, 5), (769, 770)])
def test_other_labels_are_numbered_with_a_note(values, caplog):
    got = eeg.check_recording(own(label=np.array(values)[[1, 0, 1, 0]]))
    np.testing.assert_array_equal(got.label, [1, 0, 1, 0])
    assert [record.getMessage() for record in caplog.records] == [
        f"labels {values[0]}, {values[1]} are taken as classes 0 to 1"
    ]


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (tuple(OWN.values()), "a recording must have x, label and subject, got tuple without"),
        (None, "a recording must have x, label and subject, got NoneType without"),
        (own(x=np.zeros((4, 8))), r"x must have shape \[n, channels, time\], got shape \[4, 8\]"),
        (own(x=[[[1.0], [2.0, 3.0]]] * 4), "x must be an array, with one shape for all trials"),
        (own(x=np.zeros((4, 3, 0))), "x must hold at least one trial, channel and sample"),
        (eeg.Recording(np.zeros((0, 3, 8)), np.zeros(0, int), np.zeros(0, int)), "x must hold at least one trial"),
        (own(x=np.zeros((4, 3, 8), complex)), "x must be real numbers, got complex128"),
        (own(x=np.full((4, 3, 8), "1")), "x must be real numbers, got <U1"),
        (own(label=OWN["label"][:3]), r"label must have shape \[n\] with n = 4 as in x, got shape \[3\]"),
        (own(label=np.eye(2)[OWN["label"]]), r"label must have shape \[n\]"),
        (own(label=np.array([0.0, 1.0, 0.0, 1.0])), "label must be integers, got float64"),
        (own(label=np.array(["a", "b"] * 2)), "label must be integers, got <U1; np.unique"),
        (own(label=np.full(4, 3)), "label must hold at least two classes, got 3 in every trial"),
        (own(subject=np.array([0, 1])), r"subject must have shape \[n\] with n = 4 as in x, got shape \[2\]"),
        (own(subject=None), "subject must have shape"),
        (own(subject=np.array(["s1", "s2"] * 2)), "subject must be integers, got <U2"),
        (own(x=with_entry(np.nan)), "got nan in trial 2, channel 1, sample 6; 2 of 4 trials hold such values"),
        (own(x=with_entry(-np.inf, np.float32)), "got -inf in trial 2, channel 1, sample 6"),
        (own(x=with_entry(1e300)), r"got 1e\+300 in trial 2, channel 1, sample 6"),
    ],
)
def test_bad_recording_is_named_at_the_door(recording, message):
    with pytest.raises(ValueError, match=message):
        eeg.check_recording(recording)
