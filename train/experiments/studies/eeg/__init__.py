"""Classification of multichannel time series, cross-validated over subjects.

Subjects are dealt to `data.folds` groups; each group is predicted by a classifier that has seen none of it, and metrics
are means over the folds. `method.classifier` is a network, or a pipeline of common spatial patterns:

- the networks of all folds, each with its own batches, are trained as one program by the engine; after each update
  their weights are projected, where `optimizer.name` is this module's `max_norm_adam`;
- pipelines run on the host: spatial filters by `fit_csp`, a classifier by scikit-learn. The number of filters and the
  cost are chosen by cross-validation over the subjects of the training folds.

A simulated recording is drawn anew for every seed, the same for every arm.
"""

import functools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .....methods.layers import imagined_speech
from ....engine.settings import is_reference, resolve
from ....engine.sources import Arrays
from ....engine.task import Metric, Objective, Task
from ....engine.types import ConfigDict
from ... import report
from ...report import ArmResult, mean_interval
from .recordings import Recording, check_recording, simulate_eeg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIPELINES = ("csp_lda", "csp_svm")
SIMULATED = "simulated_eeg"

METRICS = {
    "accuracy": Metric("accuracy"),
    "f1": Metric("F1, mean over classes"),
    "precision": Metric("precision, mean over classes"),
    "recall": Metric("recall, mean over classes"),
}


