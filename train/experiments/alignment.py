"""Post-training of a byte-level Transformer on answers that are marked desirable or undesirable.

The base model is pretrained on the text on the spot, once a process, and shared by all arms and seeds. An answer is
what follows a prompt: the desirable one is how the text goes on, the undesirable one the same bytes shuffled. No
document of the test split is in the training split.

A policy is trained in up to two stages, each with one of `LOSSES`; the model that a stage starts from is its reference.
`method.policies` lists one policy or several, which are trained side by side and then fused by `method.merge`:

    ()                the base as it is
    ("sft",)          one stage
    ("sft", "kto")    SFT for `method.first_steps` steps, then KTO with the SFT model as the reference

The feedback is unpaired: every other prompt of a batch comes with its desirable answer, the rest with undesirable ones.
"sft" imitates the desirable ones, "kto" learns from both.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ...core import masked, sequences
from ...methods.losses.alignment import kto
from .. import config as configs
from .. import data, plots
from ..data.sources import Arrays, check_seed
from ..loop import fit
from ..statistics import ArmResult, mean_interval
from ..types import ConfigDict
from . import language_model
from .base import Metric, Objective, Task, TwoPass

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "margin": Metric("margin of good over bad answers", "nats"),
    "cross_entropy": Metric("cross-entropy of good answers", "nats/byte"),
    "accuracy": Metric("pairs whose good answer is the likelier"),
}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`."""
    model = language_model.defaults().model
    model.pretraining = ConfigDict(dict(
        steps=1000,  # 0: the base is the untrained network
        batch_size=64,
        learning_rate=3e-3,  # of Adam, with a cosine decay
        seed=0,
    ))  # fmt: skip
    return ConfigDict(dict(
        data=dict(
            name="python_docs",  # or python_source, or a prepared TFDS name with a feature "text"
            prompt=16,  # bytes
            answer=16,  # bytes
            seed=0,  # of the shuffles
            test_rows=0,  # evenly spaced over the test split; 0: all
        ),
        model=model,
        method=dict(
            policies=(("sft",),),
            first_steps=0,  # length of the first stage of two
            merge="linear",  # or "slerp", "ties"
            merge_weights=(),  # one a policy, for "linear" and "ties"; (): equal
            merge_t=0.5,  # of "slerp": 0 is the first policy, 1 the second
            density=0.2,  # of "ties"
            beta=0.1,
            desirable_weight=1.0,
            undesirable_weight=1.0,
        ),
    ))  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- losses


class Feedback(NamedTuple):
    """Answers as a loss sees them. Logits are `[batch, time, vocab]`, aligned with the answers."""

    answers: jax.Array  # [batch, time]
    mismatched: jax.Array  # [batch, time], the answer of the next row of the whole batch
    logits: jax.Array  # of the policy, for `answers`
    fixed_policy: Callable[[jax.Array], jax.Array]  # other answers to the same prompts -> logits, without gradient
    reference: Callable[[jax.Array], jax.Array]  # the same of the model that the stage started from


class Loss(NamedTuple):
    """What an answer gives by itself, and what the whole batch makes of it."""

    of_answers: Callable[[Feedback], dict[str, jax.Array]]  # -> [batch] each
    of_batch: Callable[[dict[str, jax.Array], jax.Array, ConfigDict], tuple[jax.Array, dict[str, jax.Array]]]
    # (of_answers' values, desirable [batch], config.method) -> scalar, metrics


def _sft_answers(feedback: Feedback) -> dict[str, jax.Array]:
    return {"nats": kto.sft_loss(feedback.logits, feedback.answers)}


def _sft_batch(
    values: dict[str, jax.Array], desirable: jax.Array, method: ConfigDict
) -> tuple[jax.Array, dict[str, jax.Array]]:
    loss = masked.mean(values["nats"], desirable)
    return loss, {"sft_loss": loss}


