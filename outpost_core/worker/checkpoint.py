"""Work in progress, committed aside and brought to safety while the agent goes on.

A checkpoint is a commit of everything in the working tree that is not ignored, on top of what
the agent has committed. It is made with an index of its own, so neither the agent's index nor its
HEAD nor its files change. It goes to the worker's own ref on the rig (`refs.py`), in the place of
the one before; where that cannot be, to a bundle in the worker's folder.
"""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_core.worker import bundles, held
from outpost_core.worker.changes import Changes, look, stage
from outpost_core.worker.git import NETWORK_TIMEOUT, Git, read, write
from outpost_core.worker.mirror import mirror_path
from outpost_core.worker.refs import OwnRef, ref_of, worker_of
from outpost_core.worker.resume import CHECKPOINT_MARK
from outpost_core.worker.workspace import credentials, lfs_used, repository, target

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Seconds that the push of one checkpoint may take; the next one tries again.
PUSH_TIMEOUT = min(120.0, NETWORK_TIMEOUT)
_IDENTITY = {
    "GIT_AUTHOR_NAME": "outpost",
    "GIT_AUTHOR_EMAIL": "outpost@localhost",
    "GIT_COMMITTER_NAME": "outpost",
    "GIT_COMMITTER_EMAIL": "outpost@localhost",
}


