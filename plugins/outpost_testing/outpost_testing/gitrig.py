"""A throw-away rig: a real bare repository with a history, and orders for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from outpost_worker.work import checkpoint, deliver, workspace


class GitRig:
    """A bare repository in a folder, with a clone to write to it from outside.

    Args:
        folder: an empty folder; `rig.git`, `seed` and `root` are made in it.
        files: what the first commit on `main` holds; empty for a rig without commits.
    """

    def __init__(self, folder: Path, files: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.path = folder / "rig.git"
        self.seed = folder / "seed"
        self.root = folder / "root"
        self.git("init", "-q", "--bare", "-b", "main", str(self.path), cwd=folder)
        self.git("init", "-q", "-b", "main", str(self.seed), cwd=folder)
        self.git("remote", "add", "origin", str(self.path))
        content = {"README": "hello\n"} if files is None else files
        if content:
            self.commit(content)

    def git(self, *args: str, cwd: Path | None = None, ok: bool = True) -> str:
        """Run git, by default in the clone; returns what it printed."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        for role in ("AUTHOR", "COMMITTER"):
            env[f"GIT_{role}_NAME"] = "tester"
            env[f"GIT_{role}_EMAIL"] = "tester@localhost"
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *args],
            cwd=cwd or self.seed,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if ok and done.returncode:
            raise AssertionError(f"git {args}: {done.stderr}")
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str], branch: str = "main") -> str:
        """Commit files on a branch and push it; returns the commit."""
        self.git("checkout", "-q", "-B", branch, *self._start(branch))
        for name, text in files.items():
            path = self.seed / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a commit")
        self.git("push", "-q", "origin", f"{branch}:{branch}")
        return self.git("rev-parse", "HEAD")

    def _start(self, branch: str) -> list[str]:
        self.git("fetch", "-q", "origin")
        known = self.git("rev-parse", "--verify", "-q", f"origin/{branch}", ok=False)
        return [known] if known else []

    def tip(self, ref: str) -> str | None:
        """Return the commit of a full ref name or branch on the rig, or None."""
        name = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
        return self.git("rev-parse", "--verify", "-q", name, cwd=self.path, ok=False) or None

    def show(self, ref: str, file: str) -> str:
        """Return a file's text at a ref of the rig."""
        return self.git("show", f"{ref}:{file}", cwd=self.path)

    def files(self, ref: str) -> list[str]:
        """Return the files at a ref of the rig."""
        return self.git("ls-tree", "-r", "--name-only", ref, cwd=self.path).splitlines()

    def hook(self, name: str, script: str) -> None:
        """Put a hook on the rig."""
        path = self.path / "hooks" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def worker(self, issue: str = "gt-1", attempt: int = 1, **order: Any) -> GitWorker:
        """Return a worker on this rig; keywords replace fields of the order or its delivery."""
        return GitWorker(self, issue, attempt, order)


class GitWorker:
    """One worker's folder, and the far side's three functions on it.

    Args:
        rig: the rig.
        issue: the issue's id.
        attempt: from 1.
        changes: fields of the order or of its delivery that differ from the default.
    """

    def __init__(self, rig: GitRig, issue: str, attempt: int, changes: Mapping[str, Any]) -> None:
        delivery = {
            "branch": f"polecat/{issue}",
            "message": f"{issue}: a title",
            "author_name": "",
            "author_email": "",
            "pr_command": [],
        }
        self.order: dict[str, Any] = {
            "issue": {"id": issue, "title": "a title"},
            "agent": {"argv": ["true"]},
            "attempt": attempt,
            "rig": str(rig.path),
            "base": None,
            "resume": None,
            "depth": None,
            "delivery": delivery,
        }
        for name, value in changes.items():
            (delivery if name in delivery else self.order)[name] = value
        self.rig = rig
        self.folder = rig.root / "workers" / f"{issue}.{attempt}"
        self.folder.mkdir(parents=True)
        self.work = self.folder / "work"
        self.reports: list[str] = []
        self.space: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """The worker's id."""
        return self.folder.name

    def prepare(self) -> dict[str, Any]:
        """Make the working tree."""
        self.space = workspace.prepare(
            self.order, str(self.rig.root), str(self.folder), self.reports.append
        )
        return self.space

    def save(self, *, ended: bool = False) -> dict[str, Any]:
        """Make a checkpoint; `ended` when the agent's processes have ended."""
        return checkpoint.save(self.order, str(self.folder), self.space, ended=ended)

    def deliver(self, report: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Deliver the work."""
        return deliver.deliver(
            self.order, str(self.folder), self.space, report or self.reports.append
        )

    def unpushed(self) -> bool:
        """Whether there is work that is kept nowhere else."""
        return deliver.unpushed(str(self.folder), self.space)

    def git(self, *args: str, ok: bool = True) -> str:
        """Run git in the working tree, as the agent would."""
        return self.rig.git(*args, cwd=self.work, ok=ok)

    def own(self, *args: str) -> str:
        """Run git on the repository of ours that follows the agent's."""
        return self.rig.git(f"--git-dir={self.folder / 'git'}", *args, cwd=self.folder)

    def write(self, name: str, text: str) -> None:
        """Write a file in the working tree, as the agent would."""
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self, name: str, text: str) -> str:
        """Write and commit a file, as an agent does that commits; returns the commit."""
        self.write(name, text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", f"agent: {name}")
        return self.git("rev-parse", "HEAD")
