"""Submodules at a delivery: their edits are committed, and their commits go to their own remotes.

A branch that links to a commit which nobody can fetch is of no use. So before the branch is
pushed, each commit that it links to has to be seen at the URL which its `.gitmodules` names. What
the agent configured (another URL, `insteadOf`, hooks) decides nothing: remotes are asked, and
pushed to, from a repository of our own that borrows the submodule's objects.
"""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_shared import faults
from outpost_worker.folder.folders import StrangeError
from outpost_worker.repository import gitdirs, held, index
from outpost_worker.repository.changes import look
from outpost_worker.repository.changeset import Changes
from outpost_worker.repository.git import Git, write
from outpost_worker.work.committing import check, commit_all, refuse_half_done
from outpost_worker.work.submodule_names import REASON, is_ours, names_of

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from outpost_worker.repository.owngit import Own
    from outpost_worker.work.submodule_names import Named


# --- before the commit ----------------------------------------------------------------------------


def commit(git: Own, order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any]) -> bool:
    """Commit what is uncommitted in submodules, inner ones first; what is none becomes files.

    A link to a repository that no `.gitmodules` names (`git add nested/`) is taken out of the
    index, so that the files are delivered: nobody could fetch what it links to.

    Args:
        git: the worker's repository.
        order: the order's JSON.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.

    Returns:
        Whether there are new changes in the working tree.

    Raises:
        WorkerError: `commit_failed` or `disk_full`; `submodule_unpushed` where files are in the
            folder of a submodule that was never initialised.
    """
    work = os.path.join(folder, "work")
    links = index.links(git, _index(git))
    if not links:
        return False
    named = _named_here(git, folder)
    base = workspace["base_commit"]
    known = index.links_of(git, base) if base else {}
    stray = [
        path
        for path in links
        if path not in named and path not in known and os.path.isdir(os.path.join(work, path))
    ]
    if stray:
        index.update(git, ["--force-remove"], stray, folder, None)
    made = _commit_below(git, order, folder, workspace, work, set(links).difference(stray))
    if made:
        faults.point("worker.submodules_committed")
    return made or bool(stray)


def _commit_below(
    git: Own,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    work: str,
    paths: set[str],
) -> bool:
    made = False
    for path in sorted(paths):
        top = os.path.join(work, path)
        try:
            sub = _reattach(git, work, folder, path)
            if sub is None:
                continue
            links = index.links(sub, _index(sub))
            made = _commit_below(sub, order, folder, workspace, top, set(links)) or made
            made = _commit_in(sub, order, folder, workspace["branch"], top) or made
        except WorkerError as error:
            error.message = f"submodule {path}: {error.message}"
            raise
    return made


def _commit_in(sub: Own, order: Mapping[str, Any], folder: str, branch: str, top: str) -> bool:
    index.uncover(sub, top, _index(sub), folder)
    changes = look(sub)
    if not changes.dirty:
        if changes.blind:
            check(sub, top, changes, [])
        return False
    refuse_half_done(sub, changes)
    untouched = _untouched(sub, folder, top, changes)
    changes.take_out(untouched, unfiltered=False)
    held.hold(sub, folder, changes, checkout=False)
    if changes.unfiltered:
        raise WorkerError(
            held.said(changes.unfiltered, changes.lacking), reason="filter_missing", hint=held.MEND
        )
    if untouched and not (changes.entries or changes.new or changes.nested):
        return False
    if changes.branch is None and changes.head and not _has(sub, f"refs/heads/{branch}"):
        for argv in (
            ("update-ref", f"refs/heads/{branch}", changes.head),
            ("symbolic-ref", "HEAD", f"refs/heads/{branch}"),
        ):
            sub.must(*argv, doing="begin a branch", reason="commit_failed")
    tip = commit_all(sub, order, folder, top, changes)
    check(sub, top, look(sub), changes.held)
    return tip != changes.head


def _untouched(sub: Git, folder: str, top: str, changes: Changes) -> set[str]:
    """Return changed files whose bytes are those of HEAD: only attributes call them different."""
    known = {
        path: value
        for path, (kind, _, value) in changes.entries.items()
        if kind == "." and "\n" not in path and path[0] != '"' and _is_file(f"{top}/{path}")
    }
    if not known:
        return set()
    listing = os.path.join(folder, f"paths-{os.getpid()}")
    write(listing, "".join(f"{path}\n" for path in known))
    try:
        told = sub.run("hash-object", "--no-filters", "--stdin-paths", stdin=listing)
    finally:
        os.unlink(listing)
    same = zip(known.items(), told.text.splitlines(), strict=False)
    return {path for (path, value), now in same if now == value}


def _is_file(path: str) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)


def _reattach(git: Own, work: str, folder: str, path: str) -> Own | None:
    """Return git on our repository of a submodule that is checked out; None where it never was.

    Where only its `.git` is missing, the repository is found by the submodule's name.
    """
    top = os.path.join(work, path)
    git_dir = gitdirs.of(top)
    if not git_dir and any(files for _, _, files in os.walk(top)):
        named = _named_here(git, folder)
        own = os.path.join(git.theirs, "modules", named[path][0] if path in named else path)
        if not os.path.isfile(os.path.join(own, "HEAD")) or not is_ours(folder, own):
            raise WorkerError(
                f"there are files in {top}, the folder of a submodule that is not checked out,"
                " so no commit can hold them",
                reason=REASON,
                hint="initialise the submodule before the agent writes to it"
                " (git submodule update --init), or let the agent do it",
            )
        git.attach(path, own)
        git_dir = own
    if not git_dir:
        return None
    sub = git.of(git_dir, git.walk(top))
    if is_ours(folder, git_dir):
        return sub
    listed = ("ls-files", "--modified", "--others", "--exclude-standard", "-z")
    if sub.must(*listed, doing="look for changes", reason="commit_failed").out:
        raise WorkerError(
            f"its repository is {git_dir}, which is not the worker's, so what is not committed"
            " there was not committed",
            reason=REASON,
            hint="commit it there, or take the files from the archive",
        )
    return None


# --- before the push ------------------------------------------------------------------------------


def push(
    git: Own,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    commit: str,
    report: Callable[[str], None],
) -> None:
    """Let the remotes of the submodules show what a commit links to, and see it there.

    Args:
        git: the worker's repository.
        order: the order's JSON.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.
        commit: what is to be delivered.
        report: told what is being done.

    Raises:
        WorkerError: `submodule_unpushed`, naming submodule, commit, URL and cause.
    """
    if not index.links(git, _index(git)) and git.tip() == commit:
        return  # what git processes would say: there are no submodules
    from outpost_worker.work.submodule_push import Sender

    if Sender(order, folder, workspace["branch"], report).send(
        git, order["rig"], commit, workspace["base_commit"]
    ):
        faults.point("worker.submodules_pushed")


def _named_here(git: Own, folder: str) -> Named:
    """Return the submodules that the `.gitmodules` in a working tree names."""
    assert git.top is not None
    try:
        said = git.top.read(".gitmodules", 1 << 20)
    except StrangeError:
        return {}
    if said is None:
        return {}
    listing = os.path.join(folder, f"gitmodules-{os.getpid()}")
    write(listing, os.fsdecode(said))
    try:
        return names_of(git, "-f", listing)
    finally:
        os.unlink(listing)


def _index(git: Git) -> str:
    return os.path.join(git.git_dir, "index")


def _has(git: Git, ref: str) -> bool:
    return not git.run("rev-parse", "--quiet", "--verify", ref).code
