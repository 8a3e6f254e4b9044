"""The blocked contrastive loss against the n x n matrix that it never forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import special

from lemmata.core.contrastive import info_nce_loss, product_logsumexp
from lemmata.core.distances import l2_normalize


def rows(n, d=8, seed=0):
    return l2_normalize(jax.random.normal(jax.random.key(seed), (2, n, d)))


def plain_loss(queries, keys, temperature):
    scores = queries @ keys.T / temperature
    return jax.nn.logsumexp(scores, axis=-1) - jnp.diag(scores)


def reference(queries, keys, temperature):
    scores = np.asarray(queries, np.float64) @ np.asarray(keys, np.float64).T / temperature
    return special.logsumexp(scores, axis=1) - np.diag(scores)


def weighted(loss, **options):
    """A scalar in which every row counts differently, of queries, keys and temperature."""

    def scalar(queries, keys, temperature):
        return jnp.sum(loss(queries, keys, temperature=temperature, **options) * jnp.arange(1.0, len(queries) + 1))

    return scalar


def assert_trees_close(actual, expected, **tolerance):
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


@pytest.mark.parametrize(("n", "block_size"), [(2, 1), (7, 3), (7, 6), (7, 100), (16, 4), (12, 5), (40, None)])
def test_value_and_all_gradients_are_those_of_the_whole_matrix(n, block_size):
    queries, keys = rows(n)
    arguments = queries, keys, jnp.float32(0.1)
    blocked = jax.jit(jax.value_and_grad(weighted(info_nce_loss, block_size=block_size), argnums=(0, 1, 2)))(*arguments)
    whole = jax.jit(jax.value_and_grad(weighted(plain_loss), argnums=(0, 1, 2)))(*arguments)
    assert_trees_close(blocked, whole, rtol=1e-4, atol=1e-4)


def test_default_blocks_give_the_same_above_one_block():
    queries, keys = rows(1500)
    arguments = queries, keys, jnp.float32(0.07)
    blocked = jax.jit(jax.value_and_grad(weighted(info_nce_loss), argnums=(0, 1, 2)))(*arguments)
    whole = jax.jit(jax.value_and_grad(weighted(plain_loss), argnums=(0, 1, 2)))(*arguments)
    assert_trees_close(blocked, whole, rtol=2e-4, atol=2e-2)  # sums of 1500 weights up to 1500


@given(st.integers(1, 3), st.sampled_from([1, 2, 5]), st.floats(0.01, 100.0), st.integers(0, 9))
def test_loss_is_that_of_the_equation_for_any_scale(block_size, n, temperature, seed):
    queries, keys = 5 * jax.random.normal(jax.random.key(seed), (2, n, 3))
    expected = reference(queries, keys, temperature)
    scale = 1 + np.abs(np.asarray(queries) @ np.asarray(keys).T).max() / temperature
    loss = info_nce_loss(queries, keys, temperature=temperature, block_size=block_size)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6 * scale)


def test_orthogonal_rows_have_the_known_loss():
    np.testing.assert_allclose(
        info_nce_loss(jnp.eye(5), jnp.eye(5), temperature=0.5), np.log(1 + 4 * np.exp(-2)), rtol=1e-6
    )


def test_equal_keys_leave_log_n():
    queries, _ = rows(9)
    np.testing.assert_allclose(info_nce_loss(queries, jnp.ones((9, 8)), block_size=4), np.log(9), rtol=1e-5)


def test_one_row_alone_costs_nothing():
    queries, keys = rows(1)
    value, gradients = jax.value_and_grad(weighted(info_nce_loss), argnums=(0, 1, 2))(queries, keys, 0.07)
    assert value == 0
    assert_trees_close(gradients, (jnp.zeros((1, 8)), jnp.zeros((1, 8)), 0.0))


def test_far_scores_neither_overflow_nor_lose_their_gradient():
    queries, keys = 1e3 * jnp.eye(4, 6), 1e3 * jnp.eye(4, 6)[::-1]
    loss, gradients = jax.value_and_grad(weighted(info_nce_loss, block_size=3), argnums=(0, 1))(queries, keys, 1.0)
    np.testing.assert_allclose(loss, 1e6 * (1 + 2 + 3 + 4), rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_vmap_gives_each_slice_also_of_temperatures():
    queries, keys = rows(3 * 7).reshape(2, 3, 7, 8)
    temperatures = jnp.array([0.05, 0.2, 1.0])
    grad = jax.jit(jax.value_and_grad(weighted(info_nce_loss, block_size=3), argnums=(0, 1, 2)))
    batched = jax.vmap(grad)(queries, keys, temperatures)
    for index in range(3):
        single = grad(queries[index], keys[index], temperatures[index])
        assert_trees_close(jax.tree.map(lambda leaf, i=index: leaf[i], batched), single, rtol=1e-5, atol=1e-5)


def test_gradient_of_a_gradient_is_that_of_the_whole_matrix():
    queries, keys = rows(6)

    def slope(loss, **options):
        return lambda queries: jnp.sum(jax.grad(weighted(loss, **options))(queries, keys, 0.5) ** 2)

    blocked = jax.jit(jax.grad(slope(info_nce_loss, block_size=4)))(queries)
    np.testing.assert_allclose(blocked, jax.jit(jax.grad(slope(plain_loss)))(queries), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_inputs_are_computed_in_float32(dtype):
    queries, keys = rows(33, 64).astype(dtype)
    loss = info_nce_loss(queries, keys, block_size=8)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, reference(queries, keys, 0.07), rtol=1e-5, atol=1e-5)
    assert info_nce_loss(queries[:1], keys[:1]).dtype == jnp.float32
    gradients = jax.grad(weighted(info_nce_loss), argnums=(0, 1))(queries, keys, 0.07)
    assert all(gradient.dtype == dtype and jnp.isfinite(gradient).all() for gradient in gradients)


def test_mixed_inputs_promote():
    queries, keys = rows(4)
    assert info_nce_loss(queries.astype(jnp.bfloat16), keys).dtype == jnp.float32
    assert info_nce_loss(jnp.eye(2, dtype=int), jnp.eye(2, dtype=int)).dtype == jnp.float32


def test_float64_agrees_to_its_own_precision():
    with jax.enable_x64(True):
        queries, keys = jax.random.normal(jax.random.key(0), (2, 50, 8), jnp.float64)
        loss = info_nce_loss(queries, keys, block_size=7)
        assert loss.dtype == jnp.float64
        np.testing.assert_allclose(loss, reference(queries, keys, 0.07), rtol=1e-12, atol=1e-12)
        arguments = queries, keys, jnp.float64(0.3)
        blocked = jax.grad(weighted(info_nce_loss, block_size=7), argnums=(0, 1, 2))(*arguments)
        assert_trees_close(blocked, jax.grad(weighted(plain_loss), argnums=(0, 1, 2))(*arguments), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n", "block_size"), [(64, 16), (72, 20), (24, None)])
def test_sharded_batch_gives_the_value_of_one_device(n, block_size):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    queries, keys = rows(n)
    compute = jax.jit(jax.value_and_grad(weighted(info_nce_loss, block_size=block_size), argnums=(0, 1, 2)))
    placed = jax.device_put((queries, keys), NamedSharding(mesh, PartitionSpec("data")))
    sharded = compute(*placed, 0.07)
    assert_trees_close(sharded, compute(queries, keys, 0.07), rtol=1e-4, atol=1e-4)
    assert sharded[1][0].sharding.spec == sharded[1][1].sharding.spec == PartitionSpec("data")


def value_and_grad_memory(n, d=128, sharding=None):
    shape = jax.ShapeDtypeStruct((n, d), jnp.float32, sharding=sharding)
    compute = jax.jit(jax.value_and_grad(lambda queries, keys: info_nce_loss(queries, keys).mean(), argnums=(0, 1)))
    stats = compute.lower(shape, shape).compile().memory_analysis()
    return stats.temp_size_in_bytes + stats.argument_size_in_bytes + stats.output_size_in_bytes


def test_16384_rows_stay_far_below_the_gibibyte_of_their_matrix():
    assert value_and_grad_memory(16384) < 2**27  # 128 MiB, where one n x n matrix alone takes 1024


def test_a_device_of_eight_holds_an_eighth():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    assert value_and_grad_memory(16384, sharding=sharding) < value_and_grad_memory(16384) / 6


def test_a_loop_outside_jit_compiles_once():
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiles.append(event) if "backend_compile" in event else None
    )
    queries, keys = rows(11)
    info_nce_loss(queries, keys, block_size=4).block_until_ready()
    assert compiles
    compiles.clear()
    info_nce_loss(keys, queries, block_size=4).block_until_ready()
    assert not compiles


@pytest.mark.parametrize(
    ("queries", "keys", "options", "named"),
    [
        (jnp.zeros(4), jnp.zeros(4), {}, "queries"),
        (jnp.zeros((2, 4, 3)), jnp.zeros((2, 4, 3)), {}, "queries"),
        (jnp.zeros((4, 3)), jnp.zeros((5, 3)), {}, r"keys must have shape \[n, d\] with n = 4"),
        (jnp.zeros((4, 3)), jnp.zeros((4, 2)), {}, "keys"),
        (jnp.zeros((0, 3)), jnp.zeros((0, 3)), {}, "queries"),
        (jnp.zeros((4, 0)), jnp.zeros((4, 0)), {}, "queries"),
        (jnp.zeros((4, 3)), jnp.zeros((4, 3)), {"temperature": 0.0}, "temperature"),
        (jnp.zeros((4, 3)), jnp.zeros((4, 3)), {"temperature": -1.0}, "temperature"),
        (jnp.zeros((4, 3)), jnp.zeros((4, 3)), {"temperature": np.nan}, "temperature"),
        (jnp.zeros((4, 3)), jnp.zeros((4, 3)), {"temperature": jnp.ones(4)}, "temperature"),
        (jnp.zeros((4, 3)), jnp.zeros((4, 3)), {"block_size": 0}, "block_size"),
        (jnp.zeros((1, 3)), jnp.zeros((1, 3)), {"block_size": 0}, "block_size"),
    ],
)
def test_bad_input_names_the_argument(queries, keys, options, named):
    with pytest.raises(ValueError, match=named):
        info_nce_loss(queries, keys, **options)


def test_logsumexp_takes_any_number_of_keys():
    queries, keys = jax.random.normal(jax.random.key(0), (5, 3)), jax.random.normal(jax.random.key(1), (11, 3))
    expected = special.logsumexp(np.asarray(queries, np.float64) @ np.asarray(keys, np.float64).T, axis=1)
    np.testing.assert_allclose(product_logsumexp(queries, keys, block_size=4), expected, rtol=1e-5)
    half = product_logsumexp(queries.astype(jnp.bfloat16), keys.astype(jnp.bfloat16))
    np.testing.assert_allclose(half, expected, rtol=2e-2)
    assert half.dtype == jnp.float32
    assert product_logsumexp(queries[:0], keys).shape == (0,)
    with pytest.raises(ValueError, match="keys"):
        product_logsumexp(queries, keys[:0])
    with pytest.raises(ValueError, match="keys"):
        product_logsumexp(queries, keys[:, :2])
