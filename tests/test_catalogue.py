"""The catalogue, the modules, their docstrings, the README, the goldens and the configs say the same."""

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
from lemmata.methods import __main__ as command
from lemmata.methods.catalogue import METHODS, Method

ROOT = pathlib.Path(lemmata.__file__).parent
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)

HEAVY = ("flax", "optax", "chex", "orbax", "tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "scipy.stats")


def public_names(module):
    """Functions and classes that the source defines, in its order, but for states, which functions take and give."""
    defined = [node for node in ast.parse(inspect.getsource(module)).body if hasattr(node, "name")]
    public = [node.name for node in defined if not node.name.startswith("_")]
    return [name for name in public if not is_state(getattr(module, name))]


def test_modules_configs_and_goldens_have_a_record_and_back():
    recorded = {(method.kind, method.name) for method in METHODS}
    assert len(recorded) == len(METHODS)
    for folder in ("methods", "configs"):
        found = {
            (path.parent.relative_to(ROOT / folder).as_posix(), path.stem)
            for path in (ROOT / folder).rglob("*.py")
            if path.parent != ROOT / folder and path.name != "__init__.py"
        }
        if folder == "configs":  # a config may also be there for the engine's own sake
            assert found >= recorded
        else:
            assert found == recorded
    assert {case.method for case in all_cases()} == {name for _, name in recorded}


@each_method
def test_functions_are_those_of_the_module(method):
    assert public_names(importlib.import_module(method.module)) == list(method.functions)


@each_method
def test_goldens_call_functions_of_the_record(method):
    calls = {case.call for case in all_cases() if case.method == method.name}
    prefix = method.module.removeprefix("lemmata.")
    assert calls <= {f"{prefix}:{name}" for name in method.functions}


@each_method
def test_docstring_names_the_paper_and_each_function_documents_itself(method):
    assert method.source in method.docstring
    assert str(method.year) in method.docstring
    module = importlib.import_module(method.module)
    for name in method.functions:
        text = inspect.getdoc(getattr(module, name)) or ""
        for section in ("Args:", "Returns:", "Example:"):
            assert section in text, f"{name}: no {section}"


@pytest.mark.parametrize(
    "module",
    [*(method.module for method in METHODS), *(f"lemmata.core.{path.stem}" for path in ROOT.glob("core/*.py"))],
)
def test_examples_in_docstrings_hold(module):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(
        importlib.import_module(module), extraglobs={"jax": jax, "jnp": jnp}, optionflags=flags, verbose=False
    )
    assert result.failed == 0


def test_readme_is_what_the_command_writes():
    assert command.README.read_text() == command.markdown(METHODS), "run python -m lemmata.methods --markdown"


def test_links_of_the_readme_lead_somewhere():
    for method in METHODS:
        assert (ROOT / method.config).is_file()
        assert (ROOT / "methods" / method.kind / f"{method.name}.py").is_file()


def test_command_lists_every_method_without_jax():
    program = (
        "import sys; from lemmata.methods.__main__ import main; main([]); main(['--departures']);"
        "sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for method in METHODS:
        assert method.name in done.stdout
        assert method.functions[-1] in done.stdout


class Departing(Method):
    docstring = "Name: what it does.\n\nAuthors.\n\nDepartures: the program drops a factor;\nhere it stays.\n\nMore."


def test_departures_are_gathered_from_docstrings():
    method = Departing("name", "losses/contrastive", ("a_loss",), "Title", "ICML", 2020)
    assert method.departures == "the program drops a factor; here it stays."
    assert "losses/contrastive/name (ICML)\n  the program drops" in command.departures([method])
    assert "[" not in command.markdown([method]).split("Title, ")[1].split(",")[0]  # no link where no arXiv id
    assert "No method departs" in command.departures([])


def frameworks_of(method):
    """What the module itself imports of the frameworks that a Flax module or an optax transformation is made of."""
    tree = ast.parse(inspect.getsource(importlib.import_module(method.module)))
    nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in nodes}
    return frozenset(name.split(".")[0] for name in names) & {"flax", "optax"}


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
    modules = [method.module for method in METHODS if frameworks_of(method) == set(frameworks)]
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
