"""Federated MVR: the oracles of its card."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from least_squares import grad_fn, least_squares, mean_gradient, repeated

from lemmata.core import trees
from lemmata.methods.transforms import federated_mvr as mvr

CONSTANTS = dict(step_scale=0.1, offset=1.0, momentum_scale=1.0)
ROUNDS = {
    "fedavg": mvr.fedavg_round,
    "fedadam": mvr.fedadam_round,
    "scaffold": mvr.scaffold_round,
    "mime": mvr.mime_round,
    "mvr": mvr.mvr_round,
}


def start(algorithm, problem, x=None):
    x = jnp.zeros(problem[0].shape[-1]) if x is None else x
    clients = problem[0].shape[0]
    return mvr.init_federated(x, algorithm=algorithm, num_clients=clients, direction=mean_gradient(x, problem))


def run(round_fn, state, batches, rounds):
    def step(state, _):
        return round_fn(state, batches, grad_fn=grad_fn), None

    return jax.lax.scan(step, state, None, length=rounds)[0]


def centralised(problem, x, steps):
    """STORM by optax on the mean of the clients' objectives, with exact gradients."""
    optimizer = mvr.storm(**CONSTANTS)

    def step(carry, _):
        x, before, state = carry
        updates, state = optimizer.update(
            mean_gradient(x, problem), state, x, previous_grads=mean_gradient(before, problem)
        )
        return (optax.apply_updates(x, updates), x, state), None

    (x, _, _), _ = jax.lax.scan(step, (x, x, optimizer.init(x)), None, length=steps)
    return x


# ---------------------------------------------------------------------------------------------------------- estimator


def test_decay_one_is_the_plain_gradient():
    g, before, m = jax.random.normal(jax.random.key(0), (3, 4))
    np.testing.assert_array_equal(mvr.mvr_momentum({"w": g}, {"w": before}, {"w": m}, decay=1.0)["w"], g)
    anything = jnp.full(4, jnp.nan)
    np.testing.assert_array_equal(mvr.mvr_momentum(g, anything, anything, decay=1.0), g)


def test_decay_zero_follows_exact_gradients_exactly():
    path = jnp.cumsum(jax.random.normal(jax.random.key(1), (8, 6)), axis=0)
    grads = jax.vmap(jax.grad(lambda x: jnp.sum(jnp.cosh(x / 4))))(path)
    direction = grads[0]
    for before, after in itertools.pairwise(grads):
        direction = mvr.mvr_momentum(after, before, direction, decay=0.0)
        np.testing.assert_allclose(direction, after, rtol=1e-4, atol=1e-4)


def test_step_sizes_fall_and_decays_stay_in_their_interval():
    grads, before = 3 * jax.random.normal(jax.random.key(2), (2, 12, 4))
    directions, step_sizes = mvr.mvr_directions(grads, before, step_scale=0.7, offset=0.1, momentum_scale=10.0)
    assert np.all(np.diff(step_sizes) <= 0)
    np.testing.assert_array_equal(directions[0], grads[0])
    squares = np.cumsum(np.sum(np.asarray(grads, np.float64) ** 2, axis=-1))
    np.testing.assert_allclose(step_sizes, 0.7 / (0.1 + squares) ** (1 / 3), rtol=1e-5)
    decays = np.minimum(1.0, 10.0 * np.asarray(step_sizes) ** 2)
    assert np.all((decays > 0) & (decays <= 1))
    for t in range(1, 12):  # a of a step comes from the step size before it
        expected = mvr.mvr_momentum(grads[t], before[t], directions[t - 1], decay=decays[t - 1])
        np.testing.assert_allclose(directions[t], expected, rtol=1e-4, atol=1e-4)


def test_step_sizes_scale_as_the_gradients_to_the_minus_two_thirds():
    grads = jax.random.normal(jax.random.key(3), (12, 4))
    _, plain = mvr.mvr_directions(grads, grads, offset=1e-9)
    _, scaled = mvr.mvr_directions(8 * grads, 8 * grads, offset=1e-9)
    np.testing.assert_allclose(scaled, plain / 4, rtol=1e-5)


