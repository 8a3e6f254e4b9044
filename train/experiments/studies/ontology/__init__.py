"""Embeddings of the entities of a knowledge graph: link prediction for names that no triple held, and a text task.

Each seed draws an ontology of its own (`lemmata.train.data.ontology`). Of `data.train_share` of the entities an encoder
sees every triple, and learns to tell its tail from all other concepts. Of the other entities it knows nothing but their
names: for each of them, and each relation, the tail is ranked among all concepts, and `mrr` is the mean of 1 / rank.

The text task is to name the site of the disorder that a sentence is about, by multinomial logistic regression on frozen
features of the sentence. It is fitted on sentences about training entities and tested on sentences from other
templates, about training entities (`probe_seen`) and about the unseen ones (`probe_unseen`); `probe` counts both alike.

`method.encoder` is what embeds, in as many numbers for each:

- "bilstm": the conceptual-contextual encoder. A sentence is read and pooled as a name is.
- "word_mean": the mean of the word vectors of a name, or of a sentence.
- "lookup": a vector for each entity, and for a sentence that of the entity it is about, as if linking never failed. An
  unseen entity keeps the vector that it started from.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .....core import masked
from .....methods.layers import conceptual_contextual as cc
from ....engine.sources import Arrays
from ....engine.task import Metric, Objective, Task
from ....engine.types import ConfigDict
from ... import report
from ...report import ArmResult, mean_interval
from . import world as ontology
from .world import CONCEPTS, RELATIONS, SITES, VOCABULARY, Ontology

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENCODERS = ("bilstm", "word_mean", "lookup")
MRR, ACCURACY = "mean reciprocal rank, unseen names", "accuracy of the site"

METRICS = {
    "mrr": Metric(MRR),
    **{f"mrr_{relation}": Metric(f"{MRR}, {relation}") for relation in RELATIONS},
    "probe": Metric(f"{ACCURACY}, sentences on seen and unseen entities"),
    "probe_seen": Metric(f"{ACCURACY}, sentences on seen entities"),
    "probe_unseen": Metric(f"{ACCURACY}, sentences on unseen entities"),
}

CHANCE = {
    "mrr": float(np.mean(1 / np.arange(1, len(CONCEPTS) + 1))),  # concepts in random order
    **dict.fromkeys(("probe", "probe_seen", "probe_unseen"), 1 / len(SITES)),
}

Params = dict[str, Any]


SMALL = {"data.num_names": 120}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`."""
    return ConfigDict(dict(
        data=dict(
            num_names=900,
            train_share=0.6,  # of the entities
            head_first=0.3,  # share of the names that have their head first
            synonym=0.5,  # how often a word that has a synonym is replaced by it
        ),
        model=dict(
            dim=32,  # of word vectors and embeddings; even
            score="distmult",  # or "translation"
        ),
        method=dict(encoder="bilstm"),
    ))  # fmt: skip


