"""The supervisor and git together: delivered, rescued, and killed at every point between."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from outpost_core.types import Delivery, Secrets, State
from outpost_shared import faults
from outpost_worker.folder import status
from outpost_worker.recovery import cleaning, recover
from outpost_worker.run import stop


def _git(where, *argv):
    argv = ("git", "-C", str(where), *argv)
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


@pytest.fixture
def rig(tmp_path):
    """A bare repository with one commit on `main`."""
    seed, bare = tmp_path / "seed", tmp_path / "rig.git"
    seed.mkdir()
    _git(seed, "init", "-q", "-b", "main")
    (seed / "a").write_text("a\n")
    _git(seed, "add", "-A")
    _git(seed, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "one")
    _git(seed, "clone", "-q", "--bare", str(seed), str(bare))
    return bare


def _order(far, rig, script, **more):
    delivery = Delivery(branch="polecat/work", message="the work", **more.pop("delivery", {}))
    return far.shell(script, rig=str(rig), delivery=delivery, **more)


def _branches(rig):
    return _git(rig, "for-each-ref", "--format=%(refname)").split()


def test_work_is_delivered(far, rig):
    order = _order(far, rig, 'echo "$OUTPOST_BRANCH" > b; echo said')
    folder, result = far.run(order)
    assert (result.state, result.reason, result.branch) == (State.DONE, "ok", "polecat/work")
    assert result.commit == _git(rig, "rev-parse", "polecat/work")
    assert _git(rig, "show", "polecat/work:b") == "polecat/work"
    assert _git(rig, "rev-list", "--count", "main..polecat/work") == "1"
    assert result.checkpoint is None
    assert (folder / "output.log").read_bytes() == b"said\n"


def test_nothing_to_deliver_is_its_own_outcome(far, rig):
    _, result = far.run(_order(far, rig, "true"))
    assert (result.state, result.reason) == (State.DONE, "nothing_to_commit")
    assert (result.branch, result.commit) == (None, None)
    assert _branches(rig) == ["refs/heads/main"]


def test_the_work_of_a_failed_agent_is_rescued(far, rig):
    order = _order(far, rig, "echo half > b; exit 3")
    _, result = far.run(order)
    assert (result.state, result.reason, result.exit_code) == (State.FAILED, "agent_failed", 3)
    assert result.checkpoint == f"refs/outpost/{order.worker}"
    assert _git(rig, "show", f"{result.checkpoint}:b") == "half"
    assert "refs/heads/polecat/work" not in _branches(rig)


@pytest.mark.parametrize("how", ["stop", "timeout", "terminated"])
def test_work_is_rescued_before_the_end(far, rig, how):
    limits = {"timeout": 3.0 if how == "timeout" else None, "grace": 20}
    script = "trap 'echo late > late; exit 1' TERM; echo half > b; while :; do sleep 0.05; done"
    order = _order(far, rig, script, limits=limits)
    folder = far.publish(order)
    running = far.start(folder)
    far.wait(lambda: (folder / "work" / "b").exists())
    if how == "stop":
        stop.request(folder, 20)
    elif how == "terminated":
        running.terminate()
    running.wait(30)
    result = far.result(folder)
    assert result.reason == {"stop": "stopped"}.get(how, how)
    assert _git(rig, "show", f"{result.checkpoint}:b") == "half"
    assert _git(rig, "show", f"{result.checkpoint}:late") == "late"
    assert not far.left(folder)


def test_checkpoints_while_the_agent_works(far, rig, tmp_path):
    go = tmp_path / "go"
    script = f"echo one > b; until test -e {go}; do sleep 0.02; done; echo two > b"
    order = _order(far, rig, script, limits={"checkpoint_every": 0.2})
    folder = far.publish(order)
    running = far.start(folder)
    ref = f"refs/outpost/{order.worker}"
    far.wait(lambda: ref in _branches(rig))
    assert _git(rig, "show", f"{ref}:b") == "one"
    assert far.status(folder).state is State.WORKING
    go.touch()
    assert running.wait(30) == 0
    result = far.result(folder)
    assert (result.state, result.checkpoint) == (State.DONE, None)
    assert _git(rig, "show", "polecat/work:b") == "two"


@pytest.mark.parametrize("fault", faults.FAR)
def test_killed_at_each_fault_point(far, rig, tmp_path, fault):
    mark = tmp_path / "mark"
    order = _order(far, rig, f"echo ran >> {mark}; echo new > b")
    folder = far.publish(order)
    assert far.start(folder, fault=fault).wait(30) == -9
    assert status.needs_recovery(folder) == (fault != "worker.finished")
    # also a recovery may be killed there, and taken up again
    far.start(folder, verb="recover", fault=fault).wait(30)
    result = recover.recover(folder)
    assert result == far.result(folder)
    assert not far.left(folder)
    early = fault in ("worker.claimed", "worker.prepared", "worker.agent_started")
    if early:
        assert (result.state, result.reason) == (State.LOST, "lost_process")
        assert "refs/heads/polecat/work" not in _branches(rig)
    else:
        assert (result.state, result.reason) == (State.DONE, "ok")
        assert result.commit == _git(rig, "rev-parse", "polecat/work")
        assert _git(rig, "rev-list", "--count", "main..polecat/work") == "1"
        assert mark.read_text() == "ran\n"


def test_a_killed_supervisors_work_is_rescued(far, rig):
    order = _order(far, rig, "echo half > b; echo ready; sleep 300")
    folder = far.publish(order)
    running = far.start(folder)
    far.wait(lambda: (folder / "work" / "b").exists())
    far.working(folder)
    far.kill(running)
    result = recover.recover(folder)
    assert (result.state, result.checkpoint) == (State.LOST, f"refs/outpost/{order.worker}")
    assert _git(rig, "show", f"{result.checkpoint}:b") == "half"
    assert not far.left(folder)


def test_a_rig_that_is_not_there(far, tmp_path):
    order = _order(far, tmp_path / "nowhere.git", "true")
    _, result = far.run(order)
    assert (result.state, result.reason) == (State.FAILED, "workspace_failed")
    assert "nowhere.git" in result.message
    assert result.exit_code is None


def test_a_base_that_is_not_there(far, rig):
    _, result = far.run(_order(far, rig, "true", base="no-such-branch"))
    assert (result.state, result.reason) == (State.FAILED, "base_not_found")


def test_a_stop_while_the_network_hangs(far, tmp_path):
    """git waits for an ssh that never answers; the stop takes both."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\necho $$ > {shlex.quote(str(tmp_path / 'pid'))}\nexec sleep 300\n")
    ssh.chmod(0o755)
    env = {"GIT_SSH_COMMAND": str(ssh)}
    folder = far.publish(_order(far, "ssh://nobody@127.0.0.1/x.git", "true", env=env))
    running = far.start(folder)
    pid = far.pid_in(tmp_path / "pid")
    assert far.status(folder).state is State.STARTING
    stop.request(folder, 5)
    running.wait(30)
    far.gone(pid)
    assert (far.result(folder).state, far.result(folder).reason) == (State.STOPPED, "stopped")
    assert not far.left(folder)


