"""RCRL: the oracles of its card."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemmata.core.networks.mlp import MLP
from lemmata.methods.losses.contrastive import rcrl
from lemmata.train.experiments.reinforcement.environments import gridworld

T = 24  # one length, since every shape compiles
sparse_rewards = st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0, -2.0]), min_size=T, max_size=T)
dense_rewards = st.lists(st.integers(-8, 8).map(lambda k: k / 8), min_size=T, max_size=T)  # exact sums
ends_of_episodes = st.lists(st.sampled_from([False, False, True]), min_size=T, max_size=T)


def segments_of(rewards, **kwargs):
    return np.asarray(rcrl.return_segments(jnp.asarray(rewards, jnp.float32), **kwargs))


# --- segments


@given(sparse_rewards)
def test_sparse_segment_is_the_number_of_rewards_before(rewards):
    segments = segments_of(rewards)
    assert segments.dtype == np.int32
    for t in range(T):
        assert segments[t] == np.count_nonzero(rewards[:t])


@given(sparse_rewards, st.integers(0, T - 1))
def test_inserted_zeros_add_no_segment(rewards, place):
    segments = segments_of(rewards)
    longer = segments_of([*rewards[:place], 0.0, 0.0, 0.0, *rewards[place:]])
    np.testing.assert_array_equal(np.delete(longer, slice(place, place + 3)), segments)


@given(sparse_rewards, ends_of_episodes)
def test_return_to_go_is_constant_in_a_sparse_segment_of_an_episode(rewards, dones):
    segments = segments_of(rewards, dones=jnp.asarray(dones))
    to_go = np.zeros(T)
    for t in reversed(range(T)):
        to_go[t] = rewards[t] + (0.0 if t == T - 1 or dones[t] else to_go[t + 1])
    for segment in range(segments[-1] + 1):
        assert np.ptp(to_go[segments == segment]) == 0


@given(dense_rewards, st.sampled_from([0.5, 1.0, 2.25]), ends_of_episodes)
def test_dense_segment_ends_where_its_sum_reaches_the_threshold(rewards, threshold, dones):
    segments = segments_of(rewards, threshold=threshold, dones=jnp.asarray(dones))
    assert segments[0] == 0
    assert set(np.diff(segments)) <= {0, 1}
    for segment in range(segments[-1] + 1):
        (steps,) = np.nonzero(segments == segment)
        sums = np.cumsum(np.abs(np.take(rewards, steps)))
        assert np.all(sums[:-1] < threshold)
        assert not np.any(np.take(dones, steps[:-1]))
        if segment < segments[-1]:
            assert sums[-1] >= threshold or dones[steps[-1]]


def test_no_reward_is_one_segment_and_an_end_cuts_it():
    np.testing.assert_array_equal(segments_of(np.zeros(T)), np.zeros(T))
    np.testing.assert_array_equal(segments_of(np.zeros(T), threshold=1.0), np.zeros(T))
    assert segments_of([]).shape == (0,)
    dones = jnp.array([False, True, False, True])
    for threshold in (None, 1.0):
        np.testing.assert_array_equal(segments_of(np.zeros(4), threshold=threshold, dones=dones), [0, 0, 1, 1])


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_nan_reward_counts_as_non_zero(threshold):
    np.testing.assert_array_equal(segments_of([0.0, np.nan, 0.0, 1.0, 0.0], threshold=threshold), [0, 0, 1, 1, 2])


# --- pairs


@pytest.fixture(scope="module")
def pairs():
    segments = jnp.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3], jnp.int32)
    drawn = rcrl.sample_segment_pairs(segments, key=jax.random.key(0), num_pairs=20_000)
    return np.asarray(segments), *map(np.asarray, drawn)


def test_positives_share_the_segment_and_negatives_never_do(pairs):
    segments, anchor, positive, negative = pairs
    for index in (anchor, positive, negative):
        assert index.dtype == np.int32
        assert index.min() >= 0
        assert index.max() < len(segments)
    np.testing.assert_array_equal(segments[anchor], segments[positive])
    assert np.all(segments[anchor] != segments[negative])


def test_positive_is_another_step_unless_there_is_none(pairs):
    _, anchor, positive, _ = pairs
    np.testing.assert_array_equal(positive == anchor, anchor == 3)


def test_each_draw_is_uniform_over_what_it_may_be(pairs):
    segments, anchor, positive, negative = pairs

    def assert_uniform(values, choices):
        assert set(values) == set(choices)
        counts = np.array([np.sum(values == choice) for choice in choices])
        expected = len(values) / len(choices)
        assert np.max(np.abs(counts - expected)) < 5 * np.sqrt(expected)

    steps = np.arange(len(segments))
    assert_uniform(anchor, steps)
    for step in steps:
        inside = segments == segments[step]
        others = steps[inside & (steps != step)] if inside.sum() > 1 else steps[inside]
        assert_uniform(positive[anchor == step], others)
        assert_uniform(negative[anchor == step], steps[~inside])


def test_one_segment_raises_where_known_and_gives_the_anchor_where_traced():
    segments = jnp.full(5, 2)
    with pytest.raises(ValueError, match=r"segments must hold at least two segments.*2 alone"):
        rcrl.sample_segment_pairs(segments, key=jax.random.key(0), num_pairs=3)
    draw = jax.jit(lambda ids: rcrl.sample_segment_pairs(ids, key=jax.random.key(0), num_pairs=64))
    anchor, positive, negative = draw(segments)
    np.testing.assert_array_equal(anchor, negative)
    assert np.all(positive != anchor)


# --- the loss and its discriminator


def test_loss_at_known_logits():
    ends = jnp.array([0.0, -jnp.inf, jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(
        rcrl.rcrl_loss(ends, jnp.array([0.0, jnp.inf, -jnp.inf, -jnp.inf])), [0.25, 0, 1, 0.5]
    )
    np.testing.assert_allclose(rcrl.rcrl_loss(jnp.full(1, -200.0), jnp.full(1, 200.0)), 0.0)


def test_loss_stays_in_range_and_pushes_the_logits_apart():
    logits = jnp.linspace(-60.0, 40.0, 201)  # of l+ and, mirrored, of -l-
    loss, pull = jax.vjp(rcrl.rcrl_loss, logits, -jnp.roll(logits, 7))
    assert np.all((loss >= 0) & (loss <= 1))
    down, up = pull(jnp.ones(201))
    moderate = np.asarray(logits) > -40  # below, a square of e^-40 may count as zero
    assert np.all(down >= 0)  # descent lowers l+ and raises l-
    assert np.all(up <= 0)
    assert np.all(down[moderate] > 0)  # also where a logit of +40 is wrong and sure of it
    assert np.all(jnp.roll(up, -7)[moderate] < 0)


def test_optimal_discriminator_is_the_chance_of_different_bins():
    probs = jax.nn.softmax(2 * jax.random.normal(jax.random.key(0), (6, 4)))
    optimal = np.asarray(rcrl.optimal_discriminator(probs))
    np.testing.assert_allclose(np.diagonal(optimal), 1 - np.sum(np.square(probs), axis=1), rtol=1e-5)
    np.testing.assert_array_equal(optimal, optimal.T)
    one_hot = jnp.eye(3)[jnp.array([0, 2, 0])]
    np.testing.assert_array_equal(rcrl.optimal_discriminator(one_hot), [[0, 1, 0], [1, 0, 1], [0, 1, 0]])


def test_tabular_fit_of_the_loss_tends_to_the_optimal_discriminator():
    """Drawn returns only: of each pair, those in one bin are positives of its logit, the others negatives."""
    pairs, draws, edges = 3, 4000, jnp.array([0.5, 1.5])
    probs = jnp.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [1.0, 0.0, 0.0]])
    keys = jax.random.split(jax.random.key(1), 2)
    first, second = (
        jax.random.categorical(key, jnp.log(probs)[:, None], shape=(pairs, draws)).astype(jnp.float32) for key in keys
    )
    index = [(0, 0), (0, 1), (1, 2)]
    labels = jnp.stack([rcrl.return_pair_labels(first[i], second[j], edges) for i, j in index])
    share = jnp.mean(labels, axis=1)
    certain = jnp.full(pairs, 40.0)

    def objective(logits):
        as_positive = rcrl.rcrl_loss(logits, certain)  # only the first term is left
        as_negative = rcrl.rcrl_loss(-certain, logits)
        return jnp.sum((1 - share) * as_positive + share * as_negative)

    optimizer = optax.adam(0.1)

    def step(carry, _):
        updates, state = optimizer.update(jax.grad(objective)(carry[0]), carry[1])
        return (optax.apply_updates(carry[0], updates), state), None

    start = jnp.zeros(pairs)
    (logits, _), _ = jax.jit(lambda x: jax.lax.scan(step, (x, optimizer.init(x)), length=300))(start)
    expected = np.array([rcrl.optimal_discriminator(probs)[i, j] for i, j in index])
    np.testing.assert_allclose(jax.nn.sigmoid(logits), share, atol=1e-3)
    np.testing.assert_allclose(share, expected, atol=4 * 0.5 / np.sqrt(draws))


def test_bins_are_closed_below():
    edges = jnp.array([0.0, 1.0])
    returns = jnp.array([-1.0, 0.0, 0.5, 1.0, 9.0])  # bins 0 1 1 2 2
    bins = np.array([0, 1, 1, 2, 2])
    for shift in range(5):
        labels = rcrl.return_pair_labels(returns, jnp.roll(returns, shift), edges)
        np.testing.assert_array_equal(labels, bins != np.roll(bins, shift))


def test_discriminator_reads_its_pair_in_order():
    model = rcrl.PairDiscriminator(hidden=8)
    z1, z2 = jax.random.normal(jax.random.key(0), (2, 5, 3))
    params = model.init(jax.random.key(1), z1, z2)
    logits = model.apply(params, z1, z2)
    assert logits.shape == (5,)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == (6 + 1) * 8 + 8 + 1
    np.testing.assert_allclose(model.apply(params, z1[2:3], z2[2:3]), logits[2:3], rtol=1e-5)
    assert not np.allclose(model.apply(params, z2, z1), logits)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_narrow_inputs_are_computed_wide(dtype):
    positive, negative = jnp.array([2, -1], dtype), jnp.array([1, 3], dtype)
    loss = rcrl.rcrl_loss(positive, negative)
    assert loss.dtype == jnp.float32
    wide = rcrl.rcrl_loss(positive.astype(jnp.float32), negative.astype(jnp.float32))
    np.testing.assert_allclose(loss.astype(jnp.float32), wide, rtol=2.0**-8)
    assert segments_of(jnp.full(300, 0.01, jnp.bfloat16), threshold=2.0)[-1] == 1  # a bfloat16 sum would stall


# --- a representation


@functools.cache
def random_steps():
    """120 episodes of the random policy in a 5 x 5 world: inputs (observation and action), rewards, ends, cells."""
    environment = gridworld.make()
    world_key, start_key, action_key, step_key = jax.random.split(jax.random.key(0), 4)
    world = environment.make_world(world_key)
    actions = jax.random.randint(action_key, (60, 120), 0, 4)

    def step(carry, inputs):
        states, observation = carry
        action, key = inputs
        after_states, after = environment.step(world, states, action, key)
        seen = jnp.concatenate([observation, jax.nn.one_hot(action, 4)], axis=-1)
        return (after_states, after.observation), (seen, after.reward, after.last, states["cell"], action)

    start = environment.reset(world, start_key, 120)
    _, rows = jax.jit(lambda: jax.lax.scan(step, start, (actions, jax.random.split(step_key, 60))))()
    return [jnp.moveaxis(x, 1, 0).reshape(120 * 60, *x.shape[2:]) for x in rows]


def exact_values(discount):
    """Q of the random policy in that world, `[cells, moves]`."""
    successor, reward = gridworld.transitions(5, (1.0, 2.0))
    chain = np.zeros((25, 25))
    np.add.at(chain, (np.repeat(np.arange(25), 4), successor.ravel()), 0.25)
    return reward + discount * np.linalg.solve(np.eye(25) - discount * chain, reward.mean(1))[successor]


def probe(embedding):
    """Correlation of a ridge regression from 1000 discounted returns with the exact value, on the other steps."""
    _, rewards, ends, cells, actions = map(np.asarray, random_steps())
    returns = np.zeros(len(rewards))
    for t in reversed(range(len(rewards))):
        returns[t] = rewards[t] + (0.0 if ends[t] else 0.95 * returns[t + 1])
    known = np.random.default_rng(0).permutation(len(returns))[:1000]
    z = np.hstack([np.asarray(embedding, np.float64), np.ones((len(embedding), 1))])
    weights = np.linalg.solve(z[known].T @ z[known] + 20 * np.eye(z.shape[1]), z[known].T @ returns[known])
    others = np.setdiff1d(np.arange(len(returns)), known)
    return np.corrcoef((z @ weights)[others], exact_values(0.95)[cells, actions][others])[0, 1]


@pytest.mark.slow
def test_the_loss_finds_what_returns_depend_on():
    """Half of an observation is noise. Measured before, 3000 steps: 0.32 to 0.44, a random encoder 0.00 to 0.12."""
    inputs, rewards, ends, _, _ = random_steps()
    segments = rcrl.return_segments(rewards, dones=ends)
    encoder, discriminator, optimizer = MLP((64, 16)), rcrl.PairDiscriminator(hidden=64), optax.adam(1e-3)
    z = jnp.zeros((1, 16))

    def start(key):
        encoder_key, pair_key = jax.random.split(key)
        return {"encoder": encoder.init(encoder_key, inputs[:1]), "pair": discriminator.init(pair_key, z, z)}

    def loss(params, drawn):
        z, *others = jnp.split(encoder.apply(params["encoder"], inputs[jnp.concatenate(drawn)]), 3)
        return jnp.mean(rcrl.rcrl_loss(*(discriminator.apply(params["pair"], z, other) for other in others)))

    def step(carry, key):
        drawn = rcrl.sample_segment_pairs(segments, key=key, num_pairs=256)
        gradients = jax.vmap(jax.grad(loss), in_axes=(0, None))(carry[0], drawn)
        updates, state = optimizer.update(gradients, carry[1])
        return (optax.apply_updates(carry[0], updates), state), None

    first = jax.vmap(start)(jax.random.split(jax.random.key(1), 3))
    keys = jax.random.split(jax.random.key(2), 1500)
    (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), keys))(first)
    embed = jax.vmap(lambda p: encoder.apply(p["encoder"], inputs))
    learned, random = (np.array([probe(z) for z in embed(p)]) for p in (params, first))

    assert learned.mean() > 0.25
    assert learned.mean() > random.mean() + 0.1


# --- bad input

B = jnp.zeros(4)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: rcrl.return_segments(jnp.zeros((2, 3))), r"rewards must have shape \[t\], got shape \[2, 3\]"),
        (lambda: rcrl.return_segments(jnp.zeros(())), "rewards"),
        (lambda: rcrl.return_segments(B, threshold=0.0), r"threshold must be in \(0, inf\), got 0"),
        (lambda: rcrl.return_segments(B, threshold=-1.0), "threshold"),
        (lambda: rcrl.return_segments(B, dones=jnp.zeros(3, bool)), "dones"),
        (lambda: rcrl.rcrl_loss(B, jnp.zeros(5)), "logits_negative must have shape"),
        (lambda: rcrl.rcrl_loss(jnp.zeros((4, 1)), B), "logits_positive"),
        (lambda: rcrl.return_pair_labels(B, B, jnp.zeros(0)), "bin_edges must have at least one"),
        (lambda: rcrl.return_pair_labels(B, jnp.zeros(3), B), "returns2"),
        (lambda: rcrl.optimal_discriminator(B), "return_probs"),
        (lambda: rcrl.sample_segment_pairs(jnp.zeros(0, int), key=jax.random.key(0), num_pairs=1), "segments"),
        (lambda: rcrl.sample_segment_pairs(jnp.arange(4), key=jax.random.key(0), num_pairs=0), "num_pairs"),
        (lambda: rcrl.PairDiscriminator(hidden=0).init(jax.random.key(0), jnp.eye(2), jnp.eye(2)), "hidden"),
        (lambda: rcrl.PairDiscriminator().init(jax.random.key(0), jnp.eye(2), jnp.eye(3)), "z2"),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(call)  # while tracing, too


def test_bad_values_are_named_where_they_are_known():
    with pytest.raises(ValueError, match="bin_edges must be ascending"):
        rcrl.return_pair_labels(B, B, jnp.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="bin_edges must be ascending"):
        rcrl.return_pair_labels(B, B, jnp.array([0.0, jnp.nan, 1.0]))
    with pytest.raises(ValueError, match="segments must not decrease"):
        rcrl.sample_segment_pairs(jnp.array([0, 1, 0]), key=jax.random.key(0), num_pairs=1)