def test_optax_transformation_walks_the_recursion():
    grads, before = jax.random.normal(jax.random.key(4), (2, 12, 4))
    directions, step_sizes = mvr.mvr_directions(grads, before, **CONSTANTS)
    optimizer = optax.chain(mvr.storm(**CONSTANTS), optax.scale(2.0))
    state = optimizer.init(jnp.zeros(4))
    update = jax.jit(lambda grads, state, previous: optimizer.update(grads, state, previous_grads=previous))
    for t in range(4):
        previous = before[t] if t else jnp.full(4, jnp.nan)  # the first call has no use for it
        step, state = update(grads[t], state, previous)
        np.testing.assert_allclose(step, -2 * step_sizes[t] * directions[t], rtol=1e-5, atol=1e-6)


def test_error_is_below_that_of_averages_and_of_plain_gradients():
    """A noisy quadratic, gradient (H + noise) x: the noise of two near points is nearly the same, and cancels."""
    a, steps, dim = 0.1, 200, 10
    curvature = jnp.linspace(0.1, 1.0, dim)

    def one(key):
        def step(carry, key):
            x, before, corrected, average = carry
            noisy = curvature + jax.random.normal(key, (dim,))
            g, g_before, exact = noisy * x, noisy * before, curvature * x
            corrected = mvr.mvr_momentum(g, g_before, corrected, decay=a)
            average = (1 - a) * average + a * g
            errors = jnp.stack([jnp.sum((d - exact) ** 2) for d in (corrected, average, g)])
            return (x - 0.02 * exact, x, corrected, average), errors

        x = jnp.ones(dim)
        exact = curvature * x
        return jax.lax.scan(step, (x, x, exact, exact), jax.random.split(key, steps))[1]

    errors = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), 200)).mean(axis=0)
    corrected, average, plain = errors[steps // 2 :].mean(axis=0)
    assert corrected < average < plain
    late, middle = errors[-20:].mean(axis=0), errors[20:40].mean(axis=0)
    assert np.all(late < middle / 2)  # as the point comes to rest


# -------------------------------------------------------------------------------------------------------------- rounds


@pytest.mark.parametrize("adaptive", [False, True])
def test_state_before_the_first_round(adaptive):
    x, m = jnp.ones(3, jnp.float16), jnp.arange(3, dtype=jnp.float16)
    state = mvr.init_federated(x, algorithm="mvr", adaptive=adaptive, direction=m)
    np.testing.assert_array_equal(state.direction, m)
    np.testing.assert_array_equal(state.previous_params, x)
    assert state.previous_params.unsafe_buffer_pointer() != x.unsafe_buffer_pointer()  # so that both can be donated
    moments = {"momentum": jnp.float16, "second_moment": jnp.float32} if adaptive else {}
    for name in ("momentum", "second_moment", "control", "client_controls"):
        value = getattr(state, name)
        assert (None if value is None else value.dtype) == moments.get(name)
    np.testing.assert_array_equal(mvr.init_federated(x, algorithm="mvr").direction, 0.0)


def test_one_step_of_one_client_in_closed_form():
    problem = least_squares(clients=1)
    x0, before, m = jax.random.normal(jax.random.key(6), (3, 10))
    state = mvr.FederatedState(x0, previous_params=before, direction=m)
    after = mvr.mvr_round(state, repeated(problem, 1), grad_fn=grad_fn, **CONSTANTS)
    A, b = (np.asarray(part[0], np.float64) for part in problem)
    g, g_before = (A.T @ (A @ np.asarray(y, np.float64) - b) for y in (x0, before))
    eta, a = 0.1 / (1 + np.sum(g**2)) ** (1 / 3), 0.1**2
    d = g + (1 - a) * (np.asarray(m) - g_before)
    np.testing.assert_allclose(after.params, np.asarray(x0) - eta * d, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after.direction, d, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(after.previous_params, x0)


def test_identical_clients_run_as_one():
    A, b = least_squares(clients=1)
    clients = jnp.repeat(A, 4, axis=0), jnp.repeat(b, 4, axis=0)
    x = jnp.ones(10)
    after = mvr.mvr_round(start("mvr", clients, x), repeated(clients, 6), grad_fn=grad_fn, **CONSTANTS)
    alone = jax.jit(lambda: centralised((A, b), x, 6))()
    np.testing.assert_allclose(after.params, alone, rtol=1e-5, atol=1e-5)


def test_quadratic_clients_are_client_updates():
    problem = least_squares(clients=3)
    x, before, m = jax.random.normal(jax.random.key(7), (3, 10))
    models, directions = mvr.quadratic_clients(x, before, m, *problem, num_steps=4, **CONSTANTS)
    batches = repeated(problem, 4)
    for i in range(3):
        own = jax.tree.map(lambda part, i=i: part[i], batches)
        model, direction = mvr.client_update(x, before, m, own, grad_fn=grad_fn, **CONSTANTS)
        np.testing.assert_allclose(models[i], model, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(directions[i], direction, rtol=1e-4, atol=1e-4)


def test_fedadam_is_federated_averaging_and_then_the_servers_step():
    problem = least_squares(clients=3)
    batches, weights = repeated(problem, 2), jnp.array([0.2, 0.3, 0.5])
    x = jnp.ones(10)
    state = mvr.fedadam_round(start("fedadam", problem, x), batches, grad_fn=grad_fn, weights=weights, tau=0.1)
    alone = jax.tree.map(lambda part: part[:, None], batches)
    models = jax.vmap(lambda own: mvr.fedavg_round(mvr.FederatedState(x), own, grad_fn=grad_fn).params)(alone)
    expected = mvr.adaptive_server_update(x, jnp.zeros(10), jnp.zeros(10), models - x, weights, tau=0.1)
    for actual, value in zip((state.params, state.momentum, state.second_moment), expected, strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-5)


def test_adaptive_server_without_memory_and_with_a_large_tau_averages():
    deltas, weights = jax.random.normal(jax.random.key(8), (3, 10)), jnp.array([0.2, 0.3, 0.5])
    zero = jnp.zeros(10)
    x, _, _ = mvr.adaptive_server_update(zero, zero, zero, deltas, weights, b1=0.0, learning_rate=1e4, tau=1e4)
    np.testing.assert_allclose(x, trees.weighted_sum(deltas, weights), rtol=1e-3, atol=1e-4)


def test_adaptive_mvr_round_uses_that_server():
    problem = least_squares(clients=3)
    x, zero = jnp.ones(10), jnp.zeros(10)
    m = mean_gradient(x, problem)
    state = mvr.init_federated(x, algorithm="mvr", adaptive=True, direction=m)
    models, _ = mvr.quadratic_clients(x, x, m, *problem, num_steps=2, **CONSTANTS)
    expected = mvr.adaptive_server_update(x, zero, zero, models - x, jnp.full(3, 1 / 3), learning_rate=0.3)
    after = mvr.mvr_round(state, repeated(problem, 2), grad_fn=grad_fn, learning_rate=0.3, **CONSTANTS)
    np.testing.assert_allclose(after.params, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after.second_moment, expected[2], rtol=1e-3)


@pytest.mark.parametrize("algorithm", ROUNDS)
def test_clients_split_over_devices_give_the_round_of_one(algorithm):
    problem = least_squares(clients=16, dim=4)
    state, batches = start(algorithm, problem), repeated(problem, 3)
    weights = jnp.arange(1.0, 17.0) / 136
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    where = NamedSharding(mesh, PartitionSpec("data"))
    jitted = jax.jit(functools.partial(ROUNDS[algorithm], grad_fn=grad_fn))
    alone = jitted(state, batches, weights=weights)
    split = jitted(state, jax.device_put(batches, where), weights=jax.device_put(weights, where))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), split, alone)


@pytest.mark.parametrize("algorithm", ROUNDS)
def test_client_without_data_changes_nothing(algorithm):
    """Its gradients are NaN, the mean over nothing; its weight is 0."""
    problem = least_squares(clients=3, dim=4)
    empty = jax.tree.map(lambda part: part.at[1].set(jnp.nan), problem)
    kept = jax.tree.map(lambda part: part[jnp.array([0, 2])], problem)
    round_fn = jax.jit(functools.partial(ROUNDS[algorithm], grad_fn=grad_fn))
    without = with_it = start(algorithm, kept)
    if algorithm == "scaffold":
        with_it = mvr.init_federated(without.params, algorithm=algorithm, num_clients=3)
    with_it = round_fn(with_it, repeated(empty, 2), weights=jnp.array([0.25, 0.0, 0.75]))
    without = round_fn(without, repeated(kept, 2), weights=jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(with_it.params, without.params, rtol=1e-5, atol=1e-6)
    assert trees.all_finite(with_it)


def test_drift_floor_of_federated_averaging_is_twenty_times_higher():
    """The card's exact variant: 10 unlike clients, 10 local steps, 200 rounds; FedAvg at its best step."""
    problem = least_squares()
    batches = repeated(problem, 10)

    @functools.partial(jax.jit, static_argnums=0)
    def final(algorithm, constant):
        if algorithm == "mvr":
            settings = dict(step_scale=constant, offset=1.0, momentum_scale=1.0)
        else:
            settings = dict(learning_rate=constant)
        state = run(functools.partial(ROUNDS[algorithm], **settings), start(algorithm, problem), batches, 200)
        return jnp.sum(mean_gradient(state.params, problem) ** 2)

    floors = [float(final("fedavg", step)) for step in (0.003, 0.01, 0.03, 0.1, 0.3)]
    reached = float(final("mvr", 0.1))
    assert reached < 1e-3
    assert np.nanmin(floors) > 20 * reached


# --------------------------------------------------------------------------------------------------------------- edges


def test_zero_gradients_leave_the_longest_step_and_no_update():
    directions, step_sizes = mvr.mvr_directions(jnp.zeros((12, 4)), jnp.zeros((12, 4)), step_scale=0.3, offset=8.0)
    np.testing.assert_allclose(step_sizes, 0.15, rtol=1e-6)
    assert not directions.any()
    x = jnp.ones(2)
    model, direction = mvr.client_update(x, x, jnp.zeros(2), jnp.zeros((3, 2)), grad_fn=lambda y, batch: batch)
    np.testing.assert_array_equal(model, x)
    assert not direction.any()


def test_previous_grads_are_required():
    optimizer = mvr.storm()
    with pytest.raises(TypeError, match="previous_grads"):
        optimizer.update(jnp.zeros(2), optimizer.init(jnp.zeros(2)))


@pytest.mark.parametrize("decay", [-0.1, 1.1, jnp.nan])
def test_decay_outside_its_interval(decay):
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\]"):
        mvr.mvr_momentum(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2), decay=decay)


