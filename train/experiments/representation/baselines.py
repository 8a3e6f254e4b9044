"""What every embedding has to beat: a network that was never trained, and one trained to classify."""

import jax
import jax.numpy as jnp
import optax

from . import Hooks, Problem, Seen, hooks
from ._rows import by_example, class_vectors


def untrained(seen: Seen) -> jax.Array:
    """The network as it is initialised: there is nothing to learn, `[batch]` zeros."""
    return jnp.zeros(seen.label.shape, jnp.float32)


@hooks
def cross_entropy(problem: Problem) -> Hooks:
    """Softmax classification by a linear layer on the embedding, whose features are then used without it."""

    def params(key):
        return {"kernel": class_vectors(problem)(key).T, "bias": jnp.zeros(problem.num_classes)}

    def loss(seen, own):
        def of_rows(rows, label):
            return optax.softmax_cross_entropy_with_integer_labels(rows @ own["kernel"] + own["bias"], label)

        return by_example(seen, of_rows)

    return Hooks(loss, params=params)
