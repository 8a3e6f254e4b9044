"""An agent that learns values from replay, with an auxiliary loss on its representation or without.

The agent is a double DQN with n-step returns on one of `lemmata.train.environments`. A step of the engine moves all
streams of the environment by one step, stores what the acting ones saw, and updates once from replay. Beside the
streams that explore run others that act greedily and are not stored: their mean reward over the run is the area under
the learning curve.

The network is an encoder of the observation, z, then one embedding phi(s, a) for each action, then a linear value of
it. `method.auxiliary` is what is added to the agent's loss, each term with its own weight:

- "none";
- "rcrl": `lemmata.methods.losses.contrastive.rcrl` on phi; its segments are cut from the replay's rewards;
- "curl": InfoNCE on z of an observation disturbed twice by noise, as CURL (arXiv:2004.04136) does with crops;
- "rcrl+curl".

Both compare with what a slowly moving copy of the encoder makes of the other side of a pair.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ...core import contrastive, distances, masked, replay, trees
from ...core.networks.batch import split_batch
from ...core.networks.mlp import MLP
from ...methods.losses.contrastive import rcrl
from .. import config as configs
from .. import plots
from ..environments import ENVIRONMENTS, Environment, Step, check_environment, gridworld
from ..optimizer import make_optimizer
from ..statistics import ArmResult, mean_interval
from ..types import ConfigDict
from .base import Metric, Procedure, Task, no_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AUXILIARIES = ("none", "rcrl", "curl", "rcrl+curl")

METRICS = {
    "return": Metric("return of the greedy policy", "reward per episode"),
    "area": Metric("area under the learning curve", "reward per episode"),
}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`."""
    data = ConfigDict(dict(environment="gridworld", streams=8, greedy_streams=8, eval_streams=64))
    data.update(gridworld.defaults())
    return ConfigDict(dict(
        data=data,
        model=dict(encoder=(64, 32), embedding=32),  # widths up to z, and of phi(s, a)
        method=dict(
            discount=0.95,
            n_step=3,
            target_every=100,  # steps between copies to the target network
            explore=(1.0, 0.05),  # probability of a random action, at the start and after explore_steps
            explore_steps=500,
            capacity=1000,  # rows of replay, one step of all streams each; a random policy fills them before the start
            auxiliary="none",
            rcrl_weight=1.0,
            rcrl_hidden=64,  # of the discriminator
            threshold=0.0,  # summed |reward| that cuts a segment; 0: every non-zero reward does
            curl_weight=1.0,
            curl_noise=0.5,  # standard deviation of what disturbs an observation
            curl_temperature=0.1,
            slow_decay=0.99,  # of the encoder's slowly moving copy
        ),
    ))  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- agent


