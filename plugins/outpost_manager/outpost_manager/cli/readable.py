"""An agent's stream of JSON lines as text for people: what it says, runs and gets to see.

The log keeps every byte; this is how a terminal shows it. The agent's reader turns each line into
records and `renderers` those into blocks of text; lines that are none (the agent's standard
error) are shown as they are.
"""

from __future__ import annotations

import json
from typing import Any

from outpost_agents.lines import LINE_LIMIT, begin
from outpost_agents.registry import reader_class
from outpost_manager.cli.renderers import Renderer, dim
from outpost_manager.cli.terminal import TerminalFilter


class Readable:
    """Turns chunks of a log into blocks of text, as `TerminalFilter` does with plain output.

    Args:
        kind: `Agent.output` of the order, of which there is a reader.
    """

    def __init__(self, kind: str) -> None:
        self._renderer = Renderer(reader_class(kind)({}, 0.0))
        self._rest = b""
        self._skipping = False

    def feed(self, chunk: bytes, *, final: bool = False) -> str:
        """Return what can be shown so far.

        Args:
            chunk: the next bytes.
            final: nothing follows; a last line without an end is shown too.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if final and self._rest:
            lines.append(self._rest)
            self._rest = b""
        shown = []
        for line in lines:
            if not self._skipping:
                shown.append(self._line(line))
            self._skipping = False
        if final:
            shown += self._blocks(None)
        if len(self._rest) > LINE_LIMIT:
            if not self._skipping:
                shown.append(dim(f"(a line of more than {LINE_LIMIT >> 20} MiB; --raw has it)\n"))
            self._rest, self._skipping = b"", True
        return "".join(shown)

    def _line(self, line: bytes) -> str:
        start = begin(line)
        found = _parse(line[start:]) if start >= 0 else None
        if found is None:
            return TerminalFilter().feed(line + b"\n", final=True)
        before = TerminalFilter().feed(line[:start] + b"\n", final=True) if start > 0 else ""
        return "".join([before, *self._blocks(found)])

    def _blocks(self, line: dict[str, Any] | None) -> list[str]:
        blocks: list[str] = []
        try:
            blocks.extend(self._renderer.end() if line is None else self._renderer.line(line))
        except Exception:  # noqa: BLE001 - a line of an odd shape; the next one is told again
            blocks.append(dim("(a record of an odd shape; --raw has it)"))
        return [f"{block}\n" for block in blocks if block]


def _parse(line: bytes) -> dict[str, Any] | None:
    """Parse a line that is one whole JSON object."""
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
