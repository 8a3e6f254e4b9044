"""fit: from a task and a config to trained parameters and held-out metrics; what was cut off goes on exactly."""

import contextlib
import logging
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from .checkpoint import Checkpoints
from .config import completed
from .metrics import History, MetricsLog
from .mistakes import RunFailed
from .program import Program
from .sharding import make_mesh
from .state import TrainState
from .task import Task
from .types import ConfigDict

logger = logging.getLogger(__name__)

MOST_SKIPPED = 0.1  # share of the updates that may be dropped


class Preempted(SystemExit):
    """SIGTERM came; the checkpoint is written. Exits with status 0."""

    def __init__(self, step: int):
        super().__init__(0)
        self.step = step


class FitResult(NamedTuple):
    """What `fit` returns; arrays have a leading axis `[seeds]`, of length 1 for one seed."""

    state: TrainState  # no leading axis for one seed
    metrics: dict[str, np.ndarray]  # held-out, after the last step: name -> [seeds]
    history: (
        History  # name -> (steps [t], values [seeds, t]); "train/…" and "test/…" (or the split of `train.eval_split`)
    )
    skipped: np.ndarray  # [seeds] int, updates that were dropped because they were not finite


def fit(
    task: Task,
    config: ConfigDict | Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0,),
    *,
    workdir: Path | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
    label: str = "",
) -> FitResult:
    """Train `config.train.steps` steps from each seed.

    Several seeds run as one vmapped program. With a workdir, metrics and checkpoints go there and a run that was cut
    off is continued from its newest whole checkpoint, to the same bits as if it had never stopped: dispatches begin and
    end at steps that the config alone decides, and everything random is a function of seed and step.

    Args:
        task: objective and data.
        config: `train`, `optimizer` and `mesh` are read; what they leave out takes its default (`engine.config`).
        seeds: one run each.
        workdir: absolute; None keeps everything in memory.
        mesh: default: from `config.mesh` and all devices.
        progress: a bar; None shows one on a terminal alone.
        label: written before the bar.

    Raises:
        ValueError: bad sizes, bad data, or checkpoints none of which can be restored.
        RunFailed: more than a tenth of a seed's updates were not finite. What was written stays.
        OSError: a checkpoint could not be written; earlier ones are untouched.
        Preempted: SIGTERM, after a checkpoint.
    """
    config = completed(config)
    mesh = make_mesh(config.mesh) if mesh is None else mesh
    with contextlib.ExitStack() as stack:
        termination = stack.enter_context(Termination())  # first: a signal that comes while it compiles counts too
        program = Program(task, config, mesh, seeds=seeds)
        checkpoints = Checkpoints(workdir / "checkpoints", config.train) if workdir else None
        if checkpoints:
            stack.callback(checkpoints.close)
        restored = checkpoints.restore(program.abstract_state) if checkpoints else None
        step = restored.step if restored else 0
        state = restored.state if restored else program.init()
        program.feed.seek(restored.stream if restored else None)
        log = MetricsLog(workdir if jax.process_index() == 0 else None, seeds, resume_step=step)
        stack.callback(log.close)
        run = _Run(program, config.train, state, step, log, checkpoints, termination)
        run.to_the_end(_bar(step, config.train.steps, label, progress))
        skipped = np.atleast_1d(jax.device_get(run.state.skipped))
        _refuse_skipped(skipped, seeds, config.train.steps, config.train.steps)  # of a finished run that is read back
        if skipped.any():
            logger.warning("%s: skipped %s", label or "train", skipped_text(skipped, seeds, config.train.steps))
        return FitResult(run.state, run.evaluate(), log.history(), skipped)


def skipped_text(skipped: np.ndarray, seeds: Sequence[int], steps: int) -> str:
    """`3 of 60 updates of seed 1, …`, of the seeds that skipped any; `no update` where none did."""
    texts = [f"{count} of {steps} updates of seed {seed}" for seed, count in zip(seeds, skipped, strict=True) if count]
    return ", ".join(texts) or "no update"


def _refuse_skipped(skipped: np.ndarray, seeds: Sequence[int], step: int, steps: int) -> None:
    """What is left of a run that dropped more than a tenth of its updates is not the training that was asked for."""
    if (skipped > MOST_SKIPPED * steps).any():
        raise RunFailed(
            f"train: by step {step}, {skipped_text(skipped, seeds, steps)} were not finite and were skipped, more than "
            "a tenth. Look for infinite or missing values in the data, or take a lower optimizer.learning_rate or "
            "an optimizer.clip_norm; train.skip_nonfinite=False lets the run go on to see what becomes of it."
        )