class QNetwork(nn.Module):
    """Observations to z, z to an embedding of each action, embeddings to values."""

    encoder: tuple[int, ...]
    embedding: int
    num_actions: int

    def setup(self) -> None:
        """The layers."""
        self.encode = MLP((*self.encoder,))
        self.embed = nn.Dense(self.num_actions * self.embedding)
        self.value = nn.Dense(1)

    def __call__(self, observation: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of observations `[n, size]`: z `[n, d]`, phi `[n, actions, embedding]` and values `[n, actions]`."""
        z = split_batch(nn.relu(self.encode(observation)))
        phi = nn.relu(self.embed(z)).reshape(-1, self.num_actions, self.embedding)
        return z, phi, self.value(phi)[..., 0]


class Transitions(NamedTuple):
    """What values are learned from."""

    observation: jax.Array  # [n, size]
    action: jax.Array  # [n]
    reward: jax.Array  # [n, n_step], from the action on
    whole: jax.Array  # [n] bool: the n steps are within one episode and within what replay holds
    after: jax.Array  # [n, size], the observation n_step later


class Batch(NamedTuple):
    """A minibatch from replay: transitions, and for each a step of its segment and one of another."""

    transitions: Transitions
    other_observation: jax.Array  # [2 n, size]: the positives, then the negatives
    other_action: jax.Array  # [2 n]
    has_negative: jax.Array  # [n] bool: False where replay holds one segment alone


def n_step_targets(reward: jax.Array, value: jax.Array, *, discount: float) -> jax.Array:
    """sum_k discount^k reward_k + discount^n value, `[n]`, of rewards `[n, steps]` and bootstrap values `[n]`."""
    steps = reward.shape[1]
    return reward @ (discount ** jnp.arange(steps)) + discount**steps * value


def of_action(values: jax.Array, action: jax.Array) -> jax.Array:
    """Entries `[n, ...]` of the actions `[n]` in `[n, actions, ...]`."""
    return jnp.take_along_axis(values, action.reshape(-1, *[1] * (values.ndim - 1)), axis=1)[:, 0]


class Agent:
    """The procedure of a config: `init`, `update` and `evaluate`."""

    def __init__(self, config: ConfigDict):
        _check(config)
        self.data, self.method, self.batch_size = config.data, config.method, config.train.batch_size
        self.environment = environment_of(configs.frozen(config.data))
        self.network = QNetwork(tuple(config.model.encoder), config.model.embedding, self.environment.num_actions)
        self.discriminator = rcrl.PairDiscriminator(hidden=config.method.rcrl_hidden)
        self.predictor = nn.Dense(config.model.encoder[-1], use_bias=False)
        self.optimizer = make_optimizer(config.optimizer, config.train.steps)
        self.uses = {name: name in config.method.auxiliary.split("+") for name in ("rcrl", "curl")}

    def init(self, key: jax.Array, batch: Any) -> tuple[Any, Any]:
        """Fresh networks, a world, and a replay that a random policy has filled."""
        keys = jax.random.split(key, 6)
        params = {"network": self.network.init(keys[0], jnp.zeros((1, self.environment.observation_size)))}
        if self.uses["rcrl"]:
            phi = jnp.zeros((1, self.network.embedding))
            params["discriminator"] = self.discriminator.init(keys[1], phi, phi)
        if self.uses["curl"]:
            params["predictor"] = self.predictor.init(keys[2], jnp.zeros((1, self.network.encoder[-1])))
        world = self.environment.make_world(keys[3])
        streams, observation = self.environment.reset(world, keys[4], self.data.streams + self.data.greedy_streams)
        return params, {
            "world": world,
            "streams": streams,
            "observation": observation,
            "replay": self._random_replay(world, keys[5]),
            "opt_state": self.optimizer.init(params),
            "target": jax.tree.map(jnp.copy, params["network"]),
            "slow": jax.tree.map(jnp.copy, params["network"]),
            "step": jnp.zeros((), jnp.int32),
            "gained": jnp.zeros(()),  # mean reward of the greedy streams, summed over steps
        }

    def update(self, params: Any, variables: Any, batch: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        """Every stream moves one step, then the networks learn from one minibatch."""
        act_key, draw_key, loss_key = jax.random.split(key, 3)
        variables = self._act(params, variables, act_key)
        step = variables["step"]
        drawn = self._draw(variables["replay"], draw_key)
        grads, metrics = jax.grad(self._loss, has_aux=True)(params, variables, drawn, loss_key)
        updates, opt_state = self.optimizer.update(grads, variables["opt_state"], params)
        params = optax.apply_updates(params, updates)
        copies = {
            "opt_state": opt_state,
            "target": optax.periodic_update(params["network"], variables["target"], step, self.method.target_every),
            "slow": trees.ema(variables["slow"], params["network"], self.method.slow_decay),
        }
        return params, variables | copies, metrics

    def evaluate(self, params: Any, variables: Any, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
        """Episodes of the greedy policy, and what the greedy streams have gained so far."""
        horizon, world = self.environment.horizon, variables["world"]
        reset_key, episode_key = jax.random.split(key)
        states, observation = self.environment.reset(world, reset_key, self.data.eval_streams)

        def step(carry, key):
            states, observation = carry
            action = jnp.argmax(self._values(params["network"], observation), axis=-1)
            states, after = self.environment.step(world, states, action, key)
            return (states, after.observation), jnp.mean(after.reward)

        _, reward = jax.lax.scan(step, (states, observation), jax.random.split(episode_key, horizon))
        area = horizon * variables["gained"] / jnp.maximum(variables["step"], 1)
        return {"return": jnp.sum(reward), "area": area}

    def _network(self, params: Any, observation: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return cast(Any, self.network.apply(params, observation))

    def _values(self, params: Any, observation: jax.Array) -> jax.Array:
        _, _, values = self._network(params, observation)
        return values

    def _random_replay(self, world: Any, key: jax.Array) -> replay.Replay:
        streams, capacity = self.data.streams, self.method.capacity
        reset_key, action_key, step_key = jax.random.split(key, 3)
        actions = jax.random.randint(action_key, (capacity, streams), 0, self.environment.num_actions)

        def step(carry, inputs):
            states, observation = carry
            action, key = inputs
            states, after = self.environment.step(world, states, action, key)
            return (states, after.observation), _row(observation, action, after)

        start = self.environment.reset(world, reset_key, streams)
        _, rows = jax.lax.scan(step, start, (actions, jax.random.split(step_key, capacity)))
        rows["last"] = rows["last"].at[-1].set(True)  # the streams that act from here on start anew
        empty = replay.init_replay(jax.tree.map(lambda x: x[0], rows), capacity=capacity)
        return replay.update_replay(empty, rows)

    def _act(self, params: Any, variables: Any, key: jax.Array) -> Any:
        """The variables after one step of all streams: the first `data.streams` explore and are stored."""
        explore_key, step_key = jax.random.split(key)
        observation, count = variables["observation"], self.data.streams
        chance, other = jax.random.uniform(explore_key, (2, len(observation)))
        start, end = self.method.explore
        progress = jnp.minimum(variables["step"] / self.method.explore_steps, 1.0)
        random = (chance < start + (end - start) * progress) & (jnp.arange(len(observation)) < count)
        greedy = jnp.argmax(self._values(params["network"], observation), axis=-1)
        action = jnp.where(random, (other * self.environment.num_actions).astype(jnp.int32), greedy)
        streams, after = self.environment.step(variables["world"], variables["streams"], action, step_key)
        row = jax.tree.map(lambda x: x[None, :count], _row(observation, action, after))
        return variables | {
            "streams": streams,
            "observation": after.observation,
            "replay": replay.update_replay(variables["replay"], row),
            "step": variables["step"] + 1,
            "gained": variables["gained"] + jnp.mean(after.reward[count:]),
        }

    def _draw(self, stored: replay.Replay, key: jax.Array) -> Batch:
        """A minibatch whose anchors serve both the values and the auxiliary loss."""
        capacity, n_step = self.method.capacity, self.method.n_step
        small = stored._replace(rows={name: stored.rows[name] for name in ("reward", "last")})
        ordered = replay.take(small, jnp.arange(capacity))  # [capacity, streams]
        reward, last = ordered["reward"].T.reshape(-1), ordered["last"].at[-1].set(True).T.reshape(-1)
        segments = rcrl.return_segments(reward, threshold=self.method.threshold or None, dones=last)
        drawn = rcrl.sample_segment_pairs(segments, key=key, num_pairs=self.batch_size)
        anchor, positive, negative = (split_batch(x) for x in drawn)

        def at(index):
            return replay.take(stored, index % capacity, index // capacity)

        window = jnp.minimum(anchor[:, None] + jnp.arange(n_step), len(reward) - 1)
        transitions = Transitions(
            observation=at(anchor)["observation"],
            action=at(anchor)["action"],
            reward=reward[window],
            whole=~jnp.any(last[window], axis=1),
            after=at(jnp.minimum(anchor + n_step, len(reward) - 1))["observation"],
        )
        others = at(jnp.concatenate([positive, negative]))
        return Batch(transitions, others["observation"], others["action"], segments[anchor] != segments[negative])

    def _loss(
        self, params: Any, variables: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        transitions, method = batch.transitions, self.method
        _, phi, values = self._network(params["network"], transitions.observation)
        best = jnp.argmax(self._values(params["network"], transitions.after), axis=-1)
        bootstrap = of_action(self._values(variables["target"], transitions.after), best)
        targets = jax.lax.stop_gradient(n_step_targets(transitions.reward, bootstrap, discount=method.discount))
        errors = optax.huber_loss(of_action(values, transitions.action), targets)
        terms = {"td": masked.mean(errors, transitions.whole)}
        if self.uses["rcrl"]:
            terms["rcrl"] = self._rcrl(params, variables["slow"], batch, of_action(phi, transitions.action))
        if self.uses["curl"]:
            terms["curl"] = self._curl(params, variables["slow"], transitions.observation, key)
        weights = {"td": 1.0, "rcrl": method.rcrl_weight, "curl": method.curl_weight}
        total = jnp.sum(jnp.stack([weights[name] * term for name, term in terms.items()]))
        return total, terms | {"loss": total}

    def _rcrl(self, params: Any, slow: Any, batch: Batch, anchor: jax.Array) -> jax.Array:
        _, phi, _ = self._network(slow, batch.other_observation)
        other = jnp.split(jax.lax.stop_gradient(of_action(phi, batch.other_action)), 2)
        logits = [cast(jax.Array, self.discriminator.apply(params["discriminator"], anchor, z)) for z in other]
        return masked.mean(rcrl.rcrl_loss(*logits), batch.has_negative)

    def _curl(self, params: Any, slow: Any, observation: jax.Array, key: jax.Array) -> jax.Array:
        noise = self.method.curl_noise * jax.random.normal(key, (2, *observation.shape))
        query, _, _ = self._network(params["network"], observation + noise[0])
        target, _, _ = self._network(slow, observation + noise[1])
        query = distances.l2_normalize(cast(jax.Array, self.predictor.apply(params["predictor"], query)))
        target = distances.l2_normalize(jax.lax.stop_gradient(target))
        return jnp.mean(contrastive.info_nce_loss(query, target, temperature=self.method.curl_temperature))


def _row(observation: jax.Array, action: jax.Array, after: Step) -> dict[str, jax.Array]:
    return {"observation": observation, "action": action, "reward": after.reward, "last": after.last}


@functools.lru_cache(maxsize=8)
def environment_of(data: str) -> Environment:
    """The environment of a `data` section, as `configs.frozen` writes it; checked once, by playing an episode."""
    settings = configs.thawed(data)
    environment = ENVIRONMENTS[settings.environment](settings)
    check_environment(environment)
    return environment


def _check(config: ConfigDict) -> None:
    data, method = config.data, config.method
    if data.environment not in ENVIRONMENTS:
        raise ValueError(f"data.environment must be one of {tuple(ENVIRONMENTS)}, got {data.environment!r}.")
    if method.auxiliary not in AUXILIARIES:
        raise ValueError(f"method.auxiliary must be one of {AUXILIARIES}, got {method.auxiliary!r}.")
    if not 1 <= method.n_step < method.capacity:
        raise ValueError(
            f"method.n_step must be in [1, {method.capacity}), the capacity of replay, got {method.n_step}."
        )
    for name in ("streams", "greedy_streams", "eval_streams"):
        if data[name] < 1:
            raise ValueError(f"data.{name} must be at least 1, got {data[name]}.")
    for name in ("target_every", "explore_steps", "rcrl_hidden"):
        if method[name] < 1:
            raise ValueError(f"method.{name} must be at least 1, got {method[name]}.")
    if len(method.explore) != 2 or not all(0 <= chance <= 1 for chance in method.explore):
        raise ValueError(f"method.explore must be two probabilities, at the start and the end, got {method.explore}.")
    for name in ("discount", "slow_decay"):
        if not 0 <= method[name] <= 1:
            raise ValueError(f"method.{name} must be in [0, 1], got {method[name]}.")
    for name in ("threshold", "rcrl_weight", "curl_weight", "curl_noise"):
        if not 0 <= method[name] < np.inf:
            raise ValueError(f"method.{name} must be at least 0 and finite, got {method[name]}.")
    if not config.model.encoder or min(*config.model.encoder, config.model.embedding) < 1:
        raise ValueError(
            f"model.encoder and model.embedding must be widths of at least 1, got {config.model.encoder} and "
            f"{config.model.embedding}."
        )


def build(config: ConfigDict) -> Task:
    """The agent in its environment, which makes its own data."""
    agent = Agent(config)
    return Task(Procedure(agent.init, agent.update, agent.evaluate), train=no_data, test=no_data)


# ------------------------------------------------------------------------------------------------------------- report


def references(config: ConfigDict) -> dict[str, dict[str, float]]:
    """Returns of the best policy and of the random one."""
    known = ENVIRONMENTS[config.data.environment](config.data).references()
    return {"return": known, "area": known}


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """The return of the greedy policy over the environment steps that were stored."""
    drawing, (ax,) = plots.new_figure()
    for arm, color in plots.arm_colors(results).items():
        steps, values = results[arm].history["return"]
        mean, low, high = mean_interval(values)
        stored = np.asarray(steps) * config.data.streams
        ax.plot(stored, mean, color=color, linewidth=1.8, label=arm)
        ax.fill_between(stored, low, high, color=color, alpha=0.2, linewidth=0)
    ax.margins(x=0.01)
    ax.set_xlabel("environment steps after the random ones")
    ax.set_ylabel(plots.axis_label("return", METRICS))
    plots.draw_references(ax, references(config)["return"])
    ax.legend(frameon=False, fontsize=9)
    ax.set_title(plots.title("Learning curves", config, results), loc="left", fontsize=11)
    plots.write_claim(drawing, config, results, METRICS)
    return drawing
