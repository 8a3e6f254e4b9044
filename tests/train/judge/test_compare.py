"""Comparisons and the ledger, on a grid small enough to take seconds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.configs.bounds import demi
from lemmata.train import ledger
from lemmata.train.experiments.studies import mutual_information
from lemmata.train.judge import compare as comparing


@pytest.fixture
def small():
    config = demi.get_config()
    config.data.total_mi, config.data.candidates, config.data.rows = (10.0, 15.0), (64,), 128
    config.name = "small"
    return config


def test_a_comparison_writes_its_table_verdict_summary_and_picture(small, tmp_path):
    outcome = comparing.compare(small, workdir=tmp_path)
    assert outcome.verdict.outcome == "reproduced"
    summary = json.loads(outcome.summary_path.read_text())
    claim = small.claim
    ours, theirs = (np.array(summary["arms"][a]["metrics"][claim.metric]["seeds"]) for a in (claim.better, claim.than))
    sign = 1 if claim.direction == "higher" else -1
    np.testing.assert_allclose(summary["verdict"]["difference"], np.mean(sign * (ours - theirs)))
    assert outcome.picture_path.read_bytes()[:4] == b"\x89PNG"
    text = comparing.table(outcome.config, outcome.results)
    for arm in small.arms:
        assert f"{np.mean(outcome.results[arm].metrics[claim.metric]):.4g}" in text
    assert "seconds" in text
    assert "seconds" not in comparing.table(outcome.config, outcome.results, seconds=False)


def test_finished_arms_are_read_back_and_only_missing_ones_run(small, tmp_path, monkeypatch):
    first = comparing.compare(small, workdir=tmp_path)
    arm = small.claim.better
    (tmp_path / arm / "result.json").unlink()
    ran = []
    original = comparing._run
    monkeypatch.setattr(comparing, "_run", lambda *a: ran.append(a[2]) or original(*a))
    again = comparing.compare(small, workdir=tmp_path)
    assert ran == [arm]
    for name in first.results:
        for metric, values in first.results[name].metrics.items():
            np.testing.assert_array_equal(again.results[name].metrics[metric], values)


def test_seeds_one_by_one_are_the_seeds_together(small):
    together = comparing.compare(small)
    small.vmap_seeds = False
    apart = comparing.compare(small)
    for arm, result in together.results.items():
        for metric, values in result.metrics.items():
            np.testing.assert_allclose(apart.results[arm].metrics[metric], values, rtol=1e-4)


def test_one_seed_is_inconclusive(small):
    small.seeds = (0,)
    outcome = comparing.compare(small)
    assert outcome.verdict.outcome == "inconclusive"
    assert "one seed" in outcome.verdict.note


def test_the_ledger_writes_a_row_a_config_and_resumes(tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(
            "from lemmata.configs.bounds import demi\n"
            "def get_config():\n"
            "    config = demi.get_config()\n"
            "    config.data.total_mi, config.data.candidates, config.data.rows = (10.0,), (64,), 64\n"
            "    return config\n"
        )
    page, work = tmp_path / "README.md", tmp_path / "work"
    ledger.update([str(tmp_path / "first.py")], work, page)
    ran = []
    original = comparing._run
    monkeypatch.setattr(comparing, "_run", lambda *a: ran.append(a[2]) or original(*a))
    ledger.update([str(tmp_path / "first.py")], work, page)
    assert not ran
    entries = ledger.update([str(tmp_path / "second.py")], work, page)
    rows = page.read_text().splitlines()[-2:]
    for entry, row in zip(entries, rows, strict=True):
        for part in (entry["verdict"], entry["command"], f"{entry['better']:.4g}", entry["paper"].replace("|", "\\|")):
            assert part in row


def tiny(folder, rows=64):
    folder.mkdir(exist_ok=True)
    file = folder / "tiny.py"
    file.write_text(
        "from lemmata.configs.bounds import demi\n"
        "def get_config(k='64'):\n"
        "    config = demi.get_config()\n"
        f"    config.data.total_mi, config.data.candidates, config.data.rows = (10.0,), (int(k),), {rows}\n"
        "    config.seeds = (0, 1)\n"
        "    return config\n"
    )
    return str(file)


def test_no_row_of_a_ledger_is_ever_lost(tmp_path):
    """By a fresh record, by another file of the same name, by an argument of the same file, by a run of one alone."""
    page = tmp_path / "README.md"
    page.write_text((ledger.PACKAGE / "configs" / "README.md").read_text())
    before = ledger.rows_of(page)
    assert len(before) == len(ledger.claims())
    paths = [tiny(tmp_path / "a"), tiny(tmp_path / "b", rows=32), tiny(tmp_path / "a") + ":8"]
    for index, path in enumerate(paths):
        ledger.update([path], tmp_path / f"record_{index}", page)
    rows = ledger.rows_of(page)
    assert len(rows) == len(before) + 3
    assert {command: rows[command] for command in before} == before
    assert all(f"python -m lemmata.train --config={path}" in rows for path in paths)
    ledger.update(paths[:1], tmp_path / "record_0", page)
    assert ledger.rows_of(page) == rows
    page.unlink()  # the record still has its own
    ledger.update(paths[1:2], tmp_path / "record_0", page)
    assert len(ledger.rows_of(page)) == 2


def test_a_page_that_is_no_ledger_is_not_overwritten(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# Notes\n\nSomething else.\n")
    with pytest.raises(ValueError, match="no ledger"):
        ledger.update([tiny(tmp_path)], tmp_path / "record", page)
    assert "Something else." in page.read_text()


def test_every_claim_of_the_package_is_in_the_ledger():
    page = (ledger.PACKAGE / "configs" / "README.md").read_text()
    for path in ledger.claims():
        assert f"--config={path}`" in page, f"run `python -m lemmata.train.ledger {path}`"


def test_a_config_without_a_claim_is_refused(tmp_path):
    file = tmp_path / "silent.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict(dict(experiment='classification'))\n"
    )
    with pytest.raises(ValueError, match="no claim"):
        ledger.entry(str(file), tmp_path)


def test_a_run_on_the_host_is_called_once_a_seed(small, monkeypatch):
    seen = []

    def run(config, *, seed):
        seen.append((config.method.estimator, seed))
        return {"error": 10.0 * (config.method.estimator == "info_nce") + seed, "recovered": 1.0}

    monkeypatch.setattr(mutual_information, "run", run, raising=False)
    monkeypatch.setattr(mutual_information, "kind", lambda config: "run")
    outcome = comparing.compare(small)
    assert outcome.verdict.outcome == "reproduced"
    assert seen == [(small.arms[arm].estimator, seed) for arm in small.arms for seed in small.seeds]
    np.testing.assert_array_equal(outcome.results["info_nce"].metrics["error"], [10.0, 11.0, 12.0])


def test_a_computation_sees_the_mesh(small, monkeypatch):
    def compute(config, *, key):
        return {"error": jnp.float32(jax.sharding.get_abstract_mesh().shape["data"]), "recovered": jnp.ones(())}

    monkeypatch.setattr(mutual_information, "compute", compute)
    small.mesh = dict(data=-1, model=1)
    outcome = comparing.compare(small)
    np.testing.assert_array_equal(outcome.results["demi"].metrics["error"], float(len(jax.devices())))
