"""Federated classification: clients of unlike data train one network in rounds, and every byte sent is counted.

One engine step is one round. `train.batch_size` clients, drawn from all `data.clients` without replacement, take
`method.local_steps` steps on minibatches of their own, and the server combines what they send. Clients are the axis
that is vmapped on one device and split over mesh axis `data` on several.

The training split is dealt to the clients by `data.clients.dirichlet_split` (label skew), or evenly at random. Of
`data.partitions` such deals each seed takes one, so that intervals over seeds cover the luck of the deal. A
client without data takes part with weight 0; one that lacks a class needs nothing special.

`method.algorithm` is "mvr", or one of the algorithms of `lemmata.core.federated`. With `method.bits` the clients of
"fedavg" send their weights as bit-packed codes, unpacked and averaged at the server, and what is counted is the length
of the packed arrays.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...core import bits as packing
from ...core import federated, local_steps, trees
from ...core.networks.batch import split_batch
from ...methods.quantizers import clipped_uniform
from ...methods.transforms import federated_mvr
from .. import data, plots
from ..data.clients import Dealt, deals, load_flat
from ..data.sources import Arrays, Resident, Sampler
from ..statistics import ArmResult, mean_interval
from ..types import ConfigDict
from .base import Metric, Procedure, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODELS_SENT = {"fedavg": (1, 1), "fedadam": (1, 1), "scaffold": (2, 2), "mime": (3, 2), "mvr": (3, 2)}  # down, up
CHOICES = {
    "algorithm": federated.ALGORITHMS,
    "clip": ("optimal", "max"),
    "rounding": ("stochastic", "nearest"),
    "weighting": ("data", "inverse_mse"),
}

METRICS = {
    "accuracy": Metric("test accuracy"),
    "loss": Metric("cross-entropy", "nats"),
    "rounds_to_target": Metric("rounds to the target accuracy", "rounds"),
    "grad_norm2": Metric("|grad f|² of the training objective"),
    "uplink": Metric("sent up, all clients", "MB"),
    "downlink": Metric("sent down, all clients", "MB"),
}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`; the clients of a round are `train.batch_size`."""
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
        method=dict(
            algorithm="fedavg",
            local_steps=10,
            local_batch=16,
            learning_rate=0.2,  # of local steps; mvr has step_scale, offset and momentum_scale
            step_scale=0.2,
            offset=1.0,
            momentum_scale=3.0,
            mime_momentum=0.9,
            adaptive=False,  # mvr: an adaptive server, as fedadam has
            server_learning_rate=0.1,  # of the adaptive server, as are b1, b2 and tau
            b1=0.9,
            b2=0.99,
            tau=1e-3,
            target=0.85,  # test accuracy that rounds are counted to
            bits=(),  # of what clients send up: () float32, (4,) all alike, (2, 4, 8) in turn
            clip="optimal",
            rounding="stochastic",
            weighting="data",
        ),
    ))  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- model


def init_network(key: jax.Array, widths: tuple[int, ...], scale: float) -> list[dict[str, jax.Array]]:
    """A perceptron's layers: normal weights of that standard deviation and zero biases."""
    sizes = list(itertools.pairwise(widths))
    ends = np.cumsum([fan_in * fan_out for fan_in, fan_out in sizes])
    draws = jnp.split(scale * jax.random.normal(key, (ends[-1],)), ends[:-1])  # one draw compiles faster than many
    return [
        {"kernel": draw.reshape(shape), "bias": jnp.zeros(shape[1])} for draw, shape in zip(draws, sizes, strict=True)
    ]


def logits_of(params: list[dict[str, jax.Array]], inputs: jax.Array) -> jax.Array:
    """Logits `[batch, classes]`. Written out: `core.networks.mlp` pins the batch of each client to the mesh, and here
    it is the clients that are split.
    """
    hidden = inputs
    for layer in params[:-1]:
        hidden = jax.nn.relu(hidden @ layer["kernel"] + layer["bias"])
    return hidden @ params[-1]["kernel"] + params[-1]["bias"]


