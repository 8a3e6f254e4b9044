"""Which tests run: `-m quick`, `--method=NAME`, `--since=REF`. A pytest plugin.

`-m quick`, between edits: what is not marked slow, outside of e2e/ and benchmarks/. So goldens, the unit tests of core,
methods and train, and of conformance the tracing of every function (jit, vmap, grad, half precision, with no value
computed). A test that takes more than five core-seconds is to be marked slow; the table of costs names those that are
not (`support/budget.py`).

`--method=NAME`, several times for several: its goldens, conformance, unit tests and catalogue checks, its config, its
cells of the notebooks, and the tests of its family that have its name (`tests/train/experiments/**/test_<name>*.py`).

`--since=REF`: what differs from that commit, committed or not, tracked or not, touches by the import graph
(`support/import_graph.py`): test files that need a changed file; all that `--method` selects of the methods that need
one; configs and notebooks that do. Files of goldens touch the cases of their method alone; pyproject.toml and what
tests/conftest.py needs touch everything.

Both together select what both do. Whose an item is (`Owner`) also says on which account its cost goes.
"""

import functools
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from import_graph import PACKAGE, Graph, names_in, places

PARTS = {
    "tests/test_goldens.py": "golden",
    "tests/test_conformance.py": "conformance",
    "tests/e2e/test_configs.py": "config",
    "tests/e2e/test_notebooks.py": "notebook",
}  # every other test of a method is a unit test
FAMILIES = "tests/train/experiments"
NOT_QUICK = ("tests/e2e", "tests/benchmarks")
EVERYTHING = ("pyproject.toml", ".ci/")
TAG = "method:"  # of a notebook's cell, and the method that it is of
HANDED_ON = "lemmata_changed"  # to the workers of xdist

SELECTION = pytest.StashKey["Selection | None"]()
OWNERS = pytest.StashKey["Owners"]()


class Owner(NamedTuple):
    """Whose a test is.

    Attributes:
        methods: by name; several for a notebook, none for what is no method's.
        part: "golden", "conformance", "unit", "config" or "notebook" of a method, else the room: "core", "train",
            "e2e", "tests", or the name of a family.
    """

    methods: tuple[str, ...]
    part: str


class Owners:
    """Tells whose a test is, from its path and its parameters."""

    def __init__(self, root: Path):
        self.root = root
        self.places = places(root)  # method -> file or folder under methods/
        self._by_module = {path.removesuffix(".py"): name for name, path in self.places.items()}

    def of(self, item: pytest.Item) -> Owner:
        """The owner of a collected test."""
        path = relative(self.root, item.path)
        methods = self._of_parameters(item, path) or self.of_file(path)
        return Owner(methods, PARTS.get(path, "unit") if methods else self.room(path))

    def of_file(self, path: str) -> tuple[str, ...]:
        """The method whose file this is by its name or its folder, if it is of one."""
        *folders, name = path.split("/")
        if path.startswith("tests/methods/"):
            for end in range(len(folders), 2, -1):
                if (found := self._by_module.get("/".join(folders[2:end]))) is not None:
                    return (found,)
        elif not path.startswith(f"{FAMILIES}/"):
            return ()
        stem = name.removesuffix(".py").removeprefix("test_")
        called = [method for method in self.places if stem == method or stem.startswith(f"{method}_")]
        return (max(called, key=len),) if called else ()

    @staticmethod
    def room(path: str) -> str:
        """Where a test stands that is no method's."""
        folders = path.split("/")[1:-1]
        if path.startswith(f"{FAMILIES}/") and len(folders) > 2:
            return folders[2]
        return folders[0] if folders else "tests"

    def _of_parameters(self, item: pytest.Item, path: str) -> tuple[str, ...]:
        values = parameters(item)
        return tuple(dict.fromkeys(name for value in values for name in self._named(value, path)))

    def _named(self, value: Any, path: str) -> Iterator[str]:
        """Methods that a parameter stands for: a case, a record of the catalogue, a module, a config, a notebook."""
        text = getattr(value, "call", value)
        if isinstance(text, Path) and text.suffix == ".ipynb":
            yield from methods_of_notebook(text, frozenset(self.places))
        elif isinstance(text, str | Path):
            text = str(text)
            if found := re.match(r"configs/([\w/]+)\.py", relative(self.root, text)):
                place = found[1]
            else:
                place = text.partition(":")[0].removeprefix(f"{PACKAGE}.").removeprefix("methods.").replace(".", "/")
            if place in self._by_module:
                yield self._by_module[place]
            elif text in self.places and not path.startswith(("tests/core", "tests/methods")):
                yield text
        elif hasattr(value, "kind") and getattr(value, "name", None) in self.places:
            yield value.name


