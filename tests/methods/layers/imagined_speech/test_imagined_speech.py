"""Imagined speech: the oracles of its card."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from lemmata.methods.layers import imagined_speech as speech

SIZES = dict(num_channels=3, num_samples=48, num_classes=2)
INIT = {
    "eegnet": functools.partial(speech.init_eegnet, num_temporal=2, num_separable=4, kernel_size=8),
    "shallow_convnet": functools.partial(speech.init_shallow_convnet, num_filters=4, pool_size=16),
    "deep_convnet": functools.partial(speech.init_deep_convnet, num_filters=(2, 3), kernel_size=5),
}
OPTIONS = {"eegnet": {}, "shallow_convnet": {"pool_size": 16}, "deep_convnet": {}}
NETWORKS = tuple(INIT)
each_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def compiled(name, train, dropout_rate=0.0):
    call = functools.partial(getattr(speech, name), train=train, dropout_rate=dropout_rate, **OPTIONS[name])
    return jax.jit(lambda params, stats, x, key=None: call(params, stats, x, key=key))


@functools.cache
def started(name):
    """Parameters and statistics away from their first values, and a batch."""
    params, stats = INIT[name](key=jax.random.key(0), **SIZES)
    leaves, tree = jax.tree.flatten((params, stats))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.1 * jnp.abs(jax.random.normal(k, leaf.shape)) for leaf, k in zip(leaves, keys, strict=True)]
    return *tree.unflatten(moved), jax.random.normal(jax.random.key(2), (4, 3, 48))


def trials(seed=0, n=24, channels=4, samples=60):
    """Two classes with different mixtures, and the labels."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    power = np.where(label[:, None] == 0, [3.0, 1.0, 1.0, 0.5], [1.0, 1.0, 2.0, 2.0])[:, :channels]
    sources = np.sqrt(power)[:, :, None] * rng.normal(size=(n, channels, samples))
    x = np.einsum("cd,ndt->nct", rng.normal(size=(channels, channels)), sources)
    return jnp.asarray(x, jnp.float32), jnp.asarray(label, jnp.int32)


csp = jax.jit(functools.partial(speech.fit_csp, num_filters=4))


def class_covariances(x, label):
    x = np.asarray(x, np.float64)
    covariance = np.einsum("nct,ndt->ncd", x, x)
    covariance /= np.trace(covariance, axis1=1, axis2=2)[:, None, None]
    return [covariance[np.asarray(label) == k].mean(0) for k in (0, 1)]


# --- networks


def test_eegnet_has_the_published_number_of_parameters():
    params, stats = speech.init_eegnet(key=jax.random.key(0), num_channels=64, num_samples=128, num_classes=4)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2388
    assert sum(leaf.size for leaf in jax.tree.leaves(stats)) == 80


@each_network
def test_start_is_glorot_with_zero_biases_and_unit_statistics(name):
    params, stats = INIT[name](key=jax.random.key(3), **SIZES)
    for path, leaf in jax.tree_util.tree_leaves_with_path((params, stats)):
        text = jax.tree_util.keystr(path)
        if "bias" in text or text.endswith("['b']") or "mean" in text:
            assert not leaf.any(), text
        elif "scale" in text or "var" in text:
            assert (leaf == 1).all(), text
    taps, filters = params["temporal"].shape
    assert 0.6 < jnp.abs(params["temporal"]).max() / np.sqrt(6 / (taps + taps * filters)) <= 1


@each_network
def test_inference_is_per_example_and_leaves_the_statistics(name):
    params, stats, x = started(name)
    logits, after = compiled(name, False)(params, stats, x)
    assert logits.shape == (4, 2)
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    others, _ = compiled(name, False)(params, stats, 9 * x.at[2].set(x[2] / 9))
    np.testing.assert_allclose(others[2], logits[2], rtol=1e-5, atol=1e-6)


def test_batch_of_one_gives_its_row():
    params, stats, x = started("eegnet")
    one, _ = compiled("eegnet", False)(params, stats, x[2:3])
    np.testing.assert_allclose(one[0], compiled("eegnet", False)(params, stats, x)[0][2], rtol=1e-5, atol=1e-6)


