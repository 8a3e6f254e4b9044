"""What a method may need beyond a loss: variables, a choice of examples, transformations, projections, summaries."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lemmata.train.engine.hooks import Hooks, hooks, hooks_of, make_objective
from lemmata.train.engine.loop import fit
from lemmata.train.engine.losses import Coupled
from lemmata.train.engine.sources import Arrays, Batches, Joint, Sampler, Splits
from lemmata.train.engine.stream import Stream
from lemmata.train.engine.task import Summary, Task

CONFIG = dict(
    train=dict(steps=12, batch_size=8, steps_per_dispatch=4, log_every=4, eval_batch_size=16),
    optimizer=dict(name="sgd", learning_rate=0.05),
    mesh=dict(data=1),
)
ROWS = 40


def rows(size=ROWS, seed=0):
    x = np.random.default_rng(seed).normal(size=(size, 3)).astype(np.float32)
    return {"x": x, "y": x @ np.array([1.0, -2.0, 0.5], np.float32), "index": np.arange(size, dtype=np.int32)}


def errors(params, batch):
    return (batch["x"] @ params["w"] - batch["y"]) ** 2


def task(parts=None, **changes):
    parts = parts or Hooks(lambda seen: seen["error"])

    def see(params, batch, key):
        return {**batch, "error": errors(params, batch)}

    objective = make_objective(
        parts,
        init=lambda key, batch: {"w": jax.random.normal(key, (3,))},
        see=see,
        evaluate=lambda params, held, batch, key: {"error": errors(params, batch)},
        summary=changes.pop("summary", None),
    )
    return Task(objective, **{"train": rows(), "test": rows(23, seed=1), **changes})


def test_variables_are_held_and_updated_by_index():
    """Each example remembers how often it was seen: after 40 rows and 12 steps of 8, in all 96 times."""

    @hooks
    def counted(problem, *, start=0):
        assert problem == "problem"
        return Hooks(
            loss=lambda seen, held: (seen["error"], {"seen": held["count"][seen["index"]].astype(jnp.float32)}),
            variables=lambda key: {"count": jnp.full(ROWS, start)},
            update=lambda held, seen, each: {"count": held["count"].at[seen["index"]].add(1)},
        )

    result = fit(task(hooks_of(counted, "problem")), CONFIG, (0, 1))
    counts = np.asarray(result.state.variables["count"])
    assert counts.sum(axis=1).tolist() == [96, 96]
    assert set(counts.ravel()) <= {2, 3}  # two epochs and a part of the third
    assert result.history["train/seen"][1][0, -1] > 1


def test_examples_are_chosen_from_the_state_and_a_run_that_stopped_chooses_the_same(tmp_path):
    """Of twice the batch, those with the largest error; what was chosen is remembered."""

    def choose(params, held, offer):
        offered = jax.tree.map(lambda x: x[offer.rows], offer.examples)
        rows = offer.rows[jax.lax.top_k(errors(params, offered), 8)[1]]
        return rows, {"chosen": held["chosen"].at[rows].add(1), "steps": held["steps"].at[offer.step].set(1)}

    parts = Hooks(
        loss=lambda seen, held: seen["error"],
        variables=lambda key: {"chosen": jnp.zeros(ROWS, jnp.int32), "steps": jnp.zeros(12, jnp.int32)},
        choose=choose,
        candidates=2,
    )
    whole = fit(task(parts), CONFIG, (3,))
    held = jax.device_get(whole.state.variables)
    assert held["chosen"].sum() == 96
    assert held["steps"].sum() == 12
    assert held["chosen"].max() > held["chosen"].min() + 1  # the epochs' own order would differ by one at most

    for steps in (4, 12):
        config = CONFIG | {"train": CONFIG["train"] | {"steps": steps}}
        resumed = fit(task(parts), config, (3,), workdir=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, held, jax.device_get(resumed.state.variables))
    np.testing.assert_array_equal(whole.state.params["w"], resumed.state.params["w"])


def test_a_choice_from_what_is_drawn():
    parts = Hooks(lambda seen: seen["error"], choose=lambda params, held, offer: (offer.rows[::2], held), candidates=2)

    def sample(key, n):
        x = jax.random.normal(key, (n, 3))
        return {"x": x, "y": x[:, 0], "index": jnp.arange(n)}

    assert np.isfinite(fit(task(parts, train=Sampler(sample)), CONFIG).metrics["error"]).all()
    wrong = Hooks(lambda seen: seen["error"], choose=lambda params, held, offer: (offer.rows, held), candidates=2)
    with pytest.raises(ValueError, match=r"choose must give rows \[8\].*\[16\]"):
        fit(task(wrong, train=Sampler(sample)), CONFIG)


def test_transformations_stand_before_and_after_the_optimizer():
    """Adam hides the scale of a gradient, but not that of its own step; momentum would hide neither."""
    config = CONFIG | {"optimizer": dict(name="adam", learning_rate=0.05)}
    plain = fit(task(), config).state.params["w"]
    before = fit(task(Hooks(lambda seen: seen["error"], before=optax.scale(1e-2))), config).state.params["w"]
    after = fit(task(Hooks(lambda seen: seen["error"], after=optax.scale(0.0))), config)
    np.testing.assert_allclose(before, plain, atol=1e-3)
    start = fit(
        task(), config | {"train": config["train"] | {"steps": 1}, "optimizer": dict(name="sgd", learning_rate=0.0)}
    )
    np.testing.assert_array_equal(after.state.params["w"], start.state.params["w"])
    named = fit(task(), config | {"optimizer": config["optimizer"] | {"after": (("scale", {"step_size": 0.0}),)}})
    np.testing.assert_array_equal(named.state.params["w"], start.state.params["w"])


def test_transformations_see_variables_and_the_loss():
    def update(updates, state, params=None, *, variables, value, **_):
        return jax.tree.map(lambda u: u * variables["on"], updates), value

    inner = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    parts = Hooks(
        loss=lambda seen, held: seen["error"],
        variables=lambda key: {"on": jnp.array([1.0, 0.0, 0.0])},
        before=inner,
    )
    one = fit(task(parts), CONFIG | {"train": CONFIG["train"] | {"steps": 1}}).state
    many = fit(task(parts), CONFIG).state
    np.testing.assert_array_equal(one.params["w"][1:], many.params["w"][1:])
    assert one.params["w"][0] != many.params["w"][0]
    assert float(one.opt_state[0]) > 0


def test_a_projection_lands_exactly():
    mask = jnp.array([1.0, 0.0, 1.0])
    parts = Hooks(lambda seen: seen["error"], project=lambda params, held: {"w": params["w"] * mask})
    assert float(fit(task(parts), CONFIG).state.params["w"][1]) == 0.0


def test_predictions_and_losses_of_a_batch_in_parts():
    """A coupled loss, accumulated, is that of the whole batch; what was updated saw the whole batch once."""
    parts = Hooks(
        loss=lambda seen, held: Coupled(lambda: seen["error"], lambda e: jax.nn.logsumexp(e)),
        variables=lambda key: {"mean": jnp.zeros(()), "steps": jnp.zeros((), jnp.int32)},
        update=lambda held, seen, each: {"mean": jnp.mean(each), "steps": held["steps"] + 1},
    )
    whole = fit(task(parts), CONFIG).state
    split = fit(task(parts), CONFIG | {"train": CONFIG["train"] | {"accumulate": 4}}).state
    np.testing.assert_allclose(split.params["w"], whole.params["w"], rtol=1e-5)
    np.testing.assert_allclose(split.variables["mean"], whole.variables["mean"], rtol=1e-4)
    assert int(split.variables["steps"]) == 12


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_summary_is_of_exactly_the_examples_in_their_order(seeds):
    summary = Summary(
        lambda params, held, batch, key: {"y": batch["y"], "error": errors(params, batch)},
        lambda found, train: {
            "order": float(np.abs(found["y"] - rows(23, seed=1)["y"]).max()),
            "mean_error": float(found["error"].mean()),
            "training_rows": float(len(train["y"])),
        },
        train=True,
    )
    metrics = fit(task(summary=summary), CONFIG, seeds).metrics
    assert metrics["order"].tolist() == [0.0] * len(seeds)
    assert metrics["training_rows"].tolist() == [40.0] * len(seeds)
    np.testing.assert_allclose(metrics["mean_error"], metrics["error"], rtol=1e-5)


def test_a_summary_must_not_take_the_name_of_a_metric():
    summary = Summary(lambda params, held, batch, key: batch["y"], lambda y: {"error": 0.0})
    with pytest.raises(ValueError, match="'error'"):
        fit(task(summary=summary), CONFIG)


def test_several_held_out_sets_and_a_validation_split():
    sets = Splits({"near": Arrays(rows(23, seed=1)), "far": Arrays(jax.tree.map(lambda x: 3 * x, rows(10, seed=2)))})
    found = fit(task(test=sets, validation=rows(9, seed=3)), CONFIG)
    alone = fit(task(), CONFIG)
    np.testing.assert_array_equal(found.metrics["near/error"], alone.metrics["error"])
    assert found.metrics["far/error"] > 0
    config = CONFIG | {"train": CONFIG["train"] | {"eval_split": "validation"}}
    validated = fit(task(validation=rows(23, seed=1)), config)
    np.testing.assert_array_equal(validated.metrics["error"], alone.metrics["error"])
    assert "validation/error" in validated.history
    with pytest.raises(ValueError, match=r"eval_split.*no validation"):
        fit(task(), config)


def test_each_seed_has_rows_and_arrays_of_its_own():
    """Seed 0 trains on even rows and seed 1 on odd ones; a world of its own shifts what is learned."""

    def of_seed(seed):
        return np.arange(seed % 2, ROWS, 2)

    def see(params, batch, key):
        return {"error": errors(params, batch.batch) + 0 * batch.own["shift"], "index": batch.batch["index"]}

    parts = Hooks(
        lambda seen, held: seen["error"],
        variables=lambda key: {"count": jnp.zeros(ROWS, jnp.int32)},
        update=lambda held, seen, each: {"count": held["count"].at[seen["index"]].add(1)},
    )
    objective = make_objective(
        parts,
        init=lambda key, batch: {"w": jnp.full(3, batch.own["shift"])},
        see=see,
        evaluate=lambda params, held, batch, key: {
            "error": errors(params, batch.batch),
            "odd": (batch.batch["index"] % 2).astype(jnp.float32),
            "shift": batch.own["shift"],
        },
    )
    data = Arrays(rows(), of_seed)
    own = Task(objective, data, data, own=lambda seed: {"shift": np.float32(seed)})
    both, alone = fit(own, CONFIG, (0, 1)), fit(own, CONFIG, (1,))
    counts = np.asarray(both.state.variables["count"])
    assert counts[0, 1::2].sum() == counts[1, ::2].sum() == 0
    assert both.metrics["odd"].tolist() == [0.0, 1.0]
    assert both.metrics["shift"].tolist() == [0.0, 1.0]
    np.testing.assert_allclose(both.state.params["w"][1], alone.state.params["w"], rtol=1e-5)
    with pytest.raises(ValueError, match="rows must be"):
        fit(own._replace(train=Arrays(rows(), lambda seed: np.arange(10 + seed))), CONFIG, (4, 5))


def test_two_sources_at_once_each_in_an_order_of_its_own():
    def see(params, batch, key):
        old, new = batch["old"], batch["new"]
        assert (len(old["y"]), len(new["y"])) == (8, 16)
        return {"error": errors(params, old), "old": old["index"], "new": new["index"]}

    parts = Hooks(
        lambda seen, held: seen["error"],
        variables=lambda key: {"old": jnp.zeros(ROWS, jnp.int32), "new": jnp.zeros(ROWS, jnp.int32)},
        update=lambda held, seen, each: {name: held[name].at[seen[name]].add(1) for name in held},
    )
    objective = make_objective(
        parts,
        init=lambda key, batch: {"w": jnp.zeros(3)},
        see=see,
        evaluate=lambda params, held, batch, key: {"error": errors(params, batch)},
    )
    stream = Stream(rows(), batch_size=16, seed=0)
    for new in (rows(), stream):
        joint = Joint({"old": rows(), "new": new}, {"new": 2})
        held = jax.device_get(fit(Task(objective, joint, rows(7)), CONFIG, (0,)).state.variables)
        assert held["old"].sum() == 96
        assert held["new"].sum() == 192
        assert set(held["new"]) <= {4, 5}


class Endless:
    """A user's own iterator, with a position."""

    def __init__(self):
        self.place = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.place += 1
        return jax.tree.map(lambda x: x[np.arange(8 * self.place - 8, 8 * self.place) % ROWS], rows())

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def without_position():
    yield from (batch for batch in Endless())


