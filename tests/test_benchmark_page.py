"""The page of benchmarks: a measurement that is repeated replaces its own table alone."""

from __future__ import annotations

from benchmarks import page
from benchmarks.harness import Row

ORDER = ("one", "two", "three")


def row(what: str) -> Row:
    return Row(what=what, ours="1 ms")


def test_a_table_is_replaced_and_the_others_stay() -> None:
    first = page.written("", {"three": [row("c")], "one": [row("a")]}, ORDER)
    assert first.index("## one") < first.index("## three")
    again = page.written(first, {"two": [row("b")], "three": [row("d")]}, ORDER)
    assert [word in again for word in ("| a |", "| b |", "| c |", "| d |")] == [
        True, True, False, True,
    ]  # fmt: skip
    assert again.index("## one") < again.index("## two") < again.index("## three")
    assert page.written(again, {}, ORDER) == again


def test_what_is_measured_no_more_goes() -> None:
    text = page.written("", {"one": [row("a")], "two": [row("b")]}, ORDER)
    assert "| b |" not in page.written(text, {}, ("one",))


def test_the_page_is_as_it_is_written() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    tables = page.tables_of(text)
    assert "startup" in tables
    assert page.written(text, {}, tables) == text
