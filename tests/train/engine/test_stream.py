"""Streams: the same global batches whatever the number of processes, and exact resume."""

import json
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from lemmata.train import data
from lemmata.train.engine.settings import SEEDS
from lemmata.train.engine.sources import Run
from lemmata.train.engine.stream import _SPREAD, Stream


def rows(n):
    return {"index": np.arange(n), "x": np.arange(2 * n, dtype=np.float64).reshape(n, 2)}


def take(stream, count):
    return [next(stream)["index"] for _ in range(count)]


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_an_epoch_is_a_permutation_and_the_next_one_another(prefetch):
    order = np.concatenate(take(Stream(rows(12), batch_size=4, seed=3, prefetch=prefetch), 6))
    np.testing.assert_array_equal(np.sort(order[:12]), np.arange(12))
    np.testing.assert_array_equal(np.sort(order[12:]), np.arange(12))
    assert not np.array_equal(order[:12], order[12:])


def test_batches_straddle_epochs_and_none_is_dropped():
    order = np.concatenate(take(Stream(rows(10), batch_size=4, seed=0), 5))
    np.testing.assert_array_equal(np.bincount(order), np.full(10, 2))


def test_the_seed_sets_the_order_and_neighbouring_seeds_share_none():
    def epochs(seed):
        return np.concatenate(take(Stream(rows(32), batch_size=32, seed=seed), 4)).reshape(4, 32)

    np.testing.assert_array_equal(epochs(5), epochs(5))
    orders = {tuple(epoch) for seed in range(6) for epoch in epochs(seed)}
    assert len(orders) == 24


@pytest.mark.parametrize("process_count", [2, 4])
def test_the_parts_of_all_processes_are_the_batches_of_one(process_count):
    def parts(index, count):
        return Stream(rows(20), batch_size=8, seed=1, process_index=index, process_count=count)

    whole = parts(0, 1)
    split = [parts(index, process_count) for index in range(process_count)]
    for _ in range(7):
        np.testing.assert_array_equal(next(whole)["index"], np.concatenate([next(part)["index"] for part in split]))
    assert all(part.get_state() == whole.get_state() for part in split)


def test_a_state_resumes_exactly_and_counts_what_was_consumed_not_read_ahead():
    def make(**options):
        return Stream(rows(50), batch_size=6, seed=2, **options)

    stream = make(prefetch=8)
    take(stream, 5)
    time.sleep(0.1)  # the threads are further by now
    state = json.loads(json.dumps(stream.get_state()))
    expected = take(stream, 12)
    for other in (make(), make(prefetch=0), stream):
        other.set_state(state)
        assert other.get_state() == state
        np.testing.assert_array_equal(take(other, 12), expected)
    halves = [make(process_index=index, process_count=2) for index in range(2)]
    for half in halves:
        half.set_state(state)
    np.testing.assert_array_equal(np.concatenate([take(half, 12) for half in halves], 1), expected)


@pytest.mark.parametrize("change", [{"batch_size": 5}, {"seed": 1}, {"size": 11}])
def test_a_state_of_another_stream_is_refused(change):
    arguments = {"batch_size": 2, "seed": 0, "size": 10}
    state = {**Stream(rows(10), batch_size=2, seed=0).get_state()}
    arguments.update(change)
    other = Stream(rows(arguments.pop("size")), **arguments)
    with pytest.raises(ValueError, match=next(iter(change))):
        other.set_state(state)


def test_example_and_spec_consume_nothing():
    stream = Stream(rows(10), batch_size=4, seed=0, process_count=2, process_index=1)
    example = stream.example
    assert stream.element_spec == {
        "index": jax.ShapeDtypeStruct((), np.int32),
        "x": jax.ShapeDtypeStruct((2,), np.float32),
    }
    assert stream.get_state()["next_index"] == 0
    np.testing.assert_array_equal(next(stream)["index"], example["index"])
    assert (stream.size, stream.batch_size, len(example["index"])) == (10, 4, 2)


