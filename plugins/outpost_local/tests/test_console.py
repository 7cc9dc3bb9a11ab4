"""What a person sees and types."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from outpost_core.errors import OutpostError, UsageError
from outpost_shared import viewer
from outpost_worker.console import nudging as console


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;https://x.test\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("10 %\r50 %\r100 %\r\n", "100 %\n"),
        ("a\r\nb", "a\nb"),
        ("\x1b[2J\x1b[H\x1b(Bhello\x00\x07", "hello"),
        ("tab\there", "tab\there"),
        ("é☃", "é☃"),
        ("\x1bPq#0\x1b\\done", "done"),
    ],
)
def test_control_sequences_are_taken_out(printed, shown):
    assert console.plain(printed) == shown


def test_the_tail_of_a_log(tmp_path):
    log = tmp_path / "output.log"
    assert console.tail(log, 3) == ""
    log.write_bytes(b"")
    assert console.tail(log, 3) == ""
    log.write_bytes(b"".join(b"line %d\n" % i for i in range(100_000)))
    assert console.tail(log, 2) == "line 99998\nline 99999\n"
    log.write_bytes(b"x" * 50_000_000)
    assert console.tail(log, 1).strip("x\n") == ""
    log.write_bytes(b"\xff\xfe broken \xe2")
    assert "broken" in console.tail(log, 5)


def test_a_nudge_is_the_text_then_enter(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "ENTER_PAUSE", 0.0)
    fifo = tmp_path / "input"
    os.mkfifo(fifo)
    got = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    asyncio.run(
        console.nudge("gt-1.1", tmp_path, "hello\r\nthere \x03\x1b[A" + "é" * 90_000 + "\n")
    )
    reader.join(20)
    assert got == [("hello\nthere [A" + "é" * 90_000 + "\r").encode()]


def test_two_nudges_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "ENTER_PAUSE", 0.01)
    fifo = tmp_path / "input"
    os.mkfifo(fifo)
    keep_open = os.open(fifo, os.O_RDWR)
    got = []
    size = 2 * 10_001
    with fifo.open("rb", buffering=0) as read_end:

        def read():
            while sum(map(len, got)) < size:
                got.append(read_end.read(65536))

        reader = threading.Thread(target=read)
        reader.start()

        async def both():
            await asyncio.gather(
                *(console.nudge("gt-1.1", tmp_path, letter * 10_000) for letter in "ab")
            )

        asyncio.run(both())
        reader.join(20)
    os.close(keep_open)
    assert sorted(b"".join(got).split(b"\r")) == [b"", b"a" * 10_000, b"b" * 10_000]


def test_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "LISTEN_WAIT", 0.1)
    with pytest.raises(OutpostError, match=r"gt-1\.1 does not listen"):
        asyncio.run(console.nudge("gt-1.1", tmp_path, "hello"))


def test_attach_needs_a_terminal(monkeypatch, tmp_path):
    with (tmp_path / "file").open("w+") as file:
        monkeypatch.setattr("sys.stdin", file)
        with pytest.raises(UsageError, match="needs a terminal"):
            asyncio.run(viewer.attach("gt-1.1", ["/bin/true"]))
