"""Mode job: one job a worker, its end told by the record, by Google, or by both."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from admincase import Case, bare_rig, order
from admingoogle import Google, RefusedError

from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    SpawnRefusedError,
    UnreachableError,
)
from outpost_core.names import checkpoint_ref
from outpost_core.types import Limits, Result, Secrets, State

HERE = Path(__file__).parent
DONE = Result(state=State.DONE, branch="outpost/gt-1", commit="c" * 40, log_bytes=5)


@pytest.fixture
def google() -> Iterator[Google]:
    server = Google()
    yield server
    server.close()


@pytest.fixture
def rig(tmp_path: Path) -> Path:
    return bare_rig(tmp_path / "rig.git")


@pytest.fixture
def case(google: Google, rig: Path, tmp_path: Path) -> Case:
    return Case(google, tmp_path / "state", order(rig))


def trouble(google: Google, names: set[str], status: int = 503, word: str = "UNAVAILABLE") -> None:
    def faults(name: str, _request: dict[str, Any]) -> None:
        if not names or name in names:
            raise RefusedError(status, word, "in trouble")

    google.faults = faults


def test_a_worker_is_a_job_that_runs_once_with_its_order(google: Google, case: Case) -> None:
    record = case.start()
    assert record.accepted
    job = google.things[f"projects/proj-1/locations/us-central1/jobs/{case.job}"]
    task = job["template"]["template"]
    assert (task["maxRetries"], task["timeout"]) == (0, "3910s")
    (packed,) = [
        each["value"] for each in task["containers"][0]["env"] if each["name"] == "OUTPOST_ORDER"
    ]
    body = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert (body["issue_id"], body["rig_url"]) == ("gt-1", case.order.rig)
    assert body["secrets"] == {}
    case.leave(DONE, b"hello")
    google.end(case.job)
    result = case.follow(record)
    assert replace(result, finished_at=None, cost_usd=None) == DONE
    assert result.cost_usd == pytest.approx(0.00264, rel=0.05)  # a minute of 2 vCPU and 4 GiB
    assert record.read_log(0) == b"hello"
    assert not google.things  # the job is removed with its harvest
    cleaned = case.run(lambda course: course.remove(record, force=False))
    assert cleaned.removed
    assert case.on_rig().read("gt-1.1") is None
    assert google.count("RunJob") == 0


def test_the_same_order_again_is_the_same_job_and_another_order_is_a_conflict(
    google: Google, case: Case, tmp_path: Path, rig: Path
) -> None:
    case.start()
    case.start()
    again = Case(google, tmp_path / "lost-its-state", case.order)
    assert again.start().accepted
    assert google.count("CreateJob") == 3
    other = Case(google, tmp_path / "other", order(rig, prompt="something else"))
    with pytest.raises(ConflictError, match="another order"):
        other.start()
    assert len([name for name in google.things if name.endswith("/tasks/0")]) == 1


def test_a_creation_that_is_answered_by_a_cut_line_is_found(google: Google, case: Case) -> None:
    google.faults = lambda name, _: name == "CreateJob" and google.count("CreateJob") == 1
    assert case.start().accepted
    assert google.count("CreateJob") == 2


@pytest.mark.parametrize(
    ("status", "error"), [(429, SpawnRefusedError), (403, SpawnRefusedError),
                          (404, SpawnRefusedError), (503, UnreachableError)],
)  # fmt: skip
def test_what_google_says_to_a_creation(
    google: Google, case: Case, status: int, error: type[Exception]
) -> None:
    trouble(google, {"CreateJob"}, status)
    with pytest.raises(error):
        case.start()
    assert not case.record().accepted


def test_a_job_that_will_never_begin_is_refused_and_removed(google: Google, case: Case) -> None:
    def faults(name: str, request: dict[str, Any]) -> None:
        if name == "CreateJob":
            request["job"].pop("startExecutionToken")
            request["job"]["terminalCondition"] = {
                "type": "Ready", "state": "CONDITION_FAILED", "reason": "CONTAINER_MISSING",
                "message": "Image 'x/y:1' not found.",
            }  # fmt: skip

    google.faults = faults
    with pytest.raises(SpawnRefusedError, match="not found"):
        case.start()
    assert not google.things


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"secrets": Secrets({"KEY": "v"})}, "Secret Manager"),
        ({"limits": Limits(timeout=169 * 3600.0)}, "mode: instance"),
        ({"prompt": "".join(f"{n:x}" for n in range(40_000))}, "bucket"),
    ],
)
def test_what_a_job_cannot_do_is_refused_before_anything_is_sent(
    google: Google, rig: Path, tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    case = Case(google, tmp_path / "state", order(rig, **more))
    record, secrets = case.record(), dict(more.get("secrets", {}))
    with pytest.raises(SpawnRefusedError) as refused:
        case.run(lambda course: course.start(record, secrets))
    assert said in refused.value.hint
    assert google.calls == []


def test_an_order_without_a_rig_has_nowhere_to_leave_its_result(
    google: Google, tmp_path: Path
) -> None:
    case = Case(google, tmp_path / "state", order(None))
    with pytest.raises(SpawnRefusedError, match="without a rig"):
        case.start()


def test_credentials_for_git_are_not_put_where_others_see_them(
    google: Google, rig: Path, tmp_path: Path
) -> None:
    case = Case(google, tmp_path / "state", order(rig), git_credentials=("print-token",))
    with pytest.raises(SpawnRefusedError) as refused:
        case.start()
    assert "OUTPOST_GIT_CREDENTIALS" in refused.value.hint


@pytest.mark.parametrize(
    ("end", "state", "reason"),
    [
        ({"signal": 9, "message": "killed"}, State.FAILED, "cloudrun_out_of_memory"),
        ({"exit_code": 137, "message": "exited"}, State.FAILED, "cloudrun_out_of_memory"),
        ({"signal": 11}, State.LOST, "lost_process"),
        ({"exit_code": 3}, State.LOST, "lost_process"),
        ({}, State.LOST, "lost_process"),
        ({"reason": "CANCELLED"}, State.STOPPED, "cloudrun_cancelled"),
        (
            {"signal": 9, "message": "The configured timeout was reached."},
            State.FAILED,
            "timeout",
        ),
    ],
)
def test_an_end_without_a_result_is_told_by_google_and_stands(
    google: Google, case: Case, end: dict[str, Any], state: State, reason: str
) -> None:
    record = case.start()
    claim = case.claim()
    google.end(case.job, **end)
    result = case.follow(record)
    assert (result.state, result.reason) == (state, reason)
    # The container that was believed dead comes back with its own result.
    assert case.on_rig().finish(claim, DONE, b"").reason == reason
    found = case.on_rig().read("gt-1.1")
    assert found is not None
    assert found.result is not None
    assert found.result.reason == reason


def test_a_container_that_ends_before_it_claims_has_not_begun(google: Google, case: Case) -> None:
    record = case.start()
    google.end(case.job, exit_code=2)
    result = case.follow(record)
    assert (result.state, result.reason) == (State.FAILED, "never_started")
    assert result.agent_began is False


def test_what_would_be_an_option_of_git_is_refused_before_anything_is_sent(
    google: Google, tmp_path: Path
) -> None:
    case = Case(google, tmp_path / "state", order(Path("ext::sh -c true")))
    with pytest.raises(SpawnRefusedError, match="cannot be a rig"):
        case.start()
    assert google.calls == []


def test_a_cancelled_execution_that_left_a_result_keeps_it(google: Google, case: Case) -> None:
    record = case.start()
    case.leave(DONE)
    google.end(case.job, reason="CANCELLED")
    assert case.follow(record).state is State.DONE


def test_unpushed_work_is_named(google: Google, case: Case, rig: Path) -> None:
    record = case.start()
    case.claim()
    tree = subprocess.run(
        ["git", "-C", rig, "hash-object", "-t", "tree", "-w", "/dev/null"],
        capture_output=True, check=True, text=True,
    ).stdout.strip()  # fmt: skip
    commit = subprocess.run(
        ["git", "-C", rig, "-c", "user.name=a", "-c", "user.email=a@b", "commit-tree", tree,
         "-m", "work"], capture_output=True, check=True, text=True,
    ).stdout.strip()  # fmt: skip
    ref = checkpoint_ref("gt-1.1", case.order.owner)
    subprocess.run(["git", "-C", rig, "update-ref", ref, commit], check=True)
    google.end(case.job, signal=9)
    assert case.follow(record).checkpoint == ref


def test_the_end_of_a_long_log_says_what_is_missing(google: Google, case: Case) -> None:
    record = case.start()
    tail = b"x" * 100
    case.leave(Result(state=State.DONE, log_bytes=1000), tail)
    google.end(case.job)
    case.follow(record)
    log = record.read_log(0)
    assert log.endswith(b"]\n" + tail)
    assert b"900 bytes" in log


def test_a_503_on_every_call_says_nothing_about_a_worker(google: Google, case: Case) -> None:
    record = case.start()
    case.leave(DONE)
    google.end(case.job)
    trouble(google, set())
    case.patience = 0.1

    async def work(course: Any) -> None:
        following = asyncio.create_task(course.follow(record))
        while "not to be asked" not in record.status.detail:
            await asyncio.sleep(0.05)
        assert await course.unreached([record])
        assert record.result is None
        google.faults = lambda _name, _request: None
        await following
        assert await course.unreached([record]) == ""

    case.run(work)
    assert record.result is not None
    assert record.result.state is State.DONE


def test_a_rig_that_is_away_says_nothing_either(google: Google, case: Case, rig: Path) -> None:
    record = case.start()
    case.leave(DONE)
    google.end(case.job)
    away = rig.rename(rig.with_name("away.git"))

    async def work(course: Any) -> None:
        following = asyncio.create_task(course.follow(record))
        while "not to be asked" not in record.status.detail:
            await asyncio.sleep(0.05)
        assert record.result is None
        away.rename(rig)
        await following

    case.run(work)
    assert record.result is not None
    assert record.result.state is State.DONE


def test_a_job_deleted_outside_is_lost_unless_it_left_a_result(
    google: Google, case: Case, tmp_path: Path, rig: Path
) -> None:
    record = case.start()
    google.things.clear()
    result = case.follow(record)
    assert (result.state, result.reason) == (State.LOST, "cloudrun_deleted")
    other = Case(google, tmp_path / "other", order(rig, attempt=2))
    record = other.start()
    other.leave(DONE)
    google.things.clear()
    assert other.follow(record).state is State.DONE


def test_a_stop_leaves_word_and_cancels_what_does_not_hear_it(
    google: Google, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outpost_cloudrun.keeper.job.HEARD", 0.5)
    record = case.start()
    case.claim()
    record.ask_stop(0.0)

    async def work(course: Any) -> None:
        following = asyncio.create_task(course.follow(record))
        await course.stop(record, 0.0)
        found = case.on_rig().read("gt-1.1")
        assert found is not None
        assert found.stop == 0.0
        assert record.hurry.is_set()  # whoever follows it looks at once
        assert google.count("CancelExecution") == 0
        while record.result is None:
            await course.stop(record, 0.0)
            await asyncio.sleep(0.05)
        await following

    case.run(work)
    assert record.result is not None
    assert (record.result.state, record.result.reason) == (State.STOPPED, "stopped")
    assert google.count("CancelExecution") >= 1


def test_a_stop_before_anything_is_there_holds_for_a_creation_that_is_on_its_way(
    google: Google, case: Case
) -> None:
    record = case.record()
    record.ask_stop(5.0)
    with pytest.raises(NotFoundError):
        case.run(lambda course: course.stop(record, 5.0))
    found = case.on_rig().read("gt-1.1")
    assert found is not None
    assert found.result is not None
    assert found.result.state is State.STOPPED


def test_a_job_whose_execution_has_not_begun_is_removed_by_a_stop(
    google: Google, case: Case
) -> None:
    google.faults = lambda name, request: (
        request["job"].pop("startExecutionToken") and None if name == "CreateJob" else None
    )
    record = case.start()
    record.ask_stop(5.0)
    case.run(lambda course: course.stop(record, 5.0))
    assert not google.things
    assert case.follow(record).state is State.STOPPED


def test_a_worker_waits_while_google_has_no_room(google: Google, case: Case) -> None:
    record = case.start()
    execution = google.execution(case.job)
    started = execution.pop("startTime")
    execution.pop("runningCount")
    execution["conditions"][0]["message"] = "Waiting for capacity."

    async def work(course: Any) -> None:
        following = asyncio.create_task(course.follow(record))
        while record.status.detail != "waits for its container: Waiting for capacity.":
            await asyncio.sleep(0.02)
        assert record.status.state is State.STARTING
        execution.update(startTime=started, runningCount=1)
        while record.status.state is not State.WORKING:
            await asyncio.sleep(0.02)
        following.cancel()

    case.run(work)


def test_ping_says_what_is_in_the_way(google: Google, case: Case) -> None:
    assert case.run(lambda course: course.ping()).ok
    trouble(google, set(), 403, "PERMISSION_DENIED")
    health = case.run(lambda course: course.ping())
    assert not health.ok
    assert "roles/run" in health.hint


_STEPS = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from admincase import Case, order
class Place:
    url = {url!r}
case = Case(Place(), Path({root!r}), order(Path({rig!r})))
async def go(course):
    record = case.record()
    if not record.accepted:
        await course.start(record, {{}})
    if {verb!r} == "stop":
        record.ask_stop(5.0)
        await course.stop(record, 5.0)
    if {verb!r} != "start":
        await course.follow(record)
case.run(go)
"""


