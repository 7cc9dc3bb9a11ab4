"""Objects of git-lfs: fetched once for all workers of a rig, and on the rig before what names them.

A commit holds pointers; the objects travel by themselves. git-lfs would upload them in a hook of
`git push`, and no hook runs in pushes of ours. It is run here in a repository aside, made for the
moment, so that nothing which the agent configured leads an upload elsewhere. What was fetched is
kept with the mirror (`<mirror>/lfs`), from where git-lfs itself takes it into each worker's own
repository; an object is named by its SHA-256.
"""

from __future__ import annotations

import os
import shutil

from outpost_core.errors import WorkerError
from outpost_shared import faults
from outpost_worker.folder import exposed, folders
from outpost_worker.folder.files import root_of
from outpost_worker.folder.folders import StrangeError
from outpost_worker.repository.git import Git, persistently, read, write
from outpost_worker.repository.mirror import mirror_path
from outpost_worker.repository.ownfolder import LFS
from outpost_worker.work.target import credentials, lfs_used, target

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from outpost_worker.repository.owngit import Own

    Report = Callable[[str], None]

#: The largest file that git-lfs takes for a pointer.
LARGEST = 1024
#: Bytes of objects that are fetched back after an upload, to see that they are there.
READ_BACK = 64 << 20
#: Objects that are named in one command.
_AT_ONCE = 500
_VERSION = b"version https://git-lfs.github.com/spec/v1\n"
_CHUNK = 1 << 20
#: In the worker's folder: objects that were seen on the rig, one a line.
_SEEN = "lfs-seen"
INSTALL = "install git-lfs on the outpost: sudo apt install git-lfs"


def parse(data: bytes) -> tuple[str, int] | None:
    """Return the object that a pointer names and its size; None for what is no pointer."""
    if not data.startswith(_VERSION) or len(data) >= LARGEST:
        return None
    oid, size = "", -1
    for line in data.splitlines():
        if line.startswith(b"oid sha256:"):
            oid = line[11:].decode("ascii", "replace")
        elif line.startswith(b"size ") and line[5:].isdigit():
            size = int(line[5:])
    good = len(oid) == 64 and set(oid) <= set("0123456789abcdef") and size >= 0
    return (oid, size) if good else None


def object_path(storage: str, oid: str) -> str:
    """Return where an object is in a folder `lfs`."""
    return os.path.join(storage, "objects", oid[:2], oid[2:4], oid)


def is_whole(path: str, oid: str) -> bool:
    """Whether a file holds the object of that name."""
    from hashlib import sha256

    digest = sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(_CHUNK):
                digest.update(data)
    except OSError:
        return False
    return digest.hexdigest() == oid


# --- what a checkout needs ------------------------------------------------------------------------


def configure(git_dir: str) -> None:
    """Let git in a worker's repository use git-lfs, the agent's own commits and pushes too."""
    path = os.path.join(git_dir, "config")
    write(path, read(path) + LFS)
    write(os.path.join(git_dir, "hooks/pre-push"), '#!/bin/sh\nexec git lfs pre-push "$@"\n', 0o700)


