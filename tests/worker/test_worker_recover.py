"""A supervisor killed at any moment leaves one worker, no process, and an honest result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import farcode
import pytest

from outpost_core.errors import NotFoundError, WorkerError
from outpost_core.types import Secrets, State
from outpost_shared import process
from outpost_worker.folder import status
from outpost_worker.recovery import recover
from outpost_worker.run import stop
from outpost_worker.system import mark

#: fault point → state after recovery, of a bare command that succeeds.
ENDS = {
    "worker.claimed": State.LOST,
    "worker.prepared": State.LOST,
    "worker.agent_started": State.LOST,
    "worker.agent_ended": State.DONE,
    "worker.finished": State.DONE,
}


@pytest.mark.parametrize("fault", ENDS)
def test_killed_at_each_fault_point(far, tmp_path, fault):
    mark = tmp_path / "mark"
    secrets = Secrets({"TOKEN": "0123456789"})
    folder = far.publish(far.shell(f"echo ran >> {mark}; exit 0", secrets=secrets))
    assert far.start(folder, fault=fault).wait(30) == -9
    assert status.started(folder)
    assert not status.alive(folder)
    assert status.needs_recovery(folder) == (fault != "worker.finished")
    assert far.start(folder).wait(30) == 2  # it never begins again
    result = recover.recover(folder)
    assert result.state is ENDS[fault]
    assert result == far.result(folder) == recover.recover(folder)
    assert result.started_at is not None
    assert not status.needs_recovery(folder)
    assert not far.left(folder)
    assert not (folder / "secrets.json").exists()
    ran = mark.read_text() if mark.exists() else ""
    assert ran in ("", "ran\n")
    assert result.state is State.LOST or ran


def test_the_status_of_a_vanished_supervisor_is_provisional(far):
    folder = far.publish(far.order("sleep", "300"))
    running = far.start(folder)
    far.working(folder)
    far.kill(running)
    found = status.read(folder)
    assert (found.state, found.detail) == (State.LOST, "lost_process")
    assert found.result.finished_at is None
    assert recover.recover(folder).finished_at is not None
    assert status.read(folder).result.finished_at is not None


def test_no_process_is_left_even_if_it_hides(far, tmp_path):
    """Found by environment, by session, by its output pipe, and by its parents."""
    script = f"""
cd {tmp_path}
(setsid sh -c '(echo $$ > marked; exec sleep 300) &' > /dev/null 2>&1 &)
env -i /bin/sh -c 'echo $$ > session; exec > /dev/null 2>&1; exec /bin/sleep 300' &
env -i setsid /bin/sh -c 'echo $$ > printing; exec /bin/sleep 300' &
setsid sh -c 'env -i setsid /bin/sh -c "echo \\$\\$ > child; exec > /dev/null 2>&1;
  /bin/sleep 300; exit" & wait' &
wait"""
    folder = far.publish(far.shell(script), fence={"mode": "off"})
    running = far.start(folder)
    names = ("marked", "session", "printing", "child")
    pids = [far.pid_in(tmp_path / name) for name in names]
    far.working(folder)
    far.kill(running)
    bystander = subprocess.Popen(["sleep", "300"], cwd=folder / "work")
    try:
        assert recover.recover(folder).state is State.LOST
        far.gone(*pids)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_one_that_hides_in_every_way_at_once_is_found(far, tmp_path):
    """No environment, no pipe, no session and no parent of ours: what stays is the mark."""
    hide = "env -i setsid /bin/sh -c '(/bin/sh -c \"echo \\$\\$ >NAME; exec /bin/sleep 300\" &)'"
    hide += " </dev/null >/dev/null 2>&1 &"
    names = [tmp_path / f"hidden{i}" for i in range(3)]
    script = "\n".join(hide.replace("NAME", str(name)) for name in names)
    folder = far.publish(far.shell(f"{script}\nexec sleep 300"), fence={"mode": "off"})
    running = far.start(folder)
    pids = [far.pid_in(name) for name in names]
    far.working(folder)
    far.kill(running)
    far.wait(lambda: all(process.look(pid).parent != running.pid for pid in pids))
    other = far.publish(far.order("sleep", "300"))
    far.start(other)
    far.working(other)
    assert recover.recover(folder).state is State.LOST
    far.gone(*pids)
    assert far.status(other).state is State.WORKING, "another worker has another mark"


def test_every_process_of_a_worker_carries_its_mark(far, tmp_path):
    script = f"env -i setsid /bin/sh -c 'echo $$ >{tmp_path}/pid; exec /bin/sleep 300'"
    folder = far.publish(far.shell(script), fence={"mode": "off"})
    running = far.start(folder)
    pid = far.pid_in(tmp_path / "pid")
    assert mark.carried(pid) == mark.carried(running.pid) == mark.number(str(folder))
    assert mark.number(f"{folder}/../{folder.name}") == mark.number(str(folder))
    assert mark.carried(os.getpid()) == mark.carried(1) == 0


def test_a_reused_session_is_not_ended(far):
    """The agent's pid names the session of somebody else now, or did so before a restart."""
    folder = far.publish(far.order("/bin/true"))
    far.start(folder, fault="worker.agent_started").wait(30)
    bystander = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        start = process.start_time(bystander.pid)
        state = json.loads((folder / "state.json").read_text())
        claim = json.loads((folder / "supervisor.json").read_text())
        for noted, boot in ((start - 1, claim["boot"]), (start, "before")):
            agent = {"pid": bystander.pid, "start": noted, "pipe": ""}
            (folder / "state.json").write_text(json.dumps({**state, "agent": agent}))
            (folder / "supervisor.json").write_text(json.dumps({**claim, "boot": boot}))
            recover.sweep(str(folder))
            assert bystander.poll() is None
        # nor when all of it is right: the agent could have written that
        (folder / "supervisor.json").write_text(json.dumps(claim))
        recover.sweep(str(folder))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_verb_recovers_too(far):
    folder = far.publish(far.order("sleep", "300"))
    running = far.start(folder)
    far.working(folder)
    far.kill(running)
    assert far.start(folder, verb="recover").wait(30) == 0
    assert far.result(folder).reason == "lost_process"


