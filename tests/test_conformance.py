"""What every public function owes its callers, checked on the first golden case of each, or on an example.

The arrays of a case are traced, the rest (numbers, strings, lists of numbers, callables) is static. A function is
compiled once for one device: its value, its batched, its differentiated and its half versions are parts of one program,
which is called with other arrays of the same shapes where a check needs more values. It is compiled a second time for
several devices. A function whose arrays cannot be treated so, or to which a check does not apply, has an entry in
`support/conformance_exclusions.py`.
"""

import contextlib
import functools
import inspect
import operator
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_examples import public_calls, subjects
from conformance_exclusions import BATCH, EXCLUDED, KEEPS_DTYPE
from golden_cases import assert_matches, of_arrays
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lemmata.train.engine.mistakes import is_mistake

CHECKS = ("jit", "vmap", "grad", "float32", "empty", "sharded", "retrace")
compiles = pytest.mark.slow  # quick runs trace every function, and compile none
RTOL, ATOL = 2e-5, 2e-6  # two orders of the same float32 sums
HALF = {jnp.bfloat16: (2.0**-8, 1e-5), jnp.float16: (2.0**-10, 1e-6)}  # tolerances of what is rounded once


class Subject:
    """A function with the arrays of its case as a flat list, compiled once for all checks.

    The arrays are prepared on the host: a program for each reversal and each rounding would cost as much as the checks.
    """

    def __init__(self, case):
        self.case, self.traces, self.failures = case, 0, {}
        function, self.arrays = of_arrays(case)

        def call(*arrays):
            self.traces += 1
            return function(*arrays)

        self.call = call
        self.jitted = jax.jit(call)  # whatever is derived from it shares one trace
        # other values that are as valid, most of the time: what lies along the leading axes, in reverse
        self.reversed = [on_host(np.flip, array, axis=0) if array.ndim else array for array in self.arrays]

    def require(self, check):
        for name in (check, "all"):
            if (self.case.call, name) in EXCLUDED:
                pytest.skip(EXCLUDED[self.case.call, name])

    def value(self, arrays):
        """What the compiled function gives, on the host."""
        return self._results(arrays, "jit")

    def derived(self, check):
        """What `check` needs of the batched, the differentiated and the half versions, on the host."""
        return self._results(self.arrays, check)

    def _results(self, arrays, part):
        results = self._run(arrays)
        if part in self.failures:
            raise self.failures[part]
        return results[part]

    def _run(self, arrays):
        program, inputs, done = self._program
        key = tuple(map(id, arrays))  # the lists of arrays that the checks ask for again are kept
        if key not in done:
            done[key] = jax.tree.map(np.asarray, program(inputs | {"jit": arrays})), arrays
        return done[key][0]

    def traced(self):
        """Shapes and dtypes of all results: of the merged program, traced and not compiled."""
        program, inputs, _ = self._program
        return program.trace(inputs).out_info

    @functools.cached_property
    def _program(self):
        parts = {"jit": self._plain, "vmap": self._batched, "grad": self._gradients, "float32": self._halves}
        functions, inputs = {}, {}
        for name, part in parts.items():
            if name == "jit" or not {(self.case.call, name), (self.case.call, "all")} & EXCLUDED.keys():
                with self._failing(name):
                    functions[name], inputs[name] = part()

        def program(inputs):
            results = {}
            for name, function in functions.items():
                with self._failing(name):
                    results[name] = plain_keys(function(inputs[name]))
            return results

        # or XLA would leave out a rounding to half precision that is followed by a widening, and none would be seen
        return jax.jit(program, compiler_options={"xla_allow_excess_precision": False}), inputs, {}

    @contextlib.contextmanager
    def _failing(self, check):
        """An exception is that check's alone: the others shall not suffer."""
        try:
            yield
        except Exception as error:
            self.failures[check] = error

    def _plain(self):
        return lambda arrays: self.jitted(*arrays), self.arrays

    def _batched(self):
        stacked = [
            on_host(lambda *pair: np.stack(pair), *pair) for pair in zip(self.arrays, self.reversed, strict=True)
        ]
        return lambda stacked: jax.vmap(self.jitted, axis_size=2)(*stacked), stacked

    def _gradients(self):
        def gradients(arrays):
            floats = {index: array for index, array in enumerate(arrays) if is_float(array)}
            assert floats, "no input is a float: exclude this check by name"

            def scalar(floats):
                outputs = jax.tree.leaves(self.jitted(*[floats.get(i, array) for i, array in enumerate(arrays)]))
                outputs = [leaf for leaf in outputs if is_float(leaf)]
                assert outputs, "no output is a float: exclude this check by name"
                return sum(map(uneven_sum, outputs))

            return jax.grad(scalar)(floats)

        return gradients, self.arrays

    def _halves(self):
        assert any(map(is_float, self.arrays)), "no input is a float: exclude this check by name"
        return lambda halves: [self.jitted(*half) for half in halves], [self.cast(self.arrays, dtype) for dtype in HALF]

    @staticmethod
    def cast(arrays, dtype):
        return [np.asarray(array).astype(dtype) if is_float(array) else array for array in arrays]

    def emptied(self):
        """Arguments with no entry along the batch's axis, and the names of the parameters."""
        args, kwargs = self.case.inputs()
        bound = inspect.signature(self.case.function).bind(*args, **kwargs)
        named = [(name, value) for name, value in bound.arguments.items() if has_axis(value)]
        for extra in (value for value in bound.arguments.values() if isinstance(value, dict)):
            named += [(name, value) for name, value in extra.items() if has_axis(value)]  # of **kwargs
        size = named[0][1].shape[0] if named else None
        batch = BATCH.get(self.case.call) or [name for name, value in named if value.shape[0] == size]

        def shorten(x):
            return jnp.asarray(on_host(operator.itemgetter(slice(0)), x)) if has_axis(x) else x

        def cut(name, value):
            return jax.tree.map(shorten, value) if name in batch else value

        names = list(inspect.signature(self.case.function).parameters)
        args = [cut(name, value) for name, value in zip(names, args, strict=False)] + list(args[len(names) :])
        return args, {name: cut(name, value) for name, value in kwargs.items()}, {*names, *kwargs}


