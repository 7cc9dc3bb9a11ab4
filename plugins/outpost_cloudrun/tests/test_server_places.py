"""Buckets, volumes and logins of instances; and jobs, which are asked by nobody."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import smallbucket
from farkit import (
    OWNER,
    PATIENCE,
    Fleet,
    body,
    commit,
    end_workers,
    lines,
    log_of,
    order,
    post,
    runs,
    until,
    work,
)
from peers import githttp

from outpost_cloudrun.server import bucketrecord
from outpost_core.names import RIG_CREDENTIAL
from outpost_core.types import Secrets
from outpost_testing.gitrig import GitRig

TOKEN = "ghs_aVeryLongTokenThatMustNotBeSeen0123456789"


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    (tmp_path / "town").mkdir()
    return GitRig(tmp_path / "town")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(tmp_path, stack)


@pytest.fixture(params=["bucket", "volume"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What tells an instance where records and logs are kept."""
    if request.param == "volume":
        (tmp_path / "volume").mkdir(mode=0o700)
        yield {"OUTPOST_VOLUME": str(tmp_path / "volume")}
        return
    with smallbucket.serving() as bucket:
        yield {"OUTPOST_BUCKET": "rigs", "STORAGE_EMULATOR_HOST": bucket.host}


# --- logs that outlive their instance ------------------------------------------------------------


def test_the_log_outlives_its_instance_and_goes_on_in_the_next(
    rig: GitRig, fleet: Fleet, store: dict[str, str]
) -> None:
    one, two, three = fleet(**store), fleet(**store), fleet(**store)
    script = (
        "if test -e half.txt; then echo second; " + commit("whole") + "; exit; fi; "
        "echo half > half.txt; printf 'fir\\303'; sleep 0.3; printf '\\244st\\n'; sleep 1000"
    )
    asked = work(rig, script)
    with one.client() as client, client.stream("POST", "/work", json=body(asked)) as response:
        told: list[dict[str, Any]] = []
        coming = lines(response)
        for line in coming:
            told.append(line)
            if "st" in line["logs"]:
                break
        one.process.send_signal(signal.SIGTERM)
        last = [*coming][-1]
        assert last["status"] == "moving"
        one.process.wait(PATIENCE)
    whole = "firäst\nsecond\n".encode()
    with two.client() as client:
        # whoever asks knows nothing of the log, and gets it from where it is kept
        again = post(client, body(asked, take_over=last["claim"], leg=2))
        assert again[-1]["status"] == "done", again[-1]
        assert log_of(again) == whole
        assert again[-1]["result"]["log_bytes"] == len(whole)
    two.kill()
    with three.client() as client:
        for offset in (0, 4, len(whole)):
            later = post(client, body(asked, attach=True, offset=offset))
            assert log_of(later, offset) == whole[offset:]
            assert later[-1]["result"] == again[-1]["result"]
        said = {"order": body(asked)["order"], "rig_url": asked.rig}
        assert client.request("DELETE", "/work/r-1.1", json=said).json()["removed"] is True
        assert client.post("/work", json=body(asked, attach=True)).status_code == 404
    assert runs(rig) == 2
    place = store.get("OUTPOST_VOLUME") or f"gs://{store['OUTPOST_BUCKET']}"
    assert bucketrecord.logs(place, store).names(f"{OWNER}/logs/r-1.1") == []


def test_an_order_without_a_rig_is_claimed_where_logs_are(
    fleet: Fleet, store: dict[str, str]
) -> None:
    one, two = fleet(**store), fleet(**store)
    asked = order("b-1", f"echo ran >> {one.folder}/ran; sleep 1; echo end", owner=OWNER)
    with (
        one.client() as first,
        two.client() as second,
        first.stream("POST", "/work", json=body(asked)) as response,
    ):
        coming = lines(response)
        next(coming)
        told = post(second, body(asked))
        assert "claimed_by" in told[0]
        assert log_of(told) == b"end\n"
        assert [*coming][-1]["result"] == told[-1]["result"]
    assert (one.folder / "ran").read_text() == "ran\n"


def test_a_result_is_told_when_the_bucket_is_back(tmp_path: Path, fleet: Fleet) -> None:
    with smallbucket.serving() as bucket:
        one = fleet(OUTPOST_BUCKET="rigs", STORAGE_EMULATOR_HOST=bucket.host)
        go = tmp_path / "go"
        asked = order("b-2", f"while ! test -e {go}; do sleep 0.1; done; echo end", owner=OWNER)
        with one.client() as client, client.stream("POST", "/work", json=body(asked)) as response:
            coming = lines(response)
            while next(coming)["status"] != "working":
                pass
            bucket.failures += [403] * 5
            go.touch()
            told = [*coming]
    assert told[-1]["status"] == "done"
    assert any("put on record" in line["detail"] for line in told[:-1])
    assert b"end\n" in log_of([line for line in told if line["logs"]])


