"""The long short-term memory as pure functions of a dictionary of parameters, in one direction and in both.

Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 1997. With d inputs and n units, one step is

    (i, f, g, o) = x W_x + h W_h + b,    c' = sigmoid(f) c + sigmoid(i) tanh(g),    h' = sigmoid(o) tanh(c'),

and a layer's parameters are {"w_x": `[d, 4n]`, "w_h": `[n, 4n]`, "b": `[4n]`}. Libraries that have two biases (torch,
cuDNN) have their sum here. `where` marks the steps that count: at others the state stays and the output is 0, so that a
row of any length gives what it gives alone.
"""

import functools

import jax
import jax.numpy as jnp

from .. import checks, numerics
from .batch import split_batch

Params = dict[str, jax.Array]
Carry = dict[str, jax.Array]

SIDES = ("forward", "backward")


def init_lstm(*, key: jax.Array, input_dim: int, hidden_dim: int) -> Params:
    """Parameters of one direction: W_x Glorot uniform, W_h with orthonormal rows, b zero but for the forget gate's 1.

    Args:
        key: JAX random key.
        input_dim: d, at least 1.
        hidden_dim: n, at least 1.

    Returns:
        {"w_x": `[d, 4n]`, "w_h": `[n, 4n]`, "b": `[4n]`} float32.

    Raises:
        ValueError: input_dim or hidden_dim below 1.

    Example:
        >>> jax.tree.map(jnp.shape, init_lstm(key=jax.random.key(0), input_dim=3, hidden_dim=2))
        {'b': (8,), 'w_h': (2, 8), 'w_x': (3, 8)}
    """
    for name, value in (("input_dim", input_dim), ("hidden_dim", hidden_dim)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    key_x, key_h = jax.random.split(key)
    return {
        "w_x": jax.nn.initializers.glorot_uniform()(key_x, (input_dim, 4 * hidden_dim)),
        "w_h": jax.nn.initializers.orthogonal()(key_h, (hidden_dim, 4 * hidden_dim)),
        "b": jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0]), hidden_dim),
    }


def lstm(
    params: Params, x: jax.Array, carry: Carry | None = None, *, where: jax.Array | None = None, reverse: bool = False
) -> tuple[jax.Array, Carry]:
    """Run one direction over sequences.

    Args:
        params: one layer's, see `init_lstm`.
        x: `[B, T, d]` float.
        carry: {"h", "c"}, each `[B, n]`, the state before the first step; None: zeros.
        where: `[B, T]` bool, True: the step counts. None: all do. What it leaves out may be infinite or NaN.
        reverse: from the last step to the first; outputs stay where their inputs are.

    Returns:
        `(hidden, carry)`: `[B, T, n]`, 0 where masked, and the state after the last step that counts; of the dtype that
        the inputs and parameters promote to, computed in at least float32.

    Raises:
        ValueError: shapes other than these, T = 0, or a mask that is not boolean.

    Example:
        >>> params = init_lstm(key=jax.random.key(0), input_dim=3, hidden_dim=2)
        >>> x = jax.random.normal(jax.random.key(1), (1, 5, 3))
        >>> whole, _ = lstm(params, x)
        >>> first, carry = lstm(params, x[:, :2])
        >>> second, _ = lstm(params, x[:, 2:], carry)   # goes on where the first stopped
        >>> jnp.allclose(whole, jnp.concatenate([first, second], axis=1), atol=1e-6)
        Array(True, dtype=bool)
    """
    sizes = _check(params, x, where, "params")
    if carry is None:
        carry = {name: jnp.zeros((sizes["B"], sizes["n"]), x.dtype) for name in ("h", "c")}
    states = [(f'carry["{name}"]', carry[name], "B n") for name in ("h", "c")]
    checks.shapes(("x", x, "B T d"), ('params["w_h"]', params["w_h"], "n k"), *states)
    return _lstm(params, x, carry, where, reverse)


