"""What every embedding has to beat: a network that was never trained, and one trained to classify."""

import jax
import jax.numpy as jnp
import optax

from . import Hooks, Problem, Seen, hooks


def untrained(seen: Seen) -> jax.Array:
    """The network as it is initialised: there is nothing to learn, `[batch]` zeros."""
    return jnp.zeros_like(seen.label, jnp.float32) + 0.0 * jnp.sum(seen.embeddings)


@hooks
def cross_entropy(problem: Problem) -> Hooks:
    """Softmax classification by a linear layer on the embedding, whose features are then used without it."""

    def params(key):
        scale = problem.embedding**-0.5
        weights = scale * jax.random.normal(key, (problem.embedding, problem.num_classes))
        return {"kernel": weights, "bias": jnp.zeros(problem.num_classes)}

    def loss(seen, own):
        logits = seen.embeddings @ own["kernel"] + own["bias"]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, seen.label[None].repeat(len(logits), 0))
        return jnp.mean(nats, axis=0)

    return Hooks(loss, params=params)
