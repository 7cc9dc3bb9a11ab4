"""Words of agents, tools and repositories, before they are told as ours."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What of a result a stranger may have worded.
_WORDED = ("message", "session", "branch", "pr_url", "checkpoint")


def readable(text: str) -> str:
    """Return `text` with a `�` for each character that a terminal would obey or that is unseen."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def make_readable(result: dict[str, Any]) -> None:
    """Make all words of a result readable, in place."""
    for name in _WORDED:
        if result.get(name):
            result[name] = readable(result[name])
    usage = result.get("usage")
    if usage and usage.get("model"):
        usage["model"] = readable(usage["model"])
