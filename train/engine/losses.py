"""What a method's function may give as its loss, and how a batch in parts is made of it.

The simple case is a loss for each example. A loss that couples the examples of a batch is a `Coupled`: what an example
gives by itself, and what the whole batch makes of that. A family whose objective's loss is a `TwoPass` calls `of_each`
in its `forward` and `of_batch` in its `combine`; both kinds of methods then accumulate exactly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .task import Metrics


class Coupled(NamedTuple):
    """A loss that couples the examples of a batch, in two parts.

    Both are closures of the method's function over what it was given. `of_each` is called where that is a part of a
    batch, `of_batch` where it is the whole.

    Example:
        >>> def above_average(rows):  # with rows.scores [batch]
        ...     return Coupled(lambda: rows.scores, lambda scores: jax.nn.relu(scores - jnp.mean(scores)))
    """

    of_each: Callable[[], Any]  # -> a tree with leaves [batch, ...], floats
    of_batch: Callable[[Any], Any]  # that tree, of the whole batch -> losses [batch] or [], or (losses, metrics)


class Each(NamedTuple):
    """What a method gives that says the loss of each example."""

    losses: jax.Array  # [batch, ...]
    metrics: Metrics  # [batch, ...]


class Parts(NamedTuple):
    """What a `Coupled` gives for each example."""

    values: Any


def of_each(found: Any, size: int | None) -> Each | Parts:
    """What each example gives by itself, leaves `[size, ...]`.

    Args:
        found: what the method's function gave: losses `[size, ...]`, or `(losses, metrics)` with metrics alike, or a
            `Coupled`.
        size: examples in this part of the batch; None where that is not one number.

    Raises:
        ValueError: leaves of another size.
    """
    if isinstance(found, Coupled):
        result, what = Parts(found.of_each()), "of_each must give"
    else:
        losses, metrics = found if isinstance(found, tuple) else (found, {})
        result, what = Each(jnp.asarray(losses), metrics), "a method must give losses and metrics"
    shapes = [list(jnp.shape(leaf)) for leaf in jax.tree.leaves(result)]
    wrong = next((shape for shape in shapes if not shape or size not in (None, shape[0])), None)
    if wrong is not None:
        raise ValueError(f"{what} [{size}, …], one an example, got {wrong}; a loss of the whole batch is a Coupled.")
    return result


def of_batch(each: Each | Parts, ask: Callable[[], Any]) -> tuple[jax.Array, Metrics]:
    """The loss of the whole batch, and its metrics; scalars.

    Args:
        each: what `of_each` gave, of the whole batch.
        ask: calls the method's function with the whole batch; done for a `Coupled` alone.
    """
    if isinstance(each, Each):
        return jnp.mean(each.losses), jax.tree.map(jnp.mean, each.metrics)
    found = ask().of_batch(each.values)
    losses, metrics = found if isinstance(found, tuple) else (found, {})
    return jnp.mean(losses), metrics
