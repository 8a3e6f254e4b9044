"""A slowly moving copy of the network, which an auxiliary compares with."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ....core import checks, trees


def first_copy(network: Any) -> Any:
    """The copy before the first step, in buffers of its own."""
    return jax.tree.map(jnp.copy, network)


def follow(slow_decay: float) -> Callable[[Any, Any], Any]:
    """(copy, the network's new parameters) -> the next copy, a moving average.

    Raises:
        ValueError: a slow_decay outside [0, 1].
    """
    checks.in_interval("slow_decay", slow_decay, 0.0, 1.0)
    return lambda slow, network: trees.ema(slow, network, slow_decay)
