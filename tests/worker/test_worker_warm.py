"""The warm process: what it forks is what would have been started, and nothing depends on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import farcode
import pytest
from fencekit import Yard, wait

from outpost_core.types import State
from outpost_shared import faults, process
from outpost_worker.folder import claim, publish
from outpost_worker.warm import client, place, server

_OFF = {"mode": "off"}
#: Of `/proc/<pid>/status`, what a process inherits, or has set up for itself.
_INHERITED = (
    "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Threads", "SigBlk", "SigIgn",
    "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Cpus_allowed",
)  # fmt: skip


class Warm(client.Warm):
    """A program that launches, always with the same environment."""

    def __init__(self, launches: Launches, env: Mapping[str, str]) -> None:
        super().__init__(launches.root, launches.spawn)
        self._own = env

    def start(self, workers: Sequence[str], env: Mapping[str, str] | None = None) -> set[str]:
        return super().start(workers, env or self._own)


class Launches:
    """Launches at a root, as a backend does them; everything that was started ends with it."""

    def __init__(self, far) -> None:
        self.far = far
        self.root = str(far.root)
        self.started: list[subprocess.Popen[bytes]] = []

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        null = subprocess.DEVNULL
        self.started.append(
            subprocess.Popen(
                argv, env=env, cwd="/", start_new_session=True, stdin=null, stdout=null, stderr=null
            )
        )

    def env(self, **more: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], **more}

    def client(self, **env: str) -> Warm:
        return Warm(self, self.env(**env))

    def plainly(self, folders: Sequence[Path], **env: str) -> None:
        for folder in folders:
            self.spawn(publish.command(folder), self.env(**env))

    def warmly(self, folders: Sequence[Path], warm: Warm | None = None) -> int:
        """Have all of these forked; returns whose child they are."""
        warm = warm or self.client()
        waiting = [folder.name for folder in folders]
        assert len(waiting) >= 3

        def some() -> bool:
            begun = warm.start(waiting + ["none.1"] * 2)  # so that the last one is worth it too
            waiting[:] = [name for name in waiting if name not in begun]
            return not waiting

        self.far.wait(some)
        (pid,) = self.servers()
        return pid

    def servers(self) -> list[int]:
        return [
            one.pid
            for one in self.started
            if "warm" in one.args and one.poll() is None  # type: ignore[operator]
        ]


@pytest.fixture
def launches(far) -> Iterator[Launches]:
    made = Launches(far)
    yield made
    for one in made.started:
        one.kill()
        one.wait()


@contextlib.contextmanager
def awake(launches: Launches) -> Iterator[None]:
    """Let the warm process not be idle, however slow this machine is."""
    path = place.path(launches.root, place.name(launches.root, launches.env()))
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
                caller.connect(path)
                caller.send(b"none.1")
                caller.recv(64)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def sleepers(far, count: int) -> list[Path]:
    return [far.publish(far.shell("sleep 600"), fence=_OFF) for _ in range(count)]


def counters(far, tmp_path: Path, count: int) -> tuple[list[Path], Path]:
    """Publish workers each of which leaves a line in a file of its own."""
    counts = tmp_path / "counts"
    counts.mkdir(exist_ok=True)
    script = f'echo ran >>"{counts}/$OUTPOST_WORKER"'
    return [far.publish(far.shell(script), fence=_OFF) for _ in range(count)], counts


def ran_once(far, folders: Sequence[Path], counts: Path) -> None:
    for folder in folders:
        far.wait(lambda folder=folder: far.status(folder).state.terminal)
        assert far.status(folder).state is State.DONE
        assert (counts / folder.name).read_text() == "ran\n"


def supervisor(far, folder: Path) -> int:
    pid = far.wait(lambda: (claim.holder(str(folder)) or (0,))[0])
    far.working(folder)
    return int(pid)


def about(pid: int) -> dict[str, object]:
    """Return what a process has from its parent, and what others see of it."""
    at = Path(f"/proc/{pid}")
    lines = dict(line.split(":", 1) for line in (at / "status").read_text().splitlines())
    fields = (at / "stat").read_text().rpartition(")")[2].split()
    limits = [
        line for line in (at / "limits").read_text().splitlines() if "file locks" not in line
    ]  # which is the worker's mark
    opened = [Path(os.readlink(fd)).name.partition(":")[0] for fd in (at / "fd").iterdir()]
    return {
        **{name: lines[name].split() for name in _INHERITED},
        "command line": (at / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")[:-1],
        "environment": sorted((at / "environ").read_bytes().split(b"\0")),
        "program": os.readlink(at / "exe"),
        "folder": Path(os.readlink(at / "cwd")).name,
        "open": sorted(opened),
        "leads its session": int(fields[3]) == int(fields[2]) == pid,
        "terminal": fields[4],
        "nice": fields[16],
        "limits": limits,
        "namespaces": [os.readlink(one) for one in sorted((at / "ns").iterdir())],
        "badness": (at / "oom_score_adj").read_text(),
    }


def test_a_forked_supervisor_is_what_a_fresh_one_is(far, launches) -> None:
    folders = sleepers(far, 5)
    launches.plainly(folders[:1], LC_ALL="C.UTF-8")
    warm = launches.client(LC_ALL="C.UTF-8")
    parent = launches.warmly(folders[1:], warm)
    fresh, *forked = [supervisor(far, folder) for folder in folders]
    expected = about(fresh)
    for folder, pid in zip(folders[1:], forked, strict=True):
        known = process.look(pid)
        assert known is not None
        assert known.parent == parent
        found = about(pid)
        for what, value in expected.items():
            assert found[what] == value, what
        assert process.runs(pid, "run", str(folder))
        assert claim.holder(str(folder)) == (pid, known.start)
        assert claim.Supervisors().all(str(folder)) == [(pid, known.start)]
    for folder in folders:
        far.start(folder, verb="stop").wait()
    for folder in folders:
        far.wait(lambda folder=folder: far.status(folder).state is State.STOPPED)


def test_a_few_are_started_plainly_and_nothing_waits_for_it(far, launches) -> None:
    warm = launches.client()
    assert warm.start(["t-1.1"]) == set()
    assert warm.start(["t-2.1"]) == set()
    assert not launches.started
    begun = time.monotonic()
    assert warm.start(["t-3.1"]) == set()  # several within seconds: the next ones may have it
    assert time.monotonic() - begun < 5
    assert len(launches.started) == 1


@pytest.mark.parametrize("fault", faults.WARM)
def test_killed_anywhere_it_has_nothing_run_twice_or_not_at_all(
    far, launches, tmp_path, fault
) -> None:
    folders, counts = counters(far, tmp_path, 6)
    warm = launches.client(OUTPOST_FAULT=fault)
    end = time.monotonic() + 60
    while not [one for one in launches.started if one.poll() is not None]:
        assert warm.start([folder.name for folder in folders]) == set()
        assert time.monotonic() < end
    assert launches.started[0].returncode == -signal.SIGKILL
    launches.plainly(folders, OUTPOST_FAULT=fault)
    ran_once(far, folders, counts)
    assert not launches.servers()


def test_one_that_hangs_is_left_alone_and_does_no_harm_when_it_wakes(
    far, launches, tmp_path, monkeypatch
) -> None:
    warm = launches.client()
    first, counts = counters(far, tmp_path, 3)
    pid = launches.warmly(first, warm)
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(client, "_PATIENCE", 0.3)
    more, _ = counters(far, tmp_path, 4)
    names = [folder.name for folder in more]
    assert warm.start(names) == set()
    begun = time.monotonic()
    assert warm.start(names) == set()
    assert time.monotonic() - begun < 0.2
    launches.plainly(more)
    ran_once(far, more, counts)
    os.kill(pid, signal.SIGCONT)
    far.wait(lambda: not launches.servers())  # it has read what it was asked, and ended idle
    ran_once(far, [*first, *more], counts)


def test_it_ends_when_nobody_asks_and_its_workers_keep_running(far, launches) -> None:
    folders = sleepers(far, 3)
    pid = launches.warmly(folders)
    supervisors = [supervisor(far, folder) for folder in folders]
    far.gone(pid)
    assert launches.started[0].wait() == 0
    assert not [name for name in os.listdir(far.root / "tmux") if place.is_name(name)]
    assert [supervisor(far, folder) for folder in folders] == supervisors
    again = sleepers(far, 3)
    assert launches.warmly(again) != pid
    for folder in (*folders, *again):
        far.start(folder, verb="stop").wait()
        far.wait(lambda folder=folder: far.status(folder).state is State.STOPPED)


def test_a_hundred_at_once_leave_it_as_it_was(far, launches, tmp_path) -> None:
    """Many callers at once; no descriptor, no dead child and no memory stays."""
    first, counts = counters(far, tmp_path, 3)
    pid = launches.warmly(first)

    def held() -> int:
        # /dev/null three times, the lock, and where it listens
        far.wait(lambda: len(os.listdir(f"/proc/{pid}/fd")) == 5)
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (size,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        return size

    sizes = [held()]
    for _ in range(2):
        with awake(launches):
            folders, _ = counters(far, tmp_path, 100)
            threads = []
            for start in range(0, 100, 20):
                some = folders[start : start + 20]
                threads.append(threading.Thread(target=launches.warmly, args=(some,)))
                threads[-1].start()
            for thread in threads:
                thread.join()
            ran_once(far, folders, counts)
            assert launches.servers() == [pid]
            dead = [one for one in Path("/proc").iterdir() if _is_dead_child(one, pid)]
            assert not dead
            sizes.append(held())
    assert sizes[-1] - sizes[1] < 1024, sizes  # kB


def _is_dead_child(entry: Path, parent: int) -> bool:
    if not entry.name.isdigit():
        return False
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] == "Z" and int(fields[1]) == parent


def test_it_starts_nothing_but_published_workers_of_its_own_root(far, launches, tmp_path) -> None:
    folders, counts = counters(far, tmp_path, 3)
    (outside,) = counters(far, tmp_path, 1)[0]
    shutil.copytree(outside, far.root / "outside")
    path = place.path(launches.root, place.name(launches.root, launches.env()))
    asked = [
        b"../outside", str(outside).encode(), b"../workers/" + outside.name.encode(), b".", b"..",
        b"", b"\n\n", b"x" * 200, b"no-such.1", b"\xff\0\xfe", b"a/b",
        b"run " + outside.name.encode(),
        b"\n".join([b"none.1"] * 2000), b"{" * (server.PACKET * 2),
    ]  # fmt: skip
    launches.warmly(folders)
    with awake(launches):
        ran_once(far, folders, counts)
        for packet in asked:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
                caller.settimeout(30)
                caller.connect(path)
                caller.send(packet)
                assert caller.recv(4096).strip() == b"", packet
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(20)]
    for caller in silent:  # who says nothing holds nobody up
        caller.connect(path)
    more, _ = counters(far, tmp_path, 3)
    launches.warmly(more)
    ran_once(far, more, counts)
    for caller in silent:
        caller.close()
    assert far.status(outside).started_at is None
    assert not (counts / outside.name).exists()


def test_one_of_another_version_is_never_asked(far, launches, tmp_path) -> None:
    boot = farcode.install(tmp_path / "site")
    code = "import sys; sys.path.append(sys.argv[1]); from outpost_worker.warm import place;"
    code += "print(place.name(sys.argv[2], {}))"
    argv = [sys.executable, "-I", "-S", "-c", code, str(boot.parent.parent), launches.root]

    def name() -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    before = name()
    assert before == name()
    assert place.is_name(before)
    file = boot.parent / "run" / "supervise.py"
    file.write_text(file.read_text() + "\n")  # an upgrade in its place
    after = name()
    assert before[1:9] != after[1:9]
    assert before[9:] == after[9:]
    far.root.mkdir(exist_ok=True)
    for asked in (before, "w", after[:-1], f"x{after[1:]}"):
        words = [sys.executable, "-I", "-S", str(boot), "warm", launches.root, asked, "x" * 200]
        assert subprocess.run(words, timeout=60, check=False).returncode == 2
    assert not (far.root / "tmux").exists()


@pytest.mark.parametrize(
    "around", ["umask 027;", "ulimit -n 200;", "ulimit -c 0; ulimit -t 3600;", "exec nice -n 5"]
)
def test_it_stands_for_its_own_surroundings_only(launches, around) -> None:
    code = "import sys; sys.path += sys.argv[2:]; from outpost_worker.warm import place;"
    code += "print(place.name(sys.argv[1], {}))"
    words = [sys.executable, "-I", "-S", "-c", code, launches.root, *farcode.ROOTS]

    def name(before: str) -> str:
        argv = ["/bin/sh", "-c", f'{before} "$@"', "sh", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    assert name("") == name("")
    assert name(around) != name("")
    mine = place.name(launches.root, {})
    assert mine == place.name(launches.root, {})
    assert mine != place.name(launches.root, {"PATH": "/bin"})
    assert mine != place.name(f"{launches.root}2", {})


@pytest.mark.parametrize("kind", ["file", "link"])
def test_without_a_private_place_everything_is_started_plainly(
    far, launches, tmp_path, kind
) -> None:
    folders, counts = counters(far, tmp_path, 4)
    if kind == "file":
        (far.root / "tmux").write_text("")
    else:
        (tmp_path / "elsewhere").mkdir()
        (far.root / "tmux").symlink_to(tmp_path / "elsewhere")
    warm = launches.client()
    assert warm.start([folder.name for folder in folders]) == set()
    far.wait(lambda: launches.started[0].poll() is not None)
    assert launches.started[0].returncode == 2
    assert warm.start([folder.name for folder in folders]) == set()
    launches.plainly(folders)
    ran_once(far, folders, counts)


def test_what_a_killed_one_left_is_removed_by_the_next(far, launches, tmp_path) -> None:
    folders, counts = counters(far, tmp_path, 3)
    pid = launches.warmly(folders, launches.client(LC_ALL="C"))
    os.kill(pid, signal.SIGKILL)
    far.wait(lambda: not launches.servers())
    (left,) = [name for name in os.listdir(far.root / "tmux") if place.is_name(name)]
    more, _ = counters(far, tmp_path, 3)
    launches.warmly(more)
    (now,) = [name for name in os.listdir(far.root / "tmux") if place.is_name(name)]
    assert now != left
    ran_once(far, [*folders, *more], counts)


def test_a_folder_that_its_command_line_has_no_room_for_is_left_to_others(launches) -> None:
    code = "import sys; sys.path += sys.argv[2:]\n"
    code += "from outpost_worker.warm.commandline import CommandLine\n"
    code += "line = CommandLine(); room = len(b'\\0'.join(line.words)) + 1\n"
    code += "assert line.fits([b'x' * (room - 1)]) and not line.fits([b'x' * room])\n"
    code += "line.show([b'python', b'run', b'here']); print(open('/proc/self/cmdline').read())\n"
    code += "try:\n    line.show([b'x' * room])\nexcept OSError:\n    print('no room')\n"
    words = [sys.executable, "-I", "-S", "-c", code, launches.root, *farcode.ROOTS]
    done = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    shown, said = done.splitlines()
    assert shown.rstrip("\0").split("\0") == ["python", "run", "here"]
    assert said == "no room"


LAUNCH = """
import os, sys, time
code, root, *workers = sys.argv[1:]
sys.path.append(code)
from outpost_worker.warm import client
def spawn(argv, env):
    null = os.open("/dev/null", os.O_RDWR)
    os.posix_spawn(argv[0], argv, env, setsid=True, file_actions=[
        (os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)])
