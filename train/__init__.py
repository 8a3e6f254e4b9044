"""The engine, the judge of claims, data, experiments, and the commands that run them.

What a notebook needs is here by one name each, imported when it is asked for:

    from lemmata.train import compare, load
    comparison = compare(load("configs/quickstart.py"))

`fit` trains one task of your own; `compare` judges several.
"""

import importlib
from typing import Any

_WHERE = {
    "compare": "judge.compare",
    "table": "judge.compare",
    "picture": "judge.plots",
    "complete": "judge.config",
    "load": "judge.config",
    "fit": "engine.loop",
    "minimize": "engine.minimize",
    "Metric": "engine.task",
    "Objective": "engine.task",
    "Procedure": "engine.task",
    "Summary": "engine.task",
    "Task": "engine.task",
    "TwoPass": "engine.task",
    "Arrays": "engine.sources",
    "Batches": "engine.sources",
    "Sampler": "engine.sources",
    "Stream": "engine.stream",
}

__all__ = sorted(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
