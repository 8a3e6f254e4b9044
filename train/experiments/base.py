"""What an experiment gives the engine.

An experiment is a module of this folder with

- `defaults() -> ConfigDict`: its `data`, `model` and `method` sections with every key that a config may set;
- `METRICS: dict[str, Metric]`, or a function of the config that returns one: the held-out metrics that it returns,
  with labels and units for tables and plots;
- at least one of
  `build(config) -> Task`: advanced step by step by the engine, which scans, vmaps over seeds, shards and checkpoints;
  `compute(config, *, key) -> dict[str, Array]`: one pure function, jitted and vmapped over seeds by the engine;
  `run(config, *, seed) -> dict[str, float]`: on the host, one seed at a time, for what is not one JAX program: other
  libraries' baselines, or several models trained one after the other;
  and, where it has several, `kind(config) -> "build" | "compute" | "run"`, which says which of them an arm takes;
- if it has them, `references(config) -> dict[str, dict[str, float]]` (metric -> label -> value: known constants, drawn
  as horizontal lines) and `figure(config, results) -> matplotlib.figure.Figure`, which replaces the standard plot
  (`results`: arm -> `ArmResult`).

`config.method` holds the arm's overrides; see `lemmata.train.config.resolve_arm`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ..data.sources import Arrays, Sampler
from ..data.stream import Stream

Params = Any
Variables = Any
Batch = Any
Metrics = dict[str, jax.Array]


class Metric(NamedTuple):
    """How a metric is written on an axis: `label [unit]`."""

    label: str
    unit: str = ""


@dataclasses.dataclass(frozen=True, eq=False)  # a function to JAX, told apart by identity
class TwoPass:
    """A loss that couples the examples of a batch, in parts that let a batch be split all the same.

    It is called as any loss is. With `train.accumulate`, `forward` runs over the micro-batches, `combine` is
    differentiated with respect to what they gave together, and each micro-batch is then gone through again with its
    part of that derivative: the gradient of the whole batch's loss, in the memory of a micro-batch and all outputs.
    """

    forward: Callable[[Params, Variables, Batch, jax.Array], Any]  # (params, variables, batch, key) -> [batch, ...]
    # floats, a tree of what an example gives by itself
    combine: Callable[[Any, Params, Variables, Batch, jax.Array], tuple[jax.Array, tuple[Variables, Metrics]]]
    # (outputs, params, variables, batch, key) -> loss, (variables, metrics)
    prepare: Callable[[Batch], Batch] = lambda batch: batch  # puts beside each example what it takes from the others

    def __call__(
        self, params: Params, variables: Variables, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:
        """The loss of the batch, with what comes beside it."""
        batch = self.prepare(batch)
        return self.combine(self.forward(params, variables, batch, key), params, variables, batch, key)


class Objective(NamedTuple):
    """A learning problem as pure functions.

    `variables` is whatever the method carries from step to step beside the parameters (prototypes, queues,
    temperatures, batch statistics); `{}` where there is nothing.
    """

    init: Callable[[jax.Array, Batch], tuple[Params, Variables]]  # (key, batch)
    loss: Callable[[Params, Variables, Batch, jax.Array], tuple[jax.Array, tuple[Variables, Metrics]]]
    evaluate: Callable[[Params, Variables, Batch, jax.Array], Metrics]
    # evaluate's values are [batch], averaged over exactly the examples of the split, or scalars, averaged over batches
    couples: bool | None = None
    # False: the loss is a mean over examples, each of which counts alike and sees no other; then, and where `loss` is a
    # `TwoPass`, gradients can be accumulated over micro-batches. True, or not said: `train.accumulate` is refused.


class Procedure(NamedTuple):
    """A learning problem whose update is the method's own: federated rounds, an agent that acts and learns.

    What an update needs beside `params` (its optimizer's state, a replay buffer, an environment) is in `variables`. Its
    optimizer may come from `config.optimizer` by `lemmata.train.optimizer.make_optimizer`. Of `config.train`, what
    changes a gradient (`accumulate`, `compute_dtype`) does not apply and is refused. `skip_nonfinite` keeps the old
    `params` and `variables` beside the new ones for a step: turn it off where these hold a large buffer.
    """

    init: Callable[[jax.Array, Batch], tuple[Params, Variables]]  # (key, batch)
    update: Callable[[Params, Variables, Batch, jax.Array], tuple[Params, Variables, Metrics]]
    evaluate: Callable[[Params, Variables, Batch, jax.Array], Metrics]  # as an Objective's


class Task(NamedTuple):
    """An objective or a procedure bound to its data; `no_data` where it makes its own.

    With `resident`, a tree of arrays, every batch that it is given is a `Resident(batch, arrays)`.
    """

    objective: Objective | Procedure
    train: Arrays | Sampler | Stream
    test: Arrays | Sampler
    resident: Any = None


no_data = Sampler(lambda key, size: ())  # batches for a procedure that makes its own
