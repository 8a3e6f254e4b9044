"""The README does what it says."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_learns():
    import jax.numpy as jnp

    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    scope = {}
    exec(code, scope)
    assert len(code.splitlines()) <= 15
    assert scope["loss"](scope["params"]) < jnp.log(512) - 1.0  # chance is log n


def test_its_links_and_configs_exist():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README) + re.findall(r"--config=(configs/\S+\.py)", README):
        assert (ROOT / target).exists(), target


def test_ci_runs_its_test_command():
    commands = [line for line in README.splitlines() if line.startswith("python3.11 -m venv")]
    assert len(commands) == 2
    assert "lemmata.train" in commands[0]
    assert "pytest" in commands[1]
    assert "'^python3.11 -m venv .venv-dev' README.md" in (ROOT / ".ci" / "run").read_text()
