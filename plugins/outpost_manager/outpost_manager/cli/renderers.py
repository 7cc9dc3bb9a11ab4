"""What the records of an agent's JSON lines say, as blocks of text for people.

Each agent with a preset has a teller. A record that its teller does not know is shown cut to one
line, so that an agent's next version never seems to be silent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final, TypeAlias

import click

from outpost_manager.cli import output
from outpost_manager.cli.render import clean, clean_lines, fit, money, terminal_width

#: lines of a tool's output that are shown.
_LINES: Final = 6
#: characters of a line that are looked at, and cells of it that are shown where no terminal's
#: width says it.
_LONGEST: Final = 1000
_CELLS: Final = 160
#: characters of a command that are shown.
_SCRIPT: Final = 20_000
#: calls of which is remembered that they were told.
_REMEMBERED: Final = 1000
#: a number beyond which it is none.
_MOST: Final = 1e15
#: arguments of tools that say most, the best first.
_TELLING: Final = (
    "command", "file_path", "filePath", "path", "pattern", "query", "url", "skill",
    "description", "prompt",
)  # fmt: skip
_SHELLS: Final = ("Bash", "bash", "shell", "run_shell_command", "exec_command")

Record: TypeAlias = dict[str, Any]
_Blocks: TypeAlias = Iterable[str]
#: tells a teller that the log has ended.
END: Final[Record] = {"type": ""}


class Teller:
    """Turns records into blocks; a subclass has a method `on_TYPE` for each type it knows."""

    #: types of records that say nothing to people.
    silent: ClassVar[frozenset[str]] = frozenset()

    def tell(self, record: Record) -> Iterator[str]:
        """Yield the blocks of one record; some may be empty."""
        kind = record["type"].replace(".", "_")
        method = getattr(self, f"on_{kind}", None)
        if method is not None:
            yield from method(record)
        elif kind and kind not in self.silent:
            yield _unknown(record)


class Claude(Teller):
    """Claude Code, `--output-format stream-json`."""

    silent = frozenset({"stream_event", "rate_limit_event"})

    def on_system(self, record: Record) -> _Blocks:
        """Tell the beginning; the rest is housekeeping."""
        if record.get("subtype") == "init":
            yield _began(record.get("model"), record.get("session_id"))

    def on_assistant(self, record: Record) -> _Blocks:
        """Tell words, thoughts and calls of tools; those of a helper stand behind a bar."""
        bar = dim("│ ") if record.get("parent_tool_use_id") else ""
        content = _mapping(record.get("message")).get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for part in map(_mapping, parts):
            text = self._part(part)
            yield "\n".join(bar + line for line in text.split("\n")) if text else ""

    on_user = on_assistant

    def _part(self, part: Record) -> str:
        kind = part.get("type")
        if kind == "text":
            return _said(part.get("text"))
        if kind == "thinking":
            return dim(_said(part.get("thinking")))
        if kind == "tool_use":
            return _call(_text(part.get("name")), _mapping(part.get("input")))
        if kind == "tool_result":
            return _output(part.get("content"), failed=part.get("is_error") is True)
        return ""

    def on_result(self, record: Record) -> _Blocks:
        """Tell the end."""
        ok = record.get("subtype") == "success" and record.get("is_error") is not True
        usage = _mapping(record.get("usage"))
        names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        yield _ended(
            "" if ok else _text(record.get("result")) or _text(record.get("subtype")),
            ok=ok,
            turns=_number(record.get("num_turns")),
            into=sum(_number(usage.get(name)) or 0 for name in names),
            out=_number(usage.get("output_tokens")),
            cost=_number(record.get("total_cost_usd")),
        )


class Codex(Teller):
    """Codex, `exec --json`."""

    silent = frozenset({"turn_started", "item_updated"})

    def __init__(self) -> None:
        self._begun: dict[str, None] = {}

    def on_thread_started(self, record: Record) -> _Blocks:
        """Tell the beginning."""
        yield _began("codex", record.get("thread_id"))

    def on_item_started(self, record: Record) -> _Blocks:
        """Tell what is being run, once."""
        item = _mapping(record.get("item"))
        name = _text(item.get("id"))[:_LONGEST]
        if (call := self._called(item)) and name not in self._begun:
            self._begun[name] = None
            if len(self._begun) > _REMEMBERED:
                self._begun.pop(next(iter(self._begun)))
            yield call

    def on_item_completed(self, record: Record) -> _Blocks:
        """Tell what it led to."""
        yield from self.on_item_started(record)
        item = _mapping(record.get("item"))
        kind = item.get("type")
        if kind == "agent_message":
            yield _said(item.get("text"))
        elif kind == "reasoning":
            yield dim(_said(item.get("text")))
        elif kind == "error":
            yield _red(_said(item.get("message")))
        elif kind == "command_execution":
            failed = item.get("exit_code") not in (0, None)
            yield _output(item.get("aggregated_output"), failed=failed)
        elif kind == "file_change":
            for change in _mappings(item.get("changes")):
                yield _call(_text(change.get("kind")) or "edit", change)
        elif kind == "todo_list":
            for entry in _mappings(item.get("items")):
                yield dim(f"{'☑' if entry.get('completed') else '☐'} {_said(entry.get('text'))}")
        elif not self._called(item):
            yield _unknown(item)

    def _called(self, item: Record) -> str:
        kind = item.get("type")
        if kind == "command_execution":
            return _command(_unwrapped(_text(item.get("command"))))
        if kind == "mcp_tool_call":
            name = f"{_text(item.get('server'))}.{_text(item.get('tool'))}"
            return _call(name, _mapping(item.get("arguments")))
        return _call("search", item) if kind == "web_search" else ""

    def on_turn_completed(self, record: Record) -> _Blocks:
        """Tell the end."""
        usage = _mapping(record.get("usage"))
        into, out = _number(usage.get("input_tokens")), _number(usage.get("output_tokens"))
        yield _ended("", ok=True, into=into, out=out)

    def on_turn_failed(self, record: Record) -> _Blocks:
        """Tell the end."""
        yield _ended(_text(_mapping(record.get("error")).get("message")), ok=False)

    def on_error(self, record: Record) -> _Blocks:
        """Tell what went wrong; it may try again."""
        yield _red(_said(record.get("message")))


class Gemini(Teller):
    """Gemini CLI, `--output-format stream-json`; its words come in pieces."""

    def __init__(self) -> None:
        self._words: list[str] = []

    def tell(self, record: Record) -> Iterator[str]:
        """Yield the blocks of one record, first the words that it ends."""
        goes_on = record["type"] == "message" and record.get("delta") is True
        if self._words and not goes_on:
            yield _said("".join(self._words))
            self._words.clear()
        yield from super().tell(record)

    def on_message(self, record: Record) -> _Blocks:
        """Keep the agent's words until they are complete."""
        if record.get("role") == "assistant":
            self._words.append(_text(record.get("content")))
        return ()

    def on_init(self, record: Record) -> _Blocks:
        """Tell the beginning."""
        yield _began(record.get("model"), record.get("session_id"))

    def on_tool_use(self, record: Record) -> _Blocks:
        """Tell what is being run."""
        yield _call(_text(record.get("tool_name")), _mapping(record.get("parameters")))

    def on_tool_result(self, record: Record) -> _Blocks:
        """Tell what it led to."""
        yield _output(record.get("output"), failed=record.get("status") == "error")

    def on_error(self, record: Record) -> _Blocks:
        """Tell what went wrong; it may try again."""
        yield _red(_said(record.get("message")))

    def on_result(self, record: Record) -> _Blocks:
        """Tell the end."""
        stats = _mapping(record.get("stats"))
        yield _ended(
            _text(_mapping(record.get("error")).get("message")),
            ok=record.get("status") == "success",
            into=_number(stats.get("input_tokens")),
            out=_number(stats.get("output_tokens")),
        )


