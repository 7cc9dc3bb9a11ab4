"""What an agent leaves in the places that it may write, for the next agent or for its user."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from pathlib import Path

import pytest
from fencekit import Yard

from outpost_worker.fence import start
from outpost_worker.folder import files


@pytest.fixture
def inside(open_path: Path, uid: int) -> Yard:
    """One whose agents are in a namespace of processes."""
    return Yard(open_path, uid, start.NAMESPACE)


@pytest.mark.parametrize("way", start.WAYS)
def test_a_link_that_an_agent_left_shows_the_next_one_nothing(
    open_path: Path, uid: int, way: str
) -> None:
    """The folder of an agent's own settings is protected by rules, and they follow no link."""
    yard = Yard(open_path, uid, way)
    key, other = yard.secrets[0], yard.root / "workers"
    plant = f"""cd ~/.claude
for name in settings.local.json bin local mcp.json; do ln -s {key} $name && break; done
ln -s {other} policies; ln -s {other}/f-1/order.json config.json; ln -s {other} hooks"""
    yard.run(plant)
    _, log, _ = yard.run("cat ~/.claude/*; cat ~/.claude/policies/*/order.json ~/.ssh/*; true")
    assert "of the user" not in log
    assert '"issue"' not in log


def test_what_an_agent_names_like_a_socket_hides_nothing_from_the_next(inside: Yard) -> None:
    links = [Path(f"/tmp/ssh-{os.getpid()}-{n}") for n in range(3)]
    gone = Path(f"/tmp/tmux-{os.getpid()}\nfence 1 x")
    try:
        for link, goal in zip(links, ("/", "/usr", str(inside.root)), strict=True):
            link.symlink_to(goal)
            os.lchown(link, inside.uid, inside.uid)
        gone.mkdir()
        os.chown(gone, inside.uid, inside.uid)
        result, log, _ = inside.run("ls /usr/bin/env && echo 1 > here")
        assert result["state"] == "done", (result, log)
        assert result["fence"] == "namespace"
    finally:
        for link in links:
            link.unlink()
        gone.rmdir()


def test_what_comes_and_goes_meanwhile_makes_no_lesser_fence(inside: Yard) -> None:
    """Another agent makes and removes what a rule is for, so that mounting it fails."""
    place = f"/tmp/ssh-{os.getpid()}-flicker"
    code = f"import os\nwhile True: os.mkdir({place!r}); os.rmdir({place!r})"
    other = subprocess.Popen([*inside.argv, inside.python, "-I", "-c", code], env=inside.env)
    try:
        for _ in range(4):
            assert inside.run("true")[0]["fence"] == "namespace"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        if os.path.isdir(place):
            os.rmdir(place)


def test_what_is_out_of_reach_cannot_be_moved_away_with_the_folder_it_is_in(inside: Yard) -> None:
    """A state root, or a program that its user runs, below a folder that can be written."""
    away = inside.home / ".cache/deep/er/bin"
    away.mkdir(parents=True)
    for path in (away, away.parent, away.parent.parent, away.parents[2]):
        os.chown(path, inside.uid, inside.uid)
    inside.env["PATH"] += f":{away}"
    _, log, _ = inside.run(
        "cd ~/.cache; mv deep gone && echo MOVED; mv deep/er deep/gone && echo MOVED; "
        "echo 1 > deep/other && echo 2 > deep/er/other && echo written"
    )
    assert "MOVED" not in log
    assert "written" in log


@pytest.mark.parametrize("name", ["settings.json", "CLAUDE.md", "commands/x.md", "hooks/x"])
def test_an_agent_cannot_make_what_its_user_runs_later(inside: Yard, name: str) -> None:
    (inside.home / ".claude/settings.json").unlink()
    inside.run(f"mkdir -p ~/.claude/{os.path.dirname(name)}; echo evil > ~/.claude/{name}; true")
    path = inside.home / ".claude" / name
    assert not path.exists() or "evil" not in path.read_text()
    assert (inside.home / ".claude/settings.json").read_text() == "{}\n"


