"""A worker is held where it was started, whatever the configuration says by now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keeperkit import until
from test_faults_containers import begun
from wholekit import Whole, whole

from outpost_cloudrun.keeper.site import Site
from outpost_cloudrun.options import CloudRunOptions, Mode
from outpost_core.types import State

HERE = {"project": "proj-1", "region": "us-central1", "service": "worker", "image": "x.example/i:1"}
ELSEWHERE = {
    "region": {"region": "europe-west1"},
    "project": {"project": "proj-2"},
    "service": {"service": "other"},
    "mode": {"mode": Mode.SERVICE},
}


@pytest.fixture(params=["job", "instance", "service"])
def desk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Whole]:
    with whole(tmp_path, monkeypatch, mode=Mode(request.param)) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("what", [*ELSEWHERE])
def test_another_configuration_while_a_worker_runs_ends_and_forgets_nothing(
    desk: Whole, what: str
) -> None:
    desk.spawn(desk.order("gt-1", "sleep 600"))
    begun(desk, "gt-1")
    desk.more |= ELSEWHERE[what]
    desk.asked(lambda o: o.outpost_list())
    desk.asked(lambda o: o.outpost_stop(worker="gt-1.1", grace=5.0))
    result = desk.result("gt-1.1")
    assert (result.state, result.reason) == (State.STOPPED, "stopped"), result
    assert desk.agents() == []
    desk.asked(lambda o: o.outpost_clean(worker="gt-1.1", force=False))
    assert [*desk.google.cloud.jobs, *desk.google.cloud.instances] == []
    assert desk.ran("gt-1") == 1


@pytest.mark.slow
def test_what_is_started_after_the_change_is_started_at_the_new_place(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", "sleep 600"))
    begun(desk, "gt-1")
    desk.more |= {"mode": Mode.INSTANCE, "region": "europe-west1"}
    desk.spawn(desk.order("gt-2", "sleep 600"))
    begun(desk, "gt-2")
    places = [name for name in desk.google.cloud.instances if "europe-west1" in name]
    assert len(places) == 1
    for worker in ("gt-1.1", "gt-2.1"):
        desk.asked(lambda o, worker=worker: o.outpost_stop(worker=worker, grace=5.0))
    for worker in ("gt-1.1", "gt-2.1"):
        assert desk.result(worker).reason == "stopped"
    until(lambda: not desk.google.cloud.instances, "nothing is paid for any more")


@pytest.mark.parametrize("mode", [*Mode])
def test_a_site_that_is_written_down_is_read_again(mode: Mode) -> None:
    options = CloudRunOptions(**HERE, mode=mode, bucket="b-1")
    site = Site.of(options)
    later = CloudRunOptions(url="https://x.example")
    said = json.loads(json.dumps(site.written))
    assert Site.read(said, later) == site
    assert site.options(later).region == "us-central1"
    assert site.options(later).mode is mode
    assert site.options(later).url == ""
    assert later.url == "https://x.example", "today's are as they were"


@pytest.mark.parametrize(
    "said", [None, 5, [], {}, {"mode": "moon"}, {"mode": ["job"]}, {"region": "x"}]
)
def test_what_is_no_site_is_none(said: Any) -> None:
    assert Site.read(said, CloudRunOptions(**HERE)) is None


def test_what_an_older_keeper_has_not_written_is_as_it_is_now() -> None:
    now = CloudRunOptions(**HERE, mode=Mode.JOB)
    assert Site.read({"mode": "instance"}, now) == Site.of(now, Mode.INSTANCE)
    odd = {"mode": "job", "region": 7, "cpu": "many", "memory": True}
    assert Site.read(odd, now) == Site.of(now)
