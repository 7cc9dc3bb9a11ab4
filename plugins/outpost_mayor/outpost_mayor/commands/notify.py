"""`outpost notify`: whether those who are to be told hear of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import click

from outpost_core.errors import NotFoundError
from outpost_core.nearest import suggest
from outpost_manager.cli.session import Group, Session, command

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

#: What `--json` answers, by command.
SHAPES: Final[dict[str, Any]] = {
    "notify test": {
        "targets": [{"name": "its name", "to": "the way", "ok": True, "error": "or null"}]
    },
}

notify = Group(
    "notify",
    short_help="Try whether those who are told hear of it.",
    help="Try whether those who are told hear of it.\n\nTargets stand in `notify` of"
    " outposts.yaml; `outpost serve` tells them.\n\n\b\nExamples:\n  outpost notify test",
)


@command("test")
@click.argument("name", required=False)
def test(session: Session, name: str | None) -> None:
    """Tell all targets, or one, that this is a test; with the secrets of this environment.

    Exit code 1 when one could not be told.

    \b
    Examples:
      outpost notify test
      outpost notify test ops
    """

    async def work(manager: Manager) -> list[dict[str, Any]]:
        from outpost_mayor.notify.sending import NotToldError, send

        targets = [one for one in manager.config.notify if name in (None, one.name)]
        if name is not None and not targets:
            known = [one.name for one in manager.config.notify]
            raise NotFoundError(f"there is no target {name[:80]!a}", hint=suggest(name, known))
        found = []
        for one in targets:
            error = None
            try:
                await send(one, _said(one.name), os.environ)
            except NotToldError as wrong:
                error = wrong.message
            found.append({"name": one.name, "to": one.to.value, "ok": not error, "error": error})
        return found

    found = session.run(work)
    session.answer(lambda: {"targets": found}, lambda: _lines(found))
    if not all(one["ok"] for one in found):
        click.get_current_context().exit(1)


def _said(name: str) -> dict[str, Any]:
    from outpost_manager.jsonviews import moment

    return {
        "id": f"{name}-test-{token_hex(4)}", "about": "test", "at": moment(time.time()),
        "text": "this is a test of outpost notify",
    }  # fmt: skip


def _lines(found: list[dict[str, Any]]) -> Iterator[str]:
    from outpost_manager.cli import render

    if not found:
        yield "nobody is told; write targets under `notify` in outposts.yaml"
    for one in found:
        said = "was told" if one["ok"] else f"was not told: {one['error']}"
        yield render.clean(f"{one['name']} ({one['to']}) {said}")


notify.add_command(test)
