"""Softmax over cosines with a margin that the own class has to win by: CosFace and ArcFace."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ....core import checks
from ....methods.losses.contrastive import normface
from . import Hooks, Problem, hooks
from ._rows import by_example, class_vectors


@hooks
def cosface(problem: Problem, *, scale: float = 16.0, margin: float = 0.35) -> Hooks:
    """CosFace (Wang et al. 2018, arXiv:1801.09414): the own class's cosine counts as less by the margin.

    Args:
        problem: how many classes, how wide an embedding.
        scale: of the cosines.
        margin: in units of a cosine.

    Raises:
        ValueError: one of these is outside its range.
    """
    checks.in_interval("margin", margin, 0.0, 2.0)
    return _softmax(problem, scale, lambda cosine: cosine - margin)


@hooks
def arcface(problem: Problem, *, scale: float = 16.0, margin: float = 0.5) -> Hooks:
    """ArcFace (Deng et al. 2019, arXiv:1801.07698): the angle to the own class counts as larger by the margin.

    Where angle and margin together are beyond pi, as in the released program, cos(angle) - margin sin(margin).

    Args:
        problem: how many classes, how wide an embedding.
        scale: of the cosines.
        margin: in radians.

    Raises:
        ValueError: one of these is outside its range.
    """
    checks.in_interval("margin", margin, 0.0, np.pi / 2)

    def turned(cosine):
        sine = jnp.sqrt(jnp.maximum(1 - jnp.square(cosine), 1e-7))  # the root has no slope at 0
        beyond = cosine <= -np.cos(margin)
        return jnp.where(beyond, cosine - margin * np.sin(margin), cosine * np.cos(margin) - sine * np.sin(margin))

    return _softmax(problem, scale, turned)


def _softmax(problem: Problem, scale: float, own_cosine: Callable[[jax.Array], jax.Array]) -> Hooks:
    checks.in_interval("scale", scale, 0.0, np.inf)

    def loss(seen, vectors):
        def of_rows(rows, label):
            cosines = normface.normalized_softmax_logits(rows, vectors, scale=1.0)
            is_own = label[:, None] == jnp.arange(problem.num_classes)
            logits = scale * jnp.where(is_own, own_cosine(cosines), cosines)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label)

        return by_example(seen, of_rows)

    return Hooks(loss, params=class_vectors(problem))
