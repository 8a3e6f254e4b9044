"""Where models lie on disk, how they get there, and how they are read back.

A model is a tree of arrays in a folder of its own, `models/<digest>/` below the data folder: `arrays.npz`, and
`record.json` with the spec that the digest is of, the shape, dtype and SHA-256 of each array, and where it was made. It
is written beside its place and renamed into it: reading takes no lock. Makers queue at a file lock.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ..data import store as data
from ..engine import config as configs
from ..engine import optimizer
from ..engine.loop import fit
from ..engine.sources import Deferred
from ..engine.state import eval_params
from ..engine.task import Task
from ..engine.types import ConfigDict

logger = logging.getLogger(__name__)

Tree = Any
Spec = Mapping[str, Any] | ConfigDict

FORMAT = 1  # of what is written; raise it when that changes, and what lies there is left alone
# Keys of `train` that say how a training is run, watched and saved, and not what it computes.
HOW = (
    "remat", "steps_per_dispatch", "log_every", "eval_every", "eval_split", "eval_batches", "eval_batch_size",
    "checkpoint_every", "keep", "best_metric", "best_direction",
)  # fmt: skip


def kept(spec: Spec | Callable[[], Spec], make: Callable[[], Tree], abstract: Callable[[], Tree] | Tree) -> Deferred:
    """A tree of arrays that takes work to have: made once, and from then on read from the data folder, bit for bit.

    Nothing is made, read or written before the `make` of what is returned is called. Then it is read if a whole one of
    this spec lies there. If not, one process makes it while others that ask for it wait; one that is damaged, or does
    not fit `abstract`, is reported and made anew. The processes of one distributed run make it together.

    Args:
        spec: all that the arrays depend on, as JSON: settings, sizes, seeds, data; and a number of your own that you
            raise where the code changes what it computes. A function is called when it is needed.
        make: gives the tree. Its leaves are arrays, on the device or not.
        abstract: the tree with anything that has a shape and a dtype as leaves; or a function that gives it, which is
            traced and not run. Its structure is the one that is read back.

    Returns:
        What `Task.resident` takes; `make()` gives the tree with NumPy arrays as leaves. If the data folder cannot be
        written to, that is a warning, and the tree is made for this call alone.

    Raises:
        ValueError: (when made) a spec that JSON has no form for, or a tree unlike `abstract`.

    Example:
        >>> table = kept({"what": "squares", "n": 3}, lambda: {"x": jnp.arange(3.0) ** 2}, lambda: {"x": jnp.zeros(3)})
        >>> table.make()["x"]
        array([0., 1., 4.], dtype=float32)
    """
    shapes = jax.eval_shape(abstract) if callable(abstract) else abstract
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), shapes)
    return Deferred(shapes, lambda: _have(_plain(spec() if callable(spec) else spec), make, shapes))


def trained(
    what: Spec | Callable[[], Spec],
    task: Callable[[], Task],
    config: ConfigDict | Mapping[str, Any],
    seeds: Sequence[int],
    init: Callable[[jax.Array], Tree],
) -> Deferred:
    """The parameters that `fit` ends with (their average, with `train.ema`), kept.

    Args:
        what: all that the task depends on, as the spec of `kept`.
        task: builds it; called only where it has to be trained.
        config: as for `fit`. What it says of optimizer and training joins the spec, but for how the training is laid
            out (`mesh`, `train.remat`), watched and saved: a run that goes on elsewhere finds the model that it began
            with.
        seeds: one model each.
        init: parameters of one model from a key, of which the shapes are used.

    Returns:
        As `kept`; with several seeds, leaves have an axis of them in front.
    """
    config, seeds = configs.completed(config), tuple(seeds)

    def spec() -> dict[str, Any]:
        train = {key: value for key, value in config.train.items() if key not in HOW}
        found = _plain(what() if callable(what) else what)
        return {"what": found, "optimizer": optimizer.settings(config.optimizer), "train": train, "seeds": seeds}

    def make() -> Tree:
        return jax.device_get(eval_params(fit(task(), config, seeds, progress=False).state))

    def abstract() -> Tree:
        keys = [jax.random.key(seed) for seed in seeds]
        return jax.vmap(init)(jnp.stack(keys)) if len(keys) > 1 else init(keys[0])

    return kept(spec, make, abstract)


def digest(spec: Spec) -> str:
    """The name of the folder that a spec's model lies in: 16 characters that change with any value of the spec.

    Raises:
        ValueError: a value that JSON has no form for.
    """
    text = json.dumps({"format": FORMAT, "spec": _plain(spec)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder(spec: Spec) -> Path:
    """Where a spec's model lies, or will lie."""
    return data.root() / "models" / digest(spec)


def sha256(values: Any) -> str:
    """The SHA-256 of an array's bytes."""
    return hashlib.sha256(memoryview(_bytes(values))).hexdigest()


def _plain(spec: Spec) -> dict[str, Any]:
    """The spec as JSON gives it back."""
    found = configs.unlocked(spec)
    configs.flatten(found)  # which refuses what JSON has no form for
    return json.loads(json.dumps(found.to_dict()))


# ------------------------------------------------------------------------------------------------------ read or make


def _have(spec: dict[str, Any], make: Callable[[], Tree], shapes: Tree) -> Tree:
    if jax.process_count() > 1:
        return _have_together(spec, make, shapes)
    found = _found(spec, shapes)
    return _made_in_turn(spec, make, shapes) if found is None else found