def _kto_answers(feedback: Feedback) -> dict[str, jax.Array]:
    answers, mismatched = feedback.answers, feedback.mismatched
    ref_logps, mismatched_ref_logps = jax.vmap(  # both in one pass
        lambda rows: kto.sequence_logps(feedback.reference(rows), rows)
    )(jnp.stack([answers, mismatched]))
    return {
        "policy": kto.sequence_logps(feedback.logits, answers),
        "reference": ref_logps,
        "mismatched_policy": kto.sequence_logps(feedback.fixed_policy(mismatched), mismatched),
        "mismatched_reference": mismatched_ref_logps,
    }


def _kto_batch(
    values: dict[str, jax.Array], desirable: jax.Array, method: ConfigDict
) -> tuple[jax.Array, dict[str, jax.Array]]:
    reference_point = kto.kl_reference_point(values["mismatched_policy"], values["mismatched_reference"])
    losses = kto.kto_loss(
        values["policy"],
        values["reference"],
        desirable,
        reference_point,
        beta=method.beta,
        desirable_weight=method.desirable_weight,
        undesirable_weight=method.undesirable_weight,
    )
    loss = jnp.mean(losses)
    return loss, {"kto_loss": loss, "reference_point": reference_point}


LOSSES = {"sft": Loss(_sft_answers, _sft_batch), "kto": Loss(_kto_answers, _kto_batch)}


def _linear(base: Any, policies: Sequence[Any], method: ConfigDict) -> Any:
    return kto.linear_merge(policies, weights=method.merge_weights or None)


def _slerp(base: Any, policies: Sequence[Any], method: ConfigDict) -> Any:
    return kto.slerp_merge(*policies, t=method.merge_t)


def _ties(base: Any, policies: Sequence[Any], method: ConfigDict) -> Any:
    return kto.ties_merge(base, policies, weights=method.merge_weights or None, density=method.density)


MERGES: dict[str, Callable[[Any, Sequence[Any], ConfigDict], Any]] = {
    "linear": _linear,
    "slerp": _slerp,
    "ties": _ties,
}


# ------------------------------------------------------------------------------------------------------------ learning


