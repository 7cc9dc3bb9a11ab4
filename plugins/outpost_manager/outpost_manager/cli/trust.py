"""`outpost trust`: let a file count that was found by walking up from the current folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from outpost_core.errors import NotFoundError, UsageError
from outpost_manager.cli import render
from outpost_manager.cli.session import Session, command
from outpost_manager.cli.trusting import _read, _show, can_ask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_manager.config.trusted import Record


@command("trust")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--list", "listed", is_flag=True, help="Show what is trusted, and do nothing.")
@click.option("--revoke", is_flag=True, help="Trust it no longer.")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing.")
def trust(session: Session, path: Path | None, listed: bool, revoke: bool, yes: bool) -> None:
    """Let the files of a Gas Town count.

    They are its outposts.yaml and its list of rigs (mayor/rigs.json). What is found by walking up
    from the current folder may have come with somebody else's repository, so nothing that it says
    is run, connected to or read before. PATH is a town, a folder in one, or one of the two files;
    else the town around the current folder. What the files say is shown first. A file that
    changes has to be trusted again.

    \b
    Examples:
      outpost trust
      outpost trust ~/gt/config/outposts.yaml
      outpost trust --revoke ~/gt
    """
    from outpost_manager.config import trusted

    if listed:
        if path is not None or revoke:
            raise UsageError("--list takes nothing else", hint="outpost trust --list")
        _answer(session, [(one, _standing(one)) for one in trusted.records(os.environ)])
    elif revoke:
        _answer(session, [(one, "revoked") for one in _revoke(path or Path())])
    else:
        found = [_read(file) for file in _files(path or Path())]
        _show(session, found)
        if not yes and can_ask(session) and not click.confirm("trust what it says?", err=True):
            session.note("nothing was trusted")
            click.get_current_context().exit(1)
        _answer(session, [(trusted.trust(one, os.environ), "trusted") for one in found])


def _files(path: Path) -> list[Path]:
    """Return the files that a path means.

    Raises:
        UsageError: it is another file.
        NotFoundError: there is no town, or it has no such file.
    """
    from outpost_manager.config.places import is_of_town, is_town
    from outpost_manager.config.town import FILE_NAME, RIGS, towns

    path = Path.cwd() / path.expanduser()
    if path.is_dir():
        town = next(iter(towns({}, path)), None)
        if town is None:
            raise NotFoundError(
                f"{path} is in no Gas Town, so there is nothing to trust",
                hint="the configuration of your own, and what --config names, need no trust",
            )
        found = [file for file in (town / "config" / FILE_NAME, town / RIGS) if file.is_file()]
        if not found:
            raise NotFoundError(f"the town {town} has neither config/{FILE_NAME} nor {RIGS}")
        return found
    if is_of_town(path) or (path.parts[-2:] == RIGS.parts and is_town(path.parent.parent)):
        return [path]
    if not path.exists():
        raise NotFoundError(f"there is no {path}")
    raise UsageError(
        f"{path} is no file that is found by walking up",
        hint=f"name a town, its config/{FILE_NAME} or its {RIGS}; what --config names needs none",
    )


def _revoke(path: Path) -> list[Record]:
    """Take the trust back in a file, or in all of a folder, also when they are gone.

    Raises:
        NotFoundError: nothing there was trusted.
    """
    from outpost_manager.config import trusted
    from outpost_manager.config.town import towns

    path = Path.cwd() / path.expanduser()
    meant = {path, path.resolve(), trusted.identity(path), *towns({}, path)[:1]}
    taken = [
        one
        for one in trusted.records(os.environ)
        if meant & {one.path, *one.path.parents}
        and trusted.revoke(one.path, os.environ) is not None
    ]
    if not taken:
        raise NotFoundError(f"nothing in {path} is trusted", hint="outpost trust --list")
    return taken


def _standing(record: Record) -> str:
    """Return how a file stands to what was trusted of it."""
    from outpost_manager.config import trusted
    from outpost_shared.access import NotPrivateError

    try:
        return str(trusted.verdict(trusted.read_found(record.path), os.environ))
    except NotPrivateError:
        return "others could have written it"
    except FileNotFoundError:
        return "gone"
    except OSError:
        return "cannot be read"


def _answer(session: Session, found: Sequence[tuple[Record, str]]) -> None:
    def data() -> dict[str, Any]:
        from outpost_manager import jsonviews

        return {"files": [jsonviews.trusted(record, standing) for record, standing in found]}

    def lines() -> Iterator[str]:
        for record, standing in found:
            yield render.clean(f"{record.path}: {standing}")

    session.answer(data, lines)
