"""Streams over lines that break, and very many of them, on the keeper that commands use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from farkit import PATIENCE, Far, far, free_port, order
from keeperkit import Desk, desk_at, runtime, until
from peers.relay import Relay, relay

from outpost_core.types import State

_MANY = 500
_LINES = 40
_NUMBERS = "for i in $(seq 1 60); do echo number $i; sleep 0.05; done"
_NUMBERED = "".join(f"number {i}\n" for i in range(1, 61)).encode()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Far]:
    with far(tmp_path / "far") as running:
        yield running


@pytest.fixture
def line(server: Far) -> Iterator[Relay]:
    with relay("127.0.0.1", server.port) as made:
        yield made


@pytest.fixture
def desk(
    line: Relay, server: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    with desk_at(server, tmp_path, monkeypatch) as made:
        made.url = f"http://{line.host}:{line.port}"
        yield made


def test_a_line_that_is_cut_again_and_again_loses_no_byte(desk: Desk, line: Relay) -> None:
    desk.spawn(order("gt-1", _NUMBERS))
    for _ in range(6):
        time.sleep(0.4)
        line.cut()
    assert desk.log("gt-1.1", follow=True) == _NUMBERED
    assert desk.result("gt-1.1").state is State.DONE
    assert line.lines > 3


def test_binary_output_is_exact_over_a_line_that_is_cut(desk: Desk, line: Relay) -> None:
    script = "for i in 1 2 3 4 5 6; do head -c 30000 /dev/urandom | tee -a all; sleep 0.3; done"
    script = f"cd /tmp && d=$(mktemp -d) && cd $d && {script}; cksum <all >&2; rm -r $d"
    desk.spawn(order("gt-1", script))
    for _ in range(4):
        time.sleep(0.35)
        line.cut()
    got = desk.log("gt-1.1", follow=True)
    done = subprocess.run(["cksum"], input=got[:180_000], capture_output=True, check=True)
    assert got[180_000:] == done.stdout


def test_a_line_on_which_nothing_comes_any_more_is_left(desk: Desk, line: Relay) -> None:
    """Half open: nobody says that it is dead. New lines work, the old one never says a word."""
    desk.spawn(order("gt-1", _NUMBERS))
    line.freeze()
    assert desk.log("gt-1.1", follow=True) == _NUMBERED
    assert desk.result("gt-1.1").state is State.DONE


def test_a_server_that_is_killed_and_comes_back(desk: Desk, server: Far, tmp_path: Path) -> None:
    desk.spawn(order("gt-1", _NUMBERS))
    server.kill()
    again = Far(tmp_path / "far", server.port)
    try:
        again.wait()
        assert desk.log("gt-1.1", follow=True) == _NUMBERED
        assert desk.result("gt-1.1").state is State.DONE
    finally:
        again.kill()


class Many:
    """A far side with very many workers."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir()
        self.env = {
            **os.environ, "PORT": str(self.port), "FOLDER": str(folder), "LINES": str(_LINES),
            "EVERY": "0.5",
        }  # fmt: skip
        self.start()

    def start(self) -> None:
        program = Path(__file__).with_name("manyfar.py")
        self.process = subprocess.Popen([sys.executable, str(program)], env=self.env)
        until(self.answers, "it does not listen")

    def answers(self) -> bool:
        import socket

        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


def test_of_five_hundred_streams_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = Many(tmp_path / "many")
    names = [f"gt-{number}" for number in range(_MANY)]
    try:
        with runtime(monkeypatch) as run:
            desk = Desk(f"http://127.0.0.1:{many.port}", tmp_path, run)

            async def spawn_all(outpost: object) -> None:
                spawns = (outpost.outpost_spawn(order=order(n, "true")) for n in names)  # type: ignore[attr-defined]
                await asyncio.gather(*spawns)

            begun = time.monotonic()
            desk.asked(spawn_all)
            took = time.monotonic() - begun
            (pid,) = desk.keepers()
            many.stop()  # all lines break at once
            time.sleep(1)
            many.start()
            time.sleep(2)
            desk.kill()  # and the keeper, too
            found = desk.asked(lambda o: o.outpost_list())
            assert len(found) == _MANY
            (pid,) = desk.keepers()
            until(lambda: all(_ended(desk)), "some have not ended")
            memory = _memory(pid)
            workers = tmp_path / "state" / "outposts" / "burst" / "workers"
            for name in names:
                want = "".join(f"{name}.1 {number}\n" for number in range(_LINES)).encode()
                assert (workers / f"{name}.1" / "output.log").read_bytes() == want
            used = f"keeper {memory >> 20} MiB, {_seconds(pid):.1f} s CPU"
            print(f"{_MANY} spawns in {took:.1f} s, {used}")
    finally:
        many.stop()


def _ended(desk: Desk) -> list[bool]:
    time.sleep(0.5)
    found = desk.asked(lambda o: o.outpost_list())
    return [one.state is State.DONE for one in found]


def _memory(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
