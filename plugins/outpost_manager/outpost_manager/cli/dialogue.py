"""`outpost add` of a place that is looked at first: what it shows, and what it asks."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from outpost_core.errors import OutpostError, PluginError
from outpost_core.isolation import describe
from outpost_manager.cli import render
from outpost_manager.cli.trusting import can_ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_core.backend import Backend, BuildContext
    from outpost_manager.cli.session import Session

#: The flags of a type whose places introduce themselves.
TRUST: Final = "--trust-on-first-use"
NO_CHECK: Final = "--no-check"


def flags() -> list[click.Option]:
    """Return the flags that `outpost add TYPE` has besides those of the type's options."""
    return [
        click.Option(
            [TRUST, "trust"],
            is_flag=True,
            help="Agree to what is shown now, such as its identity or price, without a question.",
        ),
        click.Option([NO_CHECK, "no_check"], is_flag=True, help="Write it down without trying it."),
    ]


class Talk:
    """The `Dialogue` of a command line: lines on standard error, and questions on a terminal."""

    def __init__(self, session: Session, *, trust: bool) -> None:
        self.trust = trust
        self._session = session

    def say(self, line: str) -> None:
        """Show one line."""
        self._session.note(render.clean(line))

    def confirm(self, question: str) -> bool:
        """Ask a yes-or-no question; False where nobody can be asked."""
        return can_ask(self._session) and click.confirm(render.clean(question), err=True)


def introduce(
    session: Session,
    backend: Backend,
    name: str,
    values: Mapping[str, Any],
    path: Path,
    trust: bool,
) -> Mapping[str, Any]:
    """Look at a place before it is written down.

    Args:
        session: the invocation.
        backend: its type; it has `introduce`.
        name: what it will be called.
        values: the options that were said.
        path: the file that it will be written to.
        trust: what it shows may be believed without a question.

    Returns:
        Options to write besides.

    Raises:
        OutpostError: it is not to be added; nothing was written.
    """
    options, context = _planned(session, backend, name, values, path)
    assert backend.introduce is not None
    try:
        return asyncio.run(_talk(backend, name, options, context, Talk(session, trust=trust)))
    except OutpostError as error:
        error.message += f"\n{name} was not added"
        error.hint = _or(error.hint, f"{NO_CHECK} adds it without trying")
        raise


def next_step(
    session: Session, backend: Backend, name: str, values: Mapping[str, Any], path: Path
) -> str:
    """Return the command to go on with once an outpost is written down: `bootstrap` or `doctor`.

    Its type says what its outposts can at most; one that somebody else has set up may not.

    Args:
        session: the invocation.
        backend: its type.
        name: what it will be called.
        values: its options.
        path: the file that it will be written to.
    """
    can = "bootstrap" in backend.capabilities
    if can:
        try:
            options, context = _planned(session, backend, name, values, path)
            can = "bootstrap" in backend.make(name, options, context).capabilities
        except Exception:  # noqa: BLE001 - whatever a plugin raises: doctor says what is wrong
            can = False
    return "bootstrap" if can else "doctor"


def _planned(
    session: Session, backend: Backend, name: str, values: Mapping[str, Any], path: Path
) -> tuple[Any, BuildContext]:
    """Return what an outpost would be built from, once it is written down."""
    from outpost_core.backend import BuildContext
    from outpost_manager.config.edit import planned
    from outpost_shared.paths import state_dir

    options = planned(path, backend.type, name, values, session.plugins().backends)
    state = session.state or state_dir(os.environ)
    return options, BuildContext(state_dir=state / "outposts" / name, config_dir=path.parent)


def _or(hint: str, other: str) -> str:
    """Return two ways out as one line."""
    if not hint:
        return other
    return f"{hint} Or: {other}" if hint.endswith("?") else f"{hint}; or: {other}"


async def _talk(
    backend: Backend, name: str, options: Any, context: Any, talk: Talk
) -> Mapping[str, Any]:
    assert backend.introduce is not None
    try:
        return await backend.introduce(name, options, context, talk)
    except (OutpostError, asyncio.CancelledError):
        raise
    except Exception as error:
        raise PluginError(
            f"the package of the type {backend.type!r} failed to look at {name}: {describe(error)}"
        ) from error


def offer_bootstrap(ctx: click.Context, session: Session, name: str) -> None:
    """Ask whether an outpost that was just added is to be set up, and do so."""
    root = ctx.find_root()
    group = root.command
    assert isinstance(group, click.Group)
    found = group.get_command(root, "bootstrap")
    if found is None or not can_ask(session) or not click.confirm("Bootstrap it now?", err=True):
        return
    name_of = f"{root.info_name} bootstrap"
    if code := found.main([name], prog_name=name_of, parent=root, standalone_mode=False):
        ctx.exit(code)
