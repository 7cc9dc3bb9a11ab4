"""opencode, `run --format json`: each step says what it used and cost."""

from __future__ import annotations

from outpost_worker.agents.record import Reader, Record, mapping, money, summed, text, trouble

#: USD that are added up at most.
_MOST = 1_000_000.0


class Opencode(Reader):
    """Reads opencode."""

    needles = (b'"step_start"', b'"step_finish"', b'"text"', b'"error"')
    live = True

    def see(self, record: Record) -> None:
        """Take one record."""
        kind = record.get("type")
        part = mapping(record.get("part"))
        if kind in ("step_start", "step_finish", "text", "error"):
            self.session = text(record.get("sessionID")) or self.session
        if kind == "step_start":
            self.final = self.complete = False
        elif kind == "text":
            self.message = text(part.get("text"))
        elif kind == "error":
            self.ok = False
            error = mapping(record.get("error"))
            self.message = text(mapping(error.get("data")).get("message")) or text(
                error.get("name")
            )
            self.reason = trouble(self.message)
            self.final = True
        elif kind == "step_finish":
            self.ok = {"stop": True, "error": False}.get(text(part.get("reason")))
            self.final = self.complete = self.ok is not None
            self._step(part)

    def _step(self, part: Record) -> None:
        tokens = mapping(part.get("tokens"))
        cache = mapping(tokens.get("cache"))
        went_in = (tokens.get("input"), cache.get("read"), cache.get("write"))
        self.turns = (self.turns or 0) + 1
        self.input = summed([self.input, *went_in])
        self.cached = summed([self.cached, cache.get("read")])
        self.output = summed([self.output, tokens.get("output"), tokens.get("reasoning")])
        cost = money(part.get("cost"))
        if cost is not None:
            self.cost = min((self.cost or 0.0) + cost, _MOST)
