"""A server's documents from far away: what is believed, what is refused, and where it may be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost_core.errors import ConflictError, NotFoundError, OutpostError, UsageError
from outpost_core.types import Event, Explanation, Result, State, Usage, Verdict, Worker
from outpost_manager import jsonviews
from outpost_manager.errorview import error_shape
from outpost_manager.fleet.overview import OutpostView
from outpost_manager.ledger.breakers import Breaker
from outpost_manager.ledger.budgets import Budget, Use
from outpost_manager.ledger.parking import Parked
from outpost_manager.ledger.spend import Total
from outpost_manager.placing.accountviews import AccountView, Allowance
from outpost_manager.placing.forecast import Forecast, Outlook, Sum
from outpost_manager.remote import answers, parse, parsemoney
from outpost_manager.remote.address import address, token
from outpost_manager.remote.fields import NotBelievedError

# --- where it is -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "base", "socket"),
    [
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765", ""),
        ("http://localhost:8765/", "http://localhost:8765", ""),
        ("http://[::1]:8765", "http://[::1]:8765", ""),
        ("https://mayor.example.com", "https://mayor.example.com", ""),
        ("https://10.0.0.5:8443", "https://10.0.0.5:8443", ""),
        ("unix:/run/me/api.sock", "http://localhost", "/run/me/api.sock"),
        ("unix:///run/me/api.sock", "http://localhost", "/run/me/api.sock"),
    ],
)
def test_a_server_is_named_by_its_url(said: str, base: str, socket: str) -> None:
    found = address(said)
    assert (found.base, found.socket) == (base, socket)
    assert found.local == (not said.startswith("https"))


@pytest.mark.parametrize(
    "said",
    [
        *("http://mayor.example.com", "http://10.0.0.5:80", "http://127.0.0.1.evil.com:80"),
        *("http://localhost.evil.com", "ftp://127.0.0.1", "127.0.0.1:80", "mayor", "https://", ""),
        *("unix:api.sock", "unix:", "https://a/b", "https://a?b", "https://a#b", "https://a:b"),
        *("https://a:99999", "https://a b", "https://a\n", "https://" + "a" * 5000, "unix:/a\0b"),
    ],
)
def test_a_url_that_is_none_or_not_safe_is_refused(said: str) -> None:
    with pytest.raises(UsageError) as caught:
        address(said)
    assert caught.value.hint
    assert str(caught.value).isprintable() or "\n  → " in str(caught.value)


def test_a_password_in_a_url_is_refused_and_never_shown() -> None:
    with pytest.raises(UsageError) as caught:
        address("https://me:outpost_secret@mayor.example.com")
    assert "outpost_secret" not in str(caught.value)


def test_a_token_is_read_from_the_environment_or_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("outpost_abc\n")
    file.chmod(0o600)
    assert token({"OUTPOST_TOKEN_FILE": str(file)}) == "outpost_abc"
    assert token({"OUTPOST_TOKEN_FILE": str(file), "OUTPOST_TOKEN": " mine "}) == "mine"
    assert token({}) == ""
    file.chmod(0o640)
    with pytest.raises(UsageError, match="others can read") as caught:
        token({"OUTPOST_TOKEN_FILE": str(file)})
    assert caught.value.hint == f"chmod 600 {file}"
    for bad in ("", "two words", "a\nb", "x" * 600, "tür", "a\x1bb"):
        file.chmod(0o600)
        file.write_text(bad)
        with pytest.raises(UsageError, match="no token") as caught:
            token({"OUTPOST_TOKEN_FILE": str(file)})
        assert not bad or bad not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        token({"OUTPOST_TOKEN_FILE": str(tmp_path / "none")})


# --- what it says ----------------------------------------------------------------------------

texts = st.text(max_size=20)
moments = st.floats(0, 4e9)
numbers = st.integers(0, 2**53)
money = st.floats(0, 1e6)
maybe = st.one_of
usages = st.builds(
    Usage, input_tokens=maybe(st.none(), numbers), output_tokens=maybe(st.none(), numbers),
    cost_usd=maybe(st.none(), money), turns=maybe(st.none(), numbers), partial=st.booleans(),
    estimated=st.booleans(), model=maybe(st.none(), texts),
)  # fmt: skip


@st.composite
def workers(draw: st.DrawFn) -> Worker:
    state = draw(st.sampled_from(State))
    attempt = draw(st.integers(1, 999_999))
    result = None
    if state.terminal:
        result = draw(
            st.builds(
                Result, state=st.just(state), reason=texts, message=texts,
                branch=maybe(st.none(), texts), commit=maybe(st.none(), texts),
                exit_code=maybe(st.none(), st.integers(0, 255)), retry_at=maybe(st.none(), moments),
                log_bytes=maybe(st.none(), numbers), log_truncated=st.booleans(),
            )
        )  # fmt: skip
    return draw(
        st.builds(
            Worker, id=st.just(f"gt-1.{attempt}"), issue=st.just("gt-1"), attempt=st.just(attempt),
            outpost=texts, digest=st.just("d"), state=st.just(state), detail=texts, title=texts,
            priority=st.integers(0, 4), rig=maybe(st.none(), texts), agent=texts,
            created_at=moments, started_at=maybe(st.none(), moments),
            finished_at=maybe(st.none(), moments), unreachable_since=maybe(st.none(), moments),
            cost_reserved=money, cost_settled=maybe(st.none(), money),
            agent_reserved=maybe(st.none(), money), agent_cost=maybe(st.none(), money),
            usage=maybe(st.none(), usages), result=st.just(result),
        )
    )  # fmt: skip


def over_the_line(shape: object) -> Any:
    return json.loads(json.dumps(shape))


@given(workers())
def test_a_worker_is_the_same_behind_the_line(one: Worker) -> None:
    shape = over_the_line(jsonviews.worker(one))
    assert over_the_line(jsonviews.worker(parse.worker(shape))) == shape


BREAKER = Breaker(
    kind="outpost", name="vm", state="open", failures=5, since=1.25, retry_at=31.5, detail="gone"
)


@pytest.mark.parametrize(
    ("view", "there", "back"),
    [
        (
            Event(kind="state", at=1.5, worker="gt-1.1", outpost="vm", data={"a": [1]}, id=7),
            jsonviews.event,
            parse.event,
        ),
        (
            OutpostView(
                name="vm", type="ssh", package="outpost-ssh", version="1", state="ready",
                detail="d", hint="h", active=2, max_workers=4, slots_reason="cores",
                capabilities=frozenset({"peek", "clean"}), since=12.125, spent=1.5, standing=0.5,
                cost_cap_hourly=2.0, breaker=BREAKER,
            ),
            jsonviews.outpost,
            parse.outpost,
        ),
        (
            Explanation(
                rule="r",
                verdicts=(
                    Verdict(outpost="vm", rank=1, eligible=True, reason="x", machine_cost=1.0),
                    Verdict(outpost="b", rank=None, eligible=False, reason="full"),
                ),
                attempts=(("vm", "full"),), notes=("n",),
            ),
            jsonviews.explanation,
            parse.explanation,
        ),
        (
            AccountView(
                name="team", agent="claude", configured=True, running=1, max_workers=2,
                allowances=[Allowance(unit="usd", window="day", used=1.5, most=5.0)],
                parked=[Parked(account="team", model="", until=9.5, since=0.0, reason="limit",
                               worker="", claims=0)],
                breaker=replace(BREAKER, kind="account", name="team"),
            ),
            jsonviews.account,
            parse.account,
        ),
    ],
)  # fmt: skip
def test_what_is_shown_is_the_same_behind_the_line(
    view: Any, there: Callable[[Any], Any], back: Callable[[object], object]
) -> None:
    assert back(over_the_line(there(view))) == view


def test_what_was_spent_is_the_same_behind_the_line() -> None:
    budget = Budget(name="all", window="day", usd=10.0, outpost=("vm*",))
    use = Use(cap=10_000_000_000, reserved=1_500_000_000, spent=250_000_001, standing=0)
    totals = [Total(key="vm", workers=2, machine=1.25, agent=0.1, input_tokens=5, estimated=True)]
    sums = Sum(waiting=3, worst=2_000_000_000, usual=1, unlimited=1, unknown=2)
    outlook = Forecast(sum=sums, outlooks=[Outlook(budget=budget, use=use, sum=sums,
                       fit_at_worst=1, fit_usually=2, used_up_at=99.5)])  # fmt: skip
    for more in (outlook, None):
        shape = over_the_line(
            jsonviews.cost("outpost", 12.5, totals, {"run": 0.5}, [(budget, use)], more)
        )
        back = parsemoney.spending(shape)
        assert jsonviews.cost(
            "outpost", back.begin, back.totals, back.standing, back.budgets, back.outlook
        ) == shape  # fmt: skip


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
WORKER = over_the_line(
    jsonviews.worker(
        Worker(id="gt-1.1", issue="gt-1", attempt=1, outpost="vm", digest="", state=State.DONE,
               result=Result(state=State.DONE), usage=Usage())
    )
)  # fmt: skip


@given(st.sampled_from(sorted(WORKER)), documents)
def test_a_worker_with_a_field_that_makes_no_sense_is_not_believed(key: str, value: Any) -> None:
    try:
        found = parse.worker(WORKER | {key: value})
    except NotBelievedError:
        return
    jsonviews.worker(found)  # whatever was believed can be shown


@given(documents)
def test_no_document_breaks_a_reader(value: Any) -> None:
    for read in (
        *(parse.event, parse.outpost, parse.account, parse.explanation, parse.cleaned),
        *(parse.order, parse.shown, parse.spawned, parse.entry, parsemoney.spending),
    ):
        try:
            read(value)
        except NotBelievedError:
            continue


# --- what went wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [NotFoundError("no", hint="h"), ConflictError("other")])
def test_an_error_is_the_same_behind_the_line(error: OutpostError) -> None:
    body = json.dumps({"error": error_shape(error)}).encode()
    found = answers.refusal(404, body, "there")
    assert type(found) is type(error)
    assert (str(found), found.exit_code) == (str(error), error.exit_code)


def test_an_error_that_nobody_knows_keeps_its_words_and_its_exit_code() -> None:
    body = b'{"error": {"code": 6, "type": "Busy\\u001b[2J", "message": "a\\u001b[2Jb", "hint": 7}}'
    found = answers.refusal(400, body, "there")
    assert found.exit_code == 6
    assert found.message == "a\\x1b[2Jb"
    assert error_shape(found)["type"] == "Busy\\x1b[2J"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error": 1}', b'{"error": {}}', b"[" * 100_000, b"\xff"]
)
def test_an_answer_that_is_none_of_ours_says_whose_it_is(body: bytes) -> None:
    for status in (200, 302, 404, 502):
        found = answers.refusal(status, body, "http://127.0.0.1:1")
        assert found.exit_code == 5
        assert "http://127.0.0.1:1" in found.message
        assert found.hint


def test_a_socket_may_be_in_ones_home() -> None:
    assert address("unix:~/api.sock").socket == os.path.expanduser("~/api.sock")
