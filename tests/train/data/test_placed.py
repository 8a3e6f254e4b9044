"""Placed digits: the same originals in the same splits, whole, somewhere on the canvas."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from lemmata.train import data
from lemmata.train.data import placed

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def digits():
    return {split: data.load("digits", split) for split in SPLITS}


def places(image, ink):
    """The corners `[n, 2]` at which each canvas holds its digit and nothing else; the first where several do."""
    canvas, found = image.shape[1], []
    for x, digit in zip(image[..., 0], ink[..., 0], strict=True):
        for corner in np.ndindex(canvas - 7, canvas - 7):
            alone = np.zeros_like(x)
            alone[corner[0] : corner[0] + 8, corner[1] : corner[1] + 8] = digit
            if np.array_equal(alone, x):
                found.append(corner)
                break
        else:
            raise AssertionError("no place holds the digit")
    return np.array(found)


@pytest.mark.parametrize("split", SPLITS)
def test_each_original_of_a_split_is_whole_at_a_random_place(digits, split):
    columns = data.load("placed_digits", split)
    assert columns["image"].shape == (len(digits[split]["label"]), 12, 12, 1)
    assert columns["image"].dtype == np.float32
    np.testing.assert_array_equal(columns["label"], digits[split]["label"])
    found = places(columns["image"], digits[split]["image"])
    counts = np.histogram2d(*found.T, bins=(5, 5))[0]
    assert counts.min() > 0  # every place occurs, and none is favoured
    if split == "train":  # blank margins of a digit hide some shifts, so that the first place is the likelier one
        assert counts.max() < 3 * counts.mean()


def test_splits_are_fixed_by_the_seed_and_unions_are_in_the_order_of_digits(digits):
    again = {split: data.load("placed_digits", split) for split in SPLITS}
    other = data.load("placed_digits", "train", seed=1)
    np.testing.assert_array_equal(data.load("placed_digits", "train", seed=0)["image"], again["train"]["image"])
    assert not np.array_equal(other["image"], again["train"]["image"])
    both = data.load("placed_digits", "train+validation")
    np.testing.assert_array_equal(both["label"], data.load("digits", "train+validation")["label"])
    rows = {row.tobytes() for row in both["image"]}
    assert rows == {row.tobytes() for split in ("train", "validation") for row in again[split]["image"]}
    np.testing.assert_array_equal(
        data.load("placed_digits", "validation[2:5]")["image"], again["validation"]["image"][2:5]
    )


def test_info_and_streams_know_the_options():
    info = data.info("placed_digits", canvas=16, clutter=1)
    assert info.splits == data.info("digits").splits
    assert info.features == {"image": ((16, 16, 1), np.float32), "label": ((), np.int32)}
    assert (info.num_classes, info.class_names) == (10, tuple("0123456789"))
    assert "canvas=16" in info.description
    stream = data.stream("placed_digits", "train", batch_size=4, seed=0, options={"canvas": 20, "noise": 0.1})
    assert next(stream)["image"].shape == (4, 20, 20, 1)


def test_a_canvas_of_the_digits_size_holds_the_digits(digits):
    columns = data.load("placed_digits", "test", canvas=8)
    np.testing.assert_array_equal(columns["image"], digits["test"]["image"])


def test_clutter_lies_around_and_over_the_same_digits_at_the_same_places():
    plain, cluttered = (data.load("placed_digits", "train", canvas=16, clutter=count)["image"] for count in (0, 3))
    assert np.all(cluttered >= plain)
    changed = (cluttered > plain).sum((1, 2, 3))
    assert np.all(changed <= 3 * placed.FRAGMENT**2)
    assert 10 < changed.mean() < 40
    assert cluttered.max() <= 1


def test_clutter_is_made_of_digits_of_the_same_split():
    blank = {"image": np.zeros((50, 8, 8, 1), np.float32), "label": np.zeros(50, np.int32)}
    full = {"image": np.ones((50, 8, 8, 1), np.float32), "label": np.zeros(50, np.int32)}
    found = placed.placed_digits({"train": blank, "test": full}, clutter=5)
    assert found["train"]["image"].max() == 0
    assert found["test"]["image"].max() == 1


def test_noise_has_its_deviation_and_changes_nothing_else():
    plain, noisy = (data.load("placed_digits", "train", noise=noise)["image"] for noise in (0.0, 0.1))
    np.testing.assert_allclose((noisy - plain).std(), 0.1, rtol=0.01)
    np.testing.assert_allclose((noisy - plain).mean(), 0, atol=1e-3)


def test_a_factor_of_two_is_bilinear_interpolation_at_the_centres_of_pixels():
    from scipy import ndimage

    rng = np.random.default_rng(0)
    ink = {"image": rng.random((20, 8, 8, 1), np.float32), "label": np.zeros(20)}
    found = placed.placed_digits({"train": ink}, canvas=16, scale=(2, 2))["train"]["image"]
    centres = (np.arange(16) + 0.5) / 2 - 0.5
    for image, original in zip(found, ink["image"], strict=True):
        where = np.meshgrid(centres, centres, indexing="ij")
        expected = ndimage.map_coordinates(original[..., 0], where, order=1, mode="nearest")
        np.testing.assert_allclose(image[..., 0], expected, atol=1e-6)


def test_scaled_digits_differ_in_size_and_stay_on_the_canvas():
    full = {"image": np.ones((500, 8, 8, 1), np.float32), "label": np.zeros(500)}
    found = placed.placed_digits({"train": full}, canvas=16, scale=(0.5, 2.0))["train"]["image"][..., 0]
    sides = np.sqrt((found > 0).sum((1, 2)))
    assert 3.5 <= sides.min() < 5
    assert 15 < sides.max() <= 16
    heights, widths = ((found > 0).any(axis).sum(1) for axis in (2, 1))
    assert np.abs(heights - widths).max() <= 1  # a side of 4.5 pixels has 4 or 5 centres of pixels in it


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"canvas": 7}, "canvas must be an integer of at least 8, got 7"),
        ({"canvas": 12.0}, "canvas must be an integer"),
        ({"clutter": -1}, "clutter must be an integer of at least 0, got -1"),
        ({"scale": (1, 1.6)}, "scale must leave a digit on the canvas: 8 pixels by up to 1.6 are more than canvas 12"),
        ({"scale": (1.2, 0.8)}, "scale must be two positive factors, the smaller first"),
        ({"scale": (0, 1)}, "scale must be two positive factors"),
        ({"scale": 1.0}, "scale must be the smallest and the largest factor, got 1.0"),
        ({"scale": {"low": 1}}, "scale must be the smallest and the largest factor"),
        ({"noise": -0.1}, "noise must be a finite number of at least 0, got -0.1"),
        ({"noise": float("nan")}, "noise must be a finite number"),
        ({"noise": True}, "noise must be a finite number"),
        ({"seed": -1}, "seed must be an integer from 0"),
    ],
)
def test_an_option_outside_its_range_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        data.load("placed_digits", "train", **options)


def test_raw_pixels_tell_placed_digits_apart_as_badly_as_documented():
    def accuracy(**options):
        train, test = (data.load("placed_digits", split, **options) for split in ("train", "test"))
        flat = [columns["image"].reshape(len(columns["image"]), -1) for columns in (train, test)]
        return KNeighborsClassifier(5).fit(flat[0], train["label"]).score(flat[1], test["label"])

    assert abs(accuracy() - 0.78) < 0.02
    assert abs(accuracy(canvas=16) - 0.55) < 0.07
    assert abs(accuracy(clutter=2) - 0.39) < 0.05
