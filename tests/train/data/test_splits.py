"""Splits by name: where a validation split comes from, what unions and slices are, and what is kept on disk."""

import hashlib
import io
import sys

import numpy as np
import pytest

from lemmata.train import data
from lemmata.train.data import bundled, sets, splits, store
from lemmata.train.data.splits import Side

STORED_TABLES = tuple(bundled.TABLES)


# -------------------------------------------------------------------------------------------------------- the hash


def test_the_number_of_a_row_is_the_same_everywhere():
    """A change here moves rows from one side to the other, in every set: it is a change of all data."""
    image = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
    parts = [(2).to_bytes(8, "little")]  # a dict of one key: its name and its value
    for part in (b"image", image.astype("<f4").tobytes()):
        parts.append(len(part).to_bytes(8, "little") + part)
    expected = int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "big") / 2**64
    assert splits.fraction({"image": image, "label": 3}) == expected
    assert splits.fraction({"text": b"abc"}) == 0.6151042378776471
    assert splits.fraction({"b": np.int32(1), "a": [b"x", b"yz"], "label": 0}) == 0.3015373441396471


@pytest.mark.parametrize(
    "other",
    [
        {"label": 1, "image": np.ones((2, 2), np.float32)},
        {"image": np.ones((2, 2), ">f4"), "label": 0},
        {"image": np.ones((2, 2), np.float32), "id": b"7"},
        {"image": np.ones((2, 4), np.float32)[:, ::2]},
    ],
)
def test_rows_with_equal_inputs_have_one_number(other):
    assert splits.fraction(other) == splits.fraction({"image": np.ones((2, 2), np.float32), "label": 0})


def test_rows_that_differ_have_different_numbers():
    rows = [
        {"a": b"x", "b": b"yz"},
        {"a": b"xy", "b": b"z"},
        {"a": [b"x", b"y"], "b": b"z"},
        {"a": [b"xy"], "b": b"z"},
        {"a": {"b": b"xy"}},
        {"a": np.arange(3), "b": b"z"},
        {"a": np.arange(3, dtype=np.int32), "b": b"z"},
        {"a": np.array([b"x", b"y"], object), "b": b"yz"},
    ]
    assert len({splits.fraction(row) for row in rows}) == len(rows)
    numbers = [splits.fraction({"features": np.float32([i])}) for i in range(4000)]
    np.testing.assert_allclose(np.histogram(numbers, 8, (0, 1))[0] / 500, 1, atol=0.15)


def test_the_lowest_tenth_keeps_equal_rows_together():
    numbers = np.array([0.9, 0.1, 0.5, 0.1, 0.7, 0.3, 0.6, 0.8, 0.4, 0.2])
    np.testing.assert_array_equal(splits.lowest(numbers, 0.1), [1, 3])
    np.testing.assert_array_equal(splits.lowest(numbers, 0.3), [1, 3, 9])
    assert len(splits.lowest(numbers[:4], 0.1)) == 0
    np.testing.assert_array_equal(splits.below(numbers, 0.3), [1, 3, 9])


def test_a_budget_is_filled_in_the_order_of_the_numbers():
    rows = splits.within_budget([0.3, 0.1, 0.2, 0.4], [10, 95, 60, 35], 0.5)  # 100 of 200: 95 fits, 60 and 10 do not
    np.testing.assert_array_equal(rows, [1])
    np.testing.assert_array_equal(splits.within_budget([0.3, 0.1, 0.2, 0.4], [10, 101, 60, 30], 0.5), [0, 2, 3])


# ------------------------------------------------------------------------------------------------------- expressions

SIDES = {
    "train": Side("train", np.array([0, 2, 3, 5])),
    "validation": Side("train", np.array([1, 4])),
    "test": Side("test", range(3)),
}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [("train", [0, 2, 3, 5])]),
        ("validation", [("train", [1, 4])]),
        ("train+validation", [("train", [0, 1, 2, 3, 4, 5])]),
        ("validation + train", [("train", [0, 1, 2, 3, 4, 5])]),
        ("train[:2]", [("train", [0, 2])]),
        ("train[-25%:]", [("train", [5])]),
        ("train[1:3]+validation[1:]", [("train", [2, 3]), ("train", [4])]),
        ("test+train", [("test", [0, 1, 2]), ("train", [0, 2, 3, 5])]),
        ("test[:0]+validation", [("train", [1, 4])]),
        ("test[1shard:]", [("test", [2])]),
        ("all", [("train", [0, 2, 3, 5]), ("train", [1, 4]), ("test", [0, 1, 2])]),
    ],
)
def test_expressions_are_read_as_tfds_reads_them(split, expected):
    found = splits.resolve("mine", split, SIDES, {"train": [6], "test": [2, 1]})
    assert [(side.stored, list(side.rows)) for side in found] == expected


