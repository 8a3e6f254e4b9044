"""A double DQN with n-step returns that acts and learns from replay, with whatever an auxiliary adds to its loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ....core import masked, replay
from ....core.networks.batch import split_batch
from ...engine.optimizer import make_optimizer
from ...engine.types import ConfigDict
from ._parts import Auxiliary, Batch, QNetwork, Steps, Transitions, of_action, outputs_of
from .environments import Environment, Step


def n_step_targets(reward: jax.Array, value: jax.Array, *, discount: float) -> jax.Array:
    """sum_k discount^k reward_k + discount^n value, `[n]`, of rewards `[n, steps]` and bootstrap values `[n]`."""
    steps = reward.shape[1]
    return reward @ (discount ** jnp.arange(steps)) + discount**steps * value


class Agent:
    """The procedure of a config: `init`, `update` and `evaluate`.

    Args:
        config: with `data`, `model`, `protocol`, `optimizer` and `train`.
        environment: where it acts.
        make_auxiliary: network -> what is added to its loss.
    """

    def __init__(self, config: ConfigDict, environment: Environment, make_auxiliary: Callable[[QNetwork], Auxiliary]):
        self.data, self.protocol, self.batch_size = config.data, config.protocol, config.train.batch_size
        self.environment = environment
        self.network = QNetwork(tuple(config.model.encoder), config.model.embedding, environment.num_actions)
        self.auxiliary = make_auxiliary(self.network)
        self.optimizer = make_optimizer(config.optimizer, config.train.steps)

    def init(self, key: jax.Array, batch: Any) -> tuple[Any, Any]:
        """Fresh networks, a world, and a replay that a random policy has filled."""
        keys = jax.random.split(key, 6)
        network = self.network.init(keys[0], jnp.zeros((1, self.environment.observation_size)))
        own, carried = self.auxiliary.init(keys[1:3], network)
        params = {"network": network, "auxiliary": own}
        world = self.environment.make_world(keys[3])
        streams, observation = self.environment.reset(world, keys[4], self.data.streams + self.data.greedy_streams)
        return params, {
            "world": world,
            "streams": streams,
            "observation": observation,
            "replay": self._random_replay(world, keys[5]),
            "opt_state": self.optimizer.init(params),
            "target": jax.tree.map(jnp.copy, network),
            "auxiliary": carried,
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
            "target": optax.periodic_update(params["network"], variables["target"], step, self.protocol.target_every),
            "auxiliary": self.auxiliary.update(variables["auxiliary"], params["network"]),
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

    def _values(self, network: Any, observation: jax.Array) -> jax.Array:
        return outputs_of(self.network, network, observation).values

    def _random_replay(self, world: Any, key: jax.Array) -> replay.Replay:
        streams, capacity = self.data.streams, self.protocol.capacity
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
        start, end = self.protocol.explore
        progress = jnp.minimum(variables["step"] / self.protocol.explore_steps, 1.0)
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
        capacity, n_step = self.protocol.capacity, self.protocol.n_step
        small = stored._replace(rows={name: stored.rows[name] for name in ("reward", "last")})
        ordered = replay.take(small, jnp.arange(capacity))  # [capacity, streams]
        reward, last = ordered["reward"].T.reshape(-1), ordered["last"].at[-1].set(True).T.reshape(-1)
        drawn = self.auxiliary.draw(reward, last, key, self.batch_size)
        anchor = split_batch(drawn.anchor)

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
        if not drawn.others:
            return Batch(transitions, None, drawn.beside)
        others = at(jnp.concatenate([split_batch(index) for index in drawn.others]))
        return Batch(transitions, Steps(others["observation"], others["action"]), drawn.beside)

    def _loss(
        self, params: Any, variables: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        transitions, auxiliary = batch.transitions, self.auxiliary
        outputs = outputs_of(self.network, params["network"], transitions.observation)
        best = jnp.argmax(self._values(params["network"], transitions.after), axis=-1)
        bootstrap = of_action(self._values(variables["target"], transitions.after), best)
        targets = n_step_targets(transitions.reward, bootstrap, discount=self.protocol.discount)
        errors = optax.huber_loss(of_action(outputs.values, transitions.action), jax.lax.stop_gradient(targets))
        terms = {"td": masked.mean(errors, transitions.whole)}
        terms |= auxiliary.terms(params, variables["auxiliary"], batch, outputs, key)
        weights = {"td": 1.0} | auxiliary.weights
        if set(terms) != set(weights):
            raise ValueError(f"an auxiliary's weights must be of its terms, {[*terms][1:]}, got {[*weights][1:]}.")
        total = jnp.sum(jnp.stack([weights[name] * term for name, term in terms.items()]))
        return total, terms | {"loss": total}


def _row(observation: jax.Array, action: jax.Array, after: Step) -> dict[str, jax.Array]:
    return {"observation": observation, "action": action, "reward": after.reward, "last": after.last}
