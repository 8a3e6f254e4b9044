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
import numpy as np
from jax.typing import ArrayLike

from . import checks, numerics, trees

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
    check_rate("learning_rate", learning_rate)
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


def corrected_sgd(
    params: Tree, client_batches: Tree, drift: Tree, *, grad_fn: GradFn, learning_rate: ArrayLike
) -> Tree:
    """`local_sgd` with a constant of each client's own taken off its gradients, `drift` `[clients, ...]` (SCAFFOLD).

    Raises:
        ValueError: as `local_sgd`, or a drift that does not fit.
    """
    clients, _ = check_batches(client_batches)
    check_rate("learning_rate", learning_rate)
    one_each = jax.tree.map(lambda x: jax.ShapeDtypeStruct((clients, *jnp.shape(x)), jnp.float32), params)
    trees.check_like("client_batches and params", one_each, drift=drift)
    models = _corrected_sgd(trees.widen(params), client_batches, trees.widen(drift), learning_rate, grad_fn=grad_fn)
    return trees.cast_like(models, params)


@functools.partial(jax.jit, static_argnames="grad_fn")
def _corrected_sgd(params, client_batches, drift, learning_rate, *, grad_fn):
    def of_client(batches, drift):
        def direction(y, batch):
            return jax.tree.map(jnp.subtract, grad_fn(y, batch), drift)

        return descend(params, batches, direction, learning_rate)

    return jax.vmap(of_client)(client_batches, drift)


def anchored_sgd(
    params: Tree, client_batches: Tree, constant: Tree, *, grad_fn: GradFn, learning_rate: ArrayLike, scale: ArrayLike
) -> Tree:
    """Local steps along `scale (g(y) - g(params)) + constant`, both gradients of one minibatch (MIME, SVRG).

    Raises:
        ValueError: as `local_sgd`, or a constant that is not like `params`.
    """
    check_batches(client_batches)
    check_rate("learning_rate", learning_rate)
    trees.check_like("params", params, constant=constant)
    start = trees.widen(params), trees.widen(constant)
    return trees.cast_like(_anchored_sgd(*start, client_batches, learning_rate, scale, grad_fn=grad_fn), params)


@functools.partial(jax.jit, static_argnames="grad_fn")
def _anchored_sgd(params, constant, client_batches, learning_rate, scale, *, grad_fn):
    def direction(y, batch):
        return jax.tree.map(
            lambda g, anchor, c: scale * (g - anchor) + c, grad_fn(y, batch), grad_fn(params, batch), constant
        )

    return jax.vmap(lambda batches: descend(params, batches, direction, learning_rate))(client_batches)


def gradients(params: Tree, client_batches: Tree, *, grad_fn: GradFn) -> Tree:
    """Every client's gradient at `params`, the mean over its minibatches: leaves `[clients, ...]`.

    Args:
        params: the model.
        client_batches: leaves `[clients, steps, ...]`.
        grad_fn: `(params, batch) -> gradient`; gets parameters in at least float32.

    Returns:
        Gradients of the dtype of `params`, summed in at least float32.

    Raises:
        ValueError: no client or no step.
    """
    check_batches(client_batches)
    return trees.cast_like(_gradients(trees.widen(params), client_batches, grad_fn=grad_fn), params)


@functools.partial(jax.jit, static_argnames="grad_fn")
def _gradients(params, client_batches, *, grad_fn):
    def of_client(batches):
        steps = jax.tree.leaves(batches)[0].shape[0]

        def add(total, batch):
            return jax.tree.map(jnp.add, total, grad_fn(params, batch)), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), batches)
        return jax.tree.map(lambda x: x / steps, total)

    return jax.vmap(of_client)(client_batches)


# --------------------------------------------------------------------------------------------------------------- checks


def round_weights(weights: ArrayLike | None, clients: int) -> jax.Array:
    """The weights of a round as floats: as given, or 1 / clients each.

    Args:
        weights: `[clients]`, of any real dtype: a client alone may have the integer weights [0, 1]. Or None.
        clients: how many take part.

    Returns:
        `[clients]`, in at least float32.

    Raises:
        ValueError: not `[clients]`, or known and negative, not finite or of another sum than 1. Rounding of the dtype
            that they came in is no other sum: ten times 0.1 will do in bfloat16, too.

    Example:
        >>> round_weights(jnp.array([10, 20]), 2)
        Traceback (most recent call last):
        ValueError: weights must sum to 1, got 30: divide them by their sum.
    """
    if weights is None:
        return jnp.full(clients, 1 / clients)
    if all(checks.is_known(leaf) for leaf in jax.tree.leaves(weights)):
        weights = _known_weights(weights, clients)
    weights = jnp.asarray(weights)
    if weights.shape != (clients,):
        raise ValueError(f"weights must have shape [{clients}], one a client, got shape {list(weights.shape)}.")
    return weights.astype(numerics.float_dtypes(weights)[1])


def _known_weights(weights: ArrayLike, clients: int) -> np.ndarray:
    given = np.asarray(weights)  # with NumPy: known weights may meet traced batches
    if given.shape != (clients,):
        raise ValueError(f"weights must have shape [{clients}], one a client, got shape {list(given.shape)}.")
    checks.in_interval("weights", given.astype(np.float64), 0.0, jnp.inf, closed="left")
    eps = float(jnp.finfo(given.dtype).eps) if jnp.issubdtype(given.dtype, jnp.floating) else 0.0
    total = np.sum(given, dtype=np.float64)
    if not abs(total - 1) <= max(1e-4, eps):
        raise ValueError(f"weights must sum to 1, got {total:g}: divide them by their sum.")
    return given


def check_rate(name: str, value: ArrayLike) -> None:
    """Check that `value` is a positive number, scalar; a traced one by its shape alone."""
    checks.shapes((name, value, ""))
    checks.in_interval(name, value, 0.0, jnp.inf, closed="neither")


def check_batches(client_batches: Tree, *, name: str = "client_batches", axes: str = "clients steps") -> list[int]:
    """The sizes of the leading axes of a tree's leaves, the same in all of them and at least 1.

    Raises:
        ValueError: a tree without arrays, too few axes, sizes that differ, or one of 0.

    Example:
        >>> check_batches({"x": jnp.zeros((3, 0, 2))})
        Traceback (most recent call last):
        ValueError: client_batches must have leaves [clients, steps, ...], each axis at least 1 long, got [3, 0, 2].
    """
    names, shapes = axes.split(), [jnp.shape(leaf) for leaf in jax.tree.leaves(client_batches)]
    sizes = {shape[: len(names)] for shape in shapes}
    if len(sizes) != 1 or any(len(shape) < len(names) for shape in shapes) or 0 in min(sizes):
        found = ", ".join(str(list(shape)) for shape in shapes) or "no array"
        raise ValueError(f"{name} must have leaves [{', '.join(names)}, ...], each axis at least 1 long, got {found}.")
    return list(sizes.pop())