def test_any_sequence_of_nested_examples_streams_through_a_transform_on_other_threads():
    threads = set()

    def transform(example):
        threads.add(threading.current_thread())
        return {"inner": {"twice": 2 * example["i"]}, "flag": True}

    batch = next(Stream([{"i": i} for i in range(5)], batch_size=5, seed=0, transform=transform))
    np.testing.assert_array_equal(np.sort(batch["inner"]["twice"]), 2 * np.arange(5))
    assert (batch["inner"]["twice"].dtype, batch["flag"].dtype) == (np.int32, np.bool_)
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(("value", "word"), [(np.nan, "a NaN"), (-np.inf, "an infinity")])
def test_what_is_not_finite_names_the_feature_and_batch_and_the_stream_stays_where_it_was(value, word):
    x = np.zeros((64, 3), np.float32)
    x[17] = value
    columns = {"index": np.arange(64), "x": x}
    where = next(
        i for i, batch in enumerate(take(Stream({"index": np.arange(64)}, batch_size=8, seed=0), 8)) if 17 in batch
    )
    stream = Stream(columns, batch_size=8, seed=0)
    take(stream, where)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"'x' has {word} in batch {where} "):
            next(stream)
        assert stream.get_state()["next_index"] == where


def test_a_number_that_32_bits_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"'id'.*int32"):
        next(Stream({"id": np.array([2**40])}, batch_size=1, seed=0))
    with pytest.raises(ValueError, match=r"'x'.*float32"):
        next(Stream({"x": np.array([-1e300])}, batch_size=1, seed=0))


@pytest.mark.parametrize(
    ("examples", "named"),
    [
        ([1, 2], "must be a dict of arrays, got int"),
        ([{}, {}], "got one without any"),
        ([{"x": np.zeros(1)}, {"x": np.zeros(2)}], r"'x' has no fixed shape \(\(1,\), \(2,\)"),
        ([{"x": 1}, {"x": 0.5}], r"'x' has no fixed dtype \(float64, int64\)"),
        ([{"x": 1}, {"y": 1}], "must have the same features, got"),
        ([{"x": 1}, {"x": {"y": 1}}], "must have the same features, got"),
        ([{"x": None}, {"x": None}], "'x' must hold numbers, or strings, got objects: NoneType"),
        ([{"x": [[1], [1, 2]]}] * 2, "'x' is ragged"),
    ],
)
def test_what_is_no_batch_is_named(examples, named):
    with pytest.raises(ValueError, match=named):
        next(Stream(examples, batch_size=2, seed=0))


def test_all_batches_are_like_the_first():
    examples = [{"x": np.zeros(i // 4 + 1)} for i in range(8)]
    stream = Stream(examples, batch_size=1, seed=0, prefetch=0)
    with pytest.raises(ValueError, match="unlike those before"):
        take_any(stream, 8)


def take_any(stream, count):
    return [next(stream) for _ in range(count)]


def test_columns_nest_and_lists_are_arrays():
    batch = next(Stream({"a": {"x": np.arange(3), "y": [0.5, 1.5, 2.5]}}, batch_size=3, seed=0))["a"]
    assert (batch["x"].dtype, batch["y"].dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(batch["y"], batch["x"] + 0.5)
    batch = next(Stream([{"x": [1, 2]}, {"x": [3, 4]}], batch_size=2, seed=0))
    np.testing.assert_array_equal(batch["x"][np.argsort(batch["x"][:, 0])], [[1, 2], [3, 4]])


def test_no_two_seeds_give_one_order():
    """14375 and 53572 once did; what Grain is given is a permutation of the seeds, and neighbours lie far apart."""
    first = {
        seed: tuple(np.concatenate(take(Stream(rows(16), batch_size=16, seed=seed, prefetch=0), 1)))
        for seed in (14375, 53572, 41780, 104948, 0, 1, 2**31, 2**32 - 1)
    }
    assert len(set(first.values())) == len(first)
    seeds = np.arange(10_000, dtype=np.uint64)
    given = np.sort(seeds * _SPREAD % SEEDS)
    assert np.diff([*given, given[0] + SEEDS]).min() > SEEDS / (3 * len(seeds))
    assert _SPREAD % 2  # odd, so invertible modulo 2**32


def test_labels_are_checked_as_they_stream():
    checked = data._labels_checked({"meta/label": 3}, lambda example: {"x": example["meta"]["label"]})
    assert checked({"meta": {"label": np.int64(2)}}) == {"x": 2}
    with pytest.raises(ValueError, match="'meta/label' is 3; expected one of 3 classes"):
        checked({"meta": {"label": np.int64(3)}})


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"batch_size": 11}, "batch_size 11 is larger than the data, which has 10"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 4, "process_count": 3}, "batch_size must be a multiple of process_count 3, got 4"),
        ({"process_index": 2, "process_count": 2}, "process_index"),
        ({"process_index": -1}, "process_index"),
        ({"process_count": 0}, "process_count"),
        ({"seed": -1}, "seed must be an integer from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be an integer from 0"),
        ({"seed": 0.5}, "seed must be an integer from 0"),
        ({"seed": True}, "seed must be an integer from 0"),
        ({"batch_size": 2.0}, "batch_size must be an integer"),
        ({"prefetch": -1}, "prefetch"),
        ({"prefetch": None}, "prefetch must be an integer of at least 0, got None"),
    ],
)
def test_bad_input_names_the_argument(bad, named):
    with pytest.raises(ValueError, match=named):
        Stream(rows(10), **{"batch_size": 2, "seed": 0, **bad})


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="common first axis"):
        Stream({"a": np.zeros(3), "b": np.zeros(4)}, batch_size=1, seed=0)
    for columns in ({}, {"a": np.float32(1)}, {"a": {"b": np.zeros(3)}, "c": np.zeros(2)}):
        with pytest.raises(ValueError, match="common first axis"):
            Stream(columns, batch_size=1, seed=0)


