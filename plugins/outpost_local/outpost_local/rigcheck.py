"""Could a worker on this machine push to a rig? Asked of git itself, and nothing is pushed."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Final

from outpost_core.names import check_rig, redact, split_rig
from outpost_core.types import Finding
from outpost_worker.repository.git import Done, Git, write

#: Seconds that the remote may take for each of the two questions.
TIMEOUT: Final = 20.0
CHECK: Final = "rig"
_ANYBODY: Final = {
    "GIT_AUTHOR_NAME": "outpost doctor",
    "GIT_AUTHOR_EMAIL": "outpost@localhost",
    "GIT_COMMITTER_NAME": "outpost doctor",
    "GIT_COMMITTER_EMAIL": "outpost@localhost",
}


def push_rights(rig: str, *, timeout: float = TIMEOUT) -> Finding:
    """Say whether the rig can be read from here and a branch pushed to it.

    The push is a dry run of a commit that exists nowhere else, to a branch that nobody has. A
    password in the rig's address is used, and neither shown nor put in any command line.

    Args:
        rig: URL or absolute path.
        timeout: seconds for each question.

    Raises:
        UsageError: it can not be a rig.
    """
    check_rig(rig)
    shown = redact(split_rig(rig)[0])
    if shutil.which("git") is None:
        return Finding(check=CHECK, ok=False, detail="git is missing", hint="sudo apt install git")
    with tempfile.TemporaryDirectory(prefix="outpost-doctor-", ignore_cleanup_errors=True) as made:
        return _ask(rig, shown, Path(made), timeout)


def _ask(rig: str, shown: str, folder: Path, timeout: float) -> Finding:
    store = ""
    if line := split_rig(rig)[1]:
        store = str(folder / "credentials")
        write(store, line + "\n")
    probe = folder / "probe.git"
    probe.mkdir()
    git = Git(str(probe), credentials=store, rig=rig)
    url = git.url
    for made in (
        git.run("init", "--quiet", "--bare", timeout=timeout),
        tree := git.run("mktree", timeout=timeout),
        commit := git.run(
            "commit-tree", "-m", "outpost doctor", tree.text, env=_ANYBODY, timeout=timeout
        ),
    ):
        if made.code:
            detail = f"git does not work here: {git.words(made)}"
            return Finding(check=CHECK, ok=False, detail=detail, hint="install git anew")
    read = git.run("ls-remote", "--quiet", "--", url, "HEAD", timeout=timeout)
    if read.code:
        return Finding(
            check=CHECK,
            ok=False,
            detail=f"{shown} cannot be read: {git.words(read)}",
            hint=_hint(read, rig),
        )
    branch = f"refs/heads/outpost-doctor-{secrets.token_hex(6)}"
    refspec = f"{commit.text}:{branch}"
    push = git.run("push", "--dry-run", "--quiet", "--", url, refspec, timeout=timeout)
    if push.code:
        return Finding(
            check=CHECK,
            ok=False,
            detail=f"{shown} can be read, and not pushed to: {git.words(push)}",
            hint=_hint(push, rig),
        )
    if rig.startswith("/") and not _writable(Path(rig)):
        return Finding(
            check=CHECK,
            ok=False,
            detail=f"{shown} can be read, and not written to",
            hint=f"give {os.environ.get('USER', 'this user')} the right to write there",
        )
    return Finding(check=CHECK, ok=True, detail=f"branches can be pushed to {shown}")


def _writable(rig: Path) -> bool:
    objects = next((p for p in (rig / ".git" / "objects", rig / "objects") if p.is_dir()), rig)
    return os.access(objects, os.W_OK | os.X_OK)


def _hint(done: Done, rig: str) -> str:
    """Return what a person can do about git's complaint."""
    said = done.err
    if "Host key verification failed" in said:
        return "trust the host there once: ssh -T with the same user and host, and answer yes"
    if "Could not resolve host" in said or "no end within" in said:
        return "see to the network there: the rig's host is not reached"
    if rig.startswith("http"):
        return "give git there credentials with the right to push: git config credential.helper"
    if rig.startswith("/"):
        return "correct the path, or its permissions"
    return (
        "give a key of that account (ssh-keygen -t ed25519) the right to push at your git host,"
        " or set forward_agent: true at an SSH outpost"
    )
