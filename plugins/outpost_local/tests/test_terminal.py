"""tmux is where work can be seen, and not what it lives by."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.types import State

TICKS = """
import sys, time
for i in range(100_000):
    print(i, flush=True)
    time.sleep(0.02)
"""


def size(place, worker: str) -> int:
    path = place.folder(worker) / "output.log"
    return path.stat().st_size if path.exists() else 0


def test_a_killed_tmux_server_ends_no_work_and_is_told_truly(tmux_place):
    place = tmux_place

    async def main():
        outpost = place.make()
        workers = ("gt-1.1", "gt-2.1")
        for issue in ("gt-1", "gt-2"):
            await outpost.outpost_spawn(place.python(TICKS, issue=issue, interactive=True))
        await place.wait_for(lambda: all(size(place, worker) for worker in workers))
        for status in await outpost.outpost_list():
            assert "terminal gone" not in status.detail
        os.kill(place.server(), signal.SIGKILL)
        found = await place.until(outpost, lambda status: "terminal gone" in status.detail)
        assert {status.state for status in found.values()} == {State.WORKING}
        before = {worker: size(place, worker) for worker in workers}
        await place.wait_for(lambda: all(size(place, w) > before[w] + 20 for w in workers))
        with pytest.raises(OutpostError, match=r"terminal of gt-1.1 is gone.*the work continues"):
            await outpost.outpost_attach("gt-1.1")
        assert await outpost.outpost_peek("gt-2.1", 3)  # from the log now
        fresh = await outpost.outpost_spawn(place.order("/bin/true", issue="gt-3"))
        assert not fresh.state.terminal or fresh.state is State.DONE
        for worker in workers:
            await outpost.outpost_stop(worker, 1)
        found = await place.end(outpost)
        assert {found[worker].state for worker in workers} == {State.STOPPED}

    asyncio.run(main())


def test_one_ended_session_takes_only_its_own_terminal(tmux_place):
    place = tmux_place

    async def main():
        outpost = place.make()
        for attempt in (1, 10):
            await outpost.outpost_spawn(place.python(TICKS, attempt=attempt, interactive=True))
        await place.wait_for(lambda: size(place, "gt-1.1") and size(place, "gt-1.10"))
        place.tmux("kill-session", "-t", "=gt-1+1")
        found = await place.until(outpost, lambda s: "terminal gone" in s.detail, "gt-1.1")
        assert "terminal gone" not in found["gt-1.10"].detail
        await outpost.outpost_stop("gt-1.1", 1)
        found = await place.end(outpost, "gt-1.1")
        assert found["gt-1.10"].state is State.WORKING
        await outpost.outpost_stop("gt-1.10", 1)
        await place.end(outpost)

    asyncio.run(main())


def test_a_session_of_that_name_that_is_not_ours_does_not_hinder(tmux_place):
    place = tmux_place

    async def main():
        outpost = place.make()
        place.tmux("new-session", "-d", "-s", "gt-1+1", "sleep", "60")
        await outpost.outpost_spawn(place.order("/bin/true"))
        place.tmux("kill-server")
        await outpost.outpost_spawn(place.order("/bin/true"))
        assert (await place.end(outpost))["gt-1.1"].state is State.DONE

    asyncio.run(main())


@pytest.fixture
def terminals():
    """Collect viewers, which end with their test however that ends."""
    started = []
    yield started
    for process, master in started:
        process.kill()
        process.wait()
        os.close(master)


def attach_in_terminal(terminals, place, worker, env) -> tuple[subprocess.Popen[bytes], int]:
    """Attach in a program of its own on a new terminal; returns it and our end."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from outpost_core.backend import BuildContext\n"
        "from outpost_local.options import LocalOptions\n"
        "from outpost_local.outpost import LocalOutpost\n"
        f"context = BuildContext(state_dir=Path({str(place.root)!r}))\n"
        "outpost = LocalOutpost('local', LocalOptions(), context)\n"
        f"sys.exit(asyncio.run(outpost.outpost_attach({worker!r})))\n"
    )
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=os.environ | env,
    )  # fmt: skip
    os.close(slave)
    terminals.append((process, master))
    return process, master


