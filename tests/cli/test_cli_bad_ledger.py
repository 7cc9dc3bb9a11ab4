"""What a ledger of before believed, or a damaged file holds: shown as bad, and no command ends."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

import pytest

from outpost_core import wire
from outpost_core.types import Result, State, Usage
from outpost_manager.ledger import Ledger

HUGE = "x" * 300_000
NUMBERS: list[Any] = [1e300, float("inf"), -1.0, "soon", b"\xff", -(10**15)]
#: column → values that cannot be there.
BAD: dict[str, list[Any]] = {
    "created_at": NUMBERS,
    "started_at": NUMBERS,
    "updated_at": NUMBERS,
    "finished_at": NUMBERS,
    "told_at": NUMBERS,
    "reserved_at": NUMBERS,
    "ended_at": NUMBERS,
    "cost_reserved": ["much", 9 * 10**18, 1e300, b"x"],
    "cost_settled": ["much", 9 * 10**18, 1e300],
    "agent_reserved": ["much", 9 * 10**18],
    "agent_spent": ["much", 9 * 10**18, 1e300],
    "agent_settled": ["much", 9 * 10**18],
    "usage": ["{", "[]", "7", "[" * 100_000, '{"cost_usd": 1e300}', '{"turns": -1}', "\ud800"],
    "state": ["exploded", "", b"done", HUGE],
    "detail": [HUGE, b"\xff\xfe"],
    "title": [HUGE, b"\xff"],
    "priority": ["high", 10**9, 1e300],
    "rig": [HUGE, b"\xff"],
    "agent": [HUGE],
    "issue": [HUGE],
    "attempt": ["one", 1e300],
    "digest": [HUGE, b"\xff"],
    "missing_at": NUMBERS,
    "spawned_at": NUMBERS,
    "owner": [b"\xff", HUGE],
}
HELD = ("cost_reserved", "agent_reserved", "agent_spent")
GOOD = Result(state=State.DONE, branch="outpost/x", usage=Usage(input_tokens=5, cost_usd=0.5))
BODIES = [
    "{", "[]", "null", "[" * 100_000, '{"state": "exploded"}', '{"state": "done", "usage": 7}',
    '{"state": "failed", "finished_at": 1e300, "log_bytes": -5, "exit_code": 1' + "0" * 80 + "}",
    '{"state": "failed", "started_at": NaN, "cost_usd": Infinity}',
    '{"state": "failed", "message": "' + HUGE + '"}',
    '{"state": "failed", "usage": {"input_tokens": 1' + "0" * 5000 + "}}",
    '{"state": "done", "usage": {"input_tokens": -4, "cost_usd": -1e308}}',
]  # fmt: skip


def insert(db: sqlite3.Connection, name: str, /, *, ended: bool, **values: Any) -> None:
    now = time.time()
    row = {
        "id": f"{name}.1", "issue": name, "attempt": 1, "outpost": "here", "digest": "d",
        "state": "done" if ended else "working", "title": "a title", "created_at": now,
        "reserved_at": now, "spawned_at": now, "started_at": now, "updated_at": now,
        "finished_at": now if ended else None, "ended_at": now if ended else None,
    } | values  # fmt: skip
    names = ", ".join(row)
    db.execute(
        f"INSERT INTO workers ({names}) VALUES ({', '.join('?' * len(row))})", [*row.values()]
    )


@pytest.fixture
def bad(outpost: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Fill the ledger; return what is bad about each issue."""
    monkeypatch.setenv("OUTPOST_DEBUG", "1")
    ledger = Ledger(outpost.state)
    assert ledger.id
    ledger.close()
    about = {}
    with sqlite3.connect(outpost.state / "ledger.db") as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        for column, values in BAD.items():
            for number, value in enumerate(values):
                if isinstance(value, str) and "\ud800" in value:
                    value = sqlite3.Binary(b"\xed\xa0\x80")
                for ended in (True, False):
                    if column == "ended_at" and not ended:
                        continue
                    if column in HELD and not ended and not isinstance(value, str):
                        continue  # what holds money is added up by the database itself
                    issue = f"{column.replace('_', '')}-{number}-{'old' if ended else 'new'}"
                    insert(db, issue, ended=ended, **{column: value})
                    about[issue] = column
        for number, body in enumerate(BODIES):
            insert(db, f"body-{number}", ended=True)
            db.execute("INSERT INTO results VALUES (?, ?)", (f"body-{number}.1", body))
            about[f"body-{number}"] = "result"
        for issue in ("good", "next"):
            insert(db, issue, ended=True)
            db.execute("INSERT INTO results VALUES (?, ?)", (f"{issue}.1", wire.dumps(GOOD)))
        event = (
            "INSERT INTO events (worker, at, kind, outpost, data, body, explanation)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        for at, data, body in (
            [(1e300, "{", "{"), ("never", "[]", "7"), (float("inf"), "[" * 90_000, "[" * 90_000),
             (-1, b"\xff", '{"issue": {"id": "../x"}}'), (1.0, HUGE, HUGE)]
        ):  # fmt: skip
            db.execute(event, ("good.1", at, "odd", "here", data, body, body))
        db.execute("INSERT INTO outposts VALUES ('here', 'yes', 1e300, ?, 'x', ?)", (HUGE, "never"))
        db.execute("INSERT INTO outposts VALUES ('there', 0, ?, 'd', 1e300, 1e300)", (b"\xff",))
        db.execute(
            "INSERT INTO outbox (id, outpost, recipient, subject, body, sender, priority,"
            " written_at, tries, error, tried_at, next_try, failed_at) VALUES"
            " ('m1', 'here', ?, ?, ?, ?, 'high', 1e300, 'x', ?, 'x', 'x', 1e300)",
            (b"\xff", HUGE, b"\xff", HUGE, b"\xff"),
        )
    return about


