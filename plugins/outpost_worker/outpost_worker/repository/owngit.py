"""Git folders of ours for the repositories that an agent works in.

No git command of ours runs with the configuration, hooks, attributes or links of a repository
that an agent can change. For each there is one of ours: `<folder>/git` for the worker's own, and
below its `others/` one for every other repository in the tree, as a submodule's. It has our
configuration alone and works on the agent's files, through a descriptor of their folder.

What the agent's repository says is taken over before anything is done: read as data (`said`),
with its objects (`objects`). What was taken is noted, and only what changed there since then is
taken the next time: what we have committed ourselves stays, and a step that was cut off is done
again. The agent's repository is never written to.
"""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_shared import faults
from outpost_shared.leanjson import dumps, loads
from outpost_worker.folder import files, folders
from outpost_worker.folder.folders import Folder, StrangeError, open_folder
from outpost_worker.folder.outcome import reason_of
from outpost_worker.repository import gitdirs, index, objects, ownfolder, ownrefs
from outpost_worker.repository.git import Git, write
from outpost_worker.repository.repostate import REBASES, Linked, Said, UnusableError, is_hash

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from typing import Any

#: In each folder of ours: what was taken over from the agent's.
_TAKEN = "outpost-taken"
#: Beside it: working trees whose `.git` was removed, with the repository that is theirs.
_ATTACHED = "outpost-attached"
_INDEX = "index"
_WORKTREES = "worktrees"
#: Bytes that an index may have.
_MOST = 4 << 30
#: Bytes of what was taken over: a rig may have very many refs.
_MOST_TAKEN = 256 << 20


