"""Embeddings of labelled images or rows, judged frozen: by neighbours, a linear probe, and classes never trained on.

Of the classes, `data.novel` are left out of training, drawn anew by each seed. An embedding is tested by

- `knn`, `probe`: how well the labels of the other classes can be read from it, fitted to the training examples;
- `novel`: examples of the novel classes, told apart by the nearest of their prototypes, each the mean of the unit
  embeddings of `protocol.shots` examples (Snell, Swersky, Zemel 2017): the mean over `protocol.episodes` draws;
- `joint`: with all classes as candidates, the harmonic mean of the accuracies on old and on novel ones.

What is claimed of a method has to be held against `raw inputs`, of which each metric has a reference, and against the
arm of an untrained network.

A method is a function of what is `Seen` of a batch, and gives the loss of each example, or a `Coupled` where the batch
decides; one that needs more (class vectors, queues) gives `Hooks` (`lemmata.train.engine.hooks`). With `data.views` of
two or more, an example is seen in so many versions, shifted, noisy and with pixels erased, each drawn by itself.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ... import experiments
from ...data import labelled
from ...data.labelled import Labelled
from ...engine import config as configs
from ...engine.hooks import Hooks, hooks, hooks_of, make_objective, split
from ...engine.losses import Coupled
from ...engine.settings import check_whole
from ...engine.sources import Arrays
from ...engine.task import Metric, Objective, Summary, Task
from ...engine.types import ConfigDict
from ...models import networks
from ...models.networks import Network
from . import _judging as judging

__all__ = ["METRICS", "SMALL", "Coupled", "Hooks", "Problem", "Seen", "build", "defaults", "hooks", "objective_of"]

SMALL = {"model.features": (4, 8), "protocol.episodes": 4}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `protocol`, and the method's name."""
    data, model = labelled.defaults(), networks.defaults()
    data.name = "placed_digits"
    data.update(ConfigDict(dict(
        novel=4,  # classes that are not trained on, another draw for each seed; 0: none
        views=1,  # versions of an example in a batch
        shift=0,  # of a version: moved by up to so many pixels each way,
        noise=0.0,  # with normal noise of this standard deviation,
        erase=0.0,  # and this share of its entries set to 0
    )))  # fmt: skip
    model.update(ConfigDict(dict(features=(16, 32, 32), embedding=32)))
    return ConfigDict(dict(
        data=data,
        model=model,
        protocol=dict(shots=5, queries=15, episodes=200),  # of a novel class; and how often they are drawn
        method=dict(name="cross_entropy"),
    ))  # fmt: skip


def METRICS(config: ConfigDict) -> dict[str, Metric]:
    """What an evaluation gives."""
    found = {
        "knn": Metric("accuracy of 5 nearest neighbours"),
        "probe": Metric("accuracy of a linear probe"),
        "effective_rank": Metric("effective rank of the embedding", "dimensions"),
    }
    if config.data.novel:
        shots = config.protocol.shots
        found["novel"] = Metric(f"accuracy on novel classes, {shots} examples each")
        found["joint"] = Metric("harmonic mean of accuracies on old and novel classes")
    return found


# ------------------------------------------------------------------------------------------------------------ learning


class Problem(NamedTuple):
    """What a method that gives `Hooks` is told."""

    num_classes: int  # that are trained on
    embedding: int  # width
    examples: int  # that are trained on; an index is below the number of all of them, novel ones too
    total: int  # that number
    steps: int


class Seen(NamedTuple):
    """A batch as a loss sees it."""

    embeddings: jax.Array  # [views, batch, embedding] float32, as the network gives them: not normalised
    label: jax.Array  # [batch] int32, from 0 to num_classes - 1
    index: jax.Array  # [batch] int32, which example of the training split it is
    key: jax.Array


def objective_of(network: Network, parts: Hooks, settings: ConfigDict, protocol: ConfigDict) -> Objective:
    """Fits a network to batches of the training classes; each seed's `own` says which these are.

    Args:
        network: inputs to embeddings.
        parts: of the method.
        settings: the `data` section.
        protocol: the `protocol` section.
    """

    def embed(params, inputs) -> jax.Array:
        return network.apply(params, inputs).astype(jnp.float32)

    def init(key, batch):
        return network.init(key, batch.batch["inputs"][:1])

    def see(params, batch, key):
        rows, (view_key, key) = batch.batch, jax.random.split(key)
        views = views_of(rows["inputs"], view_key, settings)
        embeddings = embed(params, views.reshape(-1, *views.shape[2:])).reshape(*views.shape[:2], -1)
        return Seen(embeddings, batch.own["class_of"][rows["label"]], rows["index"], key)

    def collect(params, held, batch, key):
        rows, own = batch.batch, split(parts, params, held)
        embeddings = embed(own.network, rows["inputs"])
        if parts.predict is not None:
            embeddings = parts.predict(embeddings, *own.own)
        return {"embedding": embeddings, "label": rows["label"], "old": batch.own["class_of"][rows["label"]] >= 0}

    measure = functools.partial(judging.measure, novel=bool(settings.novel), **protocol)
    summary = Summary(collect, measure, train=True)
    return make_objective(parts, init=init, see=see, evaluate=lambda *_: {}, summary=summary)


