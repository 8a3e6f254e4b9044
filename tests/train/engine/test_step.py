"""One update: what each option means, against the mathematics of plain gradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lemmata.train.engine.sources import Resident
from lemmata.train.engine.state import init_state
from lemmata.train.engine.step import StepOptions, make_step
from lemmata.train.engine.task import Objective, Procedure, TwoPass


def quadratic() -> Objective:
    """Loss = mean_i (w . x_i - y_i)^2 / 2, with a counter as variables."""

    def loss(params, variables, batch, key):
        residual = batch["x"] @ params["w"] - batch["y"]
        return jnp.mean(residual**2) / 2, ({"calls": variables["calls"] + 1}, {"residual": jnp.mean(residual)})

    def init(key, batch):
        return {"w": jnp.zeros(4)}, {"calls": jnp.zeros(())}

    return Objective(init, loss, lambda *_: {}, couples=False)


@pytest.fixture
def batch():
    x = jax.random.normal(jax.random.key(1), (32, 4))
    return {"x": x, "y": x @ jnp.arange(4.0)}


def run(batch, options, optimizer=None, steps=1):
    optimizer = optimizer or optax.sgd(0.1)
    state = init_state(quadratic(), optimizer, jax.random.key(0), batch, ema=bool(options.ema))
    step = jax.jit(make_step(quadratic(), optimizer, options))
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, metrics


def test_plain_step_is_gradient_descent(batch):
    state, metrics = run(batch, StepOptions())
    x, y = np.asarray(batch["x"], np.float64), np.asarray(batch["y"], np.float64)
    gradient = x.T @ (-y) / 32
    np.testing.assert_allclose(state.params["w"], -0.1 * gradient, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.mean(y**2) / 2, rtol=1e-5)
    assert state.step == 1
    assert state.skipped == 0


@pytest.mark.parametrize("count", [2, 4, 32])
def test_accumulation_gives_the_whole_batch_gradient(batch, count):
    whole, whole_metrics = run(batch, StepOptions(), steps=3)
    parts, parts_metrics = run(batch, StepOptions(accumulate=count), steps=3)
    np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-5)
    for name in whole_metrics:
        np.testing.assert_allclose(parts_metrics[name], whole_metrics[name], rtol=1e-5, err_msg=name)
    assert parts.variables["calls"] == 3 * count


def contrastive() -> Objective:
    """Tells each row's own target from those of all rows of the batch, and counts steps."""

    def forward(params, variables, batch, key):
        return {"query": batch["x"] @ params["w"], "key": batch["next"] @ params["v"]}

    def combine(outputs, params, variables, batch, key):
        scores = outputs["query"] @ outputs["key"].T
        nats = jax.nn.logsumexp(scores, axis=1) - jnp.diagonal(scores)
        penalty = jnp.sum(params["w"] ** 2)
        value = jnp.sum(batch["weight"] * nats) / jnp.sum(batch["weight"]) + penalty
        return value, ({"steps": variables["steps"] + 1}, {"scores": jnp.mean(scores)})

    def prepare(batch):
        return batch | {"next": jnp.roll(batch["x"], -1, axis=0)}

    def init(key, batch):
        w, v = jax.random.normal(key, (2, 4, 3))
        return {"w": w, "v": v}, {"steps": jnp.zeros((), jnp.int32)}

    return Objective(init, TwoPass(forward, combine, prepare), lambda *_: {})


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("count", [2, 32])
def test_accumulation_in_two_passes_gives_the_gradient_of_a_loss_that_couples_examples(count, resident):
    key = jax.random.key(3)
    batch = {"x": jax.random.normal(key, (32, 4)), "weight": jax.random.uniform(key, (32,))}
    objective, optimizer = contrastive(), optax.sgd(1.0)
    if resident:  # arrays that come whole with every micro-batch
        inner = objective.loss
        objective = objective._replace(
            loss=TwoPass(
                lambda p, v, b, k: inner.forward(p, v, jax.tree.map(lambda x: x[b.batch], b.arrays), k),
                lambda o, p, v, b, k: inner.combine(o, p, v, jax.tree.map(lambda x: x[b.batch], b.arrays), k),
            )
        )
        batch = Resident(jnp.arange(32), contrastive().loss.prepare(batch))
    state = init_state(objective, optimizer, jax.random.key(0), batch)
    whole, parts = (
        jax.jit(make_step(objective, optimizer, StepOptions(accumulate=accumulate)))(state, batch)
        for accumulate in (1, count)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), parts[0].params, whole[0].params)
    assert parts[0].variables["steps"] == whole[0].variables["steps"] == 1
    for name in ("loss", "grad_norm", "scores"):
        np.testing.assert_allclose(parts[1][name], whole[1][name], rtol=2e-5, err_msg=name)


