"""Convolution along time as matrix products, and the moments of its output without forming it.

A kernel of K taps, slid over L outputs, is a matrix `[L, L + K - 1]` (`shifted_copies`). Time is cut into blocks of
about K outputs, each of which is one product of that matrix with a window of L + K - 1 inputs: twice the arithmetic of
the sum itself, in the form that processors do fastest, also under vmap over kernels, where a native convolution turns
into a grouped one. "same" padding is zeros, (K - 1) // 2 before and K // 2 after.
"""

import math

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST


def shifted_copies(kernel: jax.Array, length: int) -> jax.Array:
    """The kernel at each of `length` places: `out[t, t + k] = kernel[k]`, zero elsewhere.

    Args:
        kernel: `[K, ...]`.
        length: L, at least 1.

    Returns:
        `[L, L + K - 1, ...]`.

    Example:
        >>> shifted_copies(jnp.array([1, 2]), 3)
        Array([[1, 2, 0, 0],
               [0, 1, 2, 0],
               [0, 0, 1, 2]], dtype=int32)
    """
    size, *rest = kernel.shape
    padded = jnp.concatenate([kernel, jnp.zeros((length, *rest), kernel.dtype)])
    endless = jnp.broadcast_to(padded, (length, *padded.shape)).reshape(-1, *rest)
    # Rows one shorter than the period: each starts one place earlier in it, so the kernel moves to the right.
    return endless[: length * (size + length - 1)].reshape(length, size + length - 1, *rest)


