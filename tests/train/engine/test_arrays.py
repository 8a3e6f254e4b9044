"""What a task is given: arrays, samplers and seeds that give batches pass, and what does not is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.train.engine.arrays import check_source
from lemmata.train.engine.settings import check_seed
from lemmata.train.engine.sources import Arrays, Sampler
from lemmata.train.engine.stream import Stream


def test_sources_that_give_batches_pass():
    columns = {"x": np.ones((3, 2)), "n": np.array([2**31 - 1, 0, -5]), "flag": np.ones(3, bool)}
    check_source("train", Arrays(columns), 2)
    check_source("train", Arrays((np.ones((3, 2), jnp.bfloat16), jnp.ones((3,), jnp.complex64))), 2)
    check_source("train", Arrays({"key": jax.random.split(jax.random.key(0), 3)}), 2)
    check_source("train", Stream(columns, batch_size=2, seed=0), 2)
    check_source("train", Sampler(lambda key, n: {"x": jax.random.normal(key, (n, 4))}), 7)
    check_source("train", Sampler(lambda key, n: ()), 7)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({}, "train: expected at least one array"),
        ({"x": np.zeros((0, 2))}, "train: there must be at least one example"),
        ({"x": np.zeros(3), "y": np.zeros(2)}, r"train: arrays must have one common first axis, got x \[3\], y \[2\]"),
        ({"x": np.zeros(3), "y": np.float32(0)}, "train: arrays must have one common first axis"),
        ({"x": [1.0, 2.0]}, "train: array 'x/0' must be an array of numbers, got float"),
        ({"x": np.array(["a", "b"])}, "train: array 'x' must be an array of numbers, got dtype <U1"),
        ({"x": np.array([1, None])}, "train: array 'x' must be an array of numbers, got dtype object"),
        ({"a": {"x": np.array([0, np.nan])}}, "train: array 'a/x' has a NaN in row 1"),
        ((np.zeros(2), jnp.array([[0.0], [jnp.inf]])), "train: array '1' has an infinity in row 1"),
        ({"id": np.array([0, 2**40])}, "train: array 'id' holds an integer that does not fit int32"),
        ({"x": np.array([0, 1e300])}, "train: array 'x' holds a number that does not fit float32"),
    ],
)
def test_arrays_that_give_no_batches_are_named(arrays, named):
    with pytest.raises(ValueError, match=named):
        check_source("train", Arrays(arrays), 2)


def test_a_sampler_draws_as_many_as_asked():
    with pytest.raises(ValueError, match=r"test: the sampler must draw as many .*8 along .*shape \[5\] of 'x'"):
        check_source("test", Sampler(lambda key, n: {"x": jax.random.permutation(key, 5)[:n]}), 8)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        check_source("test", Sampler(lambda key, n: ()), 0)
    with pytest.raises(ValueError, match="train must be a source of examples, got list"):
        check_source("train", [], 8)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63, 1.0, True, "0", None])
def test_a_seed_outside_its_range_is_named(seed):
    with pytest.raises(ValueError, match="seed must be an integer from 0 to 4294967295"):
        check_seed("seed", seed)
    assert check_seed("seed", np.uint32(2**32 - 1)) == 2**32 - 1