def test_killed_again_while_it_recovers(far):
    folder = far.publish(far.order("/bin/true"))
    far.start(folder, fault="worker.agent_ended").wait(30)
    assert far.start(folder, verb="recover", fault="worker.finished").wait(30) == -9
    assert recover.recover(folder).state is State.DONE


def test_many_recoveries_at_once_agree(far):
    folder = far.publish(far.order("sleep", "300"))
    running = far.start(folder)
    far.working(folder)
    far.kill(running)
    many = [far.start(folder, verb="recover", stdout=subprocess.PIPE) for _ in range(4)]
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(recover.recover(folder))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    said = {one.communicate(timeout=30)[0] for one in many}
    for thread in threads:
        thread.join()
    assert len(said) == 1
    assert len(set(map(repr, found))) == 1
    assert json.loads(said.pop())["finished_at"] == found[0].finished_at


def test_what_lives_is_not_recovered(far):
    folder = far.publish(far.order("sleep", "300"))
    far.start(folder)
    far.working(folder)
    with pytest.raises(WorkerError, match="still works"):
        recover.recover(folder)
    assert far.status(folder).state is State.WORKING
    with pytest.raises(NotFoundError):
        recover.recover(folder.with_name("unknown.1"))


def test_a_stop_that_came_too_late_is_still_a_stop(far):
    folder = far.publish(far.order("sleep", "300"))
    running = far.start(folder)
    far.working(folder)
    far.kill(running)
    stop.request(folder, 0)
    assert recover.recover(folder).state is State.STOPPED


def test_the_end_of_a_failed_agent_survives(far):
    folder = far.publish(far.shell("exit 5"))
    far.start(folder, fault="worker.agent_ended").wait(30)
    result = recover.recover(folder)
    assert (result.state, result.reason, result.exit_code) == (State.FAILED, "agent_failed", 5)


def test_one_that_never_began_can_be_closed(far):
    folder = far.publish(far.order("/bin/true"))
    assert not status.needs_recovery(folder)
    result = recover.recover(folder)
    assert (result.state, result.reason) == (State.LOST, "never_started")
    assert far.start(folder).wait(30) == 2


def test_after_a_restart_of_the_machine(far):
    """The boot that is recorded is not the one that runs."""
    begun = far.publish(far.order("sleep", "300"))
    running = far.start(begun)
    far.working(begun)
    far.kill(running)
    recover.sweep(str(begun))
    # under the very pid and start time of a living process, but of another boot
    pid = os.getpid()
    claim = {"pid": pid, "start": process.start_time(pid), "boot": "before", "at": 1.0}
    (begun / "supervisor.json").write_text(json.dumps(claim))
    waiting = far.publish(far.order("/bin/true"))
    launch = json.loads((waiting / "launch.json").read_text())
    far.seal(waiting, "launch.json", {**launch, "boot": "before"})
    assert not status.alive(begun)
    for folder, reason in ((begun, "lost_process"), (waiting, "never_started")):
        assert status.needs_recovery(folder)
        assert status.read(folder).state is State.LOST
        assert far.start(folder).wait(30) == 2
        assert recover.recover(folder).reason == reason


def test_a_forked_stage_dies_with_its_supervisor(far, tmp_path):
    """Even one whose step ignores everything and has no child to be found by."""
    pid_file = tmp_path / "pid"
    code = f"""
import sys; sys.path += {farcode.ROOTS!r}
import os, time
from outpost_worker.system.loop import Loop
from outpost_worker.run.forked import Stage
def call(report):
    with open({str(pid_file)!r}, "w") as file: file.write(f"{{os.getpid()}}\\n")
    time.sleep(300)
loop = Loop(lambda number: None)
Stage(loop, {str(tmp_path)!r}, call, env={{}}, report=print, close=())
while True: loop.turn(None)
"""
    running = subprocess.Popen([sys.executable, "-I", "-c", code])
    pid = far.pid_in(pid_file)
    far.kill(running)
    far.gone(pid)