@pytest.mark.parametrize(
    "bad", [dict(step_scale=0.0), dict(step_scale=-1.0), dict(offset=0.0), dict(momentum_scale=-1)]
)
def test_constants_outside_their_ranges(bad):
    name, x = next(iter(bad)), jnp.zeros(2)
    problem = jnp.zeros((1, 3, 2)), jnp.zeros((1, 3))
    calls = (
        lambda: mvr.storm(**bad),
        lambda: mvr.mvr_directions(jnp.zeros((3, 2)), jnp.zeros((3, 2)), **bad),
        lambda: mvr.client_update(x, x, x, repeated(problem, 1), grad_fn=grad_fn, **bad),
        lambda: mvr.quadratic_clients(x, x, x, *problem, num_steps=1, **bad),
        lambda: mvr.mvr_round(start("mvr", problem), repeated(problem, 1), grad_fn=grad_fn, **bad),
    )
    for call in calls:
        with pytest.raises(ValueError, match=f"{name} must be in"):
            call()


def test_no_local_step_is_refused():
    x, problem = jnp.zeros(2), (jnp.zeros((1, 3, 2)), jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match="num_steps must be in"):
        mvr.quadratic_clients(x, x, x, *problem, num_steps=0)
    with pytest.raises(
        ValueError, match=r"batches must have leaves \[K, ...\], each axis at least 1 long, got \[0, 3, 2\]"
    ):
        mvr.client_update(x, x, x, (jnp.zeros((0, 3, 2)), jnp.zeros((0, 3))), grad_fn=grad_fn)
    for name, round_fn in ROUNDS.items():
        with pytest.raises(ValueError, match="client_batches must have leaves"):
            round_fn(start(name, problem), repeated(problem, 0), grad_fn=grad_fn)


