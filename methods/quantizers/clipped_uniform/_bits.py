"""Codes of a few bits as bytes and back, so that what is sent can be counted.

Code i takes bits i B to (i + 1) B - 1 of one stream, lowest bit first, and byte j holds bits 8 j to 8 j + 7 of it. The
pattern repeats every lcm(8, B) bits, so a group of codes meets a group of bytes by shifts that are known beforehand.
"""

import functools
import math

import jax
import jax.numpy as jnp

from ....core import checks


def packed_size(size: int, bits: int) -> int:
    """Bytes that `size` codes of `bits` bits take.

    Example:
        >>> packed_size(10, 3)
        4
    """
    return -(-size * bits // 8)


def pack_bits(codes: jax.Array, *, bits: int, signed: bool = True) -> jax.Array:
    """Integers written without gaps.

    Args:
        codes: `[...]` integers, read in row-major order: in [-2^(bits-1), 2^(bits-1)) where `signed` (two's
            complement), else in [0, 2^bits). A traced code outside loses its higher bits.
        bits: 1 to 32, static.
        signed: which of the two.

    Returns:
        `[ceil(n bits / 8)]` uint8 of the n codes, none for no code; the last byte is filled up with zeros.

    Raises:
        ValueError: bits outside 1 to 32, codes that are not integers, or a known code that does not fit.

    Example:
        >>> pack_bits(jnp.array([-1, 2, -8]), bits=4)
        Array([47,  8], dtype=uint8)
    """
    _check_bits(bits)
    if not jnp.issubdtype(codes.dtype, jnp.integer):
        raise ValueError(f"codes must be integers, got {codes.dtype}.")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    checks.in_interval("codes", codes, low, high)
    return _pack(codes.ravel(), bits)


@functools.partial(jax.jit, static_argnums=1)  # one pass, also where it is called by itself
def _pack(codes, bits):
    num_codes, num_bytes = _group(bits)
    flat = codes.astype(jnp.uint32) & jnp.uint32(2**bits - 1)
    groups = jnp.pad(flat, (0, -flat.size % num_codes)).reshape(-1, num_codes)
    columns = [
        sum((_shift(groups[:, i], 8 * j - bits * i) for i in range(num_codes) if _meets(i, j, bits)), jnp.uint32(0))
        for j in range(num_bytes)
    ]
    packed = (jnp.stack(columns, axis=-1) & jnp.uint32(255)).astype(jnp.uint8)
    return packed.ravel()[: packed_size(flat.size, bits)]


def unpack_bits(packed: jax.Array, *, bits: int, size: int, signed: bool = True) -> jax.Array:
    """The integers that `pack_bits` wrote.

    Args:
        packed: `[ceil(size bits / 8)]` uint8.
        bits: 1 to 32, static.
        size: how many codes there are, static.
        signed: as they were packed.

    Returns:
        `[size]` int32; uint32 where not `signed`.

    Raises:
        ValueError: bits outside 1 to 32, a negative size, or bytes of another number or dtype than `size` codes take.

    Example:
        >>> unpack_bits(jnp.array([47, 8], jnp.uint8), bits=4, size=3)
        Array([-1,  2, -8], dtype=int32)
    """
    _check_bits(bits)
    checks.in_interval("size", size, 0, jnp.inf)
    if packed.dtype != jnp.uint8 or packed.shape != (packed_size(size, bits),):
        raise ValueError(
            f"packed must be uint8 [{packed_size(size, bits)}] for {size} codes of {bits} bits, "
            f"got {packed.dtype} {list(packed.shape)}."
        )
    return _unpack(packed, bits, size, signed)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _unpack(packed, bits, size, signed):
    num_codes, num_bytes = _group(bits)
    groups = jnp.pad(packed, (0, -packed.size % num_bytes)).reshape(-1, num_bytes).astype(jnp.uint32)
    columns = [
        sum((_shift(groups[:, j], bits * i - 8 * j) for j in range(num_bytes) if _meets(i, j, bits)), jnp.uint32(0))
        for i in range(num_codes)
    ]
    raised = jnp.stack(columns, axis=-1).ravel()[:size] << jnp.uint32(32 - bits)  # the top bit is now the sign's place
    return raised.astype(jnp.int32) >> (32 - bits) if signed else raised >> jnp.uint32(32 - bits)


def _group(bits):
    """Codes and bytes of one period of the pattern."""
    common = math.gcd(8, bits)
    return 8 // common, bits // common


def _meets(code, byte, bits):
    return bits * code < 8 * (byte + 1) and 8 * byte < bits * (code + 1)


def _shift(x, right):
    return x >> jnp.uint32(right) if right >= 0 else x << jnp.uint32(-right)


def _check_bits(bits):
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 32:
        raise ValueError(f"bits must be an integer from 1 to 32, got {bits!r}.")
