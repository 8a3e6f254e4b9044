"""Pytrees of arrays: names of leaves, casts, averages, size.

A float leaf is one whose dtype is floating (complex counts as inexact where it says so); integers, booleans and
PRNG keys pass through untouched.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from . import numerics

Tree = TypeVar("Tree")


def path_names(tree: object) -> list[str]:
    """Names of the leaves, in the order of `jax.tree.leaves`.

    Args:
        tree: any pytree; its leaves are not looked at, so shapes (`jax.ShapeDtypeStruct`) or tracers do.

    Returns:
        One "a/b/c" a leaf: dict keys, field names and indices, from the root down. A tree that is one leaf gives [""].

    Example:
        >>> path_names({"layer": {"kernel": 1.0, "bias": 0.0}, "scales": [1.0, 2.0]})
        ['layer/bias', 'layer/kernel', 'scales/0', 'scales/1']
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def cast_floats(tree: Tree, dtype: DTypeLike) -> Tree:
    """The same tree with its real floating leaves as `dtype`; every other leaf is the very same object."""

    def cast(leaf):
        return jnp.asarray(leaf, dtype) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def ema(average: Tree, tree: Tree, decay: ArrayLike) -> Tree:
    """Exponential moving average of the inexact leaves: `decay * average + (1 - decay) * tree`.

    Args:
        average: what has been averaged so far; each leaf keeps its dtype.
        tree: the new values, of the same structure.
        decay: scalar in [0, 1], possibly traced; 0 copies `tree`, 1 keeps `average`, both exactly.

    Returns:
        The new average. The sum is taken in at least float32. Leaves that are not inexact (counters, keys) are
        copied from `tree`.
    """

    def mix(old, new):
        if not jnp.issubdtype(jnp.result_type(old), jnp.inexact):
            return new
        wide = jnp.promote_types(jnp.result_type(old, new), jnp.float32)
        weight = jnp.asarray(decay, jnp.finfo(wide).dtype)
        mixed = weight * jnp.asarray(old, wide) + (1 - weight) * jnp.asarray(new, wide)
        return mixed.astype(jnp.result_type(old))

    return jax.tree.map(mix, average, tree)


def all_finite(tree: object) -> jax.Array:
    """Whether no inexact leaf holds an infinity or a NaN: a bool scalar, True for a tree without such leaves."""
    finite = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]
    return jnp.all(jnp.stack(finite)) if finite else jnp.asarray(True)


def num_params(tree: object) -> int:
    """How many numbers the leaves hold together, over all devices. Leaves need a shape alone."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def size_in_bytes(tree: object) -> int:
    """How many bytes the leaves hold together, each counted once however many devices keep a copy.

    Leaves need a shape and a dtype alone, so `jax.eval_shape(init, key)` will do.
    """
    return sum(math.prod(jnp.shape(leaf)) * jnp.result_type(leaf).itemsize for leaf in jax.tree.leaves(tree))


def weighted_sum(tree: Tree, weights: ArrayLike) -> Tree:
    """Weighted sum over the leading axis of every leaf: `sum_i weights_i leaf_i`, a mean where the weights sum to 1.

    Args:
        tree: leaves `[m, ...]`, such as the models of m clients.
        weights: `[m]`, floats or integers. An entry of weight 0 does not count, be it infinite or NaN; nor does such a
            weight get a gradient.

    Returns:
        The tree without that axis, each leaf in its own floating dtype (one of integers in the default one), summed in
        at least float32; zeros where m = 0. Where the axis is split over devices, each sums its own entries and one
        reduction adds them up.

    Raises:
        ValueError: weights that are not a vector, or a leaf with another leading axis.

    Example:
        >>> weighted_sum({"w": jnp.array([[1.0, 2.0], [3.0, jnp.nan]])}, jnp.array([1.0, 0.0]))
        {'w': Array([1., 2.], dtype=float32)}
    """
    weights = jnp.asarray(weights)
    if weights.ndim != 1:
        raise ValueError(f"weights must have shape [m], got shape {list(weights.shape)}.")

    def add(leaf):
        leaf = jnp.asarray(leaf)
        if leaf.shape[:1] != weights.shape:
            raise ValueError(f"tree must have leaves [{weights.size}, ...] as weights, got shape {list(leaf.shape)}.")
        result, _ = numerics.float_dtypes(leaf)
        _, wide = numerics.float_dtypes(leaf, weights)
        weight = weights.astype(wide).reshape(-1, *[1] * (leaf.ndim - 1))
        counted = jnp.where(weight != 0, leaf, 0)  # before the product: 0 times infinity is NaN, in its gradient too
        return jnp.sum(weight * counted, axis=0).astype(result)

    return jax.tree.map(add, tree)


def widen(tree: Tree) -> Tree:
    """The tree with every leaf a float of at least float32, to compute in."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, numerics.float_dtypes(leaf)[1]), tree)


def cast_like(tree: Tree, like: object) -> Tree:
    """The tree with every leaf in the floating dtype of its leaf in `like`, to return."""
    return jax.tree.map(lambda leaf, other: leaf.astype(numerics.float_dtypes(other)[0]), tree, like)


def check_like(name: str, tree: object, **others: object) -> None:
    """Check that other trees have the structure and shapes of one.

    Raises:
        ValueError: names the tree that has not.

    Example:
        >>> check_like("params", {"w": jnp.zeros(2)}, grads={"w": jnp.zeros(3)})
        Traceback (most recent call last):
        ValueError: grads must have the structure and shapes of params.
    """
    shapes = jax.tree.map(jnp.shape, tree)
    for other, value in others.items():
        if jax.tree.map(jnp.shape, value) != shapes:
            raise ValueError(f"{other} must have the structure and shapes of {name}.")
