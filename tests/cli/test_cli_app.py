from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import click
import pytest

from outpost_core.hookspecs import hookimpl
from outpost_manager.cli.app import COMMANDS, cli


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name):
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(import_module(f"outpost_manager.cli.{module}"), attribute)
    assert command.name == name
    assert command.get_short_help_str(200) == COMMANDS[name][1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_with_an_example(outpost, name):
    text = outpost.ok(name, "--help")
    assert "Example" in text
    assert f"outpost {name}" in text
    assert "--json" in text


def test_no_words_show_the_help(outpost):
    assert outpost.ok() == outpost.ok("--help")
    assert outpost.ok("config") == outpost.ok("config", "--help")
    assert "Exit codes" in outpost.ok()


def test_version(outpost):
    assert outpost.ok("--version").startswith("outpost ")


def test_help_imports_no_command_and_nothing_heavy():
    program = (
        "import sys\n"
        "from outpost_manager.cli.app import cli\n"
        "try:\n    cli.main(['--help'], prog_name='outpost')\n"
        "except SystemExit:\n    pass\n"
        "print(' '.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.split())
    heavy = {
        "asyncio",
        "yaml",
        "sqlite3",
        "libtmux",
        "outpost_manager.manager",
        "outpost_manager.config",
    }
    assert not loaded & heavy
    assert not {m for m in loaded if m.startswith("outpost_manager.cli.")} - {
        f"outpost_manager.cli.{m}"
        for m in ("app", "commandtable", "failures", "output", "plugincommands", "session")
    }


def test_an_unknown_command_names_the_nearest(outpost):
    result = outpost.run("spwan")
    assert result.exit_code == 2
    assert "did you mean 'spawn'" in result.stderr
    assert result.stdout == ""


def test_a_command_of_a_group_is_guessed_and_choices_are_one_line(outpost):
    assert (
        "config has no command 'chek'; did you mean 'check'?"
        in outpost.run("config", "chek").stderr
    )
    said = outpost.run("plugin", "new", "mine").stderr
    assert "Choose from: " in said
    assert "\t" not in said


def test_an_unknown_command_is_made_harmless(outpost):
    assert "\x1b" not in outpost.run("a\x1b[2J").stderr


@pytest.mark.parametrize("args", [("--json", "list"), ("list", "--json")])
def test_json_is_taken_before_and_after_the_command(outpost, args):
    assert json.loads(outpost.ok(*args))["outposts"][0]["name"] == "here"


def test_errors_are_one_json_document(outpost):
    error = outpost.json("show", "nobody", code=4)["error"]
    assert error["code"] == 4
    assert error["type"] == "NotFoundError"
    assert "nobody" in error["message"]
    assert error["hint"]


def test_usage_errors_are_json_too(outpost):
    error = outpost.json("show", code=2)["error"]
    assert error["code"] == 2
    assert error["type"] == "UsageError"
    assert error["hint"] == "outpost show --help"


def test_config_errors_say_where(outpost):
    outpost.config.write_text("outposts:\n  - {name: here, typ: fake}\n")
    error = outpost.json("list", code=2)["error"]
    assert (error["type"], error["line"]) == ("ConfigError", 2)
    result = outpost.run("list")
    assert result.exit_code == 2
    assert f"{outpost.config}:2:" in result.stderr
    assert "→" in result.stderr


def test_an_unexpected_error_is_one_line(outpost, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("a defect\nin two lines")

    monkeypatch.setattr("outpost_manager.manager.Manager.outposts", broken)
    result = outpost.run("list")
    assert result.exit_code == 1
    assert "unexpected error: RuntimeError: a defect" in result.stderr
    assert "OUTPOST_DEBUG=1" in result.stderr
    assert "Traceback" not in result.stderr
    assert outpost.json("list", code=1)["error"]["type"] == "RuntimeError"


def test_debug_shows_the_traceback(outpost, monkeypatch):
    monkeypatch.setenv("OUTPOST_DEBUG", "1")
    result = outpost.run("show", "nobody")
    assert result.exit_code == 4
    assert "Traceback" in result.stderr


class Commands:
    @hookimpl
    def outpost_commands(self):
        @click.command("greet", short_help="Say hello.")
        def greet() -> None:
            click.echo("hello")

        @click.command("list")
        def list_() -> None:
            click.echo("hijacked")

        return [greet, list_]


class BrokenCommands:
    @hookimpl
    def outpost_commands(self):
        raise RuntimeError("no commands today")


def test_commands_of_plugins_are_merged_in(outpost):
    outpost.plugins = [Commands(), BrokenCommands()]
    assert "Say hello." in outpost.ok("--help")
    assert outpost.ok("greet") == "hello\n"
    assert "hijacked" not in outpost.ok("list")
    assert "no commands today" in outpost.run("--help").stderr


def test_the_command_of_the_guide(outpost):
    guide = Path(__file__).parents[2] / "docs" / "guides" / "add-a-command.md"
    plugin = ModuleType("my_commands")
    exec(guide.read_text().split("```python\n")[1].partition("```")[0], plugin.__dict__)
    outpost.plugins = [plugin]
    outpost.spawn("a")
    assert "List the outposts where nothing runs." in outpost.ok("--help")
    assert outpost.ok("idle") == "there\n"
    assert outpost.json("idle", "--type", "fake") == {"idle": ["there"]}
    assert outpost.json("idle", "--typ", "x", code=2)["error"]["hint"] == "outpost idle --help"


def test_colours_can_be_switched_off(outpost, monkeypatch):
    from click.testing import CliRunner

    from outpost_manager.cli.session import Session

    words = ["--state", str(outpost.state), "list"]
    coloured = CliRunner().invoke(cli, words, prog_name="outpost", obj=Session(), color=True)
    assert "\x1b[" in coloured.stdout
    for args, env in (
        (["--no-color", *words], {}),
        ([*words, "--no-color"], {}),
        (words, {"NO_COLOR": "1"}),
    ):
        plain = CliRunner().invoke(cli, args, prog_name="outpost", obj=Session(), env=env)
        assert "\x1b[" not in plain.stdout, args
