"""The public functions: what they return, and the errors that name what is wrong."""

import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.train import data
from lemmata.train.data import sets, store


def test_names_are_the_documented_ones():
    tables = ("digits", "breast_cancer", "wine", "iris", "diabetes", "placed_digits")
    assert data.names() == (*tables, "python_docs", "python_source", "python_modules")


@pytest.mark.parametrize("length", [1, 100, 128])
def test_windows_are_the_documents_joined_by_a_zero_byte(length):
    tokens = data.windows("python_docs", "test", length)["tokens"]
    joined = b"".join(text.tobytes() + b"\0" for text in data.documents("python_docs", "test"))
    assert tokens.dtype == np.uint8
    assert tokens.shape == (len(joined) // length, length)
    assert tokens.tobytes() == joined[: tokens.size]


def test_part_of_a_split():
    whole, part = data.load("iris", "train"), data.load("iris", "train[:10]")
    np.testing.assert_array_equal(part["features"], whole["features"][:10])


def test_info_of_text_and_its_description():
    info = data.info("python_docs")
    assert info.features["text"] == ((None,), np.uint8)
    assert info.num_classes is None
    assert "Split by document" in info.description


def test_unknown_name_suggests_the_nearest_and_lists_the_bundled():
    with pytest.raises(ValueError, match=r"breast_cancer.*python_source.*Did you mean 'digits'"):
        data.load("digit", "train")


@pytest.mark.parametrize("name", ["mnist", "mnist:3.0.1", "glue/cola"])
def test_an_unprepared_tfds_name_says_which_command_prepares_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"python -m lemmata.train.data {name}") as error:
        data.load(name, "train")
    assert str(tmp_path) in str(error.value)


def test_unknown_split_lists_the_splits():
    with pytest.raises(ValueError, match=r"'valid'.*train, validation, test"):
        data.load("digits", "valid")


def test_text_in_memory_is_bytes_and_streams_as_windows():
    columns = data.load("python_docs", "test")
    texts = data.documents("python_docs", "test")
    assert [text.tobytes() for text in texts] == list(columns["text"])
    assert columns["name"].dtype == object
    assert all(isinstance(name, bytes) for name in columns["name"])
    with pytest.raises(ValueError, match="window must be set"):
        data.stream("python_docs", "train", batch_size=2, seed=0)
    sizes = data.stream("python_docs", "test", batch_size=2, seed=0, transform=lambda x: {"size": len(x["text"])})
    assert set(next(sizes)["size"]) <= {len(text) for text in texts}
    with pytest.raises(ValueError, match="no feature 'text'"):
        data.documents("digits", "train")


@pytest.mark.parametrize("length", [0, -1, 10**9])
def test_a_window_length_out_of_range_is_named(length):
    with pytest.raises(ValueError, match=f"length.*{length}"):
        data.windows("python_docs", "test", length)


def test_check_passes_what_is_right():
    data.check({"x": np.ones((3, 2), np.float32), "label": np.array([0, 1, 2]), "name": np.array([b"a", b"b", b"c"])})
    data.check({"label": np.array([0, 1, 2])}, num_classes=3, every_class=True)
    data.check({"label": np.array([0, 5]), "inner": {"label": np.array([9, 9])}}, num_classes={"inner/label": 10})
    data.check({"name": np.array([b"a", "b"], object), "half": np.ones(2, jnp.bfloat16), "flag": np.ones(2, bool)})


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64, np.complex64])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "a NaN"), (np.inf, "an infinity"), (-np.inf, "an infinity")])
def test_check_names_the_feature_and_row_of_what_is_not_finite(value, word, dtype):
    x = np.zeros((5, 2), dtype)
    x[3, 1] = value
    with pytest.raises(ValueError, match=rf"'x' has {word} in row 3"):
        data.check({"fine": np.zeros(5), "x": x})
    with pytest.raises(ValueError, match=rf"'inner/x' has {word} in row 3"):
        data.check({"inner": {"x": x}})


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({}, "at least one array"),
        ({"inner": {}}, "at least one array"),
        ({"x": np.zeros(3), "inner": {"y": np.zeros((4, 2))}}, r"common first axis.*inner/y \[4, 2\], x \[3\]"),
        ({"x": np.zeros(3), "y": np.float32(1)}, r"common first axis.*y \[\]"),
        ({"x": np.zeros((0, 3))}, r"at least one example.*x \[0, 3\]"),
        ({"x": np.array([1, None])}, "'x' must hold numbers, or strings, got objects: NoneType, int"),
        ({"x": np.array(["2026-01-01"], "datetime64[D]")}, "'x' must hold numbers.*datetime64"),
    ],
)
def test_check_names_what_is_no_split(columns, named):
    with pytest.raises(ValueError, match=named):
        data.check(columns)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_check_names_a_label_that_is_no_class(wrong):
    with pytest.raises(ValueError, match=rf"'label' is {wrong} in row 2.*\[0, 3\)"):
        data.check({"label": np.array([0, 2, wrong])}, num_classes=3)


