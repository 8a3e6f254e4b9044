"""The family's losses against plain loops in float64; at the edges of a batch; and over parts of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lemmata.train.engine.hooks import hooks_of
from lemmata.train.engine.losses import Coupled
from lemmata.train.engine.sources import Resident
from lemmata.train.engine.state import init_state
from lemmata.train.engine.step import StepOptions, make_step
from lemmata.train.experiments import get, representation
from lemmata.train.experiments.representation import Problem, Seen, _rows
from lemmata.train.models.networks import Network

FAMILY = get("representation")
CLASSES, WIDTH = 3, 4
PROBLEM = Problem(num_classes=CLASSES, embedding=WIDTH, examples=100, total=100, steps=10)
LABEL = np.array([0, 1, 2, 0, 1, 2, 0, 0, 1])
KEY = 7
SETTINGS = {  # of each method, other than its defaults
    "normface": dict(scale=5.0, norm_weight=0.2),
    "cosface": dict(scale=5.0, margin=0.3),
    "arcface": dict(scale=5.0, margin=0.6),
    "cross_entropy": {},
    "untrained": {},
    "triplet": dict(margin=0.7),
    "triplet_semihard": dict(margin=0.7, mining="semihard"),
    "contrastive": dict(margin=1.2),
    "supcon": dict(temperature=0.3),
    "prototypical": dict(shots=2, temperature=0.4),
    "matching": dict(shots=2, temperature=0.4),
}
METHOD = {"triplet_semihard": "triplet"}  # where it is not of the same name
each_method = pytest.mark.parametrize("name", SETTINGS)


def parts_of(name):
    return hooks_of(functools.partial(FAMILY.method(METHOD.get(name, name)), **SETTINGS[name]), PROBLEM)


def embeddings(views=2, batch=9):
    return np.random.default_rng(0).standard_normal((views, batch, WIDTH))


def own_of(name):
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((CLASSES, WIDTH))
    return {"kernel": vectors.T, "bias": rng.standard_normal(CLASSES)} if name == "cross_entropy" else vectors


def loss_of(name, z, label, own):
    """The mean over a batch, as the engine takes it."""
    parts = parts_of(name)
    seen = Seen(z, jnp.asarray(label), jnp.arange(len(label)), jax.random.key(KEY))
    found = parts.loss(seen, *([] if parts.params is None else [own]))
    return jnp.mean(found.of_batch(found.of_each()) if isinstance(found, Coupled) else found)


# ---------------------------------------------------------------------------------------------------------- plain loops


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rows_of(z):
    """All versions of an example side by side, of length 1, and their labels."""
    return unit(z.swapaxes(0, 1).reshape(-1, WIDTH)), np.repeat(LABEL, len(z))


def log_softmax(logits, index):
    return logits[index] - np.logaddexp.reduce(logits)


def by_rows(z, own, loss):
    return np.mean([loss(z[view, i], own, LABEL[i]) for view in range(len(z)) for i in range(len(LABEL))])


def softmax_of(own_logit):
    """The cross-entropy of 5 cosines, the own one as `own_logit` has it."""

    def loss(f, vectors, y):
        cosines = [unit(f) @ unit(w) for w in vectors]
        cosines[y] = own_logit(cosines[y])
        return -log_softmax(5 * np.array(cosines), y)

    return lambda z, vectors: by_rows(z, vectors, loss)


def arc(cosine):
    angle = np.arccos(cosine) + 0.6
    return np.cos(angle) if angle <= np.pi else cosine - 0.6 * np.sin(0.6)


def cross_entropy(z, own):
    return by_rows(z, own, lambda f, own, y: -log_softmax(f @ own["kernel"] + own["bias"], y))


def normface(z, vectors):
    plain = softmax_of(lambda cosine: cosine)(z, vectors)
    return plain + by_rows(z, vectors, lambda f, _, y: 0.2 * (np.linalg.norm(f) - 1) ** 2)


def pairs_of(z):
    u, label = rows_of(z)
    for i in range(len(u)):
        others = [j for j in range(len(u)) if j != i]
        yield u, i, [j for j in others if label[j] == label[i]], [j for j in others if label[j] != label[i]]


def triplet(z, _):
    losses = []
    for u, i, same, other in pairs_of(z):
        far, near = (np.linalg.norm(u[i] - u[js], axis=1) for js in (same, other))
        losses.append(max(0.0, 0.7 + far.max() - near.min()))
    return np.mean(losses)


def triplet_semihard(z, _):
    losses = []
    for u, i, same, other in pairs_of(z):
        away = sorted(np.linalg.norm(u[i] - u[j]) for j in other)
        for j in same:
            own = np.linalg.norm(u[i] - u[j])
            losses.append(max(0.0, 0.7 + own - next((x for x in away if x > own), away[-1])))
    return np.mean(losses)


def contrastive(z, _):
    pulled, pushed = [], []
    for u, i, same, other in pairs_of(z):
        pulled += [np.sum((u[i] - u[j]) ** 2) for j in same]
        pushed += [max(0.0, 1.2 - np.linalg.norm(u[i] - u[j])) ** 2 for j in other]
    return np.mean(pulled) + np.mean(pushed)


def supcon(z, _):
    losses = []
    for u, i, same, other in pairs_of(z):
        logits = {j: u[i] @ u[j] / 0.3 for j in (*same, *other)}
        total = np.logaddexp.reduce(list(logits.values()))
        losses.append(np.mean([total - logits[j] for j in same]))
    return np.mean(losses)


def episode_of(z):
    u, label = rows_of(z)
    given = np.repeat(np.asarray(_rows.support(jnp.asarray(LABEL), jax.random.key(KEY), 2)), len(z))
    return u, label, given


def prototypical(z, _):
    u, label, given = episode_of(z)
    centres = [u[given & (label == c)].mean(0) for c in range(CLASSES)]
    logits = np.array([[-np.sum((x - c) ** 2) / 0.4 for c in centres] for x in u])
    return np.mean([-log_softmax(logits[i], label[i]) for i in np.flatnonzero(~given)])


def matching(z, _):
    u, label, given = episode_of(z)
    losses = []
    for i in np.flatnonzero(~given):
        attention = np.exp(u[given] @ u[i] / 0.4)
        losses.append(-np.log(attention[label[given] == label[i]].sum() / attention.sum()))
    return np.mean(losses)


BY_HAND = {
    "normface": normface,
    "cosface": softmax_of(lambda cosine: cosine - 0.3),
    "arcface": softmax_of(arc),
    "cross_entropy": cross_entropy,
    "untrained": lambda z, own: 0.0,
    "triplet": triplet,
    "triplet_semihard": triplet_semihard,
    "contrastive": contrastive,
    "supcon": supcon,
    "prototypical": prototypical,
    "matching": matching,
}


def test_every_method_of_the_family_is_tried():
    assert set(FAMILY.methods) == {METHOD.get(name, name) for name in SETTINGS}
    assert set(SETTINGS) == set(BY_HAND)


@functools.cache
def all_losses():
    """In float64, by one program."""
    owns = {name: own_of(name) for name in SETTINGS}
    with jax.enable_x64(True):
        losses = jax.jit(lambda z, owns: {name: loss_of(name, z, LABEL, owns[name]) for name in SETTINGS})
        return jax.tree.map(np.asarray, losses(embeddings(), owns))


@each_method
def test_loss_is_that_of_plain_loops(name):
    found, expected = all_losses()[name], BY_HAND[name](embeddings(), own_of(name))
    assert found.dtype == (np.float32 if name == "untrained" else np.float64)
    assert found == pytest.approx(expected, rel=1e-9)
    assert (expected > 0.01) == (name != "untrained")


def test_anchors_in_blocks_give_what_they_give_together(monkeypatch):
    z = np.float32(embeddings())
    names = ("triplet", "triplet_semihard", "contrastive", "supcon", "matching")
    losses = []
    for block in (_rows.BLOCK, 5):  # which does not divide 18 rows
        monkeypatch.setattr(_rows, "BLOCK", block)
        losses.append(jax.jit(lambda z: [loss_of(name, z, LABEL, None) for name in names])(z))
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_arcface_goes_on_falling_where_angle_and_margin_are_beyond_pi():
    parts = hooks_of(FAMILY.method("arcface"), Problem(2, 2, 1, 1, 1))
    angle, label = np.linspace(0, np.pi, 101), jnp.zeros(101, int)
    z = np.stack([np.cos(angle), np.sin(angle)], -1)[None]
    with jax.enable_x64(True):
        losses = jax.jit(lambda z: parts.loss(Seen(z, label, label, None), jnp.eye(2)))(z)
        own_logit = 16 * np.sin(angle) - np.log(np.expm1(losses))  # from log(1 + exp(other - own))
    assert np.all(np.diff(own_logit) < 0)


# ------------------------------------------------------------------------------------------------------------ the edges

EDGES = {
    "a class alone": ([0, 0, 0, 1, 2, 2, 2, 2, 0], None),
    "every class alone": ([0, 1, 2], None),
    "one class": ([1] * 9, None),
    "equal rows": ([0, 1, 2, 0, 1, 2, 0, 1, 2], 1.0),
    "rows of zeros": ([0, 1, 2, 0, 1, 2, 0, 1, 2], 0.0),
}


EPISODIC, LONE = ("prototypical", "matching"), ("triplet", "triplet_semihard", "supcon", "prototypical", "matching")


@jax.jit
def values_and_slopes(z, label):
    names = [name for name in SETTINGS if len(label) > 2 * CLASSES or name not in EPISODIC]
    owns = {name: jax.tree.map(jnp.float32, own_of(name)) for name in names}
    return {name: jax.value_and_grad(functools.partial(loss_of, name), (0, 2))(z, label, owns[name]) for name in names}


@pytest.mark.parametrize("edge", EDGES)
def test_losses_and_gradients_are_finite_at_the_edges(edge):
    label, fill = EDGES[edge]
    z = np.float32(embeddings(1, len(label)))
    found = values_and_slopes(z if fill is None else np.full_like(z, fill), np.array(label))
    for name, parts in found.items():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(parts)), name
    nothing = {"every class alone": LONE, "one class": [name for name in LONE if name != "supcon"]}.get(edge, ())
    for name in found.keys() & set(nothing):  # there is nothing to tell apart
        assert float(found[name][0]) == pytest.approx(0.0, abs=1e-6), name


@pytest.mark.parametrize("name", EPISODIC)
def test_a_batch_that_need_not_have_queries_is_refused(name):
    with pytest.raises(ValueError, match=r"shots must leave queries in a batch: 2 of 3 classes .* than its 6"):
        loss_of(name, embeddings(1, 6), LABEL[:6], None)


def test_support_has_its_shots_of_each_class_and_every_row_in_turn():
    label = np.array([2, 0, 2, 2, 0, 2, 1, 2])
    draw = jax.jit(jax.vmap(lambda key: _rows.support(jnp.asarray(label), key, 2)))
    given = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    for c, count in ((0, 2), (1, 1), (2, 2)):
        np.testing.assert_array_equal(given[:, label == c].sum(1), count)
    np.testing.assert_allclose(given.mean(0)[label == 2], 2 / 5, atol=0.05)


# --------------------------------------------------------------------------------------------------- parts of a batch


@each_method
def test_accumulated_micro_batches_give_the_whole_batch(name):
    """Of a linear network, with classes numbered anew as a seed has them."""
    rng, batch = np.random.default_rng(0), 12
    network = Network(
        lambda key, x: {"w": jax.random.normal(key, (x.shape[-1], WIDTH))}, lambda params, x: x @ params["w"]
    )
    config = representation.defaults()
    objective = representation.objective_of(network, parts_of(name), config.data, config.protocol)
    rows = {
        "inputs": rng.standard_normal((batch, 5)).astype(np.float32),
        "label": np.resize(np.array([1, 3, 4], np.int32), batch),
        "index": np.arange(batch, dtype=np.int32),
    }
    own = {"class_of": jnp.array([-1, 0, -1, 1, 2])}
    given = Resident(jax.tree.map(jnp.asarray, rows), None, own)
    optimizer = optax.sgd(1.0)
    state = init_state(objective, optimizer, jax.random.key(0), given)

    @jax.jit
    def both(state, rows):
        given = Resident(rows, None, own)
        return [make_step(objective, optimizer, StepOptions(accumulate=n))(state, given) for n in (1, 4)]

    whole, parts = both(state, given.batch)
    np.testing.assert_allclose(parts[1]["loss"], whole[1]["loss"], rtol=1e-5)
    for left, right in zip(jax.tree.leaves(parts[0].params), jax.tree.leaves(whole[0].params), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole[0].params, state.params)
    assert (max(jax.tree.leaves(moved)) > 1e-3) == (name != "untrained")
