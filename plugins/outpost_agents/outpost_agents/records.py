"""What an agent says and does, in one form for all agents.

A reader turns the lines that its agent prints into these records. The outcome, the usage and the
session of a worker come from them, and so does the text that people read. A record holds only
what it says it holds: whatever an agent printed can be handed over, and what has another type
counts as missing.
"""

from __future__ import annotations

from outpost_agents.values import count, mapping, mappings, money, number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Record:
    """One thing that an agent said or did; a subclass says which."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and repr(self) == repr(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({said})"


class Session(Record):
    """The agent's own session has begun, or its model became known.

    Args:
        id: of the session, with which the agent can be resumed; "" when it is not known.
        model: the model that is asked; "" when it is not known.
    """

    __slots__ = ("id", "model")

    def __init__(self, id: object = "", *, model: object = "") -> None:  # noqa: A002
        self.id = text(id)
        self.model = text(model)


class Working(Record):
    """The agent is at work: an end that it reported before was not the last."""

    __slots__ = ()


class Said(Record):
    """Words of the agent.

    Args:
        text: the words.
        piece: the words are a piece of what it says: they continue those of the piece before.
        helper: they are of another agent that this one started.
    """

    __slots__ = ("helper", "piece", "text")

    def __init__(self, text_: object, *, piece: bool = False, helper: bool = False) -> None:
        self.text = text(text_)
        self.piece = piece
        self.helper = helper


class Heard(Record):
    """Words that the agent was told while it worked.

    Args:
        text: the words.
        helper: they were told to another agent that this one started.
    """

    __slots__ = ("helper", "text")

    def __init__(self, text_: object, *, helper: bool = False) -> None:
        self.text = text(text_)
        self.helper = helper


class Thought(Record):
    """What the agent thinks or plans.

    Args:
        text: the words.
        helper: see `Said`.
    """

    __slots__ = ("helper", "text")

    def __init__(self, text_: object, *, helper: bool = False) -> None:
        self.text = text(text_)
        self.helper = helper


class ToolCall(Record):
    """The agent uses a tool.

    Args:
        name: of the tool; `shell` for a command.
        arguments: what the tool is told, by name; the `command` of a shell.
        helper: see `Said`.
    """

    __slots__ = ("arguments", "helper", "name")

    def __init__(self, name: object, arguments: object = None, *, helper: bool = False) -> None:
        self.name = text(name)
        self.arguments = mapping(arguments)
        self.helper = helper


class ToolResult(Record):
    """What a tool answered.

    Args:
        text: the answer, or a list of objects with a `text` each.
        failed: whether the tool failed.
        helper: see `Said`.
    """

    __slots__ = ("failed", "helper", "text")

    def __init__(self, text_: object, *, failed: bool = False, helper: bool = False) -> None:
        if isinstance(text_, list):
            text_ = "\n".join(text(part.get("text")) for part in mappings(text_))
        self.text = text(text_)
        self.failed = failed
        self.helper = helper


class Question(Record):
    """The agent waits for a person's answer.

    Args:
        text: what it asks.
    """

    __slots__ = ("text",)

    def __init__(self, text_: object) -> None:
        self.text = text(text_)


class Problem(Record):
    """Something went wrong, and the agent may try again: this is no outcome yet.

    Args:
        text: what it says about it.
    """

    __slots__ = ("text",)

    def __init__(self, text_: object) -> None:
        self.text = text(text_)


class Denied(Record):
    """The agent wanted to use a tool and was not allowed to.

    Args:
        tool: the tool's name.
    """

    __slots__ = ("tool",)

    def __init__(self, tool: object) -> None:
        self.tool = text(tool)


class Usage(Record):
    """What the agent used.

    Numbers have one meaning for all agents. What is not known is None.

    Args:
        input: tokens that went in, those from a cache and those written to one included.
        output: tokens that came out, thinking included.
        cached: tokens of `input` that came from a cache.
        written: tokens of `input` that were written to a cache.
        cost: USD.
        turns: how often the model was asked.
        model: the model that was asked; "" when it is not known.
        total: False: this came in addition to what was said before. True: this is all of it
            until now, and replaces what was said before.
    """

    __slots__ = ("cached", "cost", "input", "model", "output", "total", "turns", "written")

    def __init__(
        self,
        *,
        input: object = None,  # noqa: A002
        output: object = None,
        cached: object = None,
        written: object = None,
        cost: object = None,
        turns: object = None,
        model: object = "",
        total: bool = False,
    ) -> None:
        self.input = count(input)
        self.output = count(output)
        self.cached = count(cached)
        self.written = count(written)
        self.cost = money(cost)
        self.turns = count(turns)
        self.model = text(model)
        self.total = total


class Ended(Record):
    """The agent reports its end.

    Args:
        ok: whether it succeeded; None: only a step has ended, and its outcome is open.
        message: its error, or its last words; "" when other records say them.
        reason: the code of its error, see the page «Reasons and exit codes»; "" when none of
            them fits; None: to be found in the message.
        complete: whether what it used has been said in whole.
        retry_at: when a limit of its provider is over, in seconds since 1970; None: to be found
            in the message.
    """

    __slots__ = ("complete", "message", "ok", "reason", "retry_at")

    def __init__(
        self,
        ok: bool | None,
        message: object = "",
        *,
        reason: str | None = None,
        complete: bool = True,
        retry_at: object = None,
    ) -> None:
        self.ok = ok if isinstance(ok, bool) else None
        self.message = text(message)
        self.reason = reason
        self.complete = complete
        self.retry_at = number(retry_at)


class Other(Record):
    """A line that the reader does not know: people see the beginning of it.

    Args:
        line: the JSON object.
    """

    __slots__ = ("line",)

    def __init__(self, line: dict[str, Any]) -> None:
        self.line = line
