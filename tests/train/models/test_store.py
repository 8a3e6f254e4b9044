"""Kept models: made once for all who ask, read back bit for bit, made anew where they are damaged."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lemmata.train import models
from lemmata.train.engine.loop import fit
from lemmata.train.engine.sources import Arrays, Deferred
from lemmata.train.engine.task import Objective, Task
from lemmata.train.models import store

SPEC = {"what": "some arrays", "sizes": (3, 4), "seed": 0}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    return tmp_path / "models"


def tree():
    """Leaves of all kinds, in a structure of all kinds."""
    key = jax.random.key(0)
    return {
        "a": (jax.random.normal(key, (3, 4)), jnp.array([-0.0, jnp.inf, 1e-42])),
        "b": optax.ScaleByAdamState(jnp.array(7), {"mu": jnp.ones((2, 0))}, {"nu": jnp.float32(0.1)}),
        "c": [jnp.array([1.5, -2.5], jnp.bfloat16), jnp.array([True, False]), None],
        "file": jnp.arange(3, dtype=jnp.uint8),
    }


class Counted:
    """How often something was made."""

    def __init__(self, make=tree):
        self.count, self._make = 0, make

    def __call__(self):
        self.count += 1
        return self._make()


def same_bits(one, other):
    def compare(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()

    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(compare, one, other)


def test_what_is_read_is_what_was_made_bit_for_bit(folder):
    make = Counted()
    first = models.kept(SPEC, make, tree).make()
    again = models.kept(SPEC, make, tree).make()
    assert make.count == 1
    same_bits(first, tree())
    same_bits(again, tree())
    assert isinstance(again["b"], optax.ScaleByAdamState)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(first) + jax.tree.leaves(again))
    assert [path.name for path in folder.iterdir()] == [models.digest(SPEC)]


def test_shapes_are_known_without_making_reading_or_writing(folder):
    def refused():
        raise AssertionError("it was made")

    deferred = models.kept(lambda: refused(), refused, tree)
    assert isinstance(deferred, Deferred)
    expected = jax.tree.map(lambda x: (x.shape, x.dtype), tree())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), deferred.spec) == expected
    assert not folder.exists()


def test_a_spec_that_differs_anywhere_is_another_model():
    make = Counted()
    models.kept(SPEC, make, tree).make()
    for other in (SPEC | {"seed": 1}, SPEC | {"sizes": (3, 5)}, SPEC | {"more": None}):
        assert models.digest(other) != models.digest(SPEC)
        models.kept(other, make, tree).make()
    assert make.count == 4
    reordered = dict(reversed(list(SPEC.items()))) | {"sizes": [3, 4]}
    assert models.digest(reordered) == models.digest(SPEC)


def damage_a_byte(place):
    arrays = place / "arrays.npz"
    content = bytearray(arrays.read_bytes())
    start = content.index(np.asarray(tree()["a"][0]).tobytes())
    content[start] ^= 1
    arrays.write_bytes(content)


def damage_a_checksum(place):
    """As if a byte had changed and the zip's own check had not seen it."""
    record = json.loads((place / "record.json").read_text())
    record["sha256"][0] = record["sha256"][1]
    (place / "record.json").write_text(json.dumps(record))


DAMAGE = {
    "a byte": damage_a_byte,
    "a checksum": damage_a_checksum,
    "cut off": lambda place: (place / "arrays.npz").write_bytes((place / "arrays.npz").read_bytes()[:200]),
    "no arrays": lambda place: (place / "arrays.npz").unlink(),
    "no record": lambda place: (place / "record.json").unlink(),
    "no JSON": lambda place: (place / "record.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_reported_and_made_anew(damage, folder, caplog):
    make = Counted()
    models.kept(SPEC, make, tree).make()
    DAMAGE[damage](folder / models.digest(SPEC))
    with caplog.at_level(logging.WARNING):
        same_bits(models.kept(SPEC, make, tree).make(), tree())
    assert make.count == 2
    assert "damaged" in caplog.text
    assert models.digest(SPEC) in caplog.text
    caplog.clear()
    same_bits(models.kept(SPEC, make, tree).make(), tree())
    assert make.count == 2
    assert not caplog.text


def test_one_that_does_not_fit_what_is_asked_for_is_made_anew(caplog):
    """The code has changed, and its author forgot to say so in the spec."""
    models.kept(SPEC, lambda: {"x": jnp.zeros(3)}, lambda: {"x": jnp.zeros(3)}).make()
    found = models.kept(SPEC, lambda: {"x": jnp.ones(4)}, lambda: {"x": jnp.zeros(4)}).make()
    np.testing.assert_array_equal(found["x"], np.ones(4))
    assert "does not fit" in caplog.text


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: {"x": jnp.zeros(4)}, r"\['x'\] float32 \[3\], got \['x'\] float32 \[4\]"),
        (lambda: {"x": jnp.zeros(3, jnp.int32)}, "got .*int32"),
        (lambda: {"y": jnp.zeros(3)}, r"got .*\['y'\]"),
        (lambda: {"x": jnp.zeros(3), "y": jnp.zeros(3)}, "another structure"),
    ],
)
def test_what_is_made_must_be_what_was_announced(make, named, folder):
    with pytest.raises(ValueError, match=named):
        models.kept(SPEC, make, lambda: {"x": jnp.zeros(3)}).make()
    assert not list(folder.glob("*")) if folder.exists() else True