def test_check_names_labels_that_do_not_count_from_zero_and_how_to_renumber_them():
    labels = np.array([2, 1, 1, 2])
    with pytest.raises(ValueError, match=r"'label' is 2 in row 0; .*Its values are 1 and 2: np\.unique") as error:
        data.check({"label": labels}, num_classes=2)
    assert "numbers them from 0" in str(error.value)
    data.check({"label": np.unique(labels, return_inverse=True)[1]}, num_classes=2, every_class=True)
    with pytest.raises(ValueError, match="'labels' must be integers, one of 2 classes, got float32"):
        data.check({"labels": labels.astype(np.float32)}, num_classes=2)
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1, got 0"):
        data.check({"label": labels}, num_classes=0)


@pytest.mark.parametrize(
    ("labels", "classes", "named"),
    [([1, 2], 3, "class 0;"), ([0], 3, "classes 1 and 2;"), ([0], 100, r"classes 1, 2, 3, 4, 5 and 94 more;")],
)
def test_check_names_the_classes_without_an_example(labels, classes, named):
    data.check({"label": np.array(labels)}, num_classes=classes)
    with pytest.raises(ValueError, match=f"'label' has no example of {named}"):
        data.check({"label": np.array(labels)}, num_classes=classes, every_class=True)


@pytest.mark.parametrize(
    ("split", "named"),
    [
        ("train[:0]", "no examples"),
        ("train[9:3]", "no examples"),
        ("train[:999]", "within its examples .*train has 108"),
        ("train[", "none of iris's: train, validation, test"),
        ("train+", "none of iris's"),
        ("train+valid", "none of iris's"),
        ("train[1shard]", "none of iris's"),
        ("", "none of iris's"),
        (3, "none of iris's"),
        (None, "none of iris's"),
    ],
)
def test_a_split_that_is_none_or_empty_is_named(split, named):
    for read in (lambda: data.load("iris", split), lambda: data.stream("iris", split, batch_size=1, seed=0)):
        with pytest.raises(ValueError, match=named):
            read()


def test_options_and_columns_that_a_set_does_not_take_are_refused():
    with pytest.raises(ValueError, match="data set 'digits' has no options, got canvas"):
        data.load("digits", "train", canvas=12)
    with pytest.raises(ValueError, match=r"'canvs' is no option of data set 'placed_digits'.*Did you mean 'canvas'"):
        data.load("placed_digits", "train", canvs=12)
    with pytest.raises(ValueError, match="columns are those of a file; data set 'digits' has its features"):
        data.info("digits", columns={"inputs": "image"})
    assert data.info("iris", columns={}) == data.info("iris")


def test_info_has_the_names_of_the_classes():
    assert data.info("wine").class_names == ("class_0", "class_1", "class_2")
    assert data.info("diabetes").class_names is None
    assert data.info("diabetes").levels == {}


def test_a_label_that_is_no_class_is_refused_where_a_split_is_loaded(monkeypatch):
    opened = sets.open_set("iris")
    assert opened.counts == {"label": 3}
    examples = [{"features": np.zeros(4), "label": label} for label in [0, 3] * 15]
    monkeypatch.setattr(store, "source", lambda *_: examples)
    with pytest.raises(ValueError, match="'label' is 3 in row 1; expected one of 3 classes"):
        opened.columns("test")


@pytest.mark.parametrize("name", ["", "a b", "mnist:1", "mnist/", "../x", 3, None])
def test_what_is_no_name_is_named(name):
    for read in (data.info, lambda name: data.load(name, "train"), store.prepare):
        with pytest.raises(ValueError, match="is no name; expected one of digits"):
            read(name)


@pytest.mark.parametrize("window", [0, -1, 2.5, True])
def test_a_window_is_the_one_that_was_set(window):
    with pytest.raises(ValueError, match=f"window must be an integer of at least 1, got {window}"):
        data.stream("python_docs", "test", batch_size=2, seed=0, window=window)