def same_windows(x: jax.Array, kernel_size: int) -> tuple[jax.Array, int]:
    """What each block of outputs of a "same" convolution reads.

    Args:
        x: `[..., T]`, zero outside.
        kernel_size: K, at least 1.

    Returns:
        `(windows, L)`: `[..., n, L + K - 1]`, and the outputs of a block, n L >= T. Outputs past T are to be dropped.
    """
    samples = x.shape[-1]
    blocks = max(samples // max(kernel_size, 8), 1)  # then L >= K - 1: a window ends in the next block
    length = -(-samples // blocks)
    left = (kernel_size - 1) // 2
    none = [(0, 0)] * (x.ndim - 1)
    if blocks == 1:
        return jnp.pad(x, [*none, (left, kernel_size // 2)])[..., None, :], length
    whole = jnp.pad(x, [*none, (left, (blocks + 1) * length - samples - left)])
    whole = whole.reshape(*x.shape[:-1], blocks + 1, length)
    return jnp.concatenate([whole[..., :-1, :], whole[..., 1:, : kernel_size - 1]], axis=-1), length


def depthwise_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation along time with "same" padding, a kernel for each group of features.

    Args:
        x: `[b, T, F, D]` float: F groups of D features.
        kernel: `[K, F]`.

    Returns:
        `[b, T, F, D]`: `out[t] = sum_k kernel[k] x[t + k - (K - 1) // 2]`.

    Example:
        >>> depthwise_same(jnp.arange(4.0).reshape(1, 4, 1, 1), jnp.array([[1.0], [10.0]])).ravel()
        Array([10., 21., 32.,  3.], dtype=float32)
    """
    windows, matrices = _read(jnp.moveaxis(x, 1, -1), kernel)  # [b, F, D, n, W]
    outputs = jnp.einsum("bfdnw,lwf->bnlfd", windows, matrices)
    batch, blocks, length = outputs.shape[:3]
    return outputs.reshape(batch, blocks * length, *x.shape[2:])[:, : x.shape[1]]


def same_moments(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of a "same" cross-correlation over everything but its kernels, without forming it.

    The outputs are linear in the windows that they read, so their sums follow from the windows' own first and second
    moments: F kernels cost what one does, and no array F times as large as the input is made.

    Inputs are taken apart into the mean of all, c, which may be far above what varies, the means of the rows less that,
    d_r, and the rest. With e and v the outputs for ones and for the rest, and u_rt = v_rt + d_r e_t, u_t its mean,

        y_rt = u_rt + c e_t,    var y = E u^2 - (E u)^2 + c^2 var e + 2 c cov(u_t, e_t),
                                E u^2 = E v^2 + E d^2 E e^2 + 2 E[d_r v_rt e_t].

    Args:
        x: `[..., T]` float32 or wider.
        kernel: `[K, F]`.

    Returns:
        `(mean, variance)`, each `[F]`: over all leading axes and all T outputs. Differentiable in both arguments.

    Raises:
        ValueError: nothing to take the mean of.

    Example:
        >>> same_moments(jnp.ones((2, 4)), jnp.array([[1.0], [1.0]]))   # outputs 2, 2, 2, 1
        (Array([1.75], dtype=float32), Array([0.1875], dtype=float32))
    """
    if not x.size:
        raise ValueError(f"x must hold at least one row and one sample, got shape {list(x.shape)}.")
    samples = x.shape[-1]
    rows = x.reshape(math.prod(x.shape[:-1]), samples)
    # Whatever numbers are taken apart, the moments are the same, and so are their slopes: these can be held fixed.
    means = jax.lax.stop_gradient(jnp.mean(rows, axis=-1))
    rest, common = rows - means[:, None], jnp.mean(means)
    apart = means - common

    few = jnp.stack([jnp.mean(rest, axis=0), jnp.mean(apart[:, None] * rest, axis=0), jnp.ones(samples, x.dtype)])
    outputs = jnp.einsum("rnw,lwf->rnlf", *_read(few, kernel), precision=HIGHEST)
    v, dv, e = outputs.reshape(3, -1, kernel.shape[1])[:, :samples]  # [T, F] each: E v_rt, E d_r v_rt over rows, and e
    u = v + jnp.mean(apart) * e
    u_mean, e_mean = jnp.mean(u, axis=0), jnp.mean(e, axis=0)
    edges = e - e[samples // 2]  # zero but near the ends; exactly so, where rounding a mean would be multiplied by c
    edges = edges - jnp.mean(edges, axis=0)

    u_square = _mean_square(rest, kernel) + jnp.mean(jnp.square(apart)) * jnp.mean(jnp.square(e), axis=0)
    u_square = u_square + 2 * jnp.mean(dv * e, axis=0)
    with_common = jnp.mean(common * edges * (common * edges + 2 * (u - u_mean)), axis=0)
    return u_mean + common * e_mean, jnp.maximum(u_square - jnp.square(u_mean) + with_common, 0.0)


def _read(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(windows, matrices)`, `[..., n, W]` and `[L, W, F]`, whose products are the "same" cross-correlation."""
    windows, length = same_windows(x, kernel.shape[0])
    return windows, shifted_copies(kernel, length)


def _mean_square(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Mean over rows `[rows, T]` and outputs of the square of a "same" cross-correlation, `[F]`."""
    samples = x.shape[-1]
    windows, copies = _read(x, kernel)
    (blocks, width), length = windows.shape[1:], len(copies)
    last = copies * (jnp.arange(length) < samples - (blocks - 1) * length)[:, None, None]
    groups = [(windows, copies)]
    if blocks * length > samples:  # of the last block, only outputs within T count
        groups = [(windows[:, :-1], copies), (windows[:, -1:], last)]
    total = jnp.zeros(kernel.shape[1:], kernel.dtype)
    for read, matrices in groups:
        flat = read.reshape(-1, width)
        gram = jnp.matmul(flat.T, flat, precision=HIGHEST)
        product = jnp.einsum("vw,lwf->lvf", gram, matrices, precision=HIGHEST)
        total = total + jnp.sum(matrices * product, axis=(0, 1))
    return total / x.size


def convolve_valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation along time without padding, over all features at once.

    Args:
        x: `[b, T, inputs]` float, T >= K.
        kernel: `[K, inputs, outputs]`.

    Returns:
        `[b, T - K + 1, outputs]`.

    Example:
        >>> convolve_valid(jnp.arange(4.0).reshape(1, 4, 1), jnp.array([1.0, 10.0]).reshape(2, 1, 1)).ravel()
        Array([10., 21., 32.], dtype=float32)
    """
    size, inputs, outputs = kernel.shape
    length = x.shape[1] - size + 1
    patches = jnp.concatenate([x[:, k : k + length] for k in range(size)], axis=-1)
    return patches @ kernel.reshape(size * inputs, outputs)
