"""Where a worker's work goes, and how it is reached."""

from __future__ import annotations

import os

from outpost_core.names import redact, split_rig
from outpost_worker.folder.files import CREDENTIALS, root_of
from outpost_worker.repository.credentials import of_worker
from outpost_worker.repository.git import Git, read, write
from outpost_worker.repository.owngit import Own

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from outpost_worker.record.standing import Standing


def goes(git: Git) -> str:
    """Return where git goes for its URL, as the user's configuration rewrites that; no password."""
    return redact(git.run("ls-remote", "--get-url", "--", git.url).text)


def target(order: Mapping[str, Any]) -> str:
    """Return where branch and checkpoints are pushed: the rig, or a fork of it."""
    goal: str = order["delivery"].get("push_url") or order["rig"]
    return goal


def credentials(rig: str, folder: str) -> str:
    """Return the path of what git logs in with at a remote, as `Git` has it; "" for nothing.

    A login that came with the work (`repository.credentials`) goes first: no agent sees it. Else it
    is a file (0600) with the rig's user and password, which comes from the order's secrets, or is
    made here from a URL that holds them. That stays as long as the worker's folder: the agent may
    push too, as it could in a clone of that URL.
    """
    login = of_worker(root_of(folder), os.path.basename(folder))
    if login:
        return login
    path = os.path.join(folder, CREDENTIALS)
    secret = split_rig(rig)[1]
    if secret:
        write(path, secret + "\n")
    # the rig and a fork may be at two hosts, of which one needs no password from here
    host = "@" + split_rig(rig)[0].partition("://")[2].partition("/")[0].rpartition("@")[2]
    known = read(path).replace("%3a", ":").splitlines()  # git writes the colon of a port so
    return path if any(line.endswith(host) for line in known) else ""


def claimed(order: Mapping[str, Any], folder: str) -> Standing | None:
    """Return the claim that a worker runs by; None for one whose machine stays.

    Args:
        order: as of `files.truth`.
        folder: the worker's folder.
    """
    about = order.get("record")
    if not about:
        return None
    from outpost_worker.record.standing import Standing

    goal = target(order)
    return Standing(about, goal, root_of(folder), credentials(goal, folder))


def lfs_used(git: Own, workspace: Mapping[str, Any]) -> bool:
    """Whether the rig or the agent uses git-lfs; costs one look into two folders."""
    places = (git.git_dir, git.theirs)
    return bool(workspace.get("lfs")) or any(os.path.isdir(f"{p}/lfs/objects") for p in places)
