"""The bundled sets: sizes, dtypes, splits that never change and never overlap."""

import hashlib
import pathlib
import sysconfig

import numpy as np
import pytest

from lemmata.train import data
from lemmata.train.data import bundled

SIZES = {
    "digits": (1294, 144, 359),
    "breast_cancer": (410, 46, 113),
    "wine": (128, 14, 36),
    "iris": (108, 12, 30),
    "diabetes": (319, 35, 88),
}
STORED = ("train+validation", "test")
CLASSES = {"digits": 10, "breast_cancer": 2, "wine": 3, "iris": 3, "diabetes": None}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_dtypes_are_the_documented_ones(name):
    info = data.info(name)
    assert info.splits == dict(zip(("train", "validation", "test"), SIZES[name], strict=True))
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
    splits = [data.load(name, split) for split in STORED]
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
    for key, values in data.load(name, "train+validation").items():
        if key != "label":
            np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
            np.testing.assert_allclose(values.std(0), 1, atol=1e-5)


def test_digits_are_ink_in_sixteenths():
    image = data.load("digits", "test")["image"]
    np.testing.assert_array_equal(image * 16, np.round(image * 16))
    assert (image.min(), image.max()) == (0, 1)


@pytest.mark.parametrize("name", [name for name, classes in CLASSES.items() if classes])
def test_each_class_gives_a_fifth_to_the_test_split(name):
    train, test = (np.bincount(data.load(name, split)["label"]) for split in STORED)
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
    texts = {split: data.documents(name, split) for split in ("train", "validation", "test")}
    assert all(text.dtype == np.uint8 and text.ndim == 1 and text.size for split in texts.values() for text in split)
    assert {split: len(found) for split, found in texts.items()} == data.info(name).splits
    whole = {split: {text.tobytes() for text in found} for split, found in texts.items()}
    assert sum(map(len, whole.values())) == len(set.union(*whole.values()))
    assert not any(0 in text for found in whole.values() for text in found)
    train, validation, test = (sum(map(len, found)) for found in whole.values())
    assert 0.18 < test / (train + validation + test) <= 0.2
    assert 0.09 < validation / (train + validation) <= 0.1


def test_topics_do_not_repeat_each_others_paragraphs_across_the_split():
    paragraphs = [
        {
            " ".join(part.split())
            for text in data.documents("python_docs", split)
            for part in text.tobytes().decode().split("\n\n")
            if len(part) > 80
        }
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, paragraphs)) == len(set.union(*paragraphs))


def names_of(name, split):
    return [document.decode() for document in data.load(name, split)["name"]]


def test_source_leaves_out_third_parties_tests_and_copies():
    names, others = (set(names_of("python_source", split)) for split in STORED)
    assert names.isdisjoint(others)
    parts = {part for name in names | others for part in pathlib.PurePosixPath(name).parts}
    assert parts.isdisjoint({"site-packages", "test", "tests", "encodings", "pydoc_data"})
    assert {"argparse.py", "json/decoder.py"} <= names | others


def test_documents_are_sorted_by_name():
    names = names_of("python_docs", "train+validation")
    assert names == sorted(names)


# ------------------------------------------------------------------------------------------- text by module


@pytest.fixture(scope="module")
def modules():
    return {split: data.load("python_modules", split) for split in ("train", "validation", "test")}


def lines_of(chunk):
    return {line.strip() for line in chunk.split(b"\n") if len(line.strip()) > 3}


def test_modules_are_classes_with_examples_of_each(modules):
    info = data.info("python_modules")
    assert info.splits == {split: len(columns["label"]) for split, columns in modules.items()}
    assert info.class_names is not None
    assert info.num_classes == len(info.class_names) > 100
    assert list(info.class_names) == sorted(info.class_names)
    assert {"argparse", "asyncio.events", "collections", "inspect"} <= set(info.class_names)
    for split in ("train", "test"):
        data.check({"label": modules[split]["label"]}, num_classes=info.num_classes, every_class=True)
    stored = np.bincount(np.concatenate([modules["train"]["label"], modules["validation"]["label"]]))
    test = np.bincount(modules["test"]["label"])
    np.testing.assert_array_equal(test, np.round((stored + test) / 5))
    assert (stored + test).min() >= 25  # 30 but for copies


def test_a_chunk_is_twelve_lines_of_its_module(modules):
    names, library = data.info("python_modules").class_names, pathlib.Path(sysconfig.get_path("stdlib"))
    for row in range(0, len(modules["test"]["label"]), 97):
        lines = modules["test"]["text"][row].split(b"\n")
        assert len(lines) == 12
        assert all(line.strip() and line == line.rstrip() for line in lines)
        stem = library.joinpath(*names[modules["test"]["label"][row]].split("."))
        path = next(path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.exists())
        whole = [line.rstrip() for line in path.read_bytes().split(b"\n") if line.strip()]
        assert any(whole[start : start + 12] == lines for start in range(0, len(whole), 12))


def test_no_chunk_of_one_split_has_a_near_copy_in_another(modules):
    with_line = {}
    for split, columns in modules.items():
        for chunk in columns["text"]:
            for line in lines_of(chunk):
                with_line.setdefault(line, []).append((split, chunk))
    for chunk in modules["test"]["text"][::7]:
        shared = {}
        for line in lines_of(chunk):
            for split, other in with_line[line]:
                if split != "test":
                    shared[other] = shared.get(other, 0) + 1
        assert max(shared.values(), default=0) < 8


def test_chunks_are_documents_too(modules):
    documents = data.documents("python_modules", "validation[:20]")
    assert [document.tobytes() for document in documents] == list(modules["validation"]["text"][:20])
