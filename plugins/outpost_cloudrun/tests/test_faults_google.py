"""What goes wrong at Google: fronts, tokens, clocks, capacity, buckets and whole regions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from keeperkit import until
from test_faults_containers import begun, done
from wholekit import IMAGE, PROJECT, Whole, git, whole

from outpost_core.errors import OutpostError, SpawnRefusedError, UnreachableError
from outpost_core.types import State

pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Whole]:
    with whole(tmp_path, monkeypatch) as made:
        yield made


TICKS = "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.5; done"
TICKED = b"began\n1\n2\n3\n4\n5\n6\n7\n8\nended\n"


@pytest.mark.parametrize("hard", [False, True])
def test_a_front_that_restarts_costs_no_byte(desk: Whole, hard: bool) -> None:
    desk.spawn(desk.order("gt-1", TICKS))
    begun(desk, "gt-1")
    desk.google.restart_front("worker", hard=hard)
    time.sleep(0.7)
    desk.google.restart_front("worker", hard=hard)
    done(desk, "gt-1")
    assert desk.log("gt-1.1") == TICKED


def test_a_front_that_is_away_for_a_while_costs_no_byte(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", TICKS))
    begun(desk, "gt-1")
    desk.google.restart_front("worker", hard=True, away=8.0)  # the agent ends meanwhile
    done(desk, "gt-1")
    assert desk.log("gt-1.1") == TICKED


def test_a_line_that_is_half_open_is_found_and_costs_no_byte(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", TICKS))
    begun(desk, "gt-1")
    desk.google.freeze_instance("worker")  # the connection stands, and nothing comes
    time.sleep(9.0)  # longer than a silence is borne
    desk.google.freeze_instance("worker", frozen=False)
    done(desk, "gt-1")
    assert desk.log("gt-1.1") == TICKED


def test_a_region_that_is_away_for_a_while_costs_no_byte(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", TICKS))
    begun(desk, "gt-1")
    desk.google.knobs.regions_away.add("us-central1")
    time.sleep(6.0)  # the agent ends meanwhile
    desk.google.knobs.regions_away.clear()
    done(desk, "gt-1")
    assert desk.log("gt-1.1") == TICKED


def test_secrets_and_logins_arrive_and_are_seen_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = "projects/proj-1/secrets/key"
    with whole(
        tmp_path, monkeypatch, git_credentials=("printf", "git-t0ken"),
        secrets={"MODEL_KEY": f"{kept}:latest"}, deployed=False,
    ) as desk:  # fmt: skip
        desk.google.cloud.secrets[kept] = ["old", "model-k3y"]
        desk.google.rigs.token = "git-t0ken"
        desk.deploy()
        desk.spawn(desk.order("gt-1", 'echo "it is $MODEL_KEY"; [ ${#MODEL_KEY} -eq 9 ] || exit 1'))
        done(desk, "gt-1")
        assert b"model-k3y" not in desk.log("gt-1.1")
        assert desk.google.journal.entries("git", status=401), "the host asks for a login"
        places = [desk.google.folder, desk.folder / "state"]
        assert [one for place in places for one in holding(place, "model-k3y", "git-t0ken")] == []


def holding(folder: Path, *words: str) -> list[Path]:
    """Files in which one of some words stands."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(word.encode() in path.read_bytes() for word in words)
    ]


def test_requests_that_time_out_and_tokens_that_expire_are_renewed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with whole(tmp_path, monkeypatch, request_timeout=10.0, billing="instance") as desk:
        desk.google.tokens.life = 8.0
        desk.spawn(desk.order("gt-1", "for n in 1 2 3 4 5 6; do echo $n; sleep 4; done"))
        done(desk, "gt-1")
        assert desk.log("gt-1.1") == b"began\n1\n2\n3\n4\n5\n6\nended\n"
        posts = desk.google.journal.entries("request", method="POST", status=200)
        assert len(posts) >= 3