def read_until(master: int, wanted: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + 30
    while wanted not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([master], [], [], 0.1)[0]:
            seen += os.read(master, 65536)
    return seen


def drain(master: int, process: subprocess.Popen) -> int:
    drained(master, process)
    return process.returncode


def drained(master: int, process: subprocess.Popen) -> bytes:
    """Return what a viewer still shows until it ends."""
    seen = b""
    deadline = time.monotonic() + 30
    while process.poll() is None or select.select([master], [], [], 0)[0]:
        assert time.monotonic() < deadline
        if select.select([master], [], [], 0.05)[0]:
            try:
                seen += os.read(master, 65536)
            except OSError:
                if process.poll() is not None:
                    break
    return seen


@pytest.mark.parametrize("around", [{}, {"TMUX": "/tmp/tmux-0/default,1,0", "TMUX_PANE": "%1"}])
def test_attach_types_into_the_agent_and_detach_leaves_it(tmux_place, terminals, around):
    place = tmux_place
    terminal = {"TERM": "xterm-256color", **around}

    async def main():
        outpost = place.make()
        code = "print('name?', flush=True); print('hello', input(), flush=True); input()"
        await outpost.outpost_spawn(place.python(code, interactive=True))
        await place.wait_for(lambda: size(place, "gt-1.1"))
        process, master = attach_in_terminal(terminals, place, "gt-1.1", terminal)
        read_until(master, b"name?")
        os.write(master, b"person\r")
        read_until(master, b"hello person")
        place.tmux("detach-client", "-s", "=gt-1+1")
        assert drain(master, process) == 0
        assert (await outpost.outpost_list())[0].state in (State.WORKING, State.IDLE)
        await outpost.outpost_nudge("gt-1.1", "")
        assert (await place.end(outpost))["gt-1.1"].state is State.DONE

    asyncio.run(main())


def test_a_viewer_of_a_headless_worker_cannot_end_it(tmux_place, terminals):
    place = tmux_place

    async def main():
        outpost = place.make()
        await outpost.outpost_spawn(place.python(TICKS))
        await place.wait_for(lambda: size(place, "gt-1.1"))
        process, master = attach_in_terminal(terminals, place, "gt-1.1", {"TERM": "xterm-256color"})
        read_until(master, b"1")
        os.write(master, b"\x03\x03")  # Ctrl-C
        before = size(place, "gt-1.1")
        await place.wait_for(lambda: size(place, "gt-1.1") > before + 20)
        os.kill(process.pid, signal.SIGHUP)  # what the end of its terminal does
        drain(master, process)
        assert (await outpost.outpost_list())[0].state is State.WORKING
        await outpost.outpost_stop("gt-1.1", 1)
        await place.end(outpost)
        with pytest.raises(UsageError, match="has ended"):
            await outpost.outpost_attach("gt-1.1")

    asyncio.run(main())


def test_a_headless_worker_has_a_session_as_long_as_somebody_looks(tmux_place, terminals):
    """It works without one: a killed tmux server takes nothing, and whoever looks gets another."""
    place = tmux_place

    async def main():
        outpost = place.make()
        await outpost.outpost_spawn(place.python(TICKS))
        await place.wait_for(lambda: size(place, "gt-1.1"))
        assert place.server() is None
        for way in ("detached", "killed", "ended"):
            terminal = {"TERM": "xterm-256color"}
            process, master = attach_in_terminal(terminals, place, "gt-1.1", terminal)
            read_until(master, b"1")
            before = size(place, "gt-1.1")
            await place.wait_for(lambda before=before: size(place, "gt-1.1") > before + 20)
            if way == "detached":
                place.tmux("detach-client", "-s", "=gt-1+1")
            elif way == "killed":
                os.kill(place.server(), signal.SIGKILL)
            else:
                await outpost.outpost_stop("gt-1.1", 1)
            drain(master, process)
            await place.wait_for(lambda: place.server() is None)
            if way != "ended":
                (status,) = await outpost.outpost_list()
                assert (status.state, status.detail) == (State.WORKING, "")
        await place.end(outpost)

    asyncio.run(main())


def test_the_viewer_is_told_to_whoever_runs_it_elsewhere(tmux_place):
    place = tmux_place

    async def main():
        outpost = place.make()
        await outpost.outpost_spawn(place.python(TICKS))
        await outpost.outpost_spawn(place.python(TICKS, issue="gt-2", interactive=True))
        watched, typed = await outpost.viewer("gt-1.1"), await outpost.viewer("gt-2.1")
        assert Path(watched[0]).name == "tmux"
        assert "-r" in watched  # whoever looks at a headless worker can not type into it
        assert "-r" not in typed
        for worker in ("gt-1.1", "gt-2.1"):
            await outpost.outpost_stop(worker, 1)
        await place.end(outpost)
        with pytest.raises(UsageError, match="has ended"):
            await outpost.viewer("gt-1.1")
        with pytest.raises(NotFoundError):
            await outpost.viewer("gt-3.1")

    asyncio.run(main())


HOSTILE = r"""
import sys, time
out = sys.stdout.buffer
said = [
    b"\x1b]52;c;Q0FOQVJZLWNsaXA=\x07", b"\x1b]52;c;?\x07", b"\x1b]0;CANARY-title\x07",
    b"\x1b]2;CANARY-title\x1b\\", b"\x1bkCANARY-window\x1b\\",
    b"\x1bPtmux;\x1b\x1b]0;CANARY-passed\x07\x1b\\", b"\x1bP1tmux;\x1b\x1b]52;c;CANARY\x07\x1b\\",
    b"\x1b]2;#(touch RAN)CANARY-run\x07", b"\x1bk#(touch RAN)\x1b\\", b"\x1b]7;#(touch RAN)\x07",
    b"\x1b]7;file://CANARY-path\x07", b"\x1b]9;CANARY-note\x07", b"\x1b]777;notify;CANARY;x\x07",
    b"\x1b[5i\x1b]50;CANARY-font\x07", b"\x1b_CANARY-apc\x1b\\", b"\x1b^CANARY-pm\x1b\\",
]
time.sleep(1)
for text in said * 2:
    out.write(text + b"\n")
    out.flush()
print("that was all", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("interactive", [True, False], ids=["interactive", "headless"])
def test_what_an_agent_prints_is_text_for_who_attaches(tmux_place, terminals, interactive):
    """Neither a title, the clipboard, nor a command comes out of what an agent prints."""
    place = tmux_place
    ran = place.root.parent / "ran"

    async def main():
        outpost = place.make()
        code = HOSTILE.replace("RAN", str(ran))
        await outpost.outpost_spawn(place.python(code, interactive=interactive))
        await place.wait_for(lambda: place.folder("gt-1.1").joinpath("output.log").exists())
        process, master = attach_in_terminal(terminals, place, "gt-1.1", {"TERM": "xterm-256color"})
        seen = read_until(master, b"that was all")
        place.tmux("refresh-client", "-S")
        place.tmux("detach-client", "-s", "=gt-1+1")
        seen += drained(master, process)
        await outpost.outpost_stop("gt-1.1", 1)
        await place.end(outpost)
        shown = await outpost.outpost_peek("gt-1.1", 50)
        assert b"CANARY" not in seen
        assert b"\x1b]52" not in seen
        assert b"Q0FOQVJZ" not in seen
        assert "that was all" in shown
        assert "\x1b" not in shown
        assert not ran.exists()

    asyncio.run(main())


def test_a_viewer_that_stops_reading_holds_nothing_up(tmux_place, terminals):
    place = tmux_place

    async def main():
        outpost = place.make()
        code = "import time; time.sleep(1); [print('y' * 99) for _ in range(60_000)]"
        await outpost.outpost_spawn(place.python(code))
        await place.wait_for(lambda: place.folder("gt-1.1").joinpath("output.log").exists())
        attach_in_terminal(terminals, place, "gt-1.1", {"TERM": "xterm-256color"})
        assert (await place.end(outpost))["gt-1.1"].state is State.DONE
        assert size(place, "gt-1.1") == 60_000 * 100

    asyncio.run(main())


TUI = """
import sys, time
print("\\x1b[2J\\x1b[HWelcome")
print("\\x1b[31mThe tests pass.\\x1b[0m Shall I push?", flush=True)
sys.stdin.readline()
print("bye", flush=True)
"""


def test_an_ended_interactive_worker_keeps_its_last_screen(tmux_place):
    place = tmux_place

    async def main():
        outpost = place.make()
        await outpost.outpost_spawn(place.python(TUI, issue="gt-1", interactive=True))
        await place.wait_for(lambda: size(place, "gt-1.1") > 20)
        await outpost.outpost_nudge("gt-1.1", "yes")
        await place.end(outpost)
        shown = await outpost.outpost_peek("gt-1.1", 20)
        assert "The tests pass. Shall I push?" in shown
        assert "bye" in shown
        assert "\x1b" not in shown
        assert (place.folder("gt-1.1") / "screen").stat().st_mode & 0o777 == 0o600

    asyncio.run(main())


DIALOG = """
import sys, time
print("Do you trust the files in this folder?\\n\\n \u276f 1. Yes, proceed")
print("   2. No, exit", flush=True)
print(sys.stdin.readline(), flush=True)
"""


def test_a_nudge_is_not_typed_into_a_dialog(tmux_place):
    place = tmux_place

    async def main():
        outpost = place.make()
        await outpost.outpost_spawn(place.python(DIALOG, issue="gt-1", interactive=True))
        await place.wait_for(lambda: size(place, "gt-1.1") > 60)
        deadline = time.monotonic() + 30
        while "No, exit" not in await outpost.outpost_peek("gt-1.1", 20):
            assert time.monotonic() < deadline
        with pytest.raises(OutpostError, match="Do you trust the files in this folder") as caught:
            await outpost.outpost_nudge("gt-1.1", "continue")
        assert caught.value.hint == "outpost attach gt-1.1"
        await outpost.outpost_stop("gt-1.1", 1)
        await place.end(outpost)
        assert "continue" not in (place.folder("gt-1.1") / "output.log").read_text(
            "utf-8", "replace"
        )

    asyncio.run(main())