@pytest.mark.parametrize(("couples", "match"), [(None, "does not say"), (True, "couples the examples")])
def test_accumulation_of_another_loss_is_refused(couples, match):
    objective = quadratic()._replace(couples=couples)
    with pytest.raises(ValueError, match=rf"train\.accumulate.*{match}.*got 4"):
        make_step(objective, optax.sgd(0.1), StepOptions(accumulate=4))


def test_bfloat16_computes_low_and_keeps_master_weights_high(batch):
    state, metrics = run(batch, StepOptions(compute_dtype="bfloat16"))
    exact, exact_metrics = run(batch, StepOptions())
    assert state.params["w"].dtype == jnp.float32
    assert metrics["loss"].dtype == jnp.float32
    assert metrics["residual"].dtype == jnp.bfloat16
    np.testing.assert_allclose(metrics["loss"], exact_metrics["loss"], rtol=2e-2)
    np.testing.assert_allclose(state.params["w"], exact.params["w"], rtol=3e-2, atol=3e-3)


def test_ema_is_the_recurrence(batch):
    state, _ = run(batch, StepOptions(ema=0.9))
    np.testing.assert_allclose(state.ema["w"], 0.1 * state.params["w"], rtol=1e-6)  # it starts at w = 0


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_nonfinite_update_changes_nothing_but_the_count(batch, bad):
    optimizer = optax.adam(0.1)
    options = StepOptions(ema=0.5)
    state, _ = run(batch, options, optimizer, steps=2)
    poisoned = {**batch, "y": batch["y"].at[3].set(bad)}
    after, _ = jax.jit(make_step(quadratic(), optimizer, options))(state, poisoned)
    for name in ("params", "opt_state", "variables", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
    assert after.skipped == 1
    assert after.step == 3
    unguarded, _ = jax.jit(make_step(quadratic(), optimizer, options._replace(skip_nonfinite=False)))(state, poisoned)
    assert not np.isfinite(unguarded.params["w"]).all()


def test_clipping_bounds_the_update(batch):
    from lemmata.train.engine.optimizer import make_optimizer
    from lemmata.train.judge import config as configs

    config = configs.defaults().optimizer
    config.name, config.learning_rate, config.clip_norm = "sgd", 1.0, 0.01
    state, metrics = run(batch, StepOptions(), make_optimizer(config, 10))
    assert metrics["grad_norm"] > 0.01  # before clipping
    np.testing.assert_allclose(np.linalg.norm(state.params["w"]), 0.01, rtol=1e-5)


def descent(rate=0.1) -> Procedure:
    """The same descent as a procedure with its own update."""
    objective = quadratic()

    def update(params, variables, batch, key):
        (loss, (variables, _)), grads = jax.value_and_grad(objective.loss, has_aux=True)(params, variables, batch, key)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), variables, {"loss": loss}

    return Procedure(objective.init, update, objective.evaluate)


def run_procedure(batch, options, steps=1):
    state = init_state(descent(), optax.identity(), jax.random.key(0), batch, ema=bool(options.ema))
    step = jax.jit(make_step(descent(), optax.identity(), options))
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, metrics


def test_a_procedure_of_gradient_descent_is_gradient_descent(batch):
    ours, metrics = run_procedure(batch, StepOptions(ema=0.9), steps=3)
    plain, plain_metrics = run(batch, StepOptions(ema=0.9), steps=3)
    for name in ("params", "variables", "ema", "step", "skipped"):
        jax.tree.map(np.testing.assert_array_equal, getattr(ours, name), getattr(plain, name))
    assert metrics["loss"] == plain_metrics["loss"]


def test_a_procedure_whose_parameters_are_not_finite_stays_where_it_was(batch):
    before, _ = run_procedure(batch, StepOptions(), steps=1)
    step = jax.jit(make_step(descent(), optax.identity(), StepOptions()))
    after, _ = step(before, {"x": batch["x"], "y": batch["y"].at[0].set(jnp.nan)})
    np.testing.assert_array_equal(after.params["w"], before.params["w"])
    np.testing.assert_array_equal(after.variables["calls"], before.variables["calls"])
    assert (after.step, after.skipped) == (2, 1)


@pytest.mark.parametrize("options", [StepOptions(accumulate=2), StepOptions(compute_dtype="bfloat16")])
def test_a_procedure_refuses_options_of_a_gradient(options):
    with pytest.raises(ValueError, match=r"train\.(accumulate|compute_dtype)"):
        make_step(descent(), optax.identity(), options)
