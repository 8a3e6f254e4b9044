"""The byte-level language model: a Transformer that predicts each byte of a text from those before it.

A sequence is `window` + 1 bytes: all but the last are read, all but the first predicted.

    base = language.pretrained("python_docs", window=64, model=dict(num_layers=2), pretraining=dict(steps=600))
    network = language.make_network(dict(num_layers=2), window=64)
    logits = network.apply(base.make(), tokens)                       # trained at the first call, read from then on
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ...core.networks.transformer import Transformer
from .. import data
from ..engine import config as configs
from ..engine import losses
from ..engine.hooks import Hooks
from ..engine.hooks import make_objective as hooked_objective
from ..engine.hooks import split as split_params
from ..engine.settings import check_seed, check_whole
from ..engine.sources import Arrays, Deferred
from ..engine.task import Objective, Task
from ..engine.types import ConfigDict
from .store import sha256, trained

VOCABULARY = 256  # bytes
VERSION = 1  # of the numbers that a pretraining gives; raise it when the code below, or the network's, changes them


class Text(NamedTuple):
    """Sequences as a loss sees them."""

    tokens: jax.Array  # [batch, time] int32, what is read
    targets: jax.Array  # [batch, time] int32, the byte that follows each
    key: jax.Array  # PRNG key of the step
    predict: Callable[[], jax.Array]  # the network at work; asked twice, it works once

    @property
    def logits(self) -> jax.Array:
        """`[batch, time, vocabulary]` float32, of the targets."""
        return self.predict()


def defaults() -> ConfigDict:
    """Every key of `model`."""
    return ConfigDict(dict(
        num_layers=4,
        num_heads=4,
        model_dim=128,
        mlp_dim=512,
        positions="rotary",  # or "learned"
        tie_embeddings=False,
    ))  # fmt: skip


def pretraining_defaults() -> ConfigDict:
    """Every key of `model.pretraining`."""
    return ConfigDict(dict(
        steps=1000,  # 0: the base is the untrained network
        batch_size=64,
        learning_rate=3e-3,  # of Adam, with a cosine decay
        seed=0,
    ))  # fmt: skip


def make_network(model: Mapping[str, Any] | ConfigDict, window: int, *, remat: str = "none") -> Transformer:
    """The Transformer that a `model` section describes, for contexts of `window` bytes.

    Args:
        model: some keys of `defaults`; the others have their values there.
        window: longest context.
        remat: what its blocks recompute in the backward pass, as `train.remat`.

    Raises:
        ValueError: an unknown key, or a window that is not positive.
    """
    check_whole("data.window", window, 1)
    return Transformer(VOCABULARY, max_length=window, remat=remat, **_completed(defaults(), model, "model."))


def next_byte_nats(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of each prediction, in nats.

    Args:
        logits: `[batch, time, vocabulary]` float.
        targets: `[batch, time]` int.

    Returns:
        `[batch, time]` float32.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def make_objective(network: nn.Module, method: Hooks | Callable[[Text], Any] | None = None) -> Objective:
    """Next-byte prediction on batches {"tokens": uint8 `[batch, window + 1]`}.

    Args:
        network: tokens `[batch, time]` -> logits `[batch, time, vocabulary]`.
        method: what is minimised, `Text` -> losses `[batch]` or `[batch, time]`, of which the mean is taken, or
            `(losses, metrics)`, or a `losses.Coupled`; or `Hooks` with such a loss. None: cross-entropy.

    Returns:
        An objective that is evaluated by cross-entropy and accuracy, whatever is minimised.

    Raises:
        ValueError: hooks that say how wide the outputs are.
    """
    parts = method if isinstance(method, Hooks) else Hooks(method or _cross_entropy)
    if parts.outputs is not None:
        raise ValueError(
            f"Hooks.outputs must be None for a language model, whose vocabulary is fixed: {parts.outputs}."
        )

    def see(params: Any, batch: Any, key: jax.Array) -> Text:
        tokens = batch["tokens"].astype(jnp.int32)
        read, predicted = tokens[:, :-1], tokens[:, 1:]
        return Text(read, predicted, key, functools.cache(lambda: cast(jax.Array, network.apply(params, read))))

    def scores(logits: jax.Array, targets: jax.Array, axis: int | None) -> dict[str, jax.Array]:
        nats = jnp.mean(next_byte_nats(logits, targets), axis=axis)
        correct = jnp.mean(jnp.argmax(logits, -1) == targets, axis=axis)
        return {"loss": nats, "bits_per_byte": nats / math.log(2), "accuracy": correct}

    def init(key, batch):
        return network.init(key, batch["tokens"][:1, :-1].astype(jnp.int32))

    def loss(params, variables, batch, key):
        text = see(params, batch, key)
        value, metrics = losses.of_batch(losses.of_each(parts.loss(text), len(text.tokens)), lambda: None)
        return value, (variables, scores(text.logits, text.targets, None) | metrics)

    def evaluate(params, held, batch, key):
        own = split_params(parts, params, held)
        text = see(own.network, batch, key)
        logits = text.logits if parts.predict is None else parts.predict(text.logits, *own.own)
        return scores(logits, text.targets, 1)

    if parts._replace(predict=None) == Hooks(parts.loss) and not _couples(parts.loss):
        return Objective(lambda key, batch: (init(key, batch), {}), loss, evaluate, couples=False)
    return hooked_objective(parts, init=init, see=see, evaluate=evaluate)


def pretrained(
    name: str,
    window: int,
    model: Mapping[str, Any] | ConfigDict,
    pretraining: Mapping[str, Any] | ConfigDict,
    *,
    split: str = "train",
    remat: str = "none",
    mesh: Mapping[str, Any] | ConfigDict | None = None,
) -> Deferred:
    """The parameters of the language model of a text, trained once and kept (`models.kept`).

    Args:
        name: as for `data.windows`; the bytes that are read are part of what it is kept by.
        window: longest context.
        model: some keys of `defaults`.
        pretraining: some keys of `pretraining_defaults`.
        split: what is read.
        remat: as `train.remat`.
        mesh: as `config.mesh`, of the training.

    Raises:
        ValueError: a key or a value outside its range; when it is made, what `data.windows` and `fit` raise.
    """
    model, how = _completed(defaults(), model, "model."), _completed(pretraining_defaults(), pretraining, _PRETRAINING)
    check_whole(_PRETRAINING + "steps", how.steps, 0)
    check_seed(_PRETRAINING + "seed", how.seed)
    network = make_network(model, window, remat=remat)

    def init(key: jax.Array) -> Any:
        return network.init(key, jnp.zeros((1, window), jnp.int32))

    if how.steps == 0:
        key = jax.random.key(how.seed)
        return Deferred(jax.eval_shape(init, key), lambda: jax.jit(init)(key))

    def tokens() -> np.ndarray:
        return data.windows(name, split, window + 1)["tokens"]

    def what() -> dict[str, Any]:
        text = {"name": name, "split": split, "sha256": sha256(tokens())}
        return {"model": __name__, "version": VERSION, "data": text, "window": window, "network": model}

    def task() -> Task:
        rows = tokens()  # what it is tested on does not matter: it is the last step's that is kept
        return Task(make_objective(network), Arrays({"tokens": rows}), Arrays({"tokens": rows[: how.batch_size]}))

    training = dict(steps=how.steps, batch_size=how.batch_size, remat=remat)
    adam = dict(name="adam", learning_rate=how.learning_rate, schedule="cosine")
    config = dict(optimizer=adam, train=training, mesh={} if mesh is None else mesh)
    return trained(what, task, config, (how.seed,), init)


_PRETRAINING = "model.pretraining."


def _completed(schema: ConfigDict, section: Mapping[str, Any] | ConfigDict, prefix: str) -> ConfigDict:
    configs.merge(schema, section, prefix)
    return schema


def _cross_entropy(text: Text) -> jax.Array:
    return next_byte_nats(text.logits, text.targets)


def _couples(method: Callable[[Text], Any]) -> bool:
    """Whether its loss is a `Coupled`; the method is asked on shapes alone."""
    answers = []

    def ask(logits: jax.Array, tokens: jax.Array) -> None:
        answers.append(isinstance(method(Text(tokens, tokens, jax.random.key(0), lambda: logits)), losses.Coupled))

    shape = (2, 4)
    jax.eval_shape(ask, jnp.zeros((*shape, VOCABULARY)), jnp.zeros(shape, jnp.int32))
    return answers[0]
