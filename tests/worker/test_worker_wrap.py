"""A command that stands before the agent's: what it keeps, and whose fault is whose."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from outpost_core.types import REASONS, State
from outpost_worker.folder import publish
from outpost_worker.recovery import recover
from outpost_worker.run import stop

#: Becomes the agent.
EXECS = ["nice", "-n", "1"]
#: Stays in between, as the client of a container does.
STAYS = ["/bin/sh", "-c", '"$@"; exit $?', "sh"]
FENCES = [{"mode": "off"}, None]
OFF = FENCES[0]


def _log(folder: Path) -> bytes:
    return (folder / "output.log").read_bytes()


def _ready(far, folder: Path) -> None:
    far.wait(lambda: (folder / "output.log").exists() and b"ready" in _log(folder))


@pytest.mark.parametrize("fence", FENCES, ids=["unfenced", "fenced"])
@pytest.mark.parametrize("wrap", [EXECS, STAYS], ids=["execs", "stays"])
def test_the_agent_runs_below_it_and_its_exit_code_is_told(far, fence, wrap):
    script = "nice; echo $0 $1 $HOW; exit 42"
    order = far.order("/bin/sh", "-c", script, "zero", "one two", env={"HOW": "here"})
    folder, result = far.run(order, fence=fence, wrap=wrap)
    assert (result.state, result.reason, result.exit_code) == (State.FAILED, "agent_failed", 42)
    plain = b"%d" % os.nice(0)
    niceness = b"%d" % (os.nice(0) + 1) if wrap is EXECS else plain
    assert _log(folder) == niceness + b"\nzero one two here\n"


@pytest.mark.parametrize("fence", FENCES, ids=["unfenced", "fenced"])
def test_a_signal_is_exact_through_one_that_becomes_the_agent(far, fence):
    _, result = far.run(far.shell("kill -SEGV $$"), fence=fence, wrap=EXECS)
    assert (result.reason, result.signal, result.exit_code) == ("agent_signal", 11, None)


def test_one_that_stays_hands_on_what_it_makes_of_a_signal(far):
    _, result = far.run(far.shell("kill -SEGV $$"), fence=OFF, wrap=STAYS)
    assert (result.reason, result.signal, result.exit_code) == ("agent_failed", None, 128 + 11)


@pytest.mark.parametrize("fence", FENCES, ids=["unfenced", "fenced"])
@pytest.mark.parametrize("wrap", [EXECS, STAYS], ids=["execs", "stays"])
def test_a_missing_agent_is_the_agents_and_not_the_wrappers(far, fence, wrap):
    folder, result = far.run(far.order("no-such-agent"), fence=fence, wrap=wrap)
    assert (result.state, result.reason, result.exit_code) == (
        State.FAILED, "command_not_found", 127,
    )  # fmt: skip
    assert result.message == "no-such-agent: there is no such command"
    assert result.agent_began is False
    assert _log(folder) == b""


@pytest.mark.parametrize("fence", FENCES, ids=["unfenced", "fenced"])
def test_a_missing_wrapper_is_an_error_of_its_own(far, fence):
    folder, result = far.run(far.order("/bin/echo", "ran"), fence=fence, wrap=["no-such-sandbox"])
    assert (result.state, result.reason) == (State.FAILED, "wrapper_not_found")
    assert result.message == "no-such-sandbox: there is no such command"
    assert (result.agent_began, result.exit_code) == (False, None)
    assert "wrapper_not_found" in REASONS
    assert _log(folder) == b""


@pytest.mark.parametrize("fence", FENCES, ids=["unfenced", "fenced"])
def test_a_wrapper_that_cannot_be_executed_is_not_the_agents_fault(far, tmp_path, fence):
    broken = tmp_path / "sandbox"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    _, result = far.run(far.order("/bin/echo", "ran"), fence=fence, wrap=[str(broken)])
    assert result.reason == "wrapper_not_found"
    assert str(broken) in result.message


def test_the_wrapper_is_not_looked_for_where_an_agent_can_write(far, tmp_path):
    planted = tmp_path / "planted"
    planted.mkdir()
    tool = planted / "sandbox"
    tool.write_text("#!/bin/sh\necho planted\n")
    tool.chmod(0o755)
    env = {"PATH": f"{os.path.relpath(planted, far.root)}:.:{os.environ['PATH']}"}
    folder = far.publish(far.order("/bin/true"), env=env, fence=OFF, wrap=["sandbox"])
    far.start(folder, cwd=str(far.root)).wait(60)
    assert far.result(folder).reason == "wrapper_not_found"


def test_it_is_told_where_the_agent_works(far):
    wrap = ["/bin/sh", "-c", 'echo "$0 $1 $2 $3"; shift 3; exec "$@"']
    wrap += ["{work}", "{exchange}", "{worker}", "{issue} {prompt} {x}"]
    folder = far.publish(far.order("/bin/echo", "{issue}", prompt="secret"), fence=OFF, wrap=wrap)
    far.start(folder).wait(60)
    name, issue = folder.name, folder.name.rpartition(".")[0]
    told = f"{folder}/work {folder}/exchange {name} {issue} {{prompt}} {{x}}\n{issue}\n"
    assert _log(folder).decode() == told


def test_the_same_order_with_another_wrapper_is_the_same_worker(far):
    order = far.shell("exit 3")
    folder = far.publish(order, fence=OFF, wrap=EXECS)
    again, made = publish.publish(far.root, order, {"PATH": "/bin"}, wrap={"argv": STAYS})
    assert (again, made) == (folder, False)
    assert json.loads((folder / "launch.json").read_text())["wrap"] == {"argv": EXECS}
    far.start(folder).wait(60)
    assert far.result(folder).exit_code == 3


def test_it_is_sealed_and_nobody_else_can_change_it(far):
    folder = far.publish(far.order("/bin/echo", "ran"), fence=OFF, wrap=EXECS)
    launch = json.loads((folder / "launch.json").read_text())
    (folder / "launch.json").write_text(json.dumps({**launch, "wrap": {"argv": ["/bin/echo"]}}))
    assert far.start(folder).wait(60) == 2
    assert far.result(folder).reason == "broken"
    assert not (folder / "output.log").exists()


@pytest.mark.parametrize("fence", FENCES, ids=["unfenced", "fenced"])
def test_an_agent_below_one_that_stays_has_its_whole_grace(far, fence):
    # longer than what an agent leaves behind gets
    script = "trap 'sleep 3; echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    folder = far.publish(far.shell(script), fence=fence, wrap=STAYS)
    running = far.start(folder)
    _ready(far, folder)
    stop.request(folder, 30)
    running.wait(60)
    assert _log(folder).endswith(b"bye\n")
    assert far.result(folder).state is State.STOPPED


@pytest.mark.parametrize("wrap", [EXECS, STAYS], ids=["execs", "stays"])
def test_a_deaf_tree_below_it_is_killed_after_the_grace(far, wrap):
    deaf = "trap '' TERM; setsid sh -c 'echo ready; sleep 300' & sleep 300"
    folder = far.publish(far.shell(deaf), fence=OFF, wrap=wrap)
    running = far.start(folder)
    _ready(far, folder)
    stop.request(folder, 0.2)
    running.wait(60)
    assert far.result(folder).state is State.STOPPED
    assert not far.left(folder)


@pytest.mark.parametrize("wrap", [EXECS, STAYS], ids=["execs", "stays"])
def test_a_recovery_ends_the_whole_tree_below_it(far, wrap):
    folder = far.publish(
        far.shell("setsid sleep 300 & echo ready; sleep 300"), fence=OFF, wrap=wrap
    )
    running = far.start(folder)
    _ready(far, folder)
    os.kill(running.pid, signal.SIGKILL)
    running.wait(60)
    result = recover.recover(folder)
    assert (result.state, result.reason) == (State.LOST, "lost_process")
    assert not far.left(folder)


def test_in_files_of_its_own_the_agent_is_looked_for_there(far, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "only-there").symlink_to("/bin/echo")
    wrap = ["env", f"PATH={inside}"]
    folder, result = far.run(far.order("only-there", "ran"), fence=OFF, wrap=wrap, own_files=True)
    assert result.state is State.DONE
    assert _log(folder) == b"ran\n"
    _, result = far.run(far.order("cat"), fence=OFF, wrap=wrap, own_files=True)
    assert (result.reason, result.exit_code) == ("command_not_found", 127)
    assert result.message.startswith("cat: ")
    assert result.agent_began is True, "nobody knows: the agent itself may have exited with 127"


def test_an_interactive_agent_has_its_terminal_through_it(far):
    order = far.shell("test -t 0 && test -t 1 && ps -o tty= -p $$ && echo it is", interactive=True)
    folder, result = far.run(order, fence=OFF, wrap=EXECS)
    assert result.state is State.DONE
    assert b"it is" in _log(folder)
