"""Arms x seeds: a table, the claim's verdict, `summary.json` and `comparison.png`."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..engine.config import digest, flatten, unlocked
from ..engine.loop import fit, skipped_text
from ..engine.sharding import make_mesh, replicated
from ..engine.task import Metric, Task
from ..engine.types import ConfigDict
from ..engine.workdir import open_workdir, write_json
from ..experiments import Experiment, GivenTasks, get, report
from ..experiments.report import ArmResult, mean_interval
from . import plots
from .config import complete, resolve_arm
from .statistics import Verdict, verdict


class Comparison(NamedTuple):
    """What `compare` returns; the paths are None without a workdir."""

    config: ConfigDict
    results: dict[str, ArmResult]
    verdict: Verdict | None  # None where the config claims nothing
    summary_path: Path | None
    picture_path: Path | None


def compare(
    config: ConfigDict | Mapping[str, Any] | None = None,
    *,
    tasks: Mapping[str, Task | Callable[[ConfigDict], Task]] | None = None,
    workdir: str | Path | None = None,
    override_workdir: bool = False,
    progress: bool | None = None,
) -> Comparison:
    """Run every arm of a config over its seeds and judge its claim.

    Arms that a workdir already holds, from the same config, are read back, and one that was cut off is continued.

    Args:
        config: as `get_config()` of a config file gives it, or a dict; missing keys take their defaults.
        tasks: your own, by arm, in place of an experiment's: a `Task`, or a function from the arm's config to one,
            which is called anew for each run. The config then has no experiment.
        workdir: where everything goes; None keeps the results in memory alone.
        override_workdir: go on with a folder that another config made.
        progress: bars; None shows them on a terminal alone.

    Raises:
        ValueError: a config, a task or a workdir that does not fit.

    Example:
        >>> from lemmata.configs import quickstart
        >>> comparison = compare(quickstart.get_config())  # a minute
        >>> comparison.verdict.outcome
        'reproduced'
    """
    config, experiment = _own(config or {}, tasks)
    config = complete(config, experiment)
    options: dict[str, Any] = {"experiment": experiment, "progress": progress}
    if workdir is None:
        results = {arm: run_arm(config, arm, **options) for arm in config.arms}
        return Comparison(config, results, judge(config, results), None, None)
    with open_workdir(workdir, config, override=override_workdir) as folder:
        options |= {"workdir": folder, "override_workdir": override_workdir}
        results = {arm: run_arm(config, arm, **options) for arm in config.arms}
        judged = judge(config, results)
        summary_path, picture_path = folder / "summary.json", folder / "comparison.png"
        if jax.process_index() == 0:
            write_json(summary_path, summary(config, results, judged))
            if config.claim.metric:
                report.save(plots.picture(config, results, experiment), picture_path)
        return Comparison(config, results, judged, summary_path, picture_path if config.claim.metric else None)


def _own(config: Any, tasks: Mapping[str, Any] | None) -> tuple[ConfigDict, Experiment | None]:
    """The config, and the experiment that a user's tasks are."""
    config = unlocked(config)
    if tasks is None:
        return config, None
    if config.get("experiment"):
        raise ValueError(f"tasks: the config must name no experiment beside them, got {config.experiment!r}.")
    if "arms" not in config:
        config.arms = ConfigDict({arm: {} for arm in tasks})
    missing = [arm for arm in config.arms if arm not in tasks]
    if missing:
        raise ValueError(f"tasks must have one for every arm of the config; {missing[0]!r} has none.")
    return config, GivenTasks(tasks)


def run_arm(
    config: ConfigDict,
    arm: str,
    *,
    experiment: Experiment | None = None,
    workdir: Path | None = None,
    override_workdir: bool = False,
    progress: bool | None = None,
) -> ArmResult:
    """One arm over all its seeds, in `workdir / arm`; read back from there if it is done.

    Args:
        config: completed.
        arm: one of `config.arms`.
        experiment: default: the one that the config names.
        workdir: as for `compare`.
        override_workdir: as for `compare`.
        progress: as for `compare`.

    Raises:
        ValueError: no such arm, or a workdir that does not fit.
    """
    experiment = experiment or get(config.experiment)
    resolved = resolve_arm(config, arm, experiment)
    if workdir is None:
        return _run(experiment, resolved, arm, None, progress)
    with open_workdir(Path(workdir) / arm, resolved, override=override_workdir) as folder:
        path = folder / "result.json"
        done = _read(path, digest(resolved))
        if done is not None:
            return done._replace(config=resolved)
        result = _run(experiment, resolved, arm, folder, progress)
        if jax.process_index() == 0:
            _write(path, digest(resolved), result)
        return result


def _run(experiment: Experiment, config: ConfigDict, arm: str, folder: Path | None, progress: bool | None) -> ArmResult:
    start = time.perf_counter()
    parts, skipped, groups = [], [], seed_groups(config)
    for seeds in groups:
        kind = experiment.kind(config)
        if kind == "build":
            where = folder / f"seed_{seeds[0]}" if folder and len(groups) > 1 else folder
            if where:
                where.mkdir(exist_ok=True)
            label = arm if len(groups) == 1 else f"{arm} seed {seeds[0]}"
            task = experiment.build(config, arm)
            fitted = fit(task, config, seeds, workdir=where, progress=progress, label=label)
            held_out = {name.removeprefix(f"{config.train.eval_split}/"): x for name, x in fitted.history.items()}
            parts.append((fitted.metrics, held_out))
            skipped.append(fitted.skipped)
        else:
            metrics = (_computed if kind == "compute" else _run_on_host)(experiment, config, seeds)
            parts.append((metrics, {}))
    metrics = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    history = {
        name: (steps, np.concatenate([part[1][name][1] for part in parts])) for name, (steps, _) in parts[0][1].items()
    }
    seconds = time.perf_counter() - start
    return ArmResult(metrics, history, seconds, np.concatenate(skipped) if skipped else None, config)


