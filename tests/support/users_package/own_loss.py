"""The loss on the table, with each of the models."""

from ml_collections import ConfigDict

from . import shared


def get_config(model="nnx_pair"):
    config = ConfigDict()
    config.experiment = "classification"
    config.seeds = (0, 1)
    config.data = ConfigDict(shared.TABLE)
    config.model = ConfigDict(dict(name=f"my_models:{model}", options=dict(inputs=3)))
    config.optimizer = ConfigDict(dict(name="my_optimizers:sign_descent", learning_rate=1e-2))
    config.train = ConfigDict(shared.TRAIN)
    config.arms = ConfigDict(
        dict(
            focal=dict(name="my_losses:focal", gamma=1.5),
            plain=dict(name="cross_entropy"),
        )
    )
    config.claim = ConfigDict(dict(metric="accuracy", better="focal", than="plain"))
    return config
