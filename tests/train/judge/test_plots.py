"""The comparison's figure: what is drawn, labelled and written, without a display or pyplot."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.text import Text
from ml_collections import ConfigDict

from lemmata.train.engine.task import Metric
from lemmata.train.experiments import report
from lemmata.train.experiments.report import ArmResult
from lemmata.train.judge import plots
from lemmata.train.judge.statistics import verdict

METRICS = {"bits": Metric("bits per byte", "bits")}
CONFIG = ConfigDict({"claim": dict(metric="bits", better="new", than="old", direction="lower", paper="")})
STEPS = np.array([10, 20, 30])


def arm(offset, *, steps=STEPS, seeds=3):
    values = offset + np.random.default_rng(0).normal(size=(seeds, len(steps))) * 0.01
    return ArmResult({"bits": values[:, -1]}, {"bits": (steps, values)} if len(steps) > 1 else {}, 1.0)


def drawn(results, references=None):
    figure = report.comparison_figure(CONFIG, results, METRICS, references or {})
    plots.write_claim(figure, CONFIG, results, METRICS)
    return figure


def texts(figure):
    found = [text.get_text() for ax in figure.axes for text in ax.texts]
    return " | ".join([*found, *(t.get_text() for t in figure.texts), figure.get_supxlabel()])


def test_curves_with_bands_for_arms_with_a_history():
    figure = drawn({"old": arm(2.0), "new": arm(1.0)}, {"bits": {"uniform": 3.0}})
    (ax,) = figure.axes
    assert ax.get_xlabel() == "training step"
    assert ax.get_ylabel() == "bits per byte [bits]"
    assert ax.get_title(loc="left") == "Bits per byte: new against old"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["old", "new"]
    assert len(ax.collections) == 2  # one band an arm
    assert "uniform: 3" in texts(figure)
    assert "reproduced: old − new = 1" in texts(figure)


def test_dots_for_arms_without_a_history():
    one = np.array([30])
    figure = drawn({"old": arm(2.0, steps=one), "new": arm(1.0, steps=one)})
    (ax,) = figure.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["old", "new"]
    assert ax.get_ylabel() == "bits per byte [bits]"
    assert len(ax.containers) == 2  # a mean with its interval an arm


@pytest.mark.filterwarnings("error")
def test_one_seed_has_no_band_but_a_figure(tmp_path):
    for steps in (STEPS, STEPS[:1]):
        results = {"old": arm(2.0, steps=steps, seeds=1), "new": arm(1.0, steps=steps, seeds=1)}
        figure = drawn(results)
        report.save(figure, tmp_path / "one.png")
        assert "inconclusive" in texts(figure)


def test_saved_picture_is_a_picture_and_pyplot_stays_out(tmp_path):
    path = tmp_path / "comparison.png"
    before = "matplotlib.pyplot" in sys.modules
    report.save(drawn({"old": arm(2.0), "new": arm(1.0)}), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_names_of_close_references_are_moved_apart():
    lines = {"first": 1.5, "second": 1.501, "third": 1.502}
    figure = drawn({"old": arm(2.0), "new": arm(1.0)}, {"bits": lines})
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # the words without their leaders
    for below, above in pairwise(sorted(boxes, key=lambda box: box.y0)):
        assert above.y0 > below.y1


def test_part_of_a_comparison_has_no_verdict():
    figure = drawn({"new": arm(1.0)})
    assert "produced" not in texts(figure)
    assert figure.axes[0].get_title(loc="left") == "Bits per byte: new"


def test_an_unknown_metric_is_labelled_by_its_name():
    assert report.axis_label("loss", METRICS) == "loss"
    assert report.axis_label("bits", METRICS) == "bits per byte [bits]"


def test_claim_in_one_line():
    text = plots.claim_text(CONFIG.claim, verdict([1.0, 1.1], [2.0, 2.0], direction="lower"), "bits")
    assert text == "reproduced: old − new = 0.95 bits, 95 % interval [0.315, 1.59], 2 seeds"
    assert "one seed" in plots.claim_text(CONFIG.claim, verdict([1.0], [2.0], direction="lower"))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"claim\.metric is 'bits', which arm 'old' lacks"):
        drawn({"old": ArmResult({"loss": np.ones(3)}, {}, 1.0)})
    with pytest.raises(ValueError, match="results must hold"):
        drawn({})
