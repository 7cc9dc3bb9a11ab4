"""When a limit of an agent's provider is over: told by its words, and bounded by us."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost_agents.limits import moment
from outpost_agents.registry import account
from outpost_worker.folder import outcome

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

#: What agents print, and in how many seconds from noon of the first of June 2026 that is.
SAID = [
    ("Claude AI usage limit reached|1780311600", -HOUR),
    ("Claude AI usage limit reached|1780311600000", -HOUR),
    ("5-hour limit reached ∙ resets 3pm", 3 * HOUR),
    ("Session limit reached ∙ resets 5:00 PM", 5 * HOUR),
    ("You've hit your session limit · resets 3:40pm (Asia/Tokyo)", DAY - 5 * HOUR - 20 * MINUTE),
    ("You've hit your weekly limit · resets Jun 9, 5pm (UTC)", 8 * DAY + 5 * HOUR),
    ("You've hit your limit · resets Jan 3 at 10am (UTC)", 215 * DAY + 22 * HOUR),
    ("Your limit will reset at 1pm (Etc/GMT+5).", 6 * HOUR),
    ("You've hit your limit · resets 12:30am (UTC)", 12.5 * HOUR),
    ("Limits will reset at 9:30 AM. View your usage details.", DAY - 2.5 * HOUR),
    ("resets at 6am tomorrow", 18 * HOUR),
    ("resets 11:55am", -5 * MINUTE),  # it has just passed
    ("or try again in 5 days 22 hours 11 minutes.", 5 * DAY + 22 * HOUR + 11 * MINUTE),
    ("You've hit your usage limit. Try again in 4 hours 30 minutes.", 4.5 * HOUR),
    ("try again at 3:28 PM.", 3 * HOUR + 28 * MINUTE),
    ("or try again at Jul 5th, 2026 8:19 PM.", 34 * DAY + 8 * HOUR + 19 * MINUTE),
    ("please try again in 1m30s", 90.0),
    ('"resets_in_seconds":13872,', 13872.0),
    ('"resets_at":1780311600,"eligible_promo":null', -HOUR),
    ("Your quota will reset after 18h31m10s.", 18 * HOUR + 31 * MINUTE + 10),
    ("Please retry in 34.07s.", 34.07),
    ("Please retry in 250ms", 0.25),
    ('"retryDelay": "34.5s"', 34.5),
    ("retry-after: 30", 30.0),
    ("quotaResetTimeStamp: '2026-06-01T19:14:08Z'", 7 * HOUR + 14 * MINUTE + 8),
    ("the limit is reached (until 2026-06-02 12:00 UTC)", DAY),
]
NOTHING = [
    "429 Too Many Requests",
    "You've hit your usage limit. Try again later.",
    "try again in a moment",
    "try again in less than a minute",
    "resets Feb 31, 5pm (UTC)",
    "resets 99pm",
    "resets 3:75pm",
    "Overloaded. This is a server-side issue, usually temporary",
    "",
]


@pytest.mark.parametrize(("words", "seconds"), SAID)
def test_what_agents_print_is_understood(words: str, seconds: float) -> None:
    found = moment(words, NOW, "UTC")
    assert found is not None
    assert found - NOW == pytest.approx(seconds, abs=0.01)


@pytest.mark.parametrize("words", NOTHING)
def test_words_that_name_no_moment_name_none(words: str) -> None:
    assert moment(words, NOW, "UTC") is None


def test_a_clock_without_a_zone_is_the_agents_own() -> None:
    assert moment("resets 3pm", NOW, "Asia/Tokyo") == NOW + 18 * HOUR
    assert moment("resets 3pm (Nowhere/Else)", NOW, "UTC") is not None


@given(words=st.text(), now=st.floats(0, 4e9))
def test_nothing_that_an_agent_prints_raises(words: str, now: float) -> None:
    for text in (words, f"resets {words}", f"try again in {words}", f"resets Jan 1, {words}pm"):
        moment(text, now)


def answer(kind: str, *lines: dict[str, Any] | str) -> dict[str, Any]:
    found = account(kind, {}, {"TZ": "UTC"}, time.time())
    for line in lines:
        if isinstance(line, str):
            found.plain(line.encode())
        else:
            found.see(line)
    return found.answer()


def test_claude_code_tells_it_beside_its_words() -> None:
    at = int(time.time()) + 7200
    said = answer(
        "claude-stream-json",
        {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": at}},
        {
            "type": "result", "subtype": "success", "is_error": True, "api_error_status": 429,
            "result": "You've hit your session limit · resets 3pm (UTC)", "session_id": "s",
        },
    )  # fmt: skip
    assert (said["reason"], said["retry_at"]) == ("rate_limited", at)


def test_a_program_that_reports_no_outcome_tells_it_in_plain_lines() -> None:
    words = "TerminalQuotaError: You have exhausted your quota. It resets in 2h."
    said = answer("gemini-json", words, "    at classifyGoogleError (file:///x.js:1:2)")
    assert said["reason"] == "rate_limited"
    assert said["retry_at"] == pytest.approx(time.time() + 7200, abs=30)


def test_only_a_limit_has_a_moment_and_it_is_bounded() -> None:
    far = "1" + "0" * 12
    failed = {"type": "turn.failed", "error": {"message": "the tests fail; try again in 5 minutes"}}
    assert answer("codex-json", failed)["retry_at"] is None
    for at in (f"rate limit; try again in {far} days", "rate limit; try again in 401 days"):
        failed = {"type": "turn.failed", "error": {"message": at}}
        assert answer("codex-json", failed)["retry_at"] is None


def test_a_result_has_it_only_where_its_reason_is_that_limit() -> None:
    said = json.loads(json.dumps(answer("codex-json"))) | {"ok": False, "reason": "rate_limited"}
    said["retry_at"] = 5.0
    ended = outcome.result("failed", "agent_failed")
    outcome.add_output(ended, said, "")
    assert (ended["reason"], ended["retry_at"]) == ("rate_limited", 5.0)
    ended = outcome.result("failed", "timeout")
    outcome.add_output(ended, said, "timeout")
    assert ended["retry_at"] is None
