"""The public functions: what they return, and the errors that name what is wrong."""

import numpy as np
import pytest

from lemmata.train import data


def test_names_are_the_documented_ones():
    assert data.names() == ("digits", "breast_cancer", "wine", "iris", "diabetes", "python_docs", "python_source")


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
    with pytest.raises(ValueError, match=r"'valid'.*train, test"):
        data.load("digits", "valid")


def test_documents_need_their_own_functions():
    with pytest.raises(ValueError, match=r"documents\(\) or windows\(\)"):
        data.load("python_docs", "train")
    with pytest.raises(ValueError, match="window must be set"):
        data.stream("python_docs", "train", batch_size=2, seed=0)
    with pytest.raises(ValueError, match="no feature 'text'"):
        data.documents("digits", "train")


@pytest.mark.parametrize("length", [0, -1, 10**9])
def test_a_window_length_out_of_range_is_named(length):
    with pytest.raises(ValueError, match=f"length.*{length}"):
        data.windows("python_docs", "test", length)


def test_check_passes_what_is_right():
    data.check({"x": np.ones((3, 2), np.float32), "label": np.array([0, 1, 2]), "name": np.array([b"a", b"b", b"c"])})
    data.check({"label": np.array([0, 1, 2])}, num_classes=3)
    data.check({"x": np.array([np.inf])})  # infinities are numbers: a log-probability of nothing


def test_check_names_the_feature_and_row_of_a_nan():
    x = np.zeros((5, 2), np.float32)
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"'x' has a NaN in row 3"):
        data.check({"fine": np.zeros(5), "x": x})
    with pytest.raises(ValueError, match=r"'inner/x' has a NaN in row 3"):
        data.check({"inner": {"x": x}})


@pytest.mark.parametrize("wrong", [-1, 3])
def test_check_names_a_label_that_is_no_class(wrong):
    with pytest.raises(ValueError, match=rf"'label' is {wrong} in row 2.*\[0, 3\)"):
        data.check({"label": np.array([0, 2, wrong])}, num_classes=3)
