"""An optimizer of one's own."""

import optax


def sign_descent(learning_rate, decay: float = 0.0):
    """Steps of one length along each coordinate."""
    return optax.chain(
        optax.scale_by_sign(), optax.add_decayed_weights(decay), optax.scale_by_learning_rate(learning_rate)
    )
