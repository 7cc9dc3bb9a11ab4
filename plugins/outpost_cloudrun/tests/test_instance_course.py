"""Mode instance, through the emulator and the container's real program."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from admincase import bare_rig
from emulkit import IMAGE
from farkit import order

from outpost_cloudrun import price
from outpost_cloudrun.admin.factory import admin_client
from outpost_cloudrun.keeper import instance, steady
from outpost_cloudrun.keeper.client import Way
from outpost_cloudrun.keeper.far import Far
from outpost_cloudrun.keeper.instance import InstanceCourse
from outpost_cloudrun.keeper.records import Records
from outpost_cloudrun.keeper.terms import Patience
from outpost_cloudrun.keeper.witness import Witness
from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_cloudrun.options import Auth, CloudRunOptions, Mode
from outpost_cloudrun.prices import SHORTEST_LIFE
from outpost_cloudrun.testing.emulator import Emulator, emulating
from outpost_cloudrun.testing.knobs import Image
from outpost_core.backend import BuildContext
from outpost_core.errors import ConflictError, NotFoundError, SpawnRefusedError
from outpost_core.types import Cleaned, Order, Result, State

HERE = Path(__file__).parent
PATIENCE = Patience(silent=20.0, busy=5.0, doubt=10.0, gone=2.0)


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Emulator]:
    with emulating(tmp_path / "google", tokens=False) as running:
        yield running


def options(endpoint: str, **more: Any) -> CloudRunOptions:
    given = {
        "project": "proj-1", "region": "us-central1", "service": "worker", "image": IMAGE,
        "mode": Mode.INSTANCE, "endpoint": endpoint, "auth": Auth.NONE, **more,
    }  # fmt: skip
    return CloudRunOptions(**given)


class Case:
    """One outpost in mode instance, with one worker."""

    def __init__(self, endpoint: str, folder: Path, given: Order, **more: Any) -> None:
        self.context = BuildContext(state_dir=folder / "state")
        self.options = options(endpoint, **more)
        self.order = given

    def record(self) -> WorkerRecord:
        return Records(self.context.state_dir).create(self.order)

    def run(self, work: Callable[[InstanceCourse], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            admin = admin_client(self.options, None, patience=2.0)
            course = InstanceCourse(
                "burst", self.options, self.context, admin, Way("burst", self.options),
                Witness(self.context.state_dir),
                patience=PATIENCE, watch=0.3,
            )  # fmt: skip
            try:
                return await asyncio.wait_for(work(course), 200)
            finally:
                await course.aclose()

        return asyncio.run(main())

    def start(self) -> WorkerRecord:
        record = self.record()
        self.run(lambda course: course.start(record, dict(self.order.secrets)))
        return record

    def follow(self, record: WorkerRecord | None = None) -> Result:
        record = record or self.record()
        self.run(lambda course: course.follow(record))
        assert record.result is not None
        return record.result


def case_of(google: Emulator, tmp_path: Path, script: str, **more: Any) -> Case:
    return Case(google.admin, tmp_path / "near", order("gt-1", script, timeout=600.0, **more))


def count(google: Emulator, what: str) -> int:
    return len(google.journal.entries(what))


def test_a_worker_runs_in_an_instance_that_is_gone_when_it_has_ended(
    google: Emulator, tmp_path: Path
) -> None:
    case = case_of(google, tmp_path, "echo hello; echo $OUTPOST_BUCKET; exit 0")
    record = case.start()
    assert record.accepted
    result = case.follow(record)
    assert result.state is State.DONE
    assert b"hello" in record.read_log(0)
    assert not google.cloud.instances
    assert result.cost_usd is not None
    assert case.run(lambda course: course.remove(record, force=False)).removed


def test_the_same_order_again_finds_it_and_another_order_is_a_conflict(
    google: Emulator, tmp_path: Path
) -> None:
    case = case_of(google, tmp_path, "sleep 300")
    case.start()
    lost = Case(google.admin, tmp_path / "lost", case.order)
    assert lost.start().accepted
    other = Case(google.admin, tmp_path / "other", order("gt-1", "true", timeout=600.0))
    with pytest.raises(ConflictError):
        other.start()
    assert count(google, "instance.created") == 1


def test_a_stop_ends_the_worker_and_its_instance(google: Emulator, tmp_path: Path) -> None:
    case = case_of(google, tmp_path, "echo on; sleep 300")
    record = case.start()

    async def work(course: InstanceCourse) -> None:
        following = asyncio.create_task(course.follow(record))
        while not record.log_size:
            await asyncio.sleep(0.05)
        record.ask_stop(2.0)
        await course.stop(record, 2.0)
        await following

    case.run(work)
    assert record.result is not None
    assert record.result.state is State.STOPPED
    assert not google.cloud.instances


def test_a_line_that_was_cut_just_before_a_question_is_not_taken_for_one_that_is_heard(
    google: Emulator, tmp_path: Path
) -> None:
    case = case_of(google, tmp_path, "sleep 300")
    record = case.start()

    async def work(course: InstanceCourse) -> str:
        following = asyncio.create_task(course.follow(record))
        while not course._stream(record).attached:
            await asyncio.sleep(0.01)
        google.knobs.regions_away.add("us-central1")
        google.do(google.cut_instances)  # blocks this loop, which hears of nothing meanwhile
        try:
            return await course.unreached([record])
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    assert case.run(work)


def test_a_stop_before_the_worker_began_leaves_nothing(google: Emulator, tmp_path: Path) -> None:
    case = case_of(google, tmp_path, "true")
    record = case.record()
    with pytest.raises(NotFoundError):
        case.run(lambda course: course.stop(record, 1.0))


@pytest.mark.parametrize("how", ["killed", "stopped", "deleted"])
def test_an_instance_that_ends_without_a_word_is_told(
    google: Emulator, tmp_path: Path, how: str
) -> None:
    case = case_of(google, tmp_path, "echo on; sleep 300")
    record = case.start()
    ((name, _),) = google.cloud.instances.items()
    short = name.rpartition("/")[2]

    async def work(course: InstanceCourse) -> None:
        following = asyncio.create_task(course.follow(record))
        while not record.log_size:
            await asyncio.sleep(0.05)
        if how == "killed":
            await asyncio.to_thread(google.kill_instance, short)
        else:
            admin = admin_client(case.options, None)
            change = admin.stop_instance if how == "stopped" else admin.delete_instance
            await change(short)
            await admin.aclose()
        await following

    case.run(work)
    assert record.result is not None
    said = (record.result.state, record.result.reason)
    if how == "killed":
        assert said == (State.FAILED, "cloudrun_out_of_memory")
    else:  # SIGTERM: the program says that it moves, or nothing any more
        assert record.result.state in (State.STOPPED, State.LOST), said
    assert not google.cloud.instances


def test_an_instance_that_is_killed_has_its_end_on_record_until_it_is_cleaned(
    google: Emulator, tmp_path: Path
) -> None:
    rig = bare_rig(tmp_path / "rig.git")
    given = order("gt-1", "echo on; sleep 300", str(rig), timeout=600.0)
    case = Case(google.admin, tmp_path / "near", given)
    record = case.start()
    ((name, _),) = google.cloud.instances.items()

    async def work(course: InstanceCourse) -> None:
        following = asyncio.create_task(course.follow(record))
        while record.status.state is not State.WORKING:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(google.kill_instance, name.rpartition("/")[2])
        await following

    case.run(work)
    assert record.result is not None
    assert record.result.reason in ("cloudrun_out_of_memory", "workspace_failed")
    assert case.run(lambda course: course.remove(record, force=False)).removed
    refs = subprocess.run(
        ["git", "-C", rig, "for-each-ref"], capture_output=True, text=True, check=True
    )
    assert refs.stdout == ""


def test_an_image_that_is_missing_is_refused_and_nothing_is_left(
    google: Emulator, tmp_path: Path
) -> None:
    google.knobs.images[IMAGE] = Image(missing=True)
    case = case_of(google, tmp_path, "true")
    with pytest.raises(SpawnRefusedError, match="not found"):
        case.start()
    assert not google.cloud.instances


@pytest.mark.parametrize("does", ["raise SystemExit(3)", "import time; time.sleep(600)"])
def test_an_instance_that_never_gets_ready_is_removed_and_counts_from_its_beginning(
    google: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    """It was there, so it is paid for; the cap of the hour has to know that."""
    google.knobs.images[IMAGE] = Image(entrypoint=(sys.executable, "-c", does))
    monkeypatch.setattr(instance, "READY", 3.0)
    case = case_of(google, tmp_path, "true")
    begun = time.monotonic()
    record = case.start()
    took = time.monotonic() - begun
    assert not google.cloud.instances
    result = record.result
    assert result is not None
    assert (result.state, result.reason) == (State.FAILED, "never_started"), result
    assert result.agent_began is False
    second = price.hour(case.options).busy / 3600
    assert result.cost_usd == pytest.approx(max(took, SHORTEST_LIFE) * second, rel=0.05)
    assert record.accepted, "it is listed, cleaned, and counts"
    assert case.run(lambda course: course.remove(record, force=False)).removed


def test_an_instance_that_takes_long_to_go_is_paid_for_until_it_is_gone(
    google: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = 0.0
    real = steady.now
    monkeypatch.setattr(steady, "now", lambda: real() + ahead)
    case = case_of(google, tmp_path, "true")
    record = case.start()

    async def work(course: InstanceCourse) -> None:
        removed = course._is_removed

        async def late(name: str) -> bool:
            nonlocal ahead
            ahead += 120.0
            return ahead > 200 and await removed(name)

        monkeypatch.setattr(course, "_is_removed", late)
        await course.follow(record)

    case.run(work)
    assert record.result is not None
    second = price.hour(case.options).busy / 3600
    assert record.result.cost_usd is not None
    assert record.result.cost_usd >= 240 * second
    assert record.result.cost_usd <= price.worst_case(case.options, case.order)


def test_an_order_that_the_program_refuses_leaves_no_instance_behind(
    google: Emulator, tmp_path: Path
) -> None:
    case = case_of(google, tmp_path, "true", env={"A\0": "b"})
    result = case.start().result
    assert result is not None
    assert (result.state, result.reason, result.agent_began) == (
        State.FAILED, "never_started", False,
    )  # fmt: skip
    assert "NUL" in result.message, "what the program said"
    assert result.cost_usd, "its instance was there"
    assert not google.cloud.instances


def test_an_instance_that_nobody_comes_to_end_ends_itself(
    google: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outpost was removed by force, and this machine was started anew."""
    rig = bare_rig(tmp_path / "rig.git")
    monkeypatch.setattr(price, "AROUND", 5.0)
    given = order("gt-1", "echo on; sleep 300", str(rig), timeout=8.0, grace=0.0)
    case = Case(google.admin, tmp_path / "near", given)
    case.start()
    ((_, made),) = google.cloud.instances.items()
    said = {each.name: each.value for each in made.containers[0].env}
    assert said["OUTPOST_LIFE"] == "13"
    google.journal.wait("instance.ended", timeout=60)
    (ended,) = google.journal.entries("instance.ended")
    assert ended.about["code"] == 0
    result = case.follow(case.record())
    assert result.state in (State.FAILED, State.STOPPED, State.LOST), result
    assert not google.cloud.instances


