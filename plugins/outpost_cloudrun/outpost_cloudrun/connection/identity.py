"""The identity that an outpost shows: its tokens, kept and renewed in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from outpost_cloudrun.connection.choice import choose
from outpost_cloudrun.connection.sources import Source
from outpost_cloudrun.connection.tokens import Token, read_claims
from outpost_cloudrun.options import CloudRunOptions
from outpost_core.errors import UnreachableError

#: Seconds of life with which a token is still used where no newer one can be had.
_LAST: Final = 10.0
#: Seconds that one token may take: gcloud has 60 for each of two calls.
_PATIENCE: Final = 150.0
#: What the access token is kept under; no audience is empty.
_ACCESS: Final = ""


class Identity:
    """Tokens of one outpost.

    A token is fetched once for all who ask at the same time, on a thread, and renewed when it
    lives no longer than 225 s. Lives are reckoned on the monotonic clock: a wall clock that is
    wrong does no harm as long as Google takes what was signed by it.

    Args:
        options: `auth` and `key_file` say whose identity it is.
        source: who gives tokens, if that is known already.
    """

    def __init__(self, options: CloudRunOptions, source: Source | None = None) -> None:
        self._options = options
        self._source = source
        self._chosen = source is not None
        self._kept: dict[str, Token] = {}
        self._running: dict[str, asyncio.Task[Token | None]] = {}

    def __repr__(self) -> str:
        return f"<Identity {self.whose}>"

    @property
    def whose(self) -> str:
        """Say whose identity it is, as far as that is known."""
        if self._source is not None:
            whose, email = self._source.whose, self.email
            return f"{email} ({whose})" if email and email not in whose else whose
        return "nobody" if self._chosen else f"auth {self._options.auth}"

    @property
    def email(self) -> str:
        """The account that the last ID token names, "" before there was one."""
        for audience, token in self._kept.items():
            if audience and isinstance(email := read_claims(token.value).get("email"), str):
                return email
        return ""

    async def token(self, audience: str, fresh: bool = False) -> str:
        """Return an ID token for `audience`, "" where `auth` is none.

        Args:
            audience: the service's URL, or its custom audience.
            fresh: the one that is kept was refused: get another.

        Raises:
            UnreachableError: none can be had; the hint says what to do.
        """
        return await self._get(audience, fresh)

    async def access_token(self, fresh: bool = False) -> str:
        """Return an OAuth access token for Google's APIs; else as `token`."""
        return await self._get(_ACCESS, fresh)

    async def _get(self, audience: str, fresh: bool) -> str:
        kept = self._kept.get(audience)
        if kept is not None and not fresh and kept.lives():
            return kept.value
        task = self._running.get(audience)
        if task is None:
            task = asyncio.create_task(self._fetch(audience))
            self._running[audience] = task
            task.add_done_callback(lambda done: self._fetched(audience, done))
        try:
            token = await asyncio.shield(task)
        except UnreachableError as error:
            if kept is not None and not fresh and kept.lives(_LAST):
                return kept.value
            # One error for many callers: each gets his own.
            raise UnreachableError(error.message, hint=error.hint, sent=False) from None
        return token.value if token is not None else ""

    def _fetched(self, audience: str, task: asyncio.Task[Token | None]) -> None:
        self._running.pop(audience, None)
        if not task.cancelled():
            task.exception()  # it is looked at, also where nobody waits any more

    async def _fetch(self, audience: str) -> Token | None:
        if not self._chosen:
            self._source = await asyncio.to_thread(choose, self._options)
            self._chosen = True
        source = self._source
        if source is None:
            return None
        ask: Callable[[], Token] = (
            source.access_token if audience == _ACCESS else lambda: source.id_token(audience)
        )
        try:
            async with asyncio.timeout(_PATIENCE):
                token = await asyncio.to_thread(ask)
        except TimeoutError:
            raise UnreachableError(
                f"{source.whose} gave no token within {_PATIENCE:g} s", sent=False
            ) from None
        self._kept[audience] = token
        return token
