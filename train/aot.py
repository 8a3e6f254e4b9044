"""Compile an arm's sharded step for a TPU topology that is not there, and say whether it fits."""

import math

import jax

from . import aot_report, sharding
from .config import resolve_arm
from .experiments import get
from .program import Program
from .types import ConfigDict


def run(config: ConfigDict, topology: str, *, arm: str | None = None) -> str:
    """The report of one train step of `arm` (default: the claim's better arm, else the first) on `topology`.

    A batch that the topology does not divide is rounded up to the next size that it does, and the report says so.

    Args:
        config: completed.
        topology: `chip:shape`, such as "v5e:16x16".
        arm: a key of `config.arms`.

    Raises:
        ValueError: a topology that does not exist, no libtpu, no such arm, an arm that does not train.
    """
    arm = str(arm or config.claim.better or next(iter(config.arms)))
    resolved = resolve_arm(config, arm)
    experiment = get(config.experiment)
    if experiment.kind(resolved) != "build":
        raise ValueError(f"aot: arm {arm!r} of experiment {config.experiment} does not train; there is no step.")
    devices = aot_report.topology_devices(topology)
    mesh = sharding.make_mesh(resolved.mesh, devices)
    rows = mesh.shape["data"] * resolved.train.accumulate
    asked = resolved.train.batch_size
    resolved.train.batch_size = math.ceil(asked / rows) * rows
    resolved.train.eval_batch_size = 0
    program = Program(experiment.module.build(resolved), resolved, mesh, check_size=False)
    step = jax.jit(
        program.on_mesh(program.step),
        out_shardings=(program.state_sharding, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    lowered = step.lower(program.abstract_state, program.abstract_batch())
    rounded = "" if resolved.train.batch_size == asked else f" (train.batch_size = {asked}, rounded up to divide)"
    head = (
        f"{config.name}, arm {arm}: one step of {resolved.train.batch_size} examples{rounded}, "
        f"mesh {dict(mesh.shape)}, strategy {resolved.mesh.strategy}"
    )
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = aot_report.does_not_fit(error)
        if refusal is None:
            raise
        return f"{head}\n{refusal}"
    chip = topology.split(":")[0]
    return head + "\n" + aot_report.render(aot_report.report(compiled, chip=chip, num_chips=len(devices)))
