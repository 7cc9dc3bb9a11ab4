"""What an interactive agent's terminal shows, where no tmux knows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from outpost_worker.run import screen


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("TMUX", raising=False)
    return str(tmp_path)


def log(folder: str, data: bytes) -> None:
    Path(folder, "output.log").write_bytes(data)


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        (b"one\r\nShall I push?\r\n", "Shall I push?"),
        ("╭────╮\r\n│ Delete all files? │\r\n╰────╯\r\n".encode(), "Delete all files?"),
        ("Done.\r\n│ >        │\r\n  ? for shortcuts\r\n".encode(), "Done."),
        (b"\x1b]0;title\x07\x1b[31mred alert\x1b[0m\r\n\x1b[2K", "red alert"),
        (b"\x1b]52;c;ZXZpbA==\x07", ""),
        (b"10 %\r20 %\rAll 30 done", "All 30 done"),
        (b"x" * 500 + b"\n", "x" * 159 + "…"),
        (b"\xff\xfe broken bytes\n", "broken bytes"),
        (b"", ""),
    ],
)
def test_the_last_words(folder: str, printed: bytes, words: str) -> None:
    log(folder, printed)
    assert screen.last_words(folder).strip("� ") == words


def test_without_anything_there_is_nothing(folder: str) -> None:
    assert screen.show(folder) == ""
    screen.keep(folder)
    assert not os.path.exists(os.path.join(folder, "screen"))


def test_what_is_kept_is_bounded_and_private(folder: str) -> None:
    log(folder, b"a line\n" * 100_000)
    screen.keep(folder)
    kept = Path(folder, "screen")
    assert 0 < kept.stat().st_size <= 64 * 1024
    assert kept.stat().st_mode & 0o777 == 0o600
