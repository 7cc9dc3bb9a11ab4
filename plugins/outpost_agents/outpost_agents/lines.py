"""The lines of an agent's output: which of them hold a JSON object.

Between the objects there may be the agent's standard error, anything at all.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from outpost_agents.values import Line

#: Bytes. A longer line is passed over: it is some tool's output, never a record that counts.
LINE_LIMIT = 4 * 1024 * 1024

_decoder = json.JSONDecoder()


def begin(line: bytes) -> int:
    """Return where a JSON object may begin in a line; -1 when there is none."""
    return 0 if line.startswith(b"{") else line.find(b'{"type"')


def parse(line: bytes) -> Line | None:
    """Parse the JSON object in a line; standard error may stand before and after it."""
    start = begin(line)
    if start < 0:
        return None
    try:
        value, _ = _decoder.raw_decode(line[start:].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
