"""What a hostile client sends, and what hostile workers have said, breaks nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from mayorapikit import Answer, Api, answering, ask

from outpost_mayor.api import tokens

EVIL = "\x1b]0;owned\x07$(id) <script> \u202e\r\nX-Evil: 1"
REFS = (
    "..", "%2e%2e", "..%2F..%2Fetc%2Fpasswd", "a%00b", quote(EVIL), "%ff", "a" * 5000, "-rf", "*",
    "a.99999999999999999999", "%ED%A0%80",
)  # fmt: skip
TEXTS = (EVIL, "\ud800", "\x00", "", "../x", "-x")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API, without a mayor behind it; all tests here use it."""
    with answering(tmp_path_factory.mktemp("api")) as found:
        yield found


@pytest.fixture(scope="module")
def given(api: Api) -> dict[str, str]:
    """Return a token for each role."""
    return {role: tokens.add(api.manager.state, role, role) for role in tokens.ROLES}


def order(issue: str, **more: Any) -> dict[str, Any]:
    """Return an order as a request has it."""
    return {"issue": issue, "no_rig": True, "command": ["true"], **more}


def harmless(answer: Answer) -> Answer:
    """See to it that an answer is one of ours, which controls no terminal and no header."""
    assert answer.status < 500, answer.data
    assert not {b"\x1b", b"\x07", b"\r"} & {bytes([one]) for one in answer.data}
    assert not [name for name in answer.headers if "evil" in name]
    return answer


@pytest.mark.parametrize("ref", REFS)
def test_names_that_are_none_lead_nowhere(api: Api, given: dict[str, str], ref: str) -> None:
    def got(method: str, path: str, body: Any = None) -> Answer:
        return harmless(ask(api.address, method, path, body, token=given["admin"]))

    for tail in ("", "/logs", "/logs?follow=true", "/peek", "/wait?timeout=0"):
        assert got("GET", f"/v1/workers/{ref}{tail}").status in (400, 404, 405)
    for tail in ("clean", "stop", "forget", "nudge"):
        body = {"text": EVIL} if tail == "nudge" else {}
        answer = got("POST", f"/v1/workers/{ref}/{tail}", body)
        assert answer.status in (400, 404, 405) or b'"removed":false' in answer.data
    got("GET", f"/v1/events?worker={ref}")
    got("GET", f"/v1/workers?outpost={ref}&issue={ref}&after={ref}")
    got("DELETE", f"/v1/queue/{ref}")
    got("POST", f"/v1/batches/{ref}/retry")
    got("POST", f"/v1/outposts/{ref}/scale", {"to": 1})
    got("GET", f"/v1/mail/inbox?outpost={ref}&identity={ref}")
    got("DELETE", f"/v1/mail/{ref}")


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_texts_that_are_none_are_refused_or_kept_as_they_are(
    api: Api, given: dict[str, str], text: str
) -> None:
    asked: list[tuple[str, Any]] = [
        ("/v1/queue", {"requests": [order("z-1")], "after": [text]}),
        ("/v1/queue", {"requests": [order("z-1")], "batch": text, "not_before": text}),
        ("/v1/explain", {"requests": [order("z-1", secrets=[text], env={text: text})]}),
        ("/v1/explain", {"requests": [order(text, title=text, labels=[text], branch=text)]}),
        ("/v1/retry", {"issues": [text]}),
        ("/v1/continue", {"issue": text, "text": text}),
        ("/v1/mail", {"outpost": "local", "to": "a", "subject": text, "sender": text}),
    ]
    asked += [("/v1/queue", {"requests": [order("z-1", secrets=[text])]})]
    for path, body in asked:
        for role in ("work", "admin"):
            said = json.dumps(body).encode()
            harmless(ask(api.address, "POST", path, said, token=given[role]))


def test_a_log_ends_however_far_behind_its_end_one_asks(api: Api, given: dict[str, str]) -> None:
    api.ask("POST", "/v1/workers", {"requests": [order("l-1", command=["echo", EVIL])]})
    api.ask("GET", "/v1/workers/l-1/wait")
    for offset in (1 << 20, 1 << 62, 2**63 - 1):
        path = f"/v1/workers/l-1/logs?offset={offset}"
        got = ask(api.address, "GET", path, token=given["view"])
        assert (got.status, got.data) == (200, b"")
    harmless(ask(api.address, "GET", "/metrics", token=given["view"]))
    harmless(ask(api.address, "GET", "/v1/workers/l-1/peek", token=given["view"]))
