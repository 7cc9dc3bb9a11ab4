"""`status` and its watch, on real terminals; the table of workers in narrow ones."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import termios
import time

import pytest

from outpost_core.types import Result, State, Usage, Worker
from outpost_manager.cli import render
from outpost_testing import Script

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


def read_until(fd: int, wanted: bytes, seen: bytes = b"") -> bytes:
    deadline = time.monotonic() + 60
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
        assert ready, seen
        chunk = os.read(fd, 65536)
        assert chunk, seen
        seen += chunk
    return seen


def resize(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def frames(seen: bytes) -> list[list[str]]:
    """Return the lines of every whole drawing."""
    drawn = re.findall(rb"\x1b\[H(.*?)\x1b\[J", seen, re.DOTALL)
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", one.decode()).split("\n") for one in drawn]


@pytest.fixture
def watching(outpost):
    """Many workers, and a watch on a terminal of 12 by 60."""
    outpost.config.write_text(
        "outposts:\n  - {name: here, type: fake, max_workers: 50}\n"
        "  - {name: a-rather-long-name-of-an-outpost, type: fake}\n"
    )
    main, side = pty.openpty()
    resize(side, 12, 60)
    process = outpost.start(
        "status", "--watch", "--interval", "0.1", stdout=side, stderr=side, stdin=side,
        start_new_session=True,
    )  # fmt: skip
    yield main, side, process
    os.close(main)
    os.close(side)


def test_the_watch_has_a_screen_of_its_own_that_fits(watching):
    main, side, process = watching
    seen = read_until(main, b"Ctrl-C ends")
    assert seen.startswith(ENTER)
    last = frames(seen)[-1]
    assert len(last) == 12
    assert all(render.width(line) <= 60 for line in last)
    assert last[0] == "now: no workers"
    resize(side, 30, 50)
    process.send_signal(signal.SIGWINCH)
    deadline = time.monotonic() + 60
    while len(frames(seen)[-1]) != 30:
        assert time.monotonic() < deadline
        seen += os.read(main, 65536)
    assert all(render.width(line) <= 50 for line in frames(seen)[-1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_terminal_is_given_back_however_it_ends(watching, number):
    main, _, process = watching
    seen = read_until(main, b"Ctrl-C ends")
    process.send_signal(number)
    seen = read_until(main, LEAVE, seen)
    assert b"\x1b[?25h" in seen  # the cursor, too
    assert process.wait(timeout=60) == (130 if number == signal.SIGINT else -number)
    assert b"Traceback" not in seen


def test_an_error_gives_the_terminal_back_before_it_is_told(outpost):
    main, side = pty.openpty()
    process = outpost.start("status", "nope", "--watch", stdout=side, stderr=side)
    os.close(side)
    seen = read_until(main, b"nope")
    assert process.wait(timeout=60) == 4
    assert seen.rindex(LEAVE) < seen.index(b"nope")
    os.close(main)


def test_a_stop_shows_the_shell_and_going_on_the_watch(watching):
    main, _, process = watching
    seen = read_until(main, b"Ctrl-C ends")
    process.send_signal(signal.SIGTSTP)
    seen = read_until(main, LEAVE, seen)
    process.send_signal(signal.SIGCONT)
    read_until(main, ENTER, seen[seen.index(LEAVE) :])


def look(count: int, ended: int):
    from outpost_manager.cli import status

    def made(number: int, state: State) -> Worker:
        now = time.time()
        return Worker(
            id=f"issue-{number}.1", issue=f"issue-{number}", attempt=1, outpost="here", digest="",
            state=state, created_at=now - 600, started_at=now - 590,
            finished_at=now - 300 if state.terminal else None, title="t" * 90,
        )  # fmt: skip

    return status._Look(
        views=[],
        workers=[made(n, State.WORKING) for n in range(count)],
        ended=[made(n + 100, State.FAILED) for n in range(ended)],
    )


@pytest.mark.parametrize("rows", [10, 14, 24, 60])
@pytest.mark.parametrize(("count", "ended"), [(0, 0), (3, 40), (40, 3), (40, 40)])
def test_any_height_is_filled_and_never_passed(monkeypatch, rows, count, ended):
    from outpost_manager.cli import status

    monkeypatch.setenv("COLUMNS", "60")
    lines = status._lines(look(count, ended), rows)
    text = "\n".join(lines)
    assert len(lines) == rows
    assert "Ctrl-C" in lines[-1]
    if count > rows:
        assert re.search(r"… \d+ more", text)
    if count:
        assert f"{count} " in lines[0]
    if ended:
        assert f"ended since yesterday: {ended} " in re.sub(r"\x1b\[\d*m", "", lines[1])


def test_status_shows_what_ended_since_yesterday(outpost):
    failed = Result(state=State.FAILED, reason="timeout")
    outpost.here.script("bad.1", Script(after=0.0, result=failed))
    outpost.spawn("bad")
    outpost.spawn("busy")
    said = outpost.json("status")
    assert [w["id"] for w in said["workers"]] == ["busy.1"]
    assert [w["id"] for w in said["ended"]] == ["bad.1"]
    text = outpost.ok("status")
    assert text.startswith("now: 1 working\nended since yesterday: 1 failed\n")
    assert "bad.1" in text.split("ended since yesterday\n")[1]
    assert [w["id"] for w in outpost.json("status", "there")["ended"]] == []


# --- workers -------------------------------------------------------------------------------------


@pytest.fixture
def some(outpost):
    old = Result(state=State.DONE, branch="b/old", commit="c" * 40,
                 finished_at=time.time() - 7200)  # fmt: skip
    failed = Result(state=State.FAILED, reason="timeout", started_at=time.time() - 90,
                    usage=Usage(cost_usd=0.5))  # fmt: skip
    outpost.here.script("old.1", Script(after=0.0, result=old))
    outpost.here.script("bad.1", Script(after=0.0, result=failed))
    for issue in ("old", "bad", "busy"):
        outpost.spawn(issue, "--title", f"the {issue} one")
    outpost.ok("spawn", "far", "--no-rig", "--on", "there", "--", "true")
    outpost.ok("workers")
    return outpost


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["--status", "failed"], {"bad.1"}),
        (["--status", "failed", "--status", "working"], {"bad.1", "busy.1", "far.1"}),
        (["--since", "1h"], {"bad.1", "busy.1", "far.1"}),
        (["--since", "1h", "--status", "done"], set()),
        (["--outpost", "there"], {"far.1"}),
        (["--all", "-n", "2"], {"far.1", "busy.1"}),
    ],
)
def test_workers_filters(some, words, ids):
    assert {w["id"] for w in some.json("workers", *words)["workers"]} == ids


def test_workers_refuses_what_is_no_state_or_length(some):
    assert some.run("workers", "--status", "faild").exit_code == 2
    assert some.json("workers", "--since", "soon", code=2)["error"]
    assert some.run("workers", "-n", "0").exit_code == 2


def test_workers_says_when_how_long_and_what_it_cost(some, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (line,) = [
        line for line in some.ok("workers", "--all").splitlines() if line.startswith("bad.1")
    ]
    assert re.search(r"just now|\d+ s ago", line)
    assert "$0.5000" in line
    assert " 2 h ago " in some.ok("workers", "--status", "done")


def test_sixty_columns_show_whole_ids_and_what_matters(some, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = some.ok("workers", "--all").splitlines()
    assert all(render.width(line) <= 60 for line in lines)
    assert lines[0].split()[:2] == ["WORKER", "STATUS"]
    assert "DETAIL" in lines[0]
    assert "TITLE" not in lines[0]
    (bad,) = [line for line in lines if line.startswith("bad.1")]
    assert "timeout" in bad
    for command in ("status", "list"):
        assert all(render.width(line) <= 60 for line in some.ok(command).splitlines())


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "just now"), (40, "40 s ago"), (300, "5 min ago"), (7200, "2 h ago"), (2e5, "2 d ago")],
)
def test_ago(seconds, said):
    assert render.ago(1e9, 1e9 + seconds) == said


def test_show_has_tree_last_line_and_moments_in_words(some):
    some.here.write("busy.1", b"first\nthe last one\x1b[2J\n\n")
    text = some.ok("show", "busy")
    assert "the last one\\x1b[2J" in text
    assert re.search(r"created +\S+Z \((just now|\d+ s ago)\)", text)
    said = some.json("show", "busy")
    assert said["last_line"].startswith("the last one")
    assert said["tree"] is None  # in memory there is none
    assert said["live_usage"] is None
    some.here.cut()
    assert some.json("show", "busy")["last_line"] is None


def test_the_last_line_of_an_agent_that_speaks_json_is_for_people(outpost):
    outpost.ok("spawn", "x", "--rig", "https://example.com/a.git", "--agent", "claude",
               "--title", "T", "--on", "here")  # fmt: skip
    said = {"type": "assistant", "message": {"content": [{"type": "text", "text": "I hint it."}]}}
    outpost.here.write("x.1", json.dumps(said).encode() + b"\n")
    assert outpost.json("show", "x")["last_line"] == "I hint it."
