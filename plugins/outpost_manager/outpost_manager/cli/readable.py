"""An agent's stream of JSON lines as text for people: what it says, runs and gets to see.

The log keeps every byte; this is how a terminal shows it. The agent's teller turns each record
into blocks of text; lines that are no records (the agent's standard error) are shown as they are.
"""

from __future__ import annotations

import json
from typing import Final

from outpost_manager.cli.renderers import END, KINDS, Record, dim
from outpost_manager.cli.terminal import TerminalFilter

#: A longer line is left out: it is some tool's output, and would fill the memory.
LINE_LIMIT: Final = 4 * 1024 * 1024


class Readable:
    """Turns chunks of a log into blocks of text, as `TerminalFilter` does with plain output.

    Args:
        kind: `Agent.output` of the order, one of `KINDS`.
    """

    def __init__(self, kind: str) -> None:
        self._teller = KINDS[kind]()
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
            shown += self._blocks(END)
        if len(self._rest) > LINE_LIMIT:
            if not self._skipping:
                shown.append(dim(f"(a line of more than {LINE_LIMIT >> 20} MiB; --raw has it)\n"))
            self._rest, self._skipping = b"", True
        return "".join(shown)

    def _line(self, line: bytes) -> str:
        start = 0 if line.startswith(b"{") else line.find(b'{"type"')
        record = _parse(line[start:]) if start >= 0 else None
        if record is None:
            return TerminalFilter().feed(line + b"\n", final=True)
        before = TerminalFilter().feed(line[:start] + b"\n", final=True) if start > 0 else ""
        return "".join([before, *self._blocks(record)])

    def _blocks(self, record: Record) -> list[str]:
        blocks: list[str] = []
        try:
            blocks.extend(self._teller.tell(record))
        except Exception:  # noqa: BLE001 - a record of an odd shape; the next one is told again
            blocks.append(dim("(a record of an odd shape; --raw has it)"))
        return [f"{block}\n" for block in blocks if block]


def _parse(line: bytes) -> Record | None:
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("type"), str) else None