def test_a_spec_that_json_cannot_hold_is_named():
    with pytest.raises(ValueError, match=r"rate must be numbers, strings"):
        models.kept({"rate": np.float32(1)}, tree, tree).make()


def test_a_failure_leaves_nothing_behind(folder):
    def fails():
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        models.kept(SPEC, fails, tree).make()
    assert not folder.exists()
    make = Counted()
    models.kept(SPEC, make, tree).make()
    assert make.count == 1
    assert not list(folder.parent.glob(".*lock"))


# -------------------------------------------------------------------------------------------------- several who ask


def test_threads_that_ask_at_once_make_it_once():
    started = threading.Event()

    def slowly():
        started.set()
        time.sleep(0.3)
        return tree()

    make = Counted(slowly)
    with ThreadPoolExecutor(4) as pool:
        found = [job.result() for job in [pool.submit(models.kept(SPEC, make, tree).make) for _ in range(4)]]
    assert make.count == 1
    for one in found:
        same_bits(one, tree())


ASK = """
import sys, time
import jax.numpy as jnp
from pathlib import Path
from lemmata.train import models

def make():
    with open(sys.argv[1], "a") as file:
        file.write("made\\n")
    Path(sys.argv[2]).touch()
    time.sleep(1.0)
    return {"x": jnp.arange(5.0)}

found = models.kept({"what": "asked for by two"}, make, lambda: {"x": jnp.zeros(5)}).make()
print(found["x"].tolist())
"""


