"""Records on the rig: each cell is a ref, `refs/outpost/<owner>/records/<worker>`.

Whatever hosts a git repository moves a ref only from the value that the pusher has named, under a
lock of its own (gitprotocol-pack, "Reference Update Request"), so a push is an exchange. A value is
a commit without a tree and without a parent, since some hosts take nothing but commits; what it
says is in its message. A push that was answered counts once the ref was seen with the commit.

What others put there is fetched with bounds for its size and for git's memory, and is never run
or checked out.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from signal import SIGXFSZ
from typing import Final

from outpost_core.errors import UnreachableError
from outpost_core.names import REFS, check_rig, redact
from outpost_shared import faults, private
from outpost_shared.backoff import Backoff
from outpost_worker.folder import files
from outpost_worker.record.cells import MOST, Cell, MovedError
from outpost_worker.record.kinds import RecordRefusedError
from outpost_worker.repository import credentials as logins
from outpost_worker.repository import store
from outpost_worker.repository.git import MISSING, NETWORK_TIMEOUT, Done, Git, write
from outpost_worker.repository.mirror import asking

#: Seconds that one question or push may take.
_TIMEOUT: Final = min(60.0, NETWORK_TIMEOUT)
#: Seconds for which a rig that does not answer is asked again.
_PATIENCE: Final = 90.0
#: Bytes that a git which fetches may write in one file, and have in memory.
_MOST_FILE: Final = 4 << 20
_MOST_MEMORY: Final = 1 << 30
#: Values that are remembered, so that they need not be fetched again.
_REMEMBERED: Final = 64
_AUTHOR: Final = "outpost <outpost@localhost> 0 +0000"
_EMPTY_TREE: Final = {
    40: "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    64: "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}
#: First line of the message of each commit here.
SUBJECT: Final = "Record of a worker, written by Outpost"
#: What git says where a rig has hashes of the other kind.
_OTHER_HASHES: Final = ("mismatched algorithms", "hash algorithm")
#: What git says where one of its processes has reached a bound of ours.
_BOUNDS: Final = (f"died of signal {int(SIGXFSZ)}", "File too large", "ut of memory")
#: What a host says to one of several pushes at the same moment.
_BUSY: Final = (".lock': File exists", "cannot lock ref", "failed to lock", "stale info")


class RigCells:
    """Cells on a rig.

    Args:
        rig: where the worker's work is pushed to: the rig, or a fork of it.
        root: a state folder, private; scratch repositories are below it.
        credentials: as for `Git`.

    Raises:
        UsageError: the rig cannot be one.
    """

    def __init__(self, rig: str, root: str, credentials: str = "") -> None:
        self._rig = check_rig(rig)
        self._staging = os.path.join(root, files.STAGING)
        self._credentials = credentials
        self._asking = asking(rig, credentials)
        self._length = 40
        self._lock = threading.Lock()
        self._known: dict[str, bytes | None] = {}  # version → its data

    # --- cells -------------------------------------------------------------------------------

    def look(self, names: Sequence[str]) -> dict[str, Cell]:
        """Return what is in those cells that are not empty; see `Cells`."""
        pauses = Backoff(0.2, 5.0, jitter=0.5, within=_PATIENCE)
        for _ in pauses.tries():
            there = self._values(names, pauses)
            known = self._remembered()
            missing = {name: value for name, value in there.items() if value not in known}
            if missing:
                self._fetch(missing, pauses)
                known |= self._remembered()
            if all(value in known for value in there.values()):
                return {n: Cell(version=value, data=known[value]) for n, value in there.items()}
        raise self._unreachable("it did not show what stands in its refs")

    def swap(self, name: str, before: str, data: bytes) -> str:
        """Put a value into a cell; see `Cells`."""
        pauses = Backoff(0.2, 5.0, jitter=0.5, within=_PATIENCE)
        done = None
        for _ in pauses.tries():
            with self._scratch() as git:
                value = put_commit(git.git_dir, SUBJECT, data, self._length)
                done = self._push(git, name, before, value)
            if _has_other_hashes(done) and self._length == 40:
                self._length = 64
                continue
            faults.point("record.pushed")
            there = self._value(name)
            if there == value:
                self._remember(value, data)
                return value
            if there is not None and there != before:
                raise MovedError(name)
            if there is not None and _is_refused(done):
                raise self._refused(name, done)
        assert done is not None
        if done.code == 0:
            raise self._unreachable(f"it answered the push of {REFS}{name}, but does not show it")
        raise self._unreachable(self._asking.words(done))

    def drop(self, name: str, before: str) -> None:
        """Empty a cell; see `Cells`."""
        pauses = Backoff(0.2, 5.0, jitter=0.5, within=_PATIENCE)
        done = None
        for _ in pauses.tries():
            with self._scratch() as git:
                done = self._push(git, name, before, "")
            there = self._value(name)
            if there == "":
                return
            if there is not None and there != before:
                raise MovedError(name)
            if there is not None and _is_refused(done):
                raise self._refused(name, done)
        assert done is not None
        raise self._unreachable(self._asking.words(done))

    def where(self, name: str) -> tuple[str, str]:
        """Return what a cell is called, and the command that removes it; see `Cells`."""
        rig = redact(self._rig)
        return f"{REFS}{name} on {rig}", f"git push {rig} :{REFS}{name}"

    # --- how ---------------------------------------------------------------------------------

    def _push(self, git: Git, name: str, before: str, value: str) -> Done:
        ref = REFS + name
        return git.run(
            *("push", "--porcelain", "--no-recurse-submodules"),
            *(f"--force-with-lease={ref}:{before}", "--", git.url, f"{value}:{ref}"),
            timeout=_TIMEOUT,
        )

    def _value(self, name: str) -> str | None:
        """Return what a ref is at after a push; None when nobody can say yet.

        Raises:
            RecordRefusedError: the rig lets nobody in, or is none.
        """
        asked = self._ask([name])
        if asked.code and not asked.transient:
            raise self._refused(name, asked)
        return None if asked.code else self._read(asked).get(name, "")

    def _values(self, names: Sequence[str], pauses: Backoff) -> dict[str, str]:
        """Return what refs are at.

        Raises:
            UnreachableError: the rig cannot be asked.
        """
        while True:
            last = pauses.over
            asked = self._ask(names)
            if not asked.code:
                return self._read(asked)
            if last or not asked.transient:
                raise self._unreachable(self._asking.words(asked))
            pauses.sleep()

    def _ask(self, names: Sequence[str]) -> Done:
        refs = [REFS + name for name in names]
        return self._asking.run("ls-remote", "--", self._asking.url, *refs, timeout=_TIMEOUT)

    def _read(self, asked: Done) -> dict[str, str]:
        told = {}
        for line in asked.text.splitlines():
            value, _, ref = line.partition("\t")
            if store.is_hash(value) and ref.startswith(REFS):
                told[ref[len(REFS) :]] = value
                self._length = len(value)
        return told

    def _fetch(self, wanted: dict[str, str], pauses: Backoff) -> None:
        """Fetch commits by the refs that show them, and remember what they say.

        A ref may be at another value by now; then that one is remembered.
        """
        refspecs = [f"+{REFS}{name}:refs/got/{number}" for number, name in enumerate(wanted)]
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        with self._scratch() as git:
            done = git.run(
                *("fetch", *quiet, "--depth=1", "--", git.url, *refspecs),
                timeout=_TIMEOUT,
                started=_bound,
            )
            if done.code and done.transient and not _was_bounded(done) and not pauses.over:
                return
            got = git.run("for-each-ref", "--format=%(objectname) %(objecttype) %(objectsize)")
            for line in got.text.splitlines():
                value, kind, size = line.split(" ")
                data = None
                if kind == "commit" and int(size) <= MOST:
                    data = _message(git.run("cat-file", "commit", value).out)
                self._remember(value, data)
        if done.code and _was_bounded(done):
            for value in set(wanted.values()) - self._remembered().keys():
                self._remember(value, None)

    def _remembered(self) -> dict[str, bytes | None]:
        with self._lock:
            return dict(self._known)

    def _remember(self, value: str, data: bytes | None) -> None:
        with self._lock:
            self._known.pop(value, None)
            self._known[value] = data
            while len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]

    @contextmanager
    def _scratch(self) -> Iterator[Git]:
        """Make a repository for the moment; one of a process that was killed is swept later."""
        private.make(self._staging)
        path = os.path.join(self._staging, f"{os.getpid()}.{os.urandom(8).hex()}")
        os.mkdir(path, 0o700)
        try:
            make_bare(path, self._length)
            yield Git(path, credentials=self._credentials, rig=self._rig)
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def _refused(self, name: str, done: Done) -> RecordRefusedError:
        told = [line for line in os.fsdecode(done.out).splitlines() if line.startswith("!")]
        answer = "".join(f" ({redact(line.rpartition(chr(9))[2])})" for line in told)[:300]
        hint = (
            f"let whoever pushes for workers write {REFS}* there, or have records elsewhere: in a"
            " bucket or on a volume"
        )
        if done.code == MISSING:
            hint = "install git there"
        elif not told:
            hint = logins.hint(done.err) or "check the address, and what git logs in with there"
        words = self._asking.words(done)
        return RecordRefusedError(
            f"{redact(self._rig)} does not take {REFS}{name}{answer}: {words}", hint=hint
        )

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"{redact(self._rig)} cannot be asked who runs a worker, so nothing was started: {why}",
            hint="it is tried again with the next command",
            sent=False,
        )


def make_bare(path: str, length: int) -> None:
    """Make a bare repository of ours in an empty folder.

    Args:
        path: the folder.
        length: hexadecimal digits of its hashes.
    """
    for folder in ("objects", "refs"):
        os.mkdir(os.path.join(path, folder), 0o700)
    write(os.path.join(path, "config"), store.config(sha256=length == 64))
    write(os.path.join(path, "HEAD"), "ref: refs/heads/none\n")


def put_commit(git_dir: str, subject: str, data: bytes, length: int) -> str:
    """Write a commit without tree and parent whose message says something; returns its hash.

    Args:
        git_dir: a repository of ours.
        subject: the first line of the message.
        data: the rest of it, ASCII.
        length: hexadecimal digits of the hashes there.
    """
    tree = _put_object(git_dir, b"tree", b"", length)
    assert tree == _EMPTY_TREE[length]
    head = f"tree {tree}\nauthor {_AUTHOR}\ncommitter {_AUTHOR}\n\n{subject}\n\n"
    return _put_object(git_dir, b"commit", head.encode("ascii") + data + b"\n", length)


def _put_object(git_dir: str, kind: bytes, content: bytes, length: int) -> str:
    whole = b"%s %d\0%s" % (kind, len(content), content)
    made = hashlib.sha256(whole) if length == 64 else hashlib.sha1(whole, usedforsecurity=False)
    value = made.hexdigest()
    folder = os.path.join(git_dir, "objects", value[:2])
    os.makedirs(folder, 0o700, exist_ok=True)
    path = os.path.join(folder, value[2:])
    if not os.path.exists(path):
        staged = f"{path}.{os.urandom(6).hex()}"
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with open(fd, "wb") as file:
            file.write(zlib.compress(whole))
        os.rename(staged, path)
    return value


def _message(commit: bytes) -> bytes:
    """Return what stands below the subject of a commit of ours."""
    return commit.partition(b"\n\n")[2].partition(b"\n\n")[2]


def _bound(pid: int) -> None:
    """Bound what a git that fetches can use: what it fetches was written by anybody."""
    for what, most in (
        (resource.RLIMIT_FSIZE, _MOST_FILE),
        (resource.RLIMIT_DATA, _MOST_MEMORY),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(OSError, ValueError):  # it has ended, or its bound is lower
            resource.prlimit(pid, what, (most, most))


def _was_bounded(done: Done) -> bool:
    """Whether a fetch failed for what it was to bring, not for the way."""
    return any(mark in done.err for mark in _BOUNDS)


def _has_other_hashes(done: Done) -> bool:
    return done.code != 0 and any(mark in done.err for mark in _OTHER_HASHES)


def _is_refused(done: Done) -> bool:
    """Whether a push was refused for good, and not since another one pushes at the same moment."""
    if done.code == 0 or any(mark in done.err + os.fsdecode(done.out) for mark in _BUSY):
        return False
    return not done.transient