def mean_loss(params: Any, batch: Any) -> jax.Array:
    """Mean cross-entropy of a batch, in nats."""
    logits = logits_of(params, batch["inputs"])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))


grad_fn = jax.grad(mean_loss)  # one object: local loops are compiled for the function that they are given


def accuracy_of(params: Any, batch: Any) -> jax.Array:
    """`[batch]`, 1 where the most probable class is right."""
    return (jnp.argmax(logits_of(params, batch["inputs"]), axis=-1) == batch["label"]).astype(jnp.float32)


# -------------------------------------------------------------------------------------------------------------- uplink


def quantized_uplink(
    models: Any, weights: jax.Array, widths: jax.Array, *, key: jax.Array, method: ConfigDict
) -> tuple[Any, jax.Array]:
    """What the server makes of the clients' models when these travel as packed codes, and the bytes that they took.

    A client sends, for each layer, its codes in its own number of bits, the clip (4 bytes) and, where the server weighs
    by it, the mean squared error (4 bytes). A client of weight 0 has nothing to say and sends nothing. An infinite
    entry travels as the last code at its end; a NaN has no code, and makes the clip of its layer NaN.

    Args:
        models: tree with leaves `[clients, ...]`.
        weights: `[clients]` by data, summing to 1.
        widths: `[clients]` int, bits of each client; values of `method.bits`.
        key: for stochastic rounding.
        method: `bits`, `clip`, `rounding` and `weighting` are read.

    Returns:
        `(tree without the clients' axis, [clients] bytes)`.
    """
    leaves, tree = jax.tree.flatten(models)
    stochastic = method.rounding == "stochastic"
    present = weights > 0

    def of_layer(x, width, uniform):
        """One client's layer as the server receives it, its error, and its bytes."""
        if method.clip == "max":
            finite = jnp.isfinite(x)
            clip = jnp.where(jnp.any(finite), jnp.max(jnp.where(finite, jnp.abs(x), 0.0)), jnp.nan)
        else:
            clip = clipped_uniform.optimal_clip(x, bits=width, stochastic=stochastic)
        clip = jnp.where(jnp.any(jnp.isnan(x)), jnp.nan, clip)
        if stochastic:
            codes, values = clipped_uniform.stochastic_quantize(x, clip, uniform.reshape(x.shape), bits=width)
        else:
            codes, values = clipped_uniform.quantize(x, clip, bits=width)
        received, size = jnp.zeros(x.size, jnp.int32), jnp.zeros((), jnp.int32)
        for bits in sorted(set(method.bits)):  # a packed array has a fixed length, so each width has its own
            packed = packing.pack_bits(codes, bits=bits)
            unpacked = packing.unpack_bits(packed, bits=bits, size=x.size)
            received = jnp.where(width == bits, unpacked, received)
            size = jnp.where(width == bits, packed.nbytes, size)
        value = received.reshape(x.shape) / jnp.left_shift(1, width - 1).astype(x.dtype) * clip
        size += clip.nbytes + (4 if method.weighting == "inverse_mse" else 0)
        return value, jnp.mean(jnp.square(values - x)), size

    ends = np.cumsum([leaf[0].size for leaf in leaves])
    uniform = jnp.split(jax.random.uniform(key, (len(widths), ends[-1])), ends[:-1], axis=1)
    sent = [jax.vmap(of_layer)(leaf, widths, draws) for leaf, draws in zip(leaves, uniform, strict=True)]
    values, errors, sizes = (list(parts) for parts in zip(*sent, strict=True))
    if method.weighting == "inverse_mse":
        errors = jnp.where(present[:, None], jnp.stack(errors, axis=1), jnp.inf)
        by_layer = clipped_uniform.inverse_mse_weights(errors)
    else:
        by_layer = jnp.broadcast_to(weights[:, None], (len(weights), len(leaves)))
    server = clipped_uniform.aggregate(tree.unflatten(values), by_layer)
    return server, jnp.where(present, sum(sizes), 0)


# -------------------------------------------------------------------------------------------------------------- rounds


