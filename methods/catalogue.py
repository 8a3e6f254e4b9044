r"""Every method of the library, as its own file tells of it. Nothing is listed here, and nothing imports JAX.

A method is `methods/<kind>/<name>.py`, or a folder of that name: `__init__.py`, which has the public functions, and
other files whose names begin with an underscore. The second paragraph of its docstring begins with the paper,

    Authors. "Title." Venue 2025, arXiv:2509.02510.

by surnames, "Li et al." where the rest is not known; venue or arXiv id may be missing, and more may follow. Its public
functions are the functions and Flax modules that its source defines without an underscore, or imports `as` themselves
(also for type checkers alone, where it imports them when they are asked for). States, the NamedTuples and dataclasses
that functions take and give, are none.
"""

import ast
import difflib
import functools
import pathlib
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

Definition = ast.FunctionDef | ast.ClassDef

_FOLDER = pathlib.Path(__file__).parent
_CITATION = re.compile(
    r'(?P<authors>[^"]+)\. "(?P<title>[^"]+?)(?:\.|(?<=[?!]))" '
    r'(?:(?P<venue>[^":]+?),? )??(?P<year>(?:19|20)\d\d)(?:, arXiv:(?P<arxiv>[\w.-]+(?:/\d+)?))?\.(?: |$)'
)


