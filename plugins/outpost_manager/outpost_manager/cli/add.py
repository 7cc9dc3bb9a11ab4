"""`outpost add`: one subcommand for each installed type, with its options as flags."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from outpost_core.errors import UsageError
from outpost_manager.cli import dialogue
from outpost_manager.cli.outposts import missing_type
from outpost_manager.cli.session import Command, Group, Session, current
from outpost_manager.cli.values import assignments, json_or_text
from outpost_manager.offloop import at_once

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outpost_core.backend import Backend
    from outpost_manager.config import OptionField


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


#: What a value has that names of outposts have not.
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")

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
        outposts = _outposts(outpost_name, fields, _values(fields, said))
        if backend.introduce is None:
            _add(current(ctx), backend, outposts)
        else:
            _introduce(ctx, backend, outposts, None if no_check else trust)

    return Command(
        backend.type,
        callback=run,
        params=[
            click.Argument(["outpost_name"], metavar="NAME"),
            *flags,
            *(dialogue.flags() if backend.introduce is not None else ()),
        ],
        short_help=backend.summary,
        help=f"Add an outpost of the type {backend.type}: {backend.summary}.\n\n{_said_of(fields)}"
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
        attrs["multiple"] = field.each or field.type in (tuple, dict)
    return click.Option([*declarations, f"option_{field.name}"], **attrs)


def _help(field: OptionField) -> str:
    text = field.help[:1].upper() + field.help[1:]
    if field.each:
        text += "; again for one more outpost"
    elif field.type in (tuple, dict):
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
    return kinds.get(field.type, "JSON")


def _values(fields: Sequence[OptionField], said: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were said, as they are to be written."""
    values = {}
    for field in fields:
        value = said[f"option_{field.name}"]
        if value is None or value == ():
            continue
        if field.type is dict:
            value = assignments(value, f"--{field.name.replace('_', '-')}")
        elif field.type is object:
            value = json_or_text(value)
        values[field.name] = list(value) if field.type is tuple else value
    return values


def _said_of(fields: Sequence[OptionField]) -> str:
    """Return the paragraph of the help about flags that give one outpost each."""
    flags = [f"--{field.name.replace('_', '-')}" for field in fields if field.each]
    if not flags:
        return ""
    return f"{' or '.join(flags)} given several times adds an outpost for each, NAME-VALUE.\n\n"


def _outposts(
    name: str, fields: Sequence[OptionField], values: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the outposts that are wanted: one, or one for each value of an `each` option.

    Raises:
        UsageError: two such options have several values, or one has the same twice.
    """
    outposts = {name: dict(values)}
    each = [field.name for field in fields if field.each and len(values.get(field.name, ())) > 1]
    flags = [f"--{one.replace('_', '-')}" for one in each]
    if len(each) > 1:
        raise UsageError(
            f"{flags[0]} and {flags[1]} have several values, and only one of them can",
            hint="call outpost add once for each value of one of them",
        )
    if each:
        said = values[each[0]]
        outposts = {f"{name}-{_NOT_IN_NAMES.sub('-', one)}": {**values, each[0]: [one]}
                    for one in said}  # fmt: skip
        if len(outposts) < len(said):
            raise UsageError(f"{flags[0]} has a value twice", hint="say each of them once")
    singles = [field.name for field in fields if field.each and field.name in values]
    return {
        called: said | {single: said[single][0] for single in singles}
        for called, said in outposts.items()
    }


def _add(session: Session, backend: Backend, outposts: Mapping[str, Mapping[str, Any]]) -> None:
    from outpost_manager.config import add_outposts

    path = _file(session)
    add_outposts(path, backend.type, outposts, session.plugins().backends)
    session.answer(
        lambda: {"added": _one_or_all(outposts), "type": backend.type, "file": str(path)},
        lambda: [
            *(f"added {name} to {path}" for name in outposts),
            *_slot_lines(session),
            *(f"  → outpost doctor {name}" for name in outposts),
        ],
    )


def _one_or_all(outposts: Mapping[str, object]) -> str | list[str]:
    """Return the name of the outpost that was added, or the names of those."""
    names = [*outposts]
    return names[0] if len(names) == 1 else names


def _slot_lines(session: Session) -> list[str]:
    """Say who is limited now that there is another outpost: what is over goes there."""
    from outpost_manager.cli.outposts import slot_lines

    with session.manager() as manager:
        return [*slot_lines(at_once(manager.outposts()))]


def _introduce(
    ctx: click.Context,
    backend: Backend,
    outposts: Mapping[str, Mapping[str, Any]],
    trust: bool | None,
) -> None:
    """Look at places, and write them down with what was found; `trust` None: without a look."""
    from outpost_manager.config import add_outposts

    session = current(ctx)
    path = _file(session)
    found: dict[str, dict[str, Any]] = {name: {} for name in outposts}
    if trust is not None:
        for name, values in outposts.items():
            found[name] = dict(dialogue.introduce(session, backend, name, values, path, trust))
    whole = {name: {**values, **found[name]} for name, values in outposts.items()}
    next_steps = {
        name: dialogue.next_step(session, backend, name, values, path)
        for name, values in whole.items()
    }
    add_outposts(path, backend.type, whole, session.plugins().backends)
    session.answer(
        lambda: {
            "added": _one_or_all(outposts),
            "type": backend.type,
            "file": str(path),
            "checked": trust is not None,
            "found": found if len(found) > 1 else next(iter(found.values())),
        },
        lambda: [
            *(f"added {name} to {path}" for name in outposts),
            *_slot_lines(session),
            *(f"  → outpost {step} {name}" for name, step in next_steps.items()),
        ],
    )
    for name, step in next_steps.items():
        if step == "bootstrap" and trust is not None:
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
