"""Clustering: the data sets, what a run returns, whose methods it runs, and what a wrong config is told."""

import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import adjusted_rand_score

from lemmata.train import data, experiments
from lemmata.train.experiments import clustering
from lemmata.train.experiments.report import ArmResult
from lemmata.train.judge import config as configs
from lemmata.train.judge.compare import compare

FAMILY = experiments.get("clustering")


def make_config(*, arms=None, **sections):
    config = ConfigDict(dict(experiment="clustering", arms=arms or dict(main=dict(name="dib_mix"))))
    config.claim = ConfigDict(dict(metric="ari", better=next(iter(config.arms)), than=list(config.arms)[-1]))
    for name, section in sections.items():
        config[name] = ConfigDict(section)
    return configs.complete(config)


FEW = dict(simulations=(("easy", 0.02, 0.02), ("hard", 0.9, 0.9)), rows=60, tables=())


def resolved(*, restarts=10, **method):
    """Two small mixtures, no table."""
    arms = dict(main=dict(name="dib_mix") | method)
    return configs.resolve_arm(make_config(arms=arms, data=FEW, protocol=dict(restarts=restarts)), "main")


def test_methods_are_found_with_their_own_settings():
    assert list(FAMILY.methods) == ["k_means", "famd_k_means", "k_prototypes", "gower_pam", "kamila", "dib_mix"]
    settings = {name: FAMILY.method_settings(name) for name in FAMILY.methods}
    assert settings["k_means"] == settings["gower_pam"] == {}
    assert settings["dib_mix"] == dict(ordered=True, categorical_first=False, nominal_kernel="aitchison_aitken")
    assert settings["k_prototypes"] == dict(gamma=None, max_iterations=100)


def test_overlaps_are_those_asked_for():
    rng = np.random.default_rng(0)
    shape = dict(rows=60_000, shares=(1.0, 1.0), continuous=1, levels=(3,))
    rows, labels = clustering.simulate(rng, **shape, overlaps=(0.3, 0.6))
    first, second = (labels == t for t in (0, 1))
    edges = np.linspace(-4, 4, 200)
    densities = [np.histogram(rows.continuous[which, 0], edges)[0] / which.sum() for which in (first, second)]
    assert np.minimum(*densities).sum() == pytest.approx(0.3, abs=0.02)
    shares = [np.bincount(rows.categorical[which, 0], minlength=3) / which.sum() for which in (first, second)]
    assert np.minimum(*shares).sum() == pytest.approx(0.6, abs=0.02)


def test_mixture_has_the_sizes_and_scales_asked_for():
    rows, labels = clustering.simulate(
        np.random.default_rng(1), rows=101, shares=(3.0, 1.0, 1.0), continuous=5, levels=(3, 4), overlaps=(0.5, 0.5)
    )
    sizes = np.bincount(labels)
    assert sizes.sum() == 101
    np.testing.assert_allclose(sizes, [60.6, 20.2, 20.2], atol=1)
    np.testing.assert_allclose(rows.continuous.mean(0), 0.0, atol=1e-9)
    np.testing.assert_allclose(rows.continuous.std(0, ddof=1), 1.0, rtol=1e-9)
    assert rows.categorical.min() == 0
    assert (rows.categorical.max(0) < rows.num_categories).all()
    assert (rows.num_clusters, rows.ordinal) == (3, ())


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_half_of_a_table_is_cut_at_its_quantiles(name):
    rows, labels = clustering.cut_table(np.random.default_rng(0), name, bins=4)
    features = np.concatenate([data.load(name, split)["features"] for split in ("train+validation", "test")])
    assert len(labels) == len(features)
    assert rows.continuous.shape[1] + rows.categorical.shape[1] == features.shape[1]
    assert rows.categorical.shape[1] == features.shape[1] // 2
    assert rows.ordinal == tuple(range(rows.categorical.shape[1]))
    assert rows.num_categories == tuple(rows.categorical.max(0) + 1)
    share = np.stack([np.bincount(column, minlength=4) for column in rows.categorical.T]) / len(features)
    assert np.abs(share - 0.25).max() < 0.1  # ties keep it from being exact


def test_a_column_of_few_values_has_as_many_levels():
    table = {"features": np.tile([[0.0, 0.0], [1.0, 1.0]], (10, 1)), "label": np.tile([0, 1], 10)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda name, split: table)
        assert clustering.cut_table(np.random.default_rng(0), "two", bins=4).rows.num_categories == (2,)


