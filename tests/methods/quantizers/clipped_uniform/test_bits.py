"""Packed codes: what goes in comes out, in as few bytes as hold it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.methods.quantizers.clipped_uniform import _bits as bits


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 11, 16, 24, 32])
@pytest.mark.parametrize("signed", [True, False])
def test_codes_come_back_from_as_few_bytes_as_hold_them(width, signed):
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1)) if signed else (0, 2**width)
    codes = np.random.default_rng(width).integers(low, high, size=(3, 7))
    codes.flat[:2] = low, high - 1
    given_codes = jnp.asarray(codes.astype(np.int32 if signed else np.uint32))

    @jax.jit
    def round_trip(codes):
        packed = bits.pack_bits(codes, bits=width, signed=signed)
        return packed, bits.unpack_bits(packed, bits=width, size=codes.size, signed=signed)

    packed, back = round_trip(given_codes)
    assert packed.dtype == jnp.uint8
    assert packed.nbytes == bits.packed_size(21, width) == -(-21 * width // 8)
    np.testing.assert_array_equal(back, codes.ravel())
    # one number in base 2^width, written lowest byte first
    number = sum(int(code) % 2**width << (width * place) for place, code in enumerate(codes.ravel()))
    assert bytes(np.asarray(packed)) == number.to_bytes(packed.size, "little")


@pytest.mark.parametrize("codes", [[], [-4], [3, 0], [1, -1, 2, -2, 3, -3, 0, -4], [3] * 9])
def test_any_number_of_codes(codes):
    packed = bits.pack_bits(jnp.asarray(codes, jnp.int32), bits=3)
    assert packed.size == -(-3 * len(codes) // 8)
    assert bits.unpack_bits(packed, bits=3, size=len(codes)).tolist() == codes


def test_packs_under_vmap():
    codes = jax.random.randint(jax.random.key(0), (4, 13), -2, 2)
    packed = jax.vmap(lambda row: bits.pack_bits(row, bits=2))(codes)
    assert packed.shape == (4, 4)
    np.testing.assert_array_equal(jax.vmap(lambda row: bits.unpack_bits(row, bits=2, size=13))(packed), codes)


@pytest.mark.parametrize("width", [0, 33, 2.0, True])
def test_width_outside_its_range(width):
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 32"):
        bits.pack_bits(jnp.zeros(3, jnp.int32), bits=width)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"codes must be in \[-8, 7\], got 8"):
        bits.pack_bits(jnp.array([0, 8]), bits=4)
    with pytest.raises(ValueError, match=r"codes must be in \[0, 15\], got -1"):
        bits.pack_bits(jnp.array([0, -1]), bits=4, signed=False)
    for code, signed in ((-1, False), (2**31, True), (2**32, False), (-(2**31) - 1, True)):  # with 32 bits, too
        with pytest.raises(ValueError, match="codes must be in"):
            bits.pack_bits(np.array([0, code]), bits=32, signed=signed)
    with pytest.raises(ValueError, match="size must be in"):
        bits.unpack_bits(jnp.zeros(0, jnp.uint8), bits=4, size=-1)
    with pytest.raises(ValueError, match="codes must be integers, got float32"):
        bits.pack_bits(jnp.zeros(3), bits=4)
    for wrong in (jnp.zeros(3, jnp.uint8), jnp.zeros(2, jnp.int32)):
        with pytest.raises(ValueError, match=r"packed must be uint8 \[2\] for 3 codes of 4 bits"):
            bits.unpack_bits(wrong, bits=4, size=3)
