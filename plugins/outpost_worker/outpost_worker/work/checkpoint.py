"""Work in progress, committed aside and brought to safety while the agent continues.

A checkpoint is a commit of everything in the working tree that is not ignored, on top of what
the agent has committed. It is made with an index of its own, so neither the agent's index nor its
HEAD nor its files change. It goes to the worker's own ref on the rig (`refs.py`), in the place of
the one before; where that cannot be, to a bundle in the worker's folder.
"""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_core.names import ref_of, worker_of
from outpost_worker.folder import files
from outpost_worker.repository import bundles, held
from outpost_worker.repository.git import NETWORK_TIMEOUT
from outpost_worker.repository.refs import OwnRef
from outpost_worker.repository.snapshot import Taken, commit, linked_work, take
from outpost_worker.work import aside
from outpost_worker.work.aside import stashes
from outpost_worker.work.resume import CHECKPOINT_MARK
from outpost_worker.work.target import claimed, lfs_used
from outpost_worker.work.workspace import from_mirror, repository

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from outpost_worker.repository.owngit import Own

#: In the worker's folder.
_NOTE = "checkpoint"
#: Seconds that the push of one checkpoint may take; the next one tries again.
PUSH_TIMEOUT = min(120.0, NETWORK_TIMEOUT)


def _is_hash(value: str) -> bool:
    """Whether a line of the note is a commit or a tree, or empty for none."""
    return not value or (len(value) in (40, 64) and set(value) <= set("0123456789abcdef"))


class _Last:
    """The last checkpoint, kept in `<folder>/checkpoint`: commit, tree, and where it is.

    A note that says what ours never does is somebody else's, and counts as none: what it names
    is removed once it is not needed, which may be nothing but the worker's own bundle.
    """

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, _NOTE)
        lines = files.load_text(folder, _NOTE).splitlines()
        commit, tree, kept = lines if len(lines) == 3 else ("", "", "")
        ours = all(map(_is_hash, (commit, tree))) and kept in (
            "",
            os.path.join(folder, bundles.NAME),
        )
        self.commit, self.tree, self.kept = (commit, tree, kept) if ours else ("", "", "")

    def write(self, commit: str, tree: str, kept: str) -> None:
        self.commit, self.tree, self.kept = commit, tree, kept
        files.write(self.path, f"{commit}\n{tree}\n{kept}\n".encode())

    @property
    def pushed(self) -> str:
        """The commit that is on the rig, "" when it is elsewhere."""
        return "" if self.kept else self.commit

    def answer(self, order: Mapping[str, Any], *, nothing: bool) -> dict[str, Any]:
        return {
            "ref": ref_of(order) if self.commit and not self.kept else None,
            "commit": self.commit or None,
            "pushed": bool(self.commit) and not self.kept,
            "kept": self.kept or None,
            "nothing": nothing,
        }


class _Found:
    """What there is to save.

    Attributes:
        taken: the working tree.
        linked: working trees that are linked to the repository, by commit.
        new: there is something that is neither on the rig nor in the last checkpoint.
    """

    __slots__ = ("linked", "new", "taken")

    def __init__(self, taken: Taken, linked: dict[str, Taken], new: bool) -> None:
        self.taken = taken
        self.linked = linked
        self.new = new

    @property
    def lacking(self) -> set[str]:
        """The filters that are missing here."""
        return set().union(*(each.lacking for each in (self.taken, *self.linked.values())))


def save(
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    *,
    ended: bool = False,
    final: bool = False,
) -> dict[str, Any]:
    """Bring work that is not on the rig to safety. The agent may be at work meanwhile.

    Commits on other local branches, in stashes and of linked working trees come along as further
    parents. Commits of other repositories in the tree are kept in an archive; once the agent has
    ended, also whatever else cannot be in a commit of the rig.

    Args:
        order: the order's JSON.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.
        ended: the agent's processes have ended, so that a broken repository can be repaired.
        final: they have ended and the repository was repaired.

    Returns:
        `ref` and `pushed` when the rig has it; else `kept`, the path of a bundle; `commit`; and
        `nothing` when there was nothing new: then the others tell of the checkpoint before, or
        are None when there is none. Only where there is any: `archive`, its path;
        `unfiltered`, the path of an archive with files whose filter is missing here; and
        `unreadable`, the files and folders that nobody can save, with the reason.

    Raises:
        WorkerError: `commit_failed` or `disk_full`, it could not even be committed.
    """
    git = repository(order, folder)
    if not ended:
        git.clear(ended=final)
        git.take()
        return _save(git, order, folder, workspace, final=final)
    from outpost_worker.work.repair import heal, mend

    mend(git, folder, workspace)
    try:
        return _save(git, order, folder, workspace, final=True)
    except WorkerError as error:
        if error.reason != "commit_failed" or not heal(git, folder, workspace):
            raise
    return _save(git, order, folder, workspace, final=True)