def next_stop(step: int, train: ConfigDict, span: int | None = None) -> int:
    """Where the dispatch that starts at `step` ends: the next multiple of any period of the config, or the last step.

    It depends on nothing but the step, so a resumed run dispatches as the first did. `span` is the most steps that the
    source of the data lets a dispatch take.
    """
    periods = (span or 0, train.steps_per_dispatch, train.log_every, train.eval_every, train.checkpoint_every)
    return min([train.steps] + [(step // period + 1) * period for period in periods if period])


class _Run:
    """The moving parts of `fit`."""

    def __init__(self, program, train, state, step, log, checkpoints, termination):
        self.program, self.train, self.state, self.step = program, train, state, step
        self.log, self.checkpoints, self.termination = log, checkpoints, termination
        self.split, self.held_out = train.eval_split, (-1, {})

    def to_the_end(self, bar: Any) -> None:
        train, data = self.train, self.program.train_data
        pending = None  # the last dispatch's metrics: fetched once the next is on its way, so the device never waits
        prepared = self._prepare(self.step)
        while self.step < train.steps:
            stop, inputs, position = prepared
            self.state, metrics = self.program.advance(stop - self.step)(self.state, data, inputs)
            self.step = stop
            if stop < train.steps:
                prepared = self._prepare(stop)
            self._write(pending)
            pending = (stop, metrics)
            if self._due(train.eval_every):
                pending = self._write(pending)
                self.evaluate()
            terminate = self.termination.requested(stop)
            if self._due(train.checkpoint_every) or terminate:
                pending = self._write(pending)
                self._save(position)
            bar.update(stop - bar.n)
            if terminate and stop < train.steps:
                if self.checkpoints:
                    self.checkpoints.wait()
                raise Preempted(stop)
        self._write(pending)
        bar.close()

    def evaluate(self) -> dict[str, np.ndarray]:
        """Held-out metrics of the present state, logged once a step."""
        if self.held_out[0] != self.step:
            metrics = self.program.evaluate(self.state)
            self.held_out = (self.step, metrics)
            rows, prefix = self.log.rows[-500:], f"{self.split}/"
            if not any(row["step"] == self.step and row["name"].startswith(prefix) for row in rows):
                self.log.write(self.step, {prefix + name: value for name, value in metrics.items()})
        return self.held_out[1]

    def _prepare(self, step: int) -> tuple[int, Any, dict | None]:
        """Inputs of the dispatch from `step`, made while the device is at the one before."""
        if step >= self.train.steps:
            return step, None, None
        feed = self.program.feed
        stop = next_stop(step, self.train, feed.span)
        return stop, feed.inputs(step, stop - step), feed.position()

    def _due(self, period: int) -> bool:
        return self.step == self.train.steps or bool(period and self.step % period == 0)

    def _write(self, pending: tuple[int, Any] | None) -> None:
        if pending:
            step, metrics = pending
            values = jax.device_get(metrics)
            if step % self.train.log_every == 0 or step == self.train.steps:
                self.log.write(step, {f"train/{name}": value for name, value in values.items()})
            _refuse_skipped(np.atleast_1d(values["skipped"]), self.program.seeds, step, self.train.steps)

    def _save(self, position: dict | None) -> None:
        if self.checkpoints:
            metrics = self.held_out[1] if self.held_out[0] == self.step else {}
            self.checkpoints.save(self.step, self.state, position, metrics)


class Termination:
    """Turns SIGTERM into a question that the loop asks between dispatches."""

    def __enter__(self) -> "Termination":
        self._flag = False
        self._previous = None
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._set)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; on several hosts all of them get the same answer."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._flag

    def _set(self, *_: object) -> None:
        self._flag = True


def _bar(step: int, steps: int, label: str, progress: bool | None) -> Any:
    from tqdm import tqdm

    disable = None if progress is None else not progress  # None: off where stderr is no terminal
    if jax.process_index():
        disable = True
    return tqdm(total=steps, initial=step, desc=label or None, unit="step", disable=disable, dynamic_ncols=True)
