"""Federated classification: clients of unlike data train one network in rounds, and every byte sent is counted.

One engine step is one round. `train.batch_size` clients, drawn from all `data.clients` without replacement, take
`protocol.local_steps` steps on minibatches of their own, and the server combines what they send. Clients are the axis
that is vmapped on one device and split over mesh axis `data` on several.

The training split is dealt to the clients by `_clients.dirichlet_split` (label skew), or evenly at random. Of
`data.partitions` such deals each seed takes one, so that intervals over seeds cover the luck of the deal. A
client without data takes part with weight 0; one that lacks a class needs nothing special.

A method is a function `(problem: Problem, *, settings) -> Algorithm`. What its clients send, whole models or packed
codes, it counts itself; where they send codes, the server reads what was unpacked.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from ....core import trees
from ....core.local_steps import GradFn
from ....core.networks.batch import split_batch
from ... import data, experiments
from ...engine.settings import check_whole
from ...engine.sources import Arrays, Resident, Sampler
from ...engine.task import Metric, Procedure, Task
from ...engine.types import ConfigDict
from .. import report
from ..report import ArmResult, mean_interval
from ._clients import Dealt, deals, dirichlet_split, iid_split, load_flat
from ._network import accuracy_of, grad_fn, init_network, logits_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "METRICS",
    "SMALL",
    "Algorithm",
    "Dealt",
    "Problem",
    "Round",
    "Sent",
    "accuracy_of",
    "build",
    "deals",
    "defaults",
    "dirichlet_split",
    "figure",
    "grad_fn",
    "iid_split",
    "init_network",
    "load_flat",
    "logits_of",
    "make_procedure",
]

Params = Any
Carried = Any

METRICS = {
    "accuracy": Metric("test accuracy"),
    "loss": Metric("cross-entropy", "nats"),
    "rounds_to_target": Metric("rounds to the target accuracy", "rounds"),
    "grad_norm2": Metric("|grad f|² of the training objective"),
    "uplink": Metric("sent up, all clients", "MB"),
    "downlink": Metric("sent down, all clients", "MB"),
}

SMALL = {"data.partitions": 2, "protocol.local_steps": 2, "protocol.local_batch": 4}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `protocol`; the clients of a round are `train.batch_size`."""
    return ConfigDict(dict(
        data=dict(
            name="digits",  # any set with a class label and images or rows of features
            clients=20,
            split="dirichlet",  # or "iid"
            concentration=0.1,  # of the Dirichlet: the smaller, the fewer classes a client has
            partitions=16,  # deals of the data to the clients; a seed takes one
            partition_seed=0,
        ),
        model=dict(
            hidden=(64,),
            init_scale=0.15,  # standard deviation of the initial weights
        ),
        protocol=dict(
            local_steps=10,  # of a client in a round
            local_batch=16,  # examples of a step
            target=0.85,  # test accuracy that rounds are counted to
        ),
    ))  # fmt: skip


# ------------------------------------------------------------------------------------------- what a method is made of


class Problem(NamedTuple):
    """What an algorithm is built for."""

    grad_fn: GradFn  # (params, minibatch) -> gradient of its mean loss; always the same object
    num_clients: int  # of the federation, whether they take part in a round or not


class Round(NamedTuple):
    """What the clients that take part in a round see."""

    batches: Any  # leaves [clients, local steps, batch, ...]
    weights: jax.Array  # [clients] by how much data they have, summing to 1; one without data has 0, and nothing to say
    clients: jax.Array  # [clients] int, which of all clients these are
    key: jax.Array


class Sent(NamedTuple):
    """Bytes that travelled, of each client of a round; one number where all sent alike."""

    up: ArrayLike  # [clients] or []
    down: ArrayLike  # [clients] or []


