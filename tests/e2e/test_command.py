"""The command line: the quickstart, overrides, mistakes, meshes and several processes."""

import json
import socket

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def test_the_quickstart_shortened_ends_with_table_verdict_and_picture(command, tmp_path):
    output = command.run("--config.train.steps=20", "--config.train.eval_every=10", cwd=tmp_path)
    folder = next((tmp_path / "runs").iterdir())
    assert folder.name.startswith("quickstart-")
    for part in ("arm", "info_nce", "demi", "verdict:", "picture:", str(folder / "comparison.png")):
        assert part in output
    assert (folder / "comparison.png").stat().st_size > 10_000
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["train.steps"] == 20
    assert set(summary["arms"]) == {"demi", "demi_boosted", "info_nce"}
    assert summary["verdict"]["outcome"] in ("reproduced", "not reproduced", "inconclusive")
    for arm in summary["arms"].values():
        assert len(arm["metrics"]["estimate"]["seeds"]) == 3
    again = command.run("--config.train.steps=20", "--config.train.eval_every=10", cwd=tmp_path)  # reads it back
    assert [x for x in again.splitlines() if "demi " in x] == [x for x in output.splitlines() if "demi " in x]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--config.train.stepz=3"], ["stepz", "steps"]),
        (["--config.train.steps=many"], ["train.steps", "many"]),
        (["--config.train.batch_size=4096"], ["batch_size", "4096"]),
        (["--config.mesh.data=3"], ["mesh", "3"]),
        (["--config.data.name=digit"], ["digit", "digits"]),
        (["--config.data.name=cifar10"], ["cifar10", "python -m lemmata.train.data"]),
        (["--config.seeds=0,4294967296"], ["seeds", "4294967296", "4294967295"]),
        (["--config.model.features=16.5"], ["model.features", "16.5"]),
        (["--config.optimizer.options.b9=0.5"], ["optimizer.options.b9", "b2"]),
        (["--config.arms.main.train.stepz=5"], ["arms.main.train.stepz", "steps"]),
        (["--arm=mian"], ["mian", "main"]),
        (["--aot=v5e"], ["v5e"]),
        (["--no_such_flag"], ["no_such_flag"]),
        (["stray"], ["stray"]),
    ],
)
def test_a_mistake_is_one_clear_line(command, tmp_path, arguments, parts):
    output = command.run(command.config_file(tmp_path), *arguments, f"--workdir={tmp_path / 'run'}", status=2)
    assert "Traceback" not in output
    line = output.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_any_key_of_an_arm_or_of_the_optimizer_can_be_set(command, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    settings = ["--config.arms.main.train.steps=4", "--config.optimizer.options.b1=0.5"]
    transforms = "--config.optimizer.transforms=(('clip',{'max_delta':1.0}),)"
    output = command.run(command.config_file(tmp_path), *settings, transforms, workdir)
    assert "updates skipped, not finite: none" in output
    used = json.loads((tmp_path / "run" / "main" / "config.json").read_text())
    assert (used["train.steps"], used["optimizer.options.b1"], used["optimizer.options.b2"]) == (4, 0.5, 0.999)
    assert used["optimizer.transforms"] == [["clip", {"max_delta": 1.0}]]


def test_a_fault_of_the_program_is_a_traceback(command, tmp_path):
    """Here an experiment whose function has a mistake that no check foresaw."""
    (tmp_path / "sitecustomize.py").write_text(
        "import lemmata.train.experiments.classification as classification\n"
        "def build(config):\n"
        "    return {}['a key that is not there']\n"
        "classification.build = build\n"
    )
    output = command.run(command.config_file(tmp_path), status=1, PYTHONPATH=str(tmp_path), cwd=tmp_path)
    assert "Traceback" in output
    assert "KeyError: 'a key that is not there'" in output


def losses(folder):
    rows = [json.loads(line) for line in (folder / "main" / "metrics.jsonl").read_text().splitlines()]
    return {(row["step"], row["name"]): row["value"] for row in rows}


def assert_close(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=1e-5, atol=1e-5, err_msg=str(key))


@pytest.mark.parametrize("strategy", ["replicate", "fsdp"])
def test_eight_devices_give_the_losses_of_one(command, tmp_path, strategy):
    config = command.config_file(tmp_path)
    command.run(config, f"--workdir={tmp_path / 'one'}")
    command.run(config, f"--config.mesh.strategy={strategy}", f"--workdir={tmp_path / 'eight'}", devices=8)
    assert_close(losses(tmp_path / "one"), losses(tmp_path / "eight"))


@pytest.mark.parametrize("source", ["arrays", "stream"])
def test_two_processes_of_four_devices_give_the_losses_of_one(command, tmp_path, source):
    config, steps = command.config_file(tmp_path, source), "--config.train.steps=30"
    command.run(config, steps, f"--workdir={tmp_path / 'one'}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [config, steps, "--distributed", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    workdir = f"--workdir={tmp_path / 'two'}"
    processes = [command.start(*arguments, f"--process_id={i}", workdir, devices=4) for i in (0, 1)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    assert_close(losses(tmp_path / "one"), losses(tmp_path / "two"))
    assert (tmp_path / "two" / "summary.json").exists()
