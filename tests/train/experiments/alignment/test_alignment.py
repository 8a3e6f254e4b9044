"""Alignment: what methods see, stages and references, fusion, the resident base, and what a wrong config is told."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from lemmata.methods.losses.alignment import kto
from lemmata.train import data
from lemmata.train.engine.loop import fit
from lemmata.train.engine.losses import Coupled
from lemmata.train.engine.sources import Arrays, Deferred, Resident
from lemmata.train.engine.state import init_state
from lemmata.train.engine.step import StepOptions, make_step
from lemmata.train.engine.task import Task
from lemmata.train.experiments import alignment
from lemmata.train.experiments.alignment import _merging
from lemmata.train.experiments.report import ArmResult
from lemmata.train.judge import config as configs
from lemmata.train.models import store

MODEL = dict(num_layers=1, num_heads=2, model_dim=8, mlp_dim=8)
FUSED = dict(fuse_with="sft")


def make_config(name="kto", *, protocol=(), sections=(), **settings):
    config = ConfigDict(dict(
        experiment="alignment",
        data=dict(prompt=4, answer=5, test_rows=64),
        model=MODEL | dict(pretraining=dict(steps=0, batch_size=8)),
        mesh=dict(data=1),
        arms=dict(main=dict(name=name, protocol=dict(protocol), **settings)),
    ))  # fmt: skip
    for section, values in dict(sections).items():
        config[section] = ConfigDict(config.get(section, ConfigDict()).to_dict() | values)
    return configs.resolve_arm(configs.complete(config), "main")


class Bigrams(nn.Module):
    """Logits that depend on the last byte alone: quick to compile. `where` says nothing to it."""

    @nn.compact
    def __call__(self, tokens, where=None):
        return nn.Embed(256, 256)(tokens)


@functools.cache
def base():
    return Bigrams().init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))


def objective_of(name="kto", *, pairs=True, **options):
    return alignment.make_objective(make_config(name, **options), Bigrams(), pairs=pairs)


@functools.cache
def pairs(n=8):
    rng = np.random.default_rng(0)
    good = rng.integers(256, size=(n, 5))
    return {
        "prompt": jnp.asarray(rng.integers(256, size=(n, 4)), jnp.uint8),
        "good": jnp.asarray(good, jnp.uint8),
        "bad": jnp.asarray(rng.permuted(good, axis=1), jnp.uint8),
    }


def batch(n=8, **changed):
    return Resident(pairs(n) | changed, base())


def moved(tree, amount):
    return jax.tree.map(lambda x: x + amount * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), tree)


@functools.cache
def compiled(loss):
    return jax.jit(loss)


def gradient_of(objective):
    """`(policies, variables) -> gradient` of the batch's loss, compiled once."""
    gradient = jax.jit(jax.grad(objective.loss, has_aux=True))
    return lambda policies, variables: gradient(policies, variables, batch(), jax.random.key(0))[0]


def loss_and_after(objective, policies, variables, rows=None):
    rows = batch() if rows is None else rows
    value, (after, metrics) = compiled(objective.loss)(policies, variables, rows, jax.random.key(0))
    return value, after, metrics


# ---------------------------------------------------------------------------------------------------------------- rows


def test_answers_continue_their_prompts_and_bad_ones_are_the_same_bytes():
    rows = alignment.paired("python_docs", "test", prompt=6, answer=10, seed=1)
    text = data.windows("python_docs", "test", 16)["tokens"]
    np.testing.assert_array_equal(np.concatenate([rows["prompt"], rows["good"]], axis=1), text)
    np.testing.assert_array_equal(np.sort(rows["good"], axis=1), np.sort(rows["bad"], axis=1))
    assert np.mean((rows["good"] == rows["bad"]).all(axis=1)) < 0.1  # runs of blanks have one order
    few = alignment.paired("python_docs", "test", prompt=6, answer=10, seed=1, most=7)
    assert few["prompt"].shape == (7, 6)
    np.testing.assert_array_equal(few["good"][[0, -1]], text[[0, -1], 6:])


