"""ConfigDict, with a type that type checkers can live with: its keys are attributes that no stub can know."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class ConfigDict(dict[str, Any]):
        """A dict whose keys are attributes too."""

        def __init__(self, initial: Any = None) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...
        def __delattr__(self, name: str) -> None: ...

else:
    from ml_collections import ConfigDict

__all__ = ["ConfigDict"]
