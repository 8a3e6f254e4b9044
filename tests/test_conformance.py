"""What every public function owes its callers, checked on the first golden case of each.

The arrays of a case are traced, the rest (numbers, strings, lists of numbers) is static. A function whose arrays cannot
be treated so, or to which a check does not apply, has an entry in `support/conformance_exclusions.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_exclusions import EXCLUDED
from golden_cases import assert_matches, first_cases
from jax.sharding import AxisType, NamedSharding, PartitionSpec

CHECKS = ("jit", "vmap", "grad", "bfloat16", "sharded", "retrace")
RTOL, ATOL = 2e-5, 2e-6  # two orders of the same float32 sums


class Subject:
    """A function with the arrays of its case as a flat list, compiled once for all checks."""

    def __init__(self, case):
        self.case, self.traces = case, 0
        function = case.function
        leaves, tree = jax.tree.flatten(case.inputs())
        dynamic = [isinstance(leaf, jax.Array) for leaf in leaves]
        self.arrays = [leaf for leaf, is_array in zip(leaves, dynamic, strict=True) if is_array]

        def call(*arrays):
            self.traces += 1
            rest = iter(arrays)
            merged = [next(rest) if is_array else leaf for leaf, is_array in zip(leaves, dynamic, strict=True)]
            args, kwargs = jax.tree.unflatten(tree, merged)
            return function(*args, **kwargs)

        self.call = call
        self.jitted = jax.jit(call)
        # other values that are as valid, most of the time: what lies along the leading axes, in reverse
        self.reversed = [jnp.flip(array, 0) if array.ndim else array for array in self.arrays]

    def require(self, check):
        for name in (check, "all"):
            if (self.case.call, name) in EXCLUDED:
                pytest.skip(EXCLUDED[self.case.call, name])


@pytest.fixture(scope="module", params=first_cases(), ids=lambda case: case.call.removeprefix("methods."))
def subject(request):
    return Subject(request.param)


def assert_close(actual, expected, *, rtol=RTOL, atol=ATOL):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert_matches(jax.tree.leaves(actual), jax.tree.leaves(expected), rtol=rtol, atol=atol)


def is_float(array):
    return jnp.issubdtype(array.dtype, jnp.inexact)


def test_jit_gives_the_eager_value(subject):
    subject.require("jit")
    assert_close(subject.jitted(*subject.arrays), subject.call(*subject.arrays))


def test_vmap_gives_the_value_of_each_slice(subject):
    subject.require("vmap")
    stacked = [jnp.stack(pair) for pair in zip(subject.arrays, subject.reversed, strict=True)]
    batched = jax.jit(jax.vmap(subject.call, axis_size=2))(*stacked)
    for index, arrays in enumerate((subject.arrays, subject.reversed)):
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], batched), subject.jitted(*arrays))


def test_gradient_is_finite(subject):
    subject.require("grad")
    floats = [index for index, array in enumerate(subject.arrays) if is_float(array)]

    def scalar(values):
        arrays = list(subject.arrays)
        for index, value in zip(floats, values, strict=True):
            arrays[index] = value
        outputs = [leaf for leaf in jax.tree.leaves(subject.call(*arrays)) if is_float(leaf)]
        assert outputs, "no output is a float: exclude this check by name"
        # uneven weights, since a plain sum of probabilities is constant; a -inf score has no slope to ask for
        weighted = [jnp.cos(jnp.arange(leaf.size)) * jnp.where(jnp.isfinite(leaf), leaf, 0).ravel() for leaf in outputs]
        return sum(part.sum() for part in weighted)

    assert floats, "no input is a float: exclude this check by name"
    gradients = jax.jit(jax.grad(scalar))([subject.arrays[index] for index in floats])
    for index, gradient in zip(floats, gradients, strict=True):
        assert np.isfinite(np.asarray(gradient)).all(), f"gradient with respect to array {index} is not finite"


def test_bfloat16_input_is_computed_in_float32(subject):
    """Against float32 arrays of the same, rounded, values: the rounding of the result is all that may differ."""
    subject.require("bfloat16")
    assert any(map(is_float, subject.arrays)), "no input is a float: exclude this check by name"
    rounded = [array.astype(jnp.bfloat16) if is_float(array) else array for array in subject.arrays]
    widened = [array.astype(jnp.float32) if is_float(array) else array for array in rounded]
    actual, expected = subject.jitted(*rounded), subject.jitted(*widened)
    for leaf in jax.tree.leaves(actual):
        assert not is_float(leaf) or leaf.dtype == jnp.bfloat16, f"a result is {leaf.dtype}, every input bfloat16"
    assert_close(actual, expected, rtol=2.0**-8, atol=1e-5)


def test_sharded_batch_gives_the_value_of_one_device(subject):
    subject.require("sharded")

    def shardable(count):
        return [array.ndim > 0 and array.shape[0] > 0 and array.shape[0] % count == 0 for array in subject.arrays]

    # as many arrays as can be split along their leading axis at once, then as many devices as can be used
    count = max(range(2, len(jax.devices()) + 1), key=lambda count: (sum(shardable(count)), count))
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
    placed = [
        jax.device_put(array, NamedSharding(mesh, PartitionSpec("data") if split else PartitionSpec()))
        for array, split in zip(subject.arrays, shardable(count), strict=True)
    ]
    assert_close(subject.jitted(*placed), subject.jitted(*subject.arrays))


def test_same_shapes_do_not_retrace(subject):
    subject.require("retrace")
    jax.block_until_ready(subject.jitted(*subject.arrays))
    before = subject.traces
    jax.block_until_ready(subject.jitted(*subject.reversed))
    assert subject.traces == before


def test_exclusions_name_functions_and_checks_that_exist():
    calls = {case.call for case in first_cases()}
    for (call, check), reason in EXCLUDED.items():
        assert call in calls, f"{call} has no golden case"
        assert check in (*CHECKS, "all"), f"{call}: no check is called {check}"
        assert reason.strip(), f"{call}: {check} is excluded without a reason"


def test_comparison_sees_a_wrong_value():
    with pytest.raises(AssertionError):
        assert_close((np.float32(1.0),), (np.float32(1.001),))
