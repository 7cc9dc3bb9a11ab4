"""The program of an exec outpost: started, heard, ended, and named when it fails."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from outpost_core.backend import BuildContext
from outpost_core.discovery import Plugins
from outpost_core.errors import ConfigError, OutpostError, UnreachableError, UsageError
from outpost_exec import program
from outpost_exec.options import ExecOptions
from outpost_exec.outpost import ExecOutpost
from outpost_exec.plugin import outpost_backends
from outpost_manager.config import load_config
from outpost_shared import children

SERVED = Path(__file__).parent / "served.py"
GREET = (
    "import json,sys,os,time\n"
    "n=json.loads(sys.stdin.readline())['hello']\n"
    "def say(x): print(json.dumps(x), flush=True)\n"
    "say({'outpost':1,'hello':{'nonce':n['nonce'],'server':'script 1','capabilities':[],"
    "'methods':['ping','spawn','list','logs','stop','viewer'],'inflight':4,'max_frame':1<<20,"
    "'time':time.time()}})\n"
)


def make(folder: Path, *command: str, **options: Any) -> ExecOutpost:
    context = BuildContext(state_dir=folder / "state", config_dir=folder)
    return ExecOutpost("vm1", ExecOptions(command=command, **options), context)


def script(folder: Path, code: str, **options: Any) -> ExecOutpost:
    return make(folder, sys.executable, "-c", GREET + code, **options)


def using(outpost: ExecOutpost, use: Callable[[ExecOutpost], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        try:
            return await use(outpost)
        finally:
            await outpost.outpost_close()

    return asyncio.run(run())


def failing(outpost: ExecOutpost) -> OutpostError:
    async def use(outpost: ExecOutpost) -> OutpostError:
        with pytest.raises(OutpostError) as raised:
            await outpost.outpost_ping()
        return raised.value

    error: OutpostError = using(outpost, use)
    return error


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


ONE_PING = "q=json.loads(sys.stdin.readline())\n"


def test_it_registers_and_is_offered() -> None:
    Plugins.load([]).register_outpost(make(Path("/"), "true", capabilities=("clean", "attach")))
    assert outpost_backends().type == "exec"


def test_a_program_that_is_not_there_is_named_with_its_hint(tmp_path: Path) -> None:
    error = failing(make(tmp_path, "no-such-program-1"))
    assert isinstance(error, UnreachableError)
    assert not error.sent
    assert "no-such-program-1" in error.message
    assert "`command` of vm1" in error.hint


def test_a_program_that_cannot_be_executed_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    error = failing(make(tmp_path, "./plain"))
    assert "Permission denied" in error.message


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = failing(make(tmp_path, "true", cwd=Path("nowhere")))
    assert "nowhere" in error.message
    assert "`cwd` of vm1" in error.hint


def test_a_program_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    code = "import sys; sys.stderr.write('x' * 9000 + 'no \\x1b[31mlicence'); sys.exit(3)"
    error = failing(make(tmp_path, sys.executable, "-c", code))
    assert isinstance(error, UnreachableError)
    assert "exit code 3" in error.message
    assert error.message.endswith("licence")
    assert "\x1b" not in error.message
    assert len(error.message) < 4800


def test_a_program_that_dies_later_is_started_anew_and_then_told(tmp_path: Path) -> None:
    code = "sys.stdin.readline(); open('starts','a').write('x'); sys.exit('out of luck')"
    error = failing(script(tmp_path, code))
    assert isinstance(error, UnreachableError)
    assert error.sent
    assert "out of luck" in error.message
    assert (tmp_path / "starts").read_text() == "xx"


def test_a_program_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    error = failing(make(tmp_path, "sleep", "60", start_timeout=0.2))
    assert "did not say hello within 0.2 s" in error.message


def test_it_gets_its_environment_options_and_state_folder(tmp_path: Path) -> None:
    code = ONE_PING + (
        "said=[os.environ['LAB'],n['options'],n['name'],os.environ['OUTPOST_STATE_DIR'],os.getcwd()]\n"
        "say({'id':q['id'],'result':{'ok':True,'detail':json.dumps(said)}}); sys.stdin.read()"
    )
    outpost = script(tmp_path, code, env={"LAB": "north"}, options={"queue": "long"})
    health = using(outpost, lambda outpost: outpost.outpost_ping())
    state = tmp_path / "state"
    assert json.loads(health.detail) == [
        "north", {"queue": "long"}, "vm1", str(state), str(tmp_path),
    ]  # fmt: skip
    assert state.stat().st_mode & 0o077 == 0


def test_a_program_that_ignores_its_end_is_killed_and_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "ENOUGH", 0.1)
    monkeypatch.setattr(children, "_ENOUGH", 0.1)
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + ONE_PING
        + (
            "say({'id':q['id'],'result':{'ok':True,'detail':str(os.getpid())}})\n"
            "while True: time.sleep(1)"
        )
    )
    health = using(script(tmp_path, code), lambda outpost: outpost.outpost_ping())
    assert gone(int(health.detail))


def test_a_program_that_ends_with_its_input_is_not_killed(tmp_path: Path) -> None:
    code = ONE_PING + (
        "say({'id':q['id'],'result':{'ok':True}})\n"
        "while sys.stdin.readline(): pass\n"
        "open('farewell','w').write('in peace')"
    )
    using(script(tmp_path, code), lambda outpost: outpost.outpost_ping())
    assert (tmp_path / "farewell").read_text() == "in peace"


def test_a_loud_program_does_not_stop_for_its_standard_error(tmp_path: Path) -> None:
    code = ONE_PING + (
        "sys.stderr.write('x' * 3_000_000)\n"
        "say({'id':q['id'],'result':{'ok':True}}); sys.stdin.read()"
    )
    assert using(script(tmp_path, code), lambda outpost: outpost.outpost_ping()).ok


def test_attaching_needs_a_terminal(tmp_path: Path) -> None:
    async def use(outpost: ExecOutpost) -> None:
        with pytest.raises(UsageError, match="needs a terminal"):
            await outpost.outpost_attach("gt-1.1")

    using(make(tmp_path, "true", capabilities=("attach",)), use)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"command": ()}, "command is empty"),
        ({"command": ("",)}, "command is empty"),
        ({"command": ("a", "b\0")}, "NUL"),
        ({"command": ("a",), "capabilities": ("cleen",)}, "'cleen' is not one of"),
        ({"command": ("a",), "capabilities": ("price",)}, "'price' is not one of"),
        ({"command": ("a",), "env": {"A=B": "x"}}, "environment variable"),
    ],
    ids=repr,
)
def test_mistaken_options_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        ExecOptions(**options)


def test_a_mistake_in_the_file_is_told_with_its_line_and_the_nearest_word(tmp_path: Path) -> None:
    path = tmp_path / "outposts.yaml"
    path.write_text("outposts:\n  - {name: a, type: exec, command: [x], capabilities: [cleen]}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(path, {"exec": outpost_backends()})
    assert raised.value.line == 2
    assert "clean" in raised.value.hint


def test_the_file_gives_lists_and_maps(tmp_path: Path) -> None:
    path = tmp_path / "outposts.yaml"
    path.write_text(
        "outposts:\n  - name: a\n    type: exec\n    command: [node, x.js]\n"
        "    env: {A: b}\n    options: {c: d}\n    start_timeout: 1m\n"
    )
    (outpost,) = load_config(path, {"exec": outpost_backends()}).outposts
    assert isinstance(outpost.options, ExecOptions)
    assert outpost.options == ExecOptions(
        command=("node", "x.js"), env={"A": "b"}, options={"c": "d"}, start_timeout=60.0
    )


def test_doctor_names_what_the_program_offers_and_the_file_does_not_say(tmp_path: Path) -> None:
    async def findings(outpost: ExecOutpost) -> dict[str, Any]:
        return {finding.check: finding for finding in await outpost.outpost_doctor(None)}

    found = using(script(tmp_path, ONE_PING), findings)["capabilities"]
    assert found.ok is None
    assert found.detail.endswith(": attach")
    assert found.hint == "capabilities: [attach] for vm1 in outposts.yaml"
    said = script(tmp_path, ONE_PING, capabilities=("attach",))
    assert "capabilities" not in using(said, findings)


@pytest.mark.parametrize(
    ("allowed", "argv", "runs"),
    [
        ((), ["tmux", "attach", "-t", "gt-1"], False),
        (("tmux", "attach", "-t"), ["tmux", "attach", "-t", "=gt-1.1"], True),
        (("tmux", "attach", "-t"), ["tmux", "attach", "-t", "x", "-f", "/tmp/evil"], False),
        (("tmux", "attach", "-t"), ["tmux", "attach", "-t", "x;", "run-shell", "id"], False),
        (("tmux", "attach", "-t"), ["tmux", "run-shell", "id"], False),
        (("tmux",), ["/tmp/tmux", "x"], False),
        (("less",), ["less", "+!id"], False),
    ],
)
def test_the_program_does_not_choose_what_runs_here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: tuple[str, ...],
    argv: list[str],
    runs: bool,
) -> None:
    from outpost_shared import viewer

    ran: list[list[str]] = []

    async def attach(_worker: str, words: list[str]) -> int:
        ran.append(words)
        return 7

    monkeypatch.setattr(viewer, "check_terminal", lambda _worker: None)
    monkeypatch.setattr(viewer, "attach", attach)
    said = f"{ONE_PING}say({{'id': q['id'], 'result': {{'argv': {argv!r}}}}})\nsys.stdin.read()"
    outpost = script(tmp_path, said, capabilities=("attach",), viewer=allowed)

    async def use(outpost: ExecOutpost) -> int:
        return await outpost.outpost_attach("gt-1.1")

    if runs:
        assert using(outpost, use) == 7
        assert ran == [argv]
        return
    with pytest.raises(UsageError, match="wants to run on this machine"):
        using(outpost, use)
    assert ran == []


def test_its_state_folder_is_the_users_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o1777)
    error = failing(make(tmp_path, "sh", "-c", "touch ran"))
    assert isinstance(error, UnreachableError)
    assert not error.sent
    assert "shared by all users" in error.message
    assert error.hint
    assert not (tmp_path / "ran").exists()
