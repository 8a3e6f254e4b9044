"""Time series: folds keep subjects apart, arms share recordings, metrics are scikit-learn's, weights stay in bounds."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from sklearn import metrics as reference

from lemmata.methods.layers import imagined_speech
from lemmata.train.engine.loop import fit
from lemmata.train.engine.state import init_state
from lemmata.train.experiments.report import ArmResult
from lemmata.train.experiments.studies import eeg as time_series
from lemmata.train.experiments.studies.eeg.recordings import Recording
from lemmata.train.judge import config as configs

TINY = dict(num_subjects=4, trials_per_subject=8, num_channels=4, num_samples=64, sampling_rate=64.0, folds=2)
TINY |= dict(frequencies=(20.0, 8.0), amplitudes=(3.0, 3.0), burst_seconds=0.5)


def make_config(*, arms=None, data=None, train=None, **method):
    config = ConfigDict(dict(experiment="eeg", seeds=(0, 1), arms=arms or dict(main=method)))
    config.data = ConfigDict(TINY | (data or {}))
    config.optimizer = ConfigDict(dict(name=f"{time_series.__name__}:max_norm_adam", learning_rate=0.01))
    config.train = ConfigDict(dict(batch_size=8, steps=30) | (train or {}))
    return config if arms else configs.resolve_arm(configs.complete(config), "main")


@functools.cache
def started():
    """What the engine starts from with seed 3, on a device with one run."""
    config = make_config(classifier="eegnet")
    task = time_series.build(config)
    batch = {"row": task.train.arrays["row"][:8]}
    start = jax.jit(lambda: init_state(task.objective, optax.identity(), jax.random.key(3), batch))
    return config, task, start(), batch


def test_no_subject_is_in_both_parts_of_a_fold():
    subject = np.repeat([5, 1, 9, 2, 7], 3)
    pairs = time_series.split_folds(subject, 2)
    for train, test in pairs:
        assert not set(subject[train]) & set(subject[test])
        assert sorted([*train, *test]) == list(range(15))
    assert sorted(np.concatenate([test for _, test in pairs])) == list(range(15))  # each is tested once


def test_tables_repeat_in_training_and_mask_in_the_test():
    subject = np.array([0, 0, 0, 1])
    train, test = time_series.fold_tables(subject, 2)
    np.testing.assert_array_equal(train.T, [[3, 3, 3], [0, 1, 2]])
    np.testing.assert_array_equal(test.T, [[0, 1, 2], [3, -1, -1]])


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 3, 50), rng.integers(0, 2, 50)  # one class is never predicted
    got = time_series.scores(jnp.asarray(reference.confusion_matrix(true, predicted, labels=[0, 1, 2])))
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        true, predicted, average="macro", zero_division=0
    )
    expected = dict(accuracy=reference.accuracy_score(true, predicted), precision=precision, recall=recall, f1=f1)
    assert set(got) == set(time_series.METRICS)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)


def test_classes_that_nobody_has_or_predicts_are_in_no_average():
    """Labels 1 and 2 of what was counted as three classes, all right: 1, not 2 / 3."""
    perfect = jnp.diag(jnp.array([0.0, 6.0, 4.0]))
    assert {float(value) for value in time_series.scores(perfect).values()} == {1.0}
    rng = np.random.default_rng(1)
    true, predicted = rng.integers(0, 2, 40), rng.integers(1, 3, 40)
    got = time_series.scores(jnp.asarray(reference.confusion_matrix(true, predicted, labels=range(5))))
    expected = reference.precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)
    np.testing.assert_allclose([got[name] for name in ("precision", "recall", "f1")], expected[:3], rtol=1e-6)
    assert {float(value) for value in time_series.scores(jnp.zeros((2, 2))).values()} == {0.0}


def test_pipelines_get_the_recording_of_the_network_of_their_seed():
    config, _, state, _ = started()
    x, label = time_series.recording_of(config, 3)
    np.testing.assert_allclose(state.variables["x"], x, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(state.variables["label"], label)
    assert not np.allclose(x, time_series.recording_of(config, 4)[0], atol=0.1)


def test_held_out_metrics_are_of_the_network_that_has_not_seen_the_subject():
    config, task, state, _ = started()
    metrics = jax.jit(task.objective.evaluate)(state.params, state.variables, task.test.arrays, state.key)
    predict = jax.jit(lambda params, stats, x: imagined_speech.eegnet(params, stats, x)[0].argmax(-1))
    accuracies = []
    for fold, (_, test) in enumerate(time_series.split_folds(time_series.source_of(config).subject, 2)):
        params, stats = jax.tree.map(lambda leaf, fold=fold: leaf[fold], (state.params, state.variables["stats"]))
        accuracies.append(np.mean(predict(params, stats, state.variables["x"][test]) == state.variables["label"][test]))
    np.testing.assert_allclose(metrics["accuracy"], np.mean(accuracies), rtol=1e-5)


def test_folds_learn_from_their_own_rows_alone():
    _, task, state, batch = started()
    gradient = jax.jit(jax.grad(task.objective.loss, has_aux=True))
    one, (variables, _) = gradient(state.params, state.variables, batch, state.key)
    rows = batch["row"].copy()
    rows[:, 1] = rows[::-1, 1] - 1
    other, _ = gradient(state.params, state.variables, {"row": rows}, state.key)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-6)
    assert not np.allclose(one["temporal"][1], other["temporal"][1], rtol=1e-2)
    np.testing.assert_array_equal(variables["x"], state.variables["x"])
    assert (variables["stats"]["bn1"]["var"] != state.variables["stats"]["bn1"]["var"]).all()


@pytest.mark.slow
def test_engine_learns_frequencies_with_weights_within_their_norms():
    config = make_config(classifier="eegnet")
    result = fit(time_series.build(config), config, config.seeds, progress=False)
    assert result.metrics["accuracy"].mean() > 0.7
    params = result.state.params  # [seeds, folds, ...]
    assert np.linalg.norm(params["spatial"], axis=2).max() <= 1 + 1e-5
    np.testing.assert_allclose(np.linalg.norm(params["dense"]["w"], axis=2).max(), 0.25, atol=1e-3)


@pytest.mark.parametrize("name", ["shallow_convnet", "deep_convnet"])
def test_projection_takes_every_kernel_of_the_other_networks(name):
    init = getattr(imagined_speech, f"init_{name}")
    shapes, _ = jax.eval_shape(lambda k: init(key=k, num_channels=3, num_samples=80, num_classes=2), jax.random.key(0))
    folds = jax.tree.map(lambda leaf: 9.0 * np.ones((2, *leaf.shape), np.float32), shapes)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(time_series.project)(folds)):
        text = jax.tree_util.keystr(path)
        if any(word in text for word in ("bias", "scale", "'b'")):
            np.testing.assert_array_equal(leaf, 9.0)
        else:
            norm = np.sqrt(np.square(leaf[0]).sum(tuple(range(leaf.ndim - 2))))
            np.testing.assert_allclose(norm, 0.5 if "dense" in text else 2.0, rtol=1e-4, err_msg=text)


def test_adam_is_optaxs_where_no_limit_is_reached():
    params = {"spatial": jnp.full((2, 3, 2, 2), 0.1), "dense": {"w": jnp.full((2, 4, 2), 0.1), "b": jnp.zeros((2, 2))}}
    params["separable_point"] = jnp.full((2, 4, 4), 3.0)
    grads = jax.tree.map(jnp.cos, params)

    def updates(optimizer):
        return jax.jit(lambda: optimizer.update(grads, optimizer.init(params), params)[0])()

    ours, theirs = updates(time_series.max_norm_adam(1e-3)), updates(optax.adam(1e-3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), ours, theirs)
    grown = jax.tree.map(lambda leaf: 10 * leaf, params)
    optimizer = time_series.max_norm_adam(1e-3)
    moved = optax.apply_updates(grown, jax.jit(optimizer.update)(grads, optimizer.init(grown), grown)[0])
    np.testing.assert_allclose(np.linalg.norm(moved["spatial"], axis=1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(moved["dense"]["w"], axis=1), 0.25, rtol=1e-4)


def test_csp_sees_power_and_not_frequency():
    bands = time_series.run(
        make_config(classifier="csp_lda", num_filters=(2,), data=dict(trials_per_subject=40)), seed=0
    )
    power = time_series.run(
        make_config(classifier="csp_svm", costs=(1.0, 10.0), num_filters=(2,),
                    data=dict(trials_per_subject=40, frequencies=(8.0, 8.0), amplitudes=(0.0, 3.0))), seed=0,
    )  # fmt: skip
    assert bands["accuracy"] < 0.7 < 0.85 < power["accuracy"]
    assert set(bands) == set(time_series.METRICS)


def own_recording():
    rng = np.random.default_rng(0)
    label = np.arange(20) % 2
    x = rng.normal(size=(20, 3, 40)) * (1 + 4 * (label[:, None, None] == np.arange(3)[:, None]))
    return Recording(x.astype(np.float32), label.astype(np.int32), np.arange(20) // 5)


@pytest.fixture
def handed_in(monkeypatch):
    """Config of a classifier on what a user's function returns."""

    def configured(load, classifier="csp_lda", **settings):
        module = types.ModuleType("my_recordings")
        module.load = load
        monkeypatch.setitem(sys.modules, "my_recordings", module)
        data = dict(name="my_recordings:load") | settings.pop("data", {})
        return make_config(classifier=classifier, data=data, **dict(num_filters=(2,)) | settings)

    return configured


