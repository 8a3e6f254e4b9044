"""A run's folder: locked, of one config, never half written."""

import pytest

from lemmata.train.engine.workdir import open_workdir
from lemmata.train.judge import config as configs


def test_a_second_run_is_refused_until_the_first_is_done(tmp_path, config):
    with (
        open_workdir(tmp_path / "run", config),
        pytest.raises(ValueError, match="another run is using"),
        open_workdir(tmp_path / "run", config),
    ):
        pass
    with open_workdir(tmp_path / "run", config):
        pass


def test_another_config_is_refused_with_its_keys(tmp_path, config):
    with open_workdir(tmp_path, config):
        pass
    other = configs.defaults()
    other.update(config)
    other.train.steps, other.optimizer.name = 7, "sgd"
    with (
        pytest.raises(ValueError, match=r"optimizer.name: 'adam' there, 'sgd' now; train.steps: 24 there, 7 now"),
        open_workdir(tmp_path, other),
    ):
        pass
    with open_workdir(tmp_path, other, override=True):
        pass
    with open_workdir(tmp_path, other):  # it is the folder's config from now on
        pass


def test_an_unwritable_folder_is_refused(tmp_path, config):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="workdir: cannot write"), open_workdir(tmp_path / "file" / "run", config):
        pass