def test_the_same_seed_shuffles_alike_and_another_does_not():
    one, same, other = (alignment.paired("python_docs", "test", prompt=4, answer=5, seed=s)["bad"] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_rows_of_feedback_are_padded_before_the_prompt_and_after_the_answer():
    rows = alignment.unpaired([b"ab", b"", b"abcdef"], [b"x", b"uvwxyz", b""], [True, False, True], prompt=4, answer=3)
    expected = {"prompt": [b"\0\0ab", b"\0\0\0\0", b"cdef"], "answer": [b"x\0\0", b"uvw", b"\0\0\0"]}
    for name, texts in expected.items():
        assert [bytes(row) for row in rows[name]] == texts
    assert rows["prompt_where"].tolist() == [[False, True, True, True], [False] * 3 + [True], [True] * 4]
    assert rows["answer_where"].tolist() == [[True, True, False], [True] * 3, [True, False, False]]
    assert rows["desirable"].tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([b"a"], [b"b", b"c"], [True, False]), "must be as many, got 1, 2, 2"),
        (([b"a"] * 2, [b"b"] * 2, [True] * 2), "label must mark some answers, not all"),
        (([b"a", b"a\0"], [b"b"] * 2, [True, False]), "prompt must be text without the byte 0.*row 1"),
        (([b"a"] * 2, [b"\0", b"b"], [True, False]), "completion must be text without the byte 0.*row 0"),
    ],
)
def test_bad_feedback_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        alignment.unpaired(*arguments, prompt=4, answer=3)


def written(folder, labels, name="mine.jsonl"):
    path = folder / name
    keys = ("question", "reply", "liked")
    rows = [(f"what is {index}?", f"it is {index}", label) for index, label in enumerate(labels)]
    path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    columns = dict(prompt="question", completion="reply", label="liked")
    return dict(name=str(path), columns=columns, train="train", validation="train", test="test")


@pytest.mark.parametrize(("labels", "desirable"), [((False, True), ""), ((0, 1), ""), (("yes", "no"), "yes")])
def test_a_file_of_feedback_is_read(tmp_path, labels, desirable):
    answers = [labels[index % 2] for index in range(40)]
    good = desirable or labels[1]
    config = make_config(sections=dict(data=dict(written(tmp_path, answers), desirable=desirable, answer=12)))
    splits = [alignment.rows_of(config.data, split) for split in ("train+validation", "test")]
    assert sum(len(rows["prompt"]) for rows in splits) == 40
    for rows in splits:
        for answer, where, liked in zip(rows["answer"], rows["answer_where"], rows["desirable"], strict=True):
            index = int(bytes(answer[where]).decode().strip("\0").removeprefix("it is "))
            assert liked == (answers[index] == good)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (dict(columns=dict(prompt="question", label="liked")), r"data\.columns\.completion must name a column"),
        (dict(desirable="perhaps"), r"data\.desirable must be one of the two labels .*False, True; got 'perhaps'"),
        (dict(prompt=0), r"data\.prompt must be an integer of at least 1"),
        (dict(test_rows=-1), r"data\.test_rows must be an integer of at least 0"),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path, changed, named):
    settings = written(tmp_path, [index % 2 == 0 for index in range(40)]) | changed
    config = make_config(sections=dict(data=settings))
    with pytest.raises(ValueError, match=named):
        alignment.build(config)


def test_three_labels_are_refused(tmp_path):
    config = make_config(sections=dict(data=written(tmp_path, ["a", "b", "c"] * 14)))
    with pytest.raises(ValueError, match=r"one of the two labels of .*a, b, c; got ''"):
        alignment.rows_of(config.data, "train")


def test_a_base_beside_a_file_needs_a_text(tmp_path):
    settings = written(tmp_path, [index % 2 == 0 for index in range(40)])
    config = make_config(sections=dict(data=settings))
    assert isinstance(alignment.base_of(config), Deferred)  # untrained
    config.model.pretraining.steps = 1
    with pytest.raises(ValueError, match=r"model\.pretraining\.text must name a text"):
        alignment.base_of(config)
    config.model.pretraining.text = "python_docs"
    assert isinstance(alignment.base_of(config), Deferred)


def test_metrics_of_unpaired_answers_are_over_all_pairs():
    found = {
        "nats": np.array([1.0, 2.0, 4.0, 8.0, 2.0]),
        "bytes": np.array([1, 2, 3, 4, 5]),
        "desirable": np.array([True, True, False, False, False]),
    }
    metrics = alignment._summarize(found)
    assert metrics["margin"] == pytest.approx(14 / 3 - 3 / 2)
    assert metrics["cross_entropy"] == pytest.approx(3 / 3)
    assert metrics["accuracy"] == pytest.approx((3 + 2.5) / 6)  # of six pairs one is a tie
    assert set(metrics) == set(alignment.METRICS)


