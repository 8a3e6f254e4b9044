"""Few-shot episodes within a batch: some examples of each class are the support, the others are told apart by it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ....core import checks, masked
from ...engine.settings import check_whole
from . import Hooks, Problem, Seen, hooks
from ._rows import LEAST, by_anchor, logsumexp, of_unit_rows, support


@hooks
def prototypical(problem: Problem, *, shots: int = 5, temperature: float = 0.1) -> Hooks:
    """Prototypical networks (Snell, Swersky, Zemel 2017, arXiv:1703.05175), on embeddings of length 1 as at the test.

    The cross-entropy of the softmax over -|u - c|^2 / temperature, c the mean of a class's support.

    Args:
        problem: how many classes.
        shots: examples of a class that are its support; a class with fewer in a batch has all of them there.
        temperature: divides the squared distances. Positive.

    Raises:
        ValueError: a setting outside its range, or a batch that need not have any query.
    """
    check_whole("shots", shots, 1)
    checks.in_interval("temperature", temperature, 0.0, np.inf, closed="neither")
    num_classes = problem.num_classes

    def loss(seen):
        def of_rows(unit, label):
            given = _support_rows(seen, shots, num_classes)
            count = jax.ops.segment_sum(given.astype(jnp.float32), label, num_classes)
            total = jax.ops.segment_sum(jnp.where(given[:, None], unit, 0.0), label, num_classes)
            centre = total / jnp.maximum(count, 1.0)[:, None]
            closeness = 2 * jnp.matmul(unit, centre.T, precision=jax.lax.Precision.HIGHEST)  # 1 more than -|u - c|^2
            logits = jnp.where(count > 0, (closeness - jnp.sum(jnp.square(centre), axis=1)) / temperature, LEAST)
            return masked.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label), ~given)

        return of_unit_rows(seen, of_rows)

    return Hooks(loss)


@hooks
def matching(problem: Problem, *, shots: int = 5, temperature: float = 0.1) -> Hooks:
    """Matching networks (Vinyals et al. 2016, arXiv:1606.04080), without their embeddings in full context.

    A class's probability is the attention that its support has: the softmax over cosines / temperature with all of it.

    Args:
        problem: how many classes.
        shots: as for `prototypical`.
        temperature: divides the cosines. Positive.

    Raises:
        ValueError: as for `prototypical`.
    """
    check_whole("shots", shots, 1)
    checks.in_interval("temperature", temperature, 0.0, np.inf, closed="neither")

    def loss(seen):
        def of_rows(unit, label):
            given = _support_rows(seen, shots, problem.num_classes)

            def of_anchor(cosine, same, other):
                logits = cosine / temperature
                return logsumexp(logits, (same | other) & given) - logsumexp(logits, same & given)

            return masked.mean(by_anchor(of_anchor, unit, label), ~given)

        return of_unit_rows(seen, of_rows)

    return Hooks(loss)


def _support_rows(seen: Seen, shots: int, num_classes: int) -> jax.Array:
    """`[batch * views]` bool; all versions of an example are on one side."""
    views, batch, _ = seen.embeddings.shape
    if batch <= shots * num_classes:
        raise ValueError(
            f"shots must leave queries in a batch: {shots} of {num_classes} classes are no fewer than its {batch} "
            "examples (train.batch_size)."
        )
    return jnp.repeat(support(seen.label, seen.key, shots), views)
