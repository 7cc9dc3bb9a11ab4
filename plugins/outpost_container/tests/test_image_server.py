"""The program that the image begins with: it answers over HTTP, and ends as Cloud Run asks."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boxkit
import farkit
import httpx
import pytest
from boxkit import Rig
from peers.containers import PATIENCE, Container, Containers, Image

#: Seconds between SIGTERM and SIGKILL at Cloud Run.
TERM = 10.0
TOKEN = "a-token-of-the-tests"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with boxkit.served_rig(tmp_path) as made:
        yield made


@contextlib.contextmanager
def served(containers: Containers, image: Image, **environ: str) -> Iterator[tuple[Container, str]]:
    """Have a container that answers, with its address."""
    port = farkit.free_port()
    environ = {"PORT": str(port), "OUTPOST_SINGLE_INSTANCE": "1", **environ}
    container = containers.start(image.id, environ=environ)
    try:
        deadline = time.monotonic() + PATIENCE
        url = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/healthz")
                break
            assert container.state()["Status"] == "running", container.logs()
            assert time.monotonic() < deadline, container.logs()
            time.sleep(0.02)
        yield container, url
    finally:
        container.remove()


def client(url: str, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=url, http1=False, http2=True, timeout=PATIENCE, headers=headers)


def test_it_answers_what_it_is_and_has(containers: Containers, plain: Image) -> None:
    with served(containers, plain) as (_, url), client(url) as http:
        told = http.get("/healthz").json()
        assert told["ok"] is True
        assert told["protocol"] == 1
        assert told["workers"] == 0
        assert http.get("/work").json()["workers"] == []


def test_work_that_is_posted_comes_home_as_a_branch(
    containers: Containers, plain: Image, rig: Rig
) -> None:
    one = farkit.order("gt-1", "echo hello; echo more >>notes.txt", rig.url)
    with served(containers, plain, OUTPOST_TOKEN=TOKEN) as (container, url):
        with client(url) as http:
            assert http.post("/work", json=farkit.body(one)).status_code == 401
            assert http.get("/healthz").status_code == 200
        with (
            client(url, authorization=f"Bearer {TOKEN}") as http,
            http.stream("POST", "/work", json=farkit.body(one)) as answer,
        ):
            lines: list[dict[str, Any]] = [json.loads(line) for line in answer.iter_lines()]
        assert lines[-1]["status"] == "done", (lines, container.logs())
        assert "".join(line.get("logs", "") for line in lines) == "hello\n"
        assert TOKEN not in container.exec("sh", "-c", "cat /proc/[0-9]*/cmdline").stdout
    assert rig.git("show", f"{lines[-1]['branch']}:notes.txt") == "first line\nmore"


def test_an_agent_without_a_fence_finds_no_secret_of_the_container(
    containers: Containers, plain: Image
) -> None:
    """Neither in what the first process began with, nor in the program itself; it is one user."""
    hidden = {"OUTPOST_TOKEN": TOKEN, "OUTPOST_GIT_CREDENTIALS": "a-password-for-git"}
    script = (
        "exec 2>/dev/null; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n' >all;"
        " for pid in 1 $(pgrep -f outpost_cloudrun.server); do cat /proc/$pid/environ; done"
        " >>all; base64 -w0 all"
    )
    one = farkit.order("gt-1", script)
    with (
        served(containers, plain, OUTPOST_FENCE="off", **hidden) as (_, url),
        client(url, authorization=f"Bearer {TOKEN}") as http,
    ):
        told = farkit.post(http, farkit.body(one))
    seen = base64.b64decode(farkit.log_of(told))
    assert b"outpost_cloudrun.server" in seen
    assert [value for value in hidden.values() if value.encode() in seen] == []


def test_told_to_end_it_saves_the_work_and_is_gone_in_time(
    containers: Containers, plain: Image, rig: Rig
) -> None:
    """As Cloud Run takes an instance away: SIGTERM, and ten seconds later SIGKILL."""
    script = "echo half >>notes.txt; echo begun; trap '' TERM; while :; do sleep 1; done"
    one = farkit.order("gt-1", script, rig.url)
    with (
        served(containers, plain) as (container, url),
        # httpx' own HTTP/2 drops its streams when the server says that it ends
        httpx.Client(base_url=url, timeout=PATIENCE) as http,
        http.stream("POST", "/work", json=farkit.body(one)) as answer,
    ):
        lines = (json.loads(line) for line in answer.iter_lines())
        assert any("begun" in line.get("logs", "") for line in lines)
        began = time.monotonic()
        container.signal("TERM")
        *_, last = lines
        assert container.wait() == 0, container.logs()
        took = time.monotonic() - began
        assert took < TERM, took
        assert last["status"] == "moving", last
    assert rig.git("show", f"{last['checkpoint']}:notes.txt") == "first line\nhalf"


@pytest.mark.parametrize(("script", "code"), [("echo more >>notes.txt", 0), ("exit 3", 1)])
def test_as_a_job_it_carries_out_one_order_and_ends(
    containers: Containers, plain: Image, rig: Rig, script: str, code: int
) -> None:
    """With `args: [job]`, as a job of Cloud Run begins it."""
    said = farkit.body(farkit.order("gt-1", script, rig.url))
    packed = base64.b64encode(zlib.compress(json.dumps(said).encode())).decode()
    container = containers.start(plain.id, "job", environ={"OUTPOST_ORDER": packed})
    try:
        assert container.wait() == code, container.logs()
    finally:
        container.remove()
    heads = rig.git("for-each-ref", "--format=%(refname:short)", "refs/heads").split()
    assert heads == (["main", "outpost/gt-1"] if code == 0 else ["main"])
