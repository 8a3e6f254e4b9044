"""Config files as a whole: found, read and completed, with their experiment's settings and their arms.

A config file sets what it wants to say; `complete` adds the rest from `engine.config.defaults`, from its experiment and
from the signatures of its arms' methods. A key that none of them knows is an error that names the nearest one.
"""

import importlib
import importlib.util
import sys
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import experiments
from ..engine import config as engine
from ..engine import optimizer
from ..engine.config import digest, flatten, frozen, json_ready, merge, thawed, typed, unlocked
from ..engine.settings import nearest
from ..engine.types import ConfigDict
from ..experiments import Experiment

__all__ = ["complete", "digest", "expose", "flatten", "frozen", "json_ready", "load", "resolve_arm", "thawed"]

OWN = ("data", "model", "protocol", "method")  # sections whose keys are the experiment's
SECTIONS = (*OWN[:-1], *engine.SECTIONS)  # what an arm may override, beside its method's settings and `vmap_seeds`
FREE_FORM = ("arms", "method", "data.options", "data.columns", "model.options", *engine.FREE_FORM)
PACKAGE = Path(__file__).resolve().parents[2]


def defaults() -> ConfigDict:
    """Every section, with every key that a config may set."""
    config = ConfigDict()
    config.experiment = ""  # a family or a study of train/experiments, or "module:attribute"
    config.seeds = (0, 1, 2)
    config.vmap_seeds = True  # all seeds of an arm as one program; False: one after the other
    for section in OWN:
        config[section] = ConfigDict()  # the experiment's keys; method: the name of one, and its settings
    config.update(engine.defaults())
    config.arms = ConfigDict(dict(main=ConfigDict()))
    config.claim = ConfigDict(dict(metric="", better="", than="", direction="higher", paper=""))
    return config


def load(path: str) -> ConfigDict:
    """The completed config of a file, `path.py` or `path.py:argument` (handed to `get_config`).

    A relative path is looked up from the working directory, then from lemmata's own folder. What lies beside the file
    can be imported from then on: by the file itself, also relatively, and by every "module:attribute" that it names.

    Raises:
        ValueError: no such file, no `get_config` in it, or a config that `complete` refuses.
    """
    name, _, argument = path.partition(":")
    file = next((p for p in (Path(name), PACKAGE / name) if p.is_file()), None)
    if file is None:
        paths = (p.relative_to(PACKAGE) for p in PACKAGE.glob("configs/**/*.py") if p.name != "__init__.py")
        known = sorted(str(p) for p in paths)
        raise ValueError(f"config: no file {name!r}.{nearest(name, known)} lemmata has {', '.join(known)}.")
    config = _get_config(file.resolve(), argument)
    below = Path(name).with_suffix("").as_posix().rpartition("configs/")
    config.name = (below[2] if below[1] else file.stem) + (f":{argument}" if argument else "")
    return complete(config)


def _get_config(file: Path, argument: str) -> ConfigDict:
    """What the `get_config` of a file returns; whatever goes wrong in there is told with the file's own line."""
    try:
        module = _imported(file)
        if not hasattr(module, "get_config"):
            raise ValueError(f"config: {file} has no get_config().")
        return unlocked(module.get_config(argument) if argument else module.get_config())
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        if isinstance(error, SyntaxError) and error.filename == str(file):
            lines = [error.lineno]
        if not lines:  # it is ours, and says what it is about
            raise
        raise ValueError(f"config: {file}, line {lines[-1]}: {type(error).__name__}: {error}") from error


