"""Replay: the newest rows are kept, in their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemmata.core import replay

add, take = jax.jit(replay.update_replay), jax.jit(replay.take)


@given(st.lists(st.sampled_from([1, 3]), max_size=5))
def test_keeps_the_newest_in_order_of_arrival(counts):
    capacity = 4
    stored, seen = replay.init_replay({"x": jnp.zeros((), jnp.int32)}, capacity=capacity), []
    for count in counts:
        rows = [len(seen) + i for i in range(count)]
        stored, seen = add(stored, {"x": jnp.asarray(rows)}), seen + rows
    assert int(stored.size) == min(len(seen), capacity)
    kept = take(stored, jnp.arange(capacity))["x"][: stored.size]
    np.testing.assert_array_equal(kept, seen[len(seen) - len(kept) :])


def test_rows_are_trees_and_entries_of_rows_can_be_taken():
    row = {"x": jax.ShapeDtypeStruct((3, 2), jnp.float32), "flag": jax.ShapeDtypeStruct((3,), bool)}
    stored = replay.init_replay(row, capacity=4)
    x = jnp.arange(36.0).reshape(6, 3, 2)
    for part in (slice(0, 2), slice(2, 5), slice(5, 6)):
        stored = replay.update_replay(stored, {"x": x[part], "flag": x[part, :, 0] > 20})
    np.testing.assert_array_equal(replay.take(stored, jnp.arange(4))["x"], x[2:])
    position, place = jnp.array([[0, 3], [1, 1]]), jnp.array([[2, 0], [1, 2]])
    taken = replay.take(stored, position, place)
    np.testing.assert_array_equal(taken["x"], x[2:][position, place])
    np.testing.assert_array_equal(taken["flag"], x[2:][position, place, 0] > 20)
    assert taken["flag"].dtype == bool


def test_works_inside_a_scan_under_vmap():
    rows = jnp.arange(14.0).reshape(2, 7)

    def fill(rows):
        stored = replay.init_replay(rows[0], capacity=3)
        stored, _ = jax.lax.scan(lambda s, row: (replay.update_replay(s, row[None]), None), stored, rows)
        return replay.take(stored, jnp.arange(3))

    np.testing.assert_array_equal(jax.jit(jax.vmap(fill))(rows), rows[:, 4:])


def test_bad_input_names_the_argument():
    with pytest.raises(ValueError, match="capacity"):
        replay.init_replay(jnp.zeros(2), capacity=0)
    with pytest.raises(ValueError, match="rows must be at most the capacity, 2, got 3"):
        replay.update_replay(replay.init_replay(jnp.zeros(()), capacity=2), jnp.zeros(3))
    stored = replay.init_replay({"x": jnp.zeros(2), "y": jnp.zeros(3)}, capacity=4)
    for rows in ({"x": jnp.zeros((2, 2)), "y": jnp.zeros((1, 3))}, {"x": jnp.zeros((2, 1)), "y": jnp.zeros((2, 3))}):
        with pytest.raises(ValueError, match="rows must have leaves of shape"):  # both would broadcast
            replay.update_replay(stored, rows)
    with pytest.raises(ValueError, match="rows must be a tree"):
        replay.update_replay(stored, {"x": jnp.zeros((2, 2))})


def test_no_rows_change_nothing():
    stored = replay.update_replay(replay.init_replay(jnp.zeros(()), capacity=2), jnp.ones(1))
    after = replay.update_replay(stored, jnp.zeros(0))
    assert (after.head, after.size) == (1, 1)
    np.testing.assert_array_equal(after.rows, stored.rows)