def check_out(git: Git, order: Mapping[str, Any], folder: str, commit: str, report: Report) -> None:
    """Put the files in place of their pointers in a working tree that was just checked out.

    Args:
        git: the worker's repository.
        order: the order's JSON.
        folder: the worker's folder.
        commit: what is checked out.
        report: told what is being done.

    Raises:
        WorkerError: `lfs_missing` or `lfs_failed`.
        OSError: a file cannot be written.
    """
    if git.run("lfs", "version").code:
        raise WorkerError(
            "the repository uses git-lfs, which is not installed here",
            reason="lfs_missing",
            hint=INSTALL,
        )
    configure(git.git_dir)
    small = _small_files(git, commit)
    wanted = _read(git, folder, small.values())
    if not wanted:
        return
    root = root_of(folder)
    mirror = mirror_path(root, order["rig"])
    storage = os.path.join(mirror, "lfs")
    os.makedirs(os.path.join(storage, "objects"), 0o700, exist_ok=True)
    _restore(order, root, wanted, storage)
    if exposed.was(root):  # git-lfs looks at sizes alone
        _drop_others(storage, wanted)
    with _Lock(mirror.removesuffix(".git") + ".lfs.lock"):
        # of an earlier attempt, they may be where its work goes
        for rig in dict.fromkeys((order["rig"], target(order))):
            if all(_is_there(storage, oid, size) for oid, size in wanted.items()):
                break
            report("fetching large files (git-lfs)")
            with _Aside(rig, folder, storage, [git.git_dir, mirror], commit) as aside:
                done = persistently(
                    lambda: aside.run("lfs", "fetch", "origin", commit),
                    report,
                    "fetching",
                )
            if done.code and rig == target(order):
                raise _error(aside, done.err or done.text, "fetch the objects of git-lfs")
    report("checking out large files")
    # what a checkpoint had not committed is in the index alone, where `git lfs checkout` is blind
    listing = os.path.join(folder, f"large-{os.getpid()}")
    for path in small:  # git writes no file again that is as the index says
        if os.path.lexists(os.path.join(folder, "work", path)):
            os.unlink(os.path.join(folder, "work", path))
    write(listing, "".join(f"{path}\0" for path in small))
    try:
        done = git.run("checkout-index", "-f", "-u", "-z", "--stdin", stdin=listing)
    finally:
        os.unlink(listing)
    if done.code:
        raise _error(git, done.err or done.text, "check out the files of git-lfs")


def _drop_others(storage: str, wanted: Iterable[str]) -> None:
    """Remove shared objects that are not what they are called, so that they are fetched."""
    for oid in wanted:
        path = object_path(storage, oid)
        if os.path.lexists(path) and (os.path.islink(path) or not is_whole(path, oid)):
            os.unlink(path)


def _is_there(storage: str, oid: str, size: int) -> bool:
    try:
        return os.path.getsize(object_path(storage, oid)) == size
    except OSError:
        return False


def _error(git: Git, said: str, doing: str) -> WorkerError:
    from outpost_worker.repository.git import Done

    error = git.error(Done(1, b"", said), doing, "lfs_failed")
    error.hint = "see that the rig has the objects and takes them from here: git lfs fetch --all"
    return error


