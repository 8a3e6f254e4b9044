"""What may import what, read from the sources: core, then methods, then train, with no arrow back.

The *users* of a core module are whoever imports it, itself or through other core modules: a method (all files of its
folder are one), an experiment family or a study (likewise), or a folder of train such as the engine. What has one user
alone is that user's own and belongs beside it, unless methods are named here that are still to come and need it, too.
"""

import ast
import functools
import pathlib
import re

import pytest

import lemmata
from lemmata.methods import catalogue

ROOT = pathlib.Path(lemmata.__file__).parent
ROOMS = ("core", "methods", "train")

# Core modules of one user today, and the methods of which one will be the second: due when all of them are there.
TO_COME = {
    "core.contrastive": ("kalm_embedding", "demonstration_retrieval", "whitened_cse"),  # in-batch negatives
    "core.linalg": ("whitened_cse",),  # whitening
    "core.networks.lstm": ("price_formation",),
    "core.replay": ("famo2o", "uds", "beclr"),  # what an agent has seen; queues of rows
    "core.straight_through": ("ofq", "unirl", "ftwt", "binary_paragraph_vector"),
}
SHORT_NAMES = ("mvr",)  # what else a method is called

# ------------------------------------------------------------------------------------------------------------- imports


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def modules():
    """`{name: path}` of all modules, such as "core.trees" and "train.engine"."""
    return {name_of(path): path for room in ROOMS for path in (ROOT / room).rglob("*.py")}


def imports_of(name, path, known):
    """Modules of the package that one imports, anywhere in it, for type checkers, too.

    A name that is imported from a package is the module of that name, where there is one, else the package.
    """
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *(node.module or "").split(".")]).strip(".").removeprefix("lemmata.")
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("lemmata.") for alias in node.names if alias.name.startswith("lemmata.")}
    return {other for other in found if other.split(".")[0] in ROOMS and other != name}


@functools.cache
def graph():
    return {name: imports_of(name, path, modules()) for name, path in modules().items()}


@functools.cache
def method_names():
    """`methods.<kind>.<name>` of each method."""
    return {f"methods.{path.removesuffix('.py').replace('/', '.')}" for path in catalogue.places().values()}


@functools.cache
def owner(name):
    """Who a module belongs to: a method, a family or study, a folder of train; itself, elsewhere."""
    parts = name.split(".")
    if parts[0] == "methods":
        return next((method for method in method_names() if f"{name}.".startswith(f"{method}.")), name)
    if parts[0] == "train":
        within_experiments = 4 if parts[1:3] == ["experiments", "studies"] else 3
        return ".".join(parts[: within_experiments if parts[1:2] == ["experiments"] else 2])
    return name


def users(target, imports):
    """Who imports a core module, itself or through other core modules."""
    found, seen, waiting = set(), {target}, [target]
    while waiting:
        wanted = waiting.pop()
        for name in (name for name, others in imports.items() if wanted in others):
            if not name.startswith("core."):
                found.add(owner(name))
            elif name not in seen:
                seen.add(name)
                waiting.append(name)
    return found


# --------------------------------------------------------------------------------------------------------------- rooms


def core_modules():
    return sorted(name for name, path in modules().items() if name.startswith("core.") and path.name != "__init__.py")


@pytest.mark.parametrize("name", core_modules())
def test_a_core_module_has_two_users_or_a_second_one_to_come(name):
    found, awaited = users(name, graph()), set(TO_COME.get(name, ())) - set(catalogue.places())
    assert len(found) >= (1 if awaited else 2), f"{name} serves {sorted(found)} alone: move it there"


def test_what_is_to_come_is_said_of_core_modules():
    assert set(TO_COME) <= set(core_modules())


@pytest.mark.parametrize("name", core_modules())
def test_core_names_no_method(name):
    text = modules()[name].read_text(encoding="utf-8")
    for method in (*catalogue.places(), *SHORT_NAMES):
        assert not re.search(rf"\b{method}\b", text, re.IGNORECASE), f"{name} speaks of {method}"


def test_core_imports_core_alone():
    for name, others in graph().items():
        if name.split(".")[0] == "core":
            assert not {other for other in others if not other.startswith("core")}, name


def test_methods_import_core_and_methods_of_their_kind():
    for name, others in graph().items():
        if owner(name) in method_names():
            kind = owner(name).rpartition(".")[0]
            allowed = {other for other in others if owner(other).rpartition(".")[0] == kind or other.startswith("core")}
            assert others == allowed, f"{name} imports {sorted(others - allowed)}"
        elif name.startswith("methods"):
            assert others <= {"methods", "methods.catalogue"}, name


# ------------------------------------------------------------------------------------------------------ within train

LAYERS = ("engine", "data", "models", "experiments", "judge")  # each imports those before it; commands import all


def layer(name):
    parts = name.split(".")
    return LAYERS.index(parts[1]) if parts[1:2] and parts[1] in LAYERS else len(LAYERS)


def test_no_import_of_train_runs_up():
    for name, others in graph().items():
        if name.startswith("train.") and name != "train":
            above = sorted(other for other in others if other.startswith("train") and layer(other) > layer(name))
            assert not above, f"{name} imports {above}"


def test_a_family_or_a_study_imports_no_other():
    places = {owner(name) for name in modules() if name.startswith("train.experiments.") and name.count(".") > 1}
    places -= {"train.experiments.report", "train.experiments.studies"}
    for name, others in graph().items():
        if owner(name) in places:
            foreign = {owner(other) for other in others} & places - {owner(name)}
            assert not foreign, f"{name} imports {sorted(foreign)}"


def test_no_modules_import_each_other_in_a_circle():
    """A file of a package may import the package, which must not import it in turn."""
    done = set()

    def visit(name, way):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(graph().get(name, ())):
                visit(other, [*way, name])
            done.add(name)

    for name in sorted(graph()):
        visit(name, [])


# -------------------------------------------------------------------------------------------------------- how it reads


def test_imports_are_those_of_every_form(tmp_path):
    known = {"core.trees": None, "core.networks": None, "core.networks.mlp": None, "train.engine.step": None}
    path = tmp_path / "family.py"
    path.write_text("""
import jax, lemmata.train.engine.step
from ...core import trees, checks
from ...core.networks.mlp import MLP
from . import Family
def late():
    from ..engine import step as engine_step
""")
    found = imports_of("train.experiments.family", path, known)
    assert found == {"train.engine.step", "core.trees", "core", "core.networks.mlp", "train.experiments"}
    package = tmp_path / "__init__.py"
    package.write_text("from . import inner\nfrom .inner import x\nfrom ...core.networks import mlp\n")
    known |= {"train.experiments.inner": None}
    assert imports_of("train.experiments", package, known) == {"train.experiments.inner", "core.networks.mlp"}


def test_users_are_counted_once_and_through_core():
    imports = {
        "core.a": set(),
        "core.b": {"core.a"},
        "core.c": {"core.b"},
        "methods.bounds.demi": {"core.a"},
        "methods.clustering.dib_mix": {"core.c"},
        "methods.clustering.dib_mix._kernels": {"core.c"},
        "train.experiments.studies.eeg": {"core.b"},
        "train.experiments.studies.eeg.recordings": {"core.b"},
        "train.engine.step": {"core.c"},
        "train.engine.loop": {"core.c"},
    }
    through_c = {"methods.clustering.dib_mix", "train.engine"}
    assert users("core.c", imports) == through_c
    assert users("core.b", imports) == through_c | {"train.experiments.studies.eeg"}
    assert users("core.a", imports) == through_c | {"train.experiments.studies.eeg", "methods.bounds.demi"}