@pytest.mark.slow
def test_training_on_unpaired_answers_tells_them_apart(tmp_path):
    """Good answers are digits, bad ones letters; the metrics are those of answers that never trained it."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(80):
        letters = "0123456789" if index % 2 else "abcdefghij"
        answer = "".join(rng.choice(list(letters), rng.integers(2, 5)))
        lines.append(json.dumps(dict(p=f"{index}?", c=answer, l=bool(index % 2))))
    (tmp_path / "mine.jsonl").write_text("\n".join(lines) + "\n")
    settings = dict(name=str(tmp_path / "mine.jsonl"), columns=dict(prompt="p", completion="c", label="l"))
    train = dict(steps=150, batch_size=16, eval_batch_size=8)
    config = make_config(
        sections=dict(data=settings | {"test_rows": 0}, train=train, optimizer=dict(learning_rate=0.05))
    )
    task = alignment.build(config)
    objective = alignment.make_objective(config, Bigrams(), pairs=False)
    found = fit(task._replace(objective=objective, resident=base()), config, progress=False)
    assert set(found.metrics) == set(alignment.METRICS)
    assert found.metrics["accuracy"] > 0.95
    assert found.metrics["margin"] > 1


def test_padding_of_feedback_changes_nothing():
    """A row's loss is that of the row by itself, without padding."""
    network = alignment.language.make_network(MODEL, 12)
    objective = alignment.make_objective(make_config("sft"), network, pairs=False)
    texts = [b"ab", b"cd"], [b"xy", b"z"], [True, False]

    @jax.jit
    def measured(padded, tight):
        params = jax.tree.map(lambda x: 2 * x, network.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32)))
        rows = Resident(padded, params)
        collected = [objective.summary.collect((params,), {}, Resident(x, params), None) for x in (padded, tight)]
        return *collected, objective.loss((params,), objective.init(None, rows)[1], rows, jax.random.key(0))[0]

    padded, tight, loss = measured(*(alignment.unpaired(*texts, prompt=p, answer=a) for p, a in ((5, 6), (3, 3))))
    np.testing.assert_allclose(padded["nats"], tight["nats"], rtol=1e-5)
    np.testing.assert_array_equal(padded["bytes"], [3, 2])
    np.testing.assert_allclose(loss, padded["nats"][0] / 3, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------- methods


def test_a_method_sees_answers_and_the_models_that_judge_them(monkeypatch):
    seen = []

    def method(feedback, *, weight=2.0):
        seen.append(feedback)
        logits = feedback.policy(feedback.answers.tokens)
        return weight * jnp.mean(logits, axis=(1, 2)), {"first": feedback.answers.tokens[:, 0].astype(jnp.float32)}

    monkeypatch.setattr(alignment.experiments.Experiment, "bound", lambda self, config: method)
    objective = objective_of("sft")
    policies, variables = objective.init(jax.random.key(0), batch())
    value, _, metrics = loss_and_after(objective, policies, variables)
    feedback = seen[0]
    assert feedback.answers.where is None
    answers = np.where(np.arange(8)[:, None] % 2 == 0, pairs()["good"], pairs()["bad"])
    assert metrics["first"] == pytest.approx(answers[:, 0].mean())
    assert metrics["sft_loss"] == value
    tokens = np.concatenate([pairs()["prompt"][:, -1:], answers[:, :-1]], axis=1)
    logits = Bigrams().apply(policies[0], jnp.asarray(tokens, jnp.int32))
    np.testing.assert_allclose(value, 2 * jnp.mean(logits), rtol=1e-4)


def test_sft_learns_from_the_desirable_rows_alone():
    objective = objective_of("sft")
    policies, variables = objective.init(jax.random.key(0), batch())
    value, _, metrics = loss_and_after(objective, policies, variables)
    every_other = Resident({name: rows[::2] for name, rows in pairs().items()}, base())
    nats = jax.jit(objective.evaluate)(policies, variables, every_other, jax.random.key(0))["cross_entropy"]
    np.testing.assert_allclose(value, nats.mean(), rtol=1e-5)
    assert metrics["sft_loss"] == value


def test_kto_starts_at_one_half():
    """The policy is its reference, so that z0 = 0 and every loss is half of its weight."""
    for weight in (1.0, 3.0):
        objective = objective_of("kto", undesirable_weight=weight)
        policies, variables = objective.init(jax.random.key(0), batch())
        value, _, metrics = loss_and_after(objective, policies, variables)
        np.testing.assert_allclose(value, (0.5 + 0.5 * weight) / 2, rtol=1e-6)
        assert metrics["reference_point"] == 0


def test_every_method_gives_a_loss_an_answer_or_a_coupled():
    """Whatever is added to the family."""
    span = alignment.Span(jnp.zeros((2, 3), jnp.int32), None)

    def model(answers):
        return jnp.zeros((*answers.shape, 256))

    feedback = alignment.Feedback(span, jnp.array([True, False]), span, model, model, model, jax.random.key(0))
    experiment = alignment.experiments.get("alignment")
    assert set(experiment.methods) >= {"base", "kto", "sft"}
    for name in experiment.methods:
        found = experiment.method(name)(feedback)
        values = found.of_each() if isinstance(found, Coupled) else found
        assert all(leaf.shape[:1] == (2,) for leaf in jax.tree.leaves(values)), name


# ------------------------------------------------------------------------------------------------------------- stages


def test_two_stages_are_sft_then_kto_with_the_sft_model_as_reference():
    both, sft = objective_of("kto", protocol=dict(first="sft", first_steps=2)), objective_of("sft")
    policies, variables = both.init(jax.random.key(0), batch())
    models = [moved(policies[0], amount) for amount in (0.0, 0.01, 0.05, 0.09)]
    values = []
    for model in models:  # as if these were what the updates led to
        value, variables, _ = loss_and_after(both, (model,), variables)
        values.append(value)
        if len(values) <= 2:
            np.testing.assert_allclose(value, loss_and_after(sft, (model,), sft.init(None, batch())[1])[0], rtol=1e-6)
    np.testing.assert_allclose(values[2], 0.5, rtol=1e-6)  # the model at the change of stages is now the reference
    assert abs(values[3] - 0.5) > 1e-4
    jax.tree.map(np.testing.assert_array_equal, variables["references"][0], models[2])


def one_update(objective, state, rows, accumulate):
    optimizer = optax.sgd(1.0)
    return jax.jit(make_step(objective, optimizer, StepOptions(accumulate=accumulate)))(state, rows)


def test_micro_batches_of_one_row_give_the_loss_of_the_batch():
    """A row alone would be its own reference point, and so tell nothing of whether it is good."""
    objective = objective_of("kto", beta=0.5)
    state = init_state(objective, optax.sgd(1.0), jax.random.key(0), batch())
    state = state._replace(params=moved(state.params, 0.3))
    whole, parts = (one_update(objective, state, batch(), accumulate) for accumulate in (1, 8))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole[0].params, parts[0].params)
    assert whole[1]["reference_point"] == pytest.approx(float(parts[1]["reference_point"]), rel=1e-5)
    replaced, _ = one_update(objective, state, batch(bad=255 - pairs()["bad"]), 8)
    assert (
        max(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), replaced.params, parts[0].params))) > 1e-3
    )


