"""Notifications: at least once, each with its id, by ways that nothing hostile gets through."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from servekit import LOCAL, Town, until

from outpost_core.types import Event
from outpost_manager.config.notify import About, NotifyConfig, Way
from outpost_manager.ledger import Ledger
from outpost_manager.ledger.notices import PATIENCE, RETRY_FIRST, Notice
from outpost_manager.manager import Manager
from outpost_mayor.notify import notifier, telling
from outpost_mayor.notify.notifier import Notifier
from outpost_mayor.notify.sending import NotToldError, send

EVIL = "\x1b]0;owned\x07$(id) `id` <script> & \u202e\r\nX-Evil: 1 * _ | --help"


class Ear:
    """A server on loopback that takes what is posted."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.location = ""
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                code = ear.answers.pop(0) if ear.answers else 200
                ear.heard.append((self.path, dict(self.headers.items()), data))
                self.send_response(code)
                if ear.location:
                    self.send_header("Location", ear.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(data) for _, _, data in self.heard]


@pytest.fixture
def ear() -> Iterator[Ear]:
    made = Ear()
    thread = Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def told(target: NotifyConfig, said: Mapping[str, Any], **environ: str) -> None:
    asyncio.run(send(target, said, environ))


def test_a_webhook_is_signed_as_standard_webhooks_are(ear: Ear) -> None:
    key = b"0123456789abcdef0123456789abcdef"
    secret = "whsec_" + base64.b64encode(key).decode()
    target = NotifyConfig(name="ops", to=Way.WEBHOOK, url=f"{ear.url}/x?y=1", secret="env:HOOK")
    told(target, {"id": "ops-7", "text": EVIL}, HOOK=secret)
    ((path, headers, data),) = ear.heard
    assert path == "/x?y=1"
    headers = {name.lower(): value for name, value in headers.items()}
    signed = f"ops-7.{headers['webhook-timestamp']}.".encode() + data
    right = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{right}"
    assert headers["webhook-id"] == "ops-7"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
    assert json.loads(data) == {"id": "ops-7", "text": EVIL}
    assert data.isascii()
    assert "x-evil" not in headers


def test_a_redirection_is_not_followed_and_a_missing_secret_is_named(ear: Ear) -> None:
    other = Ear()
    other.server.server_close()
    ear.answers, ear.location = [307], other.url
    target = NotifyConfig(name="ops", to=Way.WEBHOOK, url=ear.url)
    with pytest.raises(NotToldError, match="redirects, which is not followed"):
        told(target, {"id": "1"})
    assert len(ear.heard) == 1
    target = NotifyConfig(name="ops", to=Way.WEBHOOK, url="env:HOOK_URL")
    with pytest.raises(NotToldError, match="HOOK_URL is not set"):
        told(target, {"id": "1"})
    with pytest.raises(NotToldError, match="must begin with https") as refused:
        told(target, {"id": "1"}, HOOK_URL="http://example.org/SECRET")
    assert "SECRET" not in str(refused.value)
    target = NotifyConfig(name="ops", to=Way.WEBHOOK, url="http://127.0.0.1:1/SECRET")
    with pytest.raises(NotToldError, match=r"127\.0\.0\.1 cannot be told") as refused:
        told(target, {"id": "1"})
    assert "SECRET" not in str(refused.value)


def test_slack_and_ntfy_get_what_they_take(ear: Ear) -> None:
    said = {"id": "1", "about": "needs_you", "text": "a <b> & c"}
    told(NotifyConfig(name="s", to=Way.SLACK, url=f"{ear.url}/services/T/B"), said)
    told(
        NotifyConfig(name="n", to=Way.NTFY, url=f"{ear.url}/my-topic", token="env:T"), said, T="tk"
    )
    (_, _, slack), (path, headers, ntfy) = ear.heard
    assert json.loads(slack) == {"text": "a &lt;b&gt; &amp; c"}
    assert (path, headers["Authorization"]) == ("/", "Bearer tk")
    assert json.loads(ntfy) == {
        "topic": "my-topic", "title": "Outpost: needs_you", "message": "a <b> & c", "priority": 4,
    }  # fmt: skip
    with pytest.raises(NotToldError, match="cannot be sent") as refused:
        told(NotifyConfig(name="n", to=Way.NTFY, url=f"{ear.url}/t", token="env:T"), said,
             T="x\r\nX-Evil: 1")  # fmt: skip
    assert "Evil" not in str(refused.value)


