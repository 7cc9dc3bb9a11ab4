"""A private repository and working tree for one worker, in two or three git processes.

The repository is written by hand: `git init`, `git clone` and `git worktree add` would each cost
more processes than all that is needed. It borrows the mirror's objects, so nothing is copied,
and has its own refs and configuration, so that no agent can disturb the mirror or another worker.
"""

from __future__ import annotations

import errno
import os

from outpost_core.errors import UsageError, WorkerError
from outpost_core.names import check_branch, check_rig, redact, ref_of, split_rig
from outpost_shared import private
from outpost_worker.folder import exposed, files, guarded
from outpost_worker.folder.files import root_of
from outpost_worker.folder.folders import StrangeError, open_folder
from outpost_worker.repository import attributes, dirt, hosted, ownfolder
from outpost_worker.repository.credentials import is_login
from outpost_worker.repository.git import Git, persistently, shell_quote, write
from outpost_worker.repository.mirror import asking, mirror_path, sync
from outpost_worker.repository.owngit import Own
from outpost_worker.repository.preflight import check_branch_free, identity
from outpost_worker.repository.remotestate import RemoteState
from outpost_worker.work import beads, resume
from outpost_worker.work.target import credentials, goes, target

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_HEADS = "refs/heads/"
_SHA256 = "objectformat = sha256"


def repository(order: Mapping[str, Any] | None, folder: str) -> Own:
    """Return git on our repository of the worker, with where its work goes as remote `outpost`.

    It is made where there is none. What the agent's repository says is taken over by `take`.

    Args:
        order: the order's JSON; None for a look only, at a repository that is there.
        folder: the worker's folder.

    Raises:
        StrangeError: its working tree is no real folder of this user.
        WorkerError: `commit_failed`, there is no working tree any more.
    """
    folder = os.path.abspath(folder)
    work = os.path.join(folder, files.WORK)
    try:
        top = open_folder(work)
    except FileNotFoundError:
        raise WorkerError("the agent removed its working tree", reason="commit_failed") from None
    except StrangeError as error:
        raise error.broken() from None
    theirs = os.path.join(work, ".git")
    git_dir = ownfolder.place(folder, theirs)
    if order is None:
        return Own(folder, theirs, git_dir, top, borrows=ownfolder.borrowed(git_dir))
    rig = target(order)
    hosted.restore_if_hosted(root_of(folder), rig, lambda _: None)
    mirror = mirror_path(root_of(folder), order["rig"])
    known = os.path.join(git_dir, "config")
    sha256 = _SHA256 in guarded.text(known if os.path.exists(known) else f"{mirror}/config")
    # for programs that ask git where a pull request is to go
    origin = f'[remote "origin"]\n\turl = {_quoted(split_rig(order["rig"])[0])}\n'
    origin += f"\tfetch = +{_HEADS}*:refs/remotes/origin/*\n"
    borrows = os.path.join(mirror, "objects")
    ownfolder.make(git_dir, borrows, ownfolder.config(sha256=sha256, more=origin))
    secrets = credentials(rig, folder)
    return Own(folder, theirs, git_dir, top, borrows=borrows, credentials=secrets, rig=rig)


def agents(order: Mapping[str, Any], folder: str) -> Git:
    """Return git on the repository that the agent is given: only as long as it has not run.

    Args:
        order: the order's JSON.
        folder: the worker's folder.
    """
    work = os.path.join(folder, files.WORK)
    rig = target(order)
    return Git(os.path.join(work, ".git"), work, credentials=credentials(rig, folder), rig=rig)


def from_mirror(order: Mapping[str, Any], folder: str) -> Git:
    """Return git to ask where the worker's work goes, by the user's own configuration alone.

    What the agent configured in a repository can lead a push and its answer elsewhere.

    Raises:
        WorkerError: `verify_failed`, the user's own configuration leads elsewhere than before an
            agent without a fence ran.
    """
    goal = target(order)
    git = asking(goal, credentials(goal, folder))
    if exposed.was(root_of(folder)):
        try:
            before = (files.believed(folder, files.WORKSPACE) or {}).get("goes")
        except OSError:
            before = None
        now = goes(git)
        if before and before != now:
            raise WorkerError(
                f"git went to {before} for {redact(goal)} before the agent ran, and would go to"
                f" {now} since, so nothing that it says of the rig is believed",
                reason="verify_failed",
                hint="look at git config --global --get-regexp 'url|remote', and spawn it again",
            )
    return git


