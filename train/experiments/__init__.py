"""What is compared, and how: a folder a family of methods, and `studies`, one paper's own world each.

An experiment is a module, a family's folder or a study, with

- `defaults() -> ConfigDict`: its `data`, `model`, `protocol` and `method` sections with every key that a config may set
  (one that has no `defaults` is given whatever the config's file sets);
- `METRICS: dict[str, Metric]`, or a function of the config that returns one: the held-out metrics that it returns,
  with labels and units for tables and plots;
- at least one of
  `build(config) -> Task`: advanced step by step by the engine, which scans, vmaps over seeds, shards and checkpoints;
  `compute(config, *, key) -> dict[str, Array]`: one pure function, jitted and vmapped over seeds by the engine;
  `run(config, *, seed) -> dict[str, float]`: on the host, one seed at a time, for what is not one JAX program: other
  libraries' baselines, or several models trained one after the other;
  and, where it has several, `kind(config) -> "build" | "compute" | "run"`, which says which of them an arm takes;
- if it has them, `references(config) -> dict[str, dict[str, float]]` (metric -> label -> value: known constants, drawn
  as horizontal lines), `figure(config, results) -> matplotlib.figure.Figure`, which replaces the standard plot
  (`results`: arm -> `report.ArmResult`), and `SMALL`, values of dotted keys with which it runs in a second or two.

A family owns data, protocol, evaluation and figure. A method of it is one function in a file of the folder whose name
has no underscore in front: its keyword-only arguments, with their defaults, are the settings that `config.method` has
for it, beside its `name`. Every name may be "module:attribute" instead, of a user's own code.
"""

import ast
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from ..engine.settings import is_reference, nearest, resolve
from ..engine.task import Metric, Task
from ..engine.types import ConfigDict

Kind = Literal["build", "compute", "run"]
KINDS: tuple[Kind, ...] = ("build", "compute", "run")
REQUIRED = inspect.Parameter.empty  # stands for the default of a setting that has none


class Experiment:
    """A module as described above, with its optional parts filled in.

    Args:
        name: a family, a study, or "module:attribute": another module, an object with the same attributes, or a
            `build` alone.
        module: default: the one that the name stands for.

    Raises:
        ValueError: no such experiment; names the nearest.
    """

    def __init__(self, name: str, module: Any = None):
        self.name, self.module = name, module or _find(name)
        if not any(hasattr(self.module, kind) for kind in KINDS):
            raise ValueError(f"experiment: {name!r} has none of {', '.join(KINDS)}.")

    def defaults(self) -> ConfigDict:
        """Its sections."""
        found = getattr(self.module, "defaults", None)
        return ConfigDict({}) if found is None else found()

    def metrics(self, config: Any) -> dict[str, Metric]:
        """The held-out metrics that this config reports."""
        metrics = cast(Any, getattr(self.module, "METRICS", {}))
        return cast(dict[str, Metric], metrics(config) if callable(metrics) else metrics)

    def kind(self, config: Any) -> Kind:
        """Which of the module's functions runs this config."""
        if hasattr(self.module, "kind"):
            return self.module.kind(config)
        return next(kind for kind in KINDS if hasattr(self.module, kind))

    def build(self, config: Any, arm: str) -> Task:
        """The task of an arm, made anew: a stream has a position, which each run starts from the beginning."""
        return self.module.build(config)

    def references(self, config: Any) -> dict[str, dict[str, float]]:
        """Known constants by metric and label."""
        return self.module.references(config) if hasattr(self.module, "references") else {}

    # ------------------------------------------------------------------------------------------------- its methods

    @functools.cached_property
    def methods(self) -> dict[str, str]:
        """Method -> the module that has it; none in a study."""
        return methods_of(self.module)

    def method(self, name: str) -> Callable:
        """The function of that name, or of a "module:attribute".

        Raises:
            ValueError: no such method; names the nearest.
        """
        if isinstance(name, str) and is_reference(name):
            function = resolve("method.name", name)
            if not callable(function):
                raise ValueError(f"method.name: {name!r} is no function.")
            return function
        if name not in self.methods:
            raise ValueError(
                f"method.name: {self.name} has no method {name!r}.{nearest(str(name), self.methods)} "
                f'It has {", ".join(self.methods)}; a "module:function" of your own will do.'
            )
        return getattr(importlib.import_module(self.methods[name]), name)

    def method_settings(self, name: str) -> dict[str, Any]:
        """The keyword-only arguments of a method, with their defaults; `REQUIRED` where there is none."""
        parameters = inspect.signature(self.method(name)).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def bound(self, config: ConfigDict) -> Callable:
        """The method that a `method` section names, with its settings."""
        settings = config.to_dict()
        return functools.partial(self.method(settings.pop("name")), **settings)


