"""Data on disk: written whole or not at all, once, and never with TensorFlow."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from lemmata.train import data
from lemmata.train.data import __main__ as command
from lemmata.train.data import bundled, store


def start(code, folder, **environment):
    variables = {**os.environ, "LEMMATA_DATA": str(folder), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def examples(folder):
    """What a set holds. Its files may differ: protobuf fixes no order for the features of an example."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    return {split: list(builder.as_data_source(split)) for split in builder.info.splits}


@pytest.fixture(scope="module")
def whole():
    """A set that was written undisturbed."""
    return examples(store.prepare("python_docs"))


def test_tensorflow_is_never_imported_even_where_it_is_installed(tmp_path):
    package = tmp_path / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    code = """
import sys
from lemmata.train import data
heavy = {"tensorflow_datasets", "grain", "sklearn", "tensorflow"} & set(sys.modules)
assert not heavy, heavy
for name in ("digits", "python_docs"):
    data.info(name)
data.load("digits", "test")
next(data.stream("python_docs", "test", batch_size=2, seed=0, window=16))
try:
    data.load("mnist", "train")
except ValueError:
    pass
assert "tensorflow" not in sys.modules
"""
    process = start(code, tmp_path / "data", PYTHONPATH=str(tmp_path))
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert (output, errors) == ("", "")  # preparing says nothing where nobody watches


def test_processes_that_prepare_at_once_leave_one_valid_set(tmp_path, whole):
    code = "from lemmata.train.data import store; store.prepare('python_docs')"
    processes = [start(code, tmp_path) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == ["", "", ""]
    assert {process.returncode for process in processes} == {0}
    assert examples(tmp_path / bundled.location("python_docs")) == whole
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["lemmata_python_docs"]


@pytest.mark.parametrize(
    "moment",
    [
        # while TFDS writes examples, and when everything but the last renaming is done
        "bundled.documents = lambda name: {'train': Killer(), 'test': {}}",
        "store.os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    ],
    ids=["writing", "renaming"],
)
def test_a_preparation_killed_half_way_is_not_taken_for_valid(tmp_path, whole, moment):
    code = f"""
import os, signal
from lemmata.train.data import bundled, store
class Killer:
    def items(self):
        for index in range(100):
            yield f"document {{index}}", b"text" * 1000
        os.kill(os.getpid(), signal.SIGKILL)
{moment}
store.prepare("python_docs")
"""
    process = start(code, tmp_path)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    final = tmp_path / bundled.location("python_docs")
    assert not final.exists()
    assert list(tmp_path.glob(".lemmata_python_docs.writing*"))  # it was under way

    process = start("from lemmata.train.data import store; store.prepare('python_docs')", tmp_path)
    process.communicate()
    assert process.returncode == 0
    assert examples(final) == whole
    assert not list(tmp_path.glob(".lemmata_python_docs.writing*"))


def test_reading_prepared_data_writes_nothing(monkeypatch):
    data.load("iris", "train")

    def refuse(*_):
        raise AssertionError("took the lock")

    monkeypatch.setattr(store, "_scratch", refuse)
    before = files(store.root() / "lemmata_iris")
    assert data.info("iris").splits["train"] == len(data.load("iris", "train")["label"])
    assert files(store.root() / "lemmata_iris") == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path / "file"))
    with pytest.raises(OSError, match="LEMMATA_DATA"):
        data.load("iris", "train")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder that holds a set which is not ours, with nested features and text, in TFDS's format."""
    import tensorflow_datasets as tfds

    class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "toy_of_the_tests"
        VERSION = tfds.core.Version("2.1.0")
        code_path = None

        def _info(self):
            features = {
                "label": tfds.features.ClassLabel(num_classes=3),
                "meta": {"id": np.int64, "weight": np.float64},
                "text": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"validation": self._generate_examples()}

        def _generate_examples(self):
            for i in range(7):
                yield i, {"label": i % 3, "meta": {"id": i, "weight": i / 2}, "text": "ab" * i}

    folder = tmp_path_factory.mktemp("tfds")
    with store._quiet():
        Toy(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.mark.parametrize("where", ["ours", "tfds"])
@pytest.mark.parametrize("name", ["toy_of_the_tests", "toy_of_the_tests:2.1.0"])
def test_a_prepared_tfds_set_is_found_and_read(name, where, prepared, tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setenv("LEMMATA_DATA", str(prepared if where == "ours" else tmp_path))
    monkeypatch.setattr(constants, "DATA_DIR", str(prepared if where == "tfds" else tmp_path))
    info = data.info(name)
    assert (info.splits, info.num_classes) == ({"validation": 7}, 3)
    assert info.features["meta/id"] == ((), np.int32)
    assert info.features["meta/weight"] == ((), np.float32)
    assert info.features["text"] == ((None,), np.uint8)
    columns = data.load(name, "validation")
    np.testing.assert_array_equal(np.sort(columns["meta"]["id"]), np.arange(7))
    np.testing.assert_array_equal(columns["label"], columns["meta"]["id"] % 3)
    assert sorted(len(text) for text in data.documents(name, "validation")) == list(range(0, 14, 2))
    assert data.windows(name, "validation", 7)["tokens"].shape == (7, 7)
    stream = data.stream(name, "validation", batch_size=7, seed=0, transform=lambda example: {"x": example["label"]})
    assert next(stream)["x"].dtype == np.int32


def test_a_format_without_random_access_is_named(prepared, tmp_path, monkeypatch):
    folder = tmp_path / "toy_of_the_tests" / "2.1.0"
    folder.mkdir(parents=True)
    for name, content in files(prepared / "toy_of_the_tests" / "2.1.0").items():
        (folder / name).write_bytes(content)
    written = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**written, "fileFormat": "tfrecord"}))
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="array_record"):
        data.load("toy_of_the_tests", "validation")


def test_the_command_prepares_lists_and_fails_by_name(capsys):
    assert command.main(["iris", "digit", "wine"]) == 1
    shown = capsys.readouterr()
    assert "train 120, test 30" in shown.out
    assert str(store.root() / "lemmata_wine") in shown.out
    assert "Did you mean 'digits'" in shown.err
    assert command.main([]) == 0
    assert "python_source" in capsys.readouterr().out