def test_micro_batches_do_not_shorten_the_first_stage():
    objective = objective_of("kto", protocol=dict(first="sft", first_steps=2))
    state = init_state(objective, optax.sgd(1.0), jax.random.key(0), batch())
    losses = []
    for _ in range(3):
        state, metrics = one_update(objective, state, batch(), 2)
        losses.append(float(metrics["loss"]))
    assert min(losses[:2]) > 1
    assert losses[2] == pytest.approx(0.5)


def test_the_base_stays_as_it_is():
    objective = objective_of("base")
    policies, variables = objective.init(jax.random.key(0), batch())
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient_of(objective)(policies, variables)))


def test_loss_of_a_sharded_batch_is_that_of_one_device():
    """z0 is a mean over the global batch, of rows that were rolled over the edges of the shards."""
    objective = objective_of("kto", beta=0.5)
    (policy,), variables = objective.init(jax.random.key(0), batch())
    bytes_of = np.bincount(np.asarray(pairs(16)["good"]).ravel(), minlength=256)
    policies = (jax.tree.map(lambda x: x + jnp.asarray(bytes_of > 0, x.dtype), policy),)  # likelier, all of them
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    placed = Resident(
        jax.device_put(pairs(16), NamedSharding(mesh, PartitionSpec("data"))),
        jax.device_put(base(), NamedSharding(mesh, PartitionSpec())),
    )
    value, _, metrics = loss_and_after(objective, policies, variables, batch(16))
    sharded, _, sharded_metrics = loss_and_after(objective, policies, variables, placed)
    assert metrics["reference_point"] > 0
    np.testing.assert_allclose(sharded, value, rtol=1e-5)
    np.testing.assert_allclose(sharded_metrics["reference_point"], metrics["reference_point"], rtol=1e-4)


