"""What an experiment gives the engine.

An experiment is a module of this folder with

- `defaults() -> ConfigDict`: its `data`, `model` and `method` sections with every key that a config may set;
- `METRICS: dict[str, Metric]`, or a function of the config that returns one: the held-out metrics that it returns,
  with labels and units for tables and plots;
- either `build(config) -> Task`, trained by gradient, or `compute(config, *, key) -> dict[str, Array]`, which is
  jitted and vmapped over seeds by the engine; or both, and `trains(config) -> bool`, which says whether it is `build`;
- if it has them, `references(config) -> dict[str, dict[str, float]]` (metric -> label -> value: known constants, drawn
  as horizontal lines) and `figure(config, results) -> matplotlib.figure.Figure`, which replaces the standard plot
  (`results`: arm -> `ArmResult`).

`config.method` holds the arm's overrides; see `lemmata.train.config.resolve_arm`.
"""

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


class Objective(NamedTuple):
    """A learning problem as pure functions.

    `variables` is whatever the method carries from step to step beside the parameters (prototypes, queues,
    temperatures, batch statistics); `{}` where there is nothing.
    """

    init: Callable[[jax.Array, Batch], tuple[Params, Variables]]  # (key, batch)
    loss: Callable[[Params, Variables, Batch, jax.Array], tuple[jax.Array, tuple[Variables, Metrics]]]
    evaluate: Callable[[Params, Variables, Batch, jax.Array], Metrics]
    # evaluate's values are [batch], averaged over exactly the examples of the split, or scalars, averaged over batches


class Task(NamedTuple):
    """An objective bound to its data."""

    objective: Objective
    train: Arrays | Sampler | Stream
    test: Arrays | Sampler
