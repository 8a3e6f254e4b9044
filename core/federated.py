"""Rounds of federated optimisation: the server's state, its steps, and the algorithms that others are compared with.

Clients are a leading axis: `client_batches` has leaves `[clients, steps, ...]`, what each client that takes part sees
in its local steps. A round is local work without a word between clients (`local_steps`), then weighted sums over that
axis; where it is split over devices, those sums are all that crosses them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from . import checks, local_steps, numerics, trees
from .local_steps import GradFn

Tree = Any
ALGORITHMS = ("fedavg", "fedadam", "scaffold", "mime")


class FederatedState(NamedTuple):
    """The server between two rounds. What an algorithm has no use for is None."""

    params: Tree  # x_r
    previous_params: Tree = None  # x_{r-1}, where an algorithm looks back
    direction: Tree = None  # an estimate of the gradient of the global objective, or its moving average
    momentum: Tree = None  # u, first moment of the server's adaptive step; None: plain averaging
    second_moment: Tree = None  # v
    control: Tree = None  # c, the weighted mean of the clients' controls
    client_controls: Tree = None  # c_i, [all clients, ...]


def init_federated(
    params: Tree,
    *,
    algorithm: str,
    num_clients: int = 0,
    direction: Tree = None,
) -> FederatedState:
    """The server before the first round.

    Args:
        params: x_0, tree of floats.
        algorithm: "fedavg", "fedadam", "scaffold" or "mime": which round the state is for.
        num_clients: with "scaffold", how many clients there are, taking part or not.
        direction: with "mime", s before the first round, such as the mean gradient of one minibatch a client
            (`local_steps.gradients`). Zeros by default, as if the objective were flat there.

    Returns:
        A state with what that algorithm carries, of the dtypes of `params`; `second_moment`, whose entries are squares,
        in at least float32.

    Raises:
        ValueError: another algorithm, "scaffold" without clients, or a direction that is not like `params`.

    Example:
        >>> init_federated(jnp.ones(2), algorithm="scaffold", num_clients=3).client_controls.shape
        (3, 2)
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {ALGORITHMS}, got {algorithm!r}.")
    if algorithm == "scaffold" and num_clients < 1:
        raise ValueError(f"num_clients must be at least 1 for scaffold, got {num_clients}.")

    if direction is not None:
        trees.check_like("params", params, direction=direction)

    def zeros(*leading):
        return jax.tree.map(lambda x: jnp.zeros((*leading, *jnp.shape(x)), numerics.float_dtypes(x)[0]), params)

    state = FederatedState(params)
    if algorithm == "fedadam":
        state = state._replace(momentum=zeros(), second_moment=trees.widen(zeros()))
    if algorithm == "scaffold":
        state = state._replace(control=zeros(), client_controls=zeros(num_clients))
    if algorithm == "mime":
        state = state._replace(direction=zeros() if direction is None else direction)
    return state


# ------------------------------------------------------------------------------------------------------------- rounds


def fedavg_round(
    state: FederatedState,
    client_batches: Tree,
    *,
    grad_fn: GradFn,
    learning_rate: ArrayLike = 0.1,
    weights: ArrayLike | None = None,
) -> FederatedState:
    """FedAvg (McMahan et al., arXiv:1602.05629): local gradient steps, then the weighted mean of the models.

    Args:
        state: its `params` alone are used.
        client_batches: leaves `[clients, steps, ...]`, of the clients that take part.
        grad_fn: `(params, batch) -> gradient`; see `local_sgd`.
        learning_rate: of the local steps, positive.
        weights: `[clients]` that sum to 1 (unchecked where traced), floats or integers; equal by default. One of 0
            leaves its client out.

    Returns:
        The state with the new `params`.

    Raises:
        ValueError: no client, no step, weights that do not fit, or a learning rate outside its range.

    Example:
        >>> def grad_fn(x, batch):
        ...     return x - batch
        >>> fedavg_round(FederatedState(jnp.zeros(())), jnp.array([[2.0], [4.0]]), grad_fn=grad_fn).params
        Array(0.3, dtype=float32)
    """
    clients, _ = local_steps.check_batches(client_batches)
    weights = local_steps.round_weights(weights, clients)
    x = trees.widen(state.params)
    models = local_steps.local_sgd(x, client_batches, grad_fn=grad_fn, learning_rate=learning_rate)
    return server_step(state, jax.tree.map(jnp.subtract, models, x), weights)


