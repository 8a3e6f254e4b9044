"""Linear algebra of small symmetric matrices, defined where they are singular."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular


def generalized_eigh(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solves a w = lambda b w for symmetric `a` and positive semidefinite `b`, with w' b w = 1.

    Args:
        a: `[n, n]` float32 or wider, symmetric.
        b: `[n, n]` of the same dtype, symmetric; see `whitening`.

    Returns:
        `(eigenvalues, vectors)`: `[n]` ascending, and `[n, n]` with a vector in each column. For a direction in which
        `b` is zero the vector is zero, and so is the eigenvalue.

    Example:
        >>> generalized_eigh(jnp.diag(jnp.array([3.0, 1.0])), jnp.diag(jnp.array([1.0, 4.0])))[0]
        Array([0.25, 3.  ], dtype=float32)
    """
    root = whitening(b)
    eigenvalues, rotation = jnp.linalg.eigh(_congruent(a, root))
    return eigenvalues, jnp.matmul(root, rotation, precision="highest")


def whitening(b: jax.Array) -> jax.Array:
    """A matrix R with R' b R = I, but for a column of zeros for each direction in which `b` is zero.

    Args:
        b: `[n, n]` float32 or wider, positive semidefinite. Rows of very different scales do not make it singular: it
            is brought to a unit diagonal first. What is below some rounding errors of the largest counts as zero.

    Returns:
        `[n, n]`; R R' is the inverse of `b`, or a generalised one: b R R' b = b. Its derivative is finite for equal
        eigenvalues too.

    Example:
        >>> whitening(jnp.diag(jnp.array([0.0, 4.0])))
        Array([[0. , 0. ],
               [0. , 0.5]], dtype=float32)
    """
    size, eps = b.shape[0], float(jnp.finfo(b.dtype).eps)
    fixed = jax.lax.stop_gradient(b)
    diagonal = jnp.diagonal(fixed)
    scale = jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0)), 0.0)
    values, vectors = jnp.linalg.eigh(fixed * scale[:, None] * scale)
    positive = values > jnp.maximum(4 * size**0.5 * eps * values[-1], 0.0)
    rough = scale[:, None] * vectors * jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, values, 1.0)), 0.0)
    # Exact now, and with a derivative: the Cholesky factor of what the rough root, held fixed, leaves of b, almost I.
    factor = jnp.linalg.cholesky(_congruent(b, rough) + jnp.diag(jnp.where(positive, 0.0, 1.0).astype(b.dtype)))
    return solve_triangular(factor, rough.T, lower=True).T


def joint_diagonalizer(
    x: jax.Array, weights: jax.Array, *, ridge: float | jax.Array = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Directions in which the covariances of two sets of multichannel trials are diagonal, from the trials themselves.

        C_k = sum_i weights_ki x_i x_i',   C_0 w = lambda B w,   w' B w = 1,   B = C_0 + C_1 + ridge tr(C_0 + C_1) / n I

    Args:
        x: `[trials, n, time]` float32 or wider.
        weights: `[2, trials]`, not negative.
        ridge: not negative.

    Returns:
        `(eigenvalues, vectors)`: `[n]` ascending, and `[n, n]` with a vector in each column. Where B is zero the
        eigenvalue is 1/2 and the vector zero.
    """
    channels = x.shape[1]
    composite = jnp.sum(_covariances(x, weights), axis=0)
    share = ridge * jnp.trace(composite) / channels * jnp.eye(channels, dtype=x.dtype)
    # Twice, the second time on whitened trials: a covariance squares the spread of the channels' powers, which leaves
    # few digits of the weak directions. The result does not depend on this root, but for rounding.
    root = jax.lax.stop_gradient(whitening(composite + share))
    first, second = _covariances(jnp.einsum("cd,ict->idt", root, x, precision="highest"), weights)
    composite = first + second + _congruent(share, root)
    shifted, rotation = generalized_eigh(first - composite / 2, composite)  # lambda - 1/2: the zeros are in the middle
    return shifted + 0.5, jnp.matmul(root, rotation, precision="highest")


def class_moments(x: jax.Array, member: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means of classes, and the covariance that they share: of x less the mean of its class, by 1 / n.

    Args:
        x: `[n, d]` float32 or wider.
        member: `[n, k]` of the same dtype, one-hot.

    Returns:
        `(means, covariance)`, `[k, d]` and `[d, d]`. The mean of a class without members is 0.
    """
    counts = jnp.maximum(jnp.sum(member, axis=0), 1.0)
    means = jnp.matmul(member.T, x, precision="highest") / counts[:, None]
    centred = x - jnp.matmul(member, means, precision="highest")
    return means, jnp.matmul(centred.T, centred, precision="highest") / len(x)


def _covariances(x: jax.Array, weights: jax.Array) -> jax.Array:
    each = jnp.einsum("ict,idt->icd", x, x, precision="highest")
    return jnp.einsum("ki,icd->kcd", weights, each, precision="highest")


def _congruent(a: jax.Array, root: jax.Array) -> jax.Array:
    """Both sides: root' a root."""
    product = jnp.matmul(jnp.matmul(root.T, a, precision="highest"), root, precision="highest")
    return (product + product.T) / 2
