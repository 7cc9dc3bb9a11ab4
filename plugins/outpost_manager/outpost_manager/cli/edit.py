"""The configuration file: `remove`, `config check`, `config show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from outpost_manager.cli import complete, output, render
from outpost_manager.cli.session import Group, Session, command
from outpost_manager.plugins.advice import missing_hint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outpost_manager.config.model import Config
    from outpost_manager.manager import Manager


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
