"""One module or folder a paper, one folder a kind.

`from lemmata.methods import kto` finds a method without its kind and imports it then. Until a method is asked for, no
JAX is imported.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from . import catalogue as catalogue


def __getattr__(name: str) -> _Any:
    if name.startswith("_"):  # what the import system and inspect look for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    places = catalogue.places()
    if name not in places:
        near = catalogue.nearest(name, places)
        raise AttributeError(f"module {__name__!r} has no method {name!r}; the nearest is {near!r}")
    return _import_module(catalogue.dotted(places[name]))


def __dir__() -> list[str]:
    return sorted({*globals(), *catalogue.places()})
