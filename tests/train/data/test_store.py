"""Data on disk: written whole or not at all, once, and never with TensorFlow."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

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
def test_a_preparation_killed_half_way_is_not_taken_for_valid(tmp_path, whole, moment, monkeypatch):
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

    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    store.prepare("python_docs")
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


def test_nothing_is_left_in_the_temporary_folder_and_only_data_in_its_own(tmp_path):
    (tmp_path / "temporary").mkdir()
    code = """
from lemmata.train import data
from lemmata.train.data import __main__ as command, store
store.prepare("iris")
data.info("iris"), data.load("iris", "test"), next(data.stream("iris", "train", batch_size=2, seed=0))
data.documents("python_docs", "test"), data.windows("python_docs", "train", 64)
assert command.main(["wine", "mnist:9.0.0", "nosuch"]) == 1
try:
    store.prepare("imagenet2012")  # of which TFDS cannot fetch the files
except ValueError as error:
    assert "by hand" in str(error) or "cannot fetch" in str(error), error
else:
    raise AssertionError
"""
    process = start(code, tmp_path / "data", TMPDIR=str(tmp_path / "temporary"))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert list((tmp_path / "temporary").iterdir()) == []
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "indices",
        "lemmata_iris",
        "lemmata_python_docs",
        "lemmata_wine",
    }


def test_builders_constructed_at_once_leave_tfds_as_it_was():
    from tensorflow_datasets.core import dataset_info

    before = dataset_info.DatasetInfo.initialize_from_bucket

    def construct(_):
        with store._nothing_left_behind():
            time.sleep(0.001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(construct, range(32)))
    assert dataset_info.DatasetInfo.initialize_from_bucket is before


def test_a_lock_is_held_by_one_at_a_time_and_its_file_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    inside, most = [], []

    def hold(index):
        with store.lock("some"):
            inside.append(index)
            most.append(len(inside))
            time.sleep(0.002)
            inside.remove(index)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(40)))
    assert most == [1] * 40
    assert not list(tmp_path.iterdir())


def test_a_failed_download_leaves_what_was_there_and_whole_files_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    downloads = tmp_path / "downloads" / "set"
    (downloads / "another.gz.tmp.1").mkdir(parents=True)

    def prepare():
        with store._failure_tidied(tmp_path / "set" / "1.0.0"):
            (downloads / "one.gz.tmp.2").mkdir()
            (downloads / "one.gz.tmp.2" / "part").touch()
            (downloads / "whole.gz").touch()
            (tmp_path / "set").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare()
    assert sorted(path.name for path in downloads.iterdir()) == ["another.gz.tmp.1", "whole.gz"]
    assert not (tmp_path / "set").exists()


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
    with store._nothing_left_behind(), store._quiet():
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


MISTAKES = {
    "digit": "Did you mean 'digits'",
    "a b": "is no name",
    "mnist:9.0.0": "cannot be loaded at version 9.0.0",
    "mnist/cfg": "BuilderConfig cfg not found",
}


def test_the_command_tells_each_mistake_in_one_line_and_goes_on(capsys):
    assert command.main([*MISTAKES, "iris"]) == 1
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert shown.err.splitlines() == lines
    for line, expected in zip(lines, MISTAKES.values(), strict=True):
        assert expected in line
    assert "train 108, validation 12, test 30" in shown.out


def test_the_command_tells_a_folder_or_a_network_that_fails_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path / "file"))
    assert command.main(["iris", "wine"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: cannot write to") for line in lines)

    def fail(name):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(store, "prepare", fail)
    assert command.main(["mnist"]) == 1
    assert capsys.readouterr().err == "error: no route to host\n"


@pytest.mark.parametrize("fault", [KeyError("x"), ValueError("from a library"), TypeError("y"), AssertionError()])
def test_a_fault_of_the_program_keeps_its_traceback(fault, monkeypatch):
    def fail(name):
        raise fault  # in a module that is not lemmata's

    monkeypatch.setattr(store, "prepare", fail)
    with pytest.raises(type(fault)) as raised:
        command.main(["iris"])
    assert raised.value is fault


def test_the_command_prepares_lists_and_fails_by_name(capsys):
    assert command.main(["iris", "digit", "wine"]) == 1
    shown = capsys.readouterr()
    assert "train 108, validation 12, test 30" in shown.out
    assert str(store.root() / "lemmata_wine") in shown.out
    assert "Did you mean 'digits'" in shown.err
    assert command.main([]) == 0
    assert "placed_digits, python_docs, python_source, python_modules" in capsys.readouterr().out
    assert command.main(["placed_digits", "mine.csv"]) == 1
    shown = capsys.readouterr()
    assert "train 1294, validation 144, test 359" in shown.out
    assert shown.err == "error: 'mine.csv' is a file; it is read as it is, and there is nothing to prepare.\n"