class Encoder:
    """What an arm embeds with; all of it functions of `params`.

    Args:
        name: one of `ENCODERS`.
        dim: of word vectors and embeddings.
        num_names: entities of the ontology.
    """

    def __init__(self, name: str, dim: int, num_names: int):
        if name not in ENCODERS:
            raise ValueError(f"method.encoder must be one of {', '.join(ENCODERS)}; got {name!r}.")
        if dim < 2 or dim % 2:
            raise ValueError(f"model.dim must be an even number of at least 2, got {dim}.")
        self.name, self.dim, self.num_names = name, dim, num_names

    def init(self, key: jax.Array) -> Params:
        """Standard normal vectors of words (or entities and concepts) and of relations; and the BiLSTM."""
        relation_key, vector_key, lstm_key = jax.random.split(key, 3)
        lookup = self.name == "lookup"
        rows = len(CONCEPTS) + self.num_names if lookup else len(VOCABULARY)
        params: Params = {
            "relations": jax.random.normal(relation_key, (len(RELATIONS), self.dim)),
            "entities" if lookup else "words": jax.random.normal(vector_key, (rows, self.dim)),
        }
        if self.name == "bilstm":
            params["bilstm"] = cc.init_bilstm(key=lstm_key, input_dim=self.dim, hidden_dim=self.dim // 2)
        return params

    def concepts(self, params: Params) -> jax.Array:
        """Embeddings `[concepts, dim]`; concept c is called by token c."""
        rows = jnp.arange(len(CONCEPTS))
        return params["entities"][rows] if self.name == "lookup" else self._read(params, rows[:, None], None)

    def names(self, params: Params, graph: Ontology, entity: jax.Array) -> jax.Array:
        """Embeddings `[B, dim]` of entities `[B]`."""
        return self._linked(params, entity, graph.names[entity], None)

    def sentences(self, params: Params, graph: Ontology, entity: jax.Array, split: str) -> jax.Array:
        """Features `[B, dim]` of one sentence about each of the entities `[B]`, from the templates of a split."""
        return self._linked(params, entity, *ontology.sentences(graph.names[entity], split))

    def _linked(self, params, entity, tokens, where):
        if self.name == "lookup":
            return params["entities"][len(CONCEPTS) + entity]
        return self._read(params, tokens, where)

    def _read(self, params, tokens, where):
        vectors = params["words"][tokens]
        if self.name == "word_mean":
            return masked.mean(vectors, None if where is None else where[..., None], axis=1)
        return cc.entity_embedding(params["bilstm"], vectors, where=where)


def make_objective(config: ConfigDict) -> Objective:
    """Batches are {"entity", "relation"}, numbers; what they stand for is the seed's own ontology, in `variables`."""
    data, kind = config.data, config.model.score
    if kind not in cc.KINDS:
        raise ValueError(f"model.score must be one of {', '.join(cc.KINDS)}; got {kind!r}.")
    encoder = Encoder(config.method.encoder, config.model.dim, data.num_names)
    seen = jnp.arange(num_seen(config))

    def scores(params, graph, entity):
        """Of each relation and concept, `[B, relations, concepts]`."""
        heads = encoder.names(params, graph, entity)[:, None, None]
        return cc.triple_score(heads, params["relations"][:, None], encoder.concepts(params), kind=kind)

    def init(key, batch):
        graph_key, key = jax.random.split(key)
        graph = ontology.sample(
            key=graph_key, num_names=data.num_names, head_first=data.head_first, synonym=data.synonym
        )
        return encoder.init(key), graph

    def loss(params, graph, batch, key):
        rows = jnp.arange(len(batch["entity"]))
        score = scores(params, graph, batch["entity"])[rows, batch["relation"]]
        tail = graph.tails[batch["entity"], batch["relation"]]
        others = jnp.arange(len(CONCEPTS)) != tail[:, None]
        return jnp.mean(cc.triple_loss(score[rows, tail], score, where=others)), (graph, {})

    def evaluate(params, graph, batch, key):
        entity = batch["entity"]
        found = reciprocal_rank(scores(params, graph, entity), graph.tails[entity])
        sites = graph.tails[:, RELATIONS.index("has_site")] - CONCEPTS.index(SITES[0])
        features = {
            "probe_seen": (batch["seen"], encoder.sentences(params, graph, batch["seen"], "test")),
            "probe_unseen": (entity, encoder.sentences(params, graph, entity, "test")),
        }
        logits_of = linear_probe(encoder.sentences(params, graph, seen, "train"), sites[seen], num_classes=len(SITES))
        correct = {name: jnp.argmax(logits_of(x), axis=-1) == sites[rows] for name, (rows, x) in features.items()}
        by_relation = {f"mrr_{relation}": found[:, column] for column, relation in enumerate(RELATIONS)}
        both = (correct["probe_seen"].astype(jnp.float32) + correct["probe_unseen"]) / 2
        return {"mrr": jnp.mean(found, axis=-1), "probe": both} | by_relation | correct

    return Objective(init, loss, evaluate, couples=False)


def reciprocal_rank(scores: jax.Array, target: jax.Array) -> jax.Array:
    """One over the place of the target among all scores, the best first.

    Args:
        scores: `[..., m]` float.
        target: `[...]` int.

    Returns:
        `[...]` float32 in (0, 1]; a target that ties with k others has the place in their middle, k / 2 further back.
    """
    own = jnp.take_along_axis(scores, target[..., None], axis=-1)
    ahead, level = jnp.sum(scores > own, axis=-1), jnp.sum(scores == own, axis=-1) - 1
    return 1 / (1 + ahead + level / 2)


def linear_probe(features: jax.Array, labels: jax.Array, *, num_classes: int, steps: int = 300):
    """Multinomial logistic regression on standardised features; weights w pay |w|^2 / (2 n), biases nothing.

    Accelerated gradient descent with the step of the problem's smoothness, which half the largest eigenvalue of the
    second moments bounds (Böhning, 1992), and that their norm: nothing to tune.

    Args:
        features: `[n, d]` float.
        labels: `[n]` int.
        num_classes: how many there are.
        steps: of gradient descent.

    Returns:
        A function from features `[..., d]` to logits `[..., num_classes]`.
    """
    mean, deviation = jnp.mean(features, axis=0), jnp.std(features, axis=0)

    def standardized(x):
        x = (x - mean) / jnp.where(deviation > 0, deviation, 1.0)
        return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)

    x, n = standardized(features), len(features)
    penalty = jnp.full((x.shape[1], 1), 1 / n).at[-1].set(0.0)
    # The Frobenius norm, no less than that eigenvalue: XLA hangs in eigvalsh where a CPU poses as eight devices.
    step_size = 1 / (jnp.linalg.norm(x.T @ x / n) / 2 + 1 / n)
    target = jax.nn.one_hot(labels, num_classes)

    def step(carry, index):
        weights, ahead = carry
        gradient = x.T @ (jax.nn.softmax(x @ ahead) - target) / n + penalty * ahead
        after = ahead - step_size * gradient
        return (after, after + index / (index + 3) * (after - weights)), None

    zeros = jnp.zeros((x.shape[1], num_classes), x.dtype)
    (weights, _), _ = jax.lax.scan(step, (zeros, zeros), jnp.arange(steps, dtype=x.dtype))
    return lambda rows: standardized(rows) @ weights


