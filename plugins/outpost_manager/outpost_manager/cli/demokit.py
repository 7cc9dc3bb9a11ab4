"""What the demos share: a throw-away repository, its remote, and what is shown at the end."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_manager.cli import output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_core.types import Worker
    from outpost_manager.cli.session import Session
    from outpost_manager.manager import Manager

TYPO: Final = 'print("Hello, wrold")\n'
MENDED: Final = '+print("Hello, world")'


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a demo shows at the end.

    Args:
        ok: whether all of it was as it should be, by what the remote says.
        workers: one for each issue, its newest attempt.
        branches: branch → commit, as the remote has them.
        diff: what an agent has changed.
        log: what it printed.
        killed: the worker that was killed on the way; None where none was.
    """

    ok: bool
    workers: tuple[Worker, ...]
    branches: Mapping[str, str]
    diff: str
    log: str
    killed: str | None = None


@dataclass(frozen=True)
class Project:
    """A working tree with a remote of its own.

    Args:
        folder: the demo's, where all of it is.
    """

    folder: Path

    @property
    def remote(self) -> Path:
        """The bare repository."""
        return self.folder / "remote.git"

    @property
    def tree(self) -> Path:
        """The working tree."""
        return self.folder / "project"

    def make(self, files: Mapping[str, str]) -> None:
        """Make both, with one commit.

        Args:
            files: name → text, besides `hello.py`.

        Raises:
            OutpostError: git failed.
        """
        self.tree.mkdir()
        git(self.folder, "init", "--quiet", "--bare", "--initial-branch=main", str(self.remote))
        git(self.tree, "init", "--quiet", "--initial-branch=main")
        for name, text in {"hello.py": TYPO, **files}.items():
            (self.tree / name).write_text(text, encoding="utf-8")
        git(self.tree, "add", "--all")
        git(self.tree, "commit", "--quiet", "--message=Say hello")
        git(self.tree, "remote", "add", "origin", str(self.remote))
        git(self.tree, "push", "--quiet", "--set-upstream", "origin", "main")

    def branches(self) -> dict[str, str]:
        """Return branch → commit of what workers have delivered to the remote."""
        heads = git(self.remote, "for-each-ref", "--format=%(refname:short) %(objectname)",
                    "refs/heads")  # fmt: skip
        found = dict(line.split() for line in heads.splitlines())
        found.pop("main", None)
        return found

    def has(self, worker: Worker) -> bool:
        """Whether the remote has the very commit that the worker's result names."""
        result = worker.result
        return (
            result is not None
            and bool(result.commit)
            and self.branches().get(result.branch or "") == result.commit
        )


def git(folder: Path, *words: str) -> str:
    """Run git without the user's own configuration and return what it prints.

    Raises:
        OutpostError: it failed.
    """
    who = {"NAME": "Outpost demo", "EMAIL": "demo@localhost"}
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        **{f"GIT_{role}_{key}": v for role in ("AUTHOR", "COMMITTER") for key, v in who.items()},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "LC_ALL": "C",
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    if done.returncode:
        raise OutpostError(f"git {words[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


async def log_of(manager: Manager, worker: str) -> str:
    """Return what a worker's agent has printed."""
    return b"".join([chunk async for chunk in manager.logs(worker)]).decode(errors="replace")


async def leave_nothing(manager: Manager, worker: str) -> None:
    """End and remove a worker, so that nothing outlives the folder."""
    try:
        await manager.stop(worker, 1.0)
        await manager.wait([worker], timeout=20)
        await manager.clean(worker, force=True)
    except OutpostError as error:
        output.echo(f"{worker}: {error}", err=True)


def say(session: Session, text: str) -> None:
    """Tell a person what goes on: a headline, or an indented line below one."""
    session.note(text if text.startswith("  ") else output.style(text, bold=True))