def bilstm(params: dict[str, Params], x: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Run both directions over sequences, in one scan.

    Args:
        params: {"forward", "backward"}, each as of `init_lstm`, of one n.
        x: `[B, T, d]` float.
        where: `[B, T]` bool, True: the step counts; the backward direction starts at the last one. None: all do. What
            it leaves out may be infinite or NaN.

    Returns:
        `[B, T, 2n]`, [forward; backward], 0 where masked; of the dtype that the inputs and parameters promote to,
        computed in at least float32.

    Raises:
        ValueError: shapes other than these, T = 0, or a mask that is not boolean.

    Example:
        >>> keys = jax.random.split(jax.random.key(0))
        >>> params = {side: init_lstm(key=key, input_dim=3, hidden_dim=2) for side, key in zip(SIDES, keys)}
        >>> bilstm(params, jnp.ones((1, 4, 3)), where=jnp.array([[True, True, True, False]]))[0, 3]
        Array([0., 0., 0., 0.], dtype=float32)
    """
    for side in SIDES:
        _check(params[side], x, where, f'params["{side}"]')
    checks.shapes(*((f'params["{side}"]["w_h"]', params[side]["w_h"], "n k") for side in SIDES))
    return _bilstm(params, x, where)


@functools.partial(jax.jit, static_argnames="reverse")
def _lstm(params, x, carry, where, reverse):
    result, wide = numerics.float_dtypes(x, *jax.tree.leaves((params, carry)))
    params, x, carry = jax.tree.map(lambda leaf: leaf.astype(wide), (params, x, carry))
    hidden, carry = _scan(_projected(params, x, where), params["w_h"], carry, where, reverse)
    return jax.tree.map(lambda leaf: leaf.astype(result), (hidden, carry))


@jax.jit
def _bilstm(params, x, where):
    result, wide = numerics.float_dtypes(x, *jax.tree.leaves(params))
    params, x = jax.tree.map(lambda leaf: leaf.astype(wide), (params, x))
    forward, backward = (params[side] for side in SIDES)
    # The backward direction is a forward one over the flipped rows: both take the same step of one scan.
    z = jnp.stack([_projected(forward, x, where), jnp.flip(_projected(backward, x, where), 1)])
    w_h = jnp.stack([forward["w_h"], backward["w_h"]])
    both = None if where is None else jnp.stack([where, jnp.flip(where, 1)])
    zeros = jnp.zeros((len(x), w_h.shape[1]), wide)
    hidden, _ = jax.vmap(_scan, in_axes=(0, 0, None, 0, None))(z, w_h, {"h": zeros, "c": zeros}, both, False)
    return jnp.concatenate([hidden[0], jnp.flip(hidden[1], 1)], axis=-1).astype(result)


def _projected(params, x, where):
    """The part of all steps that needs no state, x W_x + b, `[B, T, 4n]`."""
    if where is not None:
        x = jnp.where(where[..., None], x, 0)  # a masked NaN would reach the gradient of W_x
    return split_batch(x @ params["w_x"] + params["b"])


def _scan(z, w_h, carry, where, reverse):
    """The recurrence over z `[B, T, 4n]` from `carry` on: `(hidden [B, T, n], carry)`."""

    def step(carry, inputs):
        z, real = inputs
        i, f, g, o = jnp.split(z + carry["h"] @ w_h, 4, axis=-1)
        c = jax.nn.sigmoid(f) * carry["c"] + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = split_batch(jax.nn.sigmoid(o) * jnp.tanh(c))
        if real is None:
            return {"h": h, "c": c}, h
        after = jax.tree.map(lambda new, old: jnp.where(real[:, None], new, old), {"h": h, "c": c}, carry)
        return after, jnp.where(real[:, None], h, 0)

    by_step = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (z, where))
    carry, hidden = jax.lax.scan(step, carry, by_step, reverse=reverse)
    return jnp.moveaxis(hidden, 0, 1), carry


def _check(params, x, where, name):
    weights = [(f'{name}["{key}"]', params[key], axes) for key, axes in (("w_x", "d k"), ("w_h", "n k"), ("b", "k"))]
    sizes = checks.shapes(("x", x, "B T d"), *weights)
    if sizes["T"] == 0:
        raise ValueError(f"x must have at least one step, got shape {list(x.shape)}.")
    if sizes["k"] != 4 * sizes["n"]:
        raise ValueError(f'{name}["w_h"] must have shape [n, 4n], got shape {list(params["w_h"].shape)}.')
    if where is not None:
        checks.shapes(("x", x, "B T d"), ("where", where, "B T"))
        if where.dtype != bool:
            raise ValueError(f"where must be boolean, got dtype {where.dtype}.")
    return sizes
