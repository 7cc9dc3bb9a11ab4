"""Brings commits of submodules back that an earlier attempt left in its archive on this machine."""

from __future__ import annotations

import os
import shutil

from outpost_core.errors import UsageError, WorkerError
from outpost_core.names import REFS, check_rig, split_rig
from outpost_worker.folder import files
from outpost_worker.repository import bundles, index
from outpost_worker.repository.git import Git, write
from outpost_worker.work import aside
from outpost_worker.work.submodule_checkout import make
from outpost_worker.work.submodule_names import is_ours, named_in
from outpost_worker.work.submodule_push import resolve
from outpost_worker.work.target import credentials

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_FOLDER, _ENDING = "repositories/", ".bundle"


def earlier(order: Mapping[str, Any], root: str) -> str:
    """Return the id of the attempt that an order continues from; "" for none that is known here.

    An attempt that left work in submodules alone has no checkpoint on the rig that an order could
    name; it counts where its folder is still here and the order came from the same ledger.

    Args:
        order: the order's JSON.
        root: the state root.
    """
    resume = order.get("resume") or ""
    if resume.startswith(REFS):
        name: str = resume.rpartition("/")[2]
        return name
    if resume or order["attempt"] < 2:
        return ""
    worker = f"{order['issue']['id']}.{order['attempt'] - 1}"
    folder = os.path.join(root, files.WORKERS, worker)
    before, result = files.order(folder) or {}, files.load(folder, files.RESULT) or {}
    same = all(before.get(name) == order.get(name) for name in ("owner", "rig", "base"))
    return worker if same and result and not result.get("commit") else ""


def restore(
    git: Git, rig: str, folder: str, root: str, worker: str, report: Callable[[str], None]
) -> None:
    """Check submodules out as the earlier attempt left them, where its archive is here.

    What cannot be brought back stays in the archive, and that is reported; nothing fails.

    Args:
        git: the worker's repository, checked out.
        rig: the rig, for relative URLs.
        folder: the worker's folder.
        root: the state root.
        worker: the id of the earlier attempt.
        report: told what is being done.
    """
    links = index.links(git, os.path.join(git.git_dir, "index"))
    archive = find(root, worker) if links else ""
    if not archive:
        return
    import tarfile

    try:
        with tarfile.open(archive, "r:") as tar:
            here = {path: f"{_FOLDER}{path}{_ENDING}" for path in links}
            names = set(tar.getnames())
            for path, name in here.items():
                if name in names:
                    report(f"bringing submodule {path} back")
                    bundle = os.path.join(folder, "submodule.bundle")
                    source = tar.extractfile(name)
                    if source is None:
                        continue
                    with source, open(bundle, "wb") as copy:
                        shutil.copyfileobj(source, copy)
                    try:
                        _one(git, rig, folder, path, links[path], bundle)
                    except (WorkerError, UsageError) as error:
                        report(f"submodule {path} stays in {archive}: {error.message}")
                    finally:
                        os.unlink(bundle)
    except (OSError, tarfile.TarError) as error:
        report(f"work on submodules stays in {archive}: {error}")


def find(root: str, worker: str) -> str:
    """Return the newest archive of a worker on this machine; "" when there is none."""
    noted = aside.place(os.path.join(root, files.WORKERS, worker))
    if noted:
        return noted
    place, number = os.path.join(root, bundles.RESCUED, worker), 1
    found = ""
    while os.path.isfile(path := f"{place}.tar" if number == 1 else f"{place}-{number}.tar"):
        found, number = path, number + 1
    return found


def _one(git: Git, rig: str, folder: str, path: str, commit: str, bundle: str) -> None:
    name, told = named_in(git, "HEAD").get(path, ("", ""))
    url = split_rig(check_rig(resolve(rig, told)))[0]
    own = os.path.join(git.git_dir, "modules", name)
    if not is_ours(git.git_dir, own) or ".." in name.split("/") or os.path.lexists(own):
        raise WorkerError("it has no name of its own", reason="workspace_failed")
    top = os.path.join(folder, "work", path)
    try:
        sub = make(own, top, url, credentials(url, folder))
        _fill(sub, url, commit, bundle)
        tree = _left_open(sub, commit)
        write(os.path.join(top, ".git"), f"gitdir: {os.path.relpath(own, top)}\n", 0o644)
        write(os.path.join(own, "HEAD"), commit + "\n")
        sub.must("read-tree", "--reset", "-u", tree, doing="check out", reason="workspace_failed")
        sub.must("read-tree", commit, doing="check out", reason="workspace_failed")
        for key, value in (("active", "true"), ("url", url)):
            git.run("config", f"submodule.{name}.{key}", value)
    except WorkerError:
        shutil.rmtree(own, ignore_errors=True)
        shutil.rmtree(top, ignore_errors=True)
        os.makedirs(top)
        raise


def _fill(sub: Git, url: str, commit: str, bundle: str) -> None:
    """Fetch what the remote has, then what only the bundle has."""
    quiet = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    guarded = {"GIT_PROTOCOL_FROM_USER": "0"}
    remote = sub.run(*quiet, "--", url, "+refs/heads/*:refs/remotes/origin/*", env=guarded)
    if remote.code:
        raise sub.error(remote, "fetch it", "workspace_failed")
    for need in bundles.Head(bundle).needs:
        if sub.run("cat-file", "-e", need + "^{commit}").code:
            sub.run(*quiet, "--", url, need, env=guarded)
    sub.must(
        *(*quiet, "--", bundle, "+refs/outpost/kept/*:refs/outpost/kept/*"),
        doing="take the bundle",
        reason="workspace_failed",
    )
    sub.must("cat-file", "-e", commit + "^{commit}", doing="find it", reason="workspace_failed")


def _left_open(sub: Git, commit: str) -> str:
    """Return the commit of what was not committed on top of a commit, or that commit itself."""
    form = "--format=%(objectname) %(parent) %(contents:subject)"
    told = sub.run("for-each-ref", form, "refs/outpost/kept")
    for line in told.text.splitlines():
        tip, parent, subject = (*line.split(" ", 2), "", "")[:3]
        if parent == commit and subject.startswith("Not committed in "):
            return tip
    return commit