def test_an_answer_of_401_is_asked_again_with_a_fresh_token(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", TICKS))
    begun(desk, "gt-1")
    desk.google.knobs.clock = 7200.0  # Google thinks that all tokens of before have expired
    desk.google.restart_front("worker", hard=True)
    done(desk, "gt-1")
    assert desk.google.journal.entries("request", method="POST", status=401)
    assert desk.log("gt-1.1") == TICKED


@pytest.mark.parametrize("ahead", [86400.0, -86400.0])
def test_a_clock_that_is_a_day_off_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    with whole(tmp_path, monkeypatch, knobs={"clock": ahead}) as desk:
        desk.spawn(desk.order("gt-1"))
        done(desk, "gt-1")
        result = desk.result("gt-1.1")
        assert result.started_at is not None
        assert abs(result.started_at - time.time()) < 3600, "moments are this machine's"


def test_without_the_role_the_caller_is_told_which(desk: Whole) -> None:
    desk.google.knobs.denied.add("run.routes.invoke")
    with pytest.raises(OutpostError, match=r"run\.invoker|may not") as caught:
        desk.spawn(desk.order("gt-1"))
    assert "roles/run.invoker" in f"{caught.value.message} {caught.value.hint}"
    assert desk.ran("gt-1") == 0


def test_429_for_long_is_a_refusal_and_nothing_runs(desk: Whole) -> None:
    desk.google.knobs.no_capacity, desk.google.knobs.queue = True, 0.2
    with pytest.raises(SpawnRefusedError, match="no container is free"):
        desk.spawn(desk.order("gt-1"))
    assert len(desk.google.journal.entries("request", status=429)) >= 2
    assert desk.google.journal.entries("instance.started") == []
    desk.google.knobs.no_capacity = False
    desk.spawn(desk.order("gt-1"))
    done(desk, "gt-1")


def test_429_for_a_while_is_waited_for(desk: Whole) -> None:
    desk.google.knobs.no_capacity, desk.google.knobs.queue = True, 0.2
    desk.google.later(lambda: _soon(desk))
    desk.spawn(desk.order("gt-1"))
    assert desk.google.journal.entries("request", status=429)
    done(desk, "gt-1")


async def _soon(desk: Whole) -> None:
    import asyncio

    await asyncio.sleep(2.0)
    desk.google.knobs.no_capacity = False


def test_a_stream_that_is_refused_with_429_in_the_middle_is_asked_for_again(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", TICKS))
    begun(desk, "gt-1")
    desk.google.knobs.no_capacity, desk.google.knobs.queue = True, 0.2
    desk.google.restart_front("worker", hard=True)
    desk.google.journal.wait("request", status=429, least=2)
    desk.google.knobs.no_capacity = False
    done(desk, "gt-1")
    assert desk.log("gt-1.1") == TICKED


def test_a_service_that_is_not_there_says_what_to_do(desk: Whole) -> None:
    with pytest.raises(UnreachableError) as caught:
        desk.spawn(desk.order("gt-1"), service="other")
    assert not caught.value.sent
    assert "outpost bootstrap" in caught.value.hint


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Whole]:
    with whole(tmp_path, monkeypatch, bucket="outpost") as made:
        yield made


def test_with_a_bucket_claims_results_and_logs_are_there(stored: Whole) -> None:
    stored.spawn(stored.order("gt-1"))
    done(stored, "gt-1")
    assert stored.log("gt-1.1") == b"began\nended\n"
    assert stored.google.storage.buckets["outpost"]
    refs = git(stored.google.folder / "rigs" / "rig.git", "for-each-ref", "refs/outpost")
    assert refs == "", "a rig with a bucket beside it gets branches alone"


@pytest.mark.parametrize("trouble", ["away", "503"])
def test_a_bucket_that_is_away_in_the_middle_is_caught_up_with(stored: Whole, trouble: str) -> None:
    stored.spawn(stored.order("gt-1", TICKS))
    begun(stored, "gt-1")
    knobs = stored.google.knobs
    if trouble == "away":
        knobs.bucket_away = True
    else:
        knobs.bucket_status = 503
    time.sleep(6.0)  # the agent ends meanwhile
    knobs.bucket_away, knobs.bucket_status = False, 0
    done(stored, "gt-1")
    assert stored.log("gt-1.1") == TICKED


def test_a_bucket_that_is_away_at_the_start_lets_nothing_run(stored: Whole) -> None:
    stored.google.knobs.bucket_away = True
    with pytest.raises((SpawnRefusedError, UnreachableError)):
        stored.spawn(stored.order("gt-1"))
    assert stored.ran("gt-1") == 0
    stored.google.knobs.bucket_away = False
    until(lambda: spawned(stored), "it is taken once the bucket is there")
    done(stored, "gt-1")


def spawned(desk: Whole) -> bool:
    try:
        desk.spawn(desk.order("gt-1"))
    except OutpostError:
        return False
    return True


def test_where_a_region_is_away_the_other_takes_the_work(desk: Whole, tmp_path: Path) -> None:
    desk.deploy_in("europe-west4")
    desk.google.knobs.regions_away.add("us-central1")
    common = {
        "type": "cloudrun", "project": PROJECT, "service": "worker", "image": IMAGE, "cpu": 1,
        "memory": "1GiB", "endpoint": desk.google.admin, "auth": "metadata", "warm_for": 0,
        "max_workers": 4,
    }  # fmt: skip
    config = tmp_path / "outposts.yaml"
    outposts = [
        {"name": "here", "region": "us-central1", **common},
        {"name": "there", "region": "europe-west4", **common},
    ]
    policy = {"default_preference": ["here", "there"]}
    config.write_text(json.dumps({"outposts": outposts, "policy": policy}))
    script = f'echo "gt-9 $$" >> "{desk.marks}"; date > made'
    done_ = subprocess.run(
        [
            sys.executable, "-c", "from outpost_manager.cli import main; main()",
            "--config", str(config), "--state", str(tmp_path / "manager"),
            "spawn", "gt-9", "--rig", desk.rig, "--title", "T", "--prompt", "P", "--json",
            "--timeout", "2m", "--wait", "--", "sh", "-c", script,
        ],
        capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)}, timeout=250,
    )  # fmt: skip
    assert done_.returncode == 0, done_.stdout + done_.stderr
    assert '"there"' in done_.stdout
    assert desk.ran("gt-9") == 1
    assert desk.branch("gt-9") != ""
    assert State.DONE.value in done_.stdout