def test_own_recording_by_name(handed_in):
    assert time_series.run(handed_in(own_recording), seed=0)["accuracy"] > 0.9


def test_own_labels_are_numbered_once_and_no_class_is_empty(handed_in, caplog):
    def load():
        recording = own_recording()
        return recording._replace(label=recording.label + 1)

    config = handed_in(load)
    assert time_series.source_of(config).num_classes == 2
    renumbered = time_series.run(config, seed=0)
    assert [record.getMessage() for record in caplog.records] == ["labels 1, 2 are taken as classes 0 to 1"]
    assert renumbered == time_series.run(handed_in(own_recording), seed=0)


def test_hole_in_an_own_recording_is_refused_before_anything_is_trained(handed_in):
    def load():
        recording = own_recording()
        recording.x[7, 2, 11] = np.nan
        return recording

    for classifier in ("eegnet", "csp_lda"):
        config = handed_in(load, classifier)
        with pytest.raises(ValueError, match="got nan in trial 7, channel 2, sample 11"):
            time_series.build(config) if classifier == "eegnet" else time_series.run(config, seed=0)


def test_fold_that_would_not_see_a_class_is_refused(handed_in):
    def load():
        recording = own_recording()
        return recording._replace(label=(recording.subject == 2).astype(int))

    with pytest.raises(ValueError, match=r"data\.folds = 2: without fold 0, no subject is left who has class 1"):
        time_series.build(handed_in(load, "eegnet"))


