"""Claude Code, `--output-format stream-json` or `json`."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from typing import Any

from outpost_worker.agents.record import (
    Reader,
    Record,
    count,
    mapping,
    mappings,
    money,
    number,
    summed,
    text,
    trouble,
)

#: Messages whose usage may still be said again: one comes as several records, one for each block.
_OPEN_MESSAGES = 64
#: Characters of what a model says that make a token, about. A record says how many tokens *went
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


class Claude(Reader):
    """Reads Claude Code."""

    needles = (b'"result"', b'"init"', b'"assistant"', b'"rate_limit_event"')
    live = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._messages: OrderedDict[str, tuple[str, list[int]]] = OrderedDict()
        self._error = ""
        self._resets: float | None = None

    def see(self, record: Record) -> None:
        """Take one record."""
        kind = record.get("type")
        if kind == "system" and record.get("subtype") == "init":
            self.session = text(record.get("session_id")) or self.session
            self.model = text(record.get("model")) or self.model
        elif kind == "assistant":
            self._assistant(record)
        elif kind == "rate_limit_event":
            info = mapping(record.get("rate_limit_info"))
            if info.get("status") == "rejected":
                self._resets = number(info.get("resetsAt"))
        elif kind == "result":
            self._result(record)

    def _assistant(self, record: Record) -> None:
        """Count what one message of the model used, once."""
        self.final = self.complete = False
        self._error = text(record.get("error"))
        message = mapping(record.get("message"))
        usage = mapping(message.get("usage"))
        model = text(message.get("model"))
        if not usage or model == "<synthetic>":  # Claude Code's own words
            return
        self.model = self.model or model
        said = (
            count(usage.get("input_tokens")) or 0,
            count(usage.get("cache_read_input_tokens")) or 0,
            count(usage.get("cache_creation_input_tokens")) or 0,
        )
        length = sum(map(_length, mappings(message.get("content")))) // _CHARACTERS
        known = self._messages.get(text(message.get("id")))
        if known is None:
            self.turns = (self.turns or 0) + 1
            known = self._messages[text(message.get("id"))] = (model, [0, 0, 0, 0])
            if len(self._messages) > _OPEN_MESSAGES:
                self._messages.popitem(last=False)
        amount = known[1]
        out = max(amount[3] + length, count(usage.get("output_tokens")) or 0)
        total = self.tokens(known[0])
        for place, now in enumerate((*said, out)):
            total[place] += max(0, now - amount[place])
            amount[place] = max(amount[place], now)

    def _result(self, record: Record) -> None:
        subtype = text(record.get("subtype"))
        self.ok = subtype == "success" and record.get("is_error") is not True
        errors = record.get("errors")
        details = [text(error) for error in errors] if isinstance(errors, list) else []
        self.message = text(record.get("result")) or "; ".join(filter(None, details)) or subtype
        self.reason = "" if self.ok else self._why(record, subtype)
        if self.reason == "rate_limited":
            self._say_when()
        self.session = text(record.get("session_id")) or self.session
        for denial in mappings(record.get("permission_denials")):
            self.deny(text(denial.get("tool_name")))
        self.turns = count(record.get("num_turns"))
        self.cost = money(record.get("total_cost_usd"))
        self._count(record)
        self.counted.clear()
        self._messages.clear()
        self.final = self.complete = True

    def _why(self, record: Record, subtype: str) -> str:
        if subtype == "error_max_budget_usd":
            return "budget_reached"
        status = count(record.get("api_error_status")) or 0
        if status:
            return _STATUS.get(status) or ("overloaded" if status >= 500 else "")
        if self._error in _ERRORS:
            return _ERRORS[self._error]
        return trouble(self.message) if subtype == "success" else ""

    def _say_when(self) -> None:
        """Put the moment at which the limit is over into the message."""
        found = _RESETS.search(self.message)
        at = float(found[1]) if found else self._resets
        if found:
            self.message = self.message.replace(found[0], "", 1)
        if at is not None and at < 1e11:
            self.message += f" (until {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(at))})"

    def _count(self, record: Record) -> None:
        models = mapping(record.get("modelUsage"))
        if models:  # counts the helpers that the agent started, as the cost does
            parts = [mapping(model) for model in models.values()]
            names = ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
            out = "outputTokens"
            most = max(models, key=lambda name: money(mapping(models[name]).get("costUSD")) or 0.0)
            self.model = most.partition("[")[0] or self.model
        else:
            parts = [mapping(record.get("usage"))]
            names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
            out = "output_tokens"
        self.input = summed(part.get(name) for part in parts for name in names)
        self.cached = summed(part.get(names[1]) for part in parts)
        self.output = summed(part.get(out) for part in parts)


def _length(block: Record) -> int:
    """Return how many characters of a message's block the model has said."""
    said = block.get("text") or block.get("thinking") or block.get("input") or ""
    if isinstance(said, str):
        return len(said)
    try:
        return len(str(said))
    except (RecursionError, ValueError):
        return 0
