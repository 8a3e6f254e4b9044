"""Which tests `-m quick`, `--method` and `--since` select, in a small tree of the same layout."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import Graph
from selection import methods_of_notebook

SUPPORT = Path(__file__).parent / "support"
CASES = """
import pytest

class Case:
    def __init__(self, call):
        self.call = call

CASES = [Case("methods.bounds.demi:bound"), Case("methods.losses.kto:loss")]

@pytest.mark.parametrize("case", CASES, ids=lambda case: case.call.partition(":")[2])
def test_case(case):
    pass
"""
PATHS = """
import pathlib
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PATHS = sorted(path for path in ROOT.glob({pattern!r}) if path.name != "__init__.py")

@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_path(path):
    pass
"""
UNIT = "def test():\n    pass\n"
TREE = {
    "__init__.py": "",
    "README.md": "",
    "core/__init__.py": "",
    "core/numerics.py": "",
    "core/trees.py": "",
    "methods/__init__.py": "",
    "methods/bounds/__init__.py": "",
    "methods/bounds/demi.py": "from ...core import numerics",
    "methods/bounds/demi_two.py": "",
    "methods/losses/__init__.py": "",
    "methods/losses/kto/__init__.py": "from ._weights import weights as weights",
    "methods/losses/kto/_unasked.py": "",
    "methods/losses/kto/_weights.py": "def weights():\n    from ....core.trees import norm",
    "train/__init__.py": "",
    "train/__main__.py": "from .engine.loop import fit",
    "train/engine/__init__.py": "",
    "train/engine/loop.py": "",
    "train/experiments/__init__.py": "",
    "train/experiments/alignment/__init__.py": "from ...engine import loop",
    "train/experiments/alignment/dpo.py": "def dpo(): ...",
    "train/experiments/alignment/kto.py": "from ....methods import kto as method\ndef kto(): ...",
    "train/experiments/studies/__init__.py": "",
    "train/experiments/studies/nats.py": "from lemmata.methods.bounds.demi import bound",
    "configs/__init__.py": "",
    "configs/bounds/demi.py": "config.experiment = 'nats'",
    "configs/losses/kto.json": "{}",
    "configs/losses/kto.py": "config.experiment = 'alignment'\nconfig.arms = dict(kto=dict())",
    "tests/conftest.py": "",
    "tests/core/networks/test_mlp.py": f"import pytest\n@pytest.mark.slow\n{UNIT}",
    "tests/core/test_numerics.py": f"{UNIT}def never():\n    import lemmata.core.numerics",
    "tests/e2e/test_command.py": f"COMMAND = ['-m', 'lemmata.train']\n{UNIT}",
    "tests/e2e/test_configs.py": PATHS.format(pattern="configs/*/*.py"),
    "tests/e2e/test_notebooks.py": PATHS.format(pattern="colabs/*.ipynb"),
    "tests/goldens/demi/cases.json": "{}",
    "tests/methods/bounds/test_demi.py": f"{UNIT}def never():\n    from lemmata.methods.bounds import demi",
    "tests/methods/bounds/test_demi_input.py": f"{UNIT}def never():\n    import lemmata.methods.bounds.demi",
    "tests/methods/bounds/test_demi_two.py": UNIT,
    "tests/methods/losses/kto/test_weights.py": f"{UNIT}def never():\n    from lemmata.methods import kto",
    "tests/support/golden_cases.py": "",
    "tests/test_conformance.py": f"{CASES}def never():\n    import golden_cases",
    "tests/test_goldens.py": f"{CASES}def never():\n    import golden_cases",
    "tests/test_readme.py": f"FILE = 'README.md'\n{UNIT}",
    "tests/train/engine/test_loop.py": f"{UNIT}def never():\n    from lemmata.train.engine import loop",
    "tests/train/experiments/alignment/test_family.py": UNIT,
    "tests/train/experiments/alignment/test_kto.py": UNIT,
}


def cell(source, kind="code", tags=()):
    return {"cell_type": kind, "source": source, "metadata": {"tags": list(tags)} if tags else {}, "outputs": []}


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def tree(pytester, monkeypatch):
    """Its modules are called as ours are, and a run in this process would take ours for them."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        monkeypatch.delitem(sys.modules, name)
    write(pytester.path, TREE)
    shared = [cell("# Alignment", "markdown"), cell("%pip list\nimport numpy")]
    notebooks = {
        "alignment": [*shared, cell("x = 1", tags=["method:kto"])],
        "bounds": [cell("from lemmata.methods.bounds import demi\ndemi.bound()")],
    }
    for name, cells in notebooks.items():
        write(pytester.path, {f"colabs/{name}.ipynb": json.dumps({"cells": cells})})
    pytester.makepyprojecttoml(
        f'[tool.pytest.ini_options]\ntestpaths = ["tests"]\npythonpath = ["{SUPPORT}"]\n'
        'addopts = "--import-mode=importlib -p selection"\nmarkers = ["slow: not quick"]\n'
    )
    return pytester


