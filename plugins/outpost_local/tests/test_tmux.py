"""tmux itself, with the traps that it is known for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outpost_local.tmux import Tmux
from outpost_worker.console import tmux as tmux_module
from outpost_worker.console.tmux import escape, session_name
from outpost_worker.system import sockets

HOSTILE = [
    "x;", ";", r"x\;", r"\\;", "a;b", "kill-server;", "--", "-t", "=x", "$(id)", "`id`", "'", '"',
    "two words", "line\nbreak", "tab\t", "#{pid}", "#(id)", "%1", "%%", "~", "$HOME", "{", "}",
    "", "é☃", "\\",
]  # fmt: skip
WRITE_ARGV = (
    "import json,os,sys,time; p=sys.argv[1]; open(p+'.new','w').write(json.dumps(sys.argv[2:])); "
    "os.rename(p+'.new', p)"
)


def writer(path: Path, *args: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", WRITE_ARGV, str(path), *args]


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)
    return path.read_text()


def nothing_begun(worker: str) -> bool:
    return False


@pytest.fixture
def tmux(tmux_place):
    tmux_place.root.mkdir()
    return Tmux(tmux_place.root)


@pytest.mark.parametrize("last", HOSTILE)
def test_arguments_arrive_as_they_are(tmux, tmp_path, last):
    path = tmp_path / "argv"
    assert tmux.start({"gt-1.1": writer(path, *HOSTILE, last)}, {}, nothing_begun) == {}
    assert json.loads(wait_for(path)) == [*HOSTILE, last]


@pytest.mark.parametrize("folder", ["ends;", "has space", "#{pid}#(id)", "100%", "a'b\"c", "-x"])
def test_paths_arrive_as_they_are(tmux, tmp_path, folder):
    path = tmp_path / folder / "argv"
    path.parent.mkdir()
    assert (
        tmux.start({"gt-1.1": writer(path), "gt-2.1": writer(path, "2")}, {}, nothing_begun) == {}
    )
    wait_for(path)


def test_escape_is_undone_by_tmux_only_at_the_end():
    assert escape("x;") == r"x\;"
    assert escape("a;b") == "a;b"
    assert escape("") == ""


@pytest.mark.parametrize("kind", [Tmux, tmux_module.Tmux])
def test_session_names_are_one_to_one_and_exact(tmux_place, kind):
    tmux_place.root.mkdir()
    tmux = kind(tmux_place.root)
    ids = ["gt-1.1", "gt-1.10", "gt_1.1", "gt.1.1", "gt-1.1.1", "a" * 96 + ".999999", "GT-1.1"]
    assert tmux.start({worker: ["/bin/sleep", "60"] for worker in ids}, {}, nothing_begun) == {}
    try:
        assert tmux.sessions() == {session_name(worker) for worker in ids}
        assert tmux.has("gt-1.1")
        assert not tmux.has("gt-1.100")
        assert not tmux.has("gt-1")  # a prefix of several
        tmux_place.tmux("kill-session", "-t", f"={session_name('gt-1.1')}")
        assert not tmux.has("gt-1.1")  # though gt-1.10 begins with it
        assert tmux.has("gt-1.10")
        assert tmux.capture("gt-1.1", 5) is None
        assert tmux.capture("gt-1.10", 5) == ""
    finally:
        tmux_place.tmux("kill-server")


def test_a_duplicate_session_is_no_error_and_harms_no_other(tmux, tmux_place, tmp_path):
    assert tmux.start({"gt-1.1": ["/bin/sleep", "60"]}, {}, nothing_begun) == {}
    try:
        sessions = {f"gt-{i}.1": writer(tmp_path / f"{i}") for i in range(5)}
        assert tmux.start(sessions, {}, nothing_begun) == {}
        for i in (0, 2, 3, 4):
            wait_for(tmp_path / f"{i}")
        assert not (tmp_path / "1").exists()
    finally:
        tmux_place.tmux("kill-server")


def test_one_command_that_is_too_long_is_named_and_the_others_start(tmux, tmp_path):
    sessions = {f"gt-{i}.1": writer(tmp_path / f"{i}") for i in range(4)}
    sessions["gt-1.1"].append("x" * 20_000)
    failed = tmux.start(sessions, {}, nothing_begun)
    assert list(failed) == ["gt-1.1"]
    assert "too long" in failed["gt-1.1"]
    for i in (0, 2, 3):
        wait_for(tmp_path / f"{i}")


def test_what_has_begun_is_not_started_again_after_an_error(tmux, tmux_place, tmp_path):
    assert tmux.start({"gt-0.1": ["/bin/sleep", "60"]}, {}, nothing_begun) == {}
    try:
        sessions = {f"gt-{i}.1": writer(tmp_path / f"{i}") for i in range(3)}  # 0 is there already
        assert tmux.start(sessions, {}, lambda worker: worker == "gt-2.1") == {}
        wait_for(tmp_path / "1")
        assert not (tmp_path / "2").exists()
    finally:
        tmux_place.tmux("kill-server")


def test_a_hundred_sessions_take_few_tmux_processes(tmux, tmp_path, monkeypatch):
    calls = []
    run = Tmux._run
    monkeypatch.setattr(
        Tmux, "_run", lambda self, commands: (calls.append(1), run(self, commands))[1]
    )
    sessions = {f"gt-{i}.1": writer(tmp_path / f"{i}") for i in range(100)}
    assert tmux.start(sessions, {}, nothing_begun) == {}
    for i in range(100):
        wait_for(tmp_path / f"{i}")
    assert len(calls) < 12


def test_every_quick_session_runs_though_the_server_ends_with_the_last_one(tmux, tmp_path):
    for i in range(60):
        script = ["/bin/sh", "-c", ': > "$1"', "sh", str(tmp_path / f"{i}")]
        assert tmux.start({f"gt-{i}.1": script}, {}, nothing_begun) == {}
    for i in range(60):
        wait_for(tmp_path / f"{i}")


def test_the_servers_environment_holds_nothing_of_the_caller(tmux, tmux_place, monkeypatch):
    monkeypatch.setenv("CALLERS_TOKEN", "canary-5e1f")
    monkeypatch.setenv("OUTPOST_FAULT", "nowhere")
    for i in range(300):
        monkeypatch.setenv(f"PADDING_{i:03}_{'x' * 40}", "1")
    monkeypatch.setenv("A_TOKEN", "canary-5e1f")
    sleeper = {"gt-1.1": ["/bin/sleep", "60"]}
    assert tmux.start(sleeper, {"GIVEN": "a;b;"}, nothing_begun) == {}
    try:
        shown = tmux_place.tmux("show-environment", "-g").stdout
        assert "PATH=" in shown
        assert "canary" not in shown
        assert "OUTPOST_FAULT" not in shown
        given = tmux_place.tmux("show-environment", "-t", f"={session_name('gt-1.1')}", "GIVEN")
        assert given.stdout == "GIVEN=a;b;\n"
        server = Path(f"/proc/{tmux_place.server()}/environ").read_bytes()
        assert b"PATH=" in server
        assert b"canary" not in server, "what the first spawner had stays readable"
        assert b"PADDING_" not in server
    finally:
        tmux_place.tmux("kill-server")


def test_another_tmux_around_us_changes_nothing(tmux, tmux_place, tmp_path, monkeypatch):
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/somebody,1,0")
    monkeypatch.setenv("TMUX_PANE", "%7")
    assert tmux.start({"gt-1.1": writer(tmp_path / "ran")}, {}, nothing_begun) == {}
    wait_for(tmp_path / "ran")


def test_without_tmux_the_error_says_what_to_do(tmux, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(tmux_module.TmuxError, match="apt install tmux"):
        tmux.start({"gt-1.1": ["/bin/true"]}, {}, nothing_begun)


def test_each_state_has_its_own_server(tmp_path):
    one, two = (Tmux(tmp_path / name) for name in "ab")
    assert one.socket != two.socket


def test_a_long_root_has_its_socket_in_a_folder_of_the_user(tmp_path):
    root = tmp_path / ("r" * 120)
    root.mkdir()
    tmux = Tmux(root)
    assert len(os.fsencode(tmux.socket)) <= 103
    assert Tmux(tmp_path / ("s" * 120)).socket != tmux.socket
    link = tmp_path / "link"
    link.symlink_to(root)
    assert Tmux(link).socket == tmux.socket
    folder = Path(tmux.socket).parent
    assert str(folder) == f"/tmp/outpost-{os.geteuid()}"
    assert str(folder) in sockets.folders(str(root), {})
    try:
        assert tmux.start({"gt-1.1": ["/bin/sleep", "600"]}, {}, nothing_begun) == {}
        assert tmux.has("gt-1.1")
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        subprocess.run(["tmux", "-S", tmux.socket, "kill-server"], check=False)
        Path(tmux.socket).unlink(missing_ok=True)


def test_nobody_else_can_enter_the_folder_of_the_socket(tmux, tmux_place):
    folder = Path(tmux.socket).parent
    assert folder.parent == tmux_place.root
    folder.mkdir()
    folder.chmod(0o777)  # made by us, under a careless mode
    before = os.umask(0)
    try:
        assert tmux.start({"gt-1.1": ["/bin/sleep", "600"]}, {}, nothing_begun) == {}
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    tmux_place.tmux("kill-server")


@pytest.mark.parametrize("kind", ["link", "file", "of another"])
def test_a_folder_that_is_not_ours_alone_is_not_used(tmux, tmp_path, monkeypatch, kind):
    """A stranger's server could have whoever attaches run commands."""
    folder = Path(tmux.socket).parent
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for ask in (
        lambda: tmux.start({"gt-1.1": ["/bin/true"]}, {}, nothing_begun),
        lambda: tmux.has("gt-1.1"),
        lambda: tmux.attach_argv("gt-1.1", read_only=True),
        tmux.sessions,
    ):
        with pytest.raises(tmux_module.TmuxError, match="is not safe") as caught:
            ask()
        assert caught.value.hint
    if kind == "file":
        folder.unlink()


def test_a_terminal_that_nobody_knows_is_no_reason_to_have_none(tmp_path, monkeypatch):
    """tmux looks up the terminal that it is called from, which shows nothing of the session."""
    import pty

    monkeypatch.setenv("TERM", "xterm-of-nobody")
    there, ours = pty.openpty()
    kept = os.dup(0)
    os.dup2(ours, 0)
    tmux = Tmux(tmp_path)
    try:
        assert tmux.start({"gt-1.1": ["sleep", "600"]}, {}, lambda _: False) == {}
        assert tmux.has("gt-1.1")
    finally:
        subprocess.run(["tmux", "-S", tmux.socket, "kill-server"], stdin=subprocess.DEVNULL)
        os.dup2(kept, 0)
        for fd in (kept, there, ours):
            os.close(fd)
    assert os.environ["TERM"] == "xterm-of-nobody"
