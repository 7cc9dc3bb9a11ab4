"""A far terminal on a near one: a real sshd between them, and a real terminal at each end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from nearkit import AGENT, DEADLINE, Near
from peers.relay import Relay
from peers.sshd import Sshd, sshd

from outpost_core.backend import BuildContext
from outpost_core.types import Agent, Issue, Order, State
from outpost_local.options import LocalOptions, Mode
from outpost_local.outpost import LocalOutpost

#: A program that attaches on its own terminal; the far side's answer comes from the test.
NEAR = """
import asyncio, json, sys
import asyncssh
from outpost_core.errors import OutpostError
from outpost_ssh import loader
from outpost_ssh.attach import attach

host, port, user, key, known_hosts, argv, python = json.loads(sys.argv[1])
class Remote:
    async def open(self, command, *, term, modes):
        return await self.connection.create_process(
            command, encoding=None, term_type=term[0], term_size=term[1:], term_modes=dict(modes)
        )

class Place:
    name = "vm1"
    async def viewer(self, worker):
        assert worker == "gt-1.1"
        return argv

async def main():
    remote = Remote()
    async with asyncssh.connect(
        host, port, username=user, client_keys=[key], known_hosts=known_hosts, config=None
    ) as remote.connection:
        return await attach(
            "gt-1.1", Place(), remote, command=loader.command(python), timeout=60
        )

try:
    code = asyncio.run(main())
except OutpostError as error:
    print(error, file=sys.stderr)
    code = error.exit_code
print("the shell continues")
sys.exit(code)
"""

#: The beginning of every far program: its terminal as a viewer has it.
FAR = """
import os, signal, sys, termios, time, tty
def say(text): os.write(1, text.encode())
def size():
    s = os.get_terminal_size(0)
    return f"<{s.columns}x{s.lines}>"
"""


class Room:
    """A near and a far side."""

    def __init__(self, server: Sshd, relay: Relay, folder: Path) -> None:
        self.server = server
        self.relay = relay
        self.folder = folder
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"[{relay.host}]:{relay.port} {server.host_key}\n")
        self.opened: list[Near] = []

    def close(self) -> None:
        for near in self.opened:
            near.close()

    def command(self, argv: Sequence[str], python: str = "python3") -> list[str]:
        server = self.server
        spec = [
            *(self.relay.host, self.relay.port, server.user, str(server.key)),
            *(str(self.known_hosts), list(argv), python),
        ]
        script = self.folder / "near.py"
        script.write_text(NEAR)
        return [sys.executable, str(script), json.dumps(spec)]

    def attach(
        self,
        argv: Sequence[str] | str,
        *,
        columns: int = 90,
        rows: int = 30,
        python: str = "python3",
        **env: str,
    ) -> Near:
        """Attach to a far program, or to the text of one in Python."""
        if isinstance(argv, str):
            far = self.folder / "far.py"
            far.write_text(FAR + argv)
            argv = [sys.executable, "-I", "-S", str(far)]
        return self.attach_with(self.command(argv, python), columns, rows, **env)

    def attach_with(
        self, command: Sequence[str], columns: int = 90, rows: int = 30, **env: str
    ) -> Near:
        """Run a command on a new near terminal."""
        environ = {name: value for name, value in os.environ.items() if name != "TMUX"}
        environ |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | env
        near = Near(command, environ, columns, rows)
        self.opened.append(near)
        return near


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Callable[..., Room]]:
    """Make rooms with a server of their own."""
    with contextlib.ExitStack() as stack:

        def make(**options: object) -> Room:
            server = stack.enter_context(sshd(tmp_path / "sshd", **options))  # type: ignore[arg-type]
            relay = stack.enter_context(Relay(server.host, server.port))
            room = Room(server, relay, tmp_path)
            stack.callback(room.close)
            return room

        yield make


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as one:
        yield one


@pytest.fixture
def room(server: Sshd, tmp_path: Path) -> Iterator[Room]:
    """A room at the server that all of these share."""
    with Relay(server.host, server.port) as relay:
        room = Room(server, relay, tmp_path)
        yield room
        room.close()


def test_every_byte_passes_both_ways(room):
    near = room.attach(
        """
