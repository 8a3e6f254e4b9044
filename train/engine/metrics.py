"""Metrics of a run: one JSON line a value, and TensorBoard events where tensorboardX is installed."""

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

History = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> (steps [t], values [seeds, t])


class MetricsLog:
    """Writes `metrics.jsonl`: `{"step", "name", "value", "seed", "time"}` a line, the time in seconds since 1970.

    A resumed run hands over the step of its checkpoint: later lines, and one that was cut short, are dropped, so that
    the file ends as if the run had never stopped. A value that is not finite is written as null.

    Args:
        folder: where the file goes; None keeps the rows in memory alone.
        seeds: of the runs that are logged together.
        resume_step: drop what was logged after it.
    """

    def __init__(self, folder: Path | None, seeds: Sequence[int], resume_step: int = 0):
        self.seeds = tuple(seeds)
        self.rows: list[dict] = []
        self._file = self._events = None
        if folder is None:
            return
        path = folder / "metrics.jsonl"
        if path.exists():
            self.rows = [row for row in read_rows(path) if row["step"] <= resume_step]
            kept = path.with_suffix(".jsonl.new")
            kept.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
            os.replace(kept, path)
        self._file = path.open("a", buffering=1)
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: dict[str, np.ndarray]) -> None:
        """Log values `[seeds]` by name."""
        now = time.time()
        for name, by_seed in values.items():
            for seed, value in zip(self.seeds, np.atleast_1d(np.asarray(by_seed, np.float64)), strict=True):
                number = float(value) if math.isfinite(value) else None
                row = {"step": step, "name": name, "value": number, "seed": seed, "time": now}
                self.rows.append(row)
                if self._file:
                    self._file.write(json.dumps(row) + "\n")
                if self._events:
                    suffix = f"/seed_{seed}" if len(self.seeds) > 1 else ""
                    self._events.add_scalar(name + suffix, value, step, walltime=now)

    def history(self) -> History:
        """All that was logged, by name."""
        return history(self.rows, self.seeds)

    def close(self) -> None:
        """Flush and close the files."""
        for sink in (self._file, self._events):
            if sink:
                sink.close()


def read_rows(path: Path) -> list[dict]:
    """The rows of a `metrics.jsonl`; a last line that a killed run cut short is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def history(rows: list[dict], seeds: Sequence[int]) -> History:
    """Rows as arrays: name -> (steps `[t]`, values `[seeds, t]`), null as NaN."""
    table: dict[str, dict[int, dict[int, float]]] = {}
    for row in rows:
        value = math.nan if row["value"] is None else row["value"]
        table.setdefault(row["name"], {}).setdefault(row["step"], {})[row["seed"]] = value
    return {
        name: (
            np.array(sorted(by_step)),
            np.array([[by_step[step].get(seed, math.nan) for step in sorted(by_step)] for seed in seeds]),
        )
        for name, by_step in table.items()
    }
