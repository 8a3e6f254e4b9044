"""Standardising by the training split."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from lemmata.train import data


def test_rows_are_scaled_like_scikit_learns():
    rng = np.random.default_rng(0)
    train, test = rng.normal(3, 5, (200, 4)), rng.normal(3, 5, (50, 4))
    found = data.standardize(train, test)
    scaler = StandardScaler().fit(train)
    for split, ours in zip((train, test), found, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, scaler.transform(split), rtol=1e-5, atol=1e-5)


def test_images_are_scaled_by_channel_and_numbers_of_any_kind_are_taken():
    images = np.random.default_rng(0).integers(0, 256, (30, 5, 6, 3), dtype=np.uint8)
    (found,) = data.standardize(images)
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1, 2)), 1, atol=1e-5)
    assert not np.allclose(found.std(0), 1, atol=1e-2)  # one pixel is not scaled by itself


@pytest.mark.parametrize(("name", "key"), [("digits", "image"), ("wine", "features")])
def test_the_bits_are_those_of_mean_and_deviation_in_float32(name, key):
    train, test = (data.load(name, split)[key] for split in ("train+validation", "test"))
    axes = tuple(range(train.ndim - 1))
    mean, deviation = train.mean(axes), train.std(axes)
    for split, found in zip((train, test), data.standardize(train, test), strict=True):
        np.testing.assert_array_equal(found, (split - mean) / deviation)


def test_what_is_constant_in_training_is_0_everywhere():
    train = np.stack([np.full(7, 0.1), np.arange(7.0)], 1)
    found = data.standardize(train, train + 1)
    assert np.all(found[0][:, 0] == 0)
    assert np.all(found[1][:, 0] == 0)
    np.testing.assert_allclose(found[1][:, 1], (np.arange(7) - 2) / 2, rtol=1e-6)
    (alone,) = data.standardize(np.full((1, 3), 2.0))
    np.testing.assert_array_equal(alone, np.zeros((1, 3)))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_squares_that_float32_cannot_hold_are_seen_to(size):
    rows = np.random.default_rng(0).normal(size=(100, 2)) * [size, 1]
    (found,) = data.standardize(rows)
    np.testing.assert_allclose(found, (rows - rows.mean(0)) / rows.std(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("splits", "named"),
    [
        ((np.zeros(3),), r"inputs must be \[n, d\] or \[n, h, w, c\].*got \[3\]"),
        ((np.zeros((3, 2)), np.zeros((3, 4))), r"alike but for n in all splits, got \[3, 2\], \[3, 4\]"),
        ((np.zeros((0, 2)),), "train must have at least one example"),
        ((np.array([["a"]]),), "inputs must be numbers, got <U1"),
    ],
)
def test_what_cannot_be_scaled_is_named(splits, named):
    with pytest.raises(ValueError, match=named):
        data.standardize(*splits)
