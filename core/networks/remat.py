"""Rematerialisation by name: what a block keeps for its backward pass and what it computes again."""

from typing import Any

import jax
from flax import linen as nn

POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def rematerialized(block: Any, remat: str, *, prevent_cse: bool = True) -> Any:
    """A module class, or a function whose first argument is a module, that forgets its activations.

    Values, gradients and parameter names are those of `block`; memory and time are traded.

    Args:
        block: Linen module class, or function `(module, *args)`.
        remat: "none" keeps every activation; "dots" keeps the results of matrix products with weights; "full" keeps
            the inputs alone.
        prevent_cse: False inside a scan, where the loop itself keeps XLA from undoing the recomputation.

    Raises:
        ValueError: `remat` is none of these.
    """
    if remat not in POLICIES:
        raise ValueError(f"remat must be one of {sorted(POLICIES)}, got {remat!r}.")
    return block if remat == "none" else nn.remat(block, policy=POLICIES[remat], prevent_cse=prevent_cse)
