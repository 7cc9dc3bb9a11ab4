"""What the tests of jobs and instances share: a rig, an order, what a container leaves there."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from admingoogle import PROJECT, REGION, Google

from outpost_cloudrun.admin.factory import admin_client
from outpost_cloudrun.keeper.job import JobCourse
from outpost_cloudrun.keeper.records import Records
from outpost_cloudrun.keeper.witness import Witness
from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_cloudrun.options import CloudRunOptions
from outpost_core.types import Agent, Delivery, Issue, Limits, Order, Result
from outpost_worker.record.kinds import Claim, Record
from outpost_worker.record.places import on_rig

OWNER = "ab" * 8
IMAGE = "us-central1-docker.pkg.dev/proj-1/outpost/worker:1"


def bare_rig(path: Path) -> Path:
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True)
    return path


def order(rig: Path | None, **more: Any) -> Order:
    given: dict[str, Any] = {
        "issue": Issue(id="gt-1", title="Mend it"), "agent": Agent(argv=("true",)),
        "rig": None if rig is None else str(rig), "owner": OWNER,
        "limits": Limits(timeout=3600.0),
        "delivery": None if rig is None else Delivery(branch="outpost/gt-1", message="m"), **more,
    }  # fmt: skip
    return Order(**given)


def options(google: Google, **more: Any) -> CloudRunOptions:
    given = {
        "project": PROJECT, "region": REGION, "service": "worker", "image": IMAGE,
        "endpoint": google.url, "mode": "job", **more,
    }  # fmt: skip
    return CloudRunOptions(**given)


class Case:
    """One outpost in mode job, with one worker.

    Args:
        google: what it talks to.
        root: its state folder.
        given: the order.
        more: further options.
    """

    def __init__(self, google: Google, root: Path, given: Order, **more: Any) -> None:
        self.google = google
        self.root = root
        self.order = given
        self.patience = 1.0
        self.options = options(google, **more)

    @property
    def job(self) -> str:
        """The name of the one job there is at Google."""
        (name,) = [name for name in self.google.things if name.split("/")[-2] == "jobs"]
        return name.rpartition("/")[2]

    def record(self) -> WorkerRecord:
        return Records(self.root).create(self.order)

    def on_rig(self) -> Record:
        where = self.root / "container"
        where.mkdir(mode=0o700, exist_ok=True)
        return on_rig(str(self.order.rig), str(where), OWNER)

    def claim(self) -> Claim:
        """Claim the worker as its container does."""
        record = self.record()
        claim = Claim(worker=record.worker, digest=record.digest, owner=OWNER, instance="0c")
        assert self.on_rig().claim(claim).id == claim.id
        return claim

    def leave(self, result: Result, tail: bytes = b"") -> None:
        """Leave a result as the container does."""
        claim = self.claim()
        self.on_rig().finish(claim, result, tail)

    def run(self, work: Callable[[JobCourse], Any]) -> Any:
        async def main() -> Any:
            admin = admin_client(self.options, None, patience=self.patience)
            course = JobCourse(self.options, admin, Witness(self.root))
            try:
                return await asyncio.wait_for(work(course), 200)
            finally:
                await course.aclose()

        return asyncio.run(main())

    def start(self) -> WorkerRecord:
        record = self.record()
        self.run(lambda course: course.start(record, {}))
        return record

    def follow(self, record: WorkerRecord | None = None) -> Result:
        record = record or self.record()
        self.run(lambda course: course.follow(record))
        assert record.result is not None
        return record.result
