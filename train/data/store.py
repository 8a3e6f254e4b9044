"""Where data sets lie on disk, how they get there, and how they are opened.

The folder is `$LEMMATA_DATA`, or `~/.cache/lemmata`. A bundled set is written beside its place and renamed into it, so
whatever lies in that place is whole: reading takes no lock and needs no right to write. Writers queue at a file lock.
"""

import contextlib
import difflib
import io
import os
import pkgutil
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import bundled

NAMES = (*bundled.TABLES, *bundled.DOCUMENTS)


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

    if name in NAMES:
        return tfds.builder_from_directory(prepare(name))
    _check_name(name)
    for folder in _folders():
        with contextlib.suppress(tfds.core.DatasetNotFoundError):
            return read_only_builder.builder_from_files(name, data_dir=folder)
    raise ValueError(_missing(name))


def source(name: str, split: str) -> Sequence[dict[str, Any]]:
    """Random access to the decoded examples of a split.

    Args:
        name: as for `builder`.
        split: a split of the set, or a part of one as TFDS writes it: "train[:80%]".

    Raises:
        ValueError: as `builder`; unknown split, a part outside of one, or one without examples; data in a format
            without random access.
    """
    found = builder(name)
    try:
        size = found.info.splits[split].num_examples
    except (KeyError, ValueError, AttributeError) as error:  # the last: what is neither a string nor of TFDS's own
        sizes = ", ".join(f"{key} has {value.num_examples}" for key, value in found.info.splits.items())
        raise ValueError(
            f"split {split!r} is none of {name}'s: {', '.join(found.info.splits)}; nor a part of one, written as "
            f"'train[:80%]' and within its examples ({sizes})."
        ) from error
    if size < 1:
        raise ValueError(f"split {split!r} of {name} has no examples.")
    try:
        return found.as_data_source(split)
    except NotImplementedError as error:
        raise ValueError(
            f"data set {name!r} in {found.data_dir} has no random access, which needs the array_record format; "
            f"`python -m lemmata.train.data {name}` prepares it so."
        ) from error


def prepare(name: str) -> Path:
    """Write a data set where it is not yet, and return its folder. Any number of processes may do so at once.

    Args:
        name: a bundled set, which takes seconds and no network, or a TFDS name, which TFDS downloads.

    Raises:
        ValueError: unknown name, version or configuration; TFDS lacks a package to write the set (some need TensorFlow
            for that), or files that have to be fetched by hand.
        OSError: the data folder cannot be written, or the download failed.
    """
    if name not in NAMES:
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
        with _lock(re.sub(r"\W", "_", name)), _failure_tidied(Path(known.data_dir)):
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
    with _lock(f"lemmata_{name}"):
        for leftover in root().glob(f"{stem}.writing*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{stem}.writing", dir=root()))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
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
            if not path.exists() or not os.path.samestat(os.fstat(handle.fileno()), path.stat()):
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
            f"data set {name!r} is no name; expected one of {', '.join(NAMES)}, or one of TFDS's: "
            '"name", "name/config", "name:1.2.3".'
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
