"""Quantize + dequantize of 10^8 values against a copy with cast: `pytest tests/benchmarks/test_clipped_uniform.py -s`.

Each is one jitted pass. The copy reads 4 bytes a value (float32) and writes 4 (int32). Quantizing to values reads 4 and
writes 4 (float32: the codes stay in registers); to codes and values, as `quantize` returns them, it reads 4 and writes
8. Compared are bytes moved a second, in rounds that alternate; the aim is 60 % of the copy's.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from racing import race

from lemmata.methods.quantizers import clipped_uniform as cu

SIZE, ROUNDS, AIM = 10**8, 7, 0.6


def quantized(x, clip):
    return cu.quantize(x, clip, bits=4)


PASSES = {  # name -> function and bytes moved a value
    "copy with cast": (lambda x, clip: x.astype(jnp.int32), 8),
    "quantize + dequantize": (lambda x, clip: quantized(x, clip)[1], 8),
    "codes and values": (quantized, 12),
}


@pytest.mark.slow
def test_bandwidth_against_a_copy(benchmark, capsys):
    x = jax.jit(lambda: 3 * jnp.sin(jnp.arange(SIZE, dtype=jnp.float32)))().block_until_ready()
    clip = jnp.float32(2.5)
    compiled = {name: jax.jit(function).lower(x, clip).compile() for name, (function, _) in PASSES.items()}
    times = race(ROUNDS, **{name: functools.partial(call, x, clip) for name, call in compiled.items()})
    rate = {name: moved * SIZE / times.median(name) / 1e9 for name, (_, moved) in PASSES.items()}
    copy = rate["copy with cast"]
    with capsys.disabled():
        print()
        for name, value in rate.items():
            print(f"{name}: {value:.1f} GB/s, {value / copy:.2f} of the copy (aim {AIM})")
    benchmark.extra_info.update({name: value / copy for name, value in rate.items()})
    benchmark.pedantic(lambda: copy, rounds=1)
