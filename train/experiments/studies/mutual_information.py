"""How much of a known mutual information an estimator reports, on jointly Gaussian views.

The views are those of `lemmata.methods.bounds.demi`: y, a view x of it and a poorer subview x'. Two modes, by
`model.critic`:

- "closed_form": the optimal critics, no training; the estimates over a grid of `data.total_mi` and `data.candidates`.
- "learned": the critics are trained on fresh samples, for one `data.total_mi`. The candidates of an example are its
  batch, so that K is `train.batch_size` in training and `train.eval_batch_size` in the estimate, for all arms alike.

`method.estimator` is the estimate that an arm reports, of the critics psi(x', y) and phi(x', x, y):

- "info_nce": InfoNCE of psi + phi, one critic of both views; both arms thus have the same parameters.
- "demi": InfoNCE of psi plus conditional InfoNCE of phi. Its negatives come from p(y|x') itself, which is known here,
  so that the report is a lower bound whatever phi was trained on.
- "demi_is": the same with marginal negatives and importance weights; not a bound.

`method.conditional` is what phi of the last two is trained on: "importance" (marginal negatives weighted by psi),
"boosted" (psi + phi, psi fixed) or "exact" (negatives from p(y|x')).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ....core.networks.mlp import MLP
from ....methods.bounds import demi
from ...engine.sources import Sampler
from ...engine.task import Metric, Objective, Task, TwoPass
from ...engine.types import ConfigDict
from .. import report
from ..report import ArmResult, mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ESTIMATORS = ("info_nce", "demi", "demi_is")
CONDITIONALS = ("importance", "boosted", "exact")
ROWS_AT_ONCE = 128  # rows whose negatives are drawn together, in closed form: 128 x 255 x 20 floats are 2.6 MB

ESTIMATE = Metric("estimated mutual information", "nats")

Scores = tuple[jax.Array, jax.Array]  # critic values of the positives [n] and of the negatives [n, K - 1]


SMALL = {"data.rows": 128}


def cell_name(total_mi: float, candidates: int) -> str:
    """The metric of one cell of the closed-form grid."""
    return f"estimate_I{total_mi:g}_K{candidates}"


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`."""
    return ConfigDict(dict(
        data=dict(
            dim=20,
            total_mi=(5.0, 10.0, 15.0, 20.0),  # I({x', x}; y), nats
            subview_share=0.5,  # I(x'; y) as a share of it
            candidates=(64, 256),  # K, in closed form
            rows=4096,  # samples of an estimate, in closed form
            claim_from=10.0,  # nats; `error` and `recovered` are means over the cells with at least this total_mi
        ),
        model=dict(critic="closed_form", hidden=(128, 128), embedding=32),
        method=dict(estimator="demi", conditional="importance"),
    ))  # fmt: skip


def METRICS(config: ConfigDict) -> dict[str, Metric]:
    """What `evaluate` or `compute` returns."""
    recovered = Metric("share of the mutual information reported")
    if kind(config) == "build":
        return {"estimate": ESTIMATE, "recovered": recovered}
    cells = {
        cell_name(total_mi, k): Metric(f"estimate where I = {total_mi:g} nats and K = {k}", "nats")
        for total_mi in config.data.total_mi
        for k in config.data.candidates
    }
    if len(cells) < len(config.data.total_mi) * len(config.data.candidates):
        raise ValueError(
            f"data.total_mi and data.candidates must each be distinct as written, got {config.data.total_mi} and "
            f"{config.data.candidates}."
        )
    return {"error": Metric("mean absolute error of the estimate", "nats"), "recovered": recovered} | cells


def kind(config: ConfigDict) -> Literal["build", "compute"]:
    """What a config is for: learned critics are trained, those in closed form are just computed with."""
    if config.model.critic not in ("closed_form", "learned"):
        raise ValueError(f'model.critic must be "closed_form" or "learned", got {config.model.critic!r}.')
    return "build" if config.model.critic == "learned" else "compute"


def estimate(estimator: str, psi: Scores, phi: Scores) -> jax.Array:
    """The estimate of I({x', x}; y) in nats from the scores of both critics."""
    if estimator == "info_nce":
        return demi.info_nce_bound(psi[0] + phi[0], psi[1] + phi[1])
    return demi.demi_bound(*psi, *phi, log_weights=psi[1] if estimator == "demi_is" else None)


def draw_given_subview(noise: jax.Array, x_sub: jax.Array, *, subview_mi: float) -> jax.Array:
    """Turn standard normal `noise [..., d]` into draws of p(y|x') at x_sub `[..., d]` (broadcast)."""
    precision = math.expm1(2 * subview_mi / x_sub.shape[-1])  # of the noise in x'; that of y given x' is one more
    return (precision * x_sub + math.sqrt(1 + precision) * noise) / (1 + precision)


