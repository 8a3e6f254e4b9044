"""Directions of multichannel trials in which the second moments of two classes are both diagonal."""

import jax
import jax.numpy as jnp

from ....core import linalg


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
    held = jax.lax.stop_gradient((x, weights))
    root, null = _staged_root(*held)
    rank = channels - jnp.sum(jnp.any(null != 0, axis=0), dtype=jnp.int32)
    trace = jnp.sum(jnp.einsum("ki,ict->c", weights, jnp.square(x), precision="highest"))
    share = ridge * trace / channels
    root = _rewhitened(_with_ridge(root, jax.lax.stop_gradient(share)), *held, jax.lax.stop_gradient(share))
    # The result does not depend on the root, but for rounding, so its derivative is that of what follows.
    first, composite = _seen_through(root, x, weights, share)
    eigenvalues, inner = linalg.generalized_eigh(first, composite)
    vectors = jnp.matmul(root, inner, precision="highest")

    has_ridge = share > 0
    without = jnp.where(has_ridge, null * jax.lax.rsqrt(jnp.where(has_ridge, share, 1.0)), 0.0)
    data = jnp.arange(channels) < rank
    eigenvalues = jnp.where(data, jnp.clip(eigenvalues, 0.0, 1.0), jnp.where(has_ridge, 0.0, 0.5))
    return eigenvalues, jnp.where(data, vectors, without), rank


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
        gain = jnp.minimum(jax.lax.rsqrt(jnp.maximum(values, linalg.resolution(root) * values[-1])), 1 / length)
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


def _rewhitened(root: jax.Array, x: jax.Array, weights: jax.Array, share: jax.Array) -> jax.Array:
    """A root that whitens B + share I, from one that rounding keeps from it where channels differ by 1e8 or more."""
    count = jnp.sum(~jnp.any(root != 0, axis=0))  # of directions without data
    for _ in range(2):
        _, composite = _seen_through(root, x, weights, share)
        absent = ~jnp.any(root != 0, axis=0)
        values, vectors = jnp.linalg.eigh(composite - jnp.diag(jnp.where(absent, jnp.trace(composite), 0.0)))
        first = jnp.arange(len(root)) < count  # where those without data are now
        floor = jnp.maximum(values, linalg.resolution(root) * values[-1])
        turned = jnp.matmul(root, vectors, precision="highest") * jax.lax.rsqrt(jnp.where(first, 1.0, floor))
        root = jnp.where(first, 0.0, turned)
    return root


def _seen_through(root: jax.Array, x: jax.Array, weights: jax.Array, share: jax.Array) -> tuple[jax.Array, jax.Array]:
    """C_0 and C_0 + C_1 + share I, from both sides: root' C root."""
    first, second = _moments(_project(root, x), weights)
    return first, first + second + share * jnp.matmul(root.T, root, precision="highest")


def _project(root: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("cd,ict->idt", root, x, precision="highest")


def _moments(x: jax.Array, weights: jax.Array) -> jax.Array:
    each = jnp.einsum("ict,idt->icd", x, x, precision="highest")
    return jnp.einsum("ki,icd->kcd", weights, each, precision="highest")