class _Lock:
    """One fetch of large files at a time for a mirror, so that each object is fetched once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> None:
        import fcntl

        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class _Aside:
    """A bare repository for the moment, with our configuration alone.

    Args:
        rig: the rig, or where its work goes.
        folder: the worker's folder; it is made in there.
        storage: the folder of objects (`lfs`) that it uses; "" for an empty one of its own.
        borrows: repositories whose objects it sees; git-lfs does not see what those borrow.
        commit: its HEAD, by which git-lfs finds the rig's `.lfsconfig`; may be "".
    """

    def __init__(
        self,
        rig: str,
        folder: str,
        storage: str,
        borrows: Iterable[str],
        commit: str,
    ) -> None:
        self._rig = rig
        self._folder = folder
        self._storage = storage
        self._borrows = list(borrows)
        self._commit = commit
        self.path = os.path.join(folder, f"lfs-{os.getpid()}.git")

    def __enter__(self) -> Git:
        shutil.rmtree(self.path, ignore_errors=True)
        rig = self._rig
        for name in ("objects/info", "objects/pack", "refs/heads"):
            os.makedirs(os.path.join(self.path, name), 0o700)
        git = Git(self.path, credentials=credentials(rig, self._folder), rig=rig)
        sha256 = len(self._commit) == 64
        url = git.url.replace("\\", "\\\\").replace('"', '\\"')
        write(
            os.path.join(self.path, "config"),
            f"[core]\n\trepositoryformatversion = {int(sha256)}\n\tbare = true\n"
            + ("[extensions]\n\tobjectformat = sha256\n" if sha256 else "")
            + f'[remote "origin"]\n\turl = "{url}"\n[lfs]\n\tlocksverify = false\n'
            "\tfetchrecentrefsdays = 0\n\tfetchrecentcommitsdays = 0\n",
        )
        lines = "".join(f"{place}/objects\n" for place in self._borrows)
        write(os.path.join(self.path, "objects/info/alternates"), lines)
        write(
            os.path.join(self.path, "HEAD"),
            f"{self._commit}\n" if self._commit else "ref: refs/heads/main\n",
        )
        if self._storage:
            os.makedirs(self._storage, 0o700, exist_ok=True)
            os.symlink(os.path.abspath(self._storage), os.path.join(self.path, "lfs"))
        return git

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


# --- pointers -------------------------------------------------------------------------------------


def in_tree(git: Git, folder: str, commit: str) -> dict[str, int]:
    """Return the objects that the files of a commit name, with their sizes."""
    return _read(git, folder, _small_files(git, commit).values())


def _small_files(git: Git, commit: str) -> dict[str, str]:
    """Return the files of a commit that may be pointers, with their blobs."""
    told = git.must("ls-tree", "-r", "-l", "-z", commit, doing="list it", reason="lfs_failed")
    found = {}
    for record in filter(None, told.out.split(b"\0")):
        about, _, path = record.partition(b"\t")
        mode, kind, blob, size = about.split()
        if kind == b"blob" and mode != b"120000" and 100 < int(size) < LARGEST:
            found[os.fsdecode(path)] = blob.decode()
    return found


def in_commits(git: Git, folder: str, commit: str, base: str | None) -> dict[str, int]:
    """Return the objects that commits name which the base does not have, with their sizes."""
    told = git.must(
        *("rev-list", "--objects", "--no-object-names", f"--filter=blob:limit={LARGEST}"),
        *(commit, *(["--not", base] if base else []), "--"),
        doing="list what is new",
        reason="lfs_failed",
    )
    return _read(git, folder, told.text.split())


def _read(git: Git, folder: str, objects: Iterable[str]) -> dict[str, int]:
    listing = os.path.join(folder, f"objects-{os.getpid()}")
    write(listing, "".join(f"{value}\n" for value in dict.fromkeys(objects)))
    try:
        told = git.must(
            *("cat-file", "--batch", "--buffer"),
            doing="read pointers",
            reason="lfs_failed",
            stdin=listing,
        ).out
    finally:
        os.unlink(listing)
    found: dict[str, int] = {}
    at = 0
    while (end := told.find(b"\n", at)) >= 0:
        words = told[at:end].split(b" ")
        at = end + 1
        if len(words) < 3:  # it is missing
            continue
        size = int(words[2])
        pointer = parse(told[at : at + size]) if words[1] == b"blob" else None
        at += size + 1
        if pointer:
            found[pointer[0]] = pointer[1]
    return found


# --- uploads --------------------------------------------------------------------------------------


def upload(
    git: Own,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    commit: str,
    report: Report,
) -> None:
    """Bring the objects that new commits name to the rig, and see them there.

    Objects that an earlier call has seen there are passed over. Those that are not here have to be
    on the rig already, as after a merge of another branch.

    Args:
        git: the worker's repository.
        order: the order's JSON.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.
        commit: the newest of the commits.
        report: told what is being done.

    Raises:
        WorkerError: `lfs_failed`, some are not on the rig.
    """
    if not lfs_used(git, workspace):
        return
    wanted = in_commits(git, folder, commit, workspace["base_commit"])
    seen = set(read(os.path.join(folder, _SEEN)).split())
    wanted = {oid: size for oid, size in wanted.items() if oid not in seen and size}
    if not wanted:
        return
    own, shared = _storages(git, order, folder)
    bring(git, wanted)
    here = [
        oid
        for oid, size in wanted.items()
        if _is_there(own, oid, size) or _is_there(shared, oid, size)
    ]
    mirror = os.path.dirname(shared)
    send(
        target(order), folder, git.git_dir, wanted, here, report,
        borrows=[mirror], settings=(mirror, _base(workspace)),
    )  # fmt: skip
    write(os.path.join(folder, _SEEN), "".join(f"{oid}\n" for oid in sorted({*seen, *wanted})))
    faults.point("worker.lfs_uploaded")


def send(
    url: str,
    folder: str,
    git_dir: str,
    wanted: Mapping[str, int],
    here: list[str],
    report: Report,
    *,
    borrows: Iterable[str] = (),
    settings: tuple[str, str],
) -> None:
    """Upload objects to a remote, and see all that are wanted there.

    Args:
        url: the remote.
        folder: the worker's folder.
        git_dir: the repository that holds the objects.
        wanted: the objects, with their sizes.
        here: those that are in the repository.
        report: told what is being done.
        borrows: repositories whose objects are needed besides.
        settings: a repository and a commit in it whose `.lfsconfig` counts; the commit may be "".

    Raises:
        WorkerError: `lfs_failed`, some are not on the remote.
    """
    report("uploading large files (git-lfs)")
    storage = os.path.join(git_dir, "lfs")
    with _Aside(url, folder, storage, [git_dir, *borrows], settings[1]) as aside:
        for start in range(0, len(here), _AT_ONCE):
            some = here[start : start + _AT_ONCE]
            done = persistently(
                lambda: aside.run("lfs", "push", "--object-id", "origin", *some),  # noqa: B023
                report,
                "uploading",
            )
            if done.code:
                raise _error(aside, done.err or done.text, "upload the objects of git-lfs")
    _see(url, folder, settings, wanted, set(here))


def bring(git: Own, wanted: Mapping[str, int]) -> None:
    """Copy objects that the agent's own commits need into our repository, where they are whole.

    Args:
        git: our repository.
        wanted: the objects, with their sizes.

    Raises:
        OSError: they cannot be written.
    """
    storage = os.path.join(git.git_dir, "lfs")
    for oid, size in wanted.items():
        if _is_there(storage, oid, size):
            continue
        above, name = os.path.split(object_path("lfs", oid))
        try:
            there = git.enter_theirs(above)
            fd = there.open(name) if there else -1
        except StrangeError:
            continue
        if fd < 0:
            continue
        try:
            if os.fstat(fd).st_size == size:
                path = object_path(storage, oid)
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                folders.copy(fd, path)
                if not is_whole(path, oid):
                    os.unlink(path)
        finally:
            os.close(fd)


def _base(workspace: Mapping[str, Any]) -> str:
    return str(workspace["base_commit"] or "")


def _storages(git: Own, order: Mapping[str, Any], folder: str) -> tuple[str, str]:
    root = root_of(folder)
    shared = os.path.join(mirror_path(root, order["rig"]), "lfs")
    return os.path.join(git.git_dir, "lfs"), shared


def _see(
    url: str,
    folder: str,
    settings: tuple[str, str],
    wanted: Mapping[str, int],
    here: set[str],
) -> None:
    """Fetch objects back into an empty place: only what comes from there is on the rig.

    Of those that were uploaded, the smaller ones as far as they fit into `READ_BACK`; for the
    others the word of the rig has to do. Those that are not here are all asked for.
    """
    asked, room = [oid for oid in wanted if oid not in here], READ_BACK
    for oid in sorted(here, key=lambda oid: wanted[oid]):
        room -= wanted[oid]
        if room >= 0:
            asked.append(oid)
    mirror, base = settings
    config = None
    if base:
        with _Aside(url, folder, "", [mirror], base) as look:
            config = look.run("cat-file", "blob", f"{base}:.lfsconfig")
    with _Aside(url, folder, "", [], "") as aside:
        # the settings of the rig's `.lfsconfig` count in the commit that is looked for, too
        blobs = {}
        for oid in asked:
            text = f"{_VERSION.decode()}oid sha256:{oid}\nsize {wanted[oid]}\n"
            write(os.path.join(aside.git_dir, oid), text)
            blobs[oid] = ""
        names = os.path.join(aside.git_dir, "names")
        if config is not None and not config.code:
            write(os.path.join(aside.git_dir, ".lfsconfig"), config.text + "\n")
            blobs[".lfsconfig"] = ""
        write(names, "".join(f"{os.path.join(aside.git_dir, name)}\n" for name in blobs))
        told = aside.must(
            *("hash-object", "-w", "--no-filters", "--stdin-paths"),
            doing="name objects",
            reason="lfs_failed",
            stdin=names,
        )
        entries = zip(blobs, told.text.split(), strict=True)
        write(names, "".join(f"100644 blob {blob}\t{name}\n" for name, blob in entries))
        tree = aside.must("mktree", doing="name objects", reason="lfs_failed", stdin=names).text
        somebody = {
            f"GIT_{role}_{what}": "outpost"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        commit = aside.must(
            *("commit-tree", "-m", "look", tree),
            doing="name objects",
            reason="lfs_failed",
            env=somebody,
        ).text
        write(os.path.join(aside.git_dir, "HEAD"), commit + "\n")
        done = aside.run("lfs", "fetch", "--include=", "--exclude=", "origin", commit)
        storage = os.path.join(aside.git_dir, "lfs")
        missing = [oid for oid in asked if not is_whole(object_path(storage, oid), oid)]
        if missing:
            some = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
            error = _error(aside, done.err or done.text, f"see the objects {some} on the rig")
            raise error


# --- what is kept ---------------------------------------------------------------------------------


def beside(bundle: str) -> str:
    """Return the folder with the objects that the commits of a bundle need."""
    return bundle.removesuffix(".bundle") + ".lfs"


def keep(
    git: Own,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    commit: str,
    bundle: str,
) -> None:
    """Keep the objects that a bundle needs in a folder beside it (as links where that can be).

    Raises:
        WorkerError: `lfs_failed`, an object that should be here is broken.
        OSError: it cannot be written.
    """
    if not lfs_used(git, workspace):
        return
    storages = _storages(git, order, folder)
    wanted = in_commits(git, folder, commit, workspace["base_commit"])
    bring(git, wanted)
    for oid, size in wanted.items():
        source = next((s for s in storages if _is_there(s, oid, size)), None)
        target = object_path(beside(bundle), oid)
        if source is None or is_whole(target, oid):
            continue
        take_in(object_path(source, oid), beside(bundle), oid)
        if not is_whole(target, oid):
            raise WorkerError(f"the object {oid} of git-lfs is broken here", reason="lfs_failed")
    faults.point("worker.lfs_kept")


def take_in(source: str, storage: str, oid: str) -> None:
    """Put an object into a folder `lfs`, as a link where that can be; it appears when it is whole.

    Raises:
        OSError: it cannot be written.
    """
    target = object_path(storage, oid)
    os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
    staged = f"{target}.{os.getpid()}.new"
    try:
        try:
            os.link(source, staged)
        except OSError:
            shutil.copyfile(source, staged)
        os.replace(staged, target)
    finally:
        if os.path.lexists(staged):
            os.unlink(staged)


def _restore(order: Mapping[str, Any], root: str, wanted: Mapping[str, int], storage: str) -> None:
    """Take objects that an earlier attempt kept here, as its bundle is taken."""
    if not order.get("resume"):
        return
    issue = order["issue"]["id"] + "."
    for place in ("workers", "rescued"):
        folder = os.path.join(root, place)
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if not name.startswith(issue):
                continue
            path = os.path.join(folder, name)
            kept = beside(os.path.join(path, "checkpoint.bundle")) if place == "workers" else path
            for oid, size in wanted.items():
                source = object_path(kept, oid)
                there = _is_there(storage, oid, size) or not _is_there(kept, oid, size)
                if not there and is_whole(source, oid):
                    take_in(source, storage, oid)