tty.setraw(0)
say("<go>")
keys = b""
while len(keys) < 1024:
    keys += os.read(0, 4096)
os.write(1, keys + b"<end>")
"""
    )
    near.until(b"<go>")
    every = bytes(range(256)) * 4
    near.type(every)
    assert near.until(b"<end>") == every + b"<end>"
    assert near.end() == 0
    assert near.as_before()


def test_the_size_and_its_changes_arrive(room):
    near = room.attach(
        """
signal.signal(signal.SIGWINCH, lambda *_: say(size()))
say(size() + "<go>")
while True:
    time.sleep(0.05)
""",
        columns=97,
        rows=31,
    )
    assert b"<97x31>" in near.until(b"<go>")
    near.resize(120, 40)
    near.until(b"<120x40>")
    near.resize(61, 17)
    near.until(b"<61x17>")


def test_the_exit_code_is_that_of_the_viewer(room):
    near = room.attach("say('bye'); sys.exit(7)")
    assert near.end() == 7
    assert b"bye" in near.seen
    assert near.as_before()


def test_a_viewer_that_a_signal_ends_gives_the_code_of_a_shell(room):
    near = room.attach("say('\\x1b[?1002h'); os.kill(os.getpid(), signal.SIGKILL)")
    assert near.end() == 128 + signal.SIGKILL
    assert b"\x1b[?1002l" in near.seen
    assert near.as_before()


def test_the_far_program_finds_a_usual_terminal(room):
    near = room.attach(
        """
mode = termios.tcgetattr(0)
say(f"{bool(mode[3] & termios.ECHO)} {bool(mode[3] & termios.ICANON)}"
    f" {bool(mode[3] & termios.ISIG)} {bool(mode[0] & termios.ICRNL)} {mode[6][termios.VERASE]!r}")
say(f" {os.environ['TERM']} {os.environ.get('COLORTERM')} {os.isatty(0)} {os.ttyname(1)[:8]}")
say(" read " + input())
""",
        COLORTERM="truecolor",
    )
    near.until(b"True True True True b'\\x7f' xterm-256color truecolor True /dev/pts")
    near.type(b"lines\r")
    near.until(b"read lines")
    assert near.end() == 0


def test_a_terminal_that_the_far_side_does_not_know_is_taken_for_the_nearest(room):
    shown = "say(os.environ['TERM'] + '<end>')"
    assert b"xterm-256color" in room.attach(shown, TERM="xterm-of-tomorrow").until(b"<end>")
    assert b"screen-256color" in room.attach(shown, TERM="tmux-of-tomorrow").until(b"<end>")
    assert b"xterm-256color" in room.attach(shown, TERM="../../etc/x").until(b"<end>")
    assert b"vt100" in room.attach(shown, TERM="vt100").until(b"<end>")


def test_accents_are_shown_where_the_near_terminal_shows_them(rooms):
    room = rooms(env={"LC_ALL": "C"})
    shown = "say(str(os.environ.get('LC_ALL')) + str(os.environ.get('LC_CTYPE')) + '<end>')"
    assert b"NoneC.UTF-8" in room.attach(shown).until(b"<end>")
    assert b"CNone" in room.attach(shown, LC_ALL="C").until(b"<end>")


def test_what_a_login_prints_is_not_shown(rooms):
    noise = "printf 'WELCOME %s\\n' to the machine; seq 5000"
    room = rooms(extra=[f'ForceCommand {noise}; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'])
    near = room.attach("say('<go>'); say(input())")
    assert near.until(b"<go>") == b"<go>"
    near.type(b"hello\r")
    near.until(b"hello")
    assert near.end() == 0
    assert b"WELCOME" not in near.seen


def test_a_server_that_ignores_terminal_modes_shows_the_request_to_nobody(rooms):
    meddling = "stty sane"
    room = rooms(extra=[f'ForceCommand {meddling}; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'])
    near = room.attach("say('<go>'); say(input())")
    assert near.until(b"<go>") == b"<go>"


def test_keys_that_are_typed_early_are_not_lost(room):
    near = room.attach("time.sleep(0.3); say('<go>' + input() + '<end>')")
    near.type(b"early\r")
    assert b"early" in near.until(b"<end>")


def test_a_far_side_without_python_is_told_with_its_words(room):
    near = room.attach("say('never')", python="python-of-tomorrow")
    assert near.end() == 1
    assert b"the viewer of gt-1.1 ended with 127" in near.seen
    assert b"python-of-tomorrow" in near.seen
    assert near.as_before()


def test_a_viewer_that_is_missing_is_told_with_its_name(room):
    near = room.attach(["/nowhere/tmux", "attach"])
    assert near.end() == 1
    assert b"/nowhere/tmux is not installed" in near.seen
    assert b"outpost logs -f gt-1.1" in near.seen


FULL_SCREEN = """
tty.setraw(0)
say("\\x1b[?1049h\\x1b[2J\\x1b[?1;1000;1006h\\x1b[?2004h\\x1b[?25l\\x1b[31m\\x1b[5 q")
signal.signal(signal.SIGHUP, signal.SIG_IGN)
say("<go>")
while os.read(0, 1) != b"":
    pass
