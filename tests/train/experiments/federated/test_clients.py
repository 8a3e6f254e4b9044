"""Dealing examples to clients: every example once, skewed as asked, the same for the same seed."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from lemmata.train.experiments.federated import _clients as clients

LABELS = np.repeat(np.arange(5, dtype=np.int32), 60)


def settings(**changes):
    return ConfigDict(dict(split="dirichlet", clients=8, concentration=0.5, partitions=3, partition_seed=0) | changes)


def class_entropy(parts):
    """Mean over the clients that have data, weighted by how much, of their labels' entropy in nats."""
    total = 0.0
    for part in parts:
        share = np.bincount(LABELS[part], minlength=5) / max(len(part), 1)
        total -= len(part) / len(LABELS) * np.sum(share * np.log(share, where=share > 0, out=np.zeros(5)))
    return total


@pytest.mark.parametrize("concentration", [0.01, 1.0, 100.0])
def test_every_example_goes_to_one_client(concentration):
    parts = clients.dirichlet_split(LABELS, clients=8, concentration=concentration, rng=np.random.default_rng(0))
    assert len(parts) == 8
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(300))
    even = clients.iid_split(LABELS, clients=7, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(np.concatenate(even)), np.arange(300))
    assert {len(part) for part in even} == {42, 43}


def test_skew_falls_with_the_concentration():
    deals = [
        clients.dirichlet_split(LABELS, clients=8, concentration=c, rng=np.random.default_rng(1))
        for c in (0.05, 0.5, 50.0)
    ]
    skewed, medium, even = map(class_entropy, deals)
    assert skewed < 0.7 < medium < even
    assert even == pytest.approx(np.log(5), abs=0.05)


def test_shares_are_those_of_the_dirichlet():
    """Each client's mean share is 1 / clients, and its variance (1/m)(1 - 1/m) / (m c + 1)."""
    rng = np.random.default_rng(2)
    labels = np.zeros(1000, np.int32)
    shares = np.array(
        [
            [len(part) / 1000 for part in clients.dirichlet_split(labels, clients=4, concentration=0.5, rng=rng)]
            for _ in range(2000)
        ]
    )
    np.testing.assert_allclose(shares.mean(axis=0), 0.25, atol=0.02)
    np.testing.assert_allclose(shares.var(axis=0), 0.25 * 0.75 / 3, rtol=0.1)


def test_deals_are_padded_arrays_set_by_their_seed():
    rows, counts = clients.deals(LABELS, settings())
    assert rows.shape == (3, 8, counts.max())
    for deal in range(3):
        own = [rows[deal, i, : counts[deal, i]] for i in range(8)]
        np.testing.assert_array_equal(np.sort(np.concatenate(own)), np.arange(300))
    again, _ = clients.deals(LABELS, settings())
    np.testing.assert_array_equal(rows, again)
    assert not np.array_equal(counts, clients.deals(LABELS, settings(partition_seed=1))[1])
    assert not np.array_equal(counts[0], counts[1])


def test_clients_without_data_and_classes_absent_from_a_client_are_dealt_too():
    _, counts = clients.deals(LABELS, settings(clients=40, concentration=0.02))
    assert (counts == 0).any()
    assert np.all(counts.sum(axis=1) == 300)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (dict(split="shards"), "data.split must be one of"),
        (dict(clients=0), "data.clients must be at least 1"),
        (dict(concentration=0.0), "data.concentration must be positive"),
        (dict(concentration=float("inf")), "data.concentration must be positive and finite, got inf"),
        (dict(concentration=float("nan")), "data.concentration must be positive and finite, got nan"),
        (dict(partition_seed=-1), "data.partition_seed must be .*from 0 to"),
        (
            dict(partition_seed=2**32),
            "data.partition_seed must be .*from 0 to",
        ),  # its first deal is the second of seed 0
        (dict(partitions=0), "data.partitions must be at least 1"),
        (dict(split="iid", clients=0), "data.clients must be at least 1"),
    ],
)
def test_settings_outside_their_range(bad, match):
    with pytest.raises(ValueError, match=match):
        clients.deals(LABELS, settings(**bad))
    for split in clients.SPLITS:
        with pytest.raises(ValueError, match="at least one example"):
            clients.deals(LABELS[:0], settings(split=split))


def test_concentrations_at_the_ends_of_their_range_deal_every_example():
    for concentration in (1e-300, 1e300):
        parts = clients.dirichlet_split(LABELS, clients=8, concentration=concentration, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(300))


def test_deals_of_different_seeds_differ():
    rows = {tuple(clients.deals(LABELS, settings(partition_seed=seed))[0].ravel()) for seed in (0, 1, 2, 2**32 - 1)}
    assert len(rows) == 4
