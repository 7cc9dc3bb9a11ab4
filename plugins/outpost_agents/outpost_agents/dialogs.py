"""Whether the terminal of an agent shows a question that a typed line does not answer.

A menu, a login. The patterns are those of all agents, since a command may start any of them.
"""

from __future__ import annotations

import re
from typing import Final

#: Beginnings of menus and of questions in the agents that have presets (Claude Code 2.1, Codex
#: 0.169, Gemini CLI 0.61): a chosen entry of a numbered list, or a wish for one key.
_MENU: Final = re.compile(r"^[\s│┃|]*[❯›>]\s*\d[.)]\s+\S", re.MULTILINE)
_KEY: Final = re.compile(
    r"(^\W*press (enter|any key)|[(\[]y(es)?/no?[)\]]|password:\s*$"
    r"|do you trust|esc to cancel|select login method)",
    re.IGNORECASE | re.MULTILINE,
)
#: Lines from the end in which a dialog that is open stands.
_LINES: Final = 15


def question(screen: str) -> str:
    """Return the question that a screen asks, one line; "" when it takes a line of text."""
    lines = [line.strip() for line in screen.rstrip().splitlines()[-_LINES:]]
    shown = "\n".join(lines)
    if not (_MENU.search(shown) or _KEY.search(shown)):
        return ""
    asked = [line.strip("│┃| ") for line in lines if line.rstrip("│┃| ").endswith(("?", ":"))]
    return (asked[-1] if asked else "it shows a dialog")[:160]
