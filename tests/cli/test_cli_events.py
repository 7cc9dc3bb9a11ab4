"""What happened, for people and programs: `outpost events`, `-v` and `OUTPOST_LOG`."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys

import pytest

from outpost_core.hookspecs import hookimpl


def test_events_are_shown_in_the_order_of_the_log(outpost):
    outpost.spawn("gt-1")
    outpost.spawn("gt-2")
    said = outpost.json("events")
    assert [event["id"] for event in said["events"]] == [*range(1, said["last"] + 1)]
    assert {"gt-1.1", "gt-2.1"} <= {event["worker"] for event in said["events"]}
    of_one = outpost.json("events", "gt-2")["events"]
    assert {event["worker"] for event in of_one} == {"gt-2.1"}
    assert "reserved" in [event["kind"] for event in of_one]
    behind = outpost.json("events", "--after", str(said["last"] - 1))
    assert [event["id"] for event in behind["events"]] == [said["last"]]
    assert outpost.json("events", "--after", str(said["last"])) == {
        "events": [], "last": said["last"],
    }  # fmt: skip
    lines = outpost.ok("events", "--limit", "3").splitlines()
    assert len(lines) == 3
    assert "gt-2.1" in lines[-1]
    outpost.ok("events", "gt-7", code=4)
    outpost.ok("events", "--after", "-1", code=2)


def test_events_are_followed_across_processes(outpost):
    outpost.spawn("gt-1")
    last = outpost.json("events")["last"]
    process = outpost.start("events", "-f", "--json", "--after", str(last - 1))
    first = json.loads(process.stdout.readline())
    assert first["id"] == last
    outpost.spawn("gt-2")
    seen = []
    while "spawned" not in seen:
        event = json.loads(process.stdout.readline())
        assert event["worker"] == "gt-2.1"
        seen.append(event["kind"])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_what_an_observer_raised_is_shown_by_the_next_command(outpost):
    class Raises:
        @hookimpl
        def outpost_event(self, event):
            raise RuntimeError("no\x1b[31m network")

    outpost.plugins.append(Raises())
    assert outpost.spawn("gt-1")["worker"]["id"] == "gt-1.1"
    said = outpost.run("plugins", "more-0").output
    assert "outpost_event" in said
    assert "network" in said
    assert "\x1b[31m network" not in said


# --- logs ----------------------------------------------------------------------------------------


def log(outpost, *words, env=None):
    more = {} if env is None else {"env": {**os.environ, **env}}
    process = outpost.start(*words, **more)
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


def test_nothing_is_logged_unless_it_is_asked_for(outpost):
    words = ("spawn", "gt-1", "--no-rig", "--env", "TOKEN=s3cret-value", "--", "true")
    _, _, quiet = log(outpost, *words)
    assert "outpost.placing" not in quiet
    code, out, err = log(outpost, "-v", "--json", *(w.replace("gt-1", "gt-2") for w in words))
    assert code == 0
    json.loads(out)
    assert "INFO    outpost.placing: gt-2.1 is " in err
    assert "s3cret" not in err
    assert "DEBUG" not in err
    _, _, err = log(outpost, "-vv", *(w.replace("gt-1", "gt-3") for w in words))
    assert "DEBUG" in err
    assert "s3cret" not in err


def test_logs_go_to_a_private_file(outpost, tmp_path):
    file = tmp_path / "out.log"
    before = os.umask(0)
    try:
        code, _, err = log(
            outpost, "spawn", "gt-1", "--no-rig", "--", "true", env={"OUTPOST_LOG": f"debug:{file}"}
        )
    finally:
        os.umask(before)
    assert code == 0
    assert "outpost.placing" not in err
    assert "outpost.placing" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("said", ["loud", "info:/nowhere/at/all.log"])
def test_a_log_that_cannot_be_is_refused_at_once(outpost, said):
    code, _, err = log(
        outpost, "spawn", "gt-1", "--no-rig", "--", "true", env={"OUTPOST_LOG": said}
    )
    assert code == 2
    assert err.startswith("error: OUTPOST_LOG: ")
    assert "Traceback" not in err
    assert outpost.json("workers", "--all") == {"workers": [], "not_told": []}


def test_what_a_terminal_would_obey_is_spelled_out_in_logs(outpost):
    class Evil:
        @hookimpl
        def outpost_order(self, order):
            raise RuntimeError("\x1b]0;title\x07\nerror: forged")

    outpost.plugins.append(Evil())
    result = outpost.run("-vv", "spawn", "gt-1", "--no-rig", "--", "true")
    assert "\x1b" not in result.stderr
    assert "\nerror: forged" not in result.stderr


def test_who_asks_for_no_log_does_not_wait_for_logging():
    import subprocess

    script = (
        "import sys\n"
        "from outpost_shared.log import Logger\n"
        "Logger('x').warning('nobody hears %s', 7, error=ValueError())\n"
        "from outpost_manager.cli import main\n"
        "sys.argv = ['outpost', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('logging' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip() == "False"
