"""Gemini CLI, `--output-format stream-json` or `json`.

It never says what it cost, and what it used only at the end.
"""

from __future__ import annotations

import os
from typing import IO, Any

from outpost_worker.agents.following import LINE_LIMIT, parse
from outpost_worker.agents.record import (
    MESSAGE_LIMIT,
    Reader,
    Record,
    mapping,
    summed,
    text,
    trouble,
)


class Gemini(Reader):
    """Reads Gemini CLI."""

    needles = (b'"init"', b'"result"', b'"message"')

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._speaking = False

    def see(self, record: Record) -> None:
        """Take one record."""
        kind = record.get("type")
        if kind == "init":
            self.session = text(record.get("session_id")) or self.session
            self.model = text(record.get("model")) or self.model
        elif kind == "message":
            self.final = False
            speaks = record.get("role") == "assistant"
            if speaks:
                before = self.message if self._speaking and record.get("delta") is True else ""
                self.message = (before + text(record.get("content")))[: 2 * MESSAGE_LIMIT]
            self._speaking = speaks
        elif kind == "result":
            self._ended(record.get("status") == "success", mapping(record.get("error")))
            stats = mapping(record.get("stats"))
            self._count([stats], "input_tokens", "cached", "total_tokens")

    def end(self, log: IO[bytes]) -> None:
        """Read the one indented object of `--output-format json`, at the end of the log."""
        if self.ok is not None or self.session is not None:
            return
        log.seek(max(0, log.seek(0, os.SEEK_END) - LINE_LIMIT))
        whole = b"\n" + log.read()
        start = whole.rfind(b"\n{\n")
        record = parse(whole[start + 1 :]) if start >= 0 else None
        if record is None or not ("response" in record or "error" in record):
            return
        error = mapping(record.get("error"))
        self.message = text(record.get("response"))
        self._ended(not error, error)
        self.session = text(record.get("session_id")) or None
        models = mapping(mapping(record.get("stats")).get("models"))
        tokens = [mapping(mapping(model).get("tokens")) for model in models.values()]
        self._count(tokens, "prompt", "cached", "total")

    def _ended(self, ok: bool, error: Record) -> None:
        self.ok = ok
        self.message = text(error.get("message")) or self.message
        self.reason = "" if ok else trouble(self.message)
        self.final = self.complete = True

    def _count(self, parts: list[Record], into: str, cached: str, total: str) -> None:
        self.input = summed(part.get(into) for part in parts)
        self.cached = summed(part.get(cached) for part in parts)
        everything = summed(part.get(total) for part in parts)
        if self.input is not None and everything is not None and everything >= self.input:
            self.output = everything - self.input  # so thinking counts