def _save(
    git: Own, order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any], *, final: bool
) -> dict[str, Any]:
    """Save what was taken over, and say where it is."""
    last = _Last(folder)
    found = _find(git, folder, workspace, last.commit, last.tree, final=final)
    rest = _keep_aside(git, folder, workspace, found) if final else {}
    if found.new:
        made = _commit(git, order, found, workspace)
        _send(git, order, folder, workspace, last, made, found.taken.tree, found.lacking)
    elif last.kept or (
        final
        and last.commit
        and not _own(git, order, folder, workspace, last).shows(last.commit, PUSH_TIMEOUT)
    ):
        # it could not be pushed then, perhaps it can be now; or it was taken off the rig
        _send(git, order, folder, workspace, last, last.commit, last.tree, found.lacking)
    if not final and git.has_others():
        rest = _keep_commits(git, folder, workspace, found)
    return {**last.answer(order, nothing=not found.new), **rest}


def _keep_aside(
    git: Own, folder: str, workspace: Mapping[str, Any], found: _Found
) -> dict[str, Any]:
    """Keep what cannot be in a commit of the rig, and say where."""
    more = aside.collect(git, folder, workspace, found.taken, found.linked, final=True)
    archive = aside.keep(more, folder)
    rest: dict[str, Any] = {"archive": archive} if archive else {}
    if more.unreadable:
        rest["unreadable"] = more.unreadable
    if found.taken.unfiltered:
        rest["unfiltered"] = held.keep(folder, found.taken.unfiltered)
    return rest


def _keep_commits(
    git: Own, folder: str, workspace: Mapping[str, Any], found: _Found
) -> dict[str, Any]:
    """Keep the commits of other repositories in the tree while the agent may be at work there."""
    try:
        more = aside.collect(git, folder, workspace, found.taken, found.linked, final=False)
        more.files.clear()
        archive = aside.keep(more, folder)
    except WorkerError:
        return {}  # it changed under way; the next checkpoint looks again
    return {"archive": archive} if archive else {}


def unsaved(folder: str, workspace: Mapping[str, Any]) -> bool:
    """Return whether there is work that is neither on the rig nor kept.

    Raises:
        WorkerError: `commit_failed`, nobody can tell.
    """
    order, last = files.order(folder), _Last(folder)
    git = repository(order, folder)
    git.clear(ended=True)
    git.take()
    found = _find(git, folder, workspace, last.commit, last.tree, final=True)
    more = aside.collect(git, folder, workspace, found.taken, found.linked, final=True)
    return (
        found.new
        or bool(more.unreadable)
        or not (aside.is_kept(more, folder) and held.is_kept(folder, found.taken.unfiltered))
    )


def discard(git: Own, order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any]) -> None:
    """Take checkpoint and archive away after a delivery, when nothing else needs them.

    It stays where the rig cannot be reached, or where the agent left more than was delivered.
    """
    last, archive = _Last(folder), aside.place(folder)
    there = last.commit or workspace.get("checkpoint")
    if not there and not archive:
        return
    found = _find(git, folder, workspace, final=True)
    if archive:
        more = aside.collect(git, folder, workspace, found.taken, found.linked, final=True)
        if not more.mark() and not more.unreadable:
            aside.discard(folder)
    if not there or found.new:
        return
    if not _own(git, order, folder, workspace, last).drop(PUSH_TIMEOUT):
        return
    if last.kept:
        _remove(last.kept)
    last.write("", "", "")


def place(order: Mapping[str, Any], folder: str) -> str | None:
    """Return where the last checkpoint is: a ref of the rig, a path, or None.

    Not all of it need be there: files that git does not take are in `aside.place` besides.
    """
    answer = _Last(folder).answer(order, nothing=True)
    where: str | None = answer["ref"] or answer["kept"] or aside.place(folder) or None
    return where


