"""Every test process sees eight host devices, so that sharding is tested on any machine; benchmarks see what there is.

Most of the run is XLA's compiler at work. Compiled programs are kept, shared by all processes of a run and by the next
run (`support/compiled.py`); and what asks whether something runs, or agrees with itself, is compiled with few
optimizations: engine, experiments, configs, networks, examples, conformance. The rest of core and the methods are
compiled as in use.
"""

import os
import pathlib

import compiled
import pytest
from hypothesis import settings

pytest_plugins = ("selection", "budget", "pytester")

TESTS = pathlib.Path(__file__).parent
BENCHMARKS = TESTS / "benchmarks"
QUICKLY_COMPILED = ("core/networks", "train", "e2e", "test_catalogue.py", "test_conformance.py")
PROGRAMS = pytest.StashKey[pathlib.Path | None]()

settings.register_profile("lemmata", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("lemmata")


def pytest_configure(config):
    """Set what JAX reads when it is imported, which is later, with the first test module."""
    if not names_benchmarks(config):
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("LEMMATA_DATA", str(TESTS.parent / ".pytest_cache" / "data"))  # base models in small go there
    try:
        config.stash[PROGRAMS] = compiled.keep(TESTS.parent)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_unconfigure(config):
    """Bound what is kept for the next run, once all processes are through."""
    folder = config.stash.get(PROGRAMS, None)
    if folder is not None and not hasattr(config, "workerinput"):
        compiled.prune(folder, compiled.limit())


@pytest.fixture(autouse=True, scope="module")
def compile_quickly(request):
    """Fewer optimizations for the modules named above."""
    quickly = any(request.path.is_relative_to(TESTS / name) for name in QUICKLY_COMPILED)
    with compiled.optimizing(not quickly):
        yield


def pytest_ignore_collect(collection_path, config):
    """Benchmarks run only where the command line names them: `pytest tests/benchmarks`."""
    if collection_path == BENCHMARKS:
        return None if names_benchmarks(config) else True
    return None


def names_benchmarks(config):
    """Whether the command line names them."""
    return any("benchmarks" in argument for argument in config.args)
