"""Question answering over retrieved documents, in the made-up land of `land`.

The models are small Transformers, trained through the engine once for a set of seeds, kept (`lemmata.train.models`),
and shared by all arms; an arm says what they write and how. For half of the questions the answer stands in the
documents alone, for half the target model knows it and they do not. The target reads the evidence, then answers.
`method.evidence` is what it reads: "summary", which the compressor and the target write together
(`lemmata.methods.samplers.favicomp`), `method.alpha` being the weight of the target (0: the compressor alone, 1: the
target's memory alone), or "documents", as they were retrieved.
"""

import dataclasses
import functools
import re
import string
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from .....core import sequences
from .....core.networks.transformer import Transformer
from .....methods.samplers import favicomp
from .... import models
from ....engine.sources import Deferred, Sampler
from ....engine.task import Metric, Objective, Task, TwoPass
from ....engine.types import ConfigDict
from ....models.generation import generate, greedy, prompted, step_of
from ... import report
from ...report import ArmResult, mean_interval
from . import land as facts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVIDENCE = ("summary", "documents")
VERSION = 1  # of the numbers that training the models gives; raise it when the code, the land's texts too, changes them

METRICS = {
    "accuracy": Metric("questions answered", "share"),
    "accuracy_documents": Metric("questions answered from the documents", "share"),
    "accuracy_memory": Metric("questions answered from memory", "share"),
    "f1": Metric("word F1 of the answers"),
    "perplexity": Metric("perplexity of the evidence under the target"),
    "compression_rate": Metric("tokens of the documents over tokens of the evidence"),
}

