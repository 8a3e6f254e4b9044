"""Values that are not differentiable, with the gradient of others that are."""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def _replace(value, surrogate):
    return value


@_replace.defjvp
def _replace_jvp(primals, tangents):
    return _replace(*primals), tangents[1]


def straight_through(value: jax.Array, surrogate: jax.Array) -> jax.Array:
    """`value` going forward, the gradient of `surrogate` going back.

    Rounding with the gradient of the identity is `straight_through(jnp.round(x), x)`; a hard choice with that of its
    soft form `straight_through(one_hot, probs)`. Where no gradient shall pass, stop it in `surrogate`.

    Args:
        value: `[...]` float, returned bit for bit (`surrogate + stop_gradient(value - surrogate)` rounds, and is NaN
            where both are infinite). It gets no gradient.
        surrogate: the same shape; its own value plays no part.

    Returns:
        `[...]`, of the dtype of `value`.

    Raises:
        ValueError: another shape, or a value that is not a float.

    Example:
        >>> jax.value_and_grad(lambda x: straight_through(jnp.round(x), 3 * x))(1.6)
        (Array(2., dtype=float32, weak_type=True), Array(3., dtype=float32, weak_type=True))
    """
    value, surrogate = jnp.asarray(value), jnp.asarray(surrogate)
    if value.shape != surrogate.shape:
        raise ValueError(f"surrogate must have shape {list(value.shape)} as value, got {list(surrogate.shape)}.")
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        raise ValueError(f"value must be a float, got {value.dtype}.")
    return _replace(value, surrogate.astype(value.dtype))
