"""Reads Claude Code, `--output-format stream-json` or `json`."""

from __future__ import annotations

import re
import time
from collections import OrderedDict

from outpost_agents.reader import Reader
from outpost_agents.records import (
    Denied,
    Ended,
    Heard,
    Question,
    Said,
    Session,
    Thought,
    ToolCall,
    ToolResult,
    Usage,
    Working,
)
from outpost_agents.troubles import trouble
from outpost_agents.values import count, mapping, mappings, money, number, summed, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from outpost_agents.records import Record
    from outpost_agents.values import Line

#: Messages whose usage may still be said again: one comes as several lines, one for each block.
_OPEN_MESSAGES = 64
#: Characters of what a model says that make a token, about. A line says how many tokens *went
#: in*; of those that came out it only knows the first.
_CHARACTERS = 4
_STATUS = {401: "not_logged_in", 403: "not_logged_in", 429: "rate_limited"}
_ERRORS = {
    "authentication_failed": "not_logged_in",
    "rate_limit": "rate_limited",
    "overloaded": "overloaded",
}
#: `Claude AI usage limit reached|1764300000`
_RESETS = re.compile(r"\|(\d{9,11})\b")
#: The tool with which it asks a person.
_ASKS = "AskUserQuestion"


class Claude(Reader):
    """Reads Claude Code."""

    needles = (b'"result"', b'"init"', b'"assistant"', b'"rate_limit_event"')
    silent = frozenset({"stream_event"})
    name = "claude"

    def __init__(self, env: Mapping[str, str], began: float) -> None:
        super().__init__(env, began)
        self._messages: OrderedDict[str, tuple[str, list[int]]] = OrderedDict()
        self._error = ""
        self._resets: float | None = None

    def on_system(self, line: Line) -> Iterator[Record]:
        """Read the beginning; the rest is housekeeping."""
        if line.get("subtype") == "init":
            yield Session(line.get("session_id"), model=line.get("model"))

    def on_assistant(self, line: Line) -> Iterator[Record]:
        """Read words, thoughts and calls of tools, and what the message of the model used."""
        self._error = text(line.get("error"))
        yield Working()
        yield from self._used(mapping(line.get("message")))
        yield from self._parts(line, Said)

    def on_user(self, line: Line) -> Iterator[Record]:
        """Read what tools answered."""
        yield from self._parts(line, Heard)

    def on_rate_limit_event(self, line: Line) -> Iterable[Record]:
        """Remember when a limit is over."""
        info = mapping(line.get("rate_limit_info"))
        if info.get("status") == "rejected":
            self._resets = number(info.get("resetsAt"))
        return ()

    def on_result(self, line: Line) -> Iterator[Record]:
        """Read the end."""
        subtype = text(line.get("subtype"))
        ok = subtype == "success" and line.get("is_error") is not True
        errors = line.get("errors")
        details = [text(error) for error in errors] if isinstance(errors, list) else []
        message = text(line.get("result")) or "; ".join(filter(None, details)) or subtype
        reason = "" if ok else self._why(line, subtype, message)
        at = None
        if reason == "rate_limited":
            at, message = self._until(message)
        for denial in mappings(line.get("permission_denials")):
            yield Denied(denial.get("tool_name"))
        self._messages.clear()
        yield Session(line.get("session_id"))
        yield self._total(line)
        yield Ended(ok, message, reason=reason, retry_at=at)

    def _parts(self, line: Line, words: type[Said | Heard]) -> Iterator[Record]:
        helper = bool(line.get("parent_tool_use_id"))
        content = mapping(line.get("message")).get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for part in map(mapping, parts):
            kind = part.get("type")
            if kind == "text":
                yield words(part.get("text"), helper=helper)
            elif kind == "thinking":
                yield Thought(part.get("thinking"), helper=helper)
            elif kind == "tool_use":
                asked = _asked(part)
                yield (
                    Question(asked)
                    if asked
                    else ToolCall(part.get("name"), part.get("input"), helper=helper)
                )
            elif kind == "tool_result":
                failed = part.get("is_error") is True
                yield ToolResult(part.get("content"), failed=failed, helper=helper)

    def _used(self, message: Line) -> Iterator[Record]:
        """Read what one message of the model used, which several lines say."""
        usage = mapping(message.get("usage"))
        model = text(message.get("model"))
        if not usage or model == "<synthetic>":  # Claude Code's own words
            return
        said = [
            count(usage.get("input_tokens")) or 0,
            count(usage.get("cache_read_input_tokens")) or 0,
            count(usage.get("cache_creation_input_tokens")) or 0,
        ]
        length = sum(map(_length, mappings(message.get("content")))) // _CHARACTERS
        identity = text(message.get("id"))
        known = self._messages.get(identity)
        turns = 1 if known is None else 0
        if known is None:
            known = self._messages[identity] = (model, [0, 0, 0, 0])
            if len(self._messages) > _OPEN_MESSAGES:
                self._messages.popitem(last=False)
        model, amount = known
        now = [*said, max(amount[3] + length, count(usage.get("output_tokens")) or 0)]
        fresh, cached, written, out = (
            max(0, new - old) for new, old in zip(now, amount, strict=True)
        )
        amount[:] = map(max, now, amount)
        yield Usage(
            input=fresh + cached + written, cached=cached, written=written, output=out,
            turns=turns, model=model,
        )  # fmt: skip

    def _why(self, line: Line, subtype: str, message: str) -> str:
        if subtype == "error_max_budget_usd":
            return "budget_reached"
        status = count(line.get("api_error_status")) or 0
        if status:
            return _STATUS.get(status) or ("overloaded" if status >= 500 else "")
        if self._error in _ERRORS:
            return _ERRORS[self._error]
        return trouble(message) if subtype == "success" else ""

    def _until(self, message: str) -> tuple[float | None, str]:
        """Return the moment at which the limit is over, and the message with it."""
        found = _RESETS.search(message)
        at = float(found[1]) if found else self._resets
        if found:
            message = message.replace(found[0], "", 1)
        if at is not None and at < 1e11:
            message += f" (until {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(at))})"
        return at, message

    def _total(self, line: Line) -> Usage:
        models, model = mapping(line.get("modelUsage")), ""
        if models:  # counts the helpers that the agent started, as the cost does
            parts = [mapping(model) for model in models.values()]
            names = ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
            out = "outputTokens"
            most = max(models, key=lambda name: money(mapping(models[name]).get("costUSD")) or 0.0)
            model = most.partition("[")[0]
        else:
            parts = [mapping(line.get("usage"))]
            names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
            out = "output_tokens"
        return Usage(
            input=summed(part.get(name) for part in parts for name in names),
            cached=summed(part.get(names[1]) for part in parts),
            output=summed(part.get(out) for part in parts),
            cost=line.get("total_cost_usd"),
            turns=line.get("num_turns"),
            model=model,
            total=True,
        )


def _asked(part: Line) -> str:
    """Return what a call of a tool asks a person; "" for any other call."""
    if part.get("name") != _ASKS:
        return ""
    asked = mappings(mapping(part.get("input")).get("questions"))
    return " ".join(filter(None, (text(one.get("question")) for one in asked))) or _ASKS


def _length(block: Line) -> int:
    """Return how many characters of a message's block the model has said."""
    said = block.get("text") or block.get("thinking") or block.get("input") or ""
    if isinstance(said, str):
        return len(said)
    try:
        return len(str(said))
    except (RecursionError, ValueError):
        return 0
