"""Configs: every section with its defaults, completion and checks of what a file sets, and the arms.

A config file sets what it wants to say; `complete` adds the rest from `defaults` below and from its experiment's own.
A key that neither knows is an error that names the nearest one.
"""

import difflib
import hashlib
import importlib.util
import json
import math
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import experiments, optimizer
from .data.sources import check_seed
from .types import ConfigDict

OWN = ("data", "model", "method")  # sections whose keys are the experiment's
SECTIONS = (*OWN, "optimizer", "train", "mesh")  # what an arm may override, beside `vmap_seeds`
FREE_FORM = ("arms", "optimizer.options")  # their keys are the user's own


def defaults() -> ConfigDict:
    """The engine's sections, with every key that a config may set."""
    config = ConfigDict()
    config.experiment = ""  # a module of train/experiments
    config.seeds = (0, 1, 2)
    config.vmap_seeds = True  # all seeds of an arm as one program; False: one after the other

    config.data, config.model, config.method = ConfigDict(), ConfigDict(), ConfigDict()  # the experiment's keys

    config.optimizer = ConfigDict(
        dict(
            name="adam",  # an alias of optax
            learning_rate=1e-3,
            schedule="constant",  # or "cosine", "linear"
            warmup_steps=0,
            final_fraction=0.0,  # of the learning rate, where a decay ends
            weight_decay=0.0,
            clip_norm=0.0,  # largest global norm of the gradient; 0: no clipping
            options={},  # further keyword arguments of the optax alias; an arm's record shows all that it takes
            transforms=(),  # (name, keyword arguments) pairs chained before the optimizer
        )
    )
    config.train = ConfigDict(
        dict(
            steps=1000,
            batch_size=128,  # over all devices
            steps_per_dispatch=50,  # steps of one lax.scan; SIGTERM is seen between dispatches
            log_every=100,
            eval_every=0,  # 0: at the end alone
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
    config.arms = ConfigDict(dict(main=ConfigDict()))
    config.claim = ConfigDict(dict(metric="", better="", than="", direction="higher", paper=""))
    return config


def load(path: str) -> ConfigDict:
    """The completed config of a file, `path.py` or `path.py:argument` (handed to `get_config`).

    A relative path is looked up from the working directory, then from lemmata's own folder.

    Raises:
        ValueError: no such file, no `get_config` in it, or a config that `complete` refuses.
    """
    name, _, argument = path.partition(":")
    package = Path(__file__).resolve().parents[1]
    file = next((p for p in (Path(name), package / name) if p.is_file()), None)
    if file is None:
        known = sorted(str(p.relative_to(package)) for p in package.glob("configs/**/*.py") if p.name != "__init__.py")
        raise ValueError(f"config: no file {name!r}.{nearest(name, known)} lemmata has {', '.join(known)}.")
    config = _get_config(file, argument)
    below = Path(name).with_suffix("").as_posix().rpartition("configs/")
    config.name = (below[2] if below[1] else file.stem) + (f":{argument}" if argument else "")
    return complete(config)


def _get_config(file: Path, argument: str) -> ConfigDict:
    """What the `get_config` of a file returns; whatever goes wrong in there is told with the file's own line."""
    spec = importlib.util.spec_from_file_location(f"lemmata_config_{file.stem}", file)
    assert spec is not None  # a file that ends in .py always has one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError(f"config: {file} has no get_config().")
        return unlocked(module.get_config(argument) if argument else module.get_config())
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        if isinstance(error, SyntaxError):
            lines = [error.lineno]
        if not lines:  # it is ours, and says what it is about
            raise
        raise ValueError(f"config: {file}, line {lines[-1]}: {type(error).__name__}: {error}") from error


def unlocked(config: Any) -> ConfigDict:
    """A copy that can be written to, of a ConfigDict (locked and frozen ones, too) or a dict.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(config, (Mapping, ConfigDict)):
        raise ValueError(f"config: get_config() must return a ConfigDict, got {type(config).__name__}.")
    return ConfigDict(json_ready(config.to_dict() if isinstance(config, ConfigDict) else dict(config)))


def complete(config: ConfigDict) -> ConfigDict:
    """The config with every default filled in, its keys, types and arms checked. The argument is left as it is.

    Raises:
        ValueError: naming the key, what it holds and what was expected.
    """
    config = unlocked(config)
    schema = defaults()
    schema.name = ""
    experiment = experiments.get(config.get("experiment", ""))
    for section, values in experiment.defaults().items():
        if section in OWN:
            schema[section] = unlocked(values)
        else:
            _merge(schema, {section: values}, "")
    if "arms" in config:
        schema.arms = ConfigDict()
    _merge(schema, config, "")
    _check_values(schema)
    for arm, overrides in schema.arms.items():
        if not isinstance(overrides, ConfigDict):
            raise ValueError(f"config: arms.{arm} is a section, got {overrides!r}.")
        if not arm or set(arm) & set("/\\") or arm.startswith("."):
            raise ValueError(f"config: an arm's name is that of its folder, got {arm!r}.")
        resolve_arm(schema, arm)
    claim = schema.claim
    if claim.metric:
        for role in ("better", "than"):
            if claim[role] not in schema.arms:
                raise ValueError(f"claim.{role}: no arm {claim[role]!r}.{nearest(claim[role], schema.arms)}")
        check_metric(schema, claim.metric, "claim.metric")
        if claim.direction not in ("higher", "lower"):
            raise ValueError(f'claim.direction must be "higher" or "lower", got {claim.direction!r}.')
    return schema


def resolve_arm(config: ConfigDict, arm: str) -> ConfigDict:
    """The config of one arm, with every setting that is then used.

    Its keys go to `method`; those that are the name of a section override the section, and `vmap_seeds` that key. The
    optimizer's options are filled in with what its function takes.

    Raises:
        ValueError: no such arm, an override that the section does not know, or one of what all arms share.
    """
    if arm not in config.arms:
        raise ValueError(f"arm: no arm {arm!r}.{nearest(arm, config.arms)} The config has {', '.join(config.arms)}.")
    resolved = unlocked(config)
    for key, value in config.arms[arm].items():
        path = f"arms.{arm}.{key}"
        if key in SECTIONS:
            _merge(resolved, {key: value}, f"arms.{arm}.")
        elif key == "vmap_seeds":
            resolved.vmap_seeds = _typed(path, value, True)
        elif key in resolved and key not in resolved.method:
            raise ValueError(f"config: {path} belongs to the whole config; an arm may set {', '.join(SECTIONS)}.")
        else:
            _merge(resolved.method, {key: value}, f"arms.{arm}.method.")
    del resolved.arms, resolved.claim
    _check_values(resolved)
    resolved.optimizer = optimizer.settings(resolved.optimizer)
    return resolved


def expose(config: ConfigDict, path: str) -> None:
    """Make `path` a key of the config, with the value that it has by default, so that it can be set by its name.

    Every key of a completed config is one already; those of an arm, and options of the optimizer, are where they differ
    from the defaults alone.

    Args:
        config: completed; changed in place.
        path: "section.key", "optimizer.options.b1" or "arms.NAME.section.key".

    Raises:
        ValueError: no such key; names the nearest.
    """
    keys = path.split(".")
    if keys[0] == "arms" and len(keys) > 2:
        source, target = resolve_arm(config, keys[1]), config.arms[keys[1]]
        keys = keys[2:]
        if keys[0] not in SECTIONS:
            source = ConfigDict(source.method.to_dict() | {"vmap_seeds": source.vmap_seeds})
    else:
        source = target = config
        if keys[:2] == ["optimizer", "options"]:
            source = ConfigDict(dict(optimizer=optimizer.settings(config.optimizer)))
    for depth, key in enumerate(keys):
        if not isinstance(source, ConfigDict) or key not in source:
            known = source.keys() if isinstance(source, ConfigDict) else ()
            raise ValueError(f"config: unknown key {path!r}.{nearest(key, known)}")
        source = source[key]
        if key not in target:
            with target.unlocked():
                target[key] = ConfigDict() if depth + 1 < len(keys) else source
        target = target[key]


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


def check_metric(config: ConfigDict, metric: str, argument: str) -> None:
    """A metric that the experiment reports, or an error that names the nearest."""
    known = experiments.get(config.experiment).metrics(config)
    if metric not in known:
        raise ValueError(
            f"{argument}: experiment {config.experiment} reports no metric {metric!r}.{nearest(metric, known)} "
            f"It reports {', '.join(known)}."
        )


def nearest(word: str, known: Any) -> str:
    """` Did you mean …?`, or nothing where no word is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _merge(target: ConfigDict, source: Mapping[str, Any], prefix: str) -> None:
    for key, value in source.items():
        path = prefix + key
        if key in target and isinstance(target[key], ConfigDict) and not isinstance(value, (Mapping, ConfigDict)):
            raise ValueError(f"config: {path} is a section, got {value!r}.")
        if path in FREE_FORM or (path.startswith("arms.") and path.endswith(".optimizer.options")):
            with target[key].ignore_type():
                target[key].update(value)
        elif key not in target:
            raise ValueError(f"config: unknown key {path!r}.{nearest(key, target.keys())}")
        elif isinstance(target[key], ConfigDict):
            _merge(target[key], value, path + ".")
        else:
            with target.ignore_type():
                target[key] = _typed(path, value, target[key])


def _typed(path: str, value: Any, default: Any) -> Any:
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
            return _typed(path, element, default)
        except ValueError:
            continue
    kinds = " or ".join(sorted({type(default).__name__ for default in defaults}))
    raise ValueError(f"config: {path} must hold {kinds} elements, like {defaults!r}; got {element!r} in {whole!r}.")


def _check_values(config: ConfigDict) -> None:
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
    check_seeds(config.seeds)


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
    check_metric(config, train.best_metric, "train.best_metric")
    both = math.lcm(train.eval_every, train.checkpoint_every)  # 0 where one of them is: at the end alone
    if not 0 < both < train.steps:
        raise ValueError(
            f"train.best_metric needs checkpoints with held-out metrics before the last step, {train.steps}: make "
            f"train.checkpoint_every a multiple of train.eval_every; they are {train.checkpoint_every} and "
            f"{train.eval_every}."
        )
