"""Where data sets lie on disk, how they get there, and how they are opened.

The folder is `$LEMMATA_DATA`, or `~/.cache/lemmata`. A bundled set is written beside its place and renamed into it, so
whatever lies in that place is whole: reading takes no lock and needs no right to write. Writers queue at a file lock.
What takes a pass over a set to know (its rows for validation, the lengths of its documents) is kept under `indices`.
"""

import contextlib
import difflib
import hashlib
import io
import os
import pkgutil
import re
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import bundled

STORED = (*bundled.TABLES, *bundled.DOCUMENTS, *bundled.CHUNKS)
MADE_OF = {"placed_digits": "digits"}  # sets that are made in memory, and what of
NAMES = (*bundled.TABLES, *MADE_OF, *bundled.DOCUMENTS, *bundled.CHUNKS)


def root() -> Path:
    """The data folder: the environment's `LEMMATA_DATA`, else `~/.cache/lemmata`. It need not exist."""
    return Path(os.environ.get("LEMMATA_DATA") or "~/.cache/lemmata").expanduser()


def builder(name: str) -> Any:
    """The `tfds.core.DatasetBuilder` of data that is on disk; a bundled set is written first where it is not.

    Args:
        name: a bundled set, or any TFDS name ("mnist", "mnist:3.0.1", "name/config") whose data has been prepared in
            the data folder or in TFDS's own (`$TFDS_DATA_DIR`, `~/tensorflow_datasets`).

    Raises:
        ValueError: no name, or nothing of that name is on disk; suggests the nearest name and the command that prepares
            it.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    if name in STORED:
        return tfds.builder_from_directory(prepare(name))
    _check_name(name)
    for folder in _folders():
        with contextlib.suppress(tfds.core.DatasetNotFoundError):
            return read_only_builder.builder_from_files(name, data_dir=folder)
    raise ValueError(_missing(name))


def source(found: Any, split: str, decoders: dict[str, Any] | None = None) -> Sequence[dict[str, Any]]:
    """Random access to the decoded examples of a stored split.

    Args:
        found: what `builder` gives.
        split: a key of its splits.
        decoders: feature -> one of TFDS's decoders, in place of its own.

    Raises:
        ValueError: data in a format without random access.
    """
    if not found.info.splits[split].num_examples:
        return []
    try:
        return found.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:
        raise ValueError(
            f"data set {found.info.full_name!r} in {found.data_dir} has no random access, which needs the array_record "
            f"format; `python -m lemmata.train.data {found.info.name}` prepares it so."
        ) from error


_KEPT: dict[Path, dict[str, np.ndarray]] = {}


def kept(found: Any, what: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays that take a pass over a data set: made once, and read from the data folder after that.

    They are kept for the files of the set as they are now; where the data folder cannot be written, for this process.

    Args:
        found: what `builder` gives.
        what: a name for the arrays; another when the rule by which they are made changes.
        make: makes them.
    """
    files = sorted((path.name, path.stat().st_size) for path in Path(found.data_dir).iterdir() if path.is_file())
    state = hashlib.blake2b(repr(files).encode(), digest_size=6).hexdigest()
    path = root() / "indices" / f"{re.sub('[^0-9A-Za-z.]+', '-', found.info.full_name)}-{state}-{what}.npz"
    if path not in _KEPT:
        try:
            with np.load(path, allow_pickle=False) as file:
                _KEPT[path] = dict(file)
        except (OSError, ValueError, zipfile.BadZipFile):  # not there, or damaged
            _KEPT[path] = make()
            with contextlib.suppress(OSError):
                _write_whole(path, _KEPT[path])
    return _KEPT[path]