@pytest.mark.parametrize(
    ("point", "verb"),
    [
        ("keeper.recorded", "start"),
        ("job.created", "start"),
        ("keeper.accepted", "start"),
        ("job.cancelled", "stop"),
        ("job.settled", "follow"),
        ("job.removed", "follow"),
        ("keeper.finished", "follow"),
    ],
)
def test_killed_at_any_point_it_goes_on_and_nothing_runs_twice(
    google: Google, case: Case, rig: Path, point: str, verb: str
) -> None:
    text = _STEPS.format(
        here=str(HERE), url=google.url, root=str(case.root), rig=str(rig), verb=verb
    )
    if verb != "start":
        case.start()
        if verb == "follow":
            case.leave(DONE, b"hello")
            google.end(case.job)
    killed = subprocess.run(
        [sys.executable, "-c", text], env={"OUTPOST_FAULT": point, "PATH": "/usr/bin:/bin"},
        timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    record = case.record()
    if record.result is None:
        if not record.accepted:
            record = case.start()
        if verb == "start":
            case.leave(DONE, b"hello")
            google.end(case.job)
        result = case.follow(record)
    else:
        result = record.result
    wanted = State.STOPPED if verb == "stop" else State.DONE
    assert result.state is wanted
    assert record.read_log(0) == (b"" if verb == "stop" else b"hello")
    executions = {request["name"] for name, request in google.calls if name == "CancelExecution"}
    assert len(executions) <= 1
    assert not google.things
