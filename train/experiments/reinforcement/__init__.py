"""An agent that learns values from replay, with an auxiliary loss on its representation or without.

The agent is a double DQN with n-step returns in one of `environments`. A step of the engine moves all streams of the
environment by one step, stores what the acting ones saw, and updates once from replay. Beside the streams that explore
run others that act greedily and are not stored: their mean reward over the run is the area under the learning curve.

The network is an encoder of the observation, z, then one embedding phi(s, a) for each action, then a linear value of
it. A method is a function `(network: QNetwork, *, settings) -> Auxiliary`: terms that are added to the agent's loss.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ....core import checks
from ... import experiments
from ...engine.settings import check_whole
from ...engine.task import Metric, Procedure, Task, no_data
from ...engine.types import ConfigDict
from .. import report
from ..report import ArmResult, mean_interval
from ._agent import Agent, n_step_targets
from ._parts import Auxiliary, Batch, Drawn, Outputs, QNetwork, Steps, Transitions, of_action, outputs_of, uniform_steps
from .environments import make_environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "METRICS",
    "SMALL",
    "Agent",
    "Auxiliary",
    "Batch",
    "Drawn",
    "Outputs",
    "QNetwork",
    "Steps",
    "Transitions",
    "build",
    "defaults",
    "figure",
    "make_agent",
    "n_step_targets",
    "of_action",
    "outputs_of",
    "references",
    "uniform_steps",
]

METRICS = {
    "return": Metric("return of the greedy policy", "reward per episode"),
    "area": Metric("area under the learning curve", "reward per episode"),
}

SMALL = {"data.eval_streams": 4, "protocol.capacity": 64}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `protocol`."""
    return ConfigDict(dict(
        data=dict(
            environment="gridworld",  # or "module:attribute"
            options={},  # keyword arguments of the environment's function
            streams=8,  # that explore, and are stored
            greedy_streams=8,
            eval_streams=64,
        ),
        model=dict(encoder=(64, 32), embedding=32),  # widths up to z, and of phi(s, a)
        protocol=dict(
            discount=0.95,
            n_step=3,
            target_every=100,  # steps between copies to the target network
            explore=(1.0, 0.05),  # probability of a random action, at the start and after explore_steps
            explore_steps=500,
            capacity=1000,  # rows of replay, one step of all streams each; a random policy fills them before the start
        ),
    ))  # fmt: skip


def make_agent(config: ConfigDict) -> Agent:
    """The agent of a config in its environment.

    Raises:
        ValueError: a setting outside its range, or an environment that is none.
    """
    _check(config)
    environment = make_environment(config.data.environment, config.data.options)
    return Agent(config, environment, experiments.get(config.experiment).bound(config.method))


def _check(config: ConfigDict) -> None:
    data, model, protocol = config.data, config.model, config.protocol
    for name in ("streams", "greedy_streams", "eval_streams"):
        check_whole(f"data.{name}", data[name], 1)
    if not model.encoder or min(*model.encoder, model.embedding) < 1:
        raise ValueError(
            f"model.encoder and model.embedding must be widths of at least 1, got {model.encoder} and "
            f"{model.embedding}."
        )
    for name in ("capacity", "target_every", "explore_steps"):
        check_whole(f"protocol.{name}", protocol[name], 1)
    if not 1 <= protocol.n_step < protocol.capacity:
        raise ValueError(
            f"protocol.n_step must be in [1, {protocol.capacity}), the capacity of replay, got {protocol.n_step}."
        )
    if len(protocol.explore) != 2 or not all(0 <= chance <= 1 for chance in protocol.explore):
        raise ValueError(
            f"protocol.explore must be two probabilities, at the start and the end, got {protocol.explore}."
        )
    checks.in_interval("protocol.discount", protocol.discount, 0.0, 1.0)


def build(config: ConfigDict) -> Task:
    """The agent in its environment, which makes its own data."""
    agent = make_agent(config)
    return Task(Procedure(agent.init, agent.update, agent.evaluate), train=no_data, test=no_data)


# ------------------------------------------------------------------------------------------------------------- report


def references(config: ConfigDict) -> dict[str, dict[str, float]]:
    """Returns that are known, such as those of the best policy and of the random one."""
    known = make_environment(config.data.environment, config.data.options).references()
    return {"return": known, "area": known}


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """The return of the greedy policy over the environment steps that were stored."""
    drawing, (ax,) = report.new_figure()
    for arm, color in report.arm_colors(results).items():
        steps, values = results[arm].history["return"]
        mean, low, high = mean_interval(values)
        stored = np.asarray(steps) * results[arm].config.data.streams
        ax.plot(stored, mean, color=color, linewidth=1.8, label=arm)
        ax.fill_between(stored, low, high, color=color, alpha=0.2, linewidth=0)
    ax.margins(x=0.01)
    ax.set_xlabel("environment steps after the random ones")
    ax.set_ylabel(report.axis_label("return", METRICS))
    report.draw_references(ax, references(config)["return"])
    ax.legend(frameon=False, fontsize=9)
    ax.set_title(report.title("Learning curves", config, results), loc="left", fontsize=11)
    return drawing
