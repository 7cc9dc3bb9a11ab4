"""Ending: on request, by signal, by limit; the whole tree, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from outpost_core.errors import NotFoundError
from outpost_core.types import Secrets, State
from outpost_shared import process
from outpost_worker.folder import files
from outpost_worker.run import stop

#: Starts children in every way that has ever leaked one, and writes their pids to files.
TREE = """
cd "$TREE"
sleep 300 & echo $! > plain
setsid sh -c 'echo $$ > session; exec sleep 300' &
(setsid sh -c '(echo $$ > forked; exec sleep 300) &' &)
env -i /bin/sh -c 'trap "" TERM; echo $$ > deaf; while :; do sleep 1; done' &
sh -c 'kill -STOP $$; sleep 300' & echo $! > stopped
"""
#: Continues once all of them run.
NAMES = ("plain", "session", "forked", "deaf", "stopped")
ALL = f"for name in {' '.join(NAMES)}; do until test -s $name; do sleep 0.01; done; done"


def _pids(far, folder):
    return [far.pid_in(folder / name) for name in NAMES]


def test_a_stop_ends_the_whole_tree(far, tmp_path):
    order = far.shell(TREE + "wait", env={"TREE": str(tmp_path)})
    folder = far.publish(order, fence={"mode": "off"})
    running = far.start(folder)
    pids = _pids(far, tmp_path)
    stop.request(folder, 0.5)
    assert running.wait(30) == 1
    far.gone(*pids)
    result = far.result(folder)
    assert (result.state, result.reason) == (State.STOPPED, "stopped")
    assert json.loads((folder / "stop.json").read_text())["grace"] == 0.5


def test_an_agent_that_ends_leaves_nothing_behind(far, tmp_path):
    order = far.shell(TREE + ALL, env={"TREE": str(tmp_path)}, limits={"grace": 0.5})
    folder, result = far.run(order, fence={"mode": "off"})
    far.gone(*_pids(far, tmp_path))
    assert result.state is State.DONE
    assert not far.left(folder)


def test_the_agent_may_clean_up_within_the_grace(far):
    script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    folder = far.publish(far.shell(script))
    running = far.start(folder)
    far.wait(lambda: (folder / "output.log").exists() and b"ready" in _log(folder))
    stop.request(folder, 20)
    running.wait(30)
    assert _log(folder).endswith(b"bye\n")
    result = far.result(folder)
    assert (result.state, result.exit_code) == (State.STOPPED, 7)


def test_a_deaf_agent_is_killed_after_the_grace(far):
    folder = far.publish(far.shell("trap '' TERM; echo ready; while :; do sleep 0.05; done"))
    running = far.start(folder)
    far.wait(lambda: (folder / "output.log").exists() and b"ready" in _log(folder))
    stop.request(folder, 0.2)
    running.wait(30)
    result = far.result(folder)
    assert (result.state, result.signal) == (State.STOPPED, 9)


def test_a_later_stop_can_be_in_more_of_a_hurry(far):
    folder = far.publish(far.shell("trap '' TERM; echo ready; while :; do sleep 0.05; done"))
    running = far.start(folder)
    far.wait(lambda: (folder / "output.log").exists() and b"ready" in _log(folder))
    stop.request(folder, 600)
    stop.request(folder, 0)
    running.wait(30)
    assert far.result(folder).state is State.STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_without_a_request_is_the_systems(far, number):
    folder = far.publish(far.order("sleep", "300"))
    running = far.start(folder)
    far.working(folder)
    running.send_signal(number)
    running.wait(30)
    result = far.result(folder)
    assert (result.state, result.reason, result.signal) == (State.STOPPED, "terminated", 15)


def test_hanging_up_ends_nothing(far, tmp_path):
    go = tmp_path / "go"
    folder = far.publish(far.shell(f"until test -e {go}; do sleep 0.02; done; echo whole"))
    running = far.start(folder)
    far.working(folder)
    os.killpg(running.pid, signal.SIGHUP)
    go.touch()
    assert running.wait(30) == 0
    assert _log(folder) == b"whole\n"


def test_the_time_limit(far):
    _, result = far.run(far.shell("sleep 300", limits={"timeout": 0.3, "grace": 5}))
    assert (result.state, result.reason) == (State.FAILED, "timeout")
    assert "0.3 s" in result.message


def test_the_limit_of_silence(far):
    script = "for i in 1 2 3 4 5; do echo $i; sleep 0.5; done; sleep 300"
    limits = {"idle_timeout": 2, "grace": 5}
    folder, result = far.run(far.shell(script, limits=limits))
    assert (result.state, result.reason) == (State.FAILED, "idle_timeout")
    assert _log(folder) == b"1\n2\n3\n4\n5\n"


def test_a_stop_before_the_beginning_is_its_end(far, tmp_path):
    mark = tmp_path / "mark"
    order = far.shell(f"touch {mark}", secrets=Secrets({"TOKEN": "0123456789"}))
    folder = far.publish(order)
    stop.request(folder, 1)
    assert far.result(folder).state is State.STOPPED
    assert far.start(folder).wait(30) == 2
    assert not mark.exists()
    assert not (folder / "secrets.json").exists()


def test_stops_and_starts_at_once(far, tmp_path):
    """However they meet, the worker ends as stopped and nothing is left."""
    for turn in range(12):
        folder = far.publish(far.order("sleep", "300"))
        asking = threading.Thread(target=stop.request, args=(folder, 0.1))
        running = far.start(folder)
        far.wait(lambda turn=turn, folder=folder: turn % 2 or (folder / "lock").exists())
        asking.start()
        running.wait(30)
        asking.join()
        assert far.result(folder).state is State.STOPPED
        assert not far.left(folder)


def test_stops_from_many_threads_of_one_program_are_written_whole(tmp_path):
    """A server asks for each stop in a thread; none may see or take away what another writes."""

    def ask(number):
        for _ in range(300):
            files.store(str(tmp_path), files.STOP, {"grace": number, "reason": "x" * 5000})
            assert files.load(str(tmp_path), files.STOP) is not None

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(4)))
    assert os.listdir(tmp_path) == [files.STOP]


def test_stopping_is_idempotent_and_ends_leave_it_alone(far):
    folder, result = far.run(far.order("/bin/true"))
    stop.request(folder, 1)
    stop.request(folder, 1)
    assert far.result(folder) == result
    assert not (folder / "stop.json").exists()
    with pytest.raises(NotFoundError):
        stop.request(folder.with_name("unknown.1"), 1)


def test_a_supervisor_that_was_suspended_is_stopped_too(far):
    folder = far.publish(far.shell("exec sleep 300"))
    running = far.start(folder)
    far.working(folder)
    running.send_signal(signal.SIGSTOP)
    stop.request(folder, 0.1)
    running.wait(30)
    assert far.result(folder).reason == "stopped"


def test_without_its_folder_it_ends(far, tmp_path):
    """Nobody could see it or stop it any more, and its slot is free for others."""
    pid_file = tmp_path / "pid"
    script = f"trap '' TERM; echo $$ > {pid_file}; while :; do sleep 1; done"
    folder = far.publish(far.shell(script), fence={"mode": "off"})
    running = far.start(folder, patch="supervise._LOOK_EVERY = 0.05")
    pid = far.pid_in(pid_file)
    far.working(folder)
    shutil.rmtree(folder)
    running.wait(30)
    far.gone(pid)


def test_a_reused_pid_is_not_signalled(far):
    """The claim names a process that is gone; another one has its pid now."""
    folder = far.publish(far.order("sleep", "300"))
    running = far.start(folder)
    far.working(folder)
    far.kill(running)
    bystander = subprocess.Popen(["sleep", "300"])
    try:
        claim = json.loads((folder / "supervisor.json").read_text())
        claim["pid"] = bystander.pid
        (folder / "supervisor.json").write_text(json.dumps(claim))
        stop.request(folder, 0)
        assert not process.send(bystander.pid, claim["start"], 9)
        assert bystander.poll() is None
        claim["start"] = process.start_time(bystander.pid)
        claim["boot"] = "another"
        (folder / "supervisor.json").write_text(json.dumps(claim))
        stop.request(folder, 0)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_processes_beside_the_tree_are_left_alone(far, tmp_path):
    bystander = subprocess.Popen(["sleep", "300"], cwd=tmp_path)
    try:
        folder = far.publish(far.order("sleep", "300"))
        running = far.start(folder)
        far.working(folder)
        stop.request(folder, 0)
        running.wait(30)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def _log(folder):
    return (folder / "output.log").read_bytes()
