"""FedAvg whose clients send their models as clipped uniform codes, packed without gaps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ....core import local_steps, trees
from ....methods.quantizers import clipped_uniform as method
from . import Algorithm, Problem, Sent

CLIPS = ("optimal", "max")
ROUNDINGS = ("stochastic", "nearest")
WEIGHTINGS = ("data", "inverse_mse")


def clipped_uniform(
    problem: Problem,
    *,
    learning_rate: float = 0.2,
    bits: tuple[int, ...] = (4,),
    clip: str = "optimal",
    rounding: str = "stochastic",
    weighting: str = "data",
) -> Algorithm:
    """FedAvg in few bits: models come down whole and go up quantized, layer by layer.

    Args:
        problem: what it is built for.
        learning_rate: of the local steps.
        bits: of what clients send up: (4,) all alike, (2, 4, 8) in turn.
        clip: of a layer, "optimal" (least expected error) or "max" (its largest magnitude).
        rounding: "stochastic" or "nearest".
        weighting: clients count by their "data", or each layer by its "inverse_mse", the error of its codes.

    Raises:
        ValueError: one of these is something else.
    """
    for name, value, known in (
        ("clip", clip, CLIPS), ("rounding", rounding, ROUNDINGS), ("weighting", weighting, WEIGHTINGS),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}.")
    if not bits or not all(type(width) is int and 1 <= width <= method.MAX_BITS for width in bits):
        raise ValueError(f"bits must be integers from 1 to {method.MAX_BITS}, at least one, got {bits}.")

    def init(params, first):
        return (), Sent(0, 0)

    def run(params, carried, given):
        models = local_steps.local_sgd(params, given.batches, grad_fn=problem.grad_fn, learning_rate=learning_rate)
        widths = jnp.asarray(bits)[given.clients % len(bits)]
        choices: dict[str, Any] = dict(bits=bits, clip=clip, rounding=rounding, weighting=weighting)
        server, up = _quantized_uplink(models, given.weights, widths, key=given.key, **choices)
        return server, (), Sent(up, trees.size_in_bytes(params))

    return Algorithm(init, run, packed=True)


def _quantized_uplink(
    models: Any,
    weights: jax.Array,
    widths: jax.Array,
    *,
    key: jax.Array,
    bits: tuple[int, ...],
    clip: str,
    rounding: str,
    weighting: str,
) -> tuple[Any, jax.Array]:
    """What the server makes of the clients' models when these travel as packed codes, and the bytes that they took.

    A client sends, for each layer, its codes in its own number of bits, the clip (4 bytes) and, where the server weighs
    by it, the mean squared error (4 bytes). A client of weight 0 has nothing to say and sends nothing. An infinite
    entry travels as the last code at its end; a NaN has no code, and makes the clip of its layer NaN.

    Args:
        models: tree with leaves `[clients, ...]`.
        weights: `[clients]` by data, summing to 1.
        widths: `[clients]` int, bits of each client, each of them one of `bits`.
        key: for stochastic rounding.
        bits: as for `clipped_uniform`, as are `clip`, `rounding` and `weighting`.

    Returns:
        `(tree without the clients' axis, [clients] bytes)`.
    """
    leaves, tree = jax.tree.flatten(models)
    by_error, present = weighting == "inverse_mse", weights > 0

    def of_layer(x, width, uniform):
        """One client's layer as the server receives it, the error of its codes, and its bytes."""
        s = _clip_of(x, width, clip, rounding)
        if rounding == "stochastic":
            codes, values = method.stochastic_quantize(x, s, uniform.reshape(x.shape), bits=width)
        else:
            codes, values = method.quantize(x, s, bits=width)
        received, size = jnp.zeros(x.size, jnp.int32), jnp.zeros((), jnp.int32)
        for own in sorted(set(bits)):  # a packed array has a fixed length, so each width has its own
            packed = method.pack_bits(codes, bits=own)
            unpacked = method.unpack_bits(packed, bits=own, size=x.size)
            received = jnp.where(width == own, unpacked, received)
            size = jnp.where(width == own, packed.nbytes, size)
        value = received.reshape(x.shape) / jnp.left_shift(1, width - 1).astype(x.dtype) * s
        return value, jnp.mean(jnp.square(values - x)), size + s.nbytes + (4 if by_error else 0)

    ends = np.cumsum([leaf[0].size for leaf in leaves])
    uniform = jnp.split(jax.random.uniform(key, (len(widths), ends[-1])), ends[:-1], axis=1)
    sent = [jax.vmap(of_layer)(leaf, widths, draws) for leaf, draws in zip(leaves, uniform, strict=True)]
    values, errors, sizes = (list(parts) for parts in zip(*sent, strict=True))
    if by_error:
        by_layer = method.inverse_mse_weights(jnp.where(present[:, None], jnp.stack(errors, axis=1), jnp.inf))
    else:
        by_layer = jnp.broadcast_to(weights[:, None], (len(weights), len(leaves)))
    return method.aggregate(tree.unflatten(values), by_layer), jnp.where(present, sum(sizes), 0)


def _clip_of(x: jax.Array, width: jax.Array, clip: str, rounding: str) -> jax.Array:
    """The clip of one layer: NaN where an entry is, and of the finite entries alone else."""
    if clip == "max":
        finite = jnp.isfinite(x)
        s = jnp.where(jnp.any(finite), jnp.max(jnp.where(finite, jnp.abs(x), 0.0)), jnp.nan)
    else:
        s = method.optimal_clip(x, bits=width, stochastic=rounding == "stochastic")
    return jnp.where(jnp.any(jnp.isnan(x)), jnp.nan, s)