def make_round(config: ConfigDict) -> Any:
    """`(state, batches, weights, clients, key) -> (state, bytes up of each client)` of the arm's algorithm."""
    method = config.method
    for name, known in CHOICES.items():
        if method[name] not in known:
            raise ValueError(f"method.{name} must be one of {known}, got {method[name]!r}.")
    if not all(
        isinstance(width, int) and not isinstance(width, bool) and 1 <= width <= clipped_uniform.MAX_BITS
        for width in method.bits
    ):
        raise ValueError(f"method.bits must be integers from 1 to {clipped_uniform.MAX_BITS}, got {method.bits}.")
    if method.bits and method.algorithm != "fedavg":
        raise ValueError(f'method.bits must be () but with algorithm "fedavg", got {method.bits}.')
    if method.weighting != "data" and not method.bits:
        raise ValueError(f'method.weighting must be "data" where nothing is quantized, got {method.weighting!r}.')
    server = dict(b1=method.b1, b2=method.b2, tau=method.tau)
    local = dict(grad_fn=grad_fn, learning_rate=method.learning_rate)
    plain = {
        "fedavg": functools.partial(federated.fedavg_round, **local),
        "fedadam": functools.partial(
            federated.fedadam_round, **local, server_learning_rate=method.server_learning_rate, **server
        ),
        "scaffold": functools.partial(federated.scaffold_round, **local),
        "mime": functools.partial(federated.mime_round, **local, momentum=method.mime_momentum),
        "mvr": functools.partial(
            federated_mvr.mvr_round,
            grad_fn=grad_fn,
            step_scale=method.step_scale,
            offset=method.offset,
            momentum_scale=method.momentum_scale,
            learning_rate=method.server_learning_rate,
            **server,
        ),
    }[method.algorithm]

    def quantized(state, batches, weights, clients, key):
        models = local_steps.local_sgd(state.params, batches, **local)
        widths = jnp.asarray(method.bits)[clients % len(method.bits)]
        params, sizes = quantized_uplink(models, weights, widths, key=key, method=method)
        return state._replace(params=params), sizes

    def whole(state, batches, weights, clients, key):
        further = {"clients": clients} if method.algorithm == "scaffold" else {}
        size = MODELS_SENT[method.algorithm][1] * trees.size_in_bytes(state.params)
        return plain(state, batches, weights=weights, **further), jnp.where(weights > 0, size, 0)

    return quantized if method.bits else whole


def make_procedure(config: ConfigDict) -> Procedure:
    """Rounds; batches are the numbers `[clients of the round]` of the clients that take part, beside a `Dealt`."""
    method, clients = config.method, config.data.clients
    for name in ("local_steps", "local_batch"):
        if method[name] < 1:
            raise ValueError(f"method.{name} must be at least 1, got {method[name]}.")
    run_round = make_round(config)
    classes = data.info(config.data.name).num_classes
    assert classes is not None  # load_flat has refused a set without classes
    down, _ = MODELS_SENT[method.algorithm]

    def draw(dealt, partition, taking_part, key, steps):
        """Minibatches `[clients, steps, batch, ...]`, drawn with replacement, and the clients' weights by data."""
        count = dealt.counts[partition, taking_part]
        drawn = jax.random.uniform(key, (len(taking_part), steps, method.local_batch))
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
        direction, sent = None, 0
        if method.algorithm == "mvr":  # the mean gradient of one minibatch of every client
            batches, weights = draw(dealt, partition, jnp.arange(clients), batch_key, 1)
            own = local_steps.gradients(params, batches, grad_fn=grad_fn)
            direction, sent = trees.weighted_sum(own, weights), clients * trees.size_in_bytes(params)
        state = federated.init_federated(
            params, algorithm=method.algorithm, adaptive=method.adaptive, num_clients=clients, direction=direction
        )
        return params, {
            "server": state._replace(params=None),
            "partition": partition,
            "round": jnp.zeros((), jnp.int32),
            "reached": jnp.asarray(config.train.steps + 1, jnp.int32),  # the first round at the target accuracy
            "bytes_up": jnp.asarray(sent, jnp.float32),
            "bytes_down": jnp.asarray(sent, jnp.float32),
        }

    def update(params, variables, batch: Resident, key):
        taking_part, dealt = batch
        batch_key, round_key = jax.random.split(key)
        batches, weights = draw(dealt, variables["partition"], taking_part, batch_key, method.local_steps)
        state = variables["server"]._replace(params=params)
        after, sizes = run_round(state, batches, weights, taking_part, round_key)
        anyone = jnp.any(weights > 0)
        state = jax.tree.map(lambda new, old: jnp.where(anyone, new, old), after, state)
        round_number = variables["round"] + 1
        accuracy = jnp.mean(accuracy_of(state.params, dealt.test))
        reached = jnp.where(accuracy >= method.target, round_number, config.train.steps + 1)
        sent_down = len(taking_part) * down * trees.size_in_bytes(params)
        variables = variables | {
            "server": state._replace(params=None),
            "round": round_number,
            "reached": jnp.minimum(variables["reached"], reached),
            "bytes_up": variables["bytes_up"] + jnp.sum(sizes),
            "bytes_down": variables["bytes_down"] + sent_down,
        }
        return state.params, variables, {"accuracy": accuracy, "without_data": jnp.mean(weights == 0)}

    def evaluate(params, variables, batch: Resident, key):
        test, dealt = batch
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


