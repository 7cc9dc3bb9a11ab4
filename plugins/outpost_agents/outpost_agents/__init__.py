"""The agents that Outpost knows, and what a package needs to add another.

Each agent has a folder of its own here: its preset (how it is started), its reader (what its
output says) and what else only it needs. A reader turns what the agent prints into records, which
are the same for all agents; the outcome and the usage of a worker (`account`) and the text that
people read come from these. So one import gives an author all that an agent needs:

    from outpost_agents import Ended, Reader, Said, ToolCall, Usage

Each name is loaded when it is first used: a worker with a plain command loads none.
"""

from __future__ import annotations

# not from `typing`: a worker starts in milliseconds
TYPE_CHECKING = False
if TYPE_CHECKING:
    from outpost_agents.reader import Reader as Reader
    from outpost_agents.records import Denied as Denied
    from outpost_agents.records import Ended as Ended
    from outpost_agents.records import Heard as Heard
    from outpost_agents.records import Other as Other
    from outpost_agents.records import Problem as Problem
    from outpost_agents.records import Question as Question
    from outpost_agents.records import Record as Record
    from outpost_agents.records import Said as Said
    from outpost_agents.records import Session as Session
    from outpost_agents.records import Thought as Thought
    from outpost_agents.records import ToolCall as ToolCall
    from outpost_agents.records import ToolResult as ToolResult
    from outpost_agents.records import Usage as Usage
    from outpost_agents.records import Working as Working
    from outpost_shared.plain import open_plain as open_plain

_RECORDS = (
    "Denied", "Ended", "Heard", "Other", "Problem", "Question", "Record", "Said", "Session",
    "Thought", "ToolCall", "ToolResult", "Usage", "Working",
)  # fmt: skip
_HOMES = {
    "Reader": "outpost_agents.reader",
    **dict.fromkeys(_RECORDS, "outpost_agents.records"),
    "open_plain": "outpost_shared.plain",
}

__all__ = [
    "Denied",
    "Ended",
    "Heard",
    "Other",
    "Problem",
    "Question",
    "Reader",
    "Record",
    "Said",
    "Session",
    "Thought",
    "ToolCall",
    "ToolResult",
    "Usage",
    "Working",
    "open_plain",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'outpost_agents' has no attribute {name!r}")
