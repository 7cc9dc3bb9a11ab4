"""Mail on this machine: through `gt` where a Gas Town is, else appended to a file.

::

    <town>/mail/inbox.jsonl        one message a line, in Gas Town's own form; without a town it
                                   is <root>/mail/inbox.jsonl
    <town>/mail/inbox.jsonl.lock   flock of whoever changes it, `gt` as well
    <root>/mail/handed/<id>        `t` while a message is handed over, `d` once it was; behind it
                                   what it said, as a hash, and who handed it over

A message that comes again after a lost answer is known by its id, and is not delivered again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

from outpost_core.errors import OutpostError, UnreachableError
from outpost_core.types import Message
from outpost_local import maildir
from outpost_local.gt import Gt
from outpost_shared import faults
from outpost_shared.backoff import every
from outpost_shared.message import check, is_for

#: Seconds that a hand-over is remembered by its id; longer than any outbox tries.
_KEEP: Final = 60 * 86400.0
#: An id that `outpost mail` gives, which is the name of a file here.
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
#: Seconds that a lock may be held by others.
_PATIENCE: Final = 10.0


class Mailbox:
    """The mail of one outpost on this machine. Methods block; call them in a thread.

    Args:
        root: the outpost's state folder.
        town: the Gas Town workspace, or None.
        env: what agents get, with the `PATH` that `gt` is looked for on.
    """

    def __init__(self, root: Path, town: Path | None, env: Mapping[str, str]) -> None:
        self._root = root
        self._town = town
        self._env = env

    def deliver(self, message: Message) -> None:
        """Deliver a message, once.

        Raises:
            UsageError: it can never be delivered.
            OutpostError: it was not, for a reason of its own; it may come again.
            UnreachableError: nobody can say, nor deliver other mail here; it may come again.
        """
        check(message)
        with self._handing(message.id) as mark:
            if mark.done:
                return
            gt = self._gt()
            if gt is None:
                self._append(message)
            elif not (mark.begun and gt.has(message, mark.begun)):
                mark.begin()
                gt.send(message)
            faults.point("local.mailed")
            mark.finish(message)

    def inbox(self, who: str) -> list[Message]:
        """Return the messages for someone, oldest first.

        Args:
            who: an address; "" for everybody (of what `gt` keeps: the overseer's).

        Raises:
            UnreachableError: it cannot be read.
        """
        with self._folder() as folder:
            found, damaged = maildir.read(folder) if folder is not None else ([], 0)
        kept = [self._proved(one) for one in found if not who or is_for(one.to, who)]
        gt = self._gt()
        if gt is not None:
            known = {one.id for one in kept}
            kept += [one for one in gt.inbox(who or "overseer") if one.id not in known]
        if damaged and not who:
            kept.append(_damage(damaged, self._base / maildir.FOLDER / maildir.FILE))
        return sorted(kept, key=lambda one: one.sent_at or 0.0)

    def _proved(self, message: Message) -> Message:
        """Return a message with who handed it over, where that is written down here.

        Whoever can write the file can write any line into it, so `from` alone is a claim; what was
        handed over by `outpost mail` is known by its id and a hash of what it said.
        """
        via = ""
        if _ID.fullmatch(message.id):
            path = self._root / maildir.FOLDER / "handed" / message.id
            with contextlib.suppress(OSError, ValueError):
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    said = os.read(fd, 1024)
                finally:
                    os.close(fd)
                if said[:1] == b"d" and said[1:65] == _hash(message):
                    via = said[65:].decode()
        return replace(message, via=via)

    @property
    def _base(self) -> Path:
        """Where the file's folder is."""
        return self._town if self._town is not None and self._town.is_dir() else self._root

    def _gt(self) -> Gt | None:
        """Return `gt` where it is installed and its town is there."""
        if self._town is None or not (self._town / "mayor" / "town.json").is_file():
            return None
        found = shutil.which("gt", path=self._env.get("PATH", os.defpath))
        return Gt(found, self._town, self._env) if found else None

    @contextlib.contextmanager
    def _folder(self, *, make: bool = False) -> Iterator[int | None]:
        """Hold the mail folder open; None when there is none."""
        with _told(self._base / maildir.FOLDER):
            folder = maildir.open_folder(self._base, make=make)
        try:
            with _told(self._base / maildir.FOLDER):
                yield folder
        finally:
            if folder is not None:
                os.close(folder)

    def _append(self, message: Message) -> None:
        with self._folder(make=True) as folder:
            assert folder is not None
            with _lock(folder, maildir.LOCK, self._base / maildir.FOLDER / maildir.FILE):
                maildir.append(folder, message if message.id else _named(message))

    @contextlib.contextmanager
    def _handing(self, id_: str) -> Iterator[_Mark]:
        """Be the only one who hands over the message of that id; know what was done before."""
        if not id_:
            yield _Mark(-1, b"", 0.0)
            return
        own = self._root / maildir.FOLDER
        with _told(own):
            top = maildir.open_folder(self._root, make=True)
            assert top is not None
            try:
                folder = maildir.open_under(top, "handed", make=True)
            finally:
                os.close(top)
            assert folder is not None
            try:
                _sweep(folder)
                with _lock(folder, id_, own / "handed" / id_) as fd:
                    yield _Mark(fd, os.pread(fd, 1, 0), os.fstat(fd).st_mtime)
            finally:
                os.close(folder)


class _Mark:
    """What is known of one message's hand-over: one byte, so that it is never half written."""

    def __init__(self, fd: int, said: bytes, at: float) -> None:
        self._fd = fd
        self.done = said == b"d"
        #: since when it may have been handed over; 0 when it was not
        self.begun = at if said == b"t" else 0.0

    def begin(self) -> None:
        """Write down that it is tried from now on."""
        self._write(b"t")

    def finish(self, message: Message) -> None:
        """Write down that it is delivered, what it said and who handed it over."""
        if self._fd >= 0:
            os.pwrite(self._fd, _hash(message) + message.via.encode(), 1)
        self._write(b"d")

    def _write(self, said: bytes) -> None:
        if self._fd >= 0:
            os.pwrite(self._fd, said, 0)
            os.fsync(self._fd)


@contextlib.contextmanager
def _lock(folder: int, name: str, shown: Path) -> Iterator[int]:
    """Hold the lock of a file in a folder, made when it is missing."""
    fd = maildir.open_file(folder, name)
    try:
        for _ in every(0.02, within=_PATIENCE).tries():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        else:
            raise UnreachableError(
                f"{shown} was locked by another program for {_PATIENCE:g} s",
                hint=f"see who holds it with: fuser -v {shown}*",
            )
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _told(place: Path) -> Iterator[None]:
    """Say what went wrong with a file, where, and what to do."""
    try:
        yield
    except OutpostError:
        raise
    except OSError as error:
        raise UnreachableError(
            f"the mail folder {place} cannot be used: {error.strerror or error}",
            hint="it must be a folder of your own, its files plain files that are no links",
        ) from error


def _sweep(folder: int) -> None:
    """Forget hand-overs of long ago."""
    old = time.time() - _KEEP
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < old:
                    os.unlink(entry.name, dir_fd=folder)


def _hash(message: Message) -> bytes:
    """Return 64 characters for what a message says."""
    said = [message.id, message.to, message.sender, message.subject, message.body]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest().encode()


def _named(message: Message) -> Message:
    return replace(message, id=uuid4().hex)


def _damage(lines: int, path: Path) -> Message:
    text = f"{lines} damaged line{'' if lines == 1 else 's'} of {path} cannot be read"
    return Message(to="overseer", sender="outpost", subject=text, sent_at=time.time())