def fedadam_round(
    state: FederatedState,
    client_batches: Tree,
    *,
    grad_fn: GradFn,
    learning_rate: ArrayLike = 0.1,
    weights: ArrayLike | None = None,
    server_learning_rate: ArrayLike = 0.1,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    tau: ArrayLike = 1e-3,
) -> FederatedState:
    """FedAdam (Reddi et al., arXiv:2003.00295): local gradient steps, then an adaptive step along their mean change.

    Args:
        state: from `init_federated(params, algorithm="fedadam")`.
        client_batches: leaves `[clients, steps, ...]`.
        grad_fn: `(params, batch) -> gradient`; see `local_sgd`.
        learning_rate: of the local steps, positive.
        weights: `[clients]` that sum to 1; equal by default.
        server_learning_rate: of the server's step, positive.
        b1: in [0, 1].
        b2: in [0, 1].
        tau: positive; how small a second moment still counts.

    Returns:
        The next state.

    Raises:
        ValueError: as `fedavg_round`, a constant outside its range, or a state without momentum.

    Example:
        >>> def grad_fn(x, batch):
        ...     return x - batch
        >>> state = init_federated(jnp.zeros(()), algorithm="fedadam")
        >>> fedadam_round(state, jnp.array([[2.0], [4.0]]), grad_fn=grad_fn).params   # 0.1 * 0.03 / (0.03 + 0.001)
        Array(0.0967..., dtype=float32)
    """
    if state.momentum is None:
        raise ValueError('state must have a momentum: init_federated(..., algorithm="fedadam").')
    clients, _ = local_steps.check_batches(client_batches)
    weights = local_steps.round_weights(weights, clients)
    x = trees.widen(state.params)
    models = local_steps.local_sgd(x, client_batches, grad_fn=grad_fn, learning_rate=learning_rate)
    adaptive = dict(learning_rate=server_learning_rate, b1=b1, b2=b2, tau=tau)
    return server_step(state, jax.tree.map(jnp.subtract, models, x), weights, **adaptive)