@pytest.mark.parametrize("value", [1.0, 1e6 + 0.1, -1e200, 1e-200])
def test_a_constant_column_becomes_zero(value):
    table = np.full((7, 1), value)
    rows, _ = clustering.make_mixed(table, np.arange(7)[:, None] % 2, (2,), labels=np.arange(7) % 2)
    np.testing.assert_array_equal(rows.continuous, 0.0)


@pytest.mark.parametrize("scale", [1e-200, 1e-13, 1.0, 1e200])
def test_columns_of_any_size_are_scaled_alike(scale):
    table = np.random.default_rng(0).standard_normal((20, 2))
    codes, labels = np.arange(20)[:, None] % 2, np.arange(20) % 2
    expected = (table - table.mean(0)) / table.std(0, ddof=1)
    rows, _ = clustering.make_mixed(scale * table, codes, (2,), labels=labels)
    np.testing.assert_allclose(rows.continuous, expected, rtol=1e-9)


@pytest.mark.parametrize("name", FAMILY.methods)
@pytest.mark.parametrize("kind", ["no continuous columns", "no categorical columns", "constant columns", "one level"])
def test_every_method_finds_clusters_that_columns_of_one_type_tell(name, kind):
    rng = np.random.default_rng(0)
    overlaps = (0.01, 0.1)
    few = dict(continuous=0) if kind == "no continuous columns" else dict(continuous=4)
    levels = () if kind == "no categorical columns" else (3, 4, 3, 4)
    found = clustering.simulate(rng, rows=90, shares=(1.0, 1.0, 1.0), levels=levels, overlaps=overlaps, **few)
    rows, labels = found
    if kind == "constant columns":
        constant = np.ones_like(rows.continuous)
        rows, _ = clustering.make_mixed(constant, rows.categorical, rows.num_categories, labels=labels)
    if kind == "one level":
        codes = np.concatenate([np.zeros((90, 1), int), rows.categorical], axis=1)
        levels = (1, *rows.num_categories)
        rows, _ = clustering.make_mixed(rows.continuous, codes, levels, labels=labels, ordinal=(1,))
    assert adjusted_rand_score(labels, FAMILY.method(name)(rows, 10, 0)) > 0.75


