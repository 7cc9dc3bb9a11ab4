"""What strangers said, before it is told as ours."""

from __future__ import annotations

import json

import pytest

from outpost_core.worker.words import readable


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