# --- logins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["body", "container", "url"])
def test_git_logs_in_and_no_agent_sees_with_what(tmp_path: Path, fleet: Fleet, way: str) -> None:
    (tmp_path / "town").mkdir()
    rig = GitRig(tmp_path / "town")
    with githttp.serving(tmp_path / "served", "x-access-token", TOKEN) as server:
        path = server.repository("rig.git")
        rig.git("push", "-q", "--mirror", str(path), cwd=rig.path)
        (path / "HEAD").write_text("ref: refs/heads/main\n")
        url = f"{server.url}/rig.git"
        script = "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; git config -l; " + commit(
            "a"
        )
        more: dict[str, Any] = {}
        if way == "url":
            login = f"{server.url.replace('://', f'://x-access-token:{TOKEN}@')}"
            more["secrets"] = Secrets({RIG_CREDENTIAL: login})
        asked = work(rig, script, url=url, **more)
        one = fleet(**({"OUTPOST_GIT_CREDENTIALS": TOKEN} if way == "container" else {}))
        said = body(asked, **({"git_credentials": TOKEN} if way == "body" else {}))
        with one.client() as client:
            told = post(client, said)
        assert told[-1]["status"] == "done", told[-1]
        assert TOKEN.encode() not in log_of(told)
        rig.path = path
        assert rig.show("outpost/r-1", "a.txt") == "a"
        assert f"refs/outpost/{OWNER}/records/r-1.1" in rig.git(
            "for-each-ref", "--format=%(refname)", cwd=path
        )
        if way != "url":  # there an agent may push too, as in a clone of that URL
            kept = [each for each in one.root.rglob("*") if each.is_file()]
            assert not [each for each in kept if TOKEN.encode() in each.read_bytes()]
        assert TOKEN not in one.said()
        bad = body(work(rig, "true", "r-2", url=url), git_credentials="two words")
        with one.client() as client:
            assert client.post("/work", json=bad).status_code == 422


def test_a_token_that_ends_before_the_work_does_is_renewed_with_the_stream(
    tmp_path: Path, fleet: Fleet
) -> None:
    (tmp_path / "town").mkdir()
    rig = GitRig(tmp_path / "town")
    with githttp.serving(tmp_path / "served", "x-access-token", "the-first-token") as server:
        path = server.repository("rig.git")
        rig.git("push", "-q", "--mirror", str(path), cwd=rig.path)
        (path / "HEAD").write_text("ref: refs/heads/main\n")
        go = tmp_path / "go"
        script = f"while [ ! -e {go} ]; do sleep 0.05; done; " + commit("a")
        asked = work(rig, script, url=f"{server.url}/rig.git")
        one = fleet()
        with one.client() as client:
            first = body(asked, git_credentials="the-first-token")
            with client.stream("POST", "/work", json=first) as response:
                told = lines(response)
                assert next(told)["worker"] == "r-1.1"
                until(lambda: runs(rig) == 1)
                server.password = "the-second-token"
                fresh = body(asked, git_credentials="the-second-token", attach=True)
                with client.stream("POST", "/work", json=fresh) as renewed:
                    again = lines(renewed)
                    next(again)
                    no_login = body(asked, git_credentials="two words", attach=True)
                    with client.stream("POST", "/work", json=no_login) as third:
                        next(lines(third))
                    go.touch()
                    last = [*again][-1]
        assert last["status"] == "done", last
        assert rig.git("rev-parse", "outpost/r-1", cwd=path) == last["result"]["commit"]


# --- jobs ----------------------------------------------------------------------------------------


def packed(said: dict[str, Any]) -> str:
    return base64.b64encode(zlib.compress(json.dumps(said).encode())).decode()