class Selection:
    """What `--method` and `--since` leave of a run.

    Args:
        root: of the repository.
        names: of methods, or empty: all.
        changed: files, or None: all.
    """

    def __init__(self, owners: Owners, names: Iterable[str], changed: Iterable[str] | None):
        self.owners, self.names = owners, frozenset(names)
        self.changed = None if changed is None else frozenset(changed)
        self.everything = sorted(name for name in self.changed or () if name.startswith(EVERYTHING))
        if self.changed is None or self.everything:
            return
        root = owners.root
        graph = Graph(root, gone=[name for name in self.changed if not (root / name).exists()])
        self.touched = graph.touched(name for name in self.changed if not name.startswith("tests/goldens/"))
        files = {name: graph.of_method(place) for name, place in graph.methods.items()}
        self.methods = {name for name, its in files.items() if not self.touched.isdisjoint(its)}
        of_goldens = {name.split("/")[2] for name in self.changed if name.startswith("tests/goldens/")}
        self.cases = (of_goldens & owners.places.keys()) - self.methods

    def may_have(self, path: str) -> bool:
        """Whether a test file can have a test that is selected; of those that go through all methods it can."""
        through_all = path.startswith("tests/e2e/") or path.count("/") == 1
        owner = self.owners.of_file(path)
        return through_all or (self._by_name(owner) and self._by_change(Owner(owner, "unit"), path, ()))

    def has(self, item: pytest.Item) -> bool:
        """Whether a collected test is selected."""
        owner, path = self.owners.of(item), relative(self.owners.root, item.path)
        named = [relative(self.owners.root, v) for v in parameters(item) if isinstance(v, str | Path)]
        return self._by_name(owner.methods) and self._by_change(owner, path, named)

    def _by_name(self, methods: tuple[str, ...]) -> bool:
        return not self.names or not self.names.isdisjoint(methods)

    def _by_change(self, owner: Owner, path: str, named: Iterable[str]) -> bool:
        if self.changed is None or self.everything or path in self.touched:
            return True
        if not self.methods.isdisjoint(owner.methods) or not self.touched.isdisjoint(named):
            return True
        return owner.part in ("golden", "conformance") and not self.cases.isdisjoint(owner.methods)

    def told(self, ref: str | None) -> list[str]:
        """A line for each option."""
        lines = []
        if self.names:
            chosen = (f"{name} ({self.owners.places[name].rpartition('/')[0]})" for name in sorted(self.names))
            lines.append(f"--method: {', '.join(chosen)}")
        if self.changed is None:
            return lines
        if self.everything:
            return [*lines, f"--since={ref}: {', '.join(self.everything)} changed, which touches everything"]
        counts = {
            "test file": sum(name.startswith("tests/") and "/test_" in name for name in self.touched),
            "config": sum(name.startswith("configs/") and not name.endswith("__init__.py") for name in self.touched),
            "notebook": sum(name.endswith(".ipynb") for name in self.touched),
        }
        parts = [f"methods {', '.join(sorted(self.methods))}"] if self.methods else []
        parts += [f"cases of {', '.join(sorted(self.cases))}"] if self.cases else []
        parts += [numbered(count, what) for what, count in counts.items() if count]
        what = "; ".join(parts) or "nothing"
        return [*lines, f"--since={ref}: {numbered(len(self.changed), 'file')} changed, touched: {what}"]


def numbered(count: int, what: str) -> str:
    """1 file, 2 files."""
    return f"{count} {what}{'s' * (count != 1)}"


