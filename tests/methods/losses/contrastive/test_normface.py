"""NormFace: the oracles of its card."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lemmata.methods.losses.contrastive import normface

N, D, C = 6, 4, 8  # one size wherever it will do, since every shape compiles
LABELS = np.array([0, 3, 7, 1, 1, 5])

logits_of = jax.jit(normface.normalized_softmax_logits)
bound_of = jax.jit(normface.normalized_softmax_lower_bound, static_argnums=0)
scale_of = jax.jit(normface.required_scale, static_argnums=0)
prototypes_of = jax.jit(normface.class_prototypes, static_argnames="num_classes")
predict = jax.jit(normface.novel_class_predict)


@jax.jit
def _loss(features, vectors, labels, scale, norm_weight):
    return normface.normalized_softmax_loss(features, vectors, labels, scale=scale, norm_weight=norm_weight)


def loss_of(features, vectors, labels, scale=16.0, norm_weight=0.0):
    return _loss(features, vectors, labels, scale, norm_weight)


@jax.jit
def value_and_slopes(features, vectors, labels, norm_weight):
    """The sum of the losses, and its gradients by features and by vectors."""

    def total(features, vectors):
        return jnp.sum(normface.normalized_softmax_loss(features, vectors, labels, norm_weight=norm_weight))

    return jax.value_and_grad(total, (0, 1))(features, vectors)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def inputs():
    return normal(0, N, D), normal(1, C, D)


def narrow(*arrays):
    return [np.float32(array) for array in arrays]


def simplex(num_classes):
    """Corners of a regular simplex around the origin: `[C, C - 1]` unit rows."""
    centred = np.eye(num_classes) - 1 / num_classes
    corners = np.linalg.svd(centred)[0][:, :-1]
    return corners / np.linalg.norm(corners, axis=1, keepdims=True)


def loss_by_hand(features, vectors, labels, scale, norm_weight):
    """In float64, one example after the other."""
    losses = []
    for f, y in zip(np.float64(features), labels, strict=True):
        size = np.sqrt(f @ f)
        logits = [scale * (f @ w) / size / np.sqrt(w @ w) for w in np.float64(vectors)]
        losses.append(np.logaddexp.reduce(logits) - logits[y] + norm_weight * (size - 1) ** 2)
    return np.array(losses)


# ------------------------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize(("scale", "norm_weight"), [(1.0, 0.0), (16.0, 0.3), (64.0, 0.0)])
def test_loss_is_the_cross_entropy_of_scaled_cosines_and_the_penalty(scale, norm_weight):
    features, vectors = inputs()
    expected = loss_by_hand(features, vectors, LABELS, scale, norm_weight)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            loss_of(features, vectors, LABELS, scale, norm_weight), expected, rtol=1e-12, atol=1e-13
        )
    found = loss_of(*narrow(features, vectors), LABELS, scale, norm_weight)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("num_classes", [2, C])
def test_simplex_attains_the_bound_and_nothing_balanced_is_below(num_classes):
    vectors, labels = simplex(num_classes), np.arange(num_classes)
    scales = [0.0, 1.0, 4.0, 16.0]
    with jax.enable_x64(True):
        bounds = [float(bound_of(num_classes, scale=scale)) for scale in scales]
        best = [np.mean(loss_of(vectors, vectors, labels, scale)) for scale in scales]
        np.testing.assert_allclose(best, bounds, rtol=1e-9)
        others = [normal(seed, num_classes, num_classes - 1) for seed in range(20)]
        others += [simplex(num_classes) + 0.01 * noise for noise in others]
        for features in others:
            for scale, bound in zip(scales, bounds, strict=True):
                assert np.mean(loss_of(features, vectors, labels, scale)) >= bound * (1 - 1e-9)
                assert np.mean(loss_of(features, features, labels, scale)) >= bound * (1 - 1e-9)


def test_loss_near_zero_keeps_its_digits_and_its_gradient():
    """At scale 16 a simplex of 8 has 8e-8, of which a difference of two numbers near 16 leaves nothing in float32."""
    (corners,), labels = narrow(simplex(C)), np.arange(C)
    expected = np.log1p((C - 1) * np.exp(-16 * C / (C - 1)))
    value = jax.jit(jax.value_and_grad(lambda scale: jnp.mean(loss_of(corners, corners, labels, scale))))
    found, slope = value(16.0)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    np.testing.assert_allclose(slope, -C / (C - 1) * expected, rtol=2e-5)  # of log(1 + x), nearly x


@pytest.mark.parametrize("scale", [0.0, 16.0])
def test_lengths_do_not_matter_and_scale_zero_is_log_c(scale):
    features, vectors, lengths, widths = narrow(*inputs(), 10.0 ** normal(2, N, 1), 10.0 ** normal(3, C, 1))
    found = loss_of(features, vectors, LABELS, scale)
    np.testing.assert_allclose(loss_of(lengths * features, widths * vectors, LABELS, scale), found, rtol=1e-4)
    if scale == 0:
        np.testing.assert_allclose(found, np.log(C), rtol=1e-6)


def test_gradient_is_orthogonal_to_the_feature_and_goes_as_its_inverse_length():
    features, vectors = inputs()
    with jax.enable_x64(True):
        near, far = (np.asarray(value_and_slopes(size * features, vectors, LABELS, 0.0)[1][0]) for size in (1, 10))
    assert np.min(np.linalg.norm(near, axis=1)) > 1e-3
    np.testing.assert_allclose(np.sum(near * features, axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(10 * far, near, rtol=1e-9)


def test_penalty_pulls_lengths_to_one():
    _, vectors = narrow(*inputs())
    features = np.float32(np.eye(N, D, -2) + np.diag([0.5, 3.0, 0, 0, 0, 0])[:, :D])  # lengths 0.5, 3, 1, 1, 1, 1
    plain, (plain_slope, _) = value_and_slopes(features, vectors, LABELS, 0.0)
    value, (slope, _) = value_and_slopes(features, vectors, LABELS, 0.1)
    np.testing.assert_allclose(value - plain, 0.025 + 0.4, rtol=1e-4)
    expected = np.zeros((N, D))
    expected[0, 0], expected[1, 1] = -0.1, 0.4
    np.testing.assert_allclose(slope - plain_slope, expected, atol=2e-6)


def test_logits_are_scaled_cosines():
    features, vectors = inputs()
    found = logits_of(*narrow(features, vectors), scale=10.0)
    expected = [[10 * f @ w / np.linalg.norm(f) / np.linalg.norm(w) for w in vectors] for f in features]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_long_and_short_rows_are_as_good_as_others(length):
    features, vectors, length = narrow(*inputs(), length)
    value, slopes = value_and_slopes(features, vectors, LABELS, 0.0)
    far, far_slopes = value_and_slopes(length * features, length * vectors, LABELS, 0.0)
    np.testing.assert_allclose(far, value, rtol=1e-5)
    for slope, expected in zip(far_slopes, slopes, strict=True):
        np.testing.assert_allclose(np.float64(length) * slope, expected, rtol=1e-3, atol=1e-5)


def test_zero_rows_have_cosine_zero_and_finite_gradients():
    features, vectors = narrow(*inputs())
    features[0], vectors[2] = 0, 0
    logits = np.asarray(logits_of(features, vectors, scale=10.0))
    np.testing.assert_array_equal(logits[0], 0)
    np.testing.assert_array_equal(logits[:, 2], 0)
    np.testing.assert_allclose(loss_of(features, vectors, LABELS)[0], np.log(C), rtol=1e-6)
    value, slopes = value_and_slopes(features, vectors, LABELS, 0.1)
    assert all(np.isfinite(leaf).all() for leaf in (value, *slopes))
    np.testing.assert_array_equal(slopes[0][0], 0)


def test_one_class_alone_has_no_loss():
    features, vectors = narrow(normal(0, 3, D), np.ones((1, D)))
    value, slopes = value_and_slopes(features, vectors, np.zeros(3, int), 0.0)
    np.testing.assert_array_equal([value, *np.ravel(slopes[0]), *np.ravel(slopes[1])], 0)


def test_class_vectors_split_over_devices_stay_there():
    """The value and the gradients of one device; no device ever holds all vectors."""
    features, vectors = narrow(*inputs())
    expected = value_and_slopes(features, vectors, LABELS, 0.1)
    mesh = jax.make_mesh((8,), ("classes",), axis_types=(AxisType.Auto,))
    over_classes = NamedSharding(mesh, P("classes"))
    given = features, jax.device_put(vectors, over_classes), LABELS, 0.1
    compiled = value_and_slopes.lower(*given).compile()
    assert "all-gather" not in compiled.as_text()
    assert "all-reduce" in compiled.as_text()
    found = compiled(*given)
    for part, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(part, right, rtol=1e-4, atol=1e-5)
    assert found[1][1].sharding.is_equivalent_to(over_classes, 2)


# ------------------------------------------------------------------------------------------------------ bound and scale


def test_bound_of_two_classes_and_of_many():
    scales = [0.0, 0.5, 3.0, 30.0]
    found = [float(bound_of(2, scale=scale)) for scale in scales]
    np.testing.assert_allclose(found, np.log1p(np.exp(-2 * np.array(scales))), rtol=1e-5)
    many = bound_of(10**6, scale=1.0)
    np.testing.assert_allclose(many, np.log1p((10**6 - 1) * np.exp(-1.000001)), rtol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 10**6])
def test_required_scale_inverts_the_bound(num_classes):
    for target in (1e-6, 0.05, 0.5):
        reached = bound_of(num_classes, scale=scale_of(num_classes, target_loss=target))
        np.testing.assert_allclose(reached, target, rtol=2e-5)
    for target in (np.log(num_classes) * (1 + 1e-6), 1000.0):
        np.testing.assert_array_equal(scale_of(num_classes, target_loss=float(target)), 0.0)


def test_more_classes_and_lower_losses_need_a_larger_scale():
    scales = [[float(scale_of(c, target_loss=t)) for t in (1e-4, 1e-2, 0.5)] for c in (2, 10**6)]
    assert np.all(np.diff(scales, axis=0) > 0)
    assert np.all(np.diff(scales, axis=1) < 0)


# ------------------------------------------------------------------------------------------------------- novel classes


def test_prototype_of_one_example_is_that_example_and_finds_it_again():
    (features,), order = narrow(5 * normal(0, 9, 6)), np.random.default_rng(1).permutation(9)
    found = prototypes_of(features, order, num_classes=9)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(found)[order], unit, rtol=1e-6)
    np.testing.assert_array_equal(predict(features, found), order)


def test_prototype_is_the_unit_mean_of_unit_rows():
    features, labels = normal(0, 9, 6) * 10.0 ** normal(1, 9, 1), np.arange(9) % 3
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([unit[labels == c].mean(0) for c in range(3)])
    expected = np.zeros((9, 6))  # classes 3 to 8 have no example
    expected[:3] = means / np.linalg.norm(means, axis=1, keepdims=True)
    found = prototypes_of(*narrow(features), labels, num_classes=9)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    half = prototypes_of(jnp.asarray(features, jnp.bfloat16), labels, num_classes=9)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(half), expected, atol=0.02)


def test_prototypes_leave_out_zero_rows_and_traced_labels_outside_and_may_cancel():
    rows = np.zeros((9, 6), np.float32)
    rows[:5, :2] = [1, 2], [-3, -6], [0, 0], [4, 0], [0, 5]
    found = prototypes_of(rows, np.array([0, 0, 1, 1, -1, 9, 2, 2, 2]), num_classes=9)
    expected = np.zeros((9, 6))
    expected[1, 0] = 1
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_predictions_turn_with_the_space():
    features, prototypes = normal(0, 200, 8), normal(1, 5, 8)
    turn = np.linalg.qr(normal(2, 8, 8))[0]
    with jax.enable_x64(True):
        found = predict(features, prototypes)
        assert found.dtype == jnp.int32
        assert len(np.unique(found)) == 5
        np.testing.assert_array_equal(predict(features @ turn, prototypes @ turn), found)
        np.testing.assert_array_equal(predict(7 * features, prototypes), found)


def test_ties_go_to_the_lowest_and_a_zero_row_never_wins_over_a_positive_cosine():
    prototypes = np.float32([[0, 0], [1, 0], [0, 1], [2, 0], [0, 4]])
    features = np.float32([[3, 1], [1, 3], [0, 0], [1e-20, 0], [-1, -1], [1e-3, -1]])
    np.testing.assert_array_equal(predict(features, prototypes), [1, 2, 0, 1, 0, 1])


# ------------------------------------------------------------------------------------------------------------ bad input

F, W, Y = jnp.ones((4, 3)), jnp.ones((2, 3)), jnp.zeros(4, jnp.int32)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: normface.normalized_softmax_logits(F, jnp.ones((2, 5))), r"class_vectors .* d = 3 as in features"),
        (lambda: normface.normalized_softmax_logits(F[0], W), r"features must have shape \[n, d\]"),
        (lambda: normface.normalized_softmax_logits(F, W, scale=-1.0), r"scale must be in \[0, inf\), got -1"),
        (lambda: normface.normalized_softmax_logits(F, W, scale=jnp.ones(2)), "scale must have shape"),
        (lambda: normface.normalized_softmax_loss(F, jnp.ones((2, 5)), Y), "class_vectors"),
        (lambda: normface.normalized_softmax_loss(F, W, Y[:3]), "labels must have shape"),
        (lambda: normface.normalized_softmax_loss(F, W, jnp.zeros(4)), "labels must be integers"),
        (lambda: normface.normalized_softmax_loss(F, W[:0], Y), "class_vectors must have at least one row"),
        (lambda: normface.normalized_softmax_loss(F, W, Y, scale=-0.1), "scale"),
        (lambda: normface.normalized_softmax_loss(F, W, Y, norm_weight=-0.1), r"norm_weight must be in \[0, inf\)"),
        (lambda: normface.normalized_softmax_lower_bound(1, scale=1.0), r"num_classes must be in \[2, inf\), got 1"),
        (lambda: normface.normalized_softmax_lower_bound(2, scale=-1.0), "scale"),
        (lambda: normface.required_scale(1, target_loss=0.1), "num_classes"),
        (lambda: normface.required_scale(2, target_loss=0.0), r"target_loss must be in \(0, inf\), got 0"),
        (lambda: normface.class_prototypes(F, Y[:3], num_classes=2), "labels"),
        (lambda: normface.class_prototypes(F, Y, num_classes=0), "num_classes"),
        (lambda: normface.novel_class_predict(F, jnp.ones((2, 5))), "prototypes must have shape"),
        (lambda: normface.novel_class_predict(F, W[:0]), "prototypes must have at least one row"),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(call)  # while tracing, too


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_that_are_no_classes_are_named_where_they_are_known(label):
    labels = Y.at[1].set(label)
    with pytest.raises(ValueError, match=rf"labels must be integers from 0 to 1, got {label} at \[1\]"):
        normface.normalized_softmax_loss(F, W, labels)
    with pytest.raises(ValueError, match="labels must be integers from 0 to 1"):
        normface.class_prototypes(F, labels, num_classes=2)