warm = client.Warm(root, spawn)
end = time.monotonic() + 30
while workers and time.monotonic() < end:
    begun = warm.start(workers + ["none.1"] * 2, dict(os.environ))
    workers = [worker for worker in workers if worker not in begun]
print(*workers)
"""


def launch(yard: Yard, folders: Sequence[Path]) -> None:
    """Have the supervisors of these workers forked, as the user to whom they belong."""
    words = [*yard.argv, yard.python, "-I", "-S", "-c", LAUNCH, str(yard.boot.parent.parent)]
    words += [str(yard.root), *(folder.name for folder in folders)]
    done = subprocess.run(
        words, env=yard.env, capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def said(yard: Yard, folder: Path) -> str:
    """Return what an agent has printed, once its worker has ended."""
    wait((folder / "result.json").exists, 60)
    return (folder / "output.log").read_text()


def ended(yard: Yard) -> None:
    wait(lambda: not [one for one in process.everyone() if _serves(one, yard.root)], 60)


def test_behind_a_fence_nobody_reaches_it_whoever_it_belongs_to(open_path: Path, uid: int) -> None:
    yard = Yard(open_path, uid, "namespace")
    look = f"ls -A {yard.root}/tmux && echo reached; ls {yard.root}; sleep 0.5; echo done"
    folders = [yard.publish(look) for _ in range(3)]
    launch(yard, folders)
    for folder in folders:
        told = said(yard, folder)
        assert "done" in told
        assert "reached" not in told
        assert "sealed" not in told
    ended(yard)


def test_what_becomes_worth_hiding_is_hidden_from_the_next_agents(
    open_path: Path, uid: int
) -> None:
    """What fences have in common is found once for many, as long as nothing has changed."""
    yard = Yard(open_path, uid, "namespace")
    look = "cat ~/.pgpass ~/.ssh/new ~/.aws/credentials; echo x >~/.claude/mcp.json; echo done"
    for place_of_it in (None, ".pgpass", ".ssh/new", ".claude/mcp.json"):
        if place_of_it:
            path = yard.home / place_of_it
            path.write_text("of the user\n")
            os.chown(path, uid, uid)
        folders = [yard.publish(look) for _ in range(3)]
        launch(yard, folders)
        for folder in folders:
            told = said(yard, folder)
            assert "done" in told
            assert "of the user" not in told
    assert (yard.home / ".claude/mcp.json").read_text() == "of the user\n"
    ended(yard)


def _serves(pid: int, root: Path) -> bool:
    words = process.read(pid, "cmdline").split(b"\0")
    return b"warm" in words and os.fsencode(root) in words
