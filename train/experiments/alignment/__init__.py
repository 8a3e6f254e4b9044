"""Post-training of a byte-level Transformer on answers that are marked desirable or undesirable.

The base model is trained on the text once, kept, and shared by all arms and seeds (`lemmata.train.models`). An answer
is what follows a prompt: the desirable one is how the text goes on, the undesirable one the same bytes shuffled. No
document of the test split is in the training split. Or the answers and their marks come from a file.

A method is a function of `Feedback`: answers, and the models that judge them. It gives a loss for each answer, or a
`Coupled` where the batch decides (`lemmata.train.engine.losses`). What all of them share is the protocol: a method may
have another in front of it for `protocol.first_steps` steps, where the model that a stage starts from is its reference;
and its model may be merged with that of another method, trained beside it for all steps.

The feedback is unpaired: of a text, every other prompt of a batch comes with its desirable answer, the rest with
undesirable ones.
"""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ....core import sequences
from ....methods.losses.alignment.kto import two_stage_weights
from ... import experiments
from ...data.splits import check_apart
from ...engine import losses
from ...engine.losses import Coupled
from ...engine.settings import is_reference, nearest
from ...engine.sources import Arrays, Deferred
from ...engine.task import Metric, Objective, Summary, Task, TwoPass
from ...engine.types import ConfigDict
from ...models import language
from .. import report
from ..report import ArmResult, mean_interval
from ._merging import MERGES
from ._rows import paired, rows_of, unpaired

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["METRICS", "SMALL", "Coupled", "Feedback", "Span", "build", "defaults", "paired", "rows_of", "unpaired"]

METRICS = {
    "margin": Metric("margin of good over bad answers", "nats"),
    "cross_entropy": Metric("cross-entropy of good answers", "nats/byte"),
    "accuracy": Metric("pairs whose good answer is the likelier"),
}

SMALL = {
    "data.test_rows": 32,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.model_dim": 16,
    "model.mlp_dim": 16,
    "model.pretraining.steps": 2,
    "model.pretraining.batch_size": 8,
    "protocol.first_steps": 2,
    "train.batch_size": 8,
    "train.eval_batch_size": 32,
}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `protocol`, and the method's name."""
    model = language.defaults()
    model.pretraining = language.pretraining_defaults()
    model.pretraining.text = ""  # what the base reads: a name as data.name; "": that one
    return ConfigDict(dict(
        data=dict(
            name="python_docs",  # or python_source, a prepared TFDS name with a feature "text", or a file of feedback
            columns={},  # of a file: prompt, completion and label
            desirable="",  # of a file: the label of desirable answers; "": true, or 1
            prompt=16,  # bytes
            answer=16,  # bytes
            seed=0,  # of the shuffles
            train="train+validation",  # the splits: what is trained on,
            validation="validation",  # what train.eval_split = "validation" looks at; then train is to be "train",
            test="test",  # and what is tested on
            test_rows=0,  # evenly spaced over the split to evaluate on; 0: all
        ),
        model=model,
        protocol=dict(
            first="",  # the method of a first stage, with its defaults; "": there is none
            first_steps=0,  # its length
            fuse_with="",  # a method, with its defaults, whose model is merged with the arm's own; "": none
            merge="linear",  # or "slerp", "ties"
            merge_weights=(),  # of the other model and the arm's own, for "linear" and "ties"; (): equal
            merge_t=0.5,  # of "slerp": 0 is the other model, 1 the arm's own
            density=0.2,  # of "ties"
        ),
        method=dict(name="sft"),
    ))  # fmt: skip


# ------------------------------------------------------------------------------------------------- what a method sees


class Span(NamedTuple):
    """Bytes of each row, and which of them count."""

    tokens: jax.Array  # [batch, time] int32
    where: jax.Array | None  # [batch, time] bool; None: all do


Model = Callable[[jax.Array], jax.Array]  # answers [batch, time] to the prompts -> logits [batch, time, vocab], aligned


