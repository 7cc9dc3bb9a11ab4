"""How a mayor does, written down for `outpost serve --status` in another process."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_manager.jsonviews import moment
from outpost_shared import jsonfiles
from outpost_shared.backoff import every
from outpost_shared.harmless import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_manager.plugins.services import Services
    from outpost_mayor.serving.lease import Holder

#: The file in the state folder.
FILE: Final = "mayor-services.json"
#: Seconds between two looks at the services.
_LOOK: Final = 1.0


async def keep(folder: Path, services: Services) -> None:
    """Write how the services do whenever that has changed; never ends."""
    written: list[dict[str, Any]] | None = None
    looks = every(_LOOK)
    while True:
        found = [
            {
                "name": note.name, "plugin": note.plugin, "state": note.state,
                "failures": note.failures, "error": note.error, "since": note.since,
            }
            for note in services.notes
        ]  # fmt: skip
        if found != written:
            with suppress(OSError):  # a full disk; written once there is room
                await asyncio.to_thread(jsonfiles.store, str(folder), FILE, {"services": found})
                written = found
        await looks.wait()


def read(folder: Path) -> Sequence[dict[str, Any]]:
    """Return how the services of the mayor did when that changed last."""
    said = jsonfiles.load(str(folder), FILE) or {}
    found = said.get("services")
    return [_checked(one) for one in found if isinstance(one, dict)] if found else []


def _checked(one: dict[str, Any]) -> dict[str, Any]:
    texts = {key: clean(str(one.get(key, "")))[:500] for key in ("name", "plugin", "state")}
    failures, since = one.get("failures"), one.get("since")
    return {
        **texts,
        "failures": failures if isinstance(failures, int) else 0,
        "error": clean(str(one.get("error", "")))[:500],
        "since": since if isinstance(since, float) else None,
    }


def shape(held: Holder | None, services: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the document that says how a mayor does."""
    return {
        "running": held is not None,
        "pid": held.pid or None if held else None,
        "host": held.host or None if held else None,
        "since": moment(held.since) if held else None,
        "services": [{**one, "since": moment(one["since"])} for one in services],
    }


def parsed(data: object) -> dict[str, Any]:
    """Return the document that a mayor of another machine said, as far as it makes sense.

    Raises:
        NotBelievedError: it makes none.
    """
    from outpost_manager.remote.fields import Fields

    said = Fields.of_answer(data)
    return {
        "running": said.flag("running"),
        "pid": said.whole_or("pid"),
        "host": None if said.text_or("host") is None else clean(said.text("host"))[:300],
        "since": moment(said.moment_or("since")),
        "services": [
            {
                **{key: clean(one.text(key))[:500] for key in ("name", "plugin", "state")},
                "failures": one.whole("failures"),
                "error": clean(one.text("error"))[:500],
                "since": moment(one.moment_or("since")),
            }
            for one in said.objects("services")
        ],
    }