def scaffold_round(
    state: FederatedState,
    client_batches: Tree,
    *,
    grad_fn: GradFn,
    learning_rate: ArrayLike = 0.1,
    weights: ArrayLike | None = None,
    clients: ArrayLike | None = None,
) -> FederatedState:
    """SCAFFOLD (Karimireddy et al., arXiv:1910.06378), option II: each client's drift is taken off its local steps.

        y <- y - eta (g - c_i + c),   c_i+ = c_i - c + (x - y_K) / (K eta),   c += (taking part / all) mean(c_i+ - c_i)

    Args:
        state: from `init_federated(params, algorithm="scaffold", num_clients=…)`.
        client_batches: leaves `[taking part, steps, ...]`.
        grad_fn: `(params, batch) -> gradient`; see `local_sgd`.
        learning_rate: eta, positive.
        weights: `[taking part]` that sum to 1; equal by default. A client of weight 0 keeps its control.
        clients: `[taking part]` int, which of all clients these are, none twice (unchecked where traced: an index
            outside 0 to all - 1 then means another client); by default all of them in order.

    Returns:
        The next state.

    Raises:
        ValueError: as `fedavg_round`, a state without controls, another number of clients, or known ones that are no
            integers from 0 to all - 1 or stand there twice.

    Example:
        >>> def grad_fn(x, batch):
        ...     return x - batch
        >>> state = init_federated(jnp.zeros(()), algorithm="scaffold", num_clients=2)
        >>> scaffold_round(state, jnp.array([[2.0], [4.0]]), grad_fn=grad_fn).client_controls
        Array([-2., -4.], dtype=float32)
    """
    taking_part, steps = local_steps.check_batches(client_batches)
    weights = local_steps.round_weights(weights, taking_part)
    local_steps.check_rate("learning_rate", learning_rate)
    if state.client_controls is None:
        raise ValueError('state must have controls: init_federated(..., algorithm="scaffold", num_clients=…).')
    everyone = jax.tree.leaves(state.client_controls)[0].shape[0]
    clients = np.arange(everyone) if clients is None else clients
    if np.shape(clients) != (taking_part,):
        raise ValueError(f"clients must have shape [{taking_part}] as client_batches, got {list(np.shape(clients))}.")
    _check_clients(clients, everyone)
    clients = jnp.asarray(clients)
    x, control = trees.widen(state.params), trees.widen(state.control)
    own = jax.tree.map(lambda c: c[clients], trees.widen(state.client_controls))
    drift = jax.tree.map(jnp.subtract, own, control)
    models = local_steps.corrected_sgd(x, client_batches, drift, grad_fn=grad_fn, learning_rate=learning_rate)
    deltas = jax.tree.map(jnp.subtract, models, x)

    def changed(control, delta):  # c_i+ - c_i
        change = -control - delta / (steps * jnp.asarray(learning_rate, delta.dtype))
        return jnp.where(weights.reshape(-1, *[1] * (delta.ndim - 1)) > 0, change, 0.0)

    change = jax.tree.map(changed, control, deltas)
    share = taking_part / everyone
    control = jax.tree.map(lambda c, d: c + share * d, control, trees.weighted_sum(change, weights))
    controls = jax.tree.map(lambda c, d: c.at[clients].add(d.astype(c.dtype)), state.client_controls, change)
    state = server_step(state, deltas, weights)
    return state._replace(control=trees.cast_like(control, state.control), client_controls=controls)


def mime_round(
    state: FederatedState,
    client_batches: Tree,
    *,
    grad_fn: GradFn,
    learning_rate: ArrayLike = 0.1,
    weights: ArrayLike | None = None,
    momentum: ArrayLike = 0.9,
) -> FederatedState:
    """MIME with momentum (Karimireddy et al., arXiv:2008.03606): local steps mimic the server's momentum method.

        y <- y - eta ((1 - b) (g(y) - g(x) + c) + b s),    c = mean_i grad f_i(x),    s <- (1 - b) c + b s

    g(y) and g(x) are of one minibatch; s stays as it is within a round. grad f_i(x) is taken over all minibatches that
    client i sees in the round.

    Args:
        state: from `init_federated(params, algorithm="mime")`; s is its `direction`.
        client_batches: leaves `[clients, steps, ...]`.
        grad_fn: `(params, batch) -> gradient`; see `local_sgd`.
        learning_rate: eta, positive.
        weights: `[clients]` that sum to 1; equal by default.
        momentum: b, in [0, 1].

    Returns:
        The next state.

    Raises:
        ValueError: as `fedavg_round`, momentum outside its range, or a state without direction.

    Example:
        >>> def grad_fn(x, batch):
        ...     return x - batch
        >>> state = init_federated(jnp.zeros(()), algorithm="mime")
        >>> mime_round(state, jnp.array([[2.0], [4.0]]), grad_fn=grad_fn, momentum=0.5).direction
        Array(-1.5, dtype=float32)
    """
    clients, _ = local_steps.check_batches(client_batches)
    weights = local_steps.round_weights(weights, clients)
    local_steps.check_rate("learning_rate", learning_rate)
    checks.in_interval("momentum", momentum, 0.0, 1.0)
    if state.direction is None:
        raise ValueError('state must have a direction: init_federated(..., algorithm="mime").')
    trees.check_like("params", state.params, **{"state.direction": state.direction})
    x, s = trees.widen(state.params), trees.widen(state.direction)
    momentum = jnp.asarray(momentum, compute_dtype(x))
    c = trees.weighted_sum(local_steps.gradients(x, client_batches, grad_fn=grad_fn), weights)
    s = jax.tree.map(lambda c, s: (1 - momentum) * c + momentum * s, c, s)  # of the steps too: scale c + b s
    models = local_steps.anchored_sgd(
        x, client_batches, s, grad_fn=grad_fn, learning_rate=learning_rate, scale=1 - momentum
    )
    state = server_step(state, jax.tree.map(jnp.subtract, models, x), weights)
    return state._replace(direction=trees.cast_like(s, state.direction))


