"""Records of agents: they hold what they say they hold, and outcome and text follow from them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import click
import pytest

import outpost_agents
from outpost_agents import (
    Denied,
    Ended,
    Heard,
    Other,
    Problem,
    Question,
    Reader,
    Record,
    Said,
    Session,
    Thought,
    ToolCall,
    ToolResult,
    Usage,
    Working,
)
from outpost_agents.account import Account
from outpost_manager.cli.renderers import Renderer

ODD: list[Any] = [None, 1, -1, True, 1.5, float("nan"), float("inf"), "x", [], {}, [None], "\ud800"]
ONE_VALUE = [Said, Heard, Thought, ToolResult, Question, Problem, Denied, Session]


class Replay(Reader):
    """Says what it was given."""

    name = "replay"

    def read(self, line: dict[str, Any]) -> Iterable[Record]:
        found: Iterable[Record] = line["records"]
        return found


def account(*records: Record) -> Account:
    found = Account(Replay({}, 0.0), {})
    found.see({"records": records})
    return found


def shown(*records: Record) -> str:
    renderer = Renderer(Replay({}, 0.0))
    blocks = [*renderer.line({"records": records}), *renderer.end()]
    return click.unstyle("\n".join(filter(None, blocks)))


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_whatever_an_agent_prints_can_be_handed_over(value: Any) -> None:
    numbers = {
        name: value
        for name in inspect.signature(Usage).parameters
        if name not in ("model", "total")
    }
    records = [
        *(kind(value) for kind in ONE_VALUE),
        ToolCall(value, value),
        Usage(**numbers, model=value),
        Usage(**numbers, model=value, total=True),
        Ended(value, value),
        Working(),
    ]
    answer = account(*records).answer()
    for text in (answer["message"], answer["session"] or "", answer["denied"]):
        assert text.isprintable()
    for name in ("input_tokens", "output_tokens", "cached_tokens", "cost_usd", "turns"):
        number = answer["usage"].get(name)
        assert number is None or 0 <= number < 1e16
    shown(*records)


def test_one_import_has_all_that_an_author_needs() -> None:
    assert {name for name in outpost_agents.__all__ if getattr(outpost_agents, name)} == {
        "Denied", "Ended", "Heard", "Other", "Problem", "Question", "Reader", "Record", "Said",
        "Session", "Thought", "ToolCall", "ToolResult", "Usage", "Working", "open_plain",
    }  # fmt: skip
    assert Usage(input=3, total=True) == Usage(input=3, output="3", total=True)
    assert repr(Said("a")) == "Said(helper=False, piece=False, text='a')"


def test_usage_adds_up_until_the_whole_is_told() -> None:
    steps = (Usage(input=10, cached=4, output=2, turns=1), Usage(input=5, output=1, turns=1))
    usage = account(*steps).usage()
    assert usage is not None
    assert (usage["input_tokens"], usage["cached_tokens"], usage["turns"]) == (15, 4, 2)
    assert usage["partial"]
    whole = Usage(input=14, output=3, cost=0.5, turns=2, total=True)
    usage = account(*steps, whole, Ended(True)).usage()
    assert usage is not None
    assert (usage["input_tokens"], usage["cost_usd"], usage["partial"]) == (14, 0.5, False)


def test_an_end_counts_until_it_works_again() -> None:
    assert account(Said("hm"), Ended(True)).final
    again = account(Ended(False, "429 Too Many Requests"), Working())
    assert not again.final
    assert account(Ended(False, "429 Too Many Requests")).reason == "rate_limited"
    assert account(Ended(False, "429", reason="")).reason == ""


def test_a_question_stands_until_something_else_comes() -> None:
    assert account(Question("Which?\n")).question == "Which?"
    assert account(Question("Which?"), Usage(turns=1)).question == "Which?"
    assert account(Question("Which?"), Said("This one.")).question == ""


def test_the_words_of_helpers_are_shown_and_are_not_the_agents_last() -> None:
    records = (Said("Mine."), Said("Its.", helper=True), Ended(True))
    assert account(*records).message == "Mine."
    assert shown(*records) == "Mine.\n│ Its.\n✓ "


def test_every_record_is_text_for_people() -> None:
    assert shown(
        Session("s-1"), Heard("do it"), Thought("hm"), ToolCall("shell", {"command": "ls"}),
        ToolResult("a\nb"), ToolCall("edit", {"path": "/x"}), ToolResult("no", failed=True),
        Problem("once more"), Question("Which?"), Denied("Bash"), Working(), Other({"a": 1}),
        Said("All ", piece=True), Said("done.", piece=True), Usage(input=1, output=2), Ended(None),
        Ended(False, "broken"),
    ) == (
        "replay · session s-1\ndo it\nhm\n$ ls\n  a\n  b\n● edit /x\n  no\nonce more\n? Which?\n"
        '{"a": 1}\nAll done.\n✗ broken · 1 token in · 2 tokens out'
    )  # fmt: skip
