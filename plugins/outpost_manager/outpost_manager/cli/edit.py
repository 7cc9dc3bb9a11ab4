"""The configuration file: `add`, `remove`, `config check`, `config show`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from outpost_core.errors import UsageError
from outpost_manager.cli import complete, dialogue, output, render
from outpost_manager.cli.outposts import missing_type
from outpost_manager.cli.session import Command, Group, Session, command, current
from outpost_manager.cli.values import assignments
from outpost_manager.offloop import at_once
from outpost_manager.plugins.advice import missing_hint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_core.backend import Backend
    from outpost_manager.config import OptionField
    from outpost_manager.config.model import Config
    from outpost_manager.manager import Manager


class _Types(Group):
    """`outpost add`: one subcommand for each installed outpost type, with its options as flags."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the installed types."""
        return sorted(current(ctx).plugins().backends)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command that adds an outpost of that type."""
        backend = current(ctx).plugins().backends.get(cmd_name)
        return None if backend is None else _add_command(backend)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the type that `args` begin with.

        Raises:
            UsageError: nothing installed provides it.
        """
        plugins = current(ctx).plugins()
        if args[0] not in plugins.backends and not args[0].startswith("-"):
            if ctx.resilient_parsing:
                return None, None, args[1:]
            error = missing_type(plugins, args[0])
            raise UsageError(error.message, hint=error.hint)
        return super().resolve_command(ctx, args)


add = _Types(
    "add",
    options_metavar="",
    subcommand_metavar="TYPE NAME [OPTIONS]",
    short_help="Add an outpost to outposts.yaml.",
    help="Add an outpost to outposts.yaml, keeping its comments and order.\n\n"
    "`outpost add TYPE --help` shows the options of a type.\n\n"
    "\b\nExample:\n  outpost add local second --max-workers 2",
)


def _add_command(backend: Backend) -> Command:
    from outpost_manager.config import option_fields

    fields = sorted(option_fields(backend.options_class), key=lambda field: not field.required)
    flags = [_flag(field) for field in fields]
    needed = "".join(f" {flag.opts[0]} {flag.metavar}" for flag in flags if flag.required)

    @click.pass_context
    def run(
        ctx: click.Context,
        /,
        outpost_name: str,
        trust: bool = False,
        no_check: bool = False,
        **said: Any,
    ) -> None:
        values = _values(fields, said)
        if backend.introduce is None:
            _add(current(ctx), backend, outpost_name, values)
        else:
            _introduce(ctx, backend, outpost_name, values, None if no_check else trust)

    return Command(
        backend.type,
        callback=run,
        params=[
            click.Argument(["outpost_name"], metavar="NAME"),
            *flags,
            *(dialogue.flags() if backend.introduce is not None else ()),
        ],
        short_help=backend.summary,
        help=f"Add an outpost of the type {backend.type}: {backend.summary}.\n\n"
        f"\b\nExample:\n  outpost add {backend.type} NAME{needed} --max-workers 4",
    )


def _flag(field: OptionField) -> click.Option:
    """Return the flag of one field of a backend's options."""
    name = field.name.replace("_", "-")
    declarations = [f"--{name}/--no-{name}"] if field.type is bool else [f"--{name}"]
    attrs: dict[str, Any] = {"help": _help(field), "required": field.required}
    if field.type is bool:
        attrs["default"] = None
    else:
        attrs["type"] = _flag_type(field)
        attrs["metavar"] = field.metavar or _metavar(field)
        attrs["multiple"] = field.type in (tuple, dict)
    return click.Option([*declarations, f"option_{field.name}"], **attrs)


def _help(field: OptionField) -> str:
    text = field.help[:1].upper() + field.help[1:]
    if field.type in (tuple, dict):
        text += "; again for more"
    default = field.show(field.default)
    if field.required or default in (None, "", [], {}):
        return f"{text}."
    shown = ", ".join(default) if isinstance(default, list) else default
    shown = str(shown).lower() if isinstance(shown, bool) else shown
    return f"{text}. [default: {shown}]"


def _flag_type(field: OptionField) -> click.ParamType[Any]:
    if field.choices:
        return click.Choice(field.choices)
    if field.unit:
        return click.STRING  # the validation of the file reads `30m` and `2GiB`
    if field.type is Path:
        return click.Path()  # for the sake of completion; it need not exist
    if field.type is int:
        return click.INT
    if field.type is float:
        return click.FLOAT
    return click.STRING