def test_a_command_gets_json_and_no_secret_of_the_mayor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_KEY", "hunter2")
    out = tmp_path / "out"
    code = "import json, os, sys; json.dump([json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))"  # noqa: E501
    target = NotifyConfig(name="c", to=Way.COMMAND, command=(sys.executable, "-c", code, str(out)))
    told(target, {"id": "1", "text": EVIL})
    said, environ = json.loads(out.read_text())
    assert said == {"id": "1", "text": EVIL}
    assert "hunter2" not in environ.values()
    for command, why in (
        (("/nonexistent",), "cannot be started"),
        ((sys.executable, "-c", "import sys; sys.exit('no\\x1b[2J')"), r"ended with 1: no\\x1b"),
    ):
        with pytest.raises(NotToldError, match=why):
            told(NotifyConfig(name="c", to=Way.COMMAND, command=command), {"id": "1"})
    left = f"sleep 600 & echo $! > {tmp_path}/child; exit $0"  # a child keeps its pipes
    told(NotifyConfig(name="c", to=Way.COMMAND, command=("sh", "-c", left, "0")), {"id": "1"})
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    argv = ("sh", "-c", f"echo no >&2; {left}", "3")
    with pytest.raises(NotToldError, match=r"ended with 3: no"):
        told(NotifyConfig(name="c", to=Way.COMMAND, command=argv), {"id": "1"})
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    slow = (sys.executable, "-c", "import time; time.sleep(600)")
    with pytest.raises(NotToldError, match=r"did not answer within 0\.2"):
        told(NotifyConfig(name="c", to=Way.COMMAND, command=slow, timeout=0.2), {"id": "1"})


def test_the_desktop_gets_text_as_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "notify-send"
    shim.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {tmp_path}/said\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "platform", "linux")
    told(NotifyConfig(name="d", to=Way.DESKTOP), {"about": "done", "text": "--<b>$(id)"})
    said = (tmp_path / "said").read_text().split("\0")[:-1]
    assert said == ["--app-name=Outpost", "--", "Outpost: done", "--&lt;b&gt;$(id)"]


@pytest.mark.parametrize(
    ("event", "queued", "what"),
    [
        (Event(kind="state", at=1, data={"state": "done"}), False, About.DONE),
        (Event(kind="state", at=1, data={"state": "failed", "reason": "timeout"}), False,
         About.FAILED),
        (Event(kind="state", at=1, data={"state": "failed", "reason": "not_logged_in"}), False,
         About.NEEDS_YOU),
        (Event(kind="state", at=1, data={"state": "failed", "reason": "rate_limited"}), True, None),
        (Event(kind="state", at=1, data={"state": "working"}), False, None),
        (Event(kind="budget", at=1, data={"budget": "day", "usd": 5}), False, About.BUDGET),
        (Event(kind="breaker", at=1, data={"state": "open"}), False, About.NEEDS_YOU),
        (Event(kind="breaker", at=1, data={"state": "closed"}), False, None),
        (Event(kind="parked", at=1), False, About.PARKED),
    ],
)  # fmt: skip
def test_what_is_told(event: Event, queued: bool, what: About | None) -> None:
    assert telling.about(event, queued=queued) is what
    if what is not None:
        assert telling.body("t-1", what, event, None)["text"]


def test_hostile_words_are_spelled_out_in_every_value() -> None:
    event = Event(kind="state", at=1, worker="a-1.1", outpost=EVIL,
                  data={"state": "failed", "detail": EVIL * 100, "reason": EVIL})  # fmt: skip
    said = telling.body("t-1", About.FAILED, event, None)
    whole = json.dumps(said, ensure_ascii=False)
    assert not {"\x1b", "\x07", "\u202e", "\r"} & {*whole.replace("\\r", "").replace("\\u001b", "")}
    assert len(whole) < 10_000


