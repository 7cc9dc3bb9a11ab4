"""Packages of strangers with every kind of mistake: each is named, and the rest works (law 7)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from badplugins import BACKEND, BAD, HEAD, Bad, hook, install
from click.testing import CliRunner, Result
from importlib_metadata import distributions

from outpost_core.discovery import PluginReport, Plugins
from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session
from outpost_testing import FakeOutpost, fake_backend

MAIN = "from outpost_manager.cli import main; main()"


class Machine:
    """The command line on two fake outposts, with packages that pip installed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.site = folder / "site"
        self.site.mkdir()
        self.here, self.there = FakeOutpost("here"), FakeOutpost("there")
        self.config = folder / "outposts.yaml"
        self.config.write_text(
            "outposts:\n- {name: here, type: fake}\n- {name: there, type: fake}\n"
        )
        monkeypatch.syspath_prepend(str(self.site))

    def run(self, *words: str) -> Result:
        points = [p for d in distributions(path=[str(self.site)]) for p in d.entry_points]
        for name in [name for name in sys.modules if name.startswith("bad_")]:
            del sys.modules[name]  # as in a new process
        plugins = Plugins.load([])
        backend = fake_backend({"here": self.here, "there": self.there})
        plugins.backends["fake"] = backend
        plugins.homes["fake"] = PluginReport(entry_point="fake", package="fakes", version="1")
        for point in points:
            plugins._load_one(point)
        state = ("--config", str(self.config), "--state", str(self.folder / "state"))
        more: dict[str, Any] = {"prog_name": "outpost", "obj": Session(plugins)}
        return CliRunner().invoke(cli, [*state, *words], **more)

    def ok(self, *words: str, code: int = 0) -> str:
        result = self.run(*words)
        assert result.exit_code == code, (words, result.stdout, result.stderr, result.exception)
        return result.stdout


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name in [*os.environ]:
        if name.startswith("OUTPOST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_mistake_is_named_and_the_rest_works(machine: Machine, bad: Bad) -> None:
    install(bad, machine.site)
    assert {one["name"] for one in json.loads(machine.ok("list", "--json"))["outposts"]} == {
        "here", "there",
    }  # fmt: skip
    spawned = json.loads(machine.ok("spawn", "gt-1", "--no-rig", "--json", "--", "true"))
    assert spawned["spawned"][0]["worker"]["outpost"] == "here"
    quiet = ("types-", "capab", "options-", "build-", "agents-", "commands-", "issue-", "event-")
    quiet += ("summary", "introduce")
    if not bad.name.startswith((*quiet, "unmarked", "prints")) or bad.name == "unmarked-policy":
        # whether it failed, or was never asked: that its policy did not decide is said
        assert f"bad-{bad.name} 1.0" in spawned["spawned"][0]["explanation"]["notes"][0]
        assert (
            f"bad-{bad.name} 1.0" in machine.run("explain", "gt-9", "--no-rig", "--", "true").stdout
        )
        said = machine.run("spawn", "gt-2", "--no-rig", "--", "true").stderr
        assert f"bad-{bad.name} 1.0" in said
    assert "Exit codes" in machine.ok("--help")
    # what failed while something was placed is seen by the next process, too
    (plugin,) = json.loads(machine.ok("plugins", f"x-{bad.name}", "--json"))["plugins"]
    assert (plugin["package"], plugin["version"]) == (f"bad-{bad.name}", "1.0")
    wrong = [*plugin["problems"], *plugin["errors"]]
    assert bad.said in " ".join(one["reason"] for one in wrong), wrong
    assert all(one.get("hint", "x") for one in wrong)
    assert f"x-{bad.name}" in machine.ok("plugins")
    assert bad.said in machine.ok("plugins", f"bad-{bad.name}")
    found = json.loads(machine.ok("doctor", "--json", code=1))["findings"]
    bads = [one for one in found if one["ok"] is False and f"bad-{bad.name}" in one["check"]]
    assert bad.said in " ".join(one["detail"] for one in bads), found
    assert all(one["hint"] for one in bads)
    assert machine.ok("list").count("\n") >= 3, "no command was replaced"


def test_a_command_that_is_not_there_may_be_one_of_a_package_that_is_not_loaded(
    machine: Machine,
) -> None:
    assert "could be loaded" not in machine.run("greet").stderr
    (late,) = (bad for bad in BAD if bad.name == "import-error")
    install(late, machine.site)
    said = machine.run("greet")
    assert said.exit_code == 2
    assert "there is no command 'greet' among those that could be loaded" in said.stderr
    assert f"bad-{late.name} 1.0: " in said.stderr
    assert "outpost plugins" in said.stderr


def test_all_of_them_at_once_in_the_real_program(tmp_path: Path) -> None:
    """One process each, with every bad package installed beside the real ones."""
    site = tmp_path / "site"
    site.mkdir()
    for bad in BAD:
        install(bad, site)
    broken = site / "unreadable-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: unreadable\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[outpost]\nthis line has no equals sign\n")
    keep = {k: v for k, v in os.environ.items() if not k.startswith("OUTPOST_")}
    env = keep | {"PYTHONPATH": str(site), "HOME": str(tmp_path)}
    (tmp_path / "outposts.yaml").write_text("outposts: [{name: local, type: local, mode: process}]")

    def run(*words: str, code: int = 0) -> str:
        state = ("--config", "outposts.yaml", "--state", str(tmp_path / "state"))
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *state, *words],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False,
        )  # fmt: skip
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    assert json.loads(run("list", "--json"))["outposts"][0]["name"] == "local"
    run("--help")
    spawned = json.loads(run("spawn", "gt-1", "--no-rig", "--wait", "--json", "--", "true"))
    assert spawned["spawned"][0]["worker"]["outpost"] == "local"
    plugins = {one["package"]: one for one in json.loads(run("plugins", "--json"))["plugins"]}
    assert "entry points cannot be read" in plugins["unreadable"]["problems"][0]["reason"]
    for bad in BAD:
        one = plugins[f"bad-{bad.name}"]
        said = " ".join(each["reason"] for each in (*one["problems"], *one["errors"]))
        assert bad.said in said, (bad.name, said)
    said = run("doctor", "--no-rig", "--json", code=1)
    details = json.loads(said)
    assert "findings" in details, said
    details = details["findings"]
    assert {f"bad-{bad.name} 1.0" for bad in BAD} <= {one["check"] for one in details}