@pytest.mark.parametrize("make", [Endless, without_position])
def test_a_user_s_iterator_trains_and_is_resumed(make, tmp_path):
    whole = fit(task(train=make()), CONFIG).state
    for steps in (4, 12):
        resumed = fit(
            task(train=make()), CONFIG | {"train": CONFIG["train"] | {"steps": steps}}, workdir=tmp_path
        ).state
    np.testing.assert_array_equal(whole.params["w"], resumed.params["w"])


def test_held_out_data_that_stream_give_what_arrays_give():
    split = rows(23, seed=1)
    batches = [jax.tree.map(lambda x, i=i: x[i : i + 16], split) for i in (0, 16)]
    expected = fit(task(), CONFIG, (0, 1)).metrics["error"]
    for test in (Stream(split, batch_size=1, seed=0), batches, Batches(batches)):
        np.testing.assert_allclose(fit(task(test=test), CONFIG, (0, 1)).metrics["error"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train=3), "train must be a dict of arrays, a function"),
        (dict(train=iter([rows(8)])), "the data ended after 1 batches"),
        (dict(train=Batches([rows(7)])), r"train.batch_size: .* 8 rows"),
        (dict(test=iter([rows(8)])), "cannot be read a second time"),
        (dict(test=[rows(17)]), "held-out batch 0 .* 17 rows"),
        (dict(test=Joint({"a": rows()})), "joint source is for training"),
    ],
)
def test_what_is_no_source_is_told_in_words(changes, message):
    with pytest.raises(ValueError, match=message):
        fit(task(**changes), CONFIG)