@functools.cache
def methods_of_notebook(path: Path, known: frozenset[str]) -> tuple[str, ...]:
    """By the tags of its cells, "method:NAME"; where none has such a tag, by what its code names."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    tags = [tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", ())]
    tagged = [tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)]
    return tuple(dict.fromkeys(tagged or (name for name in names_in(notebook) if name in known)))


def relative(root: Path, path: str | Path) -> str:
    """From the root, if it lies there."""
    path = Path(path)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def parameters(item: pytest.Item) -> list[Any]:
    """The values that a test is run for."""
    return list(item.callspec.params.values()) if hasattr(item, "callspec") else []


def changed_since(root: Path, ref: str) -> list[str]:
    """Files that differ from a commit, by path from the root: committed, staged, neither, or not tracked.

    Raises:
        pytest.UsageError: no git, no repository, or no such commit.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess:
        try:
            return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise pytest.UsageError(f"--since={ref} asks git what changed, and there is no git.") from None

    inside = git("rev-parse", "--is-inside-work-tree")
    if inside.returncode:
        raise pytest.UsageError(f"--since={ref} asks git what changed: {inside.stderr.strip()}")
    if git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}").returncode:
        raise pytest.UsageError(f"--since must be a commit, a branch or a tag that git knows, got {ref!r}.")
    names: set[str] = set()
    for arguments in (
        ("diff", "--name-only", "--no-renames", "--relative", "-z", ref, "--"),
        ("ls-files", "--others", "--exclude-standard", "-z"),
    ):
        done = git(*arguments)
        if done.returncode:
            raise pytest.UsageError(f"--since={ref}: git {arguments[0]}: {done.stderr.strip()}")
        names |= set(filter(None, done.stdout.split("\0")))
    return sorted(names)


# ---------------------------------------------------------------------------------------------------------- the plugin


def pytest_addoption(parser):
    group = parser.getgroup("lemmata", "tests by method, by change and by cost")
    group.addoption("--method", action="append", default=[], metavar="NAME", help="all tests of one method; repeatable")
    group.addoption("--since", metavar="REF", help="what the changes since a commit touch, by the import graph")


def pytest_configure(config):
    config.addinivalue_line("markers", "quick: set by itself, on what is run between edits (support/selection.py)")
    owners = config.stash[OWNERS] = Owners(config.rootpath)
    names, ref = config.getoption("method"), config.getoption("since")
    for name in names:
        if name not in owners.places:
            from lemmata.methods.catalogue import nearest

            near = f" The nearest is {nearest(name, owners.places)!r}." if owners.places else ""
            raise pytest.UsageError(f"--method must be the name of a method, got {name!r}.{near}")
    changed = None
    if ref is not None:
        handed_on = getattr(config, "workerinput", {}).get(HANDED_ON)
        changed = changed_since(config.rootpath, ref) if handed_on is None else handed_on
    chosen = Selection(owners, names, changed) if names or ref is not None else None
    config.stash[SELECTION] = chosen


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """What changed is asked once, so that all workers of xdist collect the same."""
    chosen = node.config.stash[SELECTION]
    if chosen is not None and chosen.changed is not None:
        node.workerinput[HANDED_ON] = sorted(chosen.changed)


def pytest_report_header(config):
    chosen = config.stash[SELECTION]
    return chosen.told(config.getoption("since")) if chosen is not None else None


def pytest_ignore_collect(collection_path, config):
    """A file that nothing can be selected of is not even imported."""
    chosen = config.stash[SELECTION]
    if chosen is None or collection_path.is_dir() or not collection_path.name.startswith("test_"):
        return None
    return None if chosen.may_have(relative(config.rootpath, collection_path)) else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark what is quick, before `-m` looks, and leave the selected ones."""
    for item in items:
        path = relative(config.rootpath, item.path)
        if not path.startswith(NOT_QUICK) and item.get_closest_marker("slow") is None:
            item.add_marker("quick")
    chosen = config.stash[SELECTION]
    if chosen is not None:
        kept = [item for item in items if chosen.has(item)]
        left_out = [item for item in items if not chosen.has(item)]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = kept
