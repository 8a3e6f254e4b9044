"""Intervals over seeds against published t quantiles, and every outcome of a verdict."""

import numpy as np
import pytest

from lemmata.train.experiments.report import mean_interval
from lemmata.train.judge.statistics import verdict


def test_interval_is_students_t():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 / np.sqrt(3)  # the 97.5 % quantile with 2 degrees of freedom; the standard deviation is 1
    assert mean == 2.0
    np.testing.assert_allclose([low, high], [2 - half, 2 + half], rtol=1e-6)


def test_interval_at_another_level():
    _, low, high = mean_interval([0.0, 2.0], level=0.5)  # one degree of freedom: the 75 % quantile is 1
    np.testing.assert_allclose([low, high], [0.0, 2.0], atol=1e-12)


def test_interval_over_the_first_axis():
    values = np.random.default_rng(0).normal(size=(5, 7))
    columns = [mean_interval(values[:, j]) for j in range(7)]
    np.testing.assert_allclose(np.stack(mean_interval(values)), np.array(columns, float).T)


def test_interval_covers_the_mean_as_often_as_it_says():
    values = np.random.default_rng(1).normal(size=(3, 20_000))
    _, low, high = mean_interval(values, level=0.9)
    assert abs(np.mean((low <= 0) & (high >= 0)) - 0.9) < 0.01


def test_equal_values_have_a_width_of_exactly_zero():
    assert mean_interval([0.1, 0.1, 0.1]) == (0.1, 0.1, 0.1)  # 0.1 + 0.1 + 0.1 is not 0.3


def test_one_seed_has_no_interval():
    mean, low, high = mean_interval([3.0])
    assert mean == 3.0
    assert np.isnan(low)
    assert np.isnan(high)


@pytest.mark.parametrize("values", [[], 1.0])
def test_interval_needs_a_seed(values):
    with pytest.raises(ValueError, match=r"values must be \[seeds, ...\]"):
        mean_interval(values)


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_interval_refuses_a_level(level):
    with pytest.raises(ValueError, match="level"):
        mean_interval([1.0, 2.0], level)


def test_reproduced_for_either_direction():
    large, small = np.array([5.0, 5.1, 5.2]), np.array([4.0, 4.2, 4.1])
    higher, lower = verdict(large, small, direction="higher"), verdict(small, large, direction="lower")
    assert higher.outcome == lower.outcome == "reproduced"
    assert higher[1:4] == lower[1:4]
    assert higher.difference == pytest.approx(1.0)
    assert 0 < higher.low < higher.difference < higher.high
    assert (higher.better_mean, higher.than_mean, higher.seeds, higher.note) == (
        pytest.approx(5.1), pytest.approx(4.1), 3, ""
    )  # fmt: skip


def test_not_reproduced_where_the_other_arm_is_better():
    result = verdict([4.0, 4.2, 4.1], [5.0, 5.1, 5.2], direction="higher")
    assert result.outcome == "not reproduced"
    assert result.high < 0


def test_inconclusive_where_the_interval_holds_zero():
    result = verdict([1.0, 2.0, 3.0], [1.1, 1.7, 3.1], direction="higher")
    assert result.outcome == "inconclusive"
    assert result.low < 0 < result.high
    assert result.note == ""


def test_the_difference_is_paired():
    base = np.array([0.0, 100.0, -50.0])  # seeds differ far more than arms do
    assert verdict(base + np.array([1.0, 1.1, 0.9]), base, direction="higher").outcome == "reproduced"


@pytest.mark.parametrize(("gain", "outcome"), [(0.5, "reproduced"), (0.0, "not reproduced"), (-0.5, "not reproduced")])
def test_seeds_that_agree_exactly(gain, outcome):
    base = np.array([0.25, 0.25, 0.25])
    result = verdict(base + gain, base, direction="higher")
    assert result.outcome == outcome
    assert result.low == result.difference == result.high == gain


def test_one_seed_is_inconclusive_and_says_so():
    result = verdict([2.0], [1.0], direction="higher")
    assert (result.outcome, result.difference, result.seeds) == ("inconclusive", 1.0, 1)
    assert "one seed" in result.note


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_inconclusive(bad):
    result = verdict([2.0, bad, 2.1], [1.0, bad, 1.1], direction="higher")
    assert result.outcome == "inconclusive"
    assert "1 of 3 seeds" in result.note


def test_verdict_refuses_a_direction():
    with pytest.raises(ValueError, match="direction must be"):
        verdict([1.0], [1.0], direction="up")


@pytest.mark.parametrize("than", [[1.0], [[1.0, 2.0]]])
def test_verdict_refuses_other_shapes(than):
    with pytest.raises(ValueError, match=r"better and than must both be \[seeds\]"):
        verdict([1.0, 2.0], than, direction="higher")
