"""Whatever an agent puts into its worker's folder: one worker is broken at most.

Every case changes one entry of one folder, then asks everything that is asked of workers. It has
to answer soon, with an answer or with an error of ours; the other workers stay as they are, no
file outside of the folder is touched, and no process but the worker's is signalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from fuzzkit import many
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from outpost_core import wire
from outpost_core.errors import NotFoundError, OutpostError
from outpost_core.types import State, WorkerStatus
from outpost_worker.folder import files, logs, outcome, seal, status
from outpost_worker.recovery import cleaning, recover
from outpost_worker.repository import bundles
from outpost_worker.run import stop

#: Seconds that all questions about one broken worker may take, on a busy machine.
BOUND = 20.0
NAMES = (
    files.ORDER, files.LAUNCH, files.SECRETS, files.CREDENTIALS, files.PROMPT, files.LOCK,
    files.CLAIM, files.STATE, files.WORKSPACE, files.AGENT, files.STOP, files.INPUT, files.LOG,
    files.SCREEN, files.RESULT, files.RESULT_ROOM, files.DEBUG, files.WORK, files.EXCHANGE,
    bundles.NAME, "checkpoint", "checkpoint-ref.json", "aside.json", "unfiltered.json",
    "checkout-dirt", "no-terminal", "",
)  # fmt: skip
OFF = {"mode": "off"}  # what a fence would keep from happening, happens here
LIMITS = {"log_bytes": 1 << 20}
JSON = tuple(name for name in NAMES if name.endswith(".json"))

odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from([
        -1, 1e300, float("nan"), float("inf"), -1e9, 1 << 70, "-x", "../..", "\x1b]0;x\a",
        "x" * 9999, "done", "bogus", "refs/heads/..", "javascript:x", "/etc/passwd",
        [], {}, [[]], {"": {}},
    ]),
)  # fmt: skip
#: What is no plain file, or a strange one, by name; see the end of `damage`.
KINDS: dict[str, Any] = {}
NAMED = (
    "fifo", "link to a file", "link to a folder", "link to itself", "link to a device", "folder",
    "full folder", "socket", "sparse", "closed", "gone", "second name", "nested", "huge",
)  # fmt: skip
CHANGES = st.one_of(
    st.tuples(st.just("bytes"), st.binary(max_size=200)),
    st.tuples(st.just("json"), odd),
    st.tuples(st.just("keys"), st.dictionaries(st.text(max_size=5), odd, max_size=3)),
    st.tuples(st.just("value"), st.tuples(st.integers(0, 40), odd)),
    st.tuples(st.sampled_from(NAMED), st.none()),
)


class Place:
    """A root with workers of every kind, and what must stay as it is."""

    def __init__(self, far: Any, tmp_path: Path, *, sealed: bool) -> None:
        self.root = far.root
        self.outside = tmp_path / "outside"
        (self.outside / "folder").mkdir(parents=True)
        for name in ("precious", "folder/precious"):
            (self.outside / name).write_text("precious")
        self.live = far.publish(far.order("sleep", "1000", limits=LIMITS), fence=OFF)
        far.start(self.live)
        far.working(self.live)
        self.ended, _ = far.run(far.shell("echo hello", limits=LIMITS))
        self.waiting = far.publish(far.order("/bin/true", limits=LIMITS))
        self.dead = far.publish(far.order("sleep", "1000", limits=LIMITS), fence=OFF)
        running = far.start(self.dead)
        far.working(self.dead)
        far.kill(running)
        recover.sweep(str(self.dead))
        beside, _ = far.run(far.shell("exit 3"))
        self.others = {beside.name}
        if not sealed:
            far.unseal()
        self.kept = tmp_path / "kept"
        for folder in (self.live, self.ended, self.waiting, self.dead):
            shutil.copytree(folder, self.kept / folder.name)
        self.sealed = tmp_path / "sealed"
        if sealed:
            shutil.copytree(self.root / seal.SEALED, self.sealed)
        self.bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        self.before = self.told()
        self.files = self.around()

    def told(self) -> dict[str, WorkerStatus]:
        return {found.id: found for found in status.scan(self.root, {})}

    def around(self) -> list[tuple[str, int, int, str]]:
        found = []
        for path in sorted(self.outside.rglob("*")):
            about = path.lstat()
            text = path.read_text() if path.is_file() else ""
            found.append((str(path), about.st_mode, about.st_mtime_ns, text))
        return found

    def restore(self, folder: Path) -> None:
        """Make a folder what it was, whatever is there now."""
        if folder.is_symlink() or not folder.is_dir():
            folder.unlink(missing_ok=True)
            folder.mkdir(mode=0o700)
        for entry in os.scandir(folder):
            if entry.name == files.LOCK and entry.is_file(follow_symlinks=False):
                continue  # a living supervisor holds it
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        shutil.copytree(self.kept / folder.name, folder, dirs_exist_ok=True)
        if self.sealed.exists():
            shutil.copytree(self.sealed, self.root / seal.SEALED, dirs_exist_ok=True)
        for name in ("trash", "staging"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir(mode=0o700)

    def close(self) -> None:
        self.bystander.kill()
        self.bystander.wait()


@pytest.fixture(params=["sealed", "of a version without seals"])
def place(request, far, tmp_path):
    made = Place(far, tmp_path, sealed=request.param == "sealed")
    yield made
    made.restore(made.live)
    made.close()


def damage(place: Place, folder: Path, name: str, how: str, what: Any) -> None:
    """Put something into a worker's folder under a name, or in the place of the folder itself."""
    path = folder / name if name else folder
    before = b""
    with contextlib.suppress(OSError):
        before = path.read_bytes()
    if not name:
        os.rename(folder, place.root / "trash" / "away")
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if how in KINDS:
        KINDS[how](place, path, before)
    elif how == "bytes":
        path.write_bytes(what)
    else:
        path.write_text(json.dumps(what if how == "json" else changed(place, before, how, what)))


