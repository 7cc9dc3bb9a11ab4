"""The supervisor around a bare command: what the agent gets, and what its end is called."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pty
import shlex
import signal
import subprocess
import sys

import farcode
import pytest

from outpost_core import wire
from outpost_core.types import REASONS, Agent, Issue, Order, Result, Secrets, State
from outpost_worker.folder import outcome

CANARY = "canary-4f7c'\"\n-second-line-of-it"


def test_success_is_done(far):
    folder, result = far.run(far.order("/bin/true"))
    assert (result.state, result.reason, result.exit_code) == (State.DONE, "ok", 0)
    assert result.started_at <= result.finished_at
    assert (folder / "output.log").read_bytes() == b""
    assert result.log_bytes == 0
    assert not far.left(folder)


@pytest.mark.parametrize("code", [1, 3, 126, 127, 137, 255])
def test_exit_codes_are_exact(far, code):
    _, result = far.run(far.shell(f"exit {code}"))
    assert (result.state, result.reason) == (State.FAILED, "agent_failed")
    assert (result.exit_code, result.signal) == (code, None)


@pytest.mark.parametrize("number", [1, 2, 9, 11, 13, 15])
def test_signals_are_exact(far, number):
    _, result = far.run(far.shell(f"kill -{number} $$; sleep 5"))
    assert (result.state, result.reason) == (State.FAILED, "agent_signal")
    assert (result.exit_code, result.signal) == (None, number)


def test_a_command_that_is_not_there(far):
    _, result = far.run(far.order("no-such-command-here"))
    assert (result.reason, result.exit_code) == ("command_not_found", 127)
    assert "no-such-command-here" in result.message


def test_a_command_that_cannot_be_executed(far, tmp_path):
    plain = tmp_path / "plain.txt"
    plain.write_text("not a program")
    _, result = far.run(far.order(str(plain)))
    assert (result.reason, result.exit_code) == ("command_not_found", 126)
    plain.chmod(0o755)
    _, result = far.run(far.order(str(plain)))
    assert (result.reason, result.exit_code) == ("command_not_found", 126)


def test_no_command_at_all(far):
    _, result = far.run(far.order(""))
    assert result.reason == "command_not_found"


def test_a_prompt_too_long_for_an_argument_is_read_from_its_file(far):
    """Linux refuses an argument of 128 KiB or more; an issue may be longer."""
    folder, result = far.run(far.order("echo", "{prompt}", prompt="x" * 200_000))
    assert result.state is State.DONE
    log = (folder / "output.log").read_text()
    assert log.startswith(f"Your task is in the file {folder}/exchange/prompt.md.")
    assert (folder / "exchange/prompt.md").stat().st_size == 200_000


def test_an_argument_too_long_is_said_with_its_cure(far):
    _, result = far.run(far.order("echo", "y" * 200_000))
    assert (result.state, result.reason) == (State.FAILED, "command_not_found")


def test_output_of_an_instant_exit_is_kept_in_order(far):
    folder, result = far.run(far.shell("printf one; printf two >&2; printf three"))
    assert (folder / "output.log").read_bytes() == b"onetwothree"
    assert result.log_bytes == 11


def test_output_is_byte_exact(far, tmp_path, python):
    data = os.urandom(5_000_000).replace(b"\n", b"\xff")
    (tmp_path / "data").write_bytes(data)
    folder, _ = far.run(far.order("cat", str(tmp_path / "data")))
    assert (folder / "output.log").read_bytes() == data


def test_arguments_arrive_as_they_are(far, python):
    hostile = [
        "a b",
        "'",
        '"',
        "\n",
        "$(touch x)",
        ";",
        "x;",
        "`id`",
        "é",
        "*",
        "",
        "{unknown}",
        "{",
    ]
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    folder, _ = far.run(far.order(python, "-c", code, *hostile))
    assert json.loads((folder / "output.log").read_bytes()) == hostile
    assert os.listdir(folder / "work") == []


def test_placeholders_are_replaced_once(far, python):
    prompt = "Fix {issue} in {prompt_file}; it is {prompt}"
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    order = far.order(python, "-c", code, "{prompt}", "see {prompt_file} of {issue}", prompt=prompt)
    folder, _ = far.run(order)
    said = json.loads((folder / "output.log").read_bytes())
    assert said == [prompt, f"see {folder}/exchange/prompt.md of {order.issue.id}"]


def test_environment_and_its_order(far):
    agent = Agent(argv=("env",), env={"A": "agent", "B": "agent"})
    order = Order(
        issue=Issue(id="env-1"),
        agent=agent,
        attempt=3,
        prompt="p",
        env={"B": "order", "C": "order", "ODD": "\udcff=\n"},
        secrets=Secrets({"C": "secret-value"}),
    )
    folder = far.publish(order, {"PATH": "/usr/bin:/bin", "A": "base", "Z": "base"})
    far.start(folder).wait(30)
    env = (folder / "output.log").read_bytes()
    for line in (
        b"A=agent\n",
        b"B=order\n",
        b"C=***\n",
        b"Z=base\n",
        b"ODD=\xff=\n\n",
        b"OUTPOST_WORKER=env-1.3\n",
        b"OUTPOST_ISSUE=env-1\n",
        b"OUTPOST_ATTEMPT=3\n",
        b"OUTPOST_WORKER_DIR=%s/exchange\n" % os.fsencode(folder),
        b"OUTPOST_PROMPT_FILE=%s/exchange/prompt.md\n" % os.fsencode(folder),
    ):
        assert line in env
    assert b"OUTPOST_FAULT" not in env
    assert b"OUTPOST_BRANCH" not in env


def test_the_agents_process_is_clean(far, python):
    code = """
