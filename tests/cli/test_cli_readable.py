"""Logs of agents that print JSON lines, as text for people."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from outpost_agents.lines import LINE_LIMIT
from outpost_agents.registry import BUILT_IN
from outpost_manager.cli.readable import Readable

RECORDED = Path(__file__).parent.parent / "data" / "agents"
OF = {
    "claude": "claude-stream-json", "codex": "codex-json", "gemini": "gemini-json",
    "opencode": "opencode-json",
}  # fmt: skip


def shown(kind: str, log: bytes, *, step: int = 1 << 20) -> str:
    view = Readable(kind)
    parts = [view.feed(log[at : at + step]) for at in range(0, len(log), step)]
    return click.unstyle("".join([*parts, view.feed(b"", final=True)]))


def records(*found: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in found)


@pytest.mark.parametrize("name", sorted(OF))
def test_recorded_work_is_readable(name):
    log = (RECORDED / f"{name}-work.log").read_bytes()
    text = shown(OF[name], log)
    assert "$ echo hi > made.txt\n" in text
    assert "\nAll done.\n" in text
    assert '{"' not in text
    assert shown(OF[name], log, step=7) == text


@pytest.mark.parametrize("log", sorted(RECORDED.glob("*-*.log")), ids=lambda log: log.stem)
def test_recorded_logs_are_shown_by_their_own_teller_and_survived_by_others(log):
    for name, kind in OF.items():
        assert shown(kind, log.read_bytes()) or not log.name.startswith(name)


@pytest.mark.parametrize("kind", sorted(BUILT_IN))
@pytest.mark.parametrize(
    "value", [None, 1, "x", [], {}, {"type": 1}, [None], {"content": [None, 7, {"type": []}]}]
)
def test_records_of_any_shape_are_survived(kind, value):
    types = (
        "assistant", "user", "result", "system", "item.started", "item.completed", "turn.completed",
        "turn.failed", "thread.started", "error", "message", "tool_use", "tool_result", "init",
        "text", "reasoning", "new thing",
    )  # fmt: skip
    keys = ("message", "item", "usage", "error", "part", "stats", "content", "num_turns", "model")
    for name in types:
        shown(kind, records({"type": name}, {"type": name, **dict.fromkeys(keys, value)}))
    for item in ("command_execution", "file_change", "todo_list", "mcp_tool_call", "new"):
        fields = dict.fromkeys(("command", "changes", "items", "server", "arguments"), value)
        shown(kind, records({"type": "item.completed", "item": {"type": item, **fields}}))


def test_what_is_no_record_is_shown_as_it_is():
    log = b'warning: x {"type":"turn.started"}\nplain \x1b]0;owned\x07\n{"no": "type"}\nlast'
    text = "warning: x \nplain \\x1b]0;owned\\x07\n" + '{"no": "type"}\nlast\n'
    assert shown("codex-json", log) == text


def test_an_unknown_record_is_cut_to_one_line():
    text = shown("codex-json", records({"type": "brand.new", "text": "x" * 1000}))
    assert text.startswith('{"type": "brand.new", "text": "xxx')
    assert text.endswith("x…\n")
    assert len(text) < 200


def test_agents_cannot_command_the_terminal():
    said = {"type": "text", "text": "a\x1b[31mb\x1b]0;owned\x07"}
    tool = {"type": "tool_use", "name": "Bash", "input": {"command": "x\x1b[2J"}}
    message = {"type": "assistant", "message": {"content": [said, tool]}}
    assert "\x1b" not in shown("claude-stream-json", records(message))


def test_long_output_and_helpers_of_the_agent():
    output = "\n".join(map(str, range(100)))
    result = {"type": "tool_result", "content": [{"type": "text", "text": output}]}
    edit = {"type": "tool_use", "name": "Edit", "input": {"file_path": "/a b", "new_string": "z"}}
    text = shown(
        "claude-stream-json",
        records(
            {"type": "user", "message": {"content": [result]}},
            {"type": "assistant", "parent_tool_use_id": "t", "message": {"content": [edit]}},
        ),
    )
    assert "  5\n  … 94 more lines\n" in text
    assert text.endswith("│ ● Edit /a b\n")


def test_a_line_without_an_end_is_left_out():
    view = Readable("codex-json")
    text = "".join(view.feed(b"x" * (LINE_LIMIT // 4)) for _ in range(9))
    text += view.feed(b'x\n{"type":"error","message":"next"}\n')
    assert "line of more than 4 MiB" in text
    assert "xx" not in text
    assert "next" in text


def test_words_in_pieces_are_put_together_also_at_the_end():
    pieces = [
        {"type": "message", "role": "assistant", "content": part, "delta": True}
        for part in ("All ", "done\n", "now")
    ]
    assert shown("gemini-json", records(*pieces)) == "All done\nnow\n"


def test_one_of_a_thing_is_one():
    log = records(
        {
            "type": "result", "subtype": "success", "is_error": False, "num_turns": 1,
            "usage": {"input_tokens": 1200, "output_tokens": 1},
        }
    )  # fmt: skip
    assert "✓ 1 turn · 1,200 tokens in · 1 token out" in shown("claude-stream-json", log)
