"""DIBmix: what bad input gets, line by line of its card."""

import jax
import jax.numpy as jnp
import pytest

from lemmata.methods.clustering import dib_mix

LEVELS = (3, 4)
X, Z, P = jnp.zeros((4, 2)), jnp.array([[0, 1], [1, 0], [2, 3], [0, 2]]), jnp.full((4, 4), 0.25)
T = jnp.array([0, 1, 0, 1])
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: dib_mix.mixed_conditional(None, None, None, None, num_categories=()), "continuous and categorical"),
        (lambda: dib_mix.mixed_conditional(X, Z[:3], 1.0, 0.3, num_categories=LEVELS), "categorical must have shape"),
        (lambda: dib_mix.mixed_conditional(X, Z, 1.0, 0.3, num_categories=(3,)), "num_categories"),
        (lambda: dib_mix.mixed_conditional(X, Z, 1.0, 0.3, num_categories=(3, 1)), "num_categories.*1 for.* column 1"),
        (lambda: dib_mix.mixed_conditional(X, None, jnp.ones(3), None, num_categories=()), "continuous_bandwidths"),
        (lambda: dib_mix.mixed_conditional(X, None, None, None, num_categories=()), "continuous_bandwidths"),
        (lambda: dib_mix.mixed_conditional(X, Z, 1.0, jnp.ones(3), num_categories=LEVELS), "categorical_bandwidths"),
        (lambda: dib_mix.mixed_conditional(X, Z, 1.0, None, num_categories=LEVELS), "categorical_bandwidths"),
        (lambda: dib_mix.mixed_conditional(X, Z * 1.0, 1.0, 0.3, num_categories=LEVELS), "categorical must hold int"),
        (
            lambda: dib_mix.mixed_conditional(X, Z, 1.0, 0.3, num_categories=LEVELS, continuous_kernel="box"),
            "continuous_kernel",
        ),
        (
            lambda: dib_mix.mixed_conditional(X, Z, 1.0, 0.3, num_categories=LEVELS, nominal_kernel="box"),
            "nominal_kernel",
        ),
        (
            lambda: dib_mix.mixed_conditional(X, Z, 1.0, 0.3, num_categories=LEVELS, ordinal_kernel="box"),
            "ordinal_kernel",
        ),
        (lambda: dib_mix.mixed_conditional(X, Z, 1.0, 0.3, num_categories=LEVELS, ordinal=(2,)), "ordinal must"),
        (lambda: dib_mix.select_continuous_bandwidth(X[:1]), "two rows"),
        (lambda: dib_mix.select_continuous_bandwidth(X, ratio=1.0), "ratio"),
        (lambda: dib_mix.select_bandwidths(None, None, num_categories=()), "continuous and categorical"),
        (lambda: dib_mix.select_bandwidths(X, None, num_categories=(), categorical_first=True), "categorical_first"),
        (lambda: dib_mix.select_bandwidths(X, Z, num_categories=LEVELS, nominal_kernel="box"), "nominal_kernel"),
        (lambda: dib_mix.dib_step(P[:3], T, num_clusters=2), "conditional"),
        (lambda: dib_mix.dib_step(P, T[:3], num_clusters=2), "assignments"),
        (lambda: dib_mix.dib_step(P, T, num_clusters=1), r"num_clusters must be in \[2, 4\], got 1"),
        (lambda: dib_mix.dib(P, T, num_clusters=5), "num_clusters"),
        (lambda: dib_mix.dib(P, T, num_clusters=2, max_iterations=0), "max_iterations"),
        (lambda: dib_mix.dib_mix(P, key=KEY, num_clusters=5), "num_clusters"),
        (lambda: dib_mix.dib_mix(P, key=KEY, num_clusters=2, num_restarts=0), "num_restarts"),
        (lambda: dib_mix.cluster_information(P, T, num_clusters=0), "num_clusters"),
        (
            lambda: dib_mix.dib_mix_columns(
                X, Z, 1.0, 0.3, key=KEY, num_categories=LEVELS, num_clusters=2, block_size=0
            ),
            "block_size",
        ),
        (
            lambda: dib_mix.dib_mix_columns(X, Z, 1.0, 0.3, key=KEY, num_categories=LEVELS, num_clusters=9),
            "num_clusters",
        ),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(call)  # while tracing, too


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((X.at[2, 1].set(jnp.nan), Z, 1.0, 0.3), r"continuous must be finite, got a missing value.*column 1, row 2"),
        ((X.at[0, 0].set(jnp.inf), Z, 1.0, 0.3), "continuous.*infinite.*column 0, row 0"),
        ((X, Z.at[3, 0].set(-1), 1.0, 0.3), r"categorical must hold codes 0 to 2 in column 0, got -1 in row 3"),
        ((X, Z.at[1, 1].set(4), 1.0, 0.3), "categorical must hold codes 0 to 3 in column 1, got 4 in row 1"),
        ((X, Z.at[:, 0].set(1), 1.0, 0.3), "at least two levels in column 0, got 1 alone"),
        ((X, Z, 0.0, 0.3), "continuous_bandwidths"),
        ((X.at[0].set(1e10), Z, 1e-35, 0.3), "continuous_bandwidths must be of the size of the columns' differences"),
        ((X, Z, jnp.array([1.0, -1.0]), 0.3), "continuous_bandwidths"),
        ((X, Z, 1.0, jnp.array([0.3, 0.76])), r"categorical_bandwidths\[1\] must be in \[0, 0.75\], got 0.76"),
        ((X, Z, 1.0, -0.1), r"categorical_bandwidths\[0\]"),
    ],
)
def test_bad_values_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        dib_mix.mixed_conditional(*arguments, num_categories=LEVELS)


def test_labels_outside_the_clusters_are_refused():
    for call in (dib_mix.dib_step, dib_mix.dib, dib_mix.cluster_information):
        for labels in (T.at[0].set(2), T.at[0].set(-1)):
            with pytest.raises(ValueError, match="assignments must be integers from 0 to 1"):
                call(P, labels, num_clusters=2)
        with pytest.raises(ValueError, match="assignments must be integers, got float32"):
            call(P, T * 1.0, num_clusters=2)


@pytest.mark.parametrize(
    "bad", [P.at[2, 1].set(jnp.nan), P.at[2, 1].set(jnp.inf), P.at[2].set(jnp.array([0.5, 0.5, 0.5, -0.5])), P * 3]
)
def test_rows_that_are_no_distributions_are_refused(bad):
    calls = (
        *(lambda call=call: call(bad, T, num_clusters=2) for call in (dib_mix.dib_step, dib_mix.dib)),
        lambda: dib_mix.cluster_information(bad, T, num_clusters=2),
        lambda: dib_mix.dib_mix(bad, key=KEY, num_clusters=2, num_restarts=1),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"conditional must have rows that sum to 1 .* in row [02]"):
            call()


def test_no_row_is_named():
    empty = jnp.zeros((0, 2))
    with pytest.raises(ValueError, match="continuous must have at least one row"):
        dib_mix.select_bandwidths(empty, None, num_categories=())
    with pytest.raises(ValueError, match="categorical must have at least one row"):
        dib_mix.mixed_conditional(None, empty.astype(int), None, 0.3, num_categories=LEVELS)
    with pytest.raises(ValueError, match="conditional must have at least one row"):
        dib_mix.dib_mix(jnp.zeros((0, 0)), key=KEY, num_clusters=2)
