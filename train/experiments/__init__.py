"""One module a task family; `base` says what each gives the engine."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any, Literal, cast

from .base import Metric

Kind = Literal["build", "compute", "run"]
KINDS: tuple[Kind, ...] = ("build", "compute", "run")


class Experiment:
    """A module of this folder, with the optional parts of `base` filled in."""

    def __init__(self, module: ModuleType):
        self.module = module
        self.name = module.__name__.rsplit(".", 1)[-1]
        self.defaults = module.defaults

    def metrics(self, config: Any) -> dict[str, Metric]:
        """The held-out metrics that this config reports."""
        metrics = cast(Any, self.module.METRICS)
        return cast(dict[str, Metric], metrics(config) if callable(metrics) else metrics)

    def kind(self, config: Any) -> Kind:
        """Which of the module's functions runs this config."""
        if hasattr(self.module, "kind"):
            return self.module.kind(config)
        return next(kind for kind in KINDS if hasattr(self.module, kind))

    def references(self, config: Any) -> dict[str, dict[str, float]]:
        """Known constants by metric and label."""
        return self.module.references(config) if hasattr(self.module, "references") else {}


def names() -> list[str]:
    """The experiments there are."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def get(name: str) -> Experiment:
    """The experiment of that name, or a ValueError that names the nearest."""
    if name not in names():
        from ..config import nearest  # config imports this package

        raise ValueError(f"experiment: no experiment {name!r}.{nearest(name, names())} There are {', '.join(names())}.")
    return Experiment(importlib.import_module(f"{__name__}.{name}"))
