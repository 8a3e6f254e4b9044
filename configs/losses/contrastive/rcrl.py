"""A double DQN alone, with RCRL, with a CURL-like loss and with both, in a gridworld seen through noise.

Trials on other draws: six each of dqn, rcrl and curl at half the noise, of the learning rate and of the period of the
target's copies or of the weight of the auxiliary loss; then two more each of dqn (learning rate) and rcrl (weight) at
this noise. `rcrl_curl` takes the weights of its parts.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.experiment = "reinforcement"
    config.seeds = tuple(range(10))

    config.data = ConfigDict(dict(
        environment="gridworld", streams=4, greedy_streams=4, eval_streams=32,
        options=dict(size=7, rewards=(1.0, 2.0), horizon=60, code_dim=32, noise_dim=96, noise=2.0),
    ))
    config.model = ConfigDict(dict(encoder=(64, 32), embedding=32))
    config.optimizer = ConfigDict(dict(name="adam", learning_rate=2e-3))
    config.train = ConfigDict(dict(
        steps=1400, batch_size=32, eval_every=100, eval_batches=1, log_every=100, steps_per_dispatch=100,
        skip_nonfinite=False,  # it would keep the replay twice
    ))

    config.protocol = ConfigDict(dict(
        discount=0.95, n_step=3, capacity=500, explore=(1.0, 0.05), explore_steps=500, target_every=50,
    ))
    config.arms = ConfigDict(dict(
        dqn=dict(name="dqn"),
        rcrl=dict(name="rcrl", weight=1.0),
        curl=dict(name="curl", weight=0.03, noise=1.0),
        rcrl_curl=dict(name="rcrl_curl", rcrl_weight=1.0, curl_weight=0.03, noise=1.0),
    ))
    config.claim = ConfigDict(dict(
        metric="area", better="rcrl", than="dqn", direction="higher",
        paper="abstract: improves on model-free agents on Atari and DeepMind Control; more when combined with CURL",
    ))
    return config
