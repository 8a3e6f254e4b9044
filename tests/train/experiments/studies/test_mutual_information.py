"""Mutual information: the card's measured figures, the bounds' limits, and what trains what."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lemmata.methods.bounds import demi
from lemmata.train.experiments.report import ArmResult
from lemmata.train.experiments.studies import mutual_information as mi
from lemmata.train.judge import config as configs


def make_config(*, critic="closed_form", estimator="demi", conditional="importance", **data):
    config = configs.defaults()
    for section, values in mi.defaults().items():
        config[section] = values
    config.model.critic, config.method.estimator, config.method.conditional = critic, estimator, conditional
    with config.data.ignore_type():
        config.data.update(data)
    config.claim = ConfigDict(dict(metric="error", better="demi", than="info_nce", direction="lower", paper=""))
    return config


def computed(config):
    return jax.jit(lambda key: mi.compute(config, key=key))(jax.random.key(0))


def learned(estimator="demi", conditional="importance", **data):
    config = make_config(
        critic="learned", estimator=estimator, conditional=conditional, **{"dim": 4, "total_mi": (4.0,)} | data
    )
    config.model.hidden, config.model.embedding, config.train.batch_size = (32,), 8, 16
    return config


def started(config, *, n=16, seed=0):
    task = mi.build(config)
    batch = task.train.sample(jax.random.key(seed), n)
    params, variables = task.objective.init(jax.random.key(seed + 1), batch)
    return task.objective, params, variables, batch


# ------------------------------------------------------------------------------------------------ closed-form critics

CARD = {  # measured in float64 with 2048 rows: (I, K) -> nats
    "info_nce": {(5, 256): 4.16, (10, 256): 5.42, (15, 256): 5.54, (20, 64): 4.16},
    "demi": {(5, 256): 4.79, (10, 256): 8.29, (15, 256): 10.16, (20, 64): 8.24},
    "demi_is": {(5, 256): 5.10, (10, 256): 9.01, (15, 256): 10.56, (20, 64): 8.28},
}


@pytest.mark.parametrize("estimator", mi.ESTIMATORS)
def test_closed_form_gives_the_known_figures(estimator):
    config = make_config(estimator=estimator, rows=1024)
    cells = computed(config)
    for (total_mi, k), expected in CARD[estimator].items():
        # 1024 and 2048 rows of standard deviation 2 nats or less: 0.15 is two standard errors of the difference
        assert abs(float(cells[mi.cell_name(total_mi, k)]) - expected) < 0.15
    limit = {"info_nce": 1, "demi": 2, "demi_is": 2}[estimator]
    for k in config.data.candidates:
        assert all(cells[mi.cell_name(total_mi, k)] <= limit * math.log(k) + 1e-4 for total_mi in config.data.total_mi)


def test_error_and_recovered_are_means_over_the_claimed_cells():
    config = make_config(total_mi=(2.0, 4.0, 6.0), claim_from=4.0, candidates=(8, 16), rows=64, dim=3)
    got = computed(config)
    cells = [(i, float(got[mi.cell_name(i, k)])) for i in (4.0, 6.0) for k in (8, 16)]
    assert float(got["error"]) == pytest.approx(np.mean([abs(value - i) for i, value in cells]), rel=1e-5)
    assert float(got["recovered"]) == pytest.approx(np.mean([value / i for i, value in cells]), rel=1e-5)
    assert set(got) == set(mi.METRICS(config))


def test_compute_vmaps_over_seeds():
    config = make_config(total_mi=(2.0,), claim_from=2.0, candidates=(4,), rows=5, dim=2)
    keys = jax.random.split(jax.random.key(3), 2)
    compute = jax.jit(lambda key: mi.compute(config, key=key))
    both = jax.jit(jax.vmap(compute))(keys)
    for i, key in enumerate(keys):
        one = compute(key)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-4, atol=1e-5), both, one)


def test_draws_given_the_subview_are_distributed_as_y():
    d, n, subview_mi = 3, 200_000, 2.5
    y, x_sub, _ = demi.sample_gaussian_subviews(
        key=jax.random.key(0), n=n, dim=d, total_mi=2 * subview_mi, subview_mi=subview_mi
    )
    drawn = mi.draw_given_subview(jax.random.normal(jax.random.key(1), (n, d)), x_sub, subview_mi=subview_mi)
    expected = np.cov(np.hstack([y, x_sub]).T)
    np.testing.assert_allclose(np.cov(np.hstack([drawn, x_sub]).T), expected, atol=0.02)
    np.testing.assert_allclose(np.mean(drawn, axis=0), 0.0, atol=0.01)


def test_the_optimal_conditional_critic_is_normalised_over_those_draws():
    d, n, kwargs = 2, 400_000, dict(total_mi=1.0, subview_mi=0.5)
    x_sub, x_full = jnp.array([0.3, -0.8]), jnp.array([0.5, -0.4])
    y = mi.draw_given_subview(jax.random.normal(jax.random.key(0), (n, d)), x_sub, subview_mi=0.5)
    _, phi = demi.gaussian_subview_critics(y, x_sub, x_full, **kwargs)
    assert float(jnp.mean(jnp.exp(phi))) == pytest.approx(1.0, abs=0.01)


# ---------------------------------------------------------------------------------------------------- learned critics


def test_in_batch_splits_the_diagonal_from_the_rest():
    pos, neg = mi.in_batch(jnp.arange(9.0).reshape(3, 3))
    np.testing.assert_array_equal(pos, [0, 4, 8])
    np.testing.assert_array_equal(neg, [[1, 2], [3, 5], [6, 7]])


@pytest.mark.parametrize(("estimator", "limit"), [("info_nce", 1), ("demi", 2)])
def test_no_scores_lift_a_bound_above_its_limit(estimator, limit):
    rng = np.random.default_rng(0)
    for scale in (0.1, 10.0, 1000.0):
        scores = [jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for shape in 2 * [(32,), (32, 7)]]
        perfect = [(jnp.full(32, scale), jnp.full((32, 7), -scale))] * 2
        for psi, phi in (((scores[0], scores[1]), (scores[2], scores[3])), perfect):
            assert float(mi.estimate(estimator, psi, phi)) <= limit * math.log(8) * (1 + 1e-6)


def loss_and_gradients(objective, params, batch):
    value_and_grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    (value, (variables, _)), grads = value_and_grad(params, {}, batch, jax.random.key(2))
    assert variables == {}
    return value, grads


@pytest.mark.parametrize("estimator", ["info_nce", "demi_is"])
def test_loss_and_gradients_are_finite(estimator):
    objective, params, _, batch = started(learned(estimator))
    value, grads = loss_and_gradients(objective, params, batch)
    assert all(np.all(np.isfinite(x)) for x in [value, *jax.tree.leaves(grads)])
    assert all(float(optax.tree.norm(grads[critic])) > 0 for critic in ("psi", "phi"))


@pytest.mark.parametrize("conditional", mi.CONDITIONALS)
def test_the_conditional_term_does_not_reach_psi(conditional):
    objective, params, _, batch = started(learned("demi", conditional))
    value, grads = loss_and_gradients(objective, params, batch)
    assert np.isfinite(value)
    assert all(float(optax.tree.norm(grads[critic])) > 0 for critic in ("psi", "phi"))
    other = {"psi": params["psi"], "phi": jax.tree.map(lambda x: 3 * x, params["phi"])}
    _, others = loss_and_gradients(objective, other, batch)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), grads["psi"], others["psi"])


def test_arms_start_from_the_same_parameters():
    _, first, _, _ = started(learned("demi"))
    _, second, _, _ = started(learned("info_nce"))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("estimator", mi.ESTIMATORS)
def test_evaluation_stays_within_its_limit_whatever_the_critics(estimator):
    config = learned(estimator)
    objective, params, variables, batch = started(config)
    for scale in (1.0, 30.0):
        scaled = jax.tree.map(lambda x, scale=scale: scale * x, params)
        metrics = jax.jit(objective.evaluate)(scaled, variables, batch, jax.random.key(5))
        assert set(metrics) == set(mi.METRICS(config))
        assert metrics["estimate"] <= (1 if estimator == "info_nce" else 2) * math.log(16) + 1e-4
        assert float(metrics["recovered"]) == pytest.approx(float(metrics["estimate"]) / 4.0, rel=1e-6)


def test_the_report_of_demi_does_not_depend_on_what_phi_was_trained_on():
    reports = []
    for conditional in mi.CONDITIONALS:
        objective, params, variables, batch = started(learned("demi", conditional))
        reports.append(float(jax.jit(objective.evaluate)(params, variables, batch, jax.random.key(5))["estimate"]))
    assert reports[0] == reports[1] == reports[2]


@pytest.mark.parametrize(
    ("estimator", "conditional"), [("info_nce", "importance"), ("demi", "importance"), ("demi", "boosted")]
)
def test_critics_learn_a_small_mutual_information(estimator, conditional):
    """2 nats in two dimensions, 64 candidates: the bound is nearly tight, and 400 steps come close to the truth."""
    config = learned(estimator, conditional, dim=2, total_mi=(2.0,))
    task = mi.build(config)
    objective, params, variables, _ = started(config)
    optimizer = optax.adam(5e-3)

    def step(carry, key):
        params, state = carry
        sample_key, loss_key = jax.random.split(key)
        grads = jax.grad(objective.loss, has_aux=True)(params, variables, task.train.sample(sample_key, 64), loss_key)[
            0
        ]
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    def estimates(params, key):
        return objective.evaluate(params, variables, task.test.sample(key, 64), key)["estimate"]

    @jax.jit
    def run(key):
        (trained, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 400))
        return jax.lax.map(lambda k: estimates(trained, k), jax.random.split(key, 64))

    values = np.asarray(run(jax.random.key(7)))
    standard_error = values.std() / np.sqrt(len(values))
    assert 1.6 < values.mean() < 2.0 + 3 * standard_error


# ------------------------------------------------------------------------------------------------------------- report


def test_references_hold_the_truth_the_limit_and_the_optimal_critics():
    config = learned(rows=512)
    config.train.eval_batch_size = 32  # the K of the report, whatever that of training
    lines = mi.references(config)["estimate"]
    assert lines["true MI"] == 4.0
    assert lines["log K"] == math.log(32)
    assert lines["optimal InfoNCE"] <= math.log(32)
    assert lines["optimal InfoNCE"] < lines["optimal DEMI"] < 4.0
    assert mi.references(make_config()) == {}


def test_closed_form_figure_has_a_panel_a_k():
    config = make_config()
    config.arms = ConfigDict(dict(demi={}, info_nce={}))
    rng = np.random.default_rng(0)
    results = {
        arm: ArmResult({name: rng.normal(size=3) for name in mi.METRICS(config)}, {}, 1.0) for arm in config.arms
    }
    figure = mi.figure(config, results)
    assert [ax.get_title() for ax in figure.axes] == ["K = 64 candidates", "K = 256 candidates"]
    assert figure.axes[0].get_ylabel() == "estimated mutual information [nats]"
    assert all(ax.get_xlabel() == "true mutual information [nats]" for ax in figure.axes)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["true MI", "log K", "2 log K", "demi", "info_nce"]


def test_learned_figure_is_the_curve_over_training(monkeypatch):
    monkeypatch.setattr(
        mi, "references", lambda config: {"estimate": {"true MI": 4.0}}
    )  # to compute them takes seconds
    config = learned()
    config.claim.metric = "estimate"
    steps, values = np.array([1, 2]), np.ones((3, 2))
    result = ArmResult({"estimate": values[:, -1]}, {"estimate": (steps, values)}, 1.0)
    figure = mi.figure(config, {"demi": result, "info_nce": result})
    assert figure.axes[0].get_xlabel() == "training step"
    assert figure.axes[0].get_ylabel() == "estimated mutual information [nats]"


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"model\.critic"):
        mi.kind(make_config(critic="guess"))
    with pytest.raises(ValueError, match=r"method\.estimator must be one of .*got 'mine'"):
        mi.compute(make_config(estimator="mine"), key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"method\.estimator"):
        mi.build(learned("mine"))
    with pytest.raises(ValueError, match=r"method\.conditional must be one of"):
        mi.build(learned("demi", "guess"))
    with pytest.raises(ValueError, match=r"data\.total_mi must hold one value"):
        mi.build(learned(total_mi=(5.0, 10.0)))
    with pytest.raises(ValueError, match=r"data\.total_mi must reach data\.claim_from"):
        mi.compute(make_config(total_mi=(5.0,)), key=jax.random.key(0))
