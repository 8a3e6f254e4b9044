"""The ledger of claims: `python -m lemmata.train.ledger [CONFIG…|--all]` runs configs and writes configs/README.md.

A config that was run before, with the same values, is read back, and one that was cut off goes on.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from . import config as configs
from .compare import compare
from .experiments import get
from .workdir import write_json

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


def markdown(entries: Sequence[dict]) -> str:
    """The ledger's page."""
    rows = []
    for e in entries:
        difference, low, high = e["interval"]
        ours = f"{e['metric']}: {e['better']:.4g} against {e['than']}"
        ours += f"; better by {difference:.3g} [{low:.3g}, {high:.3g}]"
        name, command = f"{e['config']}: {e['method']}", f"`{e['command']}`"
        cells = (name, e["paper"], ours, e["verdict"], f"{e['seconds']:.0f}", command)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return HEAD + "".join(rows)


def update(paths: Sequence[str], workdir: Path, page: Path, *, progress: bool | None = None) -> list[dict]:
    """Run the configs one by one; after each, the page and the ledger's own record are written anew."""
    record = workdir / "ledger.json"
    entries = json.loads(record.read_text()) if record.exists() else {}
    for path in paths:
        config = configs.load(path)
        entries[config.name] = entry(path, workdir, progress=progress)
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(record, entries)
        ordered = [entries[name] for name in sorted(entries)]
        page.write_text(markdown(ordered))
        print(f"{config.name}: {entries[config.name]['verdict']}", flush=True)
    return [entries[name] for name in sorted(entries)]


def main(argv: Sequence[str]) -> None:
    """Run what the command line names."""
    flags.DEFINE_bool("all", False, "Every config of the package that makes a claim.")
    flags.DEFINE_string("workdir", "runs/ledger", "Folder of the comparisons and of the ledger's record.")
    flags.DEFINE_string("page", str(PACKAGE / "configs" / "README.md"), "Page to write.")
    flags.DEFINE_bool("progress", None, "Progress bars; default: on a terminal alone.")
    try:
        named = FLAGS(argv)[1:]
        paths = claims() if FLAGS.all else named
        if not paths:
            raise ValueError("ledger: name configs, or give --all.")
        update(paths, Path(FLAGS.workdir), Path(FLAGS.page), progress=FLAGS.progress)
    except (ValueError, OSError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv)
