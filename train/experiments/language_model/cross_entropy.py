"""Cross-entropy of the next byte."""

import jax

from . import Text, next_byte_nats


def cross_entropy(text: Text) -> jax.Array:
    """Nats of each byte that is predicted, `[batch, time]`."""
    return next_byte_nats(text.logits, text.targets)
