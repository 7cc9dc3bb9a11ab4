from __future__ import annotations

import asyncio
import json

import pytest

from outpost_core.errors import UnreachableError, UsageError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Cleaned, Result, State, Usage
from outpost_testing import Script


@pytest.fixture
def ended(outpost):
    """`done.1` delivered a branch, `bad.1` failed, `busy.1` works."""
    done = Result(
        state=State.DONE, branch="polecat/done", commit="c" * 40, pr_url="https://example.com/pr/1",
        exit_code=0, session="s-1",
        usage=Usage(input_tokens=1234, output_tokens=5, cost_usd=0.0123),
    )  # fmt: skip
    failed = Result(
        state=State.FAILED, reason="timeout", message="it took too long", exit_code=None, signal=15,
        checkpoint="refs/outpost/bad.1",
    )  # fmt: skip
    outpost.here.script("done.1", Script(output=b"hello\n", after=0.0, result=done))
    outpost.here.script("bad.1", Script(after=0.0, result=failed))
    for issue in ("done", "bad", "busy"):
        outpost.spawn(issue, "--title", f"the {issue} one")
    outpost.ok("workers")
    return outpost


def test_workers_lists_active_or_all(ended):
    assert [w["id"] for w in ended.json("workers")["workers"]] == ["busy.1"]
    assert {w["id"] for w in ended.json("workers", "--all")["workers"]} == {
        "done.1",
        "bad.1",
        "busy.1",
    }
    assert ended.json("workers", "--all", "--on", "there") == {"workers": [], "not_told": []}
    assert [w["id"] for w in ended.json("workers", "--all", "--issue", "bad")["workers"]] == [
        "bad.1"
    ]
    text = ended.ok("workers", "--all")
    assert "polecat/done" in text
    assert "timeout" in text
    assert "the busy one" in text


def test_an_outpost_that_does_not_tell_of_its_workers_is_named_with_the_reason(ended, monkeypatch):
    @hookimpl
    async def outpost_list(self):
        raise UsageError("there is no context prod", hint="kubectl config get-contexts")

    monkeypatch.setattr(ended.there, "outpost_list", outpost_list.__get__(ended.there))
    assert ended.json("workers")["not_told"] == [
        {
            "outpost": "there", "message": "there is no context prod",
            "hint": "kubectl config get-contexts",
        }
    ]  # fmt: skip
    said = ended.run("workers")
    assert said.exit_code == 0
    assert "busy.1" in said.stdout, "the others are shown"
    assert "there did not tell of its workers: there is no context prod; kubectl" in said.stderr
    assert "there" not in ended.run("workers", "--on", "here").stderr
    ended.here.cut()
    assert "here did not tell of its workers: " in ended.run("workers").stderr


def test_an_outpost_that_cannot_be_built_is_named_too(ended):
    text = ended.config.read_text()
    ended.config.write_text(f"{text}  - {{name: far, type: kubernetic}}\n")
    told = ended.run("workers")
    assert told.exit_code == 0
    assert "far did not tell of its workers: " in told.stderr
    assert "kubernetic" in told.stderr


def test_show_tells_everything(ended):
    text = ended.ok("show", "done")
    for part in (
        "done.1", "the done one", "polecat/done", "c" * 40, "https://example.com/pr/1",
        "1,234 tokens in, 5 tokens out, $0.0123", "rule: ", "events", "spawned here",
    ):  # fmt: skip
        assert part in text
    text = ended.ok("show", "bad.1")
    assert "refs/outpost/bad.1" in text
    assert "it took too long" in text
    assert "\n  → outpost logs bad.1; " in text
    assert "it continues from what is kept" in text
    assert "→" not in ended.ok("show", "done").partition("rule: ")[0]


def test_show_names_other_attempts(ended):
    ended.spawn("bad", "--again")
    assert "→ outpost logs" not in ended.ok("show", "bad.1"), "a later attempt is what comes next"
    text = ended.ok("show", "bad")
    assert text.split()[1] == "bad.2"
    assert "other attempts" in text
    assert "bad.1" in text