def prepare(
    order: Mapping[str, Any],
    root: str,
    folder: str,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Make `<folder>/work`: the rig at its base, on a local branch named as the one to deliver.

    With `resume`, the tree is as the earlier attempt left it: what it had committed is committed,
    what it had not is staged. Where `resume` is a commit that the branch to deliver has moved on
    from on the remote, it is the tip of that branch. A rig without commits gives an empty tree on
    a branch to be born. git runs with this process's environment (credential helpers, ssh agent,
    proxies).

    Args:
        order: the order's JSON, with a rig.
        root: the folder that holds `rigs/` and `workers/`.
        folder: the worker's folder.
        report: told what is being done.

    Returns:
        `branch`; `base_commit`, None for an empty rig; `base_branch`, where the work is to be
        merged (the base, else the rig's default branch, or None); `start_commit`, where the
        branch begins (differs from the base after a resume); `remote_tip`, the commit of
        `branch` on the remote, or None; `rig`, fit to be shown; `beads`, a sentence or "";
        where attributes ask for more, `lfs` and `lacking` (see `_after_checkout`); where an agent
        has run without a fence, `goes`, where git goes for the remote; where the worker was on
        another machine before, `checkpoint`, the commit of that which it began from.

    Raises:
        WorkerError: `base_not_found`, `workspace_failed`, `lfs_missing`, `lfs_failed` or
            `disk_full`.
    """
    try:
        branch = check_branch(order["delivery"]["branch"])
        rig, goal = check_rig(order["rig"]), check_rig(target(order))
    except UsageError as error:
        raise WorkerError(error.message, reason="workspace_failed", hint=error.hint) from None
    try:
        secrets = credentials(rig, folder)
        base, depth = order.get("base"), order.get("depth")
        seen = sync(root, rig, base, depth, secrets, report)
        if goal == rig:
            check_branch_free(branch, seen.refs, rig)
        rebuild(order, folder, seen)
    except OSError as error:
        raise _failed(error) from error
    git = agents(order, folder)
    start, tree = seen.base, seen.base
    special: dict[str, Any] = {}
    left = _left(order, folder, seen, here=goal == rig)
    goes_on = ref_of(order) if left else order.get("resume")
    if goes_on:
        start, tree = resume.bring(git, goes_on, root, seen, here=goal == rig)
    tip = seen.refs.get(_HEADS + branch) if goal == rig else None
    if start and tip and start == tree == order.get("resume") and _leads_to(git, start, tip):
        start = tree = tip  # what others have pushed onto the delivered commit comes along
    if start and tree:
        if exposed.was(root) and {start, tree} != {seen.base}:
            from outpost_worker.repository import proof

            proof.prove(git, {start, tree})
        point_branch(git.git_dir, branch, start)
        report("checking out")
        checkout = ("read-tree", "--reset", "-u", tree)
        git.must(*attributes.POINTERS, *checkout, doing="check out", reason="workspace_failed")
        try:
            if order["attempt"] > 1:
                from outpost_worker.work import submodule_restore

                before = submodule_restore.earlier(order, root)
                if before:
                    submodule_restore.restore(git, rig, folder, root, before, report)
            if is_login(secrets) and os.path.exists(os.path.join(folder, "work/.gitmodules")):
                from outpost_worker.work import submodule_checkout

                submodule_checkout.bring(git, split_rig(rig)[0], folder, report)
            special = _after_checkout(git, order, folder, tree, report)
        except OSError as error:
            raise _failed(error) from error
    beads_said = beads.provide(os.path.join(folder, "work"), order["issue"]["id"], report)
    repository(order, folder).take()
    default = seen.default or ""
    return {
        "branch": branch,
        "base_commit": seen.base,
        "base_branch": seen.base_branch or default.removeprefix(_HEADS) or None,
        "start_commit": start,
        "remote_tip": tip,
        "rig": redact(rig),
        "beads": beads_said,
        **({"goes": goes(asking(goal, secrets))} if exposed.was(root) else {}),
        **({"checkpoint": left} if left else {}),
        **special,
    }


def _left(order: Mapping[str, Any], folder: str, seen: RemoteState, *, here: bool) -> str:
    """Return the checkpoint that this very worker has left from another machine; "" for none.

    Raises:
        WorkerError: `workspace_failed`, nobody can say.
    """
    if ((order.get("record") or {}).get("claim") or {}).get("leg", 1) == 1:
        return ""
    own = ref_of(order)
    if here:
        return seen.refs.get(own, "")
    git = from_mirror(order, folder)
    told = persistently(lambda: git.run("ls-remote", "--", git.url, own), lambda _: None, "asking")
    if told.code:
        raise git.error(told, f"look for {own}", "workspace_failed")
    return next((v for v, n in (x.split("\t") for x in told.text.splitlines()) if n == own), "")


def _leads_to(git: Git, commit: str, tip: str) -> bool:
    """Whether the remote's branch has moved on from a commit; brings the branch here."""
    if git.run("rev-parse", "--quiet", "--verify", tip + "^{commit}").code:
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        git.run("fetch", *quiet, "--", "outpost", tip)
    return git.run("merge-base", "--is-ancestor", commit, tip).code == 0


def _after_checkout(
    git: Git, order: Mapping[str, Any], folder: str, tree: str, report: Callable[[str], None]
) -> dict[str, Any]:
    """See to what attributes ask for: files of git-lfs, missing filters, dirt of the checkout.

    Returns:
        `lfs`, whether the rig uses git-lfs; `lacking`, filters that it names and that cannot be
        run here. Empty for a tree without such attributes.
    """
    found = attributes.texts(git)
    if not attributes.convert(found):
        return {}
    names = attributes.filters(found)
    uses_lfs = "lfs" in names
    if uses_lfs:
        from outpost_worker.work import lfs

        lfs.check_out(git, order, folder, tree, report)
    lacking = sorted(attributes.lacking(git, names))
    if lacking:
        report(f"the filter {', '.join(lacking)} is missing here: its files are never committed")
    dirt.remember(git, folder)
    return {"lfs": uses_lfs, "lacking": lacking}


def _failed(error: OSError) -> WorkerError:
    reason = "disk_full" if error.errno == errno.ENOSPC else "workspace_failed"
    return WorkerError(f"could not make the working tree: {error}", reason=reason)


def rebuild(order: Mapping[str, Any], folder: str, seen: RemoteState) -> None:
    """Write the worker's `.git`, borrowing from the mirror; the branch is yet to be born.

    Only those branches of the remote show as `origin/…` whose commits the mirror holds: none of
    them is stale, and `git fetch` brings the others.
    """
    git_dir = os.path.join(folder, "work", ".git")
    if os.path.lexists(git_dir):
        raise FileExistsError(errno.EEXIST, "it is there already", git_dir)
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info", "hooks"):
        private.make(os.path.join(git_dir, name))
    # A path in this file may be quoted as in C; one without special bytes stands as it is.
    write(
        os.path.join(git_dir, "objects/info/alternates"), os.path.abspath(seen.path) + "/objects\n"
    )
    write(os.path.join(git_dir, "config"), _config(order, folder, seen))
    write(os.path.join(git_dir, "HEAD"), f"ref: {_HEADS}{order['delivery']['branch']}\n")
    if seen.shallow:
        write(os.path.join(git_dir, "shallow"), seen.shallow)
    packed = ["# pack-refs with: \n"]
    for name, value in seen.refs.items():
        if value in seen.have and name.startswith(_HEADS):
            packed.append(f"{value} refs/remotes/origin/{name[len(_HEADS) :]}\n")
        elif value in seen.have and name.startswith("refs/tags/") and not name.endswith("^{}"):
            packed.append(f"{value} {name}\n")
    write(os.path.join(git_dir, "packed-refs"), "".join(packed))
    if seen.default and seen.refs.get(seen.default) in seen.have:
        target = seen.default.replace(_HEADS, "refs/remotes/origin/", 1)
        os.makedirs(os.path.join(git_dir, "refs/remotes/origin"))
        write(os.path.join(git_dir, "refs/remotes/origin/HEAD"), f"ref: {target}\n")


def _config(order: Mapping[str, Any], folder: str, seen: RemoteState) -> str:
    rig, delivery = order["rig"], order["delivery"]
    sha256 = any(len(value) == 64 for value in seen.refs.values())
    lines = [
        "[core]",
        f"\trepositoryformatversion = {int(sha256)}",
        "\tbare = false",
        "\tlogallrefupdates = true",
        *(["[extensions]", "\tobjectformat = sha256"] if sha256 else []),
        '[remote "origin"]',
        f"\turl = {_quoted(split_rig(rig)[0])}",
        f"\tfetch = +{_HEADS}*:refs/remotes/origin/*",
        # An agent's plain `git push` goes to the branch of the same name, never to the base.
        "[push]",
        "\tdefault = current",
        # Nothing is left running behind the agent, and nothing borrowed is given up.
        "[gc]",
        "\tauto = 0",
        # A signature is a person's word; nobody is here to give it, or the pass phrase of its key.
        "[commit]",
        "\tgpgSign = false",
        "[tag]",
        "\tgpgSign = false",
        "\tforceSignAnnotated = false",
    ]
    secrets = credentials(rig, folder)
    if secrets and not is_login(secrets):  # that is not for the agent
        helper = _quoted("store --file=" + shell_quote(secrets))
        # The first, empty helper puts the user's own aside, for this host only.
        scheme, _, rest = split_rig(rig)[0].partition("://")
        scope = f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"
        lines += [f"[credential {_quoted(scope)}]", "\thelper =", f"\thelper = {helper}"]
    if known := identity(delivery, os.environ):
        lines += ["[user]", *(f"\t{key} = {_quoted(value)}" for key, value in known.items())]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def point_branch(git_dir: str, branch: str, commit: str) -> None:
    """Let a branch of a repository be at a commit, without a git process."""
    path = os.path.join(git_dir, "refs/heads", branch)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write(path, commit + "\n")
