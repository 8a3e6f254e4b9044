"""The catalogue reads the modules; the modules, the README, the goldens and the configs say the same."""

import ast
import doctest
import importlib
import inspect
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from golden_cases import all_cases, is_state

import lemmata
import lemmata.methods
from lemmata.methods import __main__ as command
from lemmata.methods import catalogue
from lemmata.methods.catalogue import methods

ROOT = pathlib.Path(lemmata.__file__).parent
each_method = pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)

HEAVY = ("flax", "optax", "chex", "orbax", "tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "scipy.stats")


def test_every_file_under_methods_is_a_kind_a_method_or_a_part_of_one():
    places = {ROOT / "methods" / method.path for method in methods()}
    for path in (ROOT / "methods").rglob("*.py"):
        if path.parent == ROOT / "methods" or path in places or path.parent in places:
            continue
        assert path.name == "__init__.py", f"{path} is no method and no part of one"
        assert any(path.parent in place.parents for place in places), f"{path.parent} holds no method"


def test_methods_have_a_config_and_goldens_and_the_goldens_a_method():
    for method in methods():
        assert (ROOT / method.config).is_file()
    assert {case.method for case in all_cases()} == {method.name for method in methods()}


@each_method
def test_functions_are_those_of_the_module(method):
    """As the imported module has them; what it imports as itself is there, and comes last."""
    module = importlib.import_module(method.module)
    own = [name for name, value in vars(module).items() if callable(value) and value.__module__ == module.__name__]
    own = [name for name in own if not name.startswith("_") and not is_state(getattr(module, name))]
    assert list(method.functions[: len(own)]) == own
    for name in method.functions[len(own) :]:
        assert callable(getattr(module, name))
        assert getattr(module, name).__name__ == name


@each_method
def test_goldens_call_functions_of_the_record(method):
    calls = {case.call for case in all_cases() if case.method == method.name}
    prefix = method.module.removeprefix("lemmata.")
    assert calls <= {f"{prefix}:{name}" for name in method.functions}


@each_method
def test_each_function_documents_itself(method):
    module = importlib.import_module(method.module)
    for name in method.functions:
        text = inspect.getdoc(getattr(module, name)) or ""
        for section in ("Args:", "Returns:", "Example:"):
            assert section in text, f"{name}: no {section}"


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["lemmata", *parts]).removesuffix(".__init__")


@pytest.mark.parametrize(
    "module", [dotted(path) for folder in ("core", "methods") for path in sorted((ROOT / folder).rglob("*.py"))]
)
def test_examples_in_docstrings_hold(module):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(
        importlib.import_module(module), extraglobs={"jax": jax, "jnp": jnp}, optionflags=flags, verbose=False
    )
    assert result.failed == 0


def test_readme_is_what_the_command_writes():
    assert command.README.read_text() == command.markdown(methods()), "run python -m lemmata.methods --markdown"


def test_links_of_the_readme_lead_somewhere():
    for method in methods():
        assert (ROOT / "methods" / method.path).exists()


