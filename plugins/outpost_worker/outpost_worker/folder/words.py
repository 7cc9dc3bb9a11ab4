"""Words of agents, tools and repositories, before they are told as ours."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Characters of a message, and of every other text of a result, that are kept: whoever reads it
#: takes longer ones (`plausible`) for what no supervisor has written. A message often names paths
#: and quotes a program, and both can be as long as an agent likes.
_LONGEST_MESSAGE = 8000
_LONGEST = 4000
#: What of a result a stranger may have worded.
_WORDED = ("message", "session", "branch", "pr_url", "checkpoint")


def readable(text: str) -> str:
    """Return `text` with a `�` for each character that a terminal would obey or that is unseen."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters: without what is in its middle."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2 - 2]} … {text[len(text) - most // 2 + 1 :]}"


def make_readable(result: dict[str, Any]) -> None:
    """Make all words of a result readable, and none too long, in place."""
    for name in _WORDED:
        if result.get(name):
            said = readable(result[name])
            if name == "message":
                said = shortened(said, _LONGEST_MESSAGE)
            result[name] = said if name == "message" or len(said) <= _LONGEST else None
    usage = result.get("usage")
    if usage and usage.get("model"):
        usage["model"] = readable(usage["model"])