def test_wait_is_0_only_when_all_is_done(ended):
    ended.here.finish("busy.1")
    assert ended.ok("wait", "done", "busy.1").splitlines()[1] == "busy.1 done at here"
    text = ended.ok("wait", "done.1", "bad.1", code=1)
    kept = "unpushed work is kept: refs/outpost/bad.1\n  → outpost logs bad.1; for more time, give"
    assert kept in text
    assert ended.json("wait", "nobody", code=4)["error"]


def test_wait_gives_up_in_time(ended):
    (worker,) = ended.json("wait", "busy", "--timeout", "50ms", code=1)["workers"]
    assert worker["status"] == "working"
    assert "busy.1 not ended within 50ms" in ended.run("wait", "busy", "--timeout", "50ms").stderr


def test_logs_are_exact_from_any_offset(ended):
    ended.here.write("done.1", b"\x00\xff\x1b[31m")
    result = ended.run("logs", "done.1")
    assert result.stdout_bytes == b"hello\n\x00\xff\x1b[31m"
    assert ended.run("logs", "done", "--offset", "7").stdout_bytes == b"\xff\x1b[31m"
    assert ended.run("logs", "done", "--offset", "700").stdout_bytes == b""
    assert ended.run("logs", "-f", "done").stdout_bytes == b"hello\n\x00\xff\x1b[31m"
    assert ended.run("logs", "nobody").exit_code == 4


def test_logs_as_json(ended):
    assert ended.json("logs", "done") == {"offset": 0, "text": "hello\n"}
    ended.here.write("done.1", b"\xff")
    line = ended.json("logs", "done", "--offset", "6")
    assert line == {"offset": 6, "text": "\ufffd", "base64": "/w=="}


def test_stop(ended):
    assert ended.json("stop", "busy", "--grace", "1s") == {"stopped": ["busy.1"], "refused": []}
    assert ended.json("show", "busy")["worker"]["status"] == "stopped"
    assert ended.ok("stop", "busy") == "busy.1 stopped at here\n"
    said = ended.json("stop", "busy", "nobody", code=4)
    assert said["stopped"] == ["busy.1"]
    assert said["refused"][0]["worker"] == "nobody"
    assert ended.run("stop", "nobody").exit_code == 4


def test_stop_at_an_unreachable_outpost(ended):
    ended.here.cut()
    assert ended.json("stop", "busy", code=5)["refused"][0]["error"]["type"] == "UnreachableError"


def test_nudge_peek_attach(ended):
    ended.here.write("busy.1", b"one\ntwo\x1b[2J\n")
    assert ended.ok("nudge", "busy", "run", "the tests") == "typed into busy.1\n"
    assert ended.here.nudges == [("busy.1", "run the tests")]
    assert ended.ok("peek", "busy", "--lines", "1") == "two\\x1b[2J\n"
    assert ended.json("peek", "busy")["text"] == "one\ntwo\x1b[2J"
    assert ended.json("peek", "busy")["worker"] == "busy.1"
    assert ended.ok("attach", "busy") == "busy.1 keeps running\n"
    assert ended.json("attach", "done", code=2)["error"]["hint"] == "outpost logs done.1"


def test_clean_takes_what_is_delivered(ended):
    assert ended.ok("clean") == "done.1: cleaned\n"
    assert {w["id"] for w in ended.json("workers", "--all")["workers"]} == {"bad.1", "busy.1"}
    assert [c["worker"] for c in ended.json("clean", "--all")["cleaned"]] == ["bad.1"]
    assert ended.ok("clean") == "nothing to clean\n"