class Algorithm(NamedTuple):
    """A federated algorithm: what server and clients carry from round to round beside the server's parameters.

    It is a tree of arrays, () where there is nothing. Leaves with an axis of all clients, indexed by
    `Round.clients`, are what each client keeps for itself.
    """

    init: Callable[[Params, Round], tuple[Carried, Sent]]
    # (x_0, one minibatch of every client) -> what is carried, and what was sent to have it
    round: Callable[[Params, Carried, Round], tuple[Params, Carried, Sent]]
    packed: bool = False  # clients send codes; the figure is then accuracy against what was sent


# -------------------------------------------------------------------------------------------------------------- rounds


def make_procedure(config: ConfigDict) -> Procedure:
    """Rounds; batches are the numbers `[clients of the round]` of the clients that take part, beside a `Dealt`."""
    protocol, clients = config.protocol, config.data.clients
    for name in ("local_steps", "local_batch"):
        check_whole(f"protocol.{name}", protocol[name], 1)
    algorithm = _algorithm(config)
    classes = data.info(config.data.name).num_classes
    assert classes is not None  # load_flat has refused a set without classes

    def draw(dealt, partition, taking_part, key, steps):
        """Minibatches `[clients, steps, batch, ...]`, drawn with replacement, and the clients' weights by data."""
        count = dealt.counts[partition, taking_part]
        drawn = jax.random.uniform(key, (len(taking_part), steps, protocol.local_batch))
        own = count[:, None, None]
        places = jnp.clip((drawn * own).astype(jnp.int32), 0, jnp.maximum(own - 1, 0))
        chosen = dealt.rows[partition, taking_part[:, None, None], places]
        batches = jax.tree.map(lambda x: split_batch(x[chosen]), dealt.train)
        return batches, count / jnp.maximum(jnp.sum(count), 1)

    def init(key: jax.Array, batch: Resident):
        dealt: Dealt = batch.arrays
        widths = (dealt.train["inputs"].shape[1], *config.model.hidden, classes)
        network_key, partition_key, batch_key = jax.random.split(key, 3)
        params = init_network(network_key, widths, config.model.init_scale)
        partition = jax.random.randint(partition_key, (), 0, len(dealt.rows))
        everyone = jnp.arange(clients)
        batches, weights = draw(dealt, partition, everyone, batch_key, 1)
        first = Round(batches, weights, everyone, jax.random.fold_in(batch_key, 0))
        carried, sent = algorithm.init(params, first)
        return params, {
            "server": carried,
            "partition": partition,
            "round": jnp.zeros((), jnp.int32),
            "reached": jnp.asarray(config.train.steps + 1, jnp.int32),  # the first round at the target accuracy
            "bytes_up": _total(sent.up, clients),
            "bytes_down": _total(sent.down, clients),
        }

    def update(params, variables, batch: Resident, key):
        taking_part, dealt = batch.batch, batch.arrays
        batch_key, round_key = jax.random.split(key)
        batches, weights = draw(dealt, variables["partition"], taking_part, batch_key, protocol.local_steps)
        before = params, variables["server"]
        *after, sent = algorithm.round(*before, Round(batches, weights, taking_part, round_key))
        trees.check_like("what came in", before, **{f"method {config.method.name!r}: params and state": tuple(after)})
        anyone = jnp.any(weights > 0)
        params, carried = jax.tree.map(lambda new, old: jnp.where(anyone, new, old), tuple(after), before)
        round_number = variables["round"] + 1
        accuracy = jnp.mean(accuracy_of(params, dealt.test))
        reached = jnp.where(accuracy >= protocol.target, round_number, config.train.steps + 1)
        variables = variables | {
            "server": carried,
            "round": round_number,
            "reached": jnp.minimum(variables["reached"], reached),
            "bytes_up": variables["bytes_up"] + _total(sent.up, len(taking_part)),
            "bytes_down": variables["bytes_down"] + _total(sent.down, len(taking_part)),
        }
        return params, variables, {"accuracy": accuracy, "without_data": jnp.mean(weights == 0)}

    def evaluate(params, variables, batch: Resident, key):
        test, dealt = batch.batch, batch.arrays
        gradient = grad_fn(params, dealt.train)  # sum_i n_i / N f_i is the loss over all data
        logits = logits_of(params, test["inputs"])
        return {
            "loss": optax.softmax_cross_entropy_with_integer_labels(logits, test["label"]),
            "accuracy": accuracy_of(params, test),
            "rounds_to_target": variables["reached"].astype(jnp.float32),
            "grad_norm2": jnp.square(optax.tree.norm(gradient)),
            "uplink": variables["bytes_up"] / 1e6,
            "downlink": variables["bytes_down"] / 1e6,
        }

    return Procedure(init, update, evaluate)


