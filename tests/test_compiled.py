"""The folder of compiled programs: where it is, how much it holds; and what compiling quickly does."""

import os
import subprocess
import sys
from pathlib import Path

import compiled
import jax
import pytest

SUPPORT = Path(compiled.__file__).parent


def written(folder, name, size, used):
    path = folder / name
    path.write_bytes(b"x" * size)
    os.utime(path, (used, used))
    return path


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    old, read, new = (written(tmp_path, name, 100, used) for name, used in (("old", 10), ("read", 5), ("new", 30)))
    os.utime(read, (40, 5))  # written first, and read last
    assert compiled.prune(tmp_path, 250) == 200
    assert sorted(tmp_path.iterdir()) == [new, read]
    assert not old.exists()
    assert compiled.prune(tmp_path, 100) == 100
    assert list(tmp_path.iterdir()) == [read]
    assert compiled.prune(tmp_path, 0) == 0


def test_what_fits_stays_but_for_empty_files(tmp_path):
    kept = written(tmp_path, "kept", 100, 1)
    written(tmp_path, "cut off", 0, 2)
    (tmp_path / "folder").mkdir()
    assert compiled.prune(tmp_path, 100) == 100
    assert sorted(tmp_path.iterdir()) == [tmp_path / "folder", kept]
    assert compiled.prune(tmp_path / "absent", 100) == 0


@pytest.mark.parametrize(
    ("environment", "kept", "told"),
    [
        ({}, "{root}/.pytest_cache/xla", "{root}/.pytest_cache/xla"),
        ({"LEMMATA_TEST_CACHE": "{root}/own"}, "{root}/own", "{root}/own"),
        ({"JAX_COMPILATION_CACHE_DIR": "{root}/others"}, "None", "{root}/others"),  # and is not pruned
    ],
)
def test_where_programs_are_kept(tmp_path, environment, kept, told):
    program = "import compiled, os, pathlib, sys; print(compiled.keep(pathlib.Path(sys.argv[1])))"
    program += "; print(os.environ['JAX_COMPILATION_CACHE_DIR'])"
    names = ("LEMMATA_TEST_CACHE", "JAX_COMPILATION_CACHE_DIR")
    ours = {name: value for name, value in os.environ.items() if name not in names}
    given = {name: value.format(root=tmp_path) for name, value in environment.items()}
    command = [sys.executable, "-c", program, tmp_path]
    done = subprocess.run(command, env=ours | given, cwd=SUPPORT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [kept.format(root=tmp_path), told.format(root=tmp_path)]


def test_how_much_is_kept(monkeypatch):
    monkeypatch.delenv(compiled.LIMIT, raising=False)
    assert compiled.limit() == 2 * 2**30
    monkeypatch.setenv(compiled.LIMIT, "0.5")
    assert compiled.limit() == 2**29
    for bad in ("much", "-1", "nan"):
        monkeypatch.setenv(compiled.LIMIT, bad)
        with pytest.raises(ValueError, match=f"{compiled.LIMIT}.*{bad}"):
            compiled.limit()


def test_options_are_known_to_this_compiler_and_an_unknown_one_is_left_out(monkeypatch):
    assert compiled.quick_options().items() <= compiled.QUICK.items()
    monkeypatch.setattr(compiled, "QUICK", {"xla_cpu_no_such_option": True, "xla_backend_optimization_level": 0})
    assert compiled.quick_options.__wrapped__() == {"xla_backend_optimization_level": 0}


def test_flags_are_understood_by_another_process():
    program = "import jax; print(int(jax.jit(lambda x: x + 1)(1)))"
    environment = os.environ | {"XLA_FLAGS": compiled.quick_flags()}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]
    assert len(environment["XLA_FLAGS"].split()) == len(compiled.quick_options())


@pytest.mark.parametrize("much", [True, False])
def test_options_are_those_of_quick_compiling_alone(much):
    from jax._src import compiler

    with compiled.optimizing(much):
        with compiled.optimizing(not much):  # what was before comes back
            pass
        options = compiler.get_compile_options(1, 1, backend=jax.devices("cpu")[0].client)
    assert dict(options.env_option_overrides) == ({} if much else compiled.quick_options())
    level = options.executable_build_options.debug_options.xla_backend_optimization_level
    assert (level == 0) == (not much)
