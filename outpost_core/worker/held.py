"""Changed files that must not get into a commit of ours, and what becomes of them.

Two kinds: what only the checkout made different (`dirt.py`), and files whose attributes name a
filter that cannot be run here. The second would go out as they stand in the tree, in plain text
where the filter encrypts; they are kept in an archive on this machine and pushed nowhere.
"""

from __future__ import annotations

import os

from outpost_core import faults
from outpost_core.errors import WorkerError
from outpost_core.worker import attributes, dirt
from outpost_core.worker.git import Git, write

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from outpost_core.worker.changes import Changes

MEND = (
    "install and configure the filter on the outpost (git config --global filter.NAME.clean …),"
    " then take the files from the archive"
)


def hold(git: Git, folder: str, changes: Changes, *, checkout: bool = True) -> None:
    """Take out of the changes what must not be committed: into `changes.dirt` and `.unfiltered`.

    Args:
        git: the worker's repository.
        folder: the worker's folder.
        changes: what `look` found; changed in place.
        checkout: it is the tree that was checked out for the worker, no other one inside it.

    Raises:
        WorkerError: `commit_failed`, the attributes cannot be read.
    """
    if checkout:
        changes.take_out(dirt.unchanged(folder, changes.entries), unfiltered=False)
    names = attributes.filters(attributes.texts(git, [*changes.entries, *changes.new]))
    changes.filters = names
    changes.lacking = attributes.lacking(git, names)
    changes.take_out(
        under(git, folder, changes.lacking, [*changes.entries, *changes.new]), unfiltered=True
    )


def under(git: Git, folder: str, names: Iterable[str], paths: Iterable[str]) -> set[str]:
    """Return those of the paths whose attributes name one of the filters."""
    names, paths = set(names), list(paths)
    if not names or not paths:
        return set()
    listing = os.path.join(folder, f"paths-{os.getpid()}")
    write(listing, "".join(f"{path}\0" for path in paths))
    try:
        told = git.must(
            *("check-attr", "-z", "--stdin", "filter"),
            doing="read the attributes",
            reason="commit_failed",
            stdin=listing,
        )
    finally:
        os.unlink(listing)
    fields = os.fsdecode(told.out).split("\0")
    return {path for path, value in zip(fields[::3], fields[2::3], strict=False) if value in names}


def fails(git: Git, folder: str, changes: Changes, said: str) -> bool:
    """Take out the files of a filter that failed when it was run; False when none did.

    Args:
        git: the worker's repository.
        folder: the worker's folder.
        changes: changed in place.
        said: the errors of git.
    """
    parts = said.split("clean filter '")[1:]
    failed = {part.partition("' failed")[0] for part in parts if "' failed" in part}
    failed -= changes.lacking
    if not failed:
        return False
    changes.lacking |= failed
    paths = under(git, folder, failed, [*changes.entries, *changes.new])
    changes.take_out(paths, unfiltered=True)
    return bool(paths)


def required(changes: Changes) -> list[str]:
    """Return options of git with which a filter that fails is an error, not a file as it stands."""
    return [
        word
        for name in sorted(changes.filters - changes.lacking)
        for word in ("-c", f"filter.{name}.required=true")
    ]


def shut_out(
    git: Git, folder: str, changes: Changes, env: Mapping[str, str] | None = None
) -> list[str]:
    """Let the index show what is held as it is in HEAD; returns options of `git add` besides.

    Args:
        git: the worker's repository.
        folder: the worker's folder.
        changes: what `hold` left.
        env: with `GIT_INDEX_FILE`, for an index of our own.

    Raises:
        WorkerError: `commit_failed`.
    """
    staged, known = [], []
    for path in changes.held:
        entry = changes.known.get(path)
        if entry is None:
            continue  # git does not know it yet
        kind, mode, value = entry
        there = set(value) != {"0"}
        if kind != ".":
            staged.append(f"{mode} {value}\t{path}\0" if there else f"0 {value}\t{path}\0")
        if there:
            known.append(f"{path}\0")
    for argv, lines in (("--index-info",), staged), (("--assume-unchanged", "--stdin"), known):
        if lines:
            listing = os.path.join(folder, f"held-{os.getpid()}")
            write(listing, "".join(lines))
            try:
                git.must(
                    *("update-index", "-z", *argv),
                    doing="leave files out",
                    reason="commit_failed",
                    stdin=listing,
                    env=env,
                )
            finally:
                os.unlink(listing)
    return [
        f":(exclude,literal){path}"
        for path in changes.held
        if path not in changes.known or set(changes.known[path][2]) == {"0"}
    ]


