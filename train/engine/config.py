"""The engine's part of a config: sections with every default, and how what a user sets is merged into them.

A config is completed by merging what is set into a schema of defaults: a key that the schema does not have is an error
that names the nearest one, and a value takes the type of its default.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from .settings import check_seed, nearest
from .types import ConfigDict

SECTIONS = ("optimizer", "train", "mesh")
FREE_FORM = ("optimizer.options",)  # their keys are the user's own


def defaults() -> ConfigDict:
    """The sections that `fit` reads, with every key that a config may set."""
    config = ConfigDict()
    config.optimizer = ConfigDict(
        dict(
            name="adam",  # an alias of optax, or "module:function"
            learning_rate=1e-3,
            schedule="constant",  # or "cosine", "linear"
            warmup_steps=0,
            final_fraction=0.0,  # of the learning rate, where a decay ends
            weight_decay=0.0,
            clip_norm=0.0,  # largest global norm of the gradient; 0: no clipping
            options={},  # further keyword arguments of the optax alias; an arm's record shows all that it takes
            transforms=(),  # (name, keyword arguments) pairs chained before the optimizer
            after=(),  # the same, after it: they see the steps that it takes
        )
    )
    config.train = ConfigDict(
        dict(
            steps=1000,
            batch_size=128,  # over all devices
            steps_per_dispatch=50,  # steps of one lax.scan; SIGTERM is seen between dispatches. Streams take 1
            log_every=100,
            eval_every=0,  # 0: at the end alone
            eval_split="test",  # or "validation"
            eval_batches=8,  # for data that is sampled; a finite test split is always read whole
            eval_batch_size=0,  # 0: batch_size
            checkpoint_every=0,  # 0: at the end alone
            keep=2,  # newest checkpoints kept
            best_metric="",  # a held-out metric; its best checkpoint is kept too
            best_direction="lower",
            accumulate=1,  # micro-batches per update
            compute_dtype="float32",  # or "bfloat16": activations; master weights stay float32
            remat="none",  # or "dots", "full": what a network's blocks recompute in the backward pass
            ema=0.0,  # decay of the parameters' average, which is then what is evaluated; 0: none
            skip_nonfinite=True,  # drop an update that is not finite, and count it
        )
    )
    config.mesh = ConfigDict(dict(data=-1, model=1, strategy="replicate", rules=()))
    return config


def completed(config: Any) -> ConfigDict:
    """What `fit` reads, with every default filled in, of a config or a dict that sets some of it; the rest stays.

    Raises:
        ValueError: naming the key, what it holds and what was expected.
    """
    config = unlocked(config if config is not None else {})
    schema = defaults()
    for section in SECTIONS:
        merge(schema, {section: config[section]} if section in config else {})
        config[section] = schema[section]
    check_values(config)
    return config


def unlocked(config: Any) -> ConfigDict:
    """A copy that can be written to, of a ConfigDict (locked and frozen ones, too) or a dict.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(config, (Mapping, ConfigDict)):
        raise ValueError(f"config: get_config() must return a ConfigDict, got {type(config).__name__}.")
    return ConfigDict(json_ready(config.to_dict() if isinstance(config, ConfigDict) else dict(config)))


def merge(
    target: ConfigDict, source: Mapping[str, Any], prefix: str = "", *, free: tuple[str, ...] = FREE_FORM
) -> None:
    """Set in `target`, a schema, what `source` sets.

    Args:
        target: changed in place.
        source: keys and sections; each must be one of the target's.
        prefix: the path of the target, with a dot behind it.
        free: paths of sections that take any key; one of an arm, "arms.NAME.…", goes by what follows.

    Raises:
        ValueError: an unknown key, a value of another type than the default, a section that is none.
    """
    for key, value in source.items():
        path = prefix + key
        in_arm = path.split(".", 2)[2] if path.count(".") > 1 and path.startswith("arms.") else path
        if key in target and isinstance(target[key], ConfigDict) and not isinstance(value, (Mapping, ConfigDict)):
            raise ValueError(f"config: {path} is a section, got {value!r}.")
        if path in free or in_arm in free:
            with target.unlocked(), target[key].unlocked(), target[key].ignore_type():
                target[key].update(value)
        elif key not in target:
            raise ValueError(f"config: unknown key {path!r}.{nearest(key, target.keys())}")
        elif isinstance(target[key], ConfigDict):
            merge(target[key], value, path + ".", free=free)
        else:
            with target.ignore_type():
                target[key] = typed(path, value, target[key])