def _manager(town: Town, more: str) -> Manager:
    town.config.write_text(LOCAL + more)
    return Manager.open(config=town.config, state=town.state, environ=dict(town.env), cwd=town.home)


def _happens(town: Town, count: int = 1) -> None:
    ledger = Ledger(town.state)
    for number in range(count):
        ledger.note(Event(kind="state", at=time.time(), worker=f"a-{number}.1", outpost="local",
                          data={"state": "done"}))  # fmt: skip
    ledger.close()


def test_a_target_that_is_away_is_tried_again_and_hears_each_thing_once(
    tmp_path: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Town(tmp_path)
    target = f"notify:\n  - {{name: ops, to: webhook, url: '{ear.url}', on: [done]}}\n"
    monkeypatch.setattr("outpost_manager.ledger.notices.RETRY_FIRST", 0.01)
    ear.answers = [500, 503]

    async def work() -> None:
        async with _manager(town, target) as manager:
            one, two = Notifier(manager, {}), Notifier(manager, {})
            await one.step()
            _happens(town, 3)
            end = time.monotonic() + 30
            while len(ear.heard) < 5:
                await one.step()
                await asyncio.sleep(0.02)
                assert time.monotonic() < end
            await one.quiet()
            await two.step()  # all is written down: a mayor after this one has nothing to tell
            assert await manager.ledger.notices.waiting() == []

    asyncio.run(work())
    ids = [body["id"] for body in ear.bodies()]
    assert len(set(ids)) == 3
    assert len(ids) == 5  # two tries that failed, and one each
    assert ids[0] == ids[1] == ids[2]  # what came later is not told before
    assert ids[2:] == sorted(ids[2:], key=lambda id_: int(id_.rpartition("-")[2]))


def test_a_slow_target_keeps_no_other_waiting_and_hears_each_thing_once(
    tmp_path: Path, ear: Ear
) -> None:
    town = Town(tmp_path)
    go, heard = tmp_path / "go", tmp_path / "heard"
    code = f"cat >> {heard}; until [ -e {go} ]; do sleep 0.05; done"
    targets = (
        f"notify:\n  - {{name: slow, to: command, command: [sh, -c, '{code}'],"
        " timeout: 60, on: [done]}\n"
        f"  - {{name: ops, to: webhook, url: '{ear.url}', on: [done]}}\n"
    )

    async def work() -> None:
        async with _manager(town, targets) as manager:
            one = Notifier(manager, {})
            await one.step()
            running = asyncio.create_task(one.run())
            for count in (12, 24):  # what happens later is told, too, while the other is slow
                _happens(town, 12)
                await _until(lambda count=count: len(ear.heard) == count)
            await _until(heard.exists)
            assert len(heard.read_text().splitlines()) == 1
            go.touch()
            await _until(lambda: len(heard.read_text().splitlines()) == 24)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(work())
    for bodies in (ear.bodies(), [*map(json.loads, heard.read_text().splitlines())]):
        events = [int(body["id"].rpartition("-")[2]) for body in bodies]
        assert events == sorted(set(events))


async def _until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def test_what_is_tried_again_holds_up_what_came_later_for_a_while(tmp_path: Path) -> None:
    notices = Ledger(tmp_path).notices
    begun = notices.begin()
    assert notices.write(begun, 11, [("ops", number, {}) for number in (9, 10, 11)])

    def due(later: float) -> list[str]:
        return [one.id for one in notices.due(time.time() + later, ["ops"])]

    assert due(0) == ["ops-9", "ops-10", "ops-11"]
    for tries in range(PATIENCE):
        notices.failed(Notice(id="ops-9", target="ops", body={}, tries=tries), "no")
        assert due(0) == ([] if tries + 1 < PATIENCE else ["ops-10", "ops-11"])
    assert due(RETRY_FIRST * 2**PATIENCE) == ["ops-9", "ops-10", "ops-11"]


def test_a_target_that_hears_nothing_hides_no_other(tmp_path: Path) -> None:
    notices = Ledger(tmp_path).notices
    begun = notices.begin()
    dead = [("dead", number, {"id": str(number)}) for number in range(200)]
    assert notices.write(begun, 200, [*dead, ("well", 200, {"id": "200"})])
    found = notices.due(time.time(), ["dead", "well"])
    assert [one.target for one in found].count("well") == 1


def test_who_is_configured_later_hears_nothing_old(tmp_path: Path, ear: Ear) -> None:
    town = Town(tmp_path)

    async def step(more: str) -> None:
        async with _manager(town, more) as manager:
            notifier = Notifier(manager, {})
            await notifier.step()
            await notifier.quiet()

    asyncio.run(step(""))
    _happens(town)
    asyncio.run(step(""))
    target = f"notify:\n  - {{name: ops, to: webhook, url: '{ear.url}', on: [done]}}\n"
    asyncio.run(step(target))
    assert ear.heard == []
    _happens(town)
    asyncio.run(step(target))
    assert len(ear.heard) == 1


@pytest.mark.parametrize("point", ["mayor.noticed", "mayor.told"])
def test_a_mayor_that_is_killed_while_it_tells_loses_nothing(
    tmp_path: Path, ear: Ear, point: str
) -> None:
    town = Town(tmp_path)
    target = f"notify:\n  - {{name: ops, to: webhook, url: '{ear.url}', on: [done]}}\n"
    town.config.write_text(LOCAL + target)
    with town.mayor(OUTPOST_FAULT=point) as mayor:
        mayor.ready()
        until(lambda: Ledger(town.state).notices.begin() is not None)
        _happens(town, 2)
        assert mayor.process.wait(60) == -signal.SIGKILL
    with town.mayor() as mayor:
        mayor.ready()
        until(lambda: len({body["id"] for body in ear.bodies()}) == 2)
        until(lambda: not Ledger(town.state).notices.waiting())
    # only what had been told and not written down came twice, under the same id
    assert len(ear.heard) == 2 + (point == "mayor.told")


def test_notify_test_tells_all_and_says_who_was_not(tmp_path: Path, ear: Ear) -> None:
    town = Town(tmp_path)
    town.config.write_text(
        LOCAL + f"notify:\n  - {{name: ops, to: webhook, url: '{ear.url}'}}\n"
        "  - {name: lost, to: webhook, url: 'env:NOWHERE'}\n"
    )
    said = town.run("notify", "test", code=1)
    assert "ops (webhook) was told" in said
    assert "lost (webhook) was not told: the url of lost is not there: NOWHERE is not set" in said
    assert town.json("notify", "test", "ops")["targets"][0]["ok"] is True
    assert "there is no target 'op'" in town.run("notify", "test", "op", code=4)
    assert [body["about"] for body in ear.bodies()] == ["test", "test"]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{name: a, to: webhook}", "url is for to: webhook"),
        ("{name: a, to: command}", "command is for to: command"),
        ("{name: a, to: webhook, url: 'http://example.org/'}", "must begin with https"),
        ("{name: a, to: webhook, url: 'https://u:p@example.org/'}", "name and password"),
        ("{name: a, to: webhook, url: 'https://e.org', secret: hunter2}", "secret does not say"),
        ("{name: a, to: desktop, on: [dome]}", "'dome' is none of"),
        ("{name: a, to: desktop, token: 'env:T'}", "token is for to: ntfy"),
        ("{name: a, to: pigeon}", "pigeon"),
    ],
)
def test_a_mistake_in_a_target_is_said_with_its_place(tmp_path: Path, entry: str, why: str) -> None:
    town = Town(tmp_path)
    town.config.write_text(LOCAL + f"notify:\n  - {entry}\n")
    said = town.run("config", "check", code=2)
    assert why in said
    assert "outposts.yaml:4:" in said
    assert "hunter2" not in said
    assert "u:p@" not in said


def test_the_pauses_of_the_service_are_short() -> None:
    assert notifier._MOST <= 2.0
