"""Going on from what an earlier attempt left: a checkpoint on the rig, or a bundle here."""

from __future__ import annotations

from outpost_core.errors import WorkerError
from outpost_core.names import REFS
from outpost_worker.repository import bundles

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from outpost_worker.repository.git import Git
    from outpost_worker.repository.remotestate import RemoteState

#: The last line of a checkpoint's message, by which one is known.
CHECKPOINT_MARK = "Outpost-Checkpoint: "


def bring(
    git: Git, resume: str, root: str, seen: RemoteState, *, here: bool = True
) -> tuple[str, str]:
    """Return the commit to begin at and the tree to check out, brought into the repository.

    A bundle that is kept here is newer than what the rig has under the same name.

    Args:
        git: git on the worker's repository, whose remote `outpost` is the rig.
        resume: the ref of an earlier attempt's checkpoint, or a commit.
        root: the state root, where bundles are.
        seen: the rig.
        here: checkpoints are on the rig itself, not on a fork of it.

    Raises:
        WorkerError: `base_not_found`, it is not there or cannot be used.
    """
    if resume.startswith(REFS):
        bundle = bundles.find(root, resume)
        if bundle:
            bundles.take(git, bundle, resume)
        elif resume in seen.refs or not here:
            _fetch(git, resume, f"+{resume}:{resume}")
        else:
            raise _cannot(resume, "the rig has no such ref, and no bundle of it is kept here")
    elif len(resume) not in (40, 64) or not set(resume) <= set("0123456789abcdef"):
        raise _cannot(resume, "that is neither refs/outpost/… nor a whole commit hash")
    elif git.run("cat-file", "-e", resume + "^{commit}").code:
        _fetch(git, resume, resume)
    commit = git.must(
        *("rev-parse", "--verify", resume + "^{commit}"),
        doing="find the checkpoint",
        reason="base_not_found",
    ).text
    text = git.must("cat-file", "commit", commit, doing="read it", reason="base_not_found").text
    head, _, message = text.partition("\n\n")
    parents = [line[7:] for line in head.splitlines() if line.startswith("parent ")]
    if parents and CHECKPOINT_MARK in message.rpartition("\n")[2]:
        return parents[0], commit
    return commit, commit


def _fetch(git: Git, resume: str, what: str) -> None:
    quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    fetched = git.run("fetch", *quiet, "--", "outpost", what)
    if fetched.code:
        raise _cannot(resume, git.words(fetched))


def _cannot(resume: str, why: str) -> WorkerError:
    return WorkerError(
        f"could not resume from {resume}: {why}",
        reason="base_not_found",
        hint="spawn it where the bundle is kept, with --on; outpost show ID of the attempt before"
        " names the place",
    )