# --- what becomes of files without their filter ---------------------------------------------------


def archive_path(folder: str) -> str:
    """Return where the files are kept whose filter is missing."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(folder)))
    return os.path.join(root, "rescued", f"{os.path.basename(folder)}.unfiltered.tar")


def keep(folder: str, paths: Iterable[str]) -> str:
    """Put files into the archive of this worker, and read it back; returns its path.

    Args:
        folder: the worker's folder.
        paths: of files in the working tree; one that is gone or no file is passed over.

    Raises:
        WorkerError: `commit_failed` or `disk_full`, not all of them are kept.
    """
    import tarfile

    path, work = archive_path(folder), os.path.join(folder, "work")
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    names = sorted(name for name in paths if _is_file(os.path.join(work, name)))
    staged = f"{path}.{os.getpid()}.new"
    try:
        fd = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w+b") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name in names:
                    tar.add(os.path.join(work, name), arcname=name, recursive=False)
            file.flush()
            os.fsync(file.fileno())
        if not _holds(staged, work, names):
            raise OSError(0, "it does not hold what it should")
        os.rename(staged, path)
    except OSError as error:
        if os.path.exists(staged):
            os.unlink(staged)
        some = ", ".join(names[:5])
        raise WorkerError(
            f"{some}: the filter is missing and the archive {path} could not be written: {error}",
            reason="disk_full" if error.errno == 28 else "commit_failed",
        ) from error
    faults.point("worker.unfiltered_kept")
    return path


def is_kept(folder: str, paths: Iterable[str]) -> bool:
    """Whether the archive holds all of these files as they are."""
    work = os.path.join(folder, "work")
    names = [name for name in paths if _is_file(os.path.join(work, name))]
    return not names or _holds(archive_path(folder), work, names)


def _is_file(path: str) -> bool:
    return os.path.islink(path) or os.path.isfile(path)


def _holds(path: str, work: str, names: Iterable[str]) -> bool:
    import tarfile

    try:
        with tarfile.open(path, "r:") as tar:
            return all(_same(tar, name, os.path.join(work, name)) for name in names)
    except (OSError, KeyError, tarfile.TarError):
        return False


def _same(tar: object, name: str, path: str) -> bool:
    import tarfile

    assert isinstance(tar, tarfile.TarFile)
    member = tar.getmember(name)
    if member.issym() or os.path.islink(path):
        return member.issym() and member.linkname == os.readlink(path)
    if member.islnk():
        member = tar.getmember(member.linkname)
    kept = tar.extractfile(member)
    if kept is None:
        return False
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            if kept.read(len(data)) != data:
                return False
    return not kept.read(1)


def said(paths: Iterable[str], filters: Iterable[str]) -> str:
    """Return a sentence that names files whose filter is missing."""
    paths = sorted(paths)
    some = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
    names = ", ".join(sorted(filters))
    return f"{some}: the filter {names} is missing here, so it was not committed"


def leaks(
    git: Git, folder: str, workspace: Mapping[str, object], lacking: Iterable[str], commit: str
) -> list[str]:
    """Return files of commits that the rig does not have, committed without their filter.

    Args:
        git: the worker's repository.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.
        lacking: filters that cannot be run here.
        commit: the newest of the commits.

    Raises:
        WorkerError: `commit_failed`.
    """
    if not lacking or not commit:
        return []
    base = [str(workspace["base_commit"])] if workspace["base_commit"] else []
    listed = git.must(
        *("log", "--format=", "--name-only", "-z", "--no-renames", "--diff-filter=AMT", "-c"),
        *(commit, "--not", "--remotes=origin", *base, "--"),
        doing="look through the commits",
        reason="commit_failed",
    )
    names = {name.lstrip("\n") for name in os.fsdecode(listed.out).split("\0") if name}
    return sorted(under(git, folder, lacking, names))
