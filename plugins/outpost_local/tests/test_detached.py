"""Detached processes."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from outpost_worker.system.detached import Detached

REPORT = """
import json, os, sys
others = [fd for fd in os.listdir('/proc/self/fd') if int(fd) > 2]
open(sys.argv[1] + '.new', 'w').write(json.dumps({
    'sid': os.getsid(0), 'pid': os.getpid(), 'env': dict(os.environ),
    'fds': [os.readlink(f'/proc/self/fd/{fd}') for fd in (0, 1, 2)],
    'others': [fd for fd in os.listdir('/proc/self/fd') if int(fd) > 3],
}))
os.rename(sys.argv[1] + '.new', sys.argv[1])
"""


def wait(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_has_a_session_of_its_own_and_nothing_of_ours(tmp_path):
    detached = Detached()
    path = tmp_path / "report"
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)  # as a shell's `exec 9>lock` leaves it
        pid = detached.start(
            [sys.executable, "-I", "-S", "-c", REPORT, str(path)], {"ONLY": "this"}
        )
    wait(path.exists)
    said = json.loads(path.read_text())
    assert said["sid"] == said["pid"] == pid
    assert said["fds"] == ["/dev/null"] * 3
    assert len(said["others"]) == 1  # that of its own listing
    assert said["env"].get("ONLY") == "this"
    assert "HOME" not in said["env"]
    wait(lambda: (detached.reap(), not os.path.exists(f"/proc/{pid}"))[1])


def test_ended_children_are_collected():
    detached = Detached()
    pids = [detached.start(["/bin/true"], {}) for _ in range(20)]
    wait(lambda: (detached.reap(), not any(os.path.exists(f"/proc/{pid}") for pid in pids))[1])
    assert not detached._children


def test_a_missing_program_is_an_error():
    with pytest.raises(OSError, match="No such file"):
        Detached().start(["/nowhere/program"], {})