@pytest.fixture(scope="module", params=subjects(), ids=lambda case: case.call.removeprefix("methods."))
def subject(request):
    return Subject(request.param)


def assert_close(actual, expected, *, rtol=RTOL, atol=ATOL):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert_matches(jax.tree.leaves(actual), jax.tree.leaves(expected), rtol=rtol, atol=atol)


def is_key(x):
    return jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)


def plain_keys(tree):
    """With keys as numbers."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def on_host(function, *arrays, **kwargs):
    """What a NumPy function gives, of keys too: it is applied to their numbers."""
    result = function(*(np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in arrays), **kwargs)
    return jax.random.wrap_key_data(result, impl=jax.random.key_impl(arrays[0])) if is_key(arrays[0]) else result


def is_float(array):
    return jnp.issubdtype(array.dtype, jnp.inexact)


def has_axis(value):
    return isinstance(value, jax.Array) and value.ndim > 0


def uneven_sum(x):
    """Since a plain sum of probabilities is constant; a -inf score has no slope to ask for."""
    return jnp.sum(jnp.cos(jnp.arange(x.size)) * jnp.where(jnp.isfinite(x), x, 0).ravel())


def paths_of(tree):
    """`(path, leaf)` of every leaf, the path as in KEEPS_DTYPE: "", "0", "1/bn1/mean"."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat]


def test_all_versions_can_be_traced(subject):
    subject.require("all")
    results = subject.traced()
    for check, error in subject.failures.items():
        raise AssertionError(f"{check}: {error}") from error
    for dtype, half in zip(HALF, results.get("float32", ()), strict=False):
        assert_dtypes(subject, half, dtype)


@compiles
def test_jit_gives_the_eager_value(subject):
    subject.require("jit")
    assert_close(subject.value(subject.arrays), plain_keys(subject.call(*subject.arrays)))


@compiles
def test_vmap_gives_the_value_of_each_slice(subject):
    subject.require("vmap")
    batched = subject.derived("vmap")
    for index, arrays in enumerate((subject.arrays, subject.reversed)):
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], batched), subject.value(arrays))


@compiles
def test_gradient_is_finite(subject):
    subject.require("grad")
    for index, gradient in subject.derived("grad").items():
        assert np.isfinite(np.asarray(gradient)).all(), f"gradient with respect to array {index} is not finite"


@compiles
def test_half_precision_gives_float32_scores(subject):
    """Against float32 arrays of the same, rounded, values.

    A loss, a score, a log-probability is float32 and equal but for the order of sums. What is of its input's own kind
    is named in KEEPS_DTYPE: it has the inputs' dtype, and one rounding more.
    """
    subject.require("float32")
    for (dtype, rounding), actual in zip(HALF.items(), subject.derived("float32"), strict=True):
        expected = subject.value(subject.cast(subject.cast(subject.arrays, dtype), jnp.float32))
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        assert_dtypes(subject, actual, dtype)
        for (path, leaf), right in zip(paths_of(actual), jax.tree.leaves(expected), strict=True):
            keeps = is_float(leaf) and keeps_dtype(subject.case.call, path)
            rtol, atol = rounding if keeps else (RTOL, ATOL)
            assert_matches(leaf, np.asarray(right), rtol=rtol, atol=atol, where=f"result {path!r}")


def assert_dtypes(subject, results, dtype):
    """Of floats that half-precision inputs gave."""
    for path, leaf in paths_of(results):
        if is_float(leaf):
            right = dtype if keeps_dtype(subject.case.call, path) else jnp.float32
            assert leaf.dtype == right, f"result {path!r} of {dtype.__name__} inputs"


