"""The knowledge-graph experiment: what each encoder knows, ranks, the probe, and learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lemmata.configs.layers import conceptual_contextual as claim
from lemmata.core import trees
from lemmata.train.experiments.report import ArmResult
from lemmata.train.experiments.studies import ontology as kg
from lemmata.train.experiments.studies.ontology.world import CONCEPTS, RELATIONS, SITES
from lemmata.train.judge import config as configs

NAMES, SEEN = 240, 144


def make_config(encoder="bilstm", *, data=(), **model):
    config = ConfigDict(dict(experiment="ontology", arms=dict(main=dict(encoder=encoder))))
    config.data = ConfigDict({"num_names": NAMES} | dict(data))
    config.model = ConfigDict({"dim": 16} | model)
    return configs.resolve_arm(configs.complete(config), "main")


@functools.cache
def compiled(encoder):
    """The task, and its `init` and `evaluate`: each takes a second to compile."""
    task = kg.build(make_config(encoder))
    return task, jax.jit(task.objective.init), jax.jit(task.objective.evaluate)


@functools.cache
def started(encoder):
    return compiled(encoder)[1](jax.random.key(0), {})


def test_batches_hold_every_triple_of_the_seen_and_no_other_entity():
    task = kg.build(make_config())
    pairs = set(zip(*(task.train.arrays[name].tolist() for name in ("entity", "relation")), strict=True))
    assert pairs == {(entity, relation) for entity in range(SEEN) for relation in range(len(RELATIONS))}
    assert task.test.arrays["entity"].tolist() == list(range(SEEN, NAMES))
    assert set(task.test.arrays["seen"]) <= set(range(SEEN))


def test_arms_of_a_seed_share_their_ontology_and_seeds_do_not():
    graphs = [started(encoder)[1] for encoder in kg.ENCODERS]
    for graph in graphs[1:]:
        jax.tree.map(np.testing.assert_array_equal, graph, graphs[0])
    _, other = compiled("lookup")[1](jax.random.key(1), {})
    assert not np.array_equal(other.names, graphs[0].names)


@pytest.mark.parametrize(
    ("encoder", "score"), [("bilstm", "distmult"), ("word_mean", "translation"), ("lookup", "translation")]
)
def test_loss_has_finite_gradients_in_every_parameter(encoder, score):
    task = kg.build(make_config(encoder, score=score))
    params, graph = started(encoder)
    (value, (after, _)), grads = jax.jit(jax.value_and_grad(task.objective.loss, has_aux=True))(
        params, graph, task.train.arrays, jax.random.key(1)
    )
    assert np.isfinite(value)
    for name, gradient in zip(trees.path_names(grads), jax.tree.leaves(grads), strict=True):
        assert np.isfinite(gradient).all(), name
        assert np.asarray(gradient).any(), name
    if encoder == "lookup":  # of unseen entities it learns nothing
        moved = np.asarray(grads["entities"]).any(axis=-1)
        np.testing.assert_array_equal(moved, np.arange(len(moved)) < len(CONCEPTS) + SEEN)
    jax.tree.map(np.testing.assert_array_equal, after, graph)


@pytest.mark.parametrize("encoder", kg.ENCODERS)
def test_evaluation_is_per_example_and_untrained_encoders_guess(encoder):
    task, _, evaluate = compiled(encoder)
    metrics = evaluate(*started(encoder), task.test.arrays, jax.random.key(1))
    assert set(metrics) == set(kg.METRICS)
    assert all(value.shape == (NAMES - SEEN,) for value in metrics.values())
    by_relation = np.mean([metrics[f"mrr_{relation}"] for relation in RELATIONS], axis=0)
    np.testing.assert_allclose(metrics["mrr"], by_relation, rtol=1e-6)
    both = (metrics["probe_seen"].mean() + metrics["probe_unseen"].mean()) / 2
    np.testing.assert_allclose(metrics["probe"].mean(), both, rtol=1e-6)
    assert metrics["mrr"].mean() < 0.35
    if encoder == "lookup":  # nothing joins the vectors of two entities
        assert metrics["probe_unseen"].mean() < 0.35


def test_reciprocal_rank_by_hand():
    scores = jnp.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 5.0], [1.0, 4.0, 4.0]])
    ranks = kg.reciprocal_rank(scores, jnp.array([0, 1, 2, 1]))
    np.testing.assert_allclose(ranks, [1, 1 / 3, 1 / 2, 1 / 1.5], rtol=1e-6)


def test_chance_is_the_mean_over_places():
    places = jnp.arange(len(CONCEPTS))
    ranks = kg.reciprocal_rank(jnp.broadcast_to(places, (len(CONCEPTS), len(CONCEPTS))), places)
    assert float(ranks.mean()) == pytest.approx(kg.CHANCE["mrr"], rel=1e-6)


def test_probe_is_the_logistic_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    features = (rng.normal(size=(3, 5))[labels] + rng.normal(size=(200, 5))) * [1, 10, 0.1, 1, 1] + 4
    features[:, 4] = 7.0  # says nothing
    logits = kg.linear_probe(jnp.asarray(features, jnp.float32), jnp.asarray(labels), num_classes=3)(features)
    standardized = (features - features.mean(0)) / np.where(features.std(0) > 0, features.std(0), 1.0)
    fitted = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(standardized, labels)
    np.testing.assert_allclose(
        jax.nn.softmax(logits), fitted.predict_proba(standardized), atol=2e-3
    )  # float32, and the steps it takes


def test_names_are_learnt_and_carry_over_to_unseen_ones():
    task, _, evaluate = compiled("bilstm")
    params, graph = started("bilstm")
    optimizer = optax.adam(2e-2)

    @jax.jit
    def train(params, graph):
        def step(carry, rows):
            params, state = carry
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], task.train.arrays)
            grads, _ = jax.grad(task.objective.loss, has_aux=True)(params, graph, batch, jax.random.key(0))
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        rows = jax.random.randint(jax.random.key(1), (200, 64), 0, task.train.size)
        return jax.lax.scan(step, (params, optimizer.init(params)), rows)[0][0]

    metrics = evaluate(train(params, graph), graph, task.test.arrays, jax.random.key(2))
    metrics = {name: float(value.mean()) for name, value in metrics.items()}
    assert metrics["mrr_has_site"] > 0.7
    assert metrics["mrr_is_a"] > 0.5
    assert metrics["probe_unseen"] > 2 / len(SITES)


def test_figure_shows_relations_and_both_kinds_of_sentences():
    config = configs.complete(claim.get_config())
    rng = np.random.default_rng(0)
    results = {arm: ArmResult({name: rng.uniform(size=3) for name in kg.METRICS}, {}, 1.0) for arm in config.arms}
    drawing = kg.figure(config, results)
    left, right = drawing.axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == list(RELATIONS)
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["seen", "unseen"]
    assert (left.get_ylabel(), right.get_ylabel()) == (kg.MRR, kg.ACCURACY)
    assert {text.get_text() for text in drawing.legends[0].get_texts()} == {*config.arms, "chance"}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (lambda: make_config("mean"), r"method\.encoder.*'mean'"),
        (lambda: make_config(dim=7), r"model\.dim.*7"),
        (lambda: make_config(data=dict(train_share=1.0)), r"data\.train_share.*1\.0"),
        (lambda: make_config(score="transE"), r"model\.score.*transE"),
        (lambda: make_config(data=dict(num_names=7000)), r"num_names.*7000"),
    ],
)
def test_wrong_config_names_the_key(config, named):
    def start():
        task = kg.build(config())
        batch = jax.tree.map(lambda x: x[:2], task.train.arrays)
        task.objective.loss(*task.objective.init(jax.random.key(0), batch), batch, jax.random.key(1))

    with pytest.raises(ValueError, match=named):
        jax.eval_shape(start)