# ------------------------------------------------------------------------------------------------------------- server


def server_step(state: FederatedState, deltas: Tree, weights: jax.Array, **adaptive: ArrayLike) -> FederatedState:
    """The state with the clients' weighted mean change taken: added, or by `adam_step` where there is a momentum.

    Args:
        state: the server; where it has `previous_params`, they become the present ones.
        deltas: leaves `[clients, ...]`, each client's model less `state.params`, in at least float32.
        weights: `[clients]` that sum to 1, from `round_weights`.
        **adaptive: the constants of `adam_step`.
    """
    delta, x = trees.weighted_sum(deltas, weights), trees.widen(state.params)
    if state.momentum is None:
        x = jax.tree.map(jnp.add, x, delta)
    else:
        x, u, v = adam_step(x, trees.widen(state.momentum), trees.widen(state.second_moment), delta, **adaptive)
        moments = trees.cast_like((u, v), (state.momentum, state.second_moment))
        state = state._replace(momentum=moments[0], second_moment=moments[1])
    if state.previous_params is not None:
        state = state._replace(previous_params=state.params)
    return state._replace(params=trees.cast_like(x, state.params))


def adam_step(
    x: Tree, u: Tree, v: Tree, delta: Tree, *, learning_rate: ArrayLike, b1: ArrayLike, b2: ArrayLike, tau: ArrayLike
) -> tuple[Tree, Tree, Tree]:
    """FedAdam's server: u and v are moving averages of delta and its square, and x moves by lr u / (sqrt(v) + tau).

    A square beyond the largest float (a change of 1e20) makes an entry of v infinite, which from then on does not move.
    """
    for name, value in (("b1", b1), ("b2", b2)):
        checks.in_interval(name, value, 0.0, 1.0)
    for name, value in (("learning_rate", learning_rate), ("tau", tau)):
        checks.in_interval(name, value, 0.0, jnp.inf, closed="neither")

    learning_rate, b1, b2, tau = (jnp.asarray(value, compute_dtype(x)) for value in (learning_rate, b1, b2, tau))

    def moved(x, u, v):
        root = jnp.where(v > 0, jnp.sqrt(jnp.where(v > 0, v, 1.0)), 0.0)  # the square root has no slope at 0
        return x + learning_rate * u / (root + tau)

    u = jax.tree.map(lambda u, d: b1 * u + (1 - b1) * d, u, delta)
    v = jax.tree.map(lambda v, d: b2 * v + (1 - b2) * jnp.square(d), v, delta)
    return jax.tree.map(moved, x, u, v), u, v


def compute_dtype(tree: Tree) -> Any:
    """The one dtype that constants get beside a tree: of its leaves' promotion, at least float32."""
    return numerics.float_dtypes(*jax.tree.leaves(tree))[1]


def _check_clients(clients: Any, everyone: int) -> None:
    """Check that known numbers of clients are those of different ones: as indices they would be clamped, in silence."""
    checks.labels("clients", clients if hasattr(clients, "dtype") else np.asarray(clients), everyone)
    if checks.is_known(clients):
        numbers, counts = np.unique(np.asarray(clients), return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"clients must be different ones, got {numbers[counts > 1][0]} twice.")