class Opencode(Teller):
    """opencode, `run --format json`."""

    silent = frozenset({"step_start", "step_finish"})

    def on_text(self, record: Record) -> _Blocks:
        """Tell words."""
        yield _said(_mapping(record.get("part")).get("text"))

    def on_reasoning(self, record: Record) -> _Blocks:
        """Tell thoughts."""
        yield dim(_said(_mapping(record.get("part")).get("text")))

    def on_tool_use(self, record: Record) -> _Blocks:
        """Tell what was run and what it led to."""
        part = _mapping(record.get("part"))
        state = _mapping(part.get("state"))
        yield _call(_text(part.get("tool")), _mapping(state.get("input")))
        failed = state.get("status") == "error"
        yield _output(state.get("error") if failed else state.get("output"), failed=failed)

    def on_error(self, record: Record) -> _Blocks:
        """Tell what went wrong."""
        error = _mapping(record.get("error"))
        message = _text(_mapping(error.get("data")).get("message"))
        yield _red(_said(message or error.get("name")))


#: `Agent.output` → its teller. `plain` has none: it is shown as it is.
KINDS: Final[dict[str, type[Teller]]] = {
    "claude-stream-json": Claude,
    "codex-json": Codex,
    "gemini-json": Gemini,
    "opencode-json": Opencode,
}


