"""The far side: runs one order on the machine where it is, with the standard library only.

`FolderOutpost` is the base of outposts whose workers are on the machine that runs them. It is
imported when it is first asked for, so that the start of a worker does not pay for it.
"""

from __future__ import annotations

# not from `typing`: that import alone would more than double the start of a worker
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from outpost_worker.serving.capabilities import FOLDER_CAPABILITIES as FOLDER_CAPABILITIES
    from outpost_worker.serving.folderoutpost import FolderOutpost as FolderOutpost

_HOMES = {"FOLDER_CAPABILITIES": "capabilities", "FolderOutpost": "folderoutpost"}

__all__ = ["FOLDER_CAPABILITIES", "FolderOutpost"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"outpost_worker.serving.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'outpost_worker' has no attribute {name!r}")