def _write_whole(path: Path, values: dict[str, np.ndarray]) -> None:
    """Write arrays beside their place and rename them into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}.npz")
    try:
        with open(scratch, "wb") as file:
            np.savez(file, **values)  # pyright: ignore[reportArgumentType]
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def prepare(name: str) -> Path:
    """Write a data set where it is not yet, and return its folder. Any number of processes may do so at once.

    Args:
        name: a bundled set, which takes seconds and no network, or a TFDS name, which TFDS downloads.

    Raises:
        ValueError: unknown name, version or configuration; TFDS lacks a package to write the set (some need TensorFlow
            for that), or files that have to be fetched by hand.
        OSError: the data folder cannot be written, or the download failed.
    """
    name = MADE_OF.get(name, name)
    if name not in STORED:
        return _download(name)
    final = root() / bundled.location(name)
    if final.is_dir():
        return final
    with _scratch(name) as scratch:
        if not final.is_dir():  # another process may have written it while this one waited
            from . import builders

            with _nothing_left_behind():
                written = builders.builder(name, str(scratch))
            with _quiet():
                written.download_and_prepare()
            final.parent.mkdir(parents=True, exist_ok=True)
            os.rename(written.data_dir, final)
    return final


def _download(name: str) -> Path:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager, extractor, util
    from tensorflow_datasets.core.utils import version

    _check_name(name)
    try:
        with _nothing_left_behind():
            known = tfds.builder(name, data_dir=root(), file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(_missing(name)) from error
    except ModuleNotFoundError as error:
        raise ValueError(_lacking(name, error)) from error
    except (AssertionError, ValueError) as error:  # no such version, or no such configuration
        reason = str(error).rpartition('}": ')[2]  # without the arguments that TFDS was called with
        raise ValueError(f"data set {name!r}: {reason}") from error
    if Path(known.data_dir).is_dir():
        return Path(known.data_dir)
    try:
        with lock(re.sub(r"\W", "_", name)), _failure_tidied(Path(known.data_dir)):
            known.download_and_prepare()  # into a folder that TFDS renames at the end, or removes where it fails
    except ModuleNotFoundError as error:
        raise ValueError(_lacking(name, error)) from error
    except version.DatasetVariantBlockedError as error:
        raise ValueError(f"data set {name!r}: {error}") from error
    except (util.DownloadError, download_manager.NonMatchingChecksumError, extractor.ExtractError) as error:
        raise OSError(f"downloading data set {name!r} failed: {error}") from error
    except AssertionError as error:
        if not known.MANUAL_DOWNLOAD_INSTRUCTIONS:
            raise
        raise ValueError(f"data set {name!r} has files that TFDS cannot fetch: {error}") from error
    return Path(known.data_dir)


def _lacking(name: str, error: ModuleNotFoundError) -> str:
    return (
        f"writing data set {name!r} needs the package {error.name!r}, which TFDS does not bring along; install it "
        "here, where the data is prepared. Reading the data does not need it."
    )


@contextlib.contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """An empty folder on the disk of the data folder, while holding the lock on the bundled set.

    What a process that died had written is removed by the next writer.
    """
    stem = f".lemmata_{name}"
    with lock(f"lemmata_{name}"):
        for leftover in root().glob(f"{stem}.writing*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{stem}.writing", dir=root()))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the data folder's lock of that name. The system drops the lock of a process that dies; no file stays."""
    import fcntl  # not on Windows, where reading prepared data still works

    path = root() / f".{name}.lock"
    while True:
        try:
            root().mkdir(parents=True, exist_ok=True)
            handle = open(path, "w")  # noqa: SIM115
        except OSError as error:
            raise OSError(
                f"cannot write to {root()} ({error.strerror}); LEMMATA_DATA names the data folder."
            ) from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # The one before may have removed the file between opening and locking it: then another is the lock now.
            try:
                its = os.path.samestat(os.fstat(handle.fileno()), path.stat())
            except FileNotFoundError:
                its = False
            if not its:
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


_CONSTRUCTION = threading.Lock()  # of TFDS's builders, while its class is changed


@contextlib.contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """Construct a builder of TFDS without an empty folder staying in the temporary directory.

    TFDS makes the folder for what its bucket may know of a set that is not on disk yet: its size before it is written,
    which nothing here needs. The bucket is switched off by default, and the folder stays all the same.
    """
    from tensorflow_datasets.core import dataset_info

    with _CONSTRUCTION:
        asks = dataset_info.DatasetInfo.initialize_from_bucket
        dataset_info.DatasetInfo.initialize_from_bucket = lambda self: None
        try:
            yield
        finally:
            dataset_info.DatasetInfo.initialize_from_bucket = asks


@contextlib.contextmanager
def _failure_tidied(target: Path) -> Iterator[None]:
    """Remove what a failed preparation of `target` leaves: parts of downloads that were not there before, and folders
    without anything in them. Whole downloads stay for the next trial.
    """
    downloads = root() / "downloads"

    def fragments() -> set[Path]:
        return {*downloads.glob("*.tmp.*"), *downloads.glob("*/*.tmp.*")}

    before = fragments()
    try:
        yield
    except BaseException:
        for fragment in fragments() - before:
            shutil.rmtree(fragment, ignore_errors=True)
        above = [folder for folder in target.parents if root() in folder.parents]
        for folder in (*downloads.glob("*"), downloads, *above):
            with contextlib.suppress(OSError):  # it is a file, or holds something
                folder.rmdir()
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS's messages dropped, and its progress bars too unless a person is watching."""
    from tensorflow_datasets.core.utils import tqdm_utils

    active = tqdm_utils._active
    tqdm_utils.display_progress_bar(active and sys.stderr.isatty())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm_utils.display_progress_bar(active)


def _folders() -> list[Path]:
    from tensorflow_datasets.core import constants

    return [root(), Path(constants.DATA_DIR).expanduser()]


def _check_name(name: str) -> None:
    """Raise where TFDS cannot read the name."""
    from tensorflow_datasets.core import naming

    try:
        naming.parse_builder_name_kwargs(name)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"data set {name!r} is no name; expected one of {', '.join(NAMES)}, a file (.npz, .csv, .parquet, .jsonl), "
            'or one of TFDS\'s: "name", "name/config", "name:1.2.3".'
        ) from error


def _missing(name: str) -> str:
    """The message for a name under which nothing is found: it may be misspelt, or not prepared yet."""
    import tensorflow_datasets.datasets as packages

    stem = name.split("/")[0].split(":")[0]
    known = [*NAMES, *(module.name for module in pkgutil.iter_modules(packages.__path__))]
    near = difflib.get_close_matches(stem, known, n=1, cutoff=0.75)
    hint = f" Did you mean {near[0]!r}?" if near and near[0] != stem else ""
    return (
        f"data set {name!r} is not bundled ({', '.join(NAMES)}) and has not been prepared in "
        f"{' or '.join(map(str, _folders()))}.{hint} If TFDS has it, `python -m lemmata.train.data {name}` prepares it "
        "where there is a network; LEMMATA_DATA names the folder used."
    )
