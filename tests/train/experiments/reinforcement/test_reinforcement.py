"""Reinforcement: what is stored, drawn, copied and counted, whose auxiliaries are added, and that the agent learns."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from lemmata.core import replay, trees
from lemmata.train import experiments
from lemmata.train.experiments import reinforcement
from lemmata.train.experiments.report import ArmResult
from lemmata.train.judge import config as configs

CAPACITY, STREAMS, SIZE, CODE = 96, 3, 10, 8  # rows of replay, streams that explore, numbers of an observation


FAMILY = experiments.get("reinforcement")


def make_config(name="dqn", *, data=(), protocol=(), **method):
    config = ConfigDict(dict(experiment="reinforcement", arms=dict(main=dict(name=name) | method)))
    world = dict(size=3, horizon=12, code_dim=CODE, looks=1, noise_dim=SIZE - CODE)
    config.data = ConfigDict(dict(streams=STREAMS, greedy_streams=2, eval_streams=8, options=world) | dict(data))
    config.model = ConfigDict(dict(encoder=(16, 8), embedding=8))
    loop = dict(capacity=CAPACITY, n_step=3, target_every=20, discount=0.9, explore_steps=50)
    config.protocol = ConfigDict(loop | dict(protocol))
    config.train = ConfigDict(dict(batch_size=32, skip_nonfinite=False))
    config.optimizer = ConfigDict(dict(learning_rate=3e-3))
    return configs.resolve_arm(configs.complete(config), "main")


def make_agent(*arguments, **method):
    return reinforcement.make_agent(make_config(*arguments, **method))


def test_methods_are_found_with_their_own_settings():
    settings = {name: FAMILY.method_settings(name) for name in FAMILY.methods}
    assert set(settings) == {"dqn", "rcrl", "curl", "rcrl_curl"}
    assert settings["dqn"] == {}
    assert settings["rcrl"] == dict(weight=1.0, hidden=64, threshold=0.0, slow_decay=0.99)
    assert settings["curl"] == dict(weight=1.0, noise=0.5, temperature=0.1, slow_decay=0.99)
    parts = {key: value for name in ("rcrl", "curl") for key, value in settings[name].items() if key != "weight"}
    assert settings["rcrl_curl"] == parts | dict(rcrl_weight=1.0, curl_weight=1.0)


class Started:
    """An agent with both auxiliary losses, its first state, and its parts compiled once."""

    def __init__(self):
        self.agent = make_agent("rcrl_curl")
        self.params, self.variables = jax.jit(self.agent.init)(jax.random.key(0), ())
        self.update, self.draw = jax.jit(self.agent.update), jax.jit(self.agent._draw)

    def after(self, steps):
        states = [(self.params, self.variables)]
        for step in range(steps):
            params, variables, metrics = self.update(*states[-1], (), jax.random.key(step))
            assert all(np.isfinite(x) for x in jax.tree.leaves(metrics))
            states.append((params, variables))
        return states


@pytest.fixture(scope="module")
def started():
    return Started()


@pytest.fixture(scope="module")
def learned():
    """The first state of the plain agent, its metrics after 400 updates, and what its greedy streams gained."""
    agent = make_agent()

    @jax.jit
    def run(key):
        start = agent.init(key, ())
        keys = jax.random.split(jax.random.key(1), 400)
        state, _ = jax.lax.scan(lambda state, key: (agent.update(*state, (), key)[:2], None), start, keys)
        return start, agent.evaluate(*state, (), jax.random.key(2)), state[1]["gained"]

    return run(jax.random.key(0))


def stored(variables):
    """Replay in order of arrival, `[capacity, streams, ...]`."""
    rows = variables["replay"]
    return jax.tree.map(np.asarray, replay.take(rows, jnp.arange(CAPACITY)))


def test_targets_are_discounted_sums_and_a_bootstrap():
    reward, value = jnp.array([[1.0, 2.0, 4.0]]), jnp.array([8.0])
    np.testing.assert_allclose(reinforcement.n_step_targets(reward, value, discount=0.5), [1 + 1 + 1 + 1])


def test_random_policy_fills_the_replay_with_connected_steps(started):
    rows, codes = stored(started.variables), np.asarray(started.variables["world"])[:, 0]
    assert rows["observation"].shape == (CAPACITY, STREAMS, SIZE)
    assert set(rows["action"].ravel()) == {0, 1, 2, 3}
    cells = np.argmin(np.linalg.norm(rows["observation"][:, :, None, :CODE] - codes, axis=-1), axis=-1)
    assert np.all(cells[::12] == 4)  # an episode starts at the centre
    np.testing.assert_array_equal(np.nonzero(rows["last"].all(axis=1))[0], np.arange(11, CAPACITY, 12))
    assert np.all(cells[1:][rows["reward"][:-1] > 0] == 4)


def test_minibatch_holds_what_follows_its_anchors(started):
    rows = stored(started.variables)
    batch = jax.tree.map(np.asarray, started.draw(started.variables["replay"], jax.random.key(3)))
    observations = rows["observation"].reshape(-1, SIZE)
    for i, seen in enumerate(batch.transitions.observation):
        (where,) = np.nonzero(np.all(observations == seen, axis=1))  # noise tells every step from every other
        time, stream = np.divmod(where[0], STREAMS)
        crossed = time + 3 >= CAPACITY or rows["last"][time : time + 3, stream].any()
        assert batch.transitions.whole[i] == (not crossed)
        assert batch.transitions.action[i] == rows["action"][time, stream]
        if not crossed:
            np.testing.assert_array_equal(batch.transitions.reward[i], rows["reward"][time : time + 3, stream])
            np.testing.assert_array_equal(batch.transitions.after[i], rows["observation"][time + 3, stream])


@pytest.mark.parametrize("name", ["dqn", "curl"])
def test_every_arm_learns_its_values_from_the_same_steps(started, name):
    drawn = jax.jit(make_agent(name)._draw)(started.variables["replay"], jax.random.key(3))
    expected = started.draw(started.variables["replay"], jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, drawn.transitions, expected.transitions)
    assert drawn.others is None


def test_pairs_are_of_one_segment_and_of_two(started):
    rows = stored(started.variables)
    cuts = (rows["reward"] != 0) | rows["last"]
    segment = (np.cumsum(cuts, axis=0) - cuts) + 1000 * np.arange(STREAMS)
    seen = rows["observation"].reshape(-1, SIZE)
    name = {x.tobytes(): s for x, s in zip(seen, segment.ravel(), strict=True)}
    batch = jax.tree.map(np.asarray, started.draw(started.variables["replay"], jax.random.key(4)))
    anchor = [name[x.tobytes()] for x in batch.transitions.observation]
    positive, negative = np.split(np.array([name[x.tobytes()] for x in batch.others.observation]), 2)
    np.testing.assert_array_equal(anchor, positive)
    assert np.all(anchor != negative)
    assert batch.beside.all()


def test_step_stores_the_exploring_streams_alone(started):
    before, after = started.after(1)
    rows, seen = stored(after[1]), np.asarray(before[1]["observation"])
    assert seen.shape == (STREAMS + 2, SIZE)
    np.testing.assert_array_equal(rows["observation"][-1], seen[:STREAMS])
    np.testing.assert_array_equal(rows["observation"][:-1], stored(before[1])["observation"][1:])


def test_target_is_copied_now_and_then_and_the_slow_copy_follows(started):
    states = started.after(20)
    for step, (_, variables) in enumerate(states):
        source = states[20 if step == 20 else 0][0]
        jax.tree.map(np.testing.assert_array_equal, variables["target"], source["network"])
    expected = started.params["network"]
    for params, _ in states[1:]:
        expected = trees.ema(expected, params["network"], 0.99)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), states[-1][1]["auxiliary"], expected
    )


@pytest.mark.slow
def test_arms_start_from_the_same_network_and_replay(started, learned):
    (params, variables), _, _ = learned
    jax.tree.map(np.testing.assert_array_equal, params["network"], started.params["network"])
    jax.tree.map(np.testing.assert_array_equal, variables["replay"], started.variables["replay"])


def test_auxiliary_terms_teach_the_encoder_but_not_the_values(started):
    batch = started.draw(started.variables["replay"], jax.random.key(5))
    copies = {name: started.variables[name] for name in ("auxiliary", "target")}

    @jax.jit
    def gradients(params, copies):
        def auxiliary(params, copies):
            _, terms = started.agent._loss(params, started.variables | copies, batch, jax.random.key(6))
            return jnp.stack([terms["rcrl"], terms["curl"]])

        return jax.jacrev(auxiliary, argnums=(0, 1))(params, copies)

    params, copies = gradients(started.params, copies)
    network = params["network"]["params"]
    assert not any(np.any(x) for x in jax.tree.leaves([network["value"], copies]))
    for term, own in enumerate(("discriminator", "predictor")):
        for x in jax.tree.leaves([network["encode"], params["auxiliary"][own]]):
            assert np.isfinite(x).all()
            assert np.any(x[term])


@pytest.mark.slow
def test_agent_learns_a_small_world(learned):
    _, metrics, gained = learned
    known = reinforcement.references(make_config())["return"]
    assert known["optimal"] == 12.0
    assert set(metrics) == set(reinforcement.METRICS)
    assert metrics["return"] > (known["random"] + known["optimal"]) / 2
    assert known["random"] < metrics["area"] < known["optimal"]
    assert float(metrics["area"]) == pytest.approx(12 * float(gained) / 400, rel=1e-5)


@pytest.mark.slow
def test_several_devices_give_the_value_of_one(started):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def update(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return started.agent.update(*arguments)

    everywhere = jax.device_put((started.params, started.variables), NamedSharding(mesh, PartitionSpec()))
    actual, _, metrics = jax.jit(update)(*everywhere, (), jax.random.key(0))
    expected, _, others = started.update(started.params, started.variables, (), jax.random.key(0))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, (actual, metrics), (expected, others))


def test_figure_is_the_learning_curve():
    config = ConfigDict(dict(experiment="reinforcement", arms=dict(dqn=dict(name="dqn"), rcrl=dict(name="rcrl"))))
    config.claim = ConfigDict(dict(metric="area", better="rcrl", than="dqn"))
    steps, values = np.array([10, 20]), np.arange(6.0).reshape(3, 2)
    history = {"return": (steps, values), "area": (steps, values)}
    result = ArmResult({"area": values[:, -1], "return": values[:, -1]}, history, 1.0, config=make_config())
    (ax,) = reinforcement.figure(configs.complete(config), {"dqn": result, "rcrl": result}).axes
    assert ax.get_xlabel() == "environment steps after the random ones"
    assert ax.get_ylabel() == "return of the greedy policy [reward per episode]"
    assert list(ax.get_lines()[0].get_xdata()) == [10 * STREAMS, 20 * STREAMS]


# ------------------------------------------------------------------------------------------------- a user's own method

OWN = """
import jax
import jax.numpy as jnp

