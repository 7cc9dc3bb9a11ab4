"""Mail to outposts: written into the outbox first, then tried, until it is delivered or refused.

A crash at any point leaves a letter that is tried again; the far side knows it by its id, so that
it is delivered once as far as can be known.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    UnreachableError,
    UnsupportedError,
    UsageError,
)
from outpost_core.types import Message
from outpost_manager.fleet.fleet import NotBuiltError
from outpost_shared import faults
from outpost_shared.message import check, check_address

if TYPE_CHECKING:
    from outpost_manager.fleet.fleet import Fleet
    from outpost_manager.ledger import AsyncLedger, Letter

#: Seconds that an outpost may take to deliver a message or to list an inbox: `gt` asks databases.
PATIENCE: Final = 30.0
#: Seconds beyond it after which a letter that somebody claimed is anybody's.
_SPARE: Final = 30.0
#: Messages of one inbox that are believed.
_MOST: Final = 20_000


@dataclass(kw_only=True, eq=False)
class Mail:
    """The mail of one fleet.

    Args:
        fleet: the outposts.
        ledger: has the outbox.
        patience: seconds for each question to an outpost.
    """

    fleet: Fleet
    ledger: AsyncLedger
    patience: float = PATIENCE

    async def send(self, outpost: str, message: Message) -> Letter:
        """Keep a message and try to deliver it, after what waits for the same outpost already.

        Args:
            outpost: where it goes.
            message: its id and moment are given here when it has none.

        Returns:
            the letter: delivered, failed, or waiting because nobody was found.

        Raises:
            UsageError: something in it can not be delivered; nothing was written.
            NotFoundError: no outpost has that name; nothing was written.
            UnsupportedError: the outpost takes no mail; nothing was written.
            LedgerError: it could not be kept, and was not tried.
        """
        from uuid import uuid4

        self.fleet.configured(outpost)
        check(message)
        with suppress(NotBuiltError):  # it may be built again when its package is mended
            self.fleet.require(outpost, "mail")
        message = replace(
            message, id=message.id or uuid4().hex, sent_at=message.sent_at or time.time()
        )
        owner = _owner()
        letter = await self.ledger.outbox.post(outpost, message, owner, self._lease)
        faults.point("mail.posted")
        if letter.state == "waiting":
            await self._deliver(outpost, owner, due=False)
        return await self.ledger.outbox.letter(message.id) or letter

    async def flush(self, names: Iterable[str] | None = None, *, due: bool = False) -> list[Letter]:
        """Try what waits in the outbox.

        Args:
            names: only for these outposts; None for all that are configured.
            due: only what is to be tried again by now.

        Returns:
            the letters that were tried, as they are afterwards.
        """
        import asyncio

        wanted = set(self.fleet.names if names is None else names)
        tried = await asyncio.gather(
            *(self._deliver(name, _owner(), due=due) for name in sorted(wanted))
        )
        ids = {id_ for some in tried for id_ in some}
        every = await self.ledger.outbox.letters(all=True) if ids else []
        return [one for one in every if one.id in ids]

    async def answered(self, names: Iterable[str], again: Collection[str]) -> None:
        """Try what waits for outposts that have just answered. Cheap when nothing does.

        Args:
            names: those that answered; their mail is tried when its moment has come.
            again: those of them that did not answer before; their mail is tried at once.
        """
        due = (await self.ledger.outbox.due(time.time())).intersection(names)
        if again:
            await self.flush(again)
        if due.difference(again):
            await self.flush(due.difference(again), due=True)

    async def inbox(
        self, names: Iterable[str] | None, who: str
    ) -> dict[str, Sequence[Message] | OutpostError]:
        """Ask outposts for the mail that waits there; each has its messages or its error.

        Args:
            names: these outposts; None for all that have such a thing.
            who: for whom; "" for everybody.

        Raises:
            UsageError: `who` is no address.
            NotFoundError: no outpost has such a name.
        """
        import asyncio

        if who:
            check_address(who, "identity")
        asked = [*(self.fleet.names if names is None else names)]
        for name in asked:
            self.fleet.configured(name)
        answers = await asyncio.gather(*(self._inbox(name, who) for name in asked))
        return {
            name: answer
            for name, answer in zip(asked, answers, strict=True)
            if names is not None or not isinstance(answer, UnsupportedError)
        }

    async def _inbox(self, name: str, who: str) -> Sequence[Message] | OutpostError:
        try:
            self.fleet.require(name, "inbox")
            return await self.fleet.ask_for_all(
                Message, name, "outpost_inbox", timeout=self.patience, most=_MOST, identity=who
            )
        except OutpostError as error:
            return error

    async def _deliver(self, outpost: str, owner: str, *, due: bool) -> list[str]:
        """Try what waits for one outpost, oldest first; return the ids that were tried."""
        outbox = self.ledger.outbox
        letters: list[Letter] | None = None  # whoever is cancelled while he claims may have some
        tried: list[str] = []
        try:
            letters = await outbox.claim(owner, self._lease, outposts={outpost}, due=due)
            while letters:
                letter = letters.pop(0)
                if not await outbox.renew(letter.id, owner, self._lease):
                    continue  # another has taken it over meanwhile
                tried.append(letter.id)
                try:
                    self.fleet.require(outpost, "mail")
                    await self._hand_over(letter)
                except (UsageError, UnsupportedError, NotFoundError) as error:
                    await outbox.failed(letter.id, owner, str(error))
                except UnreachableError as error:  # the others would not arrive either
                    waiting = [letter.id, *(one.id for one in letters)]
                    await outbox.waits(waiting, owner, str(error))
                    tried += [one.id for one in letters]
                    letters.clear()
                except OutpostError as error:
                    await outbox.waits([letter.id], owner, str(error))
        finally:
            if letters is None or letters:
                self.ledger.post(_anybodys, lambda ledger: ledger.outbox.let_go(owner))
        return tried

    async def _hand_over(self, letter: Letter) -> None:
        asked_at = time.time()
        try:
            message = replace(letter.message, via=_who())
            await self.fleet.ask(
                letter.outpost, "outpost_mail", timeout=self.patience, message=message
            )
        except UnreachableError as error:
            await self.ledger.set_reachable(letter.outpost, False, error.message, asked_at)
            raise
        faults.point("mail.delivered")
        await self.ledger.outbox.delivered(letter.id)

    @property
    def _lease(self) -> float:
        return self.patience + _SPARE


def _anybodys(_: Exception) -> None:
    """Do nothing: a claim that could not be given back runs out by itself."""


def _who() -> str:
    """Return who delivers a message, for its receiver: `steve@laptop`."""
    import os
    import pwd
    import socket

    from outpost_shared.harmless import clean

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return clean(f"{user}@{socket.gethostname()}")[:200]


def _owner() -> str:
    """Return a word for one flush of this process; two at once in it do not share claims."""
    from secrets import token_hex

    from outpost_shared import identity

    return f"{identity.me()}/{token_hex(8)}"
