"""Whether workers can run on this machine at all."""

from __future__ import annotations

import os

#: What to do where `unfit` says something.
ELSEWHERE = "use a machine with Linux: outpost add ssh NAME --host HOST"


def unfit(proc: str = "/proc") -> str:
    """Return why no worker can run on this machine at all, or "" when one can."""
    if os.path.exists(f"{proc}/self/stat"):
        return ""
    kind = os.uname().sysname
    return f"this machine ({kind}) has no /proc, by which the processes of workers are known"
