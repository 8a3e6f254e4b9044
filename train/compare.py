"""Arms x seeds: a table, the claim's verdict, `summary.json` and `comparison.png`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import plots
from .config import complete, digest, flatten, resolve_arm
from .experiments import Experiment, get
from .loop import fit, skipped_text
from .sharding import make_mesh, replicated
from .statistics import ArmResult, Verdict, mean_interval, verdict
from .types import ConfigDict
from .workdir import open_workdir, write_json


class Comparison(NamedTuple):
    """What `compare` returns; the paths are None without a workdir."""

    config: ConfigDict
    results: dict[str, ArmResult]
    verdict: Verdict | None  # None where the config claims nothing
    summary_path: Path | None
    picture_path: Path | None


def compare(
    config: ConfigDict,
    *,
    workdir: str | Path | None = None,
    override_workdir: bool = False,
    progress: bool | None = None,
) -> Comparison:
    """Run every arm of a config over its seeds and judge its claim.

    Arms that a workdir already holds, from the same config, are read back, and one that was cut off is continued.

    Args:
        config: as `get_config()` of a config file gives it; missing keys take their defaults.
        workdir: where everything goes; None keeps the results in memory alone.
        override_workdir: go on with a folder that another config made.
        progress: bars; None shows them on a terminal alone.

    Raises:
        ValueError: a config or a workdir that does not fit.

    Example:
        >>> from lemmata.configs import quickstart
        >>> comparison = compare(quickstart.get_config())  # a minute
        >>> comparison.verdict.outcome
        'reproduced'
    """
    config = complete(config)
    if workdir is None:
        results = {arm: run_arm(config, arm, progress=progress) for arm in config.arms}
        return Comparison(config, results, judge(config, results), None, None)
    with open_workdir(workdir, config, override=override_workdir) as folder:
        results = {
            arm: run_arm(config, arm, workdir=folder, override_workdir=override_workdir, progress=progress)
            for arm in config.arms
        }
        judged = judge(config, results)
        summary_path, picture_path = folder / "summary.json", folder / "comparison.png"
        if jax.process_index() == 0:
            write_json(summary_path, summary(config, results, judged))
            if config.claim.metric:
                plots.save(picture(config, results), picture_path)
        return Comparison(config, results, judged, summary_path, picture_path if config.claim.metric else None)


def run_arm(
    config: ConfigDict,
    arm: str,
    *,
    workdir: Path | None = None,
    override_workdir: bool = False,
    progress: bool | None = None,
) -> ArmResult:
    """One arm over all its seeds, in `workdir / arm`; read back from there if it is done.

    Raises:
        ValueError: no such arm, or a workdir that does not fit.
    """
    resolved = resolve_arm(config, arm)
    experiment = get(config.experiment)
    if workdir is None:
        return _run(experiment, resolved, arm, None, progress)
    with open_workdir(Path(workdir) / arm, resolved, override=override_workdir) as folder:
        path = folder / "result.json"
        done = _read(path, digest(resolved))
        if done is not None:
            return done
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
            # The task is built anew: a stream has a position, which each run starts from the beginning.
            task = experiment.module.build(config)
            where = folder / f"seed_{seeds[0]}" if folder and len(groups) > 1 else folder
            if where:
                where.mkdir(exist_ok=True)
            label = arm if len(groups) == 1 else f"{arm} seed {seeds[0]}"
            fitted = fit(task, config, seeds, workdir=where, progress=progress, label=label)
            held_out = {name.removeprefix("test/"): x for name, x in fitted.history.items()}
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
    return ArmResult(metrics, history, seconds, np.concatenate(skipped) if skipped else None)


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
    """The claim's verdict, or None where the config claims nothing."""
    claim = config.claim
    if not claim.metric:
        return None
    better, than = (results[arm].metrics[claim.metric] for arm in (claim.better, claim.than))
    return verdict(better, than, direction=claim.direction)


def picture(config: ConfigDict, results: dict[str, ArmResult]):
    """The experiment's own figure, or the standard one."""
    experiment = get(config.experiment)
    if hasattr(experiment.module, "figure"):
        return experiment.module.figure(config, results)
    return plots.comparison_figure(config, results, experiment.metrics(config), experiment.references(config))


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


def table(config: ConfigDict, results: dict[str, ArmResult], *, most: int = 4) -> str:
    """Arms by metrics as text: mean ± half of the 95 % interval; the claim's metric comes first.

    Args:
        config: completed.
        results: arm -> result.
        most: metrics shown; `summary.json` has all of them.
    """
    known = get(config.experiment).metrics(config)
    names = sorted(next(iter(results.values())).metrics, key=lambda name: name != config.claim.metric)[:most]
    rows = [["arm", *(f"{n} [{known[n].unit}]" if n in known and known[n].unit else n for n in names), "seconds"]]
    for arm, result in results.items():
        cells = []
        for name in names:
            mean, low, high = mean_interval(result.metrics[name])
            cells.append(f"{mean:.4g}" + (f" ± {(high - low) / 2:.2g}" if np.isfinite(low) else ""))
        rows.append([arm, *cells, f"{result.seconds:.1f}"])
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
        f"{arm} {skipped_text(skipped, config.seeds, resolve_arm(config, arm).train.steps)}"
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