def make_objective(config: ConfigDict, network: nn.Module, base: Any) -> Objective:
    """Trains `config.method.policies` from the parameters `base` of a causal `network`, tokens -> next-token logits.

    Batches are {"prompt", "good", "bad"}, uint8 `[batch, prompt or answer]`. Params are a tuple, one tree a policy; the
    variables hold the base and, for each policy of two stages, the reference of the second.
    """
    method = config.method
    _check_method(method)

    def logits_of(params, prompts, answers) -> jax.Array:
        tokens = jnp.concatenate([prompts, answers[:, :-1]], axis=1)
        logits = cast(jax.Array, network.apply(params, tokens))
        return logits[:, prompts.shape[1] - 1 :]  # the last byte of the prompt predicts the first of the answer

    def unpacked(batch):
        return (batch[name].astype(jnp.int32) for name in ("prompt", "good", "bad"))

    def init(key, batch):
        references = tuple(jax.tree.map(jnp.copy, base) if len(stages) == 2 else None for stages in method.policies)
        policies = tuple(jax.tree.map(jnp.copy, base) for _ in method.policies)
        return policies, {"step": jnp.zeros((), jnp.int32), "base": base, "references": references}

    def references_of(policies, variables):
        """The references of this step: where a second stage starts, the policies of this moment."""
        anew = variables["step"] == method.first_steps
        return tuple(
            None if old is None else jax.tree.map(lambda old, now: jnp.where(anew, now, old), old, now)
            for old, now in zip(variables["references"], jax.lax.stop_gradient(policies), strict=True)
        )

    def prepare(batch):
        prompts, good, bad = unpacked(batch)
        desirable = jnp.arange(len(prompts)) % 2 == 0  # every other row, so that each device has as many of both
        answers = jnp.where(desirable[:, None], good, bad)
        mismatched = jnp.roll(answers, -1, axis=0)
        return {"prompt": prompts, "answer": answers, "mismatched": mismatched, "desirable": desirable}

    def forward(policies, variables, batch, key):
        prompts, values = batch["prompt"], []
        references = references_of(policies, variables)
        for stages, policy, reference in zip(method.policies, policies, references, strict=True):
            feedback = Feedback(
                batch["answer"],
                batch["mismatched"],
                logits_of(policy, prompts, batch["answer"]),
                functools.partial(logits_of, jax.lax.stop_gradient(policy), prompts),
                functools.partial(logits_of, variables["base"] if reference is None else reference, prompts),
            )
            values.append({name: LOSSES[name].of_answers(feedback) for name in stages})
        return values

    def combine(values, policies, variables, batch, key):
        total, metrics = jnp.zeros(()), {}
        for stages, of_stage in zip(method.policies, values, strict=True):
            weights = (1.0,)
            if len(stages) == 2:
                weights = kto.two_stage_weights(variables["step"], sft_steps=method.first_steps)
            for name, weight in zip(stages, weights, strict=False):  # () has no stages
                value, extra = LOSSES[name].of_batch(of_stage[name], batch["desirable"], method)
                total += weight * value
                metrics |= extra
        references = references_of(policies, variables)
        after = {"step": variables["step"] + 1, "base": variables["base"], "references": references}
        return total, (after, metrics)

    def evaluate(policies, variables, batch, key):
        prompts, good, bad = unpacked(batch)
        model = policies[0] if len(policies) == 1 else MERGES[method.merge](variables["base"], policies, method)
        good_logps, bad_logps = jax.vmap(
            lambda answers: sequences.sequence_logps(logits_of(model, prompts, answers), answers)
        )(jnp.stack([good, bad]))
        margin = good_logps - bad_logps
        return {
            "margin": margin,
            "cross_entropy": -good_logps / good.shape[1],
            "accuracy": (margin > 0).astype(jnp.float32),
        }

    return Objective(init, TwoPass(forward, combine, prepare), evaluate)


def _check_method(method: ConfigDict) -> None:
    if not method.policies:
        raise ValueError("method.policies must hold at least one policy, got none.")
    for stages in method.policies:
        if isinstance(stages, str) or len(stages) > 2 or not set(stages) <= set(LOSSES):
            raise ValueError(f"method.policies must each be up to two of {tuple(LOSSES)}, got {stages!r}.")
    if method.merge not in MERGES:
        raise ValueError(f"method.merge must be one of {tuple(MERGES)}, got {method.merge!r}.")
    if method.merge == "slerp" and len(method.policies) > 2:
        raise ValueError(f'method.policies must be two where method.merge is "slerp", got {len(method.policies)}.')
    if method.first_steps < 0:
        raise ValueError(f"method.first_steps must be at least 0, got {method.first_steps}.")


def base_config(config: ConfigDict) -> ConfigDict:
    """The config of experiment `language_model` that makes the base."""
    model = config.model.to_dict()
    how = model.pop("pretraining")
    whole = configs.complete(ConfigDict(dict(
        experiment="language_model",
        seeds=(how["seed"],),
        data=dict(name=config.data.name, window=config.data.prompt + config.data.answer - 1),
        model=model,
        optimizer=dict(name="adam", learning_rate=how["learning_rate"], schedule="cosine"),
        train=dict(
            steps=max(how["steps"], 1),
            batch_size=how["batch_size"],
            eval_batch_size=8 * how["batch_size"],
            remat=config.train.remat,
        ),
        mesh=dict(data=config.mesh.data, model=config.mesh.model),
    )))  # fmt: skip
    return configs.resolve_arm(whole, "main")


