"""Reads `tests/goldens/*/cases.json`: what to call, with which inputs, and what has to come out.

A string in `args`, or under `outputs`, names an array of `arrays.npz`; lists and objects nest. `kwargs` are plain JSON,
or `{"array": name}` for an array, at any depth. A parameter that is annotated with a NamedTuple or a dataclass (also
inside a list, a tuple, a dict or an Optional) is given as an object of its fields, and built here.

A case with `"kind": "example"` has no outputs that anything independent computed. It serves conformance alone: it is no
golden, and `all_cases` leaves it out.
"""

import dataclasses
import functools
import importlib
import inspect
import json
import pathlib
import types
import typing
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / "goldens"
KINDS = ("golden", "example")


@dataclasses.dataclass(frozen=True)
class Case:
    """One call with its reference output; an example has none."""

    method: str
    index: int
    call: str  # "methods.<kind>.<name>:<function>", without the package
    args: list
    kwargs: dict
    outputs: typing.Any = None
    rtol: float = 0.0
    atol: float = 0.0
    note: str = ""
    kind: str = "golden"

    @property
    def id(self) -> str:
        return f"{self.call.removeprefix('methods.')}-{self.index}"

    @property
    def has_arrays(self) -> bool:
        named = any(isinstance(leaf, str) for leaf in jax.tree.leaves(self.args))
        return named or '{"array":' in json.dumps(self.kwargs)

    @property
    def function(self) -> Callable:
        module, name = self.call.split(":")
        return getattr(importlib.import_module(f"lemmata.{module}"), name)

    def inputs(self) -> tuple[tuple, dict]:
        """Arguments as the function takes them: jax arrays, states, and plain values."""
        return bind(self.function, self.args, self.kwargs, arrays_of(self.method))

    def expected(self):
        """The reference output, a tree of NumPy arrays."""
        return resolve(self.outputs, arrays_of(self.method))


@functools.cache
def _recorded() -> tuple[Case, ...]:
    return tuple(case for path in sorted(FOLDER.glob("*/cases.json")) for case in read(json.loads(path.read_text())))


def all_cases() -> tuple[Case, ...]:
    """Every golden of every method, in the order of the files."""
    return tuple(case for case in _recorded() if case.kind == "golden")


def first_cases() -> list[Case]:
    """The first case of each function: one with an array rather than one of plain numbers, then a golden."""
    by_call: dict[str, Case] = {}
    for case in sorted(_recorded(), key=lambda case: (not case.has_arrays, KINDS.index(case.kind))):
        by_call.setdefault(case.call, case)
    return list(by_call.values())


def read(record: dict) -> list[Case]:
    """The cases of one file.

    Raises:
        ValueError: a case of another kind, a golden without outputs or tolerances, or a key that means nothing.
    """
    found, known = [], {field.name for field in dataclasses.fields(Case)} - {"method", "index"}
    for index, case in enumerate(record["cases"]):
        where = f"{record['method']}, case {index}"
        kind = case.get("kind", "golden")
        if kind not in KINDS:
            raise ValueError(f"{where}: kind must be one of {KINDS}, got {kind!r}.")
        needed = known - {"kind"} if kind == "golden" else {"call", "args", "kwargs"}
        if not needed <= set(case) <= known:
            raise ValueError(f"{where}: a case of kind {kind} has {sorted(needed)}, got {sorted(case)}.")
        found.append(Case(record["method"], index, **case))
    return found


def of_arrays(case) -> tuple[Callable, list[jax.Array]]:
    """A case as a function of its arrays alone, and these; what else it is called with is static."""
    function = case.function
    leaves, tree = jax.tree.flatten(case.inputs())
    dynamic = [isinstance(leaf, jax.Array) for leaf in leaves]

    def call(*arrays):
        rest = iter(arrays)
        merged = [next(rest) if is_array else leaf for leaf, is_array in zip(leaves, dynamic, strict=True)]
        args, kwargs = jax.tree.unflatten(tree, merged)
        return function(*args, **kwargs)

    return call, [leaf for leaf, is_array in zip(leaves, dynamic, strict=True) if is_array]


@functools.cache
def arrays_of(method: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / method / "arrays.npz") as archive:
        return dict(archive)


def resolve(spec, arrays: Mapping[str, np.ndarray]):
    """`spec` with every string replaced by the array of that name."""
    if isinstance(spec, str):
        return arrays[spec]
    if isinstance(spec, dict):
        return {name: resolve(value, arrays) for name, value in spec.items()}
    if isinstance(spec, list):
        return [resolve(value, arrays) for value in spec]
    return spec