from lemmata.train.experiments.reinforcement import Auxiliary, Drawn, QNetwork, outputs_of, uniform_steps


def contrast(network: QNetwork, *, weight=0.5, shift=1):
    def init(keys, first):
        return {"scale": jnp.ones(())}, {"steps": jnp.zeros((), jnp.int32)}

    def draw(reward, last, key, n):
        anchor = uniform_steps(reward, last, key, n).anchor
        return Drawn(anchor, ((anchor + shift) % len(reward),), reward[anchor])

    def terms(params, variables, batch, outputs, key):
        near = outputs_of(network, params["network"], batch.others.observation).z
        return {"contrast": jnp.mean((params["auxiliary"]["scale"] * outputs.z - near) ** 2)}

    def update(variables, network):
        return {"steps": variables["steps"] + 1}

    return Auxiliary(init, terms, {"contrast": weight}, update=update, draw=draw)


def weightless(network):
    return Auxiliary(lambda keys, first: ({}, ()), lambda *_: {"some": jnp.zeros(())}, {})
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's module that can be imported."""
    (tmp_path / "own_auxiliaries.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_auxiliaries", None)


def test_an_auxiliary_of_a_user_is_added_like_ours(own):
    config = make_config("own_auxiliaries:contrast", weight=2)
    assert config.method.to_dict() == dict(name="own_auxiliaries:contrast", weight=2.0, shift=1)
    agent = reinforcement.make_agent(config)
    params, variables = jax.jit(agent.init)(jax.random.key(0), ())
    after, variables, metrics = jax.jit(agent.update)(params, variables, (), jax.random.key(1))
    assert variables["auxiliary"]["steps"] == 1
    assert after["auxiliary"]["scale"] != params["auxiliary"]["scale"]
    assert float(metrics["loss"]) == pytest.approx(float(metrics["td"] + 2 * metrics["contrast"]), rel=1e-6)
    with pytest.raises(ValueError, match=r"arms\.main\.shif: .*Did you mean 'shift'\?"):
        make_config("own_auxiliaries:contrast", shif=2)


