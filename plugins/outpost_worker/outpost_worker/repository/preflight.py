"""What would fail hours later is found before the agent runs, from what is known already.

Nothing here asks a remote; git is only asked where something has failed.
"""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_core.names import redact
from outpost_shared.programs import NOWHERE
from outpost_worker.repository.git import Git, read
from outpost_worker.repository.proof import DamagedError

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HEADS = "refs/heads/"
#: Seconds for looking through a whole mirror after a fetch has failed.
_SOUND = 300.0
#: Who commits where nobody knows better: without a name, git refuses to.
NOBODY = {"name": "outpost", "email": "outpost@localhost"}

#: What git says of a repository that is broken, rather than of one that is not reached.
_DAMAGE = (
    "bad config", "bad object", "bad pack header", "corrupt", "could not fetch",
    "did not send all necessary objects", "invalid index-pack output", "lazy fetching disabled",
    "loose object", "missing blob", "missing tree", "not a git repository", "object file",
    "packfile", "promisor", "shallow", "unable to read", "unresolved delta",
)  # fmt: skip


def check_branch_free(branch: str, refs: Iterable[str], rig: str) -> None:
    """See that nothing on the rig keeps a branch from being made there.

    Args:
        branch: the branch that the work goes to.
        refs: every ref of the repository that it is pushed to.
        rig: that repository.

    Raises:
        WorkerError: `branch_blocked`.
    """
    other = blocking(branch, refs, ignore_case=_ignores_case(rig))
    if other:
        raise WorkerError(
            f"the rig has a branch {other}, so that none there can be called {branch}",
            reason="branch_blocked",
            hint=f"choose another name with --branch, or rename {other} on the rig",
        )


def blocking(branch: str, refs: Iterable[str], *, ignore_case: bool) -> str:
    """Return a branch that `branch` cannot be beside; "" when there is none.

    A branch is a file, and a part of its name before a slash is a folder: for real at many hosts,
    as a rule at all. Where the files of a repository ignore case, so do its branches.

    Args:
        branch: the one to be made.
        refs: all refs that are there.
        ignore_case: whether the host's files do.
    """
    wanted = branch.lower() if ignore_case else branch
    for ref in refs:
        if not ref.startswith(_HEADS):
            continue
        name = ref[len(_HEADS) :]
        there = name.lower() if ignore_case else name
        if wanted.startswith(there + "/") or there.startswith(wanted + "/"):
            return name
        if there == wanted and name != branch:
            return name
    return ""


def _ignores_case(rig: str) -> bool:
    """Whether the file system of a rig of this machine ignores case; False for a URL."""
    if not rig.startswith("/"):
        return False
    for folder in (os.path.join(rig, ".git"), rig):
        if os.path.exists(os.path.join(folder, "HEAD")):
            return os.path.exists(os.path.join(folder, "hEaD"))
    return False


def explain_fetch(error: WorkerError, git: Git, rig: str) -> WorkerError:
    """Return a fetch's error with whose fault it is: the rig's, or the mirror's (`DamagedError`).

    Args:
        error: what the fetch ended with.
        git: git with the mirror's objects.
        rig: the rig.
    """
    if "dubious ownership" in error.message:
        error.hint = (
            f"at the outpost, when you trust it: git config --global --add safe.directory {rig}"
        )
        return error
    if not any(sign in error.message for sign in _DAMAGE):
        return error
    if "bad config" in error.message and git.git_dir not in error.message:
        error.hint = "correct that file at the outpost; git config --list says when it can be read"
        return error
    if rig.startswith("/"):
        origin, partial = _promised(rig)
        if partial:
            instead = f"--rig {redact(origin)}" if origin else "--rig with the URL of its origin"
            return WorkerError(
                f"{rig} is a partial clone, which lacks objects that a worker needs",
                reason="rig_partial",
                hint=f"name where it was cloned from: {instead}; or complete it: git -C {rig}"
                " fetch --refetch --no-filter",
            )
    whole = ("fsck", "--connectivity-only", "--no-dangling", "--no-progress")
    if git.git_dir != NOWHERE and git.run(*whole, timeout=_SOUND).code:
        return DamagedError(error.message, reason=error.reason, hint="see to the outpost's disk")
    error.hint = f"the mirror at the outpost is sound; look at the rig: git -C {rig} fsck"
    if "://" in rig or not rig.startswith("/"):
        error.hint = "the mirror at the outpost is sound; look at the rig with git fsck"
    return error


def _promised(rig: str) -> tuple[str, bool]:
    """Return where a rig of this machine was cloned from, and whether only a part of it was."""
    top = os.path.join(rig, ".git")
    wanted = r"^remote\..*\.(promisor|partialclonefilter|url)$"
    asked = Git(top if os.path.isdir(top) else rig).run("config", "--get-regexp", wanted)
    urls, partial = {}, ""
    for line in asked.text.splitlines():
        key, _, value = line.partition(" ")
        name, _, what = key[len("remote.") :].rpartition(".")
        if what == "url":
            urls[name] = value
        elif value != "false":
            partial = name
    return urls.get(partial, ""), bool(partial)


def identity(delivery: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return `name` and `email` that a worker's repository has to say, where git needs them.

    What the order says as its author comes first, then what git knows at this machine (which
    need not be written), then who ordered it, and at last somebody, since git commits nothing
    without. git's own files are read here: asking git would cost a process for every worker.

    Args:
        delivery: of the order.
        environ: of the agent; says where git's configuration is.
    """
    found = {key: delivery["author_" + key] for key in NOBODY if delivery.get("author_" + key)}
    if len(found) < len(NOBODY):
        known = _known(environ)
        for key, nobody in NOBODY.items():
            if key not in found and key not in known:
                found[key] = delivery.get("user_" + key) or nobody
    return found


def _known(environ: Mapping[str, str]) -> set[str]:
    """Return which of `name` and `email` the configuration of this machine or user says."""
    known: set[str] = set()
    section = ""
    for line in "\n".join(map(read, _files(environ))).splitlines():
        words = line.strip()
        if words.startswith("["):
            section, _, words = words[1:].partition("]")
            section = section.strip().lower()
        key, found, value = words.partition("=")
        if section == "user" and found and value.strip(' "'):
            known.add(key.strip().lower())
        elif section.startswith("include"):  # only git can tell what that is
            git = Git("/")
            return {key for key in NOBODY if git.run("config", "--get", "user." + key).text}
    return known


def _files(environ: Mapping[str, str]) -> list[str]:
    home = environ.get("HOME") or ""
    own = environ.get("XDG_CONFIG_HOME") or (home and os.path.join(home, ".config"))
    files = ["/etc/gitconfig"]
    if "GIT_CONFIG_GLOBAL" in environ:
        return [*files, environ["GIT_CONFIG_GLOBAL"]]
    files += [os.path.join(own, "git/config")] if own else []
    files += [os.path.join(home, ".gitconfig")] if home else []
    return files
