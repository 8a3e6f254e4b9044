r"""DIBmix: hard clusters of rows with continuous and categorical columns that keep the most information about a kernel.

Costa, Papatsouma, Markos. "A Deterministic Information Bottleneck Method for Clustering Mixed-Type Data." Pattern
Recognition 2026, arXiv:2407.03389.

A product kernel over the columns turns each of n rows into a distribution over all rows,

    p(y|x) = K(x, y) / sum_y' K(x, y'),    p(x) = 1/n,

and a labelling t(x) in 1..k is improved by hard information-bottleneck steps, all logarithms natural:

    q(t) = n_t / n,    q(y|t) = mean over x in t of p(y|x),    KL_xt = sum_{y: p, q > 0} p(y|x) log( p(y|x) / q(y|t) )
    m = argmin_t q(t),    beta = max(1, 1e-3 + max_{x in m, t} log( q(m) / q(t) ) / (KL_xm - KL_xt))
    t(x) <- argmax_t [ log q(t) - beta KL_xt ]

over clusters that are not empty; beta is the smallest that lets the smallest cluster keep its points. A cluster left
empty takes the row with the largest score for it, from the clusters of more than one row. Of several starts the one
that keeps the most I(T;Y) = sum_t q(t) KL( q(.|t) || mean_x p(.|x) ) wins.

Bandwidths come from squared distances to the nearest and to the farthest other row: one s for all p continuous columns,

    mean_x exp(nearest_x / 2s^2) = 1.1,    then    xi = min(2, (mean_x exp(farthest_x / 2s^2))^(1/p))

is what equal levels count more than different ones: lambda_j = (L_j - 1) / (L_j - 1 + xi) (aitchison_aitken), 1 / xi
(li_racine), xi^(-1 / (L_j - 1)) (ordered columns: the two ends of the scale). Where xi = 2 and more than half of all
p + q columns are categorical, or on request, xi = 2 - q / (p + q) and mean_x exp(farthest_x / 2s^2) = xi^q gives s.
A constant column says nothing and is none of the p: with it, far^(1/p) would make the categorical columns blind. Where
no continuous column varies, or there is none, xi = 2.

The products with p(y|x) are all that a step needs. They are matrix products shared by all restarts, on the whole matrix
(`dib_mix`) or on blocks of rows whose kernel is computed anew in each (`dib_mix_columns`), so that no n x n array is
stored. An entry of a kernel without bounded support that underflows is kept at the smallest normal number: as a zero
it would drop out of KL_xt and bring far clusters near.

What is returned is in at least float32, whatever half precision came in.

Departures: the released program (amarkos/IBclust) reports bits, and I(T;Y) of the labels that entered the last step;
here nats, of the labels returned. It draws 100 subsamples of at most 1000 rows for the farthest distances and finds s
to 0.05 before rounding; here all rows, exactly. It counts constant columns among the p. Its Epanechnikov rule (ratio
1.04) evaluates that kernel, ours takes the Gaussian's ratio throughout. For wang_van_ryzin it puts 2 - q / (p + q) in
the place of xi. Beyond 1000 rows it offers a Nystrom approximation; blocks of rows need none.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ....core import checks, distances, numerics
from . import _bottleneck as bottleneck
from . import _kernels as kernels


class DIBResult(NamedTuple):
    """A labelling and what it keeps.

    Attributes:
        assignments: `[n]` int32, cluster of each row.
        mutual_information: I(T;Y) of the assignments, nats.
        entropy: H(T), nats.
        beta: of the last step.
        num_iterations: int32, steps taken; the last one changed no label unless their number is the maximum.
        rescued: bool, whether a step left a cluster empty, which was then given a row.
    """

    assignments: jax.Array
    mutual_information: jax.Array
    entropy: jax.Array
    beta: jax.Array
    num_iterations: jax.Array
    rescued: jax.Array


def mixed_conditional(
    continuous: jax.Array | None,
    categorical: jax.Array | None,
    continuous_bandwidths: ArrayLike | None,
    categorical_bandwidths: ArrayLike | None,
    *,
    num_categories: Sequence[int],
    continuous_kernel: str = "gaussian",
    nominal_kernel: str = "aitchison_aitken",
    ordinal: Sequence[int] = (),
    ordinal_kernel: str = "li_racine",
) -> jax.Array:
    """p(y|x) of the product kernel, as a matrix.

    Args:
        continuous: `[n, p]` float, or None. Columns are taken as they are: scale them to unit variance first.
        categorical: `[n, q]` int, codes from 0 of the levels, in their order where it counts; or None.
        continuous_bandwidths: s, `[p]` or scalar, positive.
        categorical_bandwidths: lambda, `[q]` or scalar, in [0, 1], at most (L - 1) / L under aitchison_aitken.
        num_categories: L of each categorical column, static.
        continuous_kernel: "gaussian" or "epanechnikov".
        nominal_kernel: "aitchison_aitken" or "li_racine".
        ordinal: indices of the categorical columns whose levels are ordered, static.
        ordinal_kernel: "li_racine" or "wang_van_ryzin".

    Returns:
        `[n, n]`, row x is p(.|x) and sums to 1; in at least float32.

    Raises:
        ValueError: no columns, shapes that do not fit, an unknown kernel, a bandwidth outside its range, a column of
            one level or a missing value, with the column's index. Values are checked where they are known.

    Example:
        >>> codes = jnp.array([[0], [1], [1]])
        >>> mixed_conditional(None, codes, None, 0.5, num_categories=[2], nominal_kernel="li_racine")
        Array([[0.5 , 0.25, 0.25],
               [0.2 , 0.4 , 0.4 ],
               [0.2 , 0.4 , 0.4 ]], dtype=float32)
    """
    kernel = kernels.make_kernel(num_categories, continuous_kernel, nominal_kernel, ordinal, ordinal_kernel)
    columns, lambdas = kernels.prepare(continuous, categorical, continuous_bandwidths, categorical_bandwidths, kernel)
    return kernels.conditional(columns, columns, lambdas, kernel)


def select_continuous_bandwidth(continuous: jax.Array, *, ratio: ArrayLike = 1.1) -> jax.Array:
    """The bandwidth at which a row counts `ratio` times as much as its nearest neighbour, on average.

    Args:
        continuous: `[n, p]` float, n at least 2, scaled to unit variance.
        ratio: above 1.

    Returns:
        The root s of mean_x exp(nearest_x / 2s^2) = ratio, nearest_x squared Euclidean, rounded down to a tenth, at
        least 0.1 (also where every row has its equal) and at most 100. Scalar; it passes no gradient.

    Raises:
        ValueError: fewer than two rows, a missing value, or a ratio outside its range.

    Example:
        >>> select_continuous_bandwidth(jnp.array([[0.0], [1.0]]))   # 1 / sqrt(2 log 1.1) = 2.29
        Array(2.2, dtype=float32)
    """
    n, _, _ = kernels.check_columns(continuous, None, kernels.Kernel(()))
    _check_two_rows(n)
    checks.in_interval("ratio", ratio, 1.0, jnp.inf, closed="neither")
    _, wide = numerics.float_dtypes(continuous)
    nearest, _ = distances.nearest_and_farthest(continuous.astype(wide))
    return jnp.maximum(kernels.largest_bandwidth(nearest, jnp.log(jnp.asarray(ratio, wide))), 1) / 10


def select_bandwidths(
    continuous: jax.Array | None,
    categorical: jax.Array | None,
    *,
    num_categories: Sequence[int],
    categorical_first: bool = False,
    nominal_kernel: str = "aitchison_aitken",
    ordinal: Sequence[int] = (),
) -> tuple[jax.Array | None, jax.Array]:
    """Bandwidths that weigh continuous and categorical columns alike (see the module's docstring).

    Args:
        continuous: `[n, p]` float, scaled to unit variance, n at least 2; or None.
        categorical: `[n, q]` int, codes from 0; or None.
        num_categories: L of each categorical column, static.
        categorical_first: choose lambda from the share of categorical columns and s after it, as is done anyway where
            these dominate.
        nominal_kernel: "aitchison_aitken" or "li_racine".
        ordinal: indices of the categorical columns whose levels are ordered, static.

    Returns:
        `(s, lambdas)`: scalar, None without continuous columns, and `[q]`. s passes no gradient; it is 0.1 where no
        continuous column varies, which any s leaves as it is.

    Raises:
        ValueError: as `mixed_conditional`, or continuous columns of one row.

    Example:
        >>> select_bandwidths(None, jnp.array([[0], [1], [2]]), num_categories=[3])   # xi = 2
        (None, Array([0.5], dtype=float32))
    """
    kernel = kernels.make_kernel(num_categories, "gaussian", nominal_kernel, ordinal, "li_racine")
    n, p, q = kernels.check_columns(continuous, categorical, kernel)
    if categorical_first and not q:
        raise ValueError("categorical_first needs categorical columns, got none.")
    if continuous is None or not p:
        _, wide = numerics.float_dtypes(1.0)
        return None, kernels.lambdas_at(jnp.asarray(2.0, wide), kernel)
    _check_two_rows(n)
    _, wide = numerics.float_dtypes(continuous)
    continuous = continuous.astype(wide)
    nearest, farthest = distances.nearest_and_farthest(continuous)
    s = jnp.maximum(kernels.largest_bandwidth(nearest, jnp.log(jnp.asarray(1.1, wide))), 1) / 10

    p = jnp.sum(jnp.any(continuous != continuous[0], axis=0))  # of those that vary
    some = (p > 0) & jnp.any(farthest > 0)  # differences may vanish when squared
    p = jnp.maximum(p, 1)
    log_two, log_share = jnp.log(jnp.asarray(2.0, wide)), jnp.log((2 - q / (p + q)).astype(wide))
    log_xi = jnp.where(some, kernels.log_mean_gain(farthest, s) / p, log_two)  # far^(1/p), before it is cut at 2

    lead = jnp.asarray(categorical_first) | ((log_xi >= log_two) & (2 * q > p + q))  # the categorical columns do
    lead &= some
    s = jnp.where(lead, jnp.minimum(kernels.largest_bandwidth(farthest, q * log_share) + 1, 1000) / 10, s)
    return s, kernels.lambdas_at(jnp.exp(jnp.where(lead, log_share, jnp.minimum(log_two, log_xi))), kernel)


def dib_step(conditional: jax.Array, assignments: jax.Array, *, num_clusters: int) -> tuple[jax.Array, jax.Array]:
    """One step: beta from the labels, then new labels.

    Args:
        conditional: `[n, n]` float, row x is p(.|x).
        assignments: `[n]` int, labels 0 to k - 1.
        num_clusters: k, static, from 2 to n.

    Returns:
        `(assignments, beta)`: `[n]` int32, of equal scores the lower cluster, no cluster empty; and scalar, at least 1,
        in at least float32. Differences of KL below rounding count as none.

    Raises:
        ValueError: shapes, num_clusters or known labels outside their range, or known rows that are no distributions.

    Example:
        >>> blobs = mixed_conditional(jnp.array([[0.0], [0.1], [9.0], [9.1]]), None, 1.0, None, num_categories=())
        >>> dib_step(blobs, jnp.array([1, 1, 0, 0]), num_clusters=2)
        (Array([1, 1, 0, 0], dtype=int32), Array(1., dtype=float32))
    """
    _check_clustering(conditional, assignments, num_clusters)
    _, wide = numerics.float_dtypes(conditional)
    labels, beta, _ = _one_step(conditional.astype(wide), assignments.astype(jnp.int32), num_clusters=num_clusters)
    return labels, beta


def dib(conditional: jax.Array, assignments: jax.Array, *, num_clusters: int, max_iterations: int = 100) -> DIBResult:
    """Steps from given labels until none changes.

    Args:
        conditional: `[n, n]` float, row x is p(.|x). The information has its gradient at the labels found.
        assignments: `[n]` int, labels 0 to k - 1.
        num_clusters: k, static, from 2 to n.
        max_iterations: at least 1.

    Returns:
        `DIBResult`.

    Raises:
        ValueError: shapes, num_clusters, max_iterations or known labels outside their range, or known rows that are no
            distributions.

    Example:
        >>> blobs = mixed_conditional(jnp.array([[0.0], [0.1], [9.0], [9.1]]), None, 1.0, None, num_categories=())
        >>> dib(blobs, jnp.array([0, 0, 0, 1]), num_clusters=2).assignments
        Array([0, 0, 1, 1], dtype=int32)
    """
    _check_clustering(conditional, assignments, num_clusters)
    checks.in_interval("max_iterations", max_iterations, 1, jnp.inf)
    _, wide = numerics.float_dtypes(conditional)
    starts = assignments.astype(jnp.int32)[None]
    found = _search_matrix(conditional.astype(wide), starts, num_clusters=num_clusters, max_iterations=max_iterations)
    return _result(found)


def dib_mix(
    conditional: jax.Array, *, key: jax.Array, num_clusters: int, num_restarts: int = 100, max_iterations: int = 100
) -> DIBResult:
    """The best of several balanced random starts, all searched at once.

    Args:
        conditional: `[n, n]` float, row x is p(.|x).
        key: PRNG key of the starts.
        num_clusters: k, static, from 2 to n.
        num_restarts: static, at least 1. Memory is that of a few `[num_restarts, k, n]` arrays.
        max_iterations: at least 1.

    Returns:
        `DIBResult` of the start with the largest I(T;Y) among those that never needed a rescue, if there are any.

    Raises:
        ValueError: shapes, num_clusters, num_restarts or max_iterations outside their range, or known rows that are no
            distributions.

    Example:
        >>> blobs = mixed_conditional(jnp.array([[0.0], [0.1], [9.0], [9.1]]), None, 1.0, None, num_categories=())
        >>> labels = dib_mix(blobs, key=jax.random.key(0), num_clusters=2, num_restarts=5).assignments
        >>> (labels[0] == labels[1]) & (labels[2] == labels[3]) & (labels[0] != labels[2])
        Array(True, dtype=bool)
    """
    n = _check_clustering(conditional, None, num_clusters)
    _, wide = numerics.float_dtypes(conditional)
    starts = _starts(key, n, num_clusters, num_restarts, max_iterations)
    found = _search_matrix(conditional.astype(wide), starts, num_clusters=num_clusters, max_iterations=max_iterations)
    return _result(found)


def dib_mix_columns(
    continuous: jax.Array | None,
    categorical: jax.Array | None,
    continuous_bandwidths: ArrayLike | None,
    categorical_bandwidths: ArrayLike | None,
    *,
    key: jax.Array,
    num_categories: Sequence[int],
    num_clusters: int,
    num_restarts: int = 100,
    max_iterations: int = 100,
    block_size: int | None = None,
    continuous_kernel: str = "gaussian",
    nominal_kernel: str = "aitchison_aitken",
    ordinal: Sequence[int] = (),
    ordinal_kernel: str = "li_racine",
) -> DIBResult:
    """`dib_mix(mixed_conditional(...))` without the n x n matrix, for n beyond 10^4; the same but for rounding.

    Each step goes twice over blocks of rows and computes their kernel anew, O(n^2 (p + q + k num_restarts)).

    Args:
        continuous: this and the other arguments that are not named here as in `mixed_conditional` and `dib_mix`.
        key: PRNG key of the starts; the same starts as those of `dib_mix`.
        block_size: rows of p(y|x) held at once, static: three or so `[block_size, n]` arrays. None: 512 on an
            accelerator, and on a CPU as many as fill a cache of 4 MB.

    Returns:
        `DIBResult`, as `dib_mix`; without gradients.

    Raises:
        ValueError: as `mixed_conditional` and `dib_mix`, or block_size below 1.

    Example:
        >>> x = jnp.array([[0.0], [0.1], [9.0], [9.1]])
        >>> options = dict(key=jax.random.key(0), num_categories=(), num_clusters=2, num_restarts=5, block_size=3)
        >>> dib_mix_columns(x, None, 1.0, None, **options).mutual_information   # log 2
        Array(0.6931..., dtype=float32)
    """
    kernel = kernels.make_kernel(num_categories, continuous_kernel, nominal_kernel, ordinal, ordinal_kernel)
    columns, lambdas = kernels.prepare(continuous, categorical, continuous_bandwidths, categorical_bandwidths, kernel)
    n = columns.continuous.shape[0]
    if block_size is None:
        block_size = max(2**20 // n, 8) if jax.default_backend() == "cpu" else 512
    checks.in_interval("block_size", block_size, 1, jnp.inf)
    checks.in_interval("num_clusters", num_clusters, 2, n)
    starts = _starts(key, n, num_clusters, num_restarts, max_iterations)
    options = dict(kernel=kernel, num_clusters=num_clusters, max_iterations=max_iterations, block_size=block_size)
    return _result(_search_columns(columns, lambdas, starts, **options))


def cluster_information(
    conditional: jax.Array, assignments: jax.Array, *, num_clusters: int
) -> tuple[jax.Array, jax.Array]:
    """What a labelling keeps, and what it costs.

    Args:
        conditional: `[n, n]` float, row x is p(.|x).
        assignments: `[n]` int, labels 0 to k - 1.
        num_clusters: k, static, from 1 to n.

    Returns:
        `(mutual_information, entropy)`: I(T;Y) and H(T), scalars in nats, in at least float32. 0 and 0 for one
        cluster; I(T;Y) is at most H(T), and I(X;Y) where every row is its own cluster.

    Raises:
        ValueError: shapes, num_clusters or known labels outside their range, or known rows that are no distributions.

    Example:
        >>> cluster_information(jnp.eye(4), jnp.array([0, 0, 1, 1]), num_clusters=2)   # log 2 twice
        (Array(0.6931472, dtype=float32), Array(0.6931472, dtype=float32))
    """
    _check_clustering(conditional, assignments, num_clusters, fewest=1)
    _, wide = numerics.float_dtypes(conditional)
    return _information(conditional.astype(wide), assignments.astype(jnp.int32), num_clusters=num_clusters)


@functools.partial(jax.jit, static_argnames="num_clusters")
def _one_step(matrix, labels, *, num_clusters):
    conditional = bottleneck.whole(matrix)
    return bottleneck.step(conditional, bottleneck.marginal(conditional), labels, num_clusters)


@functools.partial(jax.jit, static_argnames="num_clusters")
def _information(matrix, labels, *, num_clusters):
    conditional = bottleneck.whole(matrix)
    return bottleneck.information(conditional, bottleneck.marginal(conditional), labels, num_clusters)


@functools.partial(jax.jit, static_argnames="num_clusters")
def _search_matrix(matrix, starts, *, num_clusters, max_iterations):
    frozen = bottleneck.whole(jax.lax.stop_gradient(matrix))  # a search has no gradient, its information has
    return bottleneck.best_of(frozen, bottleneck.whole(matrix), starts, num_clusters, max_iterations)


@functools.partial(jax.jit, static_argnames=("kernel", "num_clusters", "block_size"))
def _search_columns(columns, lambdas, starts, *, kernel, num_clusters, max_iterations, block_size):
    columns, lambdas = jax.lax.stop_gradient((columns, lambdas))
    conditional = bottleneck.in_blocks(
        lambda rows: kernels.conditional(rows, columns, lambdas, kernel), columns, lambdas.dtype, block_size=block_size
    )
    return bottleneck.best_of(conditional, conditional, starts, num_clusters, max_iterations)


def _starts(key, n, num_clusters, num_restarts, max_iterations):
    checks.in_interval("num_restarts", num_restarts, 1, jnp.inf)
    checks.in_interval("max_iterations", max_iterations, 1, jnp.inf)
    return bottleneck.balanced_labels(key, n, num_clusters, num_restarts)


def _result(found):
    search, kept, entropy = found
    return DIBResult(search.labels, kept, entropy, search.beta, search.num_iterations, search.rescued)


def _check_clustering(conditional, assignments, num_clusters, fewest=2):
    n = checks.shapes(("conditional", conditional, "n n"))["n"]
    if n == 0:
        raise ValueError("conditional must have at least one row, got shape [0, 0].")
    checks.in_interval("num_clusters", num_clusters, fewest, n)
    bottleneck.check_distributions("conditional", conditional)
    if assignments is not None:
        checks.shapes(("conditional", conditional, "n n"), ("assignments", assignments, "n"))
        checks.labels("assignments", assignments, num_clusters)
    return n


def _check_two_rows(n):
    if n < 2:
        raise ValueError(f"continuous must have at least two rows, got {n}.")
