"""Commands that plugins bring (`outpost_commands`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from outpost_core.discovery import Problem
from outpost_core.errors import PluginError
from outpost_core.isolation import contained, describe

if TYPE_CHECKING:
    from outpost_core.discovery import PluginReport, Plugins

_HOOK: Final = "outpost_commands"


class PluginCommandError(PluginError):
    """A command of a plugin failed in a way that its author did not mean."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class PluginCommand:
    """A command that a plugin brings.

    Args:
        command: the command.
        plugin: the plugin's name in pluggy.
        package: whose it is, for messages.
        report: of its package; None where nobody knows.
        help: one line.
    """

    command: click.Command
    plugin: str
    package: str
    report: PluginReport | None
    help: str = ""

    def failed(self, error: Exception) -> PluginCommandError:
        """Return what is said when it failed."""
        name = self.report.entry_point if self.report else self.package
        return PluginCommandError(
            f"the command {self.command.name} of {self.package} failed: {describe(error)}",
            hint=f"outpost plugins {name} shows the traceback; tell its authors",
        )


class Deferred(click.Command):
    """A command that is imported when it is used, so that listing commands costs little.

    Args:
        name: its name.
        home: where it is: `module:variable`.
        short_help: its line in the list of commands.
    """

    def __init__(self, name: str, home: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self.home = home

    def load(self) -> click.Command:
        """Import the command.

        Raises:
            PluginError: there is no such command.
        """
        from importlib import import_module

        module, _, variable = self.home.partition(":")
        found = getattr(import_module(module), variable, None)
        if not isinstance(found, click.Command):
            raise PluginError(f"{self.home} is not a click command")
        return found


def plugin_commands(
    plugins: Plugins, taken: Iterable[str], tell: Callable[[str], None]
) -> dict[str, PluginCommand]:
    """Return the commands of plugins by their names; what is wrong with one is its own.

    Args:
        plugins: all that is installed.
        taken: names of built-in commands, which nobody replaces.
        tell: is told each problem, in one line; it is added to the package's problems too.
    """
    found: dict[str, PluginCommand] = {}
    built_in = {*taken}

    def wrong(plugin: str, reason: str, error: Exception | None = None) -> None:
        report = plugins.report_of(plugin)
        if report is not None:
            report.problems.append(Problem(where=_HOOK, reason=reason, error=error))
        tell(f"{plugins.who(plugin)}: {reason}")

    def failed(plugin: str, error: Exception) -> None:
        wrong(plugin, f"{_HOOK}: {describe(error)}, so its commands are missing", error)

    for plugin, answer in plugins.answers(_HOOK, failed):
        for command in answer if isinstance(answer, list | tuple) else [answer]:
            if not isinstance(command, click.Command):
                wrong(plugin, f"{_HOOK}: a {type(command).__name__} is not a click command")
                continue
            name = command.name
            if not isinstance(name, str) or not name or name.startswith("-") or " " in name:
                wrong(plugin, f"{_HOOK}: a command has no name that can be typed: {name!r}")
            elif name in built_in:
                wrong(plugin, f"its command {name!r} cannot be used: Outpost has one of that name")
            elif name in found:
                other = found[name].package
                wrong(plugin, f"its command {name!r} cannot be used: {other} has one of that name")
            else:
                try:
                    with contained():
                        text = command.get_short_help_str(100)
                except Exception as error:  # noqa: BLE001 - a command is a plugin's own object
                    wrong(plugin, f"its command {name!r} has no help: {describe(error)}", error)
                    continue
                found[name] = PluginCommand(
                    command=command,
                    plugin=plugin,
                    package=plugins.who(plugin),
                    report=plugins.report_of(plugin),
                    help=text,
                )
    return found
