"""The study."""

from ml_collections import ConfigDict

from .shared import TRAIN


def get_config():
    config = ConfigDict()
    config.experiment = "my_study:build"
    config.data = ConfigDict(dict(slope=3.0))
    config.method = ConfigDict(dict(power=1.0))
    config.train = ConfigDict(TRAIN)
    config.arms = ConfigDict(dict(square=dict(), root=dict(power=0.5)))
    config.claim = ConfigDict(dict(metric="error", better="square", than="root", direction="lower"))
    return config
