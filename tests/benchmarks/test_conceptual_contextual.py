"""The encoder of names against torch.nn.LSTM, packed and in both directions: value and gradients, in one process.

Not in the default run: `pytest tests/benchmarks/test_conceptual_contextual.py`, on a machine that does nothing else and
has torch. Rounds alternate between the two; each test prints the ratio of medians and that of the fastest rounds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from racing import race

from lemmata.methods.layers import conceptual_contextual as cc

torch = pytest.importorskip("torch")

ROUNDS = 30


def problem(batch, length, dim, units):
    """Word vectors, random lengths and the same parameters for both."""
    lengths = np.random.default_rng(0).integers(1, length + 1, batch)
    lengths[0] = length
    x = jax.random.normal(jax.random.key(0), (batch, length, dim))
    return cc.init_bilstm(key=jax.random.key(1), input_dim=dim, hidden_dim=units), x, lengths


def ours(params, x, lengths):
    where = jnp.arange(x.shape[1]) < jnp.asarray(lengths)[:, None]

    def loss(params, x):
        return jnp.sum(jnp.square(cc.bilstm_encode(params, x, where=where)))

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, x).compile()
    return lambda: jax.block_until_ready(run(params, x))


def theirs(params, x, lengths):
    dim, units = x.shape[-1], params["forward"]["w_h"].shape[0]
    network = torch.nn.LSTM(dim, units, batch_first=True, bidirectional=True)
    for side, suffix in (("forward", "l0"), ("backward", "l0_reverse")):
        for name, other in (("w_x", "weight_ih"), ("w_h", "weight_hh"), ("b", "bias_ih")):
            getattr(network, f"{other}_{suffix}").data = torch.tensor(np.asarray(params[side][name].T))
        getattr(network, f"bias_hh_{suffix}").data.zero_()
    inputs, sizes = torch.tensor(np.asarray(x), requires_grad=True), torch.tensor(lengths)

    def run():
        network.zero_grad(set_to_none=True)
        inputs.grad = None
        packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, sizes, batch_first=True, enforce_sorted=False)
        hidden, _ = torch.nn.utils.rnn.pad_packed_sequence(network(packed)[0], batch_first=True)
        value = torch.sum(torch.square(hidden))
        value.backward()
        return value.item(), inputs.grad.numpy()

    return run


@pytest.mark.parametrize(
    "sizes", [(256, 4, 32, 16), (64, 32, 128, 128), (32, 128, 256, 256)], ids=["names", "sentences", "documents"]
)
def test_against_torch(sizes, benchmark, capsys):
    data = problem(*sizes)
    own, other = ours(*data), theirs(*data)
    (value, (_, gradient)), (peer_value, peer_gradient) = own(), other()
    np.testing.assert_allclose(value, peer_value, rtol=1e-4)
    np.testing.assert_allclose(gradient, peer_gradient, rtol=1e-3, atol=1e-4)

    times = race(ROUNDS, ours=own, torch=other)
    ratio = times.ratio("ours", "torch")
    benchmark.extra_info.update(peer="torch.nn.LSTM", peer_seconds=times.median("torch"), ratio=ratio)
    benchmark.pedantic(own, rounds=5)
    with capsys.disabled():
        print(
            f"\n[batch, length, dim, units] = {list(sizes)}: bilstm_encode {times.median('ours') * 1e3:.2f} ms, "
            f"torch.nn.LSTM {times.median('torch') * 1e3:.2f} ms; ratio {ratio:.3f} "
            f"(of the fastest {times.fastest('ours', 'torch'):.3f})"
        )