def test_in_half_precision_the_policy_starts_as_its_reference():
    """Base and reference are computed with as the policy is: else their rounding would look like progress."""
    for protocol in ({}, dict(first="sft", first_steps=0)):
        objective = objective_of("kto", protocol=protocol)
        state = init_state(objective, optax.sgd(0.0), jax.random.key(0), batch())
        step = make_step(objective, optax.sgd(0.0), StepOptions(compute_dtype="bfloat16"))
        for _ in range(2):
            state, metrics = jax.jit(step)(state, batch())
            assert metrics["kto_loss"] == 0.5
            assert metrics["reference_point"] == 0


# ------------------------------------------------------------------------------------------------------------- fusion


@pytest.mark.parametrize("merge", _merging.MERGES)
def test_two_policies_are_fused_for_the_evaluation(merge):
    fused = objective_of("kto", protocol=FUSED | dict(merge=merge, density=1.0, merge_t=0.2, merge_weights=(3.0, 1.0)))
    alone = objective_of("sft")
    policies, variables = fused.init(jax.random.key(0), batch())
    policies = tuple(moved(policy, amount) for policy, amount in zip(policies, (0.02, 0.06), strict=True))
    merged = {
        "linear": lambda: kto.linear_merge(policies, weights=(3.0, 1.0)),
        "slerp": lambda: kto.slerp_merge(*policies, t=0.2),
        "ties": lambda: kto.ties_merge(base(), policies, weights=(3.0, 1.0), density=1.0),
    }[merge]()
    metrics = jax.jit(fused.evaluate)(policies, variables, batch(), jax.random.key(0))
    expected = jax.jit(alone.evaluate)((merged,), variables, batch(), jax.random.key(0))
    assert set(metrics) == set(alignment.METRICS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), metrics, expected)


def test_policies_that_train_side_by_side_do_not_mix():
    """The other method is trained by itself, for all steps; the arm's own comes last."""
    both, sft = objective_of("kto", protocol=FUSED | dict(first="sft", first_steps=1)), objective_of("sft")
    own = objective_of("kto", protocol=dict(first="sft", first_steps=1))
    policies, variables = both.init(jax.random.key(0), batch())
    assert [reference is None for reference in variables["references"]] == [True, False]
    policies = tuple(moved(policy, amount) for policy, amount in zip(policies, (0.02, 0.06), strict=True))
    together, of_sft, of_own = map(gradient_of, (both, sft, own))
    for step in (0, 1, 2):
        at = variables | {"step": jnp.int32(step)}
        alone = (
            *of_sft(policies[:1], at | {"references": (None,)}),
            *of_own(policies[1:], at | {"references": at["references"][1:]}),
        )
        gradient = together(policies, at)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), gradient, alone)


# ------------------------------------------------------------------------------------------------- the base, the report


def small_task(name="kto", **options):
    """A whole task on a few rows, with a base that is kept."""
    config = make_config(
        name, sections=dict(train=dict(steps=4, batch_size=8, eval_batch_size=8, checkpoint_every=2)), **options
    )
    rows = Arrays(jax.tree.map(np.asarray, pairs(16)))
    objective = alignment.make_objective(config, Bigrams())
    return Task(objective, rows, rows, resident=Deferred(jax.eval_shape(base), base)), config


def test_the_base_is_no_part_of_what_is_saved():
    """It is resident: a state holds policies and the references of second stages, and no tree besides."""
    size = len(jax.tree.leaves(base()))
    for protocol, policies, references in (({}, 1, 0), (dict(first="sft", first_steps=1), 1, 1), (FUSED, 2, 0)):
        params, variables = jax.eval_shape(objective_of("kto", protocol=protocol).init, jax.random.key(0), batch())
        assert len(jax.tree.leaves(params)) == policies * size
        assert len(jax.tree.leaves(variables)) == 1 + references * size  # the step, and these


@pytest.mark.slow
def test_a_run_that_is_cut_off_goes_on_to_the_same_bits(tmp_path):
    protocol = FUSED | dict(first="sft", first_steps=2)
    runs = {}
    for name, stops in (("whole", (4,)), ("cut", (2, 4))):
        for steps in stops:
            task, config = small_task(protocol=protocol)
            config.train.steps = steps
            runs[name] = fit(task, config, workdir=tmp_path / name, progress=False)
    states = ([jax.random.key_data(run.state.key), run.state._replace(key=None)] for run in runs.values())
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, states))
    jax.tree.map(np.testing.assert_array_equal, *(run.metrics for run in runs.values()))


