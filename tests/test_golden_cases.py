"""The reader of goldens: every form that a case may take."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import assert_matches, bind, read

ARRAYS = {"a0": np.arange(3, dtype=np.float32), "a1": np.array([1, 2], np.int32), "a2": np.array(True)}


class Layer(NamedTuple):
    left: jax.Array
    right: jax.Array


@dataclasses.dataclass(frozen=True)
class Memory:
    bank: jax.Array
    layer: Layer
    count: int = 0


def method(params: dict, state: Memory, layers: list[Layer], rest: tuple, last=None, *, key: Layer | None = None, **_):
    raise NotImplementedError  # only its annotations are read


def starred(*layers: Layer):
    raise NotImplementedError


def test_arrays_nest_and_states_are_built_from_annotations():
    args, _ = bind(
        method,
        [
            {"w": "a0", "inner": [{"b": "a1"}]},
            {"bank": "a0", "layer": {"left": "a1", "right": "a2"}, "count": 3},
            [{"left": "a0", "right": "a1"}, {"left": "a1", "right": "a0"}],
            ["a0", None, "a2"],
        ],
        {},
        ARRAYS,
    )
    params, state, layers, rest = args
    assert isinstance(params["inner"][0]["b"], jax.Array)
    assert isinstance(state, Memory)
    assert isinstance(state.layer, Layer)
    assert state.count == 3
    assert state.layer.right.dtype == bool
    assert [type(layer) for layer in layers] == [Layer, Layer]
    assert rest[1] is None


def test_keywords_are_plain_unless_they_say_array():
    _, kwargs = bind(
        method,
        [],
        {
            "rule": "a0",  # a word, though an array has that name
            "sizes": [4, 8],
            "top": None,
            "where": {"array": "a2"},
            "many": [{"array": "a0"}, {"array": "a1"}],
            "key": {"left": {"array": "a0"}, "right": {"array": "a1"}},
        },
        ARRAYS,
    )
    assert kwargs["rule"] == "a0"
    assert kwargs["sizes"] == [4, 8]
    assert kwargs["top"] is None
    assert isinstance(kwargs["where"], jax.Array)
    assert kwargs["many"][1].dtype == jnp.int32
    assert isinstance(kwargs["key"], Layer)


def test_starred_parameter_takes_all_that_is_left():
    args, _ = bind(starred, [{"left": "a0", "right": "a1"}] * 3, {}, ARRAYS)
    assert [type(layer) for layer in args] == [Layer, Layer, Layer]


GOLDEN = {"call": "methods.a:f", "args": [], "kwargs": {}, "outputs": "a0", "rtol": 1e-5, "atol": 0.0, "note": ""}
EXAMPLE = {"call": "methods.a:f", "args": ["a0"], "kwargs": {}, "kind": "example"}


def test_a_case_is_a_golden_unless_it_says_that_it_is_an_example():
    cases = read({"method": "a", "cases": [GOLDEN, EXAMPLE, GOLDEN | {"kind": "golden"}]})
    assert [(case.index, case.kind) for case in cases] == [(0, "golden"), (1, "example"), (2, "golden")]
    assert cases[1].outputs is None


@pytest.mark.parametrize(
    "bad",
    [
        GOLDEN | {"kind": "sample"},
        {name: value for name, value in GOLDEN.items() if name != "outputs"},
        EXAMPLE | {"tolerance": 1e-5},
    ],
)
def test_a_case_that_is_neither_is_an_error(bad):
    with pytest.raises(ValueError, match="a, case 0"):
        read({"method": "a", "cases": [bad]})


def test_unknown_array_is_an_error():
    with pytest.raises(KeyError, match="a9"):
        bind(method, ["a9"], {}, ARRAYS)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (jnp.array([1.0, 2.0]), np.array([1.0, 2.000001])),
        (jnp.array([jnp.inf, jnp.nan]), np.array([np.inf, np.nan])),
        ((jnp.ones(2), jnp.int32(3)), [np.ones(2), np.int32(3)]),
        (Layer(jnp.ones(2), jnp.zeros(2)), {"right": np.zeros(2)}),
        ({"right": jnp.zeros(2)}, {"right": np.zeros(2)}),
        (jnp.int32(3), np.int64(3)),
        (3, np.int32(3)),
        ([None], [None]),
    ],
)
def test_equal_outputs_match(actual, expected):
    assert_matches(actual, expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (jnp.array([1.0, 2.0]), np.array([1.0, 2.001])),
        (jnp.array([1.0]), np.array(1.0)),  # a shape that would broadcast
        (jnp.array([1, 2]), np.array([1.0, 2.0])),  # integers where a float is due
        (jnp.array([1.0, 2.0]), np.array([1, 2])),
        (jnp.array([1, 0]), np.array([True, False])),
        ((jnp.ones(2),), [np.ones(2), np.ones(2)]),
        (jnp.ones(2), [1.0, 1.0]),
        (Layer(jnp.ones(2), jnp.zeros(2)), {"right": np.ones(2)}),
        (jnp.ones(2), None),
    ],
)
def test_unequal_outputs_do_not(actual, expected):
    with pytest.raises(AssertionError, match="output"):
        assert_matches(actual, expected, rtol=1e-5, atol=0.0)