def job(folder: Path, **env: str) -> subprocess.Popen[str]:
    (folder / "home").mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    own = {"HOME": str(folder / "home"), "OUTPOST_ROOT": str(folder / "root")}
    return subprocess.Popen(
        [sys.executable, "-m", "outpost_cloudrun.server", "job"],
        env={**kept, **own, **env}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(one: subprocess.Popen[str]) -> tuple[int, str]:
    said = one.communicate(timeout=PATIENCE)[1]
    return one.returncode, said


def test_a_job_runs_one_order_once_and_says_how_it_ended(
    rig: GitRig, fleet: Fleet, tmp_path: Path
) -> None:
    asked = work(rig, "echo hello; " + commit("one"))
    text = packed(body(asked))
    code, said = ended(job(tmp_path / "a", OUTPOST_ORDER=text))
    assert code == 0, said
    assert "r-1.1 done" in said
    assert "hello" not in said
    assert rig.show("outpost/r-1", "one.txt") == "one"
    # once more, as Cloud Run may: there is nothing to be done
    assert ended(job(tmp_path / "b", OUTPOST_ORDER=text))[0] == 0
    assert runs(rig) == 1
    with fleet().client() as client:
        told = post(client, body(asked, attach=True))
        assert told[-1]["status"] == "done"
        assert log_of(told) == b"hello\n"
    failing = work(rig, "exit 3", "r-2")
    assert ended(job(tmp_path / "c", OUTPOST_ORDER=packed(body(failing))))[0] == 1


def test_a_job_that_is_ended_leaves_its_work_and_its_end_on_record(
    rig: GitRig, fleet: Fleet, tmp_path: Path
) -> None:
    asked = work(rig, "echo half > half.txt; sleep 1000")
    one = job(tmp_path / "a", OUTPOST_ORDER=packed(body(asked)))
    try:
        until(lambda: runs(rig) == 1)
        second = job(tmp_path / "b", OUTPOST_ORDER=packed(body(asked)))
        code, said = ended(second)
        assert (code, "is run by" in said) == (1, True)
        began = time.monotonic()
        one.send_signal(signal.SIGTERM)
        assert ended(one)[0] == 1
        assert time.monotonic() - began < 9.5
    finally:
        with suppress(ProcessLookupError):
            one.kill()
        end_workers(tmp_path / "a" / "root")
    with fleet().client() as client:
        last = post(client, body(asked, attach=True))[-1]
    assert (last["status"], last["result"]["reason"]) == ("stopped", "terminated")
    assert rig.show(last["result"]["checkpoint"], "half.txt") == "half"


def test_a_job_takes_its_order_from_a_bucket(rig: GitRig, tmp_path: Path) -> None:
    asked = work(rig, commit("one"))
    with smallbucket.serving() as bucket:
        data = zlib.compress(json.dumps(body(asked)).encode())
        bucket.objects["orders/r-1.1"] = (1, data)
        env = {"STORAGE_EMULATOR_HOST": bucket.host, "OUTPOST_BUCKET": "rigs"}
        done = ended(job(tmp_path / "a", OUTPOST_ORDER_OBJECT="gs://rigs/orders/r-1.1", **env))
        assert done[0] == 0, done
        missing = ended(job(tmp_path / "a", OUTPOST_ORDER_OBJECT="gs://rigs/orders/r-9", **env))
        assert missing[0] == 2
        assert "is not there" in missing[1]


@pytest.mark.parametrize(
    "text", ["", "???", "aGVsbG8=", base64.b64encode(zlib.compress(b"x" * (9 << 20))).decode()]
)
def test_a_job_without_an_order_says_so(tmp_path: Path, text: str) -> None:
    code, said = ended(job(tmp_path / "a", OUTPOST_ORDER=text))
    assert code == 2
    assert "order" in said.lower()
    assert "Traceback" not in said


def test_what_ends_without_a_parent_is_collected() -> None:
    """By a process that others are handed to, as the first one of a container is."""
    program = """
import asyncio, ctypes, subprocess, sys, time
from outpost_cloudrun.server import orphans
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
subprocess.run(["sh", "-c", "sh -c 'exit 3' & sh -c 'exit 4' & wait $!; true"])
subprocess.run(["sh", "-c", "sleep 0.1 & sleep 0.1 &"])
own = subprocess.Popen(["sh", "-c", "exit 7"])
async def run():
    task = asyncio.create_task(orphans.collect(0.2))
    end = time.monotonic() + 30
    while True:
        await asyncio.sleep(0.05)
        code = own.poll()
        if code is not None and not orphans.ended() and time.monotonic() > end - 29:
            break
        assert time.monotonic() < end, orphans.ended()
    print("code", code)
asyncio.run(run())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "code 7\n"


@pytest.mark.parametrize("kind", ["mirror", "bundle", "missing", "odd"])
def test_a_reference_of_the_rig_saves_the_download(tmp_path: Path, fleet: Fleet, kind: str) -> None:
    (tmp_path / "town").mkdir()
    rig = GitRig(tmp_path / "town")
    noise = os.urandom(1 << 20).hex()
    rig.commit({"large.txt": noise})
    reference = tmp_path / "reference"
    if kind == "mirror":
        rig.git("clone", "-q", "--mirror", str(rig.path), str(reference), cwd=tmp_path)
    elif kind == "bundle":
        rig.git("bundle", "create", "-q", str(reference), "--all", cwd=rig.path)
    elif kind == "odd":
        reference.write_text("nothing of the kind")
    rig.commit({"new.txt": "later"})
    with githttp.serving(tmp_path / "served") as server:
        path = server.repository("rig.git")
        rig.git("push", "-q", "--mirror", str(path), cwd=rig.path)
        (path / "HEAD").write_text("ref: refs/heads/main\n")
        asked = work(rig, "cat new.txt; echo; wc -c < large.txt", url=f"{server.url}/rig.git")
        one = fleet(OUTPOST_RIG_REFERENCE=str(reference))
        with one.client() as client:
            told = post(client, body(asked))
        assert told[-1]["status"] == "done", told[-1]
        assert log_of(told).split() == [b"later", str(len(noise)).encode()]
    packs = [each.stat().st_size for each in (one.root / "rigs").rglob("*.pack")]
    if kind in ("mirror", "bundle"):
        assert min(packs) < 50_000  # what came from the rig itself
        assert "not used" not in one.said()
    else:
        assert "OUTPOST_RIG_REFERENCE is not used" in one.said()
