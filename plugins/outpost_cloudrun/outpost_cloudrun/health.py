"""What the program in a container says of itself, asked through Google's front with a token."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import httpx

from outpost_cloudrun.connection.client import front_error, open_client
from outpost_core.errors import UnreachableError
from outpost_shared.protocol import clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outpost_cloudrun.connection.identity import Identity
    from outpost_cloudrun.options import CloudRunOptions

#: The version of the work protocol that this side speaks.
PROTOCOL: Final = 1
#: Seconds for an answer: a container may have to be started first.
_ANSWER: Final = 45.0
_MOST: Final = 64 << 10
_TEXT: Final = 500


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a container says.

    Args:
        ok: it could start a worker.
        detail: why not.
        protocol: version of the work protocol; 0 when it does not say.
        version: of Outpost in the image.
        programs: path of each program that was asked for; "" for one that is not there.
    """

    ok: bool
    detail: str = ""
    protocol: int = 0
    version: str = ""
    programs: Mapping[str, str] = field(default_factory=dict)


async def ask(
    options: CloudRunOptions, url: str, identity: Identity, programs: Sequence[str]
) -> Said:
    """Ask a container how it is; one is started where none is there.

    Args:
        options: whose identity asks.
        url: where it is.
        identity: gives the tokens.
        programs: names of programs to look for.

    Raises:
        UnreachableError: nobody answered, or something else than our program.
        UsageError: the address is none.
    """
    async with open_client(options, url, identity=identity) as client:
        query = f"?programs={quote(','.join(programs))}" if programs else ""
        try:
            async with client.stream("GET", f"/health{query}", timeout=_ANSWER) as answer:
                data = bytearray()
                async for piece in answer.aiter_bytes():
                    data += piece
                    if len(data) > _MOST:
                        break
        except httpx.HTTPError as error:
            why = clean(str(error), _TEXT) or type(error).__name__
            raise UnreachableError(
                f"{url} does not answer: {why}", hint="look at the network and at `url`"
            ) from error
    whole = httpx.Response(
        answer.status_code, headers=_plain(answer.headers), content=bytes(data),
        request=answer.request,
    )  # fmt: skip
    if refused := front_error(whole, whose=identity.whose, region=options.region):
        raise refused
    return _read(url, whole)


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Return headers of an answer whose body is here whole."""
    kept = ("content-type", "server")
    return {name: headers[name] for name in kept if name in headers}


def _read(url: str, answer: httpx.Response) -> Said:
    try:
        said = json.loads(answer.content)
    except (ValueError, RecursionError):
        said = None
    if answer.status_code == 429:
        raise UnreachableError(
            f"{url} has no container free", hint="raise max_workers, or wait for workers to end"
        )
    if answer.status_code != 200 or not isinstance(said, dict) or "protocol" not in said:
        raise UnreachableError(
            f"{url} answered {answer.status_code}, and not as Outpost's program does",
            hint="is it the image of `outpost image build`? Its log is in Google's console",
        )
    protocol, programs = said.get("protocol"), said.get("programs")
    return Said(
        ok=said.get("ok") is True,
        detail=clean(str(said.get("detail") or ""), _TEXT),
        protocol=protocol if type(protocol) is int else 0,
        version=clean(str(said.get("version") or ""), 64),
        programs={
            clean(str(name), 64): clean(str(path), _TEXT)
            for name, path in (programs if isinstance(programs, dict) else {}).items()
        },
    )
