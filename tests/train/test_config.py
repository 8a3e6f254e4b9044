"""Configs: defaults, checks, arms."""

import pytest
from ml_collections import ConfigDict

from lemmata.train import config as configs


def mutual_information(**sections):
    return ConfigDict({"experiment": "mutual_information", **sections})


def test_what_a_file_leaves_out_is_filled_in():
    config = configs.complete(mutual_information(train=dict(steps=5), optimizer=dict(learning_rate=1)))
    assert config.train.steps == 5
    assert config.train.batch_size == configs.defaults().train.batch_size
    assert config.optimizer.learning_rate == 1.0
    assert config.data.dim == 20


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        (dict(train=dict(stepz=5)), r"train\.stepz.*steps"),
        (dict(trian=dict(steps=5)), "trian.*train"),
        (dict(data=dict(dimm=5)), r"data\.dimm.*dim"),
        (dict(train=dict(steps="many")), r"train\.steps must be int.*many"),
        (dict(train=dict(steps=True)), r"train\.steps must be int"),
        (dict(train=5), "train is a section"),
        (dict(train=dict(steps=0)), r"train\.steps.*0"),
        (dict(train=dict(compute_dtype="float8")), "compute_dtype.*float8"),
        (dict(train=dict(batch_size=10, accumulate=3)), "accumulate = 3"),
        (dict(train=dict(ema=1.0)), "ema"),
        (dict(seeds=()), "seeds"),
        (dict(seeds=(1, 1)), "seeds"),
        (dict(seeds=(0.5,)), "seeds"),
        (dict(arms=dict(a=dict(estimatorr="demi"))), r"arms\.a\.method\.estimatorr.*estimator"),
        (dict(arms=dict(a=dict(train=dict(step=1)))), r"arms\.a\.train\.step.*steps"),
        (dict(arms=dict(demi={}), claim=dict(metric="error", better="demmi", than="demi")), "demmi.*demi"),
        (dict(arms=dict(demi={}), claim=dict(metric="eror", better="demi", than="demi")), "eror.*error"),
        (dict(arms=dict(a={}), claim=dict(metric="error", better="a", than="a", direction="up")), "direction"),
        (dict(train=dict(best_metric="eror")), "best_metric.*error"),
    ],
)
def test_bad_input_names_the_key_and_the_nearest(sections, match):
    with pytest.raises(ValueError, match=match):
        configs.complete(mutual_information(**sections))


def test_unknown_experiment_and_arm_and_file_name_the_nearest():
    with pytest.raises(ValueError, match=r"mutual_infomation.*mutual_information"):
        configs.complete(ConfigDict({"experiment": "mutual_infomation"}))
    config = configs.complete(mutual_information(arms=dict(demi={}, info_nce={})))
    with pytest.raises(ValueError, match=r"info_nc'.*info_nce"):
        configs.resolve_arm(config, "info_nc")
    with pytest.raises(ValueError, match=r"quickstrat.py.*configs/quickstart.py"):
        configs.load("configs/quickstrat.py")


def test_an_arm_overrides_the_method_and_sections_it_names():
    config = configs.complete(
        mutual_information(arms=dict(a=dict(estimator="demi_is", optimizer=dict(name="sgd")), b={}))
    )
    a, b = configs.resolve_arm(config, "a"), configs.resolve_arm(config, "b")
    assert (a.method.estimator, a.optimizer.name) == ("demi_is", "sgd")
    assert (b.method.estimator, b.optimizer.name) == ("demi", "adam")
    assert a.optimizer.learning_rate == config.optimizer.learning_rate
    assert configs.digest(a) != configs.digest(b)


def test_free_form_options_are_the_users_own():
    config = configs.complete(mutual_information(optimizer=dict(options=dict(b1=0.5))))
    assert config.optimizer.options.b1 == 0.5
    arm = configs.complete(mutual_information(arms=dict(a=dict(optimizer=dict(options=dict(b2=0.5))))))
    assert configs.resolve_arm(arm, "a").optimizer.options.b2 == 0.5


def test_a_file_may_take_an_argument(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(dim='3'):\n"
        "    return ConfigDict(dict(experiment='mutual_information', data=dict(dim=int(dim))))\n"
    )
    assert configs.load(str(file)).data.dim == 3
    assert configs.load(f"{file}:7").data.dim == 7
