"""Every test process sees eight host devices, so that sharding is tested on any machine."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from hypothesis import settings

settings.register_profile("lemmata", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("lemmata")


def pytest_ignore_collect(collection_path, config):
    """Benchmarks run only where the command line names them: `pytest tests/benchmarks`."""
    if collection_path == pathlib.Path(__file__).parent / "benchmarks":
        return None if any("benchmarks" in argument for argument in config.args) else True
    return None
