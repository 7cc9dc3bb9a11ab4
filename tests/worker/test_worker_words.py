"""What strangers said, before it is told as ours."""

from __future__ import annotations

import json

import pytest

from outpost_worker.folder.words import make_readable, readable, shortened


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b]0;title\x07", "\ufffd]0;title\ufffd"),
        ("\x9b31m\x7f\r", "\ufffd31m\ufffd\ufffd"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),
        ("é☃", "é☃"),
    ],
)
def test_nothing_that_a_terminal_obeys_is_left(said: str, told: str) -> None:
    assert readable(said) == told


def test_a_result_is_readable(far) -> None:
    folder, result = far.run(far.order("/nowhere/\x1b]0;title\x07"))
    assert result.message.startswith("/nowhere/\ufffd]0;title\ufffd")
    kept = (folder / "result.json").read_text()
    assert "\\u001b" not in kept
    assert json.loads(kept)["reason"] == "command_not_found"


def test_a_long_text_loses_its_middle() -> None:
    assert shortened("x" * 10, 10) == "x" * 10
    short = shortened("a" * 5000 + "b" * 5000, 100)
    assert len(short) <= 100
    assert short.startswith("aaa")
    assert short.endswith("bbb")


def test_what_is_too_long_to_be_an_address_is_none() -> None:
    result = {"message": "", "pr_url": "https://example.invalid/" + "x" * 5000, "session": "y" * 9}
    make_readable(result)
    assert result == {"message": "", "pr_url": None, "session": "y" * 9}