@pytest.fixture
def repository(tree):
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    git(tree.path, "init", "--quiet")
    commit(tree.path)
    return tree


def git(root, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def commit(root):
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "all")


def selected(tree, *arguments):
    """The tests that would run, and all that is printed."""
    result = tree.runpytest("--collect-only", "-q", "-p", "no:cacheprovider", *arguments)
    lines = [line.removeprefix("tests/") for line in result.outlines if "::" in line]
    return {line.replace("::test_case", "").replace("::test_path", "").replace("::test", "") for line in lines}


KTO = {
    "e2e/test_configs.py[kto]",
    "e2e/test_notebooks.py[alignment]",
    "methods/losses/kto/test_weights.py",
    "test_conformance.py[loss]",
    "test_goldens.py[loss]",
    "train/experiments/alignment/test_kto.py",
}
DEMI = {
    "e2e/test_configs.py[demi]",
    "e2e/test_notebooks.py[bounds]",
    "methods/bounds/test_demi.py",
    "methods/bounds/test_demi_input.py",
    "test_conformance.py[bound]",
    "test_goldens.py[bound]",
}


def test_a_method_has_its_cases_units_config_notebook_and_adapter(tree):
    assert selected(tree, "--method=kto") == KTO
    assert selected(tree, "--method=demi") == DEMI
    assert selected(tree, "--method=kto", "--method=demi") == KTO | DEMI
    assert selected(tree, "--method=demi_two") == {"methods/bounds/test_demi_two.py"}


def test_a_method_can_be_narrowed_further(tree):
    assert selected(tree, "--method=kto", "tests/test_goldens.py") == {"test_goldens.py[loss]"}
    assert selected(tree, "--method=kto", "-k", "weights") == {"methods/losses/kto/test_weights.py"}


def test_an_unknown_method_is_a_usage_error_that_names_the_nearest(tree):
    result = tree.runpytest("--method=kot")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--method*got 'kot'*nearest is 'kto'*"])


def test_quick_leaves_out_what_is_slow_and_what_runs_commands(tree):
    everything, quick = selected(tree), selected(tree, "-m", "quick")
    assert everything - quick == {
        "core/networks/test_mlp.py",
        "e2e/test_command.py",
        "e2e/test_configs.py[demi]",
        "e2e/test_configs.py[kto]",
        "e2e/test_notebooks.py[alignment]",
        "e2e/test_notebooks.py[bounds]",
    }


@pytest.mark.parametrize(
    ("changed", "touched"),
    [
        ("methods/bounds/demi.py", DEMI),
        ("methods/losses/kto/_unasked.py", KTO),
        ("core/trees.py", KTO),
        ("core/numerics.py", DEMI | {"core/test_numerics.py"}),
        ("configs/losses/kto.json", {"e2e/test_configs.py[kto]"}),
        ("train/experiments/alignment/kto.py", {"e2e/test_configs.py[kto]"}),
        ("train/experiments/alignment/dpo.py", set()),
        (
            "train/engine/loop.py",
            {"train/engine/test_loop.py", "e2e/test_command.py", "e2e/test_configs.py[kto]"},
        ),
        ("colabs/bounds.ipynb", {"e2e/test_notebooks.py[bounds]"}),
        ("tests/goldens/demi/cases.json", {"test_conformance.py[bound]", "test_goldens.py[bound]"}),
        ("tests/methods/bounds/test_demi_two.py", {"methods/bounds/test_demi_two.py"}),
        ("README.md", {"test_readme.py"}),
        (
            "tests/support/golden_cases.py",
            {f"test_{file}.py[{case}]" for file in ("goldens", "conformance") for case in ("bound", "loss")},
        ),
    ],
)
def test_what_a_change_touches(repository, changed, touched):
    """`touched` has what the changed file itself is, and all that needs it."""
    path = repository.path / changed
    path.write_text(path.read_text() + "\n")
    assert selected(repository, "--since=HEAD") == touched


@pytest.mark.parametrize("changed", ["pyproject.toml", "tests/conftest.py", ".ci/run"])
def test_some_files_touch_everything(repository, changed):
    path = repository.path / changed
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + "\n")
    assert selected(repository, "--since=HEAD") == selected(repository)


def test_since_sees_commits_the_index_new_and_deleted_files(repository):
    root = repository.path
    (root / "core" / "numerics.py").unlink()
    commit(root)
    assert selected(repository, "--since=HEAD") == set()
    assert selected(repository, "--since=HEAD~1") == DEMI | {"core/test_numerics.py"}
    (root / "tests" / "core" / "test_new.py").write_text(UNIT)
    assert selected(repository, "--since=HEAD") == {"core/test_new.py"}
    git(root, "add", "--all")
    assert selected(repository, "--since=HEAD") == {"core/test_new.py"}
    git(root, "mv", "tests/core/test_new.py", "tests/core/test_newer.py")
    assert selected(repository, "--since=HEAD") == {"core/test_newer.py"}


