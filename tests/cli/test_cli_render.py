from __future__ import annotations

import pytest

from outpost_manager.cli import render
from outpost_manager.cli.table import short
from outpost_manager.cli.terminal import TerminalFilter


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("naïve 漢字", "naïve 漢字"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("\x9b31m", "\\x9b31m"),
        ("evil\u202etxt", "evil\\u202etxt"),
        ("two\nlines\tand\rmore", "two lines and\\x0dmore"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_clean(text, shown):
    assert render.clean(text) == shown


def test_clean_lines_keeps_lines():
    assert render.clean_lines("a\n\tb\x07") == "a\n\tb\\x07"


@pytest.mark.parametrize(("text", "cells"), [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("🙂", 2)])
def test_width(text, cells):
    assert render.width(text) == cells


@pytest.mark.parametrize(
    ("text", "cells", "shown"),
    [("abcdef", 6, "abcdef"), ("abcdef", 4, "abc…"), ("漢字漢字", 6, "漢字…"), ("漢字", 3, "漢…")],
)
def test_fit(text, cells, shown):
    assert render.fit(text, cells) == shown
    assert render.width(render.fit(text, cells)) <= cells


def test_a_table_fits_its_terminal_and_keeps_ids(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("gt-abcdefghijk.1", "a title that is much too long", "漢字" * 9)]
    lines = [*render.table(("worker", "title", "more"), rows, keep=("worker",))]
    assert all(render.width(line) <= 40 for line in lines)
    assert "gt-abcdefghijk.1" in lines[1]
    assert "…" in lines[1]


@pytest.mark.parametrize("word", ["installed ", "漢字漢字漢 "])
def test_the_last_column_of_a_table_goes_on_in_the_next_lines_when_asked(monkeypatch, word):
    monkeypatch.setenv("COLUMNS", "30")
    lines = [*render.table(("id", "why"), [("gt-1", word * 9), ("gt-2", "full")], wrap=True)]
    assert all(render.width(line) <= 30 for line in lines)
    assert "".join(lines).count(word.strip()) == 9
    assert "…" not in "".join(lines)
    assert lines[1].startswith("gt-1")
    assert lines[-1] == "gt-2  full"


def test_a_table_without_a_terminal_cuts_nothing(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(render, "terminal_width", lambda: None)
    assert "x" * 500 in [*render.table(("a",), [("x" * 500,)])][1]


def test_columns_line_up_with_wide_characters():
    lines = [*render.table(("a", "b"), [("漢", "1"), ("abc", "2")])]
    assert [
        render.width(line.rpartition(end)[0]) for line, end in zip(lines[1:], "12", strict=True)
    ] == [5, 5]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m00s"), (90, "1m30s"), (7500, "2h05m"), (273600, "3d04h")],
)
def test_span(seconds, text):
    assert render.span(seconds) == text


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_terminal_filter_does_not_care_about_borders(size):
    log = (
        "\x1b[1;31mrot\x1b[0m ü漢🙂 \x1b]0;title\x07\x1b[2J\x1b[?25l\u202e\r\n\tend\x1b".encode()
        + b"\xff"
    )
    shown = TerminalFilter()
    text = "".join(shown.feed(log[i : i + size]) for i in range(0, len(log), size))
    text += shown.feed(b"", final=True)
    assert text == (
        "\x1b[1;31mrot\x1b[0m ü漢🙂 \\x1b]0;title\\x07\\x1b[2J\\x1b[?25l\\u202e\r\n\tend\\x1b\ufffd"
    )


def test_an_endless_colour_is_not_held_back_for_ever():
    shown = TerminalFilter()
    text = "".join(shown.feed(chunk) for chunk in (b"\x1b[", *[b"1;"] * 500))
    assert len(text) > 900


def test_a_table_shows_of_a_detail_what_fits_a_column() -> None:
    said = (
        "its image cannot be had: the registry does not answer (Back-off pulling image"
        " registry.example/agents/worker:1.2.3: connection refused); look at `image`"
    )
    assert short(said) == "its image cannot be had: the registry does not answer"
    assert short("waits for its pod; a hint") == "waits for its pod"
    assert short("x" * 200) == "x" * 79 + "…"
    assert short("") == ""