def _made_in_turn(spec: dict[str, Any], make: Callable[[], Tree], shapes: Tree) -> Tree:
    with _turn(spec) as mine:
        found = _found(spec, shapes) if mine else None  # another process may have made it while this one waited
        if found is not None:
            return found
        start = time.perf_counter()
        tree = _made(make, shapes)
        if mine:
            _keep(tree, spec, time.perf_counter() - start)
        return tree


def _have_together(spec: dict[str, Any], make: Callable[[], Tree], shapes: Tree) -> Tree:
    """One process reads for all, whose disks may differ; what it does not find is made by all, as one program.

    Nobody waits for another run to make it: the others of this one would wait in a collective, which has an end.
    """
    first = jax.process_index() == 0
    found = _found(spec, shapes) if first else None
    if not multihost_utils.broadcast_one_to_all(np.array(found is not None)):
        start = time.perf_counter()
        tree = _made(make, shapes)
        if first:
            seconds = time.perf_counter() - start
            with _turn(spec) as mine:
                if mine:
                    _keep(tree, spec, seconds)
        return tree
    leaves, treedef = jax.tree.flatten(shapes)
    mine = jax.tree.leaves(found) if first else [np.zeros(leaf.shape, leaf.dtype) for leaf in leaves]
    sent = multihost_utils.broadcast_one_to_all([_bytes(leaf) for leaf in mine])  # a sum would lose the sign of a zero
    return jax.tree.unflatten(treedef, [_from_bytes(x, leaf) for x, leaf in zip(sent, leaves, strict=True)])


@contextlib.contextmanager
def _turn(spec: dict[str, Any]) -> Iterator[bool]:
    """Hold the lock on a spec's model; False, with a warning, where the data folder cannot be written to."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(data.lock(f"models_{digest(spec)}"))
        except OSError as error:
            logger.warning("model %s will not be kept: %s", digest(spec), error)
            yield False
        else:
            yield True


def _made(make: Callable[[], Tree], shapes: Tree) -> Tree:
    tree = jax.tree.map(np.asarray, jax.device_get(make()))
    asked, given = _specs(shapes), _specs(tree)
    if jax.tree.structure(tree) != jax.tree.structure(shapes) or given != asked:
        pairs = (map(_shown, pair) for pair in zip(asked, given, strict=False) if pair[0] != pair[1])
        differ = next((f"{a}, got {b}" for a, b in pairs), "another structure")
        raise ValueError(f"make must give what abstract says: expected {differ}.")
    return tree


def _shown(leaf: tuple[str, list[int], str]) -> str:
    return "{0} {2} {1}".format(*leaf)


def _specs(tree: Tree) -> list[tuple[str, list[int], str]]:
    """Name, shape and dtype of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), list(np.shape(leaf)), np.dtype(leaf.dtype).name) for path, leaf in leaves]


# --------------------------------------------------------------------------------------------------------- on disk


def _found(spec: dict[str, Any], shapes: Tree) -> Tree | None:
    """The model that lies in the spec's folder, if there is one and it is whole."""
    place = folder(spec)
    try:
        record = json.loads((place / "record.json").read_text())
        with np.load(place / "arrays.npz", allow_pickle=False) as file:
            arrays = [file[str(index)] for index in range(len(file.files))]
        return _checked(record, arrays, spec, shapes)
    except FileNotFoundError:
        if not place.is_dir():
            return None
        problem = "a file is missing"
    except Exception as error:  # any: damage shows as whatever the bytes decode to
        problem = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    logger.warning("the model in %s is damaged or does not fit, and is made anew: %s", place, problem)
    return None


def _checked(record: dict[str, Any], arrays: list[np.ndarray], spec: dict[str, Any], shapes: Tree) -> Tree:
    if record["spec"] != spec:
        raise ValueError("it is of another spec")
    specs, (leaves, treedef) = _specs(shapes), jax.tree.flatten(shapes)
    if [tuple(leaf) for leaf in record["leaves"]] != specs or len(arrays) != len(specs):
        raise ValueError("its arrays are not those that are asked for")
    for (name, *_), raw, written in zip(specs, arrays, record["sha256"], strict=True):
        if sha256(raw) != written:
            raise ValueError(f"the checksum of {name} is not the one written with it")
    return jax.tree.unflatten(treedef, [_from_bytes(raw, leaf) for raw, leaf in zip(arrays, leaves, strict=True)])


def _keep(tree: Tree, spec: dict[str, Any], seconds: float) -> None:
    """Write the model to its folder, in one move. The caller holds the lock."""
    place, raw = folder(spec), [_bytes(leaf) for leaf in jax.tree.leaves(tree)]
    record = {
        "spec": spec,
        "leaves": _specs(tree),
        "sha256": [sha256(x) for x in raw],
        "made": {
            "seconds": round(seconds, 1),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
        },
    }
    scratch = place.with_name(f".{place.name}.writing")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that died
        scratch.mkdir(parents=True)
        columns: dict[str, Any] = {str(index): x for index, x in enumerate(raw)}
        np.savez(scratch / "arrays.npz", **columns)
        (scratch / "record.json").write_text(json.dumps(record, indent=1))
        shutil.rmtree(place, ignore_errors=True)  # a damaged one
        os.rename(scratch, place)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        logger.warning("the model could not be kept in %s: %s. The next run makes it again.", place, error)


def _bytes(leaf: Any) -> Any:
    """An array as uint8 `[n]`, which any format and any collective leaves as they are."""
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)


def _from_bytes(raw: Any, like: jax.ShapeDtypeStruct) -> np.ndarray:
    return np.asarray(raw).view(like.dtype).reshape(like.shape)