def test_an_agent_adds_no_server_and_no_command_to_its_users_sessions(inside: Yard) -> None:
    """Claude Code writes both of these all the time, and its other sessions run what they say."""
    about = inside.home / ".claude.json"
    about.write_text('{"mcpServers": {}}\n')
    snapshots = inside.home / ".claude/shell-snapshots"
    snapshots.mkdir()
    snapshot = snapshots / "snapshot-bash-1.sh"
    snapshot.write_text("# of a session of the user\n")
    for path in (about, snapshots, snapshot):
        os.chown(path, inside.uid, inside.uid)
    result, log, _ = inside.run(
        "set -e; cat ~/.claude.json; echo evil > ~/.claude.json; cat ~/.claude.json; "
        "echo evil > ~/.claude/shell-snapshots/mine.sh; cat ~/.claude/shell-snapshots/*; "
        "! echo evil >> ~/.claude/shell-snapshots/snapshot-bash-1.sh || true"
    )
    assert result["state"] == "done", (result, log)
    assert log == '{"mcpServers": {}}\nevil\nevil\n'
    assert about.read_text() == '{"mcpServers": {}}\n'
    assert snapshot.read_text() == "# of a session of the user\n"
    assert [path.name for path in snapshots.iterdir()] == [snapshot.name]
    _, log, _ = inside.run(f"ls {inside.root}")
    assert log == "workers\n"


def test_caches_of_shells_and_of_outpost_are_only_read(inside: Yard) -> None:
    cache = inside.home / ".cache"
    cache.mkdir()
    prompt = cache / "p10k-instant-prompt-me.zsh"
    prompt.write_text("")
    for path in (cache, prompt):
        os.chown(path, inside.uid, inside.uid)
    inside.run(
        "echo evil > ~/.cache/p10k-instant-prompt-me.zsh; rm ~/.cache/p10k*; "
        "mkdir -p ~/.cache/outpost/far; echo evil > ~/.cache/outpost/far/x; true"
    )
    assert prompt.read_text() == ""
    assert not (cache / "outpost/far").exists()


def test_terminals_of_the_user_are_out_of_reach(inside: Yard) -> None:
    master, slave = pty.openpty()
    try:
        name = os.ttyname(slave)
        os.fchown(slave, inside.uid, -1)
        result, log, _ = inside.run(
            f"(printf '\\033]52;c;ZXZpbA==\\007' > {name}) 2>&1 && echo WROTE; ls /dev/pts; "
            "script -qc 'test -t 0 && echo own terminal' /dev/null"
        )
        assert result["state"] == "done", (result, log)
        assert "WROTE" not in log
        assert "own terminal" in log
        assert not select.select([master], [], [], 0)[0]
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("way", start.WAYS)
def test_devices_are_used_and_not_replaced(open_path: Path, way: str) -> None:
    """Root could: /dev belongs to him."""
    yard = Yard(open_path, os.getuid(), way)
    name = f"outpost-{os.getpid()}"
    result, log, _ = yard.run(
        f"echo 1 > /dev/null; (echo 2 > /dev/{name}) && echo MADE; echo 3 > /dev/shm/{name}; "
        f"mv /dev/full /dev/{name} && echo MOVED; mknod /dev/{name} c 1 3 && echo MADE; true"
    )
    try:
        assert result["state"] == "done", (result, log)
        assert "MADE" not in log
        assert "MOVED" not in log
        assert Path(f"/dev/shm/{name}").read_text() == "3\n"
    finally:
        Path(f"/dev/shm/{name}").unlink(missing_ok=True)


def test_an_empty_folder_of_an_agent_is_not_needed(inside: Yard) -> None:
    (inside.home / ".claude/settings.json").unlink()
    (inside.home / ".claude").rmdir()
    result, _, folder = inside.run("true")
    assert result["state"] == "done"
    assert not (inside.home / ".claude").exists()
    assert (folder / files.RESULT).exists()


#: Puts a key into a session keyring of its own, or looks for it; the numbers are x86-64's.
_KEYS = """
import ctypes, os, platform, sys
libc = ctypes.CDLL(None)
add, keyctl = {"x86_64": (248, 250)}.get(platform.machine(), (217, 219))
if sys.argv[1] == "look":
    print("FOUND" if libc.syscall(keyctl, 10, -3, b"user", b"outpost-test", 0) > 0 else "none")
else:
    libc.syscall(keyctl, 1, None)
    libc.syscall(add, b"user", b"outpost-test", b"pending", 6, -3)
    os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("way", start.WAYS)
def test_keys_of_the_session_of_its_user_are_out_of_reach(open_path: Path, way: str) -> None:
    yard = Yard(open_path, os.getuid(), way)
    script = open_path / "keys.py"
    script.write_text(_KEYS)
    yard.argv = [yard.python, "-I", str(script)]
    seen = subprocess.run(
        [*yard.argv, yard.python, "-I", str(script), "look"], capture_output=True, check=True
    )
    result, log, _ = yard.run(f"{yard.python} -I {script} look")
    assert result["state"] == "done", (result, log)
    assert log == "none\n"
    assert seen.stdout in (b"FOUND\n", b"none\n")  # the latter in a container without keyrings
