"""Checkpoints: what is kept, what damage does, other meshes, a disk that is full."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.train.engine import checkpoint, loop, sharding
from lemmata.train.engine.program import Program


def state_of(task, config, data=1, strategy="replicate"):
    config.mesh.data, config.mesh.strategy = data, strategy
    program = Program(task, config, sharding.make_mesh(config.mesh))
    return program, program.init()


def damage(folder, step, how):
    files = [f for f in (folder / str(step)).rglob("*") if f.is_file()]
    for file in files if how == "emptied" else [f for f in files if f.parent.name == "d"]:
        raw = bytearray(file.read_bytes())
        if how == "truncated":
            file.write_bytes(raw[: len(raw) // 2])
        elif how == "deleted":
            file.unlink()
        elif how == "flipped":
            raw[len(raw) // 2] ^= 0xFF
            file.write_bytes(raw)
        elif how == "emptied":
            file.write_bytes(b"")


def test_newest_and_best_are_kept(task, config, tmp_path):
    config.train.keep, config.train.best_metric = 2, "error"
    _, state = state_of(task, config)
    saved = checkpoint.Checkpoints(tmp_path, config.train)
    for step, error in zip(range(1, 7), [5.0, 1.0, 3.0, 4.0, 2.0, 6.0], strict=True):
        saved.save(step, state, None, {"error": np.array([error])})
    saved.wait()
    assert saved.steps() == [2, 5, 6]
    saved.close()


@pytest.mark.parametrize(
    ("errors", "direction", "kept"),
    [
        ([[3.0], [1.0], [np.nan], [4.0], [5.0]], "lower", [2, 5]),
        ([[3.0], [1.0], [-np.inf], [4.0], [2.0]], "lower", [2, 5]),
        ([[3.0], [9.0], [np.inf], [4.0], [2.0]], "higher", [2, 5]),
        ([[np.nan], [np.nan], [4.0], [5.0]], "lower", [3, 4]),
        ([[3.0, np.nan], [1.0, np.nan], [2.0, np.nan]], "lower", [2, 3]),  # one seed does not hide the others' best
        ([[np.nan], [np.nan]], "lower", [2]),
    ],
)
def test_a_metric_that_is_not_finite_is_never_the_best(task, config, tmp_path, errors, direction, kept):
    config.train.keep, config.train.best_metric, config.train.best_direction = 1, "error", direction
    _, state = state_of(task, config)
    saved = checkpoint.Checkpoints(tmp_path, config.train)
    for step, error in enumerate(errors, start=1):
        saved.save(step, state, None, {"error": np.array(error)})
    saved.wait()
    assert saved.steps() == kept
    saved.close()


@pytest.mark.parametrize("how", ["truncated", "deleted", "flipped", "emptied"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(task, config, tmp_path, caplog, how):
    config.train.checkpoint_every = 8
    whole = loop.fit(task, config, (0,), workdir=tmp_path)
    damage(tmp_path / "checkpoints", 24, how)
    resumed = loop.fit(task, config, (0,), workdir=tmp_path)
    assert "step 24" in caplog.text
    np.testing.assert_array_equal(resumed.state.params["kernel"], whole.state.params["kernel"])
    assert (tmp_path / "checkpoints" / "24").exists()  # written anew


def test_all_damaged_is_an_error_that_says_so(task, config, tmp_path):
    loop.fit(task, config, (0,), workdir=tmp_path)
    damage(tmp_path / "checkpoints", 24, "emptied")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be restored"):
        loop.fit(task, config, (0,), workdir=tmp_path)
    assert (tmp_path / "checkpoints" / "24").exists()  # nothing is thrown away


@pytest.mark.parametrize(("wrote", "reads"), [((8, "fsdp"), (1, "replicate")), ((1, "replicate"), (8, "fsdp"))])
def test_a_checkpoint_of_another_mesh_restores(task, config, tmp_path, monkeypatch, wrote, reads):
    monkeypatch.setattr(sharding, "FSDP_MIN_SIZE", 1)
    config.train.ema = 0.9
    _, state = state_of(task, config, *wrote)
    saved = checkpoint.Checkpoints(tmp_path, config.train)
    saved.save(3, state, {"next": 7}, {})
    saved.close()
    program, _ = state_of(task, config, *reads)
    restored = checkpoint.Checkpoints(tmp_path, config.train).restore(program.abstract_state)
    assert (restored.step, restored.stream) == (3, {"next": 7})
    np.testing.assert_array_equal(restored.state.params["kernel"], state.params["kernel"])
    keys = [np.asarray(jax.random.key_data(s.key)) for s in (restored.state, state)]
    np.testing.assert_array_equal(*keys)
    jax.tree.map(
        lambda leaf, where: leaf.sharding == where or pytest.fail(str(leaf)), restored.state, program.state_sharding
    )


def test_checksums_find_any_change_and_not_the_sharding():
    x = jax.random.normal(jax.random.key(0), (16, 24))
    tree = {"a": x, "b": x.astype(jnp.bfloat16), "c": jnp.arange(7) > 3, "k": jax.random.key(1), "s": jnp.int32(4)}
    sums = checkpoint.checksums(tree)
    assert checkpoint.checksums({**tree, "a": x.at[3, 5].add(1e-6)})["a"] != sums["a"]
    assert checkpoint.checksums({**tree, "a": x[::-1]})["a"] != sums["a"]
    assert checkpoint.checksums({**tree, "c": ~tree["c"]})["c"] != sums["c"]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(x, jax.NamedSharding(mesh, jax.P(None, "data")))
    assert checkpoint.checksums({**tree, "a": split}) == sums
