"""Compiled programs: the folder that keeps them from run to run, and options that compile quickly.

Most of a test run is XLA's compiler at work, and most of its programs are small ones that several processes need, such
as a single addition. So all are kept, however small: an entry is a few kilobytes, and to read one takes a quarter of
the time that it takes to compile it. `LEMMATA_TEST_CACHE` says where (default: `.pytest_cache/xla`), and
`LEMMATA_TEST_CACHE_GB` how much may lie there after a run (default: 2; what was not read for longest goes first).
"""

import contextlib
import functools
import os
from pathlib import Path

FOLDER, LIMIT = "LEMMATA_TEST_CACHE", "LEMMATA_TEST_CACHE_GB"
QUICK = {
    "xla_cpu_use_fusion_emitters": False,  # halves the time; other kernels than in use, for the same operations
    "xla_cpu_parallel_codegen_split_count": 1,
}
_much = True


def keep(root: Path) -> Path | None:
    """Tells JAX, before it is imported, and the processes that a test starts, where compiled programs are kept.

    Returns:
        The folder, or None where JAX has been told of another one (`JAX_COMPILATION_CACHE_DIR`): it is left alone.

    Raises:
        ValueError: `LEMMATA_TEST_CACHE_GB` is no number, or negative.
    """
    limit()
    folder = Path(os.environ.get(FOLDER) or root / ".pytest_cache" / "xla").absolute()
    given = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    return folder if Path(given) == folder else None


def limit() -> int:
    """Bytes that the folder may hold after a run."""
    text = os.environ.get(LIMIT, "2")
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not gigabytes >= 0:
        raise ValueError(f"{LIMIT} must be a number of gigabytes, at least 0, got {text!r}.")
    return int(gigabytes * 2**30)


def prune(folder: Path, most: int) -> int:
    """Delete files of a flat folder until they sum to at most `most` bytes, those that were not used for longest first.

    A file is used when it is written or read; where the file system keeps no times of reading, when it is written. One
    of no bytes, left by a process that was killed, is deleted in any case.

    Returns:
        Bytes that are left.
    """
    files = []
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            stat = path.stat()
        except FileNotFoundError:  # by another run on the same folder
            continue
        if path.is_file():
            files.append((max(stat.st_mtime, stat.st_atime) if stat.st_size else 0.0, stat.st_size, path))
    left = sum(size for _, size, _ in files)
    for _, size, path in sorted(files, key=lambda file: file[0]):
        if left <= most and size:
            break
        path.unlink(missing_ok=True)
        left -= size
    return left


@contextlib.contextmanager
def optimizing(much: bool):
    """What is compiled meanwhile is compiled as in use, or quickly. For one thread."""
    global _much
    import jax

    _add_options()
    before, _much = _much, much
    jax.config.update("jax_disable_most_optimizations", not much)
    try:
        yield
    finally:
        _much = before
        jax.config.update("jax_disable_most_optimizations", not before)


@functools.cache
def quick_options() -> dict[str, bool | int]:
    """Those of `QUICK` that this version of XLA knows."""
    import jax

    def knows(option: str) -> bool:
        try:
            jax.jit(lambda x: x, compiler_options={option: QUICK[option]})(0.0)
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {option: value for option, value in QUICK.items() if knows(option)}


def quick_flags() -> str:
    """The same for the `XLA_FLAGS` of another process."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in quick_options().items())


@functools.cache
def _add_options() -> None:
    """Compile with `quick_options` where `optimizing(False)` asks for it.

    JAX takes options of the compiler for one `jit` at a time or for a whole process. The function that gathers them is
    its own; a version without it compiles as the flag above says, and no worse.
    """
    from jax._src import compiler

    gather, options = getattr(compiler, "get_compile_options", None), quick_options()
    if gather is None or not options:
        return

    @functools.wraps(gather)
    def gather_all(*args, **kwargs):
        if not _much and getattr(kwargs.get("backend"), "platform", "cpu") == "cpu":
            kwargs["env_options_overrides"] = options | (kwargs.get("env_options_overrides") or {})
        return gather(*args, **kwargs)

    compiler.get_compile_options = gather_all
