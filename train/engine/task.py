"""A task: what is learned, as pure functions, and the data that it is learned from.

`fit` takes one, and knows nothing of experiments, arms or claims. An `Objective` gives a loss and leaves the update to
the engine; a `Procedure` brings an update of its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from .sources import Deferred, Source, no_data

__all__ = ["Metric", "Objective", "Offer", "Procedure", "Summary", "Task", "TwoPass", "no_data"]

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


class Summary(NamedTuple):
    """Metrics that no mean over examples expresses: AUROC, mean average precision, recall at k, NMI, calibration.

    `collect` runs on the device, batch by batch; `summarize` on the host, once, on what the whole split gave, in its
    order: scikit-learn is at home there.
    """

    collect: Callable[[Params, Variables, Batch, jax.Array], Any]  # (params, variables, batch, key) -> [batch, ...]
    summarize: Callable[..., dict[str, float]]  # NumPy arrays [examples, ...] -> metrics
    train: bool = False  # collect the training examples too, and give them as a second argument: probes, k-NN


class Offer(NamedTuple):
    """What the next examples are chosen from."""

    examples: Any  # [n, ...], all that is on the device: the training arrays, or what was drawn or read
    rows: jax.Array  # [candidates * batch] of them, in the order of the epochs
    step: jax.Array  # [] int32
    resident: Any  # the task's
    own: Any  # the seed's
    key: jax.Array


class Objective(NamedTuple):
    """A learning problem as pure functions.

    `variables` is whatever the method carries from step to step beside the parameters (prototypes, queues,
    temperatures, dual variables, batch statistics); `{}` where there is nothing.

    The optimizer is `before`, then what `config.optimizer` says, then `after`; the transformations may take the extra
    arguments `variables` (those after the loss) and `value` (the loss). `project` then sees the new parameters, and
    what it gives is what they are, to the bit: where a mask has a zero, there is a zero.

    `choose` picks the next examples, `[batch]` rows, from the state, inside the scan: it is offered `candidates` times
    the batch, and may as well take any other row of the data that is on the device. What it remembers is in variables.
    """

    init: Callable[[jax.Array, Batch], tuple[Params, Variables]]  # (key, batch)
    loss: Callable[[Params, Variables, Batch, jax.Array], tuple[jax.Array, tuple[Variables, Metrics]]]
    evaluate: Callable[[Params, Variables, Batch, jax.Array], Metrics]
    # evaluate's values are [batch], averaged over exactly the examples of the split, or scalars, averaged over batches
    couples: bool | None = None
    # False: the loss is a mean over examples, each of which counts alike and sees no other; then, and where `loss` is a
    # `TwoPass`, gradients can be accumulated over micro-batches. True, or not said: `train.accumulate` is refused.
    summary: Summary | None = None
    before: optax.GradientTransformation | None = None
    after: optax.GradientTransformation | None = None
    project: Callable[[Params, Variables], Params] | None = None
    choose: Callable[[Params, Variables, Offer], tuple[jax.Array, Variables]] | None = None
    candidates: int = 1


class Procedure(NamedTuple):
    """A learning problem whose update is the method's own: federated rounds, an agent that acts and learns.

    What an update needs beside `params` (its optimizer's state, a replay buffer, an environment) is in `variables`. Its
    optimizer may come from `config.optimizer` by `lemmata.train.engine.optimizer.make_optimizer`. Of `config.train`,
    what changes a gradient (`accumulate`, `compute_dtype`) does not apply and is refused. `skip_nonfinite` keeps the
    old `params` and `variables` beside the new ones for a step: turn it off where these hold a large buffer.
    """

    init: Callable[[jax.Array, Batch], tuple[Params, Variables]]  # (key, batch)
    update: Callable[[Params, Variables, Batch, jax.Array], tuple[Params, Variables, Metrics]]
    evaluate: Callable[[Params, Variables, Batch, jax.Array], Metrics]  # as an Objective's
    summary: Summary | None = None


class Task(NamedTuple):
    """An objective or a procedure bound to its data; `no_data` where it makes its own.

    With `resident`, a tree of arrays or a `Deferred`, or with `own`, every batch that the objective is given is a
    `Resident(batch, arrays, own)`.
    """

    objective: Objective | Procedure
    train: Source | Any  # or what `sources.as_source` makes a source of: a dict of arrays, a function, an iterator
    test: Source | Any  # or `sources.Splits`, several of them
    resident: Any | Deferred = None
    validation: Source | Any = None  # what `train.eval_split = "validation"` looks at in place of the test split
    own: Callable[[int], Any] | None = (
        None  # of a seed: arrays of the same shapes for all (classes drawn, a base model)
    )
