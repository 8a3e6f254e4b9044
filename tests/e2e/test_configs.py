"""Every config runs whole in small: all of its arms, the table, the verdict and the plot."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from small_runs import SEEDS, shrink

import lemmata
from lemmata.train.judge import config as configs
from lemmata.train.judge.compare import compare, table
from lemmata.train.judge.plots import picture
from lemmata.train.ledger import claims

ROOT = Path(lemmata.__file__).parent


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "backend", "agg")


@pytest.mark.slow
@pytest.mark.parametrize("path", claims())
def test_config_runs_in_small(path):
    config = shrink(configs.load(path))
    comparison = compare(config)
    metric = config.claim.metric
    assert list(comparison.results) == list(configs.load(path).arms)
    for arm, result in comparison.results.items():
        assert result.metrics[metric].shape == (len(SEEDS),)
        assert np.isfinite(result.metrics[metric]).all(), arm
    assert comparison.verdict is not None
    text = table(comparison.config, comparison.results)
    assert all(arm in text for arm in config.arms)
    figure = picture(comparison.config, comparison.results)
    for axes in figure.axes:
        if axes.axison and axes.has_data():
            names = [axes.get_xlabel(), *(axes.get_title(loc) for loc in ("left", "center", "right"))]
            assert any(names), "an axis without a label or a title"
