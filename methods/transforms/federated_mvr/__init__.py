r"""Federated variance reduction: clients take STORM steps of adaptive size and keep no state between rounds.

Thakur, Guzzo, Fortino, Das. "Non-Convex Optimization in Federated Learning via Variance Reduction and Adaptive
Learning." 2024, arXiv:2412.11660.

The objective is f = sum_i p_i f_i over clients of unlike data. In round r the server sends x_r, x_{r-1} and its
gradient estimate m_{r-1} (before the first, x_{-1} = x_0 and m_{-1} is the mean of one minibatch gradient a client).
Client i starts from y_0 = x_r, y_{-1} = x_{r-1}, d_{-1} = m_{r-1}, S = 0, a_0 = min(1, c (k / w^{1/3})^2) and steps

    g = grad f_i(y_j; xi_j),   g' = grad f_i(y_{j-1}; xi_j)         one minibatch, two points
    d_j = g + (1 - a_j) (d_{j-1} - g')
    S += |g|^2,   eta_j = k / (w + S)^{1/3},   a_{j+1} = min(1, c eta_j^2)
    y_{j+1} = y_j - eta_j d_j,                                      j = 0 .. K - 1

(the estimator and step sizes of STORM: Cutkosky and Orabona, arXiv:1905.10018). It sends y_K - x_r and its *first*
direction d_0, the estimate of grad f_i at x_r; the last one would be corrected next round at a point where it does not
belong, and diverges where a is small. The server averages,

    Delta = sum_i p_i (y_K^i - x_r),   m_r = sum_i p_i d_0^i,   x_{r+1} = x_r + Delta,

or, where adaptive (FedAdam's step without bias correction: Reddi et al., arXiv:2003.00295),

    u = b1 u + (1 - b1) Delta,   v = b2 v + (1 - b2) Delta^2,   x_{r+1} = x_r + lr u / (sqrt(v) + tau).

k, w and c are `step_scale`, `offset` and `momentum_scale`; a too large k / w^{1/3} makes a = 1, plain gradients. No
program was released and the paper's constants are not known to us: the defaults are our own.

The baselines run on the same state: FedAvg, FedAdam, SCAFFOLD and MIME of `lemmata.core.federated` are names of this
module too. Clients are the leading axis of `client_batches`. A weight of 0 leaves a client out: one without data, whose
gradients are NaN, does no harm.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from ....core import checks, federated, local_steps, numerics, trees
from ....core.federated import FederatedState
from ....core.federated import fedadam_round as fedadam_round
from ....core.federated import fedavg_round as fedavg_round
from ....core.federated import mime_round as mime_round
from ....core.federated import scaffold_round as scaffold_round
from ....core.local_steps import GradFn
from . import _storm

Tree = Any
ALGORITHMS = (*federated.ALGORITHMS, "mvr")


# ---------------------------------------------------------------------------------------------------------- estimator


def mvr_momentum(grads: Tree, previous_grads: Tree, momentum: Tree, *, decay: float | jax.Array) -> Tree:
    """The momentum direction d = g + (1 - a) (m - g'), corrected by a second gradient on the same minibatch.

    Args:
        grads: g, tree of floats: the gradient at the present point.
        previous_grads: g', the gradient of the same minibatch at the previous point.
        momentum: m, the previous direction.
        decay: a, scalar in [0, 1]: 1 is the plain gradient, 0 follows the differences alone.

    Returns:
        d, each leaf in the promotion of its three.

    Raises:
        ValueError: decay outside [0, 1], or trees of another structure or shape than `grads`.

    Example:
        >>> mvr_momentum(jnp.array([1.0, 2.0]), jnp.array([0.5, 2.5]), jnp.array([1.5, 0.5]), decay=0.5)
        Array([1.5, 1. ], dtype=float32)
    """
    checks.in_interval("decay", decay, 0.0, 1.0)
    trees.check_like("grads", grads, previous_grads=previous_grads, momentum=momentum)
    direction = _storm.direction(trees.widen(grads), trees.widen(previous_grads), trees.widen(momentum), decay)
    promoted = jax.tree.map(lambda *leaves: jnp.zeros((), jnp.result_type(*leaves)), grads, previous_grads, momentum)
    return trees.cast_like(direction, promoted)


def mvr_directions(
    grads: jax.Array,
    previous_grads: jax.Array,
    *,
    step_scale: ArrayLike = 0.2,
    offset: ArrayLike = 1.0,
    momentum_scale: ArrayLike = 3.0,
) -> tuple[jax.Array, jax.Array]:
    """STORM's directions and step sizes over a given sequence of gradients; the first direction is the first gradient.

    Args:
        grads: `[steps, d]` float, g_t at the point of step t.
        previous_grads: `[steps, d]` float, the same minibatch's gradient at the point of step t - 1; row 0 is not used.
        step_scale: k, positive.
        offset: w, positive, of the unit of a squared gradient.
        momentum_scale: c, not negative.

    Returns:
        `(directions [steps, d], step_sizes [steps])`: of the dtype of the inputs' promotion, and in at least float32.
        Entries of any size have their step: |g|^2 is not formed. Both are empty where there are no steps.

    Raises:
        ValueError: shapes other than these, or a constant outside its range.

    Example:
        >>> directions, step_sizes = mvr_directions(jnp.ones((3, 2)), jnp.ones((3, 2)), step_scale=1.0)
        >>> step_sizes   # (1 + 2 t) ** (-1 / 3)
        Array([0.69336..., 0.58480..., 0.52275...], dtype=float32)
    """
    checks.shapes(("grads", grads, "steps d"), ("previous_grads", previous_grads, "steps d"))
    constants = _storm.constants(step_scale, offset, momentum_scale)
    result, wide = numerics.float_dtypes(grads, previous_grads)
    directions, step_sizes = _all_directions(grads.astype(wide), previous_grads.astype(wide), constants)
    return directions.astype(result), step_sizes


def storm(
    *, step_scale: ArrayLike = 0.2, offset: ArrayLike = 1.0, momentum_scale: ArrayLike = 3.0
) -> optax.GradientTransformationExtraArgs:
    """STORM as an optax transformation; `update(grads, state, params, previous_grads=...)` gives -eta d.

    Args:
        step_scale, offset, momentum_scale: k > 0, w > 0, c >= 0.

    Returns:
        A transformation whose update needs `previous_grads`, the gradient of the same minibatch at the previous
        parameters (TypeError where it is missing). The first call has no use for them: d_0 = g_0.

    Raises:
        ValueError: a constant outside its range.

    Example:
        >>> optimizer = storm(step_scale=1.0)
        >>> state = optimizer.init(jnp.zeros(2))
        >>> optimizer.update(jnp.zeros(2), state, previous_grads=jnp.zeros(2))[0]
        Array([-0., -0.], dtype=float32)
    """
    constants = _storm.constants(step_scale, offset, momentum_scale)

    def init(params):
        return _storm.start(jax.tree.map(jnp.zeros_like, trees.widen(params)), 1.0)

    def update(updates, state, params=None, *, previous_grads, **_):
        trees.check_like("updates", updates, previous_grads=previous_grads)
        state, step_size = _storm.advance(state, trees.widen(updates), trees.widen(previous_grads), constants)
        step = jax.tree.map(lambda d: -step_size * d, state.direction)
        return trees.cast_like(step, updates), state

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------------------------------ one MVR round


def client_update(
    params: Tree,
    previous_params: Tree,
    momentum: Tree,
    batches: Tree,
    *,
    grad_fn: GradFn,
    step_scale: ArrayLike = 0.2,
    offset: ArrayLike = 1.0,
    momentum_scale: ArrayLike = 3.0,
) -> tuple[Tree, Tree]:
    """What one client does in a round: K local STORM steps from x_r.

    Args:
        params: x_r, tree of floats.
        previous_params: x_{r-1}, the same tree.
        momentum: m_{r-1}, the same tree.
        batches: leaves `[K, ...]`, K at least 1; step j sees entry j.
        grad_fn: `(params, batch) -> gradient`, of parameters in at least float32. Pass the same function object each
            time: another one compiles anew.
        step_scale, offset, momentum_scale: k > 0, w > 0, c >= 0.

    Returns:
        `(y_K, d_0)`, trees like `params` and of its dtypes.

    Raises:
        ValueError: no step, a constant outside its range, or trees of another structure or shape than `params`.

    Example:
        >>> def grad_fn(x, batch):
        ...     return x - batch
        >>> client_update(jnp.ones(1), jnp.ones(1), jnp.ones(1), jnp.zeros((1, 1)), grad_fn=grad_fn, offset=7.0)
        (Array([0.9], dtype=float32), Array([1.], dtype=float32))
    """
    local_steps.check_batches(batches, name="batches", axes="K")
    trees.check_like("params", params, previous_params=previous_params, momentum=momentum)
    constants = _storm.constants(step_scale, offset, momentum_scale)
    start = trees.widen((params, previous_params, momentum))
    return trees.cast_like(_client(start, batches, constants, grad_fn=grad_fn), (params, params))


def quadratic_clients(
    params: jax.Array,
    previous_params: jax.Array,
    momentum: jax.Array,
    A: jax.Array,
    b: jax.Array,
    *,
    num_steps: int,
    step_scale: ArrayLike = 0.2,
    offset: ArrayLike = 1.0,
    momentum_scale: ArrayLike = 3.0,
) -> tuple[jax.Array, jax.Array]:
    """`client_update` of M clients with f_i(y) = 1/2 |A_i y - b_i|^2 and exact gradients A_i^T (A_i y - b_i).

    Args:
        params: `[d]` float, x_r.
        previous_params: `[d]`, x_{r-1}.
        momentum: `[d]`, m_{r-1}.
        A: `[M, n, d]` float.
        b: `[M, n]` float.
        num_steps: K, static, at least 1.
        step_scale, offset, momentum_scale: k > 0, w > 0, c >= 0.

    Returns:
        `(y_K [M, d], d_0 [M, d])`, of the dtype of the inputs' promotion.

    Raises:
        ValueError: shapes other than these, num_steps < 1, or a constant outside its range.

    Example:
        >>> x, A, b = jnp.ones(1), jnp.ones((2, 1, 1)), jnp.array([[0.0], [1.0]])
        >>> quadratic_clients(x, x, jnp.zeros(1), A, b, num_steps=1, step_scale=1.0, offset=63.0, momentum_scale=16)
        (Array([[0.75],
               [1.  ]], dtype=float32), Array([[1.],
               [0.]], dtype=float32))
    """
    checks.shapes(
        ("params", params, "d"),
        ("previous_params", previous_params, "d"),
        ("momentum", momentum, "d"),
        ("A", A, "clients n d"),
        ("b", b, "clients n"),
    )
    checks.in_interval("num_steps", num_steps, 1, jnp.inf)
    constants = _storm.constants(step_scale, offset, momentum_scale)
    result, wide = numerics.float_dtypes(params, previous_params, momentum, A, b)
    start, A, b = jax.tree.map(lambda x: x.astype(wide), ((params, previous_params, momentum), A, b))
    models, directions = _quadratic_clients(start, A, b, constants, num_steps=num_steps)
    return models.astype(result), directions.astype(result)


def adaptive_server_update(
    params: Tree,
    momentum: Tree,
    second_moment: Tree,
    deltas: Tree,
    weights: ArrayLike,
    *,
    learning_rate: ArrayLike = 0.1,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    tau: ArrayLike = 1e-3,
) -> tuple[Tree, Tree, Tree]:
    """The server's FedAdam step, along the clients' mean change: x + lr u / (sqrt(v) + tau), no bias correction.

    Args:
        params: x_r, tree of floats.
        momentum: u, the same tree; zeros before the first round.
        second_moment: v, the same tree; zeros before the first round.
        deltas: leaves `[clients, ...]`, each client's model less x_r.
        weights: `[clients]` that sum to 1, floats or integers; one of 0 leaves its client out.
        learning_rate: lr, positive.
        b1: in [0, 1]. With b1 = 0, lr = tau and tau large the step tends to plain averaging.
        b2: in [0, 1].
        tau: positive.

    Returns:
        `(params, momentum, second_moment)`, each of its own dtypes. Where the square of a change has no float (beyond
        1e19), its second moment is infinite and the entry does not move.

    Raises:
        ValueError: no client, weights that do not sum to 1 (unchecked where traced), other shapes, a constant outside
            its range.

    Example:
        >>> zero, deltas, weights = jnp.zeros(1), jnp.array([[1.0], [3.0]]), jnp.array([0.5, 0.5])
        >>> adaptive_server_update(zero, zero, zero, deltas, weights, b1=0.5, b2=0.0, tau=1.0)[0]
        Array([0.03333...], dtype=float32)
    """
    trees.check_like("params", params, momentum=momentum, second_moment=second_moment)
    (clients,) = local_steps.check_batches(deltas, name="deltas", axes="clients")
    weights = local_steps.round_weights(weights, clients)
    x, u, v, deltas = trees.widen((params, momentum, second_moment, deltas))
    delta = trees.weighted_sum(deltas, weights)
    trees.check_like("params", params, deltas=delta)
    stepped = federated.adam_step(x, u, v, delta, learning_rate=learning_rate, b1=b1, b2=b2, tau=tau)
    return trees.cast_like(stepped, (params, momentum, second_moment))


def init_federated(
    params: Tree,
    *,
    algorithm: str,
    adaptive: bool = False,
    num_clients: int = 0,
    direction: Tree = None,
) -> FederatedState:
    """The server before the first round.

    Args:
        params: x_0, tree of floats.
        algorithm: "mvr", or a baseline, "fedavg", "fedadam", "scaffold" or "mime": which round the state is for.
        adaptive: with "mvr", whether the server steps by FedAdam instead of averaging.
        num_clients: with "scaffold", how many clients there are, taking part or not.
        direction: with "mvr", m_{-1}: the mean gradient of one minibatch a client. Zeros by default, as if the
            objective were flat there. With "mime", s.

    Returns:
        A state with what that algorithm carries, of the dtypes of `params`; `second_moment`, whose entries are squares,
        in at least float32.

    Raises:
        ValueError: another algorithm, "scaffold" without clients, or a direction that is not like `params`.

    Example:
        >>> init_federated(jnp.ones(2), algorithm="mvr").previous_params
        Array([1., 1.], dtype=float32)
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {ALGORITHMS}, got {algorithm!r}.")
    if algorithm != "mvr":
        return federated.init_federated(params, algorithm=algorithm, num_clients=num_clients, direction=direction)
    state = federated.init_federated(params, algorithm="fedadam" if adaptive else "fedavg")
    carried = federated.init_federated(params, algorithm="mime", direction=direction).direction
    before = jax.tree.map(jnp.copy, params)  # a buffer of its own, to be donated
    return state._replace(direction=carried, previous_params=before)


def mvr_round(
    state: FederatedState,
    client_batches: Tree,
    *,
    grad_fn: GradFn,
    weights: ArrayLike | None = None,
    step_scale: ArrayLike = 0.2,
    offset: ArrayLike = 1.0,
    momentum_scale: ArrayLike = 3.0,
    learning_rate: ArrayLike = 0.1,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    tau: ArrayLike = 1e-3,
) -> FederatedState:
    """One round: every client's `client_update`, then the server's average or its adaptive step.

    Sends 3 models down and 2 up for each client, where FedAvg sends 1 and 1.

    Args:
        state: from `init_federated(params, algorithm="mvr", direction=m_{-1})`; the server is adaptive where the state
            has a momentum.
        client_batches: leaves `[clients, K, ...]`, of the clients that take part.
        grad_fn: `(params, batch) -> gradient`, as for `client_update`.
        weights: `[clients]` p_i that sum to 1, floats or integers; equal by default. One of 0 leaves its client out.
        step_scale, offset, momentum_scale: k > 0, w > 0, c >= 0.
        learning_rate, b1, b2, tau: of the adaptive server; see `adaptive_server_update`.

    Returns:
        The state of the next round.

    Raises:
        ValueError: what `client_update` and `adaptive_server_update` raise, or a state without direction.

    Example:
        >>> def grad_fn(x, batch):
        ...     return x - batch
        >>> state = init_federated(jnp.ones(1), algorithm="mvr", direction=jnp.ones(1))
        >>> mvr_round(state, jnp.zeros((4, 1, 1)), grad_fn=grad_fn, offset=7.0).params
        Array([0.9], dtype=float32)
    """
    clients, _ = local_steps.check_batches(client_batches)
    weights = local_steps.round_weights(weights, clients)
    if state.direction is None or state.previous_params is None:
        raise ValueError('state must have a direction and previous_params: init_federated(..., algorithm="mvr").')
    trees.check_like(
        "params", state.params, **{"state.previous_params": state.previous_params, "state.direction": state.direction}
    )
    constants = _storm.constants(step_scale, offset, momentum_scale)
    start = trees.widen((state.params, state.previous_params, state.direction))
    models, directions = _clients(start, client_batches, constants, grad_fn=grad_fn)
    deltas, adaptive = jax.tree.map(jnp.subtract, models, start[0]), dict(learning_rate=learning_rate, b1=b1, b2=b2)
    state = federated.server_step(state, deltas, weights, tau=tau, **adaptive)
    return state._replace(direction=trees.cast_like(trees.weighted_sum(directions, weights), state.direction))


# --------------------------------------------------------------------------------------------------------- local loops


@jax.jit
def _all_directions(grads, previous_grads, constants):
    def step(state, pair):
        state, step_size = _storm.advance(state, pair[0], pair[1], constants)
        return state, (state.direction, step_size)

    start = _storm.start(jnp.zeros(grads.shape[1:], grads.dtype), 1.0)
    return jax.lax.scan(step, start, (grads, previous_grads))[1]


def _local_run(start, batches, constants, grad_fn, num_steps):
    """The K local steps; the first stands by itself, since its direction is sent."""
    params, previous_params, momentum = start

    def step(carry, batch):
        y, before, state = carry
        state, step_size = _storm.advance(state, grad_fn(y, batch), grad_fn(before, batch), constants)
        return (jax.tree.map(lambda y, d: y - step_size * d, y, state.direction), y, state), None

    first, rest = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
    carry, _ = step((params, previous_params, _storm.start(momentum, _storm.first_decay(constants))), first)
    direction = carry[2].direction
    (y, _, _), _ = jax.lax.scan(step, carry, rest, length=num_steps - 1)
    return y, direction


@functools.partial(jax.jit, static_argnames="grad_fn")
def _client(start, batches, constants, *, grad_fn):
    return _local_run(start, batches, constants, grad_fn, jax.tree.leaves(batches)[0].shape[0])


@functools.partial(jax.jit, static_argnames="grad_fn")
def _clients(start, client_batches, constants, *, grad_fn):
    return jax.vmap(lambda batches: _client(start, batches, constants, grad_fn=grad_fn))(client_batches)


@functools.partial(jax.jit, static_argnames="num_steps")
def _quadratic_clients(start, A, b, constants, *, num_steps):
    def run(A, b):
        def gradient(y, _):
            return jnp.matmul(jnp.matmul(A, y, precision="highest") - b, A, precision="highest")

        return _local_run(start, None, constants, gradient, num_steps)

    return jax.vmap(run)(A, b)
