"""Runs that are cut off, and what else can happen to a workdir."""

import os
import resource
import signal
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def assert_same_end(command, a, b):
    (arrays_a, rows_a), (arrays_b, rows_b) = command.final_state(a), command.final_state(b)
    assert len(arrays_a) == len(arrays_b) > 3
    for x, y in zip(arrays_a, arrays_b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert rows_a == rows_b


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("source", "moments"),
    [("arrays", ("checkpoint", "metrics", "later")), ("sampler", ("later",)), ("stream", ("checkpoint",))],
)
def test_killed_at_any_moment_it_ends_with_the_same_bits(command, tmp_path, source, moments):
    config = command.config_file(tmp_path, source)
    command.run(config, "--arm=main", f"--workdir={tmp_path / 'whole'}")
    folder = tmp_path / "killed"
    log = folder / "main" / "metrics.jsonl"
    checkpoints = folder / "main" / "checkpoints"
    happened = {
        "checkpoint": lambda: checkpoints.exists() and any(p.name != "0" for p in checkpoints.iterdir()),  # its write
        "metrics": lambda: log.exists() and '"step": 20' in log.read_text(),
        "later": lambda: log.exists() and '"step": 40' in log.read_text() and not time.sleep(0.03),
    }
    for moment in moments:
        process = command.start(config, "--arm=main", f"--workdir={folder}")
        wait_for(happened[moment], process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    command.run(config, "--arm=main", f"--workdir={folder}")
    assert_same_end(command, tmp_path / "whole" / "main", folder / "main")


def test_sigterm_writes_a_checkpoint_and_exits_zero(command, tmp_path):
    config = command.config_file(tmp_path)
    command.run(config, "--arm=main", f"--workdir={tmp_path / 'whole'}")
    arguments = (config, "--arm=main", "--config.train.checkpoint_every=0", f"--workdir={tmp_path / 'run'}")
    folder = tmp_path / "run" / "main"
    process = command.start(*arguments)
    wait_for(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").read_text(), process)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    steps = [int(path.name) for path in (folder / "checkpoints").iterdir()]
    assert len(steps) == 1
    assert 10 <= steps[0] < 60
    command.run(*arguments)
    whole, resumed = command.final_state(tmp_path / "whole" / "main"), command.final_state(folder)
    for x, y in zip(whole[0], resumed[0], strict=True):
        np.testing.assert_array_equal(x, y)


def test_two_runs_on_one_workdir(command, tmp_path):
    config = command.config_file(tmp_path)
    process = command.start(config, "--config.train.steps=1000000", f"--workdir={tmp_path / 'run'}")
    wait_for(lambda: (tmp_path / "run" / "main" / "metrics.jsonl").exists(), process)
    second = command.run(config, "--config.train.steps=1000000", f"--workdir={tmp_path / 'run'}", status=2)
    assert "another run is using" in second
    process.kill()
    process.communicate()


def test_a_workdir_of_another_config_is_refused_and_can_be_overridden(command, tmp_path):
    config, workdir = command.config_file(tmp_path), f"--workdir={tmp_path / 'run'}"
    command.run(config, "--config.train.steps=20", workdir)
    refused = command.run(config, "--config.train.steps=40", workdir, status=2)
    assert "train.steps: 20 there, 40 now" in refused
    command.run(config, "--config.train.steps=40", workdir, "--override_workdir")
    _, rows = command.final_state(tmp_path / "run" / "main")
    assert max(row["step"] for row in rows) == 40


def test_a_full_disk_leaves_the_last_good_checkpoint(command, tmp_path):
    config, folder = command.config_file(tmp_path), tmp_path / "run"
    arguments = (config, "--arm=main", "--config.model.name=mlp", f"--workdir={folder}")
    command.run(*arguments, "--config.train.steps=30")
    kept = command.final_state(folder / "main")[0]
    # No file may grow past 4 kB: what a write meets on a full disk is the same error from another cause.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))
    try:
        process = command.start(*arguments, "--config.train.steps=60", "--override_workdir")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "could not be written" in err
    assert "the last good checkpoint (of step 30) is untouched" in err
    for x, y in zip(kept, command.final_state(folder / "main")[0], strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_unwritable_workdir(command, tmp_path):
    (tmp_path / "file").write_text("")
    output = command.run(command.config_file(tmp_path), f"--workdir={tmp_path / 'file' / 'run'}", status=2)
    assert "workdir: cannot write" in output
    assert os.listdir(tmp_path) != []
