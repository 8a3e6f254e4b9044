"""The representation family: which classes and rows a seed has, versions of an example, learning, wrong settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lemmata.train.data import labelled
from lemmata.train.engine.loop import fit
from lemmata.train.engine.program import Program
from lemmata.train.engine.sharding import make_mesh
from lemmata.train.engine.sources import Resident
from lemmata.train.experiments import representation
from lemmata.train.judge import config as configs


def make_config(**sections):
    config = ConfigDict(dict(experiment="representation", arms=dict(main=sections.pop("method", {}))))
    for name, section in sections.items():
        config[name] = ConfigDict(section)
    config.mesh = ConfigDict(dict(data=1))
    return configs.resolve_arm(configs.complete(config), "main")


# ----------------------------------------------------------------------------------------------------- classes and rows


def test_a_seed_draws_classes_and_numbers_the_others_in_order():
    draws = [representation.classes_of(seed, 10, 4) for seed in range(50)]
    for class_of in draws:
        assert class_of[class_of >= 0].tolist() == list(range(6))
        assert np.sum(class_of == -1) == 4
    assert len({tuple(draw) for draw in draws}) > 40
    share = np.mean([draw == -1 for draw in draws], axis=0)
    np.testing.assert_allclose(share, 0.4, atol=0.25)  # every class is novel now and then
    np.testing.assert_array_equal(representation.classes_of(3, 10, 0), np.arange(10))


def test_rows_are_as_many_for_every_seed_and_of_its_classes():
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [10, 30, 20, 25, 15]))
    for seed in range(20):
        class_of = representation.classes_of(seed, 5, 2)
        rows = representation.rows_of(seed, label, 5, 2)
        assert len(rows) == 10 + 15 + 20  # what the smallest three have
        assert np.all(np.diff(rows) > 0)
        assert np.all(class_of[label[rows]] >= 0)
    np.testing.assert_array_equal(representation.rows_of(7, label, 5, 0), np.arange(100))


def test_novel_classes_are_never_trained_on_and_are_tested():
    """As the engine reads them: the rows of each step of two epochs."""
    task, seeds = representation.build(make_config()), (0, 1, 2)
    config = make_config(train=dict(steps=12))
    feed = Program(task, config, make_mesh(config.mesh), seeds=seeds).feed
    label = task.train.arrays["label"]
    for seed, rows in zip(seeds, feed.inputs(0, 12), strict=True):
        old = np.flatnonzero(task.own(seed)["class_of"] >= 0)
        assert set(label[np.ravel(rows)]) == set(old)
        assert len(old) == 6
    assert set(task.test.arrays["label"]) == set(range(10))


def test_a_loss_sees_the_numbers_of_a_seeds_own_classes():
    seen = []

    def spy(batch):
        seen.append(batch)
        return jnp.zeros(batch.label.shape)

    config = make_config(model=dict(features=(4,), embedding=3), data=dict(views=2, noise=0.1))
    task = representation.build(config)
    network = representation.networks.make_network(config.model, 3, (12, 12, 1))
    objective = representation.objective_of(network, representation.Hooks(spy), config.data, config.protocol)
    rows = task.train.rows(1)[:20]
    batch = jax.tree.map(lambda x: x[rows], task.train.arrays)
    own = jax.tree.map(jnp.asarray, task.own(1))
    given = Resident(batch, None, own)
    params, held = objective.init(jax.random.key(0), given)
    objective.loss(params, held, given, jax.random.key(2))
    label = np.asarray(seen[0].label)
    assert seen[0].embeddings.shape == (2, 20, 3)
    assert label.min() >= 0
    assert label.max() <= 5
    np.testing.assert_array_equal(np.flatnonzero(own["class_of"] >= 0)[label], batch["label"])
    np.testing.assert_array_equal(seen[0].index, rows)


# ------------------------------------------------------------------------------------------------------------- versions


def versions(x, **settings):
    settings = ConfigDict(dict(views=3, shift=0, noise=0.0, erase=0.0) | settings)
    return np.asarray(representation.views_of(jnp.asarray(x, jnp.float32), jax.random.key(0), settings))


def test_one_version_is_the_example_itself():
    x = np.random.default_rng(0).standard_normal((4, 6, 6, 1)).astype(np.float32)
    np.testing.assert_array_equal(versions(x, views=1), x[None])
    np.testing.assert_array_equal(versions(x), np.stack([x] * 3))


def test_shifted_versions_are_crops_of_the_image_with_its_edge_going_on():
    x = np.random.default_rng(0).standard_normal((40, 5, 6, 2)).astype(np.float32)
    found = versions(x, shift=2)
    wide = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    places = []
    for view in found:
        for image, padded in zip(view, wide, strict=True):
            crops = {(i, j): padded[i : i + 5, j : j + 6] for i in range(5) for j in range(5)}
            places += [place for place, crop in crops.items() if np.array_equal(crop, image)]
    assert len(places) == 120  # one each
    assert set(places) == {(i, j) for i in range(5) for j in range(5)}


def test_noise_and_erasure_are_of_the_size_that_they_say_and_of_each_version_by_itself():
    x = np.ones((50, 40))
    noisy = versions(x, noise=0.3) - 1
    assert np.std(noisy) == pytest.approx(0.3, rel=0.05)
    assert abs(np.mean(noisy)) < 0.02
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.1
    erased = versions(x, erase=0.2)
    assert set(np.unique(erased)) == {0.0, 1.0}
    assert np.mean(erased == 0) == pytest.approx(0.2, abs=0.03)
    assert np.mean((erased[0] == 0) & (erased[1] == 0)) == pytest.approx(0.04, abs=0.02)


# ------------------------------------------------------------------------------------------------------------- learning


@functools.cache
def trained(name, steps):
    config = make_config(
        model=dict(features=(8, 16), embedding=16, convolution="patches"),
        protocol=dict(episodes=50),
        train=dict(steps=steps, batch_size=64, eval_batch_size=512),
        optimizer=dict(learning_rate=5e-3),
        method=dict(name=name),
    )
    return fit(representation.build(config), config, (0, 1)).metrics


def test_training_beats_an_untrained_network_on_classes_old_and_novel():
    before, after = trained("untrained", 1), trained("normface", 100)
    assert set(before) == set(after) == {"knn", "probe", "effective_rank", "novel", "joint"}
    for metric in ("knn", "probe", "novel", "joint"):
        assert np.mean(after[metric]) > np.mean(before[metric]) + 0.1, metric
        assert np.all((before[metric] > 0) & (after[metric] < 1))


def test_references_are_raw_inputs_and_chance():
    config = make_config(protocol=dict(episodes=20))
    config.seeds = (0, 1)
    found = representation.references(config)
    assert found["novel"]["chance"] == 0.25
    assert {"knn", "probe", "novel", "joint"} == set(found)
    assert 0.2 < found["novel"]["raw inputs"] < 0.45  # digits at random places share few pixels
    assert 0.6 < found["knn"]["raw inputs"] < 0.9
    config.data.novel = 0
    assert set(representation.references(config)) == set(representation.METRICS(config)) - {"effective_rank"}


# ------------------------------------------------------------------------------------------------------ wrong settings


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": dict(novel=9)}, r"data.novel must be an integer from 0 to 8, got 9"),
        ({"data": dict(novel=-1)}, "data.novel must be an integer"),
        ({"data": dict(novel=1)}, "data.novel must be 0, or at least 2 to be told apart, got 1"),
        ({"data": dict(views=0)}, "data.views must be an integer of at least 1"),
        ({"data": dict(shift=1)}, "data.shift, data.noise and data.erase are of several views; data.views is 1"),
        ({"data": dict(views=2, noise=-0.1)}, "data.noise must be at least 0 and data.erase in"),
        ({"data": dict(views=2, erase=1.0)}, "data.erase in .0, 1., got 0.0 and 1.0"),
        ({"data": dict(name="wine", views=2, shift=1, novel=0)}, "data.shift must be 0 for examples"),
        ({"data": dict(name="diabetes")}, "data.name must be a set with a class label"),
        ({"protocol": dict(shots=0)}, "protocol.shots must be an integer of at least 1"),
        ({"protocol": dict(episodes=0)}, "protocol.episodes must be"),
        ({"protocol": dict(queries=40)}, "protocol.shots . protocol.queries must be at most .* got 5 . 40"),
        ({"model": dict(embedding=0)}, "model.embedding must be an integer of at least 1"),
        ({"train": dict(eval_split="validation")}, "data.train = 'train.validation' holds the rows"),
        ({"method": dict(name="tripplet")}, "has no method 'tripplet'. Did you mean 'triplet'"),
        ({"method": dict(name="triplet", temperature=0.1)}, "triplet.* has no such setting.*It is a setting of"),
        ({"method": dict(name="normface", scal=1.0)}, "scal.* Did you mean 'scale'"),
        ({"method": dict(name="normface", scale=-1.0)}, r"scale must be in \[0, inf\), got -1"),
        ({"method": dict(name="normface", norm_weight=-1.0)}, "norm_weight must be in"),
        ({"method": dict(name="cosface", margin=3.0)}, r"margin must be in \[0, 2\], got 3"),
        ({"method": dict(name="arcface", margin=-0.1)}, "margin must be in"),
        ({"method": dict(name="prototypical", shots=0)}, "shots must be an integer of at least 1"),
        ({"method": dict(name="matching", temperature=0.0)}, r"temperature must be in \(0, inf\), got 0"),
    ],
)
def test_wrong_settings_are_named_in_one_line(sections, message):
    with pytest.raises(ValueError, match=message) as raised:
        representation.build(make_config(**sections))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "method",
    [dict(name="triplet", margin=-1.0), dict(name="triplet", mining="easy"), dict(name="supcon", temperature=0.0)],
)
def test_settings_of_plain_losses_are_named_when_they_are_traced(method):
    config = make_config(method=method, model=dict(features=(4,)))
    task = representation.build(config)
    batch = jax.tree.map(lambda x: x[:8], task.train.arrays)
    given = Resident(batch, None, jax.tree.map(jnp.asarray, task.own(0)))
    params, held = jax.eval_shape(task.objective.init, jax.random.key(0), given)
    name = next(key for key in method if key != "name")
    with pytest.raises(ValueError, match=f"{name} must be "):
        jax.eval_shape(task.objective.loss, params, held, given, jax.random.key(0))


def test_validation_is_measured_on_rows_of_its_own():
    config = make_config(
        data=dict(train="train"), train=dict(eval_split="validation"), protocol=dict(shots=2, queries=5)
    )
    task, found = representation.build(config), labelled.load(config.data, eval_split="validation")
    np.testing.assert_array_equal(task.validation.arrays["inputs"], found.validation["inputs"])
    train, held_out = ({row.tobytes() for row in split.arrays["inputs"]} for split in (task.train, task.validation))
    assert held_out
    assert not train & held_out