def test_command_lists_every_method_without_jax():
    program = (
        "import sys; from lemmata.methods.__main__ import main; main([]); main(['--departures']);"
        "sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for method in methods():
        assert method.name in done.stdout
        assert method.functions[-1] in done.stdout


# -------------------------------------------------------------------------------------------- what a source must say


def tree(folder, files):
    """`folder` with these files, and an `__init__.py` in each folder above them; returns it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        for parent in [*path.relative_to(folder).parents][:-1]:
            (folder / parent / "__init__.py").touch()
    return folder


def module(citation, body=""):
    departures = "Departures: the program drops a factor;\nhere it stays."
    return f'"""A method: what it does.\n\n{citation}\n\n{departures}\n"""\n\n{body}'


PLAIN = 'Doe, Roe. "A Title." ICML 2021, arXiv:2106.13401.'


@pytest.mark.parametrize(
    ("citation", "expected"),
    [
        (PLAIN, (("Doe", "Roe"), "A Title", "ICML", "2106.13401", 2021)),
        ('Doe.\n"A\nTitle." 2024,\narXiv:2411.02939.', (("Doe",), "A Title", None, "2411.02939", 2024)),
        (
            'Doe and Roe. "Why? A Title?" Annals of 7, B 1999.',
            (("Doe", "Roe"), "Why? A Title?", "Annals of 7, B", None, 1999),
        ),
        (
            'Li et al. "A: B." NeurIPS 2020, arXiv:cs/0101001.',
            (("Li", "et al."), "A: B", "NeurIPS", "cs/0101001", 2020),
        ),
        (
            'Doe, de la Roe, et al. "T." 2024, arXiv:2411.02939. The loss is of Poe. "U." ICML 2025, arXiv:2402.01306.',
            (("Doe", "de la Roe", "et al."), "T", None, "2411.02939", 2024),
        ),
    ],
)
def test_citations_in_the_one_form(tmp_path, citation, expected):
    method = catalogue.read("bounds/mine.py", tree(tmp_path, {"bounds/mine.py": module(citation)}))
    assert (method.authors, method.title, method.venue, method.arxiv, method.year) == expected
    assert (method.name, method.kind, method.config) == ("mine", "bounds", "configs/bounds/mine.py")
    assert (method.summary, method.departures) == (
        "A method: what it does.",
        "the program drops a factor; here it stays.",
    )


@pytest.mark.parametrize(
    "citation",
    [
        "Doe, Roe: A Title, ICML 2021.",
        'Doe. "A Title." 2021.',  # neither a venue nor an id
        'Doe. "A Title." arXiv:2106.13401, 2021.',
        'Doe. "A Title." ICML 2021, arXiv:2106.13401 (2020).',
        f"See {PLAIN}".replace(".", "", 1),
        "",
    ],
)
def test_a_docstring_without_a_citation_is_an_error_that_names_the_file(tmp_path, citation):
    folder = tree(tmp_path, {"losses/odd.py": module(citation)})
    with pytest.raises(ValueError, match=r"odd\.py: the second paragraph of the docstring must begin with the paper"):
        catalogue.read("losses/odd.py", folder)
    (folder / "losses/odd.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"odd\.py"):
        catalogue.read("losses/odd.py", folder)


SOURCES = {
    "layers/mine/__init__.py": module(
        PLAIN,
        """
import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from .. import plain
from ._more import LIMIT as LIMIT
from ._more import Memory as Memory
from ._more import helper, second as second
from ._more import _hidden as _hidden

if TYPE_CHECKING:
    from ._nets import Net as Net

Tree = dict


class State(NamedTuple):
    x: int


@dataclasses.dataclass(frozen=True)
class Other:
    x: int


def first():
    if True:
        def inner(): ...


class Layer(plain.Module): ...


def _private(): ...
""",
    ),
    "layers/mine/_more.py": "from ._deep import origin as second\nfrom flax import struct\nLIMIT = 3\n"
    "def helper(): ...\ndef _hidden(): ...\n@struct.dataclass\nclass Memory: ...\n",
    "layers/mine/_deep.py": "def origin(): ...\n",
    "layers/mine/_nets.py": "class Net: ...\n",
    "layers/plain.py": module(PLAIN, "def only(): ...\n"),
    "losses/deep/other.py": module(PLAIN),
}


def test_public_functions_are_those_defined_and_those_imported_as_themselves(tmp_path):
    folder = tree(tmp_path, SOURCES)
    assert catalogue.read("layers/mine", folder).functions == ("first", "Layer", "second", "Net")
    assert catalogue.read("layers/plain.py", folder).functions == ("only",)


def test_methods_are_found_by_their_files(tmp_path):
    folder = tree(tmp_path, SOURCES)
    (folder / "layers/__pycache__").mkdir()
    (folder / "layers/left_over").mkdir()  # a folder without a module is none
    assert catalogue.places(folder) == {
        "mine": "layers/mine",
        "plain": "layers/plain.py",
        "other": "losses/deep/other.py",
    }
    method = catalogue.read("layers/mine", folder)
    assert (method.name, method.kind, method.module) == ("mine", "layers", "lemmata.methods.layers.mine")


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ("losses/plain.py", r"losses/plain\.py: a method must have a name of its own, got that of layers/plain\.py"),
        ("layers/losses.py", r"a method must not be called like a kind or a module, got 'losses'"),
        ("layers/deep.py", r"a method must not be called like a kind or a module, got 'deep'"),
    ],
)
def test_a_name_means_one_method(tmp_path, extra, match):
    with pytest.raises(ValueError, match=match):
        catalogue.places(tree(tmp_path, SOURCES | {extra: module(PLAIN)}))


def test_departures_are_gathered_from_docstrings(tmp_path):
    citation = 'Doe. "Title." ICML 2020.'
    folder = tree(tmp_path, {"losses/contrastive/name.py": module(citation, "def a_loss(): ...")})
    method = catalogue.read("losses/contrastive/name.py", folder)
    assert "losses/contrastive/name (ICML)\n  the program drops" in command.departures([method])
    assert "[" not in command.markdown([method]).split("Title, ")[1].split(",")[0]  # no link where no arXiv id
    assert "No method departs" in command.departures([])


# ---------------------------------------------------------------------------------------------------------------- cite


def test_cite_prints_a_bibtex_entry(capsys):
    command.main(["--cite", "demi"])
    assert (
        capsys.readouterr().out
        == """\
@article{sordoni2021demi,
  author = {Sordoni and Dziri and Schulz and Gordon and Bachman and {Tachet des Combes}},
  title = {{Decomposed Mutual Information Estimation for Contrastive Representation Learning}},
  journal = {ICML},
  year = {2021},
  eprint = {2106.13401},
  archivePrefix = {arXiv},
}
"""
    )


def test_entries_of_all_kinds(tmp_path):
    def entry(citation):
        return catalogue.read("bounds/a_b.py", tree(tmp_path, {"bounds/a_b.py": module(citation)})).bibtex

    assert entry('Núñez et al. "T." 2024, arXiv:2411.02939.').startswith(
        "@misc{nunez2024ab,\n  author = {Núñez and others},"
    )
    assert "journal" not in entry('Doe. "T." 2024, arXiv:2411.02939.')
    assert "eprint" not in entry('Doe. "T." ICML 2024.')
    assert r"title = {{A \& B, 5 \%}}," in entry('Doe. "A & B, 5 %." ICML 2024.')


def test_keys_of_entries_differ():
    keys = [method.bibtex.partition(",")[0] for method in methods()]
    assert len(set(keys)) == len(keys)


def test_an_unknown_name_is_one_line_that_names_the_nearest():
    done = subprocess.run(
        [sys.executable, "-m", "lemmata.methods", "--cite", "kt0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "--cite must name a method, got 'kt0'; the nearest is 'kto'.\n"


# ------------------------------------------------------------------------------------------------------------- imports


def test_methods_are_imported_by_their_name_alone_and_when_asked_for():
    program = """
import sys
from lemmata.methods import *
import lemmata.methods
assert {"kto", "demi", "dib_mix"} <= set(dir(lemmata.methods))
from lemmata.methods import bounds, losses
assert "jax" not in sys.modules
from lemmata.methods import kto
assert kto is sys.modules["lemmata.methods.losses.alignment.kto"]
import lemmata.methods.losses.alignment.kto as other
assert kto is other
assert "lemmata.methods.bounds.demi" not in sys.modules
assert bounds is sys.modules["lemmata.methods.bounds"]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_method_is_an_attribute_error_that_names_the_nearest():
    with pytest.raises(AttributeError, match="has no method 'clipped_unifrom'; the nearest is 'clipped_uniform'"):
        _ = lemmata.methods.clipped_unifrom
    assert not hasattr(lemmata.methods, "__wrapped__")


def frameworks_of(method):
    """What the module imports of the frameworks that a Flax module or an optax transformation is made of, at once."""
    return frozenset(imported(pathlib.Path(inspect.getsourcefile(importlib.import_module(method.module)))))


def imported(source):
    names = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1:  # of the method's own folder
            own = [node.module] if node.module else [alias.name for alias in node.names]
            for path in (source.with_name(f"{name}.py") for name in own):
                names |= imported(path)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
    return names & {"flax", "optax"}


# Imports JAX and the frameworks, then forks once a module, so that each is the first that its process imports.
IMPORT_EACH = """
import importlib, os, sys, time
import jax
modules, frameworks, heavy = (argument.split() for argument in sys.argv[1:])
for name in frameworks:
    importlib.import_module(name)
for module in modules:
    if os.fork():
        assert os.wait()[1] == 0, module
        continue
    start = time.perf_counter()
    importlib.import_module(module)
    print(module, time.perf_counter() - start, *(name for name in heavy if name in sys.modules), flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("frameworks", [(), ("flax",), ("optax",), ("flax", "optax")], ids=",".join)
def test_import_adds_nothing_heavy_to_jax(frameworks):
    """At most 0.2 s beyond `import jax` and what a layer (Flax) or a transformation (optax) is made of.

    The best of up to three processes: a busy machine shall not decide.
    """
    modules = [method.module for method in methods() if frameworks_of(method) == set(frameworks)]
    heavy = [name for name in HEAVY if name not in frameworks and not (name == "chex" and "optax" in frameworks)]
    names = ["flax.linen" if name == "flax" else name for name in frameworks]
    best = dict.fromkeys(modules, float("inf"))
    for _ in range(3):
        slow = [module for module, seconds in best.items() if seconds > 0.2]
        if slow:
            arguments = [" ".join(part) for part in (slow, names, heavy)]
            command = [sys.executable, "-c", IMPORT_EACH, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            for module, seconds, *imported in map(str.split, done.stdout.splitlines()):
                assert not imported, module
                best[module] = min(best[module], float(seconds))
    assert all(seconds <= 0.2 for seconds in best.values()), best
