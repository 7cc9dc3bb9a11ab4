"""Following a log: every byte, and then the end."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from outpost_core.errors import NotFoundError
from outpost_worker.folder import logs
from outpost_worker.recovery import recover
from outpost_worker.run import stop


async def _all(folder, offset=0, follow=False):
    return [piece async for piece in logs.follow(folder, offset, follow)]


def _read(folder, offset=0, follow=False):
    async def bounded():
        return await asyncio.wait_for(_all(folder, offset, follow), 30)

    return b"".join(asyncio.run(bounded()))


def test_offsets(far):
    folder, _ = far.run(far.shell("printf 0123456789"))
    for offset in (0, 1, 9, 10, 11, 10**12):
        assert _read(folder, offset) == b"0123456789"[offset:]
        assert _read(folder, offset, follow=True) == b"0123456789"[offset:]


def test_pieces_are_bounded(far):
    folder, _ = far.run(far.shell("head -c 1000000 /dev/zero"))
    pieces = asyncio.run(_all(folder))
    assert sum(map(len, pieces)) == 1_000_000
    assert max(map(len, pieces)) <= logs.CHUNK


def test_following_ends_with_the_last_byte(far, python):
    code = "import os, time\nfor n in range(50): os.write(1, os.urandom(1)*n); time.sleep(0.004)"
    folder = far.publish(far.order(python, "-c", code))
    far.start(folder)
    got = _read(folder, follow=True)
    assert len(got) == sum(range(50))
    assert got == (folder / "output.log").read_bytes()


def test_following_from_before_the_beginning(far):
    """The log is not there yet, the supervisor not even started."""
    folder = far.publish(far.shell("echo hello"))

    async def both():
        reading = asyncio.create_task(_all(folder, 0, follow=True))
        await asyncio.sleep(0.05)
        assert not reading.done()
        far.start(folder)
        return await asyncio.wait_for(reading, 30)

    assert b"".join(asyncio.run(both())) == b"hello\n"


def test_what_comes_is_seen_while_the_agent_runs(far, tmp_path):
    go = tmp_path / "go"
    script = f"echo one; until test -e {go}; do sleep 0.01; done; echo two"
    folder = far.publish(far.shell(script))
    far.start(folder)

    async def read():
        got = []
        async for piece in logs.follow(folder, 0, True):
            got.append(piece)
            go.touch()
        return got

    assert asyncio.run(asyncio.wait_for(read(), 30)) == [b"one\n", b"two\n"]


def test_following_ends_when_the_supervisor_is_gone(far):
    folder = far.publish(far.shell("echo before; sleep 300"))
    running = far.start(folder)
    far.wait(lambda: (folder / "output.log").exists() and (folder / "output.log").stat().st_size)
    far.kill(running)
    assert _read(folder, follow=True) == b"before\n"
    recover.recover(folder)
    assert _read(folder, follow=True) == b"before\n"


def test_following_ends_with_a_stop(far):
    folder = far.publish(far.shell("echo before; sleep 300"))
    far.start(folder)
    far.wait(lambda: (folder / "output.log").exists() and (folder / "output.log").stat().st_size)
    stop.request(folder, 5)
    assert _read(folder, follow=True) == b"before\n"
    never = far.publish(far.order("/bin/true"))
    stop.request(never, 5)
    assert _read(never, follow=True) == b""


def test_an_unknown_worker(tmp_path):
    with pytest.raises(NotFoundError):
        _read(tmp_path / "x.1")


def test_a_reader_that_goes_away_holds_nothing(far):
    folder = far.publish(far.shell("echo x; sleep 300"))
    far.start(folder)

    async def first():
        stream = logs.follow(folder, 0, True)
        piece = await asyncio.wait_for(anext(stream), 30)
        await stream.aclose()
        return piece

    before = len(os.listdir("/proc/self/fd"))
    assert asyncio.run(first()) == b"x\n"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_slow_reader_does_not_slow_the_agent(far):
    folder = far.publish(far.shell("head -c 20000000 /dev/zero"))
    assert far.start(folder, stdout=subprocess.DEVNULL).wait(30) == 0
    assert (folder / "output.log").stat().st_size == 20_000_000