def test_clean_leaves_what_another_machine_ordered_unless_it_is_named(ended, tmp_path):
    """It may not have seen the end yet: the work is done, and must not become lost to it."""
    ours, theirs = ended.state, tmp_path / "theirs"
    ended.state = theirs
    ended.spawn("shared")
    ended.here.finish("shared.1")
    ended.state = ours
    said = ended.run("clean", "--all")
    assert said.exit_code == 0
    assert "shared.1" not in said.stdout
    assert "shared.1" in said.stderr
    ended.state = theirs
    for _ in range(2):
        ended.ok("workers")
    (worker,) = ended.json("wait", "shared")["workers"]
    assert worker["status"] == "done"
    ended.state = ours
    assert ended.ok("clean", "shared.1") == "shared.1: cleaned\n"


def test_clean_by_name(ended):
    (said,) = ended.json("clean", "busy", code=2)["cleaned"]
    assert not said["removed"]
    assert "has not ended" in said["detail"]
    assert "has not ended" in ended.ok("clean", "busy", code=2)
    ended.ok("clean", "bad.1", "--force")
    ended.ok("clean", "--force", code=2)
    ended.ok("clean", "--all", "bad.1", code=2)
    ended.ok("clean", "nobody", code=4)


def test_unsupported_verbs_say_what_there_is(ended):
    ended.config.write_text("outposts:\n  - {name: here, type: fake}\n")
    ended.here.capabilities = frozenset({"clean"})
    error = ended.json("peek", "busy", code=2)["error"]
    assert error["type"] == "UnsupportedError"
    assert error["hint"].startswith("it can: clean; outpost doctor ")


def test_the_order_in_show_has_no_secret(ended, monkeypatch):
    monkeypatch.setenv("CANARY", "tweet-tweet")
    ended.spawn("s", "--secret", "CANARY")
    shown = json.dumps(ended.json("show", "s")) + ended.ok("show", "s")
    assert "CANARY" in shown
    assert "tweet-tweet" not in shown


def test_following_goes_on_after_a_dropped_line(ended, monkeypatch):
    offsets = []

    async def logs(self, ref, offset=0, follow=False):
        offsets.append(offset)
        if len(offsets) == 1:
            yield b"abc"
            raise UnreachableError("the line is cut")
        yield b"def"

    monkeypatch.setattr("outpost_manager.manager.Manager.logs", logs)
    monkeypatch.setattr("outpost_shared.backoff.Backoff.pause", lambda self: 0.0)
    result = ended.run("logs", "-f", "done")
    assert result.stdout == "abcdef"
    assert "the line is cut; still trying" in result.stderr
    assert offsets == [0, 3]


def test_following_says_that_the_outpost_does_not_answer_while_the_log_is_silent(
    outpost, monkeypatch
):
    outpost.spawn("s")
    monkeypatch.setattr("outpost_manager.cli.follow.ASK_FIRST", 0.01)

    async def logs(self, ref, offset=0, follow=False):
        for change in (lambda: outpost.here.cut("a cut"), outpost.here.restore):
            before = (await self.ledger.worker("s.1")).unreachable_since
            change()
            while (await self.ledger.worker("s.1")).unreachable_since == before:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        yield b"abc"

    monkeypatch.setattr("outpost_manager.manager.Manager.logs", logs)
    result = outpost.run("logs", "-f", "s")
    assert result.stdout == "abc"
    said = ["s.1: here does not answer; waiting for it", "s.1: here answers again"]
    assert result.stderr.splitlines() == said


def test_logs_of_a_cleaned_worker_are_kept_and_those_of_a_purged_one_say_so(ended):
    before = ended.ok("logs", "done")
    ended.ok("clean", "done")
    assert ended.ok("logs", "done") == before
    ended.ok("clean", "done", "--purge")
    error = ended.json("logs", "done", code=4)["error"]
    assert "removed by outpost clean" in error["message"]
    assert error["hint"] == "outpost show done.1 has its result"


