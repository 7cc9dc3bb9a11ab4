"""Several instances and one attempt: whatever is asked, cut or killed, it runs once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from farkit import (
    OWNER,
    PATIENCE,
    Far,
    Fleet,
    body,
    commit,
    end_workers,
    far,
    lines,
    log_of,
    order,
    post,
    runs,
    supervisors,
    until,
    work,
)

from outpost_cloudrun.connection.transport import H2Transport
from outpost_cloudrun.server.here import Here
from outpost_testing.gitrig import GitRig


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    (tmp_path / "town").mkdir()
    return GitRig(tmp_path / "town")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(tmp_path, stack)


def refs(rig: GitRig) -> list[str]:
    return rig.git("for-each-ref", "--format=%(refname)", cwd=rig.path).splitlines()


# --- claims --------------------------------------------------------------------------------------


def test_the_same_post_at_two_instances_at_once_runs_once(rig: GitRig, fleet: Fleet) -> None:
    servers = [fleet(), fleet()]
    asked = work(rig, f"sleep 1; {commit('one')}")

    def ask(server: Far) -> list[dict[str, Any]]:
        with server.client() as client:
            return post(client, body(asked))

    with ThreadPoolExecutor() as pool:
        told = [*pool.map(ask, servers * 3)]
    assert runs(rig) == 1
    assert {each[-1]["status"] for each in told} == {"done"}
    assert len({str(each[-1]["result"]) for each in told}) == 1
    assert rig.show("outpost/r-1", "one.txt") == "one"
    elsewhere = [each for each in told if any("claimed_by" in line for line in each)]
    here = [each for each in told if each not in elsewhere]
    assert len(here) == 3
    owner = {each[0]["instance"] for each in here}
    assert {line["claimed_by"] for each in elsewhere for line in each if "claimed_by" in line} == (
        owner
    )
    for each in elsewhere:
        first = each[0]
        assert first["claim"] == here[0][0]["claim"]
        assert first["seen"]
        assert [line["seq"] for line in each] == [*range(1, len(each) + 1)]


def test_the_result_is_on_record_before_it_is_told(rig: GitRig, fleet: Fleet) -> None:
    one, two = fleet(), fleet()
    asked = work(rig, "printf 'h\\303'; printf '\\244\\n'; " + commit("one"))
    with one.client() as client:
        told = post(client, body(asked))
    one.kill()
    assert told[-1]["status"] == "done"
    with two.client() as client:
        again = post(client, body(asked))
        assert again[-1]["result"] == told[-1]["result"]
        assert log_of(again) == log_of(told) == "hä\n".encode()
        attached = post(client, body(asked, attach=True, offset=2))
        assert log_of(attached, 2) == b"\xa4\n"
        assert client.get("/work/r-1.1").status_code == 404
        other = body(work(rig, "true"))
        assert client.post("/work", json=other).status_code == 409
    assert runs(rig) == 1


def hold_first_claim(rig: GitRig, folder: Path) -> None:
    """Have the first push of a record wait for `go` in a folder; it says that it does: `held`."""
    rig.hook(
        "update",
        f"""case "$1" in refs/outpost/*/records/*) ;; *) exit 0;; esac
mkdir {folder}/held 2>/dev/null || exit 0
while [ ! -e {folder}/go ]; do sleep 0.05; done""",
    )


@pytest.mark.parametrize("asked_of", ["the same container", "another one"])
def test_a_stop_is_not_lost_on_a_worker_whose_claim_is_just_being_pushed(
    rig: GitRig, fleet: Fleet, tmp_path: Path, asked_of: str
) -> None:
    hold_first_claim(rig, tmp_path)
    one = fleet()
    other = one if asked_of == "the same container" else fleet()
    asked = body(work(rig, "sleep 30"))
    stop = {**asked, "grace": 0}
    hurry = httpx.Timeout(PATIENCE, read=0.3)  # what is asked has been sent by then
    with one.client() as client, other.client() as caller:
        with pytest.raises(httpx.ReadTimeout):  # as a keeper that is told to stop it
            client.post("/work", json=asked, timeout=hurry)
        until(lambda: (tmp_path / "held").exists())
        if other is one:
            with pytest.raises(httpx.ReadTimeout):  # it waits for who is just making the worker
                caller.post("/work/r-1.1/stop", json=stop, timeout=hurry)
            assert caller.get("/healthz").status_code == 200  # so the stop has come in
        else:
            assert caller.post("/work/r-1.1/stop", json=stop).json()["elsewhere"]
        (tmp_path / "go").touch()
        assert caller.post("/work/r-1.1/stop", json=stop).status_code == 202
        told = post(caller, {**asked, "attach": True})
        assert told[-1]["status"] == "stopped"
        assert told[-1]["result"]["agent_began"] is False
        again = post(client, asked)
        assert again[-1]["status"] == "stopped"
    assert runs(rig) == 0


def test_a_stop_of_a_worker_that_nobody_can_claim_finds_nothing(rig: GitRig, fleet: Fleet) -> None:
    rig.hook("update", 'case "$1" in refs/outpost/*) echo "no such refs here" >&2; exit 1;; esac')
    one = fleet(OUTPOST_GIT_RETRY="0")
    with one.client() as client:
        answer = client.post("/work/r-1.1/stop", json=body(work(rig, "true")))
        assert answer.status_code == 404
        assert "no such refs here" in answer.text
        assert client.post("/work/r-1.1/stop", json={"grace": 0}).status_code == 404


def test_an_order_that_cannot_be_claimed_is_refused(fleet: Fleet) -> None:
    one = fleet()
    asked = order("r-2", f"touch {one.folder}/ran")
    with one.client() as client:
        answer = client.post("/work", json=body(asked))
        assert answer.status_code == 422
        assert answer.json()["error"]["kind"] == "refused"
        assert "neither a rig nor a bucket" in answer.json()["error"]["message"]
        assert client.get("/work").json()["workers"] == []
    assert not (one.folder / "ran").exists()


def test_a_rig_that_takes_no_claim_or_is_away_starts_nothing(rig: GitRig, fleet: Fleet) -> None:
    rig.hook("update", 'case "$1" in refs/outpost/*) echo "no such refs here" >&2; exit 1;; esac')
    one = fleet(OUTPOST_GIT_RETRY="0")
    with one.client() as client:
        answer = client.post("/work", json=body(work(rig, "true")))
        assert answer.status_code == 422, answer.text
        assert "no such refs here" in answer.text
        rig.path.rename(rig.folder / "away")
        answer = client.post("/work", json=body(work(rig, "true", "r-3")))
        assert answer.status_code in (422, 503), answer.text
        assert client.get("/work").json()["workers"] == []
    assert runs(rig) == 0


def test_a_stop_reaches_the_instance_that_has_the_worker(rig: GitRig, fleet: Fleet) -> None:
    one, two = fleet(), fleet()
    asked = work(rig, "sleep 1000")
    with one.client() as first, two.client() as second:
        with first.stream("POST", "/work", json=body(asked)) as response:
            told = lines(response)
            while next(told)["status"] != "working":
                pass
            assert second.post("/work/r-1.1/stop", json={"grace": 0}).status_code == 404
            said = {"grace": 0, "order": body(asked)["order"], "rig_url": asked.rig}
            answer = second.post("/work/r-1.1/stop", json=said)
            assert (answer.status_code, answer.json()["elsewhere"]) == (202, True)
            last = [*told][-1]
        assert last["status"] == "stopped"
        # and what it left on record is removed by whoever is asked
        assert second.request("DELETE", "/work/r-1.1", json=said).json()["removed"] is True
        assert [ref for ref in refs(rig) if "outpost" in ref] == []


def test_an_owner_that_nobody_follows_gives_signs_of_life(rig: GitRig, fleet: Fleet) -> None:
    one, two = fleet(), fleet()
    asked = work(rig, "sleep 1000")
    with one.client() as client, client.stream("POST", "/work", json=body(asked)) as response:
        next(lines(response))
    with two.client() as client:
        seen = []
        with client.stream("POST", "/work", json=body(asked)) as response:
            for line in lines(response):
                if line["seen"] not in seen:
                    seen.append(line["seen"])
                if len(seen) == 3:
                    break


# --- legs ----------------------------------------------------------------------------------------


def test_sigterm_moves_the_work_to_another_instance(rig: GitRig, fleet: Fleet) -> None:
    one, two = fleet(), fleet()
    script = (
        "if test -e half.txt; then echo second; cat half.txt; " + commit("whole") + "; exit; fi; "
        "echo half > half.txt; echo first; sleep 1000"
    )
    asked = work(rig, script)
    with one.client() as client:
        with client.stream("POST", "/work", json=body(asked)) as response:
            told, coming = [], lines(response)
            for line in coming:
                told.append(line)
                if "first" in line["logs"]:
                    break
            began = time.monotonic()
            one.process.send_signal(signal.SIGTERM)
            told += coming
        assert one.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 9.5
    last = told[-1]
    assert last["status"] == "moving", last
    assert last["checkpoint"] == f"refs/outpost/{OWNER}/r-1.1"
    assert rig.show(last["checkpoint"], "half.txt") == "half"
    assert "result" not in last
    log = log_of(told)
    with two.client() as client:
        more = {"take_over": last["claim"], "leg": 2, "offset": len(log), "timeout_left": 500.0}
        again = post(client, body(asked, **more))
    assert again[-1]["status"] == "done", again[-1]
    assert log_of(again, len(log)) == b"second\nhalf\n"
    assert again[-1]["result"]["log_bytes"] == len(log) + len(b"second\nhalf\n")
    assert rig.files("outpost/r-1") == ["README", "half.txt", "whole.txt"]
    assert runs(rig) == 2
    assert not supervisors(one.root)
    assert one.said() == two.said() == ""  # no warning of the server below, no traceback


def test_sigterm_says_what_was_not_pushed(rig: GitRig, fleet: Fleet) -> None:
    one = fleet()
    asked = work(rig, "echo half > half.txt; echo first; sleep 1000")
    with one.client() as client, client.stream("POST", "/work", json=body(asked)) as response:
        told, coming = [], lines(response)
        for line in coming:
            told.append(line)
            if "first" in line["logs"]:
                break
        rig.hook("pre-receive", "sleep 60")
        began = time.monotonic()
        one.process.send_signal(signal.SIGTERM)
        told += coming
        assert one.process.wait(PATIENCE) == 0
    assert time.monotonic() - began < 9.5
    assert told[-1]["status"] == "moving"
    assert told[-1]["checkpoint"] is None
    assert "could not be pushed in time" in told[-1]["detail"]


def test_an_instance_that_died_is_taken_over_and_a_frozen_one_delivers_nothing(
    rig: GitRig, fleet: Fleet
) -> None:
    one, two = fleet(), fleet()
    go = rig.folder / "go"
    script = (
        f"echo $OUTPOST_WORKER >> {rig.folder}/legs; echo a > a.txt; "
        f"while ! test -e {go}; do sleep 0.1; done; {commit('end')}"
    )
    asked = work(rig, script, checkpoint_every=0.5)
    with one.client() as client, client.stream("POST", "/work", json=body(asked)) as response:
        told = lines(response)
        first = next(told)
        while next(told)["status"] != "working":
            pass
        ref = f"refs/outpost/{OWNER}/r-1.1"
        until(lambda: rig.tip(ref), "a checkpoint")
        frozen = [one.process.pid, *supervisors(one.root)]
        for pid in frozen:
            with suppress(ProcessLookupError):  # a git that has just ended
                os.kill(pid, signal.SIGSTOP)
    with (
        two.client() as client,
        client.stream(
            "POST", "/work", json=body(asked, take_over=first["claim"], leg=2)
        ) as response,
    ):
        told = lines(response)
        while next(told)["status"] != "working":
            pass
        until(lambda: runs(rig) == 2)
        for pid in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        go.touch()
        rest = [*told]
    assert rest[-1]["status"] == "done", rest[-1]
    assert rest[-1]["result"]["commit"] == rig.tip("outpost/r-1")
    tip = rig.tip("outpost/r-1")
    with one.client() as client:  # it says who has it, and how it ended there
        until(lambda: not [p for p in supervisors(one.root) if p != one.process.pid])
        again = post(client, body(asked))
        assert again[-1]["result"] == rest[-1]["result"]
        assert client.get("/work").json()["workers"] == []
    with two.client() as client:
        (mine,) = client.get("/work").json()["workers"]
        assert mine["result"] == rest[-1]["result"]
    assert rig.tip("outpost/r-1") == tip
    assert runs(rig) == 2


def test_who_only_attaches_ends_a_worker_whose_instance_is_gone(rig: GitRig, fleet: Fleet) -> None:
    one, two = fleet(), fleet()
    asked = work(rig, "echo a > a.txt; sleep 1000", checkpoint_every=0.5)
    with one.client() as client, client.stream("POST", "/work", json=body(asked)) as response:
        claim = next(lines(response))["claim"]
        until(lambda: rig.tip(f"refs/outpost/{OWNER}/r-1.1"), "a checkpoint")
    one.kill()
    end_workers(one.root)
    with two.client() as client:
        told = post(client, body(asked, attach=True, take_over=claim, leg=2))
        assert told[-1]["status"] == "lost"
        assert told[-1]["result"]["checkpoint"] == f"refs/outpost/{OWNER}/r-1.1"
        assert post(client, body(asked))[-1]["result"] == told[-1]["result"]
    assert runs(rig) == 1


# --- killed at any moment -------------------------------------------------------------------------

POINTS = (
    *("server.noted", "record.pushed", "record.claimed", "local.staged", "local.published"),
    *("local.launched", "record.finished", "server.settled"),
)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_write_and_started_again_it_runs_once(
    rig: GitRig, fleet: Fleet, point: str
) -> None:
    asked = work(rig, commit("one"))
    one = fleet(OUTPOST_FAULT=point)
    with one.client() as client, suppress(Exception):
        post(client, body(asked))
    assert one.process.wait(PATIENCE) == -signal.SIGKILL
    again = fleet(one.folder)
    with again.client() as client:
        told = post(client, body(asked))
    assert told[-1]["status"] == "done", told[-1]
    assert runs(rig) == 1
    assert rig.show("outpost/r-1", "one.txt") == "one"
    third = fleet()
    with third.client() as client:
        assert post(client, body(asked))[-1]["result"] == told[-1]["result"]
    assert runs(rig) == 1


@pytest.mark.parametrize("point", ["worker.claimed", "worker.agent_ended"])
def test_a_supervisor_that_is_killed_is_recovered_and_its_end_is_on_record(
    rig: GitRig, fleet: Fleet, point: str
) -> None:
    asked = work(rig, commit("one"))
    one, two = fleet(OUTPOST_FAULT=point), fleet()
    with one.client() as client:
        told = post(client, body(asked))
    with two.client() as client:
        assert post(client, body(asked))[-1]["result"] == told[-1]["result"]
    assert runs(rig) == (point != "worker.claimed")


def test_a_push_that_nobody_heard_of_is_found_by_the_next_instance(
    rig: GitRig, fleet: Fleet
) -> None:
    """Instance and supervisor are gone right after the push; the next leg runs no agent."""
    asked = work(rig, commit("one"))
    one, two = fleet(OUTPOST_FAULT="worker.pushed"), fleet()
    claim: list[str] = []

    def kill_it() -> None:
        until(lambda: rig.tip("outpost/r-1"))
        one.kill()

    watcher = threading.Thread(target=kill_it)
    watcher.start()
    with (
        suppress(Exception),
        one.client() as client,
        client.stream("POST", "/work", json=body(asked)) as response,
    ):
        for line in lines(response):
            claim.append(line.get("claim", ""))
    watcher.join()
    end_workers(one.root)
    with two.client() as client:
        told = post(client, body(asked, take_over=claim[0], leg=2))
    assert told[-1]["status"] == "done"
    assert told[-1]["result"]["commit"] == rig.tip("outpost/r-1")
    assert runs(rig) == 1


def test_work_that_no_rig_took_is_handed_out_as_a_bundle(rig: GitRig, fleet: Fleet) -> None:
    rig.hook("update", 'case "$1" in refs/outpost/*/records/*) ;; *) exit 1;; esac')
    one = fleet()
    with one.client() as client:
        told = post(client, body(work(rig, commit("one"))))
        assert told[-1]["status"] == "failed"
        kept = told[-1]["result"]["checkpoint"]
        assert kept.startswith("/")
        got = client.get("/work/r-1.1/rescue")
        assert got.status_code == 200
        bundle = rig.folder / "got.bundle"
        bundle.write_bytes(got.content)
        rig.git("bundle", "verify", str(bundle), cwd=rig.path)
        rig.git("fetch", "-q", str(bundle), "refs/outpost/*:refs/got/*", cwd=rig.path)
        assert any("one.txt" in rig.files(ref) for ref in refs(rig) if ref.startswith("refs/got/"))
        assert client.get("/work/r-9.1/rescue").status_code == 404


def test_sigterm_is_heard_behind_hundreds_of_streams(tmp_path: Path) -> None:
    """Each gets its last line; also when hundreds have just gone, all at once."""
    with far(tmp_path / "a") as one:
        asked = order("s-1", "echo first; sleep 1000")

        async def run() -> list[dict[str, Any]]:
            told: list[dict[str, Any]] = []
            ready = asyncio.Semaphore(0)
            transport = H2Transport()

            async def follow(client: httpx.AsyncClient) -> None:
                async with client.stream("POST", "/work", json=body(asked)) as response:
                    async for line in response.aiter_lines():
                        said = json.loads(line)
                        if said["logs"]:
                            ready.release()
                told.append(said)

            patience = httpx.Timeout(PATIENCE)
            async with httpx.AsyncClient(
                base_url=one.url, transport=transport, timeout=patience
            ) as client:
                tasks = [asyncio.create_task(follow(client)) for _ in range(300)]
                for _ in tasks:
                    await ready.acquire()
                one.process.send_signal(signal.SIGTERM)
                await asyncio.gather(*tasks)
            return told

        told = asyncio.run(run())
        assert one.process.wait(PATIENCE) == 0
        assert len(told) == 300
        assert {line["status"] for line in told} == {"moving"}
    with far(tmp_path / "b") as two:

        async def leave() -> None:
            async with httpx.AsyncClient(base_url=two.url, transport=H2Transport()) as client:
                streams = [client.stream("GET", "/warm", timeout=PATIENCE) for _ in range(500)]
                await asyncio.gather(*[stream.__aenter__() for stream in streams])

        asyncio.run(leave())
        began = time.monotonic()
        two.process.send_signal(signal.SIGTERM)
        assert two.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 9.5


def test_a_claim_is_kept_alive_whatever_goes_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    tries = []

    class Odd(Here):
        def __init__(self) -> None:
            self.trouble = ""

        async def _keep(self) -> None:
            tries.append(1)
            if len(tries) == 1:
                raise RuntimeError("a defect")

    odd = Odd()
    asyncio.run(odd._run())
    assert len(tries) == 2
    assert odd.trouble == "RuntimeError: a defect"
    assert "a defect" in capfd.readouterr().err