class Own(Git):
    """git on a repository of ours, which follows one that an agent works in.

    Args:
        folder: the worker's folder.
        theirs: the agent's repository.
        git_dir: ours.
        top: the working tree, held open; None for a repository without one.
        borrows: the folder of the mirror's objects.
        credentials: as for `Git`.
        rig: as for `Git`.

    Attributes:
        theirs: path of the agent's repository.
    """

    def __init__(
        self,
        folder: str,
        theirs: str,
        git_dir: str,
        top: Folder | None,
        *,
        borrows: str,
        credentials: str = "",
        rig: str = "",
    ) -> None:
        super().__init__(git_dir, top or "", credentials=credentials, rig=rig)
        if top is None:
            self._argv += ["-c", "core.bare=true"]
        self.folder = folder
        self.theirs = theirs
        self.main = git_dir  # of a linked working tree: the repository that it is linked to
        self._borrows = borrows
        self._inside: tuple[list[str], list[str]] | None = None
        self._known = {git_dir}  # what was taken over by this one and those that it made

    def inside(self) -> list[str]:
        """Return the folders in the tree that are working trees of their own; looks only once."""
        if self._inside is None:
            self._inside = gitdirs.below(self.work)
        return self._inside[0]

    def has_others(self) -> bool:
        """Whether there is any repository or working tree besides the worker's own one."""
        return bool(gitdirs.linked(self.git_dir) or gitdirs.modules(self.theirs) or self.inside())

    def clear(self, *, ended: bool) -> None:
        """See that git finds no pipe in the tree where it reads a file of its own.

        Args:
            ended: nobody is at work in it, so what is in the way can be removed: it holds nothing.

        Raises:
            WorkerError: `commit_failed`, there is one.
        """
        self.inside()
        stops = self._inside[1] if self._inside else []
        if ended:
            folders.remove(stops)
        elif stops:
            raise WorkerError(f"{stops[0]} is not a file", reason="commit_failed")

    def hash_length(self) -> int:
        """Return how many hexadecimal digits the name of an object has."""
        return ownfolder.hash_length(self.main)

    def tip(self) -> str:
        """Return the commit that is checked out; "" before the first."""
        return ownrefs.tip(self.git_dir)

    # --- other repositories in the tree ----------------------------------------------------------

    def at(self, path: str) -> Own | None:
        """Return git on ours for the repository whose working tree is at a path; None for none.

        Args:
            path: relative to this working tree.

        Raises:
            StrangeError: there is no real folder.
            UnusableError: the repository cannot be used.
            WorkerError: it could not be taken over.
        """
        assert self.top is not None
        top = self.top.walk(path)
        theirs = (gitdirs.of_folder(top) or self._attached().get(path, "")) if top else ""
        return self.of(theirs, top) if theirs else None

    def attach(self, path: str, theirs: str) -> None:
        """Know whose a working tree is whose `.git` was removed.

        Args:
            path: the working tree, relative to this one.
            theirs: the repository.
        """
        files.store(self.git_dir, _ATTACHED, {**self._attached(), path: theirs})

    def _attached(self) -> dict[str, str]:
        return files.load(self.git_dir, _ATTACHED) or {}

    def walk(self, path: str) -> Folder:
        """Return a folder of the working tree, held open.

        Raises:
            StrangeError: it is no real folder.
        """
        assert self.top is not None
        inside = os.path.relpath(path, self.work)
        found = self.top.walk(inside) if inside != "." else self.top
        if found is None:
            raise StrangeError(f"{path} cannot be used: it is gone", reason="commit_failed")
        return found

    def of(self, theirs: str, top: Folder | None) -> Own:
        """Return git on ours for a repository, after what it says was taken over.

        Args:
            theirs: the repository.
            top: its working tree; None for none.

        Raises:
            StrangeError: it is no real folder of this user.
            UnusableError: it cannot be used.
            WorkerError: it could not be taken over.
        """
        real = os.path.realpath(theirs)
        above, name = os.path.split(real)
        if os.path.basename(above) == _WORKTREES and os.path.isfile(f"{real}/commondir"):
            return self.of(os.path.dirname(above), None).linked(name, top)
        inside = os.path.relpath(real, os.path.realpath(self.folder))
        if not inside.startswith(".."):
            real = os.path.join(self.folder, inside)
        git_dir = ownfolder.place(self.folder, real)
        own = Own(self.folder, real, git_dir, top, borrows=self._borrows)
        own._known = self._known
        if git_dir not in self._known:
            sha256 = gitdirs.is_sha256(real)
            ownfolder.make(git_dir, self._borrows, ownfolder.config(sha256=sha256))
            own.take(objects_too=not inside.startswith(".."))
            self._known.add(git_dir)
        return own

    def linked(self, name: str, top: Folder | None) -> Own:
        """Return git on a working tree that is linked to this repository, as it was taken over."""
        theirs, ours = (os.path.join(p, _WORKTREES, name) for p in (self.theirs, self.git_dir))
        own = Own(self.folder, theirs, ours, top, borrows=self._borrows)
        own._known = self._known
        own.main = self.git_dir
        return own

    # --- taking over -----------------------------------------------------------------------------

    def take(self, base: str | None = None, *, objects_too: bool = True) -> None:
        """Take over what the agent's repository says now.

        Args:
            base: a commit that it has to build on, where it is not the one that was made for
                the worker.
            objects_too: bring its objects, too.

        Raises:
            StrangeError: it is no real folder of this user.
            UnusableError: it cannot be used; what was taken before stays.
            WorkerError: `disk_full` or `commit_failed`, it could not be written.
        """
        there = self._enter()
        taken = self._taken()
        if there is None or (taken.get("gone") and there.stat("HEAD") is None):
            if taken.get("gone"):
                return
            raise UnusableError("it was removed")
        try:
            self._take(there, taken, base, objects_too=objects_too)
        except OSError as error:
            raise WorkerError(
                f"could not take over {self.theirs}: {error.strerror or error}",
                reason=reason_of(error, "commit_failed"),
            ) from error

    def enter_theirs(self, path: str) -> Folder | None:
        """Return a folder below the agent's repository, entered link by link; None for none.

        Raises:
            StrangeError: some folder on the way is no real one.
        """
        there = self._enter()
        return there.walk(path) if there else None

    def forget(self) -> None:
        """Know that the agent's repository is gone, so that ours is all there is."""
        write(os.path.join(self.git_dir, _TAKEN), dumps({**self._taken(), "gone": True}))

    def _taken(self) -> dict[str, Any]:
        said = open_folder(self.git_dir).read(_TAKEN, _MOST_TAKEN)
        taken: dict[str, Any] = loads(os.fsdecode(said)) if said else {}
        return taken

    def _enter(self) -> Folder | None:
        """Return the agent's repository, every folder on the way to it being a real one."""
        inside = os.path.relpath(self.theirs, self.folder)
        if inside.startswith(".."):
            return open_folder(self.theirs)
        if self.top is not None and inside == os.path.join(files.WORK, ".git"):
            return self.top.enter(".git")  # of the very folder whose files are looked at
        return open_folder(self.folder).walk(inside)

    def _take(
        self, there: Folder, taken: dict[str, Any], base: str | None, *, objects_too: bool
    ) -> None:
        said, ours = Said(there), self.git_dir
        lent = objects_too and self._bring(there)
        if base and not lent and not self._builds_on(base, said):
            raise UnusableError("it does not hold the commit that the work began from")
        ownrefs.follow(ours, ownrefs.parsed(taken.get("refs", "")), said.refs)
        small = {"HEAD": f"{said.head}\n", "shallow": said.shallow}
        small |= {"logs/refs/stash": said.stash, "info/exclude": said.exclude}
        for name, text in small.items():
            if text != taken.get(name, ""):
                ownfolder.put(os.path.join(ours, name), text)
        if small["HEAD"] != taken.get("HEAD"):
            _same_time(there, ours)
        self._mark(taken.get("marks", {}), said.marks)
        self._take_linked(there, taken.get("linked", {}), said.linked)
        faults.point("worker.git_taking")
        if said.index != taken.get(_INDEX):
            _take_index(there, self)
        now: dict[str, Any] = {**small, "marks": said.marks, _INDEX: said.index}
        now |= {"refs": ownrefs.listed(said.refs)}
        now |= {"linked": {name: each.noted for name, each in said.linked.items()}}
        if now != taken:
            write(os.path.join(ours, _TAKEN), dumps(now))
            faults.point("worker.git_taken")

    def _bring(self, there: Folder) -> bool:
        """Bring its objects; whether it says that it borrows some."""
        ours = os.path.join(self.git_dir, "objects")
        try:
            length = self.hash_length()
            within = open_folder(self.folder)
            objects.bring(there, ours, length, within, self._borrows)
            info = there.walk("objects/info")
            return bool(info and (info.read("alternates") or b"").strip())
        except StrangeError as error:
            raise UnusableError(error.message) from None

    def _builds_on(self, base: str, said: Said) -> bool:
        listing = os.path.join(self.git_dir, f"tips-{os.getpid()}")
        tips = {said.commit, *said.refs.values()} - {""}
        write(listing, "".join(f"{tip}\n" for tip in tips))
        try:
            told = self.run("rev-list", "--ignore-missing", "--stdin", stdin=listing)
        finally:
            os.unlink(listing)
        return base in told.text.split()

    def _mark(self, before: dict[str, str], now: dict[str, str]) -> None:
        for name in before.keys() | now.keys():
            path = os.path.join(self.git_dir, name)
            if before.get(name) == now.get(name):
                continue
            if name not in REBASES:
                ownfolder.put(path, now.get(name, ""))
            elif name in now:
                os.makedirs(path, 0o700, exist_ok=True)
            elif os.path.isdir(path):
                os.rmdir(path)

    def _take_linked(
        self, there: Folder, before: dict[str, list[Any]], now: dict[str, Linked]
    ) -> None:
        for name in before:
            if name not in now:
                ownfolder.remove_linked(self.git_dir, name)
        trees = there.enter(_WORKTREES) if now else None
        for name, linked in now.items():
            source = trees.enter(name) if trees else None
            if source is None or before.get(name) == linked.noted:
                continue
            ours = os.path.join(self.git_dir, _WORKTREES, name)
            own = os.path.join(self.theirs, _WORKTREES, name)
            tree = linked.tree if gitdirs.leads_back(linked.tree, own) else ""
            ownfolder.put(os.path.join(ours, "commondir"), "../..\n")
            ownfolder.put(os.path.join(ours, "gitdir"), f"{tree}/.git\n" if tree else "")
            ownfolder.put(os.path.join(ours, "HEAD"), f"{linked.head}\n")
            _same_time(source, ours)
            _take_index(source, self.linked(name, None))


