"""Trees: names, casts, averages, size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.core import trees


class State(NamedTuple):
    count: jax.Array
    parts: list


def example():
    return {
        "layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3, jnp.bfloat16)},
        "state": State(jnp.int32(4), [jax.random.key(0), jnp.array([True, False])]),
    }


def test_names_follow_the_order_of_leaves():
    names = trees.path_names(example())
    assert names == ["layer/bias", "layer/kernel", "state/count", "state/parts/0", "state/parts/1"]
    assert len(jax.tree.leaves(example())) == len(names)
    assert trees.path_names(jnp.zeros(2)) == [""]
    assert trees.path_names({}) == []
    assert trees.path_names(jax.eval_shape(example)) == names


def test_casts_touch_float_leaves_alone():
    before = example()
    after = trees.cast_floats(before, jnp.float16)
    assert after["layer"]["kernel"].dtype == after["layer"]["bias"].dtype == jnp.float16
    assert after["state"].count is before["state"].count
    assert after["state"].parts[0] is before["state"].parts[0]
    assert after["state"].parts[1] is before["state"].parts[1]
    assert trees.cast_floats({"x": np.zeros(2)}, jnp.bfloat16)["x"].dtype == jnp.bfloat16


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_ema_is_the_weighted_sum(wrap):
    old = {"w": jnp.array([1.0, 2.0]), "count": jnp.int32(3), "key": jax.random.key(0)}
    new = {"w": jnp.array([5.0, -2.0]), "count": jnp.int32(7), "key": jax.random.key(1)}
    mixed = wrap(trees.ema)(old, new, 0.75)
    np.testing.assert_allclose(mixed["w"], [2.0, 1.0])
    assert mixed["count"] == 7
    assert (jax.random.key_data(mixed["key"]) == jax.random.key_data(new["key"])).all()
    np.testing.assert_array_equal(trees.ema(old, new, 0.0)["w"], new["w"])
    np.testing.assert_array_equal(trees.ema(old, new, 1.0)["w"], old["w"])


def test_ema_in_bfloat16_rounds_once():
    old, new = jnp.array(1.0, jnp.bfloat16), jnp.array(3.0, jnp.bfloat16)
    mixed = trees.ema(old, new, 0.999)  # 0.999 itself rounds to 1 in bfloat16
    assert mixed.dtype == jnp.bfloat16
    assert trees.ema(jnp.float32(1.0), new, 0.999) == pytest.approx(1.002)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_finite_sees_every_float_leaf(bad):
    tree = example()
    assert trees.all_finite(tree)
    assert trees.all_finite({})
    tree["layer"]["bias"] = tree["layer"]["bias"].at[1].set(bad)
    assert not trees.all_finite(tree)
    assert not jax.jit(trees.all_finite)(tree)


def test_size_counts_numbers_and_bytes_without_arrays():
    tree = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(5, jnp.bfloat16), "c": jnp.int32(1)}
    for given in (tree, jax.eval_shape(lambda: tree)):
        assert trees.num_params(given) == 12
        assert trees.size_in_bytes(given) == 24 + 10 + 4
