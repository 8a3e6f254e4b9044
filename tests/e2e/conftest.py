"""The command as a user runs it: in a process of its own, on one device unless a test asks for more.

Only its programs are compiled quickly: what is asked here is whether the command does what it says.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from compiled import quick_flags


def start(*arguments: str, devices: int = 1, cwd: Path | None = None, **environment: str) -> subprocess.Popen:
    """`python -m lemmata.train …` with both outputs piped."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    flags = f"--xla_force_host_platform_device_count={devices} {quick_flags()}"
    kept |= {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-m", "lemmata.train", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kept, cwd=cwd or os.environ["HOME"]
    )


def run(*arguments: str, status: int = 0, **options) -> str:
    """Run to the end, check the exit status, and return both outputs."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, f"exit status {process.returncode}\n{out}\n{err}"
    return out + err


def config_file(folder: Path, source: str = "arrays") -> str:
    """A small config, written to a file: a run of some seconds on arrays, a sampler or a stream."""
    sections = {
        "arrays": "experiment='classification', data=dict(name='digits'), model=dict(name='mlp'),",
        "sampler": "experiment='mutual_information', data=dict(total_mi=(4.0,)),"
        "model=dict(critic='learned', hidden=(32,), embedding=8),",
        "stream": "experiment='language_model', data=dict(name='python_docs', window=16, stream=True),"
        "model=dict(num_layers=1, num_heads=2, model_dim=32, mlp_dim=64),",
    }[source]
    path = folder / f"small_{source}.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        f"    return ConfigDict(dict({sections}\n"
        "        train=dict(steps=60, batch_size=16, steps_per_dispatch=2, log_every=10, eval_every=20,\n"
        "                   checkpoint_every=8, keep=3, eval_batches=2, eval_batch_size=256),\n"
        "        seeds=(0,), arms=dict(main={})))\n"
    )
    return f"--config={path}"


def final_state(folder: Path) -> Sequence:
    """Every array of the newest checkpoint, in order, and the metrics without their wall times."""
    import jax

    from lemmata.train.engine import checkpoint
    from lemmata.train.engine.metrics import read_rows

    state = checkpoint.load(folder / "checkpoints")
    rows = [{k: v for k, v in row.items() if k != "time"} for row in read_rows(folder / "metrics.jsonl")]
    return jax.tree.leaves(state), rows


@pytest.fixture
def command():
    """The helpers of this file."""
    import types

    return types.SimpleNamespace(start=start, run=run, config_file=config_file, final_state=final_state)