def bind(function: Callable, args: list, kwargs: dict, arrays: Mapping[str, np.ndarray]) -> tuple[tuple, dict]:
    """The arguments of one call: arrays put in, states built from the annotations of `function`."""
    hints = typing.get_type_hints(function)
    names = list(inspect.signature(function).parameters)
    names += names[-1:] * (len(args) - len(names))  # f(*layers) takes any number under its last name
    to_jax = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf)
    bound_args = tuple(
        build(hints.get(name), to_jax(resolve(spec, arrays))) for name, spec in zip(names, args, strict=False)
    )
    bound_kwargs = {name: build(hints.get(name), to_jax(_resolve_kwarg(spec, arrays))) for name, spec in kwargs.items()}
    return bound_args, bound_kwargs


def _resolve_kwarg(spec, arrays):
    if isinstance(spec, dict):
        if set(spec) == {"array"}:
            return arrays[spec["array"]]
        return {name: _resolve_kwarg(value, arrays) for name, value in spec.items()}
    if isinstance(spec, list):
        return [_resolve_kwarg(value, arrays) for value in spec]
    return spec


def build(annotation, value):
    """`value` with each dict that stands for a state turned into the class which `annotation` names there."""
    origin, parameters = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        candidates = [build(parameter, value) for parameter in parameters if parameter is not type(None)]
        return next((built for built in candidates if built is not value), value)
    if isinstance(value, dict):
        if is_state(annotation):
            hints = typing.get_type_hints(annotation)
            return annotation(**{name: build(hints[name], field) for name, field in value.items()})
        if len(parameters) == 2:  # dict[str, State], Mapping[str, State]
            return {name: build(parameters[1], item) for name, item in value.items()}
    if isinstance(value, list) and parameters:
        if origin is tuple:  # tuple[State, ...] and tuple[A, B]
            each = parameters[:1] * len(value) if parameters[-1] is Ellipsis else parameters
            return tuple(build(parameter, item) for parameter, item in zip(each, value, strict=True))
        return [build(parameters[0], item) for item in value]
    return value


def is_state(annotation) -> bool:
    """Whether an annotation is a NamedTuple or a dataclass; a Flax module, which is one too, is a network."""
    if not inspect.isclass(annotation) or hasattr(annotation, "apply"):
        return False
    return dataclasses.is_dataclass(annotation) or (issubclass(annotation, tuple) and hasattr(annotation, "_fields"))


def assert_matches(actual, expected, *, rtol: float, atol: float, where: str = "output"):
    """Compare an output with its reference: same structure and shapes, floats within tolerance, the rest exactly.

    An object in the reference lists the fields to compare, whether `actual` is a mapping or has attributes.
    """
    if isinstance(expected, dict):
        for name, part in expected.items():
            value = actual[name] if isinstance(actual, Mapping) else getattr(actual, name)
            assert_matches(value, part, rtol=rtol, atol=atol, where=f"{where}.{name}")
    elif isinstance(expected, list | tuple):
        assert isinstance(actual, list | tuple), f"{where}: expected {len(expected)} parts, got {type(actual).__name__}"
        assert len(actual) == len(expected), f"{where}: expected {len(expected)} parts, got {len(actual)}"
        for index, (value, part) in enumerate(zip(actual, expected, strict=True)):
            assert_matches(value, part, rtol=rtol, atol=atol, where=f"{where}[{index}]")
    elif expected is None:
        assert actual is None, f"{where}: expected None, got {actual!r}"
    else:
        _assert_array_matches(np.asarray(actual), np.asarray(expected), rtol, atol, where)


def _assert_array_matches(actual, expected, rtol, atol, where):
    assert actual.shape == expected.shape, f"{where}: expected shape {expected.shape}, got {actual.shape}"
    if np.issubdtype(expected.dtype, np.inexact):
        assert jnp.issubdtype(actual.dtype, jnp.inexact), f"{where}: expected a float, got {actual.dtype}"
        wide = np.complex128 if np.iscomplexobj(expected) else np.float64
        np.testing.assert_allclose(actual.astype(wide), expected.astype(wide), rtol=rtol, atol=atol, err_msg=where)
    else:
        same_kind = (actual.dtype == bool) == (expected.dtype == bool) and not jnp.issubdtype(actual.dtype, jnp.inexact)
        assert same_kind, f"{where}: expected {expected.dtype}, got {actual.dtype}"
        np.testing.assert_array_equal(actual, expected, err_msg=where)