def test_the_traceback_is_to_be_had(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    install(next(bad for bad in BAD if bad.name == "raises"), machine.site)
    install(next(bad for bad in BAD if bad.name == "assign-raise"), machine.site)
    assert "RuntimeError: on fire" in machine.ok("plugins", "x-raises")
    assert "bad_raises.py" in machine.ok("plugins", "x-raises"), "where it was raised"
    spawn = ("spawn", "gt-1", "--no-rig", "--json", "--", "true")
    assert "Traceback" not in machine.run(*spawn).stderr
    monkeypatch.setenv("OUTPOST_DEBUG", "1")
    said = machine.run("spawn", "gt-2", "--no-rig", "--json", "--", "true").stderr
    assert "bad_raises.py" in said
    assert "bad_assign_raise.py" in said


def test_the_last_error_is_kept_bounded_private_and_can_be_forgotten(machine: Machine) -> None:
    long = hook("outpost_issue", "issue_id, rig", "raise RuntimeError('x' * 100_000)")
    install(Bad("long", long, ""), machine.site)
    for number in range(3):
        machine.ok("spawn", f"gt-{number}", "--no-rig", "--", "true")
    file = machine.folder / "state" / "plugin-errors.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_size < 20_000
    (plugin,) = json.loads(machine.ok("plugins", "x-long", "--json"))["plugins"]
    (error,) = plugin["errors"]
    assert (error["hook"], error["count"]) == ("outpost_issue", 3)
    assert "forgot 1 error" in machine.run("plugins", "--forget").stderr
    (plugin,) = json.loads(machine.ok("plugins", "x-long", "--json"))["plugins"]
    assert plugin["errors"] == []


def test_errors_go_with_the_version_of_their_package(machine: Machine) -> None:
    install(next(bad for bad in BAD if bad.name == "issue-raise"), machine.site)
    machine.ok("spawn", "gt-1", "--no-rig", "--", "true")
    (plugin,) = json.loads(machine.ok("plugins", "x-issue-raise", "--json"))["plugins"]
    assert plugin["errors"]
    metadata = machine.site / "bad_issue_raise-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    (plugin,) = json.loads(machine.ok("plugins", "x-issue-raise", "--json"))["plugins"]
    assert (plugin["version"], plugin["errors"]) == ("1.1", [])


OUTPOSTS = {
    "build-raises": ("build", "raise RuntimeError('no')", "RuntimeError: no"),
    "build-exits": ("build", "raise SystemExit(4)", "SystemExit: 4"),
    "build-none": ("build", "return None", "returned a NoneType, not an Outpost"),
    "build-name": ("build", "return Minimal('other', options, context)", "'other'"),
    "spawn-number": ("outpost_spawn", "return 5", "answered a int"),
    "spawn-exits": ("outpost_spawn", "raise SystemExit(4)", "SystemExit: 4"),
    "spawn-interrupts": ("outpost_spawn", "raise KeyboardInterrupt", "KeyboardInterrupt"),
    "list-exits": ("outpost_list", "raise SystemExit(4)", "SystemExit: 4"),
    "list-number": ("outpost_list", "return 5", "answered a int"),
    "ping-text": ("outpost_ping", "return 'fine'", "answered a str"),
    "ping-exits": ("outpost_ping", "raise SystemExit(4)", "SystemExit: 4"),
}
MINIMAL = """
from outpost_core.types import Health, State, WorkerStatus
class Minimal(Outpost):
    type = "TYPE"
    @hookimpl
    async def outpost_spawn(self, order):
        return WorkerStatus(id=order.worker, state=State.STARTING)
    @hookimpl
    async def outpost_list(self): return []
    @hookimpl
    async def outpost_ping(self): return Health(ok=True)
    @hookimpl
    async def outpost_logs(self, worker, offset, follow): yield b""
    @hookimpl
    async def outpost_stop(self, worker, grace): ...
class Odd(Minimal):
    {method}
def build(name, options, context):
    {build}
"""


@pytest.mark.parametrize("name", OUTPOSTS)
def test_a_mistake_of_an_outpost_is_its_own(machine: Machine, name: str) -> None:
    where, body, said = OUTPOSTS[name]
    method, build = "", "return Odd(name, options, context)"
    if where == "build":
        method, build = "pass", body
    else:
        arguments = "self, order" if where == "outpost_spawn" else "self"
        method = f"@hookimpl\n    async def {where}({arguments}): {body}"
    text = HEAD + MINIMAL.format(method=method, build=build)
    text += BACKEND.format(type="TYPE", options="OutpostOptions", build="build", more="")
    install(Bad(name, text, ""), machine.site)
    machine.config.write_text(
        f"outposts:\n- {{name: odd, type: {name}}}\n- {{name: here, type: fake}}\n"
        "- {name: there, type: fake}\npolicy: {default_preference: [odd, here]}\n"
    )
    result = machine.run("spawn", "gt-1", "--no-rig", "--on", "odd", "--", "true")
    assert not isinstance(result.exception, RuntimeError | KeyboardInterrupt), result.exception
    assert result.exit_code in (0, 3, 5), result.stderr
    machine.run("status")
    machine.run("ping", "odd")
    spawned = json.loads(
        machine.ok("spawn", "gt-2", "--no-rig", "--on", "here", "--json", "--", "true")
    )
    assert spawned["spawned"][0]["worker"]["outpost"] == "here"
    (plugin,) = json.loads(machine.ok("plugins", f"x-{name}", "--json"))["plugins"]
    errors = {f"{one['outpost']} {one['hook']}": one["reason"] for one in plugin["errors"]}
    assert said in errors[f"odd {where}"], errors
    details = machine.ok("doctor", "--no-rig", code=1)
    assert said in details


def test_options_of_a_type_that_cannot_be_made_break_no_command(machine: Machine) -> None:
    before = (
        "@dataclass(frozen=True, kw_only=True)\nclass Options(OutpostOptions):\n"
        "    def __post_init__(self): raise RuntimeError('odd options')\n"
    )
    text = HEAD + before + BACKEND.format(type="TYPE", options="Options", build="Outpost", more="")
    install(Bad("post", text, ""), machine.site)
    machine.config.write_text(
        "outposts:\n- {name: odd, type: post}\n- {name: here, type: fake}\n"
        "- {name: there, type: fake}\n"
    )
    views = {one["name"]: one for one in json.loads(machine.ok("list", "--json"))["outposts"]}
    assert views["odd"]["state"] == "broken"
    assert "RuntimeError: odd options" in views["odd"]["detail"]
    machine.ok("spawn", "gt-1", "--no-rig", "--", "true")


def test_a_command_that_fails_names_its_package(machine: Machine) -> None:
    source = hook(
        "outpost_commands", "", "import click", "@click.command('crash')",
        "def crash(): raise RuntimeError('crashed')", "return [crash]",
    )  # fmt: skip
    install(Bad("crash", source, ""), machine.site)
    result = machine.run("crash")
    assert result.exit_code == 1
    assert "the command crash of bad-crash 1.0 failed: RuntimeError: crashed" in result.stderr
    assert "Traceback" not in result.stderr
    assert "bad_crash.py" in machine.ok("plugins", "x-crash")


@pytest.mark.parametrize("where", ["import", "commands", "policy"])
def test_a_plugin_that_hangs_is_given_up_and_named(tmp_path: Path, where: str) -> None:
    """In a process of its own, with its timer: pytest may use the one of this process."""
    site = tmp_path / "site"
    site.mkdir()
    hang = "import time; time.sleep(1000)"
    source = {
        "import": f"{HEAD}\n{hang}",
        "commands": hook("outpost_commands", "", hang),
        "policy": hook("outpost_assign", "order, candidates", hang),
    }[where]
    install(Bad("hang", source, ""), site)
    (tmp_path / "outposts.yaml").write_text("outposts: [{name: local, type: local, mode: process}]")
    words = {
        "import": ("list",),
        "commands": ("--help",),
        "policy": ("spawn", "gt-1", "--no-rig", "--wait", "--", "true"),
    }[where]
    program = (
        "from outpost_core import discovery as d\n"
        "d.isolation.contained.__wrapped__.__defaults__ = (4.0,)\n"
        f"d.Plugins.answers.__kwdefaults__['patience'] = 4.0\n{MAIN}"
    )
    keep = {k: v for k, v in os.environ.items() if not k.startswith("OUTPOST_")}
    begun = time.monotonic()
    for command in (words, ("plugins", "x-hang")):
        done = subprocess.run(
            [sys.executable, "-c", program, "--config=outposts.yaml", "--state=state", *command],
            env=keep | {"PYTHONPATH": str(site), "HOME": str(tmp_path)}, cwd=tmp_path,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "took longer than 4 s" in done.stdout
    assert time.monotonic() - begun < 100


def test_ctrl_c_ends_the_program_while_a_plugin_is_imported(tmp_path: Path) -> None:
    import signal

    site = tmp_path / "site"
    site.mkdir()
    install(Bad("slow", "open('begun', 'w').close()\nimport time; time.sleep(60)", ""), site)
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "--state", "state", "list"],
        env=os.environ | {"PYTHONPATH": str(site), "HOME": str(tmp_path)}, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_a_death_right_after_an_error_is_kept_loses_nothing(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(next(bad for bad in BAD if bad.name == "assign-raise"), site)
    (tmp_path / "outposts.yaml").write_text("outposts: [{name: local, type: local, mode: process}]")
    keep = {k: v for k, v in os.environ.items() if not k.startswith("OUTPOST_")}
    env = keep | {"PYTHONPATH": str(site), "HOME": str(tmp_path)}

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        state = ("--config=outposts.yaml", "--state=state")
        return subprocess.run(
            [sys.executable, "-c", MAIN, *state, *words], env=env | more, cwd=tmp_path,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    spawn = ("spawn", "gt-1", "--no-rig", "--wait", "--", "true")
    assert run(*spawn, OUTPOST_FAULT="plugins.kept").returncode == -9
    (plugin,) = json.loads(run("plugins", "x-assign-raise", "--json").stdout)["plugins"]
    assert "RuntimeError: no" in plugin["errors"][0]["reason"]
    assert run(*spawn).returncode == 0


def test_a_plugin_that_is_not_there_is_looked_for_in_the_list(machine: Machine) -> None:
    assert "outpost plugins lists them" in machine.run("plugins", "qqqqqq").stderr


def test_doctor_says_which_hooks_a_package_has(machine: Machine) -> None:
    install(next(bad for bad in BAD if bad.name == "assign-raise"), machine.site)
    found = json.loads(machine.run("doctor", "--json").stdout)["findings"]
    details = [one["detail"] for one in found if one["check"] == "bad-assign-raise 1.0"]
    assert "implements outpost_assign" in details
