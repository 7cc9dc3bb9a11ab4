"""The tests' own sshd: logins of its own, and crashes at will."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from peers.sshd import Sshd, sshd


def login(server: Sshd, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *("ssh", "-F", "none", "-i", str(server.key), "-p", str(server.port)),
            *("-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "BatchMode=yes"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "IdentityAgent=none"),
            *(f"{server.user}@{server.host}", *command),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def say(server: Sshd, command: str) -> str:
    out, err = login(server, command).communicate(timeout=30)
    return out or err


def test_a_login_has_the_home_and_the_variables_that_the_test_gives(tmp_path: Path) -> None:
    with sshd(tmp_path, env={"GREETING": "hello"}) as server:
        assert say(server, 'echo "$HOME $GREETING"') == f"{tmp_path}/home hello\n"


def test_a_restart_keeps_the_port_and_the_key(tmp_path: Path) -> None:
    with sshd(tmp_path) as server:
        port, pid = server.port, server.pid
        server.restart()
        assert server.port == port
        assert server.pid != pid
        assert say(server, "echo again") == "again\n"


def test_a_kill_ends_the_connections_but_not_what_is_a_session_of_its_own(tmp_path: Path) -> None:
    script = "setsid sleep 30 & echo $!; exec sleep 60"
    with sshd(tmp_path) as server:
        client = login(server, f"{script}")
        assert client.stdout is not None
        outlives = int(client.stdout.readline())
        server.kill()
        assert client.wait(10) == 255
        assert client.communicate()[1].startswith("Connection to 127.0.0.1 closed")
        assert b"sleep\x0030" in Path(f"/proc/{outlives}/cmdline").read_bytes()
        subprocess.run(["kill", str(outlives)], check=True)


def test_connections_outlive_a_server_that_alone_is_killed_and_end_with_the_test(
    tmp_path: Path,
) -> None:
    with sshd(tmp_path) as server:
        client = login(server, "echo in; read x; sleep 60")
        assert client.stdout is not None
        # stdin is at its end, so `read` returns at once, and the sleep is on
        assert client.stdout.readline() == "in\n"
        server.restart(sessions=False)
        time.sleep(0.2)
        assert client.poll() is None
    assert client.wait(10) == 255
    client.communicate()


def test_another_host_key_is_refused_by_who_knew_the_first(tmp_path: Path) -> None:
    with sshd(tmp_path) as server:
        before = server.host_key
        server.rekey()
        server.restart()
        assert server.host_key != before
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in say(server, "true")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="Bad configuration option: nonsense"),
        sshd(tmp_path, extra=["nonsense yes"]),
    ):
        pass