SMALL = {
    "data.questions": 8,
    "data.relations": 4,
    "data.words": 2,
    "data.documents": 2,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.model_dim": 16,
    "model.mlp_dim": 16,
    "train.batch_size": 8,
}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`."""
    return ConfigDict(dict(
        data=dict(
            name="facts",
            questions=256,  # asked after training, of each of the two kinds
            relations=16,  # the rest as of `land.Facts`
            words=4,
            documents=6,
            found=0.7,
            manner=0.9,
        ),
        model=dict(num_layers=2, num_heads=4, model_dim=64, mlp_dim=128, positions="rotary"),
        method=dict(evidence="summary", alpha=0.5),
    ))  # fmt: skip


def run(config: ConfigDict, *, seed: int) -> dict[str, float]:
    """Ask both kinds of questions of the models of one seed."""
    if config.data.name != "facts":
        raise ValueError(f'data.name must be "facts", got {config.data.name!r}.')
    if config.method.evidence not in EVIDENCE:
        raise ValueError(f"method.evidence must be one of {EVIDENCE}, got {config.method.evidence!r}.")
    land = make_land(config)
    network = make_network(config, len(land.vocabulary), land.length)
    in_documents = np.arange(2 * config.data.questions) % 2 == 0
    alpha = config.method.alpha if config.method.evidence == "summary" else None
    questions, replies, measured = _respond(
        network, land, models_of(config, seed), jax.random.key(seed), in_documents, alpha
    )
    pairs = [
        (land.text(reply), land.text(answer))
        for reply, answer in zip(np.asarray(replies), np.asarray(questions.answer), strict=True)
    ]
    right = np.array([answered(*pair) for pair in pairs])
    scores = {
        "accuracy": right.mean(),
        "accuracy_documents": right[in_documents].mean(),
        "accuracy_memory": right[~in_documents].mean(),
        "f1": np.mean([word_f1(*pair) for pair in pairs]),
    }
    return {name: float(value) for name, value in (scores | measured).items()}


# ------------------------------------------------------------------------------------------------------------- models


def make_land(config: ConfigDict) -> facts.Facts:
    """The land that `config.data` describes."""
    data = config.data
    return facts.Facts(data.relations, data.words, data.documents, data.found, data.manner)


def make_network(config: ConfigDict, vocabulary: int, length: int) -> Transformer:
    """The Transformer that `config.model` describes, for texts of `length` tokens."""
    return Transformer(vocabulary, max_length=length, remat=config.train.remat, **config.model)


def make_objective(network: Transformer) -> Objective:
    """Several models of one architecture, each fitted to its own texts {"tokens", "where"}: batches are by model.

    A model's loss is the cross-entropy of the tokens that count, in nats, a mean over those of the whole batch; theirs
    are added, which, since they share no parameter, trains each as it would be trained alone.
    """

    def forward(params, variables, batch, key):
        """By model, the nats of each text's tokens together, `[batch]`."""

        def of_texts(params, texts):
            logits = cast(jax.Array, network.apply(params, texts["tokens"][:, :-1]))
            nats = -sequences.token_logps(logits, texts["tokens"][:, 1:])
            return jnp.sum(jnp.where(texts["where"][:, 1:], nats, 0), axis=1)

        return {name: of_texts(params[name], texts) for name, texts in batch.items()}

    def means(nats, batch):
        counts = {name: jnp.maximum(jnp.sum(texts["where"][:, 1:]), 1) for name, texts in batch.items()}
        return {name: jnp.sum(nats[name]) / counts[name] for name in batch}

    def combine(nats, params, variables, batch, key):
        values = means(nats, batch)
        return jnp.sum(jnp.stack(list(values.values()))), (variables, values)

    def init(key, batch):
        keys = jax.random.split(key, len(batch))
        return {name: network.init(k, batch[name]["tokens"][:1]) for name, k in zip(batch, keys, strict=True)}, {}

    def evaluate(params, variables, batch, key):
        return means(forward(params, variables, batch, key), batch)

    return Objective(init, TwoPass(forward, combine), evaluate)


def models_of(config: ConfigDict, seed: int) -> dict[str, Any]:
    """Parameters by model, trained with all of the config's seeds if need be; the same for all arms."""
    seeds = tuple(config.seeds) if seed in config.seeds else (seed,)
    params = trained(config, seeds).make()
    return params if len(seeds) == 1 else jax.tree.map(lambda x: x[seeds.index(seed)], params)


def trained(config: ConfigDict, seeds: tuple[int, ...]) -> Deferred:
    """Parameters by model; with a leading axis where there are several seeds."""
    land = make_land(config)
    texts = {"compressor": land.compressor_texts, "target": land.target_texts}
    objective = make_objective(make_network(config, len(land.vocabulary), land.length))

    def sample(key, n):
        keys = jax.random.split(key, len(texts))
        return {name: draw(k, n) for (name, draw), k in zip(texts.items(), keys, strict=True)}

    what = {
        "models": __name__,
        "version": VERSION,
        "land": dataclasses.asdict(land),
        "network": config.model.to_dict(),
    }
    return models.trained(
        what,
        lambda: Task(objective, train=Sampler(sample), test=Sampler(sample)),
        config,
        seeds,
        lambda key: objective.init(key, sample(key, 1))[0],
    )


# ----------------------------------------------------------------------------------------------------------- decoding


@functools.partial(jax.jit, static_argnums=(0, 1))
def _respond(network, land, params, key, in_documents, alpha):
    """Questions, replies `[n, REPLY]` to them, and what the evidence that was read is like.

    alpha None: the documents are the evidence.
    """
    questions = land.questions(key, in_documents)
    target, (documents, asked, _) = params["target"], questions
    n = len(documents)

    def word(token):
        return jnp.full((n, 1), token), None

    if alpha is None:
        evidence, where = documents, jnp.ones(documents.shape, bool)
    else:
        compressor = prompted(
            network, params["compressor"], network.max_length, word(facts.READ), (documents, None), word(facts.WRITE)
        )
        memory = prompted(network, target, 1 + 1 + facts.SUMMARY, word(facts.WRITE))
        evidence = favicomp.decode(
            step_of(network), step_of(network), compressor, memory, asked,
            alpha=alpha, num_steps=facts.SUMMARY, eos_id=facts.END,
        )  # fmt: skip
        where = jnp.cumsum(evidence == facts.END, axis=1) == 0

    text = jnp.concatenate([word(facts.WRITE)[0], asked[:, None], evidence], axis=1)
    logits = cast(jax.Array, network.apply(target, text[:, :-1]))[:, 1:]
    measured = {
        "perplexity": jnp.mean(favicomp.perplexity(logits, evidence, where)),
        "compression_rate": favicomp.compression_rate(jnp.ones(documents.size, bool), where.ravel()),
    }
    size = 3 + evidence.shape[1] + facts.REPLY
    state = prompted(network, target, size, word(facts.READ), (evidence, where), word(facts.ANSWER))
    replies = generate(
        step_of(network), state, asked,
        key=jax.random.key(0), choose=greedy, num_steps=facts.REPLY, eos_id=facts.END,
    )  # fmt: skip
    return questions, replies, measured


# ------------------------------------------------------------------------------------------------------------ answers


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and spare spaces."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answered(text: str, answer: str) -> bool:
    """Whether the text holds the answer, both normalised."""
    return normalized(answer) in normalized(text)


def word_f1(text: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the answer's words in the text, both normalised."""
    given, right = Counter(normalized(text).split()), Counter(normalized(answer).split())
    shared = sum((given & right).values())
    return 2 * shared / (sum(given.values()) + sum(right.values())) if shared else 0.0


# ------------------------------------------------------------------------------------------------------------- report


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """Questions answered by each arm, by where the answer is to be found, and below each arm what its evidence is."""
    methods = {arm: result.config.method for arm, result in results.items()}
    arms = sorted(results, key=lambda arm: (methods[arm].evidence == "documents", methods[arm].alpha))
    drawing, (ax,) = report.new_figure(1.3 * len(arms) + 2.2, 4.4)
    series = {"accuracy_documents": "from the documents", "accuracy_memory": "from memory", "accuracy": "all"}
    for shift, color, (name, label) in zip((-0.2, 0.0, 0.2), report.COLORS, series.items(), strict=False):
        seeds = np.stack([results[arm].metrics[name] for arm in arms], axis=-1)
        mean, low, high = mean_interval(seeds)
        places = np.arange(len(arms)) + shift
        ax.errorbar(
            places, mean, yerr=[mean - low, high - mean], fmt="o", color=color, capsize=4, markersize=7, label=label
        )
    ax.set_xticks(range(len(arms)), [_describe(arm, methods[arm], results[arm]) for arm in arms], fontsize=8)
    ax.set_xlim(-0.6, len(arms) - 0.4)
    ax.set_ylim(-0.05, 1.08)
    ax.set_ylabel(report.axis_label("accuracy", METRICS))
    ax.legend(frameon=False, fontsize=9, title="answer is known", loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(report.title("Questions answered", config, results), loc="left", fontsize=11)
    return drawing


def _describe(arm: str, method: ConfigDict, result: ArmResult) -> str:
    rate, perplexity = (float(np.mean(result.metrics[name])) for name in ("compression_rate", "perplexity"))
    weight = "no model writes" if method.evidence == "documents" else f"alpha = {method.alpha:g}"
    return f"{arm}\n{weight}\n{rate:.3g} x shorter\nperplexity {perplexity:.3g}"