def test_since_and_method_select_what_both_do(repository):
    (repository.path / "core" / "trees.py").write_text("\n")
    assert selected(repository, "--since=HEAD", "--method=kto") == KTO
    assert selected(repository, "--since=HEAD", "--method=demi") == set()


def test_the_run_says_what_is_selected(repository):
    (repository.path / "core" / "trees.py").write_text("\n")
    (repository.path / "tests" / "goldens" / "demi" / "cases.json").write_text("[]")
    result = repository.runpytest("--since=HEAD", "--method=kto", "-p", "no:cacheprovider")
    touched = "methods kto; cases of demi; 1 test file; 1 config"
    result.stdout.fnmatch_lines(["--method: kto (losses)", f"--since=HEAD: 2 files changed, touched: {touched}"])


@pytest.mark.slow
def test_workers_select_what_the_controller_does(repository):
    (repository.path / "core" / "trees.py").write_text("\n")
    result = repository.runpytest_subprocess("-n", "2", "--since=HEAD", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=len(KTO))


@pytest.mark.parametrize("reference", ["nowhere", "--all"])
def test_a_commit_that_git_does_not_know_is_a_usage_error(repository, reference):
    result = repository.runpytest(f"--since={reference}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--since*got {reference!r}*"])


def test_no_repository_or_no_git_is_a_usage_error(tree, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tree.path.parent))
    if shutil.which("git") is not None:
        assert tree.runpytest("--since=HEAD").ret == pytest.ExitCode.USAGE_ERROR
    monkeypatch.setenv("PATH", "")
    result = tree.runpytest("--since=HEAD")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no git*"])


# ----------------------------------------------------------------------------------------------------------- the graph


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ("import lemmata.core.trees", {"core/trees.py"}),
        ("from lemmata.core import trees, numerics", {"core/trees.py", "core/numerics.py", "core/__init__.py"}),
        ("from lemmata.core.trees import norm", {"core/trees.py"}),
        ("def f():\n    if True:\n        from lemmata.core import trees", {"core/trees.py", "core/__init__.py"}),
        ("from lemmata.methods import demi", {"methods/bounds/demi.py", "methods/__init__.py"}),
        ("import golden_cases", {"tests/support/golden_cases.py"}),
        ("x = 'lemmata.core.trees:norm'", {"core/trees.py"}),
        ("x = 'lemmata.train'", {"train/__init__.py", "train/__main__.py"}),
        ("x = '--config=configs/bounds/demi.py'", {"configs/bounds/demi.py"}),
        ("'''Not lemmata.core.trees nor configs/bounds/demi.py, which a docstring names.'''", set()),
        ("import lemmata.core.absent\nimport numpy", set()),
        ("experiment = 'alignment'", {"train/experiments/alignment/__init__.py"}),
        ("experiment = 'alignment'; dpo = 1", {f"train/experiments/alignment/{x}.py" for x in ("__init__", "dpo")}),
    ],
)
def test_what_a_file_needs(tmp_path, source, needed):
    write(tmp_path, TREE | {"tests/new/test_it.py": source})
    assert Graph(tmp_path).needs("tests/new/test_it.py") == needed | {"tests/conftest.py"}


def test_relative_imports_and_packages_on_the_way(tmp_path):
    write(tmp_path, TREE | {"train/engine/deep.py": "from ..experiments.alignment import dpo\nfrom . import loop"})
    graph = Graph(tmp_path)
    assert graph.needs("train/engine/deep.py") == {
        "train/experiments/alignment/__init__.py",
        "train/experiments/alignment/dpo.py",
        "train/engine/__init__.py",
        "train/engine/loop.py",
        "train/__init__.py",
        "__init__.py",
    }
    assert "train/experiments/__init__.py" in graph.closure("train/engine/deep.py")


def test_a_circle_ends(tmp_path):
    write(tmp_path, {"core/a.py": "from . import b", "core/b.py": "from . import a", "methods/__init__.py": ""})
    assert Graph(tmp_path).touched(["core/a.py"]) == {"core/a.py", "core/b.py"}


@pytest.mark.parametrize(
    ("cells", "methods"),
    [
        ([cell("from lemmata.methods import kto"), cell("demi.bound()")], ("kto", "demi")),
        ([cell("from lemmata.methods import kto"), cell("x", tags=["method:demi", "hide"])], ("demi",)),
        ([cell("kto demi", "markdown"), cell("'kto'")], ()),
    ],
)
def test_methods_of_a_notebook(tmp_path, cells, methods):
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    assert methods_of_notebook(tmp_path / "a.ipynb", frozenset({"kto", "demi"})) == methods
