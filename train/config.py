"""Configs: every section with its defaults, completion and checks of what a file sets, and the arms.

A config file sets what it wants to say; `complete` adds the rest from `defaults` below and from its experiment's own.
A key that neither knows is an error that names the nearest one.
"""

import difflib
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from . import experiments
from .types import ConfigDict

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
            options={},  # further keyword arguments of the optax alias
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
    spec = importlib.util.spec_from_file_location(f"lemmata_config_{file.stem}", file)
    assert spec is not None  # a file that ends in .py always has one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"config: {file} has no get_config().")
    config = module.get_config(argument) if argument else module.get_config()
    below = Path(name).with_suffix("").as_posix().rpartition("configs/")
    config.name = below[2] if below[1] else file.stem
    return complete(config)


def complete(config: ConfigDict) -> ConfigDict:
    """The config with every default filled in, its keys, types and arms checked. The argument is left as it is.

    Raises:
        ValueError: naming the key, what it holds and what was expected.
    """
    schema = defaults()
    schema.name = ""
    experiment = experiments.get(config.get("experiment", ""))
    for section, values in experiment.defaults().items():
        schema[section] = values
    if "arms" in config:
        schema.arms = ConfigDict()
    _merge(schema, config, "")
    _check_values(schema)
    for arm in schema.arms:
        resolve_arm(schema, arm)
    claim = schema.claim
    if claim.metric:
        for role in ("better", "than"):
            if claim[role] not in schema.arms:
                raise ValueError(f"claim.{role}: no arm {claim[role]!r}.{nearest(claim[role], schema.arms)}")
        check_metric(schema, claim.metric, "claim.metric")
        if claim.direction not in ("higher", "lower"):
            raise ValueError(f'claim.direction must be "higher" or "lower", got {claim.direction!r}.')
    if schema.train.best_metric:
        check_metric(schema, schema.train.best_metric, "train.best_metric")
    return schema


def resolve_arm(config: ConfigDict, arm: str) -> ConfigDict:
    """The config of one arm: its keys go to `method`, those that are the name of a section override the section.

    Raises:
        ValueError: no such arm, or an override that the section does not know.
    """
    if arm not in config.arms:
        raise ValueError(f"arm: no arm {arm!r}.{nearest(arm, config.arms)} The config has {', '.join(config.arms)}.")
    resolved = ConfigDict(json_ready(config.to_dict()))
    for key, value in config.arms[arm].items():
        section = key if isinstance(resolved.get(key), ConfigDict) and key not in ("arms", "method") else "method"
        overrides = value if section == key else {key: value}
        _merge(resolved[section], ConfigDict(overrides), f"arms.{arm}.{section}.")
    del resolved.arms, resolved.claim
    _check_values(resolved)
    return resolved


def json_ready(value: Any) -> Any:
    """The same config as JSON gives it back, except that sequences are tuples."""
    if isinstance(value, (dict, ConfigDict)):
        return {key: json_ready(item) for key, item in value.items()}
    return tuple(json_ready(item) for item in value) if isinstance(value, (list, tuple)) else value


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"train.steps": 1000, …}`; sequences become lists, as in JSON."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, (dict, ConfigDict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.loads(json.dumps(value))
    return flat


def digest(config: ConfigDict) -> str:
    """Eight characters that change with any value of the config."""
    return hashlib.sha256(json.dumps(flatten(config), sort_keys=True).encode()).hexdigest()[:8]


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


def _merge(target: ConfigDict, source: Any, prefix: str) -> None:
    for key, value in source.items():
        path = prefix + key
        if path in FREE_FORM or path.removeprefix("arms.").split(".", 1)[-1] in FREE_FORM:
            target[key] = ConfigDict(value)
        elif key not in target:
            raise ValueError(f"config: unknown key {path!r}.{nearest(key, target.keys())}")
        elif isinstance(target[key], ConfigDict):
            if not isinstance(value, (dict, ConfigDict)):
                raise ValueError(f"config: {path} is a section, got {value!r}.")
            _merge(target[key], value, path + ".")
        else:
            with target.ignore_type():
                target[key] = _typed(path, value, target[key])


def _typed(path: str, value: Any, default: Any) -> Any:
    """The value as the default's type; an int serves as a float, a list as a tuple, None as anything optional."""
    if default is None or (isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)):
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    raise ValueError(f"config: {path} must be {type(default).__name__}, like {default!r}; got {value!r}.")


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
    if not config.seeds or any(not isinstance(s, int) or isinstance(s, bool) for s in config.seeds):
        raise ValueError(f"seeds must be a non-empty tuple of ints, got {config.seeds!r}.")
    if len(set(config.seeds)) < len(config.seeds):
        raise ValueError(f"seeds must be distinct, got {config.seeds!r}.")