def seed_groups(config: ConfigDict) -> list[tuple[int, ...]]:
    """The seeds of an arm that are trained together."""
    return [tuple(config.seeds)] if config.vmap_seeds else [(seed,) for seed in config.seeds]


def _computed(experiment: Experiment, config: ConfigDict, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    mesh = make_mesh(config.mesh)

    def compute(keys: jax.Array) -> dict[str, jax.Array]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.vmap(lambda key: experiment.module.compute(config, key=key))(keys)

    keys = jax.device_put(jnp.stack([jax.random.key(seed) for seed in seeds]), replicated(mesh))
    metrics = jax.jit(compute, out_shardings=replicated(mesh))(keys)
    return {name: np.asarray(value) for name, value in metrics.items()}


def _run_on_host(experiment: Experiment, config: ConfigDict, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    rows = [experiment.module.run(config, seed=seed) for seed in seeds]
    return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}


def judge(config: ConfigDict, results: dict[str, ArmResult]) -> Verdict | None:
    """The claim's verdict, or None where the config claims nothing.

    Raises:
        ValueError: an arm of the claim does not have its metric.
    """
    claim = config.claim
    if not claim.metric:
        return None
    for arm in (claim.better, claim.than):
        if claim.metric not in results[arm].metrics:
            known = ", ".join(results[arm].metrics)
            raise ValueError(f"claim.metric: arm {arm!r} reports no {claim.metric!r}; it reports {known}.")
    better, than = (results[arm].metrics[claim.metric] for arm in (claim.better, claim.than))
    return verdict(better, than, direction=claim.direction)


def summary(config: ConfigDict, results: dict[str, ArmResult], judged: Verdict | None) -> dict:
    """Everything that `summary.json` holds."""
    arms = {}
    for arm, result in results.items():
        metrics = {}
        for name, values in result.metrics.items():
            mean, low, high = (_number(x) for x in mean_interval(values))
            metrics[name] = {"mean": mean, "low": low, "high": high, "seeds": [_number(x) for x in values]}
        arms[arm] = {"metrics": metrics, "seconds": result.seconds}
        if result.skipped is not None:
            arms[arm]["skipped"] = result.skipped.tolist()
    return {
        "config": config.name,
        "claim": config.claim.to_dict(),
        "verdict": None if judged is None else {k: _number(v) for k, v in judged._asdict().items()},
        "arms": arms,
        "settings": flatten(config),
    }


def table(config: ConfigDict, results: dict[str, ArmResult], *, most: int = 4, seconds: bool = True) -> str:
    """Arms by metrics as text: mean ± half of the 95 % interval; the claim's metric comes first.

    Args:
        config: completed.
        results: arm -> result.
        most: metrics shown; `summary.json` has all of them.
        seconds: what each arm took, in the last column.
    """
    known: dict[str, Metric] = get(config.experiment).metrics(config) if config.experiment else {}
    names = sorted(next(iter(results.values())).metrics, key=lambda name: name != config.claim.metric)[:most]
    last = ["seconds"] if seconds else []
    rows = [["arm", *(f"{n} [{known[n].unit}]" if n in known and known[n].unit else n for n in names), *last]]
    for arm, result in results.items():
        cells = []
        for name in names:
            mean, low, high = mean_interval(result.metrics[name])
            cells.append(f"{mean:.4g}" + (f" ± {(high - low) / 2:.2g}" if np.isfinite(low) else ""))
        rows.append([arm, *cells, *([f"{result.seconds:.1f}"] if seconds else [])])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def skipped_line(config: ConfigDict, results: dict[str, ArmResult]) -> list[str]:
    """One line on the updates that were dropped because they were not finite; none where nothing was trained."""
    trained = {arm: result.skipped for arm, result in results.items() if result.skipped is not None}
    if not trained:
        return []
    texts = [
        f"{arm} {skipped_text(skipped, config.seeds, results[arm].config.train.steps)}"
        for arm, skipped in trained.items()
        if skipped.any()
    ]
    return ["updates skipped, not finite: " + ("; ".join(texts) or "none")]


def _number(value):
    """A JSON number; null for what is not finite; anything else as it is."""
    if isinstance(value, (float, np.floating, np.ndarray)):
        value = float(value)
        return value if np.isfinite(value) else None
    return value


def _write(path: Path, config: str, result: ArmResult) -> None:
    def numbers(array: np.ndarray) -> list | float | None:
        return [numbers(x) for x in array] if array.ndim else _number(array)

    write_json(
        path,
        {
            "config": config,
            "metrics": {name: numbers(values) for name, values in result.metrics.items()},
            "history": {name: [steps.tolist(), numbers(values)] for name, (steps, values) in result.history.items()},
            "seconds": result.seconds,
            "skipped": None if result.skipped is None else result.skipped.tolist(),
        },
    )


def _read(path: Path, config: str) -> ArmResult | None:
    if not path.exists():
        return None
    stored = json.loads(path.read_text())
    if stored["config"] != config:
        return None
    metrics = {name: np.array(values, np.float64) for name, values in stored["metrics"].items()}
    history = {name: (np.array(s), np.array(v, np.float64)) for name, (s, v) in stored["history"].items()}
    skipped = stored.get("skipped")
    return ArmResult(metrics, history, stored["seconds"], None if skipped is None else np.array(skipped))
