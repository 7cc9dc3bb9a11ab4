"""Every type that crosses a boundary, there and back; what a reader refuses; identities."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from outpost_core import wire
from outpost_core.errors import UsageError
from outpost_core.types import (
    Agent,
    Candidate,
    Cleaned,
    Delivery,
    Event,
    Explanation,
    Finding,
    Health,
    Issue,
    Limits,
    Message,
    Order,
    Result,
    Secrets,
    State,
    Usage,
    Verdict,
    Worker,
    WorkerStatus,
)

ISSUE = Issue(
    id="gt-1", title="Tür ☃", text="a\nb", priority=0, estimate=90.0, labels=("x", "y"), kind="bug"
)
AGENT = Agent(argv=("sh", "-c", "true; 'x'"), name="own", interactive=True, env={"A": "1"})
LIMITS = Limits(timeout=1.5, idle_timeout=2.0, log_bytes=9, grace=0.0, cpu=2.0, memory=1 << 40)
DELIVERY = Delivery(branch="polecat/gt-1", message="m", author_name="n", pr_command=("gh", "pr"))
ORDER = Order(
    issue=ISSUE,
    agent=AGENT,
    attempt=3,
    rig="https://example.com/x.git",
    base="main",
    resume="refs/outpost/gt-1.2",
    depth=1,
    delivery=DELIVERY,
    prompt="do\0it",
    env={"B": "2"},
    context={"deep": {"list": [1, 2.5, None, True, "x"]}},
    limits=LIMITS,
)
USAGE = Usage(input_tokens=1, output_tokens=2, cached_tokens=3, cost_usd=0.25, turns=4)
RESULT = Result(
    state=State.DONE, branch="b", commit="c", exit_code=0, started_at=1.0, log_bytes=7, usage=USAGE
)
STATUS = WorkerStatus(id="gt-1.3", state=State.DONE, digest="d", updated_at=2.0, result=RESULT)
CANDIDATE = Candidate(
    name="a", type="fake", position=0, capabilities=frozenset({"rig", "clean"}), max_workers=3
)
VERDICT = Verdict(outpost="a", rank=1, eligible=True, reason="file order")


@pytest.mark.parametrize(
    "value",
    [
        ISSUE,
        AGENT,
        LIMITS,
        DELIVERY,
        ORDER,
        USAGE,
        RESULT,
        Result(state=State.LOST, signal=9),
        STATUS,
        WorkerStatus(id="gt-1.1", state=State.QUEUED),
        Worker(
            id="gt-1.1", issue="gt-1", attempt=1, outpost="a", digest="d", state=State.IDLE,
            result=RESULT,
        ),
        Health(ok=True, detail="fine", latency=0.5, free_memory=1),
        Finding(check="tmux", ok=None),
        Cleaned(removed=False, rescued="refs/outpost/gt-1.1"),
        Message(to="mayor", subject="s"),
        Event(kind="state", at=1.0, worker="gt-1.1", data={"a": [1]}),
        VERDICT,
        Explanation(rule="r", verdicts=(VERDICT,), attempts=(("a", "full"), ("b", "down"))),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_there_and_back(value: Any) -> None:
    text = wire.dumps(value)
    assert text.isascii()
    assert wire.from_json(type(value), json.loads(text)) == value


def test_a_fact_sheet_there_and_back() -> None:
    back = wire.from_json(Candidate, json.loads(wire.dumps(CANDIDATE)))
    assert back.capabilities == CANDIDATE.capabilities
    assert wire.to_json(back) == wire.to_json(CANDIDATE)


def test_unknown_keys_are_taken_silently_and_missing_ones_take_their_default() -> None:
    data: dict[str, Any] = {"state": "done", "from": "the future", "usage": {"mood": "good"}}
    assert wire.from_json(Result, data) == Result(state=State.DONE)


@pytest.mark.parametrize(
    ("kind", "data", "word"),
    [
        (Result, {}, "'state' is missing"),
        (Result, {"state": "asleep"}, "not a state"),
        (Result, {"state": 1}, "Result.state"),
        (Result, {"state": "done", "exit_code": "0"}, "exit_code"),
        (Result, {"state": "done", "exit_code": 0.0}, "exit_code"),
        (Result, {"state": "done", "exit_code": True}, "exit_code"),
        (Result, {"state": "done", "log_truncated": 0}, "log_truncated"),
        (Result, {"state": "done", "started_at": "now"}, "started_at"),
        (Result, {"state": "done", "started_at": True}, "started_at"),
        (Result, {"state": "done", "started_at": 10**400}, "too large"),
        (Result, {"state": "done", "usage": None}, "usage"),
        (Result, [], "an object was expected"),
        (Agent, {"argv": "true"}, "argv"),
        (Agent, {"argv": ["true", 1]}, "argv"),
        (Agent, {"argv": [], "env": {"A": 1}}, "env.A"),
        (Agent, {"argv": [], "env": []}, "env"),
        (Explanation, {"rule": "", "verdicts": [], "attempts": [["a"]]}, "2 items"),
        (Issue, {"id": "../x"}, "not an issue id"),
        (Issue, {"id": "x", "priority": 9}, "P0 to P4"),
        (Order, {"issue": {"id": "x"}, "agent": {"argv": []}, "secrets": "KEY"}, "secrets"),
        (Order, {"issue": {"id": "x"}, "agent": {"argv": []}, "secrets": [{}]}, "secrets"),
        (Order, {"issue": {"id": "x"}, "agent": {"argv": []}, "secrets": {"K": "v"}}, "secrets"),
    ],
)
def test_a_wrong_type_is_refused_in_words(kind: Any, data: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        wire.from_json(kind, data)


def test_what_has_no_shape_is_a_defect_of_the_caller() -> None:
    with pytest.raises(TypeError, match="has no JSON shape"):
        wire.to_json(replace(ORDER, context={"x": object()}))  # type: ignore[dict-item]


# --- identity -----------------------------------------------------------------------------------


def test_the_digest_is_the_same_after_any_number_of_trips() -> None:
    once = wire.from_json(Order, json.loads(wire.dumps(ORDER)))
    twice = wire.from_json(Order, json.loads(wire.dumps(once)))
    assert wire.digest(ORDER) == wire.digest(once) == wire.digest(twice)
    assert len(wire.digest(ORDER)) == 64


@pytest.mark.parametrize("number", ["timeout", "idle_timeout", "grace", "checkpoint_every", "cpu"])
def test_a_whole_number_and_its_fraction_are_the_same_order(number: str) -> None:
    whole = replace(ORDER, limits=replace(LIMITS, **{number: 60}))
    fraction = replace(ORDER, limits=replace(LIMITS, **{number: 60.0}))
    assert wire.digest(whole) == wire.digest(fraction)
    other = replace(ORDER, limits=replace(LIMITS, **{number: 60.5}))
    assert wire.digest(other) != wire.digest(whole)


def test_an_estimate_of_whole_seconds_is_the_same_order() -> None:
    said = [replace(ORDER, issue=replace(ISSUE, estimate=e)) for e in (90, 90.0)]
    assert wire.digest(said[0]) == wire.digest(said[1])


def test_order_of_keys_does_not_count_and_order_of_words_does() -> None:
    one = replace(ORDER, env={"A": "1", "B": "2"})
    assert wire.digest(one) == wire.digest(replace(ORDER, env={"B": "2", "A": "1"}))
    assert wire.digest(ORDER) != wire.digest(
        replace(ORDER, issue=replace(ISSUE, labels=("y", "x")))
    )


def test_names_of_secrets_count_and_values_show_nowhere() -> None:
    one, two = (replace(ORDER, secrets=Secrets({"KEY": v, "A": v})) for v in ("hunter2", "other"))
    assert wire.digest(one) == wire.digest(two) != wire.digest(ORDER)
    assert "hunter2" not in wire.dumps(one) + repr(one)
    back = wire.from_json(Order, json.loads(wire.dumps(one)))
    assert dict(back.secrets) == {"A": "", "KEY": ""}


def test_the_digest_of_a_known_order_never_changes() -> None:
    known = Order(issue=Issue(id="gt-1"), agent=Agent(argv=("true",)))
    assert wire.digest(known) == (
        "ba0a9dd813ab483ce3524d5a6810e82f1fee56927a981dde66b16fbccd098d6d"
    )


def test_fields_that_came_later_leave_the_identity_of_an_order_alone_until_they_are_used() -> None:
    order = Order(
        issue=Issue(id="gt-1", title="t"),
        agent=Agent(argv=("true",)),
        limits=Limits(timeout=60.0),
    )
    # as version 0.1.0 named it
    assert wire.digest(order) == (
        "4bf5b0b2cfbce639b5d3419299957255d81e7ad3d0ac6a5ad002dd29927f6493"
    )
    for changed in (
        replace(order, limits=replace(order.limits, final_grace=1.0)),
        replace(order, limits=replace(order.limits, max_agent_cost_usd=1.0)),
    ):
        assert wire.digest(changed) != wire.digest(order)
        back = wire.from_json(Order, json.loads(wire.dumps(changed)))
        assert (back, wire.digest(back)) == (changed, wire.digest(changed))
    # new prices are no reason to take an order for another one
    priced = replace(order, agent=replace(order.agent, prices={"": (1.0, 0.5, 2.0)}))
    assert wire.digest(priced) == wire.digest(order)
    assert wire.from_json(Order, json.loads(wire.dumps(priced))) == priced