"""


def undone(seen: bytes) -> bool:
    told = (b"?1000l", b"?1006l", b"?2004l", b"?1l", b"?25h", b"[0m", b"[0 q")
    return all(part in seen for part in told) and seen.index(b"?1049l") > seen.index(b"?2004l")


def test_a_dropped_line_gives_the_terminal_back_and_says_what_goes_on(room):
    near = room.attach(FULL_SCREEN)
    near.until(b"<go>")
    room.relay.cut()
    assert near.end() == 5
    assert undone(near.seen)
    assert b"the connection to vm1 broke" in near.seen
    assert b"gt-1.1 keeps running" in near.seen
    assert b"outpost attach gt-1.1" in near.seen
    assert near.seen.index(b"?1049l") < near.seen.index(b"the connection")
    assert near.as_before()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_gives_the_terminal_back_before_it_ends_the_program(room, number):
    near = room.attach(FULL_SCREEN)
    near.until(b"<go>")
    near.process.send_signal(number)
    near.end()
    assert near.process.returncode in (-number, 1)  # of Ctrl-C, Python makes an error
    assert undone(near.seen)
    assert near.as_before()


def test_a_program_that_was_stopped_and_goes_on_has_its_terminal_again(room):
    near = room.attach("tty.setraw(0)\nsay('<go>')\nsay(repr(os.read(0, 9)))\n")
    near.until(b"<go>")
    near.process.send_signal(signal.SIGSTOP)
    termios.tcsetattr(near.slave, termios.TCSANOW, near.before)  # as a shell does
    near.process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + DEADLINE
    while near.as_before():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    near.type(b"\x03")
    near.until(b"b'\\x03'")
    assert near.end() == 0
    assert near.as_before()


def test_a_near_terminal_that_goes_away_ends_the_attach_alone(room, tmp_path):
    ended = tmp_path / "ended"
    near = room.attach(
        f"""
def end(*_):
    open({str(ended)!r}, "w").close()
    os._exit(0)
signal.signal(signal.SIGHUP, end)
say("<go>")
while True:
    time.sleep(0.05)
"""
    )
    near.until(b"<go>")
    os.close(near.master)
    os.close(near.slave)
    near.master = os.open(os.devnull, os.O_RDWR)
    near.slave = os.dup(near.master)
    assert near.process.wait(DEADLINE) == -signal.SIGHUP
    deadline = time.monotonic() + DEADLINE
    while not ended.exists():  # the far viewer was told that its terminal has gone
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_terminal_that_does_not_read_holds_up_the_far_program_and_loses_nothing(room, tmp_path):
    written = tmp_path / "written"
    near = room.attach(
        f"""
import hashlib
tty.setraw(0)
say("<go>")
piece = os.urandom(65536)
for number in range(128):
    sent = memoryview(piece)
    while sent:
        sent = sent[os.write(1, sent):]