def _take_index(there: Folder, git: Own) -> None:
    """Copy an index, and what it shares; one that names what is not in the tree is dropped."""
    path = os.path.join(git.git_dir, _INDEX)
    try:
        for name in there.names():
            if name.startswith("sharedindex.") and is_hash(name.rpartition(".")[2]):
                _copy(there, name, os.path.join(git.git_dir, name))
        if not _copy(there, _INDEX, path):
            folders.remove([path])
            return
    except StrangeError as error:
        raise UnusableError(error.message) from None
    if index.leads_out(git, path):
        folders.remove([path])
        git.run("read-tree", "HEAD")


def _copy(there: Folder, name: str, path: str) -> bool:
    fd = there.open(name)
    if fd < 0:
        return False
    try:
        if os.fstat(fd).st_size > _MOST:
            raise StrangeError(f"{there.path}/{name} is too large", reason="commit_failed")
        folders.copy(fd, path)
    finally:
        os.close(fd)
    return True


def _same_time(there: Folder, ours: str) -> None:
    """Let HEAD be as old as theirs: the same content is to give the same commit (`open_work`)."""
    about = there.stat("HEAD")
    if about is not None:
        os.utime(os.path.join(ours, "HEAD"), ns=(about.st_atime_ns, about.st_mtime_ns))
