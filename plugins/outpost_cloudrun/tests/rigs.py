"""A rig that containers can reach: a repository behind a git server over HTTP."""

from __future__ import annotations

import subprocess
from pathlib import Path

from peers.githttp import GitHttp


def make_rig(git: GitHttp, folder: Path, name: str = "app") -> Path:
    """Make a repository with one commit on `main`; returns where the server has it."""
    bare = git.repository(name)
    seed = folder / f"seed-{name}"
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    commands = (
        ("init", "-q", "-b", "main", str(seed)),
        ("-C", str(seed), *who, "commit", "-q", "--allow-empty", "-m", "begin"),
        ("-C", str(seed), "push", "-q", str(bare), "main"),
        ("-C", str(bare), "symbolic-ref", "HEAD", "refs/heads/main"),
    )
    for words in commands:
        subprocess.run(["git", *words], check=True)
    return bare


def commits(git: GitHttp, name: str = "app") -> dict[str, str]:
    """Return the refs of a repository, and what they point to."""
    told = subprocess.run(
        ["git", "ls-remote", str(git.folder / name)], capture_output=True, text=True, check=True
    ).stdout
    pairs = (line.split("\t") for line in told.splitlines())
    return {ref: commit for commit, ref in pairs}
