"""What a hostile agent did in its worker's folder, and what comes of it now: nothing beyond it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outpost_core.errors import WorkerError
from outpost_core.types import Agent, Issue, Limits, Order, State
from outpost_shared import faults, process
from outpost_worker.folder import claim, files, outcome, publish, seal, status
from outpost_worker.recovery import cleaning, recover
from outpost_worker.repository import bundles
from outpost_worker.run import stop
from outpost_worker.work import checkpoint

#: What the agent forges: the end of a work that never was.
FORGED = {
    **outcome.result("done", "ok"), "branch": "main", "commit": "deadbeef" * 5, "cost_usd": -1e9,
    "finished_at": 2.0, "exit_code": 0,
}  # fmt: skip


@pytest.fixture
def bystander():
    made = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield made
    made.kill()
    made.wait()


def killed(far, order: Order | None = None) -> Path:
    """Return the folder of a worker whose supervisor was killed."""
    folder = far.publish(order or far.order("sleep", "1000"))
    running = far.start(folder)
    far.working(folder)
    far.kill(running)
    recover.sweep(str(folder))
    return folder


def plant(folder: Path, name: str, value: object) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(value))


class TestResult:
    def test_of_a_running_agent_is_not_believed(self, far, tmp_path):
        go = tmp_path / "go"
        folder = far.publish(far.shell(f"until test -e {go}; do sleep 0.02; done; exit 7"))
        running = far.start(folder)
        far.working(folder)
        plant(folder, "result.json", FORGED)
        found = status.read(folder)
        assert (found.state, found.result) == (State.WORKING, None)
        assert "result.json was not written by its supervisor" in found.detail
        assert not claim.finished(str(folder))
        go.touch()
        running.wait(30)
        result = far.result(folder)
        assert (result.state, result.exit_code, result.commit) == (State.FAILED, 7, None)

    def test_of_a_killed_supervisor_is_not_believed_either(self, far):
        folder = killed(far)
        plant(folder, "result.json", FORGED)
        assert status.needs_recovery(folder)
        result = recover.recover(folder)
        assert (result.state, result.commit) == (State.LOST, None)
        assert status.read(folder).result == result

    def test_of_another_worker_is_not_believed(self, far):
        ended, _ = far.run(far.order("/bin/true"))
        folder = killed(far)
        (folder / "result.json").write_bytes((ended / "result.json").read_bytes())
        assert recover.recover(folder).state is State.LOST

    def test_how_the_agent_ended_is_what_its_supervisor_said(self, far):
        folder = killed(far)
        plant(folder, "agent.json", {**FORGED, "at": 1.0})
        assert recover.recover(folder).state is State.LOST

    def test_without_seals_it_has_to_say_what_can_be(self, far):
        """Of a version that made none: its supervisor ends first, and values are looked at."""
        folder = far.publish(far.order("sleep", "1000"))
        far.unseal()
        running = far.start(folder)
        far.working(folder)
        sound = {**FORGED, "cost_usd": 1.0}
        plant(folder, "result.json", sound)
        assert status.read(folder).state is State.WORKING
        far.kill(running)
        recover.sweep(str(folder))
        assert status.read(folder).state is State.DONE
        for name, value in (
            ("cost_usd", -1e9), ("cost_usd", float("nan")), ("finished_at", 1e300),
            ("started_at", -1), ("commit", "-x"), ("commit", "abc"), ("branch", "--force"),
            ("branch", "refs/heads/x"), ("pr_url", "javascript:alert(1)"), ("state", "working"),
            ("reason", "\x1b]0;x\x07"), ("session", "x" * 5000), ("log_bytes", -1),
            ("usage", {"input_tokens": -1}), ("usage", {"cost_usd": float("inf")}),
            ("message", ["x"]), ("exit_code", 1 << 70),
        ):  # fmt: skip
            plant(folder, "result.json", {**sound, name: value})
            found = status.read(folder)
            assert (found.state, found.detail) == (State.LOST, "lost_process"), (name, value)
            assert found.result.finished_at is None
            assert "result.json" in found.result.message


class TestOrder:
    @pytest.mark.parametrize("name", ["order.json", "launch.json"])
    def test_nothing_of_a_changed_one_is_run(self, far, tmp_path, name):
        ran = tmp_path / "ran"
        folder = killed(far)
        value = json.loads((folder / name).read_text())
        evil = tmp_path / "bin"
        evil.mkdir()
        (evil / "git").write_text(f"#!/bin/sh\ntouch {ran}\n")
        (evil / "git").chmod(0o755)
        if name == "order.json":
            value["env"] = {"PATH": str(evil)}
            value["delivery"] = {"pr_command": ["touch", str(ran)]}
        else:
            value["env"] = {"PATH": str(evil)}
        plant(folder, name, value)
        plant(folder, "agent.json", {**FORGED, "cost_usd": None, "at": 1.0})
        result = recover.recover(folder)
        assert (result.state, result.reason) == (State.LOST, "broken")
        assert f"{name} is not what was published" in result.message
        cleaned = cleaning.clean(far.root, folder, force=False)
        assert not cleaned.removed
        assert f"{name} is not what was published" in cleaned.detail
        assert (folder / "work").is_dir()
        assert cleaning.clean(far.root, folder, force=True).removed
        assert not ran.exists()
        assert not list((far.root / seal.SEALED).glob(f"{folder.name}.*"))

    def test_a_changed_one_is_not_begun(self, far, tmp_path):
        ran = tmp_path / "ran"
        folder = far.publish(far.order("/bin/true"))
        value = json.loads((folder / "order.json").read_text())
        value["agent"]["argv"] = ["touch", str(ran)]
        plant(folder, "order.json", value)
        assert status.read(folder).result.reason == "broken"
        assert far.start(folder).wait(30) == 2
        assert not ran.exists()
        found = status.read(folder)
        assert (found.state, found.result.reason) == (State.LOST, "broken")
        assert found.result.agent_began is False

    def test_one_without_its_seal_is_not_run(self, far):
        """Somebody plants a whole worker, or removes the seal."""
        folder = far.publish(far.order("/bin/true"))
        for path in (far.root / seal.SEALED).glob(f"{folder.name}.*"):
            path.unlink()
        assert far.start(folder).wait(30) == 2
        assert far.result(folder).reason == "broken"
        assert not (folder / "work").exists()

    def test_one_of_before_there_were_seals_is_worked_on(self, far):
        """The seals begin with the first order of the new version; what is older has none."""
        folder = far.publish(far.order("/bin/true"))
        far.unseal()
        time.sleep(0.02)
        newer, result = far.run(far.order("/bin/true"))
        assert result.state is State.DONE
        far.start(folder).wait(30)
        assert far.result(folder).state is State.DONE
        assert status.read(newer).state is State.DONE

    def test_a_deleted_one_hides_no_living_worker(self, far):
        folder = far.publish(far.order("sleep", "1000"))
        far.start(folder)
        far.working(folder)
        digest = status.read(folder).digest
        (folder / "order.json").unlink()
        (found,) = status.scan(far.root, {})
        assert (found.state, found.digest) == (State.WORKING, digest)
        assert "order.json is missing" in found.detail

    def test_the_working_tree_is_where_its_supervisor_made_it(self, far):
        folder = killed(far)
        plant(folder, "workspace.json", {"branch": "main", "base_commit": None})
        assert recover.recover(folder).reason == "broken"


class TestProcesses:
    @pytest.mark.parametrize("how", ["victim", "dead", "fifo", "nonsense", "other worker"])
    def test_a_forged_claim_neither_harms_nor_hides(self, far, bystander, how):
        other = far.publish(far.order("sleep", "1000"))
        far.start(other)
        far.working(other)
        folder = far.publish(far.order("sleep", "1000"))
        running = far.start(folder)
        far.working(folder)
        about = json.loads((folder / "supervisor.json").read_text())
        match how:
            case "victim":
                start = process.start_time(bystander.pid)
                plant(folder, "supervisor.json", {**about, "pid": bystander.pid, "start": start})
            case "dead":
                plant(folder, "supervisor.json", {**about, "start": 1, "boot": "x"})
            case "fifo":
                (folder / "supervisor.json").unlink()
                os.mkfifo(folder / "supervisor.json")
            case "nonsense":
                plant(folder, "supervisor.json", {"pid": "1", "start": None, "at": 1e300})
            case "other worker":
                (folder / "supervisor.json").write_text((other / "supervisor.json").read_text())
        assert status.read(folder).state is State.WORKING
        assert claim.holder(str(folder))[0] == running.pid
        with pytest.raises(WorkerError, match="still works"):
            recover.recover(folder)
        stop.request(folder, 0)
        assert running.wait(30) == 1
        assert far.result(folder).state is State.STOPPED
        assert bystander.poll() is None
        assert status.read(other).state is State.WORKING

    def test_a_process_that_is_called_like_a_supervisor_takes_no_stop_for_it(self, far, tmp_path):
        ready = tmp_path / "ready"
        decoy = f"""
