"""What an agent says and does, as blocks of text for people: one way for the records of all agents.

A line that its reader does not know is shown cut to one line, so that an agent's next version
never seems to be silent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from outpost_agents import records, values
from outpost_agents.account import Account
from outpost_manager.cli import output
from outpost_manager.cli.render import clean, clean_lines, count, fit, money, terminal_width

if TYPE_CHECKING:
    from outpost_agents.reader import Reader
    from outpost_agents.records import Record

#: lines of a tool's output that are shown.
_LINES: Final = 6
#: characters of a line that are looked at, and cells of it that are shown where no terminal's
#: width says it.
_LONGEST: Final = 1000
_CELLS: Final = 160
#: arguments of tools that say most, the best first.
_TELLING: Final = (
    "command", "file_path", "filePath", "path", "pattern", "query", "url", "skill",
    "description", "prompt",
)  # fmt: skip
_SHELLS: Final = ("Bash", "bash", "shell", "run_shell_command", "exec_command")
#: what the end says of the usage.
_COUNTS: Final = {"turns": "turn", "input_tokens": "token", "output_tokens": "token"}
_WAYS: Final = {"input_tokens": " in", "output_tokens": " out"}


class Renderer:
    """Turns what one agent prints into blocks of text.

    Args:
        reader: of its output.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._account = Account(reader, {})
        self._pieces: list[str] = []
        self._session = ""

    def line(self, line: dict[str, Any]) -> Iterator[str]:
        """Yield the blocks of one line of its output; some may be empty."""
        for record in self._reader.read(line):
            self._account.take(record)
            yield from self._shown(record)

    def end(self) -> Iterator[str]:
        """Yield what is left when the log has ended."""
        if self._pieces:
            yield _said("".join(self._pieces))
            self._pieces.clear()

    def _shown(self, record: Record) -> Iterator[str]:
        if isinstance(record, records.Said) and record.piece:
            self._pieces.append(record.text)
            return
        yield from self.end()
        if isinstance(record, records.Ended):
            yield self._ended(record)
        elif isinstance(record, records.Session):
            yield self._began(record)
        else:
            text = _block(record)
            bar = dim("│ ") if getattr(record, "helper", False) else ""
            yield "\n".join(bar + line for line in text.split("\n")) if text else ""

    def _began(self, record: records.Session) -> str:
        if record.id and record.id == self._session:
            return ""
        self._session = record.id
        session = f"session {record.id}" if record.id else ""
        who = record.model or (self._reader.name if session else "")
        return dim(clean(" · ".join(filter(None, (who, session)))))

    def _ended(self, record: records.Ended) -> str:
        if record.ok is None:
            return ""
        message = "" if record.ok else self._account.message
        used = self._account.usage() or {}
        counts = [
            count(used[name], word) + _WAYS.get(name, "")
            for name, word in _COUNTS.items()
            if used.get(name) is not None
        ]
        parts = [
            clean(" ".join(message.split())),
            *counts,
            money(used.get("cost_usd")),
        ]
        text = " · ".join(filter(None, parts))
        return output.style(f"✓ {text}", fg="green") if record.ok else _red(f"✗ {text or 'failed'}")


def _block(record: Record) -> str:
    """Return what one record says by itself."""
    match record:
        case records.Said() | records.Heard():
            return _said(record.text)
        case records.Thought():
            return dim(_said(record.text))
        case records.ToolCall():
            return _call(record.name, record.arguments)
        case records.ToolResult():
            return _output(record.text, failed=record.failed)
        case records.Problem():
            return _red(_said(record.text))
        case records.Question():
            return output.style(f"? {_said(record.text)}", fg="yellow")
        case records.Other():
            return _unknown(record.line)
    return ""


def dim(text: str) -> str:
    """Return text in the background."""
    return output.style(text, dim=True) if text else ""


def _said(text: str) -> str:
    return clean_lines(click.unstyle(text).strip("\n"))


def _red(text: str) -> str:
    return output.style(text, fg="red") if text else ""


def _command(command: str) -> str:
    return output.style(clean_lines(f"$ {command.strip()}"), fg="cyan")


def _call(name: str, arguments: dict[str, Any]) -> str:
    """Return a tool with the argument that says most."""
    command = arguments.get("command")
    if name in _SHELLS and isinstance(command, str):
        return _command(command)
    told = next(filter(None, (values.text(arguments.get(key)) for key in _TELLING)), "")
    told = told or (json.dumps(arguments, ensure_ascii=False) if arguments else "")
    line = _cut(clean(f"{name or 'tool'} {told[:_LONGEST]}"))
    return output.style(f"● {line}", fg="cyan")


def _output(text: str, *, failed: bool) -> str:
    """Return the beginning of what a tool answered."""
    lines = _said(text).rstrip().split("\n")
    shown = [f"  {_cut(line)}" for line in lines[:_LINES] if line or lines[1:]]
    if len(lines) > _LINES:
        shown.append(f"  … {len(lines) - _LINES} more lines")
    text = "\n".join(shown)
    return _red(text) if failed else dim(text)


def _cut(line: str) -> str:
    """Return the beginning of a line, so that with a mark before it it fits the terminal."""
    return fit(line[:_LONGEST], (terminal_width() or _CELLS) - 2)


def _unknown(line: dict[str, Any]) -> str:
    return dim(_cut(clean(json.dumps(line, ensure_ascii=False)[:_LONGEST])))