def _algorithm(config: ConfigDict) -> Algorithm:
    return experiments.get(config.experiment).bound(config.method)(Problem(grad_fn, config.data.clients))


def _total(sent: ArrayLike, clients: int) -> jax.Array:
    return jnp.sum(jnp.broadcast_to(jnp.asarray(sent, jnp.float32), (clients,)))


def build(config: ConfigDict) -> Task:
    """The federation on the data set that the config names."""
    clients, taking_part = config.data.clients, config.train.batch_size
    if clients < 1:
        raise ValueError(f"data.clients must be at least 1, got {clients}.")
    if taking_part > clients:
        raise ValueError(f"train.batch_size, the clients of a round, must be at most {clients}, got {taking_part}.")
    train, test = (load_flat(config.data.name, split) for split in ("train+validation", "test"))

    def sample(key, n):
        return jax.random.permutation(key, clients)[:n]

    resident = Dealt(train, test, *deals(train["label"], config.data))
    return Task(make_procedure(config), train=Sampler(sample), test=Arrays(test), resident=resident)


# -------------------------------------------------------------------------------------------------------------- figure


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """Where clients send codes: accuracy against what they sent. Else: accuracy and gradient norm, round by round."""
    packed = any(_algorithm(result.config).packed for result in results.values())
    return (_draw_uplink if packed else _draw_rounds)(config, results)


def _draw_uplink(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    drawing, (ax,) = report.new_figure(8.0, 4.8)
    taken: list[float] = []
    for index, (arm, color) in enumerate(report.arm_colors(results).items()):
        sent = results[arm].metrics["uplink"].mean()
        beside = sent * 1.03 ** sum(abs(sent / other - 1) < 0.05 for other in taken)  # where others sent as much
        taken.append(sent)
        mean, low, high = mean_interval(results[arm].metrics["accuracy"])
        marker = "os^v"[index // len(report.COLORS) % 4]
        ax.errorbar(
            beside,
            mean,
            yerr=[[mean - low], [high - mean]],
            fmt=marker,
            color=color,
            capsize=3,
            markersize=6,
            label=arm,
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("{x:.1g}")
    ax.set_xlabel(report.axis_label("uplink", METRICS))
    ax.set_ylabel(report.axis_label("accuracy", METRICS))
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    ax.set_title("Accuracy against what the clients sent (equal amounts side by side)", loc="left", fontsize=11)
    return drawing


def _draw_rounds(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for ax, name in ((left, "accuracy"), (right, "grad_norm2")):
        for arm, color in report.arm_colors(results).items():
            rounds, values = results[arm].history[name]
            mean, low, high = mean_interval(values)
            ax.plot(rounds, mean, color=color, linewidth=1.8, label=arm)
            if name == "accuracy":  # the intervals of the other reach below 0, where a logarithm has no place
                ax.fill_between(rounds, low, high, color=color, alpha=0.15, linewidth=0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        ax.set_xlabel("round")
        ax.set_ylabel(report.axis_label(name, METRICS))
    right.set_yscale("log")
    left.axhline(config.protocol.target, color=report.GREY, linewidth=1.0, linestyle=(0, (5, 3)), label="target")
    left.set_ylim(bottom=0.0)
    left.legend(frameon=False, fontsize=9, loc="lower right")
    drawing.suptitle(report.title("Rounds of federated training", config, results), fontsize=11)
    return drawing