class _Last:
    """The last checkpoint, kept in `<folder>/checkpoint`: commit, tree, and where it is."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "checkpoint")
        lines = read(self.path).splitlines()
        self.commit, self.tree, self.kept = lines if len(lines) == 3 else ("", "", "")

    def write(self, commit: str, tree: str, kept: str) -> None:
        self.commit, self.tree, self.kept = commit, tree, kept
        write(self.path, f"{commit}\n{tree}\n{kept}\n")

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
    """What there is to save: the tree, HEAD, and whether any of it is new.

    Attributes:
        unfiltered: changed files that are in no commit of ours since their filter is missing.
        lacking: the filters that are missing.
    """

    __slots__ = ("head", "lacking", "new", "tree", "unfiltered")

    def __init__(self, tree: str, changes: Changes, new: bool) -> None:
        self.tree = tree
        self.head = changes.head
        self.new = new
        self.unfiltered = changes.unfiltered
        self.lacking = changes.lacking


def save(
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    *,
    ended: bool = False,
) -> dict[str, Any]:
    """Bring work that is not on the rig to safety. The agent may be at work meanwhile.

    Commits on other local branches and in stashes come along as further parents.

    Args:
        order: the order's JSON.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.
        ended: the agent's processes have ended, so that a broken repository can be mended.

    Returns:
        `ref` and `pushed` when the rig has it; else `kept`, the path of a bundle; `commit`; and
        `nothing` when there was nothing new: then the others tell of the checkpoint before, or
        are None when there is none; and `unfiltered`, the path of an archive with files whose
        filter is missing here, where there are any and the agent has ended.

    Raises:
        WorkerError: `commit_failed` or `disk_full`, it could not even be committed.
    """
    if ended:
        from outpost_core.worker.mending import mend

        mend(order, folder, workspace)
    git = repository(order, folder)
    last = _Last(folder)
    found = _find(git, folder, workspace, last.commit, last.tree)
    archive = held.keep(folder, found.unfiltered) if ended and found.unfiltered else None
    if found.new:
        commit = _commit(git, order, found, workspace)
        _send(git, order, folder, workspace, last, commit, found.tree, found.lacking)
    elif last.kept:  # it could not be pushed then; perhaps it can be now
        _send(git, order, folder, workspace, last, last.commit, last.tree, found.lacking)
    answer = last.answer(order, nothing=not found.new)
    return {**answer, "unfiltered": archive} if archive else answer


def unsaved(folder: str, workspace: Mapping[str, Any]) -> bool:
    """Return whether there is work that is neither on the rig nor in a checkpoint.

    Raises:
        WorkerError: `commit_failed`, nobody can tell.
    """
    work = os.path.join(folder, "work")
    git, last = Git(os.path.join(work, ".git"), work), _Last(folder)
    found = _find(git, folder, workspace, last.commit, last.tree)
    return found.new or not held.is_kept(folder, found.unfiltered)


def discard(git: Git, order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any]) -> None:
    """Take the checkpoint off the rig after a delivery, when nothing else needs it.

    It stays where the rig cannot be reached, or where the agent left more than was delivered.
    """
    last = _Last(folder)
    if not last.commit or _find(git, folder, workspace).new:
        return
    if not _own(git, order, folder, last).drop(PUSH_TIMEOUT):
        return
    if last.kept:
        _remove(last.kept)
    last.write("", "", "")


def place(order: Mapping[str, Any], folder: str) -> str | None:
    """Return where the last checkpoint is: a ref of the rig, a path, or None."""
    answer = _Last(folder).answer(order, nothing=True)
    where: str | None = answer["ref"] or answer["kept"]
    return where


def stashes(git: Git) -> list[str]:
    """Return the commits of everything that the agent stashed and left there."""
    lines = read(os.path.join(git.git_dir, "logs/refs/stash")).splitlines()
    return [line.split(" ")[1] for line in lines if line.count(" ") > 1]


def _find(
    git: Git, folder: str, workspace: Mapping[str, Any], commit: str = "", tree: str = ""
) -> _Found:
    """Look for work that is neither on the rig nor in the given commit and tree."""
    index = os.path.join(folder, f"checkpoint-{os.getpid()}.index")
    env = {"GIT_INDEX_FILE": index}
    try:
        _copy_index(os.path.join(git.git_dir, "index"), index)
        changes = look(git, env)
        held.hold(git, folder, changes)
        now = ""
        if changes.dirty:
            stage(git, os.path.join(folder, "work"), changes, folder, env=env)
            written = git.must("write-tree", doing="save", reason="commit_failed", env=env)
            now = written.text
    finally:
        for path in (index, index + ".lock"):
            if os.path.lexists(path):
                os.unlink(path)
    if now and now != tree:
        return _Found(now, changes, True)
    known = [known for known in (workspace["base_commit"], commit) if known]
    tips = ["--branches", *(["HEAD"] if changes.head else []), *stashes(git)]
    # the last checkpoint is missing from a repository that was made anew
    commits = git.must(
        *("rev-list", "--ignore-missing", "--max-count=1"),
        *(*tips, "--not", "--remotes=origin", *known),
        doing="look for commits",
        reason="commit_failed",
    )
    return _Found(now, changes, bool(commits.out))


def _copy_index(theirs: str, ours: str) -> None:
    """Copy the agent's index, if there is one: it tells which files git need not read again.

    The time of the index belongs to what it says: git reads a file again that was written in the
    same second as the index or later. With a copy that looks younger it would miss a change of the
    same size in the second of the checkout (https://git-scm.com/docs/racy-git).
    """
    try:
        with open(theirs, "rb") as source, open(ours, "wb") as copy:
            copy.write(source.read())
            copy.flush()
            written = os.fstat(source.fileno())
            os.utime(copy.fileno(), ns=(written.st_atime_ns, written.st_mtime_ns))
    except FileNotFoundError:
        pass


def _commit(git: Git, order: Mapping[str, Any], found: _Found, workspace: Mapping[str, Any]) -> str:
    base = [workspace["base_commit"]] if workspace["base_commit"] else []
    merged = [f"--no-merged={found.head}"] if found.head else []
    others = git.run("for-each-ref", *merged, "--format=%(objectname)", "refs/heads").text.split()
    others += stashes(git)
    others = [
        tip
        for tip in dict.fromkeys(others)
        if git.run("rev-list", "--max-count=1", tip, "--not", "--remotes=origin", *base).out
    ]
    if not found.tree and found.head and not others:
        return found.head
    tree = found.tree or f"{found.head}^{{tree}}"
    parents = [word for tip in (found.head, *others) if tip for word in ("-p", tip)]
    worker = worker_of(order)
    message = f"Checkpoint of {worker}\n\n{CHECKPOINT_MARK}{worker}"
    made = git.must(
        *("commit-tree", tree, *parents, "-m", message),
        doing="commit the checkpoint",
        reason="commit_failed",
        env=_IDENTITY,
    )
    return made.text


def _send(
    git: Git,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    last: _Last,
    commit: str,
    tree: str,
    lacking: set[str],
) -> None:
    """Push the checkpoint, else bundle it; `last` says which.

    What an agent has committed without a filter that is missing here goes into a bundle.
    """
    bundle = os.path.join(folder, bundles.NAME)
    if _push(git, order, folder, workspace, last, commit, lacking):
        last.write(commit, tree, "")
        _remove(bundle)
        return
    if last.commit == commit and last.kept and os.path.exists(last.kept):
        return
    if lfs_used(git, workspace):
        from outpost_core.worker import lfs

        lfs.keep(git, order, folder, workspace, commit, bundle)
    bundles.make(git, ref_of(order), commit, workspace["base_commit"], bundle)
    last.write(commit, tree, bundle)


def _push(
    git: Git,
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
    if lfs_used(git, workspace):
        from outpost_core.worker import lfs

        try:
            lfs.upload(git, order, folder, workspace, commit, lambda _: None)
        except WorkerError:
            return False
    return _own(git, order, folder, last).push(commit, PUSH_TIMEOUT)


def _own(git: Git, order: Mapping[str, Any], folder: str, last: _Last) -> OwnRef:
    """Return the worker's ref where its work goes, which is asked from the mirror.

    What the agent configured in its repository can lead a push and its answer elsewhere.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(folder)))
    goal = target(order)
    mirror = Git(mirror_path(root, order["rig"]), credentials=credentials(goal, folder), rig=goal)
    return OwnRef(git, mirror, ref_of(order), folder, last.pushed)


def _remove(bundle: str) -> None:
    """Remove a bundle that is not needed any more, and what lies beside it."""
    import shutil

    if os.path.exists(bundle):
        os.unlink(bundle)
    shutil.rmtree(bundle.removesuffix(".bundle") + ".lfs", ignore_errors=True)
