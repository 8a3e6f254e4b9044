"""Metric learning by comparing the rows of a batch with each other: triplets, pairs, all positives at once.

Distances are between embeddings of length 1, as at the test. With several versions of an example, these are of one
class.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ....core import checks, masked
from . import Coupled, Seen
from ._rows import by_anchor, distance, logsumexp, of_unit_rows


def triplet(seen: Seen, *, margin: float = 0.2, mining: str = "hard") -> Coupled:
    """Triplets of a row, one of its class and one of another: relu(margin + d+ - d-).

    - "hard": of each row the farthest of its class and the nearest of another (Hermans, Beyer, Leibe 2017,
      arXiv:1703.07737); the mean over rows that have both. From noisy beginnings all embeddings may come to one point.
    - "semihard": of each pair of one class the nearest other row that is farther than it, or where none is, the
      farthest (Schroff, Kalenichenko, Philbin 2015, arXiv:1503.03832); the mean over pairs.

    Args:
        seen: the batch.
        margin: in units of a distance, at most 2.
        mining: which triplets are taken.

    Raises:
        ValueError: margin outside [0, 2], or another mining.
    """
    checks.in_interval("margin", margin, 0.0, 2.0)
    if mining not in ("hard", "semihard"):
        raise ValueError(f'mining must be "hard" or "semihard", got {mining!r}.')

    def hard(cosine, same, other):
        away = distance(cosine)
        farthest, nearest = masked.max(away, same, axis=1), -masked.max(-away, other, axis=1)
        counts = jnp.any(same, axis=1) & jnp.any(other, axis=1)
        return jnp.where(counts, jax.nn.relu(margin + farthest - nearest), 0.0), counts

    def semihard(cosine, same, other):
        away = distance(cosine)
        others = jnp.sort(jnp.where(other, away, jnp.inf), axis=1)
        place = jax.vmap(functools.partial(jnp.searchsorted, side="right"))(others, away)
        count = jnp.sum(other, axis=1, keepdims=True)
        negative = jnp.take_along_axis(others, jnp.minimum(place, jnp.maximum(count - 1, 0)), axis=1)
        counts = same & (count > 0)
        losses = jnp.where(counts, jax.nn.relu(margin + away - jnp.where(counts, negative, 0.0)), 0.0)
        return jnp.sum(losses, axis=1), jnp.sum(counts, axis=1)

    def of_rows(unit, label):
        losses, counts = by_anchor(hard if mining == "hard" else semihard, unit, label)
        return jnp.sum(losses) / jnp.maximum(jnp.sum(counts), 1)

    return of_unit_rows(seen, of_rows)


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
