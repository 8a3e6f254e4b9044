"""Argument checks: what passes, what raises, and what the error says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.core import checks


@pytest.mark.parametrize(
    ("value", "closed", "inside"),
    [
        (0.0, "both", True),
        (0.0, "right", False),
        (1.0, "right", True),
        (1.0, "left", False),
        (0.5, "neither", True),
        (0.0, "neither", False),
        (jnp.array([0.0, 1.0]), "both", True),
        (np.array([0.2, 1.2]), "both", False),
        (float("nan"), "both", False),
        (jnp.zeros((0, 3)), "both", True),
        (True, "both", True),
    ],
)
def test_interval(value, closed, inside):
    if inside:
        checks.in_interval("share", value, 0.0, 1.0, closed=closed)
    else:
        with pytest.raises(ValueError, match="share must be in"):
            checks.in_interval("share", value, 0.0, 1.0, closed=closed)


def test_interval_error_names_the_entry_that_is_outside():
    with pytest.raises(ValueError, match=r"^share must be in \(0, 1\], got 1\.5\.$"):
        checks.in_interval("share", jnp.array([0.5, 1.5, 0.0]), 0.0, 1.0, closed="right")
    with pytest.raises(ValueError, match=r"^size must be in \[1, inf\), got 0\.$"):
        checks.in_interval("size", 0, 1, jnp.inf)
    with pytest.raises(ValueError, match="got inf"):
        checks.in_interval("size", jnp.inf, 1, jnp.inf)


def test_traced_values_pass_and_traced_ends_check_nothing():
    def function(x):
        checks.in_interval("x", x, 0.0, 1.0)
        checks.in_interval("y", 5.0, 0.0, x)
        return x

    assert jax.jit(function)(3.0) == 3.0
    assert jax.grad(function)(3.0) == 1.0
    np.testing.assert_array_equal(jax.vmap(function)(jnp.array([3.0, 4.0])), [3.0, 4.0])


def test_shapes_binds_names_and_ignores_leading_axes():
    x, y = jnp.zeros((4, 2, 3)), np.zeros((7, 3))
    assert checks.shapes(("x", x, "... d"), ("y", y, "m d"), ("scale", 2.0, "")) == {"d": 3, "m": 7}
    assert (
        checks.shapes(
            ("x", x, "..."),
        )
        == {}
    )


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([("x", jnp.zeros(3), "n d")], r"^x must have shape \[n, d\], got shape \[3\]\.$"),
        ([("x", jnp.zeros((3, 3)), "n")], r"^x must have shape \[n\], got shape \[3, 3\]\.$"),
        ([("x", jnp.zeros(3), "... n d")], r"^x must have shape \[\.\.\., n, d\], got shape \[3\]\.$"),
        ([("x", jnp.zeros((3, 4)), "n n")], r"^x must have shape \[n, n\] with n = 3, got shape \[3, 4\]\.$"),
        (
            [("x", jnp.zeros((3, 4)), "n d"), ("y", jnp.zeros((2, 5)), "m d")],
            r"^y must have shape \[m, d\] with d = 4 as in x, got shape \[2, 5\]\.$",
        ),
    ],
)
def test_shapes_error_says_what_came_and_what_was_expected(specs, message):
    with pytest.raises(ValueError, match=message):
        checks.shapes(*specs)


def test_shapes_are_checked_while_tracing():
    with pytest.raises(ValueError, match="y must have shape"):
        jax.jit(lambda x, y: checks.shapes(("x", x, "n"), ("y", y, "n")))(jnp.zeros(3), jnp.zeros(4))