def pretrained(config: ConfigDict) -> Any:
    """The parameters of the base, trained once a process."""
    base = base_config(config)
    if config.model.pretraining.steps < 0:
        raise ValueError(f"model.pretraining.steps must be at least 0, got {config.model.pretraining.steps}.")
    if config.model.pretraining.steps == 0:
        init = jax.jit(language_model.make_network(base).init)
        return init(jax.random.key(base.seeds[0]), jnp.zeros((1, base.data.window), jnp.int32))
    return _pretrained(configs.frozen(base))


@functools.lru_cache(maxsize=4)
def _pretrained(settings: str) -> Any:
    base = configs.thawed(settings)
    fitted = fit(language_model.build(base), base, base.seeds, progress=False)
    return jax.device_get(fitted.state.params)


def feedback(name: str, split: str, *, prompt: int, answer: int, seed: int, rows: int = 0) -> dict[str, np.ndarray]:
    """Prompts of a text with the answer that follows and the same bytes shuffled.

    Args:
        name: as for `data.windows`.
        split: "train" or "test".
        prompt: bytes a prompt.
        answer: bytes an answer.
        seed: of the shuffles.
        rows: take that many, evenly spaced, of a split that has more; 0 takes all.

    Returns:
        "prompt", "good", "bad": uint8 `[n, prompt or answer]`.
    """
    for size_name, size in (("data.prompt", prompt), ("data.answer", answer)):
        if size < 1:
            raise ValueError(f"{size_name} must be at least 1, got {size}.")
    check_seed("data.seed", seed)
    if rows < 0:
        raise ValueError(f"data.test_rows must be at least 0, got {rows}.")
    tokens = data.windows(name, split, prompt + answer)["tokens"]
    if 0 < rows < len(tokens):
        tokens = tokens[np.linspace(0, len(tokens) - 1, rows).astype(int)]
    good = tokens[:, prompt:]
    return {"prompt": tokens[:, :prompt], "good": good, "bad": np.random.default_rng(seed).permuted(good, axis=1)}


def build(config: ConfigDict) -> Task:
    """The policies on the text that the config names."""
    settings = config.data
    make = functools.partial(
        feedback, settings.name, prompt=settings.prompt, answer=settings.answer, seed=settings.seed
    )
    network = language_model.make_network(base_config(config))
    objective = make_objective(config, network, pretrained(config))
    return Task(objective, train=Arrays(make("train")), test=Arrays(make("test", rows=settings.test_rows)))


# ------------------------------------------------------------------------------------------------------------- report


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """What each arm gains in margin and pays in cross-entropy; a thin line is its way over training."""
    drawing, (ax,) = plots.new_figure(7.2, 4.6)
    plane = ("cross_entropy", "margin")
    base = next((arm for arm in results if config.arms[arm].get("policies") == ((),)), None)
    for arm, color in plots.arm_colors(results).items():
        result = results[arm]
        (x, x_half), (y, y_half) = (_mean_and_half(result.metrics[name]) for name in plane)
        ax.errorbar(x, y, xerr=x_half, yerr=y_half, fmt="o", color=color, capsize=3, markersize=7, label=arm, zorder=3)
        if arm != base and all(name in result.history for name in plane):
            start = [[float(np.mean(results[base].metrics[name]))] if base else [] for name in plane]
            way = [[*s, *result.history[name][1].mean(axis=0)] for s, name in zip(start, plane, strict=True)]
            ax.plot(*way, ".-", color=color, linewidth=1.0, markersize=4, alpha=0.5)
    ax.set_xlabel(plots.axis_label("cross_entropy", METRICS))
    ax.set_ylabel(plots.axis_label("margin", METRICS))
    ax.legend(frameon=False, fontsize=9)
    ax.set_title("Margin gained and cross-entropy paid over training, from one base", loc="left", fontsize=11)
    plots.write_claim(drawing, config, results, METRICS)
    return drawing


def _mean_and_half(values: np.ndarray) -> tuple[float, float]:
    mean, low, high = mean_interval(values)
    return float(mean), float(high - low) / 2