def views_of(inputs: jax.Array, key: jax.Array, settings: ConfigDict) -> jax.Array:
    """`[views, batch, ...]`; one view is the inputs as they are.

    Args:
        inputs: `[batch, h, w, c]`, or `[batch, d]` where nothing is shifted.
        key: of the step.
        settings: `views`, `shift`, `noise` and `erase` are read.
    """
    if settings.views == 1:
        return inputs[None]
    shape = (settings.views, *inputs.shape)
    shift_key, noise_key, erase_key = jax.random.split(key, 3)
    views = jnp.broadcast_to(inputs, shape)
    if settings.shift:
        reach = settings.shift
        edge = ((0, 0), (0, 0), (reach, reach), (reach, reach), (0, 0))
        corners = jax.random.randint(shift_key, (*shape[:2], 2), 0, 2 * reach + 1)

        def moved(image, corner):
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), shape[2:])

        views = jax.vmap(jax.vmap(moved))(jnp.pad(views, edge, mode="edge"), corners)
    if settings.noise:
        views = views + settings.noise * jax.random.normal(noise_key, shape)
    if settings.erase:
        views = jnp.where(jax.random.bernoulli(erase_key, settings.erase, shape), 0.0, views)
    return views


# ---------------------------------------------------------------------------------------------------------------- data


def classes_of(seed: int, num_classes: int, novel: int) -> np.ndarray:
    """`[classes]` int32: from 0 on for those that a seed trains on, -1 for its novel ones."""
    order = np.random.default_rng((seed, 0)).permutation(num_classes)
    class_of = np.full(num_classes, -1, np.int32)
    old = np.sort(order[novel:])
    class_of[old] = np.arange(len(old))
    return class_of


def rows_of(seed: int, label: np.ndarray, num_classes: int, novel: int) -> np.ndarray:
    """The training rows of a seed: of its classes, and as many for every seed, whichever its classes are."""
    counts = np.sort(np.bincount(label, minlength=num_classes))
    most = int(counts[: num_classes - novel].sum())
    rows = np.flatnonzero(classes_of(seed, num_classes, novel)[label] >= 0)
    return np.sort(np.random.default_rng((seed, 1)).permutation(rows)[:most])


def _loaded(config: ConfigDict) -> Labelled:
    found, data, protocol = labelled.load(config.data, eval_split=config.train.eval_split), config.data, config.protocol
    check_whole("data.novel", data.novel, 0, found.num_classes - 2)
    if data.novel == 1:
        raise ValueError("data.novel must be 0, or at least 2 to be told apart, got 1.")
    check_whole("data.views", data.views, 1)
    check_whole("data.shift", data.shift, 0)
    if data.views == 1 and (data.shift or data.noise or data.erase):
        raise ValueError("data.shift, data.noise and data.erase are of several views; data.views is 1.")
    if data.shift and len(found.shape) != 3:
        raise ValueError(f"data.shift must be 0 for examples that are no images, of shape {found.shape}.")
    if not 0 <= data.noise < np.inf or not 0 <= data.erase < 1:
        raise ValueError(f"data.noise must be at least 0 and data.erase in [0, 1), got {data.noise} and {data.erase}.")
    for name in ("shots", "queries", "episodes"):
        check_whole(f"protocol.{name}", protocol[name], 1)
    held_out = getattr(found, config.train.eval_split)["label"]
    smallest = np.bincount(held_out, minlength=found.num_classes).min()
    if data.novel and smallest < protocol.shots + protocol.queries:
        raise ValueError(
            f"protocol.shots + protocol.queries must be at most {smallest}, the {config.train.eval_split} examples of "
            f"the smallest class, got {protocol.shots} + {protocol.queries}."
        )
    return found


def build(config: ConfigDict) -> Task:
    """The embedding of the data set that the config names."""
    found, novel = _loaded(config), config.data.novel
    label, num_classes, width = found.train["label"], found.num_classes, config.model.embedding
    check_whole("model.embedding", width, 1)
    own_rows = functools.partial(rows_of, label=label, num_classes=num_classes, novel=novel)
    problem = Problem(num_classes - novel, width, len(own_rows(0)), len(label), config.train.steps)
    parts = hooks_of(experiments.get(config.experiment).bound(config.method), problem)
    network = networks.make_network(config.model, parts.outputs or width, found.shape, remat=config.train.remat)
    return Task(
        objective_of(network, parts, config.data, config.protocol),
        train=Arrays(found.train, own_rows),
        test=Arrays(found.test),
        validation=None if found.validation is None else Arrays(found.validation),
        own=lambda seed: {"class_of": classes_of(seed, num_classes, novel)},
    )


# -------------------------------------------------------------------------------------------------------------- report


def references(config: ConfigDict) -> dict[str, dict[str, float]]:
    """What raw inputs give in place of an embedding, the mean over seeds, and what guessing gives."""
    raw = _raw(
        configs.frozen(config.data), configs.frozen(config.protocol), tuple(config.seeds), config.train.eval_split
    )
    found = {name: {"raw inputs": value} for name, value in raw.items() if name != "effective_rank"}
    if config.data.novel:
        found["novel"]["chance"] = 1 / config.data.novel
    return found


@functools.lru_cache(maxsize=4)
def _raw(data: str, protocol: str, seeds: tuple[int, ...], eval_split: str) -> dict[str, float]:
    settings, rules = configs.thawed(data), configs.thawed(protocol)
    found = labelled.load(settings, eval_split=eval_split)
    held_out = getattr(found, eval_split)

    def flat(split_: dict[str, np.ndarray], rows: Any, class_of: np.ndarray) -> dict[str, np.ndarray]:
        label = split_["label"][rows]
        return {
            "embedding": split_["inputs"][rows].reshape(len(label), -1),
            "label": label,
            "old": class_of[label] >= 0,
        }

    rows = []
    for seed in seeds:
        class_of = classes_of(seed, found.num_classes, settings.novel)
        train = flat(found.train, rows_of(seed, found.train["label"], found.num_classes, settings.novel), class_of)
        rows.append(judging.measure(flat(held_out, slice(None), class_of), train, novel=bool(settings.novel), **rules))
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
