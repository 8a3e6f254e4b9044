"""Local work of clients: what the rounds' own tests do not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.core import local_steps

BATCHES = jnp.arange(6.0).reshape(2, 3)  # two clients, three steps


def grad_fn(y, batch):
    return y - batch


def calls(rate, batches=BATCHES):
    x, options = jnp.zeros(()), dict(grad_fn=grad_fn, learning_rate=rate)
    return {
        "local_sgd": lambda: local_steps.local_sgd(x, batches, **options),
        "corrected_sgd": lambda: local_steps.corrected_sgd(x, batches, jnp.zeros(len(batches)), **options),
        "anchored_sgd": lambda: local_steps.anchored_sgd(x, batches, x, **options, scale=1.0),
    }


@pytest.mark.parametrize("rate", [0, -0.1, jnp.nan, jnp.inf])
def test_rate_outside_its_range_is_named_before_anything_is_compiled(rate):
    for call in calls(rate).values():
        with pytest.raises(ValueError, match="learning_rate must be in"):
            call()


def test_rate_may_be_an_integer_and_must_be_a_scalar():
    for name, call in calls(1).items():
        np.testing.assert_array_equal(call(), calls(1.0)[name]())
    for call in calls(jnp.ones(2)).values():
        with pytest.raises(ValueError, match=r"learning_rate must have shape \[\]"):
            call()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2,)])
def test_batches_of_none_are_named(shape):
    empty = jnp.zeros(shape)
    for call in (*calls(0.1, empty).values(), lambda: local_steps.gradients(jnp.zeros(()), empty, grad_fn=grad_fn)):
        with pytest.raises(ValueError, match=r"client_batches must have leaves \[clients, steps, ...\]"):
            call()


def test_correction_of_another_shape_is_named():
    options = dict(grad_fn=grad_fn, learning_rate=0.1)
    with pytest.raises(ValueError, match="drift must have the structure and shapes of client_batches and params"):
        local_steps.corrected_sgd(jnp.zeros(()), BATCHES, jnp.zeros(3), **options)
    with pytest.raises(ValueError, match="constant must have the structure and shapes of params"):
        local_steps.anchored_sgd(jnp.zeros(()), BATCHES, jnp.zeros(2), **options, scale=1.0)


def test_gradients_in_half_precision_are_summed_in_full():
    """A sum of ones in bfloat16 stops at 256."""
    x = jnp.zeros((), jnp.bfloat16)
    mean = local_steps.gradients(x, jnp.full((1, 1024), -1.0, jnp.bfloat16), grad_fn=grad_fn)
    assert mean.dtype == jnp.bfloat16
    assert mean == 1.0


def test_known_weights_are_checked_beside_traced_batches():
    def round_(batches):
        return local_steps.round_weights([1, 1], len(batches))

    with pytest.raises(ValueError, match="weights must sum to 1, got 2"):
        jax.jit(round_)(BATCHES)
    weights = jax.jit(lambda weights: local_steps.round_weights(weights, 2))(
        jnp.array([1, 1])
    )  # unchecked where traced
    assert weights.dtype == jnp.float32
