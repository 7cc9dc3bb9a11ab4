"""What a reader of an agent's output is."""

from __future__ import annotations

from outpost_agents.records import Other

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import IO

    from outpost_agents.records import Record
    from outpost_agents.values import Line
    from outpost_core.types import Price


class Reader:
    """Turns the JSON objects that one agent prints, a line each, into records.

    A subclass has a method `on_TYPE` for each value of `type` that it knows (a dot or a dash in it
    becomes `_`), which takes the object and returns or yields records; or it overrides `read`.
    What it raises costs that one line. It uses the standard library and `outpost_agents` alone.

    Args:
        env: the agent's environment; empty where its log is shown to people.
        began: when the attempt began, in seconds since 1970; 0 where its log is shown to people.
    """

    #: Beside the agent only lines that hold one of these are read, so that a tool's output of
    #: megabytes costs nothing. Name all that session, outcome and usage need. None: every line.
    needles: tuple[bytes, ...] | None = None
    #: Types that say nothing to anybody.
    silent: frozenset[str] = frozenset()
    #: What people see as the beginning of a session whose model is not known.
    name = ""

    @classmethod
    def prices(cls) -> Mapping[str, Price] | None:
        """Return prices by the beginning of a model's name, for an output that tells tokens alone.

        USD for a million tokens: that go in, that come from a cache, that come out. The longest
        beginning that fits counts. "" is for a model that nobody named or knows: the dearest of
        the ordinary ones, so that a limit is kept. Some models cost more for very long prompts;
        their ordinary price is meant, so what is counted by it is an estimate and is marked so.
        The section `prices` of `outposts.yaml` replaces what is not true any more.

        None: the output itself says what was spent.
        """
        return None

    def __init__(self, env: Mapping[str, str], began: float) -> None:
        self.env = env
        self.began = began

    def read(self, line: Line) -> Iterable[Record]:
        """Return the records of one JSON object."""
        kind = line.get("type")
        if not isinstance(kind, str):
            return (Other(line),)
        method = getattr(self, f"on_{kind.replace('.', '_').replace('-', '_')}", None)
        if method is not None:
            records: Iterable[Record] = method(line)
            return records
        return () if kind in self.silent else (Other(line),)

    def look(self) -> Iterable[Record]:
        """Return what the agent wrote beside its output since the last look.

        Called every few seconds while it runs. Read such files with `outpost_agents.open_plain`:
        an agent wrote them.
        """
        return ()

    def end(self, log: IO[bytes]) -> Iterable[Record]:
        """Return what only the whole log says, once it has ended.

        Args:
            log: open for reading, at any place.
        """
        return ()


class Plain(Reader):
    """Reads nothing: the reader of agents that print plain text."""

    needles = ()
