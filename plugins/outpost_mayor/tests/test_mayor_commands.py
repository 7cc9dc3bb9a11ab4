"""The commands of the mayor load when they are used; the list says what they say themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from outpost_manager.cli.plugincommands import Deferred
from outpost_mayor.plugin import outpost_commands

COMMANDS = {str(each.name): each for each in outpost_commands() if isinstance(each, Deferred)}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_list_says_what_the_command_says(name: str) -> None:
    real = COMMANDS[name].load()
    assert real.name == name
    assert COMMANDS[name].get_short_help_str(100) == real.get_short_help_str(100)


def test_all_of_them_are_deferred() -> None:
    assert len(COMMANDS) == len(outpost_commands()) >= 5


def test_the_list_of_commands_imports_none() -> None:
    code = (
        "import sys; from outpost_mayor.plugin import outpost_commands; outpost_commands();"
        "print([name for name in sys.modules if name.startswith('outpost_mayor.commands')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
