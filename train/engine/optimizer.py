"""The optax chain that `config.optimizer` names. What the section says is what happens: a 0 is a 0, and no default of
optax acts that `settings` does not show.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, cast

import optax

from .settings import is_reference, resolve
from .types import ConfigDict

SCHEDULES = ("constant", "cosine", "linear")
_RECORDED = (type(None), bool, int, float, str, tuple)  # what a config can hold


def settings(config: ConfigDict) -> ConfigDict:
    """The `optimizer` section with every keyword argument that its functions will be called with.

    Args:
        config: the section; it is left as it is. `options` and the arguments of `transforms` gain what the functions'
            own defaults are, but for what a config cannot hold (functions, arrays).

    Raises:
        ValueError: a name that optax does not have, options that it does not take, an unknown schedule, or a value
            outside its range.
    """
    filled = ConfigDict(config.to_dict())
    for key in ("learning_rate", "weight_decay", "clip_norm", "final_fraction"):
        if not 0 <= config[key] < math.inf:
            raise ValueError(f"optimizer.{key} must be at least 0 and finite, got {config[key]}.")
    _check_schedule(config)
    function = _function(config.name)
    options, taken = dict(config.options), _parameters(function)
    if "weight_decay" in options:
        if config.weight_decay:
            raise ValueError("optimizer.weight_decay and optimizer.options.weight_decay must not both be given.")
        filled.weight_decay = options.pop("weight_decay")
    if filled.weight_decay and "weight_decay" not in taken and not _takes_any(function):
        raise ValueError(
            f"optimizer.weight_decay must be 0 with {config.name!r}, which has none, got {filled.weight_decay}; "
            '"adamw" has one, and optimizer.transforms takes ("add_decayed_weights", …).'
        )
    beside = ("learning_rate", "weight_decay")
    own = {key: value for key, value in _defaults(function).items() if key not in beside}
    with filled.ignore_type():
        filled.options = ConfigDict(own | _accepted(config.name, function, options))
        for key in ("transforms", "after"):
            filled[key] = tuple(_filled_transform(key, pair) for pair in config[key])
    return filled


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Clipping, then `config.transforms`, then the optimizer with its schedule, then `config.after`.

    Args:
        config: the `optimizer` section. `name` is an alias of optax (`sgd`, `adam`, `adamw`, `lion`, …) or
            `"module:function"`, and `options` its keyword arguments; `transforms` is a tuple of (name, keyword
            arguments), each a transformation of optax or `"module:function"`, chained before the optimizer, and `after`
            is the same behind it.
        steps: length of the run; schedules end there.

    Raises:
        ValueError: as `settings`, and a warm-up that the run is too short for.
    """
    config = settings(config)
    function, arguments = _function(config.name), dict(config.options)
    if "weight_decay" in _parameters(function) or config.weight_decay:  # a 0 too, or the function's own default acts
        arguments["weight_decay"] = config.weight_decay
    optimizer = _call(config.name, function, {"learning_rate": make_schedule(config, steps), **arguments})
    chain = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    chain += [_call(name, _function(name), dict(arguments)) for name, arguments in config.transforms]
    chain += [optimizer]
    chain += [_call(name, _function(name), dict(arguments)) for name, arguments in config.after]
    return optax.chain(*chain) if len(chain) > 1 else optimizer


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up over `warmup_steps`, then constant, cosine or linear decay to `final_fraction` of the rate."""
    _check_schedule(config)
    if not 0 <= config.warmup_steps < max(steps, 1):
        raise ValueError(
            f"optimizer.warmup_steps must be at least 0 and less than train.steps = {steps}, got {config.warmup_steps}."
        )
    rate, rest = config.learning_rate, steps - config.warmup_steps
    after = {
        "constant": lambda: optax.constant_schedule(rate),
        "cosine": lambda: optax.cosine_decay_schedule(rate, rest, config.final_fraction),
        "linear": lambda: optax.linear_schedule(rate, rate * config.final_fraction, rest),
    }[config.schedule]()
    if not config.warmup_steps:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, rate, config.warmup_steps), after], [config.warmup_steps])


def _check_schedule(config: ConfigDict) -> None:
    if config.schedule not in SCHEDULES:
        raise ValueError(f"optimizer.schedule must be one of {SCHEDULES}, got {config.schedule!r}.")


def _function(name: str) -> Callable:
    """The function of optax, or of "module:function"."""
    function = resolve("optimizer", name) if is_reference(name) else getattr(optax, name, None)
    if not callable(function):
        raise ValueError(f"optimizer: {name!r} is no function of optax; give one, or module:function.")
    return function


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def _takes_any(function: Callable) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(function).values())


def _defaults(function: Callable) -> dict[str, Any]:
    """The function's own values of its arguments, as far as a config can hold them."""
    values = {name: parameter.default for name, parameter in _parameters(function).items()}
    return {name: value for name, value in values.items() if type(value) in _RECORDED}


def _accepted(name: str, function: Callable, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, each of which the function takes."""
    unknown = [key for key in arguments if key not in _parameters(function)]
    if unknown and not _takes_any(function):
        raise ValueError(f"optimizer: {name} takes no {unknown[0]!r}; it takes {', '.join(_parameters(function))}.")
    return arguments


def _filled_transform(key: str, pair: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str) or not hasattr(pair[1], "keys"):
        raise ValueError(f"optimizer.{key} must hold (name, keyword arguments) pairs, got {pair!r}.")
    name, arguments = pair
    function = _function(name)
    return name, _defaults(function) | _accepted(name, function, dict(arguments))


def _call(name: str, function: Callable, arguments: dict) -> optax.GradientTransformation:
    try:
        return cast(optax.GradientTransformation, function(**arguments))
    except TypeError as error:
        raise ValueError(f"{name} does not take these arguments of the optimizer section: {error}.") from error