def test_nothing_of_a_worker_stays_on_a_share(
    google: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the container reaches the share, so it is asked while it is there."""
    given = order("gt-1", "echo hello", timeout=600.0)
    case = Case(google.admin, tmp_path / "near", given, volume="10.0.0.2:/share")
    before: list[Path] = []
    after: list[Path] = []
    clean = Far.clean

    def kept() -> list[Path]:
        """What stands there; the newest file of a record is what it says, an empty one nothing."""
        share = tmp_path / "google" / "nfs" / "10.0.0.2" / "share"
        newest = max((share / "records" / "gt-1.1").iterdir())
        return [*(share / "logs").rglob("gt-1.1/*"), *([newest] if newest.stat().st_size else [])]

    async def watched(self: Far, *args: Any, **more: Any) -> Cleaned:
        before.extend(kept())
        cleaned = await clean(self, *args, **more)
        after.extend(kept())
        assert google.cloud.instances, "it was asked while it was there"
        return cleaned

    monkeypatch.setattr(Far, "clean", watched)
    record = case.start()
    assert case.follow(record).state is State.DONE
    assert before != []
    assert after == []
    assert record.read_log(0).endswith(b"hello\n")


_STEPS = """
import sys
from pathlib import Path
sys.path[:0] = [{here!r}]
from test_instance_course import Case
from farkit import order
case = Case({url!r}, Path({root!r}), order("gt-1", {script!r}, timeout=600.0))
async def go(course):
    record = case.record()
    if not record.accepted:
        await course.start(record, {{}})
    await course.follow(record)
case.run(go)
"""


@pytest.mark.parametrize(
    "point",
    ["instance.created", "keeper.accepted", "instance.harvested", "instance.removed",
     "keeper.finished"],
)  # fmt: skip
def test_killed_at_any_point_it_goes_on_and_nothing_is_left_to_be_paid(
    google: Emulator, tmp_path: Path, point: str
) -> None:
    mark = tmp_path / "ran"
    script = f"echo ran >> {mark}; echo hello"
    case = case_of(google, tmp_path, script)
    text = _STEPS.format(
        here=str(HERE), url=google.admin, root=str(tmp_path / "near"), script=script
    )
    killed = subprocess.run(
        [sys.executable, "-c", text], env={"OUTPOST_FAULT": point, "PATH": "/usr/bin:/bin"},
        timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    record = case.record()
    if record.result is None:
        if not record.accepted:
            record = case.start()
        case.follow(record)
    assert record.result is not None
    assert record.result.state is State.DONE
    assert record.read_log(0).count(b"hello") == 1
    assert mark.read_text() == "ran\n"
    assert count(google, "instance.created") == 1
    assert not google.cloud.instances