@each_network
def test_training_moves_the_statistics_towards_the_batch(name):
    """By linearity in the momentum: from statistics of zero, what is left is the batch's share."""
    params, stats, x = started(name)
    momentum = {"eegnet": 0.99}.get(name, 0.9)
    logits, after = compiled(name, True)(params, stats, x)
    nothing = jax.tree.map(jnp.zeros_like, stats)
    same, share = compiled(name, True)(params, nothing, x)
    np.testing.assert_allclose(same, logits, rtol=1e-5)  # the batch's own statistics normalise it
    jax.tree.map(
        lambda new, old, part: np.testing.assert_allclose(new, momentum * old + part, rtol=1e-5, atol=1e-6),
        after, stats, share,
    )  # fmt: skip
    # A batch normalised by its statistics, taken as the running ones, is normalised alike.
    batch = jax.tree.map(lambda part: part / (1 - momentum), share)
    np.testing.assert_allclose(compiled(name, False)(params, batch, x)[0], logits, rtol=1e-3, atol=1e-4)


def test_first_statistics_of_eegnet_are_those_of_the_temporal_convolution():
    params, stats, x = started("eegnet")
    _, after = compiled("eegnet", True)(params, stats, x)
    kernel = np.asarray(params["temporal"], np.float64)
    padded = np.pad(np.asarray(x, np.float64), [(0, 0), (0, 0), (3, 4)])  # 8 taps: 3 before, 4 after
    y = np.lib.stride_tricks.sliding_window_view(padded, 8, axis=-1) @ kernel
    for key, batch in (("mean", y.mean((0, 1, 2))), ("var", y.var((0, 1, 2)))):
        np.testing.assert_allclose(after["bn1"][key], 0.99 * stats["bn1"][key] + 0.01 * batch, rtol=1e-5)


@each_network
def test_channels_may_be_permuted_with_the_spatial_filters(name):
    params, stats, x = started(name)
    order = jnp.array([2, 0, 1])
    permuted = params | {"spatial": params["spatial"][order]}
    logits, _ = compiled(name, False)(params, stats, x)
    np.testing.assert_allclose(compiled(name, False)(permuted, stats, x[:, order])[0], logits, rtol=1e-4, atol=1e-5)


def test_shallow_convnet_turns_gain_into_an_offset():
    params, stats, x = started("shallow_convnet")
    identity = params | {"bn": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}, "temporal_bias": jnp.zeros(4)}
    stats = {"bn": {"mean": jnp.zeros(4), "var": jnp.ones(4)}}
    run = compiled("shallow_convnet", False)
    difference = run(identity, stats, 3 * x)[0] - run(identity, stats, x)[0]
    expected = 2 * np.log(3) * params["dense"]["w"].sum(0)
    np.testing.assert_allclose(difference, np.tile(expected, (4, 1)), rtol=1e-4)


@each_network
def test_flax_module_is_the_same_network(name):
    params, stats, x = started(name)
    module = {
        "eegnet": lambda: speech.EEGNet(2, num_temporal=2, num_separable=4, kernel_size=8),
        "shallow_convnet": lambda: speech.ShallowConvNet(2, num_filters=4, pool_size=16),
        "deep_convnet": lambda: speech.DeepConvNet(2, num_filters=(2, 3)),
    }[name]()
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, {"params": params, "batch_stats": stats})
    if name == "eegnet":  # one that compiles for all
        logits = jax.jit(module.apply)({"params": params, "batch_stats": stats}, x)
        np.testing.assert_allclose(logits, compiled(name, False)(params, stats, x)[0], rtol=1e-5, atol=1e-6)


@each_network
def test_batch_of_none_has_no_logits_and_nothing_to_train_with(name):
    params, stats, x = started(name)
    logits, after = compiled(name, False)(params, stats, x[:0])
    assert logits.shape == (0, 2)
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    with pytest.raises(ValueError, match=r"x must hold at least one epoch to train with, got shape \[0, 3, 48\]"):
        compiled(name, True)(params, stats, x[:0])


@each_network
def test_logits_of_half_precision_are_not_rounded_and_statistics_keep_their_dtype(name):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), started(name))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    logits, after = compiled(name, True)(*half)
    expected, _ = compiled(name, True)(*wide)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.bfloat16)}


def test_modules_give_wide_logits_in_half_precision():
    params, stats, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), started("shallow_convnet"))
    module = speech.ShallowConvNet(2, num_filters=4, pool_size=16)
    logits = jax.jit(module.apply)({"params": params, "batch_stats": stats}, x)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, compiled("shallow_convnet", False)(params, stats, x)[0], atol=0.1)


