"""Federated MVR against FedAvg, FedAdam, SCAFFOLD and MIME: digits, 20 clients of few classes each, 5 in a round."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.experiment = "federated"
    config.seeds = tuple(range(8))

    config.data = ConfigDict(dict(name="digits", clients=20, split="dirichlet", concentration=0.1))
    config.model = ConfigDict(dict(hidden=(64,), init_scale=0.15))
    config.protocol = ConfigDict(dict(local_steps=10, local_batch=16, target=0.85))
    config.train = ConfigDict(dict(steps=40, batch_size=5, eval_batch_size=360, eval_every=2))  # rounds; clients in one
    config.mesh = ConfigDict(dict(data=1))  # 5 clients divide over 5 devices or one

    # Each arm has the best of four to six settings of its constants by final accuracy, over other draws of these seeds.
    config.arms = ConfigDict(dict(
        mvr=dict(name="mvr", step_scale=0.2, momentum_scale=3.0),
        fedavg=dict(name="fedavg", learning_rate=0.5),
        fedadam=dict(name="fedadam", learning_rate=0.5, server_learning_rate=0.02),
        scaffold=dict(name="scaffold", learning_rate=0.2),
        mime=dict(name="mime", learning_rate=0.2, momentum=0.0),
    ))
    config.claim = ConfigDict(dict(
        metric="accuracy", better="mvr", than="fedavg", direction="higher",
        paper="fewer rounds and better accuracy than baselines on MNIST and CIFAR-10 with heterogeneous splits",
    ))
    return config
