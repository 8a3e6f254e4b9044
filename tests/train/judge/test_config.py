"""Configs: defaults, checks, arms."""

from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from lemmata.train.judge import config as configs


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
        (dict(seeds=(0, 2**32)), "seeds must be .*from 0 to 4294967295, got 4294967296"),
        (dict(seeds=(-1, 2**32 - 1)), "seeds.*-1"),
        (dict(seeds=(2**63,)), f"seeds.*{2**63}"),
        (dict(seeds="01"), "seeds"),
        (dict(data=dict(arms=3)), r"data\.arms"),
        (dict(method=dict(arms=dict(a=1))), r"method\.arms"),
        (dict(model=dict(hidden=(16.5,))), r"model\.hidden must hold int.*16\.5"),
        (dict(model=dict(hidden=(16, "a"))), r"model\.hidden.*'a'"),
        (dict(model=dict(hidden=16)), r"model\.hidden must be tuple"),
        (dict(data=dict(total_mi=("5",))), r"data\.total_mi must hold float.*'5'"),
        (dict(optimizer=dict(learning_rate=float("nan"))), r"optimizer\.learning_rate.*nan"),
        (dict(optimizer=dict(options=3)), r"optimizer\.options is a section"),
        (dict(optimizer=dict(options=dict(b3=3))), r"b3.*b1, b2"),
        (dict(arms=3), "arms is a section"),
        (dict(arms=dict(a=3)), r"arms\.a is a section"),
        (dict(arms={"a/b": {}}), "a/b"),
        (dict(arms=dict(a=dict(claim=dict(metric="error")))), r"arms\.a\.claim belongs to the whole config"),
        (dict(arms=dict(a=dict(seeds=(3,)))), r"arms\.a\.seeds belongs"),
        (dict(arms=dict(a=dict(experiment="alignment"))), r"arms\.a\.experiment belongs"),
        (dict(arms=dict(a=dict(vmap_seeds="no"))), r"arms\.a\.vmap_seeds must be bool"),
        (dict(arms=dict(a=dict(optimizer=dict(name="sgd", weight_decay=0.1)))), "weight_decay.*sgd"),
        (dict(train=dict(best_metric="error")), "checkpoint_every.*0 and 0"),
        (dict(train=dict(best_metric="error", eval_every=300, checkpoint_every=400)), "checkpoint_every.*400 and 300"),
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


def test_an_arm_may_set_what_is_its_own():
    config = configs.complete(
        mutual_information(
            seeds=(0, 2**32 - 1),
            optimizer=dict(name="adamw", options=dict(b1=0.5)),
            arms=dict(a=dict(vmap_seeds=False, optimizer=dict(options=dict(b2=1)))),
        )
    )
    arm = configs.resolve_arm(config, "a")
    assert not arm.vmap_seeds
    assert config.vmap_seeds
    assert (arm.optimizer.options.b1, arm.optimizer.options.b2) == (0.5, 1)  # one beside the other
    assert arm.optimizer.options.eps == 1e-8  # optax's own, shown


@pytest.mark.parametrize("wrap", [lambda c: c.lock(), FrozenConfigDict, lambda c: c.to_dict(), lambda c: c])
def test_a_file_may_return_any_kind_of_config(wrap):
    config = configs.complete(wrap(mutual_information(train=dict(steps=5), arms=dict(demi={}))))
    assert (config.train.steps, list(config.arms)) == (5, ["demi"])


def test_a_config_as_a_string_is_the_config():
    transforms = (("clip", {"max_delta": 1.0}),)  # which Python cannot hash
    config = configs.complete(mutual_information(optimizer=dict(transforms=transforms)))
    assert configs.thawed(configs.frozen(config)) == config
    assert configs.frozen(config) != configs.frozen(configs.complete(mutual_information()))


@pytest.mark.parametrize("returned", ["None", "3", "'a'"])
def test_a_file_that_returns_something_else_is_told_so(tmp_path, returned):
    file = tmp_path / "mine.py"
    file.write_text(f"def get_config():\n    return {returned}\n")
    with pytest.raises(ValueError, match="must return a ConfigDict"):
        configs.load(str(file))


@pytest.mark.parametrize("mistake", ["1 +", "undefined", "{}['key']", "raise ValueError('dim must be odd')"])
def test_a_mistake_in_a_file_names_its_line(tmp_path, mistake):
    file = tmp_path / "mine.py"
    file.write_text(f"def get_config():\n    config = 1\n    {mistake}\n")
    with pytest.raises(ValueError, match=r"mine\.py, line 3: \w+Error"):
        configs.load(str(file))


def test_an_experiment_has_defaults_of_its_own_for_the_engine_s_sections(monkeypatch):
    module = SimpleNamespace(
        __name__="lemmata.train.experiments.mine",
        METRICS={},
        compute=None,
        defaults=lambda: ConfigDict(dict(data=dict(arms=2), train=dict(steps=7), seeds=(1,))),
    )
    monkeypatch.setattr(configs.experiments, "get", lambda name: configs.experiments.Experiment(name, module))
    config = configs.complete(ConfigDict(dict(experiment="mine", train=dict(log_every=3))))
    assert (config.train.steps, config.train.log_every, config.seeds) == (7, 3, (1,))
    assert config.train.batch_size == configs.defaults().train.batch_size
    assert config.data.arms == 2  # a key like any other there
    assert configs.complete(ConfigDict(dict(experiment="mine", data=dict(arms=5), train=dict(steps=8)))).data.arms == 5


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.steps", 1000),
        ("optimizer.options.b1", 0.9),
        ("arms.demi.train.steps", 1000),
        ("arms.demi.estimator", "demi"),
        ("arms.demi.vmap_seeds", True),
        ("arms.demi.optimizer.options.b2", 0.999),
    ],
)
def test_any_key_can_be_named(path, value):
    config = configs.complete(mutual_information(arms=dict(demi={})))
    configs.expose(config, path)
    found = config
    for key in path.split("."):
        found = found[key]
    assert found == value
    configs.complete(config)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("train.stepz", "steps"),
        ("optimizer.options.b9", "b2"),
        ("arms.demo.estimator", "demi"),
        ("arms.demi.estimatr", "estimator"),
        ("arms.demi.train.stepz", "steps"),
        ("train.steps.x", "train.steps.x"),
    ],
)
def test_a_key_that_is_none_names_the_nearest(path, nearest):
    with pytest.raises(ValueError, match=nearest):
        configs.expose(configs.complete(mutual_information(arms=dict(demi={}))), path)
