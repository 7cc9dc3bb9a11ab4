"""All of it at once: a command line's outpost, its keeper, the emulator, and our containers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from keeperkit import Desk, runtime
from test_emulator_admin import processes_of

from outpost_cloudrun.admin import specs
from outpost_cloudrun.admin.factory import open_admin
from outpost_cloudrun.options import CloudRunOptions
from outpost_cloudrun.outpost import CloudRunOutpost
from outpost_cloudrun.testing.emulator import Emulator, emulating
from outpost_cloudrun.testing.podman import Podman
from outpost_core.backend import BuildContext
from outpost_core.errors import UnreachableError
from outpost_core.types import Order, WorkerStatus

PROJECT, REGION, IMAGE = "proj-1", "us-central1", "us-central1-docker.pkg.dev/proj-1/o/worker:1"
#: What an agent does that runs exactly once: each run is a line of a file (which a container does
#: not see), a line of its output, and a commit.
WORK = (
    '( echo "$OUTPOST_ISSUE $$" >> "{marks}" ) 2>/dev/null; echo began; {more}; date > made;'
    " echo ended"
)


#: Makes keepers less patient: Python runs it before anything else (see its module `site`).
HASTE = """
import sys
if "outpost_cloudrun.keeper.hold" in sys.orig_argv:
    from outpost_cloudrun.keeper import terms
    terms.Patience.__init__.__kwdefaults__.update({patience!r})
"""
#: How patient they are then, in seconds.
PATIENCE = {"silent": 6.0, "busy": 6.0, "doubt": 20.0, "lease": 12.0, "gone": 6.0, "short": 0.0}
#: What makes a container say sooner that it lives, and look more often.
LIVELY = {"OUTPOST_BEAT": "1", "OUTPOST_LOOK": "0.2"}


class Whole(Desk):
    """One outpost at an emulated region.

    Args:
        google: what it talks to.
        folder: for this side's state, and marks of agents.
        run: the runtime folder of keepers.
        more: further options.
    """

    def __init__(self, google: Emulator, folder: Path, run: str, **more: Any) -> None:
        super().__init__("", folder, run, **more)
        self.google = google
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.touch()
        name = str(more.get("name", "burst"))
        self.context = BuildContext(state_dir=folder / "state" / "outposts" / name)

    def options(self, **more: Any) -> CloudRunOptions:
        given: dict[str, Any] = {
            "project": PROJECT, "region": REGION, "service": "worker", "image": IMAGE,
            "endpoint": self.google.admin, "auth": "metadata", "warm_for": 0.0, "max_workers": 4,
            "cpu": 1.0, "memory": 1 << 30, **self.more, **more,
        }  # fmt: skip
        return CloudRunOptions(**given)

    def outpost(self, **more: Any) -> CloudRunOutpost:
        return CloudRunOutpost("burst", self.options(**more), self.context)

    def status(self, worker: str) -> WorkerStatus | None:
        """What is said of a worker; None while the outpost cannot be reached."""
        try:
            return super().status(worker)
        except UnreachableError:
            return None

    def deploy(self) -> None:
        """Deploy the service as `outpost bootstrap` does."""
        self.deploy_in(REGION)

    def deploy_in(self, region: str) -> None:
        """Deploy it in a region."""
        options = self.options(region=region)

        async def deploy() -> None:
            body = specs.service_body(options)
            async with open_admin(options, None) as admin:
                operation = await admin.patch_service("worker", body)
                while not operation.done:
                    operation = await admin.operation(operation.name)

        asyncio.run(deploy())

    def order(self, issue: str, more: str = "true", **given: Any) -> Order:
        """An order whose agent leaves a mark, and changes something."""
        from farkit import order

        script = WORK.format(marks=self.marks, more=more)
        given = {"timeout": 120.0, "rig": self.rig, **given}
        return order(issue, script, given.pop("rig"), owner="ab" * 8, **given)

    @property
    def rig(self) -> str:
        """The address of the rig."""
        return self.google.rigs.url("rig")

    def ran(self, issue: str) -> int:
        """How often the agent of an issue ran."""
        return sum(line.split()[0] == issue for line in self.marks.read_text().splitlines())

    def branch(self, issue: str) -> str:
        """The commit of a branch on the rig; "" where there is none."""
        return git(self.google.folder / "rigs" / "rig.git", "for-each-ref",
                   "--format=%(objectname)", f"refs/heads/outpost/{issue}")  # fmt: skip

    def agents(self) -> list[str]:
        """Agents that run."""
        return [one for one in processes_of(self.google.folder) if "echo began" in one]


def git(folder: Path, *words: str) -> str:
    who = {"NAME": "T", "EMAIL": "t@localhost"}
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull} | {
        f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()
    }
    done = subprocess.run(
        ["git", *words], cwd=folder, env=env, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def make_rig(google: Emulator, folder: Path) -> None:
    url = google.rigs.make("rig")
    work = folder / "project"
    work.mkdir()
    git(work, "init", "--quiet", "--initial-branch=main")
    (work / "hello.py").write_text('print("Hello")\n')
    git(work, "add", "hello.py")
    git(work, "commit", "--quiet", "--message=Say hello")
    git(work, "push", "--quiet", url, "main")


@contextmanager
def whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, knobs: dict[str, Any] | None = None,
    tls: bool = False, podman: Podman | None = None, deployed: bool = True, **more: Any,
) -> Iterator[Whole]:  # fmt: skip
    """A desk, a rig with one commit, and an emulator with the service deployed; nothing stays."""
    folder = tmp_path / "google"
    with runtime(monkeypatch) as run:
        with emulating(folder, tls=tls, podman=podman, **(knobs or {})) as google:
            for name, value in google.environment.items():
                monkeypatch.setenv(name, value)
            (tmp_path / "haste").mkdir()
            (tmp_path / "haste" / "sitecustomize.py").write_text(HASTE.format(patience=PATIENCE))
            monkeypatch.setenv("PYTHONPATH", str(tmp_path / "haste"))
            make_rig(google, tmp_path)
            desk = Whole(google, tmp_path, run, **more)
            google.cloud.surroundings.update(LIVELY)
            if deployed and more.get("mode", "service") == "service":
                desk.deploy()
            yield desk
        end = time.monotonic() + 30
        while left := processes_of(folder):
            assert time.monotonic() < end, left
            time.sleep(0.05)
