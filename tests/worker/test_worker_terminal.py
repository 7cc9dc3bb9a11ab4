"""Interactive agents on their terminal, and what is shown on the supervisor's own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios

import pytest

from outpost_core.types import Secrets, State
from outpost_worker.recovery import recover
from outpost_worker.run import stop

ABOUT = """
import os, sys
print(os.isatty(0), os.isatty(1), os.isatty(2), os.tcgetpgrp(0) == os.getpid(), flush=True)
print(*os.get_terminal_size(), flush=True)
for line in sys.stdin:
    print("got", line.strip(), *os.get_terminal_size(), flush=True)
    if line.strip() == "end":
        break
"""


class Screen:
    """A terminal with a supervisor on it."""

    def __init__(self, far, folder, **more):
        self.master, slave = os.openpty()
        self.size(30, 90)
        self.slave_name = os.ttyname(slave)
        self.before = termios.tcgetattr(slave)
        self.running = far.start(
            folder, stdin=slave, stdout=slave, stderr=slave, preexec_fn=_take_terminal, **more
        )
        self.slave = slave
        self.seen = b""
        os.set_blocking(self.master, False)

    def size(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self):
        with contextlib.suppress(OSError):
            self.seen += os.read(self.master, 65536)
        return self.seen

    def close(self):
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)
        self.master = self.slave = -1


def _take_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def screen(far):
    made = []

    def make(folder, **more):
        made.append(Screen(far, folder, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _log(folder):
    path = folder / "output.log"
    return path.read_bytes() if path.exists() else b""


def _nudge(folder, text):
    fifo = os.open(folder / "input", os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(fifo, text)
    finally:
        os.close(fifo)


def test_an_interactive_agent_without_anybody_at_it(far, python):
    folder = far.publish(far.order(python, "-c", ABOUT, interactive=True))
    running = far.start(folder)
    far.wait(lambda: b"200 50" in _log(folder))
    assert b"True True True True" in _log(folder)
    assert (folder / "input").stat().st_mode & 0o777 == 0o600
    _nudge(folder, b"hello\r")
    far.wait(lambda: b"got hello" in _log(folder))
    _nudge(folder, b"end\r")
    assert running.wait(30) == 0
    assert far.result(folder).state is State.DONE
    assert not (folder / "input").exists()


def test_a_relay_to_the_supervisors_terminal(far, python, screen):
    folder = far.publish(far.order(python, "-c", ABOUT, interactive=True))
    view = screen(folder)
    far.wait(lambda: b"90 30" in view.read())
    os.write(view.master, b"typed\r")
    far.wait(lambda: b"got typed 90 30" in view.read())
    view.size(40, 120)

    def wide():
        os.write(view.master, b"wide\r")
        return b"got wide 120 40" in view.read()

    far.wait(wide)
    _nudge(folder, b"nudged\r")
    far.wait(lambda: b"got nudged" in view.read())
    os.write(view.master, b"end\r")
    assert view.running.wait(30) == 0
    assert view.read().startswith(_log(folder)[:20])
    assert far.result(folder).log_bytes == len(_log(folder))
    assert termios.tcgetattr(view.slave) == view.before


def test_ctrl_c_goes_to_an_interactive_agent(far, screen):
    script = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    folder = far.publish(far.shell(script, interactive=True))
    view = screen(folder)
    far.wait(lambda: b"ready" in view.read())
    os.write(view.master, b"\x03")
    view.running.wait(30)
    result = far.result(folder)
    assert (result.state, result.exit_code) == (State.FAILED, 3)
    assert b"interrupted" in _log(folder)


def test_a_terminal_that_goes_away_ends_nothing(far, python, screen):
    folder = far.publish(far.order(python, "-c", ABOUT, interactive=True))
    view = screen(folder)
    far.wait(lambda: b"90 30" in view.read())
    view.close()
    _nudge(folder, b"still there\r")
    far.wait(lambda: b"got still there" in _log(folder))
    _nudge(folder, b"end\r")
    view.running.wait(30)
    assert far.result(folder).state is State.DONE


def test_headless_output_is_shown_too(far, screen):
    script = 'printf "plain $TOKEN\\n"; echo on stderr >&2; test -t 1 || echo no terminal'
    folder = far.publish(far.shell(script, secrets=Secrets({"TOKEN": "canary-12345"})))
    view = screen(folder)
    view.running.wait(30)
    assert _log(folder) == b"plain ***\non stderr\nno terminal\n"
    shown = _log(folder).replace(b"\n", b"\r\n")
    far.wait(lambda: len(view.read()) >= len(shown))  # Linux hands it over in its own time
    assert view.read() == shown


def test_a_terminal_that_nobody_reads_stops_nothing(far, screen):
    folder = far.publish(far.shell("head -c 5000000 /dev/zero; echo end"))
    view = screen(folder)
    assert view.running.wait(30) == 0
    assert len(_log(folder)) == 5_000_004
    interactive = far.publish(
        far.shell("head -c 5000000 /dev/zero | tr '\\0' x; echo end", interactive=True)
    )
    view = screen(interactive)
    assert view.running.wait(30) == 0
    assert _log(interactive).endswith(b"xend\r\n")


def test_a_hang_up_of_the_terminal_ends_no_headless_agent(far, tmp_path, screen):
    go = tmp_path / "go"
    folder = far.publish(far.shell(f"echo one; until test -e {go}; do sleep 0.01; done; echo two"))
    view = screen(folder)
    far.wait(lambda: b"one" in view.read())
    view.close()
    go.touch()
    assert view.running.wait(30) == 0
    assert _log(folder) == b"one\ntwo\n"


def test_silence_makes_an_interactive_agent_idle(far, python):
    folder = far.publish(far.order(python, "-c", ABOUT, interactive=True))
    running = far.start(folder, patch="supervise._IDLE_AFTER = 0.3")
    far.wait(lambda: far.status(folder).state is State.IDLE)
    for _ in range(3):
        before = far.status(folder).updated_at
        _nudge(folder, b"x\r")
        far.wait(lambda before=before: far.status(folder).updated_at > before)
        # idle is said again only after it was working, which may last for too short to be seen
        far.wait(lambda: far.status(folder).state is State.IDLE)
    _nudge(folder, b"end\r")
    running.wait(30)
    assert far.result(folder).state is State.DONE


def test_stopping_an_interactive_agent(far):
    script = (
        "trap '' TERM HUP; (trap '' TERM HUP; sleep 300) & echo ready; while :; do sleep 1; done"
    )
    folder = far.publish(far.shell(script, interactive=True))
    running = far.start(folder)
    far.wait(lambda: b"ready" in _log(folder))
    stop.request(folder, 0.2)
    running.wait(30)
    assert far.result(folder).state is State.STOPPED
    assert not far.left(folder)


def test_an_interactive_agent_does_not_outlive_its_supervisor(far):
    script = "trap '' TERM HUP; echo ready; while :; do sleep 1; done"
    folder = far.publish(far.shell(script, interactive=True))
    running = far.start(folder)
    far.wait(lambda: b"ready" in _log(folder))
    far.working(folder)
    running.send_signal(signal.SIGKILL)
    running.wait(30)
    recover.recover(folder)
    assert not far.left(folder)


def test_secrets_are_masked_in_the_log_of_a_terminal(far):
    order = far.shell('echo "$TOKEN"', interactive=True, secrets=Secrets({"TOKEN": "canary-123"}))
    folder, _ = far.run(order)
    assert _log(folder) == b"***\r\n"


def test_a_leftover_that_holds_the_terminal(far):
    folder, result = far.run(far.shell("sleep 300 & echo done", interactive=True))
    assert result.state is State.DONE
    assert _log(folder) == b"done\r\n"
    assert not far.left(folder)
