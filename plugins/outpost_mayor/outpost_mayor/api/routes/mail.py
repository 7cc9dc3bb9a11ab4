"""Mail to people and agents at outposts."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from outpost_core.types import Message
from outpost_manager import jsonviews
from outpost_mayor.api import models
from outpost_mayor.api.routing import Open, answer, needs, router

routes = router("mail")


class Mail(BaseModel):
    """A message."""

    model_config = ConfigDict(extra="forbid")

    outpost: str = Field(description="Where it goes.", max_length=200)
    to: str = Field(description="The address there.", max_length=1000)
    subject: str = Field(description="One line.", max_length=10_000)
    body: str = Field("", description="The text.", max_length=1_000_000)
    sender: str = Field("overseer", description="Who it is from.", max_length=1000)
    priority: int = Field(2, ge=0, le=4, description="0 to 4, 0 is the highest.")


class Flush(BaseModel):
    """Which mail is tried."""

    model_config = ConfigDict(extra="forbid")

    outposts: list[str] = Field([], max_length=1000, description="For these alone; none: for all.")


@routes.get("/v1/mail", **needs("view", models.Letters))
async def outbox(
    manager: Open,
    all: Annotated[bool, Query(description="Also what was delivered lately.")] = False,  # noqa: A002
) -> Response:
    """The mail that is not delivered, and why, as `outpost mail outbox`."""
    letters = await manager.outbox(all=all)
    return answer({"letters": [*map(jsonviews.letter, letters)]})


@routes.post("/v1/mail", **needs("work", models.Sent))
async def send(manager: Open, said: Mail) -> Response:
    """Send a message to someone at an outpost, as `outpost mail send`."""
    message = Message(
        to=said.to, subject=said.subject, body=said.body, sender=said.sender,
        priority=said.priority,
    )  # fmt: skip
    sent = await manager.send_mail(said.outpost, message)
    return answer({"letter": jsonviews.letter(sent)})


@routes.get("/v1/mail/inbox", **needs("view", models.Inboxes))
async def inbox(
    manager: Open,
    outpost: Annotated[
        list[str] | None, Query(description="Of these; all that have mail where none is said.")
    ] = None,
    identity: Annotated[str, Query(description="Whose; everybody's where it is empty.")] = "",
) -> Response:
    """The mail that waits at outposts, as `outpost mail inbox`."""
    answers = await manager.inbox(outpost or None, identity)
    return answer({"outposts": [jsonviews.inbox(name, each) for name, each in answers.items()]})


@routes.post("/v1/mail/flush", **needs("work", models.Letters))
async def flush(manager: Open, said: Flush) -> Response:
    """Try to deliver the mail that waits, now, as `outpost mail flush`."""
    letters = await manager.flush_mail(said.outposts or None)
    return answer({"letters": [*map(jsonviews.letter, letters)]})


@routes.delete("/v1/mail/{id}", **needs("work", models.Sent))
async def drop(
    manager: Open,
    id: Annotated[str, Path(description="Of the message, or its beginning.")],  # noqa: A002
) -> Response:
    """Forget mail that was not delivered, as `outpost mail drop`."""
    return answer({"letter": jsonviews.letter(await manager.drop_mail(id))})
