"""The ledger of claims: `python -m lemmata.train.ledger [CONFIG…|--all]` runs configs and writes configs/README.md.

A config that was run before, with the same values, is read back, and one that was cut off goes on. A row of the page is
replaced by one of the same command alone; every other one stays, whoever wrote it.
"""

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from .engine import mistakes
from .engine.workdir import write_json, write_text
from .experiments import get
from .judge import config as configs
from .judge.compare import compare

FLAGS = flags.FLAGS
PACKAGE = Path(__file__).resolve().parents[1]
HEAD = """# The ledger of claims

Each row is one config, run as its command says: method and baseline alike, over the config's seeds. The verdict comes
from the 95 % interval of the paired difference over seeds: *reproduced* where all of it is on the claim's side, *not
reproduced* where none is, else *inconclusive*. Written by `python -m lemmata.train.ledger`.

| method | paper's figure | ours, 95 % interval | verdict | seconds | command |
| --- | --- | --- | --- | --- | --- |
"""


def claims() -> list[str]:
    """Every config file of the package that makes a claim, by path from the package's root."""
    files = sorted(p for p in (PACKAGE / "configs").glob("**/*.py") if p.name != "__init__.py")
    paths = [str(file.relative_to(PACKAGE)) for file in files]
    return [path for path in paths if configs.load(path).claim.metric]


def entry(path: str, workdir: Path, *, progress: bool | None = None) -> dict:
    """Run one config and return its row's values.

    Args:
        path: of a config with a claim.
        workdir: its comparison goes to a folder of the config's own in there.
        progress: as for `compare`.

    Raises:
        ValueError: the config claims nothing.
    """
    config = configs.load(path)
    if not config.claim.metric:
        raise ValueError(f"ledger: {path} has no claim.")
    folder = workdir / f"{config.name}-{configs.digest(config)}"
    outcome = compare(config, workdir=folder, progress=progress)
    claim, verdict = outcome.config.claim, outcome.verdict
    assert verdict is not None  # it has a metric
    metric = get(config.experiment).metrics(config)[claim.metric]
    return {
        "method": claim.better,
        "config": config.name,
        "paper": claim.paper,
        "metric": f"{metric.label} [{metric.unit}]" if metric.unit else metric.label,
        "better": verdict.better_mean,
        "than": f"{verdict.than_mean:.4g} ({claim.than})",
        "interval": [verdict.difference, verdict.low, verdict.high],
        "verdict": verdict.outcome,
        "seconds": sum(result.seconds for result in outcome.results.values()),
        "command": f"python -m lemmata.train --config={path}",
    }


def row(e: dict) -> str:
    """An entry as a line of the page."""
    difference, low, high = e["interval"]
    ours = f"{e['metric']}: {e['better']:.4g} against {e['than']}"
    ours += f"; better by {difference:.3g} [{low:.3g}, {high:.3g}]"
    name, command = f"{e['config']}: {e['method']}", f"`{e['command']}`"
    cells = (name, e["paper"], ours, e["verdict"], f"{e['seconds']:.0f}", command)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def rows_of(page: Path) -> dict[str, str]:
    """The lines of a ledger's page by the command that each ends with, which is what tells two rows apart.

    Raises:
        ValueError: the page is something else than a ledger.
    """
    if not page.exists() or not page.read_text().strip():
        return {}
    head, rule, table = page.read_text().partition("| --- |")
    if not rule or not head.startswith(HEAD.splitlines()[0]):
        raise ValueError(f"page: {page} is no ledger, and would be overwritten; give another --page.")
    lines = [line for line in table.splitlines()[1:] if line.startswith("| ")]
    cells = [line.removesuffix(" |").rpartition(" | ")[2] for line in lines]
    return {cell.strip("`").replace("\\|", "|"): line for cell, line in zip(cells, lines, strict=True)}


def update(paths: Sequence[str], workdir: Path, page: Path, *, progress: bool | None = None) -> list[dict]:
    """Run the configs one by one; after each, its row goes into the record and the page. No other row is touched.

    Raises:
        ValueError: a config without a claim, or a page that is no ledger.
    """
    rows_of(page)  # before anything runs
    workdir.mkdir(parents=True, exist_ok=True)
    entries: dict[str, dict] = {}
    for path in paths:
        found = entry(path, workdir, progress=progress)
        with _alone_in(workdir), _alone_in(page.parent):  # another ledger may write the same: read anew, then add
            record = workdir / "ledger.json"
            stored = json.loads(record.read_text()).values() if record.exists() else ()
            entries = {e["command"]: e for e in stored} | {found["command"]: found}
            write_json(record, entries)
            rows = rows_of(page) | {command: row(e) for command, e in entries.items()}
            write_text(page, HEAD + "".join(f"{line}\n" for line in sorted(rows.values())))
        print(f"{found['config']}: {found['verdict']}", flush=True)
    return [entries[command] for command in sorted(entries)]


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which leaves nothing behind and goes with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main(argv: Sequence[str]) -> None:
    """Run what the command line names."""
    flags.DEFINE_bool("all", False, "Every config of the package that makes a claim.")
    flags.DEFINE_string("workdir", "runs/ledger", "Folder of the comparisons and of the ledger's record.")
    flags.DEFINE_string("page", str(PACKAGE / "configs" / "README.md"), "Page to write.")
    flags.DEFINE_bool("progress", None, "Progress bars; default: on a terminal alone.")
    with mistakes.told_in_one_line():
        named = FLAGS(argv)[1:]
        paths = claims() if FLAGS.all else named
        if not paths:
            raise ValueError("ledger: name configs, or give --all.")
        update(paths, Path(FLAGS.workdir), Path(FLAGS.page), progress=FLAGS.progress)


if __name__ == "__main__":
    main(sys.argv)
