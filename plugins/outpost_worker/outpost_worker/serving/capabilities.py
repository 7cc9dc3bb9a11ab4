"""What outposts over a folder can do: for an entry point, which imports nothing heavy."""

from __future__ import annotations

#: Of a `FolderOutpost` that takes nothing away; see `outpost_core.hookspecs.CAPABILITIES`.
FOLDER_CAPABILITIES = frozenset(
    ("rig", "local_rig", "checkpoint", "secrets", "interactive", "clean", "facts", "changes")
)
