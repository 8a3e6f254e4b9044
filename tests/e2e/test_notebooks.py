"""Every notebook of colabs/ runs from top to bottom, and shows what it gives to those who only read it."""

import copy
import json
import re
import subprocess
import sys
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
import run_notebooks

from lemmata.methods import catalogue

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
LONGEST = 25  # lines of a cell

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell gives, without what it says: text, a value, a picture."""
    return [sorted(output.get("data", {output.output_type: None})) for output in cell.outputs]


def seconds(cell):
    """Wall time of a cell that was run."""
    start, end = (cell.metadata.execution[name] for name in ("iopub.status.busy", "shell.execute_reply"))
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


@pytest.mark.slow
@each
def test_notebook_runs(path, request, tmp_path, record_property):
    """With `--method`, those of its cells alone. A method pays for its own cells, the room for the rest."""
    committed = read(path)
    names = request.config.getoption("method", [])
    if names:
        committed = run_notebooks.part(committed, names)
    notebook = copy.deepcopy(committed)
    wall = run_notebooks.run(notebook, tmp_path).wall
    shares = defaultdict(float)
    for cell, before in zip(code_of(notebook), code_of(committed), strict=True):
        cell.outputs = run_notebooks.joined(cell.outputs)
        assert kinds(cell) == kinds(before), f"{path.name} is committed without what it gives: {cell.source}"
        for name in run_notebooks.tags_of(cell):
            shares[name] += seconds(cell) / len(run_notebooks.tags_of(cell))
    record_property("shares", {"": max(wall - sum(shares.values()), 0.0), **shares})


@each
def test_what_is_committed_was_run_and_has_one_form(path):
    notebook = read(path)
    normal = copy.deepcopy(notebook)
    run_notebooks.normalize(normal)
    assert nbformat.writes(notebook) == nbformat.writes(normal), f"python tests/support/run_notebooks.py {path}"
    assert run_notebooks.faults(notebook) == []


@each
def test_it_begins_with_the_cell_that_installs(path):
    assert code_of(read(path))[0].source == run_notebooks.INSTALL
    assert run_notebooks.INSTALL.startswith('SOURCE = ""  # ')


@each
def test_its_cells_are_short(path):
    long = [cell.source for cell in code_of(read(path)) if len(cell.source.splitlines()) > LONGEST]
    assert not long, "\n\n".join(long)


def test_every_method_has_a_cell():
    tagged = {name for path in NOTEBOOKS for cell in code_of(read(path)) for name in run_notebooks.tags_of(cell)}
    assert tagged == set(catalogue.places())


# ------------------------------------------------------------------------------------------------------- installation


def bare_names(text):
    """What of a text would install whatever the index has under the name of the distribution."""
    return re.findall(r"pip3? install\b[^\n`&;|]*?(?<![\w./\\-])lemmata(?:\[[\w,-]*\])?(?![\w/-])", text)


@pytest.mark.parametrize(
    "text", ["pip install lemmata", "%pip install -q lemmata.", 'pip install "lemmata[eeg]"', "pip install jax lemmata"]
)
def test_a_bare_name_is_seen(text):
    assert bare_names(text)


@pytest.mark.parametrize(
    "text",
    ['pip install -e ".[dev]" for lemmata', "pip install ./lemmata", "pip install git+https://host/lemmata.git"],
)
def test_an_address_is_none(text):
    assert not bare_names(text.partition(" for ")[0])


def test_nothing_is_installed_by_a_name_that_is_not_ours():
    files = [
        path
        for pattern in ("*.md", "*.py", "*.ipynb", "*.toml")
        for path in ROOT.rglob(pattern)
        if path != Path(__file__) and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]
    assert {ROOT / "README.md", *NOTEBOOKS} <= set(files)
    assert not {str(path.relative_to(ROOT)): found for path in files if (found := bare_names(path.read_text()))}


@pytest.fixture
def install(monkeypatch):
    """Runs the cell where lemmata cannot be imported; what pip would be told to install."""
    told = []
    monkeypatch.setitem(sys.modules, "lemmata", None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: told.append(command))

    def install(source, folder):
        monkeypatch.chdir(folder)
        cell = run_notebooks.INSTALL.replace('SOURCE = ""', f"SOURCE = {source!r}", 1)
        exec(compile(cell, "cell", "exec"), {})
        (command,) = told
        assert command[:4] == [sys.executable, "-m", "pip", "install"]
        return command[-1]

    return install


def checkout(folder, name="lemmata"):
    (folder / "colabs").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    return folder


def test_the_checkout_that_the_notebook_lies_in_is_installed(install, tmp_path):
    top = checkout(tmp_path / "clone")
    assert install("", top / "colabs") == str(top)


def test_a_folder_that_the_user_writes_is_installed_by_its_path(install, tmp_path):
    top = checkout(tmp_path / "lemmata")
    assert install("lemmata", tmp_path) == str(top)  # not the name


@pytest.mark.parametrize("source", ["https://host/us/lemmata.git", "git+https://host/us/lemmata.git"])
def test_a_git_address_that_the_user_writes_is_installed(install, tmp_path, source):
    assert install(source, tmp_path) == "git+https://host/us/lemmata.git"


@pytest.mark.parametrize("source", ["", "lemmata", "../elsewhere"])
def test_where_nothing_is_ours_nothing_is_installed(install, tmp_path, source):
    other = checkout(tmp_path / "other", name="another")
    with pytest.raises(ValueError, match=r"SOURCE must be a folder with lemmata's pyproject.toml, or its git address"):
        install(source, other / "colabs")


def test_what_can_be_imported_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", None)
    exec(compile(run_notebooks.INSTALL, "cell", "exec"), {})


# ----------------------------------------------------------------------------------------------------------- the tool


def cell(source="x", *outputs, tags=()):
    made = nbformat.v4.new_code_cell(source, outputs=list(outputs))
    if tags:
        made.metadata.tags = list(tags)
    return made


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", text=text, name=name)


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (stream("slow", "stderr"), "writes an error or warning"),
        (stream("<object at 0x7f00aa12>"), "address in memory: 0x7f00aa12"),
        (stream(f"in {ROOT / 'colabs'}"), "a path of this machine"),
        (stream("x" * run_notebooks.MOST_BYTES), "bytes are more than"),
        (stream("fine"), "there is no picture"),
    ],
)
def test_what_a_reader_has_no_use_for_is_told(output, fault, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = run_notebooks.faults(nbformat.v4.new_notebook(cells=[cell("x", output)]))
    assert any(fault in line for line in found)
    assert len(found) == (1 if fault == "there is no picture" else 2)


def test_a_part_has_the_cells_of_a_method_and_those_that_all_need():
    cells = [cell("a"), cell("b", tags=["method:kto"]), cell("c", tags=["method:demi", "method:kto"])]
    notebook = nbformat.v4.new_notebook(cells=[*cells, cell("d", tags=["method:demi"]), cell("e", tags=["slow"])])
    assert [cell.source for cell in run_notebooks.part(notebook, ["kto"]).cells] == ["a", "b", "c", "e"]
    assert len(notebook.cells) == 5


def test_one_form_keeps_what_cells_give_and_drops_what_changes():
    notebook = nbformat.v4.new_notebook(cells=[cell(), cell("print()", stream("a\n"), stream("b\n"), tags=["t"])])
    notebook.cells[1].execution_count, notebook.cells[1].metadata.execution = 7, {"shell.execute_reply": "now"}
    notebook.metadata.widgets = {}
    run_notebooks.normalize(notebook)
    found = json.loads(nbformat.writes(notebook))
    assert found["metadata"] == run_notebooks.METADATA
    assert found["cells"][1]["metadata"] == {"tags": ["t"]}
    assert [cell["execution_count"] for cell in found["cells"]] == [1, 2]
    assert [output["text"] for output in found["cells"][1]["outputs"]] == [["a\n", "b\n"]]