open({str(written)!r}, "w").close()
say("<end>" + hashlib.sha256(piece * 128).hexdigest() + "<done>")
"""
    )
    near.until(b"<go>")
    time.sleep(1)
    assert not written.exists()
    output, _, digest = near.until(b"<done>").removesuffix(b"<done>").rpartition(b"<end>")
    assert hashlib.sha256(output).hexdigest() == digest.decode()


def test_without_a_terminal_nothing_is_asked(room, tmp_path):
    command = room.command(["/bin/true"])
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 2
    assert "attaching to gt-1.1 needs a terminal" in done.stderr
    assert "outpost logs -f gt-1.1" in done.stderr


class Tmux:
    """A worker in a real tmux, as the far side has it."""

    def __init__(self, root: Path) -> None:
        context = BuildContext(state_dir=root)
        self.outpost = LocalOutpost("far", LocalOptions(mode=Mode.TMUX), context)
        agent = Agent(argv=(sys.executable, "-I", "-S", "-c", AGENT), interactive=True)
        order = Order(issue=Issue(id="gt-1"), agent=agent)
        asyncio.run(self.outpost.outpost_spawn(order))
        self.viewer = asyncio.run(self.outpost.viewer("gt-1.1"))

    def state(self) -> State:
        (status,) = asyncio.run(self.outpost.outpost_list())
        return status.state

    def close(self) -> None:
        asyncio.run(self.outpost.outpost_stop("gt-1.1", 1))
        deadline = time.monotonic() + DEADLINE
        while not self.state().terminal:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        Path(self.viewer[self.viewer.index("-S") + 1]).unlink(missing_ok=True)  # tmux leaves it


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    one = Tmux(tmp_path / "far")
    yield one
    one.close()


def test_a_worker_in_tmux_is_seen_typed_to_and_left(room, tmux):
    near = room.attach(tmux.viewer)
    shown = near.until(b"ready")
    assert b"38;5;208m" in shown
    assert "äöü".encode() in shown
    assert b"\x1b[?1000h" in shown
    near.type(b"\x03")  # Ctrl-C is the agent's
    near.until(b"[03]")
    near.type("ß".encode())
    near.until(b"[c39f]")
    near.type(b"\x1b[<0;5;3M")  # a click
    near.until(b"[1b5b3c303b353b334d]")
    near.resize(100, 40)
    near.until(b"<100x39>")  # tmux takes a row
    near.type(b"\x02d")
    assert near.end() == 0
    assert b"detached" in near.seen
    assert b"the shell continues" in near.seen
    assert near.as_before()
    assert tmux.state() in (State.WORKING, State.IDLE)


def test_the_end_of_the_worker_ends_the_attach(room, tmux):
    near = room.attach(tmux.viewer)
    near.until(b"ready")
    near.type(b"q")
    assert near.end() == 0
    assert near.as_before()


def test_a_dropped_line_leaves_the_worker_and_the_terminal_whole(room, tmux):
    near = room.attach(tmux.viewer)
    near.until(b"ready")
    room.relay.cut()
    assert near.end() == 5
    assert near.seen.index(b"?1000l") < near.seen.index(b"?1049l")
    assert near.as_before()
    assert tmux.state() in (State.WORKING, State.IDLE)
    again = room.attach(tmux.viewer)
    again.until(b"ready")


def test_within_a_tmux_of_ones_own(room, tmux, tmp_path):
    inner = shlex.join(room.command(tmux.viewer))
    outer = ["tmux", "-S", str(tmp_path / "near"), "-f", "/dev/null", "new-session"]
    alone = (";", "set-option", "destroy-unattached", "on")  # it ends with its terminal
    near = room.attach_with([*outer, f"{inner}; echo code $?; read x", *alone])
    assert b"38;5;208m" in near.until(b"ready")
    near.type(b"x")
    near.until(b"[78]")
    near.resize(100, 40)
    near.until(b"<100x38>")  # each tmux takes a row
    near.type(b"\x02\x02d")
    near.until(b"code 0")
    near.type(b"\r")
    assert near.end() == 0
    assert tmux.state() in (State.WORKING, State.IDLE)