class Method(NamedTuple):
    """One paper, one module or folder.

    Attributes:
        name: of the module, of its goldens and of its config.
        kind: its folder under `methods/`, such as "bounds" or "losses/contrastive".
        path: its file or folder under `methods/`, "bounds/demi.py" or "clustering/dib_mix".
        functions: the public functions (and Flax modules), in the order of the module, the imported ones last.
        authors: surnames; the last one may be "et al."
        title: of the paper.
        venue: where it was published, or None.
        arxiv: its id there, or None.
        year: of publication.
        docstring: of the module.
    """

    name: str
    kind: str
    path: str
    functions: tuple[str, ...]
    authors: tuple[str, ...]
    title: str
    venue: str | None
    arxiv: str | None
    year: int
    docstring: str

    @property
    def module(self) -> str:
        """Dotted name to import, "lemmata.methods.bounds.demi"."""
        return dotted(self.path)

    @property
    def config(self) -> str:
        """Path from the repository root, "configs/bounds/demi.py"."""
        return f"configs/{self.kind}/{self.name}.py"

    @property
    def source(self) -> str:
        """Where to find the paper, "arXiv:<id>" if it is there, else the venue."""
        return f"arXiv:{self.arxiv}" if self.arxiv else self.venue or ""

    @property
    def url(self) -> str | None:
        """Where to read the paper, if it is on arXiv."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        return self.docstring.partition("\n")[0]

    @property
    def departures(self) -> str | None:
        """What the docstring says on where the released program and the paper differ, on one line; None if nothing."""
        for paragraph in self.docstring.split("\n\n"):
            if paragraph.startswith("Departures:"):
                return " ".join(paragraph.removeprefix("Departures:").split())
        return None

    @property
    def bibtex(self) -> str:
        """The paper as a BibTeX entry, with the key "sordoni2021demi": first author, year, method."""
        ascii_name = unicodedata.normalize("NFKD", self.authors[0].split()[0]).encode("ascii", "ignore").decode()
        key = re.sub(r"[^a-z0-9]", "", f"{ascii_name}{self.year}{self.name}".lower())
        names = [f"{{{name}}}" if " " in name else name for name in self.authors]  # several words are one surname
        if self.authors[-1] == "et al.":
            names[-1] = "others"
        fields = {"author": " and ".join(map(_latex, names)), "title": f"{{{_latex(self.title)}}}"}
        fields |= {"journal": _latex(self.venue)} if self.venue else {}
        fields |= {"year": str(self.year)}
        fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"} if self.arxiv else {}
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
        return "\n".join([f"@{'article' if self.venue else 'misc'}{{{key},", *lines, "}"])


@functools.cache
def methods() -> tuple[Method, ...]:
    """All methods, by kind and name.

    Raises:
        ValueError: what `places` and `read` raise.
    """
    return tuple(sorted(map(read, places().values()), key=lambda method: (method.kind, method.name)))


@functools.cache
def places(folder: pathlib.Path = _FOLDER) -> dict[str, str]:
    """The path under `methods/` of each method by its name, from the names of files alone.

    Args:
        folder: where the kinds are.

    Raises:
        ValueError: two methods of one name, or a method that is called like a kind or like a module of this package:
            `from lemmata.methods import <name>` means one thing.
    """
    taken = {path.stem for path in folder.glob("*.py")}
    found: list[pathlib.Path] = []

    def visit(kind: pathlib.Path) -> None:
        for path in sorted(kind.iterdir()):
            if path.name.startswith(("_", ".")):
                continue
            if (path.suffix == ".py" and kind != folder) or _is_method(path):
                found.append(path)
            elif (path / "__init__.py").is_file():
                taken.add(path.name)
                visit(path)

    visit(folder)
    by_name: dict[str, str] = {}
    for path in found:
        if path.stem in taken:
            raise ValueError(f"{path}: a method must not be called like a kind or a module, got {path.stem!r}.")
        if path.stem in by_name:
            raise ValueError(f"{path}: a method must have a name of its own, got that of {by_name[path.stem]}.")
        by_name[path.stem] = path.relative_to(folder).as_posix()
    return by_name


def read(path: str, folder: pathlib.Path = _FOLDER) -> Method:
    """The record of one method, from its source.

    Args:
        path: its file or folder under `folder`.
        folder: where the kinds are.

    Raises:
        ValueError: a docstring without a citation of the form above.
    """
    source = folder / path / "__init__.py" if (folder / path).is_dir() else folder / path
    docstring = ast.get_docstring(_parse(source)) or ""
    _, _, rest = docstring.partition("\n\n")
    paragraph = " ".join(rest.partition("\n\n")[0].split())
    cited = _CITATION.match(paragraph)
    if cited is None or not (cited["venue"] or cited["arxiv"]):
        raise ValueError(
            f"{source}: the second paragraph of the docstring must begin with the paper, "
            f'Authors. "Title." Venue 2025, arXiv:2509.02510., got {paragraph[:100]!r}.'
        )
    kind, _, name = path.removesuffix(".py").rpartition("/")
    return Method(
        name=name,
        kind=kind,
        path=path,
        functions=public_functions(source),
        authors=_surnames(cited["authors"]),
        title=cited["title"],
        venue=cited["venue"],
        arxiv=cited["arxiv"],
        year=int(cited["year"]),
        docstring=docstring,
    )


def public_functions(source: pathlib.Path) -> tuple[str, ...]:
    """Names of the functions and Flax modules that a source makes public: those that it defines, then the imported."""
    nodes = _statements(source)
    found: list[tuple[str, Definition | None]] = [(node.name, node) for node in nodes if isinstance(node, Definition)]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            own = [alias.name for alias in node.names if alias.asname == alias.name]
            found += [(name, _definition(_imported_file(source, node), name)) for name in own]
    return tuple(name for name, node in found if node and not name.startswith("_") and not _is_state(node))


def dotted(path: str) -> str:
    """The name to import of a file or folder under `methods/`.

    Example:
        >>> dotted("losses/alignment/kto.py")
        'lemmata.methods.losses.alignment.kto'
    """
    return f"lemmata.methods.{path.removesuffix('.py').replace('/', '.')}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` that is most like `name`."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


# -------------------------------------------------------------------------------------------------------------- reading


def _is_method(folder: pathlib.Path) -> bool:
    """Whether a folder has an `__init__.py` and private modules alone; a kind has methods or other kinds."""
    others = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    has_own = (folder / "__init__.py").is_file() and bool(others)
    return has_own and all(name.startswith("_") for name in others)


def _parse(source: pathlib.Path) -> ast.Module:
    return ast.parse(source.read_text(encoding="utf-8"), str(source))


def _statements(source: pathlib.Path) -> list[ast.stmt]:
    """Those of the module, and those that only a type checker sees."""
    found: list[ast.stmt] = []
    for node in _parse(source).body:
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            found += node.body
        else:
            found.append(node)
    return found


def _imported_file(source: pathlib.Path, node: ast.ImportFrom) -> pathlib.Path:
    if not node.level:
        raise ValueError(f"{source}: what is imported as itself must be of this package, got {node.module!r}.")
    place = source.parents[node.level - 1].joinpath(*(node.module or "").split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _definition(source: pathlib.Path, name: str) -> Definition | None:
    """Where `source` defines it, or whence it imports it; None for what is neither a function nor a class."""
    for node in _statements(source):
        if isinstance(node, Definition) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.level:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _definition(_imported_file(source, node), alias.name)
    return None


def _is_state(node: Definition) -> bool:
    if isinstance(node, ast.FunctionDef):
        return False
    is_tuple = any(_last_name(base) == "NamedTuple" for base in node.bases)
    return is_tuple or any(_last_name(decorator).endswith("dataclass") for decorator in node.decorator_list)


def _last_name(node: ast.expr) -> str:
    """The name itself, or "dataclass" of `flax.struct.dataclass` and of `dataclass(frozen=True)`."""
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _surnames(authors: str) -> tuple[str, ...]:
    several = re.sub(r",? et al$", ", et al.", authors)
    return tuple(re.split(r",? and |, ", several))


def _latex(text: str) -> str:
    return re.sub(r"([&%$#_])", r"\\\1", text)