def test_a_term_without_a_weight_is_named(own):
    agent = make_agent("own_auxiliaries:weightless")
    params, variables = jax.eval_shape(agent.init, jax.random.key(0), ())
    with pytest.raises(ValueError, match=r"weights must be of its terms, \['some'\], got \[\]"):
        jax.eval_shape(agent.update, params, variables, (), jax.random.key(1))


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (dict(data=dict(environment="atari")), r"data\.environment: no environment 'atari'"),
        (dict(data=dict(greedy_streams=0)), r"data\.greedy_streams must be an integer of at least 1"),
        (dict(data=dict(options=dict(noisy=1.0))), r"data\.options\.noisy: .*Did you mean 'noise'\?"),
        (dict(protocol=dict(n_step=CAPACITY)), r"protocol\.n_step must be in \[1, 96\)"),
        (dict(protocol=dict(discount=1.5)), r"protocol\.discount must be in \[0, 1\]"),
        (dict(protocol=dict(explore=(1.0, 2.0))), r"protocol\.explore must be two probabilities"),
        (dict(protocol=dict(target_every=0)), r"protocol\.target_every must be an integer of at least 1"),
        (dict(name="byol"), r"method\.name: reinforcement has no method 'byol'"),
        (dict(name="rcrl", hidden=0), "hidden must be an integer of at least 1"),
        (dict(name="rcrl", threshold=-1.0), "threshold must be in"),
        (dict(name="rcrl", slow_decay=1.1), r"slow_decay must be in \[0, 1\]"),
        (dict(name="curl", noise=float("inf")), "noise must be in"),
        (dict(name="curl", temperature=0.0), "temperature must be in"),
        (dict(name="rcrl_curl", curl_weight=-1.0), "curl_weight must be in"),
    ],
)
def test_a_wrong_setting_is_named(bad, named):
    with pytest.raises(ValueError, match=named):
        reinforcement.build(make_config(**bad))


@pytest.mark.parametrize(
    ("method", "owner"),
    [
        (dict(name="dqn", weight=1.0), "curl, rcrl"),
        (dict(name="rcrl", temperature=0.1), "curl, rcrl_curl"),
        (dict(name="curl", threshold=1.0), "rcrl, rcrl_curl"),
        (dict(name="rcrl_curl", weight=1.0), "curl, rcrl"),
    ],
)
def test_a_setting_of_another_method_is_refused_by_name(method, owner):
    setting, name = list(method)[1], method["name"]
    expected = rf"arms\.main\.{setting}: method '{name}' has no such setting.* of {owner}\."
    with pytest.raises(ValueError, match=expected) as error:
        make_config(**method)
    assert "\n" not in str(error.value)