@pytest.mark.parametrize("source", [iter([]), 3, None])
def test_a_source_without_random_access_is_refused(source):
    with pytest.raises(ValueError, match=f"sequence of examples.*got {type(source).__name__}"):
        Stream(source, batch_size=1, seed=0)


def test_an_empty_source_is_refused():
    for source in ([], {"x": np.zeros((0, 2))}):
        with pytest.raises(ValueError, match="batch_size 1 is larger than the data, which has 0 examples"):
            Stream(source, batch_size=1, seed=0)


def test_a_stream_from_disk_is_the_split_in_another_order():
    split = data.load("iris", "train+validation")
    stream = data.stream("iris", "train+validation", batch_size=60, seed=0, prefetch=4)
    batches = [next(stream) for _ in range(2)]
    joined = {key: np.concatenate([batch[key] for batch in batches]) for key in split}
    assert all(joined[key].dtype == split[key].dtype for key in split)
    order = [np.lexsort((*x["features"].T, x["label"])) for x in (split, joined)]
    for key in split:
        np.testing.assert_array_equal(joined[key][order[1]], split[key][order[0]])


def test_a_stream_of_windows():
    stream = data.stream("python_docs", "test", batch_size=8, seed=0, window=64)
    tokens = data.windows("python_docs", "test", 64)["tokens"]
    assert stream.size == len(tokens)
    batch = next(stream)["tokens"]
    assert (batch.shape, batch.dtype) == ((8, 64), np.uint8)
    assert {row.tobytes() for row in batch} <= {row.tobytes() for row in tokens}


@pytest.mark.parametrize("process_count", [1, 2])
def test_as_held_out_data_a_stream_reads_every_window_once_in_order_as_arrays_do(process_count):
    tokens = data.windows("python_docs", "validation", 129)["tokens"]
    held = {"window": 129, "batch_size": process_count, "seed": 7, "process_count": process_count}
    streams = [data.stream("python_docs", "validation", process_index=i, **held) for i in range(process_count)]
    run = Run((0,), 32, Mesh(np.array(jax.devices()[:1]), ("data",)))
    for _ in range(2):  # at every evaluation from the beginning, whatever training has read
        read = [list(stream.held_out(run, 0).read()) for stream in streams]
        assert [len(batches) for batches in read] == [-(-len(tokens) // 32)] * process_count
        for index in range(len(read[0])):  # as `Arrays`: the last batch wraps round, and its repeats do not count
            places = np.arange(32 * index, 32 * index + 32)
            parts = [batches[index] for batches in read]
            found = np.concatenate([batch["tokens"] for batch, _ in parts])
            np.testing.assert_array_equal(found, tokens[places % len(tokens)])
            np.testing.assert_array_equal(np.concatenate([real for _, real in parts]), places < len(tokens))
        next(streams[0])


def test_held_out_examples_go_through_the_transform_and_numbers_that_are_not_finite_are_named():
    run = Run((0,), 4, Mesh(np.array(jax.devices()[:1]), ("data",)))
    stream = Stream(rows(6), batch_size=2, seed=0, transform=lambda example: {"index": 10 * example["index"]})
    batches = list(stream.held_out(run, 0).read())
    assert [batch["index"].tolist() for batch, _ in batches] == [[0, 10, 20, 30], [40, 50, 0, 10]]
    assert [real.tolist() for _, real in batches] == [[True] * 4, [True, True, False, False]]
    broken = Stream({"x": np.array([0, 1, np.nan])}, batch_size=1, seed=0)
    with pytest.raises(ValueError, match="'x' has a NaN"):
        list(broken.held_out(run, 0).read())
