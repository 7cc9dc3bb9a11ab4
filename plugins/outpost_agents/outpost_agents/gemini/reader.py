"""Reads Gemini CLI, `--output-format stream-json` or `json`.

It never says what it cost, and what it used only at the end.
"""

from __future__ import annotations

import os

from outpost_agents.lines import LINE_LIMIT, parse
from outpost_agents.reader import Reader
from outpost_agents.records import (
    Ended,
    Problem,
    Said,
    Session,
    ToolCall,
    ToolResult,
    Usage,
    Working,
)
from outpost_agents.values import mapping, summed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import IO

    from outpost_agents.records import Record
    from outpost_agents.values import Line
    from outpost_core.types import Price


class Gemini(Reader):
    """Reads Gemini CLI; its words come in pieces."""

    needles = (b'"init"', b'"result"', b'"message"')
    name = "gemini"

    @classmethod
    def prices(cls) -> Mapping[str, Price]:
        """Return prices of its maker's models."""
        from outpost_agents.gemini.prices import PRICES

        return PRICES

    def __init__(self, env: Mapping[str, str], began: float) -> None:
        super().__init__(env, began)
        self._speaking = self._known = False

    def on_init(self, line: Line) -> Iterator[Record]:
        """Read the beginning."""
        self._known = True
        yield Session(line.get("session_id"), model=line.get("model"))

    def on_message(self, line: Line) -> Iterator[Record]:
        """Read a piece of its words; those of its user are known."""
        before, self._speaking = self._speaking, line.get("role") == "assistant"
        piece = line.get("delta") is True
        if not (before and self._speaking and piece):
            yield Working()
        if self._speaking:
            yield Said(line.get("content"), piece=piece)

    def on_tool_use(self, line: Line) -> Iterator[Record]:
        """Read what is being run."""
        yield ToolCall(line.get("tool_name"), line.get("parameters"))

    def on_tool_result(self, line: Line) -> Iterator[Record]:
        """Read what it led to."""
        yield ToolResult(line.get("output"), failed=line.get("status") == "error")

    def on_error(self, line: Line) -> Iterator[Record]:
        """Read what went wrong; it may try again."""
        yield Problem(line.get("message"))

    def on_result(self, line: Line) -> Iterator[Record]:
        """Read the end."""
        self._known, self._speaking = True, False
        stats = mapping(line.get("stats"))
        yield _usage([stats], "input_tokens", "cached", "total_tokens")
        ok = line.get("status") == "success"
        yield Ended(ok, mapping(line.get("error")).get("message"))

    def end(self, log: IO[bytes]) -> Iterator[Record]:
        """Read the one indented object of `--output-format json`, at the end of the log."""
        if self._known:
            return
        log.seek(max(0, log.seek(0, os.SEEK_END) - LINE_LIMIT))
        whole = b"\n" + log.read()
        start = whole.rfind(b"\n{\n")
        found = parse(whole[start + 1 :]) if start >= 0 else None
        if found is None or not ("response" in found or "error" in found):
            return
        error = mapping(found.get("error"))
        yield Session(found.get("session_id"))
        models = mapping(mapping(found.get("stats")).get("models"))
        tokens = [mapping(mapping(model).get("tokens")) for model in models.values()]
        yield _usage(tokens, "prompt", "cached", "total")
        yield Said(found.get("response"))
        yield Ended(not error, error.get("message"))


def _usage(parts: list[Line], into: str, cached: str, total: str) -> Usage:
    went_in = summed(part.get(into) for part in parts)
    everything = summed(part.get(total) for part in parts)
    out = None
    if went_in is not None and everything is not None and everything >= went_in:
        out = everything - went_in  # so thinking counts
    from_cache = summed(part.get(cached) for part in parts)
    return Usage(input=went_in, output=out, cached=from_cache, total=True)
