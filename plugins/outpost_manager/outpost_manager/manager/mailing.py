"""Mail: sent, looked for, tried again and dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_manager.manager.parts import Parts

if TYPE_CHECKING:
    from outpost_core.types import Message
    from outpost_manager.ledger import Letter


class Mailing(Parts):
    """What is done with mail."""

    async def send_mail(self, outpost: str, message: Message) -> Letter:
        """Keep a message in the outbox and try to deliver it to someone at an outpost.

        Returns:
            the letter: `delivered`, `waiting` (nobody was found; it is tried again), or `failed`.

        Raises:
            UsageError: something in it can not be delivered; nothing was written.
            NotFoundError: no outpost has that name; nothing was written.
            UnsupportedError: the outpost takes no mail; nothing was written.
        """
        return await self.mail.send(outpost, message)

    async def inbox(
        self, names: Iterable[str] | None = None, identity: str = ""
    ) -> dict[str, Sequence[Message] | OutpostError]:
        """Ask outposts for the mail that waits there, for `identity` or ("") for everybody."""
        return await self.mail.inbox(names, identity)

    async def outbox(self, *, all: bool = False) -> list[Letter]:  # noqa: A002
        """Return the mail that is not delivered, oldest first; `all`: also what lately was."""
        return await self.ledger.outbox.letters(all=all)

    async def flush_mail(self, names: Iterable[str] | None = None) -> list[Letter]:
        """Try all mail that waits, now; return what was tried, as it is afterwards.

        Raises:
            NotFoundError: no outpost has such a name.
        """
        wanted = None if names is None else [self.fleet.configured(name).name for name in names]
        return await self.mail.flush(wanted)

    async def drop_mail(self, ref: str) -> Letter:
        """Forget mail by its id or the beginning of it, delivered or not.

        Raises:
            NotFoundError: there is none.
            UsageError: several begin so.
        """
        found = [one for one in await self.outbox(all=True) if ref and one.id.startswith(ref)]
        if len(found) > 1 and not any(one.id == ref for one in found):
            raise UsageError(f"{len(found)} mails begin with {ref!a}", hint="say more of the id")
        if not found or not await self.ledger.outbox.drop(found[0].id):
            raise NotFoundError(
                f"there is no mail {ref[:80]!a}", hint="outpost mail outbox --all lists it"
            )
        return found[0]