def test_stop_forgets_only_where_nobody_can_be_asked(ended):
    (refused,) = ended.json("stop", "busy", "--forget", code=2)["refused"]
    assert refused["error"]["hint"] == "outpost stop busy.1"
    ended.ok("stop", "busy", "--forget", "--grace", "1s", code=2)
    ended.ok("remove", "here", "--force")
    assert ended.json("stop", "busy", "--forget")["stopped"] == ["busy.1"]
    assert ended.json("show", "busy")["worker"]["status"] == "lost"


@pytest.mark.parametrize("readable", ["--readable", "--raw"])
def test_logs_of_an_agent_for_people_or_as_they_are(outpost, readable):
    log = b'{"type":"thread.started","thread_id":"t-1"}\n{"type":"turn.completed","usage":{}}\n'
    outpost.here.script("a.1", Script(output=log, after=0.0))
    outpost.ok(
        "spawn", "a", "--title", "x", "--no-rig", "--on", "here", "--agent", "codex", "--wait"
    )
    shown = {"--readable": "codex · session t-1\n✓ \n", "--raw": log.decode()}
    assert outpost.ok("logs", "a", readable) == shown[readable]
    assert outpost.ok("logs", "a") == log.decode()


RECORDS = (
    b'{"type":"system","subtype":"init","session_id":"s"}\n'
    b'{"type":"assistant","message":{"content":[{"type":"text","text":"I look at the files"}]}}\n'
)


def test_following_an_agent_into_a_pipe_is_readable_and_raw_gives_the_bytes(outpost):
    outpost.here.script("x.1", Script(output=RECORDS, after=0.0))
    outpost.ok("spawn", "x", "--agent", "claude", "--no-rig", "--prompt", "p", "--on", "here")
    followed = outpost.ok("logs", "-f", "x")
    assert "I look at the files" in followed
    assert "{" not in followed
    assert outpost.ok("logs", "x") == RECORDS.decode()
    assert outpost.ok("logs", "-f", "x", "--raw") == RECORDS.decode()
    assert "I look at the files" in outpost.ok("peek", "x")
    assert "{" not in outpost.ok("peek", "x")


def test_show_names_where_kept_work_is_after_a_clean_and_again_says_what_it_passes_over(outpost):
    kept = Result(state=State.FAILED, reason="push_failed", checkpoint="/far/workers/x.1/it.tar")
    outpost.here.script("x.1", Script(after=0.0, result=kept))
    words = ("--rig", "https://example.com/a.git", "--on", "here", "--title", "t", "--", "true")
    outpost.ok("spawn", "x", *words)
    outpost.ok("workers")
    result = outpost.run("spawn", "x", "--again", *words)
    assert result.exit_code == 0
    assert "x.1 left work in /far/workers/x.1/it.tar at here" in result.stderr
    assert "x.2 starts from the base" in result.stderr
    outpost.here.finish("x.2")
    outpost.ok("workers")
    said = json.loads(outpost.ok("spawn", "x", "--again", "--json", *words))
    assert any("it.tar" in hint for hint in said["hints"])
    outpost.here.finish("x.3")
    outpost.ok("workers")
    plain = outpost.run("spawn", "x", "--again", "--from-base", *words)
    assert "it.tar" not in plain.stderr


def test_show_has_the_place_to_which_cleaning_moved_a_bundle(outpost, monkeypatch):
    kept = Result(state=State.FAILED, reason="push_failed", checkpoint="/w/x.1/checkpoint.bundle")
    outpost.here.script("x.1", Script(after=0.0, result=kept))
    outpost.ok("spawn", "x", "--no-rig", "--on", "here", "--", "true")
    outpost.ok("workers")

    @hookimpl
    async def clean(worker, force):
        return Cleaned(removed=True, rescued="/rescued/x.1.bundle")

    monkeypatch.setattr(outpost.here, "outpost_clean", clean)
    outpost.ok("clean", "x.1")
    text = outpost.ok("show", "x.1")
    assert "/rescued/x.1.bundle" in text
    assert "/w/x.1/checkpoint.bundle" not in text.split("events")[0]
