"""Mode job with the real program in its container: the record on the rig, and what goes wrong."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from admincase import bare_rig
from emulkit import IMAGE
from farkit import order

from outpost_cloudrun.admin.factory import admin_client
from outpost_cloudrun.keeper.job import JobCourse
from outpost_cloudrun.keeper.records import Records
from outpost_cloudrun.keeper.witness import Witness
from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_cloudrun.options import Auth, CloudRunOptions, Mode
from outpost_cloudrun.testing.emulator import Emulator, emulating
from outpost_cloudrun.testing.knobs import Image
from outpost_core.types import State

REGION = "us-central1"


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Emulator]:
    images = {IMAGE: Image(env={"OUTPOST_LOOK": "0.3"})}
    with emulating(tmp_path / "google", tokens=False, images=images) as running:
        yield running


@pytest.fixture
def rig(tmp_path: Path) -> Path:
    made, work = bare_rig(tmp_path / "rig.git"), tmp_path / "work"
    for words in (
        ["init", "-q", "-b", "main", str(work)],
        ["-C", str(work), "-c", "user.name=T", "-c", "user.email=t@localhost",
         "commit", "-q", "--allow-empty", "-m", "first"],
        ["-C", str(work), "push", "-q", str(made), "main"],
        ["-C", str(made), "symbolic-ref", "HEAD", "refs/heads/main"],
    ):  # fmt: skip
        subprocess.run(["git", *words], check=True)
    return made


class Case:
    """One worker of an outpost in mode job."""

    def __init__(self, google: Emulator, folder: Path, rig: Path, script: str) -> None:
        self.google = google
        self.root = folder / "near"
        self.rig = rig
        given = order("gt-1", script, str(rig), timeout=600.0, checkpoint_every=0.3)
        self.order = replace(given, owner="ab" * 8)
        self.options = CloudRunOptions(
            project="proj-1", region=REGION, service="worker", image=IMAGE, mode=Mode.JOB,
            endpoint=google.admin, auth=Auth.NONE,
        )  # fmt: skip
        self.record: WorkerRecord = Records(self.root).create(self.order)

    def run(self, work: Callable[[JobCourse], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            admin = admin_client(self.options, None, patience=0.5)
            course = JobCourse(self.options, admin, Witness(self.root))
            try:
                await course.start(self.record, {})
                return await asyncio.wait_for(work(course), 120)
            finally:
                await course.aclose()

        return asyncio.run(main())

    def branches(self) -> str:
        done = subprocess.run(
            ["git", "-C", self.rig, "for-each-ref", "--format=%(refname)"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout


async def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def test_its_branch_is_pushed_and_its_result_read_from_the_rig(
    google: Emulator, tmp_path: Path, rig: Path
) -> None:
    case = Case(google, tmp_path, rig, "echo hello; date > made")
    case.run(lambda course: course.follow(case.record))
    result = case.record.result
    assert result is not None
    assert (result.state, result.branch) == (State.DONE, "outpost/gt-1")
    assert case.record.read_log(0) == b"hello\n"
    assert "refs/heads/outpost/gt-1" in case.branches()
    assert not google.cloud.jobs
    assert len(google.journal.entries("execution.created")) <= 1


def test_a_clock_that_is_a_day_off_changes_nothing(
    google: Emulator, tmp_path: Path, rig: Path
) -> None:
    google.knobs.clock = 86400.0
    case = Case(google, tmp_path, rig, "date > made")
    case.run(lambda course: course.follow(case.record))
    assert case.record.result is not None
    assert case.record.result.state is State.DONE
    assert case.record.result.cost_usd is not None
    assert case.record.result.cost_usd < 0.01


def test_a_region_that_is_away_for_a_while_loses_nothing(
    google: Emulator, tmp_path: Path, rig: Path
) -> None:
    going = tmp_path / "going"
    going.touch()
    script = f"echo on; while [ -e {going} ]; do sleep 0.1; done; date > made"
    case = Case(google, tmp_path, rig, script)

    async def work(course: JobCourse) -> None:
        following = asyncio.create_task(course.follow(case.record))
        await until(lambda: case.record.status.state is State.WORKING)
        google.knobs.regions_away.add(REGION)
        await until(lambda: "not to be asked" in case.record.status.detail)
        assert await course.unreached([case.record])
        going.unlink()  # it ends while nobody can look
        google.knobs.regions_away.clear()
        await following

    case.run(work)
    assert case.record.result is not None
    assert case.record.result.state is State.DONE


def test_a_worker_that_is_stopped_keeps_its_work(
    google: Emulator, tmp_path: Path, rig: Path
) -> None:
    case = Case(google, tmp_path, rig, "date > made; echo on; sleep 300")

    async def work(course: JobCourse) -> None:
        following = asyncio.create_task(course.follow(case.record))
        await until(lambda: "/gt-1.1\n" in case.branches().replace("records/gt-1.1\n", ""))
        case.record.ask_stop(2.0)
        await course.stop(case.record, 2.0)
        await following

    case.run(work)
    result = case.record.result
    assert result is not None
    assert (result.state, result.reason) == (State.STOPPED, "stopped")
    assert result.checkpoint == f"refs/outpost/{'ab' * 8}/gt-1.1"
    assert not google.cloud.jobs


def test_a_container_that_is_killed_leaves_its_checkpoint(
    google: Emulator, tmp_path: Path, rig: Path
) -> None:
    case = Case(google, tmp_path, rig, "date > made; echo on; sleep 300")

    async def work(course: JobCourse) -> None:
        following = asyncio.create_task(course.follow(case.record))
        await until(lambda: "/gt-1.1\n" in case.branches().replace("records/gt-1.1\n", ""))
        ((job, _),) = google.cloud.jobs.items()
        admin = admin_client(case.options, None)
        await admin.delete_job(job)
        await admin.aclose()
        await following

    case.run(work)
    result = case.record.result
    assert result is not None
    assert result.state in (State.LOST, State.STOPPED)
    assert result.checkpoint == f"refs/outpost/{'ab' * 8}/gt-1.1"
