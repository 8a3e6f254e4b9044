"""Linear algebra of small symmetric matrices and of the data behind them, defined where they are singular."""

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
        `b` is zero the vector is zero, and so is the eigenvalue: they come last. The derivative is finite for equal
        eigenvalues too: it does not turn their vectors into one another.

    Example:
        >>> generalized_eigh(jnp.diag(jnp.array([3.0, 1.0])), jnp.diag(jnp.array([1.0, 4.0])))[0]
        Array([0.25, 3.  ], dtype=float32)
    """
    root = whitening(b)
    absent = ~jnp.any(root != 0, axis=0)
    inner = _congruent(a, root)
    above_all = 1 + 2 * jnp.max(jnp.sum(jnp.abs(inner), axis=0), initial=0.0)  # so that no other direction mixes in
    marks = jnp.where(absent, jax.lax.stop_gradient(above_all), 0.0)
    eigenvalues, rotation = _eigh(inner + jnp.diag(marks))
    last = jnp.arange(len(b)) >= len(b) - jnp.sum(absent)
    vectors = jnp.where(last, 0.0, jnp.matmul(root, rotation, precision="highest"))
    return jnp.where(last, 0.0, eigenvalues), vectors


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
    fixed = jax.lax.stop_gradient(b)
    diagonal = jnp.diagonal(fixed)
    scale = jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0)), 0.0)
    values, vectors = jnp.linalg.eigh(fixed * scale[:, None] * scale)
    positive = values > jnp.maximum(resolution(b) * values[-1], 0.0)
    rough = scale[:, None] * vectors * jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, values, 1.0)), 0.0)
    # Exact now, and with a derivative: the Cholesky factor of what the rough root, held fixed, leaves of b, almost I.
    factor = jnp.linalg.cholesky(_congruent(b, rough) + jnp.diag(jnp.where(positive, 0.0, 1.0).astype(b.dtype)))
    return solve_triangular(factor, rough.T, lower=True).T


def class_moments(x: jax.Array, member: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means of classes, and the covariance that they share: of x less the mean of its class, by 1 / n.

    Args:
        x: `[n, d]` float32 or wider.
        member: `[n, k]` of the same dtype, one-hot; a row of zeros leaves its row of `x` out, also of n.

    Returns:
        `(means, covariance)`, `[k, d]` and `[d, d]`. The mean of a class without members is 0, and so is everything
        where no class has any. Means are as near to zero, and have as many digits, as `x` lets them.
    """
    counts = jnp.sum(member, axis=0)
    counted = jnp.sum(member, axis=1, keepdims=True) > 0
    x = jnp.where(counted, x, 0.0)
    means = jnp.matmul(member.T, x, precision="highest") / jnp.maximum(counts, 1.0)[:, None]
    centred = jnp.where(counted, x - jnp.matmul(member, means, precision="highest"), 0.0)
    return means, jnp.matmul(centred.T, centred, precision="highest") / jnp.maximum(jnp.sum(counts), 1.0)


def resolution(matrix: jax.Array) -> float:
    """Share of the largest eigenvalue below which rounding may have made an eigenvalue up."""
    return 4 * len(matrix) ** 0.5 * float(jnp.finfo(matrix.dtype).eps)


def _congruent(a: jax.Array, root: jax.Array) -> jax.Array:
    """Both sides: root' a root."""
    product = jnp.matmul(jnp.matmul(root.T, a, precision="highest"), root, precision="highest")
    return (product + product.T) / 2


@jax.custom_jvp
def _eigh(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`jnp.linalg.eigh`, whose derivative divides by differences of eigenvalues, also where they are zero."""
    values, vectors = jnp.linalg.eigh(a)
    return values, vectors


@_eigh.defjvp
def _eigh_jvp(primals, tangents):
    values, vectors = _eigh(*primals)
    slope = _congruent(tangents[0], vectors)
    difference = values - values[:, None]
    equal = difference == 0
    turn = jnp.where(equal, 0.0, slope / jnp.where(equal, 1.0, difference))
    return (values, vectors), (jnp.diagonal(slope), jnp.matmul(vectors, turn, precision="highest"))
