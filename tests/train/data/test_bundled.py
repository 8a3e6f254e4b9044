"""The bundled sets: sizes, dtypes, splits that never change and never overlap."""

import hashlib
import pathlib

import numpy as np
import pytest

from lemmata.train import data
from lemmata.train.data import bundled, store

SIZES = {
    "digits": (1438, 359),
    "breast_cancer": (456, 113),
    "wine": (142, 36),
    "iris": (120, 30),
    "diabetes": (354, 88),
}
CLASSES = {"digits": 10, "breast_cancer": 2, "wine": 3, "iris": 3, "diabetes": None}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_dtypes_are_the_documented_ones(name):
    info = data.info(name)
    assert info.splits == dict(zip(("train", "test"), SIZES[name], strict=True))
    assert info.num_classes == CLASSES[name]
    for split, size in info.splits.items():
        columns = data.load(name, split)
        assert set(columns) == set(info.features)
        for key, values in columns.items():
            shape, dtype = info.features[key]
            assert values.shape == (size, *shape)
            assert values.dtype == dtype
    assert info.features["target" if name == "diabetes" else "label"][1] == ("f4" if name == "diabetes" else "i4")


@pytest.mark.parametrize("name", bundled.TABLES)
def test_splits_partition_scikit_learns_rows(name):
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    splits = [data.load(name, split) for split in ("train", "test")]
    key, label = ("image" if name == "digits" else "features"), ("target" if name == "diabetes" else "label")
    rows = np.concatenate([split[key].reshape(len(split[key]), -1) for split in splits])
    targets = np.concatenate([split[label] for split in splits])
    theirs = np.concatenate([bunch.data, bunch.target[:, None]], 1)
    ours = np.concatenate([rows, targets[:, None]], 1)
    # Undo the affine map of each column, which the set's own extremes give.
    low, high = theirs.min(0), theirs.max(0)
    scale = np.where(high > low, high - low, 1)
    span = np.where(high > low, ours.max(0) - ours.min(0), 1)
    theirs, ours = (theirs - low) / scale, (ours - ours.min(0)) / span
    order = [np.lexsort(np.round(x, 4).T) for x in (theirs, ours)]
    np.testing.assert_allclose(ours[order[1]], theirs[order[0]], atol=1e-4)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "iris", "diabetes"])
def test_training_features_have_mean_0_and_deviation_1(name):
    for key, values in data.load(name, "train").items():
        if key != "label":
            np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
            np.testing.assert_allclose(values.std(0), 1, atol=1e-5)


def test_digits_are_ink_in_sixteenths():
    image = data.load("digits", "test")["image"]
    np.testing.assert_array_equal(image * 16, np.round(image * 16))
    assert (image.min(), image.max()) == (0, 1)


@pytest.mark.parametrize("name", [name for name, classes in CLASSES.items() if classes])
def test_each_class_gives_a_fifth_to_the_test_split(name):
    train, test = (np.bincount(data.load(name, split)["label"]) for split in ("train", "test"))
    np.testing.assert_array_equal(test, np.round((train + test) / 5))


def test_class_names_are_scikit_learns():
    from sklearn import datasets

    for name in ("digits", "breast_cancer", "wine", "iris"):
        assert bundled.class_names(name) == [str(x) for x in getattr(datasets, f"load_{name}")().target_names]


def test_held_out_rows_do_not_depend_on_their_order():
    rng = np.random.default_rng(0)
    rows, strata = rng.normal(size=(200, 3)), rng.integers(0, 4, 200)
    order = rng.permutation(200)
    np.testing.assert_array_equal(bundled.held_out(rows, strata)[order], bundled.held_out(rows[order], strata[order]))


def test_digits_split_is_the_one_of_version_1():
    """A change here is a change of the data: raise `bundled.VERSION`."""
    test = data.load("digits", "test")
    digest = hashlib.sha256((test["image"] * 16).astype(np.uint8).tobytes() + test["label"].astype(np.uint8).tobytes())
    assert digest.hexdigest()[:16] == "d57a8b6d9dabeac4"


@pytest.mark.parametrize("name", bundled.DOCUMENTS)
def test_documents_are_split_by_document_at_a_fifth_of_the_bytes(name):
    texts = {split: data.documents(name, split) for split in ("train", "test")}
    assert all(text.dtype == np.uint8 and text.ndim == 1 and text.size for split in texts.values() for text in split)
    assert {split: len(found) for split, found in texts.items()} == data.info(name).splits
    whole = {split: {text.tobytes() for text in found} for split, found in texts.items()}
    assert whole["train"].isdisjoint(whole["test"])
    assert not any(0 in text for found in whole.values() for text in found)
    train, test = (sum(map(len, whole[split])) for split in ("train", "test"))
    assert 0.18 < test / (train + test) <= 0.2


def test_topics_do_not_repeat_each_others_paragraphs_across_the_split():
    paragraphs = [
        {
            " ".join(part.split())
            for text in data.documents("python_docs", split)
            for part in text.tobytes().decode().split("\n\n")
            if len(part) > 80
        }
        for split in ("train", "test")
    ]
    assert paragraphs[0].isdisjoint(paragraphs[1])


def test_source_leaves_out_third_parties_tests_and_copies():
    source = store.source("python_source", "train")
    names = {source[i]["name"].decode() for i in range(len(source))}
    other = store.source("python_source", "test")
    others = {other[i]["name"].decode() for i in range(len(other))}
    assert names.isdisjoint(others)
    parts = {part for name in names | others for part in pathlib.PurePosixPath(name).parts}
    assert parts.isdisjoint({"site-packages", "test", "tests", "encodings", "pydoc_data"})
    assert {"argparse.py", "json/decoder.py"} <= names | others


def test_documents_are_sorted_by_name():
    source = store.source("python_docs", "train")
    names = [source[i]["name"] for i in range(len(source))]
    assert names == sorted(names)