def changed(place: Place, before: bytes, how: str, what: Any) -> dict[str, Any]:
    """Return a JSON object with other keys, or another value of one."""
    try:
        value = json.loads(before)
        assert isinstance(value, dict)
    except (ValueError, AssertionError):
        precious = str(place.outside / "precious")
        value = {"state": "done", "pid": place.bystander.pid, "path": precious}
    if how == "keys":
        value.update(what)
    else:
        value[sorted(value)[what[0] % len(value)]] = what[1]
    return value


def _make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has little room
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name[:90])
    os.chdir(here)


def _fill(place: Place, path: Path) -> None:
    (path / "a/b").mkdir(parents=True)
    (path / "a/c").symlink_to(place.outside / "folder")


def _make_sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def _close(path: Path, before: bytes) -> None:
    path.write_bytes(before)
    path.chmod(0)


KINDS.update({
    "fifo": lambda place, path, before: os.mkfifo(path),
    "link to a file": lambda place, path, before: path.symlink_to(place.outside / "precious"),
    "link to a folder": lambda place, path, before: path.symlink_to(place.outside / "folder"),
    "link to itself": lambda place, path, before: path.symlink_to(path),
    "link to a device": lambda place, path, before: path.symlink_to("/dev/zero"),
    "folder": lambda place, path, before: path.mkdir(),
    "full folder": lambda place, path, before: _fill(place, path),
    "socket": lambda place, path, before: _make_socket(path),
    "sparse": lambda place, path, before: _make_sparse(path),
    "closed": lambda place, path, before: _close(path, before),
    "gone": lambda place, path, before: None,
    "second name": lambda place, path, before: os.link(place.outside / "precious", path),
    "nested": lambda place, path, before: path.write_bytes(b'{"a":' + b"[" * 200_000),
    "huge": lambda place, path, before: path.write_bytes(b'{"a": "' + b"x" * (9 << 20) + b'"}'),
})  # fmt: skip


async def _log(folder: Path) -> int:
    return sum([len(data) async for data in logs.follow(folder, 0, False)])


def ask(place: Place, folder: Path) -> WorkerStatus | None:
    """Ask what is asked of workers all the time; return what the list says of this one."""
    told = place.told()
    for worker in place.before:
        if worker != folder.name:
            assert told[worker] == place.before[worker]
    try:
        found = status.read(folder)
    except NotFoundError:
        assert folder.name not in told
        return None
    assert (found.state, found.detail) == (told[folder.name].state, told[folder.name].detail)
    json.dumps(wire.to_json(found), allow_nan=False)
    with contextlib.suppress(OutpostError):
        assert asyncio.run(_log(folder)) < 1 << 23
    return found


@pytest.mark.apart
@pytest.mark.slow(30)
@settings(
    max_examples=many(20),
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    name=st.one_of(st.sampled_from(NAMES), st.sampled_from(JSON)),
    how=CHANGES,
    which=st.sampled_from(["live", "ended", "waiting", "dead"]),
)
def test_whatever_lies_in_a_folder(place, name, how, which):
    folder = getattr(place, which)
    began = time.monotonic()
    damage(place, folder, name, *how)
    try:
        found = ask(place, folder)
        if which == "live":
            # what lives is never told to have ended, whatever its files say
            assert found is None or found.state in (State.WORKING, State.STARTING, State.IDLE)
            assert found is not None or name == ""
        else:
            finish(place, folder, which)
        assert place.bystander.poll() is None
        assert time.monotonic() - began < BOUND
        assert place.around() == place.files
    finally:
        if time.monotonic() - began > 1:
            print("SLOW", name, how[0], which, time.monotonic() - began)
        place.restore(folder)


def finish(place: Place, folder: Path, which: str) -> None:
    """Stop it, recover it, remove it: as the outpost would."""
    with contextlib.suppress(OutpostError):
        stop.request(folder, 0)
    if which == "dead":
        with contextlib.suppress(OutpostError):
            ended = recover.recover(folder)
            assert ended.state.terminal
            assert status.read(folder).result == ended
    ask(place, folder)
    for force in (False, True):
        with contextlib.suppress(OutpostError):
            cleaning.clean(place.root, folder, force=force)


def test_the_fuzz_knows_every_file(far, tmp_path):
    """A name that is missing in the list above would not be tried."""
    folder, _ = far.run(far.shell("echo hello", limits=LIMITS))
    assert set(os.listdir(folder)) <= set(NAMES)
    assert {outcome.result("done", "ok")["state"]} == {"done"}