def test_a_union_of_splits_that_are_stored_apart_is_one_after_the_other():
    sides = {"train": Side("train", range(2)), "validation": Side("validation", range(3))}
    found = splits.resolve("mine", "validation+train", sides)
    assert [(side.stored, len(side.rows)) for side in found] == [("validation", 3), ("train", 2)]


@pytest.mark.parametrize("split", ["train[:1shard]", "dev", "train[:7]", "", "train[", "all[:2]", 3, None])
def test_what_is_no_expression_is_named_with_the_splits(split):
    with pytest.raises(ValueError, match=r"none of mine's: train, validation, test; .*train has 4, validation has 2"):
        splits.resolve("mine", split, SIDES, {"train": [6]})


# --------------------------------------------------------------------------------------------------- of the data sets


@pytest.mark.parametrize("name", STORED_TABLES)
def test_train_and_validation_part_the_stored_rows(name):
    key = "image" if name == "digits" else "features"
    train, validation, both = (data.load(name, split)[key] for split in ("train", "validation", "train+validation"))
    assert len(train) + len(validation) == len(both)
    assert len(validation) == round(len(both) / 10)
    numbers = np.array([splits.fraction({key: row}) for row in both])
    chosen = numbers <= np.sort(numbers)[len(validation) - 1]
    np.testing.assert_array_equal(both[chosen], validation)
    np.testing.assert_array_equal(both[~chosen], train)


def test_validation_rows_of_digits_are_those_of_version_1():
    """A change here is a change of the data."""
    validation = data.load("digits", "validation")
    ink = (validation["image"] * 16).astype(np.uint8)
    digest = hashlib.sha256(ink.tobytes() + validation["label"].astype(np.uint8).tobytes())
    assert digest.hexdigest()[:16] == "aa550d298f96c797"


def test_every_class_has_training_rows():
    for name in STORED_TABLES:
        info = data.info(name)
        if info.num_classes is not None:
            label = data.load(name, "train")["label"]
            data.check({"label": label}, num_classes=info.num_classes, every_class=True)


def test_slices_and_unions_of_a_set():
    whole = {split: data.load("iris", split)["features"] for split in ("train", "validation", "test")}
    for split, expected in {
        "train[:10]": whole["train"][:10],
        "validation[50%:]": whole["validation"][6:],
        "test[1:3]+train[-2:]": np.concatenate([whole["test"][1:3], whole["train"][-2:]]),
    }.items():
        np.testing.assert_array_equal(data.load("iris", split)["features"], expected)
    source = sets.open_set("iris").source("test[1:3]+train[-2:]")
    assert len(source) == 4
    np.testing.assert_array_equal([example["features"] for example in source][2], whole["train"][-2])


def test_a_stream_of_the_validation_split():
    validation = data.load("wine", "validation")
    stream = data.stream("wine", "validation", batch_size=14, seed=0)
    batch = next(stream)
    assert stream.size == 14
    order = [np.lexsort(rows["features"].T) for rows in (validation, batch)]
    for key in validation:
        np.testing.assert_array_equal(batch[key][order[1]], validation[key][order[0]])


# ----------------------------------------------------------------------------------------------------- what is kept


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """A data folder of its own."""
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    monkeypatch.setattr(store, "_KEPT", {})
    return tmp_path


def refuse(*_):
    raise AssertionError("took a pass over the data")


def test_rows_for_validation_are_found_once_and_kept(empty_folder, monkeypatch):
    before = data.load("iris", "validation")
    (index,) = (empty_folder / "indices").iterdir()
    assert index.name.startswith("lemmata-iris-1.0.0-")
    monkeypatch.setattr(splits, "fraction", refuse)
    store._KEPT.clear()  # as in another process
    np.testing.assert_array_equal(data.load("iris", "validation")["features"], before["features"])


