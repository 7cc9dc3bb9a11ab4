"""Make the issue readable by `bd` in the working tree, where a `bd` that can is installed.

The host owns the writes to beads, and an order carries its issue's text anyway. So all that is
done here is local: nothing is committed, pushed, or changed in a tracked file.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from outpost_core.worker.git import Git


def provide(git: Git, work: str, issue: str, report: Callable[[str], None]) -> str:
    """stub."""
    return ""
