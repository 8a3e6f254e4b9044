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
    positive = values > jnp.maximum(_resolution(b) * values[-1], 0.0)
    rough = scale[:, None] * vectors * jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, values, 1.0)), 0.0)
    # Exact now, and with a derivative: the Cholesky factor of what the rough root, held fixed, leaves of b, almost I.
    factor = jnp.linalg.cholesky(_congruent(b, rough) + jnp.diag(jnp.where(positive, 0.0, 1.0).astype(b.dtype)))
    return solve_triangular(factor, rough.T, lower=True).T


def joint_diagonalizer(
    x: jax.Array, weights: jax.Array, *, ridge: float | jax.Array = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Directions in which the second moments of two sets of multichannel trials are diagonal, from the trials.

        C_k = sum_i weights_ki x_i x_i',   C_0 w = lambda B w,   w' B w = 1,   B = C_0 + C_1 + ridge tr(C_0 + C_1) / n I

    Nothing is centred, but a mean far above what varies costs no digits: the moments are formed of trials that are
    whitened already, in stages, each of which brings out what the squares of the one before had drowned.

    Args:
        x: `[trials, n, time]` float32 or wider.
        weights: `[2, trials]`, not negative.
        ridge: not negative.

    Returns:
        `(eigenvalues, vectors, rank)`: `[n]` in [0, 1], `[n, n]` with a vector in each column, and int32. First the
        `rank` directions that hold data, by ascending eigenvalue. Then those without: eigenvalue 1/2 and a vector of
        zeros, or, with a ridge, eigenvalue 0 and a vector with w' B w = 1. `_staged_root` says what counts as data.
    """
    channels = x.shape[1]
    x = _mean_apart(x)
    root, null = _staged_root(jax.lax.stop_gradient(x), jax.lax.stop_gradient(weights))
    rank = channels - jnp.sum(jnp.any(null != 0, axis=0), dtype=jnp.int32)
    trace = jnp.sum(jnp.einsum("ki,ict->c", weights, jnp.square(x), precision="highest"))
    share = ridge * trace / channels
    root = _with_ridge(root, jax.lax.stop_gradient(share))
    # The result does not depend on the root, but for rounding, so its derivative is that of what follows.
    first, second = _moments(_project(root, x), weights)
    composite = first + second + share * jnp.matmul(root.T, root, precision="highest")
    eigenvalues, inner = generalized_eigh(first, composite)
    vectors = jnp.matmul(root, inner, precision="highest")

    has_ridge = share > 0
    without = jnp.where(has_ridge, null * jax.lax.rsqrt(jnp.where(has_ridge, share, 1.0)), 0.0)
    data = jnp.arange(channels) < rank
    eigenvalues = jnp.where(data, jnp.clip(eigenvalues, 0.0, 1.0), jnp.where(has_ridge, 0.0, 0.5))
    return eigenvalues, jnp.where(data, vectors, without), rank


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


def _mean_apart(x: jax.Array) -> jax.Array:
    """`[..., time + 1]` with the second moments of `[..., time]`: less its mean, and sqrt(time) times the mean.

    An orthogonal map along time whose first row is constant does the same, and has these moments.
    """
    shift = jax.lax.stop_gradient(jnp.mean(x, axis=-1, keepdims=True))
    x = x - shift
    rest = jnp.mean(x, axis=-1, keepdims=True)
    return jnp.concatenate([x - rest, x.shape[-1] ** 0.5 * (shift + rest)], axis=-1)


def _staged_root(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(root, null)` of B = sum_i w_i x_i x_i', w = weights[0] + weights[1], for trials from `_mean_apart`.

    A unit vector of the channels, each in units of the noise below, is without data where its power is less than one.
    The noise of a channel is 2 roundings of its root mean square, as it is stored, and 1024 of its standard deviation,
    as float32 arithmetic leaves it that has re-referenced or interpolated channels while they stood a thousand times
    as far from zero as they vary; times the square root of the number of channels.

    Both are `[n, n]`. The columns of `root` whiten B, but for columns of zeros; the last columns of `null`, as many as
    those, are an orthonormal basis of the directions without data, to which `root` is orthogonal.
    """
    channels, eps = x.shape[1], float(jnp.finfo(x.dtype).eps)
    x = x * jnp.sqrt(jnp.sum(weights, axis=0))[:, None, None]
    squares = jnp.square(x)
    spread, power = jnp.sum(squares[..., :-1], axis=(0, 2)), jnp.sum(squares, axis=(0, 2))
    noise = channels**0.5 * eps * (2 * jnp.sqrt(power) + 1024 * jnp.sqrt(spread))
    unit = 1 / jnp.where(noise > 0, noise, 1.0)
    x = x * unit[:, None]

    root, power = jnp.eye(channels, dtype=x.dtype), jnp.ones(channels, x.dtype)
    for _ in range(3):  # a stage resolves powers that differ by 1e5 or more, all of them 1e13
        projected = _project(root, x)
        values, vectors = jnp.linalg.eigh(jnp.einsum("ict,idt->cd", projected, projected, precision="highest"))
        turned = jnp.matmul(root, vectors, precision="highest")
        length = jnp.sqrt(jnp.sum(jnp.square(turned), axis=0))
        gain = jnp.minimum(jax.lax.rsqrt(jnp.maximum(values, _resolution(root) * values[-1])), 1 / length)
        root, power = turned * gain, values * jnp.square(gain)
    present = power > 0.5

    root = unit[:, None] * root
    directions = root / jnp.sqrt(jnp.sum(jnp.square(root), axis=0))
    orthonormal, _ = jnp.linalg.qr(directions[:, jnp.argsort(present)])  # those without data first
    null = jnp.where(jnp.arange(channels) < jnp.sum(~present), orthonormal, 0.0)
    root = jnp.where(present, root, 0.0)
    inside = jnp.matmul(null, jnp.matmul(null.T, root, precision="highest"), precision="highest")
    return root - inside, null[:, ::-1]


def _with_ridge(root: jax.Array, share: jax.Array) -> jax.Array:
    """From a root that whitens B, one that whitens B + share I outside the directions without data."""
    absent = ~jnp.any(root != 0, axis=0)
    scaled = jnp.sqrt(share) * root
    above_all = 2 + 2 * jnp.sqrt(jnp.sum(jnp.square(scaled)))  # singular values of their own for columns of zeros
    _, values, rotation = jnp.linalg.svd(
        jnp.concatenate([scaled, above_all * jnp.diag(absent.astype(root.dtype))]), full_matrices=False
    )
    turned = jnp.matmul(root, rotation.T, precision="highest") * jax.lax.rsqrt(1 + jnp.square(values))
    return jnp.where(jnp.arange(len(root)) < jnp.sum(absent), 0.0, turned)


def _project(root: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("cd,ict->idt", root, x, precision="highest")


def _moments(x: jax.Array, weights: jax.Array) -> jax.Array:
    each = jnp.einsum("ict,idt->icd", x, x, precision="highest")
    return jnp.einsum("ki,icd->kcd", weights, each, precision="highest")


def _congruent(a: jax.Array, root: jax.Array) -> jax.Array:
    """Both sides: root' a root."""
    product = jnp.matmul(jnp.matmul(root.T, a, precision="highest"), root, precision="highest")
    return (product + product.T) / 2


def _resolution(matrix: jax.Array) -> float:
    """Share of the largest eigenvalue below which rounding may have made an eigenvalue up."""
    return 4 * len(matrix) ** 0.5 * float(jnp.finfo(matrix.dtype).eps)


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
