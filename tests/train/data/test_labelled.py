"""Labelled examples as a config's `data` section names them."""

import numpy as np
import pytest

from lemmata.train import data
from lemmata.train.data import labelled


def settings(**changes):
    found = labelled.defaults()
    found.update(changes)
    return found


@pytest.mark.parametrize(("train", "eval_split"), [("train+validation", "test"), ("train", "validation")])
def test_splits_are_those_of_the_set_scaled_by_what_is_trained_on(train, eval_split):
    found = labelled.load(settings(name="wine", train=train), eval_split=eval_split)
    splits = [data.load("wine", split) for split in (train, "validation", "test")]
    scaled = data.standardize(*(split["features"] for split in splits))
    assert (found.validation is None) == (eval_split == "test")
    for columns, split, inputs in zip((found.train, found.validation, found.test), splits, scaled, strict=True):
        if columns is not None:
            np.testing.assert_array_equal(columns["inputs"], inputs)
            np.testing.assert_array_equal(columns["label"], split["label"])
            np.testing.assert_array_equal(columns["index"], np.arange(len(inputs)))
    assert (found.num_classes, found.shape) == (3, (13,))


def test_held_out_rows_are_not_trained_on():
    with pytest.raises(ValueError, match=r"data.train = 'train\+validation' holds the rows"):
        labelled.load(settings(), eval_split="validation")


def test_options_and_a_scale_reach_the_set():
    found = labelled.load(settings(name="placed_digits", options={"canvas": 10, "noise": 0.1}, scale="none"))
    np.testing.assert_array_equal(
        found.test["inputs"], data.load("placed_digits", "test", canvas=10, noise=0.1)["image"]
    )
    assert found.shape == (10, 10, 1)


def test_a_file_is_a_set_like_any_other(tmp_path):
    rng = np.random.default_rng(0)
    label = np.arange(300) % 3
    np.savez(tmp_path / "mine.npz", x=rng.normal(size=(300, 4)) + label[:, None], y=np.array(["a", "b", "c"])[label])
    columns = {"inputs": "x", "label": "y"}
    found = labelled.load(settings(name=str(tmp_path / "mine.npz"), columns=columns))
    assert sum(len(split["label"]) for split in (found.train, found.test)) == 300
    np.testing.assert_allclose(found.train["inputs"].mean(0), 0, atol=1e-5)
    assert (found.num_classes, found.shape) == (3, (4,))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scale": "minmax"}, "data.scale must be one of"),
        ({"name": "diabetes"}, "data.name must be a set with a class label"),
        ({"name": "python_modules"}, "data.name must be a set with a class label"),
        ({"options": {"canvas": 9}}, "data set 'digits' has no options"),
        ({"test": "tests"}, "split 'tests' is none of digits's: train, validation, test"),
    ],
)
def test_what_is_no_such_section_is_named(changes, named):
    with pytest.raises(ValueError, match=named):
        labelled.load(settings(**changes))


def test_what_is_trained_on_is_not_validated_on():
    with pytest.raises(ValueError, match=r'data\.train = .* make data\.train "train"'):
        labelled.load(settings(name="iris"), eval_split="validation")
    found = labelled.load(settings(name="iris", train="train"), eval_split="validation")
    assert [len(split["label"]) for split in (found.train, found.validation, found.test)] == [108, 12, 30]
