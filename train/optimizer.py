"""The optax chain that `config.optimizer` names."""

import importlib
from typing import cast

import optax

from .types import ConfigDict

SCHEDULES = ("constant", "cosine", "linear")


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Clipping, then `config.transforms`, then the optimizer with its schedule.

    Args:
        config: the `optimizer` section. `name` is an alias of optax (`sgd`, `adam`, `adamw`, `lion`, …) and `options`
            its keyword arguments; `transforms` is a tuple of (name, keyword arguments), each a transformation of optax
            or `"module:function"`, chained before the optimizer.
        steps: length of the run; schedules end there.

    Raises:
        ValueError: a name that optax does not have, options that it does not take, an unknown schedule.
    """
    options = dict(config.options)
    if config.weight_decay:
        options["weight_decay"] = config.weight_decay
    optimizer = _call(config.name, {"learning_rate": make_schedule(config, steps), **options})
    chain = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    chain += [_call(name, dict(arguments)) for name, arguments in config.transforms]
    return optax.chain(*chain, optimizer) if chain else optimizer


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up over `warmup_steps`, then constant, cosine or linear decay to `final_fraction` of the rate."""
    if config.schedule not in SCHEDULES:
        raise ValueError(f"optimizer.schedule must be one of {SCHEDULES}, got {config.schedule!r}.")
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


def _call(name: str, arguments: dict) -> optax.GradientTransformation:
    if ":" in name:
        module, attribute = name.split(":", 1)
        function = getattr(importlib.import_module(module), attribute, None)
    else:
        function = getattr(optax, name, None)
    if not callable(function):
        raise ValueError(f"optimizer: {name!r} is no function of optax; give one, or module:function.")
    try:
        return cast(optax.GradientTransformation, function(**arguments))
    except TypeError as error:
        raise ValueError(f"{name} does not take these arguments of the optimizer section: {error}.") from error
