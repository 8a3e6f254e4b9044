"""Metric learning by comparing the rows of a batch with each other: triplets, pairs, all positives at once.

Distances are between embeddings of length 1, as at the test. With several versions of an example, these are of one
class.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ....core import checks, masked
from . import Coupled, Seen
from ._rows import by_anchor, distance, logsumexp, of_unit_rows


def triplet(seen: Seen, *, margin: float = 0.2) -> Coupled:
    """Batch-hard triplets (Hermans, Beyer, Leibe 2017, arXiv:1703.07737): d is not squared, with which they collapse.

    For each row the farthest of its class and the nearest of another, relu(margin + d+ - d-); the mean over rows that
    have both.

    Args:
        seen: the batch.
        margin: in units of a distance, at most 2.

    Raises:
        ValueError: margin outside [0, 2].
    """
    checks.in_interval("margin", margin, 0.0, 2.0)

    def of_anchor(cosine, same, other):
        away = distance(cosine)
        farthest, nearest = masked.max(away, same, axis=1), -masked.max(-away, other, axis=1)
        return jax.nn.relu(margin + farthest - nearest), jnp.any(same, axis=1) & jnp.any(other, axis=1)

    return of_unit_rows(seen, lambda unit, label: masked.mean(*by_anchor(of_anchor, unit, label)))


def contrastive(seen: Seen, *, margin: float = 1.0) -> Coupled:
    """Pairs (Hadsell, Chopra, LeCun 2006): those of one class together, those of two apart, up to a margin.

    The mean of d^2 over pairs of one class, plus the mean of relu(margin - d)^2 over pairs of two.

    Args:
        seen: the batch.
        margin: in units of a distance, at most 2.

    Raises:
        ValueError: margin outside [0, 2].
    """
    checks.in_interval("margin", margin, 0.0, 2.0)

    def of_anchor(cosine, same, other):
        missing = jnp.square(jax.nn.relu(margin - distance(cosine)))
        parts = (2 - 2 * cosine, same), (missing, other)
        return [(jnp.sum(jnp.where(where, x, 0.0), axis=1), jnp.sum(where, axis=1)) for x, where in parts]

    def of_rows(unit, label):
        pulled, pushed = (jnp.sum(x) / jnp.maximum(jnp.sum(n), 1) for x, n in by_anchor(of_anchor, unit, label))
        return pulled + pushed

    return of_unit_rows(seen, of_rows)


def supcon(seen: Seen, *, temperature: float = 0.1) -> Coupled:
    """Supervised contrastive learning (Khosla et al. 2020, arXiv:2004.11362), without its projection head.

    The cross-entropy of telling the rows of an anchor's class from all other rows, the mean over the former outside the
    logarithm; the mean over rows that have another of their class.

    Args:
        seen: the batch.
        temperature: divides the cosines. Positive.

    Raises:
        ValueError: a temperature that is not positive.
    """
    checks.in_interval("temperature", temperature, 0.0, np.inf, closed="neither")

    def of_anchor(cosine, same, other):
        logits = cosine / temperature
        return logsumexp(logits, same | other) - masked.mean(logits, same, axis=1), jnp.any(same, axis=1)

    return of_unit_rows(seen, lambda unit, label: masked.mean(*by_anchor(of_anchor, unit, label)))
