"""What became of an agent: its outcome, session and usage, out of the records of its reader.

Token counts have one meaning for all agents: `input_tokens` is everything that went in,
`cached_tokens` is the part of it that came from a cache, `output_tokens` includes thinking.
Nothing here raises on what an agent prints.
"""

from __future__ import annotations

import time
from collections import deque

from outpost_agents import records
from outpost_agents.limits import FARTHEST, LIMITS, moment
from outpost_agents.troubles import trouble
from outpost_agents.values import MONEY_LIMIT, one_line, summed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import IO, Any

    from outpost_agents.reader import Reader
    from outpost_agents.records import Record
    from outpost_agents.values import Line

MESSAGE_LIMIT = 500
_SESSION_LIMIT = 200
_MODEL_LIMIT = 100
#: Models and denied tools that are told apart; a stream of ever new names fills no memory.
_NAMES_LIMIT = 64
#: Lines that are no records of which the last are kept: an agent that cannot even begin says why
#: in plain words.
_PLAIN_LINES = 8
#: What a token costs that is written to a cache, as a multiple of one that goes in.
_CACHE_WRITE = 1.25


class Account:
    """Keeps what one agent's records say; asked at any moment.

    Args:
        reader: of the agent's output.
        prices: beginning of a model's name → USD for a million tokens in, cached, out.

    Attributes:
        ok: True or False as the agent reported, None while it reported neither.
        message: its last words, or its error.
        reason: of an error, its code in `types.REASONS`; "" when it is none of those.
        retry_at: when its provider takes requests again, in seconds since 1970, as it says; None
            when it does not say.
        session: the agent's own session.
        model: the model it asks.
        final: its last record says that it has ended. What it prints after it may change that.
        complete: what it used is said in whole, and by itself.
        denied: the names of the tools that it wanted and was denied.
        question: what it waits for a person to answer; "" while it does not.
    """

    def __init__(self, reader: Reader, prices: Mapping[str, Sequence[float]]) -> None:
        self.reader = reader
        self.prices = prices
        self.ok: bool | None = None
        self.message = ""
        self.reason = ""
        self.retry_at: float | None = None
        self.session: str | None = None
        self.model: str | None = None
        self.final = False
        self.complete = False
        self.denied: dict[str, None] = {}
        self.question = ""
        self._words = ""
        self._speaking = False
        # what the agent says of the whole, and what was counted since
        self._input: int | None = None
        self._output: int | None = None
        self._cached: int | None = None
        self._cost: float | None = None
        self._turns: int | None = None
        self._counted: dict[str, list[int]] = {}  # model → fresh, cached, written, out
        self._plain: deque[str] = deque(maxlen=_PLAIN_LINES)
        # what was told as the whole, and what was shown since: neither is unsaid later
        self._told: dict[str, float] = {}
        self._shown: dict[str, float] = {}

    # --- what comes in

    def see(self, line: Line) -> None:
        """Take one JSON object of the output."""
        self._take(lambda: self.reader.read(line))

    def look(self) -> None:
        """Look at what the agent writes beside its output."""
        self._take(self.reader.look)

    def end(self, log: IO[bytes]) -> None:
        """Look at the whole log once more, after its last line.

        Args:
            log: open for reading.
        """
        self._take(lambda: self.reader.end(log))

    def plain(self, line: bytes) -> None:
        """Take a line that is no record."""
        text = one_line(line[: 2 * MESSAGE_LIMIT].decode("utf-8", "replace"), MESSAGE_LIMIT)
        if text:
            self._plain.append(text)

    def _take(self, read: Callable[[], Iterable[Record]]) -> None:
        try:
            for record in read():
                self.take(record)
        except SystemExit as error:  # a reader ends no program
            raise RuntimeError("the reader called sys.exit") from error

    def take(self, record: Record) -> None:
        """Take one record."""
        if isinstance(record, records.Usage):
            self._use(record)
            return
        speaking, self._speaking = self._speaking, isinstance(record, records.Said)
        if isinstance(record, records.Said):
            if record.text and not record.helper:
                before = self._words if record.piece and speaking else ""
                self._words = self.message = (before + record.text)[: 2 * MESSAGE_LIMIT]
        elif isinstance(record, records.Working):
            self.final = self.complete = False
        elif isinstance(record, records.Session):
            self.session = record.id or self.session
            self.model = record.model or self.model
        elif isinstance(record, records.Problem):
            self.message = record.text or self.message
        elif isinstance(record, records.Denied):
            if len(self.denied) < _NAMES_LIMIT:
                self.denied[one_line(record.tool, _MODEL_LIMIT) or "a tool"] = None
        elif isinstance(record, records.Ended):
            self._ended(record)
        asked = record.text if isinstance(record, records.Question) else ""
        self.question = one_line(asked, MESSAGE_LIMIT)

    def _ended(self, record: records.Ended) -> None:
        self.ok = record.ok
        self.final = record.ok is not None
        self.complete = self.final and record.complete
        if record.ok is False:
            self.message = record.message or self.message
            self.reason = trouble(self.message) if record.reason is None else record.reason
            self.retry_at = record.retry_at
        elif record.ok:
            self.message = record.message or self._words or self.message
            self.reason, self.retry_at = "", None

    def _use(self, said: records.Usage) -> None:
        """Add what came in addition, or take the whole in the place of all before."""
        if said.total:
            self.model = said.model or self.model
            self._input, self._output, self._cached = said.input, said.output, said.cached
            self._cost, self._turns = said.cost, said.turns
            self._counted.clear()
            return
        self.model = self.model or said.model or None
        self._turns = summed([self._turns, said.turns])
        if said.cost is not None:
            self._cost = min((self._cost or 0.0) + said.cost, MONEY_LIMIT)
            self._input = summed([self._input, said.input])
            self._output = summed([self._output, said.output])
            self._cached = summed([self._cached, said.cached])
        elif said.input is not None or said.output is not None:
            into, cached, written = said.input or 0, said.cached or 0, said.written or 0
            amount = self._tokens(said.model)
            amounts = (max(0, into - cached - written), cached, written, said.output or 0)
            amount[:] = map(sum, zip(amount, amounts, strict=True))

    def _tokens(self, model: str) -> list[int]:
        """Return what was counted of a model: fresh, cached, written, out; to be added to."""
        known = self._counted.get(model)
        if known is None:
            name = model if len(self._counted) < _NAMES_LIMIT else ""
            known = self._counted.setdefault(name, [0, 0, 0, 0])
        return known

    # --- what it comes to

    def usage(self) -> Line | None:
        """Return the fields of `types.Usage` as far as they are known; None when nothing is."""
        counted = [*self._counted.values()]

        def added(said: int | None, *parts: int) -> int | None:
            return summed([said, *(each[part] for each in counted for part in parts)])

        cost, estimated = self._spent()
        numbers = {
            "input_tokens": added(self._input, 0, 1, 2),
            "output_tokens": added(self._output, 3),
            "cached_tokens": added(self._cached, 1),
            "cost_usd": cost,
            "turns": self._turns,
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

    def _spent(self) -> tuple[float | None, bool]:
        """Return USD so far, and whether prices were needed to say it."""
        said, amounts = self._cost, dict(self._counted)
        if said is None and self._input is not None:
            cached = min(self._cached or 0, self._input)
            model = self.model or ""
            before = amounts.get(model, [0, 0, 0, 0])
            now = [self._input - cached, cached, 0, self._output or 0]
            amounts[model] = [sum(pair) for pair in zip(before, now, strict=True)]
        if not self.prices or not any(map(any, amounts.values())):
            return said, False
        more = sum(self._priced(model, amount) for model, amount in amounts.items())
        return min((said or 0.0) + more, MONEY_LIMIT), True

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

    def answer(self) -> Line:
        """Return what is known as a mapping.

        `ok`, `message`, `reason`, `retry_at`, `session`, `usage`, `denied` and `last`: the last
        line that was no record. `reason` and `retry_at` are what such lines tell of when the agent
        reported no outcome at all.
        """
        reason, words = self.reason, [self.message]
        if self.ok is None:
            words = [*reversed(self._plain)]
            reason = next(filter(None, map(trouble, words)), "")
        return {
            "ok": self.ok,
            "message": one_line(self.message, MESSAGE_LIMIT),
            "reason": reason,
            "retry_at": self._retry_at(reason, words),
            "session": one_line(self.session or "", _SESSION_LIMIT) or None,
            "usage": self.usage() or {},
            "denied": one_line(", ".join([*self.denied][:5]), MESSAGE_LIMIT),
            "last": self._plain[-1] if self._plain else "",
        }

    def _retry_at(self, reason: str, words: Iterable[str]) -> float | None:
        """Return when its provider takes requests again; None where it has not refused any."""
        if reason not in LIMITS:
            return None
        now = time.time()
        told = (moment(text, now, self.reader.env.get("TZ", "")) for text in words)
        found = self.retry_at or next(filter(None, told), None)
        return found if found is not None and found <= now + FARTHEST else None