def keeps_dtype(call, path):
    parts = KEEPS_DTYPE.get(call, {})
    return any(part in ("", path) or path.startswith(f"{part}/") for part in parts)


@compiles
def test_empty_leading_axis_gives_an_empty_result_or_a_named_error(subject):
    subject.require("empty")
    args, kwargs, names = subject.emptied()
    empty = [leaf for leaf in jax.tree.leaves((args, kwargs)) if has_axis(leaf) and leaf.shape[0] == 0]
    assert empty, "no array has the batch's axis: name it in BATCH, or exclude this check by name"
    actual, error = outcome(subject.case.function, *args, **kwargs)
    if error is not None:
        assert is_mistake(error), f"an obscure error: {error}"
        assert any(re.search(rf"\b{name}\b", str(error)) for name in names), f"names no argument: {error}"
        return
    expected = subject.value(subject.arrays)
    actual = plain_keys(actual)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, leaf), full in zip(paths_of(actual), jax.tree.leaves(expected), strict=True):
        sizes = zip(leaf.shape, full.shape, strict=True)
        assert all(size in (0, whole) for size, whole in sizes), f"result {path!r} is {leaf.shape} of {full.shape}"
        assert leaf.dtype == full.dtype, f"result {path!r} is {leaf.dtype}"
        assert not (is_float(leaf) and np.isnan(np.asarray(leaf)).any()), f"result {path!r} has a NaN"


def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs), None
    except ValueError as error:
        return None, error


@compiles
def test_sharded_batch_gives_the_value_of_one_device(subject):
    subject.require("sharded")

    def shardable(count):
        return [array.ndim > 0 and array.shape[0] > 0 and array.shape[0] % count == 0 for array in subject.arrays]

    # as many arrays as can be split along their leading axis at once, then as many devices as can be used
    count = max(range(2, len(jax.devices()) + 1), key=lambda count: (sum(shardable(count)), count))
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
    along = {split: NamedSharding(mesh, PartitionSpec("data") if split else PartitionSpec()) for split in (True, False)}
    placed = [
        jax.device_put(array if is_key(array) else np.asarray(array), along[split])
        for array, split in zip(subject.arrays, shardable(count), strict=True)
    ]
    assert_close(plain_keys(subject.jitted(*placed)), subject.value(subject.arrays))


@compiles
def test_same_shapes_do_not_retrace(subject):
    subject.require("retrace")
    subject.value(subject.arrays)
    before = subject.traces
    subject.value(subject.reversed)
    assert subject.traces == before


def test_every_public_function_has_a_case():
    assert sorted(case.call for case in subjects()) == sorted(public_calls())


def test_tables_name_functions_and_checks_that_exist():
    calls = {case.call for case in subjects()}
    for (call, check), reason in EXCLUDED.items():
        assert call in calls, f"{call} has no case"
        assert check in (*CHECKS, "all"), f"{call}: no check is called {check}"
        assert reason.strip(), f"{call}: {check} is excluded without a reason"
    for call, parts in KEEPS_DTYPE.items():
        assert call in calls, f"{call} has no case"
        assert parts, f"{call} keeps nothing"
        assert all(kind.strip() for kind in parts.values()), f"{call}: a result is kept without its kind"
    for call, names in BATCH.items():
        case = next(case for case in subjects() if case.call == call)
        given = inspect.signature(case.function).bind(*case.inputs()[0], **case.inputs()[1]).arguments
        known = {*given, *(name for value in given.values() if isinstance(value, dict) for name in value)}
        assert set(names) <= known, f"{call}: no argument of its case is called {set(names) - known}"


def test_comparison_sees_a_wrong_value():
    with pytest.raises(AssertionError):
        assert_close((np.float32(1.0),), (np.float32(1.001),))


def rounded_on_the_way(logits):
    return jnp.sum(jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1).astype(logits.dtype).astype(jnp.float32)


def modulo_by_the_batch(x):
    return x[: 7 % x.shape[0]]


def mean_of_nothing(x):
    return jnp.mean(x)


class Wrong:
    """A case of a function of this module."""

    def __init__(self, function):
        self.function, self.call = function, "methods.none:wrong"

    def inputs(self):
        return (3 * jax.random.normal(jax.random.key(0), (4, 300)),), {}


def test_half_precision_check_sees_a_rounding_on_the_way():
    with pytest.raises(AssertionError, match="result ''"):
        test_half_precision_gives_float32_scores(Subject(Wrong(rounded_on_the_way)))


@pytest.mark.parametrize("function", [modulo_by_the_batch, mean_of_nothing])
def test_empty_check_sees_obscure_errors_and_nan(function):
    with pytest.raises((AssertionError, ZeroDivisionError)):
        test_empty_leading_axis_gives_an_empty_result_or_a_named_error(Subject(Wrong(function)))
