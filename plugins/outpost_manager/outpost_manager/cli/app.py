"""The group `outpost`: its table of commands, loaded one by one, and the way out."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from outpost_core.errors import OutpostError, UsageError
from outpost_manager.cli import failures
from outpost_manager.cli.commandtable import COMMANDS, ELSEWHERE, SECTIONS
from outpost_manager.cli.session import Command, Group, Session, current, version_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_manager.cli.plugincommands import PluginCommand

EPILOG = """\
Exit codes: 0 it worked · 1 the work failed · 2 usage or configuration · 3 no outpost could take
it · 4 not found · 5 unreachable · 6 another mayor runs · 130 Ctrl-C (workers keep running).
"""


class LazyGroup(Group):
    """A group that knows names and help of its commands without importing any.

    Commands of plugins (`outpost_commands`) come after the built-in ones and never replace them.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, the built-in ones first."""
        return [*COMMANDS, *current(ctx).plugin_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None when nobody has it."""
        if cmd_name not in COMMANDS:
            found = current(ctx).plugin_commands().get(cmd_name)
            if found is None:
                return None
            from outpost_manager.cli.plugincommands import Deferred

            return found.command.load() if isinstance(found.command, Deferred) else found.command
        from importlib import import_module

        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"outpost_manager.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with.

        Raises:
            UsageError: there is none; the nearest names are said.
        """
        name = args[0]
        found = self.get_command(ctx, name)
        if found is None and not ctx.resilient_parsing and not name.startswith("-"):
            from outpost_core.nearest import nearest
            from outpost_manager.cli.render import clean

            broken = [report for report in current(ctx).plugins().reports if not report.ok]
            if name in ELSEWHERE and not broken:
                from outpost_manager.plugins.advice import from_clone

                raise UsageError(
                    f"the command {name!r} comes with the package {ELSEWHERE[name]}, which is not"
                    " installed",
                    hint=from_clone(ELSEWHERE[name].removeprefix("outpost-")),
                )

            near = nearest(name, self.list_commands(ctx))
            hint = f"; did you mean {near!r}?" if near else ""
            if broken:  # it may be one of theirs: a busy machine is too slow for them at times
                whose = "; ".join(f"{report.label}: {report.reason}" for report in broken)
                raise UsageError(
                    f"there is no command {clean(name)!r} among those that could be loaded{hint}",
                    hint=f"not all could: {clean(whose)}; try again, or see: outpost plugins",
                )
            raise click.UsageError(f"there is no command {clean(name)!r}{hint}", ctx)
        if found is None:
            return super().resolve_command(ctx, args)
        if name not in COMMANDS:
            current(ctx).running = current(ctx).plugin_commands().get(name)
            ours = isinstance(found, Command | Group)  # they know it themselves
            if not ours and not ctx.resilient_parsing and not _asks_help(args[1:]):
                current(ctx).stay_here(f"outpost {name}")
        return name, found, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of commands from the table."""
        width = max(map(len, COMMANDS))
        for title, commands in self._sections(ctx):
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete names of commands without importing them."""
        from click.shell_completion import CompletionItem

        return [
            *(
                CompletionItem(name, help=text)
                for _, commands in self._sections(ctx)
                for name, text in commands
                if name.startswith(incomplete)
            ),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that went away is an exit code, not an error."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise click.exceptions.Exit(failures.silence()) from None

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> None:
        """Run and leave the process with the exit code; no traceback reaches a user."""
        words = sys.argv[1:] if args is None else list(args)
        session = extra["obj"] = extra.get("obj") or Session()
        extra.pop("standalone_mode", None)
        try:
            code = self._run(words, prog_name, session, extra)
        except BrokenPipeError:
            code = failures.silence()
        sys.exit(code)

    def _run(
        self, words: list[str], prog_name: str | None, session: Session, extra: dict[str, Any]
    ) -> int:
        try:
            if os.environ.get("OUTPOST_LOG"):
                from outpost_manager.cli import logsetup

                logsetup.from_environment(os.environ["OUTPOST_LOG"])
            code = super().main(words, prog_name, standalone_mode=False, **extra) or 0
            session.finish()
            return code
        except (KeyboardInterrupt, click.Abort):
            session.finish(at_once=True)
            return failures.interrupted(session)
        except Exception as error:  # noqa: BLE001 - the last place: a user sees no traceback
            if session.running and not isinstance(error, OutpostError | click.ClickException):
                error = _of_plugin(session, session.running, error)
            code = failures.report(error, json=failures.wants_json(words))
            session.finish()
            return code

    def _sections(self, ctx: click.Context) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        for title, commands in SECTIONS.items():
            yield title, [(name, text) for name, (_, text) in commands.items()]
        if plugged := current(ctx).plugin_commands():
            yield "From plugins", [(name, plugged[name].help) for name in sorted(plugged)]


def _of_plugin(session: Session, running: PluginCommand, error: Exception) -> Exception:
    """Keep what a command of a plugin raised, and return what is said of it."""
    from outpost_core.discovery import Failure
    from outpost_manager.plugins.failures import KeptFailures
    from outpost_shared.paths import state_dir

    kept = KeptFailures(session.state or state_dir(os.environ))
    hook = f"outpost_commands ({running.command.name})"
    kept.keep(Failure(plugin=running.plugin, report=running.report, hook=hook, error=error))
    said = running.failed(error)
    said.__cause__ = error
    return said


cli = LazyGroup(
    "outpost",
    params=[version_option()],
    hidden_options=False,
    help="Run coding agents on issues of a git repository, wherever there is room.\n\n"
    "\b\nExample:\n"
    "  outpost spawn fix-login --title 'Login fails' --follow",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _asks_help(words: Sequence[str]) -> bool:
    """Whether a command is only to say what it does."""
    own = words[: words.index("--")] if "--" in words else words
    return bool({"-h", "--help"}.intersection(own))