import json, os, signal, sys
ignored = [n for n in range(1, 32) if n not in (9, 19) and signal.getsignal(n) == signal.SIG_IGN]
print(json.dumps({
    "cwd": os.getcwd(), "session": os.getsid(0) == os.getpid() == os.getpgid(0),
    "stdin": os.readlink("/proc/self/fd/0"), "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
    "same": os.readlink("/proc/self/fd/1") == os.readlink("/proc/self/fd/2"),
    "ignored": ignored, "blocked": [int(n) for n in signal.pthread_sigmask(0, [])],
}))
"""
    folder, _ = far.run(far.order(python, "-c", code))
    said = json.loads((folder / "output.log").read_bytes())
    assert said["cwd"] == str(folder / "work")
    assert said["session"]
    assert said["same"]
    assert said["stdin"] == "/dev/null"
    assert len(said["fds"]) == 4  # 0, 1, 2 and the listing itself
    assert said["ignored"] == [13, 25]  # Python's own
    assert said["blocked"] == []


def test_the_agent_hears_what_the_starter_of_its_supervisor_ignored(far, python):
    """As nohup ignores hang-ups, and a script interrupts for what it puts into the background."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTSTP)

    def ignore():
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    code = "import signal; print(*(signal.getsignal(n) == signal.SIG_IGN for n in NUMBERS))"
    code = code.replace("NUMBERS", repr(tuple(map(int, numbers))))
    folder, _ = far.run(far.order(python, "-c", code), preexec_fn=ignore)
    assert (folder / "output.log").read_text().split() == ["False"] * len(numbers)


def test_secrets_are_nowhere_but_with_the_agent(far, tmp_path):
    seen = tmp_path / "seen"
    script = f"""
printf %s "$TOKEN" > {shlex.quote(str(seen))}
ls "$OUTPOST_WORKER_DIR"
printf '%s|' "$TOKEN"; printf '%.9s' "$TOKEN"; sleep 0.1; printf '%s' "$TOKEN" | tail -c +10
cat /proc/$PPID/cmdline | tr '\\0' ' '
exit 1"""
    order = far.shell(script, secrets=Secrets({"TOKEN": CANARY, "SHORT": "abc"}))
    folder = far.publish(order)
    assert (folder / "secrets.json").stat().st_mode & 0o777 == 0o600
    far.start(folder).wait(30)
    assert seen.read_text() == CANARY
    log = (folder / "output.log").read_text()
    assert "secrets.json" not in log
    assert "***|***" in log
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"canary" not in path.read_bytes(), path
            assert path.stat().st_mode & 0o077 == 0, path


def test_an_attempt_never_begins_twice(far, tmp_path):
    mark = tmp_path / "mark"
    order = far.shell(f"echo ran >> {mark}")
    folder = far.publish(order)
    many = [far.start(folder) for _ in range(8)]
    codes = sorted(one.wait(30) for one in many)
    assert codes == [0] + [2] * 7
    assert far.start(folder).wait(30) == 2
    assert mark.read_text() == "ran\n"
    assert far.result(folder).state is State.DONE


def test_the_log_is_cut_at_its_cap_and_the_agent_runs_on(far, tmp_path):
    mark = tmp_path / "mark"
    script = f"head -c 100000 /dev/zero; echo end; echo ran > {mark}"
    folder, result = far.run(far.shell(script, limits={"log_bytes": 1000}))
    log = (folder / "output.log").read_bytes()
    assert log == b"\0" * 1000 + b"\n[outpost: the log was cut here, at 1000 bytes]\n"
    assert (result.log_bytes, result.log_truncated) == (len(log), True)
    assert mark.exists()
    assert result.state is State.DONE


def test_a_log_of_exactly_its_cap_is_whole(far):
    folder, result = far.run(far.shell("printf 0123456789", limits={"log_bytes": 10}))
    assert (folder / "output.log").read_bytes() == b"0123456789"
    assert not result.log_truncated


