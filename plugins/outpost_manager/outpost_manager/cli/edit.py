"""The configuration file: `remove`, `config check`, `config show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from outpost_manager.cli import complete, output, render
from outpost_manager.cli.session import Group, Session, command
from outpost_manager.plugins.advice import missing_hint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_manager.config.model import Config
    from outpost_manager.manager import Manager


@command("remove")
@click.argument("name", shell_complete=complete.outposts)
@click.option("--prune", is_flag=True, help="Take it out of the policy's preferences, too.")
@click.option("--force", is_flag=True, help="Also while workers there have not ended.")
def remove(session: Session, name: str, prune: bool, force: bool) -> None:
    """Remove an outpost from outposts.yaml.

    Refused while workers there have not ended. With --force they keep running and cost what
    they cost, though nobody sees them end: they are followed again, and can be stopped, when
    the outpost is added again under its name. `outpost stop --forget` gives them up.

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
    left = session.run(lambda manager: _running(manager, name, ask=not force))
    if left and not force:
        _refuse(name, left)
    remove_outpost(path, name, session.plugins().backends, prune=prune)

    def lines() -> Iterator[str]:
        yield f"removed {name} from {path}"
        if left:
            yield f"{_not_ended(name, left)}; nobody follows or ends what runs there now"
            yield (
                f"  → to end it: add {name} again as it was, then outpost stop {_shown_ids(left)},"
                " and outpost wait"
            )

    session.answer(lambda: {"removed": name, "file": str(path), "left": left}, lines)


async def _running(manager: Manager, name: str, *, ask: bool) -> list[str]:
    """Return the workers of an outpost that have not ended.

    Args:
        manager: what knows them.
        name: the outpost's.
        ask: ask the outpost first; one that is down is known by its last words.
    """

    async def active() -> list[str]:
        workers = await manager.ledger.workers(outpost=name, active=True)
        return [worker.id for worker in workers]

    if ask and await active() and name in manager.fleet.names:
        await manager.refresh([name])
    return await active()


def _refuse(name: str, ids: Sequence[str]) -> NoReturn:
    """Raise ConflictError for workers that have not ended."""
    from outpost_core.errors import ConflictError

    raise ConflictError(
        _not_ended(name, ids),
        hint=f"outpost stop {_shown_ids(ids)} first, and outpost wait; or outpost remove {name}"
        " --force",
    )


def _not_ended(name: str, ids: Sequence[str]) -> str:
    have = "has" if len(ids) == 1 else "have"
    return f"{render.count(len(ids), 'worker')} at {name} {have} not ended: {_shown_ids(ids)}"


def _shown_ids(ids: Sequence[str]) -> str:
    return " ".join(ids[:10]) + (" …" if len(ids) > 10 else "")


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
