"""Agents that write what is true about them, and programs that act on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess

import pytest

from outpost_shared import process

DEAD = "deadbeef" * 5
FORGED = {
    "state": "done", "reason": "ok", "message": "forged", "branch": "main", "commit": DEAD,
    "pr_url": None, "exit_code": 0, "signal": None, "checkpoint": None, "session": None,
    "started_at": 1.0, "finished_at": 2.0, "log_bytes": 0, "log_truncated": False,
    "cost_usd": -1e9, "agent_began": True, "usage": {"cost_usd": -1e9, "input_tokens": None},
}  # fmt: skip


@pytest.mark.parametrize("kill", [False, True], ids=["supervisor lives", "supervisor is killed"])
def test_a_forged_result_is_not_believed(desk, kill):
    code = f"""
forged = {FORGED!r}
for name in ("result.json", "agent.json"):
    tried(name, place, name, json.dumps(forged))
"""
    if kill:
        code += """
def kill():
    os.kill(json.load(open(os.path.join(folder, "supervisor.json")))["pid"], 9)
tried("killed", kill)
"""
    said = desk.spawn("r-1", code + "time.sleep(1); sys.exit(3)")
    desk.made("result.json", *(["killed"] if kill else []))
    told = json.dumps(desk.worker("r-1.1"))
    for text in (said, told, desk.run("cost").stdout):
        assert DEAD not in text
        assert "1000000000" not in text
        assert " done at" not in text
    assert desk.status("r-1.1") in ("failed", "lost")


FILES = ("result.json", "state.json", "order.json", "launch.json", "supervisor.json", "output.log")


@pytest.mark.parametrize(
    ("desk", "kind"),
    # a fence refuses all of them alike
    [("auto", "fifo"), *(("off", kind) for kind in ("fifo", "link", "folder", "nonsense", "vast"))],
    indirect=["desk"],
)
def test_no_file_of_one_worker_holds_up_or_hides_another(desk, kind):
    """Each of the bad workers has another of its files replaced."""
    make = {
        "fifo": "os.mkfifo(path)",
        "link": "os.symlink('/dev/zero', path)",
        "folder": "os.mkdir(path)",
        "nonsense": """open(path, 'w').write('{"state": "bogus", "detail": 5, "pid": -1}')""",
        "vast": "open(path, 'w').truncate(1 << 42)",
    }[kind]
    desk.spawn("ok-1", "hold()", wait=False)
    for number, name in enumerate(FILES, 1):
        desk.spawn(f"bad-{number}", f"""
path = os.path.join(folder, {name!r})
def put():
    with __import__("contextlib").suppress(FileNotFoundError):
        os.rename(path, path + ".was")
    {make}
tried("put {name}", put)
did("ready {name}")
hold()
""", wait=False)  # fmt: skip
    for name in FILES:
        desk.until(lambda name=name: desk.said(f"ready {name}"))
    desk.made(*(f"put {name}" for name in FILES))
    assert desk.run("status").returncode in (0, 1)
    states = {one["id"]: one["status"] for one in desk.json("workers", "--all")["workers"]}
    assert states["ok-1.1"] == "working"
    bad = [f"bad-{number}.1" for number in range(1, len(FILES) + 1)]
    assert set(bad) < states.keys()
    desk.run("logs", bad[-1])  # which would hang, and fail this by that
    assert desk.run("stop", "ok-1", "--grace", "1").returncode == 0
    desk.run("wait", "ok-1.1")
    assert desk.status("ok-1.1") == "stopped"
    desk.run("stop", *bad, "--grace", "1")


@pytest.mark.parametrize("how", ["supervisor.json", "state.json"])
def test_a_stop_signals_nobody_that_a_worker_names(desk, how):
    by = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        start = process.start_time(by.pid)
        boot = process.boot_id()
        named = {"pid": by.pid, "start": start, "boot": boot, "at": 1.0}
        if how == "state.json":
            agent = {"pid": by.pid, "start": start, "pipe": ""}
            named = {"state": "working", "detail": "", "updated_at": 1.0, "agent": agent}
        desk.spawn("c-1", f"""
