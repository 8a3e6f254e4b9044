"""Compile the program that an arm runs for a TPU topology that is not there, and say whether it fits."""

import math
from collections.abc import Sequence
from typing import Any

import jax

from .engine import aot_report, sharding
from .engine.loop import next_stop
from .engine.program import Program
from .engine.types import ConfigDict
from .experiments import get
from .judge.compare import seed_groups
from .judge.config import resolve_arm


def run(config: ConfigDict, topology: str, *, arm: str | None = None) -> str:
    """The report on the training program of `arm` (default: the claim's better arm, else the first) on `topology`.

    It is the program that `--arm` dispatches first, over all seeds that it trains at once and with the data that it
    keeps on the device. A batch that the topology does not divide is rounded up to the next size that it does, and the
    report says so.

    Args:
        config: completed.
        topology: `chip:shape`, such as "v5e:16x16".
        arm: a key of `config.arms`.

    Raises:
        ValueError: a topology that does not exist, no libtpu, no such arm, an arm that does not train.
    """
    arm = str(arm or config.claim.better or next(iter(config.arms)))
    check_trains(config, arm)
    devices = aot_report.topology_devices(topology)
    lowered, head = lower(config, devices, arm)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = aot_report.does_not_fit(error)
        if refusal is None:
            raise
        return f"{head}\n{refusal}"
    chip = topology.split(":")[0]
    return head + "\n" + aot_report.render(aot_report.report(compiled, chip=chip, num_chips=len(devices)))


def check_trains(config: ConfigDict, arm: str) -> None:
    """Refuse an arm that is no training."""
    if get(config.experiment).kind(resolve_arm(config, arm)) != "build":
        raise ValueError(f"aot: arm {arm!r} of experiment {config.experiment} does not train; there is no step.")


def lower(config: ConfigDict, devices: Sequence[Any], arm: str) -> tuple[Any, str]:
    """The first dispatch of an arm, lowered for `devices`, and a line that says what it is."""
    resolved = resolve_arm(config, arm)
    mesh = sharding.make_mesh(resolved.mesh, devices)
    rows = mesh.shape["data"] * resolved.train.accumulate
    asked = resolved.train.batch_size
    resolved.train.batch_size = math.ceil(asked / rows) * rows
    resolved.train.eval_batch_size = 0
    seeds, task = seed_groups(resolved)[0], get(config.experiment).build(resolved, arm)
    program = Program(task, resolved, mesh, seeds=seeds, check_size=False)
    length = next_stop(0, resolved.train, program.feed.span)
    lowered = program.advance(length).lower(
        program.abstract_state, program.abstract_data(), program.feed.abstract_inputs(length)
    )
    rounded = "" if resolved.train.batch_size == asked else f" (train.batch_size = {asked}, rounded up to divide)"
    head = (
        f"{config.name}, arm {arm}: {length} steps of {resolved.train.batch_size} examples{rounded} in one dispatch, "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} at once, mesh {dict(mesh.shape)}, "
        f"strategy {resolved.mesh.strategy}"
    )
    return lowered, head
