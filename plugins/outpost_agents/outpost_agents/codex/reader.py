"""Reads Codex, `exec --json`. It never says what it cost, nor how often it asked the model.

While it works its output holds no numbers, but its session's file does, so that is followed.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime

from outpost_agents.lines import parse
from outpost_agents.reader import Reader
from outpost_agents.records import (
    Ended,
    Other,
    Problem,
    Said,
    Session,
    Thought,
    ToolCall,
    ToolResult,
    Usage,
    Working,
)
from outpost_agents.values import count, mapping, mappings, text
from outpost_shared.plain import open_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from outpost_agents.records import Record
    from outpost_agents.values import Line
    from outpost_core.types import Price

_THREAD = re.compile(r"[0-9A-Za-z-]{8,64}", re.ASCII)
#: Bytes of a session's file that are read in one look.
_PIECE = 8 * 1024 * 1024
#: Calls of which is remembered that they were told, and characters of their names.
_REMEMBERED = 1000
_NAME = 1000
#: Characters of a command that are looked at.
_SCRIPT = 20_000
_TOTALS = ("input_tokens", "cached_input_tokens", "output_tokens")


class Codex(Reader):
    """Reads Codex."""

    needles = (
        b'"thread.started"', b'"turn.started"', b'"turn.completed"', b'"turn.failed"', b'"error"',
        b'"agent_message"',
    )  # fmt: skip
    silent = frozenset({"item.updated"})
    name = "codex"

    @classmethod
    def prices(cls) -> Mapping[str, Price]:
        """Return prices of its maker's models."""
        from outpost_agents.codex.prices import PRICES

        return PRICES

    def __init__(self, env: Mapping[str, str], began: float) -> None:
        super().__init__(env, began)
        self._begun: dict[str, None] = {}
        self._thread = self._model = ""
        self._told = False
        self._file = ""
        self._place = 0
        self._rest = b""
        self._before = [0, 0, 0]
        self._since = datetime.fromtimestamp(began - 1, UTC).isoformat() if began else ""

    def on_thread_started(self, line: Line) -> Iterator[Record]:
        """Read the beginning."""
        self._thread = text(line.get("thread_id")) or self._thread
        yield Session(self._thread)

    def on_turn_started(self, line: Line) -> Iterator[Record]:
        """Read that it works."""
        yield Working()

    def on_item_started(self, line: Line) -> Iterator[Record]:
        """Read what is being run, once."""
        item = mapping(line.get("item"))
        name = text(item.get("id"))[:_NAME]
        call = _call(item)
        if call is not None and name not in self._begun:
            self._begun[name] = None
            if len(self._begun) > _REMEMBERED:
                self._begun.pop(next(iter(self._begun)))
            yield call

    def on_item_completed(self, line: Line) -> Iterator[Record]:
        """Read what it led to."""
        yield from self.on_item_started(line)
        item = mapping(line.get("item"))
        kind = item.get("type")
        if kind == "agent_message":
            yield Said(item.get("text"))
        elif kind == "reasoning":
            yield Thought(item.get("text"))
        elif kind == "error":
            yield Problem(item.get("message"))
        elif kind == "command_execution":
            failed = item.get("exit_code") not in (0, None)
            yield ToolResult(item.get("aggregated_output"), failed=failed)
        elif kind == "file_change":
            for change in mappings(item.get("changes")):
                yield ToolCall(text(change.get("kind")) or "edit", change)
        elif kind == "todo_list":
            for entry in mappings(item.get("items")):
                yield Thought(f"{'☑' if entry.get('completed') else '☐'} {text(entry.get('text'))}")
        elif _call(item) is None:
            yield Other(item)

    def on_error(self, line: Line) -> Iterator[Record]:
        """Read what went wrong; it may try again."""
        yield Problem(line.get("message"))

    def on_turn_failed(self, line: Line) -> Iterator[Record]:
        """Read the end."""
        yield from self.look()
        yield Ended(False, mapping(line.get("error")).get("message"), complete=False)

    def on_turn_completed(self, line: Line) -> Iterator[Record]:
        """Read the end, and what all of it used."""
        yield from self.look()  # for the name of the model
        self._told = True
        usage = mapping(line.get("usage"))
        into, cached, out = (usage.get(name) for name in _TOTALS)
        yield Usage(input=into, cached=cached, output=out, model=self._model, total=True)
        yield Ended(True)

    def look(self) -> Iterator[Record]:
        """Read what the session's file says since the last look."""
        if self._told or not self._found():
            return
        try:
            with open(open_plain(self._file), "rb") as file:
                file.seek(self._place)
                data = file.read(_PIECE)
        except OSError:
            return
        self._place += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _PIECE:
            self._rest = b""
        for line in lines:
            if b'"token_count"' in line or b'"turn_context"' in line:
                yield from self._row(parse(line) or {})

    def _found(self) -> bool:
        """Look for the file: `sessions/YYYY/MM/DD/rollout-<moment>-<thread>.jsonl`."""
        if self._file or not _THREAD.fullmatch(self._thread):
            return bool(self._file)
        home = self.env.get("CODEX_HOME") or os.path.join(self.env.get("HOME", ""), ".codex")
        if not os.path.isabs(home):
            return False
        import glob

        name = f"*-{self._thread}.jsonl"
        pattern = os.path.join(glob.escape(home), "sessions", "*", "*", "*", name)
        self._file = next(iter(glob.glob(pattern)), "")
        return bool(self._file)

    def _row(self, row: Line) -> Iterator[Record]:
        payload = mapping(row.get("payload"))
        if row.get("type") == "turn_context":
            self._model = text(payload.get("model")) or self._model
            yield Session(self._thread, model=self._model)
        elif payload.get("type") == "token_count":
            total = mapping(mapping(payload.get("info")).get("total_token_usage"))
            now = [count(total.get(name)) or 0 for name in _TOTALS]
            before, self._before = self._before, now
            if text(row.get("timestamp")) < self._since:  # a session that is resumed
                return
            into, cached, out = (max(0, new - old) for new, old in zip(now, before, strict=True))
            yield Usage(input=into, cached=min(cached, into), output=out, model=self._model)


def _call(item: Line) -> ToolCall | None:
    """Return the call that an item is, None when it is none."""
    kind = item.get("type")
    if kind == "command_execution":
        return ToolCall("shell", {"command": _unwrapped(text(item.get("command")))})
    if kind == "mcp_tool_call":
        name = f"{text(item.get('server'))}.{text(item.get('tool'))}"
        return ToolCall(name, item.get("arguments"))
    return ToolCall("search", item) if kind == "web_search" else None


def _unwrapped(command: str) -> str:
    """Return the script of `/bin/bash -lc SCRIPT`, any other command as it is."""
    import shlex

    if len(command) > _SCRIPT:
        return command[:_SCRIPT] + "…"
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return words[2] if len(words) == 3 and words[1] in ("-lc", "-c") else command
