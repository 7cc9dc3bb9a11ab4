"""A bundle of unpushed work that came from another machine: whether it can be used here.

It counts as rescued once git has read it here: every object of it, with those of the rig that it
builds on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import Final

from outpost_core.names import checkpoint_ref
from outpost_core.types import Order
from outpost_shared import border, programs
from outpost_worker.repository import bundles

#: Seconds for one command of git.
_GIT: Final = 600.0


def check(path: str, order: Order) -> tuple[str, str]:
    """Look at a bundle, with the git of this user. Blocks.

    Args:
        path: where it is.
        order: of the worker whose work it is said to be.

    Returns:
        Why it cannot be used, and what could not be made sure of, as an addition to a sentence; ""
        for nothing.
    """
    head = bundles.Head(path)
    ref = checkpoint_ref(order.worker, order.owner)
    if [*head.refs] != [ref]:
        return f"it does not hold {ref}", ""
    scratch = tempfile.mkdtemp(prefix="outpost-bundle-")
    try:
        _git(scratch, "init", "--quiet", "--bare", ".")
        missing = [commit for commit in head.needs if not _fetch(scratch, order.rig or "", commit)]
        if missing:
            doubt = "it builds on commits that could not be had from the rig to look at it"
            return "", f"; the bundle was kept unread: {doubt}"
        _git(scratch, "bundle", "verify", "--quiet", path)
        _git(scratch, "fetch", "--quiet", path, f"{ref}:refs/heads/kept")
        commit = _git(scratch, "rev-parse", "refs/heads/kept^{tree}")
    except subprocess.CalledProcessError as error:
        return border.line(error.stderr or "git cannot read it", 300), ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"; the bundle was kept unread: {type(error).__name__}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ("", "") if commit else ("it holds no commit", "")


def _fetch(folder: str, rig: str, commit: str) -> bool:
    """Whether a commit that a bundle builds on could be had from the rig."""
    try:
        _git(folder, "fetch", "--quiet", "--no-tags", rig, commit, remote=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError):
        return False
    return True


def _git(folder: str, *argv: str, remote: bool = False) -> str:
    env = programs.git_env(os.environ, remote=remote)
    if not remote:
        env["GIT_ALLOW_PROTOCOL"] = "file"  # the bundle is a file
    done = subprocess.run(
        ["git", "-c", "core.fsmonitor=false", "-c", "transfer.fsckObjects=false", *argv],
        cwd=folder, env=env, capture_output=True, text=True, errors="replace", check=True,
        timeout=_GIT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout.strip()