def test_the_end_of_a_cut_log_is_kept_for_what_reads_it(far):
    usage = '{"input_tokens": 7, "output_tokens": 5}'
    last = '{"type":"result","subtype":"success","is_error":false,"num_turns":2,'
    last += f'"result":"all done","session_id":"s-1","total_cost_usd":0.5,"usage":{usage}}}'
    script = f"head -c 300000 /dev/zero; echo; echo {shlex.quote(last)}"
    order = far.shell(script, limits={"log_bytes": 1000}, output="claude-stream-json")
    _, result = far.run(order)
    assert result.log_truncated
    assert (result.session, result.message) == ("s-1", "all done")
    assert (result.usage.output_tokens, result.usage.cost_usd) == (5, 0.5)


def test_an_agent_that_reports_an_error_has_failed(far):
    last = '{"type":"result","subtype":"success","is_error":true,"result":"no","session_id":"s"}'
    _, result = far.run(far.shell(f"echo {shlex.quote(last)}", output="claude-stream-json"))
    assert (result.state, result.reason, result.exit_code) == (State.FAILED, "agent_failed", 0)
    assert result.message == "no"


#: The log is a file on a full disk; a link to one would not be followed.
FULL_LOG = (
    "import os; from outpost_worker.folder import files; own = files.open_own; files.open_own ="
    " lambda path, how: os.open('/dev/full', how) if path.endswith('.log') else own(path, how)"
)


def test_a_full_disk_ends_the_log_and_not_the_agent(far, tmp_path):
    mark = tmp_path / "mark"
    folder = far.publish(far.shell(f"echo lost; echo ran > {mark}"))
    far.start(folder, patch=FULL_LOG).wait(30)
    result = far.result(folder)
    assert mark.exists()
    assert (result.state, result.log_bytes, result.log_truncated) == (State.DONE, 0, True)
    assert os.strerror(errno.ENOSPC) in result.message


def test_a_failure_on_a_full_disk_says_so(far):
    folder = far.publish(far.shell("echo lost; exit 4"))
    far.start(folder, patch=FULL_LOG).wait(30)
    assert (far.result(folder).reason, far.result(folder).exit_code) == ("disk_full", 4)


def test_a_defect_is_a_result_too(far):
    folder = far.publish(far.order("/bin/true"))
    (folder / "work").write_text("in the way")
    far.start(folder).wait(30)
    result = far.result(folder)
    assert (result.state, result.reason) == (State.FAILED, "internal")
    assert "FileExistsError" in result.message
    assert "Traceback" in (folder / "debug.log").read_text()


def test_results_have_the_keys_of_the_type():
    made = outcome.result("done", "ok")
    assert made == wire.to_json(Result(state=State.DONE))
    assert list(made) == [field.name for field in dataclasses.fields(Result)]
    assert len(outcome.result("done", "ok", "é" * 5000)["message"]) == outcome.LONGEST_MESSAGE


def test_every_reason_is_a_known_one():
    for reason in ("stopped", "terminated", "timeout", "idle_timeout"):
        assert outcome.of_ending(reason, {})[1] in REASONS


@pytest.mark.parametrize("terminal", [False, True])
def test_the_lean_path_imports_nothing_heavy(far, tmp_path, terminal):
    """One careless import would cost every worker more than all of its own work."""
    folder = far.publish(far.order("/bin/true"))
    heavy = (
        "asyncio collections contextlib ctypes dataclasses enum functools json pathlib re signal"
        " struct subprocess typing"
    )
    code = f"""
import sys; sys.path += {farcode.ROOTS!r}
from outpost_worker.run.supervise import run
run({str(folder)!r})
open({str(tmp_path / "said")!r}, "w").write(" ".join({{*{heavy!r}.split()}} & {{*sys.modules}}))
"""
    argv = [sys.executable, "-I", "-S", "-c", code]
    ours, theirs = pty.openpty() if terminal else (-1, subprocess.DEVNULL)
    subprocess.run(argv, stdin=theirs, stdout=theirs, check=True, timeout=30)
    if terminal:
        os.close(ours)
        os.close(theirs)
    assert (tmp_path / "said").read_text() == ""
    assert far.result(folder).state is State.DONE


def test_it_can_be_run_as_a_module(far):
    folder = far.publish(far.order("/bin/true"))
    module = [sys.executable, "-m", "outpost_worker"]
    env = {**os.environ, "PYTHONPATH": farcode.PYTHONPATH}
    assert subprocess.run([*module, "run", folder], env=env, timeout=30).returncode == 0
    said = subprocess.run([*module, "status", folder], env=env, capture_output=True, timeout=30)
    assert json.loads(said.stdout)["state"] == "done"
    wrong = subprocess.run([*module, "dance", folder], env=env, capture_output=True, timeout=30)
    assert wrong.returncode == 2
    assert b"usage" in wrong.stderr
    missing = subprocess.run([*module, "status", "/nowhere/x.1"], env=env, capture_output=True)
    assert missing.returncode == 4
    assert b"x.1" in missing.stderr
