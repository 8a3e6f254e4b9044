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
    assert np.isfinite(speech.csp_features(jnp.zeros((1, 4, 5)), filters)).all()


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


def test_class_without_rows_is_never_chosen():
    features, label = blobs(k=2)
    weights, bias = lda(features, label, shrinkage=0.0)
    assert np.isneginf(bias[2])
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


# --- bad input

X, Y, ZEROS = jnp.zeros((6, 4, 8)), jnp.array([0, 1, 0, 1, 0, 1]), jnp.zeros(6, int)


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
        (lambda: speech.fit_csp(X, Y, num_filters=3), "num_filters"),
        (lambda: speech.fit_csp(X, Y, num_filters=6), "num_filters"),
        (lambda: speech.fit_csp(X, Y, num_filters=0), "num_filters"),
        (lambda: speech.fit_csp(X, Y, regularization=-1.0), "regularization"),
        (lambda: speech.csp_features(X, jnp.ones((2, 3))), "filters must have shape"),
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