def test_a_supervisor_killed_while_the_network_hangs(far, tmp_path):
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\necho $$ > {shlex.quote(str(tmp_path / 'pid'))}\nexec sleep 300\n")
    ssh.chmod(0o755)
    env = {"GIT_SSH_COMMAND": str(ssh)}
    folder = far.publish(_order(far, "ssh://nobody@127.0.0.1/x.git", "true", env=env))
    running = far.start(folder)
    pid = far.pid_in(tmp_path / "pid")
    far.kill(running)
    assert recover.recover(folder).state is State.LOST
    far.gone(pid)
    assert not far.left(folder)


def test_a_stop_cuts_a_hanging_delivery_short(far, rig, tmp_path):
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {shlex.quote(str(pid_file))}; exec sleep 300"
    delivery = {"pr_command": ("/bin/sh", "-c", script)}
    folder = far.publish(_order(far, rig, "echo new > b", delivery=delivery))
    running = far.start(folder)
    pid = far.pid_in(pid_file)
    stop.request(folder, 0.2)
    running.wait(30)
    far.gone(pid)
    # done when git's part had still time to say that the branch was pushed
    assert far.result(folder).state in (State.DONE, State.STOPPED)
    assert _git(rig, "show", "polecat/work:b") == "new"


def test_a_delivery_that_is_killed_is_done_again(far, rig, tmp_path):
    mark = shlex.quote(str(tmp_path / "mark"))
    script = f"[ -e {mark} ] && echo https://here/1 && exit; touch {mark}; kill -9 $PPID"
    delivery = {"pr_command": ("/bin/sh", "-c", script)}
    _, result = far.run(_order(far, rig, "echo new > b", delivery=delivery))
    assert (result.state, result.pr_url) == (State.DONE, "https://here/1")
    assert result.commit == _git(rig, "rev-parse", "polecat/work")


def test_a_rescue_of_a_broken_repository_is_said(far, rig):
    folder, result = far.run(_order(far, rig, "echo new > b; rm .git/HEAD; exit 3"))
    assert (result.reason, result.checkpoint) == ("agent_failed", f"refs/outpost/{folder.name}")
    assert _git(rig, "show", f"{result.checkpoint}:b") == "new"


def test_secrets_reach_the_pull_request_command_and_nothing_else(far, rig):
    script = 'echo "https://example.org/pr/1?with=$TOKEN"'
    order = _order(
        far,
        rig,
        "echo new > b",
        delivery={"pr_command": ("/bin/sh", "-c", script)},
        secrets=Secrets({"TOKEN": "canary-123456"}),
    )
    folder, result = far.run(order)
    assert result.pr_url == "https://example.org/pr/1?with=***"
    for path in folder.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path


#: Folders so deep that no path leads there, which errors then name.
_DEEP = """python3 -c '
import os
for _ in range(3000):
    os.mkdir("d"); os.chdir("d")
open("f", "w").close()'"""


def test_a_tree_as_deep_as_an_agent_likes_fails_its_worker_which_can_be_removed(far, rig):
    """The message of its result was too long to be believed, and it was recovered for ever."""
    folder, result = far.run(_order(far, rig, _DEEP))
    assert result.state is State.FAILED
    assert result.reason == "commit_failed"
    assert far.status(folder).state is State.FAILED
    cleaning.clean(far.root, folder, force=True)
    assert not folder.exists()
