"""NormFace: the softmax over cosines of embeddings and class vectors."""

from ....core import checks
from ....methods.losses.contrastive import normface as method
from . import Hooks, Problem, hooks
from ._rows import by_example, class_vectors


@hooks
def normface(problem: Problem, *, scale: float = 16.0, norm_weight: float = 0.0) -> Hooks:
    """Cross-entropy of scaled cosines; `norm_weight` holds embeddings near length 1.

    Args:
        problem: how many classes, how wide an embedding.
        scale: of the cosines.
        norm_weight: of the penalty on other lengths.

    Raises:
        ValueError: one of these is outside its range.
    """
    checks.in_interval("scale", scale, 0.0, float("inf"))
    checks.in_interval("norm_weight", norm_weight, 0.0, float("inf"))

    def loss(seen, vectors):
        def of_rows(rows, label):
            return method.normalized_softmax_loss(rows, vectors, label, scale=scale, norm_weight=norm_weight)

        return by_example(seen, of_rows)

    return Hooks(loss, params=class_vectors(problem))
