"""Checks out the submodules that an agent could not fetch, since the login is not for it.

Where git at a worker has a login that came with the work (`repository.credentials`), the agent has
none. So the submodules at the rig's own host, whose repositories that login opens, are there before
the agent begins, as after `git submodule update --init --recursive`. Those elsewhere are left to
it, as all are where the agent logs in as its user does.
"""

from __future__ import annotations

import os
import shutil

from outpost_core.errors import UsageError, WorkerError
from outpost_core.names import check_rig, redact, split_rig
from outpost_worker.repository import attributes, index
from outpost_worker.repository.git import Git, write
from outpost_worker.work.submodule_names import is_ours, named_in
from outpost_worker.work.submodule_push import resolve
from outpost_worker.work.target import credentials

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable

#: How deep submodules may be in submodules: one may name itself.
_DEEPEST = 8
#: The URL comes from a repository, not from the user, so what git allows for such counts.
_GUARDED = {"GIT_PROTOCOL_FROM_USER": "0"}


def bring(
    git: Git, url: str, folder: str, report: Callable[[str], None], top: str = "", depth: int = 0
) -> None:
    """Check out the submodules of a repository that are at its own host, and theirs.

    What cannot be fetched is reported, and its folder stays empty, as in a plain clone. Large files
    of git-lfs are pointers in them.

    Args:
        git: the repository, checked out.
        url: where it comes from.
        folder: the worker's folder.
        report: told what is being done.
        top: the repository's working tree; "" for the worker's.
        depth: how many repositories are around it.
    """
    top = top or os.path.join(folder, "work")
    links = index.links(git, os.path.join(git.git_dir, "index"))
    if not links or depth >= _DEEPEST:
        return
    for path, (name, told) in sorted(named_in(git, "HEAD").items()):
        own, place = os.path.join(git.git_dir, "modules", name), os.path.join(top, path)
        if path not in links or os.path.lexists(own) or not is_ours(git.git_dir, own):
            continue
        try:
            source = split_rig(check_rig(resolve(url, told)))[0]
        except UsageError:
            continue
        if host_of(source) != host_of(url):
            continue
        where = os.path.relpath(place, os.path.join(folder, "work"))
        report(f"fetching submodule {where}")
        try:
            sub = _check_out(own, place, source, links[path], credentials(source, folder))
        except (WorkerError, OSError) as error:
            why = error.message if isinstance(error, WorkerError) else str(error)
            report(f"submodule {where} is not there: {redact(why)}")
            shutil.rmtree(own, ignore_errors=True)
            shutil.rmtree(place, ignore_errors=True)
            os.makedirs(place, exist_ok=True)
            continue
        for key, value in (("active", "true"), ("url", source)):
            git.run("config", f"submodule.{name}.{key}", value)
        bring(sub, source, folder, report, place, depth + 1)


def host_of(url: str) -> tuple[str, str]:
    """Return how a remote is reached, and its host with the port; empty words for a path."""
    scheme, found, rest = url.partition("://")
    if found:
        scheme = "ssh" if "ssh" in scheme.lower() else scheme.lower()
        return scheme, rest.partition("/")[0].rpartition("@")[2].lower()
    if url.startswith("/") or ":" not in url:
        return "", ""
    return "ssh", url.partition(":")[0].rpartition("@")[2].lower()


def make(own: str, top: str, url: str, login: str = "", *, sha256: bool = False) -> Git:
    """Make the repository of a submodule, with no branch; returns git on it.

    Args:
        own: where it is to be.
        top: its working tree.
        url: its remote.
        login: as for `Git`.
        sha256: it has hashes of SHA-256.
    """
    for part in ("objects/info", "objects/pack", "refs/heads"):
        os.makedirs(os.path.join(own, part))
    quoted = url.replace("\\", "\\\\").replace('"', '\\"')
    tree = os.path.relpath(top, own).replace("\\", "\\\\").replace('"', '\\"')
    write(
        os.path.join(own, "config"),
        f"[core]\n\trepositoryformatversion = {int(sha256)}\n\tbare = false\n"
        f'\tworktree = "{tree}"\n'
        + ("[extensions]\n\tobjectformat = sha256\n" if sha256 else "")
        + f'[remote "origin"]\n\turl = "{quoted}"\n'
        "\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
    )
    write(os.path.join(own, "HEAD"), "ref: refs/heads/none\n")
    return Git(own, top, credentials=login)


def _check_out(own: str, top: str, url: str, commit: str, login: str) -> Git:
    """Fetch a submodule and check out the commit that is linked to.

    Raises:
        WorkerError: it cannot be fetched, or has no such commit.
        OSError: it cannot be written.
    """
    sub = make(own, top, url, login, sha256=len(commit) == 64)
    quiet = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    heads = "+refs/heads/*:refs/remotes/origin/*"
    done = sub.run(*quiet, "--", url, heads, env=_GUARDED)
    if done.code:
        raise sub.error(done, "fetch it", "workspace_failed")
    if sub.run("cat-file", "-e", commit + "^{commit}").code:  # of no branch, but perhaps there
        sub.run(*quiet, "--", url, commit, env=_GUARDED)
    os.makedirs(top, exist_ok=True)
    write(os.path.join(top, ".git"), f"gitdir: {os.path.relpath(own, top)}\n", 0o644)
    write(os.path.join(own, "HEAD"), commit + "\n")
    checkout = (*attributes.POINTERS, "read-tree", "--reset", "-u", commit)
    sub.must(*checkout, doing="check out", reason="workspace_failed")
    return sub
