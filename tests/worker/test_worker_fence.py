"""The fence around an agent: what it stops, by each mechanism, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from fencekit import Yard, wait

from outpost_core.types import Agent, Issue, Order, State
from outpost_shared import process
from outpost_worker.fence import places, start
from outpost_worker.folder import files, publish
from outpost_worker.recovery import recover
from outpost_worker.run import stop


@pytest.fixture(params=start.WAYS)
def yard(request: pytest.FixtureRequest, open_path: Path, uid: int) -> Yard:
    return Yard(open_path, uid, request.param)


@pytest.fixture
def inside(open_path: Path, uid: int) -> Yard:
    """One whose agents are in a namespace of processes."""
    return Yard(open_path, uid, start.NAMESPACE)


def named(mark: str) -> set[int]:
    """Return the living processes that have a text in their arguments."""
    found = set()
    for pid in process.everyone():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in line and b"outpost_worker/boot.py" not in line:
            found.add(pid)
    return found


def test_the_result_says_which_fence_the_agent_had(yard: Yard) -> None:
    result, _, folder = yard.run("true")
    assert result["state"] == "done", result
    wanted = {"namespace": "namespace", "mounts": "namespace without processes of its own"}
    assert result["fence"] == wanted.get(yard.way, result["fence"])
    assert result["fence"].startswith(("namespace", "landlock "))
    assert json.loads((folder / files.STATE).read_text())["fence"] == result["fence"]


def test_what_is_the_users_cannot_be_read(yard: Yard) -> None:
    paths = " ".join(map(str, [*yard.secrets, yard.home / ".netrc"]))
    result, log, _ = yard.run(f"cat {paths}; ls {yard.home}/.ssh; ls -R {yard.root}")
    assert "of the user" not in log
    assert "id_ed25519\n" not in log
    for name in (files.ORDER, files.CLAIM, files.STATE, "sealed"):
        assert name not in log, log
    assert result["fence"]


def test_what_the_user_runs_later_cannot_be_changed(yard: Yard) -> None:
    targets = [".bashrc", ".gitconfig", ".config/new", "bin/git", "new", ".ssh/authorized_keys"]
    tries = "".join(
        f"(echo x >> {yard.home}/{name}) 2>/dev/null && echo WROTE {name}\n" for name in targets
    )
    tries += f"""
mv {yard.home}/.bashrc {yard.home}/.was 2>/dev/null && echo WROTE by rename
rm -rf {yard.home}/bin 2>/dev/null; test -d {yard.home}/bin || echo WROTE by removal
ln -s x {yard.home}/link 2>/dev/null && echo WROTE a link
true"""
    result, log, _ = yard.run(tries)
    assert result["state"] == "done", result
    assert "WROTE" not in log
    assert (yard.home / ".bashrc").read_text() == ""
    assert not (yard.home / "new").exists()


def test_the_truth_about_a_worker_and_other_workers_are_out_of_reach(yard: Yard) -> None:
    _, _, other = yard.run("echo first > file")
    script = f"""
for name in result.json supervisor.json state.json order.json x; do
  (echo forged > "$OUTPOST_WORKER_DIR/../$name") 2>/dev/null && echo WROTE $name
done
(echo forged > {other}/result.json) 2>/dev/null && echo WROTE the other
(echo forged > {other}/work/file) 2>/dev/null && echo WROTE its tree
cat {other}/work/file 2>/dev/null && echo READ its tree
cd ..; mv work work.old 2>/dev/null && echo MOVED
ln -s /etc work2 2>/dev/null && echo LINKED
rmdir exchange 2>/dev/null && echo REMOVED
true"""
    result, log, folder = yard.run(script)
    assert result["state"] == "done", result
    assert not {"WROTE", "READ", "MOVED", "LINKED", "REMOVED"} & set(log.split()), log
    assert (other / "work/file").read_text() == "first\n"
    assert (folder / "work").is_dir()
    assert not (folder / "work2").is_symlink()


def test_its_work_its_exchange_and_temporary_files_can_be_written(yard: Yard) -> None:
    script = """set -e
