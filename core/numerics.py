"""Small numerical helpers: the dtypes to compute in, and reductions that are safe at the edges."""

from typing import Any

import jax
import jax.numpy as jnp


def float_dtypes(*arrays: jax.typing.ArrayLike) -> tuple[Any, Any]:
    """The dtype to return and the dtype to compute in.

    Args:
        *arrays: the inputs; Python numbers are weakly typed and never widen the result.

    Returns:
        `(result, wide)`: `result` is the floating promotion of the inputs (integers and booleans count as the default
        float), `wide` is `result` widened to at least float32.

    Example:
        >>> float_dtypes(jnp.zeros(3, jnp.bfloat16), 1.0)
        (dtype(bfloat16), dtype('float32'))
    """
    result = jnp.result_type(*arrays)
    if not jnp.issubdtype(result, jnp.inexact):
        result = jnp.result_type(float)
    return result, jnp.promote_types(result, jnp.float32)


def log_normalize(log_weights: jax.Array, *, axis: int = -1) -> jax.Array:
    """Log of the self-normalised weights, `log_weights - logsumexp(log_weights)`.

    Args:
        log_weights: `[..., k]` float; -inf is a weight of zero.
        axis: the axis that sums to one.

    Returns:
        The same shape and dtype. Where every weight is zero, or there is none, they all stay zero (-inf), where
        `jax.nn.log_softmax` gives NaN.
    """
    if log_weights.shape[axis] == 0:
        return log_weights
    peak = jnp.max(log_weights, axis=axis, keepdims=True)
    shifted = log_weights - jax.lax.stop_gradient(jnp.where(jnp.isneginf(peak), 0.0, peak))
    total = jnp.sum(jnp.exp(shifted), axis=axis, keepdims=True)
    return shifted - jnp.log(jnp.where(total > 0, total, 1.0))
