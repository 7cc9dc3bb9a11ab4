"""Mail through a server: its outbox, and the outposts that it reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from outpost_core.errors import OutpostError
from outpost_core.types import Message
from outpost_manager.ledger.outbox import Letter
from outpost_manager.remote.client import segment
from outpost_manager.remote.fields import Fields
from outpost_manager.remote.parse import error

if TYPE_CHECKING:
    from outpost_manager.remote.client import Client

T = TypeVar("T")


class Mailing:
    """What commands ask of the mail of a server; see `managing.Managing`."""

    client: Client
    if TYPE_CHECKING:

        def read(self, make: Callable[[Any], T], data: object) -> T:
            """Return what a document says."""

        def each(self, make: Callable[[object], T], said: dict[str, Any], key: str) -> list[T]:
            """Return what the rows of an answer say."""

    async def send_mail(self, outpost: str, message: Message) -> Letter:
        """Have the server keep a message and try to deliver it."""
        said = await self.client.post(
            "/v1/mail",
            {"outpost": outpost, "to": message.to, "subject": message.subject,
             "body": message.body, "sender": message.sender, "priority": message.priority},
        )  # fmt: skip
        return self.read(letter, said.get("letter"))

    async def inbox(
        self, names: Iterable[str] | None = None, identity: str = ""
    ) -> dict[str, Sequence[Message] | OutpostError]:
        """Return the mail that waits at the outposts of the server."""
        query = {"outpost": None if names is None else [*names], "identity": identity}
        return dict(self.each(_inbox, await self.client.get("/v1/mail/inbox", query), "outposts"))

    async def outbox(self, *, all: bool = False) -> list[Letter]:  # noqa: A002
        """Return the mail that the server has not delivered; `all`: also what lately was."""
        return self.each(letter, await self.client.get("/v1/mail", {"all": all}), "letters")

    async def flush_mail(self, names: Iterable[str] | None = None) -> list[Letter]:
        """Have the server try all mail that waits, now."""
        said = await self.client.post("/v1/mail/flush", {"outposts": [*(names or ())]})
        return self.each(letter, said, "letters")

    async def drop_mail(self, ref: str) -> Letter:
        """Have the server forget mail by its id or the beginning of it."""
        said = await self.client.delete(f"/v1/mail/{segment(ref)}")
        return self.read(letter, said.get("letter"))


def letter(data: object) -> Letter:
    """Return a letter of the outbox, as `jsonviews.letter` shows it.

    Raises:
        NotBelievedError: it is none.
    """
    said = Fields("a letter", data)
    message = Message(
        id=said.text("id"), to=said.text("to"), sender=said.text("from"),
        subject=said.text("subject"), body=said.text("body"), priority=said.whole("priority"),
        sent_at=said.moment_or("written_at"),
    )  # fmt: skip
    return Letter(
        outpost=said.text("outpost"), message=message, tries=said.whole("tries"),
        error=said.text("error"), tried_at=said.moment_or("tried_at"),
        next_try=said.moment("next_try_at"), delivered_at=said.moment_or("delivered_at"),
        failed_at=said.moment_or("failed_at"),
    )  # fmt: skip


def _inbox(data: object) -> tuple[str, Sequence[Message] | OutpostError]:
    said = Fields("an inbox", data)
    if said.data.get("error") is not None:
        return said.text("outpost"), error(said.data["error"])
    return said.text("outpost"), [
        Message(
            id=one.text("id"), to=one.text("to"), sender=one.text("from"), via=one.text("via"),
            subject=one.text("subject"), body=one.text("body"), priority=one.whole("priority"),
            sent_at=one.moment_or("sent_at"), read=one.flag("read"),
        )
        for one in said.objects("messages")
    ]  # fmt: skip
