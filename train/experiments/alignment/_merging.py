"""Policies made one, by the names that `protocol.merge` may have."""

from collections.abc import Callable, Sequence
from typing import Any

from ....methods.losses.alignment import kto
from ...engine.types import ConfigDict


def _linear(base: Any, policies: Sequence[Any], protocol: ConfigDict) -> Any:
    return kto.linear_merge(policies, weights=protocol.merge_weights or None)


def _slerp(base: Any, policies: Sequence[Any], protocol: ConfigDict) -> Any:
    return kto.slerp_merge(*policies, t=protocol.merge_t)


def _ties(base: Any, policies: Sequence[Any], protocol: ConfigDict) -> Any:
    return kto.ties_merge(base, policies, weights=protocol.merge_weights or None, density=protocol.density)


MERGES: dict[str, Callable[[Any, Sequence[Any], ConfigDict], Any]] = {
    "linear": _linear,
    "slerp": _slerp,
    "ties": _ties,
}