def build(config: ConfigDict) -> Task:
    """The federation on the data set that the config names."""
    clients, taking_part = config.data.clients, config.train.batch_size
    if clients < 1:
        raise ValueError(f"data.clients must be at least 1, got {clients}.")
    if taking_part > clients:
        raise ValueError(f"train.batch_size, the clients of a round, must be at most {clients}, got {taking_part}.")
    train, test = (load_flat(config.data.name, split) for split in ("train", "test"))

    def sample(key, n):
        return jax.random.permutation(key, clients)[:n]

    resident = Dealt(train, test, *deals(train["label"], config.data))
    return Task(make_procedure(config), train=Sampler(sample), test=Arrays(test), resident=resident)


# -------------------------------------------------------------------------------------------------------------- figure


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """Where clients quantize: accuracy against what they sent. Else: accuracy and gradient norm, round by round."""
    quantizes = any(config.arms[arm].get("bits", config.method.bits) for arm in results)
    drawing = (_draw_uplink if quantizes else _draw_rounds)(config, results)
    plots.write_claim(drawing, config, results, METRICS)
    return drawing


def _draw_uplink(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    drawing, (ax,) = plots.new_figure(8.0, 4.8)
    taken: list[float] = []
    for index, (arm, color) in enumerate(plots.arm_colors(results).items()):
        sent = results[arm].metrics["uplink"].mean()
        beside = sent * 1.03 ** sum(abs(sent / other - 1) < 0.05 for other in taken)  # where others sent as much
        taken.append(sent)
        mean, low, high = mean_interval(results[arm].metrics["accuracy"])
        marker = "os^v"[index // len(plots.COLORS) % 4]
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
    ax.set_xlabel(plots.axis_label("uplink", METRICS))
    ax.set_ylabel(plots.axis_label("accuracy", METRICS))
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    ax.set_title("Accuracy against what the clients sent (equal amounts side by side)", loc="left", fontsize=11)
    return drawing


def _draw_rounds(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for ax, name in ((left, "accuracy"), (right, "grad_norm2")):
        for arm, color in plots.arm_colors(results).items():
            rounds, values = results[arm].history[name]
            mean, low, high = mean_interval(values)
            ax.plot(rounds, mean, color=color, linewidth=1.8, label=arm)
            if name == "accuracy":  # the intervals of the other reach below 0, where a logarithm has no place
                ax.fill_between(rounds, low, high, color=color, alpha=0.15, linewidth=0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        ax.set_xlabel("round")
        ax.set_ylabel(plots.axis_label(name, METRICS))
    right.set_yscale("log")
    left.axhline(config.method.target, color=plots.GREY, linewidth=1.0, linestyle=(0, (5, 3)), label="target")
    left.set_ylim(bottom=0.0)
    left.legend(frameon=False, fontsize=9, loc="lower right")
    drawing.suptitle(plots.title("Rounds of federated training", config, results), fontsize=11)
    return drawing
