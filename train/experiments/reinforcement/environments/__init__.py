"""Small environments in pure JAX, for agents that act and learn inside one program."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from ....engine import config as configs
from ....engine.settings import is_reference, nearest, resolve
from ....engine.types import ConfigDict
from . import gridworld
from .base import Environment, Step, check_environment

__all__ = ["ENVIRONMENTS", "Environment", "Step", "check_environment", "gridworld", "make_environment"]

# name -> a function whose keyword arguments are the environment's options
ENVIRONMENTS = {"gridworld": gridworld.make}


def make_environment(name: str, options: Mapping[str, Any] | ConfigDict) -> Environment:
    """The environment of that name, checked by playing an episode; made once for the same options.

    Args:
        name: a key of `ENVIRONMENTS`, or "module:attribute": a function as there, or an `Environment`.
        options: keyword arguments of the function.

    Raises:
        ValueError: no such environment, an option that it does not take or of another type than its default, or what
            `check_environment` refuses.

    Example:
        >>> make_environment("gridworld", dict(size=3, horizon=12)).horizon
        12
    """
    return _made(name, configs.frozen(ConfigDict(dict(options=dict(options)))))


@functools.lru_cache(maxsize=8)
def _made(name: str, frozen: str) -> Environment:
    options = configs.thawed(frozen).options.to_dict()
    if is_reference(name):
        found = resolve("data.environment", name)
    elif name in ENVIRONMENTS:
        found = ENVIRONMENTS[name]
    else:
        raise ValueError(
            f"data.environment: no environment {name!r}.{nearest(name, ENVIRONMENTS)} There are "
            f'{", ".join(ENVIRONMENTS)}; a "module:function" of your own will do.'
        )
    environment = found if isinstance(found, Environment) else found(**_accepted(name, found, options))
    if isinstance(found, Environment) and options:
        raise ValueError(f"data.options must be empty: {name!r} is an environment already, got {options}.")
    check_environment(environment)
    return environment


def _accepted(name: str, function: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options, each of which the function takes, in the types of its defaults."""
    if not callable(function):
        raise ValueError(f"data.environment: {name!r} is neither a function nor an Environment.")
    parameters = inspect.signature(function).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    taken = {}
    for key, value in options.items():
        if key not in parameters and not any_name:
            raise ValueError(
                f"data.options.{key}: environment {name!r} has no such option.{nearest(key, parameters)} "
                f"Its options: {', '.join(parameters) or 'none'}."
            )
        default = parameters[key].default if key in parameters else None
        taken[key] = configs.typed(
            f"data.options.{key}", value, None if default is inspect.Parameter.empty else default
        )
    return taken
