"""The command: `python -m lemmata.train [--config=FILE] [--config.KEY=VALUE …] [--arm=NAME] [--workdir=FOLDER]`.

With no arguments it runs the quickstart. With `--arm` it trains that arm alone; without, it compares all arms.
"""

import ast
import contextlib
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from absl import flags
from ml_collections import config_flags

from .engine import mistakes
from .engine.types import ConfigDict
from .judge import config as configs

FLAGS = flags.FLAGS
flags.DEFINE_string("arm", None, "Train this arm alone, resumable, at any scale; default: compare all arms.")
flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<config>-<digest of its values>.")
flags.DEFINE_bool("override_workdir", False, "Go on with a folder that another config made.")
flags.DEFINE_bool("progress", None, "Progress bars; default: on a terminal alone.")
flags.DEFINE_string("aot", None, "Compile the arm's step for this TPU topology, such as v5e:16x16, and report.")
flags.DEFINE_bool("distributed", False, "Join the other hosts of the run before anything else.")
flags.DEFINE_string("coordinator", None, "host:port of process 0; clusters that JAX knows need none.")
flags.DEFINE_integer("num_processes", None, "How many processes join; clusters that JAX knows need none.")
flags.DEFINE_integer("process_id", None, "Which of them this one is; clusters that JAX knows need none.")


def main(config: ConfigDict) -> None:
    """Run what the flags ask for."""
    if FLAGS.aot:
        from . import aot

        print(aot.run(config, FLAGS.aot, arm=FLAGS.arm))
        return
    if FLAGS.distributed:
        import jax

        jax.distributed.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    from .judge import compare

    workdir = Path(FLAGS.workdir or default_workdir(config))
    options = {"workdir": workdir, "override_workdir": FLAGS.override_workdir, "progress": FLAGS.progress}
    if FLAGS.arm:
        result = compare.run_arm(config, FLAGS.arm, **options)
        results = {FLAGS.arm: result}
        skipped = compare.skipped_line(config, results)
        report(compare.table(config, results), *skipped, f"results in {workdir / FLAGS.arm}")
    else:
        outcome = compare.compare(config, **options)
        skipped = compare.skipped_line(config, outcome.results)
        report(compare.table(config, outcome.results), *skipped, *verdict_lines(outcome))


def verdict_lines(outcome) -> list[str]:
    """The claim, its verdict, and where everything is."""
    from .experiments import get
    from .judge.plots import claim_text

    lines, claim = [], outcome.config.claim
    if outcome.verdict is not None:
        unit = get(outcome.config.experiment).metrics(outcome.config)[claim.metric].unit
        lines += [f"claim: {claim.better} better than {claim.than}, {claim.metric} {claim.direction}"]
        lines += [f"paper: {claim.paper}"] if claim.paper else []
        lines += [f"verdict: {claim_text(claim, outcome.verdict, unit)}", ""]
    lines += [f"picture: {outcome.picture_path}"] if outcome.picture_path else []
    return [*lines, f"summary: {outcome.summary_path}"]


def report(*parts: str) -> None:
    """Print on process 0."""
    import jax

    if jax.process_index() == 0:
        print("\n" + parts[0] + "\n\n" + "\n".join(parts[1:]), flush=True)


def default_workdir(config: ConfigDict) -> Path:
    """A folder of the config's own, so that the same command goes on and another starts afresh."""
    return Path("runs") / f"{config.name}-{configs.digest(config)}"


def parse_config(argv: Sequence[str]) -> tuple[ConfigDict, list[str]]:
    """The completed config that `--config` names, and the arguments without it.

    ml_collections then parses `--config.KEY=VALUE` against all keys, those that the file leaves to their defaults too.
    """
    path, rest, arguments = "configs/quickstart.py", [argv[0]], iter(argv[1:])
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            path = value if equals else next(arguments, "")
        else:
            rest.append(argument)
    config = configs.load(path)
    return config, [rest[0], *(x for x in rest[1:] if not _set_optional(config, x))]


def _set_optional(config: ConfigDict, argument: str) -> bool:
    """Make the key that `--config.KEY=VALUE` names one of the config, and set it where its value is None.

    None has no type by which ml_collections could read a value. Returns whether it was set.
    """
    name, equals, value = argument.partition("=")
    if not name.startswith(("--config.", "-config.")):
        return False
    path = name.split(".", 1)[1]
    configs.expose(config, path)
    *sections, key = path.split(".")
    section = functools.reduce(lambda inner, name: inner[name], sections, config)
    if section[key] is not None or not equals:
        return False
    with contextlib.suppress(ValueError, SyntaxError):  # else it is a string
        value = ast.literal_eval(value)
    with section.ignore_type():
        section[key] = value
    return True


def run(argv: Sequence[str]) -> None:
    """Parse, check and run; a mistake in the input ends in one clear line and status 2."""
    with mistakes.told_in_one_line():
        config, rest = parse_config(argv)
        with mistakes.expected("arguments"):
            holder = config_flags.DEFINE_config_dict("config", cast(Any, config), lock_config=True, sys_argv=list(rest))
            rest = FLAGS(rest)
        if len(rest) > 1:
            raise ValueError(f"arguments: unexpected {' '.join(rest[1:])}; flags begin with --.")
        config = configs.complete(holder.value)
        main(config)


if __name__ == "__main__":
    run(sys.argv)
