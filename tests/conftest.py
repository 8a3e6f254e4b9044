"""Every test process sees eight host devices, so that sharding is tested on any machine.

Compiled programs are kept in .pytest_cache, shared by all processes of a run and by the next run.
"""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

from hypothesis import settings

settings.register_profile("lemmata", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("lemmata")


def pytest_ignore_collect(collection_path, config):
    """Benchmarks run only where the command line names them: `pytest tests/benchmarks`."""
    if collection_path == pathlib.Path(__file__).parent / "benchmarks":
        return None if any("benchmarks" in argument for argument in config.args) else True
    return None
