"""`outpost add ssh`: the host shows its key, is tried, and is written down or not at all."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hostkit import home, keygen, server
from peers.sshd import Sshd

from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session
from outpost_manager.config import load_config
from outpost_ssh.options import SshOptions
from outpost_ssh.plugin import outpost_backends

__all__ = ["home", "server"]

PROGRAM = (sys.executable, "-c", "from outpost_manager.cli import main; main()")
BEFORE = "# mine\noutposts:\n  - {name: local, type: local}\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("OUTPOST_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "outposts.yaml"
    path.write_text(BEFORE)
    return path


def words(server: Sshd, file: Path, *more: str) -> list[str]:
    return [
        *("--config", str(file), "--state", str(file.parent / "state")),
        *("add", "ssh", "vm1", "--host", server.host, "--port", str(server.port)),
        *("--user", server.user, "--ssh-key", str(server.key), "--connect-timeout", "5s", *more),
    ]


def add(server: Sshd, file: Path, *more: str) -> Result:
    how: dict[str, Any] = {"prog_name": "outpost", "obj": Session()}
    return CliRunner().invoke(cli, words(server, file, *more), **how)


def written(file: Path) -> SshOptions:
    made = load_config(file, {"ssh": outpost_backends()}).outposts[-1].options
    assert isinstance(made, SshOptions)
    return made


def test_a_key_that_is_trusted_on_first_use_is_shown_and_pinned(server, file):
    done = add(server, file, "--trust-on-first-use")
    assert done.exit_code == 0, done.stderr
    assert written(file).host_key == server.host_key
    assert file.read_text().startswith(BEFORE.rstrip("\n"))
    assert "shows the host key SHA256:" in done.stderr
    assert f"logged in as {server.user}, " in done.stderr
    assert "→ outpost bootstrap vm1" in done.stdout


def test_the_first_outpost_of_all_makes_the_file(server, file):
    file.unlink()
    done = add(server, file, "--trust-on-first-use")
    assert done.exit_code == 0, done.stderr
    assert written(file).host_key == server.host_key


def test_an_unknown_key_without_a_word_is_refused_and_nothing_is_written(server, file):
    done = add(server, file)
    assert done.exit_code == 5
    assert "is not known here" in done.stderr
    assert "--trust-on-first-use" in done.stderr
    assert "vm1 was not added" in done.stderr
    assert file.read_text() == BEFORE


def test_a_known_key_is_not_pinned(server, file):
    done = add(server, file, "--known-hosts", str(server.known_hosts))
    assert done.exit_code == 0, done.stderr
    assert written(file).host_key is None
    assert "shows the host key" not in done.stderr


def test_a_changed_key_is_never_trusted_on_first_use(server, file):
    server.rekey()
    server.restart()
    done = add(server, file, "--known-hosts", str(server.known_hosts), "--trust-on-first-use")
    assert done.exit_code == 5
    assert "has changed" in done.stderr
    assert file.read_text() == BEFORE


def test_a_login_that_fails_writes_nothing(server, file, tmp_path):
    key = str(keygen(tmp_path / "wrong"))
    done = add(server, file, "--trust-on-first-use", "--ssh-key", key)
    assert done.exit_code == 5
    assert "did not let us in" in done.stderr
    assert "--no-check" in done.stderr
    assert file.read_text() == BEFORE


def test_no_check_writes_it_down_without_a_try(server, file):
    server.stop()
    done = add(server, file, "--no-check")
    assert done.exit_code == 0, done.stderr
    assert written(file).host == server.host


def test_a_name_that_is_taken_is_refused_before_the_host_is_asked(server, file):
    file.write_text(BEFORE + "  - {name: vm1, type: local}\n")
    before = server.log.read_text().count("Connection from")
    done = add(server, file, "--trust-on-first-use")
    assert done.exit_code == 2
    assert "already" in done.stderr
    assert server.log.read_text().count("Connection from") == before


def test_a_hostile_host_is_refused_before_anything_is_done(server, file):
    done = add(server, file, "--host", "-oProxyCommand=touch x")
    assert done.exit_code == 2
    assert file.read_text() == BEFORE


def test_json_is_one_document_and_never_asks(server, file):
    done = add(server, file, "--json")
    assert done.exit_code == 5
    assert "not known" in json.loads(done.stdout)["error"]["message"]
    done = add(server, file, "--json", "--trust-on-first-use")
    answer = json.loads(done.stdout)
    assert answer["added"] == "vm1"
    assert answer["checked"]
    assert answer["found"] == {"host_key": server.host_key}
    assert done.stderr == ""


def at_terminal(
    server: Sshd, file: Path, keys: list[tuple[str, Callable[[], str]]]
) -> tuple[int, str]:
    """Run it on a terminal; type each answer when its question is there."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *words(server, file)],
        stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    text, deadline = "", time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if keys and keys[0][0] in text:
                os.write(leader, keys.pop(0)[1]().encode())
            if select.select([leader], [], [], 0.05)[0]:
                try:
                    text += os.read(leader, 4096).decode()
                except OSError:  # the last one of the other side has gone
                    break
        return process.wait(timeout=60), text
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_a_person_at_a_terminal_is_asked(server, file):
    code, text = at_terminal(server, file, [("pinned for vm1?", lambda: "n\n")])
    assert (code, file.read_text()) == (5, BEFORE), text
    answers = [("pinned for vm1?", lambda: "y\n"), ("Bootstrap it now?", lambda: "n\n")]
    code, text = at_terminal(server, file, answers)
    assert code == 0, text
    assert written(file).host_key == server.host_key


def test_a_yes_to_the_bootstrap_runs_it(server, file):
    def yes() -> str:
        server.stop()  # so that nothing is installed here
        return "y\n"

    answers = [("pinned for vm1?", lambda: "y\n"), ("Bootstrap it now?", yes)]
    code, text = at_terminal(server, file, answers)
    assert code == 1, text
    assert "refused the connection" in text.partition("Bootstrap it now?")[2], text
    assert written(file).host_key == server.host_key


def connected(server: Sshd) -> bool:
    """Tell whether somebody has connected to the port of the server."""
    words = ["ss", "-tnH", "state", "established", f"( dport = :{server.port} )"]
    return bool(subprocess.run(words, capture_output=True, check=True).stdout)


def test_an_add_that_is_killed_while_it_tries_leaves_the_file_whole(server, file):
    os.kill(server.pid or 0, signal.SIGSTOP)  # it listens, and says nothing
    try:
        process = subprocess.Popen(
            [*PROGRAM, *words(server, file)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and not connected(server):
            time.sleep(0.02)
        process.kill()
        process.wait()
    finally:
        os.kill(server.pid or 0, signal.SIGCONT)
    assert file.read_text() == BEFORE
    assert [path.name for path in file.parent.iterdir() if "outposts" in path.name] == [file.name]
