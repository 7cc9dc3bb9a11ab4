"""Mail to people and agents at outposts: `mail send`, `inbox`, `outbox`, `flush`, `drop`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from outpost_core.errors import OutpostError, UsageError
from outpost_manager.cli import complete, output, render
from outpost_manager.cli.session import Group, Session, command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_core.types import Message
    from outpost_manager.ledger import Letter

#: Gas Town's words for priorities.
_WORDS: Final = {"urgent": "0", "high": "1", "normal": "2", "low": "3", "backlog": "4"}
#: Characters of an id that tables show; enough to name it with.
_SHOWN: Final = 12
_NOT_DELIVERED: Final = 5

mail = Group(
    "mail",
    short_help="Send mail to someone at an outpost, and read it.",
    help="Send mail to someone at an outpost, and read it.\n\n"
    "What cannot be delivered waits in an outbox, and is tried again.\n\n"
    "\b\nExample:\n  outpost mail send vm1:gastown/polecat -s 'Tests fail' -m 'See CI.'",
)


@command("send", anywhere=True)
@click.argument("address", metavar="OUTPOST:ADDRESS", shell_complete=complete.addresses)
@click.option("-s", "--subject", required=True, metavar="TEXT", help="One line.")
@click.option("-m", "--message", "body", metavar="TEXT", help="The text; - reads standard input.")
@click.option("--stdin", is_flag=True, help="Read the text from standard input.")
@click.option("--priority", metavar="P0..P4", shell_complete=complete.priorities,
              help="Or urgent, high, normal, low. P2 if not given.")  # fmt: skip
@click.option("--from", "sender", default="overseer", show_default=True, metavar="WHO",
              help="Who it is from.")  # fmt: skip
def send(
    session: Session,
    address: str,
    subject: str,
    body: str | None,
    stdin: bool,
    priority: str | None,
    sender: str,
) -> None:
    """Send a message to someone at an outpost.

    The part before the first colon names the outpost, the rest is an address there:
    vm1:gastown/polecat, vm1:mayor/. Exit code 0 when it was delivered, and 5 when it waits
    because the outpost cannot be reached.

    \b
    Example:
      git log -3 | outpost mail send vm1:mayor/ -s 'Last commits' --stdin
    """
    from outpost_core.types import Message
    from outpost_manager.cli.values import priority as number
    from outpost_shared.message import check

    if stdin and body is not None:
        raise UsageError("--stdin and --message exclude each other")
    level = number(_WORDS.get((priority or "").lower(), priority))
    outpost, to = _split(session, address)
    message = Message(
        to=to,
        subject=subject,
        body=_read() if stdin or body == "-" else body or "",
        sender=sender,
        priority=2 if level is None else level,
    )
    check(message)

    letter = session.anywhere(lambda manager: manager.send_mail(outpost, message))
    _answer(session, letter)
    click.get_current_context().exit(_code([letter]))


def _split(session: Session, address: str) -> tuple[str, str]:
    """Return outpost and address of `vm1:gastown/polecat`.

    Raises:
        UsageError: there is no such part.
        NotFoundError: no outpost has that name.
    """
    from outpost_core.nearest import suggest

    outpost, colon, to = address.partition(":")
    if session.far and colon:
        return outpost, to  # the server knows its outposts
    names = []
    if not session.far:
        names = [entry.name for entry in session.load_config()[0].outposts]
    if not colon:
        first = f"{names[0]}:{address}" if names else "OUTPOST:ADDRESS"
        shown = ", ".join(names[:30]) or "none"
        there = "outpost list names them" if session.far else f"there are: {shown}"
        raise UsageError(
            f"{address[:80]!a} does not say at which outpost",
            hint=f"such as {first[:120]}; {there}",
        )
    if outpost not in names:
        from outpost_core.errors import NotFoundError

        raise NotFoundError(
            f"there is no outpost named {outpost[:80]!a}", hint=suggest(outpost, names)
        )
    return outpost, to


def _read() -> str:
    """Return standard input as text, as far as a body may be long.

    Raises:
        UsageError: it is no text in UTF-8.
    """
    from outpost_shared.message import MAX_BODY

    given = sys.stdin.buffer.read(MAX_BODY + 1)
    if len(given) > MAX_BODY:
        raise UsageError(
            f"the body of the mail has more than {MAX_BODY} bytes",
            hint="put it into a file that the receiver can fetch, and mail its place",
        )
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the body of the mail is not text in UTF-8 (byte {error.start + 1})",
            hint="convert it, or mail the place of the file",
        ) from None


@command("inbox", anywhere=True)
@click.argument("outpost", required=False, shell_complete=complete.outposts)
@click.option("--identity", metavar="WHO", default="", help="Whose: gastown/polecat, mayor/.")
@click.option("--unread", is_flag=True, help="Only what was not read.")
@click.option("--full", is_flag=True, help="With the texts.")
def inbox(session: Session, outpost: str | None, identity: str, unread: bool, full: bool) -> None:
    """List the mail that waits at outposts.

    All that have mail are asked unless one is named. Without --identity it is everybody's; where
    gt keeps the mail it is then the overseer's. Who a message is from is what its writer says;
    "claimed:" stands where the outpost cannot prove that it came through outpost mail.

    \b
    Example:
      outpost mail inbox vm1 --identity mayor/
    """

    names = [outpost] if outpost else None
    answers = session.anywhere(lambda manager: manager.inbox(names, identity))
    if unread:
        answers = {
            name: a if isinstance(a, OutpostError) else [one for one in a if not one.read]
            for name, a in answers.items()
        }

    def data() -> object:
        from outpost_manager import jsonviews

        return {"outposts": [jsonviews.inbox(name, answer) for name, answer in answers.items()]}

    session.answer(data, lambda: _inbox_lines(answers, full=full))
    errors = {name: a for name, a in answers.items() if isinstance(a, OutpostError)}
    for error in errors.values():
        session.note(output.error(str(error)))
    click.get_current_context().exit(next((e.exit_code for e in errors.values()), 0))


def _inbox_lines(
    answers: dict[str, Sequence[Message] | OutpostError], *, full: bool
) -> Iterator[str]:
    found = [
        (name, one)
        for name, answer in answers.items()
        if not isinstance(answer, OutpostError)
        for one in answer
    ]
    if not found:
        if not any(isinstance(answer, OutpostError) for answer in answers.values()):
            yield "no mail"  # else nobody knows
        return
    if not full:
        yield from render.table(
            ("outpost", "to", "from", "age", "", "subject"),
            [
                (name, one.to, _sender(one), render.age(one.sent_at), _mark(one), one.subject)
                for name, one in found
            ],
            keep=("outpost",),
        )
        return
    for name, one in found:
        yield from render.pairs(
            (
                ("to", render.clean(f"{name}:{one.to}")),
                ("from", render.clean(one.sender)),
                ("put there", render.clean(_putter(name, one))),
                ("sent", f"{render.age(one.sent_at)} ago" if one.sent_at else ""),
                ("subject", render.clean(one.subject)),
            )
        )
        yield ""
        # indented: no line of it looks like the head of another message
        for line in render.clean_lines(one.body.rstrip("\n")).split("\n"):
            yield f"  {line}".rstrip()
        yield ""


def _sender(message: Message) -> str:
    # in front: a long name is cut at its end
    return message.sender if message.via else f"claimed: {message.sender}"


def _putter(outpost: str, message: Message) -> str:
    """Return who put a message where it is, as far as that is known."""
    if message.via:
        return f"by {message.via} through outpost mail, as {outpost} says"
    return f"by whoever can write mail at {outpost}: `from` is a claim"


def _mark(message: Message) -> str:
    return ("" if message.read else "new") + ("!" if message.priority < 2 else "")


@command("outbox", anywhere=True)
@click.option("--all", "all_", is_flag=True, help="Also what was delivered in the last 30 days.")
def outbox(session: Session, all_: bool) -> None:
    """List the mail that is not delivered, and why.

    Asks nobody.

    \b
    Example:
      outpost mail outbox
    """
    letters = session.anywhere(lambda manager: manager.outbox(all=all_), at_once=True)
    session.answer(lambda: _shapes(letters), lambda: _outbox_lines(letters))


@command("flush", anywhere=True)
@click.argument("outposts", nargs=-1, metavar="[OUTPOST]...", shell_complete=complete.outposts)
def flush(session: Session, outposts: tuple[str, ...]) -> None:
    """Try to deliver the mail that waits, now.

    \b
    Example:
      outpost mail flush vm1
    """

    letters = session.anywhere(lambda manager: manager.flush_mail(outposts or None))
    session.answer(
        lambda: _shapes(letters),
        lambda: _outbox_lines(letters) if letters else ["no mail waits"],
    )
    click.get_current_context().exit(_code(letters))


@command("drop", anywhere=True)
@click.argument("letter", metavar="ID", shell_complete=complete.undelivered)
def drop(session: Session, letter: str) -> None:
    """Forget mail that was not delivered.

    The beginning of its id is enough.

    \b
    Example:
      outpost mail drop 3f2a
    """
    dropped = session.anywhere(lambda manager: manager.drop_mail(letter), at_once=True)

    def data() -> object:
        from outpost_manager import jsonviews

        return {"letter": jsonviews.letter(dropped)}

    session.answer(data, lambda: [f"dropped the mail to {_place(dropped)} ({dropped.state})"])


def _answer(session: Session, letter: Letter) -> None:
    """Say what came of a message that was sent."""

    def data() -> object:
        from outpost_manager import jsonviews

        return {"letter": jsonviews.letter(letter)}

    def lines() -> Iterator[str]:
        if letter.state == "delivered":
            yield f"{_tinted('delivered')} to {_place(letter)}"

    session.answer(data, lines)
    if letter.state == "delivered":
        return
    fate = "waits in the outbox" if letter.state == "waiting" else "can not be delivered"
    how = (
        "it is tried again when the outpost answers; outpost mail outbox shows it, outpost mail"
        " flush tries it now"
        if letter.state == "waiting"
        else f"outpost mail drop {letter.id[:_SHOWN]} forgets it"
    )
    why = letter.error or "another outpost command is delivering it"
    session.note(
        f"{_tinted(letter.state)}: the mail to {_place(letter)} {fate}\n"
        f"  {render.clean_lines(why)}\n  → {how}"
    )


def _code(letters: Sequence[Letter]) -> int:
    """Return 0, 2 when one was refused, else 5 when one waits."""
    states = {letter.state for letter in letters}
    return 2 if "failed" in states else _NOT_DELIVERED if "waiting" in states else 0


def _shapes(letters: Sequence[Letter]) -> object:
    from outpost_manager import jsonviews

    return {"letters": [jsonviews.letter(letter) for letter in letters]}


def _outbox_lines(letters: Sequence[Letter]) -> Iterator[str]:
    if not letters:
        yield "no mail waits"
        return
    yield from render.table(
        ("id", "to", "state", "age", "tries", "subject", "why"),
        [
            (
                letter.id[:_SHOWN],
                f"{letter.outpost}:{letter.message.to}",
                letter.state,
                render.age(letter.message.sent_at),
                str(letter.tries),
                letter.message.subject,
                letter.error.split("\n")[0],
            )
            for letter in letters
        ],
        keep=("id", "to"),
        colour=("state",),
    )


def _place(letter: Letter) -> str:
    return render.clean(f"{letter.outpost}:{letter.message.to}")


def _tinted(state: str) -> str:
    return render.tint(state)


for _command in (send, inbox, outbox, flush, drop):
    mail.add_command(_command)
