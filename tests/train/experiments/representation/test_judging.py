"""What frozen embeddings are worth: neighbours, probe, prototypes, episodes, rank."""

import numpy as np
import pytest

from lemmata.methods.losses.contrastive import normface
from lemmata.train.experiments.representation import _judging as judging

RNG = np.random.default_rng


def clusters(per_class=30, spread=0.1, classes=6, dim=8, seed=0):
    """Rows around a direction each, one class after the other, and their labels."""
    rng, label = RNG(seed), np.repeat(np.arange(classes), per_class)
    return 3 * np.eye(classes, dim)[label] + spread * rng.standard_normal((len(label), dim)), label


def measured(held, train, label, train_label, novel=(0, 1), **settings):
    rows = [{"embedding": x, "label": y, "old": ~np.isin(y, novel)} for x, y in ((held, label), (train, train_label))]
    keep = rows[1]["old"]
    return judging.measure(rows[0], {name: x[keep] for name, x in rows[1].items()}, novel=bool(novel), **settings)


def test_neighbours_vote_as_those_of_scikit_learn_do():
    from sklearn.neighbors import KNeighborsClassifier

    x, label = clusters(spread=2.0)
    rows = RNG(1).standard_normal((50, 8))
    expected = KNeighborsClassifier(judging.NEIGHBOURS, metric="cosine", algorithm="brute").fit(x, label).predict(rows)
    found = judging.nearest_labels(x, label, rows)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 3
    np.testing.assert_array_equal(judging.nearest_labels(x[:3], label[28:31], x[:3]), [0, 0, 0])  # fewer rows than five


def test_probe_reads_what_is_linear_and_nothing_else():
    rng = RNG(0)
    x = rng.standard_normal((400, 5)) * [1e3, 1, 1, 1e-3, 0] + 50
    label = (x[:, 0] - 50 > 1e6 * (x[:, 3] - 50)).astype(int)
    assert judging.probe_accuracy(x[:300], label[:300], x[300:], label[300:]) > 0.9
    shuffled = rng.permutation(label)
    assert abs(judging.probe_accuracy(x[:300], shuffled[:300], x[300:], shuffled[300:]) - 0.5) < 0.2


def test_prototypes_are_unit_means_of_unit_rows_in_the_order_of_labels():
    x, label = clusters(spread=1.0)
    order = RNG(1).permutation(len(x))
    found, names = judging.prototypes(x[order], 10 * label[order])
    np.testing.assert_array_equal(names, 10 * np.arange(6))
    expected = normface.class_prototypes(np.float32(x), label, num_classes=6)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    zero, _ = judging.prototypes(np.zeros((2, 3)), np.zeros(2, int))
    np.testing.assert_array_equal(zero, 0)


def test_draws_have_all_classes_alike_and_no_row_on_both_sides():
    label = RNG(0).permutation(np.repeat([3, 5, 8], [20, 25, 40]))
    draws = [judging.draw(RNG(seed), label, 4, 6) for seed in range(30)]
    for support, query in draws:
        assert not set(support) & set(query)
        for rows, count in ((support, 4), (query, 6)):
            assert len(set(rows)) == len(rows)
            assert np.bincount(label[rows], minlength=9).tolist() == [0, 0, 0, count, 0, count, 0, 0, count]
    assert len({tuple(support) for support, _ in draws}) == 30
    seen = {row for support, query in draws for row in (*support, *query)}
    assert seen == set(range(85))


def test_joint_is_the_harmonic_mean_over_old_and_novel():
    """Novel rows lie on their axes, and half of the old ones on an axis of a novel class."""
    axes = np.eye(4)
    old, names = axes[[2, 3]], np.array([2, 3])
    novel, label = axes[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
    given = (novel, label, np.array([0, 2]), np.array([1, 3]), old, names)
    alone, joint = judging.episode(*given, axes[[2, 0, 3, 1]], np.array([2, 2, 3, 3]))
    assert (alone, joint) == (1.0, pytest.approx(2 * 1 * 0.5 / 1.5))
    alone, joint = judging.episode(
        novel, label, np.array([0, 2]), np.array([3, 1]), axes[[2, 3]], names, axes[[0]], np.array([2])
    )
    assert (alone, joint) == (1.0, 0.0)  # no old row is right
    wrong = (novel, label[[0, 1, 3, 2]], np.array([0, 2]), np.array([1, 3]), axes[[0, 1]], names)
    assert judging.episode(*wrong, axes[[2]], np.array([9])) == (1.0, 0.0)  # nor any


def test_good_embeddings_have_one_and_random_ones_chance():
    x, label = clusters()
    again, _ = clusters(seed=1)
    found = measured(x, again, label, label, episodes=5)
    assert {name: found[name] for name in ("knn", "probe", "novel", "joint")} == pytest.approx(
        {"knn": 1, "probe": 1, "novel": 1, "joint": 1}
    )
    noise = RNG(2).standard_normal((2, *x.shape))
    found = measured(*noise, label, label, episodes=100)
    assert found["novel"] == pytest.approx(1 / 2, abs=0.08)
    assert found["knn"] == pytest.approx(1 / 4, abs=0.12)
    assert found["joint"] == pytest.approx(1 / 6, abs=0.08)
    assert set(measured(x, again, label, label, novel=())) == {"knn", "probe", "effective_rank"}


def test_what_cosines_and_ranks_say_turns_with_the_space():
    x, label = clusters(spread=2.0)
    again, _ = clusters(spread=2.0, seed=1)
    turn = np.linalg.qr(RNG(3).standard_normal((8, 8)))[0]
    lengths = np.exp(RNG(4).standard_normal((len(x), 1)))
    plain, turned, stretched = (
        measured(*pair, label, label, episodes=20)
        for pair in ((x, again), (x @ turn, again @ turn), (lengths * x, 7 * lengths * again))
    )
    for name in ("knn", "novel", "joint"):
        assert 0.2 < plain[name] < 0.98
        assert turned[name] == pytest.approx(plain[name], abs=1e-9)
        assert stretched[name] == pytest.approx(plain[name], abs=1e-9)
    assert turned["effective_rank"] == pytest.approx(plain["effective_rank"])


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_effective_rank_counts_the_directions_that_vary_alike(offset, scale):
    both = np.concatenate([np.eye(5), -np.eye(5)])
    assert judging.effective_rank(scale * (both + offset)) == pytest.approx(5.0)
    line = np.arange(20)[:, None] * np.array([1.0, -2.0, 0.5])
    assert judging.effective_rank(scale * (line + offset)) == pytest.approx(1.0, abs=1e-6)
    plane = np.concatenate([both[[0, 5]], both[[1, 6]]])
    assert judging.effective_rank(scale * (plane + offset)) == pytest.approx(2.0)
    constant = np.float32(scale) * (np.float32(offset) + np.ones((50, 3), np.float32))
    assert judging.effective_rank(constant) == 0.0


def test_effective_rank_takes_rounding_for_nothing():
    rounded = np.float32(1000.1) + np.float32(3e-5) * RNG(0).integers(-1, 2, (50, 3)).astype(np.float32)
    assert len(np.unique(rounded)) <= 3  # neighbouring numbers
    assert judging.effective_rank(rounded) == 0.0
