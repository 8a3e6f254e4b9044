"""`--aot` compiles the program that `--arm` runs: all seeds, the dispatch, the data on the device."""

import jax
import pytest
from small_runs import shrink

from lemmata.train import aot, experiments
from lemmata.train.engine import loop, sharding
from lemmata.train.engine.program import Program
from lemmata.train.judge import compare
from lemmata.train.judge import config as configs


def small(name, **train):
    config = shrink(configs.load(f"configs/{name}.py"))
    config.train.update(train)
    return configs.complete(config)


@pytest.mark.parametrize("vmap_seeds", [True, False])
@pytest.mark.parametrize("name", ["language_model", "transforms/federated_mvr"])  # arrays, a sampler with resident data
def test_what_is_compiled_is_what_runs(name, vmap_seeds, monkeypatch):
    config = small(name)
    config.vmap_seeds = vmap_seeds
    arm = config.claim.better
    lowered, _ = aot.lower(config, jax.devices()[:1], arm)

    dispatched = []
    advance = Program.advance

    def spy(self, length):
        function = advance(self, length)

        def run(state, data, inputs):
            dispatched.append(function.lower(state, data, inputs).as_text())
            return function(state, data, inputs)

        return run

    monkeypatch.setattr(Program, "advance", spy)
    config.mesh.data = 1
    compare.run_arm(config, arm)
    assert lowered.as_text() == dispatched[0]


def test_the_state_of_all_seeds_is_counted():
    config = small("language_model")
    resolved = configs.resolve_arm(config, "rotary")
    task = experiments.get(config.experiment).build(resolved, "rotary")
    one = Program(task, resolved, sharding.make_mesh(resolved.mesh, jax.devices()[:1]), seeds=(0,))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one.abstract_state.params))
    lowered, head = aot.lower(config, jax.devices()[:1], "rotary")
    assert f"{len(config.seeds)} seeds at once" in head
    params = jax.tree.leaves(lowered.args_info[0][0].params)
    found = sum(leaf._aval.size * leaf._aval.dtype.itemsize for leaf in params)
    assert found == len(config.seeds) * size


def test_a_stream_is_compiled_for_its_batches():
    config = small("language_model")
    config.data.stream = True
    resolved = configs.resolve_arm(config, "rotary")
    task = experiments.get(config.experiment).build(resolved, "rotary")
    run = Program(task, resolved, sharding.make_mesh(resolved.mesh), seeds=(0,))
    length = loop.next_stop(0, resolved.train, run.feed.span)
    shapes, actual = run.feed.abstract_inputs(length), run.feed.inputs(0, length)
    jax.tree.map(
        lambda a, b: pytest.fail(f"{a} {b}") if (a.shape, a.dtype) != (b.shape, b.dtype) else None, shapes, actual
    )