def test_halves_without_a_class_are_refused_with_what_helps(handed_in):
    def load():
        recording = own_recording()  # subjects 0 and 2 are tested together, then 1 and 3
        return recording._replace(label=(recording.subject >= 2).astype(int))

    with pytest.raises(ValueError, match="one of which has examples of a single class; give one number of filters"):
        time_series.run(handed_in(load, num_filters=(2, 4)), seed=0)
    time_series.run(handed_in(load), seed=0)


def test_third_class_is_refused_by_filters_of_two(handed_in):
    def load():
        return own_recording()._replace(label=np.arange(20) % 3)

    with pytest.raises(ValueError, match=r"method\.classifier = 'csp_lda' tells two classes apart, .* has 3"):
        time_series.run(handed_in(load), seed=0)


def test_settings_that_do_not_hash_are_looked_up_all_the_same():
    config = make_config(classifier="csp_lda")
    expected = time_series.recording_of(config, 0)
    config.data = ConfigDict(config.data.to_dict() | dict(frequencies=[20.0, 8.0], amplitudes=[3.0, 3.0]))
    for one, other in zip(time_series.recording_of(config, 0), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_figure_has_a_panel_a_recording():
    control = dict(frequencies=(8.0, 8.0), amplitudes=(0.0, 3.0))
    arms = dict(
        a=dict(classifier="csp_lda"), b=dict(classifier="csp_svm"), b_control=dict(classifier="csp_svm", data=control)
    )
    config = make_config(arms=arms)
    config.claim = ConfigDict(dict(metric="accuracy", better="a", than="b"))
    config = configs.complete(config)
    found = {"accuracy": np.array([0.5, 0.6])}
    results = {arm: ArmResult(found, {}, 1.0, config=configs.resolve_arm(config, arm)) for arm in arms}
    drawing = time_series.figure(config, results)
    assert [ax.get_title() for ax in drawing.axes] == ["burst: 3 at 20 Hz or 3 at 8 Hz", "burst: none or 3 at 8 Hz"]
    assert [len(ax.get_xticks()) for ax in drawing.axes] == [2, 1]
    assert drawing.axes[0].get_ylabel() == "accuracy"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(classifier="transformer"), "method.classifier must be one of"),
        (dict(classifier="eegnet", data=dict(folds=1)), "data.folds must be at least 2"),
        (dict(classifier="eegnet", data=dict(folds=5)), "data.folds must be at least 2 and at most .* 4"),
        (dict(classifier="eegnet", data=dict(name="bci")), "data.name must be"),
        (
            dict(classifier="eegnet", data=dict(name="no_such_module:load")),
            "data.name: 'no_such_module:load' cannot be",
        ),
        (dict(classifier="eegnet", data=dict(name="math:nothing")), "data.name: 'math' has no 'nothing'"),
    ],
)
def test_wrong_config_names_the_key(settings, message):
    config = make_config(**settings)
    with pytest.raises(ValueError, match=message):
        (time_series.build if time_series.kind(config) == "build" else time_series.run)(config)
