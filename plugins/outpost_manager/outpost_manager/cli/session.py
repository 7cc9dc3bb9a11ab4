"""What all commands of one invocation share: the global options, the manager, the way to answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from outpost_core.agents import AgentPreset
    from outpost_core.discovery import Plugins
    from outpost_manager.cli.plugincommands import PluginCommand
    from outpost_manager.config import Choice
    from outpost_manager.config.model import Config
    from outpost_manager.config.places import Place
    from outpost_manager.manager import Manager
    from outpost_manager.managing import Managing
    from outpost_manager.remote.manager import RemoteManager

T = TypeVar("T")

#: Set by the shell when it asks for completions: nothing is said then.
_COMPLETING = "_OUTPOST_COMPLETE"
#: Characters of a command's first sentence in the help of its group: as many as it has.
_WHOLE = 500


class Session:
    """One run of the command line.

    Args:
        plugins: use these instead of the installed ones.

    Attributes:
        config: what `--config` said.
        state: what `--state` said.
        server: what `--server` said; None where it was not given.
        json: answers are JSON.
        hints: what is worth knowing besides the answer.
        running: the command of a plugin that runs now.
        going_on: what to tell a user who presses Ctrl-C now; "" when nothing continues.
    """

    def __init__(self, plugins: Plugins | None = None) -> None:
        self.config: Path | None = None
        self.state: Path | None = None
        self.server: str | None = None
        self.json = False
        self.going_on = ""
        self.hints: list[str] = []
        self.running: PluginCommand | None = None
        self._plugins = plugins
        self._plugin_commands: dict[str, PluginCommand] | None = None
        self._debugging = False
        self._said: set[Path] = set()
        self._managers: list[Manager] = []

    def plugins(self) -> Plugins:
        """Return all that is installed, loading it once."""
        if self._plugins is None:
            from outpost_core.discovery import Plugins

            self._plugins = Plugins.load()
        if os.environ.get("OUTPOST_DEBUG") and not self._debugging:
            self._debugging = True
            for report in self._plugins.reports:
                for problem in report.problems:
                    print_traceback(f"{report.label}: {problem.where}", problem.error)
            self._plugins.listeners.append(
                lambda failed: print_traceback(f"{failed.package}: {failed.hook}", failed.error)
            )
        return self._plugins

    def plugin_commands(self, *, quiet: bool = False) -> dict[str, PluginCommand]:
        """Return the commands of plugins; what is wrong with one is said once.

        Args:
            quiet: leave it to the caller to say that.
        """
        if self._plugin_commands is None:
            from outpost_manager.cli.commandtable import COMMANDS
            from outpost_manager.cli.plugincommands import plugin_commands

            self._plugin_commands = plugin_commands(
                self.plugins(), COMMANDS, _say_nothing if quiet else self._say_of_plugin
            )
        return self._plugin_commands

    def _say_of_plugin(self, text: str) -> None:
        from outpost_manager.cli import output

        if _COMPLETING not in os.environ:
            output.echo(text, err=True)

    @property
    def far(self) -> str:
        """The URL of the server that commands ask; "" where they work on this machine.

        What the command line says wins over the environment, and so do `--config` and `--state`,
        which are about this machine.

        Raises:
            UsageError: `--server` was given together with one of these.
        """
        here = "--config" if self.config else "--state" if self.state else ""
        if self.server is None:
            return "" if here else os.environ.get("OUTPOST_SERVER", "")
        if self.server and here:
            raise click.UsageError(f"{here} is about this machine: it does not go with --server")
        return self.server

    def mean_here(self) -> None:
        """Take no notice of `OUTPOST_SERVER`, for a command that is about this machine alone."""
        if self.server is None:
            self.server = ""

    def stay_here(self, what: str, instead: str = "") -> None:
        """Refuse what works on the machine itself alone, where a server is asked.

        Args:
            what: the command.
            instead: what to do from here; "" where one has to log in there.

        Raises:
            UsageError: it does.
        """
        if not self.far:
            return
        from outpost_core.errors import UsageError
        from outpost_manager.remote.address import login

        said = "--server" if self.server else "OUTPOST_SERVER"
        there = instead or f"say it there ({login(self.far)})"
        raise UsageError(
            f"{what} works only on the machine itself, and {said} names a server",
            hint=f"{there}, or say --server '' to mean this machine",
        )

    def anywhere(self, work: Callable[[Managing], Awaitable[T]], *, at_once: bool = False) -> T:
        """Run `work` with a manager, the one here or that of the server, and close it.

        Args:
            work: asks it.
            at_once: here it asks no outpost, so that no event loop is needed.
        """
        if not self.far:
            if not at_once:
                return self.run(work)
            from outpost_manager.offloop import at_once as run_at_once

            with self.manager() as manager:
                return run_at_once(_coroutine(work(manager)))
        return self.at_server(work)

    def at_server(self, work: Callable[[RemoteManager], Awaitable[T]]) -> T:
        """Run `work` with the manager of the server, and close it."""
        import asyncio

        from outpost_manager.remote.client import open_client
        from outpost_manager.remote.manager import RemoteManager
        from outpost_shared.paths import here

        client = open_client(self.far, os.environ)

        async def edge() -> T:
            async with RemoteManager(client, os.environ, here(os.environ)) as manager:
                return await work(manager)

        return asyncio.run(edge())

    def manager(self) -> Manager:
        """Return a manager for the configuration and state that were asked for.

        Raises:
            ConfigError: the configuration has a mistake.
            UsageError: a server is asked, which has a manager of its own.
        """
        self.stay_here("this")
        from outpost_manager.manager import Manager

        made = Manager.open(
            config=self.config, state=self.state, plugins=self.plugins(), choice=self.choice()
        )
        made.leave_observers = True
        self._managers.append(made)
        return made

    def finish(self, *, at_once: bool = False) -> None:
        """Tell observers what they were not told yet, after all that the command printed.

        Args:
            at_once: leave it to the next command, since the user wants this one to end.
        """
        for manager in self._managers:
            manager.finish_observers(0.0 if at_once else None)
        self._managers.clear()

    def run(self, work: Callable[[Manager], Awaitable[T]]) -> T:
        """Run `work` with an open manager to its end, and close the manager."""
        import asyncio

        async def edge() -> T:
            async with self.manager() as manager:
                answer = await work(manager)
                self._say_of_state(manager)
                if cleaned := await manager.clean_old():
                    self.note(f"cleaned {len(cleaned)} old workers (clean_after); logs are kept")
                return answer

        return asyncio.run(edge())

    def _say_of_state(self, manager: Manager) -> None:
        """Say it when the ledger could be read and not written, or others could write."""
        if manager.closed:
            self.note(f"note: {manager.closed}")
        if manager.not_kept is not None:
            self.note(f"note: {manager.not_kept.message.removesuffix('; nothing was changed')}")
            self.note(f"  → {manager.not_kept.hint}")

    def choice(self, *, ask: bool = True) -> Choice:
        """Find the configuration file that counts; say once which found files do not, and why.

        Args:
            ask: ask the user about a file that has changed since he trusted it, and say what is
                passed over.
        """
        from outpost_manager.config import choose
        from outpost_shared.paths import here

        self.stay_here("this")
        found = choose(self.config, os.environ, here(os.environ))
        if ask and found.changed is not None and _COMPLETING not in os.environ:
            from outpost_manager.cli.trusting import ask_again

            if ask_again(self, found.changed):
                found = choose(self.config, os.environ, here(os.environ))
        for place in found.places if ask else ():
            if place.passed_over and not place.relied and place.path not in self._said:
                self._said.add(place.path)
                self._say_passed_over(place)
        return found

    def _say_passed_over(self, place: Place) -> None:
        from outpost_manager.cli.render import clean

        if _COMPLETING in os.environ:
            return
        self.note(clean(f"note: {place.passed_over}"))
        if place.hint:
            self.note(clean(f"  → {place.hint}"))

    def find_config(self) -> tuple[Path | None, str]:
        """Return the configuration file that counts, and why that one.

        Raises:
            ConfigError: it has changed since the user trusted it.
        """
        found = self.choice()
        found.demand()
        return found.path, found.why

    def presets(self) -> Mapping[str, AgentPreset]:
        """Return the agents' presets that the installed packages offer."""
        from outpost_manager.orders.presets import offered

        return offered(self.plugins())

    def load_config(self) -> tuple[Config, Path | None, str]:
        """Return the configuration, its file, and why that file.

        Raises:
            ConfigError: it has a mistake, or has changed since the user trusted it.
        """
        from outpost_manager.config import load_config

        found = self.choice()
        found.demand()
        loaded = load_config(
            found.path, self.plugins().backends, data=found.data, presets=self.presets
        )
        return loaded, found.path, found.why

    def answer(self, data: Callable[[], object], lines: Callable[[], Iterable[str]]) -> None:
        """Print an answer to standard output.

        Args:
            data: makes the JSON document of `--json`.
            lines: makes the lines for people.
        """
        if self.json:
            print_json(data())
        else:
            from outpost_manager.cli import output

            for line in lines():
                output.echo(line)

    def note(self, text: str) -> None:
        """Say something on standard error, besides the answer; silent with `--json`."""
        if not self.json:
            from outpost_manager.cli import output

            output.echo(text, err=True)