def ask(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", ASK, *map(str, arguments)],
        env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_processes_that_ask_at_once_make_it_once(tmp_path):
    log, begun = tmp_path / "log", tmp_path / "begun"
    processes = [ask(log, begun) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [out.strip() for out, _ in outputs] == ["[0.0, 1.0, 2.0, 3.0, 4.0]"] * 2
    assert log.read_text() == "made\n"


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_makes_leaves_nothing_that_counts(tmp_path, folder):
    log, begun = tmp_path / "log", tmp_path / "begun"
    first = ask(log, begun)
    while not begun.exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.kill()
    first.communicate()
    second = ask(log, begun)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert out.strip() == "[0.0, 1.0, 2.0, 3.0, 4.0]"
    assert log.read_text() == "made\nmade\n"
    assert [path.name for path in folder.iterdir()] == [models.digest({"what": "asked for by two"})]


TOGETHER = """
import sys
import jax, jax.numpy as jnp, numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from lemmata.train import models

made = []

def make():
    made.append(1)
    return {"x": jnp.array([-0.0, 1.5]), "y": jnp.arange(3, dtype=jnp.int32)}

shapes = {"x": jnp.zeros(2), "y": jnp.zeros(3, jnp.int32)}
for _ in range(2):
    found = models.kept({"what": "made by a run"}, make, shapes).make()
    print("made", len(made), {name: leaf.tobytes().hex() for name, leaf in found.items()})
"""


@pytest.mark.slow
def test_the_processes_of_one_run_make_it_together_and_read_it_from_the_first_one_s_disk(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, address, str(index)],
            env={**os.environ, "XLA_FLAGS": "", "LEMMATA_DATA": str(tmp_path / str(index))},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    leaves = {"x": np.float32([-0.0, 1.5]).tobytes().hex(), "y": np.arange(3, dtype=np.int32).tobytes().hex()}
    told = [[line for line in out.splitlines() if line.startswith("made")] for out, _ in outputs]
    assert told == [[f"made 1 {leaves}"] * 2] * 2
    assert (tmp_path / "0" / "models").exists()
    assert not (tmp_path / "1").exists()


def test_a_folder_that_a_process_left_half_written_is_removed(folder):
    leftover = folder / f".{models.digest(SPEC)}.writing"
    leftover.mkdir(parents=True)
    (leftover / "arrays.npz").write_bytes(b"half")
    models.kept(SPEC, tree, tree).make()
    assert [path.name for path in folder.iterdir()] == [models.digest(SPEC)]


def test_where_nothing_can_be_written_it_is_made_and_said(monkeypatch, tmp_path, caplog):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("LEMMATA_DATA", str(file))
    make = Counted()
    same_bits(models.kept(SPEC, make, tree).make(), tree())
    assert make.count == 1
    assert "will not be kept" in caplog.text
    assert "LEMMATA_DATA" in caplog.text


def test_a_full_disk_is_reported_and_the_model_is_used(monkeypatch, folder, caplog):
    def full(*arguments, **columns):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    same_bits(models.kept(SPEC, tree, tree).make(), tree())
    assert "No space left on device" in caplog.text
    assert not list(folder.iterdir())


# ------------------------------------------------------------------------------------------------------------ trained


def line_task():
    def init(key, batch):
        return {"slope": jax.random.normal(key, ())}, {}

    def loss(params, variables, batch, key):
        return jnp.mean((params["slope"] * batch["x"] - batch["y"]) ** 2), (variables, {})

    x = np.linspace(0, 1, 16, dtype=np.float32)
    rows = {"x": x, "y": 3 * x}
    return Task(Objective(init, loss, lambda *_: {}, couples=False), Arrays(rows), Arrays(rows))


def config(**sections):
    train = dict(steps=4, batch_size=8) | sections.pop("train", {})
    return dict(train=train, optimizer=dict(learning_rate=0.1), mesh=dict(data=1)) | sections


def slope(key):
    return {"slope": jax.random.normal(key, ())}


@pytest.mark.parametrize(("seeds", "ema"), [((3,), 0.5), ((3, 5), 0.0)])
def test_trained_is_what_fit_ends_with(seeds, ema):
    asked = config(train=dict(ema=ema))
    task = Counted(line_task)
    deferred = models.trained({"what": "a line"}, task, asked, seeds, slope)
    assert deferred.spec["slope"].shape == ((2,) if len(seeds) > 1 else ())
    assert task.count == 0
    state = fit(line_task(), asked, seeds, progress=False).state
    same_bits(deferred.make(), jax.device_get(state.ema if ema else state.params))
    models.trained({"what": "a line"}, task, asked, seeds, slope).make()
    assert task.count == 1


def test_what_changes_the_numbers_makes_another_model_and_what_does_not_does_not(monkeypatch):
    trained = []

    def quickly(task, config, seeds, **options):
        trained.append((config, seeds))
        slopes = np.zeros((len(seeds),) if len(seeds) > 1 else (), np.float32)
        return SimpleNamespace(state=SimpleNamespace(ema=None, params={"slope": slopes}))

    monkeypatch.setattr(store, "fit", quickly)
    others = [
        ({"what": "a line"}, line_task, config(), (0,)),
        ({"what": "another"}, line_task, config(), (0,)),
        ({"what": "a line"}, line_task, config(), (1,)),
        ({"what": "a line"}, line_task, config(), (0, 1)),
        ({"what": "a line"}, line_task, config(train=dict(steps=5)), (0,)),
        ({"what": "a line"}, line_task, config(train=dict(batch_size=4)), (0,)),
        ({"what": "a line"}, line_task, config(train=dict(compute_dtype="bfloat16")), (0,)),
        ({"what": "a line"}, line_task, config(optimizer=dict(learning_rate=0.2)), (0,)),
        ({"what": "a line"}, line_task, config(optimizer=dict(learning_rate=0.1, options=dict(b1=0.5))), (0,)),
    ]
    for count, other in enumerate(others, 1):
        models.trained(*other, slope).make()
        assert len(trained) == count
    for same in (config(train=dict(log_every=2)), config(train=dict(remat="full")), config(mesh=dict(data=2))):
        models.trained({"what": "a line"}, line_task, same, (0,), slope).make()
    assert len(trained) == len(others)


def test_it_is_resident_and_no_constant_of_the_program():
    """A task whose objective sees the kept tree beside each batch, from Python as a user writes it."""
    base = models.kept({"what": "a user's own"}, lambda: {"w": jnp.full(3, 2.0)}, lambda: {"w": jnp.zeros(3)})

    def init(key, batch):
        return jnp.copy(batch.arrays["w"]), {}

    def loss(params, variables, batch, key):
        return jnp.sum((params - 2 * batch.arrays["w"]) ** 2), (variables, {})

    def evaluate(params, variables, batch, key):
        return {"distance": jnp.sum(jnp.abs(params - 2 * batch.arrays["w"]))}

    rows = {"x": np.zeros((8, 1), np.float32)}
    task = Task(Objective(init, loss, evaluate, couples=False), rows, rows, resident=base)
    found = fit(task, config(train=dict(steps=200)), progress=False)
    assert found.metrics["distance"] < 0.1