echo 1 > here; mkdir -p a/b; mv here a/b; ln -s a link; rm link
echo 2 > "$OUTPOST_WORKER_DIR/note"
temporary=$(mktemp); echo 3 > "$temporary"; rm "$temporary"
mkdir -p ~/.cache/tool; echo 4 > ~/.cache/tool/file; mv ~/.cache/tool/file ~/.cache/tool/other
echo 5 > /dev/null; head -c 1 /dev/urandom > /dev/null
cat "$OUTPOST_PROMPT_FILE"
cat /etc/passwd > /dev/null; ls /usr > /dev/null
"""
    result, log, folder = yard.run(script, prompt="say it\n")
    assert result["state"] == "done", (result, log)
    assert log == "say it\n"
    assert (folder / "exchange/note").read_text() == "2\n"
    assert (yard.home / ".cache/tool/other").read_text() == "4\n"


def test_settings_show_hide_and_open_further_places(yard: Yard) -> None:
    (yard.home / "data").mkdir()
    (yard.home / "data/file").write_text("data\n")
    (yard.home / "private").mkdir()
    (yard.home / "private/file").write_text("private\n")
    for path in yard.home.rglob("*"):
        os.lchown(path, yard.uid, yard.uid)
    script = "cat ~/.aws/credentials ~/.ssh/id_ed25519 ~/private/file; echo more >> ~/data/file"
    order = Order(issue=Issue(id="set-1"), agent=Agent(argv=("/bin/sh", "-c", script)))
    folder = yard.publish_order(order, show=["~/.aws"], hide=["~/private"], write=["~/data"])
    assert yard.start(folder).wait(60) == 0
    log = (folder / files.LOG).read_text()
    assert log.count("of the user\n") == 1
    assert "private\n" not in log.replace("private/file", "")
    assert (yard.home / "data/file").read_text() == "data\nmore\n"


def test_exit_codes_signals_and_missing_commands_are_told_as_without_a_fence(yard: Yard) -> None:
    assert yard.run("exit 7")[0]["exit_code"] == 7
    killed = yard.run("kill -9 $$")[0]
    assert (killed["reason"], killed["signal"]) == ("agent_signal", 9)
    order = Order(issue=Issue(id="none-1"), agent=Agent(argv=("/nonexistent/agent",)))
    folder = yard.publish_order(order)
    yard.start(folder).wait(60)
    result = json.loads((folder / files.RESULT).read_bytes().partition(b"\n")[0])
    assert (result["reason"], result["exit_code"]) == ("command_not_found", 127)
    assert result["agent_began"] is False


def test_a_command_that_cannot_be_executed_is_told(yard: Yard) -> None:
    """It is there and executable; the kernel refuses it only behind the fence."""
    agent = yard.home / "bin/agent"
    agent.write_text("#!/nonexistent/interpreter\n")
    agent.chmod(0o755)
    order = Order(issue=Issue(id="bad-1"), agent=Agent(argv=("agent",)))
    folder = yard.publish_order(order)
    yard.start(folder).wait(60)
    result = json.loads((folder / files.RESULT).read_bytes().partition(b"\n")[0])
    assert (result["state"], result["reason"]) == ("failed", "command_not_found")


def test_processes_outside_can_be_neither_signalled_nor_looked_into(yard: Yard) -> None:
    by = subprocess.Popen([*yard.argv, "sleep", "300"], env={"SECRET": "of-another"})
    try:
        wait(lambda: b"sleep" in Path(f"/proc/{by.pid}/cmdline").read_bytes())
        _, log, _ = yard.run(
            f"kill -TERM {by.pid} && echo KILLED; cat /proc/{by.pid}/environ; "
            f"ls -l /proc/{by.pid}/root/ /proc/{by.pid}/cwd/ && echo LOOKED; true"
        )
        assert "KILLED" not in log
        assert "of-another" not in log
        assert "LOOKED" not in log
        assert by.poll() is None
    finally:
        by.kill()
        by.wait()


def test_mounts_cannot_be_undone(inside: Yard) -> None:
    script = f"""
umount {inside.home}/.ssh && echo UNDONE
mount -o remount,rw / && echo UNDONE
unshare -rm sh -c 'umount {inside.home}/.ssh; umount -l {inside.root}; umount /proc;
  mount -o remount,rw,bind / / ; echo x > {inside.home}/x; cat {inside.home}/.ssh/id_ed25519'
