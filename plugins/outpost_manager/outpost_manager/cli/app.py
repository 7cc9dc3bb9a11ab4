"""The group `outpost`: its table of commands, loaded one by one, and the way out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from outpost_core.errors import UsageError
from outpost_manager.cli import failures, output
from outpost_manager.cli.session import Group, Session, current, version_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: section → command → (module:attribute in this package, one line of help).
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Work": {
        "spawn": ("spawn:spawn", "Start workers on issues, at the best outpost."),
        "retry": ("retry:retry", "Try again what failed, with the same order."),
        "continue": ("retry:continue_", "Go on with delivered work: say what else to do."),
        "explain": ("spawn:explain", "Show where an order would go, and why; starts nothing."),
        "wait": ("workers:wait", "Wait until workers have ended."),
        "workers": (
            "workers:workers",
            "List the workers that have not ended, or all.",
        ),
        "show": ("workers:show", "Show everything about a worker."),
        "diff": ("review:diff", "Show what a worker did, against its base."),
        "checkout": ("review:checkout", "Switch this clone to a delivered branch."),
        "logs": ("contact:logs", "Print a worker's output."),
        "attach": ("contact:attach", "Give this terminal to a worker; detach any time."),
        "peek": ("contact:peek", "Print what a worker's terminal shows."),
        "nudge": ("contact:nudge", "Type a line into an interactive worker."),
        "mail": ("mail:mail", "Send mail to someone at an outpost, and read it."),
        "cost": ("cost:cost", "Show what workers cost, by day, outpost, agent or rig."),
        "stop": ("contact:stop", "End workers, after rescuing their unpushed work."),
        "clean": ("workers:clean", "Remove the files of workers whose work is delivered."),
    },
    "Outposts": {
        "list": ("outposts:list_", "List the configured outposts."),
        "status": (
            "status:status",
            "Ask the outposts and show their active workers, and what ended since yesterday.",
        ),
        "ping": ("outposts:ping", "Ask outposts whether they would take a worker now."),
        "add": ("edit:add", "Add an outpost to outposts.yaml."),
        "remove": ("edit:remove", "Remove an outpost from outposts.yaml."),
        "backends": ("outposts:backends", "List the installed types, and unusable packages."),
    },
    "Set-up": {
        "bootstrap": ("bootstrap:bootstrap", "Install what workers need at an outpost."),
        "doctor": (
            "setup:doctor",
            "Check everything that workers need, and say what to do about it.",
        ),
        "demo": ("demo:demo", "Run the main job for real, in a throw-away folder."),
        "config": ("edit:config", "Check or show the configuration."),
        "trust": ("trust:trust", "Let the files of a Gas Town count."),
        "completion": ("setup:completion", "Print the completion script for a shell."),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
#: Commands of packages of ours that need not be installed.
ELSEWHERE = {"conformance": "outpost-testing"}

EPILOG = """\
Exit codes: 0 it worked · 1 the work failed · 2 usage or configuration · 3 no outpost could take
it · 4 not found · 5 unreachable · 130 Ctrl-C (workers go on).
"""


class LazyGroup(Group):
    """A group that knows names and help of its commands without importing any.

    Commands of plugins (`outpost_commands`) come after the built-in ones and never replace them.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, the built-in ones first."""
        return [*COMMANDS, *self._plugin_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None when nobody has it."""
        if cmd_name not in COMMANDS:
            return self._plugin_commands(ctx).get(cmd_name)
        from importlib import import_module

        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(import_module(f"outpost_manager.cli.{module}"), attribute)
        return found

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

            if name in ELSEWHERE:
                raise UsageError(
                    f"the command {name!r} comes with the package {ELSEWHERE[name]}, which is not"
                    " installed",
                    hint=f"pip install {ELSEWHERE[name]}",
                )

            near = nearest(name, self.list_commands(ctx))
            hint = f"; did you mean {near!r}?" if near else ""
            raise click.UsageError(f"there is no command {clean(name)!r}{hint}", ctx)
        if found is None:
            return super().resolve_command(ctx, args)
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
            return super().main(words, prog_name, standalone_mode=False, **extra) or 0
        except (KeyboardInterrupt, click.Abort):
            return failures.interrupted(session)
        except Exception as error:  # noqa: BLE001 - the last place: a user sees no traceback
            return failures.report(error, json=failures.wants_json(words))

    def _sections(self, ctx: click.Context) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        for title, commands in SECTIONS.items():
            yield title, [(name, text) for name, (_, text) in commands.items()]
        if plugged := self._plugin_commands(ctx):
            yield (
                "From plugins",
                [(name, c.get_short_help_str(100)) for name, c in sorted(plugged.items())],
            )

    def _plugin_commands(self, ctx: click.Context) -> dict[str, click.Command]:
        """Return the commands of plugins; a plugin that fails has none."""
        found: dict[str, click.Command] = {}
        for commands in current(ctx).plugins().each("outpost_commands", _say):
            found |= {c.name: c for c in commands if c.name and c.name not in COMMANDS}
        return found


def _say(who: str, error: Exception) -> None:
    output.echo(f"{who}: outpost_commands: {error}", err=True)


cli = LazyGroup(
    "outpost",
    params=[version_option()],
    hidden_options=False,
    help="Run coding agents on issues of a git repository, wherever there is room.\n\n"
    "\b\nExample:\n"
    "  outpost spawn gt-abc123 --rig git@example.com:team/app.git --follow",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