class GivenTasks(Experiment):
    """Tasks that a user built, one an arm, as an experiment.

    Args:
        tasks: arm -> `Task`, or a function from the arm's config to one.

    Raises:
        ValueError: no task, or something else.
    """

    def __init__(self, tasks: Mapping[str, Task | Callable[[ConfigDict], Task]]):
        if not tasks:
            raise ValueError("tasks must hold at least one task by the name of its arm, got none.")
        for arm, task in tasks.items():
            if not (isinstance(task, Task) or callable(task)):
                raise ValueError(f"tasks: {arm!r} must be a Task, or a function config -> Task, got {task!r}.")
        super().__init__("given tasks", _Namespace("given tasks", build=None))
        self.tasks = dict(tasks)

    def build(self, config: Any, arm: str) -> Task:
        """The arm's task."""
        task = self.tasks[arm]
        return task if isinstance(task, Task) else task(config)


def methods_of(module: ModuleType) -> dict[str, str]:
    """Public function -> dotted module, of the files of a family's folder; {} for a module that is no such folder.

    Files are read, not imported. Those with an underscore in front are the family's own.

    Raises:
        ValueError: two files have a function of one name.
    """
    paths = [Path(path) for path in getattr(module, "__path__", ())]
    found: dict[str, str] = {}
    if not paths or _is_study(module):
        return found
    for file in sorted(file for path in paths for file in path.glob("[!_]*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                where = f"{module.__name__}.{file.stem}"
                if node.name in found:
                    raise ValueError(f"method {node.name!r} stands in {found[node.name]} and in {where}.")
                found[node.name] = where
    return found


def _is_study(module: ModuleType) -> bool:
    return module.__name__.startswith(f"{__name__}.studies.")


@functools.cache
def names() -> Mapping[str, str]:
    """The experiments there are -> their modules: families, then studies."""
    from . import studies

    found = {m.name: f"{__name__}.{m.name}" for m in pkgutil.iter_modules(__path__) if m.ispkg and m.name != "studies"}
    return found | {m.name: f"{studies.__name__}.{m.name}" for m in pkgutil.iter_modules(studies.__path__)}


def get(name: str) -> Experiment:
    """The experiment of that name, or a ValueError that names the nearest."""
    return Experiment(name)


def _find(name: str) -> Any:
    if is_reference(name):
        found = resolve("experiment", name)
        if not callable(found) or hasattr(found, "build"):
            return found
        module = importlib.import_module(name.partition(":")[0])  # a `build`; what else it has stands beside it
        beside = ("defaults", "METRICS", "references", "figure", "SMALL")
        return _Namespace(name, build=found, **{key: vars(module)[key] for key in beside if key in vars(module)})
    if name not in names():
        raise ValueError(f"experiment: no experiment {name!r}.{nearest(name, names())} There are {', '.join(names())}.")
    return importlib.import_module(names()[name])


class _Namespace:
    """A function `build` as an experiment."""

    def __init__(self, name: str, **attributes: Any):
        self.__name__ = name
        self.__dict__.update(attributes)
