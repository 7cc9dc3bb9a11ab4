"""Requests as a server takes them: what they name on this machine is looked up here first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import UsageError
from outpost_core.names import split_rig
from outpost_manager.config.town import rig_of_town
from outpost_manager.orders.localgit import LocalGit, find_rig

if TYPE_CHECKING:
    from outpost_manager.orders.making import OrderRequest
    from outpost_manager.remote.address import Address

#: Characters of a prompt's file that are read.
_LONGEST: Final = 4 << 20


def prepared(
    requests: Sequence[OrderRequest], at: Address, environ: Mapping[str, str], cwd: Path
) -> list[dict[str, Any]]:
    """Return the fields of requests, as a line of `--from-file` has them.

    A file of a prompt is read here, and the repository around the current folder is told by its
    URL. Secrets stay names: their values are the server's own.

    Args:
        requests: what is to be done.
        at: the server; one on this machine sees its folders.
        environ: says which town the user trusts.
        cwd: where the user stands.

    Raises:
        UsageError: a repository or a file is none that the server can have.
    """
    local = LocalGit(cwd, environ)
    return [_fields(each, at, local, environ, cwd) for each in requests]


def _fields(
    request: OrderRequest, at: Address, local: LocalGit, environ: Mapping[str, str], cwd: Path
) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if value != (field.default if field.default is not dataclasses.MISSING else {}):
            said[field.name] = [*value] if isinstance(value, tuple) else value
    file = said.pop("prompt_file", None)
    if file is not None:
        if request.prompt is not None:
            raise UsageError(
                "both a prompt and a prompt file were given", hint="give one of the two"
            )
        said["prompt"] = _read(cwd / file)
    if not request.no_rig:
        said["rig"] = _rig(request, at, local, environ, cwd)
    return said


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"the prompt file {path} cannot be read: {why}") from error
    if len(text) > _LONGEST:
        raise UsageError(f"the prompt file {path} is longer than a server takes")
    return text


def _rig(
    request: OrderRequest, at: Address, local: LocalGit, environ: Mapping[str, str], cwd: Path
) -> str:
    found = request.rig or rig_of_town(cwd, request.issue, environ)
    if not found:
        here = local.around()
        if here is None:
            raise UsageError(
                "no repository was named, and this folder is in none",
                hint="add --rig URL; --no-rig runs the agent in an empty folder",
            )
        if here.push:
            raise UsageError(
                f"{here.top} is fetched from one place and pushed to another, and a server is told"
                " of one",
                hint="say which: --rig URL",
            )
        found = here.rig
    found = find_rig(found, cwd)
    if split_rig(found)[1]:
        raise UsageError(
            "the repository's URL has a password in it, which is not sent to a server",
            hint="give the server a login of its own, and say the URL without: --rig URL",
        )
    if found.startswith("/") and not at.socket:
        raise UsageError(
            f"{found} is a folder of this machine, which the server does not see",
            hint="push it somewhere that both reach, and say --rig URL",
        )
    return found
