"""Where data sets lie on disk, how they get there, and how they are opened.

The folder is `$LEMMATA_DATA`, or `~/.cache/lemmata`. A bundled set is written beside its place and renamed into it, so
whatever lies in that place is whole: reading takes no lock and needs no right to write. Writers queue at a file lock.
"""

import contextlib
import difflib
import io
import os
import pkgutil
import shutil
import sys
import tempfile
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
        ValueError: nothing of that name is on disk; suggests the nearest name and the command that prepares it.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    if name in NAMES:
        return tfds.builder_from_directory(prepare(name))
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
        ValueError: as `builder`; unknown split; data in a format without random access.
    """
    found = builder(name)
    try:
        found.info.splits[split]
    except (KeyError, ValueError) as error:
        raise ValueError(f"split {split!r} is none of {name}'s: {', '.join(found.info.splits)}.") from error
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
        ValueError: unknown name; TFDS lacks a package to write the set (some need TensorFlow for that).
        OSError: the data folder cannot be written.
    """
    if name not in NAMES:
        return _download(name)
    final = root() / bundled.location(name)
    if final.is_dir():
        return final
    with _scratch(name) as scratch:
        if not final.is_dir():  # another process may have written it while this one waited
            from . import builders

            written = builders.builder(name, str(scratch))
            with _quiet():
                written.download_and_prepare()
            final.parent.mkdir(parents=True, exist_ok=True)
            os.rename(written.data_dir, final)
    return final


def _download(name: str) -> Path:
    import tensorflow_datasets as tfds

    try:
        known = tfds.builder(name, data_dir=root(), file_format="array_record")
        known.download_and_prepare()  # into a folder that TFDS renames at the end, too
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(_missing(name)) from error
    except ModuleNotFoundError as error:
        raise ValueError(
            f"writing data set {name!r} needs the package {error.name!r}, which TFDS does not bring along; install it "
            "here, where the data is prepared. Reading the data does not need it."
        ) from error
    return Path(known.data_dir)


@contextlib.contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """An empty folder on the disk of the data folder, while holding the lock on the bundled set.

    The system drops the lock of a process that dies; what it had written is removed by the next writer.
    """
    import fcntl  # not on Windows, where reading prepared data still works

    stem = f".lemmata_{name}"
    try:
        root().mkdir(parents=True, exist_ok=True)
        handle = open(root() / f"{stem}.lock", "w")  # noqa: SIM115
    except OSError as error:
        raise OSError(f"cannot write to {root()} ({error.strerror}); LEMMATA_DATA names the data folder.") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for leftover in root().glob(f"{stem}.writing*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{stem}.writing", dir=root()))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


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
