"""Mail: delivered once, exactly, to whom it is for."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import UsageError
from outpost_core.types import Message
from outpost_testing.registry import check
from outpost_testing.trial import expect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_testing.trial import Trial

#: What shells, SQL, JSON, terminals and line-based files could take for something else.
_HOSTILE: Final = (
    '\'; rm -rf "$HOME"; echo $(id) `id` && true',
    '"}\n{"id":"x","to":"overseer","subject":"forged"}',
    "--help\n-m\n.\n\nFrom nobody\n",
    "\x1b]0;title\x07\x1b[2J\r\u2028\u202e\ufeff\U0001f600 ünïcode",
    "long " * 20_000,
)


@check("mail", needs=("mail", "inbox"))
async def delivered_once(trial: Trial) -> None:
    """A message that is handed over again, by any object, is in the inbox once."""
    message = _message()
    if not await _taken(trial, trial.outpost, message):
        return
    for outpost in (trial.outpost, trial.another(), trial.another()):
        await outpost.outpost_mail(message=message)
    found = [one for one in await _inbox(trial, message.to) if one.subject == message.subject]
    expect(len(found) == 1, f"It is there {len(found)} times.")


@check("mail", needs=("mail", "inbox"))
async def inbox_is_exact(trial: Trial) -> None:
    """An inbox lists what was sent, oldest first, whatever it says."""
    now = time.time()
    sent = [_message(body=body, sent_at=now + n) for n, body in enumerate(_HOSTILE)]
    for message in sent:
        if not await _taken(trial, trial.outpost, message):
            return
    subjects = {message.subject for message in sent}
    found = [one for one in await _inbox(trial, sent[0].to) if one.subject in subjects]
    expect(
        [one.subject for one in found] == [one.subject for one in sent],
        f"{len(found)} of {len(sent)} are listed, or in another order.",
    )
    for was, now_ in zip(sent, found, strict=True):
        expect(now_.body == was.body, f"{was.body[:40]!a} came as {now_.body[:40]!a}.")
        expect(now_.sender == was.sender, f"It is from {now_.sender!a}, not {was.sender!a}.")
        expect(not now_.read, "It is read already.")


@check("mail", needs=("mail", "inbox"))
async def inbox_is_of_one(trial: Trial) -> None:
    """An inbox has only the mail of whom it is asked for, and a stranger's is empty."""
    one, other = _message(), _message(to=f"{_rig()}/other")
    for message in (one, other):
        if not await _taken(trial, trial.outpost, message):
            return
    subjects = {found.subject for found in await _inbox(trial, one.to)}
    expect(one.subject in subjects, "What was sent is not there.")
    expect(other.subject not in subjects, "Somebody else's mail is there.")
    expect(not await _inbox(trial, f"{_rig()}/stranger"), "A stranger has mail.")


@check("mail", needs=("mail",))
async def refuses_what_is_no_mail(trial: Trial) -> None:
    """An address or a subject that cannot be one is refused with UsageError, and not kept."""
    for wrong in (
        _message(to=""),
        _message(to="../../etc/passwd"),
        _message(to="--from=x"),
        _message(to="a b\nc"),
        _message(subject="two\nlines"),
        _message(subject="a\0b"),
        _message(body="a\0b"),
    ):
        try:
            await trial.outpost.outpost_mail(message=wrong)
        except UsageError:
            continue
        expect(False, f"Mail to {wrong.to!a} with the subject {wrong.subject[:20]!a} was taken.")


def _rig() -> str:
    return f"cf{secrets.token_hex(4)}"


_RIG: Final = _rig()


def _message(**fields: Any) -> Message:
    unique = secrets.token_hex(8)
    fields = {"to": f"{_RIG}/polecat", "subject": f"$(id) 'conformance' {unique}", **fields}
    fields.setdefault("sent_at", time.time())
    return Message(id=unique * 2, sender="mayor/", **fields)


async def _taken(trial: Trial, outpost: Any, message: Message) -> bool:
    """Deliver; False where only known receivers get mail, which is a fair answer."""
    try:
        await outpost.outpost_mail(message=message)
    except UsageError as error:
        trial.notes.append(f"it takes no mail for strangers: {error.message[:120]}")
        return False
    return True


async def _inbox(trial: Trial, who: str) -> Sequence[Message]:
    found: Sequence[Message] = await trial.another().outpost_inbox(identity=who)
    expect(all(isinstance(one, Message) for one in found), f"The inbox answered {found!r:.80}.")
    return found
