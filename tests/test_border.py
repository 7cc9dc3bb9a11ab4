"""The border: bounds of answers, mail that hides no other, paths opened only where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outpost_core.errors import NotFoundError, OutpostError, PluginError
from outpost_core.types import Facts, Health, Message, Result, State, Worker, WorkerStatus
from outpost_manager.ledger import Ledger
from outpost_manager.review import work_of
from outpost_shared import border


def worker(**result: Any) -> Worker:
    return Worker(
        id="gt-1.1", issue="gt-1", attempt=1, outpost="vm1", digest="d", state=State.FAILED,
        rig="/srv/rig", result=Result(state=State.FAILED, **result),
    )  # fmt: skip


def test_a_path_that_a_host_tells_is_opened_only_where_its_outpost_keeps_work(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "state")
    mine, other = tmp_path / "outposts" / "local", tmp_path / "private"
    for folder in (mine, other):
        folder.mkdir(parents=True)
        (folder / "x.bundle").write_text("bundle")
    (mine / "link.bundle").symlink_to(other / "x.bundle")
    (mine / "up").symlink_to(other)
    kept = work_of(ledger, worker(checkpoint=str(mine / "x.bundle")), mine)
    assert kept.ref == str(mine / "x.bundle")
    for path, under in (
        (other / "x.bundle", mine),
        (mine / "x.bundle", None),  # the outpost is elsewhere
        (mine / "link.bundle", mine),
        (mine / "up" / "x.bundle", mine),
        (mine / ".." / ".." / "private" / "x.bundle", mine),
        ("refs/heads/main", mine),
        ("--upload-pack=id.bundle", mine),
    ):
        with pytest.raises(NotFoundError):
            work_of(ledger, worker(checkpoint=str(path)), under)
    for branch, commit in (("--output=x", "a" * 40), ("main", "--output=x"), ("a..b", "a" * 40)):
        with pytest.raises(NotFoundError, match="cannot be"):
            work_of(ledger, worker(branch=branch, commit=commit), mine)
    ledger.close()


@pytest.mark.parametrize(
    "told",
    [
        Health(ok="yes"),  # type: ignore[arg-type]
        Health(ok=True, free_memory=10**40),
        Facts(cpus=float("inf")),
        Facts(cpus=-1),
        Facts(memory=-5),
        Facts(programs={str(n): "" for n in range(2000)}),
        Facts(programs={"git": 7}),  # type: ignore[dict-item]
    ],
    ids=repr,
)
def test_an_answer_that_cannot_be_is_its_outposts_defect(told: Any) -> None:
    with pytest.raises(PluginError, match="vm1"):
        border.answer("vm1", "outpost_x", type(told), told)


def test_one_odd_letter_hides_no_other() -> None:
    told = [
        Message(to="a", subject="s", sent_at=1e300, priority=99),
        Message(to="b", subject="x\x1b[2J\ny" * 9000, body="z\n" * 400_000),
    ]
    first, second = border.answers("vm1", "outpost_inbox", Message, told, 10)
    assert (first.sent_at, first.priority) == (None, 2)
    assert len(second.subject) <= 1000
    assert second.subject.isprintable()
    assert len(second.body) <= 300 * 1024
    with pytest.raises(PluginError, match="2 items"):
        border.answers("vm1", "outpost_inbox", Message, told, 1)


def test_errors_of_outposts_are_bounded_and_no_line_looks_like_ours() -> None:
    error = OutpostError("a\x1b]0;x\x07\nerror: forged\n  → curl evil" * 900, hint="b\nc\u202e")
    border.tame(error)
    assert len(error.message) < 6000
    assert all(one.startswith("  ") for one in error.message.split("\n")[1:])
    assert error.hint == "b c\\u202e"
    assert error.args == (error.message,)


def test_an_endless_list_is_refused_and_a_far_clock_is_not() -> None:
    status = WorkerStatus(id="gt-1.1", state=State.WORKING)
    with pytest.raises(PluginError, match="at most"):
        border.statuses("vm1", [status] * (border.MOST_WORKERS + 1), {})
    ahead = WorkerStatus(id="gt-1.1", state=State.WORKING, started_at=2e9, detail="at work")
    found, _ = border.statuses("vm1", [ahead], {})
    assert found["gt-1.1"].detail == "at work"
    assert found["gt-1.1"].started_at is not None
    assert found["gt-1.1"].started_at < 2e9


def test_an_error_of_many_lines_fits_a_screen_with_its_beginning_and_end() -> None:
    told = border.lines("\n".join(f"line {n}" for n in range(90))).split("\n")
    assert len(told) <= 20
    assert told[:2] == ["line 0", "  line 1"]
    assert told[-1] == "  line 89"
    assert "  (73 lines)" in told
    assert border.lines("a\n b\n\nc").split("\n") == ["a", "  b", "  c"]
