"""Reads opencode, `run --format json`: each step says what it used and cost."""

from __future__ import annotations

from outpost_agents.reader import Reader
from outpost_agents.records import (
    Ended,
    Said,
    Session,
    Thought,
    ToolCall,
    ToolResult,
    Usage,
    Working,
)
from outpost_agents.troubles import trouble
from outpost_agents.values import count, mapping, summed, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from outpost_agents.records import Record
    from outpost_agents.values import Line


class Opencode(Reader):
    """Reads opencode."""

    needles = (b'"step_start"', b'"step_finish"', b'"text"', b'"error"')
    name = "opencode"

    def __init__(self, env: Mapping[str, str], began: float) -> None:
        super().__init__(env, began)
        self._session = self._reason = ""

    def read(self, line: Line) -> Iterable[Record]:
        """Return the records of one line; each of them names the session."""
        session = text(line.get("sessionID")) or self._session
        if session != self._session:
            self._session = session
            return (Session(session), *super().read(line))
        return super().read(line)

    def on_step_start(self, line: Line) -> Iterator[Record]:
        """Read that it works."""
        yield Working()

    def on_text(self, line: Line) -> Iterator[Record]:
        """Read words."""
        yield Said(mapping(line.get("part")).get("text"))

    def on_reasoning(self, line: Line) -> Iterator[Record]:
        """Read thoughts."""
        yield Thought(mapping(line.get("part")).get("text"))

    def on_tool_use(self, line: Line) -> Iterator[Record]:
        """Read what was run and what it led to."""
        part = mapping(line.get("part"))
        state = mapping(part.get("state"))
        yield ToolCall(part.get("tool"), state.get("input"))
        failed = state.get("status") == "error"
        yield ToolResult(state.get("error") if failed else state.get("output"), failed=failed)

    def on_error(self, line: Line) -> Iterator[Record]:
        """Read what went wrong."""
        error = mapping(line.get("error"))
        message = text(mapping(error.get("data")).get("message")) or text(error.get("name"))
        self._reason = trouble(message)
        yield Ended(False, message, reason=self._reason, complete=False)

    def on_step_finish(self, line: Line) -> Iterator[Record]:
        """Read what a step used; with the last one it has ended."""
        part = mapping(line.get("part"))
        tokens = mapping(part.get("tokens"))
        cache = mapping(tokens.get("cache"))
        yield Usage(
            input=summed([tokens.get("input"), cache.get("read"), cache.get("write")]),
            output=summed([tokens.get("output"), tokens.get("reasoning")]),
            cached=count(cache.get("read")),
            written=count(cache.get("write")),
            cost=part.get("cost"),
            turns=1,
        )
        ok = {"stop": True, "error": False}.get(text(part.get("reason")))
        yield Ended(ok, reason=self._reason)
