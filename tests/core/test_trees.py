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


def test_weighted_sum_is_that_of_each_leaf_and_skips_weight_zero():
    rng = np.random.default_rng(0)
    tree = {"w": rng.normal(size=(4, 3, 2)).astype(np.float32), "b": rng.normal(size=4).astype(np.float32)}
    weights = np.array([0.5, 0.25, 0.25, 0.0], np.float32)
    expected = {name: np.tensordot(weights, leaf.astype(np.float64), 1) for name, leaf in tree.items()}
    tree["w"][3], tree["b"][3] = np.nan, np.inf  # a client that has nothing to say
    total = jax.jit(trees.weighted_sum)(jax.tree.map(jnp.asarray, tree), jnp.asarray(weights))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), total, expected)
    gradient = jax.grad(lambda t: trees.weighted_sum(t, jnp.asarray(weights))["w"].sum())(
        jax.tree.map(jnp.asarray, tree)
    )
    np.testing.assert_array_equal(gradient["w"][:, 0, 0], weights)


def test_weighted_sum_keeps_dtypes_and_adds_in_float32():
    leaf = jnp.ones((300, 2), jnp.bfloat16)  # a running sum in bfloat16 stops at 256
    total = trees.weighted_sum(leaf, jnp.full(300, 1.0, jnp.bfloat16))
    assert total.dtype == jnp.bfloat16
    np.testing.assert_array_equal(total.astype(jnp.float32), jnp.full(2, 300.0, jnp.bfloat16).astype(jnp.float32))


def test_weighted_sum_of_integers_is_a_float():
    total = trees.weighted_sum({"w": np.array([[1, 2], [2, 4]])}, [1, 2])
    np.testing.assert_array_equal(total["w"], [5.0, 10.0])
    mean = trees.weighted_sum(jnp.array([1, 2]), jnp.array([0.5, 0.5]))
    assert mean == 1.5
    np.testing.assert_array_equal(trees.weighted_sum(jnp.zeros((0, 2)), jnp.zeros(0)), 0.0)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_weight_of_zero_passes_no_gradient_either_way(bad):
    leaf = jnp.array([1.0, bad])
    value, gradients = jax.value_and_grad(trees.weighted_sum, (0, 1))(leaf, jnp.array([2.0, 0.0]))
    assert value == 2.0
    np.testing.assert_array_equal(gradients[0], [2.0, 0.0])
    np.testing.assert_array_equal(gradients[1], [1.0, 0.0])


def test_weighted_sum_of_a_split_axis_is_that_of_one_device():
    tree, weights = {"w": jax.random.normal(jax.random.key(0), (16, 5))}, jnp.arange(16.0) / 120
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    split = jax.jit(trees.weighted_sum)(jax.device_put(tree, where), jax.device_put(weights, where))
    np.testing.assert_allclose(split["w"], trees.weighted_sum(tree, weights)["w"], rtol=1e-5, atol=1e-6)


def test_weighted_sum_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"weights must have shape \[m\]"):
        trees.weighted_sum({"w": jnp.zeros((2, 3))}, jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"leaves \[2, ...\]"):
        trees.weighted_sum({"w": jnp.zeros((3, 3))}, jnp.zeros(2))