def _imported(file: Path) -> types.ModuleType:
    """A config file as a module: of the package that its folder is, or else of one that is made for the folder.

    The folder, or the one above its package, goes to the front of `sys.path`, as that of a script does.
    """
    top = file.parent
    while (top / "__init__.py").exists():
        top = top.parent
    if PACKAGE in file.parents:  # lemmata's own: it is imported as such already
        package = ".".join([__name__.split(".")[0], *file.parent.relative_to(PACKAGE).parts])
    else:
        if str(top) not in sys.path:
            sys.path.insert(0, str(top))
            importlib.invalidate_caches()
        package = ".".join(file.parent.relative_to(top).parts)
    if not package:
        package = f"config_in_{engine.digest(ConfigDict(dict(folder=str(top))))}"
        holder = sys.modules.setdefault(package, types.ModuleType(package, f"What lies in {top}."))
        holder.__path__ = [str(top)]
    else:
        importlib.import_module(package)
    spec = importlib.util.spec_from_file_location(f"{package}.{file.stem}", file)
    assert spec is not None  # a file that ends in .py always has one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def complete(config: ConfigDict, experiment: Experiment | None = None) -> ConfigDict:
    """The config with every default filled in, its keys, types and arms checked. The argument is left as it is.

    Args:
        config: a ConfigDict or a dict, as a file's `get_config` gives it.
        experiment: default: the one that the config names.

    Raises:
        ValueError: naming the key, what it holds and what was expected.
    """
    config = unlocked(config)
    schema = defaults()
    schema.name = ""
    experiment = experiment or experiments.get(config.get("experiment", ""))
    for section, values in experiment.defaults().items():
        if section in OWN:
            schema[section] = unlocked(values)
        else:
            merge(schema, {section: values})
    if "arms" in config:
        schema.arms = ConfigDict()
    merge(schema, config, free=_free_form(experiment))
    if schema.train.best_metric:
        check_metric(experiment, schema, schema.train.best_metric, "train.best_metric")
    engine.check_values(schema)
    engine.check_seeds(schema.seeds)
    _check_arms(schema, experiment)
    _check_claim(schema, experiment)
    return schema


def _free_form(experiment: Experiment) -> tuple[str, ...]:
    """A study's `method` has the keys of its defaults; a family's is settled by the signatures of its methods."""
    if not hasattr(experiment.module, "defaults"):
        return (*OWN, *FREE_FORM)
    return FREE_FORM if experiment.methods else tuple(path for path in FREE_FORM if path != "method")


def _check_arms(config: ConfigDict, experiment: Experiment) -> None:
    used: set[str] = set()
    for arm, overrides in config.arms.items():
        if not isinstance(overrides, ConfigDict):
            raise ValueError(f"config: arms.{arm} is a section, got {overrides!r}.")
        if not arm or set(arm) & set("/\\") or arm.startswith("."):
            raise ValueError(f"config: an arm's name is that of its folder, got {arm!r}.")
        used |= set(resolve_arm(config, arm, experiment).method)
    unused = sorted(set(config.method) - used)
    if unused and experiment.methods:
        raise ValueError(f"config: no arm's method takes {unused[0]!r} of method.{nearest(unused[0], used)}")


def _check_claim(config: ConfigDict, experiment: Experiment) -> None:
    claim = config.claim
    if not claim.metric:
        return
    for role in ("better", "than"):
        if claim[role] not in config.arms:
            raise ValueError(f"claim.{role}: no arm {claim[role]!r}.{nearest(claim[role], config.arms)}")
    check_metric(experiment, config, claim.metric, "claim.metric")
    if claim.direction not in ("higher", "lower"):
        raise ValueError(f'claim.direction must be "higher" or "lower", got {claim.direction!r}.')


def resolve_arm(config: ConfigDict, arm: str, experiment: Experiment | None = None) -> ConfigDict:
    """The config of one arm, with every setting that is then used, and no other.

    Its keys go to `method`; those that are the name of a section override the section, and `vmap_seeds` that key. In a
    family, `method` becomes the name of the arm's method and every setting of its signature: what the arm says, else
    what the config's own `method` says, else the default. The optimizer's options are filled in likewise.

    Raises:
        ValueError: no such arm, a setting that the section or the method does not know, or one of what all arms share.
    """
    if arm not in config.arms:
        raise ValueError(f"arm: no arm {arm!r}.{nearest(arm, config.arms)} The config has {', '.join(config.arms)}.")
    resolved, experiment = unlocked(config), experiment or experiments.get(config.experiment)
    own = {}
    for key, value in config.arms[arm].items():
        path = f"arms.{arm}.{key}"
        if key in SECTIONS:
            merge(resolved, {key: value}, f"arms.{arm}.", free=_free_form(experiment))
        elif key == "method":
            own |= dict(value)
        elif key == "vmap_seeds":
            resolved.vmap_seeds = typed(path, value, True)
        elif key in resolved and key not in resolved.method and not experiment.methods:
            raise ValueError(f"config: {path} belongs to the whole config; an arm may set {', '.join(SECTIONS)}.")
        else:
            own[key] = value
    if experiment.methods:
        resolved.method = ConfigDict(_signed(experiment, resolved.method, own, f"arms.{arm}"))
    else:
        merge(resolved.method, own, f"arms.{arm}.method.")
    del resolved.arms, resolved.claim
    engine.check_values(resolved)
    resolved.optimizer = optimizer.settings(resolved.optimizer)
    return resolved


