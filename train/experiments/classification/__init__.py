"""Classification of images or rows of features by a small network.

A method is a function of what is `Seen` of a batch, and gives the loss of each example, or a `Coupled` where the batch
decides; one that needs more gives `Hooks` (`lemmata.train.engine.hooks`). All are tested by the cross-entropy and the
accuracy of what they predict.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import experiments
from ...data import labelled
from ...engine.hooks import Hooks, hooks, hooks_of, make_objective, split
from ...engine.losses import Coupled
from ...engine.sources import Arrays
from ...engine.task import Metric, Objective, Summary, Task
from ...engine.types import ConfigDict
from ...models import networks
from ...models.networks import Network

__all__ = ["METRICS", "SMALL", "Coupled", "Hooks", "Problem", "Seen", "build", "defaults", "hooks", "objective_of"]

METRICS = {
    "loss": Metric("cross-entropy", "nats"),
    "accuracy": Metric("accuracy"),
    "balanced_accuracy": Metric("accuracy, mean over classes"),
    "f1": Metric("F1, mean over classes"),
    "calibration_error": Metric("expected calibration error, 15 bins"),
}

SMALL = {"model.features": (4, 8)}
BINS = 15  # of the calibration error


class Problem(NamedTuple):
    """What a method that gives `Hooks` is told."""

    num_classes: int
    shape: tuple[int, ...]  # of an example
    examples: int  # that are trained on
    steps: int


class Seen(NamedTuple):
    """A batch as a loss sees it."""

    inputs: jax.Array  # [batch, ...]
    label: jax.Array  # [batch] int32
    index: jax.Array  # [batch] int32, which training example it is
    outputs: jax.Array  # [batch, outputs] float32, of the network: logits, where a method says nothing else
    params: object  # of the network
    key: jax.Array


def defaults() -> ConfigDict:
    """Every key of `data` and `model`, and the method's name."""
    return ConfigDict(dict(data=labelled.defaults(), model=networks.defaults(), method=dict(name="cross_entropy")))


def objective_of(network: Network, parts: Hooks) -> Objective:
    """Fits a network to batches {"inputs": `[batch, ...]`, "label": `[batch]`, "index": `[batch]`}."""

    def outputs_of(params, inputs) -> jax.Array:
        return network.apply(params, inputs).astype(jnp.float32)

    def init(key, batch):
        return network.init(key, batch["inputs"][:1])

    def see(params, batch, key):
        return Seen(batch["inputs"], batch["label"], batch["index"], outputs_of(params, batch["inputs"]), params, key)

    def logits_of(params, held, batch) -> jax.Array:
        own = split(parts, params, held)
        outputs = outputs_of(own.network, batch["inputs"])
        return outputs if parts.predict is None else parts.predict(outputs, *own.own)

    def evaluate(params, held, batch, key):
        logits = logits_of(params, held, batch)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])  # the same for every arm
        return {"loss": nats, "accuracy": (jnp.argmax(logits, axis=-1) == batch["label"]).astype(jnp.float32)}

    def collect(params, held, batch, key):
        return {"probs": jax.nn.softmax(logits_of(params, held, batch)), "label": batch["label"]}

    summary = Summary(collect, lambda rows: summarize(rows["probs"], rows["label"]))
    return make_objective(parts, init=init, see=see, evaluate=evaluate, summary=summary)


def summarize(probs: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """What no mean over examples says, of probabilities `[n, classes]` and labels `[n]`.

    The calibration error is the mean distance of confidence and accuracy over bins of equal width, by their sizes.
    """
    from sklearn.metrics import f1_score, recall_score

    predicted, confidence = probs.argmax(-1), probs.max(-1).astype(np.float64)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, confidence - (predicted == label), minlength=BINS)
    present = np.unique(label)
    return {
        "balanced_accuracy": float(recall_score(label, predicted, labels=present, average="macro")),
        "f1": float(f1_score(label, predicted, labels=present, average="macro")),
        "calibration_error": float(np.abs(gaps).sum() / len(label)),
    }


def build(config: ConfigDict) -> Task:
    """The network on the data set that the config names."""
    found = labelled.load(config.data, eval_split=config.train.eval_split)
    problem = Problem(found.num_classes, found.shape, len(found.train["label"]), config.train.steps)
    parts = hooks_of(experiments.get(config.experiment).bound(config.method), problem)
    outputs = found.num_classes if parts.outputs is None else parts.outputs
    network = networks.make_network(config.model, outputs, found.shape, remat=config.train.remat)
    return Task(
        objective_of(network, parts),
        train=Arrays(found.train),
        test=Arrays(found.test),
        validation=None if found.validation is None else Arrays(found.validation),
    )


def references(config: ConfigDict) -> dict[str, dict[str, float]]:
    """What guessing the commonest class of the test split gives."""
    found = labelled.load(config.data, eval_split=config.train.eval_split)
    counts = np.bincount(found.test["label"], minlength=found.num_classes)
    return {"accuracy": {"commonest class": float(counts.max() / counts.sum())}}
