"""Modes job and instance through the whole of it: what fails there runs nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keeperkit import until
from test_faults_containers import begun, done
from wholekit import PROJECT, REGION, Whole, whole

from outpost_cloudrun.options import Mode
from outpost_core.errors import OutpostError
from outpost_core.types import State

pytestmark = pytest.mark.slow


@pytest.fixture(params=["job", "instance"])
def desk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Whole]:
    with whole(tmp_path, monkeypatch, mode=Mode(request.param)) as made:
        yield made


def things(desk: Whole) -> list[str]:
    """What there is at Google that somebody pays for."""
    return [*desk.google.cloud.jobs, *desk.google.cloud.instances]


def containers(desk: Whole) -> list[Any]:
    return desk.google.journal.entries("task.started") + desk.google.journal.entries(
        "instance.started"
    )


def test_the_main_job_and_nothing_is_left_that_is_paid_for(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1"))
    done(desk, "gt-1")
    assert len(containers(desk)) == 1
    desk.asked(lambda o: o.outpost_clean(worker="gt-1.1", force=False))
    assert things(desk) == []


def test_an_answer_that_is_lost_creates_nothing_twice(desk: Whole) -> None:
    desk.google.knobs.admin_lost_answers = 2
    desk.spawn(desk.order("gt-1"))
    done(desk, "gt-1")
    assert len(containers(desk)) == 1


def test_google_in_trouble_says_nothing_of_the_worker(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", "sleep 4"))
    begun(desk, "gt-1")
    desk.google.knobs.admin_failures.extend([503, 429, 500, 503])
    done(desk, "gt-1")


def test_a_region_that_is_away_in_the_middle_is_waited_for(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", "sleep 2"))
    begun(desk, "gt-1")
    desk.google.knobs.regions_away.add(REGION)
    until(lambda: desk.branch("gt-1") != "", "it is delivered all the same")
    desk.google.knobs.regions_away.clear()
    done(desk, "gt-1")


def test_a_container_that_is_killed_is_told_of_and_nothing_runs_again(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", "sleep 600"))
    begun(desk, "gt-1")
    assert desk.google.kill_containers("") == 1
    until(lambda: desk.agents() == [], "it went with its container")
    result = desk.result("gt-1.1")
    assert result.state in (State.LOST, State.FAILED), result
    assert desk.ran("gt-1") == 1
    assert len(containers(desk)) == 1


def test_a_stop_ends_the_container(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", "sleep 600"))
    begun(desk, "gt-1")
    desk.asked(lambda o: o.outpost_stop(worker="gt-1.1", grace=5.0))
    result = desk.result("gt-1.1")
    assert result.state is State.STOPPED, result
    until(lambda: desk.agents() == [], "it has ended")
    assert desk.ran("gt-1") == 1


def test_a_role_that_is_missing_is_named_and_nothing_runs(desk: Whole) -> None:
    desk.google.knobs.denied |= {"run.jobs.create", "run.instances.create"}
    with pytest.raises(OutpostError, match=r"run\.(jobs|instances)\.create|may not|denied"):
        desk.spawn(desk.order("gt-1"))
    assert things(desk) == []
    desk.google.knobs.denied.clear()
    desk.spawn(desk.order("gt-1"))
    done(desk, "gt-1")


def test_a_quota_that_is_used_up_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with whole(tmp_path, monkeypatch, mode=Mode.JOB, knobs={"most_jobs": 0}) as desk:
        with pytest.raises(OutpostError, match=r"[Qq]uota"):
            desk.spawn(desk.order("gt-1"))
        assert desk.google.cloud.jobs == {}
        assert PROJECT in desk.google.journal.entries("admin")[0].about["path"]  # type: ignore[operator]
