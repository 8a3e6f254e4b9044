"""The README does what it says."""

import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_runs_and_learns():
    import jax.numpy as jnp

    code, scope = BLOCKS[0], {}
    exec(code, scope)
    assert len(code.splitlines()) <= 15
    assert scope["loss"](scope["params"]) < jnp.log(512) - 1.0  # chance is log n


def test_its_own_loss_and_config_run(tmp_path, monkeypatch):
    """With the imports that a reader adds, a model and a table."""
    from lemmata.train import compare, load

    loss, config = BLOCKS[1:]
    (tmp_path / "my_losses.py").write_text(f"import jax\nimport jax.numpy as jnp\n\n\n{loss}")
    (tmp_path / "my_models.py").write_text(
        "from flax import linen as nn\n\n\ndef net(outputs):\n"
        "    return nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(outputs)])\n"
    )
    (tmp_path / "mine.py").write_text(f"from ml_collections import ConfigDict\n\n\n{config}")
    rng = np.random.default_rng(0)
    rows = [f"{rng.normal() + 3 * kind},{rng.normal()},{'ab'[kind]}" for kind in rng.integers(2, size=200)]
    (tmp_path / "rows.csv").write_text("\n".join(["height,width,kind", *rows]) + "\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    found = load("mine.py")
    found.train.update(dict(steps=40, batch_size=16))
    found.seeds, found.optimizer.learning_rate = (0, 1), 0.05
    results = compare(found).results
    assert set(results) == {"focal", "plain"}
    assert all(result.metrics["accuracy"].mean() > 0.8 for result in results.values())


def test_its_links_and_configs_exist():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README) + re.findall(r"--config=(configs/\S+\.py)", README):
        assert (ROOT / target).exists(), target


def test_ci_runs_its_test_command():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "lemmata.train" in commands[0]
    assert "pytest" in commands[1]
    assert "'^python3 -m venv .venv-dev' README.md" in (ROOT / ".ci" / "run").read_text()
