"""DIBmix against a float64 NumPy program of the same iteration, and at a size whose kernel is never stored.

Not in the default run: `pytest tests/benchmarks/test_dib_mix.py`, on a machine that does nothing else. The first prints
the ratio of medians of rounds that alternate between the two, from columns to labels: kernel, then all restarts. The
second prints time and peak memory at n = 50 000; `DIB_MIX_ROWS`, `DIB_MIX_RESTARTS` and `DIB_MIX_ITERATIONS` change it.
"""

import os
import resource
import time

import dib_mix_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
from racing import race

from lemmata.methods.clustering import dib_mix
from lemmata.methods.clustering.dib_mix import _bottleneck as bottleneck

LEVELS, K, RESTARTS = (3, 4, 5, 3), 3, 10


def mixture(n, seed=0):
    """Three clusters in four continuous and four nominal columns."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(K, size=n)
    x = rng.standard_normal((n, 4)) + 1.5 * rng.standard_normal((K, 4))[labels]
    own = np.stack([rng.permutation(count)[:K] for count in LEVELS], axis=1)[labels]
    z = np.where(rng.random((n, 4)) < 0.6, rng.integers(LEVELS, size=(n, 4)), own)
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), z.astype(np.int32), labels


def test_against_numpy(benchmark, capsys):
    n = 2000
    x, z, _ = mixture(n)
    s, lambdas = dib_mix.select_bandwidths(jnp.asarray(x), jnp.asarray(z), num_categories=LEVELS)
    key = jax.random.key(0)
    starts = np.asarray(bottleneck.balanced_labels(key, n, K, RESTARTS))
    s_host, lambdas_host = float(s), np.asarray(lambdas, np.float64)

    def ours():
        conditional = dib_mix.mixed_conditional(x_device, z_device, s, lambdas, num_categories=LEVELS)
        found = dib_mix.dib_mix(conditional, key=key, num_clusters=K, num_restarts=RESTARTS)
        return np.asarray(found.assignments)

    def numpy():
        p = reference.conditional(x, z, s_host, lambdas_host, LEVELS)
        return reference.dib_mix(p, starts, K)

    x_device, z_device = jnp.asarray(x), jnp.asarray(z)
    same = np.mean(ours() == numpy())  # compiles, too
    times = race(5, warm_up=0, ours=ours, numpy=numpy)
    own, other = times.median("ours"), times.median("numpy")
    benchmark.extra_info.update(peer_seconds=other, ratio=other / own)
    benchmark.pedantic(ours, rounds=3)
    with capsys.disabled():
        print(
            f"\nn = {n}, {RESTARTS} restarts: dib_mix {own * 1e3:.0f} ms, NumPy float64 {other * 1e3:.0f} ms, "
            f"{other / own:.1f} x faster (aim 10); {100 * same:.1f} % equal labels"
        )
    assert same > 0.99
    assert other / own >= 10


def test_fifty_thousand_rows(benchmark, capsys):
    n = int(os.environ.get("DIB_MIX_ROWS", 50_000))
    restarts = int(os.environ.get("DIB_MIX_RESTARTS", 2))
    iterations = int(os.environ.get("DIB_MIX_ITERATIONS", 20))
    x, z, truth = mixture(n)
    x, z = jnp.asarray(x), jnp.asarray(z)

    def run():
        begin = time.perf_counter()
        s, lambdas = jax.block_until_ready(dib_mix.select_bandwidths(x, z, num_categories=LEVELS))
        middle = time.perf_counter()
        options = dict(num_clusters=K, num_restarts=restarts, max_iterations=iterations, num_categories=LEVELS)
        found = dib_mix.dib_mix_columns(x, z, s, lambdas, key=jax.random.key(0), **options)
        jax.block_until_ready(found)
        return middle - begin, time.perf_counter() - middle, found

    selection, search, found = benchmark.pedantic(run, rounds=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        print(
            f"\nn = {n}: bandwidths {selection:.0f} s, {restarts} restarts {search:.0f} s and {found.num_iterations} "
            f"steps in the best, peak memory {peak:.1f} GiB (the matrix alone: {n * n * 4 / 2**30:.1f})"
        )
    assert peak < 24
    rows = np.asarray(found.assignments) == 0
    assert np.bincount(truth[rows]).max() > 0.5 * rows.sum()  # it found something
