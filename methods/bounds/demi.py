r"""DEMI: mutual information as a sum of two contrastive bounds, so that more than log K nats can be seen.

Sordoni, Dziri, Schulz, Gordon, Bachman, Tachet des Combes. "Decomposed Mutual Information Estimation for Contrastive
Representation Learning." ICML 2021, arXiv:2106.13401.

InfoNCE with K = m + 1 candidates (one positive, m negatives) cannot exceed log K. With a subview x' = t(x), which holds
less than x does, the chain rule gives

    I(x; y) = I(x'; y) + I(x; y | x'),

each term has a bound with its own candidates, and their sum can reach 2 log K:

    I_NCE(x'; y)     = E[ psi_1 - log (1/K) sum_k exp psi_k ],    y_1 given x', x;   y_2..K ~ p(y)
    I_CNCE(x; y|x')  = E[ phi_1 - log (1/K) sum_k exp phi_k ],    y_1 given x', x;   y_2..K ~ p(y|x')

for critics psi(x', y) and phi(x', x, y). Where p(y|x') cannot be sampled:

    variational   y_2..K ~ q(y|x'), and E KL(p(y|x') || q(y|x')) is subtracted;
    I_IS          y_2..K ~ p(y), w_k = exp psi_k / sum_{l=2..K} exp psi_l (psi without gradient),
                  E[ phi_1 - log (1/K) ( exp phi_1 + (K - 1) sum_{k=2..K} w_k exp phi_k ) ];
    I_BO          y_2..K ~ p(y), InfoNCE of the critic psi + phi (psi without gradient).

I_BO bounds the *whole* of I(x; y) and serves to learn phi: adding it to I_NCE would count the first term twice. I_IS is
a bound only in the limit of an optimal psi and large K; its bias can take it above the truth.

Critic values come as `pos [n]` and `neg [n, m]`: the positive and the negatives of each row. With in-batch negatives
and scores S, pos is the diagonal of S and neg the rest of each row. To train, minimise minus the bound. A -inf in neg
masks a candidate: it adds nothing to the sum, but K stays m + 1. With m = 0 every bound is log 1 = 0. A bound is a mean
over the n rows, on all devices where they are sharded.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ...core import checks, numerics


def info_nce_bound(pos: jax.Array, neg: jax.Array) -> jax.Array:
    """I_NCE, a lower bound of I(x'; y) when the negatives come from p(y).

        mean_i( pos_i - log (1/K) (exp pos_i + sum_k exp neg_ik) ),    K = m + 1

    Args:
        pos: `[n]` float, critic at the pairs that belong together; finite.
        neg: `[n, m]` float, critic at the negatives; -inf masks a candidate, and K does not shrink.

    Returns:
        Scalar in nats, at most log(m + 1), in at least float32; 0 if m = 0. It does not change when
        a row of pos and neg moves by a constant.

    Raises:
        ValueError: shapes other than `[n]` and `[n, m]`, or no row.

    Example:
        >>> info_nce_bound(jnp.array([9.0, 9.0]), jnp.zeros((2, 3)))   # below log 4 = 1.3863
        Array(1.3859..., dtype=float32)
    """
    _check_rows(pos, neg)
    _, wide = numerics.float_dtypes(pos, neg)
    return _mean_log_ratio(_margins(pos, neg, wide))


def conditional_info_nce_bound(pos: jax.Array, neg: jax.Array, *, proposal_kl: ArrayLike = 0.0) -> jax.Array:
    """I_CNCE, a lower bound of I(x; y | x') when the negatives come from p(y | x'), or from a proposal q(y | x').

        I_NCE(pos, neg) - mean( KL(p(y|x') || q(y|x')) )

    Args:
        pos: `[n]` float, critic phi(x', x, y) at the pairs that belong together; finite.
        neg: `[n, m]` float, phi at negatives drawn given x'; -inf masks a candidate, and K does not shrink.
        proposal_kl: scalar or `[n]`, in nats, the divergence of the proposal at each x'; 0 where q = p.

    Returns:
        Scalar in nats, in at least float32.

    Raises:
        ValueError: shapes other than these, or no row.

    Example:
        >>> conditional_info_nce_bound(jnp.zeros(2), jnp.zeros((2, 3)), proposal_kl=jnp.array([0.25, 0.75]))
        Array(-0.5, dtype=float32)
    """
    _check_rows(pos, neg)
    if jnp.ndim(proposal_kl) > 0:
        checks.shapes(("pos", pos, "n"), ("proposal_kl", proposal_kl, "n"))
    _, wide = numerics.float_dtypes(pos, neg, proposal_kl)
    bound = _mean_log_ratio(_margins(pos, neg, wide))
    return bound - jnp.mean(jnp.asarray(proposal_kl, wide))


def importance_sampled_bound(pos: jax.Array, neg: jax.Array, log_weights: jax.Array) -> jax.Array:
    """I_IS, an estimate of I(x; y | x') from negatives of p(y), reweighted towards p(y | x').

        mean_i( pos_i - log (1/K) (exp pos_i + m sum_k w_ik exp neg_ik) ),    w_i = softmax(log_weights_i)

    Args:
        pos: `[n]` float, critic phi(x', x, y) at the pairs that belong together; finite.
        neg: `[n, m]` float, phi at negatives drawn from p(y); -inf masks a candidate, and K does not shrink.
        log_weights: `[n, m]` float, psi(x', y_k) of the same negatives, the critic of the first term. It gets no
            gradient. The weights sum to one over all m; a candidate with -inf here takes no share of them, and if
            every one has, their sum counts as zero.

    Returns:
        Scalar in nats, in at least float32. With equal log_weights it is `info_nce_bound(pos, neg)`.

    Raises:
        ValueError: shapes other than these, or no row.

    Example:
        >>> importance_sampled_bound(jnp.zeros(1), jnp.zeros((1, 3)), jnp.array([[5.0, 0.0, -jnp.inf]]))
        Array(0., dtype=float32)
    """
    _check_rows(pos, neg)
    checks.shapes(("neg", neg, "n m"), ("log_weights", log_weights, "n m"))
    _, wide = numerics.float_dtypes(pos, neg, log_weights)
    log_w = numerics.log_normalize(jax.lax.stop_gradient(log_weights.astype(wide)))
    log_m = jnp.log(jnp.asarray(max(neg.shape[1], 1), wide))
    return _mean_log_ratio(_margins(pos, neg, wide) + (log_w + log_m))


def boosted_critic_bound(pos: jax.Array, neg: jax.Array, base_pos: jax.Array, base_neg: jax.Array) -> jax.Array:
    """I_BO, a lower bound of the whole I(x; y): InfoNCE of psi + phi with psi held fixed.

    Minus this is the loss that teaches phi the conditional part from negatives of p(y). I_BO - I_NCE estimates
    I(x; y | x'); do not add I_BO to I_NCE.

    Args:
        pos: `[n]` float, phi at the pairs that belong together.
        neg: `[n, m]` float, phi at the negatives; -inf masks a candidate, and K does not shrink.
        base_pos: `[n]` float, psi at the pairs that belong together. No gradient.
        base_neg: `[n, m]` float, psi at the negatives. No gradient.

    Returns:
        Scalar in nats, at most log(m + 1), in at least float32.

    Raises:
        ValueError: shapes other than these, or no row.

    Example:
        >>> boosted_critic_bound(jnp.ones(2), jnp.zeros((2, 3)), -jnp.ones(2), jnp.zeros((2, 3)))
        Array(0., dtype=float32)
    """
    _check_rows(pos, neg)
    checks.shapes(("pos", pos, "n"), ("neg", neg, "n m"), ("base_pos", base_pos, "n"), ("base_neg", base_neg, "n m"))
    _, wide = numerics.float_dtypes(pos, neg, base_pos, base_neg)
    base = jax.lax.stop_gradient(_margins(base_pos, base_neg, wide))
    return _mean_log_ratio(base + _margins(pos, neg, wide))


def demi_bound(
    base_pos: jax.Array,
    base_neg: jax.Array,
    pos: jax.Array,
    neg: jax.Array,
    *,
    log_weights: jax.Array | None = None,
    proposal_kl: ArrayLike = 0.0,
) -> jax.Array:
    """I_DEMI = I_NCE(x'; y) + I(x; y | x'), the second term as I_CNCE or, given log_weights, as I_IS.

    Args:
        base_pos: `[n]` float, psi(x', y) at the pairs that belong together.
        base_neg: `[n, m]` float, psi at negatives from p(y).
        pos: `[n]` float, phi(x', x, y) at the pairs that belong together.
        neg: `[n, m']` float, phi at the negatives of the second term; m' may differ from m. Drawn given x', or from
            p(y) if log_weights is given. -inf in either masks a candidate, and K does not shrink.
        log_weights: `[n, m']` float, psi at the negatives of the second term; no gradient. See
            `importance_sampled_bound`.
        proposal_kl: scalar or `[n]`, see `conditional_info_nce_bound`. Has no part where log_weights is given.

    Returns:
        Scalar in nats, at most log(m + 1) + log(m' + 1) without log_weights, in at least float32.

    Raises:
        ValueError: shapes other than these, or no row.

    Example:
        >>> pos, neg = jnp.array([30.0]), jnp.zeros((1, 3))
        >>> demi_bound(pos, neg, pos, neg)   # 2 log 4
        Array(2.7725..., dtype=float32)
    """
    checks.shapes(("base_pos", base_pos, "n"), ("pos", pos, "n"))
    _check_rows(base_pos, base_neg, prefix="base_")
    second_kwarg = proposal_kl if log_weights is None else log_weights
    _, wide = numerics.float_dtypes(base_pos, base_neg, pos, neg, second_kwarg)
    base_pos, base_neg, pos, neg = (values.astype(wide) for values in (base_pos, base_neg, pos, neg))
    if log_weights is None:
        second = conditional_info_nce_bound(pos, neg, proposal_kl=proposal_kl)
    else:
        second = importance_sampled_bound(pos, neg, log_weights)
    return info_nce_bound(base_pos, base_neg) + second


def gaussian_subview_critics(
    y: jax.Array, x_sub: jax.Array, x_full: jax.Array, *, total_mi: ArrayLike, subview_mi: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """The optimal critics of the Gaussian set-up of `sample_gaussian_subviews`, as exact log density ratios.

        psi = log p(y|x') / p(y),    phi = log p(y|x,x') / p(y|x'),    summed over d independent dimensions, with
        p(y|x')   = N( p1 x' / (1 + p1), 1 / (1 + p1) ),                   p1 = exp(2 I'/d) - 1,
        p(y|x,x') = N( (p1 x' + p2 x) / (1 + p1 + p2), 1 / (1 + p1 + p2) ),   p2 = exp(2 I/d) - exp(2 I'/d).

    Args:
        y: `[..., d]` float, the target.
        x_sub: `[..., d]` float, the subview x'.
        x_full: `[..., d]` float, the view x. Leading axes broadcast: with `y[None]`, `x_sub[:, None]` and
            `x_full[:, None]` all pairs are scored.
        total_mi: I = I({x, x'}; y), scalar, nats over all d dimensions.
        subview_mi: I' = I(x'; y), scalar, nats, in [0, I].

    Returns:
        `(psi, phi)`, each of the broadcast leading shape, nats, in at least float32.

    Raises:
        ValueError: another d, or subview_mi outside [0, total_mi].

    Example:
        >>> gaussian_subview_critics(jnp.zeros(20), jnp.zeros(20), jnp.zeros(20), total_mi=9.0, subview_mi=4.0)
        (Array(4., dtype=float32), Array(5., dtype=float32))
    """
    dim = checks.shapes(("y", y, "... d"), ("x_sub", x_sub, "... d"), ("x_full", x_full, "... d"))["d"]
    _check_information(total_mi, subview_mi)
    _, wide = numerics.float_dtypes(y, x_sub, x_full)
    y, x_sub, x_full = (values.astype(wide) for values in (y, x_sub, x_full))
    total, sub = jnp.asarray(total_mi, wide), jnp.asarray(subview_mi, wide)
    p1, p2 = _noise_precisions(total, sub, dim)

    given_nothing = jnp.square(y)
    given_sub = (1 + p1) * jnp.square(y - p1 * x_sub / (1 + p1))
    given_both = (1 + p1 + p2) * jnp.square(y - (p1 * x_sub + p2 * x_full) / (1 + p1 + p2))
    psi = sub + jnp.sum(given_nothing - given_sub, axis=-1) / 2  # the log determinants are I' and I - I'
    phi = (total - sub) + jnp.sum(given_sub - given_both, axis=-1) / 2
    shape = jnp.broadcast_shapes(psi.shape, phi.shape)
    return jnp.broadcast_to(psi, shape), phi


def sample_gaussian_subviews(
    *, key: jax.Array, n: int, dim: int = 20, total_mi: ArrayLike = 10.0, subview_mi: ArrayLike = 5.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Jointly Gaussian y, x', x of known mutual information: y ~ N(0, 1), x' = y + e1, x = y + e2 in each dimension.

    The noises are independent, of precisions p1 and p2 (see `gaussian_subview_critics`), so that I(x'; y) = I' and
    I({x, x'}; y) = I over all dimensions.

    Args:
        key: PRNG key; split in three, for y, e1 and e2 in that order.
        n: number of rows, static, at least 1.
        dim: d, static, at least 1.
        total_mi: I, scalar, nats.
        subview_mi: I', scalar, nats, in [0, I].

    Returns:
        `(y, x_sub, x_full)`, each `[n, dim]` of the default float dtype. A view of precision 0 would be y lost in
        infinite noise; it is N(0, 1), independent of y, which says as much.

    Raises:
        ValueError: n or dim below 1, or subview_mi outside [0, total_mi].

    Example:
        >>> y, x_sub, x_full = sample_gaussian_subviews(key=jax.random.key(0), n=4096)
        >>> psi, phi = gaussian_subview_critics(y, x_sub, x_full, total_mi=10.0, subview_mi=5.0)   # means near 5, 5
    """
    checks.in_interval("n", n, 1, jnp.inf)
    checks.in_interval("dim", dim, 1, jnp.inf)
    _check_information(total_mi, subview_mi)
    key_y, *view_keys = jax.random.split(key, 3)
    y = jax.random.normal(key_y, (n, dim))

    def view(key, precision):
        noise = jax.random.normal(key, (n, dim))
        informative = precision > 0
        return jnp.where(informative, y + noise * jax.lax.rsqrt(jnp.where(informative, precision, 1.0)), noise)

    precisions = _noise_precisions(jnp.asarray(total_mi, y.dtype), jnp.asarray(subview_mi, y.dtype), dim)
    x_sub, x_full = map(view, view_keys, precisions)
    return y, x_sub, x_full


def _margins(pos, neg, dtype):
    """`[n, m]`: how far each negative scores above its positive; all that a bound depends on."""
    return neg.astype(dtype) - pos.astype(dtype)[:, None]


def _mean_log_ratio(margins):
    """Mean of log( K exp pos / (exp pos + sum_k exp neg_k) ), the posterior of the positive over its prior 1/K."""
    highest = jax.lax.stop_gradient(jnp.max(margins, axis=-1, initial=0.0))
    total = jnp.exp(-highest) + jnp.sum(jnp.exp(margins - highest[:, None]), axis=-1)
    return jnp.mean(-highest - jnp.log(total / (margins.shape[1] + 1)))  # equal scores: the log of exactly 1


def _noise_precisions(total, sub, dim):
    p1 = jnp.expm1(2 * sub / dim)
    p2 = jnp.exp(2 * sub / dim) * jnp.expm1(2 * (total - sub) / dim)
    return p1, p2


def _check_rows(pos, neg, prefix=""):
    sizes = checks.shapes((f"{prefix}pos", pos, "n"), (f"{prefix}neg", neg, "n m"))
    if sizes["n"] == 0:
        raise ValueError(f"{prefix}pos must have at least one row, got shape [0].")


def _check_information(total_mi, subview_mi):
    checks.in_interval("subview_mi", subview_mi, 0.0, jnp.inf, closed="left")
    checks.in_interval("total_mi", total_mi, subview_mi, jnp.inf, closed="left")
