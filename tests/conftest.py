"""Every test process sees eight host devices, so that sharding is tested on any machine; benchmarks see what there is.

Compiled programs are kept in .pytest_cache, shared by all processes of a run and by the next run.
"""

import os
import pathlib

from hypothesis import settings

BENCHMARKS = pathlib.Path(__file__).parent / "benchmarks"

settings.register_profile("lemmata", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("lemmata")


def pytest_configure(config):
    """Set what JAX reads when it is imported, which is later, with the first test module."""
    if not names_benchmarks(config):
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(BENCHMARKS.parents[1] / ".pytest_cache" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_ignore_collect(collection_path, config):
    """Benchmarks run only where the command line names them: `pytest tests/benchmarks`."""
    if collection_path == BENCHMARKS:
        return None if names_benchmarks(config) else True
    return None


def names_benchmarks(config):
    """Whether the command line names them."""
    return any("benchmarks" in argument for argument in config.args)
