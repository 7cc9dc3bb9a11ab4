"""`outpost serve`: one mayor a state folder, what it does with its configuration and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from servekit import LOCAL, PATIENCE, Town, until

from outpost_core.errors import UsageError
from outpost_mayor.serving import lease
from outpost_mayor.serving.program import read_secrets


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def test_one_mayor_a_state_folder_and_the_second_is_told_who_holds_it(town: Town) -> None:
    assert "no mayor runs" in town.run("serve", "--status", code=4)
    with town.mayor() as mayor:
        mayor.ready()
        until(town.runs)
        told = town.run("serve", code=lease.HELD)
        assert f"process id {mayor.process.pid}" in told
        assert "--status" in told
        answer = town.json("serve", "--status")
        assert (answer["running"], answer["pid"]) == (True, mayor.process.pid)
        assert {"follow": "running"}.items() <= {
            one["name"]: one["state"] for one in answer["services"]
        }.items()
        mayor.kill()
        # a lease of a dead process is free at once
        assert not json.loads(town.run("serve", "--status", "--json", code=4))["running"]
        with town.mayor() as second:
            second.ready()
            assert second.end() == 0


def test_whoever_only_looks_does_not_keep_a_mayor_from_its_lease(tmp_path: Path) -> None:
    for _ in range(5):
        with lease.hold(tmp_path) as mine:
            assert lease.holder(tmp_path) == mine
            with pytest.raises(lease.HeldError, match=str(os.getpid())), lease.hold(tmp_path):
                pass
        assert lease.holder(tmp_path) is None


def test_a_damaged_file_of_a_lease_changes_nothing(tmp_path: Path) -> None:
    with lease.hold(tmp_path):
        (tmp_path / lease.WHO).write_text('{"pid": "\\u001b[2J", "host": 7, "since": 1e999}')
        with pytest.raises(lease.HeldError, match="another mayor"), lease.hold(tmp_path):
            pass
    with lease.hold(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_disk_that_is_full_for_a_minute_keeps_no_mayor_from_starting(town: Town) -> None:
    folder, fills = town.state, town.state / "fills"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m,mode=700", "none", str(folder)]
    subprocess.run(mount, check=True, timeout=20)
    town.config.write_text(LOCAL.replace("50}", "50, disk_floor: 0}"))
    try:
        town.run("queue", "add", "a-1", "--no-rig", "--", "true")
        with suppress(OSError), fills.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with town.mayor() as mayor:
            mayor.hears("could not be written down yet: No space left on device")
            mayor.hears("the mayor waits: ")
            assert "held by another mayor" in town.run("serve", code=lease.HELD)
            fills.unlink()
            until(lambda: "done" in town.run("workers", "--all", "--json"), mayor.log)
            until(lambda: f"process id {mayor.process.pid}" in town.run("serve", "--status"))
            assert mayor.end() == 0
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


def test_sigterm_hands_over_without_ending_a_worker(town: Town) -> None:
    with town.mayor() as mayor:
        mayor.ready()
        town.run("spawn", "a-1", "--no-rig", "--", "sh", "-c", "until [ -e go ]; do sleep .1; done")
        until(lambda: '"working"' in town.run("workers", "--json"))
        assert mayor.end() == 0
        assert "workers keep running" in mayor.log
    (worker,) = town.json("workers")["workers"]
    assert worker["status"] == "working"
    with town.mayor() as mayor:
        mayor.ready()
        assert "1 workers live" in mayor.log
        town.run("stop", "a-1", "--grace", "0s")
        until(lambda: any(e["data"].get("state") == "stopped" for e in town.events("state")))


def test_the_mayor_hears_of_an_end_by_itself(town: Town) -> None:
    with town.mayor() as mayor:
        mayor.ready()
        town.run("spawn", "a-1", "--no-rig", "--", "true")
        # `events` asks no outpost: only the mayor can have written that
        until(lambda: any(e["data"].get("state") == "done" for e in town.events("state")))


def test_the_configuration_is_read_again_when_its_file_changes(town: Town) -> None:
    with town.mayor("--log-json") as mayor:
        mayor.ready()
        town.config.write_text("outposts: 7\n")
        mayor.hears("the configuration stays as it was")
        town.config.write_text(LOCAL + "  - {name: other, type: local, mode: process}\n")
        mayor.hears("the configuration was read again: local, other")
        for line in mayor.log.splitlines():
            said = json.loads(line)
            assert {"at", "level", "logger", "message"} <= said.keys()
        count = mayor.log.count("was read again")
        mayor.process.send_signal(signal.SIGHUP)
        until(lambda: mayor.log.count("was read again") > count)


def test_the_service_manager_is_told(town: Town, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(path))
        ear.settimeout(PATIENCE)
        heard: list[str] = []

        def hears(word: str) -> None:
            while not any(word in one for one in heard):
                heard.append(ear.recv(4096).decode())

        with town.mayor(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="200000") as mayor:
            hears("READY=1")
            heard.clear()
            hears("WATCHDOG=1")
            heard.clear()
            hears("WATCHDOG=1")
            assert mayor.end() == 0
            hears("STOPPING=1")


def test_secrets_come_from_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    file = tmp_path / "mayor.env"
    file.write_text('# keys\nKEY=a=b\n  QUOTED = "x y"\n\n')
    file.chmod(0o644)
    with pytest.raises(UsageError, match="others can read"):
        read_secrets(file)
    file.chmod(0o600)
    assert read_secrets(file) == {"KEY": "a=b", "QUOTED": "x y"}
    file.write_text("hunter2\n")
    with pytest.raises(UsageError, match="NAME=value") as told:
        read_secrets(file)
    assert "hunter2" not in str(told.value)