def test_weights_that_do_not_fit():
    x, deltas = jnp.zeros(2), jnp.zeros((3, 2))
    for weights in (jnp.array([0.5, 0.5, 0.5]), jnp.zeros(3)):
        with pytest.raises(ValueError, match="weights must sum to 1, got"):
            mvr.adaptive_server_update(x, x, x, deltas, weights)
    jax.jit(mvr.adaptive_server_update)(x, x, x, deltas, jnp.zeros(3))  # not checked where traced
    known = jnp.full(3, 1 / 3)
    jax.jit(lambda deltas: mvr.adaptive_server_update(x, x, x, deltas, known))(deltas)  # checked, beside a traced array
    with pytest.raises(ValueError, match=r"weights must have shape \[3\]"):
        mvr.adaptive_server_update(x, x, x, deltas, jnp.full(2, 0.5))
    with pytest.raises(ValueError, match="weights must be in"):
        mvr.adaptive_server_update(x, x, x, deltas, jnp.array([1.5, -0.5, 0.0]))
    with pytest.raises(ValueError, match="deltas must have the structure and shapes of params"):
        mvr.adaptive_server_update(x, x, x, jnp.zeros((3, 5)), jnp.full(3, 1 / 3))


def family(weights):
    """Every function that takes weights, called with these for two clients: the model that it gives."""
    problem = least_squares(clients=2, dim=4)
    batches, x = repeated(problem, 2), jnp.ones(4)
    calls = {
        name: lambda name=name, call=round_fn: call(start(name, problem, x), batches, grad_fn=grad_fn, weights=weights)
        for name, round_fn in ROUNDS.items()
    }
    return {name: lambda call=call: call().params for name, call in calls.items()} | {
        "server": lambda: mvr.adaptive_server_update(x, 0 * x, 0 * x, problem[1][:, :4], weights)[0]
    }


