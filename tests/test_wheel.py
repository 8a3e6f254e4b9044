"""What is installed: every module of the tree, under `lemmata` alone, importable from anywhere."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("core", "methods", "train", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the tree, so that no build folder is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    modules = [str(p.relative_to(ROOT)) for name in FOLDERS for p in (ROOT / name).rglob("*.py")]
    for name in {*tracked, *modules, "__init__.py", "pyproject.toml", "README.md", "LICENSE", "py.typed"}:
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "tree"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_module_and_no_other_top_level_name(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {"__init__.py"} | {str(p.relative_to(ROOT)) for f in FOLDERS for p in (ROOT / f).rglob("*.py")}
    assert {name for name in held if name.endswith(".py")} == {f"lemmata/{name}" for name in modules}
    assert {name.split("/")[0] for name in held} == {"lemmata"}
    assert "lemmata/py.typed" in held


def test_an_installed_wheel_imports_and_lists_its_methods_from_any_directory(wheel, tmp_path):
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(command, check=True)
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__ + str(f)]\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        "import lemmata, lemmata.methods.bounds.demi, lemmata.train.judge.config\n"
        f"assert lemmata.__file__.startswith({str(target)!r}), lemmata.__file__\n"
        "assert lemmata.train.judge.config.load('configs/quickstart.py').experiment == 'mutual_information'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