def test_what_needs_no_rows_for_validation_looks_for_none(empty_folder, monkeypatch):
    monkeypatch.setattr(splits, "fraction", refuse)
    assert len(data.load("iris", "test")["label"]) == 30
    assert len(data.load("iris", "train+validation")["label"]) == 120
    with pytest.raises(AssertionError, match="took a pass"):
        data.load("iris", "train")


def test_an_index_that_is_damaged_or_of_other_files_is_made_anew(empty_folder):
    before = data.load("iris", "validation")
    (index,) = (empty_folder / "indices").iterdir()
    index.write_bytes(index.read_bytes()[:100])
    store._KEPT.clear()
    np.testing.assert_array_equal(data.load("iris", "validation")["features"], before["features"])
    assert np.load(index)["rows"].shape == (12,)
    (store.root() / bundled.location("iris") / "another").write_text("as if it had been written anew")
    data.load("iris", "validation")
    assert len(list((empty_folder / "indices").iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_no_obstacle_and_a_broken_write_leaves_nothing(empty_folder, monkeypatch):
    store.prepare("iris")

    def break_down(file, **values):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(store.np, "savez", break_down)
    assert len(data.load("iris", "validation")["label"]) == 12
    assert list((empty_folder / "indices").iterdir()) == []
    monkeypatch.setattr(splits, "fraction", refuse)  # known to this process all the same
    assert len(data.load("iris", "validation")["label"]) == 12


# ------------------------------------------------------------------------------------------------- sets of TFDS's own


def jpeg(value):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "jpeg")
    return file.getvalue()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Sets that are not ours: one with a validation split, one of images without."""
    import tensorflow_datasets as tfds

    class Whole(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "whole_of_the_tests"
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"x": np.int64}), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            rows = {"test": [7], "validation": [5, 6], "train": [1, 2, 3], "extra": [9]}
            return {split: self._generate_examples(values) for split, values in rows.items()}

        def _generate_examples(self, values):
            for i in values:
                yield i, {"x": i}

    class Images(Whole, skip_registration=True):
        name = "images_of_the_tests"

        def _info(self):
            features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(range(40))}

        def _generate_examples(self, values):
            for i in values:  # each image twice, under two labels
                yield i, {"image": io.BytesIO(jpeg(6 * (i // 2))), "label": i % 2}

    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Whole, Images):
        with store._nothing_left_behind(), store._quiet():
            builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_a_validation_split_that_a_set_brings_is_left_alone(prepared, monkeypatch):
    monkeypatch.setenv("LEMMATA_DATA", str(prepared))
    monkeypatch.setattr(splits, "fraction", refuse)
    assert list(data.info("whole_of_the_tests").splits.items()) == [
        ("train", 3),
        ("validation", 2),
        ("test", 1),
        ("extra", 1),
    ]
    assert data.load("whole_of_the_tests", "train+validation")["x"].tolist() == [1, 2, 3, 5, 6]
    assert data.load("whole_of_the_tests", "validation[1:]+extra")["x"].tolist() == [6, 9]


def test_copies_of_an_image_fall_on_one_side_by_the_bytes_of_its_file(prepared, monkeypatch):
    monkeypatch.setenv("LEMMATA_DATA", str(prepared))
    train, validation = (data.load("images_of_the_tests", split) for split in ("train", "validation"))
    assert data.info("images_of_the_tests").splits == {"train": 36, "validation": 4}
    levels = [{int(image[0, 0, 0]) for image in columns["image"]} for columns in (train, validation)]
    assert levels[0].isdisjoint(levels[1])
    np.testing.assert_array_equal(np.bincount(validation["label"]), [2, 2])
    numbers = [splits.fraction({"image": jpeg(6 * i)}) for i in range(20)]
    lowest = np.argsort(numbers)[:2]
    assert levels[1] == {int(np.round(6 * i)) for i in lowest}


def test_names_of_splits_are_read_without_tfds(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.core", None)
    for split in ("train", "validation+train", "test+train"):
        assert splits.resolve("mine", split, SIDES)
