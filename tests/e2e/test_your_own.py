"""A user's own code in a folder of their own: loss, models, table, optimizer, experiment, named in configs."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parents[1] / "support" / "users_package"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The package outside the tree, and a folder to run from, where the table lies."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(PACKAGE, home / "project", ignore=shutil.ignore_patterns("__pycache__"))
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    rng = np.random.default_rng(0)
    rows = ["height,width,weight,kind"]
    for _ in range(240):
        kind = rng.integers(3)
        size = rng.normal(size=3) * 0.5 + np.eye(3)[kind] * 255  # not in units that a network likes
        rows.append(",".join(f"{value:.3f}" for value in size) + f",{('oak', 'elm', 'ash')[kind]}")
    (elsewhere / "rows.csv").write_text("\n".join(rows) + "\n")
    return home


def run(command, home, config, *arguments, **options):
    return command.run(f"--config={home / 'project' / config}", *arguments, cwd=home / "elsewhere", **options)


@pytest.mark.parametrize("model", ["nnx_pair", "linear_pair"])
def test_a_comparison_of_one_s_own_loss_model_table_and_optimizer(command, home, tmp_path, model):
    output = run(command, home, f"own_loss.py:{model}", f"--workdir={tmp_path / 'run'}")
    assert "verdict:" in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["arms"]["focal"]["metrics"]["accuracy"]["mean"] > 0.9  # data.scale standardises the table
    used = json.loads((tmp_path / "run" / "focal" / "config.json").read_text())
    assert used["method.gamma"] == 1.5
    assert used["optimizer.options.decay"] == 0.0
    assert "method.gamma" not in json.loads((tmp_path / "run" / "plain" / "config.json").read_text())


def test_one_arm_killed_and_resumed_ends_with_the_same_bits(command, home, tmp_path):
    run(command, home, "own_loss.py", "--arm=focal", f"--workdir={tmp_path / 'whole'}")
    folder = tmp_path / "killed"
    arguments = (f"--config={home / 'project' / 'own_loss.py'}", "--arm=focal", f"--workdir={folder}")
    process = command.start(*arguments, cwd=home / "elsewhere")
    checkpoints, end = folder / "focal" / "checkpoints", time.monotonic() + 120
    while not (checkpoints.exists() and any(p.name.isdigit() for p in checkpoints.iterdir())):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run(command, home, "own_loss.py", "--arm=focal", f"--workdir={folder}")
    (whole, rows), (killed, same) = (command.final_state(f / "focal") for f in (tmp_path / "whole", folder))
    for a, b in zip(whole, killed, strict=True):
        np.testing.assert_array_equal(a, b)
    assert rows == same


def test_eight_devices_give_the_losses_of_one(command, home, tmp_path):
    metrics = {}
    for devices in (1, 8):
        folder = tmp_path / str(devices)
        run(command, home, "own_loss.py", "--arm=focal", f"--workdir={folder}", devices=devices)
        lines = [json.loads(line) for line in (folder / "focal" / "metrics.jsonl").read_text().splitlines()]
        metrics[devices] = {(row["step"], row["name"], row["seed"]): row["value"] for row in lines}
    assert metrics[1].keys() == metrics[8].keys()
    for key, value in metrics[1].items():
        np.testing.assert_allclose(metrics[8][key], value, rtol=1e-4, atol=1e-5, err_msg=str(key))


def test_an_experiment_of_one_s_own(command, home, tmp_path):
    output = run(command, home, "own_study.py", "--config.data.slope=2.0", f"--workdir={tmp_path}")
    assert "verdict:" in output
    assert json.loads((tmp_path / "summary.json").read_text())["settings"]["data.slope"] == 2.0


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("arms.focal.gama=1.0", ["arms.focal.gama", "gamma"]),
        ("arms.focal.name=my_losses:fokal", ["my_losses", "'focal'"]),
        ("arms.focal.name=my_loses:focal", ["my_loses", "no module"]),
        ("arms.plain.gamma=1.0", ["arms.plain.gamma", "cross_entropy"]),
        ("model.options.depth=3", ["model.options.depth"]),
        ("data.name=rowz.csv", ["rowz.csv"]),
        ("optimizer.options.dekay=0.1", ["optimizer.options.dekay", "decay"]),
    ],
)
def test_a_mistake_is_one_clear_line(command, home, tmp_path, setting, parts):
    output = run(command, home, "own_loss.py", f"--config.{setting}", f"--workdir={tmp_path / 'run'}", status=2)
    assert "Traceback" not in output
    line = output.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