def dim(text: str) -> str:
    """Return text in the background."""
    return output.style(text, dim=True) if text else ""


def _said(text: object) -> str:
    return clean_lines(click.unstyle(_text(text)).strip("\n"))


def _red(text: str) -> str:
    return output.style(text, fg="red") if text else ""


def _began(who: object, session: object) -> str:
    parts = [part for part in (_text(who), f"session {session}" if session else "") if part]
    return dim(clean(" · ".join(parts)))


def _ended(
    message: str,
    *,
    ok: bool,
    turns: float | None = None,
    into: float | None = None,
    out: float | None = None,
    cost: float | None = None,
) -> str:
    counts = ((turns, "turns"), (into, "tokens in"), (out, "tokens out"))
    parts = [
        clean(" ".join(message.split())),
        *(f"{value:,} {word}" for value, word in counts if value is not None),
        money(cost),
    ]
    text = " · ".join(filter(None, parts))
    return output.style(f"✓ {text}", fg="green") if ok else _red(f"✗ {text or 'failed'}")


def _command(command: str) -> str:
    return output.style(clean_lines(f"$ {command.strip()}"), fg="cyan")


def _call(name: str, arguments: Record) -> str:
    """Return a tool with the argument that says most."""
    command = arguments.get("command")
    if name in _SHELLS and isinstance(command, str):
        return _command(command)
    told = next((_text(arguments.get(key)) for key in _TELLING if _text(arguments.get(key))), "")
    told = told or (json.dumps(arguments, ensure_ascii=False) if arguments else "")
    line = _cut(clean(f"{name or 'tool'} {told[:_LONGEST]}"))
    return output.style(f"● {line}", fg="cyan")


def _output(content: object, *, failed: bool) -> str:
    """Return the beginning of what a tool answered."""
    if isinstance(content, list):
        content = "\n".join(_text(part.get("text")) for part in _mappings(content))
    lines = _said(content).rstrip().split("\n")
    shown = [f"  {_cut(line)}" for line in lines[:_LINES] if line or lines[1:]]
    if len(lines) > _LINES:
        shown.append(f"  … {len(lines) - _LINES} more lines")
    text = "\n".join(shown)
    return _red(text) if failed else dim(text)


def _cut(line: str) -> str:
    """Return the beginning of a line, so that with a mark before it it fits the terminal."""
    return fit(line[:_LONGEST], (terminal_width() or _CELLS) - 2)


def _unknown(record: Record) -> str:
    return dim(_cut(clean(json.dumps(record, ensure_ascii=False)[:_LONGEST])))


def _unwrapped(command: str) -> str:
    """Return the script of `/bin/bash -lc SCRIPT`, any other command as it is."""
    import shlex

    if len(command) > _SCRIPT:
        return command[:_SCRIPT] + "…"
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return words[2] if len(words) == 3 and words[1] in ("-lc", "-c") else command


def _mapping(value: object) -> Record:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Record]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST:
        return value
    return None