@pytest.mark.parametrize(
    "weights",
    [[0, 1], np.array([0, 1]), jnp.array([0, 1], jnp.int8), jnp.array([False, True]), np.array([0, 1], np.float16)],
)
def test_weights_may_be_integers_and_anything_like_an_array(weights):
    expected = family(jnp.array([0.0, 1.0]))
    for name, call in family(weights).items():
        np.testing.assert_array_equal(call(), expected[name](), err_msg=name)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (jnp.array([10, 20]), "weights must sum to 1, got 30: divide them by their sum"),
        ([1, 1], "weights must sum to 1, got 2"),
        (np.array([6e4, 6e4], np.float16), "weights must sum to 1, got 120000"),  # beyond the largest float16
        (jnp.array([0, 0]), "weights must sum to 1, got 0"),
        (jnp.array([2, -1]), "weights must be in"),
        ([0.5, float("nan")], "weights must be in"),
        ([0.5, 0.25, 0.25], r"weights must have shape \[2\], one a client, got shape \[3\]"),
        (1, r"weights must have shape \[2\], one a client, got shape \[\]"),
    ],
)
def test_weights_that_do_not_fit_are_named_by_the_whole_family(weights, match):
    for call in family(weights).values():
        with pytest.raises(ValueError, match=match):
            call()


def test_rounded_shares_still_sum_to_one():
    x, deltas = jnp.zeros(2), jnp.ones((10, 2))
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        moved, _, _ = mvr.adaptive_server_update(x, x, x, deltas, jnp.full(10, 0.1, dtype), b1=0, b2=0, tau=1e4)
        np.testing.assert_allclose(moved, 0.1 / 10001, rtol=1e-2)


def test_no_client_is_named():
    x = jnp.zeros(2)
    with pytest.raises(ValueError, match=r"deltas must have leaves \[clients, ...\], each axis at least 1 long"):
        mvr.adaptive_server_update(x, x, x, jnp.zeros((0, 2)), jnp.zeros(0))
    for name, round_fn in ROUNDS.items():
        state = start(name, least_squares(clients=1))
        with pytest.raises(ValueError, match="client_batches must have leaves"):
            round_fn(state, (jnp.zeros((0, 1, 5, 10)), jnp.zeros((0, 1, 5))), grad_fn=grad_fn)
    directions, step_sizes = mvr.mvr_directions(jnp.zeros((0, 4)), jnp.zeros((0, 4)))
    assert directions.shape == (0, 4)
    assert step_sizes.shape == (0,)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e20, 1e30])
