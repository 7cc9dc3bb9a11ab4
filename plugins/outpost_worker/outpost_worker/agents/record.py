"""What every reader of an agent's output has in common: its answer, and values of any shape.

Token counts have one meaning for all agents: `input_tokens` is everything that went in,
`cached_tokens` is the part of it that came from a cache, `output_tokens` includes thinking.
Nothing here raises on what an agent prints.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

MESSAGE_LIMIT = 500
_SESSION_LIMIT = 200
_MODEL_LIMIT = 100
_COUNT_LIMIT = 10**15
#: USD that no agent has ever spent: more is a defect of what it prints.
_MONEY_LIMIT = 1_000_000.0
#: Models and denied tools that are told apart; a stream of ever new names fills no memory.
_NAMES_LIMIT = 64
#: Lines that are no records of which the last are kept: an agent that cannot even begin says why
#: in plain words.
_PLAIN_LINES = 8
#: What a token costs that is written to a cache, as a multiple of one that goes in.
_CACHE_WRITE = 1.25

Record = dict[str, Any]

#: What an error says → its reason. The first that fits counts.
_TROUBLES = tuple(
    (reason, re.compile("|".join(patterns), re.IGNORECASE))
    for reason, *patterns in (
        ("budget_reached", r"maximum budget", r"budget (was |is |has been )?(reached|exceeded)"),
        (
            "not_logged_in", r"\b401\b", "unauthorized", r"(invalid|incorrect) (x-)?api[ -_]?key",
            "api key not valid", "not logged in", r"please (run /login|log ?in|set an auth)",
            r"missing environment variable: .*(key|token)", r"authentication_(error|failed)",
            "oauth token", r"token (has |is )?expired", r"no (api key|credentials)",
        ),
        (
            "rate_limited", r"\b429\b", r"rate[ _-]?limit", "too many requests", "usage limit",
            "limit reached", "quota", "hit your .*limit", "resource_exhausted",
        ),
        (
            "overloaded", r"\b5(00|02|03|04|29)\b", "overloaded", "service unavailable",
            "high demand", "at capacity", "internal server error", "bad gateway",
        ),
    )
)  # fmt: skip


def trouble(text: str) -> str:
    """Return the reason (of `types.REASONS`) that an error's text tells of; "" for none."""
    return next((reason for reason, pattern in _TROUBLES if pattern.search(text)), "")


