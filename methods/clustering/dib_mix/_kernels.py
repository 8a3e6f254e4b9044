r"""Kernels of pairs of rows whose columns are continuous, nominal or ordinal.

A product kernel has one factor a column. Every factor is largest where its two values are equal; here it is divided by
that largest value and its logarithm taken, so that equal rows have 0, others less, and a value beyond the support -inf:

    gaussian            -z^2 / 2,  z = (x - y) / s             epanechnikov        log max(0, 1 - z^2 / 5)
    aitchison_aitken    log lambda / ((L - 1) (1 - lambda))    li_racine           log lambda
    li_racine, ordered  |x - y| log lambda                     wang_van_ryzin      log 1/2 + |x - y| log lambda

The second and the third line are for two different levels x, y of a column of L levels; the third for ordered ones.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ....core import checks, numerics

CONTINUOUS = ("gaussian", "epanechnikov")
NOMINAL = ("aitchison_aitken", "li_racine")
ORDINAL = ("li_racine", "wang_van_ryzin")


class Columns(NamedTuple):
    """Rows of mixed type: `continuous` `[n, p]`, each column divided by its bandwidth, `categorical` `[n, q]` int."""

    continuous: jax.Array
    categorical: jax.Array


class Kernel(NamedTuple):
    """A product kernel: what is static about it."""

    num_categories: tuple[int, ...]  # L of each categorical column
    continuous: str = "gaussian"
    nominal: str = "aitchison_aitken"
    ordinal: str = "li_racine"
    ordinal_columns: tuple[int, ...] = ()  # which categorical columns are ordered


def make_kernel(
    num_categories: Sequence[int], continuous: str, nominal: str, ordinal_columns: Sequence[int], ordinal: str
) -> Kernel:
    """A `Kernel` from arguments that may be lists."""
    return Kernel(tuple(num_categories), continuous, nominal, ordinal, tuple(ordinal_columns))


def lambdas_at(xi: jax.Array, kernel: Kernel) -> jax.Array:
    """Bandwidths `[q]` at which equal levels count xi times as much as different ones, or as the ends of a scale.

    A wang_van_ryzin factor, which halves whatever is not equal, gets those of li_racine.
    """
    levels = jnp.asarray(kernel.num_categories, xi.dtype)
    nominal = (levels - 1) / (levels - 1 + xi) if kernel.nominal == "aitchison_aitken" else 1 / xi
    is_ordered = jnp.asarray([j in kernel.ordinal_columns for j in range(len(kernel.num_categories))], bool)
    return jnp.where(is_ordered, xi ** (-1 / (levels - 1)), nominal)


def log_mean_gain(squared: jax.Array, s: jax.Array) -> jax.Array:
    """How much more a gaussian factor counts a row than another, log mean_x exp(squared_x / 2s^2)."""
    return jax.nn.logsumexp(squared / (2 * s**2)) - jnp.log(jnp.asarray(squared.size, squared.dtype))


@jax.jit
def largest_bandwidth(squared: jax.Array, log_gain: jax.Array) -> jax.Array:
    """The largest of 0.1, 0.2, ..., 100 at which `log_mean_gain` reaches a value, in tenths; 0 if none. No gradient."""
    squared = jax.lax.stop_gradient(squared)

    def halve(_, ends):
        low, high = ends  # reached at low tenths, not at high: the gain falls with s
        middle = (low + high) // 2
        reached = log_mean_gain(squared, middle.astype(squared.dtype) / 10) >= log_gain
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    low, _ = jax.lax.fori_loop(0, 10, halve, (jnp.int32(0), jnp.int32(1001)))
    return low.astype(squared.dtype)


def log_product(x: Columns, y: Columns, lambdas: jax.Array, kernel: Kernel) -> jax.Array:
    """Log of the product kernel of every row of `x` with every row of `y`, relative to that of equal rows.

    Args:
        x: b rows.
        y: n rows.
        lambdas: `[q]` float, bandwidths of the categorical columns; 0 tells levels apart for certain.
        kernel: the factors.

    Returns:
        `[b, n]` of the continuous columns' dtype, at most 0.

    Example:
        >>> rows = Columns(jnp.array([[0.0], [2.0]]), jnp.array([[0], [1]]))
        >>> log_product(rows, rows, jnp.array([1.0]), Kernel((2,), nominal="li_racine"))
        Array([[ 0., -2.],
               [-2.,  0.]], dtype=float32)
    """
    dtype = x.continuous.dtype
    total = jnp.zeros((x.continuous.shape[0], y.continuous.shape[0]), dtype)
    for j in range(x.continuous.shape[1]):  # one fused pass over the pairs; a sum over a trailing axis is much slower
        squared = jnp.square(x.continuous[:, j, None] - y.continuous[None, :, j])
        if kernel.continuous == "gaussian":
            total -= squared / 2
        else:
            inside = squared < 5
            total += jnp.where(inside, jnp.log1p(-jnp.where(inside, squared, 0.0) / 5), -jnp.inf)
    if kernel.continuous == "gaussian":  # positive everywhere: a square beyond the largest float is no end of a support
        total = jnp.maximum(total, jnp.finfo(dtype).min / 4)
    for j, levels in enumerate(kernel.num_categories):
        gap = jnp.abs(x.categorical[:, j, None] - y.categorical[None, :, j])
        total += jnp.where(gap == 0, 0.0, _log_unequal(gap, lambdas[j], levels, j in kernel.ordinal_columns, kernel))
    return total


def _log_unequal(gap, lam, levels, is_ordinal, kernel):
    if not is_ordinal:
        return jnp.log(lam / ((levels - 1) * (1 - lam)) if kernel.nominal == "aitchison_aitken" else lam)
    halved = jnp.log(0.5) if kernel.ordinal == "wang_van_ryzin" else 0.0
    return halved + gap.astype(lam.dtype) * jnp.log(lam)


@functools.partial(jax.jit, static_argnames="kernel")
def conditional(x: Columns, y: Columns, lambdas: jax.Array, kernel: Kernel) -> jax.Array:
    """p(y|x) `[b, n]`, the product kernel of rows x divided by its sum over all rows y.

    Where the kernel is positive so is p, whatever its exponent: what underflows is the smallest normal number. A row
    without any y in its support, which none of the y can be, is zero.
    """
    log_k = log_product(x, y, lambdas, kernel)
    k = jnp.exp(log_k)
    total = jnp.sum(k, axis=1, keepdims=True)
    p = k / jnp.where(total > 0, total, 1.0)
    return jnp.where(jnp.isneginf(log_k), 0.0, jnp.maximum(p, jnp.finfo(p.dtype).tiny))


def prepare(
    continuous: jax.Array | None,
    categorical: jax.Array | None,
    bandwidths: ArrayLike | None,
    lambdas: ArrayLike | None,
    kernel: Kernel,
) -> tuple[Columns, jax.Array]:
    """Columns and bandwidths, checked and as `log_product` takes them.

    Args:
        continuous: `[n, p]` float or None.
        categorical: `[n, q]` int or None.
        bandwidths: `[p]` or scalar, positive.
        lambdas: `[q]` or scalar.
        kernel: the factors.

    Returns:
        `(columns, lambdas)`: both of at least float32, `lambdas` `[q]`. Continuous columns are those less their first
        row, which no difference knows of: far from zero, division by the bandwidth would round the differences away.

    Raises:
        ValueError: as `check_columns`, `check_kernel` and `check_bandwidths`, or bandwidths so small that a column
            divided by its own passes the largest float.
    """
    n, p, q = check_columns(continuous, categorical, kernel)
    check_bandwidths(bandwidths, lambdas, kernel, p=p)
    floats = [x for x, count in ((continuous, p), (bandwidths, p), (lambdas, q)) if count and x is not None]
    _, wide = numerics.float_dtypes(*floats)
    scaled, codes = jnp.zeros((n, 0), wide), jnp.zeros((n, 0), jnp.int32)
    if continuous is not None and p:
        rows = continuous.astype(wide)
        scaled = (rows - rows[:1]) / jnp.asarray(bandwidths, wide)
        if checks.is_known(scaled) and not bool(jnp.isfinite(scaled).all()):
            least = float(jnp.min(jnp.asarray(bandwidths)))
            raise ValueError(f"continuous_bandwidths must be of the size of the columns' differences, got {least:g}.")
    if categorical is not None and q:
        codes = categorical.astype(jnp.int32)
    return Columns(scaled, codes), jnp.broadcast_to(jnp.asarray(lambdas if q else 0.0, wide), (q,))


def check_kernel(kernel: Kernel, *, q: int) -> None:
    """Check names, levels and which columns are ordered, against q categorical columns.

    Raises:
        ValueError: naming the argument as the public functions call it.
    """
    for name, value, known in (
        ("continuous_kernel", kernel.continuous, CONTINUOUS),
        ("nominal_kernel", kernel.nominal, NOMINAL),
        ("ordinal_kernel", kernel.ordinal, ORDINAL),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    if len(kernel.num_categories) != q:
        raise ValueError(
            f"num_categories must have one entry a categorical column, {q}, got {list(kernel.num_categories)}."
        )
    for j, levels in enumerate(kernel.num_categories):
        if levels < 2:
            raise ValueError(f"num_categories must be at least 2, got {levels} for categorical column {j}: drop it.")
    if not set(kernel.ordinal_columns) <= set(range(q)):
        raise ValueError(
            f"ordinal must hold indices of the {q} categorical columns, got {list(kernel.ordinal_columns)}."
        )


def check_columns(continuous: jax.Array | None, categorical: jax.Array | None, kernel: Kernel) -> tuple[int, int, int]:
    """Check rows of mixed type and their kernel. Values are looked at where they are known.

    Args:
        continuous: `[n, p]` float or None.
        categorical: `[n, q]` int or None, level codes from 0.
        kernel: the factors.

    Returns:
        `(n, p, q)`.

    Raises:
        ValueError: no columns or rows; shapes that do not fit; a missing value (NaN, or a code that is no level) or a
            categorical column of one level, each with the column's index; what `check_kernel` raises.
    """
    given = [
        (name, array, axes)
        for name, array, axes in (("continuous", continuous, "n p"), ("categorical", categorical, "n q"))
        if array is not None
    ]
    if not given:
        raise ValueError("continuous and categorical must not both be None.")
    sizes = {"p": 0, "q": 0} | checks.shapes(*given)
    n, p, q = sizes["n"], sizes["p"], sizes["q"]
    if n == 0 or p + q == 0:
        raise ValueError(f"{given[0][0]} must have at least one row and one column, got shape [{n}, {p + q}].")
    if categorical is not None and not jnp.issubdtype(jnp.result_type(categorical), jnp.integer):
        raise ValueError(f"categorical must hold integer codes of levels, got {jnp.result_type(categorical)}.")
    if continuous is not None and checks.is_known(continuous):
        _check_finite(np.asarray(continuous, np.float64))
    check_kernel(kernel, q=q)
    if categorical is not None and checks.is_known(categorical):
        _check_codes(np.asarray(categorical), kernel.num_categories)
    return n, p, q


def _check_finite(values: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        what = "a missing value (NaN)" if np.isnan(values[row, column]) else "an infinite value"
        raise ValueError(f"continuous must be finite, got {what} in column {column}, row {row}.")


def _check_codes(codes: np.ndarray, num_categories: Sequence[int]) -> None:
    for column, levels in enumerate(num_categories):
        values = codes[:, column]
        bad = np.flatnonzero((values < 0) | (values >= levels))
        if len(bad):
            raise ValueError(
                f"categorical must hold codes 0 to {levels - 1} in column {column}, got {values[bad[0]]} in row "
                f"{bad[0]} (a missing value?)."
            )
        if len(values) > 1 and np.all(values == values[0]):
            raise ValueError(f"categorical must have at least two levels in column {column}, got {values[0]} alone.")


def check_bandwidths(bandwidths: ArrayLike | None, lambdas: ArrayLike | None, kernel: Kernel, *, p: int) -> None:
    """Check bandwidths: those of p continuous columns, positive, and `lambdas` in the range of each column's factor.

    Raises:
        ValueError: naming the argument as the public functions call it.
    """
    for name, value, count in (
        ("continuous_bandwidths", bandwidths, p),
        ("categorical_bandwidths", lambdas, len(kernel.num_categories)),
    ):
        if not count:
            continue
        if value is None:
            raise ValueError(f"{name} must be given for {count} columns, got None.")
        if jnp.shape(value) not in ((), (count,)):
            raise ValueError(f"{name} must have shape [] or [{count}], got shape {list(jnp.shape(value))}.")
    if p and bandwidths is not None:
        checks.in_interval("continuous_bandwidths", bandwidths, 0.0, jnp.inf, closed="neither")
    if not kernel.num_categories or lambdas is None or not checks.is_known(lambdas):
        return
    slack = 1 + float(jnp.finfo(numerics.float_dtypes(jnp.asarray(lambdas))[0]).eps)  # (L - 1) / L may be rounded up
    values = np.broadcast_to(np.asarray(lambdas, np.float64), len(kernel.num_categories))
    for j, levels in enumerate(kernel.num_categories):
        bounded = kernel.nominal == "aitchison_aitken" and j not in kernel.ordinal_columns
        high = (levels - 1) / levels if bounded else 1.0
        checks.in_interval(f"categorical_bandwidths[{j}]", values[j], 0.0, high * slack)
