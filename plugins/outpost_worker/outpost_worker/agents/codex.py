"""Codex, `exec --json`. It never says what it cost, nor how often it asked the model.

While it works its output holds no numbers, but its session's file does, so that is followed.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Any

from outpost_worker.agents.record import Reader, Record, count, mapping, text, trouble
from outpost_worker.folder import files

_THREAD = re.compile(r"[0-9A-Za-z-]{8,64}", re.ASCII)
#: Bytes of a session's file that are read in one look.
_PIECE = 8 * 1024 * 1024


class Codex(Reader):
    """Reads Codex."""

    needles = (
        b'"thread.started"', b'"turn.started"', b'"turn.completed"', b'"turn.failed"', b'"error"',
        b'"agent_message"',
    )  # fmt: skip
    live = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._file = ""
        self._place = 0
        self._rest = b""
        self._before = [0, 0, 0]
        self._since = ""
        if self.began:
            self._since = datetime.fromtimestamp(self.began - 1, UTC).isoformat()

    def see(self, record: Record) -> None:
        """Take one record."""
        kind = record.get("type")
        if kind == "thread.started":
            self.session = text(record.get("thread_id")) or self.session
        elif kind == "turn.started":
            self.final = False
        elif kind == "item.completed":
            item = mapping(record.get("item"))
            if item.get("type") == "agent_message":
                self.message = text(item.get("text"))
        elif kind == "error":  # it may try again, so that this is no outcome yet
            self.message = text(record.get("message"))
        elif kind == "turn.failed":
            self.ok, self.final = False, True
            self.message = text(mapping(record.get("error")).get("message")) or self.message
            self.reason = trouble(self.message)
            self.look()
        elif kind == "turn.completed":
            self.look()  # for the name of the model
            self.ok = self.final = self.complete = True
            usage = mapping(record.get("usage"))
            self.input = count(usage.get("input_tokens"))
            self.cached = count(usage.get("cached_input_tokens"))
            self.output = count(usage.get("output_tokens"))
            self.counted.clear()

    def look(self) -> None:
        """Read what the session's file says since the last look."""
        if self.complete or not self._found():
            return
        from outpost_worker.agents.following import parse

        try:
            with open(files.open_plain(self._file), "rb") as file:
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
                self._row(parse(line) or {})

    def _found(self) -> bool:
        """Look for the file: `sessions/YYYY/MM/DD/rollout-<moment>-<thread>.jsonl`."""
        thread = self.session or ""
        if self._file or not _THREAD.fullmatch(thread):
            return bool(self._file)
        home = self.env.get("CODEX_HOME") or os.path.join(self.env.get("HOME", ""), ".codex")
        if not os.path.isabs(home):
            return False
        import glob

        pattern = os.path.join(glob.escape(home), "sessions", "*", "*", "*", f"*-{thread}.jsonl")
        self._file = next(iter(glob.glob(pattern)), "")
        return bool(self._file)

    def _row(self, row: Record) -> None:
        payload = mapping(row.get("payload"))
        if row.get("type") == "turn_context":
            self.model = text(payload.get("model")) or self.model
        elif payload.get("type") == "token_count":
            total = mapping(mapping(payload.get("info")).get("total_token_usage"))
            names = ("input_tokens", "cached_input_tokens", "output_tokens")
            now = [count(total.get(name)) or 0 for name in names]
            if text(row.get("timestamp")) < self._since:  # a session that goes on
                self._before = now
                return
            went_in, cached, out = (
                max(0, new - old) for new, old in zip(now, self._before, strict=True)
            )
            self.counted = {self.model or "": [max(0, went_in - cached), cached, 0, out]}
