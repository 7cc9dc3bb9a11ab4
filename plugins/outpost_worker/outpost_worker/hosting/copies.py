"""One repository of another machine, as a bare copy on this one: workers start from it and push
to it.

`<root>/hosted/<key>.git` shows the other machine's branches and tags as they were when it last
sent them, and besides them what workers here have delivered and is not home yet. Which value of a
ref came from where is written in its `outpost-known` file: only what is known to be the other
machine's is ever moved or removed, so that no delivery gets lost. Objects are never pruned.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from outpost_core.errors import SpawnRefusedError, UsageError, WorkerError
from outpost_shared import faults, private
from outpost_shared.backoff import every
from outpost_shared.programs import git_env
from outpost_worker.folder import files, guarded
from outpost_worker.hosting.sentrefs import LONGEST_HEAD, OWN, SentRefs, check_oid
from outpost_worker.repository import hosted, store
from outpost_worker.repository.git import Git, write
from outpost_worker.repository.hosted import HOSTED, KNOWN

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,39}-[0-9a-f]{32}", re.ASCII)
_SETTINGS = (
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "gc.auto=0",
    "-c",
    "core.commitGraph=false",
    "-c",
    "core.multiPackIndex=false",
)
#: Seconds after which a lock file of git is of a process that is gone.
_OLD_LOCK = 600.0
#: From so many changed refs on they are packed; from so many packs on those are joined.
_MANY = 500
_MANY_PACKS = 60
_RETRIES = 5
#: Seconds after which who holds the lock is none of ours.
_PATIENCE = 1800.0


class MissingError(WorkerError):
    """What was sent builds on objects that are not here."""


class Hosted:
    """A copy; it may not exist yet.

    Args:
        root: the state root.
        key: its name, see `key_of`.

    Raises:
        UsageError: that cannot be a name.
    """

    def __init__(self, root: Path, key: object) -> None:
        if not isinstance(key, str) or not _KEY.fullmatch(key) or ".." in key:
            raise UsageError(f"{ascii(key)[:80]} cannot be the name of a hosted repository")
        self.key = key
        self.path = root.absolute() / HOSTED / f"{key}.git"
        self._git = Git(str(self.path))

    @property
    def exists(self) -> bool:
        """Whether it was made, and is a folder of ours."""
        return hosted.is_there(str(self.path))

    @property
    def digest(self) -> str:
        """What it was last made equal to; "" when that is not certain."""
        return self._known_text().partition("\n")[0]

    def follows(self, digest: str) -> bool:
        """Whether the copy is equal to what its owner has; then it is in use from now on."""
        if not self.exists:
            return False
        with self.lock():  # against its removal
            same = self.digest == digest
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path / KNOWN, follow_symlinks=False)
            return same

    @property
    def used(self) -> float:
        """When its owner last asked for it; now when there is none."""
        for path in (self.path / KNOWN, self.path):
            with contextlib.suppress(FileNotFoundError):
                return path.lstat().st_mtime
        return time.time()

    def unsent(self) -> dict[str, str]:
        """Return the refs with work that is not known to be on the other machine."""
        known = self._known()
        return {name: at for name, at in self.refs().items() if at not in known.get(name, ())}

    def tips(self) -> list[str]:
        """Return objects that are here with all that they need."""
        return sorted(set(self.refs().values()))

    def refs(self) -> dict[str, str]:
        """Return every ref with its object."""
        self.restore()
        if not self.exists:
            return {}
        form = "--format=%(objectname) %(refname)"
        told = self._git.must("for-each-ref", form, doing="read it", reason="internal").text
        pairs = (line.partition(" ") for line in told.splitlines())
        return {name: value for value, _, name in pairs}

    def shallow(self) -> list[str]:
        """Return the commits whose parents are not here."""
        return store.shallow(str(self.path)).split()

    def restore(self) -> None:
        """Let it have our settings alone: agents of this machine may have changed it.

        Raises:
            SpawnRefusedError: it cannot be.
        """
        try:
            hosted.restore(str(self.path), lambda _: None)
        except OSError as error:
            raise _refused(f"{self.path.name}: {error.strerror or error}") from error

    def _known_text(self) -> str:
        return guarded.text(str(self.path / KNOWN), store.MOST)

    # --- what comes from the other machine ----------------------------------------------------

    def take(self, file: Path) -> None:
        """Become what was sent.

        Args:
            file: a line of JSON (a `SentRefs`), then a pack of what is not here.

        Raises:
            MissingError: it builds on what is not here.
            SpawnRefusedError: it cannot be taken, and why.
            UsageError: that is not what the file holds.
        """
        with os.fdopen(files.open_plain(str(file)), "rb") as stream:
            line = stream.readline(LONGEST_HEAD)
            sent = SentRefs.parse(line)
            with self.lock():
                self._make(sent.format)
                try:
                    os.lseek(stream.fileno(), len(line), os.SEEK_SET)
                    self._index(stream)
                    faults.point("hosted.indexed")
                    self._make_shallow(sent.shallow)
                    self._check(sent)
                    self._apply(sent, hashlib.sha256(line).hexdigest())
                except OSError as error:
                    raise _refused(f"{self.path.name}: {error.strerror or error}") from error
                except WorkerError as error:
                    if isinstance(error, MissingError):
                        raise
                    raise _refused(error.message) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from changing it at the same time (workers push to it all the while)."""
        private.make(str(self.path.parent))
        name = self.path.with_suffix(".lock")
        while True:
            fd = files.open_own(str(name), os.O_RDWR)
            try:
                _wait(fd, name)
                if not _is_file(fd, name):
                    continue  # it went with the copy that it was for
                self.restore()
                self._sweep()
                yield
                return
            finally:
                os.close(fd)

    def unlock_for_good(self) -> None:
        """Remove the lock file of a copy that was removed. The caller holds the lock."""
        self.path.with_suffix(".lock").unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove lock files that a git left which did not live to its end."""
        oldest = time.time() - _OLD_LOCK
        for path in (*self.path.glob("*.lock"), *self.path.glob("refs/**/*.lock")):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < oldest:
                    path.unlink()

    def _make(self, form: str) -> None:
        sha256 = form == "sha256"
        if self.exists:
            if hosted.is_sha256(str(self.path)) != sha256:
                raise _refused(f"{self.path} holds a repository of another object format")
            return
        for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "hooks"):
            private.make(str(self.path / name))
        write(str(self.path / "config"), hosted.config(sha256=sha256))
        write(str(self.path / "HEAD"), "ref: refs/heads/main\n")

    def _index(self, stream: IO[bytes]) -> None:
        """Take the objects of the pack at which the stream stands."""
        head = os.pread(stream.fileno(), 12, os.lseek(stream.fileno(), 0, os.SEEK_CUR))
        if head[8:] in (b"", b"\0\0\0\0"):
            return
        done = self._plumb("index-pack", "--stdin", "--fix-thin", stdin=stream)
        if done.returncode:
            words = os.fsdecode(done.stderr).strip()[-300:]
            if "unresolved delta" in words:
                raise MissingError(words, reason="workspace_failed")
            raise WorkerError(f"could not take the repository: {words}", reason="workspace_failed")
        packs = self.path / "objects" / "pack"
        if sum(1 for _ in packs.iterdir()) > 3 * _MANY_PACKS:
            self._git.run("repack", "--geometric=2", "-d", "-q")

    def _plumb(
        self, *args: str, stdin: IO[bytes] | None = None, text: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git with an open file or a text as its input."""
        import tempfile  # seldom needed

        argv = ["git", *_SETTINGS, *args]
        env = {**git_env(os.environ, remote=False), "GIT_DIR": str(self.path)}
        with contextlib.ExitStack() as stack:
            if stdin is None:
                stdin = stack.enter_context(tempfile.TemporaryFile())
                stdin.write(text)
                stdin.seek(0)
            try:
                return subprocess.run(
                    argv,
                    cwd=self.path,
                    env=env,
                    stdin=stdin,
                    capture_output=True,
                    start_new_session=True,
                    check=False,
                )
            except FileNotFoundError as error:
                raise WorkerError("git is not installed", reason="workspace_failed") from error

    def _make_shallow(self, sent: Sequence[str]) -> None:
        """Let history end where it ends there, and where it has to end here for older commits."""
        path = str(self.path / "shallow")
        old = self.shallow()
        if not old and not sent:
            return
        keep = dict.fromkeys(sent)
        for commit in old:
            if commit not in keep and not self._has_parents(commit):
                keep[commit] = None
        if list(keep) == old:
            return
        if keep:
            write(path, "".join(f"{commit}\n" for commit in keep))
        else:
            files.discard(path)

    def _has_parents(self, commit: str) -> bool:
        text = self._git.run("cat-file", "commit", commit).text.partition("\n\n")[0]
        parents = [line[7:] for line in text.splitlines() if line.startswith("parent ")]
        return all(not self._git.run("cat-file", "-e", parent).code for parent in parents)

    def _check(self, sent: SentRefs) -> None:
        """See that all is here that the sent refs need."""
        if not sent.objects:
            return
        asked = "".join(f"{value}\n" for value in sent.objects).encode()
        argv = ("rev-list", "--quiet", "--objects", "--stdin", "--not", "--all")
        done = self._plumb(*argv, text=asked)
        if done.returncode:
            words = os.fsdecode(done.stderr).strip()[-300:]
            raise MissingError(f"objects are missing: {words}", reason="workspace_failed")

    def _apply(self, sent: SentRefs, digest: str) -> None:
        known = self._known()
        both = {name: {*known.get(name, ()), value} for name, value in sent.refs.items()}
        self._note({**known, **both})
        faults.point("hosted.noted")
        for _ in range(_RETRIES):
            now = self.refs()
            gone = [
                (name, value)
                for name, value in now.items()
                if name.startswith(OWN) and name not in sent.refs and value in known.get(name, ())
            ]
            moved = [
                (name, value, now.get(name, ""))
                for name, value in sent.refs.items()
                if now.get(name) != value and self._is_theirs(now.get(name), value, both[name])
            ]
            if self._move(gone, moved):
                break
        else:  # a name in the way of another (`a` and `a/b`): what can be moved is moved
            for one in gone:
                self._move([one], [])
            for each in moved:
                self._move([], [each])
        if len(moved) > _MANY:
            self._git.run("pack-refs", "--all")
        self._point_head(sent.head)
        faults.point("hosted.applied")
        self._note({name: {value} for name, value in sent.refs.items()}, digest)

    def _is_theirs(self, now: str | None, new: str, known: set[str]) -> bool:
        """Whether a ref may go to its new value: nothing of a worker would be lost by that."""
        if now is None or now in known:
            return True
        return not self._git.run("merge-base", "--is-ancestor", now, new).code

    def _move(self, gone: Iterable[tuple[str, str]], moved: Iterable[tuple[str, str, str]]) -> bool:
        """Move refs from the values that were seen; False when a worker was quicker."""
        deleted = "".join(f"delete {name}\0{value}\0" for name, value in gone)
        # an empty old value says that the ref must not be there
        updated = "".join(
            f"update {name}\0{new}\0{old or '0' * len(new)}\0" for name, new, old in moved
        )
        for text in (deleted, updated):
            if text:
                done = self._plumb(
                    "update-ref", "--no-deref", "-z", "--stdin", text=os.fsencode(text)
                )
                if done.returncode:
                    return False
        return True

    def _point_head(self, head: str) -> None:
        now = guarded.text(str(self.path / "HEAD")).strip()
        if head and head != now:
            if head.startswith("ref: "):
                self._git.run("symbolic-ref", "HEAD", head.removeprefix("ref: "))
            else:
                self._git.run("update-ref", "--no-deref", "HEAD", head)

    # --- what is known to be the other machine's ----------------------------------------------

    def _known(self) -> dict[str, set[str]]:
        known: dict[str, set[str]] = {}
        for line in self._known_text().splitlines()[1:]:
            value, _, name = line.partition(" ")
            if not store.is_hash(value):
                continue  # somebody else has written it
            known.setdefault(name, set()).add(value)
        return known

    def _note(self, known: Mapping[str, Iterable[str]], digest: str = "") -> None:
        lines = [f"{value} {name}\n" for name in known for value in known[name]]
        write(str(self.path / KNOWN), f"{digest}\n{''.join(lines)}")

    def learn(self, came_home: Mapping[str, str]) -> None:
        """Note that values of refs are on the other machine now: those refs follow it again."""
        with self.lock():
            known = self._known()
            for name, value in came_home.items():
                known[name] = {*known.get(name, ()), value}
            self._note(known, self.digest)

    # --- what goes to the other machine -------------------------------------------------------

    def pack(self, wanted: Sequence[str], file: Path, *, whole: bool) -> None:
        """Write a pack with commits and what the other machine lacks for them.

        Args:
            wanted: the commits.
            file: where it goes.
            whole: with all of their history, as if nothing were there.

        Raises:
            UsageError: a commit is no hash.
            WorkerError: it cannot be made.
        """
        self.restore()
        lines = [f"{check_oid(value)}\n" for value in wanted]
        if not whole:
            known = {value for values in self._known().values() for value in values}
            lines += [f"^{value}\n" for value in known]
        argv = ["pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "-q"]
        with file.open("wb") as out:
            env = {**git_env(os.environ, remote=False), "GIT_DIR": str(self.path)}
            done = subprocess.run(
                ["git", *_SETTINGS, *argv],
                cwd=self.path,
                env=env,
                input="".join(lines).encode(),
                stdout=out,
                stderr=subprocess.PIPE,
                start_new_session=True,
                check=False,
            )
        if done.returncode:
            words = os.fsdecode(done.stderr).strip()[-300:]
            raise WorkerError(f"the work cannot be packed: {words}", reason="internal")


def _wait(fd: int, name: Path) -> None:
    """Wait for a lock that nobody of ours holds for longer than `_PATIENCE`."""
    for _ in every(0.01, within=_PATIENCE).tries():
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    raise _refused(f"{name} is held by another process since {_PATIENCE:g} s")


def _is_file(fd: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _refused(why: str) -> SpawnRefusedError:
    return SpawnRefusedError(
        f"the repository cannot be kept there: {why}", hint="see disk and git of that machine"
    )