unshare -rmp --fork sh -c 'mount -t proc proc /proc && cat /proc/1/root{inside.home}/.ssh/*'
for fd in /proc/self/fd/* /proc/1/fd/* /proc/1/root/*; do ls -l $fd; done
cat /proc/1/root{inside.home}/.ssh/id_ed25519 /proc/1/environ /proc/1/cwd/*
true"""
    _, log, _ = inside.run(script)
    assert "UNDONE" not in log
    assert "of the user" not in log
    assert not (inside.home / "x").exists()


def test_it_has_no_rights_to_get_more(inside: Yard) -> None:
    _, log, _ = inside.run("grep -E '^(Cap|NoNewPrivs)' /proc/self/status")
    said = dict(line.split(":\t") for line in log.splitlines())
    assert said.pop("NoNewPrivs") == "1"
    assert set(said.values()) == {"0" * 16}


#: Leaves processes in every way that has ever leaked one; each has its mark in its arguments.
LEAVE = """
sleep 300.{mark} &
setsid sleep 301.{mark} &
(setsid sh -c '(exec sleep 302.{mark}) &' > /dev/null 2>&1 &)
env -i setsid /bin/sh -c '(env -i /bin/sleep 303.{mark} < /dev/null > /dev/null 2>&1 &)'
setsid sh -c 'ulimit -x 1000; trap "" TERM; exec env -i /bin/sleep 304.{mark} > /dev/null 2>&1' &
touch up
"""


def test_a_killed_supervisor_leaves_nobody_behind(inside: Yard) -> None:
    mark = str(int.from_bytes(os.urandom(6), "big"))
    script = LEAVE.replace("{mark}", mark) + f"sleep 305.{mark}"
    with inside.running(script) as (supervisor, folder, _, _):
        wait(lambda: len(named(mark)) >= 6 + 1)  # and the shell
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait(30)
        wait(lambda: not named(mark))
    # nobody had to look for them: and who looks finds the worker lost
    with inside.user():
        assert recover.recover(folder).state is State.LOST


def test_an_agent_that_ends_leaves_nothing_and_one_that_is_stopped_neither(yard: Yard) -> None:
    mark = str(int.from_bytes(os.urandom(6), "big"))
    result, _, _ = yard.run(LEAVE.replace("{mark}", mark))
    assert result["state"] == "done"
    assert not named(mark), [Path(f"/proc/{pid}/status").read_text() for pid in named(mark)]


def test_leftovers_are_asked_before_they_are_killed(inside: Yard) -> None:
    script = """sh -c 'trap "echo bye >bye; exit" TERM; touch ready
      while :; do sleep 0.05; done' &
until test -e ready; do sleep 0.02; done"""
    _, _, folder = inside.run(script)
    assert (folder / "work/bye").read_text() == "bye\n"


def test_a_killed_first_process_is_a_killed_agent(inside: Yard) -> None:
    with inside.running("sleep 300") as (supervisor, folder, agent, first):
        os.kill(first, signal.SIGKILL)
        assert supervisor.wait(30) == 1
        assert not process.start_time(agent)
    result = json.loads((folder / files.RESULT).read_bytes().partition(b"\n")[0])
    assert (result["reason"], result["signal"]) == ("agent_signal", 9)


def test_a_stopped_first_process_does_not_hold_up_a_stop(inside: Yard) -> None:
    script = "trap '' TERM; while :; do sleep 0.1; done"
    with inside.running(script) as (supervisor, folder, agent, first):
        os.kill(first, signal.SIGSTOP)
        with inside.user():
            stop.request(folder, 0.3)
        assert supervisor.wait(40) == 1
        assert not process.start_time(agent)


def test_an_interactive_agent_has_its_terminal(inside: Yard) -> None:
    result, log, _ = inside.run(
        "test -t 0 && test -t 1 && echo on a terminal; (echo controlled) > /dev/tty; stty size",
        interactive=True,
    )
    assert result["state"] == "done", (result, log)
    assert "on a terminal" in log
    assert "controlled" in log


def test_where_no_fence_can_be_made_a_required_one_fails_the_worker(open_path: Path) -> None:
    yard = Yard(open_path, os.getuid(), "none")
    result, _, folder = yard.run("touch ran")
    assert (result["state"], result["reason"]) == ("failed", "no_fence")
    assert result["agent_began"] is False
    assert not (folder / "work/ran").exists()


def test_off_is_off_and_said(open_path: Path) -> None:
    yard = Yard(open_path, os.getuid(), "none")
    order = Order(issue=Issue(id="off-1"), agent=Agent(argv=("sh", "-c", "cat ~/.netrc")))
    folder, _ = publish.publish(yard.root, order, yard.env, fence={"mode": "off"})
    assert yard.start(folder).wait(60) == 0
    assert (folder / files.LOG).read_text() == "of the user\n"
    result = json.loads((folder / files.RESULT).read_bytes().partition(b"\n")[0])
    assert result["fence"] == "off"


@pytest.mark.parametrize("old", [False, True], ids=["at once", "in two steps"])
def test_where_one_call_of_the_kernel_is_missing_the_fence_is_made_in_two_steps(
    far, tmp_path: Path, old: bool
) -> None:
    """As behind a filter of system calls that does not know `clone3`."""
    said = tmp_path / "said"
    order = far.shell(f"echo $$ >{said}; ls -d {far.root}/sealed; exec sleep 600")
    folder = far.publish(order, fence={"mode": "required", "only": [start.NAMESPACE]})
    patch = "from outpost_worker.fence import calls; calls._CLONE3 = 99999" if old else "pass"
    running = far.start(folder, patch=patch)
    far.working(folder)
    assert far.status(folder).fence == "namespace"
    agent = process.look(files.load(str(folder), files.STATE)["agent"]["pid"])
    init = process.look(agent.parent)
    assert init.parent == running.pid
    assert int(far.wait(lambda: said.exists() and said.read_text())) < 10  # its number inside
    far.start(folder, verb="stop").wait()
    running.wait(60)
    assert far.status(folder).state is State.STOPPED
    assert b"sealed" not in (folder / files.LOG).read_bytes().partition(b":")[0]
    far.gone(init.pid, agent.pid)


def test_what_another_supervisor_makes_at_this_moment_is_its_users_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two agents begin at once: what one found missing is there when it wants to make it."""
    (tmp_path / "commands").mkdir()
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "hooks").symlink_to("elsewhere")
    monkeypatch.setattr(places, "_links", lambda folder: {})
    found = places._of_its_user(str(tmp_path), ".claude")
    assert f"{tmp_path}/commands" in found
    assert f"{tmp_path}/settings.json" in found
    assert f"{tmp_path}/rules" in found
    assert f"{tmp_path}/hooks" not in found  # an agent's, to have a rule made elsewhere