SMALL = {"data.folds": 2, "data.num_subjects": 2, "data.trials_per_subject": 16, "train.batch_size": 8}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`."""
    return ConfigDict(dict(
        data=dict(
            name=SIMULATED,  # or "module:function" that returns a `Recording`
            folds=3,  # groups of subjects
            sampling_rate=128.0,  # Hz
            num_subjects=6,  # from here on: of the simulation, see `recordings.simulate_eeg`
            trials_per_subject=100,
            num_channels=16,
            num_samples=128,
            frequencies=(22.0, 10.0),  # Hz, of each class
            amplitudes=(1.5, 1.5),
            burst_seconds=0.6,
            noise=1.0,
            sensor_noise=0.0,
            subject_spread=0.0,
        ),
        model=dict(dropout_rate=0.25),
        method=dict(
            classifier="eegnet",  # a key of `NETWORKS`, or one of `PIPELINES`
            num_filters=(2, 4, 8),  # pipelines: what is tried
            costs=(0.1, 1.0, 10.0),  # csp_svm: what is tried
        ),
    ))  # fmt: skip


# (number of classes, config) -> module whose call is (x [b, c, t], train) -> logits
NETWORKS: dict[str, Callable[[int, ConfigDict], Any]] = {
    "eegnet": lambda classes, config: imagined_speech.EEGNet(
        classes, kernel_size=int(config.data.sampling_rate) // 2, dropout_rate=config.model.dropout_rate
    ),
    "shallow_convnet": lambda classes, config: imagined_speech.ShallowConvNet(
        classes, dropout_rate=config.model.dropout_rate
    ),
    "deep_convnet": lambda classes, config: imagined_speech.DeepConvNet(
        classes, dropout_rate=config.model.dropout_rate
    ),
}


def kind(config: ConfigDict) -> str:
    """Networks are built for the engine, pipelines run on the host."""
    name = config.method.classifier
    if name not in (*NETWORKS, *PIPELINES):
        raise ValueError(f"method.classifier must be one of {(*NETWORKS, *PIPELINES)}, got {name!r}.")
    return "build" if name in NETWORKS else "run"


# ---------------------------------------------------------------------------------------------------------------- data


class Source(NamedTuple):
    """Where recordings come from; subjects and classes do not depend on the draw."""

    subject: np.ndarray  # [n]
    num_classes: int
    draw: Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # key -> x [n, channels, time], label [n]


def source_of(config: ConfigDict) -> Source:
    """The source that `config.data` names.

    Raises:
        ValueError: no such source, settings that the simulation refuses, a recording that `check_recording` refuses, or
            folds one of which would train on no example of a class.
    """
    settings = config.data.to_dict()
    name, folds = settings.pop("name"), settings.pop("folds")
    if name == SIMULATED:
        simulate = functools.partial(simulate_eeg, **settings)
        jax.eval_shape(lambda key: simulate(key=key), jax.random.key(0))  # which checks the settings
        subject = np.repeat(np.arange(settings["num_subjects"]), settings["trials_per_subject"])
        return Source(subject, len(settings["frequencies"]), lambda key: simulate(key=key)[:2])
    recording = _checked(_function_of(name))
    num_classes = int(recording.label.max()) + 1
    for fold, (train, _) in enumerate(split_folds(recording.subject, folds)):
        missing = sorted(set(range(num_classes)) - set(recording.label[train].tolist()))
        if missing:
            raise ValueError(
                f"data.folds = {folds}: without fold {fold}, no subject is left who has class {missing[0]}; subjects "
                f"are dealt to folds in turn, and each class must be in two folds."
            )
    x, label = jnp.asarray(recording.x), jnp.asarray(recording.label)
    return Source(recording.subject, num_classes, lambda key: (x, label))


def _function_of(name: str) -> Callable[[], Recording]:
    if not is_reference(name):
        raise ValueError(f'data.name must be {SIMULATED!r} or "module:function", got {name!r}.')
    function = resolve("data.name", name)
    if not callable(function):
        raise ValueError(f"data.name: {name!r} is no function.")
    return cast(Callable[[], Recording], function)


@functools.lru_cache(maxsize=1)  # arms and seeds ask for it again, and the notes on it are logged once
def _checked(function: Callable[[], Recording]) -> Recording:
    return check_recording(function())


def recording_keys(init_key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys of the recording and of the networks, from the key that the engine hands to `init`."""
    data_key, network_key = jax.random.split(init_key)
    return data_key, network_key


def split_folds(subject: np.ndarray, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows `(train, test)` of each fold: subjects are dealt in turn, so no subject is in both.

    Raises:
        ValueError: fewer than two folds, or fewer subjects than folds.
    """
    known, rank = np.unique(subject, return_inverse=True)
    if not 2 <= folds <= len(known):
        raise ValueError(
            f"data.folds must be at least 2 and at most the number of subjects, {len(known)}; got {folds}."
        )
    return [(np.flatnonzero(rank % folds != fold), np.flatnonzero(rank % folds == fold)) for fold in range(folds)]


def fold_tables(subject: np.ndarray, folds: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of all folds side by side: train `[n, folds]` and test `[m, folds]` int32.

    Where folds are not of one size, rows of the smaller are repeated in training, and are -1 in the test.
    """
    pairs = split_folds(subject, folds)
    n, m = (max(len(pair[part]) for pair in pairs) for part in (0, 1))
    train = np.stack([np.resize(rows, n) for rows, _ in pairs], axis=1)
    test = np.stack([np.pad(rows, (0, m - len(rows)), constant_values=-1) for _, rows in pairs], axis=1)
    return train.astype(np.int32), test.astype(np.int32)


def scores(confusion: jax.Array) -> dict[str, jax.Array]:
    """Accuracy, and precision, recall and F1 averaged over classes, from counts `[..., true, predicted]`.

    A ratio of nothing to nothing counts as 0. A class without any example, true or predicted, is in no average.
    """

    def ratio(part, whole):
        return jnp.where(whole > 0, part / jnp.maximum(whole, 1), 0.0)

    confusion = jnp.asarray(confusion, jnp.float32)
    hits = jnp.diagonal(confusion, axis1=-2, axis2=-1)
    predicted, true = jnp.sum(confusion, axis=-2), jnp.sum(confusion, axis=-1)
    by_class = {
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, true),
        "f1": ratio(2 * hits, predicted + true),
    }
    classes = jnp.sum(predicted + true > 0, axis=-1)
    means = {name: ratio(jnp.sum(value, axis=-1), classes) for name, value in by_class.items()}
    return {"accuracy": ratio(jnp.sum(hits, axis=-1), jnp.sum(true, axis=-1)), **means}


# ------------------------------------------------------------------------------------------------------------ networks


def make_objective(config: ConfigDict, source: Source) -> Objective:
    """Fits a network a fold to batches {"row": `[batch, folds]`}, rows of the recording that `variables` hold.

    A batch to evaluate is {"row": `[copies, m, folds]`}, the same m rows in each copy.
    """
    network = NETWORKS[config.method.classifier](source.num_classes, config)
    folds = config.data.folds

    def examples(variables, rows):
        """Inputs `[folds, batch, ...]` and labels `[folds, batch]` of rows `[batch, folds]`."""
        return variables["x"][rows.T], variables["label"][rows.T]

    def init(key, batch):
        data_key, network_key = recording_keys(key)
        x, label = source.draw(data_key)
        collections = jax.vmap(lambda k: network.init(k, x[:1]))(jax.random.split(network_key, folds))
        return collections["params"], {"stats": collections["batch_stats"], "x": x, "label": label}

    def loss(params, variables, batch, key):
        x, label = examples(variables, batch["row"])

        def of_fold(params, stats, x, label, key):
            collections = {"params": params, "batch_stats": stats}
            logits, moved = network.apply(collections, x, True, mutable=["batch_stats"], rngs={"dropout": key})
            nats = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), label)
            return jnp.mean(nats), moved["batch_stats"]

        nats, stats = jax.vmap(of_fold)(params, variables["stats"], x, label, jax.random.split(key, folds))
        # The sum, so that each fold has the gradient of its own mean.
        return jnp.sum(nats), (variables | {"stats": stats}, {"cross_entropy": jnp.mean(nats)})

    def evaluate(params, variables, batch, key):
        rows = batch["row"][0]
        x, label = examples(variables, rows)

        def of_fold(params, stats, x, label, row):
            logits = network.apply({"params": params, "batch_stats": stats}, x)
            counts = jnp.zeros((source.num_classes, source.num_classes))
            return counts.at[label, jnp.argmax(logits, axis=-1)].add(row >= 0)

        confusion = jax.vmap(of_fold)(params, variables["stats"], x, label, rows.T)
        return {name: jnp.mean(value) for name, value in scores(confusion).items()}

    return Objective(init, loss, evaluate, couples=True)  # by the moments of the batch norms


def build(config: ConfigDict) -> Task:
    """A network a fold."""
    source = source_of(config)
    train, test = fold_tables(source.subject, config.data.folds)
    # Precision and recall are of the whole test set, so it is one example: whatever the batch, it holds that alone.
    return Task(make_objective(config, source), train=Arrays({"row": train}), test=Arrays({"row": test[None]}))


def project(params: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of a network of `imagined_speech` within the norms that it was published with; see `imagined_speech`.

    Args:
        params: the module's "params", with any leading axes (of folds) on every leaf.
    """
    new, within = dict(params), imagined_speech.max_norm
    if "separable_point" in params:  # EEGNet
        new["spatial"] = within(params["spatial"], limit=1.0, axis=-3)
        new["dense"] = params["dense"] | {"w": within(params["dense"]["w"], limit=0.25, axis=-2)}
        return new
    new["temporal"] = within(params["temporal"], limit=2.0, axis=-2)
    new["spatial"] = within(params["spatial"], limit=2.0, axis=(-3, -2))
    for name in params:
        if name.startswith("conv"):
            new[name] = params[name] | {"w": within(params[name]["w"], limit=2.0, axis=(-3, -2))}
    new["dense"] = params["dense"] | {"w": within(params["dense"]["w"], limit=0.5, axis=-2)}
    return new


def max_norm_adam(
    learning_rate: optax.ScalarOrSchedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, **options: Any
) -> optax.GradientTransformation:
    """Adam whose update ends where `project` takes it: give it as `optimizer.name`, "module:max_norm_adam"."""
    inner = optax.adam(learning_rate, b1, b2, eps, **options)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(updates, state, params)
        projected = project(cast(dict[str, Any], optax.apply_updates(params, updates)))
        return jax.tree.map(jnp.subtract, projected, dict(params)), state

    return optax.GradientTransformation(inner.init, update)


# ----------------------------------------------------------------------------------------------------------- pipelines


def run(config: ConfigDict, *, seed: int) -> dict[str, float]:
    """A pipeline on the recording that networks of this seed have.

    Raises:
        ValueError: a recording of more than two classes, or what `source_of` and `split_folds` refuse.
    """
    source = source_of(config)
    if source.num_classes != 2:
        raise ValueError(
            f"method.classifier = {config.method.classifier!r} tells two classes apart, by their covariances; the "
            f"recording has {source.num_classes}."
        )
    x, label = recording_of(config, seed)
    rows = []
    for train, test in split_folds(source.subject, config.data.folds):
        num_filters, cost = _choose(config, source, x, label, train)
        predicted = _fit_predict(config, x, label, train, test, num_filters, cost)
        confusion = np.zeros((source.num_classes, source.num_classes))
        np.add.at(confusion, (label[test], predicted), 1)
        rows.append(scores(jnp.asarray(confusion)))
    return {name: float(np.mean([row[name] for row in rows])) for name in METRICS}


def recording_of(config: ConfigDict, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and labels that a network of this seed is trained and tested on.

    They are in its variables, drawn by `init` from the key that the engine hands it, the first half of the seed's.
    """
    init_key = jax.random.split(jax.random.key(seed))[0]
    draw = _compiled_draw(config.data.to_json()) if config.data.name == SIMULATED else source_of(config).draw
    x, label = draw(recording_keys(init_key)[0])
    return np.asarray(x), np.asarray(label)


@functools.lru_cache(maxsize=4)
def _compiled_draw(settings: str) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """The draw of a simulation, from its settings in JSON: whatever they hold, they can be looked up."""
    return jax.jit(source_of(ConfigDict(dict(data=json.loads(settings)))).draw)


def _choose(config: ConfigDict, source: Source, x, label, train: np.ndarray) -> tuple[int, float]:
    """Number of filters and cost that predict half of the training subjects best from the other half."""
    costs = config.method.costs if config.method.classifier == "csp_svm" else (1.0,)
    if len(config.method.num_filters) == len(costs) == 1:
        return config.method.num_filters[0], costs[0]
    group = source.subject[train]
    if len(set(group.tolist())) == 1:  # one subject: the first half of the epochs against the second
        group = 2 * np.arange(len(train)) // len(train)
    accuracy = {}
    for num_filters in config.method.num_filters:
        halves = []
        for fit, held in split_folds(group, 2):
            if len(set(label[train[fit]].tolist())) < source.num_classes:
                raise ValueError(
                    "method.num_filters and method.costs are chosen on halves of the training subjects, one of which "
                    "has examples of a single class; give one number of filters, and one cost."
                )
            halves.append((*_features(x, label, train[fit], train[held], num_filters), label[train[held]]))
        for cost in costs:
            hits = [np.mean(_classifier(config, cost).fit(*seen).predict(new) == true) for seen, new, true in halves]
            accuracy[num_filters, cost] = np.mean(hits)
    return max(accuracy, key=lambda setting: accuracy[setting])


def _fit_predict(config: ConfigDict, x, label, train, test, num_filters: int, cost: float) -> np.ndarray:
    seen, new = _features(x, label, train, test, num_filters)
    return np.asarray(_classifier(config, cost).fit(*seen).predict(new))


def _features(x, label, train, test, num_filters: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Training features with their labels, and test features, of filters that are fitted to the training epochs."""
    filters = imagined_speech.fit_csp(x[train], label[train], num_filters=num_filters).filters
    return (np.asarray(_csp_features(x[train], filters)), label[train]), np.asarray(_csp_features(x[test], filters))


def _classifier(config: ConfigDict, cost: float) -> Any:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if config.method.classifier == "csp_lda":
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return make_pipeline(StandardScaler(), SVC(C=cost))


_csp_features = jax.jit(imagined_speech.csp_features)


# -------------------------------------------------------------------------------------------------------------- report


def references(config: ConfigDict) -> dict[str, dict[str, float]]:
    """What guessing gives."""
    if config.data.name != SIMULATED:
        return {}
    return {name: {"chance": 1 / len(config.data.frequencies)} for name in ("accuracy", "recall")}


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """The claim's metric of every arm, one panel a recording."""
    name = config.claim.metric
    panels: dict[str, list[str]] = {}
    for arm in results:
        panels.setdefault(_recording_title(results[arm].config.data), []).append(arm)
    drawing, axes = report.new_figure(1.6 + 1.1 * len(results), 4.4, panels=len(panels))
    colors = report.arm_colors({results[arm].config.method.classifier: 0 for arm in results})
    for ax, (title, arms) in zip(axes, panels.items(), strict=True):
        for place, arm in enumerate(arms):
            mean, low, high = mean_interval(results[arm].metrics[name])
            color = colors[results[arm].config.method.classifier]
            ax.errorbar(place, mean, yerr=[[mean - low], [high - mean]], fmt="o", color=color, capsize=4, markersize=7)
            seeds = results[arm].metrics[name]
            ax.plot(np.full(len(seeds), place + 0.15), seeds, ".", color=color, alpha=0.5, markersize=5)
        names = [results[arm].config.method.classifier.replace("_", "\n") for arm in arms]
        ax.set_xticks(range(len(arms)), names, fontsize=9)
        ax.set_xlim(-0.6, len(arms) - 0.4)
        ax.set_xlabel("classifier")
        ax.set_title(title, fontsize=10)
    for value in references(config).get(name, {}).values():
        for ax in axes:
            ax.axhline(value, color=report.GREY, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
        axes[0].annotate("chance", (-0.55, value), (0, 3), textcoords="offset points", fontsize=8, color=report.GREY)
    axes[0].set_ylabel(report.axis_label(name, METRICS))
    subjects = f"{config.data.num_subjects} simulated subjects" if config.data.name == SIMULATED else config.data.name
    drawing.suptitle(f"Held-out subjects, {config.data.folds} folds of {subjects}", fontsize=11)
    return drawing


def _recording_title(data: ConfigDict) -> str:
    if data.name != SIMULATED:
        return data.name
    bursts = [
        f"{amplitude:g} at {frequency:g} Hz" if amplitude else "none"
        for amplitude, frequency in zip(data.amplitudes, data.frequencies, strict=True)
    ]
    return "burst: " + " or ".join(bursts)
