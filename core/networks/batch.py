"""Activations stay split over the batch, however the weights are sharded."""

import jax
from jax.sharding import PartitionSpec as P


def split_batch(x: jax.Array, axis: str = "data") -> jax.Array:
    """Constrain axis 0 of `x` to mesh axis `axis`; its other axes are left to XLA.

    Where weights are sharded over the same mesh axis as the batch (fully sharded data parallelism), a product has two
    readings: gather the weights, or gather the batch. Left alone, XLA may take the second, which computes every example
    on every device. Networks call this between layers, so that it is the first.

    Does nothing without an ambient mesh (`jax.set_mesh`, or `jax.sharding.use_abstract_mesh` inside a traced function),
    or where that mesh has no such axis, or where `axis` does not divide the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if axis not in mesh.axis_names or x.shape[0] % mesh.shape[axis]:
        return x
    return jax.lax.with_sharding_constraint(x, P(axis, *[P.UNCONSTRAINED] * (x.ndim - 1)))