class Feedback(NamedTuple):
    """Answers as a loss sees them, of a batch or of a part of one."""

    answers: Span
    desirable: jax.Array  # [batch] bool
    mismatched: Span  # the answer of the next row of the whole batch, to this row's prompt
    policy: Model  # what is trained
    fixed_policy: Model  # the same, without gradient
    reference: Model  # what the stage started from, without gradient
    key: jax.Array  # PRNG key of the step


class Stage(NamedTuple):
    """A method with its settings, and what its metrics are called after."""

    name: str
    method: Callable[[Feedback], Any]


def policies_of(config: ConfigDict) -> tuple[tuple[Stage, ...], ...]:
    """What is trained, side by side: the stages of each policy. The arm's own comes last.

    Raises:
        ValueError: a setting of `protocol` outside its range.
    """
    experiment, protocol = experiments.get(config.experiment), config.protocol
    if protocol.first_steps < 0:
        raise ValueError(f"protocol.first_steps must be at least 0, got {protocol.first_steps}.")
    if protocol.merge not in MERGES:
        raise ValueError(f"protocol.merge must be one of {tuple(MERGES)}, got {protocol.merge!r}.")
    if len(protocol.merge_weights) not in (0, 2):
        raise ValueError(f"protocol.merge_weights must be two, or none, got {protocol.merge_weights!r}.")
    own = Stage(_label(config.method.name), experiment.bound(config.method))
    before = [_stage(experiment, f"protocol.{key}", protocol[key]) for key in ("first", "fuse_with")]
    first, beside = ((stage,) if stage else () for stage in before)
    return (*((beside,) if beside else ()), (*first, own))


def _stage(experiment: experiments.Experiment, argument: str, name: str) -> Stage | None:
    if not name:
        return None
    if not is_reference(name) and name not in experiment.methods:
        known = ", ".join(experiment.methods)
        raise ValueError(f"{argument} must be a method ({known}), got {name!r}.{nearest(name, experiment.methods)}")
    required = [key for key, value in experiment.method_settings(name).items() if value is experiments.REQUIRED]
    if required:
        raise ValueError(f"{argument}: method {name!r} has no default for its setting {required[0]!r}.")
    return Stage(_label(name), experiment.method(name))


def _label(name: str) -> str:
    return name.rpartition(":")[2]


# ------------------------------------------------------------------------------------------------------------ learning