def json_ready(value: Any) -> Any:
    """The same config as JSON gives it back, except that sequences are tuples."""
    if isinstance(value, (dict, ConfigDict)):
        return {key: json_ready(item) for key, item in value.items()}
    return tuple(json_ready(item) for item in value) if isinstance(value, (list, tuple)) else value


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"train.steps": 1000, …}`; sequences become lists, as in JSON.

    Raises:
        ValueError: a value that JSON has no form for.
    """
    flat = {}
    for key, value in config.items():
        if isinstance(value, (dict, ConfigDict)):
            flat |= flatten(value, f"{prefix}{key}.")
            continue
        try:
            flat[prefix + key] = json.loads(json.dumps(value))
        except TypeError:
            raise ValueError(
                f"config: {prefix}{key} must be numbers, strings or tuples of them, got {value!r}."
            ) from None
    return flat


def digest(config: ConfigDict) -> str:
    """Eight characters that change with any value of the config."""
    return hashlib.sha256(json.dumps(flatten(config), sort_keys=True).encode()).hexdigest()[:8]


def frozen(config: ConfigDict) -> str:
    """The config as one string, equal where all values are: a key for caches, whatever the values hold."""
    flatten(config)  # which refuses what JSON has no form for
    return json.dumps(config.to_dict(), sort_keys=True)


def thawed(text: str) -> ConfigDict:
    """The config that `frozen` wrote."""
    return ConfigDict(json_ready(json.loads(text)))


def typed(path: str, value: Any, default: Any) -> Any:
    """The value as the default's type; an int serves as a float, a list as a tuple, None as anything optional.

    Elements of a tuple must each be like one of the default's, where it has any.
    """
    if default is None:
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, type(default)) or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(f"config: {path} must be {type(default).__name__}, like {default!r}; got {value!r}.")
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"config: {path} must be a number, got {value!r}.")
    if isinstance(value, tuple) and isinstance(default, tuple) and default:
        return tuple(_like_one_of(path, element, default, value) for element in value)
    return value


def _like_one_of(path: str, element: Any, defaults: tuple, whole: tuple) -> Any:
    for default in defaults:
        try:
            return typed(path, element, default)
        except ValueError:
            continue
    kinds = " or ".join(sorted({type(default).__name__ for default in defaults}))
    raise ValueError(f"config: {path} must hold {kinds} elements, like {defaults!r}; got {element!r} in {whole!r}.")


def check_values(config: ConfigDict) -> None:
    """Refuse values of `train` outside their range, by name."""
    train = config.train
    for key in ("steps", "batch_size", "steps_per_dispatch", "log_every", "eval_batches", "accumulate", "keep"):
        if train[key] < 1:
            raise ValueError(f"train.{key} must be at least 1, got {train[key]}.")
    for key in ("eval_every", "eval_batch_size", "checkpoint_every"):
        if train[key] < 0:
            raise ValueError(f"train.{key} must be at least 0, got {train[key]}.")
    choices = {
        "compute_dtype": ("float32", "bfloat16"),
        "remat": ("none", "dots", "full"),
        "best_direction": ("higher", "lower"),
        "eval_split": ("test", "validation"),
    }
    for key, known in choices.items():
        if train[key] not in known:
            raise ValueError(f"train.{key} must be one of {known}, got {train[key]!r}.")
    if not 0 <= train.ema < 1:
        raise ValueError(f"train.ema must be in [0, 1), got {train.ema}.")
    if train.batch_size % train.accumulate:
        raise ValueError(
            f"train.accumulate = {train.accumulate} does not divide train.batch_size = {train.batch_size}."
        )
    if train.best_metric:
        _check_best(config)


def check_seeds(seeds: Any) -> None:
    """Distinct integers that stay so as keys of JAX.

    Raises:
        ValueError: no seeds, one that is no integer from 0 to 2^32 - 1, or one twice.
    """
    if not isinstance(seeds, tuple) or not seeds:
        raise ValueError(f"seeds must be a non-empty tuple of ints, got {seeds!r}.")
    for seed in seeds:
        check_seed("seeds", seed)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be distinct, got {seeds!r}.")


def _check_best(config: ConfigDict) -> None:
    """A best checkpoint needs more than the last one to choose from: evaluations that fall on checkpoints."""
    train = config.train
    both = math.lcm(train.eval_every, train.checkpoint_every)  # 0 where one of them is: at the end alone
    if not 0 < both < train.steps:
        raise ValueError(
            f"train.best_metric needs checkpoints with held-out metrics before the last step, {train.steps}: make "
            f"train.checkpoint_every a multiple of train.eval_every; they are {train.checkpoint_every} and "
            f"{train.eval_every}."
        )