def _metavar(field: OptionField) -> str:
    if field.choices:
        return "|".join(field.choices)
    if field.unit:
        return {"duration": "DURATION", "bytes": "SIZE"}[field.unit]
    kinds = {str: "TEXT", Path: "PATH", int: "N", float: "NUMBER", tuple: "WORD", dict: "K=V"}
    return kinds[field.type]


def _values(fields: Sequence[OptionField], said: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were said, as they are to be written."""
    values = {}
    for field in fields:
        value = said[f"option_{field.name}"]
        if value is None or value == ():
            continue
        if field.type is dict:
            value = assignments(value, f"--{field.name.replace('_', '-')}")
        values[field.name] = list(value) if field.type is tuple else value
    return values


def _add(session: Session, backend: Backend, name: str, values: dict[str, Any]) -> None:
    from outpost_manager.config import add_outpost

    path = _file(session)
    add_outpost(path, backend.type, name, values, session.plugins().backends)
    session.answer(
        lambda: {"added": name, "type": backend.type, "file": str(path)},
        lambda: [f"added {name} to {path}", *_slot_lines(session), f"  → outpost doctor {name}"],
    )


def _slot_lines(session: Session) -> list[str]:
    """Say who is limited now that there is another outpost: what is over goes there."""
    from outpost_manager.cli.outposts import slot_lines

    with session.manager() as manager:
        return [*slot_lines(at_once(manager.outposts()))]


def _introduce(
    ctx: click.Context, backend: Backend, name: str, values: dict[str, Any], trust: bool | None
) -> None:
    """Look at a place, and write it down with what was found; `trust` None: without a look."""
    from outpost_manager.config import add_outpost

    session = current(ctx)
    path = _file(session)
    found: dict[str, Any] = {}
    if trust is not None:
        found = dict(dialogue.introduce(session, backend, name, values, path, trust))
    add_outpost(path, backend.type, name, values | found, session.plugins().backends)
    bootstrap = "bootstrap" in backend.capabilities
    session.answer(
        lambda: {
            "added": name,
            "type": backend.type,
            "file": str(path),
            "checked": trust is not None,
            "found": found,
        },
        lambda: [
            f"added {name} to {path}",
            *_slot_lines(session),
            f"  → outpost {'bootstrap' if bootstrap else 'doctor'} {name}",
        ],
    )
    if bootstrap and trust is not None:
        dialogue.offer_bootstrap(ctx, session, name)


def _file(session: Session) -> Path:
    """Return the file to edit: the one that counts, else where one belongs."""
    from outpost_manager.config import new_config

    named = session.config or os.environ.get("OUTPOST_CONFIG")
    if named:  # it need not exist yet
        return Path(named).expanduser()
    path, _ = session.find_config()
    from outpost_shared.paths import here

    return path or new_config(os.environ, here(os.environ))


@command("remove")
@click.argument("name", shell_complete=complete.outposts)
@click.option("--prune", is_flag=True, help="Take it out of the policy's preferences, too.")
@click.option("--force", is_flag=True, help="Also while workers there have not ended.")
def remove(session: Session, name: str, prune: bool, force: bool) -> None:
    """Remove an outpost from outposts.yaml.

    Refused while workers there have not ended. With --force they keep running, and are
    followed again when it is added again; `outpost stop --forget` gives them up.

    \b
    Example:
      outpost remove second
    """
    from outpost_core.errors import NotFoundError
    from outpost_manager.config import remove_outpost

    path, why = session.find_config()
    if path is None:
        raise NotFoundError(
            f"there is no configuration file to remove {name!a} from ({why})",
            hint="outpost add writes one",
        )
    if not force:
        _refuse_running(session, name)
    remove_outpost(path, name, session.plugins().backends, prune=prune)
    session.answer(
        lambda: {"removed": name, "file": str(path)}, lambda: [f"removed {name} from {path}"]
    )


def _refuse_running(session: Session, name: str) -> None:
    """Raise ConflictError when workers of an outpost have not ended."""
    from outpost_core.errors import ConflictError

    async def work(manager: Manager) -> list[str]:
        async def active() -> list[str]:
            workers = await manager.ledger.workers(outpost=name, active=True)
            return [worker.id for worker in workers]

        if await active() and name in manager.fleet.names:
            await manager.refresh([name])  # an outpost that is down is known by its last words
        return await active()

    if ids := session.run(work):
        shown = " ".join(ids[:10]) + (" …" if len(ids) > 10 else "")
        raise ConflictError(
            f"{render.count(len(ids), 'worker')} at {name} {'has' if len(ids) == 1 else 'have'}"
            f" not ended: {shown}",
            hint=f"outpost stop {shown} first, and outpost wait; or outpost remove {name} --force",
        )


# --- config ------------------------------------------------------------------------------------

config = Group(
    "config",
    short_help="Check or show the configuration.",
    help="Check or show the configuration.\n\n\b\nExample:\n  outpost config check",
)


@command("check")
def check(session: Session) -> None:
    """Check outposts.yaml.

    A mistake is shown with its line and column; exit code 2. What is valid but probably a mistake
    is a warning. A town's file is checked before it is trusted, too.

    \b
    Example:
      outpost config check --config ./outposts.yaml
    """
    from outpost_manager.config import warnings as of_options

    loaded, path, why, distrust = _to_check(session)
    plugins = session.plugins()
    warnings = [
        f"{entry.origin}: {entry.name}: nothing installed provides the type {entry.type!r}:"
        f" {missing_hint(plugins, entry.type)}"
        for entry in loaded.outposts
        if entry.options is None
    ]
    warnings += [distrust] if distrust else of_options(loaded)

    def lines() -> Iterator[str]:
        yield (
            f"{render.clean(str(path or 'built in'))}: {output.style('ok', fg='green')}"
            f" ({render.count(len(loaded.outposts), 'outpost')},"
            f" {render.count(len(loaded.policy.overrides), 'override')})"
        )
        for warning in warnings:
            yield f"{output.style('warning:', fg='yellow')} {render.clean(warning)}"

    session.answer(
        lambda: {
            "ok": True,
            "file": str(path) if path else None,
            "chosen_by": why,
            "outposts": len(loaded.outposts),
            "overrides": len(loaded.policy.overrides),
            "warnings": warnings,
        },
        lines,
    )


def _to_check(session: Session) -> tuple[Config, Path | None, str, str]:
    """Load the file to check: the one that would count if it were trusted; nothing of it runs."""
    from outpost_manager.config import load_config
    from outpost_manager.config.places import Standing

    found = session.choice(ask=False)
    backends = session.plugins().backends
    for place in found.places:
        if place.standing in (Standing.UNTRUSTED, Standing.CHANGED):
            loaded = load_config(place.path, backends, presets=session.presets)
            return loaded, place.path, place.why, f"{place.passed_over}: {place.hint}"
    found.demand()
    loaded = load_config(found.path, backends, data=found.data, presets=session.presets)
    return loaded, found.path, found.why, ""


@command("show")
def show(session: Session) -> None:
    """Show which file counts and why not the others, and where every value comes from.

    \b
    Example:
      outpost config show
    """
    from outpost_manager.config import load_config, settings

    found = session.choice(ask=False)
    path, why = found.path, found.why
    loaded = load_config(path, session.plugins().backends, data=found.data, presets=session.presets)
    values = settings(loaded)

    def lines() -> Iterator[str]:
        yield f"{render.clean(str(path)) if path else 'no file'} ({why})"
        for place in found.places:
            if place.path != path:
                detail = place.detail or place.standing
                yield render.clean(f"  not {place.path} ({place.why}): {detail}")
        yield from render.table(
            ("key", "value", "from"),
            [(s.key, _shown(s.value), _from(str(s.origin), path)) for s in values],
            keep=("key",),
        )

    session.answer(
        lambda: {
            "file": str(path) if path else None,
            "chosen_by": why,
            "places": [
                {
                    "file": str(place.path),
                    "named_by": place.why,
                    "standing": str(place.standing),
                    "detail": place.detail,
                    "hint": place.hint,
                }
                for place in found.places
            ],
            "values": [{"key": s.key, "value": s.value, "origin": str(s.origin)} for s in values],
        },
        lines,
    )


def _from(origin: str, path: Path | None) -> str:
    """Return an origin without the folder, which the line above has."""
    return origin.removeprefix(f"{path.parent}/") if path is not None else origin


def _shown(value: object) -> str:
    import json

    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


config.add_command(check)
config.add_command(show)
