"""A run's folder: one run at a time, one config, nothing half written."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from .config import flatten
from .types import ConfigDict


@contextlib.contextmanager
def open_workdir(path: str | Path, config: ConfigDict, *, override: bool = False) -> Iterator[Path]:
    """Take a folder for a run: made if need be, locked until the end, `config.json` written or compared.

    The lock is the kernel's and goes with the process, however it ends. On several hosts process 0 holds it.

    Args:
        path: the folder.
        config: what is about to run there.
        override: go on with a folder that another config made; its checkpoints are continued under the new one.

    Raises:
        ValueError: not writable; in use by another run; made by another config (the keys that differ are listed).
    """
    folder = Path(path).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise ValueError(f"workdir: cannot write to {folder}: {error.strerror}.") from error
    with lock:
        if jax.process_index() == 0:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(f"workdir: another run is using {folder}; wait for it or give another.") from error
            _settle_config(folder / "config.json", config, override)
        yield folder


def _settle_config(path: Path, config: ConfigDict, override: bool) -> None:
    new = flatten(config)
    if path.exists() and not override:
        old = json.loads(path.read_text())
        keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if keys:
            changes = "; ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in keys)
            raise ValueError(
                f"workdir: {path.parent} was made by another config. These keys differ: {changes}. "
                "Give another --workdir, or --override_workdir to go on from its checkpoints with the new config."
            )
    write_json(path, new)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a value as JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write whole or not at all: a reader, or a run that is killed here, never meets half a file."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)
