"""Checkpoints: Orbax, asynchronous, the newest few and the best; damage is found and stepped over.

Each checkpoint holds the state and a small JSON record: the data stream's position and a checksum of every leaf. The
checksum is a sum of the leaf's bits, so it is the same on every mesh and finds a changed byte that decodes.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...core import trees
from .state import TrainState
from .types import ConfigDict

logger = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What `Checkpoints.restore` found."""

    step: int
    state: TrainState
    stream: dict | None


class Checkpoints:
    """The checkpoints of one run, in `folder`.

    Args:
        folder: absolute path.
        config: the `train` section: `keep`, `best_metric`, `best_direction`. The best is that of the mean over seeds,
            of those whose metric is finite; a step at which none is has no claim to it.
    """

    def __init__(self, folder: Path, config: ConfigDict):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every save at INFO and WARNING
        keep: list[Any] = [policies.LatestN(config.keep)]
        if config.best_metric:
            best = policies.BestN(
                get_metric_fn=lambda metrics: metrics[config.best_metric],
                reverse=config.best_direction == "lower",  # Orbax keeps the last of the sorted
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            keep.append(best)
        self._ocp = ocp
        self._best_metric = config.best_metric
        self._good: int | None = None
        self._pending: int | None = None
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(keep), cleanup_tmp_directories=True
            ),
            item_names=("state", "record"),
        )

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState, stream: dict | None, metrics: dict[str, np.ndarray]) -> None:
        """Start writing; returns once the state has left the device.

        Raises:
            OSError: the write before this one failed (a full disk, say); checkpoints before it are untouched.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        record = {"stream": stream, "checksums": checksums(state)}
        best = {}
        if self._best_metric and self._best_metric in metrics:
            values = np.asarray(metrics[self._best_metric], np.float64)
            finite = values[np.isfinite(values)]
            if finite.size:  # Orbax sorts by it: a NaN would stand anywhere
                best = {"metrics": {self._best_metric: float(finite.mean())}}
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(_with_key_data(state)), record=self._ocp.args.JsonSave(record)
        )
        self._pending = step
        try:
            self._manager.save(step, args=args, force=True, **best)
        except Exception as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Return when nothing is being written; raises as `save` does."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise what they like for a full disk
            raise self._failure(error) from error
        if self._pending is not None:
            self._good, self._pending = self._pending, None

    def restore(self, target: TrainState) -> Restored | None:
        """The newest checkpoint that is whole, laid out as `target` (ShapeDtypeStructs with shardings) asks.

        One that is damaged is reported and deleted, and the one before it is tried. None where there is none at all.

        Raises:
            ValueError: there are checkpoints, and every one of them is damaged or of another model.
        """
        steps = self.steps()
        failures = []
        for step in reversed(steps):
            try:
                restored = self._read(step, target)
            except Exception as error:  # any: damage shows as whatever the bytes decode to
                failures.append((step, f"{type(error).__name__}: {error}".splitlines()[0][:300]))
                logger.warning("checkpoint of step %d is damaged or does not fit: %s", *failures[-1])
                continue
            for bad, _ in failures:
                self._manager.delete(bad)
            self._good = step
            return restored
        if failures:
            reasons = "; ".join(f"step {step}: {reason}" for step, reason in failures)
            raise ValueError(f"workdir: no checkpoint in {self._manager.directory} can be restored: {reasons}")
        return None

    def close(self) -> None:
        """Wait for the last write and let go."""
        self.wait()
        self._manager.close()

    def _read(self, step: int, target: TrainState) -> Restored:
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardRestore(_with_key_data(target)), record=self._ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=args)
        state = _with_typed_keys(restored["state"], target)
        found = checksums(state)
        for name, expected in restored["record"]["checksums"].items():
            if found.get(name) != expected:
                raise ValueError(f"checksum of {name} is {found.get(name)}, {expected} was written")
        return Restored(step, state, restored["record"]["stream"])

    def _failure(self, error: Exception) -> OSError:
        last = "there is none" if self._good is None else f"of step {self._good}"
        return OSError(
            f"checkpoint of step {self._pending} could not be written to {self._manager.directory} "
            f"({str(error).splitlines()[0][:300]}); the last good checkpoint ({last}) is untouched."
        )


def load(folder: str | Path, step: int | None = None) -> dict[str, Any]:
    """A checkpoint as nested dicts of NumPy arrays, whatever mesh wrote it: to look at, or to start from elsewhere.

    Args:
        folder: an arm's `checkpoints` folder.
        step: default: the newest.

    Raises:
        ValueError: no checkpoint there, or none of that step.

    Example:
        >>> load("runs/quickstart/demi/checkpoints")["params"]["psi"]  # doctest: +SKIP
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    if not steps or (step is not None and step not in steps):
        raise ValueError(f"step: no checkpoint of step {step} in {folder}; it has {steps}.")
    path = folder / str(steps[-1] if step is None else step) / "state"
    host = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host),
            dict(checkpointer.metadata(path).item_metadata),
        )
        return jax.tree.map(np.asarray, checkpointer.restore(path, target))


def checksums(tree: Any) -> dict[str, int]:
    """A sum of each leaf's bits, weighted by position, modulo 2^32: exact, so the same however the leaf is sharded."""
    sums = jax.device_get(_checksums(_with_key_data(tree)))
    return {name: int(value) for name, value in zip(trees.path_names(tree), jax.tree.leaves(sums), strict=True)}


@jax.jit
def _checksums(tree: Any) -> Any:
    def one(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        width = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
        bits = jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)
        position = jnp.zeros((), jnp.uint32)
        for axis, size in enumerate(bits.shape):  # the flat index, without a reshape that would gather the shards
            position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        return jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)

    return jax.tree.map(one, tree)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _with_key_data(tree: Any) -> Any:
    """Typed keys as the uint32 words behind them: what is on disk does not depend on a version's key type."""

    def convert(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            words = jax.eval_shape(jax.random.key_data, leaf)
            return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=leaf.sharding)
        return jax.random.key_data(leaf)

    return jax.tree.map(convert, tree)


def _with_typed_keys(tree: Any, like: Any) -> Any:
    return jax.tree.map(
        lambda leaf, target: jax.random.wrap_key_data(leaf) if _is_key(target) else leaf,
        tree,
        like,
    )