class Reader:
    """Collects what one agent says; a subclass knows its records.

    Args:
        prices: beginning of a model's name → USD for a million tokens in, cached, out.
        env: the agent's environment.
        began: when the attempt began.

    Attributes:
        ok: True or False as the agent reported, None while it reported neither.
        message: its last words, or its error.
        reason: of an error, its code in `types.REASONS`; "" when it is none of those.
        session: the agent's own session.
        model: the model it asks.
        final: its last record says that it has ended. What it prints after it may change that.
        complete: what it used is said in whole, and by itself.
        denied: the names of the tools that it wanted and was denied.
        live: whether what it used can be known while it runs, and not only from its last record.
    """

    #: Only lines that hold one of these are parsed.
    needles: tuple[bytes, ...] = ()
    live = False

    def __init__(
        self, prices: Mapping[str, Sequence[float]], env: Mapping[str, str], began: float
    ) -> None:
        self.prices = prices
        self.env = env
        self.began = began
        self.ok: bool | None = None
        self.message = ""
        self.reason = ""
        self.session: str | None = None
        self.model: str | None = None
        self.final = False
        self.complete = False
        self.denied: dict[str, None] = {}
        # what the agent says of the whole, and what was counted since
        self.input: int | None = None
        self.output: int | None = None
        self.cached: int | None = None
        self.cost: float | None = None
        self.turns: int | None = None
        self.counted: dict[str, list[int]] = {}  # model → fresh, cached, written, out
        self._plain: deque[str] = deque(maxlen=_PLAIN_LINES)
        # what was told as the whole, and what was shown since: neither is unsaid later
        self._told: dict[str, float] = {}
        self._shown: dict[str, float] = {}

    def see(self, record: Record) -> None:
        """Take one record."""

    def look(self) -> None:
        """Look at what the agent writes beside its output."""

    def end(self, log: IO[bytes]) -> None:
        """Look at the whole log once more, after its last record."""

    def plain(self, line: bytes) -> None:
        """Take a line that is no record."""
        text = one_line(line[: 2 * MESSAGE_LIMIT].decode("utf-8", "replace"), MESSAGE_LIMIT)
        if text:
            self._plain.append(text)

    def usage(self) -> Record | None:
        """Return the fields of `types.Usage` as far as they are known; None when nothing is."""
        counted = [*self.counted.values()]

        def added(said: int | None, *parts: int) -> int | None:
            return summed([said, *(each[part] for each in counted for part in parts)])

        cost, estimated = self._cost()
        numbers = {
            "input_tokens": added(self.input, 0, 1, 2),
            "output_tokens": added(self.output, 3),
            "cached_tokens": added(self.cached, 1),
            "cost_usd": cost,
            "turns": self.turns,
        }
        self._hold(numbers)
        if all(number is None for number in numbers.values()):
            return None
        return {
            **numbers,
            "partial": not self.complete,
            "estimated": estimated,
            "model": one_line(self.model or "", _MODEL_LIMIT) or None,
        }

    def _hold(self, numbers: dict[str, Any]) -> None:
        """Let no number be less than it was, in place.

        The agent's own word on the whole counts as it is, also below what was counted until then;
        what it said of the whole before is the least even of that.
        """
        least = self._told if self.complete else self._shown
        for name, number in numbers.items():
            before = least.get(name)
            if before is not None and (number is None or number < before):
                numbers[name] = before
        known = {name: number for name, number in numbers.items() if number is not None}
        if self.complete:
            self._told = {**self._told, **known}
        self._shown = {**self._shown, **known}

    def tokens(self, model: str) -> list[int]:
        """Return what was counted of a model: fresh, cached, written, out; to be added to."""
        known = self.counted.get(model)
        if known is None:
            name = model if len(self.counted) < _NAMES_LIMIT else ""
            known = self.counted.setdefault(name, [0, 0, 0, 0])
        return known

    def deny(self, tool: str) -> None:
        """Remember a tool that the agent wanted and was denied."""
        if len(self.denied) < _NAMES_LIMIT:
            self.denied[one_line(tool, _MODEL_LIMIT) or "a tool"] = None

    def _cost(self) -> tuple[float | None, bool]:
        """Return USD so far, and whether prices were needed to say it."""
        said, amounts = self.cost, dict(self.counted)
        if said is None and self.input is not None:
            cached = min(self.cached or 0, self.input)
            model = self.model or ""
            before = amounts.get(model, [0, 0, 0, 0])
            now = [self.input - cached, cached, 0, self.output or 0]
            amounts[model] = [sum(pair) for pair in zip(before, now, strict=True)]
        if not self.prices or not any(map(any, amounts.values())):
            return said, False
        more = sum(self._priced(model, amount) for model, amount in amounts.items())
        return min((said or 0.0) + more, _MONEY_LIMIT), True

    def _priced(self, model: str, amount: Sequence[int]) -> float:
        """Return USD for tokens; a model that has no price counts as the dearest one."""
        fits = [start for start in self.prices if model.startswith(start)] if model else []
        if "" in self.prices:
            fits.append("")
        found = [max(fits, key=len)] if fits else [*self.prices]
        fresh, cached, written, out = amount
        went_in = fresh + written * _CACHE_WRITE
        return max(
            (went_in * price[0] + cached * price[1] + out * price[2]) / 1e6
            for price in map(self.prices.__getitem__, found)
        )

    def answer(self) -> Record:
        """Return what is known: `ok`, `message`, `reason`, `session`, `usage`, `denied`, `last`.

        `last` is the last line that was no record, and `reason` what such lines tell of when the
        agent reported no outcome at all.
        """
        reason = self.reason
        if self.ok is None:
            reason = next(filter(None, map(trouble, reversed(self._plain))), "")
        return {
            "ok": self.ok,
            "message": one_line(self.message, MESSAGE_LIMIT),
            "reason": reason,
            "session": one_line(self.session or "", _SESSION_LIMIT) or None,
            "usage": self.usage() or {},
            "denied": one_line(", ".join([*self.denied][:5]), MESSAGE_LIMIT),
            "last": self._plain[-1] if self._plain else "",
        }


def mapping(value: object) -> Record:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Record]:
    """Return the JSON objects of a list, none for anything else."""
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def text(value: object) -> str:
    """Return a text, "" for anything else."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int | None:
    """Return a number of things, None for what cannot be one."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _COUNT_LIMIT:
        return value
    return None


def summed(values: Iterable[object]) -> int | None:
    """Return the sum of what are counts; None when none is."""
    counts = [number for number in map(count, values) if number is not None]
    return min(sum(counts), _COUNT_LIMIT - 1) if counts else None


def number(value: object) -> float | None:
    """Return a number that is not negative, None for what is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _COUNT_LIMIT:
        return float(value)
    return None


def money(value: object) -> float | None:
    """Return USD, None for what cannot be that."""
    usd = number(value)
    return usd if usd is not None and usd <= _MONEY_LIMIT else None


def one_line(words: str, limit: int) -> str:
    """Return text that is safe to print and to encode: one line, no control characters."""
    head = words[: 4 * limit].encode("utf-8", "replace").decode()
    line = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
