"""The command line of one machine and the mayor of another: real programs, over real sockets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from servekit import LOCAL, PATIENCE, Mayor, Town, until

#: An agent that says something until a file is there.
TALKS = 'n=0; while [ ! -e "$DONE" ]; do n=$((n+1)); echo line $n; sleep 0.05; done'


#: Commands that were begun and may run still.
BEGUN: list[subprocess.Popen[bytes]] = []


class Far:
    """Somebody at another machine: another home, no configuration, and the URL of a server."""

    def __init__(self, town: Town, folder: Path, url: str, token: str = "") -> None:
        self.town = town
        self.folder = folder
        folder.mkdir()
        self.env = {**town.env, "HOME": str(folder), "OUTPOST_SERVER": url}
        if token:
            file = folder / "token"
            file.touch(mode=0o600)
            file.write_text(token)
            self.env["OUTPOST_TOKEN_FILE"] = str(file)

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command; the test's end is its own, too."""
        argv = self.town.argv()[:3]
        process = subprocess.Popen(
            [*argv, *words], env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        BEGUN.append(process)
        return process

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command to its end; return what it printed."""
        process = self.begin(*words)
        out, err = process.communicate(timeout=PATIENCE * 2)
        assert process.returncode == code, (words, process.returncode, out, err)
        return out.decode() + err.decode()

    def json(self, *words: str, code: int = 0) -> Any:
        """Run a command with `--json`; return its answer."""
        process = self.begin("--json", *words)
        out, err = process.communicate(timeout=PATIENCE * 2)
        assert process.returncode == code, (words, process.returncode, out, err)
        return json.loads(out)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """Have a place for a mayor; no command of the test outlives it."""
    yield Town(tmp_path)
    for process in BEGUN:
        if process.poll() is None:
            process.kill()
            process.communicate()
    BEGUN.clear()


def address_of(mayor: Mayor) -> str:
    """Return the URL at which a mayor listens for others."""
    mayor.hears("the API listens at")
    found = re.search(r"http://127\.0\.0\.1:\d+", mayor.log)
    assert found is not None, mayor.log
    return found.group()


def test_a_team_uses_one_mayor_from_anywhere(town: Town, tmp_path: Path) -> None:
    with town.mayor("--listen", "127.0.0.1:0") as mayor:
        mayor.ready()
        url = address_of(mayor)
        work, view = (person(town, tmp_path, role, url) for role in ("work", "view"))
        nobody = Far(town, tmp_path / "nobody", url)

        # a role does what it may, and whoever has none is told how to get one
        assert "token" in nobody.run("list", code=2)
        refused = view.run("spawn", "t-1", "--no-rig", "--", "true", code=2)
        assert "role work" in refused
        assert "local" in view.run("list")
        (pinged,) = view.json("ping", "local")["outposts"]
        assert (pinged["name"], pinged["ok"]) == ("local", True)
        assert "no outpost" in view.run("ping", "nowhere", code=4)

        # the same order from two machines is one worker
        order = ("t-1", "--no-rig", "--", "sh", "-c", "echo out; exit 3")
        both = [work.begin("--json", "spawn", "--wait", *order) for _ in range(2)]
        answers = [json.loads(each.communicate(timeout=PATIENCE * 2)[0]) for each in both]
        assert [each.returncode for each in both] == [1, 1]
        ids = {one["spawned"][0]["worker"]["id"] for one in answers}
        assert ids == {"t-1.1"}
        assert len(town.events("spawned", "t-1.1")) == 1

        # what one sees there is what the machine itself says
        for words in (("show", "t-1"), ("workers", "--all"), ("events", "--after", "0")):
            here, there = town.json(*words), view.json(*words)
            assert without_moments(here) == without_moments(there), words
        assert view.run("logs", "t-1") == "out\n"
        assert "t-1.1" in view.run("status")

        assert mayor.end() == 0
    assert "cannot be reached" in view.run("list", code=5)


def test_a_team_shares_one_queue_and_one_account_of_what_was_spent(
    town: Town, tmp_path: Path
) -> None:
    nightly = "{name: nightly, cron: '0 3 * * *', order: {no_rig: true, command: ['true']}}"
    town.config.write_text(f"{LOCAL}schedules:\n  - {nightly}\n")
    with town.mayor("--listen", "127.0.0.1:0") as mayor:
        mayor.ready()
        url = address_of(mayor)
        work, view = (person(town, tmp_path, role, url) for role in ("work", "view"))
        assert town.json("schedule", "list") == view.json("schedule", "list")
        assert "nightly" in view.run("schedule", "list")
        assert "role work" in view.run("schedule", "run", "nightly", code=2)
        fired = work.json("schedule", "run", "nightly")["issue"]
        until(lambda: view.json("queue", "show", fired)["entry"]["outcome"] == "done")
        assert "nightly" in work.run("schedule", "run", "nighty", code=4)
        work.run("queue", "pause", code=2)  # that is for admins
        letter = ("mail", "send", "local:mayor/", "-s", "Tests fail", "-m", "See CI.")
        assert "role work" in view.run(*letter, code=2)
        assert "delivered to local:mayor/" in work.run(*letter)
        assert "Tests fail" in view.run("mail", "inbox")
        assert town.json("mail", "outbox", "--all") == view.json("mail", "outbox", "--all")
        Far(town, tmp_path / "own", f"unix:{town.state}/mayor/api.sock").run("queue", "pause")
        work.run("queue", "add", "q-1", "q-2", "--no-rig", "--batch", "b", "--", "true")
        assert [one["issue"] for one in view.json("queue", "list")["entries"]] == ["q-1", "q-2"]
        assert work.json("queue", "move", "q-2", "P0")["entry"]["priority"] == 0
        work.run("queue", "remove", "q-1")
        town.run("queue", "resume")
        until(lambda: view.json("queue", "show", "q-2")["entry"]["outcome"] == "done")

        assert view.json("batch", "b", "--wait")["counts"] == {"done": 1, "removed": 1}
        assert without_since(town.json("cost")) == without_since(view.json("cost"))
        assert view.json("serve", "--status")["pid"] == mayor.process.pid
        assert view.run("serve", code=2).startswith("error: outpost serve without --status works")

        # what failed is tried again, and cleaned
        work.run("spawn", "t-1", "--no-rig", "--wait", "--", "sh", "-c", "echo out; exit 3", code=1)
        assert "t-1.2" in work.run("retry", "t-1", "--wait", code=1)
        assert "cleaned" in work.run("clean", "t-1.1")
        assert "role admin" in work.run("clean", "t-1.2", "--purge", code=2)
        assert view.run("logs", "t-1.1") == "out\n"


def test_everything_of_a_queue_and_further_attempts_can_be_done_from_anywhere(
    town: Town, tmp_path: Path
) -> None:
    town.config.write_text(LOCAL.replace("max_workers: 50", "max_workers: 1"))
    go = tmp_path / "go"
    holds = (
        "--no-rig",
        "--env",
        f"GO={go}",
        "--",
        "sh",
        "-c",
        "until [ -e $GO ]; do sleep .1; done",
    )
    with town.mayor("--listen", "127.0.0.1:0") as mayor:
        mayor.ready()
        far = person(town, tmp_path, "admin", address_of(mayor))
        # the one slot is taken: spawn --wait waits for it, and queue run for all of the queue
        far.run("queue", "add", "q-1", *holds)
        until(lambda: far.json("queue", "list")["counts"].get("running") == 1)
        full = far.json("spawn", "s-0", "--on", "local", "--no-rig", "--", "true", code=3)[
            "refused"
        ]
        assert full[0]["crowded"] is True
        waits = far.begin("spawn", "s-1", "--wait", "--no-rig", "--", "true")
        told = _Read(waits.stderr)
        until(lambda: b"everything is full: s-1 waits" in told.text, "it waits")
        far.run("queue", "add", "q-2", "--no-rig", "--", "sh", "-c", "exit 3")
        runs = far.begin("queue", "run")
        seen, printed = _Read(runs.stderr), _Read(runs.stdout)
        until(lambda: b"q-1.1: working" in seen.text, "it shows what runs")
        go.touch()
        said = _Read(waits.stdout)
        assert waits.wait(PATIENCE * 2) == 0, told.text
        said.join()
        told.join()
        assert b"s-1.1 done" in said.text
        assert runs.wait(PATIENCE * 2) == 1
        seen.join()
        printed.join()
        assert printed.text == b"q-1.1 done\nq-2.1 failed\n"

        # what failed is tried again, what is done goes on
        again = far.json("retry", "--failed", "--since", "1h", "--wait", code=1)
        assert [one["worker"]["id"] for one in again["spawned"]] == ["q-2.2"]
        assert "--failed" in far.run("retry", code=2)
        more = far.json("continue", "s-1", "also a test", "--wait")["spawned"]
        assert [one["worker"]["id"] for one in more] == ["s-1.2"]
        prompt = far.json("show", "s-1")["order"]["prompt"]
        assert prompt.startswith("also a test")

        # draining waits for what runs, and a paused queue ends the waiting
        go.unlink()
        far.run("queue", "add", "q-3", *holds)
        until(lambda: far.json("queue", "list")["counts"].get("running") == 1)
        far.run("queue", "add", "q-4", "--no-rig", "--", "true")
        drains = far.begin("--json", "queue", "drain")
        until(lambda: far.json("queue", "list")["switch"] == "draining")
        assert drains.poll() is None
        go.touch()
        left = json.loads(drains.communicate(timeout=PATIENCE * 2)[0])["waiting"]
        assert [one["issue"] for one in left] == ["q-4"]
        waiting = far.json("queue", "run", code=3)["waiting"]
        assert [one["issue"] for one in waiting] == ["q-4"]
        assert mayor.end() == 0


def without_since(shape: Any) -> Any:
    """Return a document about money without when it begins."""
    return {key: value for key, value in shape.items() if key != "since"}


def without_moments(shape: Any) -> Any:
    """Return a document without what differs between two looks at a worker that has ended."""
    text = json.dumps(shape)
    return json.loads(re.sub(r'"(updated_at|live_usage)": ("[^"]*"|null)', r'"\1": null', text))


def test_a_log_and_events_go_on_when_the_mayor_is_killed_and_comes_back(
    town: Town, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    with town.mayor("--listen", "127.0.0.1:0") as mayor:
        mayor.ready()
        url = address_of(mayor)
        far = person(town, tmp_path, "admin", url)
        spawn = ("spawn", "t-1", "--no-rig", "--env", f"DONE={done}", "--", "sh", "-c", TALKS)
        far.run(*spawn)
        log, events = far.begin("logs", "-f", "t-1"), far.begin("events", "-f", "--json")
        read = _Read(log.stdout), _Read(events.stdout)
        until(lambda: b"line 3\n" in read[0].text, "the log comes")
        until(lambda: b'"kind"' in read[1].text, "events come")
        waits = far.begin("wait", "t-1")
        told, answer = _Read(waits.stderr), _Read(waits.stdout)
        until(lambda: b"t-1.1: working" in told.text, "somebody waits")
        mayor.kill()
        mark = len(read[0].text)
    with town.mayor("--listen", url.removeprefix("http://")) as mayor:
        mayor.ready()
        until(lambda: len(read[0].text) > mark, "the log goes on")
        done.touch()
        assert log.wait(PATIENCE) == 0
        read[0].join()
        lines = read[0].text.decode().split("\n")
        assert lines == [*(f"line {number}" for number in range(1, len(lines))), ""]
        assert read[0].text.decode() == town.run("logs", "t-1")
        assert waits.wait(PATIENCE) == 0
        answer.join()
        assert answer.text.startswith(b"t-1.1 done")
        until(lambda: b'"done"' in read[1].text, "the end comes by the stream")
        events.send_signal(signal.SIGINT)
        assert events.wait(PATIENCE) == 130
        read[1].join()
    for each in (log, events):
        assert each.stderr is not None
        each.stderr.close()
    ids = [json.loads(line)["id"] for line in read[1].text.decode().splitlines()]
    assert ids == sorted(set(ids)), "each event once, in its order"
    known = [one["id"] for one in town.json("events", "--after", "0", "--limit", "1000")["events"]]
    begin = known.index(ids[0])
    assert known[begin : begin + len(ids)] == ids, "and none is missing"


def person(town: Town, folder: Path, role: str, url: str) -> Far:
    """Return somebody with a token of a role."""
    said = town.run("token", "add", role, "--role", role)
    found = re.search(r"outpost_[\w-]{43}", said)
    assert found is not None, said
    return Far(town, folder / role, url, found.group())


class _Read(threading.Thread):
    """Reads what a process prints."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        super().__init__(daemon=True)
        assert stream is not None
        self.text = b""
        self._stream = stream
        self.start()

    def run(self) -> None:
        """Read to the end."""
        with self._stream:
            while chunk := os.read(self._stream.fileno(), 65536):
                self.text += chunk