def make_objective(config: ConfigDict, network: nn.Module, *, pairs: bool = True) -> Objective:
    """Trains the policies of `config` from the resident base of a causal `network`, tokens -> next-token logits.

    Batches are `Resident` with the base's parameters beside rows as of `paired`, or of `unpaired`. Params are a tuple,
    one tree a policy; the variables hold, for each policy of two stages, the reference of the second.

    Args:
        config: of an arm.
        network: causal.
        pairs: whether the rows of the test split are pairs.
    """
    policies_stages, protocol = policies_of(config), config.protocol

    def logits_of(params: Any, prompts: Span, answers: jax.Array) -> jax.Array:
        tokens = jnp.concatenate([prompts.tokens, answers[:, :-1]], axis=1)
        options = {}
        if prompts.where is not None:
            options["where"] = jnp.concatenate([prompts.where, jnp.ones(answers[:, :-1].shape, bool)], axis=1)
        logits = cast(jax.Array, network.apply(params, tokens, **options))
        return logits[:, prompts.tokens.shape[1] - 1 :]  # the prompt's last byte predicts the first of the answer

    def init(key, batch):
        base = batch.arrays
        references = tuple(jax.tree.map(jnp.copy, base) if len(stages) == 2 else None for stages in policies_stages)
        policies = tuple(jax.tree.map(jnp.copy, base) for _ in policies_stages)
        return policies, {"step": jnp.zeros((), jnp.int32), "references": references}

    def references_of(policies, variables):
        """The references of this step: where a second stage starts, the policies of this moment."""
        anew = variables["step"] == protocol.first_steps
        return tuple(
            None
            if old is None
            else jax.tree.map(lambda old, now: jnp.where(anew, now, old.astype(now.dtype)), old, now)
            for old, now in zip(variables["references"], jax.lax.stop_gradient(policies), strict=True)
        )

    def seen(policies, variables, batch, key) -> list[Feedback]:
        rows, prompts = batch.batch, batch.batch["prompt"]
        references = references_of(policies, variables)
        return [
            Feedback(
                rows["answer"],
                rows["desirable"],
                rows["mismatched"],
                functools.partial(logits_of, policy, prompts),
                functools.partial(logits_of, jax.lax.stop_gradient(policy), prompts),
                functools.partial(logits_of, batch.arrays if reference is None else reference, prompts),
                key,
            )
            for policy, reference in zip(policies, references, strict=True)
        ]

    def prepare(batch):
        rows = _unpaired(batch.batch)
        mismatched = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), rows["answer"])
        return batch._replace(batch=rows | {"mismatched": mismatched})

    def forward(policies, variables, batch, key):
        return [
            [losses.of_each(stage.method(feedback), len(feedback.desirable)) for stage in stages]
            for stages, feedback in zip(policies_stages, seen(policies, variables, batch, key), strict=True)
        ]

    def combine(values, policies, variables, batch, key):
        total, metrics = jnp.zeros(()), {}
        everything = zip(policies_stages, values, seen(policies, variables, batch, key), strict=True)
        for stages, of_stages, feedback in everything:
            two = len(stages) == 2
            weights = two_stage_weights(variables["step"], sft_steps=protocol.first_steps) if two else (1.0,)
            for stage, each, weight in zip(stages, of_stages, weights, strict=True):
                value, extra = losses.of_batch(each, functools.partial(stage.method, feedback))
                total += weight * value
                metrics |= {f"{stage.name}_loss": value} | extra
        after = {"step": variables["step"] + 1, "references": references_of(policies, variables)}
        return total, (after, metrics)

    def final(policies, batch) -> Any:
        return policies[0] if len(policies) == 1 else MERGES[protocol.merge](batch.arrays, policies, protocol)

    def evaluate(policies, variables, batch, key):
        model, rows = final(policies, batch), {name: x.astype(jnp.int32) for name, x in batch.batch.items()}
        prompts = Span(rows["prompt"], None)
        good_logps, bad_logps = jax.vmap(
            lambda answers: sequences.sequence_logps(logits_of(model, prompts, answers), answers)
        )(jnp.stack([rows["good"], rows["bad"]]))
        margin = good_logps - bad_logps
        return {
            "margin": margin,
            "cross_entropy": -good_logps / rows["good"].shape[1],
            "accuracy": (margin > 0).astype(jnp.float32),
        }

    def collect(policies, variables, batch, key):
        rows = _unpaired(batch.batch)
        answers = rows["answer"]
        logits = logits_of(final(policies, batch), rows["prompt"], answers.tokens)
        return {
            "nats": -sequences.sequence_logps(logits, answers.tokens, where=answers.where),
            "bytes": jnp.sum(jnp.ones_like(answers.tokens) if answers.where is None else answers.where, axis=1),
            "desirable": rows["desirable"],
        }

    loss = TwoPass(forward, combine, prepare)
    if pairs:
        return Objective(init, loss, evaluate)
    return Objective(init, loss, lambda *_: {}, summary=Summary(collect, _summarize))


