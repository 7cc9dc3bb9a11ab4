"""The emulated front: starts, refuses, freezes and ends containers as Google's does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from emulkit import PARENT, client, deploy, emulated, service
from google.cloud import run_v2
from test_emulator_admin import processes_of, until

from outpost_cloudrun.connection.transport import H2Transport
from outpost_cloudrun.testing.emulator import Emulator


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Emulator]:
    with emulated(tmp_path / "google", queue=0.5, grace=1.0) as running:
        yield running


def get(url: str, path: str, **more: Any) -> httpx.Response:
    return httpx.get(url + path, timeout=60, **more)


def many(url: str, path: str, number: int) -> list[httpx.Response]:
    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(lambda _: get(url, path), range(number)))


def test_a_container_starts_with_the_first_request_and_goes_when_idle(google: Emulator) -> None:
    url = deploy(google, service("w"))
    assert google.journal.entries("instance.started") == []
    assert get(url, "/env?K_SERVICE").text == "w"
    assert get(url, "/env?K_REVISION").text.startswith("w-00001")
    assert len(google.journal.entries("instance.started")) == 1
    google.knobs.idle = 0.1
    google.journal.wait("instance.ended")
    assert google.journal.entries("instance.sigterm")
    assert google.instances("w") == {}
    assert get(url, "/hello").text == "/hello"  # a new one


def test_requests_share_a_container_up_to_the_concurrency_then_another_starts(
    google: Emulator,
) -> None:
    google.knobs.queue = 30
    url = deploy(google, service("w", most=2, concurrency=2))
    get(url, "/hello")
    answers = many(url, "/sleep?3", 4)
    assert [each.status_code for each in answers] == [200] * 4
    assert len(google.journal.entries("instance.started")) == 2
    asked = google.journal.entries("request", path="/sleep?3")
    assert len({each.about["id"] for each in asked}) == 2


def test_without_a_free_container_a_request_waits_and_then_gets_429(google: Emulator) -> None:
    url = deploy(google, service("w", most=1, concurrency=1))
    get(url, "/hello")
    answers = many(url, "/sleep?12", 2)  # long enough that the second one meets the first
    assert sorted(each.status_code for each in answers) == [200, 429]
    refused = next(each for each in answers if each.status_code == 429)
    assert "no available instance" in refused.text
    google.knobs.queue = 30
    assert [each.status_code for each in many(url, "/sleep?0.5", 3)] == [200] * 3
    google.knobs.beyond_max = 1  # for a while there may be more than were asked for
    many(url, "/sleep?4", 2)
    assert len(google.journal.entries("instance.started")) == 2
    google.knobs.queue, google.knobs.no_capacity = 0.2, True
    assert get(url, "/hello").status_code == 429


def test_a_request_times_out_and_its_container_goes_on(google: Emulator, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    env = [run_v2.EnvVar(name="ASKED", value=str(asked))]
    url = deploy(google, service("w", seconds=1, env=env))
    late = get(url, "/sleep?5")
    assert (late.status_code, late.text) == (504, "upstream request timeout")
    with pytest.raises(httpx.RemoteProtocolError):  # headers were there: it breaks off
        get(url, "/lines?100")
    assert len(google.instances("w")) == 1
    pids = {line.split()[0] for line in asked.read_text().splitlines()}
    assert pids == {get(url, "/pid").text}


def test_between_requests_there_is_no_cpu_where_requests_are_billed(google: Emulator) -> None:
    url = deploy(google, service("w"))
    pid = int(get(url, "/pid").text)
    until(lambda: state(pid) == "T")
    assert get(url, "/pid").text == str(pid)
    billed = service("x")
    billed.template.containers[0].resources.cpu_idle = False
    other = deploy(google, billed)
    pid = int(get(other, "/pid").text)
    time.sleep(0.3)
    assert state(pid) == "S"


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_container_that_needs_too_much_memory_is_killed(google: Emulator) -> None:
    url = deploy(google, service("w"))
    get(url, "/hello")
    assert get(url, "/eat").status_code == 503
    [ended] = google.journal.wait("instance.ended")
    assert ended.about["memory"] is True
    assert get(url, "/hello").status_code == 200


def test_a_container_that_does_not_start_is_503(tmp_path: Path) -> None:
    with emulated(tmp_path / "google", "raise SystemExit(3)") as google:
        url = deploy(google, service("w"))
        assert get(url, "/hello").status_code == 503
        assert google.journal.entries("instance.ended")[0].about["code"] == 3


def test_a_container_that_dies_breaks_its_requests_off(google: Emulator) -> None:
    url = deploy(google, service("w"))
    with httpx.stream("GET", f"{url}/lines?1000", timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        google.kill_instance("w")
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    assert get(url, "/exit?1").status_code == 503


def test_an_end_is_sigterm_and_ten_seconds_later_sigkill(google: Emulator) -> None:
    env = [run_v2.EnvVar(name="STUBBORN", value="1")]
    url = deploy(google, service("w", env=env))
    get(url, "/hello")
    google.end_instance("w")
    [ended] = google.journal.wait("instance.ended")
    assert ended.about["signal"] == signal.SIGKILL
    assert google.journal.entries("instance.sigkill")
    log = next((google.folder / "containers").glob("w-*.log"))
    assert log.read_text() == "SIGTERM\n"


def test_min_instances_are_there_without_requests_and_are_replaced(google: Emulator) -> None:
    deploy(google, service("w", least=1))
    google.journal.wait("instance.ready")
    google.knobs.idle = 0.1
    time.sleep(0.5)
    assert len(google.instances("w")) == 1
    google.end_instance("w")  # Google may restart them at any time
    google.journal.wait("instance.ready", least=2)


def test_a_request_goes_to_any_container_and_a_cookie_mostly_to_the_same(google: Emulator) -> None:
    google.knobs.queue, google.knobs.affinity = 30, 1.0
    made = service("w", most=2, concurrency=4)
    made.template.session_affinity = True
    url = deploy(google, made)
    many(url, "/sleep?1", 8)
    assert len(google.instances("w")) == 2
    assert len({get(url, "/pid").text for _ in range(40)}) == 2
    with httpx.Client(timeout=60) as same:
        assert len({same.get(f"{url}/pid").text for _ in range(20)}) == 1


def test_a_post_can_be_delivered_twice_at_once(google: Emulator, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    env = [run_v2.EnvVar(name="ASKED", value=str(asked))]
    url = deploy(google, service("w", most=2, concurrency=1, env=env))
    google.knobs.duplicates, google.knobs.queue = 1, 30
    assert httpx.post(f"{url}/sleep?0.5", timeout=60).status_code == 200
    until(lambda: len(asked.read_text().splitlines()) == 2)
    assert len({line.split()[0] for line in asked.read_text().splitlines()}) == 2


def test_a_new_revision_replaces_containers_when_they_are_idle(google: Emulator) -> None:
    url = deploy(google, service("w"))
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(get, url, "/sleep?2")
        google.journal.wait("instance.ready")
        env = [run_v2.EnvVar(name="NEW", value="yes")]
        assert deploy(google, service("w", env=env)) == url
        assert get(url, "/env?NEW").text == "yes"
        assert slow.result().status_code == 200
    google.journal.wait("instance.ended")
    assert len(google.instances("w")) == 1


def test_regions_are_apart_and_one_can_be_away(google: Emulator) -> None:
    here = deploy(google, service("w"))
    there = deploy(google, service("v", region="europe-west4"))
    google.knobs.regions_away.add("us-central1")
    with pytest.raises(httpx.HTTPError):
        get(here, "/hello")
    assert get(there, "/hello").text == "/hello"
    google.knobs.regions_away.clear()
    assert get(here, "/hello").text == "/hello"


def test_callers_need_a_token_for_this_service(google: Emulator) -> None:
    google.knobs.tokens = True
    url = deploy(google, service("w"))

    def ask(token: str) -> int:
        return get(url, "/hello", headers={"authorization": f"Bearer {token}"}).status_code

    assert get(url, "/hello").status_code == 403
    assert ask("nonsense") == 401
    assert ask(google.tokens.id_token("https://other.example")) == 401
    right = google.tokens.id_token(url)
    assert ask(right) == 200
    seen = get(url, "/token", headers={"authorization": f"Bearer {right}"}).text
    assert seen.endswith(".SIGNATURE_REMOVED_BY_GOOGLE")
    google.knobs.clock = 7200.0
    assert ask(right) == 401  # expired
    google.knobs.clock = 0.0
    google.knobs.denied.add("run.routes.invoke")
    assert ask(right) == 403
    google.knobs.denied.clear()
    services = client(google, run_v2.ServicesClient)
    everybody = {"bindings": [{"role": "roles/run.invoker", "members": ["allUsers"]}]}
    services.set_iam_policy({"resource": f"{PARENT}/services/w", "policy": everybody})
    assert get(url, "/hello").status_code == 200


def test_a_request_in_http1_is_small_and_one_in_http2_need_not_be(google: Emulator) -> None:
    google.knobs.most_http1 = 1 << 20
    url = deploy(google, service("w"))
    body = b"x" * (2 << 20)
    assert httpx.post(f"{url}/size", content=body, timeout=60).status_code == 413

    async def two() -> str:
        async with httpx.AsyncClient(transport=H2Transport(), timeout=60) as http:
            return (await http.post(f"{url}/size", content=body)).text

    assert asyncio.run(two()) == str(len(body))


@pytest.mark.parametrize("hard", [False, True])
def test_the_front_restarts_with_goaway_or_hard(google: Emulator, hard: bool) -> None:
    url = deploy(google, service("w", concurrency=10))

    async def follow() -> int:
        async with (
            httpx.AsyncClient(transport=H2Transport(), timeout=60) as http,
            http.stream("GET", f"{url}/lines?40") as stream,
        ):
            lines = stream.aiter_lines()
            await anext(lines)
            await asyncio.to_thread(google.restart_front, "w", hard=hard)
            rest = [line async for line in lines]
            again = await http.get(f"{url}/hello")
            assert again.text == "/hello"
            return 1 + len(rest)

    if hard:
        with pytest.raises(httpx.TransportError):
            asyncio.run(follow())
        assert get(url, "/hello").text == "/hello"
    else:
        assert asyncio.run(follow()) == 40


def test_a_caller_that_goes_away_frees_the_place(google: Emulator) -> None:
    url = deploy(google, service("w", most=1, concurrency=1))

    async def leave() -> None:
        async with httpx.AsyncClient(transport=H2Transport(), timeout=60) as http:
            async with http.stream("GET", f"{url}/lines?1000") as stream:
                await anext(stream.aiter_lines())
                assert list(google.instances("w").values()) == [1]
            while list(google.instances("w").values()) != [0]:
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(leave(), 60))


def test_nothing_outlives_a_killed_test(tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import httpx
from emulkit import deploy, emulated, service
with emulated(Path({str(tmp_path / "google")!r})) as google:
    url = deploy(google, service("w"))
    httpx.get(url + "/hello")
    print("up", flush=True)
    time.sleep(600)
"""
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    assert len(processes_of(tmp_path / "google")) >= 1
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    running.stdout.close()
    until(lambda: processes_of(tmp_path / "google") == [])
