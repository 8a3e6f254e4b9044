"""Decoding 256 tokens with two models against decoding them with one, with key-value caches, in one process.

Not in the default run: `pytest tests/benchmarks/test_favicomp.py -s`, on a machine that does nothing else. It prints
the ratio of medians, of rounds that alternate between the two (the aim is at most 2.2), how often a step was traced,
and the memory that 64 and 256 tokens need beside the parameters and the caches.
"""

import functools
import statistics
import time
from collections import Counter

import jax
import jax.numpy as jnp

from lemmata.core.networks.transformer import Transformer
from lemmata.methods.samplers import favicomp
from lemmata.train.experiments import decoding

BATCH, PROMPT, TOKENS, ROUNDS = 4, 32, 256, 10
NETWORK = Transformer(1024, num_layers=2, num_heads=4, model_dim=256, mlp_dim=1024, max_length=PROMPT + TOKENS)


def test_two_models_against_one():
    traces = Counter()

    def step(name, state, token):
        traces[name] += 1
        return decoding.step_of(NETWORK)(state, token)

    steps = {name: functools.partial(step, name) for name in ("compressor", "target", "alone")}
    prompt = jax.random.randint(jax.random.key(0), (BATCH, PROMPT), 0, 1024)
    init = jax.jit(NETWORK.init)
    params = {name: init(jax.random.key(i), prompt) for i, name in enumerate(("compressor", "target"))}
    read = jax.jit(functools.partial(decoding.prompted, NETWORK), static_argnums=1)
    states = {name: read(params[name], PROMPT + TOKENS, (prompt[:, :-1], None)) for name in params}
    first, end = prompt[:, -1], -1  # no end token: every row writes to the end

    def both(num_steps):
        return favicomp.decode(
            steps["compressor"], steps["target"], states["compressor"], states["target"], first,
            num_steps=num_steps, eos_id=end,
        )  # fmt: skip

    @functools.partial(jax.jit, static_argnums=1)
    def generate(state, num_steps):
        return decoding.generate(
            steps["alone"], state, first,
            key=jax.random.key(0), choose=decoding.greedy, num_steps=num_steps, eos_id=end,
        )  # fmt: skip

    def one(num_steps):
        return generate(states["target"], num_steps)

    times = {both: [], one: []}
    for index in range(ROUNDS + 1):
        for call, spent in times.items():
            begin = time.perf_counter()
            jax.block_until_ready(call(TOKENS))
            if index:  # the first compiles
                spent.append(time.perf_counter() - begin)
    two, single = (statistics.median(spent) for spent in times.values())
    fastest = min(times[both]) / min(times[one])
    per_token = 1e3 * two / TOKENS
    print(
        f"\ntwo models / one = {two / single:.2f} (of the fastest {fastest:.2f}), {per_token:.2f} ms a token; aim 2.2"
    )
    print(f"traces of a step for {TOKENS} tokens: {dict(traces)}")

    decode = jax.jit(lambda states, n: favicomp.decode(
        steps["compressor"], steps["target"], *states, first, num_steps=n, eos_id=end), static_argnums=1
    )  # fmt: skip
    pair = states["compressor"], states["target"]
    spent = {n: decode.lower(pair, n).compile().memory_analysis().temp_size_in_bytes for n in (64, TOKENS)}
    caches = sum(leaf.nbytes for _, cache in pair for leaf in jax.tree.leaves(cache))
    print(f"memory beside the arguments, of which the caches are {caches / 2**20:.1f} MiB: " + ", ".join(
        f"{size / 2**20:.2f} MiB for {n} tokens" for n, size in spent.items()
    ))  # fmt: skip
    assert max(traces.values()) < TOKENS / 10
    assert jnp.array_equal(both(64), both(TOKENS)[:, :64])