def num_seen(config: ConfigDict) -> int:
    """How many entities have their triples in the training set: the first ones."""
    share = config.data.train_share
    count = round(share * config.data.num_names) if 0 < share < 1 else 0
    if not 0 < count < config.data.num_names:
        raise ValueError(f"data.train_share must leave entities on both sides, got {config.data.train_share}.")
    return count


def build(config: ConfigDict) -> Task:
    """Every triple of the seen entities to train on; the unseen ones, each with some seen one beside it, to test on."""
    seen, relations = num_seen(config), len(RELATIONS)
    triples = np.arange(seen * relations, dtype=np.int32)
    unseen = np.arange(seen, config.data.num_names, dtype=np.int32)
    return Task(
        make_objective(config),
        train=Arrays({"entity": triples // relations, "relation": triples % relations}),
        test=Arrays({"entity": unseen, "seen": unseen % seen}),
    )


# ------------------------------------------------------------------------------------------------------------- report


def references(config: ConfigDict) -> dict[str, dict[str, float]]:
    """What guessing gives."""
    return {metric: {"chance": value} for metric, value in CHANCE.items()}


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """Link prediction by relation on the left, the text task on the right: every arm, with its interval over seeds."""
    panels = {
        MRR: ({f"mrr_{relation}": relation for relation in RELATIONS}, CHANCE["mrr"], "relation"),
        ACCURACY: ({"probe_seen": "seen", "probe_unseen": "unseen"}, CHANCE["probe_seen"], "entity of the sentence"),
    }
    drawing, axes = report.new_figure(10.0, 4.2, panels=2)
    colors = report.arm_colors(results)
    for ax, (label, (groups, chance, axis)) in zip(axes, panels.items(), strict=True):
        for place, (arm, color) in enumerate(colors.items()):
            at = np.arange(len(groups)) + 0.2 * (place - (len(colors) - 1) / 2)
            seeds = np.stack([results[arm].metrics[metric] for metric in groups], axis=-1)
            mean, low, high = mean_interval(seeds)
            ax.errorbar(at, mean, yerr=[mean - low, high - mean], fmt="o", color=color, capsize=4, label=arm)
        ax.axhline(chance, color=report.GREY, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1, label="chance")
        ax.set_xticks(range(len(groups)), list(groups.values()))
        ax.set_xlim(-0.5, len(groups) - 0.5)
        ax.set_xlabel(axis)
        ax.set_ylabel(label)
        ax.set_ylim(0, 1.03)
        ax.tick_params(labelleft=True)
    drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    drawing.suptitle(report.title("Entities by their names", config, results), fontsize=11)
    return drawing
