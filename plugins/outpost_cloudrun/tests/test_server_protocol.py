"""The work protocol, spoken to a real process over HTTP/2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from farkit import PATIENCE, Far, body, far, lines, log_of, order, post

from outpost_cloudrun.server.lines import PIECE, pieces
from outpost_core import wire
from outpost_core.types import Result, Secrets, State, WorkerStatus
from outpost_testing.gitrig import GitRig


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    with far(tmp_path_factory.mktemp("far"), OUTPOST_BEAT="0.3") as server:
        yield server


@pytest.fixture(scope="module")
def client(one: Far) -> Iterator[httpx.Client]:
    with one.client() as client:
        yield client


def until(what: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what.exists():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_worker_is_made_followed_and_told_to_its_end(client: httpx.Client) -> None:
    asked = order("p-1", "echo hello; exit 3")
    told = post(client, body(asked))
    assert [line["seq"] for line in told] == [*range(1, len(told) + 1)]
    assert {line["worker"] for line in told} == {"p-1.1"}
    assert {line["digest"] for line in told} == {wire.digest(asked)}
    assert len({line["instance"] for line in told}) == 1
    assert log_of(told) == b"hello\n"
    *before, last = told
    assert all("result" not in line and line["status"] != "failed" for line in before)
    assert last["status"] == "failed"
    assert wire.from_json(Result, last["result"]).exit_code == 3
    # the very same again is adopted, and tells the same
    assert log_of(again := post(client, body(asked))) == b"hello\n"
    assert again[-1]["result"] == last["result"]
    listed = client.get("/work").json()
    (mine,) = [each for each in listed["workers"] if each["id"] == "p-1.1"]
    assert wire.from_json(WorkerStatus, mine).state is State.FAILED
    assert listed["instance"] == last["instance"]


def test_another_order_of_the_same_worker_is_a_conflict(client: httpx.Client) -> None:
    post(client, body(order("p-2", "true")))
    answer = client.post("/work", json=body(order("p-2", "false")))
    assert answer.status_code == 409
    assert answer.json()["error"]["kind"] == "conflict"


def test_a_stream_continues_where_the_caller_left_it(client: httpx.Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"printf 'one\\ntw'; while ! test -e {go}; do sleep 0.05; done; printf 'o\\n'"
    asked = order("p-3", script)
    told: list[dict[str, Any]] = []
    with client.stream("POST", "/work", json=body(asked)) as response:
        for line in lines(response):
            told.append(line)
            if log_of(told) == b"one\ntw":
                break
    seq, offset = told[-1]["seq"], len(log_of(told))
    go.touch()
    with client.stream("GET", f"/work/p-3.1?after={seq}&offset={offset}") as response:
        rest = [*lines(response)]
    assert [line["seq"] for line in rest] == [*range(seq + 1, seq + 1 + len(rest))]
    assert log_of(rest, offset) == b"o\n"
    assert log_of(post(client, body(asked, after=7, offset=2)), 2) == b"e\ntwo\n"
    assert client.get("/work/p-3.1/logs?offset=4").content == b"two\n"


def test_bytes_of_the_log_are_exact(client: httpx.Client) -> None:
    parts = (r"h\303", r"\244llo \377\376 \360\237\230", r"\200\n\303")
    script = "; sleep 0.6; ".join(f"printf '{part}'" for part in parts)
    told = post(client, body(order("p-4", script)))
    exact = "hä".encode() + b"llo \xff\xfe " + "😀\n".encode() + b"\xc3"
    assert log_of(told) == exact
    assert next(line["logs"] for line in told if line["logs"]) == "h"
    assert any("data" in line for line in told)
    assert "data" not in next(line for line in told if line["logs"] == "h")
    # from the middle of a character on
    assert log_of(post(client, body(order("p-4", script), offset=2)), 2) == exact[2:]


def test_pieces_of_a_log_hold_whole_characters() -> None:
    text = ("a" * (PIECE - 1) + "😀" + "ä" * PIECE).encode()
    cut, rest = pieces(text + b"\xf0\x9f", last=False)
    assert rest == b"\xf0\x9f"
    assert b"".join(cut) == text
    assert all(len(piece) <= PIECE and piece.decode() for piece in cut)
    assert pieces(b"\xf0\x9f", last=True) == ([b"\xf0\x9f"], b"")
    assert pieces(b"\xbf\xbf\xbf\xbf", last=False) == ([b"\xbf\xbf\xbf\xbf"], b"")
    assert pieces(b"", last=False) == ([], b"")


def test_silence_is_filled_with_heartbeats(client: httpx.Client) -> None:
    told = post(client, body(order("p-5", "sleep 1.5")))
    beats = [line for line in told if line.get("beat")]
    assert 2 <= len(beats) <= 6
    assert all(beat["status"] == "working" for beat in beats)
    with client.stream("GET", "/warm") as response:
        warm = lines(response)
        assert [next(warm)["seq"], next(warm)["seq"]] == [1, 2]


def test_a_stop_ends_a_worker(client: httpx.Client) -> None:
    with client.stream("POST", "/work", json=body(order("p-6", "sleep 1000"))) as response:
        told = lines(response)
        while next(told)["status"] != "working":
            pass
        answer = client.post("/work/p-6.1/stop", json={"grace": 0.1})
        assert answer.status_code == 202
        last = [*told][-1]
    assert last["status"] == "stopped"
    assert client.post("/work/p-66.1/stop").status_code == 404
    assert client.post("/work/p-6.1/stop", json={"grace": "soon"}).status_code == 400
    assert client.delete("/work/p-6.1").json()["removed"] is True
    assert client.get("/work/p-6.1").status_code == 404
    assert client.delete("/work/p-6.1").json()["removed"] is True


def test_nothing_is_started_for_who_only_attaches(client: httpx.Client, tmp_path: Path) -> None:
    asked = order("p-7", f"touch {tmp_path}/ran; echo $KEY", secrets=Secrets({"KEY": "sesame-1"}))
    without = body(asked, attach=True, secrets={})
    assert client.post("/work", json=without).status_code == 404
    assert client.get("/work/p-7.1").status_code == 404
    assert log_of(post(client, body(asked))) == b"***\n"
    assert log_of(post(client, without)) == b"***\n"
    assert client.post("/work", json=body(asked, secrets={})).status_code == 400


def test_the_log_is_sent_as_it_is_and_followed(client: httpx.Client) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.2; done"
    with client.stream("POST", "/work", json=body(order("p-8", script))) as response:
        next(lines(response))
        got = client.get("/work/p-8.1/logs?follow=1")
    assert got.content == b"1\n2\n3\n"
    assert got.headers["content-type"] == "application/octet-stream"
    assert client.get("/work/p-8.1/logs?offset=-1").status_code == 400
    assert client.get("/work/p-8.1/logs?follow=maybe").status_code == 400
    assert client.get("/work/p-88.1/logs").status_code == 404


def test_health_says_what_the_instance_has(client: httpx.Client) -> None:
    told = client.get("/health?programs=sh,no-such-program").json()
    assert (told["ok"], told["protocol"]) == (True, 1)
    assert told["programs"]["no-such-program"] == ""
    assert told["programs"]["sh"].endswith("/sh")
    assert 0 < told["cpus"] <= len(os.sched_getaffinity(0))
    assert told["memory"] > 1 << 20
    assert "claude" in client.get("/healthz").json()["programs"]


def test_http_1_is_spoken_too(one: Far) -> None:
    asked = order("p-9", "echo hello")
    with httpx.Client(base_url=one.url, timeout=PATIENCE) as plain:
        assert log_of(post(plain, body(asked))) == b"hello\n"
        assert plain.get("/healthz").http_version == "HTTP/1.1"


# --- what is refused -----------------------------------------------------------------------------


def hostile() -> dict[str, Any]:
    good = body(order("h-1", "true"))

    def other(**changes: Any) -> dict[str, Any]:
        return {**good, "order": {**good["order"], **changes}, "digest": None}

    nested: Any = 1
    for _ in range(60):
        nested = [nested]
    agent, issue = good["order"]["agent"], good["order"]["issue"]
    limits = good["order"]["limits"]
    return {
        "no json": b"{",
        "no object": b"[1]",
        "nothing": b"",
        "not utf-8": b'{"issue_id": "\xff"}',
        "nan": json.dumps(good).replace('"rig_url": null', '"rig_url": NaN').encode(),
        "endless": json.dumps({**good, "after": 1})
        .replace('"after": 1', '"after": 1e999')
        .encode(),
        "deep": b'{"issue_id":' + b"[" * 100_000,
        "nested": {**good, "context": {"a": nested}},
        "id with a way out": {**good, "issue_id": "../h-1"},
        "order with a way out": other(issue={**issue, "id": "../../h-1"}),
        "id of a number": {**good, "issue_id": 7},
        "another issue": {**good, "issue_id": "h-2"},
        "another rig": {**good, "rig_url": "https://example.org/x"},
        "another context": {**good, "context": {"a": 1}},
        "context of a list": {**good, "context": ["a"]},
        "order of text": {**good, "order": "ls"},
        "attempt of text": other(attempt="1"),
        "attempt zero": other(attempt=0),
        "no agent": other(agent=None),
        "no command": other(agent={**agent, "argv": []}),
        "a terminal": other(agent={**agent, "interactive": True}),
        "nul": other(prompt="a\0b"),
        "half a character": json.dumps(good).replace("true", "\\ud800").encode(),
        "odd variable": other(env={"A=B": "1"}),
        "rig that runs a command": {**other(rig="ext::sh -c id"), "rig_url": "ext::sh -c id"},
        "rig without delivery": {**other(rig="https://e.org/x"), "rig_url": "https://e.org/x"},
        "negative limit": other(limits={**limits, "timeout": -1}),
        "secret that is not named": {**good, "secrets": {"A": "b"}},
        "secrets of a list": {**good, "secrets": ["A"]},
        "after of text": {**good, "after": "1"},
        "offset of a part": {**good, "offset": 1.5},
        "offset below zero": {**good, "offset": -1},
        "leg of a list": {**good, "leg": []},
        "attach of text": {**good, "attach": "yes"},
        "claim too long": {**good, "take_over": "x" * 1000},
        "huge number": {**good, "after": 10**30},
    }


@pytest.mark.parametrize("what", sorted(hostile()))
def test_hostile_bodies_are_refused_and_nothing_is_made(
    client: httpx.Client, one: Far, what: str
) -> None:
    said = hostile()[what]
    before = sorted(one.root.rglob("*"))
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    answer = client.post("/work", content=content)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["kind"] in {"usage", "unsupported"}
    assert len(error["message"]) < 500
    assert sorted(one.root.rglob("*")) == before


def test_an_order_that_is_understood_differently_is_refused(client: httpx.Client) -> None:
    answer = client.post("/work", json=body(order("h-3", "true"), digest="0" * 64))
    assert answer.status_code == 422
    assert answer.json()["error"]["kind"] == "refused"
    assert client.get("/work/h-3.1").status_code == 404


@pytest.mark.parametrize(
    "id_", ["..", "%2e%2e", "..%2fworkers", "h-1", "h-1.0", "a" * 300, "a%00.1"]
)
def test_odd_ids_in_paths_are_not_found(client: httpx.Client, id_: str) -> None:
    for method, rest in (("GET", ""), ("GET", "/logs"), ("GET", "/rescue"), ("POST", "/stop")):
        assert client.request(method, f"/work/{id_}{rest}").status_code in (404, 405)


def test_what_is_too_long_is_refused(one: Far) -> None:
    said = body(order("h-4", "true"), pad="x" * (8 << 20))
    # not by HTTP/2 of httpx, which goes on sending to a stream that has been answered
    with httpx.Client(base_url=one.url, timeout=PATIENCE) as client:
        answer = client.post("/work", json=said)
        assert answer.status_code == 413
    with one.client() as client:
        assert client.get("/healthz", headers={"x-pad": "x" * 70_000}).status_code == 431
        assert client.get("/healthz?" + "x" * 5000).status_code == 414
        assert client.get("/nowhere").status_code == 404
        assert client.put("/work").status_code == 405


def test_streams_beyond_the_limit_are_told_to_come_back(tmp_path: Path) -> None:
    # HTTP/1.1, since the HTTP/2 of httpx does not say that it has given a stream up
    with (
        far(tmp_path, OUTPOST_STREAMS="2") as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE) as client,
    ):
        with client.stream("GET", "/warm") as first, client.stream("GET", "/warm") as second:
            told = [lines(first), lines(second)]  # kept: what is forgotten is closed
            assert [next(each)["seq"] for each in told] == [1, 1]
            answer = client.get("/warm")
            assert answer.status_code == 429
            assert "2 streams" in answer.json()["error"]["message"]
            assert client.get("/healthz").status_code == 200
        deadline = time.monotonic() + PATIENCE
        status = 429
        while status == 429:  # it has seen that they went
            with client.stream("GET", "/warm") as third:
                status = third.status_code
            assert time.monotonic() < deadline
            time.sleep(0.05)  # each try is a connection of its own


# --- who may call, and what agents get -----------------------------------------------------------


def test_a_token_is_asked_of_callers(tmp_path: Path) -> None:
    with far(tmp_path, OUTPOST_TOKEN="let-me-in-7") as server, server.client() as client:
        for headers in (
            {},
            {"authorization": "Bearer let-me-in-8"},
            {"authorization": "let-me-in-7"},
        ):
            answer = client.get("/work", headers=headers)
            assert answer.status_code == 401
            assert "let-me-in-7" not in answer.text
        assert client.post("/work", json=body(order("t-1", "true"))).status_code == 401
        assert client.get("/healthz").status_code == 200
        good = {"authorization": "Bearer let-me-in-7"}
        assert client.get("/work", headers=good).status_code == 200
        # neither the program's environment nor its agents' has it
        script = "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; true"
        told = post(client, body(order("t-2", script)), headers=good)
        assert b"let-me-in" not in log_of(told)
        assert b"let-me-in" not in Path(f"/proc/{server.process.pid}/environ").read_bytes()


@pytest.mark.parametrize(
    ("more", "address"),
    [({}, "0100007F"), ({"OUTPOST_TOKEN": "x"}, "00000000"), ({"K_SERVICE": "x"}, "00000000")],
)
def test_without_a_token_nobody_else_can_connect(
    tmp_path: Path, more: dict[str, str], address: str
) -> None:
    with far(tmp_path, **more) as server:
        table = Path("/proc/net/tcp").read_text()
        listening = [line.split() for line in table.splitlines() if f":{server.port:04X} " in line]
        assert {words[1].partition(":")[0] for words in listening if words[3] == "0A"} == {address}


def test_agents_get_the_containers_environment_and_its_secrets_masked(tmp_path: Path) -> None:
    env = {
        "MODEL_SERVER": "http://localhost:1",
        "ANTHROPIC_API_KEY": "sk-of-the-container",
        "OUTPOST_GIT_CREDENTIALS": "ghp_of-the-container",
    }
    with far(tmp_path, **env) as server, server.client() as client:
        script = (
            'echo "$MODEL_SERVER ${#ANTHROPIC_API_KEY} $ANTHROPIC_API_KEY'
            ' $OUTPOST_GIT_CREDENTIALS. ${PORT-none}"'
        )
        log = log_of(post(client, body(order("e-1", script))))
        assert log == b"http://localhost:1 19 *** . none\n"
        one = order("e-2", script, secrets=Secrets({"ANTHROPIC_API_KEY": "of-the-order"}))
        assert b" 12 " in log_of(post(client, body(one)))  # what comes with an order wins
        kept = b"".join(path.read_bytes() for path in server.root.rglob("*") if path.is_file())
        assert b"of-the-container" not in kept
        environ = Path(f"/proc/{server.process.pid}/environ").read_bytes()
        assert b"of-the-container" not in environ
        assert b"MODEL_SERVER=http" in environ


# --- the seed's four words -----------------------------------------------------------------------


def test_the_four_words_alone_are_enough(tmp_path: Path) -> None:
    """`issue_id, rig_url, beads_url, context`, with the agent of the container."""
    rig = GitRig(tmp_path / "rig-of-it") if (tmp_path / "rig-of-it").mkdir() is None else None
    assert rig is not None
    programs = tmp_path / "bin"
    programs.mkdir()
    claude = programs / "claude"
    done = json.dumps({"type": "result", "subtype": "success", "is_error": False, "result": "ok"})
    claude.write_text(
        "#!/bin/sh\nfor last; do :; done\n"
        f"printf '%s' \"$last\" > told\ngit add told && git commit -qm told\necho '{done}'\n"
    )
    claude.chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    said = {
        "issue_id": "gt-abc123",
        "rig_url": f"file://{rig.path}",
        "beads_url": "https://example.org/beads",
        "context": {"title": "Make it so", "text": "All of it."},
    }
    with far(tmp_path, PATH=path) as server, server.client() as client:
        told = post(client, said)
        last = told[-1]
        assert (last["status"], last["branch"]) == ("done", "polecat/gt-abc123"), last
        assert {"status", "branch", "logs", "pr_url"} <= {*last}
        assert all(line["branch"] is None for line in told[:-1])
        prompt = rig.show("polecat/gt-abc123", "told")
        assert "Work on issue gt-abc123: Make it so." in prompt
        assert "All of it." in prompt
        again = post(client, {**said, "context": {**said["context"], "attempt": 2}})
        assert again[-1]["worker"] == "gt-abc123.2"


def test_the_program_says_how_it_is_used_and_what_is_wrong() -> None:
    run = [sys.executable, "-m", "outpost_cloudrun.server"]
    done = subprocess.run([*run, "--help"], capture_output=True, text=True, check=True)
    assert "usage: python -m outpost_cloudrun.server" in done.stdout
    bad = subprocess.run(
        run, env={**os.environ, "PORT": "many"}, capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert "PORT is 'many'" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_the_reference_names_every_path_variable_and_key() -> None:
    checkout = Path(__file__).parents[3]
    page = (checkout / "docs" / "reference" / "work-protocol.md").read_text()
    server = checkout / "plugins" / "outpost_cloudrun" / "outpost_cloudrun" / "server"
    text = "\n".join(path.read_text() for path in server.glob("*.py"))
    for method, path in re.findall(r'router\.add\("(\w+)", "([^"]+)"', text):
        assert f"`{method} {path.replace('{worker}', '{id}')}" in page, (method, path)
    for name in {*re.findall(r'"(OUTPOST_[A-Z_]+)"', text)} - {"OUTPOST_LOOK", "OUTPOST_BEAT"}:
        assert name.endswith("_") or name in page, name
    for key in re.findall(r'_?(?:whole|maybe|short|flag|word)\(params, "(\w+)"', text):
        assert f"`{key}`" in page or f'"{key}"' in page, key
