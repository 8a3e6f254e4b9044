"""EEGNet and ShallowConvNet, forward and backward, against torch: `pytest tests/benchmarks/test_imagined_speech.py -s`.

Rounds alternate between the two, on one batch, in training mode with dropout; printed are the ratio of medians and that
of the fastest rounds, which other work on the machine disturbs least. One peer is the same network in torch, to the
digits of its value and gradients; the other are the networks of braindecode, of the same sizes (its EEGNet pads a
sample more). Not in the default run; a peer that is not installed is skipped.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from racing import race

from lemmata.methods.layers import imagined_speech

ROUNDS = 15
SIZES = {"small": dict(batch=32, channels=16, samples=128), "large": dict(batch=64, channels=64, samples=256)}


def in_torch(torch, *, channels, samples, dropout_rate):
    """EEGNet-8,2 as torch users write it."""
    nn = torch.nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            norm = dict(eps=1e-3, momentum=0.01)
            self.temporal = nn.Sequential(
                nn.ZeroPad2d((31, 32, 0, 0)), nn.Conv2d(1, 8, (1, 64), bias=False), nn.BatchNorm2d(8, **norm)
            )
            self.spatial = nn.Sequential(
                nn.Conv2d(8, 16, (channels, 1), groups=8, bias=False), nn.BatchNorm2d(16, **norm),
                nn.ELU(), nn.AvgPool2d((1, 4)), nn.Dropout(dropout_rate),
            )  # fmt: skip
            self.separable = nn.Sequential(
                nn.ZeroPad2d((7, 8, 0, 0)), nn.Conv2d(16, 16, (1, 16), groups=16, bias=False),
                nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16, **norm),
                nn.ELU(), nn.AvgPool2d((1, 8)), nn.Dropout(dropout_rate),
            )  # fmt: skip
            self.dense = nn.Linear(16 * (samples // 32), 2)

        def forward(self, x):
            return self.dense(self.separable(self.spatial(self.temporal(x[:, None]))).flatten(1))

    return Network()


def copy_weights(torch, network, params):
    """Ours into torch's; features of the last layer are time-major here and feature-major there."""
    w = {name: np.array(leaf) for name, leaf in params.items() if not isinstance(leaf, dict)}
    features, classes = params["dense"]["w"].shape
    dense = np.array(params["dense"]["w"]).reshape(-1, 16, classes).swapaxes(0, 1).reshape(features, classes)
    with torch.no_grad():
        network.temporal[1].weight.copy_(torch.from_numpy(w["temporal"].T[:, None, None].copy()))
        network.spatial[0].weight.copy_(
            torch.from_numpy(w["spatial"].reshape(len(w["spatial"]), 16).T[:, None, :, None].copy())
        )
        network.separable[1].weight.copy_(torch.from_numpy(w["separable_depth"].T[:, None, None].copy()))
        network.separable[2].weight.copy_(torch.from_numpy(w["separable_point"].T[:, :, None, None].copy()))
        network.dense.weight.copy_(torch.from_numpy(dense.T.copy()))
        network.dense.bias.zero_()


def ours(network, dropout_rate):
    """Loss and gradients of one of the functions, jitted."""

    def loss(params, stats, x, label, key):
        logits, stats = network(params, stats, x, train=True, dropout_rate=dropout_rate, key=key)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label)), stats

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def theirs(torch, network, x, label):
    """A call that gives the loss and leaves the gradients in the torch network."""

    def step():
        network.zero_grad()
        value = torch.nn.functional.cross_entropy(network(torch.from_numpy(x)), torch.from_numpy(label))
        value.backward()
        return value.item()

    return step


def problem(init, *, batch, channels, samples):
    """Parameters, statistics, epochs and labels."""
    x = np.random.default_rng(0).normal(size=(batch, channels, samples)).astype(np.float32)
    params, stats = init(key=jax.random.key(0), num_channels=channels, num_samples=samples, num_classes=2)
    return params, stats, x, np.arange(batch) % 2


def report(title, benchmark, **calls):
    """Race the calls, ours first, and print."""
    times = race(ROUNDS, warm_up=2, **calls)
    own, peer = calls
    ratio = times.ratio(own, peer)
    shown = ", ".join(f"{who} {1e3 * times.median(who):.1f} ms" for who in calls)
    print(f"\n{title}: {shown}, {own} / {peer} = {ratio:.2f} (of the fastest {times.fastest(own, peer):.2f})")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(lambda: ratio, rounds=1)


@pytest.mark.parametrize("name", SIZES)
def test_eegnet_against_torch(name, benchmark):
    torch = pytest.importorskip("torch")
    size = SIZES[name]
    params, stats, x, label = problem(imagined_speech.init_eegnet, **size)

    exact = in_torch(torch, channels=size["channels"], samples=size["samples"], dropout_rate=0.0)
    copy_weights(torch, exact, params)
    (value, _), grads = ours(imagined_speech.eegnet, 0.0)(params, stats, x, label, None)
    np.testing.assert_allclose(theirs(torch, exact, x, label)(), value, rtol=1e-4)  # the same network
    np.testing.assert_allclose(exact.temporal[1].weight.grad[:, 0, 0].T, grads["temporal"], rtol=1e-2, atol=1e-4)

    network = in_torch(torch, channels=size["channels"], samples=size["samples"], dropout_rate=0.25)
    step, key = ours(imagined_speech.eegnet, 0.25), jax.random.key(0)
    title = f"EEGNet {name} {tuple(size.values())}"
    report(title, benchmark, lemmata=lambda: step(params, stats, x, label, key), torch=theirs(torch, network, x, label))


# ours -> names of theirs, newest first, and what makes its sizes ours
BRAINDECODE = {
    "eegnet": (("EEGNet", "EEGNetv4"), {}),
    "shallow_convnet": (
        ("ShallowFBCSPNet",),
        dict(filter_time_length=13, pool_time_length=35, pool_time_stride=7, final_conv_length="auto"),
    ),
}


@pytest.mark.parametrize("network", BRAINDECODE)
@pytest.mark.parametrize("name", SIZES)
def test_against_braindecode(name, network, benchmark):
    torch, models = pytest.importorskip("torch"), pytest.importorskip("braindecode.models")
    names, sizes = BRAINDECODE[network]
    make = next(getattr(models, name) for name in names if hasattr(models, name))
    params, stats, x, label = problem(getattr(imagined_speech, f"init_{network}"), **SIZES[name])
    _, channels, samples = x.shape
    peer = make(n_chans=channels, n_outputs=2, n_times=samples, drop_prob=0.25, **sizes)
    parameters = sum(p.numel() for p in peer.parameters() if p.requires_grad)
    assert abs(parameters / sum(leaf.size for leaf in jax.tree.leaves(params)) - 1) < 0.05

    step, key = ours(getattr(imagined_speech, network), 0.25), jax.random.key(0)
    title = f"{network} {name} {x.shape}"
    report(
        title, benchmark, lemmata=lambda: step(params, stats, x, label, key), braindecode=theirs(torch, peer, x, label)
    )
