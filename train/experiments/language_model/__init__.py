"""Language models of bytes: a Transformer that predicts each byte of a text from those before it.

A sequence is `data.window` + 1 bytes: all but the last are read, all but the first predicted. No document of the test
split is in the training split.

A method is a function of a `Text`: what was read, what is to be predicted, the logits, a key. It gives the losses of
bytes or of sequences, or a `Coupled` where the batch decides (`lemmata.train.engine.losses`); one that needs more gives
`Hooks` (`lemmata.train.engine.hooks`). All are tested by their cross-entropy.
"""

from typing import Any, NamedTuple

import jax

from ... import data, experiments
from ...data.splits import check_apart
from ...engine.hooks import Hooks, hooks, hooks_of
from ...engine.losses import Coupled
from ...engine.settings import check_seed
from ...engine.sources import Arrays
from ...engine.stream import Stream
from ...engine.task import Metric, Task
from ...engine.types import ConfigDict
from ...models import language
from ...models.language import Text, next_byte_nats

__all__ = ["METRICS", "SMALL", "Coupled", "Hooks", "Problem", "Text", "build", "defaults", "hooks", "next_byte_nats"]

METRICS = {
    "loss": Metric("cross-entropy", "nats/byte"),
    "bits_per_byte": Metric("bits per byte", "bit"),
    "accuracy": Metric("next-byte accuracy"),
}

SMALL = {
    "data.window": 16,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.model_dim": 16,
    "model.mlp_dim": 16,
    "train.batch_size": 8,
    "train.eval_batch_size": 512,
}


def defaults() -> ConfigDict:
    """Every key of `data` and `model`, and the method's name."""
    return ConfigDict(dict(
        data=dict(
            name="python_docs",  # or python_source, a prepared TFDS name with a feature "text", or a file
            columns={},  # of a file: which column is the text
            window=128,  # bytes of context
            train="train+validation",  # the splits: what is trained on,
            validation="validation",  # what train.eval_split = "validation" looks at; then train is to be "train",
            test="test",  # and what is tested on
            stream=False,  # batches read from disk by each process; False: the whole split on the device
            stream_seed=0,  # order of a stream
            stream_held_out=False,  # the splits to evaluate on likewise, each time from the beginning
        ),
        model=language.defaults(),
        method=dict(name="cross_entropy"),
    ))  # fmt: skip


class Problem(NamedTuple):
    """What a method that gives `Hooks` is told."""

    vocabulary: int
    window: int  # bytes of context
    examples: int  # windows that are trained on
    steps: int


def build(config: ConfigDict) -> Task:
    """The Transformer on windows of the text that the config names."""
    settings = config.data
    check_seed("data.stream_seed", settings.stream_seed)
    check_apart(settings, config.train.eval_split)
    network = language.make_network(config.model, settings.window, remat=config.train.remat)
    train = _read(settings, settings.train, config.train.batch_size if settings.stream else 0)
    method = experiments.get(config.experiment).bound(config.method)
    problem = Problem(language.VOCABULARY, settings.window, train.size, config.train.steps)
    some = jax.process_count() if settings.stream_held_out else 0  # a stream is evaluated on in batches of any size
    return Task(
        language.make_objective(network, hooks_of(method, problem)),
        train=train,
        test=_read(settings, settings.test, some),
        validation=_read(settings, settings.validation, some) if config.train.eval_split == "validation" else None,
    )


def _read(settings: ConfigDict, split: str, batch_size: int) -> Arrays | Stream:
    """Windows of a split: as a stream of batches, or in memory where their size is 0."""
    options: dict[str, Any] = dict(columns=settings.columns)
    if not batch_size:
        return Arrays(data.windows(settings.name, split, settings.window + 1, **options))
    return data.stream(
        settings.name,
        split,
        batch_size=batch_size,
        seed=settings.stream_seed,
        window=settings.window + 1,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **options,
    )