def test_the_task_binds_rows_and_a_base_of_their_length(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "folder", lambda spec: tmp_path / store.digest(spec))
    monkeypatch.setattr(store, "fit", lambda *a, **k: pytest.fail("a base was trained"))
    config = make_config()
    config.model.pretraining.steps = 3
    task = alignment.build(config)
    assert isinstance(task.resident, Deferred)
    assert (task.train.size, task.test.size, task.validation) == (
        len(data.windows("python_docs", "train+validation", 9)["tokens"]), 64, None,
    )  # fmt: skip
    batch = Resident(task.train.spec(8), task.resident.spec)
    policies, _ = jax.eval_shape(task.objective.init, jax.random.key(0), batch)
    assert jax.tree.map(lambda x: x.shape, policies) == (jax.tree.map(lambda x: x.shape, task.resident.spec),)
    value, _ = jax.eval_shape(task.objective.loss, policies, {"step": jnp.int32(0), "references": (None,)}, batch, None)
    assert value.shape == ()


def test_validation_is_apart_from_what_is_trained_on():
    config = make_config(sections=dict(train=dict(eval_split="validation")))
    with pytest.raises(ValueError, match=r"data\.train = 'train\+validation' holds the rows of data\.validation"):
        alignment.build(config)
    config.data.train = "train"
    task = alignment.build(config)
    text = data.windows("python_docs", "train", 9)["tokens"]
    np.testing.assert_array_equal(np.concatenate([task.train.arrays[x] for x in ("prompt", "good")], axis=1), text)
    assert task.validation.size == 64
    assert not np.array_equal(task.validation.arrays["good"], task.test.arrays["good"])


def test_figure_shows_every_arm_in_the_plane():
    config = ConfigDict(dict(experiment="alignment", arms=dict(start=dict(name="base"), sft={}, kto=dict(name="kto"))))
    config.claim = dict(metric="margin", better="kto", than="sft")
    config = configs.complete(config)
    rng = np.random.default_rng(0)
    results = {
        arm: ArmResult(
            {name: rng.normal(size=3) for name in alignment.METRICS},
            {name: (np.array([1, 2]), rng.normal(size=(3, 2))) for name in alignment.METRICS},
            1.0,
            config=configs.resolve_arm(config, arm),
        )
        for arm in ("start", "sft", "kto")
    }
    (ax,) = alignment.figure(config, results).axes
    assert ax.get_xlabel() == "cross-entropy of good answers [nats/byte]"
    assert ax.get_ylabel() == "margin of good over bad answers [nats]"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(results)
    ways = [line for line in ax.lines if line.get_marker() == "." and len(line.get_xdata()) == 3]
    assert len(ways) == 2
    assert all(way.get_xdata()[0] == pytest.approx(results["start"].metrics["cross_entropy"].mean()) for way in ways)


@pytest.mark.parametrize(
    ("protocol", "named"),
    [
        (dict(first="dpo"), r"protocol\.first must be a method \(base, kto, sft\), got 'dpo'"),
        (dict(fuse_with="sfd"), r"protocol\.fuse_with must be a method .*Did you mean 'sft'"),
        (dict(merge="average"), r"protocol\.merge must be one of"),
        (dict(first_steps=-1), r"protocol\.first_steps must be at least 0"),
        (dict(merge_weights=(1.0,)), r"protocol\.merge_weights must be two"),
        (dict(first="tests_of_alignment:needs_more"), r"protocol\.first: .* no default for its setting 'weight'"),
    ],
)
def test_bad_settings_are_named(protocol, named, monkeypatch):
    import sys
    import types

    def needs_more(feedback, *, weight):
        return weight

    module = types.ModuleType("tests_of_alignment")
    module.needs_more = needs_more
    monkeypatch.setitem(sys.modules, "tests_of_alignment", module)
    with pytest.raises(ValueError, match=named):
        objective_of("kto", protocol=protocol)


def test_a_setting_of_another_method_is_refused():
    with pytest.raises(ValueError, match=r"arms\.main\.beta: method 'sft' has no such setting.*setting of kto"):
        make_config("sft", beta=0.2)


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match=r"data\.answer"):
        alignment.paired("python_docs", "test", prompt=4, answer=0, seed=0)
