"""Cross-entropy with labels as they are, or smoothed."""

import jax
import jax.numpy as jnp
import optax

from . import Seen


def cross_entropy(seen: Seen, *, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy with (1 - s) onehot(label) + s / classes, in nats, `[batch]`; s in [0, 1)."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"method.label_smoothing must be in [0, 1), got {label_smoothing}.")
    to_label = optax.softmax_cross_entropy_with_integer_labels(seen.outputs, seen.label)
    if not label_smoothing:
        return to_label
    to_uniform = jax.nn.logsumexp(seen.outputs, axis=-1) - jnp.mean(seen.outputs, axis=-1)
    return (1 - label_smoothing) * to_label + label_smoothing * to_uniform
