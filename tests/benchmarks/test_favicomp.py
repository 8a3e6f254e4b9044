"""Decoding 256 tokens with two models against decoding them with one, with key-value caches, in one process.

Not in the default run: `pytest tests/benchmarks/test_favicomp.py -s`, on a machine that does nothing else. For models
of several sizes it prints the ratio of medians, of rounds that alternate between the two (the aim is at most 2.2), how
often a step was traced, and the memory that 64 and 256 tokens need beside the parameters and the caches. On a CPU the
ratio tells where the caches end: one model may fit where two do not.
"""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from racing import race

from lemmata.core.networks.transformer import Transformer
from lemmata.methods.samplers import favicomp
from lemmata.train.models import generation

BATCH, PROMPT, TOKENS, ROUNDS, VOCAB, END = 4, 32, 256, 10, 1024, -1  # no end token: every row writes to the end


@pytest.mark.parametrize(("layers", "width"), [(2, 64), (2, 256), (4, 256), (4, 512)])
def test_two_models_against_one(layers, width):
    network = Transformer(
        VOCAB, num_layers=layers, num_heads=4, model_dim=width, mlp_dim=4 * width, max_length=PROMPT + TOKENS
    )
    traces = Counter()

    def step(name, state, token):
        traces[name] += 1
        return generation.step_of(network)(state, token)

    steps = {name: functools.partial(step, name) for name in ("compressor", "target", "alone")}
    states, first = prompted(network)
    pair = states["compressor"], states["target"]

    @functools.partial(jax.jit, static_argnums=1)
    def write_with_both(states, num_steps):
        return favicomp.decode(
            steps["compressor"], steps["target"], *states, first, num_steps=num_steps, eos_id=END
        )  # fmt: skip

    @functools.partial(jax.jit, static_argnums=1)
    def write_alone(state, num_steps):
        return generation.generate(
            steps["alone"], state, first,
            key=jax.random.key(0), choose=generation.greedy, num_steps=num_steps, eos_id=END,
        )  # fmt: skip

    times = race(ROUNDS, both=lambda: write_with_both(pair, TOKENS), one=lambda: write_alone(states["target"], TOKENS))
    ratio, fastest, per_token = times.ratio("both", "one"), times.fastest("both", "one"), times.median("both") / TOKENS
    print(
        f"\n{layers} layers of {width}: two models / one = {ratio:.2f} (of the fastest {fastest:.2f}), "
        f"{1e3 * per_token:.2f} ms a token; aim 2.2"
    )
    print(f"traces of a step for {TOKENS} tokens: {dict(traces)}")
    spent = {
        n: write_with_both.lower(pair, n).compile().memory_analysis().temp_size_in_bytes / 2**20 for n in (64, TOKENS)
    }
    caches = sum(leaf.nbytes for _, cache in pair for leaf in jax.tree.leaves(cache)) / 2**20
    print(
        f"memory beside the arguments, of which the caches are {caches:.1f} MiB: "
        + ", ".join(f"{size:.2f} MiB for {n} tokens" for n, size in spent.items())
    )
    assert max(traces.values()) < TOKENS / 10
    assert jnp.array_equal(write_with_both(pair, 64), write_with_both(pair, TOKENS)[:, :64])


def prompted(network):
    """States of two models by name, after one random prompt, and its last token."""
    prompt = jax.random.randint(jax.random.key(0), (BATCH, PROMPT), 0, VOCAB)
    init = jax.jit(network.init)
    read = jax.jit(functools.partial(generation.prompted, network), static_argnums=1)
    states = {
        name: read(init(jax.random.key(i), prompt), PROMPT + TOKENS, (prompt[:, :-1], None))
        for i, name in enumerate(("compressor", "target"))
    }
    return states, prompt[:, -1]
