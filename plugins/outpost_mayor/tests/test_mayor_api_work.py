"""Work over the API: workers from their start to their end, the queue by hand, batches, money."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mayorapikit import Answer, Api, answering

from outpost_manager.jsonshapes import SHAPES
from outpost_mayor.api import tokens
from outpost_mayor.shapes import SHAPES as MAYOR


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """An API, without a mayor behind it."""
    with answering(tmp_path) as found:
        yield found


def order(issue: str, *command: str, **more: Any) -> dict[str, Any]:
    """Return an order as a request has it."""
    return {"issue": issue, "no_rig": True, "command": [*command] or ["true"], **more}


def fine(answer: Answer, keys: Any = None) -> Any:
    """Return the document of an answer that is as it should be."""
    assert answer.status == 200, answer.data
    if keys is not None:
        assert answer.json.keys() == keys.keys()
    return answer.json


def test_a_worker_from_its_start_to_its_end(api: Api) -> None:
    script = "echo hello; while [ ! -e ../stop ] && [ ! -e stop ]; do sleep 0.05; done"
    body = {"requests": [order("a-1", "sh", "-c", script)]}
    explained = fine(api.ask("POST", "/v1/explain", body), SHAPES["explain"])
    assert explained["explanations"][0]["verdicts"][0]["eligible"]
    begun = fine(api.ask("POST", "/v1/workers", body), SHAPES["spawn"])
    assert not begun["spawned"][0]["adopted"]
    assert fine(api.ask("POST", "/v1/workers", body))["spawned"][0]["adopted"]
    early = fine(api.ask("GET", "/v1/workers/a-1/wait?timeout=0.2"), SHAPES["wait"])
    assert early["workers"][0]["status"] not in ("done", "failed")
    refused = api.ask("POST", "/v1/workers/a-1/clean", {})
    assert refused.json["cleaned"][0]["error"]["hint"]
    fine(api.ask("GET", "/v1/workers/a-1/peek?lines=5"), SHAPES["peek"])
    assert api.ask("POST", "/v1/workers/a-1/forget").status == 400  # it can be asked
    fine(api.ask("POST", "/v1/workers/a-1/stop", {"grace": 1}), SHAPES["stop"])
    ended = fine(api.ask("GET", "/v1/workers/a-1/wait"))["workers"][0]
    assert ended["status"] == "stopped"
    logs = api.ask("GET", "/v1/workers/a-1/logs")
    assert (logs.data, logs.headers["outpost-log-offset"]) == (b"hello\n", "0")
    rest = api.ask("GET", "/v1/workers/a-1/logs?offset=3&follow=true")
    assert (rest.data, rest.headers["outpost-log-offset"]) == (b"lo\n", "3")
    shown = fine(api.ask("GET", "/v1/workers/a-1"), SHAPES["show"])
    assert shown["worker"]["id"] == "a-1.1"
    cleaned = fine(api.ask("POST", "/v1/workers/a-1/clean"), SHAPES["clean"])
    assert cleaned["cleaned"][0]["removed"]
    assert api.ask("GET", "/v1/workers/a-1/logs").data == b"hello\n"  # it was kept
    again = fine(api.ask("POST", "/v1/retry", {"issues": ["a-1"]}), SHAPES["retry"])
    assert again["spawned"][0]["worker"]["id"] == "a-1.2"
    fine(api.ask("POST", "/v1/workers/a-1/stop"))
    fine(api.ask("GET", "/v1/workers/a-1/wait"))
    for path in ("", "/logs", "/peek", "/wait"):
        assert api.ask("GET", f"/v1/workers/nobody{path}").status == 404, path


def test_an_order_without_room_is_refused_with_the_reason(tmp_path: Path) -> None:
    full = "outposts:\n  - {name: local, type: local, mode: process, max_workers: 0}\n"
    with answering(tmp_path, config=full) as api:
        said = fine(api.ask("POST", "/v1/workers", {"requests": [order("a-1")]}))
        assert said["spawned"] == []
        assert said["refused"][0]["error"]["code"] == 3
        assert said["refused"][0]["error"]["message"]


def test_the_queue_by_hand(api: Api) -> None:
    put = {"requests": [order(f"q-{n}") for n in range(3)], "batch": "night"}
    fine(api.ask("POST", "/v1/queue", put))
    moved = fine(api.ask("POST", "/v1/queue/q-2/move", {"priority": 0}), MAYOR["queue move"])
    assert moved["entry"]["priority"] == 0
    first = fine(api.ask("GET", "/v1/queue?limit=1"))["entries"]
    assert [one["issue"] for one in first] == ["q-2"]
    held = fine(api.ask("POST", "/v1/queue/q-1/pause"), MAYOR["queue pause"])
    assert held == {"held": ["q-1"], "switch": ""}
    assert fine(api.ask("POST", "/v1/queue/q-1/resume"))["held"] == []
    assert fine(api.ask("POST", "/v1/queue/pause"))["switch"] == "paused"
    assert fine(api.ask("POST", "/v1/queue/drain"))["switch"] == "draining"
    assert fine(api.ask("POST", "/v1/queue/resume"))["switch"] == ""
    gone = fine(api.ask("DELETE", "/v1/queue/q-0"), MAYOR["queue remove"])
    assert gone["removed"][0]["outcome"] == "removed"
    batch = fine(api.ask("GET", "/v1/batches/night"), MAYOR["batch"])
    assert batch["counts"] == {"waiting": 2, "removed": 1}
    listed = fine(api.ask("GET", "/v1/batches"))["batches"]
    assert [(one["batch"], one["counts"]) for one in listed] == [("night", batch["counts"])]
    stopped = fine(api.ask("POST", "/v1/batches/night/stop"))
    assert stopped["counts"] == {"removed": 3}
    fine(api.ask("POST", "/v1/batches/night/retry"))
    assert api.ask("GET", "/v1/batches/day").status == 404


def test_mail_is_sent_read_and_dropped(api: Api) -> None:
    said = {"outpost": "local", "to": "mayor/", "subject": "Tests fail", "body": "See CI."}
    sent = fine(api.ask("POST", "/v1/mail", said), SHAPES["mail send"])["letter"]
    assert (sent["state"], sent["from"]) == ("delivered", "overseer")
    (box,) = fine(api.ask("GET", "/v1/mail/inbox?outpost=local"), SHAPES["mail inbox"])["outposts"]
    assert [one["subject"] for one in box["messages"]] == ["Tests fail"]
    for wrong, status in ({"outpost": "nowhere"}, 404), ({"to": "a\r\nb"}, 400), ({"x": 1}, 422):
        assert api.ask("POST", "/v1/mail", said | wrong).status == status, wrong
    assert fine(api.ask("GET", "/v1/mail"), SHAPES["mail outbox"]) == {"letters": []}
    assert fine(api.ask("POST", "/v1/mail/flush", {}), SHAPES["mail flush"]) == {"letters": []}
    (kept,) = fine(api.ask("GET", "/v1/mail?all=true"))["letters"]
    assert fine(api.ask("DELETE", f"/v1/mail/{kept['id']}"), SHAPES["mail drop"])
    assert api.ask("DELETE", f"/v1/mail/{kept['id']}").status == 404


def test_money_accounts_schedules_and_the_mayor(api: Api) -> None:
    fine(api.ask("GET", "/v1/cost?by=agent&since=7d&forecast=true"), SHAPES["cost"])
    fine(api.ask("GET", "/v1/cost/forecast"))
    assert api.ask("GET", "/v1/cost?since=soon").status == 400
    assert api.ask("GET", "/v1/cost?by=weather").status == 422
    fine(api.ask("GET", "/v1/accounts"), SHAPES["accounts"])
    assert api.ask("POST", "/v1/accounts/nobody/unpark").status == 404
    fine(api.ask("GET", "/v1/schedules"), MAYOR["schedule list"])
    fine(api.ask("GET", "/v1/outposts/local/ping"), SHAPES["ping"])
    fine(api.ask("POST", "/v1/outposts/local/breaker/reset"))
    assert api.ask("POST", "/v1/outposts/nowhere/breaker/reset").status == 404
    assert fine(api.ask("GET", "/v1/scaling?foresee=true"), MAYOR["scale"])["outposts"] == []
    assert api.ask("POST", "/v1/outposts/nowhere/scale", {"to": 1}).status == 404
    assert api.ask("POST", "/v1/outposts/local/scale", {"to": 1}).status == 409
    assert fine(api.ask("GET", "/v1/mayor"), MAYOR["serve"])["running"] is False
    fine(api.ask("POST", "/v1/mayor/reload"))
    (api.manager.state.parent / "outposts.yaml").write_text("outpost: []\n")
    wrong = api.ask("POST", "/v1/mayor/reload")
    assert wrong.status == 400
    assert wrong.json["error"]["line"] == 1


def test_every_route_says_its_role_and_keeps_to_it(api: Api) -> None:
    ranks = {role: rank for rank, role in enumerate(tokens.ROLES)}
    given = {role: tokens.add(api.manager.state, role, role) for role in tokens.ROLES}
    paths = fine(api.ask("GET", "/openapi.json"))["paths"]
    for path, methods in paths.items():
        for method, said in methods.items():
            role = said["x-outpost-role"]
            assert (method == "get" or path == "/v1/explain") == (role in ("view", "")), path
            for mine, token in given.items():
                if role and ranks[mine] < ranks[role]:
                    asked = path.format(name="x", issue="x", ref="x", id="x")
                    got = api.ask(method.upper(), asked, {}, remote=True, token=token)
                    assert got.status == 403, (method, path, mine)
            if role:
                got = api.ask(method.upper(), path, {}, remote=True)
                assert got.status == 401, (method, path)


def test_prometheus_is_told(api: Api) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    put = {"requests": [order("m-1", priority=1), order("m-2", priority=3), order("m-3")]}
    fine(api.ask("POST", "/v1/queue", put))
    got = api.ask("GET", "/metrics")
    assert got.status == 200
    found = {
        (sample.name, *map(sample.labels.get, sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(got.data.decode())
        for sample in family.samples
    }
    assert [found["outpost_queue_entries", f"P{n}", "waiting"] for n in (1, 2, 3)] == [1, 1, 1]
    assert found["outpost_queue_oldest_wait_seconds",] >= 0
    assert found["outpost_slots", "local"] == 50
    assert found["outpost_breaker_open", "local"] == 0
    assert found["outpost_events_total",] == api.run(api.manager.ledger.last_event())
    assert found["outpost_api_request_seconds_count", "POST", "/v1/queue"] == 1
