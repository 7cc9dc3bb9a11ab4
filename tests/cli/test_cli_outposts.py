from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

from outpost_testing import FakeOptions, FakeOutpost


def test_list_shows_slots_package_and_state(outpost):
    outpost.spawn("gt-1")
    outpost.ok("status")
    text = outpost.ok("list")
    here, there = text.splitlines()[1:]
    assert here.split()[:4] == ["here", "fake", "1/4", "ready"]
    assert "fakes 1.2" in here
    assert there.split()[:3] == ["there", "fake", "0/∞"]


def test_list_shows_what_is_missing_and_how_to_get_it(outpost):
    outpost.config.write_text("outposts:\n  - {name: far, type: ssh}\n")
    text = outpost.ok("list")
    assert "missing" in text
    assert "pip install ./plugins/outpost_ssh" in text


def test_backends_show_broken_packages(outpost):
    class Stale:
        OUTPOST_API = 99

    outpost.plugins = [Stale()]
    text = outpost.ok("backends")
    assert "fakes 1.2" in text
    assert "broken" in text
    assert "API" in text
    packages = outpost.json("backends")["packages"]
    assert [p["ok"] for p in packages] == [True, False]


def test_backends_of_an_unknown_type(outpost):
    error = outpost.json("backends", "fakee", code=4)["error"]
    assert error["hint"].startswith("did you mean 'fake'? ")


def test_ping_says_who_is_well(outpost):
    assert outpost.ok("ping").count("ok ") >= 2
    outpost.there.refuse("full of cats")
    assert "full of cats" in outpost.ok("ping", code=1)
    outpost.here.cut("no line")
    answers = outpost.json("ping", code=5)["outposts"]
    assert answers[0]["error"]["code"] == 5
    assert not answers[1]["ok"]
    assert "no line" in outpost.ok("ping", "here", code=5)


def test_ping_of_an_unknown_outpost(outpost):
    (answer,) = outpost.json("ping", "heer", code=4)["outposts"]
    assert answer["hint"] == "did you mean here?"


def test_status_of_all_and_of_one(outpost):
    outpost.spawn("gt-1")
    text = outpost.ok("status")
    assert "gt-1.1" in text
    assert "there" in text
    assert "no workers" in outpost.ok("status", "there")
    assert [o["name"] for o in outpost.json("status", "there")["outposts"]] == ["there"]
    outpost.ok("status", "nowhere", code=4)


def test_status_says_that_unreachable_is_not_dead(outpost):
    outpost.spawn("gt-1")
    outpost.here.cut()
    said = outpost.json("status")
    assert said["outposts"][0]["state"] == "unreachable"
    assert said["workers"][0]["status"] == "working"
    assert said["workers"][0]["unreachable_since"]
    assert "(unreachable for " in outpost.ok("status")


def test_status_watch_gives_a_line_each_time_until_interrupted(outpost):
    process = outpost.start("status", "--watch", "--interval", "0.1", "--json")
    assert process.stdout is not None
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert set(first) == set(second) == {"outposts", "workers", "ended"}


def test_a_hostile_detail_does_not_reach_the_terminal(outpost):
    outpost.here = FakeOutpost("here", FakeOptions(unreachable="\x1b]0;owned\x07\u202e"))
    text = outpost.ok("ping", code=5)
    assert "\x1b" not in text
    assert "\\x1b]0;owned\\x07\\u202e" in text


def test_doctor_tells_what_to_hint(outpost):
    assert "lives in memory" in outpost.ok("doctor", "here")
    outpost.here.cut()
    said = outpost.json("doctor", "here", code=1)
    assert not said["ok"]
    assert "✗" in outpost.ok("doctor", code=1)


def test_the_watch_keeps_what_ends_in_view(outpost, monkeypatch):
    outpost.spawn("a")
    outpost.spawn("b")
    sleep, rounds = asyncio.sleep, []

    async def between(seconds):
        if seconds != 7.25:
            await sleep(seconds)
        elif rounds:
            raise KeyboardInterrupt
        else:
            rounds.append(seconds)
            outpost.here.finish("a.1")

    monkeypatch.setattr(asyncio, "sleep", between)
    result = outpost.run("--json", "status", "--watch", "--interval", "7.25")
    assert result.exit_code == 130
    first, second = map(json.loads, result.stdout.splitlines())
    assert {w["id"]: w["status"] for w in first["workers"]} == {"a.1": "working", "b.1": "working"}
    assert {w["id"]: w["status"] for w in second["workers"]} == {"a.1": "done", "b.1": "working"}


def test_slots_of_a_missing_type_are_not_said_to_be_unlimited(outpost):
    outpost.config.write_text("outposts:\n  - {name: far, type: ssh, max_workers: 8}\n")
    assert " 0/8 " in outpost.ok("list")
    outpost.config.write_text("outposts:\n  - {name: far, type: ssh}\n")
    assert " 0/? " in outpost.ok("list")


def test_doctor_says_once_that_a_type_is_missing(outpost):
    outpost.config.write_text("outposts:\n  - {name: far, type: ssh}\n")
    findings = outpost.json("doctor", code=1)["findings"]
    assert [f["check"] for f in findings if f["scope"] == "far"] == ["ping"]


def test_a_second_outpost_limits_the_local_one_and_says_so(tmp_path, monkeypatch):
    """Real packages, a real file: what is over goes to the second one."""
    env = {**os.environ, "OUTPOST_STATE": str(tmp_path / "s"), "XDG_CONFIG_HOME": str(tmp_path),
           "HOME": str(tmp_path), "NO_COLOR": "1"}  # fmt: skip
    env.pop("OUTPOST_CONFIG", None)

    def outpost(*words):
        done = subprocess.run(
            [sys.executable, "-m", "outpost_manager", *words],
            capture_output=True, text=True, timeout=60, env=env, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "at once, by its" not in outpost("list")
    added = outpost("add", "local", "second")
    assert "local: " in added
    assert "workers at once, by its" in added
    assert "core" in added
    listed = json.loads(outpost("list", "--json"))["outposts"]
    assert {one["name"]: one["slots_reason"] != "" for one in listed} == {
        "local": True, "second": True,
    }  # fmt: skip
    assert all(one["max_workers"] >= 1 for one in listed)