def _checked(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    return value


# ------------------------------------------------------------------------------------------------ closed-form critics


def closed_form_estimates(
    estimator: str,
    *,
    key: jax.Array,
    total_mi: tuple[float, ...],
    subview_share: float,
    candidates: tuple[int, ...],
    rows: int,
    dim: int,
) -> jax.Array:
    """Estimates with the optimal critics, `[len(total_mi), len(candidates)]`, in nats.

    Every row has its own negatives. The cells of a grid share their random draws: each cell is an estimate as good as
    one with its own, and the grid costs no more draws than its largest K.
    """
    view_key, negative_key = jax.random.split(key)
    strengths = [dict(total_mi=mi, subview_mi=subview_share * mi) for mi in total_mi]
    views = [demi.sample_gaussian_subviews(key=view_key, n=rows, dim=dim, **strength) for strength in strengths]
    shape = (2 if estimator == "demi" else 1, max(candidates) - 1, dim)

    def negatives_of_row(row):
        key, views = row
        noise = jax.random.normal(key, shape)
        scores = []
        for (_, x_sub, x_full), strength in zip(views, strengths, strict=True):
            psi, phi = demi.gaussian_subview_critics(noise[0], x_sub, x_full, **strength)  # p(y) is N(0, 1)
            if estimator == "demi":
                y = draw_given_subview(noise[1], x_sub, subview_mi=strength["subview_mi"])
                phi = demi.gaussian_subview_critics(y, x_sub, x_full, **strength)[1]
            scores.append((psi, phi))
        return scores

    keys = jax.random.split(negative_key, rows)
    negatives = jax.lax.map(negatives_of_row, (keys, views), batch_size=min(rows, ROWS_AT_ONCE))

    table = []
    for view, strength, (psi_neg, phi_neg) in zip(views, strengths, negatives, strict=True):
        psi, phi = demi.gaussian_subview_critics(*view, **strength)
        table.append([estimate(estimator, (psi, psi_neg[:, : k - 1]), (phi, phi_neg[:, : k - 1])) for k in candidates])
    return jnp.array(table)


def compute(config: ConfigDict, *, key: jax.Array) -> dict[str, jax.Array]:
    """The estimate of every cell, their mean absolute error, and the mean share of the information they report."""
    data = config.data
    estimator = _checked("method.estimator", config.method.estimator, ESTIMATORS)
    if not data.candidates or min(data.candidates) < 2:
        raise ValueError(f"data.candidates must hold numbers of at least 2, got {data.candidates}.")
    chosen = np.array([mi >= data.claim_from for mi in data.total_mi])
    if not chosen.any():
        raise ValueError(f"data.total_mi must reach data.claim_from ({data.claim_from} nats), got {data.total_mi}.")
    table = closed_form_estimates(
        estimator,
        key=key,
        total_mi=tuple(data.total_mi),
        subview_share=data.subview_share,
        candidates=tuple(data.candidates),
        rows=data.rows,
        dim=data.dim,
    )
    truth = jnp.asarray(data.total_mi)[chosen, None]
    cells = {cell_name(mi, k): table[i, j] for i, mi in enumerate(data.total_mi) for j, k in enumerate(data.candidates)}
    return cells | {
        "error": jnp.mean(jnp.abs(table[chosen] - truth)),
        "recovered": jnp.mean(table[chosen] / truth),
    }


# ---------------------------------------------------------------------------------------------------- learned critics


def in_batch(scores: jax.Array) -> Scores:
    """Scores `[n, n]` of every x with every y: the diagonal is the positives, the rest of a row its negatives."""
    n = scores.shape[0]
    others = np.arange(n - 1) + (np.arange(n - 1) >= np.arange(n)[:, None])
    return jnp.diagonal(scores), jnp.take_along_axis(scores, others, axis=1)


def make_objective(config: ConfigDict) -> Objective:
    """Separable critics psi(x', y) = f(x') . g(y) and phi(x', x, y) = F(x', x) . G(y), each factor an MLP."""
    estimator = _checked("method.estimator", config.method.estimator, ESTIMATORS)
    conditional = _checked("method.conditional", config.method.conditional, CONDITIONALS)
    total_mi = _one_total_mi(config)
    subview_mi = config.data.subview_share * total_mi
    mlp = MLP(features=(*config.model.hidden, config.model.embedding))

    def inputs(batch):
        y, x_sub, x_full = batch
        return {"psi": {"x": x_sub, "y": y}, "phi": {"x": jnp.concatenate([x_sub, x_full], axis=-1), "y": y}}

    def init(key, batch):
        leaves, tree = jax.tree.flatten(inputs(batch))
        keys = jax.random.split(key, len(leaves))
        return tree.unflatten([mlp.init(k, x) for k, x in zip(keys, leaves, strict=True)]), {}

    def embed(params, batch, key, exact, negatives):
        """Both critics' factors, `[n, embedding]` each; if exact, phi at `negatives` draws of p(y|x') for each row."""
        factors = jax.tree.map(lambda x, p: mlp.apply(p, x), inputs(batch), params)
        if not exact:
            return factors
        n, dim = batch[0].shape
        noise = jax.random.normal(key, (n, negatives, dim))
        y = draw_given_subview(noise, batch[1][:, None], subview_mi=subview_mi)
        drawn = jnp.einsum("ne,nme->nm", factors["phi"]["x"], mlp.apply(params["phi"]["y"], y))
        return factors | {"drawn": drawn}

    def scores(factors):
        """Scores of psi and of phi; the negatives are those of the batch, but phi's where they were drawn."""
        psi, phi = (in_batch(factors[critic]["x"] @ factors[critic]["y"].T) for critic in ("psi", "phi"))
        return psi, (phi[0], factors["drawn"]) if "drawn" in factors else phi

    def forward(params, variables, batch, key):
        exact = estimator != "info_nce" and conditional == "exact"
        return embed(params, batch, key, exact, config.train.batch_size - 1)

    def combine(factors, params, variables, batch, key):
        psi, phi = scores(factors)
        if estimator == "info_nce":
            bound = estimate("info_nce", psi, phi)
        elif conditional == "boosted":
            bound = demi.info_nce_bound(*psi) + demi.boosted_critic_bound(*phi, *psi)
        else:
            bound = estimate("demi_is" if conditional == "importance" else "demi", psi, phi)
        return -bound, (variables, {})

    def evaluate(params, variables, batch, key):
        factors = embed(params, batch, key, estimator == "demi", len(batch[0]) - 1)
        value = estimate(estimator, *scores(factors))
        return {"estimate": value, "recovered": value / total_mi}

    return Objective(init, TwoPass(forward, combine), evaluate)


def build(config: ConfigDict) -> Task:
    """Critics trained and tested on fresh samples."""
    total_mi = _one_total_mi(config)
    subview_mi = config.data.subview_share * total_mi

    def sample(key, n):
        return demi.sample_gaussian_subviews(
            key=key, n=n, dim=config.data.dim, total_mi=total_mi, subview_mi=subview_mi
        )

    return Task(make_objective(config), train=Sampler(sample), test=Sampler(sample))


def _one_total_mi(config: ConfigDict) -> float:
    if len(config.data.total_mi) != 1:
        raise ValueError(f"data.total_mi must hold one value where critics are learned, got {config.data.total_mi}.")
    return config.data.total_mi[0]


# ------------------------------------------------------------------------------------------------------------- report


def references(config: ConfigDict) -> dict[str, dict[str, float]]:
    """What learned critics can be held against: the truth, log K, and the optimal critics at the same K."""
    if kind(config) != "build":
        return {}
    data, total_mi = config.data, _one_total_mi(config)
    k = config.train.eval_batch_size or config.train.batch_size

    @jax.jit
    def optimal():
        return [
            closed_form_estimates(
                estimator,
                key=jax.random.key(0),
                total_mi=(total_mi,),
                subview_share=data.subview_share,
                candidates=(k,),
                rows=data.rows,
                dim=data.dim,
            )[0, 0]
            for estimator in ("info_nce", "demi")
        ]

    info_nce, with_demi = (float(value) for value in optimal())
    lines = {"true MI": total_mi, "log K": math.log(k), "optimal InfoNCE": info_nce, "optimal DEMI": with_demi}
    return {"estimate": lines}


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """Learned: the estimate over training. Closed form: the estimate against the truth, one panel a K."""
    if kind(config) == "build":
        return report.comparison_figure(config, results, METRICS(config), references(config))
    total_mi, candidates = config.data.total_mi, config.data.candidates
    drawing, axes = report.new_figure(3.6 * len(candidates) + 0.4, 4.2, panels=len(candidates))
    for ax, k in zip(axes, candidates, strict=True):
        ax.plot(total_mi, total_mi, color=report.GREY, linewidth=1.0, label="true MI")
        ax.axhline(math.log(k), color=report.GREY, linewidth=1.0, linestyle=(0, (5, 3)), label="log K")
        ax.axhline(2 * math.log(k), color=report.GREY, linewidth=1.0, linestyle=":", label="2 log K")
        for arm, color in report.arm_colors(results).items():
            seeds = np.stack([results[arm].metrics[cell_name(mi, k)] for mi in total_mi], axis=-1)
            mean, low, high = mean_interval(seeds)
            ax.plot(total_mi, mean, "o-", color=color, linewidth=1.8, markersize=5, label=arm)
            ax.fill_between(total_mi, low, high, color=color, alpha=0.2, linewidth=0)
        ax.set_title(f"K = {k} candidates", fontsize=10)
        ax.set_xlabel("true mutual information [nats]")
        ax.set_xticks(total_mi)
    axes[0].set_ylabel(report.axis_label("estimate", {"estimate": ESTIMATE}))
    axes[0].legend(frameon=False, fontsize=9)
    drawing.suptitle(report.title("Estimates with the optimal critics", config, results), fontsize=11)
    return drawing