def test_step_sizes_of_gradients_of_any_size(size):
    """Those of k / (w + S)^(1/3) in float64, where S is beyond float32; with a w of the gradients' own size."""
    grads = np.asarray(jax.random.normal(jax.random.key(9), (6, 3)) * jnp.float32(size), np.float64)
    offset = max(size**2, 1e-36) if size < 1 else 1.0
    squares = np.cumsum(np.sum(grads**2, axis=-1))
    expected = 0.2 / np.cbrt(offset + squares)
    _, step_sizes = mvr.mvr_directions(jnp.asarray(grads, jnp.float32), jnp.zeros((6, 3)), offset=offset)
    np.testing.assert_allclose(step_sizes, expected, rtol=2e-6)
    optimizer = mvr.storm(offset=offset)
    g = jnp.asarray(grads[0], jnp.float32)
    step, _ = optimizer.update(g, optimizer.init(jnp.zeros(3)), previous_grads=g)
    np.testing.assert_allclose(step, -expected[0] * grads[0], rtol=2e-6)


def test_half_precision_keeps_updates_and_widens_what_is_computed():
    grads, before = (x.astype(jnp.bfloat16) for x in 3 * jax.random.normal(jax.random.key(2), (2, 300, 4)))
    directions, step_sizes = mvr.mvr_directions(grads, before)
    assert directions.dtype == jnp.bfloat16
    assert step_sizes.dtype == jnp.float32
    squares = np.cumsum(np.sum(np.asarray(grads, np.float64) ** 2, axis=-1))  # a sum in bfloat16 stops growing
    np.testing.assert_allclose(step_sizes, 0.2 / np.cbrt(1 + squares), rtol=1e-5)
    small = jnp.full(3, 1e-4, jnp.float16)
    state = mvr.init_federated(jnp.zeros(3, jnp.float16), algorithm="fedadam")
    batches = jnp.broadcast_to(-small, (2, 1, 3))
    state = mvr.fedadam_round(state, batches, grad_fn=lambda y, batch: batch, learning_rate=1.0)
    assert state.params.dtype == state.momentum.dtype == jnp.float16
    np.testing.assert_allclose(state.second_moment, 0.01 * 1e-8, rtol=1e-3)  # a square below the least float16
    # constants that come in half precision are not rounded once more: 1 - a, K eta, k / w^(1/3)
    a = jnp.asarray(0.1, jnp.bfloat16)
    found = mvr.mvr_momentum(jnp.zeros(1), jnp.zeros(1), jnp.ones(1), decay=a)
    np.testing.assert_allclose(found, 1 - float(a), rtol=1e-6)


def test_state_of_another_shape_is_named():
    problem = least_squares(clients=2, dim=4)
    with pytest.raises(ValueError, match="direction must have the structure and shapes of params"):
        mvr.init_federated(jnp.zeros(4), algorithm="mvr", direction=jnp.zeros(()))
    for name in ("mime", "mvr"):
        state = start(name, problem)._replace(direction=jnp.zeros(1))  # would broadcast
        with pytest.raises(ValueError, match=r"state\.direction must have the structure and shapes of params"):
            ROUNDS[name](state, repeated(problem, 1), grad_fn=grad_fn)


@pytest.mark.parametrize("bad", [dict(b1=1.5), dict(b2=-0.1), dict(tau=0.0), dict(learning_rate=0.0)])
def test_server_constants_outside_their_ranges(bad):
    x = jnp.zeros(2)
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be in"):
        mvr.adaptive_server_update(x, x, x, jnp.zeros((1, 2)), jnp.ones(1), **bad)


def test_state_of_another_algorithm_is_refused():
    problem = least_squares(clients=2)
    for name in ("fedadam", "scaffold", "mime", "mvr"):
        with pytest.raises(ValueError, match="state must have"):
            ROUNDS[name](start("fedavg", problem), repeated(problem, 1), grad_fn=grad_fn)
    with pytest.raises(ValueError, match="algorithm must be one of"):
        mvr.init_federated(jnp.zeros(2), algorithm="fedprox")
    with pytest.raises(ValueError, match="num_clients must be at least 1"):
        mvr.init_federated(jnp.zeros(2), algorithm="scaffold")
    with pytest.raises(ValueError, match=r"clients must have shape \[2\]"):
        mvr.scaffold_round(start("scaffold", least_squares(clients=3)), repeated(problem, 1), grad_fn=grad_fn)
