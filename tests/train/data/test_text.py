"""Windows read lazily: the bytes of the windows in memory, from the documents that they overlap."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemmata.train import data
from lemmata.train.data import sets, store, text
from lemmata.train.data.text import Windows


class Documents(list):
    """Documents that remember which of them were read."""

    def __init__(self, documents):
        super().__init__(documents)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def windows_of(documents, length):
    return Windows(documents, np.array([len(document) for document in list.__iter__(documents)]), length)


@given(st.lists(st.binary(max_size=9).map(lambda x: x.replace(b"\0", b"a")), max_size=8), st.integers(1, 12))
def test_windows_are_the_documents_joined_and_cut(documents, length):
    joined = b"".join(document + b"\0" for document in documents)
    found = windows_of(documents, length)
    assert len(found) == len(joined) // length
    cut = [joined[start : start + length] for start in range(0, length * len(found), length)]
    assert [window["tokens"].tobytes() for window in found] == cut
    if cut:
        assert found[-1]["tokens"].tobytes() == cut[-1]
        assert found[np.int64(0)]["tokens"].dtype == np.uint8
    for outside in (len(found), -len(found) - 1):
        with pytest.raises(IndexError, match="window"):
            found[outside]


@pytest.mark.parametrize("split", ["train", "validation", "test", "train+validation", "test[:3]+validation"])
@pytest.mark.parametrize("length", [1, 129, 5000])
def test_lazy_windows_are_those_in_memory(split, length):
    tokens = data.windows("python_docs", split, length)["tokens"]
    found = data._lazy_windows(sets.open_set("python_docs"), split, length)
    assert len(found) == len(tokens)
    for index in {0, len(tokens) // 2, len(tokens) - 1, *range(0, len(tokens), 97)}:
        np.testing.assert_array_equal(found[index]["tokens"], tokens[index])


def test_a_window_reads_the_documents_that_it_overlaps_and_no_other():
    documents = Documents([b"abcdefgh", b"", b"ij", b"k" * 20, b"last"])
    found = windows_of(documents, 6)  # abcdef gh\0\0ij \0kkkkk kkkkkk ...
    for index, read in {0: [0], 1: [0, 1, 2], 2: [2, 3], 4: [3], 5: [3, 4]}.items():
        documents.read.clear()
        found._recent.clear()
        assert len(found[index]["tokens"]) == 6
        assert documents.read == read
    documents.read.clear()
    found[5]
    assert documents.read == []  # still in memory


def test_documents_in_memory_are_bounded(monkeypatch):
    monkeypatch.setattr(text, "KEPT", 100)
    documents = Documents([bytes([65 + i]) * 40 for i in range(10)])
    found = windows_of(documents, 41)
    for index in (0, 1, 0, 2, 1):
        assert found[index]["tokens"][0] == 65 + index
    assert documents.read == [0, 1, 2, 1]  # two fit; 1 made room for 2, as 0 was used after it
    assert found._held == sum(map(len, found._recent.values())) == 80


def test_many_threads_read_at_once():
    documents = [bytes([1 + i % 250]) * (37 * i % 101) for i in range(300)]
    joined = b"".join(document + b"\0" for document in documents)
    found, started = windows_of(documents, 50), threading.Barrier(8)

    def read(seed):
        started.wait()
        return all(
            found[i]["tokens"].tobytes() == joined[50 * i : 50 * i + 50]
            for i in np.random.default_rng(seed).permutation(len(found))
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_a_stream_of_windows_reads_text_once_for_its_lengths_and_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    monkeypatch.setattr(store, "_KEPT", {})
    before = next(data.stream("python_docs", "test", batch_size=4, seed=0, window=64))["tokens"]
    assert [path.name.split("-documents-")[1] for path in (tmp_path / "indices").iterdir()] == ["test.npz"]
    store._KEPT.clear()

    def refuse(*_):
        raise AssertionError("read all documents")

    monkeypatch.setattr(text, "lengths_of", refuse)
    stream = data.stream("python_docs", "test", batch_size=4, seed=0, window=64)
    np.testing.assert_array_equal(next(stream)["tokens"], before)


def test_text_with_the_byte_that_separates_documents_is_refused(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"t": "abc", "s": "train"}\n{"t": "", "s": "train"}\n{"t": "d\\u0000e", "s": "train"}\n')
    columns = {"text": "t", "split": "s"}
    for read in (
        lambda split: data.windows(str(path), split, 2, columns=columns),
        lambda split: data.stream(str(path), split, batch_size=1, seed=0, window=2, columns=columns),
    ):
        with pytest.raises(
            ValueError, match=r"document 2 of .*mine\.jsonl's train\+validation split has a byte 0 at 1"
        ):
            read("train+validation")


@pytest.mark.parametrize("window", [10**9])
def test_a_window_longer_than_the_text_is_named(window):
    with pytest.raises(ValueError, match=r"window 1000000000 exceeds the \d+ bytes of python_docs's test split"):
        data.stream("python_docs", "test", batch_size=1, seed=0, window=window)


def test_lengths_of_no_documents():
    assert {key: values.shape for key, values in text.lengths_of([]).items()} == {"length": (0,), "separator": (0,)}
    assert len(Windows([], np.zeros(0, np.int64), 3)) == 0
    with pytest.raises(IndexError):
        Windows([], np.zeros(0, np.int64), 3)[0]
    text.check_separators(np.zeros(0, np.int64) - 1, "none")