@each_network
def test_integers_of_a_recorder_are_numbers(name):
    params, stats, x = started(name)
    counts = jnp.round(100 * x).astype(jnp.int16)
    run = compiled(name, False)
    np.testing.assert_array_equal(run(params, stats, counts)[0], run(params, stats, counts.astype(jnp.float32))[0])


def test_batch_of_one_trains():
    params, stats, x = started("eegnet")
    logits, after = compiled("eegnet", True)(params, stats, x[:1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((logits, after)))


def test_dropout_acts_in_training_alone_and_follows_the_key():
    params, stats, x = started("eegnet")
    run = compiled("eegnet", True, 0.5)
    first, again, other = (run(params, stats, x, jax.random.key(k))[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    kept = compiled("eegnet", False, 0.5)(params, stats, x)[0]
    np.testing.assert_array_equal(kept, compiled("eegnet", False)(params, stats, x)[0])


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'WideConvNet'"):
        _ = speech.WideConvNet


# --- max norm


def test_max_norm_limits_what_is_above_and_keeps_the_rest():
    w = jax.random.normal(jax.random.key(0), (5, 3, 2)) * jnp.array([0.01, 1.0, 100.0])[:, None]
    norms, before = (np.linalg.norm(v, axis=0) for v in (speech.max_norm(w, limit=1.0), w))
    np.testing.assert_allclose(norms, np.minimum(before, 1.0), rtol=1e-4)
    both = speech.max_norm(w, limit=2.0, axis=(0, 1))
    np.testing.assert_allclose(np.sqrt(np.square(both).sum((0, 1))), 2.0, rtol=1e-5)
    np.testing.assert_allclose(both / w, np.broadcast_to((both / w)[0, 0], w.shape), rtol=1e-5)  # the same direction


@pytest.mark.parametrize("size", [1e20, 3e38])
@pytest.mark.parametrize("limit", [1.0, 1e15, 3e38])
def test_max_norm_of_large_entries(size, limit):
    w = np.array([size, -size], np.float32).astype(np.float64)
    expected = w * min(1.0, limit / np.linalg.norm(w))
    np.testing.assert_allclose(speech.max_norm(w.astype(jnp.float32), limit=limit), expected, rtol=1e-5)
    gradient = jax.grad(lambda w: speech.max_norm(w, limit=limit)[0] / limit)(w.astype(jnp.float32))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("size", [1e-3, 1e-7, 1e-12, 1e-19])
def test_max_norm_of_small_entries_is_its_formula(size):
    w = np.array([size, -size])
    n = np.linalg.norm(w)
    for limit in (1.0, n / 4):
        expected = w * min(n, limit) / (1e-7 + n)
        got = speech.max_norm(jnp.asarray(w, jnp.float32), limit=limit)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-37)
    assert speech.max_norm(jnp.ones((2, 3), jnp.bfloat16), limit=1.0).dtype == jnp.bfloat16


def test_zero_filter_stays_zero_and_has_a_gradient():
    w = jnp.zeros((4, 2)).at[0, 1].set(3.0)
    np.testing.assert_array_equal(speech.max_norm(w, limit=1.0)[:, 0], 0.0)
    assert np.isfinite(jax.grad(lambda w: speech.max_norm(w, limit=1.0).sum())(w)).all()


# --- common spatial patterns


def test_csp_diagonalises_both_classes():
    x, label = trials()
    filters, eigenvalues = csp(x, label)
    w = np.asarray(filters, np.float64)
    c0, c1 = class_covariances(x, label)
    np.testing.assert_allclose(w @ (c0 + c1) @ w.T, np.eye(4), atol=1e-4)
    np.testing.assert_allclose(w @ c0 @ w.T, np.diag(eigenvalues), atol=1e-4)
    np.testing.assert_allclose(eigenvalues, linalg.eigh(c0, c0 + c1, eigvals_only=True)[::-1], atol=1e-5)
    assert ((eigenvalues >= 0) & (eigenvalues <= 1)).all()
    assert (np.take_along_axis(w, np.abs(w).argmax(1)[:, None], axis=1) > 0).all()


def test_csp_takes_the_two_ends():
    x, label = trials()
    everything, ends = csp(x, label), jax.jit(functools.partial(speech.fit_csp, num_filters=2))(x, label)
    for part, whole in zip(ends, everything, strict=True):
        np.testing.assert_allclose(part, whole[jnp.array([0, 3])], rtol=1e-4)


def test_swapping_the_classes_mirrors_the_eigenvalues():
    x, label = trials()
    one, other = (csp(x, labels) for labels in (label, 1 - label))
    np.testing.assert_allclose(other.eigenvalues, 1 - one.eigenvalues[::-1], atol=1e-5)
    np.testing.assert_allclose(jnp.abs(other.filters), jnp.abs(one.filters[::-1]), rtol=1e-3, atol=1e-3)


def test_csp_keeps_its_digits_where_channels_are_nearly_dependent():
    x, label = trials()
    x = x.at[:, 3].set(x[:, 0] + x[:, 1] + 1e-2 * x[:, 3])
    c0, c1 = class_covariances(x, label)
    assert np.linalg.cond(c0 + c1) > 1e5  # so that float32 covariances know their inverse to two digits
    exact = linalg.eigh(c0, c0 + c1, eigvals_only=True)[::-1]
    np.testing.assert_allclose(csp(x, label).eigenvalues, exact, atol=1e-4)


def unfiltered(seed, channels=8, n=40, samples=100):
    """Signals of 19 to 50 microvolts in every channel, two of whose sources tell the classes."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    power = np.ones((n, channels))
    power[label == 0, 0], power[label == 1, 1] = 8.0, 3.0
    sources = np.sqrt(power)[:, :, None] * rng.normal(size=(n, channels, samples))
    x = np.einsum("cd,ndt->nct", rng.normal(size=(channels, channels)), sources)
    return x / x.std((0, 2))[:, None] * np.linspace(19, 50, channels)[:, None], label


def offsets(kind, shape):
    rng = np.random.default_rng(1)
    n, channels, _ = shape
    return (
        1e4
        * {
            "none": 0.0,
            "one": 1.0,
            "a_channel": rng.normal(size=(1, channels, 1)),
            "a_trial_and_channel": rng.normal(size=(n, channels, 1)),
            "nearly_one": 1 + 0.003 * rng.normal(size=(n, channels, 1)),
            "drift": 1 + 0.05 * rng.normal(size=(n, channels, 1)) * np.linspace(-1, 1, shape[2]),
        }[kind]
    )


OFFSETS = ("none", "one", "a_channel", "a_trial_and_channel", "nearly_one", "drift")


def two_ends(values, m=4):
    values = np.sort(values)[::-1]
    return np.concatenate([values[: m // 2], values[len(values) - m // 2 :]])


@pytest.mark.parametrize("kind", OFFSETS)
def test_csp_far_from_zero_is_that_of_exact_arithmetic(kind):
    """Uncentred, as the method has it, but with the digits that centred data would have."""
    x, label = unfiltered(0)
    x = (x + offsets(kind, x.shape)).astype(np.float32)
    c0, c1 = class_covariances(x, label)
    filters, eigenvalues = csp(x, label)
    np.testing.assert_allclose(eigenvalues, two_ends(linalg.eigh(c0, c0 + c1, eigvals_only=True)), atol=3e-5)
    w = np.asarray(filters, np.float64)
    np.testing.assert_allclose(w @ (c0 + c1) @ w.T, np.eye(4), atol=1e-3)
    np.testing.assert_allclose(w @ c0 @ w.T, np.diag(eigenvalues), atol=1e-3)
    power = np.log(np.square(np.einsum("mc,nct->nmt", w, x.astype(np.float64))).mean(-1))
    expected = power - np.log(np.exp(power).sum(1, keepdims=True))
    np.testing.assert_allclose(speech.csp_features(x, filters), expected, rtol=1e-3, atol=1e-3)


# maps [channels, channels] that leave fewer directions
LOST = {
    "average reference": lambda c: np.eye(c) - 1 / c,
    "flat channel": lambda c: np.diag(np.arange(c) != 3),
    "bridge": lambda c: np.eye(c)[[1, 1, *range(2, c)]],
    "interpolated": lambda c: np.concatenate([np.eye(c)[1:4].mean(0, keepdims=True), np.eye(c)[1:]]),
    "three components projected out": lambda c: np.eye(c) - (lambda q: q @ q.T)(
        np.linalg.qr(np.random.default_rng(2).normal(size=(c, 3)))[0]
    ),
}  # fmt: skip


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("kind", ["none", "one"])
@pytest.mark.parametrize("regularization", [0.0, 0.05])
def test_direction_without_data_never_outranks_one_with_data(lost, kind, regularization):
    x, label = unfiltered(3)
    matrix = LOST[lost](8).astype(np.float32)
    recorded = jnp.asarray(x + offsets(kind, x.shape), jnp.float32)
    x = jnp.einsum("cd,ndt->nct", matrix, recorded, precision="highest")
    basis = linalg.orth(matrix.astype(np.float64), rcond=1e-5)  # of what is left
    inside = np.einsum("ck,nct->nkt", basis, np.asarray(x, np.float64))
    c0, c1 = class_covariances(inside, label)
    composite = c0 + c1 + regularization * np.trace(c0 + c1) / 8 * np.eye(len(c0))
    filters, eigenvalues = csp(x, label, regularization=regularization)
    np.testing.assert_allclose(eigenvalues, two_ends(linalg.eigh(c0, composite, eigvals_only=True)), atol=1e-4)
    w = np.asarray(filters, np.float64) @ basis
    np.testing.assert_allclose(w @ composite @ w.T, np.eye(4), atol=2e-3)


def test_what_filters_lack_in_directions_is_zero_and_a_constant():
    x, label = unfiltered(4, channels=3)
    x = np.concatenate([x, -x], axis=1).astype(np.float32)  # six channels of rank three
    c0, c1 = class_covariances(x[:, :3], label)
    filters, eigenvalues = jax.jit(functools.partial(speech.fit_csp, num_filters=6))(x, label)
    exact = np.append(linalg.eigh(c0, c0 + c1, eigvals_only=True), [0.5] * 3)
    np.testing.assert_allclose(eigenvalues, np.sort(exact)[::-1], atol=1e-5)
    silent = ~np.any(filters, axis=1)
    assert silent.sum() == 3
    features = np.asarray(speech.csp_features(x, filters))
    np.testing.assert_array_equal(features[:, silent], np.float32(np.log(np.finfo(np.float32).tiny)))
    np.testing.assert_allclose(features[:, ~silent], speech.csp_features(x, filters[~silent]), rtol=1e-5)
    several, _ = jax.jit(functools.partial(speech.fit_csp, num_filters=6))(x, label, regularization=0.1)
    assert np.any(several, axis=1).all()  # with a ridge they have a length


def test_gradient_of_csp_is_finite_where_directions_are_missing():
    x, label = unfiltered(5, channels=4, n=8, samples=20)
    x = jnp.asarray(x, jnp.float32).at[:, 2:].set(0.0)

    def weighted(x):
        fitted = speech.fit_csp(x, label, num_filters=4)
        return jnp.sum(fitted.filters * jnp.cos(jnp.arange(16.0)).reshape(4, 4)) + fitted.eigenvalues[0]

    assert np.isfinite(jax.grad(weighted)(x)).all()
    flat = jnp.zeros((2, 4)).at[0, 0].set(1.0)
    assert np.isfinite(jax.grad(lambda x: speech.csp_features(x, flat).sum())(x)).all()


def test_trials_of_other_classes_are_left_out():
    x, label = unfiltered(6, n=24)
    label = np.where(np.arange(24) % 3 == 2, np.array([-1, 7])[label], label)
    bad = np.where(((label < 0) | (label > 1))[:, None, None], np.nan, x).astype(np.float32)
    kept = (label == 0) | (label == 1)
    for fit in (functools.partial(speech.fit_csp, num_filters=4), csp):
        for one, other in zip(fit(bad, label), csp(x[kept].astype(np.float32), label[kept]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_csp_of_any_unit(scale):
    x, label = trials()
    got, expected = csp((scale * x).astype(jnp.float32), label), csp(x, label)
    np.testing.assert_allclose(got.eigenvalues, expected.eigenvalues, atol=1e-5)
    features = speech.csp_features(scale * x, scale * expected.filters)
    np.testing.assert_allclose(features, speech.csp_features(x, expected.filters), rtol=1e-4, atol=1e-4)


def test_csp_of_half_precision_and_of_integers():
    x, label = trials()
    counts = jnp.round(100 * x)
    for given in (counts.astype(jnp.int16), counts.astype(jnp.bfloat16)):
        got, expected = csp(given, label), csp(given.astype(jnp.float32), label)
        assert got.filters.dtype == (jnp.bfloat16 if given.dtype == jnp.bfloat16 else jnp.float32)
        assert got.eigenvalues.dtype == jnp.float32
        np.testing.assert_array_equal(got.eigenvalues, expected.eigenvalues)
        features = speech.csp_features(given, got.filters)
        assert features.dtype == jnp.float32
        exact = speech.csp_features(given.astype(jnp.float32), got.filters.astype(jnp.float32))
        np.testing.assert_array_equal(features, exact)


def test_flat_channel_is_left_alone():
    x, label = trials()
    x = x.at[:, 2].set(0.0)
    filters, eigenvalues = csp(x, label)
    rest = [0, 1, 3]
    c0, c1 = (c[np.ix_(rest, rest)] for c in class_covariances(x, label))
    exact = np.append(linalg.eigh(c0, c0 + c1, eigvals_only=True), 0.5)
    np.testing.assert_allclose(eigenvalues, np.sort(exact)[::-1], atol=1e-4)
    np.testing.assert_array_equal(filters[:, 2], 0.0)
    assert np.isfinite(speech.csp_features(x, filters)).all()


def test_regularization_is_of_the_composite():
    x, label = trials()
    x = x.at[:, 2].set(0.0)
    filters, eigenvalues = csp(x, label, regularization=0.1)
    c0, c1 = class_covariances(x, label)
    composite = c0 + c1 + 0.1 * np.trace(c0 + c1) / 4 * np.eye(4)
    np.testing.assert_allclose(filters @ composite @ filters.T, np.eye(4), atol=1e-4)
    np.testing.assert_allclose(eigenvalues, linalg.eigh(c0, composite, eigvals_only=True)[::-1], atol=1e-4)


def test_csp_features_ignore_signs_and_gains():
    x, label = trials()
    filters = csp(x, label).filters
    features = speech.csp_features(x, filters)
    np.testing.assert_allclose(jnp.exp(features).sum(1), 1.0, rtol=1e-5)
    gains = jnp.linspace(1e-6, 100.0, len(x))[:, None, None]  # volts to microvolts, each trial its own
    np.testing.assert_allclose(speech.csp_features(gains * x, -filters), features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(speech.csp_features(jnp.zeros((1, 4, 5)), filters), -np.log(4), rtol=1e-6)
    assert speech.csp_features(x[:0], filters).shape == (0, 4)


# --- linear classifiers


def blobs(seed=0, n=60, d=3, k=3):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % k
    return jnp.asarray(rng.normal(size=(n, d)) + 1.5 * rng.normal(size=(k, d))[label], jnp.float32), jnp.asarray(label)


lda = jax.jit(functools.partial(speech.fit_lda, num_classes=3))
lda_gradient = jax.jit(jax.grad(lambda f, label, s: lda(f, label, shrinkage=s).weights.sum()))


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_lda_is_scikit_learns(shrinkage):
    features, label = blobs()
    weights, bias = lda(features, label, shrinkage=shrinkage)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage or None).fit(features, label)
    np.testing.assert_allclose(weights, reference.coef_.T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(bias, reference.intercept_, rtol=1e-3, atol=1e-4)
    assert np.isfinite(lda_gradient(features, label, shrinkage)).all()


def test_lda_does_not_see_affine_maps():
    features, label = blobs()
    matrix = jax.random.normal(jax.random.key(0), (3, 3)) * jnp.array([1e-2, 1.0, 1e2])
    moved = features @ matrix + jnp.array([0.1, -5.0, 50.0])
    posteriors = []
    for f in (features, moved):
        weights, bias = lda(f, label, shrinkage=0.0)
        posteriors.append(jax.nn.softmax(f @ weights + bias))
    np.testing.assert_allclose(*posteriors, atol=5e-3)


def far_rows(offset, seed=0, n=300, d=6, k=3):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % k
    rows = rng.normal(size=(n, d)) + rng.normal(size=(k, d))[label]
    return (rows + offset * rng.choice([-1, 1], size=d)).astype(np.float32), label


@pytest.mark.parametrize("offset", [0.0, 20.0, 60.0, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
def test_lda_far_from_zero_predicts_as_scikit_learn_does(offset, shrinkage):
    features, label = far_rows(offset)
    weights, bias = lda(features, label, shrinkage=shrinkage)
    scores = jnp.asarray(features) @ weights + bias  # as a user computes them
    exact = features.astype(np.float64)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage or None).fit(exact, label)
    np.testing.assert_allclose(jax.nn.softmax(scores), reference.predict_proba(exact), atol=1e-6 * offset + 1e-3)
    assert abs(np.mean(np.argmax(scores, 1) == label) - reference.score(exact, label)) < 0.01
    if offset < 50:  # the published weights, wherever rounding them hides nothing
        np.testing.assert_allclose(weights, reference.coef_.T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e20])
def test_lda_of_any_unit(scale):
    features, label = blobs()
    units = jnp.array([scale, 1.0, scale], jnp.float32)
    expected, (weights, bias) = lda(features, label), lda(features * units, label)
    np.testing.assert_allclose(weights * units[:, None], expected.weights, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(bias, expected.bias, rtol=1e-3)
    shrunk, expected = lda(features * scale, label, shrinkage=0.3), lda(features, label, shrinkage=0.3)
    np.testing.assert_allclose(shrunk.weights * jnp.float32(scale), expected.weights, rtol=1e-3, atol=1e-4)


def test_lda_leaves_rows_of_no_class_out_where_labels_are_traced_and_refuses_them_where_not():
    features, label = far_rows(100.0)
    label = np.where(np.arange(300) % 5 == 4, np.where(np.arange(300) % 2, -1, 7), label)
    bad = np.where((label < 0) | (label > 2), np.nan, features.T).T
    kept = (label >= 0) & (label <= 2)
    for one, other in zip(lda(bad, label), lda(features[kept], label[kept]), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-3)
    with pytest.raises(ValueError, match="labels must be integers from 0 to 2, got"):
        speech.fit_lda(features, label, num_classes=3)


def test_lda_of_half_precision_and_of_integers_is_wide():
    features, label = blobs()
    for given in (features.astype(jnp.bfloat16), jnp.round(10 * features).astype(jnp.int16)):
        got, expected = lda(given, label), lda(given.astype(jnp.float32), label)
        for one, other in zip(got, expected, strict=True):
            assert one.dtype == jnp.float32
            np.testing.assert_array_equal(one, other)


def test_class_without_rows_is_never_chosen():
    features, label = blobs(k=2)
    weights, bias = lda(features, label, shrinkage=0.0)
    assert np.isneginf(bias[2])
    np.testing.assert_array_equal(weights[:, 2], 0.0)
    assert np.argmax(features @ weights + bias, axis=1).max() < 2


def test_constant_and_repeated_features_leave_the_scores():
    features, label = blobs()
    singular = jnp.concatenate([features, features[:, :1], jnp.full((60, 1), 7.0)], axis=1)
    posteriors = []
    for f in (features, singular):
        weights, bias = lda(f, label, shrinkage=0.0)
        posteriors.append(jax.nn.softmax(f @ weights + bias))
    np.testing.assert_allclose(*posteriors, atol=1e-3)


def test_hinge_loss_is_the_shortfall_of_the_margin():
    score, label = jnp.array([2.0, 0.5, -1.0, -3.0]), jnp.array([1, 1, 1, -1])
    np.testing.assert_allclose(speech.hinge_loss(score, label), [0.0, 0.5, 2.0, 0.0])
    gradient = jax.grad(lambda s: speech.hinge_loss(s, label).sum())(score)
    np.testing.assert_array_equal(gradient, [0.0, -1.0, -1.0, 0.0])


def test_hinge_loss_of_half_precision_is_not_rounded():
    score = jnp.array([0.3, 0.9961], jnp.bfloat16)
    loss = speech.hinge_loss(score, jnp.array([-1, 1]))
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, speech.hinge_loss(score.astype(jnp.float32), jnp.array([-1, 1])))
    assert speech.hinge_loss(jnp.zeros(0), jnp.zeros(0, int)).shape == (0,)


# --- bad input

X, Y, ZEROS = jnp.zeros((6, 4, 8)), jnp.array([0, 1, 0, 1, 0, 1]), jnp.zeros(6, int)
ABOVE, BELOW = Y + 1, Y - 1
HOLE = X.at[1, 2, 3].set(jnp.nan)
INFINITE = X[:, 0].at[2, 3].set(jnp.inf)


def call(name, x, **kwargs):
    params, stats, _ = started(name)
    return getattr(speech, name)(params, stats, x, **OPTIONS[name], **kwargs)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        *((lambda n=n: call(n, jnp.zeros((3, 48))), "x must have shape") for n in NETWORKS),
        *((lambda n=n: call(n, jnp.zeros((2, 5, 48))), "spatial must have shape") for n in NETWORKS),
        *((lambda n=n: call(n, jnp.zeros((2, 3, 12))), "x must have at least .* samples in time") for n in NETWORKS),
        *((lambda n=n: call(n, jnp.zeros((2, 3, 200))), "w must have shape") for n in NETWORKS),
        *((lambda n=n: call(n, jnp.zeros((2, 3, 48)), train=True), "key must be given") for n in NETWORKS),
        (lambda: call("eegnet", jnp.zeros((2, 3, 48)), dropout_rate=1.0), "dropout_rate"),
        (lambda: call("eegnet", jnp.zeros((2, 3, 48)), pool_sizes=(4,)), "pool_sizes"),
        (lambda: INIT["eegnet"](key=jax.random.key(0), **SIZES | {"num_channels": 0}), "num_channels"),
        (lambda: INIT["eegnet"](key=jax.random.key(0), **SIZES | {"num_samples": 31}), "at least 32 samples"),
        (lambda: INIT["eegnet"](key=jax.random.key(0), **SIZES | {"num_classes": 0}), "num_classes"),
        (lambda: INIT["eegnet"](key=jax.random.key(0), pool_sizes=(0, 8), **SIZES), "pool_sizes"),
        (lambda: speech.init_deep_convnet(key=jax.random.key(0), **SIZES | {"num_samples": 75}), "at least 76 samples"),
        (lambda: speech.max_norm(jnp.ones(3), limit=-1.0), "limit"),
        (lambda: speech.fit_csp(X[0], Y), "x must have shape"),
        (lambda: speech.fit_csp(X, Y[:5]), "labels must have shape"),
        (lambda: speech.fit_csp(X, ZEROS), r"labels must hold both 0 and 1, got \[0\]"),
        (lambda: speech.fit_csp(X, ABOVE), r"labels must hold both 0 and 1, got \[1, 2\]"),
        (lambda: speech.fit_csp(X, Y.astype(float)), "labels must be integers"),
        (lambda: speech.fit_csp(X[:0], Y[:0]), "x must hold at least one trial and one sample"),
        (lambda: speech.fit_csp(X[:, :, :0], Y), "x must hold at least one trial and one sample"),
        (lambda: speech.fit_csp(HOLE, Y), r"x must be finite, got nan at \[1, 2, 3\]"),
        (lambda: speech.fit_csp(X, Y, num_filters=3), "num_filters"),
        (lambda: speech.fit_csp(X, Y, num_filters=6), "num_filters"),
        (lambda: speech.fit_csp(X, Y, num_filters=0), "num_filters"),
        (lambda: speech.fit_csp(X, Y, regularization=-1.0), "regularization"),
        (lambda: speech.csp_features(X, jnp.ones((2, 3))), "filters must have shape"),
        (lambda: speech.csp_features(X[:, :, :0], jnp.ones((2, 4))), "x must hold at least one sample"),
        (lambda: speech.fit_lda(X[:, 0], ABOVE, num_classes=2), r"labels must be integers from 0 to 1, got 2 at \[1\]"),
        (
            lambda: speech.fit_lda(X[:, 0], BELOW, num_classes=2),
            r"labels must be integers from 0 to 1, got -1 at \[0\]",
        ),
        (lambda: speech.fit_lda(X[:, 0], Y.astype(float), num_classes=2), "labels must be integers"),
        (lambda: speech.fit_lda(X[:0, 0], Y[:0], num_classes=2), "features must hold at least one row"),
        (
            lambda: speech.fit_lda(INFINITE, Y, num_classes=2),
            "features must be finite, got inf at",
        ),
        (lambda: speech.fit_lda(X, Y, num_classes=2), "features must have shape"),
        (lambda: speech.fit_lda(X[0], Y, num_classes=2), "labels must have shape"),
        (lambda: speech.fit_lda(X[:, 0], Y, num_classes=0), "num_classes"),
        (lambda: speech.fit_lda(X[:, 0], Y, num_classes=2, shrinkage=1.1), "shrinkage"),
        (lambda: speech.hinge_loss(jnp.ones(3), jnp.ones(2)), "labels must have shape"),
        (lambda: speech.hinge_loss(jnp.ones(6), Y), r"labels must be -1 or 1, got \[0, 1\]"),
    ],
)
def test_bad_input_names_the_argument(bad, named):
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(bad)  # while tracing, and so also without