def _unpaired(rows: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Prompts, answers and what is desirable, as spans, of rows of either kind."""
    prompts, answers, desirable = rows["prompt"], rows.get("answer"), rows.get("desirable")
    if answers is None:
        desirable = jnp.arange(len(prompts)) % 2 == 0  # every other row, so that each device has as many of both
        answers = jnp.where(desirable[:, None], rows["good"], rows["bad"])
    return {
        "prompt": Span(prompts.astype(jnp.int32), rows.get("prompt_where")),
        "answer": Span(answers.astype(jnp.int32), rows.get("answer_where")),
        "desirable": desirable,
    }


def _summarize(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The metrics of answers that do not come in pairs: over all pairs of a good and a bad one."""
    from scipy.stats import rankdata

    good, nats = found["desirable"], found["nats"].astype(np.float64)
    count, ranks = good.sum(), rankdata(-nats)
    return {
        "margin": float(nats[~good].mean() - nats[good].mean()),
        "cross_entropy": float(nats[good].sum() / found["bytes"][good].sum()),
        "accuracy": float((ranks[good].sum() - count * (count + 1) / 2) / (count * (~good).sum())),
    }


# ------------------------------------------------------------------------------------------------------ data and models


def base_of(config: ConfigDict) -> Deferred:
    """The parameters of the base, which has read the split that is trained on, as text.

    Raises:
        ValueError: the data is feedback from a file, and no text is named; and as `language.pretrained`.
    """
    settings, (model, pretraining) = config.data, _model(config)
    text = pretraining.pop("text")
    if settings.columns and not text and pretraining["steps"]:
        raise ValueError(f"model.pretraining.text must name a text for the base to read, beside {settings.name!r}.")
    return language.pretrained(
        text or settings.name,
        _window(settings),
        model,
        pretraining,
        split=settings.train,
        remat=config.train.remat,
        mesh=dict(data=config.mesh.data, model=config.mesh.model),
    )


def make_network(config: ConfigDict) -> nn.Module:
    """The Transformer that `config.model` describes, for prompts with their answers."""
    return language.make_network(_model(config)[0], _window(config.data), remat=config.train.remat)


def _model(config: ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
    model = config.model.to_dict()
    pretraining = model.pop("pretraining")
    return model, pretraining


def _window(settings: ConfigDict) -> int:
    return settings.prompt + settings.answer - 1


def build(config: ConfigDict) -> Task:
    """The policies on the text, or on the file of feedback, that the config names."""
    settings = config.data
    check_apart(settings, config.train.eval_split)
    train, test = rows_of(settings, settings.train), rows_of(settings, settings.test, most=settings.test_rows)
    validation = None
    if config.train.eval_split == "validation":
        validation = Arrays(rows_of(settings, settings.validation, most=settings.test_rows))
    objective = make_objective(config, make_network(config), pairs="good" in test)
    return Task(objective, train=Arrays(train), test=Arrays(test), resident=base_of(config), validation=validation)


# ------------------------------------------------------------------------------------------------------------- report


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """What each arm gains in margin and pays in cross-entropy; a thin line is its way over training."""
    drawing, (ax,) = report.new_figure(7.2, 4.6)
    plane = ("cross_entropy", "margin")
    base = next((arm for arm, result in results.items() if result.config.method.name == "base"), None)
    for arm, color in report.arm_colors(results).items():
        result = results[arm]
        (x, x_half), (y, y_half) = (_mean_and_half(result.metrics[name]) for name in plane)
        ax.errorbar(x, y, xerr=x_half, yerr=y_half, fmt="o", color=color, capsize=3, markersize=7, label=arm, zorder=3)
        if arm != base and all(name in result.history for name in plane):
            start = [[float(np.mean(results[base].metrics[name]))] if base else [] for name in plane]
            way = [[*s, *result.history[name][1].mean(axis=0)] for s, name in zip(start, plane, strict=True)]
            ax.plot(*way, ".-", color=color, linewidth=1.0, markersize=4, alpha=0.5)
    ax.set_xlabel(report.axis_label("cross_entropy", METRICS))
    ax.set_ylabel(report.axis_label("margin", METRICS))
    ax.legend(frameon=False, fontsize=9)
    ax.set_title("Margin gained and cross-entropy paid over training, from one base", loc="left", fontsize=11)
    return drawing


def _mean_and_half(values: np.ndarray) -> tuple[float, float]:
    mean, low, high = mean_interval(values)
    return float(mean), float(high - low) / 2
