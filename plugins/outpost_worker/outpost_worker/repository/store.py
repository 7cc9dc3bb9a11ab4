"""The folder of a mirror: what of it is ours, byte for byte, and the repository to fetch with.

What lies in it may have been changed by an agent that no fence holds. So before each use, under
the lock, its settings are written anew where they differ, and what lends further objects or tells
unchecked of history is removed. Nothing reads refs there: a fetch is made with a repository of its
own beside it, private and there for the moment (`Frame`), which shares only the objects.
"""

from __future__ import annotations

import os

from outpost_worker.folder import guarded
from outpost_worker.repository.git import write

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

HAVE = "outpost-have"
SNAPSHOT = "outpost-snapshot"
SOUND = "outpost-sound"
SHALLOW = "shallow"
#: Bytes beyond which no note of ours about refs is read: some hundred thousand of them.
MOST = 64 << 20
_HEX = frozenset("0123456789abcdef")
_HEAD = "ref: refs/heads/main\n"
_KINDS = (".pack", ".idx", ".rev", ".keep")


def is_hash(text: str) -> bool:
    """Whether a text is the whole hash of an object."""
    return len(text) in (40, 64) and _HEX.issuperset(text)


def config(*, sha256: bool) -> str:
    """Return the configuration of a bare repository of ours."""
    if not sha256:
        return "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
    return (
        "[core]\n\trepositoryformatversion = 1\n\tbare = true\n"
        "[extensions]\n\tobjectformat = sha256\n"
    )


def restore(path: str, report: Callable[[str], None]) -> None:
    """Make a mirror, or let it be as we left it. The caller holds its lock.

    Args:
        path: the mirror.
        report: told of what was put aside.

    Raises:
        OSError: it cannot be made.
    """
    folders = [path, f"{path}/objects", f"{path}/objects/info", f"{path}/objects/pack"]
    if any(os.path.lexists(folder) and not is_good(folder) for folder in folders):
        guarded.put_aside(path, "was changed by others", report)
    if os.path.lexists(f"{path}/refs") and not is_good(f"{path}/refs"):
        remove(f"{path}/refs")  # nothing is read there
    for folder in [*folders, f"{path}/refs"]:
        os.makedirs(folder, 0o700, exist_ok=True)
    if guarded.text(f"{path}/config") not in (config(sha256=False), config(sha256=True)):
        configure(path, sha256=any(len(value) == 64 for value in hashes(f"{path}/{HAVE}")))
    if guarded.text(f"{path}/HEAD") != _HEAD:
        put(f"{path}/HEAD", _HEAD)
    for name in os.listdir(f"{path}/objects/info"):  # further places with objects, and the like
        remove(f"{path}/objects/info/{name}")
    with os.scandir(f"{path}/objects/pack") as entries:
        for entry in entries:
            known = entry.name.startswith("pack-") and entry.name.endswith(_KINDS)
            known = known or entry.name.startswith(("tmp_", ".tmp-"))  # of a git at work
            if not known or not entry.is_file(follow_symlinks=False):
                remove(entry.path)


def configure(path: str, *, sha256: bool) -> None:
    """Let a mirror have our configuration for one kind of hashes."""
    if guarded.text(f"{path}/config") != config(sha256=sha256):
        put(f"{path}/config", config(sha256=sha256))


def is_good(folder: str) -> bool:
    """Whether a folder is ours itself and nobody else's to write; a loose mode is made tight."""
    if guarded.is_folder(folder):
        return True
    try:
        about = os.lstat(folder)
        if about.st_mode & 0o170000 != 0o040000 or about.st_uid != os.geteuid():
            return False
        os.chmod(folder, 0o700)  # made under a loose umask, perhaps
    except OSError:
        return False
    return guarded.is_folder(folder)


def put(path: str, content: str) -> None:
    """Let a file of ours have a content, also where somebody made a folder of that name."""
    if os.path.isdir(path) and not os.path.islink(path):
        remove(path)
    write(path, content)


def remove(path: str) -> None:
    """Remove what somebody else has put there: a link itself, a folder with all that is in it."""
    from outpost_worker.system import removal  # only where somebody changed something

    removal.remove(path)


def hashes(path: str) -> set[str]:
    """Return the hashes in a note of ours; what is none is not taken."""
    return {word for word in guarded.text(path, MOST).split() if is_hash(word)}


def shallow(path: str) -> str:
    """Return the `shallow` file of a repository: the commits whose parents are not there."""
    return "".join(f"{value}\n" for value in sorted(hashes(f"{path}/{SHALLOW}")))


def fingerprint(path: str) -> str:
    """Return what tells whether somebody has changed a mirror's objects."""
    found = []
    for folder in ("objects", "objects/pack"):
        with os.scandir(f"{path}/{folder}") as entries:
            for entry in entries:
                about = entry.stat(follow_symlinks=False)
                # the time of a pack is moved by every repository that would write what is in it
                changed = "" if entry.name.endswith(".pack") else about.st_ctime_ns
                size = "" if entry.is_dir(follow_symlinks=False) else about.st_size
                changed = changed if size != "" else ""
                found.append(f"{folder}/{entry.name} {about.st_ino} {size} {changed}")
    try:
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b
    return blake2b(os.fsencode("\n".join(sorted(found))), digest_size=16).hexdigest()


def proved(path: str) -> set[str]:
    """Return the commits that were proved since the mirror's objects last changed."""
    about, _, commits = guarded.text(f"{path}/{SOUND}").partition("\n")
    return set(commits.split()) if about == fingerprint(path) else set()


def note_proved(path: str, commits: Iterable[str]) -> None:
    """Write down which commits are proved."""
    put(f"{path}/{SOUND}", "\n".join([fingerprint(path), *commits]) + "\n")


class Frame:
    """A repository beside a mirror, for the moment, that shares nothing with it but its objects.

    Args:
        mirror: the mirror; its lock is held.
        sha256: which hashes it has.
        shallow: commits whose parents are not there, one a line.

    Attributes:
        path: where it is.
        objects: where the objects are.
    """

    def __init__(self, mirror: str, *, sha256: bool, shallow: str) -> None:
        mirror = os.path.abspath(mirror)
        self.objects = mirror + "/objects"
        folder, name = os.path.split(mirror)
        for left in os.listdir(folder):  # of a holder of the lock that was killed
            if left.startswith(f".{name}."):
                remove(os.path.join(folder, left))
        self.path = os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(8).hex()}")
        os.mkdir(self.path, 0o700)
        os.mkdir(f"{self.path}/refs", 0o700)
        write(f"{self.path}/config", config(sha256=sha256))
        write(f"{self.path}/HEAD", "ref: refs/heads/none\n")
        if shallow:
            write(f"{self.path}/{SHALLOW}", shallow)

    def remove(self) -> None:
        """Remove it; the objects stay."""
        for folder, names, files in os.walk(self.path, topdown=False):
            for name in files:
                os.unlink(os.path.join(folder, name))
            for name in names:
                os.rmdir(os.path.join(folder, name))
        os.rmdir(self.path)

    def know(self, have: Collection[str]) -> None:
        """Let a fetch know of objects that are there with all that they need."""
        lines = [f"{value} refs/have/{number}\n" for number, value in enumerate(have)]
        write(f"{self.path}/packed-refs", "".join(["# pack-refs with: \n", *lines]))
