"""Local work of federated learning: every client's own steps, all clients at once.

Clients are a leading axis. `client_batches` has leaves `[clients, steps, ...]`: what each client of a round sees in its
local steps. The work is one vmapped loop without a word between clients: where that axis is split over devices, each
does its own clients.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import checks, trees

Tree = Any
GradFn = Callable[[Tree, Any], Tree]  # (params, batch of one local step) -> gradient of the client's loss


def local_sgd(params: Tree, client_batches: Tree, *, grad_fn: GradFn, learning_rate: ArrayLike) -> Tree:
    """Every client's model after its own gradient steps from `params`, one a minibatch.

    Args:
        params: the model that all start from.
        client_batches: leaves `[clients, steps, ...]`.
        grad_fn: `(params, batch) -> gradient`; gets parameters in at least float32. Pass the same function object each
            time: another one compiles anew.
        learning_rate: positive scalar.

    Returns:
        Models with leaves `[clients, ...]`, of the dtype of `params`.

    Raises:
        ValueError: no client or no step, or a learning rate outside its range.

    Example:
        >>> def grad_fn(x, batch):
        ...     return x - batch
        >>> local_sgd(jnp.zeros(()), jnp.array([[2.0, 2.0], [4.0, 0.0]]), grad_fn=grad_fn, learning_rate=0.5)
        Array([1.5, 1. ], dtype=float32)
    """
    check_batches(client_batches)
    checks.in_interval("learning_rate", learning_rate, 0.0, jnp.inf, closed="neither")
    return trees.cast_like(_local_sgd(trees.widen(params), client_batches, learning_rate, grad_fn=grad_fn), params)


@functools.partial(jax.jit, static_argnames="grad_fn")
def _local_sgd(params, client_batches, learning_rate, *, grad_fn):
    return jax.vmap(lambda batches: descend(params, batches, grad_fn, learning_rate))(client_batches)


def descend(params: Tree, batches: Tree, direction: GradFn, learning_rate: ArrayLike) -> Tree:
    """One client's steps `y <- y - learning_rate direction(y, batch)`, a scan: call it under `jax.jit`.

    Args:
        params: where it starts, at least float32.
        batches: leaves `[steps, ...]`.
        direction: `(y, batch) -> step`, a tree like `params`.
        learning_rate: scalar.
    """

    def step(y, batch):
        return jax.tree.map(lambda y, d: y - learning_rate * d, y, direction(y, batch)), None

    return jax.lax.scan(step, params, batches)[0]


@functools.partial(jax.jit, static_argnames="grad_fn")
def corrected_sgd(
    params: Tree, client_batches: Tree, drift: Tree, *, grad_fn: GradFn, learning_rate: ArrayLike
) -> Tree:
    """`local_sgd` with a constant of each client's own taken off its gradients, `drift` `[clients, ...]` (SCAFFOLD)."""

    def of_client(batches, drift):
        def direction(y, batch):
            return jax.tree.map(jnp.subtract, grad_fn(y, batch), drift)

        return descend(params, batches, direction, learning_rate)

    return jax.vmap(of_client)(client_batches, drift)


@functools.partial(jax.jit, static_argnames="grad_fn")
def anchored_sgd(
    params: Tree, client_batches: Tree, constant: Tree, *, grad_fn: GradFn, learning_rate: ArrayLike, scale: ArrayLike
) -> Tree:
    """Local steps along `scale (g(y) - g(params)) + constant`, both gradients of one minibatch (MIME, SVRG)."""

    def direction(y, batch):
        return jax.tree.map(
            lambda g, anchor, c: scale * (g - anchor) + c, grad_fn(y, batch), grad_fn(params, batch), constant
        )

    return jax.vmap(lambda batches: descend(params, batches, direction, learning_rate))(client_batches)


@functools.partial(jax.jit, static_argnames="grad_fn")
def gradients(params: Tree, client_batches: Tree, *, grad_fn: GradFn) -> Tree:
    """Every client's gradient at `params`, the mean over its minibatches: leaves `[clients, ...]`.

    Args:
        params: the model, in at least float32.
        client_batches: leaves `[clients, steps, ...]`.
        grad_fn: `(params, batch) -> gradient`.
    """

    def of_client(batches):
        steps = jax.tree.leaves(batches)[0].shape[0]

        def add(total, batch):
            return jax.tree.map(jnp.add, total, grad_fn(params, batch)), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), batches)
        return jax.tree.map(lambda x: x / steps, total)

    return jax.vmap(of_client)(client_batches)


def round_weights(weights: jax.Array | None, clients: int) -> jax.Array:
    """The weights of a round: as given, or 1 / clients each.

    Raises:
        ValueError: not `[clients]`, or known and negative or of another sum than 1.
    """
    if weights is None:
        return jnp.full(clients, 1 / clients)
    if weights.shape != (clients,):
        raise ValueError(f"weights must have shape [{clients}], one a client, got shape {list(weights.shape)}.")
    checks.in_interval("weights", weights, 0.0, jnp.inf, closed="left")
    if checks.is_known(weights):
        with jax.ensure_compile_time_eval():  # known weights may meet traced batches
            total = float(jnp.sum(weights.astype(jnp.float32)))
        if abs(total - 1) > max(1e-4, float(jnp.finfo(weights.dtype).eps)):
            raise ValueError(f"weights must sum to 1, got {total:g}.")
    return weights


def check_batches(client_batches: Tree) -> tuple[int, int]:
    """Number of clients and of local steps of `[clients, steps, ...]` leaves, both the same in all and at least 1."""
    leaves = jax.tree.leaves(client_batches)
    sizes = {leaf.shape[:2] for leaf in leaves}
    if len(sizes) != 1 or any(leaf.ndim < 2 for leaf in leaves) or 0 in min(sizes):
        found = ", ".join(str(list(leaf.shape)) for leaf in leaves) or "no array"
        raise ValueError(f"client_batches must have leaves [clients, steps, ...] with both at least 1, got {found}.")
    return sizes.pop()
