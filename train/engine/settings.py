"""What a single setting may be: whole numbers, seeds, and names of things in code."""

import difflib
import importlib
import operator
from typing import Any, cast

import numpy as np

SEEDS = 2**32  # JAX, NumPy and Grain all tell apart the seeds below it, and not all of them those beyond


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """The integer that a setting is.

    Args:
        name: what the caller calls `value`.
        value: a Python or NumPy integer; a bool is none.
        low: its least value.
        high: its largest; None: there is none.

    Raises:
        ValueError: `value` is something else or lies outside.

    Example:
        >>> check_whole("horizon", 0, 1)
        Traceback (most recent call last):
        ValueError: horizon must be an integer of at least 1, got 0.
    """
    whole = not isinstance(value, (bool, np.bool_)) and hasattr(type(value), "__index__")
    if not whole or value < low or (high is not None and value > high):
        expected = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {expected}, got {value!r}.")
    return operator.index(cast(Any, value))


def check_seed(name: str, seed: Any) -> int:
    """The integer that a seed is; two that pass are two different seeds wherever they are used.

    Raises:
        ValueError: no integer, or one outside [0, 2**32).

    Example:
        >>> check_seed("seed", 2**32)
        Traceback (most recent call last):
        ValueError: seed must be an integer from 0 to 4294967295, got 4294967296.
    """
    return check_whole(name, seed, 0, SEEDS - 1)


def nearest(word: str, known: Any) -> str:
    """` Did you mean …?`, or nothing where no word is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def is_reference(name: str) -> bool:
    """Whether a name has the form of a reference to code, "module:attribute"."""
    return ":" in name


def resolve(argument: str, name: str) -> Any:
    """What a reference "module:attribute" names, in any module that can be imported.

    Args:
        argument: what the caller calls `name`.
        name: the reference; attributes of attributes have dots between them.

    Raises:
        ValueError: another form, no such module, or no such attribute. What a module itself raises when it is imported
            passes through.

    Example:
        >>> resolve("optimizer.name", "optax:adam").__name__
        'adam'
    """
    module_name, _, attributes = name.partition(":")
    if not module_name or not all(part.isidentifier() for part in (*module_name.split("."), *attributes.split("."))):
        raise ValueError(f'{argument} must have the form "module:attribute", got {name!r}.')
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # the module itself, or a package above it; a module that it imports and that is missing is another matter
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ValueError(f"{argument}: {name!r} cannot be imported: there is no module {error.name!r}.") from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            known = [one for one in dir(found) if not one.startswith("_")]
            raise ValueError(f"{argument}: {module_name!r} has no {attribute!r}.{nearest(attribute, known)}")
        found = getattr(found, attribute)
    return found
