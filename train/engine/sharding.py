"""A named mesh from `config.mesh`, and where each leaf of the state and of a batch lives on it."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ...core import trees
from .types import ConfigDict

AXES = ("data", "model")
STRATEGIES = ("replicate", "fsdp")
FSDP_MIN_SIZE = 2**14  # below this many elements, gathering a leaf costs more than keeping it whole


def make_mesh(config: ConfigDict, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh `data` x `model`; an axis of -1 takes the devices that the other leaves.

    Raises:
        ValueError: the axes do not divide the devices, or leave some out on several hosts.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config[axis] for axis in AXES]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise ValueError(f"mesh axes must be positive, one of them -1 at most, got data={sizes[0]}, model={sizes[1]}.")
    known = math.prod(size for size in sizes if size != -1)
    if len(devices) % known:
        raise ValueError(
            f"mesh of data={sizes[0]} x model={sizes[1]} does not divide the {len(devices)} devices; "
            "give axes whose product divides them, or -1 for one axis."
        )
    shape = [len(devices) // known if size == -1 else size for size in sizes]
    used = math.prod(shape)
    if used < len(devices) and jax.process_count() > 1:
        raise ValueError(f"mesh of {shape[0]} x {shape[1]} leaves out devices of {len(devices)} on several hosts.")
    # Auto axes: under jax.make_mesh's default, Explicit, a product of two batch-sharded arrays raises.
    return Mesh(np.asarray(devices[:used]).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(name: str, size: int, mesh: Mesh) -> None:
    """A batch must split evenly over the `data` axis."""
    if size % mesh.shape["data"]:
        raise ValueError(f"{name} = {size} does not divide over the {mesh.shape['data']} devices of mesh axis data.")


def state_shardings(state: Any, mesh: Mesh, config: ConfigDict, *, leading: int = 0) -> Any:
    """A NamedSharding for each leaf of a (possibly abstract) state.

    The first of `config.rules`, pairs of (regex, partition of each axis), that is found in the leaf's path decides; a
    leaf that none matches follows `config.strategy`: "replicate", or "fsdp", which splits the largest axis that the
    `data` axis divides. Optimizer moments have their parameter's path in their own, so a rule places both.

    Args:
        state: tree of arrays or ShapeDtypeStructs.
        mesh: from `make_mesh`.
        config: the `mesh` section.
        leading: axes in front (the seeds) that are never split.

    Raises:
        ValueError: unknown strategy, or a rule that does not fit the leaf it matches.
    """
    if config.strategy not in STRATEGIES:
        raise ValueError(f"mesh.strategy must be one of {STRATEGIES}, got {config.strategy!r}.")
    for rule in config.rules:
        _check_form(rule)

    def place(path: str, leaf: Any) -> NamedSharding:
        shape = leaf.shape[leading:]
        spec = next((tuple(axes) for rule, axes in config.rules if re.search(rule, path) and shape), None)
        if spec is None:
            spec = _fsdp(shape, mesh.shape["data"]) if config.strategy == "fsdp" else ()
        else:
            _check_rule(path, shape, spec, mesh)
        return NamedSharding(mesh, P(*(None,) * leading, *spec))

    leaves, structure = jax.tree.flatten(state)
    return jax.tree.unflatten(structure, [place(*x) for x in zip(trees.path_names(state), leaves, strict=True)])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data`, everything else whole."""
    return NamedSharding(mesh, P("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def _fsdp(shape: tuple[int, ...], devices: int) -> tuple:
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if math.prod(shape) < FSDP_MIN_SIZE or not axes or devices == 1:
        return ()
    largest = max(axes, key=lambda axis: shape[axis])
    return tuple("data" if axis == largest else None for axis in range(len(shape)))


def _check_form(rule: Any) -> None:
    expected = "mesh.rules must hold (regular expression, axes) pairs, axes a tuple of names, tuples of them, or None"
    if not isinstance(rule, (tuple, list)) or len(rule) != 2 or not isinstance(rule[0], str):
        raise ValueError(f"{expected}; got {rule!r}.")
    if not isinstance(rule[1], (tuple, list)):
        raise ValueError(f"{expected}; got {rule[1]!r} as axes.")
    try:
        re.compile(rule[0])
    except re.error as error:
        raise ValueError(f"{expected}; {rule[0]!r} is none: {error}.") from error


def _check_rule(path: str, shape: tuple[int, ...], spec: tuple, mesh: Mesh) -> None:
    for name in spec:
        for axis in (name,) if isinstance(name, str) else name or ():
            if axis not in mesh.shape:
                raise ValueError(f"mesh.rules names axis {axis!r} for {path}; the mesh has {tuple(mesh.shape)}.")
    if len(spec) > len(shape):
        raise ValueError(f"mesh.rules gives {len(spec)} axes for {path}, which has shape {shape}.")
    for size, name in zip(shape, spec, strict=False):
        parts = math.prod(mesh.shape[axis] for axis in ((name,) if isinstance(name, str) else name or ()))
        if size % parts:
            raise ValueError(f"mesh.rules splits an axis of {size} of {path} over {parts} devices.")
