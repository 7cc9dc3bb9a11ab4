"""What an agent's own output says of its outcome, its session and what it used.

Each reader looks at one agent's JSON lines, as they stand in `output.log`: between them there may
be the agent's standard error, anything at all, and the end may be cut off. Nothing here raises
on what is read, and memory stays bounded by `LINE_LIMIT` however long the log is.

Token counts have one meaning for all agents: `input_tokens` is everything that went in,
`cached_tokens` is the part of it that came from a cache, `output_tokens` includes thinking.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import IO, Any

#: A longer line is passed over: it is some tool's output, never a record that counts.
LINE_LIMIT = 4 * 1024 * 1024
MESSAGE_LIMIT = 500
_SESSION_LIMIT = 200
_COUNT_LIMIT = 10**15

_decoder = json.JSONDecoder()
_Record = dict[str, Any]


def read(kind: str, log_path: str) -> dict[str, Any]:
    """Read what the agent said of itself.

    Args:
        kind: `Agent.output` of the order; for `plain` and unknown kinds nothing is known.
        log_path: the worker's `output.log`; a missing one says nothing.

    Returns:
        `ok`: True or False as the agent reported, None when it reported neither (then its exit
        code alone counts); `message`: its last words or its error, one line, maybe empty;
        `session`: its id to resume it, or None; `usage`: the fields of `types.Usage`.
    """
    make = _READERS.get(kind)
    if make is None:
        return _Reader().answer()
    reader = make()
    try:
        with open(log_path, "rb") as log:
            for line in _lines(log):
                if any(needle in line for needle in reader.needles):
                    record = _record(line)
                    if record is not None:
                        reader.see(record)
            reader.end(log)
    except OSError:
        pass
    return reader.answer()


def _lines(log: IO[bytes]) -> Iterator[bytes]:
    whole = True
    while line := log.readline(LINE_LIMIT):
        ends = line.endswith(b"\n") or len(line) < LINE_LIMIT
        if whole and ends:
            yield line
        whole = ends


def _record(line: bytes) -> _Record | None:
    """Parse the JSON object in a line; standard error may stand before and after it."""
    start = 0 if line.startswith(b"{") else line.find(b'{"type"')
    if start < 0:
        return None
    try:
        value, _ = _decoder.raw_decode(line[start:].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class _Reader:
    """Collects the answer; a subclass knows the records of one agent."""

    #: Only lines that hold one of these are parsed.
    needles: tuple[bytes, ...] = ()

    def __init__(self) -> None:
        self.ok: bool | None = None
        self.message = ""
        self.session: str | None = None
        self.input: int | None = None
        self.output: int | None = None
        self.cached: int | None = None
        self.cost: float | None = None
        self.turns: int | None = None

    def see(self, record: _Record) -> None:
        """Take one record."""

    def end(self, log: IO[bytes]) -> None:
        """Look at the whole log once more, after its last record."""

    def answer(self) -> dict[str, Any]:
        """Return what `read` promises."""
        return {
            "ok": self.ok,
            "message": _one_line(self.message, MESSAGE_LIMIT),
            "session": _one_line(self.session or "", _SESSION_LIMIT) or None,
            "usage": {
                "input_tokens": self.input,
                "output_tokens": self.output,
                "cached_tokens": self.cached,
                "cost_usd": self.cost,
                "turns": self.turns,
            },
        }


class _Claude(_Reader):
    """Claude Code, `--output-format stream-json` or `json`."""

    needles = (b'"result"', b'"init"')

    def see(self, record: _Record) -> None:
        kind = record.get("type")
        if kind == "system" and record.get("subtype") == "init":
            self.session = _text(record.get("session_id")) or self.session
        elif kind == "result":
            self._result(record)

    def _result(self, record: _Record) -> None:
        subtype = _text(record.get("subtype"))
        self.ok = subtype == "success" and record.get("is_error") is not True
        errors = record.get("errors")
        details = [_text(error) for error in errors] if isinstance(errors, list) else []
        self.message = _text(record.get("result")) or "; ".join(filter(None, details)) or subtype
        self.session = _text(record.get("session_id")) or self.session
        self.turns = _count(record.get("num_turns"))
        self.cost = _money(record.get("total_cost_usd"))
        models = _mapping(record.get("modelUsage"))
        if models:  # counts the helpers that the agent started, as the cost does
            parts = [_mapping(model) for model in models.values()]
            names = ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
            out = "outputTokens"
        else:
            parts = [_mapping(record.get("usage"))]
            names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
            out = "output_tokens"
        self.input = _sum(part.get(name) for part in parts for name in names)
        self.cached = _sum(part.get(names[1]) for part in parts)
        self.output = _sum(part.get(out) for part in parts)


class _Codex(_Reader):
    """Codex, `exec --json`. It never says what it cost, nor how often it asked the model."""

    needles = (
        b'"thread.started"', b'"turn.completed"', b'"turn.failed"', b'"error"', b'"agent_message"',
    )  # fmt: skip

    def see(self, record: _Record) -> None:
        kind = record.get("type")
        if kind == "thread.started":
            self.session = _text(record.get("thread_id")) or self.session
        elif kind == "item.completed":
            item = _mapping(record.get("item"))
            if item.get("type") == "agent_message":
                self.message = _text(item.get("text"))
        elif kind == "error":  # it may try again, so that this is no outcome yet
            self.message = _text(record.get("message"))
        elif kind == "turn.failed":
            self.ok = False
            self.message = _text(_mapping(record.get("error")).get("message")) or self.message
        elif kind == "turn.completed":
            self.ok = True
            usage = _mapping(record.get("usage"))
            self.input = _count(usage.get("input_tokens"))
            self.cached = _count(usage.get("cached_input_tokens"))
            self.output = _count(usage.get("output_tokens"))


class _Gemini(_Reader):
    """Gemini CLI, `--output-format stream-json` or `json`. It never says what it cost."""

    needles = (b'"init"', b'"result"', b'"message"')

    def __init__(self) -> None:
        super().__init__()
        self._speaking = False

    def see(self, record: _Record) -> None:
        kind = record.get("type")
        if kind == "init":
            self.session = _text(record.get("session_id")) or self.session
        elif kind == "message":
            speaks = record.get("role") == "assistant"
            if speaks:
                before = self.message if self._speaking and record.get("delta") is True else ""
                self.message = (before + _text(record.get("content")))[: 2 * MESSAGE_LIMIT]
            self._speaking = speaks
        elif kind == "result":
            self.ok = record.get("status") == "success"
            self.message = _text(_mapping(record.get("error")).get("message")) or self.message
            stats = _mapping(record.get("stats"))
            self._count([stats], "input_tokens", "cached", "total_tokens")

    def end(self, log: IO[bytes]) -> None:
        """Read the one indented object of `--output-format json`, at the end of the log."""
        if self.ok is not None or self.session is not None:
            return
        log.seek(max(0, log.seek(0, os.SEEK_END) - LINE_LIMIT))
        text = b"\n" + log.read()
        start = text.rfind(b"\n{\n")
        record = _record(text[start + 1 :]) if start >= 0 else None
        if record is None or not ("response" in record or "error" in record):
            return
        error = _mapping(record.get("error"))
        self.ok = not error
        self.message = _text(error.get("message")) or _text(record.get("response"))
        self.session = _text(record.get("session_id")) or None
        models = _mapping(_mapping(record.get("stats")).get("models"))
        tokens = [_mapping(_mapping(model).get("tokens")) for model in models.values()]
        self._count(tokens, "prompt", "cached", "total")

    def _count(self, parts: list[_Record], into: str, cached: str, total: str) -> None:
        self.input = _sum(part.get(into) for part in parts)
        self.cached = _sum(part.get(cached) for part in parts)
        everything = _sum(part.get(total) for part in parts)
        if self.input is not None and everything is not None and everything >= self.input:
            self.output = everything - self.input  # so thinking counts


class _Opencode(_Reader):
    """opencode, `run --format json`: each step says what it used."""

    needles = (b'"step_finish"', b'"text"', b'"error"')

    def see(self, record: _Record) -> None:
        kind = record.get("type")
        part = _mapping(record.get("part"))
        if kind in ("step_finish", "text", "error"):
            self.session = _text(record.get("sessionID")) or self.session
        if kind == "text":
            self.message = _text(part.get("text"))
        elif kind == "error":
            self.ok = False
            error = _mapping(record.get("error"))
            self.message = _text(_mapping(error.get("data")).get("message")) or _text(
                error.get("name")
            )
        elif kind == "step_finish":
            self.ok = {"stop": True, "error": False}.get(_text(part.get("reason")))
            self._step(part)

    def _step(self, part: _Record) -> None:
        tokens = _mapping(part.get("tokens"))
        cache = _mapping(tokens.get("cache"))
        went_in = (tokens.get("input"), cache.get("read"), cache.get("write"))
        self.turns = (self.turns or 0) + 1
        self.input = _sum([self.input, *went_in])
        self.cached = _sum([self.cached, cache.get("read")])
        self.output = _sum([self.output, tokens.get("output"), tokens.get("reasoning")])
        cost = _money(part.get("cost"))
        if cost is not None:
            self.cost = (self.cost or 0.0) + cost


_READERS: dict[str, type[_Reader]] = {
    "claude-stream-json": _Claude,
    "codex-json": _Codex,
    "gemini-json": _Gemini,
    "opencode-json": _Opencode,
}


def _mapping(value: object) -> _Record:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _COUNT_LIMIT:
        return value
    return None


def _sum(values: Iterable[object]) -> int | None:
    counts = [count for count in map(_count, values) if count is not None]
    return sum(counts) if counts else None


def _money(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _COUNT_LIMIT:
        return float(value)
    return None


def _one_line(text: str, limit: int) -> str:
    """Return text that is safe to print and to encode: one line, no control characters."""
    head = text[: 4 * limit].encode("utf-8", "replace").decode()
    line = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