tried("named", place, {how!r}, {json.dumps(named)!r})
open(os.path.join(loot, "ready"), "w").close()
hold()
""", wait=False)  # fmt: skip
        desk.until((desk.loot / "ready").exists)
        desk.made("named")
        desk.run("stop", "c-1", "--grace", "1")
        desk.go()
        desk.run("status")
        desk.run("wait", "c-1.1")
        assert desk.status("c-1.1") in ("stopped", "failed", "lost", "done")
        assert by.poll() is None
    finally:
        by.kill()
        by.wait()


@pytest.mark.parametrize("what", ["pr_command", "rig", "argv", "launch"])
def test_a_recovery_runs_nothing_that_was_written_into_the_workers_folder(desk, what):
    program = desk.trap("program")
    change = {
        "pr_command": 'order["delivery"]["pr_command"] = ["sh", "-c", RUN]',
        "rig": 'order["rig"] = "ext::sh -c " + RUN.replace(" ", "% ")',
        "argv": 'order["agent"]["argv"] = ["sh", "-c", RUN]; order["digest"] = "0" * 64',
        "launch": (
            'launch["env"]["PATH"] = loot; launch["root"] = loot; '
            'launch["env"]["GIT_SSH_COMMAND"] = RUN'
        ),
    }[what]
    (desk.loot / "git").symlink_to(program)
    ended = {**FORGED, "commit": None, "branch": None, "cost_usd": 0.0, "usage": {}, "at": 1.0}
    desk.spawn("d-1", f"""
open("r1", "w").write("r")
RUN = {str(program)!r} + " </dev/null"
def rewrite():
    order = json.load(open(os.path.join(folder, "order.json")))
    launch = json.load(open(os.path.join(folder, "launch.json")))
    {change}
    place("order.json", json.dumps(order))
    place("launch.json", json.dumps(launch))
    place("agent.json", json.dumps({ended!r}))
def kill():
    os.kill(json.load(open(os.path.join(folder, "supervisor.json")))["pid"], 9)
tried("rewritten", rewrite)
tried("killed", kill)
""", wait=False)  # fmt: skip
    desk.run("wait", "d-1.1")
    assert desk.status("d-1.1") in ("stopped", "failed", "lost", "done")
    desk.made("rewritten", "killed")
    desk.run("clean", "d-1.1")
    desk.nothing_ran()


@pytest.mark.parametrize("where", ["the note", "a link", "the exchange"])
def test_no_file_of_the_user_is_removed_or_overwritten(desk, where):
    precious = desk.home / "precious"
    precious.write_text("x\n")
    act = {
        "the note": """
import subprocess as s
head = s.run(["git", "rev-parse", "HEAD", "HEAD^{tree}"], capture_output=True, text=True).stdout
place("checkpoint", head + PRECIOUS + "\\n")
""",
        "a link": """
for name in ("checkpoint", "result.json", "state.json", "agent.json", "screen", "debug.log",
             "output.log", "lock", ".result.tmp"):
    path = os.path.join(folder, name)
    if os.path.lexists(path):
        os.rename(path, path + ".was")
    os.symlink(PRECIOUS, path)
""",
        "the exchange": """
told = os.environ["OUTPOST_WORKER_DIR"]
os.rename(told, told + ".was")
os.symlink(os.path.dirname(PRECIOUS), told)
""",
    }[where]
    body = "\n".join(f"    {line}" for line in act.splitlines())
    desk.spawn("u-1", f"""
PRECIOUS = {str(precious)!r}
def plant():
{body}
tried("planted", plant)
open("q1", "w").write("q")
git("add", "q1")
git("commit", "-qm", "e")
""")  # fmt: skip
    desk.made("planted")
    desk.run("clean", "u-1.1")
    assert precious.read_text() == "x\n"
    assert (desk.home / "rig.git" / "HEAD").exists()
    assert (desk.home / "seed" / "a").read_text() == "1\n"


def test_the_environment_of_the_caller_is_nowhere(desk):
    """Neither in the agent's own, nor in that of any process that keeps living."""
    desk.spawn("e-1", """
with open(os.path.join(loot, "env"), "w") as file:
    json.dump(dict(os.environ), file)
open(os.path.join(loot, "ready"), "w").close()
hold()
""", wait=False)  # fmt: skip
    desk.until((desk.loot / "ready").exists)
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            if int(name) != os.getpid():
                with open(f"/proc/{name}/environ", "rb") as file:
                    said = file.read()
                if b"of-the-caller" in said and os.fsencode(desk.home) in said:
                    found.append(name)
    desk.go()
    assert not found
    env = json.loads((desk.loot / "env").read_text())
    assert "A_TOKEN" not in env
    assert not {"TMUX", "TMUX_PANE"} & env.keys()