def _signed(experiment: Experiment, shared: Mapping[str, Any], own: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The name of a method and all of its settings."""
    name = own.get("name", shared.get("name"))
    settings = experiment.method_settings(name)
    for key in own:
        if key not in settings and key != "name":
            raise _no_setting(experiment, name, key, where)
    values = {key: value for key, value in shared.items() if key in settings} | dict(own)
    for key, default in settings.items():
        if default is experiments.REQUIRED and key not in values:
            raise ValueError(f"config: {where}.{key} must be given: method {name!r} has no default for it.")
    filled = {
        key: typed(f"{where}.{key}", values[key], None if default is experiments.REQUIRED else default)
        if key in values
        else default
        for key, default in settings.items()
    }
    return {"name": name} | filled


def _no_setting(experiment: Experiment, name: str, key: str, where: str) -> ValueError:
    """What is said of a key that the method does not have: the nearest that it has, and whose it is."""
    settings = experiment.method_settings(name)
    takers = [other for other in experiment.methods if key in experiment.method_settings(other)]
    others = f" It is a setting of {', '.join(takers)}." if takers else ""
    takes = ", ".join(settings) or "none"
    return ValueError(
        f"config: {where}.{key}: method {name!r} has no such setting.{nearest(key, settings)}{others} "
        f"Its settings: {takes}."
    )


def expose(config: ConfigDict, path: str) -> None:
    """Make `path` a key of the config, with the value that it has by default, so that it can be set by its name.

    Every key of a completed config is one already; those of an arm, settings of a method and options of the optimizer
    are where they differ from the defaults alone.

    Args:
        config: completed; changed in place.
        path: "section.key", "method.key", "optimizer.options.b1" or "arms.NAME.section.key".

    Raises:
        ValueError: no such key; names the nearest.
    """
    keys = path.split(".")
    if keys[0] == "arms" and len(keys) > 2:
        source, target = resolve_arm(config, keys[1]), config.arms[keys[1]]
        keys = keys[2:]
        if keys[0] not in (*SECTIONS, "method"):
            source = ConfigDict(source.method.to_dict() | {"vmap_seeds": source.vmap_seeds})
            experiment = experiments.get(config.experiment)
            if keys[0] not in source and experiment.methods:
                raise _no_setting(experiment, source.name, keys[0], ".".join(path.split(".")[:2]))
    else:
        source = target = config
        if keys[:2] == ["optimizer", "options"]:
            source = ConfigDict(dict(optimizer=optimizer.settings(config.optimizer)))
        if keys[0] == "method":  # whatever an arm's method takes
            source = ConfigDict(dict(method={}))
            for arm in config.arms:
                source.method.update(resolve_arm(config, arm).method)
    for depth, key in enumerate(keys):
        if not isinstance(source, ConfigDict) or key not in source:
            known = source.keys() if isinstance(source, ConfigDict) else ()
            raise ValueError(f"config: unknown key {path!r}.{nearest(key, known)}")
        source = source[key]
        if key not in target:
            with target.unlocked():
                target[key] = ConfigDict() if depth + 1 < len(keys) else source
        target = target[key]


def check_metric(experiment: Experiment, config: ConfigDict, metric: str, argument: str) -> None:
    """A metric that the experiment reports, or an error that names the nearest; one may not say what it reports."""
    known = experiment.metrics(config)
    if known and metric not in known:
        raise ValueError(
            f"{argument}: experiment {experiment.name} reports no metric {metric!r}.{nearest(metric, known)} "
            f"It reports {', '.join(known)}."
        )
