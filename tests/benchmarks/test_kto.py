"""KTO's loss from logits, value and gradient, against the same in torch, in plain JAX and of TRL.

Not in the default run: `pytest tests/benchmarks/test_kto.py -s`, on a machine that does nothing else. Each test prints
the ratio of medians, of rounds that alternate between the two, so that a disturbance hits both. The policy's logits of
a batch are given, and of its mismatched answers, which get no gradient; the reference's log-probabilities are numbers.
TRL gave its loss as a function of log-probabilities up to 0.23; a later one is an error, and none a skip.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from racing import race

from lemmata.methods.losses.alignment import kto

SIZES = [(16, 64, 8192), (8, 128, 32768)]  # batch, time, vocabulary
ROUNDS, BETA = 15, 0.1
TRL = "needs trl <= 0.23, whose trainer has its loss as a function"


def problem(batch, time_steps, vocab):
    rng = np.random.default_rng(0)
    logits, mismatched = rng.standard_normal((2, batch, time_steps, vocab), dtype=np.float32)
    labels, mismatched_labels = rng.integers(vocab, size=(2, batch, time_steps), dtype=np.int32)
    where = np.arange(time_steps) < rng.integers(time_steps // 2, time_steps + 1, size=(batch, 1))
    ref, mismatched_ref = rng.normal(-9.0 * where.sum(1), 3.0, size=(2, batch)).astype(np.float32)
    return dict(
        logits=logits, mismatched=mismatched, labels=labels, mismatched_labels=mismatched_labels, where=where,
        ref=ref, mismatched_ref=mismatched_ref, desirable=np.arange(batch) % 2 == 0,
    )  # fmt: skip


def ours(logits, x):
    rows = kto.sequence_logps(x["mismatched"], x["mismatched_labels"], where=x["where"])
    z0 = kto.kl_reference_point(rows, x["mismatched_ref"])
    logps = kto.sequence_logps(logits, x["labels"], where=x["where"])
    return jnp.mean(kto.kto_loss(logps, x["ref"], x["desirable"], z0, beta=BETA))


def plain(logits, x):
    """What one writes down first: the label's entry of a whole log-softmax."""

    def sequence(logits, labels):
        tokens = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        return jnp.sum(tokens * x["where"], axis=-1)

    z0 = jnp.maximum(jnp.mean(sequence(x["mismatched"], x["mismatched_labels"]) - x["mismatched_ref"]), 0)
    gain = sequence(logits, x["labels"]) - x["ref"] - jax.lax.stop_gradient(z0)
    return jnp.mean(1 - jax.nn.sigmoid(BETA * jnp.where(x["desirable"], gain, -gain)))


def in_jax(loss, x):
    """A call that gives value and gradient, and the bytes that it needs beside them."""
    x = jax.device_put(x)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(x["logits"], x).compile()
    return lambda: jax.block_until_ready(compiled(x["logits"], x)), compiled.memory_analysis().temp_size_in_bytes


def in_torch(x):
    torch = pytest.importorskip("torch")
    t = {name: torch.from_numpy(value) for name, value in x.items()}
    logits = t["logits"].requires_grad_()

    def sequence(logits, labels):
        tokens = torch.gather(logits.log_softmax(-1), 2, labels.long()[..., None])[..., 0]
        return (tokens * t["where"]).sum(-1)

    def call():
        logits.grad = None
        with torch.no_grad():
            z0 = (sequence(t["mismatched"], t["mismatched_labels"]) - t["mismatched_ref"]).mean().clamp(min=0)
        gain = sequence(logits, t["labels"]) - t["ref"] - z0
        loss = (1 - torch.sigmoid(BETA * torch.where(t["desirable"], gain, -gain))).mean()
        loss.backward()
        return loss.detach().numpy(), logits.grad.numpy()

    return call


def in_trl(x):
    torch, trl = pytest.importorskip("torch"), pytest.importorskip("trl", reason=TRL)
    trainer = trl.KTOTrainer
    assert hasattr(trainer, "kto_loss"), f"{TRL}, got {trl.__version__}"
    settings = types.SimpleNamespace(
        calculate_KL=True, loss_type="kto", beta=BETA, desirable_weight=1.0, undesirable_weight=1.0,
        accelerator=types.SimpleNamespace(gather_for_metrics=lambda kl: kl),
    )  # fmt: skip
    t = {name: torch.from_numpy(value) for name, value in x.items()}
    logits, wanted = t["logits"].requires_grad_(), t["desirable"]
    labels, mismatched_labels = (
        t[name].long().masked_fill(~t["where"], -100) for name in ("labels", "mismatched_labels")
    )

    def sequence(logits, labels):
        return trainer.get_batch_logps(logits, labels, is_encoder_decoder=True)  # positions are aligned

    def call():
        logits.grad = None
        with torch.no_grad():
            rows = sequence(t["mismatched"], mismatched_labels)
        logps, ref = sequence(logits, labels), t["ref"]
        sides = logps[wanted], logps[~wanted], rows, ref[wanted], ref[~wanted], t["mismatched_ref"]
        loss = trainer.kto_loss(settings, *sides)[0].mean()
        loss.backward()
        return loss.detach().numpy(), logits.grad.numpy()

    return call


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("peer", ["torch", "trl", "plain JAX"])
def test_against(peer, size, benchmark, capsys):
    x = problem(*size)
    our_call, memory = in_jax(ours, x)
    if peer == "plain JAX":
        peer_call, peer_memory = in_jax(plain, x)
    else:
        peer_call, peer_memory = {"torch": in_torch, "trl": in_trl}[peer](x), None
    for one, other in zip(our_call(), peer_call(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-7)

    times = race(ROUNDS, ours=our_call, peer=peer_call)
    own, theirs = times.median("ours"), times.median("peer")
    benchmark.extra_info.update(peer=peer, peer_seconds=theirs, ratio=own / theirs)
    benchmark.pedantic(our_call, rounds=3)
    with capsys.disabled():
        used = f", {memory / 2**20:.0f} MiB beside in and out" + (
            f"; plain {peer_memory / 2**20:.0f} MiB" if peer_memory is not None else ""
        )
        print(
            f"\n{size}: kto {own * 1e3:.1f} ms; {peer} {theirs * 1e3:.1f} ms; ratio of times {own / theirs:.3f}{used}"
        )