def _find(
    git: Own,
    folder: str,
    workspace: Mapping[str, Any],
    last_commit: str = "",
    last_tree: str = "",
    *,
    final: bool,
) -> _Found:
    """Look for work that is neither on the rig nor in the given commit and tree."""
    taken = take(git, os.path.join(folder, "work"), folder, final=final, main=True)
    linked = linked_work(git, folder, final=final)
    if taken.tree and taken.tree != last_tree:
        return _Found(taken, linked, True)
    # the branch that it delivers to was seen on the rig, under whichever name it is here
    there = (workspace["base_commit"], workspace.get("remote_tip"), last_commit)
    known = [known for known in there if known]
    tips = ["--branches", *(["HEAD"] if taken.head else []), *stashes(git), *linked]
    # the last checkpoint is missing from a repository that was made anew
    commits = git.must(
        *("rev-list", "--ignore-missing", "--max-count=1"),
        *(*tips, "--not", "--remotes=origin", *known),
        doing="look for commits",
        reason="commit_failed",
    )
    return _Found(taken, linked, bool(commits.out))


def _commit(git: Own, order: Mapping[str, Any], found: _Found, workspace: Mapping[str, Any]) -> str:
    base = [workspace["base_commit"]] if workspace["base_commit"] else []
    head, tree = found.taken.head, found.taken.tree
    merged = [f"--no-merged={head}"] if head else []
    others = git.run("for-each-ref", *merged, "--format=%(objectname)", "refs/heads").text.split()
    others += [*stashes(git), *found.linked]
    others = [
        tip
        for tip in dict.fromkeys(others)
        if tip != head
        and git.run("rev-list", "--max-count=1", tip, "--not", "--remotes=origin", *base).out
    ]
    if not tree and head and not others:
        return head
    parents = [tip for tip in (head, *others) if tip]
    worker = worker_of(order)
    message = f"Checkpoint of {worker}\n\n{CHECKPOINT_MARK}{worker}"
    return commit(git, tree or f"{parents[0]}^{{tree}}", parents, message)


def _send(
    git: Own,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    last: _Last,
    made: str,
    tree: str,
    lacking: set[str],
) -> None:
    """Push the checkpoint, else bundle it; `last` says which.

    What an agent has committed without a filter that is missing here goes into a bundle.
    """
    bundle = os.path.join(folder, bundles.NAME)
    if _push(git, order, folder, workspace, last, made, lacking):
        last.write(made, tree, "")
        _remove(bundle)
        return
    if last.commit == made and last.kept and os.path.exists(last.kept):
        return
    if lfs_used(git, workspace):
        from outpost_worker.work import lfs

        lfs.keep(git, order, folder, workspace, made, bundle)
    bundles.make(git, ref_of(order), made, workspace["base_commit"], bundle)
    last.write(made, tree, bundle)


def _push(
    git: Own,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    last: _Last,
    commit: str,
    lacking: set[str],
) -> bool:
    """Push a checkpoint; False when it was not taken, or must not leave this machine."""
    if held.leaks(git, folder, workspace, lacking, commit):
        return False
    standing = claimed(order, folder)
    if standing:
        try:
            standing.check()
        except WorkerError:  # it is another machine's ref by now, or may be
            return False
    if lfs_used(git, workspace):
        from outpost_worker.work import lfs

        try:
            lfs.upload(git, order, folder, workspace, commit, lambda _: None)
        except WorkerError:
            return False
    return _own(git, order, folder, workspace, last).push(commit, PUSH_TIMEOUT)


def _own(
    git: Own,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    last: _Last,
) -> OwnRef:
    """Return the worker's ref where its work goes, which is asked from the mirror."""
    before = last.pushed or workspace.get("checkpoint") or ""
    return OwnRef(git, from_mirror(order, folder), ref_of(order), folder, before)


def _remove(bundle: str) -> None:
    """Remove a bundle that is not needed any more, and what lies beside it."""
    import shutil

    if os.path.exists(bundle):
        os.unlink(bundle)
    shutil.rmtree(bundle.removesuffix(".bundle") + ".lfs", ignore_errors=True)
