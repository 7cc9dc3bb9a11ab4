"""The keeper of a connection: used where it is, never needed, and gone when nobody wants it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from peers.sshd import Sshd, sshd

from outpost_core.backend import BuildContext
from outpost_ssh.keeper import place
from outpost_ssh.options import SshOptions
from outpost_ssh.outpost import SshOutpost

DEADLINE = 60.0


def until(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.02)


class Desk:
    """This side: short programs that each ask the host once, as commands do."""

    def __init__(self, host: Sshd, folder: Path, run: str) -> None:
        self.host = host
        self.folder = folder
        self.run = run

    def options(self, **more: Any) -> SshOptions:
        values = {
            "host": self.host.host, "port": self.host.port, "user": self.host.user,
            "ssh_key": self.host.key, "known_hosts": self.host.known_hosts,
            "python": sys.executable, "config": Path(os.devnull), **more,
        }  # fmt: skip
        return SshOptions(**values)

    def ask(self, **more: Any) -> bool:
        """Ping the host as one command does; returns whether it was over a keeper's line."""

        async def work() -> bool:
            context = BuildContext(state_dir=self.folder / "state")
            outpost = SshOutpost("vm1", self.options(**more), context)
            try:
                assert (await outpost.outpost_ping()).ok
                return outpost._host is None
            finally:
                await outpost.outpost_close()

        return asyncio.run(work())

    def socket(self, **more: Any) -> Path:
        path = place.socket_of(place.describe(self.options(**more), None))
        assert path is not None
        return path

    def keepers(self) -> list[int]:
        """The processes that hold a lock of ours."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                argv = (entry / "cmdline").read_bytes().split(b"\0")
                env = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"outpost_ssh.keeper.lend" in argv and os.fsencode(self.run) in env:
                found.append(int(entry.name))
        return found

    def started(self, **more: Any) -> int:
        """Ask once, wait for the keeper that this starts, and return its process."""
        assert not self.ask(**more)
        until(self.socket(**more).exists, "no keeper was started")
        (pid,) = self.keepers()
        return pid


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A host, and a desk with a runtime folder of its own."""
    monkeypatch.setenv(place.SWITCH, "1")
    # a socket's path is short (unix(7)), pytest's folders are not
    with TemporaryDirectory(prefix="outpost-") as run, sshd(tmp_path / "sshd") as host:
        monkeypatch.setenv("XDG_RUNTIME_DIR", run)
        made = Desk(host, tmp_path, run)
        try:
            yield made
        finally:
            for pid in made.keepers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_the_next_command_goes_over_the_line_of_the_last(desk: Desk) -> None:
    pid = desk.started()
    assert desk.socket().stat().st_mode & 0o777 == 0o600
    assert desk.socket().parent.stat().st_mode & 0o777 == 0o700
    assert [desk.ask() for _ in range(3)] == [True, True, True]
    assert desk.keepers() == [pid]


def test_a_keeper_holds_nothing_of_the_callers_environment(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps living for minutes, and whoever can look at it can read its environment."""
    monkeypatch.setenv("A_TOKEN", "canary-3b1d")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:canary-3b1d@proxy.example")
    pid = desk.started()
    said = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"HOME=" in said
    assert b"canary-3b1d" not in said
    assert desk.ask(), "it lends what it holds all the same"


def test_the_borrowing_program_imports_no_ssh_library(desk: Desk) -> None:
    desk.started()
    program = (
        "import asyncio, json, sys\nfrom pathlib import Path\n"
        "from outpost_core.backend import BuildContext\n"
        "from outpost_ssh.keeper import place\nfrom outpost_ssh.outpost import SshOutpost\n"
        "options, base = place.understand(json.loads(sys.argv[1]))\n"
        "async def work():\n"
        "    outpost = SshOutpost('vm1', options, BuildContext(state_dir=Path(sys.argv[2])))\n"
        "    print((await outpost.outpost_ping()).ok)\n"
        "    await outpost.outpost_close()\n"
        "asyncio.run(work())\nprint('asyncssh' in sys.modules)\n"
    )
    said = json.dumps(place.describe(desk.options(), None))
    done = subprocess.run(
        [sys.executable, "-c", program, said, str(desk.folder / "state")],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_a_killed_keeper_is_not_missed_and_another_is_started(desk: Desk) -> None:
    pid = desk.started()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not desk.keepers(), "it was killed")
    assert desk.socket().exists(), "a killed one leaves its socket"
    assert not desk.ask()
    until(desk.keepers, "no other was started")
    until(desk.ask, "the other is not used")
    assert desk.keepers() != [pid]


def test_it_ends_when_nobody_wants_it(desk: Desk) -> None:
    pid = desk.started(keep=3.0)  # time enough to be seen, on a machine that is busy too
    until(lambda: not desk.keepers(), f"{pid} stays")
    assert not desk.socket(keep=3.0).exists()


def test_it_ends_with_its_host(desk: Desk) -> None:
    desk.started()
    desk.host.stop()
    until(lambda: not desk.keepers(), "it keeps a line to nobody")
    assert not desk.socket().exists()


def test_it_ends_when_its_lock_was_tidied_away(desk: Desk) -> None:
    """Whoever comes then is free to start another one."""
    pid = desk.started()
    desk.socket().with_suffix(".lock").unlink()
    until(lambda: pid not in desk.keepers(), "it stays")
    until(desk.ask, "another one is used")
    assert len(desk.keepers()) == 1


def test_a_term_ends_it_and_takes_the_socket_along(desk: Desk) -> None:
    os.kill(desk.started(), signal.SIGTERM)
    until(lambda: not desk.keepers(), "it stays")
    assert not desk.socket().exists()


def test_two_that_are_started_at_once_are_one(desk: Desk) -> None:
    threads = [threading.Thread(target=desk.ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(desk.socket().exists, "none was started")
    until(lambda: len(desk.keepers()) == 1, "one is enough")
    assert desk.ask()


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b'{"peer": "me"}\nnonsense\n', None])
def test_what_only_looks_like_one_is_passed_over(desk: Desk, answer: bytes | None) -> None:
    path = desk.socket(connect_timeout=5.0)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        callers = []

        def serve() -> None:
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                callers.append(caller)
                if answer is not None:  # else it says nothing, and leaves the line open
                    caller.sendall(answer)
                    caller.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert not desk.ask(connect_timeout=5.0)
            assert callers, "it was asked"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for caller in callers:
                caller.close()


def test_another_configuration_has_another_keeper(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = desk.socket()
    assert desk.socket(host_key=desk.host.host_key) != first
    monkeypatch.setenv("SSH_AUTH_SOCK", "/elsewhere")
    assert desk.socket() != first


def test_a_folder_that_others_can_look_into_is_not_used(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = place.describe(desk.options(), None)
    folder = desk.socket().parent
    folder.chmod(0o755)
    assert place.socket_of(said) is None
    folder.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "theirs")
    assert place.socket_of(said) is None
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 25)))
    assert place.socket_of(said) is None, "no folder, or too long a name"


def test_it_can_be_turned_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not desk.ask(keep=0)
    assert not desk.ask(keep=0)
    monkeypatch.setenv(place.SWITCH, "0")
    assert not desk.ask()
    assert desk.keepers() == []


def test_many_callers_at_once_each_get_a_line_of_their_own(desk: Desk) -> None:
    desk.started()
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(desk.ask())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert any(answers)
