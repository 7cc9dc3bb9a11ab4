"""For tests of plugins: what Outpost finds wrong with one, and the command line with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from outpost_core.discovery import PluginReport, Plugins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.testing import Result

_CONFIG = "outposts:\n- {name: here, type: fake}\n- {name: there, type: fake}\n"


def plugin_problems(plugin: object) -> list[str]:
    """Return what Outpost finds wrong with a plugin when it loads it; nothing is installed.

    Args:
        plugin: the module (or object) that an entry point of the group `outpost` names.
    """
    report = PluginReport(entry_point="tested")
    plugins = Plugins.load([])
    plugins.add(plugin, report)
    if "outpost_commands" in report.hooks:
        from outpost_manager.cli.commandtable import COMMANDS
        from outpost_manager.cli.plugincommands import plugin_commands

        plugin_commands(plugins, COMMANDS, lambda _: None)
    return [problem.reason for problem in report.problems]


def run_outpost(folder: Path, *words: str, plugins: Sequence[object] = ()) -> Result:
    """Run the command line in this process, with two outposts that run nothing.

    Args:
        folder: keeps configuration, ledger and the outposts' workers; the next call finds them.
        words: after `outpost`.
        plugins: further plugins.

    Returns:
        `exit_code`, `stdout` and `stderr`. The outposts are called `here` and `there`.
    """
    from click.testing import CliRunner

    from outpost_manager.cli.app import cli
    from outpost_manager.cli.session import Session
    from outpost_testing import fake

    found = Plugins.load([])
    for number, plugin in enumerate((fake, *plugins)):
        found.add(plugin, PluginReport(entry_point=f"tested-{number}"))
    config = folder / "outposts.yaml"
    if not config.exists():
        config.write_text(_CONFIG, encoding="utf-8")
    state = ("--config", str(config), "--state", str(folder / "state"))
    return CliRunner().invoke(cli, [*state, *words], prog_name="outpost", obj=Session(found))