COMMANDS = [
    ("list",), ("status",), ("status", "here"), ("workers", "--all"), ("workers",),
    ("workers", "--all", "-n", "3"), ("workers", "--all", "--since", "1h"),
    ("show", "good"), ("mail", "outbox", "--all"), ("clean", "--all", "--dry-run"),
    ("clean", "--older-than", "1d", "--dry-run"),
    *(("cost", "--by", by) for by in ("day", "outpost", "agent", "rig")),
    ("cost", "--since", "1d"), ("explain", "fresh", "--no-rig", "--", "true"),
    ("spawn", "fresh", "--no-rig", "--on", "there", "--", "true"), ("doctor", "--no-rig"),
]  # fmt: skip


def test_no_command_ends_because_of_a_bad_row(outpost: Any, bad: dict[str, str]) -> None:
    for words in COMMANDS:
        for more in ((), ("--json",)):
            result = outpost.run(*more, *words)
            said = result.stdout + result.stderr
            assert "Traceback" not in said, (words, said[-3000:])
            assert result.exit_code in (0, 1, 3), (words, said[-2000:])
            assert len(said) < 3_000_000
            if more:
                json.loads(result.stdout)


#: columns that no listing shows: they only must not end it.
UNSEEN = {"told_at", "reserved_at", "missing_at", "spawned_at", "owner"}


def test_each_is_shown_as_bad_and_the_others_as_they_are(outpost: Any, bad: dict[str, str]) -> None:
    workers = {w["id"]: w for w in outpost.json("workers", "--all")["workers"]}
    for issue in ("good", "next"):
        assert (workers[f"{issue}.1"]["status"], workers[f"{issue}.1"]["reason"]) == ("done", "ok")
    for issue, column in bad.items():
        worker = workers[f"{issue}.1"]
        said = f"{worker['detail']} {worker['reason']} {worker['message']}"
        assert column in UNSEEN or "broken" in said, (issue, worker)
        for key in ("created_at", "finished_at"):
            assert worker[key] is None or len(worker[key]) < 30


def test_show_says_of_one_what_is_wrong(outpost: Any, bad: dict[str, str]) -> None:
    text = outpost.ok("show", "finishedat-0-old")
    assert "broken" in text
    assert "finished_at (1e+300)" in text
    for issue in bad:
        if issue.startswith("issue"):
            continue
        result = outpost.run("show", f"worker:{issue}.1")
        assert result.exit_code == 0, (issue, result.stderr[-3000:])
