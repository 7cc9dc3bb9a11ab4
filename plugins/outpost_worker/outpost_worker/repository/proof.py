"""That a commit here is what its hash says, down to the last file.

git believes the index of a pack when it says where an object is, and a loose object that lies
under a name. Whoever can write to a repository's objects can so give a commit that everybody
knows other files. What arrives by a fetch is hashed then; what lies at a place where agents can
write is hashed again here, before the next worker starts from it: one git process reads the
objects, and their hashes are made here.
"""

from __future__ import annotations

import os
import select

from outpost_core.errors import WorkerError

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from outpost_worker.repository.git import Git

_CHUNK = 1 << 18
_KILL = 9
#: Seconds in which git has to read at least something: it may stand before a FIFO.
STALL = 60.0
#: Bytes of one commit or tree beyond which nobody reads it: a folder of half a million files.
_LONGEST = 64 << 20


class DamagedError(WorkerError):
    """A repository of ours cannot be used any more."""


class ForgedError(DamagedError):
    """An object is missing, or is not what its name says."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the object {name} {why}", reason="workspace_failed")


def prove(git: Git, commits: Iterable[str], others: Iterable[str] = ()) -> set[str]:
    """See that commits, their trees and their files are what their names say.

    Args:
        git: git on the repository, with a configuration of ours.
        commits: whole hashes.
        others: hashes of commits and tags of which only the object itself is looked at.

    Returns:
        Those of `others` that are there and sound.

    Raises:
        ForgedError: something of the commits is missing, is another object or cannot be read.
    """
    others = set(others)
    walk = _Walk(set(commits))
    walk.ask([*walk.needed, *others])
    if walk.open:
        pid, to, back = git.talk("cat-file", "--batch")
        try:
            _talk(walk, to, back)
        finally:
            os.killpg(pid, _KILL)  # it only reads
            os.close(to)
            os.close(back)
            os.waitpid(pid, 0)
    return others & walk.sound


def _talk(walk: _Walk, to: int, back: int) -> None:
    """Ask for objects and read them until nothing is open; neither side waits for the other."""
    os.set_blocking(to, False)
    poll = select.poll()
    poll.register(back, select.POLLIN)
    pending = b""
    asking = False
    while walk.open:
        if not pending and walk.queue:
            pending = "".join(f"{name}\n" for name in walk.queue).encode()
            walk.queue.clear()
        if asking != bool(pending):
            asking = bool(pending)
            if asking:
                poll.register(to, select.POLLOUT)
            else:
                poll.unregister(to)
        ready = poll.poll(STALL * 1000)
        if not ready:
            raise ForgedError(walk.at, "cannot be read")
        for fd, _ in ready:
            if fd == to:
                try:
                    pending = pending[os.write(to, pending) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    pending = b""  # what it has said is still to be read
                continue
            data = os.read(back, _CHUNK)
            if not data:
                raise ForgedError(walk.at, "cannot be read")
            walk.feed(data)


class _Walk:
    """What was asked, and what the answers say.

    Attributes:
        needed: objects that have to be there, and whose own parts have to be there.
        sound: objects that are what they are called.
        queue: what is to be asked next.
        open: how many objects were asked for and not answered.
        at: the object that is being read.
    """

    def __init__(self, needed: set[str]) -> None:
        self.needed = needed
        self.sound: set[str] = set()
        self.queue: list[str] = []
        self.open = 0
        self.at = next(iter(needed), "")
        self._asked: set[str] = set()
        self._buffer = bytearray()
        self._kind = ""
        self._size = -1
        self._digest: Any = None
        self._content = bytearray()

    def ask(self, names: Iterable[str]) -> None:
        """Ask for objects, each once."""
        for name in names:
            if name not in self._asked:
                self._asked.add(name)
                self.queue.append(name)
                self.open += 1

    def feed(self, data: bytes) -> None:
        """Take what `git cat-file --batch` prints, in any pieces.

        Raises:
            ForgedError: something that has to be there is not, or is another object.
        """
        buffer = self._buffer
        buffer += data
        while self.open:
            if self._size < 0 and not self._begin():
                return
            part = bytes(buffer[: self._size])
            del buffer[: len(part)]
            self._size -= len(part)
            self._digest.update(part)
            if self._kind != "blob":
                self._content += part
            if self._size or not buffer:
                return
            del buffer[:1]
            self._size = -1
            self.open -= 1
            self._see(self.at, self._digest.hexdigest(), bytes(self._content))

    def _begin(self) -> bool:
        """Read the line before an object; False when it is not there yet."""
        while self.open:
            end = self._buffer.find(b"\n")
            if end < 0:
                return False
            words = self._buffer[:end].decode("ascii", "replace").split(" ")
            del self._buffer[: end + 1]
            self.at = words[0]
            if len(words) == 3 and words[2].isdigit() and words[0] in self._asked:
                self._kind, self._size = words[1], int(words[2])
                if self._kind != "blob" and self._size > _LONGEST:
                    raise ForgedError(self.at, "is too long")
                self._digest = _hash(len(self.at))
                self._digest.update(f"{self._kind} {self._size}\0".encode())
                self._content.clear()
                return True
            self.open -= 1
            if self.at in self.needed or self.at not in self._asked:
                raise ForgedError(self.at, "is missing")
        return False

    def _see(self, name: str, digest: str, content: bytes) -> None:
        if digest != name:
            if name in self.needed:
                raise ForgedError(name, f"is another one, {digest}")
            return
        self.sound.add(name)
        if name not in self.needed:
            return
        found = []
        if self._kind == "commit":
            found.append(content[5 : content.find(b"\n")].decode("ascii", "replace"))
        elif self._kind == "tree":
            found += _entries(content, len(name) // 2)
        self.needed.update(found)
        self.ask(found)


def _entries(tree: bytes, size: int) -> Iterable[str]:
    """Yield what a tree names, without the commits of submodules."""
    at = 0
    while at < len(tree):
        end = tree.find(b"\0", at) + 1
        if not end:
            return
        if not tree.startswith(b"160000 ", at):
            yield tree[end : end + size].hex()
        at = end + size


def _hash(length: int) -> Any:
    """Return a hash whose names have so many digits."""
    if length == 40:
        try:  # hashlib would load all of OpenSSL for its other algorithms
            from _sha1 import sha1  # type: ignore[import-not-found]
        except ImportError:
            from hashlib import sha1
        return sha1(usedforsecurity=False)
    from hashlib import sha256

    return sha256()
