"""What needs what, read from the sources: nothing is imported.

The nodes are files by their path from the root: Python files and notebooks. A file needs

- what it imports, at its top or inside a function, absolutely or relatively, with the packages on the way; and
  `from lemmata.methods import kto`, which the package finds by itself;
- what it names in a string that is no docstring: a module or "module:attribute" (`python -m` of a package runs its
  `__main__`), the path of a config; where it says `experiment = "name"`, the experiment of that name, and of a family
  those methods whose names it has;
- a method's folder, all files of it; a test, the `conftest.py` of its folder and of those above.

It errs on the side of too much: a name that is mentioned counts as needed.
"""

import ast
import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

PACKAGE = "lemmata"
FOLDERS = ("core", "methods", "train", "configs", "tests", "colabs")
EXPERIMENTS = "train/experiments"
_EXPERIMENT = re.compile(r"experiments?(?:\s*=\s*|\.get\()\\?[\"'](\w+)")
_CONFIG = re.compile(r"configs/[\w/]+\.py")
_FILE = re.compile(r"[\w-]+\.\w+")


class Graph:
    """The sources below a root, and what each of them needs.

    Args:
        root: of the repository, which is the package's own folder.
        gone: files that were there and are no more; what still imports them needs them.
    """

    def __init__(self, root: Path, gone: Iterable[str] = ()):
        self.root = root
        present = [*root.glob("*.py"), *(path for folder in FOLDERS for path in (root / folder).rglob("*"))]
        sources = [path.relative_to(root) for path in present if path.suffix in (".py", ".ipynb")]
        names = {path.as_posix() for path in sources if ".ipynb_checkpoints" not in path.parts}
        self._there = names
        self.files = frozenset(names | {name for name in gone if name.endswith((".py", ".ipynb"))})
        self._needs: dict[str, frozenset[str]] = {}

    def needs(self, file: str) -> frozenset[str]:
        """What a file needs directly."""
        if file not in self._needs:
            found = set(self._packages(file)) | set(self._conftests(file))
            if file in self._there:
                found |= set(self._named(file))
            self._needs[file] = frozenset(found - {file})
        return self._needs[file]

    def closure(self, *files: str) -> frozenset[str]:
        """The files themselves, what they need, what that needs, and so on."""
        found, waiting = set(files), list(files)
        while waiting:
            new = self.needs(waiting.pop()) - found
            found |= new
            waiting += new
        return frozenset(found)

    def touched(self, changed: Iterable[str]) -> frozenset[str]:
        """Every file whose closure has one of `changed`, which may be files of any kind.

        A file that is neither Python nor a notebook touches what has its name in a string, and a module beside it that
        is called alike.
        """
        found = {origin for name in changed for origin in self._origins(name)}
        users: dict[str, set[str]] = {}
        for file in self.files:
            for needed in self.needs(file):
                users.setdefault(needed, set()).add(file)
        waiting = list(found)
        while waiting:
            new = users.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return frozenset(found)

    def module(self, dotted: str) -> str | None:
        """The file of a module of the package or of tests/support, if there is one."""
        first, _, rest = dotted.partition(".")
        place = rest.replace(".", "/") if first == PACKAGE else f"tests/support/{dotted.replace('.', '/')}"
        return self._at(place)

    # ---------------------------------------------------------------------------------------------------- the sources

    def _at(self, place: str) -> str | None:
        candidates = (f"{place}.py", f"{place}/__init__.py") if place else ("__init__.py",)
        return next((name for name in candidates if name in self.files), None)

    def _packages(self, file: str) -> Iterator[str]:
        """The `__init__.py` of the packages that it lies in: to import it is to run them."""
        if file.startswith(("tests/", "colabs/")):
            return
        for parent in PurePosixPath(file).parents:
            if (init := (parent / "__init__.py").as_posix()) in self.files:
                yield init

    def _conftests(self, file: str) -> Iterator[str]:
        if file.startswith("tests/"):
            for parent in PurePosixPath(file).parents:
                if (conftest := (parent / "conftest.py").as_posix()) in self.files:
                    yield conftest

    def _named(self, file: str) -> Iterator[str]:
        tree, source = _parsed(self.root / file)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from self._import(alias.name)
            elif isinstance(node, ast.ImportFrom):
                yield from self._import_from(file, node)
        for text in _strings(self.root / file):
            yield from self._in_string(text)
        if file.startswith(("tests/", "configs/")):
            for name in _EXPERIMENT.findall(source):
                yield from self._experiment(name, source)
        if file.startswith("methods/") and file.endswith("/__init__.py"):  # what it imports when it is asked for
            yield from self.of_method(file.removesuffix("/__init__.py"))

    def _import(self, dotted: str) -> Iterator[str]:
        if (found := self.module(dotted)) is not None:
            yield found

    def _import_from(self, file: str, node: ast.ImportFrom) -> Iterator[str]:
        base = node.module or ""
        if node.level:
            parents = PurePosixPath(file).parents
            if node.level > len(parents):
                return
            above = "" if str(parents[node.level - 1]) == "." else parents[node.level - 1].as_posix()
            base = ".".join([PACKAGE, *above.split("/")] if above else [PACKAGE]) + (f".{base}" if base else "")
        yield from self._import(base)
        for alias in node.names:
            if base == f"{PACKAGE}.methods" and alias.name in self.methods:
                yield from self.of_method(self.methods[alias.name])
            else:
                yield from self._import(f"{base}.{alias.name}")

    def _in_string(self, text: str) -> Iterator[str]:
        dotted = text.partition(":")[0]
        if re.fullmatch(rf"{PACKAGE}(\.\w+)*", dotted):
            if (found := self.module(dotted)) is None and (found := self.module(dotted.rpartition(".")[0])) is None:
                return
            yield found
            if found.endswith("/__init__.py") and (main := found.replace("__init__", "__main__")) in self.files:
                yield main
        for path in _CONFIG.findall(text):
            if path in self.files:
                yield path

    def _experiment(self, name: str, source: str) -> Iterator[str]:
        """The experiment, and the files of a family that have a function which `source` or the family's base names."""
        for place in (f"{EXPERIMENTS}/{name}", f"{EXPERIMENTS}/studies/{name}"):
            if (found := self._at(place)) is None:
                continue
            yield found
            words = set(re.findall(r"\w+", source)) | _strings(self.root / found) if found in self._there else set()
            for file in self.files:
                inside = PurePosixPath(file)
                if inside.parent.as_posix() == place and not inside.name.startswith("_"):
                    body = _parsed(self.root / file)[0].body if file in self._there else []
                    if words & {node.name for node in body if isinstance(node, ast.FunctionDef)}:
                        yield file

    # -------------------------------------------------------------------------------------------------------- methods

    @functools.cached_property
    def methods(self) -> dict[str, str]:
        """Method -> its file or folder under methods/, without a suffix."""
        return {name: path.removesuffix(".py") for name, path in places(self.root).items()}

    def of_method(self, place: str) -> list[str]:
        """The files of a method, `place` as in `methods`, or its folder."""
        place = place if place.startswith("methods/") else f"methods/{place}"
        if place.removeprefix("methods/") not in self.methods.values():
            return []
        return sorted(file for file in self.files if file == f"{place}.py" or file.startswith(f"{place}/"))

    def _origins(self, name: str) -> Iterator[str]:
        if name in self.files:
            yield name
            return
        beside = PurePosixPath(name).with_suffix(".py").as_posix()
        if beside in self.files:
            yield beside
        base = PurePosixPath(name).name
        for file in self._there:
            if any(base in _FILE.findall(text) for text in _strings(self.root / file) if base in text):
                yield file


@functools.cache
def _parsed(path: Path) -> tuple[ast.Module, str]:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        source = code_of(json.loads(source))
    try:
        return ast.parse(source, str(path)), source
    except SyntaxError:  # pytest will say so when it comes to it
        return ast.Module([], []), source


@functools.cache
def _strings(path: Path) -> frozenset[str]:
    """Those that are no docstrings."""
    nodes = list(ast.walk(_parsed(path)[0]))
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return frozenset(node.value for node in texts if id(node) not in docs)


def places(root: Path) -> dict[str, str]:
    """The path under methods/ of each method by its name, as the catalogue finds them."""
    from lemmata.methods import catalogue

    return catalogue.places(root / "methods")


def code_of(notebook: dict) -> str:
    """The Python of a notebook's cells, without what only IPython understands."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join(cells).splitlines()
    return "\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in lines)


def names_in(notebook: dict) -> list[str]:
    """What the code of a notebook imports, each part of a dotted name for itself, and other names in it."""
    found = []
    for node in ast.walk(ast.parse(code_of(notebook))):
        if isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found += (getattr(node, "module", None) or "").split(".")
            found += [part for alias in node.names for part in alias.name.split(".")]
    return list(dict.fromkeys(found))
