"""The blocked InfoNCE loss against optax.ntxent and against the plain matrix, value and gradients.

Not in the default run: `pytest tests/benchmarks/test_contrastive.py`, on a machine that does nothing else. Each test
prints the ratio of medians, of rounds that alternate between the two, so that a disturbance hits both.

optax.ntxent takes cosine similarities from an n x n x d array, value and gradients 17 GiB at n = 4096: it is skipped
where less is free, and run once.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from racing import race

from lemmata.core.contrastive import info_nce_loss
from lemmata.core.distances import l2_normalize

DIM, TEMPERATURE = 128, 0.07
NTXENT_BYTES = {1024: 2 * 2**30, 4096: 18 * 2**30}


def two_views(n):
    """Two noisy views of n / 2 examples, as unit rows: n embeddings together."""
    clean, first, second = jax.random.normal(jax.random.key(0), (3, n // 2, DIM))
    return l2_normalize(clean + 0.5 * first), l2_normalize(clean + 0.5 * second)


def ntxent(first, second):
    """Each embedding, with the other view as its positive, against the n - 1 others."""
    labels = jnp.tile(jnp.arange(len(first)), 2)
    return optax.losses.ntxent(jnp.concatenate([first, second]), labels, TEMPERATURE)


def blocked(first, second):
    """The same n x n products; the embedding itself, which ntxent masks, stays among the candidates."""
    queries, keys = jnp.concatenate([first, second]), jnp.concatenate([second, first])
    return jnp.mean(info_nce_loss(queries, keys, temperature=TEMPERATURE))


def plain(first, second):
    """What `blocked` computes, as one matrix and its automatic gradient."""
    queries, keys = jnp.concatenate([first, second]), jnp.concatenate([second, first])
    scores = queries @ keys.T / TEMPERATURE
    return jnp.mean(jax.nn.logsumexp(scores, axis=-1) - jnp.diag(scores))


def compiled(loss, views):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*views).compile()


def available_bytes():
    text = pathlib.Path("/proc/meminfo").read_text()
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("MemAvailable")))


def compare(benchmark, capsys, peer_name, peer, n, rounds):
    """Time both in turn; the benchmark's table shows the blocked loss, its extra_info and the print the ratio."""
    views = two_views(n)
    ours, theirs = compiled(blocked, views), compiled(peer, views)

    times = race(rounds, warm_up=int(rounds > 1), ours=lambda: ours(*views), peer=lambda: theirs(*views))
    own, other = times.median("ours"), times.median("peer")
    benchmark.extra_info.update(peer=peer_name, peer_seconds=other, ratio=own / other)
    benchmark.pedantic(lambda: jax.block_until_ready(ours(*views)), rounds=rounds)
    memory = [call.memory_analysis().temp_size_in_bytes / 2**20 for call in (ours, theirs)]
    with capsys.disabled():
        print(
            f"\nn = {n}: info_nce {own * 1e3:.1f} ms, {memory[0]:.0f} MiB; {peer_name} {other * 1e3:.1f} ms, "
            f"{memory[1]:.0f} MiB; ratio of times {own / other:.3f}"
        )
    return own / other


@pytest.mark.parametrize("n", [1024, 4096])
def test_against_plain_logsumexp(benchmark, capsys, n):
    assert compare(benchmark, capsys, "plain logsumexp", plain, n, rounds=15) <= 1.2


@pytest.mark.parametrize("n", [1024, 4096])
def test_against_optax_ntxent(benchmark, capsys, n):
    if available_bytes() < NTXENT_BYTES[n]:
        pytest.skip(f"optax.ntxent needs {NTXENT_BYTES[n] / 2**30:.0f} GiB at n = {n}")
    assert compare(benchmark, capsys, "optax.ntxent", ntxent, n, rounds=1 if n == 4096 else 5) < 1


def test_blocked_and_plain_agree():
    views = two_views(1024 + 512)  # above one block
    for one, other in zip(
        jax.tree.leaves(compiled(blocked, views)(*views)), jax.tree.leaves(compiled(plain, views)(*views)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