async def _coroutine(work: Awaitable[T]) -> T:
    return await work


def _say_nothing(_: str) -> None: ...


def print_traceback(title: str, error: BaseException | None) -> None:
    """Print where something was raised, on standard error."""
    if error is not None:
        import traceback

        from outpost_manager.cli import output

        output.echo(f"{title}:\n{''.join(traceback.format_exception(error))}", err=True)


def print_json(data: object, *, one_line: bool = False) -> None:
    """Print a JSON document, indented, or as one line of a stream.

    A character that a terminal would obey, or that nobody sees, is escaped as JSON can: the
    document says the same to a program, and does nothing to a terminal.
    """
    import json

    from outpost_manager.cli import output
    from outpost_shared.harmless import escaped

    text = json.dumps(data, indent=None if one_line else 2, ensure_ascii=not _utf8())
    output.document(escaped(text))


def _utf8() -> bool:
    return (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "") == "utf8"


def current(ctx: click.Context) -> Session:
    """Return the session of the invocation that `ctx` belongs to."""
    root = ctx.find_root()
    if not isinstance(root.obj, Session):
        root.obj = Session()
    return root.obj


def _set(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if (value or value == "") and param.name is not None:
        setattr(current(ctx), param.name, value)


def _no_color(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value or os.environ.get("NO_COLOR"):
        ctx.color = ctx.find_root().color = False


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from outpost_core import __version__
        from outpost_manager.cli import output

        output.echo(f"outpost {__version__}")
        ctx.exit()


def _verbose(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    if value and not ctx.resilient_parsing:
        from outpost_manager.cli import logsetup

        logsetup.verbose(value)


def global_options(*, hidden: bool) -> list[click.Parameter]:
    """Return the options that are taken before and after a command's name.

    Args:
        hidden: leave all but `--json` out of the help text.
    """
    path = click.Path(path_type=Path)
    return [
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=_set,
            help="Answer with a JSON document.",
        ),
        click.Option(
            ["--config"], type=path, expose_value=False, callback=_set, hidden=hidden,
            help="Use this outposts.yaml.", metavar="FILE",
        ),
        click.Option(
            ["--state"], type=path, expose_value=False, callback=_set, hidden=hidden,
            help="Keep the ledger and workers in this folder.", metavar="FOLDER",
        ),
        click.Option(
            ["--server"], expose_value=False, callback=_set, hidden=hidden, metavar="URL",
            help="Ask the mayor at this URL, as OUTPOST_SERVER does: https://HOST,"
            " http://127.0.0.1:PORT or unix:/PATH/api.sock. Its token is in OUTPOST_TOKEN_FILE or"
            " OUTPOST_TOKEN.",
        ),
        click.Option(
            ["-v", "--verbose"], count=True, expose_value=False, callback=_verbose, hidden=hidden,
            help="Log on standard error what is done; -vv says more. See also OUTPOST_LOG.",
        ),
        click.Option(
            ["--no-color"], is_flag=True, expose_value=False, callback=_no_color, hidden=hidden,
            is_eager=True, help="Print without colours, as NO_COLOR=1 does.",
        ),
    ]  # fmt: skip


def version_option() -> click.Parameter:
    """Return the option that prints the version."""
    return click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version,
        help="Print the version.",
    )  # fmt: skip


class Command(click.Command):
    """A command that also takes the global options after its name, but for names of its own.

    Attributes:
        works_anywhere: it works with `--server`, too.
        of_here: it is about this machine alone, so that `OUTPOST_SERVER` does not concern it.
        instead: what to do from here where it does not; "" for logging in there.
    """

    works_anywhere = False
    of_here = False
    instead = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = {flag for param in self.params for flag in param.opts}
        self.params.extend(o for o in global_options(hidden=True) if own.isdisjoint(o.opts))

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, where it can be asked of a server or none is to be asked."""
        if self.of_here:
            current(ctx).mean_here()
        if not self.works_anywhere:
            current(ctx).stay_here(ctx.command_path, self.instead)
        return super().invoke(ctx)


class Group(click.Group):
    """A group that also takes the global options, and shows its help when nothing follows."""

    def __init__(self, *args: Any, hidden_options: bool = True, **kwargs: Any) -> None:
        kwargs |= {"callback": _show_help, "invoke_without_command": True}
        super().__init__(*args, **kwargs)
        self.params.extend(global_options(hidden=hidden_options))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with the whole of their first sentences: none is cut."""
        made = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        shown = [(name, one.get_short_help_str(_WHOLE)) for name, one in made if one is not None]
        with formatter.section("Commands"):
            formatter.write_dl(shown)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with.

        Raises:
            click.UsageError: there is none; the nearest name is said.
        """
        known, name = self.list_commands(ctx), args[0]
        if name in known or ctx.resilient_parsing or name.startswith("-"):
            return super().resolve_command(ctx, args)
        from outpost_core.nearest import nearest
        from outpost_manager.cli.render import clean

        near = nearest(name, known)
        hint = f"; did you mean {near!r}?" if near else f"; there are: {', '.join(known)}"
        raise click.UsageError(f"{ctx.info_name} has no command {clean(name)!r}{hint}", ctx)


@click.pass_context
def _show_help(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        if current(ctx).json:
            raise click.UsageError("a command is missing", ctx)
        from outpost_manager.cli import output

        output.echo(ctx.get_help())


def command(
    name: str,
    *,
    cls: type[Command] = Command,
    anywhere: bool = False,
    of_here: bool = False,
    instead: str = "",
    **attrs: Any,
) -> Callable[[Any], Command]:
    """Declare a command; its function gets the `Session` first.

    Args:
        name: how it is called.
        cls: its class.
        anywhere: it works with `--server`, too.
        of_here: it is about this machine alone, so that `OUTPOST_SERVER` does not concern it.
        instead: what to do from here where it does not; "" for logging in there.
        attrs: for the class.
    """

    def declare(function: Callable[..., None]) -> Command:
        import functools

        @functools.wraps(function)
        def with_session(*args: Any, **kwargs: Any) -> None:
            function(current(click.get_current_context()), *args, **kwargs)

        made = click.command(name, cls=cls, **attrs)(with_session)
        made.works_anywhere = anywhere
        made.of_here = of_here
        made.instead = instead
        return made

    return declare