def test_seeds_draw_anew_and_arms_see_the_same():
    config = resolved()
    first, again, other = (clustering.data_sets(config, seed=seed)["easy"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.rows.continuous, again.rows.continuous)
    assert not np.array_equal(first.rows.continuous, other.rows.continuous)
    hard = clustering.data_sets(config, seed=0)["hard"]
    assert not np.array_equal(hard.labels, first.labels)


@pytest.mark.parametrize("name", FAMILY.methods)
def test_every_method_finds_easy_clusters(name):
    config = resolved(name=name)
    scores = clustering.run(config, seed=0)
    assert set(scores) == set(clustering.METRICS(config))
    assert scores["ari_easy"] > (0.6 if name == "gower_pam" else 0.85)
    assert scores["ari_hard"] < scores["ari_easy"]
    assert scores["ari"] == pytest.approx((scores["ari_easy"] + scores["ari_hard"]) / 2)


def test_figure_has_a_group_a_data_set_and_an_entry_an_arm():
    config = make_config(arms=dict(dib_mix=dict(name="dib_mix"), k_means=dict(name="k_means")))
    rng = np.random.default_rng(0)
    metrics = clustering.METRICS(config)
    results = {arm: ArmResult({name: rng.random(3) for name in metrics}, {}, 1.0) for arm in config.arms}
    (ax,) = clustering.figure(config, results).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dib_mix", "k_means"]
    assert len(ax.get_xticklabels()) == len(metrics) == 5
    assert ax.get_ylabel().startswith("adjusted Rand index")
    assert ax.get_xlabel() == "data set"


@pytest.mark.parametrize(
    ("sets", "match"),
    [
        (dict(simulations=(("one", 0.3, 0.3), ("one", 0.6, 0.6))), "must have different names, got 'one' twice"),
        (dict(tables=("wine", "wine")), "must have different names, got 'wine' twice"),
        (dict(simulations=(("wine", 0.3, 0.3),), tables=("wine",)), "must have different names, got 'wine' twice"),
        (dict(simulations=(("", 0.3, 0.3),)), "must have different names, got an empty one"),
        (dict(simulations=(), tables=()), "must name at least one data set together, got none"),
    ],
)
def test_sets_that_share_a_name_are_refused(sets, match):
    config = resolved()
    with config.data.ignore_type():
        config.data.update(dict(simulations=(), tables=()) | sets)
    for call in (clustering.METRICS, lambda config: clustering.data_sets(config, seed=0)):
        with pytest.raises(ValueError, match=match):
            call(config)


def test_rows_that_a_method_could_not_use_are_named():
    codes, labels = np.zeros((3, 1), int), np.array([0, 1, 0])
    with pytest.raises(ValueError, match="continuous must be finite, got nan in column 0, row 2"):
        clustering.make_mixed(np.array([[0.0], [1.0], [np.nan]]), codes, (2,), labels=labels)
    with pytest.raises(ValueError, match="got 2 in column 0, row 0"):
        clustering.make_mixed(np.zeros((3, 1)), codes + 2, (2,), labels=labels)
    with pytest.raises(ValueError, match="at least one row and one column"):
        clustering.make_mixed(np.zeros((3, 0)), codes[:, :0], (), labels=labels)
    with pytest.raises(ValueError, match=r"labels must have shape \[3\], one a row, got shape \[2\]"):
        clustering.make_mixed(np.zeros((3, 1)), codes, (2,), labels=labels[1:])
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"data\.tables must be sets with features and a class label; 'diabetes' has"):
        clustering.cut_table(rng, "diabetes", bins=4)
    with pytest.raises(ValueError, match=r"data\.bins must be at least 2, got 1"):
        clustering.cut_table(rng, "wine", bins=1)
    shape = dict(continuous=1, levels=(3,), overlaps=(0.3, 0.3))
    with pytest.raises(ValueError, match=r"data\.rows must give every cluster a row, got 2"):
        clustering.simulate(rng, rows=2, shares=(1.0, 1.0, 1.0), **shape)
    for shares in ((), (1.0, 0.0), (1.0, np.nan), (2.0, -1.0)):
        with pytest.raises(ValueError, match=r"data\.shares must be positive"):
            clustering.simulate(rng, rows=30, shares=shares, **shape)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"method\.name: clustering has no method 'kamilla'\. Did you mean 'kamila'\?"):
        resolved(name="kamilla")
    with pytest.raises(ValueError, match=r"protocol\.restarts must be an integer of at least 1, got 0"):
        clustering.run(resolved(restarts=0), seed=0)
    shape = dict(rows=30, shares=(1.0, 1.0, 1.0), continuous=1)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"data\.levels must be at least the number of clusters, 3"):
        clustering.simulate(rng, **shape, levels=(2,), overlaps=(0.3, 0.3))
    with pytest.raises(ValueError, match=r"data\.simulations"):
        clustering.simulate(rng, **shape, levels=(3,), overlaps=(0.0, 0.3))
    config = resolved()
    with config.data.ignore_type():
        config.data.simulations = ()
    with pytest.raises(ValueError, match=r"data\.simulations and data\.tables"):
        clustering.run(config, seed=0)


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (
            dict(name="k_means", ordered=False),
            r"arms\.main\.ordered: method 'k_means' has no .* of dib_mix\.",
        ),
        (dict(name="kamila", gamma=1.0), r"arms\.main\.gamma: method 'kamila' has no .* of k_prototypes\."),
        (dict(name="k_prototypes", restarts=5), r"arms\.main\.restarts: method 'k_prototypes' has no such setting"),
        (dict(name="dib_mix", orderd=True), r"Did you mean 'ordered'\?"),
    ],
)
def test_a_setting_of_another_method_is_refused_by_name(method, named):
    with pytest.raises(ValueError, match=named) as error:
        make_config(arms=dict(main=method))
    assert "\n" not in str(error.value)


OWN = """
import numpy as np


def by_median(rows, restarts, seed, *, column=0, lift=0.0):
    assert not hasattr(rows, "labels")
    return (rows.continuous[:, column] > np.median(rows.continuous[:, column]) + lift).astype(int)


def too_few(rows, restarts, seed):
    return np.zeros(3, int)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's module that can be imported."""
    (tmp_path / "own_clustering.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_clustering", None)


def test_a_method_of_a_user_is_run_and_judged_like_ours(own):
    name = "own_clustering:by_median"
    arms = dict(own=dict(name=name, lift=1), k_means=dict(name="k_means"))
    result = compare(dict(experiment="clustering", seeds=(0, 1), data=FEW, protocol=dict(restarts=2), arms=arms))
    assert result.results["own"].config.method.to_dict() == dict(name=name, column=0, lift=1.0)
    assert 0.0 < result.results["own"].metrics["ari_easy"].mean() < result.results["k_means"].metrics["ari_easy"].mean()
    with pytest.raises(ValueError, match=r"arms\.main\.colum: .*Did you mean 'column'\?"):
        make_config(arms=dict(main=dict(name=name, colum=1)))
    with pytest.raises(ValueError, match=r"must give labels of shape \[60\], one a row of easy, got shape \[3\]"):
        clustering.run(resolved(name="own_clustering:too_few"), seed=0)