import os, subprocess, sys, json
argv = [*{publish.command(Path("x"))[:-2]!r}, "run", os.path.dirname(os.getcwd())]
argv[0:-3] = [sys.executable]
code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)"
made = subprocess.Popen([sys.executable, "-c", code, *argv[1:]])
start = int(open(f"/proc/{{made.pid}}/stat").read().rpartition(")")[2].split()[19])
claim = json.load(open("../supervisor.json"))
os.unlink("../supervisor.json")
json.dump({{**claim, "pid": made.pid, "start": start}}, open("../supervisor.json", "w"))
open({str(ready)!r}, "w").write("1")
made.wait()
"""
        folder = far.publish(far.order(sys.executable, "-c", decoy), fence={"mode": "off"})
        running = far.start(folder)
        far.wait(ready.exists)
        assert process.runs(
            json.loads((folder / "supervisor.json").read_text())["pid"], "run", str(folder)
        )
        stop.request(folder, 0)
        assert running.wait(30) == 1
        assert far.result(folder).state is State.STOPPED
        assert not far.left(folder)

    @pytest.mark.parametrize("name", ["tmux", "sh", "timeout"])
    def test_who_starts_a_supervisor_is_none(self, far, name):
        """A tmux server has the command line with which its first session was made."""
        folder = far.publish(far.order("sleep", "1000"))
        code = "import time; time.sleep(1000)"
        starter = subprocess.Popen(
            [name, "-c", code, *publish.command(folder)], executable=sys.executable
        )
        try:
            running = far.start(folder)
            far.working(folder)
            assert not process.runs(starter.pid, "run", str(folder))
            stop.request(folder, 0)
            running.wait(30)
            recover.sweep(str(folder))
            assert starter.poll() is None
        finally:
            starter.kill()
            starter.wait()

    def test_what_the_state_names_is_not_swept(self, far):
        """The agent says of a session, and of a pipe that somebody reads, that they are its own."""
        folder = killed(far)
        victim = subprocess.Popen(["sleep", "1000"], stdout=subprocess.PIPE, start_new_session=True)
        try:
            pipe = os.readlink(f"/proc/{victim.pid}/fd/1")
            agent = {"pid": victim.pid, "start": process.start_time(victim.pid), "pipe": pipe}
            plant(folder, "state.json", {"state": "working", "agent": agent})
            assert recover.recover(folder).state is State.LOST
            assert victim.poll() is None
        finally:
            victim.kill()
            victim.communicate()

    def test_a_lock_that_its_agent_holds_is_no_obstacle(self, far, tmp_path):
        """The agent ends its supervisor, and holds the lock with a process of its own."""
        ready = tmp_path / "ready"
        script = (
            f'exec 9<>"$PWD/../lock"; kill -9 $PPID; flock 9; echo 1 > {ready}; exec sleep 1000'
        )
        folder = far.publish(far.shell(script), fence={"mode": "off"})
        far.start(folder).wait(30)
        far.wait(ready.exists)
        began = time.monotonic()
        assert recover.recover(folder).state is State.LOST
        assert time.monotonic() - began < 60
        assert not far.left(folder)


class TestFiles:
    def test_a_log_is_not_written_through_a_link(self, far, tmp_path):
        precious = tmp_path / "precious"
        precious.write_text("precious")
        folder = far.publish(far.shell("echo hello"))
        (folder / "output.log").symlink_to(precious)
        (folder / ".result.tmp").unlink()
        os.link(precious, folder / ".result.tmp")
        far.start(folder).wait(30)
        assert far.result(folder).state is State.DONE
        assert (folder / "output.log").read_bytes() == b"hello\n"
        assert precious.read_text() == "precious"

    @pytest.mark.parametrize("name", ["stop.json", "state.json", "result.json", "agent.json"])
    def test_folders_and_fifos_are_put_aside(self, far, tmp_path, name):
        go = tmp_path / "go"
        folder = far.publish(far.shell(f"until test -e {go}; do sleep 0.02; done"))
        running = far.start(folder)
        far.working(folder)
        (folder / name).unlink(missing_ok=True)
        (folder / name / "full").mkdir(parents=True)
        if name == "stop.json":
            stop.request(folder, 0)
        go.touch()
        running.wait(30)
        assert far.result(folder).state is (State.STOPPED if name == "stop.json" else State.DONE)

    def test_a_note_names_nothing_but_the_workers_own_bundle(self, tmp_path):
        folder, precious = tmp_path / "x.1", tmp_path / "precious"
        folder.mkdir()
        made = "a" * 40
        own = folder / bundles.NAME
        for kept, believed in ((precious, False), (own, True), ("", True)):
            (folder / "checkpoint").write_text(f"{made}\n{made}\n{kept}\n")
            assert bool(checkpoint._Last(str(folder)).commit) == believed
        (folder / "checkpoint").write_text(f"--all\n{made}\n\n")
        assert not checkpoint._Last(str(folder)).commit

    def test_notes_name_no_archive_but_the_workers_own(self, tmp_path):
        from outpost_worker.repository import notes
        from outpost_worker.work import aside

        folder = tmp_path / "workers" / "x.1"
        folder.mkdir(parents=True)
        rescued = tmp_path / "rescued"
        rescued.mkdir()
        for path in (tmp_path / "precious.tar", rescued / "y.1.tar", rescued / "x.1-2.tar"):
            path.write_text("precious")
            files.store(str(folder), aside.NOTE, {"path": str(path), "holds": []})
            assert bool(notes.archive(str(folder), aside.NOTE, ".tar")) == ("x.1" in path.name)
        assert aside.place(str(folder))
        files.store(str(folder), aside.NOTE, {"path": str(tmp_path / "precious.tar")})
        aside.discard(str(folder))
        assert (tmp_path / "precious.tar").exists()

    def test_a_result_is_written_on_a_full_disk_all_the_same(self, far):
        """The signature is within the room that was kept."""
        folder = far.publish(far.order("/bin/true"))
        longest = outcome.result("failed", "internal", "\ufffd" * 5000)
        files.store_result(str(folder), longest)
        assert (folder / "result.json").stat().st_size <= files.ROOM


ORDER = Order(
    issue=Issue(id="s-1"), agent=Agent(argv=("/bin/true",)), limits=Limits(), rig="/rig.git"
)


@pytest.mark.parametrize("fault", ["local.sealed", "local.staged", "local.published"])
def test_killed_while_it_is_published(tmp_path, fault):
    """A seal without its folder is swept; a folder without its seal is never to be seen."""
    pid = os.fork()
    if pid == 0:
        faults.arm(fault)
        publish.publish(tmp_path, ORDER, {})
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    folder, made = publish.publish(tmp_path, ORDER, {})
    assert made == (fault != "local.published")
    assert files.truth(str(folder))[0]["digest"]
    old = time.time() - publish.STALE - 1
    for path in (tmp_path / "staging").iterdir():
        os.utime(path, (old, old))
    publish.publish(tmp_path, Order(issue=Issue(id="s-2"), agent=ORDER.agent), {})
    assert len(list((tmp_path / seal.SEALED).glob("s-1.1.*"))) == 1
    assert files.truth(str(folder))[0]["digest"]


@pytest.mark.parametrize("fault", ["clean.discarded"])
def test_killed_while_it_is_removed(far, fault):
    folder, _ = far.run(far.order("/bin/true"))
    pid = os.fork()
    if pid == 0:
        faults.arm(fault)
        cleaning.clean(far.root, folder, force=False)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert list((far.root / seal.SEALED).glob(f"{folder.name}.*"))
    cleaning.empty_trash(far.root)
    assert not list((far.root / seal.SEALED).glob(f"{folder.name}.*"))
