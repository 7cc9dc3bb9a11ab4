"""What a repository says of itself, read from its files without running git on it.

A repository that an agent works in has a configuration, hooks and links that would lead git
elsewhere. So its state is read here as data: checked, bounded, and taken over into a repository
of ours (`owngit`).
"""

from __future__ import annotations

import os
import stat

from outpost_core.errors import WorkerError
from outpost_worker.folder.folders import Folder, StrangeError

_HEX = frozenset("0123456789abcdef")
_NOT_IN_REFS = frozenset(" ~^:?*[\\\x7f")
#: Refs that replace objects by others, behind the back of every command.
_REPLACED = "refs/replace/"
#: Files that say what a commit is to conclude, and what they may hold besides hashes.
_MARKS = ("MERGE_HEAD", "MERGE_MODE", "CHERRY_PICK_HEAD", "REVERT_HEAD")
_MODES = ("", "no-ff")
#: Folders of a rebase that is half done.
REBASES = ("rebase-merge", "rebase-apply")
#: Bytes of the files that may be long: packed refs, a shallow history, the reflog of a stash.
_LONG = 64 << 20
_MOST_REFS = 200_000
_DEEPEST = 40
_ALIASES = 5


class UnusableError(WorkerError):
    """A repository cannot be used as it is.

    Attributes:
        why: the reason in few words.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"could not read the repository: {why}", reason="commit_failed")
        self.why = why


class Linked:
    """A working tree that is linked to a repository.

    Attributes:
        head: what is checked out there: `ref: refs/…`, or a commit.
        tree: where it says that it is; "" when it does not say.
        index: as that of `Said`.
    """

    __slots__ = ("head", "index", "tree")

    def __init__(self, there: Folder) -> None:
        self.head = _head(there, {})
        said = os.fsdecode(there.read("gitdir") or b"").rstrip("\n")
        whole = os.path.normpath(os.path.join(there.path, said)) if said else ""
        self.tree = os.path.dirname(whole) if whole.endswith("/.git") else ""
        self.index = _index(there)

    @property
    def noted(self) -> list[str | list[int] | None]:
        """What is noted of it."""
        return [self.head, self.tree, self.index]


class Said:
    """The state of one repository.

    Args:
        there: its folder, held open.

    Attributes:
        head: what is checked out: `ref: refs/…`, or a commit.
        refs: every ref with its hash; those that stand for others with the hash of those.
        marks: names of files and folders that say what is under way, with their content.
        shallow: where its history is cut off, one hash a line.
        stash: the reflog of its stash, the lines that hold hashes.
        exclude: its own patterns of ignored files.
        index: which index it has: inode, size, and times in nanoseconds; None for none.
        linked: the working trees that are linked to it, by the name of their folder in it.

    Raises:
        UnusableError: it has no state that git would understand, or that can be trusted.
    """

    __slots__ = ("exclude", "head", "index", "linked", "marks", "refs", "shallow", "stash")

    def __init__(self, there: Folder) -> None:
        try:
            refs = _refs(there)
            self.head = _head(there, refs)
            self.refs = {name: value for name, value in refs.items() if value}
            self.marks = _marks(there)
            lines = os.fsdecode(there.read("shallow", _LONG) or b"").split()
            self.shallow = "".join(f"{line}\n" for line in lines if is_hash(line))
            self.stash = _stash(there)
            self.exclude = _exclude(there)
            self.linked = _linked(there)
            self.index = _index(there)
        except StrangeError as error:
            raise UnusableError(error.message) from None

    @property
    def commit(self) -> str:
        """The commit that is checked out, as far as its refs tell; "" before the first."""
        return self.refs.get(self.head[5:], "") if self.head.startswith("ref: ") else self.head


def is_hash(text: str) -> bool:
    """Whether a text is the name of an object."""
    return len(text) in (40, 64) and _HEX.issuperset(text)


def is_ref(name: str) -> bool:
    """Whether git takes a text as the full name of a ref (`git check-ref-format`)."""
    if not name.startswith("refs/") or len(name) > 1000 or name.endswith("."):
        return False
    if "@{" in name or ".." in name:
        return False
    if any(c < " " or c in _NOT_IN_REFS for c in name):
        return False
    return all(part and part[0] != "." and not part.endswith(".lock") for part in name.split("/"))


def _head(there: Folder, refs: dict[str, str]) -> str:
    said = there.read("HEAD")
    if said is None:
        raise UnusableError("it was removed")
    head = os.fsdecode(said).strip()
    if is_hash(head):
        return head
    name = head.removeprefix("ref:").strip()
    if not head.startswith("ref:") or not is_ref(name):
        raise UnusableError("its HEAD is broken")
    if refs.get(name) == "":
        raise UnusableError("the branch that is checked out is broken")
    return f"ref: {name}"


def _refs(there: Folder) -> dict[str, str]:
    """Return all refs; one whose file holds neither a hash nor another ref has ""."""
    found: dict[str, str] = {}
    for line in os.fsdecode(there.read("packed-refs", _LONG) or b"").split("\n"):
        value, _, name = line.partition(" ")
        if is_hash(value) and is_ref(name):
            found[name] = value
    aliases: dict[str, str] = {}
    top = there.enter("refs")
    if top is None:
        raise UnusableError("its refs were removed")
    _loose(top, "refs", found, aliases)
    for name, target in aliases.items():
        goal = target
        for _ in range(_ALIASES):
            goal = aliases.get(goal, goal)
        if goal in found and goal not in aliases:
            found[name] = found[goal]
        else:
            found.pop(name, None)
    return {name: value for name, value in found.items() if not name.startswith(_REPLACED)}


def _loose(top: Folder, prefix: str, found: dict[str, str], aliases: dict[str, str]) -> None:
    folders = [(prefix, top)]
    while folders:
        prefix, folder = folders.pop()
        for name in folder.names():
            whole = f"{prefix}/{name}"
            if not is_ref(whole):
                continue  # lock files too
            inside = _enter(folder, name)
            if inside is not None:
                if whole.count("/") < _DEEPEST:
                    folders.append((whole, inside))
                continue
            said = os.fsdecode(folder.read(name) or b"").strip()
            target = said[4:].strip()
            if said.startswith("ref:") and is_ref(target):
                aliases[whole] = target
                found[whole] = ""
            else:
                found[whole] = said if is_hash(said) else ""
            if len(found) > _MOST_REFS:
                raise UnusableError(f"it has more than {_MOST_REFS} refs")


def _enter(folder: Folder, name: str) -> Folder | None:
    about = folder.stat(name)
    return folder.enter(name) if about is not None and stat.S_ISDIR(about.st_mode) else None


def _marks(there: Folder) -> dict[str, str]:
    marks = {name: "" for name in REBASES if there.stat(name) is not None}
    for name in _MARKS:
        said = there.read(name)
        if said is None:
            continue
        words = os.fsdecode(said).split()
        good = (words or [""])[0] in _MODES if name == "MERGE_MODE" else all(map(is_hash, words))
        if not good:
            raise UnusableError(f"its {name} is broken")
        marks[name] = "\n".join(words) + "\n" if name != "MERGE_MODE" else "".join(words)
    return marks


def _stash(there: Folder) -> str:
    logs = there.enter("logs")
    refs = logs.enter("refs") if logs else None
    said = os.fsdecode((refs.read("stash", _LONG) if refs else None) or b"")
    lines = [line for line in said.split("\n") if all(map(is_hash, line.split(" ")[:2]))]
    return "".join(f"{line}\n" for line in lines if line.count(" ") > 1)


def _exclude(there: Folder) -> str:
    info = there.enter("info")
    try:
        return os.fsdecode((info.read("exclude", 1 << 20) if info else None) or b"")
    except StrangeError:
        return ""


def _index(there: Folder) -> list[int] | None:
    about = there.stat("index")
    if about is None:
        return None
    return [about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def _linked(there: Folder) -> dict[str, Linked]:
    trees = there.enter("worktrees")
    found = {}
    for name in trees.names() if trees else ():
        inside = _enter(trees, name) if trees else None
        if inside is not None:
            try:
                found[name] = Linked(inside)
            except UnusableError:
                continue  # it says nothing that could be lost
    return found
