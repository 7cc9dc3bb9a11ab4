"""The border of the near side: what outposts say is looked at here, once, before anybody uses it.

An outpost may be a program of a stranger, or a far host that somebody has taken over. What it says
is bounded and made plain text where it comes in. Of one worker that is told of in a way that cannot
be, nothing is believed but its name: it is shown as broken, with the reason, and the others
keep working. `plausible` says what can be; types of values from a wire are seen to by `wire`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from outpost_core import wire
from outpost_core.errors import OutpostError, PluginError, UsageError
from outpost_core.types import (
    Facts,
    Health,
    Json,
    Message,
    Result,
    Scale,
    State,
    WorkerStatus,
    split_worker_id,
)
from outpost_shared import plausible
from outpost_shared.harmless import clean

if TYPE_CHECKING:
    from outpost_core.types import Usage

T = TypeVar("T")

#: Reason of a worker of which nothing can be believed.
BROKEN: Final = "broken"
#: Workers of one answer; more are an answer without an end.
MOST_WORKERS: Final = 100_000
#: Longest message of an error, longest line, longest detail of a worker, and most of a screen, in
#: characters.
_TEXT: Final = 4000
_LINE: Final = 1000
_DETAIL: Final = 500
_SCREEN: Final = 4 * 1024 * 1024
#: Lines of the message of an error: it fits a screen, with what is to be done below it.
_LINES: Final = 16
#: Longest body of mail (see `message.MAX_BODY`), with room for what `gt` adds.
_BODY: Final = 300 * 1024
#: No clock is that wrong (2100): a later moment is a lie, and no listing could show it.
_LATEST: Final = 4_102_444_800.0
_STATES: Final = frozenset(state.value for state in State)
#: USD of one worker beyond which nobody is believed, as in the ledger.
_DEAREST: Final = 1_000_000.0
#: Machines or containers of one outpost that anybody is believed to have.
_UNITS: Final = 100_000


# --- texts ------------------------------------------------------------------------------------


def line(said: str, limit: int = _LINE) -> str:
    """Return a stranger's text as one line of at most `limit` characters, spelled out."""
    if len(said) <= limit and said.isprintable():
        return said
    return clean(" ".join(_unicode(said[:limit]).split()))[:limit]


def lines(said: str, limit: int = _TEXT) -> str:
    """Return a stranger's text, at most `limit` long, control characters spelled out.

    All lines but the first are indented, so that none looks like one of ours.
    """
    if len(said) <= limit and said.isprintable():
        return said
    first, *more = _unicode(said[:limit]).split("\n")
    kept = [clean(one.strip()) for one in more]
    told = [f"  {one}" for one in kept if one]
    if len(told) > _LINES:  # the first say what, the last why
        told = [*told[: _LINES // 2], f"  ({len(told) - _LINES} lines)", *told[-_LINES // 2 :]]
    return "\n".join([clean(first.rstrip()), *told])


def _unicode(said: str) -> str:
    """Return text that any file takes: halves of characters become `?`."""
    return said.encode("utf-8", "replace").decode()


def tame(error: OutpostError) -> None:
    """Make what an outpost told as an error harmless, in place."""
    error.message, error.hint = lines(str(error.message)), line(str(error.hint))
    error.args = (error.message,)


# --- workers ----------------------------------------------------------------------------------


def unreadable(item: Json, why: str) -> WorkerStatus:
    """Return the status of a worker that was told of in a way that cannot be read.

    Args:
        item: what was told.
        why: what is wrong with it.
    """
    said = item if isinstance(item, dict) else {}
    name, digest, state = (said.get(key) for key in ("id", "digest", "state"))
    told = WorkerStatus(
        id=name if isinstance(name, str) else "",
        state=State(state) if isinstance(state, str) and state in _STATES else State.WORKING,
        digest=digest if isinstance(digest, str) else "",
    )
    return _broken(told, why)


def unreadable_message(why: str) -> Message:
    """Return what stands in an inbox in the place of a letter that cannot be read."""
    text = line(f"a message cannot be read: {why}", 300)
    return Message(to="overseer", sender="outpost", subject=text)


def statuses(
    outpost: str, answer: object, before: Mapping[str, WorkerStatus]
) -> tuple[dict[str, WorkerStatus], list[str]]:
    """Look at what an outpost says of its workers.

    Args:
        outpost: its name.
        answer: what it says.
        before: what came of it at the last look: what is the very same needs no second one.

    Returns:
        The status of each worker by its id, and what is wrong with what has not even the name of
        one.

    Raises:
        PluginError: it is no list of statuses, or one without an end.
    """
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
        raise PluginError(f"outpost_list of {outpost!r} answered a {type(answer).__name__}")
    if len(answer) > MOST_WORKERS:
        raise PluginError(
            f"outpost {outpost!r} tells of {len(answer)} workers; at most {MOST_WORKERS} are"
            " believed",
            hint=f"outpost doctor {outpost}",
        )
    now = time.time()
    found: dict[str, WorkerStatus] = {}
    nameless: list[str] = []
    for told in answer:
        name = getattr(told, "id", None)
        known = before.get(name) if type(name) is str else None
        if known is not None and known is told and name not in found:
            found[known.id] = known
            continue
        if not isinstance(told, WorkerStatus):
            raise PluginError(f"outpost {outpost!r} answered a {type(told).__name__} as a status")
        if not _is_id(told.id):
            nameless.append(f"{ascii(told.id)[:80]} is not the id of a worker")
            continue
        status = told if _fits(told, now) else _mended(told, now)
        if (other := found.get(status.id)) is not None and other != status:
            status = _broken(other, "it is told of twice, and not the same")
        found[status.id] = status
    return found, nameless


def spawned(outpost: str, told: object, worker: str, digest: str) -> WorkerStatus:
    """Look at the answer to a spawn.

    Args:
        outpost: whose answer it is.
        told: the answer.
        worker: the id that it must have.
        digest: the digest that it must have, if it has one.

    Raises:
        PluginError: it is something else.
    """
    if not isinstance(told, WorkerStatus):
        raise PluginError(f"outpost {outpost!r} answered a {type(told).__name__} as a status")
    if told.id != worker:
        raise PluginError(
            f"outpost {outpost!r} answered {ascii(told.id)[:120]} when asked for {worker}"
        )
    if told.digest not in ("", digest):
        raise PluginError(f"outpost {outpost!r} answered with another order's {worker}")
    now = time.time()
    return told if _fits(told, now) else _mended(told, now)


def _is_id(name: object) -> bool:
    try:
        split_worker_id(name)  # type: ignore[arg-type]
    except (UsageError, TypeError, AttributeError):
        return False
    return True


def _fits(told: WorkerStatus, now: float) -> bool:
    """Whether a status is as it should be; of 10,000 most are, and this is quick."""
    detail, tree, state = told.detail, told.tree, told.state
    return (
        type(state) is State
        and type(detail) is str
        and len(detail) <= _DETAIL
        and detail.isprintable()
        and type(told.digest) is str
        and len(told.digest) <= plausible.SHORT
        and (tree is None or (type(tree) is str and len(tree) < _LINE and tree.isprintable()))
        and _moment(told.started_at, now)
        and _moment(told.updated_at, now)
        and (told.usage is None or not _odd_usage(told.usage))
        and (not state.terminal if told.result is None else _fits_result(told.result, state, now))
    )


def _moment(value: object, now: float) -> bool:
    """Whether a value can be a moment as clocks go."""
    return value is None or (type(value) in (float, int) and 0 <= value <= now + plausible.AHEAD)  # type: ignore[operator]


def _fits_result(result: Result, state: State, now: float) -> bool:
    return (
        not _odd_result(result, state)
        and _moment(result.started_at, now)
        and _moment(result.finished_at, now)
        and all(
            text is None or text.isprintable()
            for text in (result.message, result.checkpoint, result.session, result.usage.model)
        )
    )


def _mended(told: WorkerStatus, now: float) -> WorkerStatus:
    """Return a status whose texts are plain and whose moments are not ahead; or one of a broken."""
    if odd := _odd(told):
        return _broken(told, f"it says what cannot be as its {odd}")
    result = told.result
    if result is not None:
        result = replace(
            result,
            message=line(result.message, _TEXT),
            checkpoint=result.checkpoint and line(result.checkpoint),
            session=result.session and line(result.session),
            started_at=_past(result.started_at, now),
            finished_at=_past(result.finished_at, now),
            usage=_plain_usage(result.usage),
        )
    return replace(
        told,
        detail=line(told.detail, _DETAIL),
        started_at=_past(told.started_at, now),
        updated_at=_past(told.updated_at, now),
        tree=told.tree and line(told.tree, plausible.LINE),
        result=result,
        usage=told.usage and _plain_usage(told.usage),
    )


def _past(value: float | None, now: float) -> float | None:
    """Return a moment by a clock that may be wrong: what is far ahead was now, at the latest."""
    return now if value is not None and value > now + plausible.AHEAD else value


def _plain_usage(usage: Usage) -> Usage:
    return replace(usage, model=usage.model and line(usage.model, plausible.SHORT))


def _odd(told: WorkerStatus) -> str:
    """Return the field of a status that says what cannot be, and what; "" when all of it can."""
    for name in ("started_at", "updated_at"):
        if not _moment(getattr(told, name), _LATEST):
            return _said(told, name)
    if type(told.state) is not State:
        return _said(told, "state")
    for name in ("detail", "digest"):
        if type(getattr(told, name)) is not str:
            return _said(told, name)
    if len(told.digest) > plausible.SHORT:
        return "digest"
    if told.tree is not None and (type(told.tree) is not str or len(told.tree) > plausible.LINE):
        return "tree"
    if told.usage is not None and (odd := _odd_usage(told.usage)):
        return f"usage: {odd}"
    if told.result is None:
        return "end: it has no result" if told.state.terminal else ""
    odd = _odd_result(told.result, told.state)
    return f"result: {odd}" if odd else ""


def _odd_usage(usage: Usage) -> str:
    try:
        odd = plausible.odd_usage(usage)
        dear = (usage.cost_usd or 0.0) > _DEAREST
    except (TypeError, AttributeError, ValueError):
        return "it is none"
    return _said(usage, odd) if odd else _said(usage, "cost_usd") if dear else ""


def _odd_result(result: Result, state: State) -> str:
    if result.__class__ is not Result:
        return "it is none"
    try:
        odd = plausible.odd_result(result, _LATEST - plausible.AHEAD)
        dear = (result.cost_usd or 0.0) > _DEAREST
    except (TypeError, AttributeError, ValueError):
        return _mistyped(result)
    if not odd and (dear or result.state is not state):
        odd = "cost_usd" if dear else "state"
    if odd.startswith("usage."):
        return _said(result.usage, odd.removeprefix("usage."))
    return _said(result, odd) if odd else _odd_usage(result.usage)


def _mistyped(result: Result) -> str:
    """Return what `wire` says of a value that has the wrong type."""
    try:
        wire.from_json(Result, wire.to_json(result))
    except (UsageError, TypeError, RecursionError) as error:
        return line(str(error), 200)
    return "a value has the wrong type"


def _said(value: object, name: str) -> str:
    said = getattr(value, name)
    # `ascii` of a number with a million digits is an error of its own
    shown = "a huge number" if type(said) is int and said.bit_length() > 256 else ascii(said)[:60]
    return f"{name}, {shown}"


def _broken(told: WorkerStatus, why: str) -> WorkerStatus:
    """Return the status of a worker of which nothing is believed but who it is.

    One that is said to have ended has: as lost, since nobody knows how. Any other one may continue.
    """
    why = line(why, _DETAIL)
    digest = told.digest if type(told.digest) is str and len(told.digest) <= 64 else ""
    if type(told.state) is State and told.state.terminal:
        result = Result(state=State.LOST, reason=BROKEN, message=why)
        return WorkerStatus(
            id=told.id, state=State.LOST, digest=digest, detail=BROKEN, result=result
        )
    state = told.state if type(told.state) is State else State.WORKING
    return WorkerStatus(id=told.id, state=state, digest=digest, detail=f"{BROKEN}: {why}")


# --- everything else --------------------------------------------------------------------------


def answer(outpost: str, hook: str, kind: type[T], told: object) -> T:
    """Look at an answer that is one value.

    Args:
        outpost: whose answer it is.
        hook: what was asked.
        kind: what it must be.
        told: what it is.

    Returns:
        The same with plain texts.

    Raises:
        PluginError: it is something else, or says what cannot be.
    """
    if not isinstance(told, kind):
        raise _defect(outpost, f"{hook} of {outpost!r} answered a {type(told).__name__}")
    if isinstance(told, str):
        return cast("T", told[:_SCREEN])
    if not is_dataclass(told):
        return told
    if isinstance(told, Message):
        told = cast("T", _mended_message(told))
    try:
        checked: Any = wire.from_json(kind, wire.to_json(told))
        if odd := _odd_answer(checked):
            raise UsageError(f"{_said(checked, odd)} cannot be")
    except (UsageError, TypeError, ValueError, RecursionError, AttributeError) as error:
        why = line(str(error), 200)
        raise _defect(outpost, f"{hook} of {outpost!r} answered something odd: {why}") from None
    return cast("T", _plain(checked))


def answers(outpost: str, hook: str, kind: type[T], told: object, most: int) -> list[T]:
    """Look at an answer that is a list of values; see `answer`.

    Args:
        outpost: whose answer it is.
        hook: what was asked.
        kind: what each must be.
        told: what it is.
        most: how many there may be.

    Raises:
        PluginError: it is something else, or too long.
    """
    if not isinstance(told, Sequence) or isinstance(told, str | bytes):
        raise _defect(outpost, f"{hook} of {outpost!r} answered a {type(told).__name__}")
    if len(told) > most:
        raise _defect(outpost, f"{hook} of {outpost!r} answered {len(told)} items; {most} may be")
    return [answer(outpost, hook, kind, one) for one in told]


def _odd_answer(told: object) -> str:
    """Return the field of an answer that says what cannot be; "" when all of it can."""
    if isinstance(told, Facts):
        if not plausible.amount(told.cpus, 1e6):
            return "cpus"
        if not plausible.amount(told.memory):
            return "memory"
        return "programs" if len(told.programs) > 1000 or len(told.logins) > 1000 else ""
    if isinstance(told, Scale):
        units = (told.running, told.target, told.limit)
        if not all(type(one) is int and 0 <= one <= _UNITS for one in units):
            return "running" if units[0] not in range(_UNITS) else "target"
        return "price" if not plausible.amount(told.price, _DEAREST) else ""
    if isinstance(told, Health):
        return "free_memory" if not plausible.amount(told.free_memory) else ""
    return ""


def _mended_message(told: Message) -> Message:
    """Return mail whose moment and priority can be: one odd letter hides no other."""
    at = told.sent_at if _moment(told.sent_at, _LATEST) else None
    priority = told.priority if type(told.priority) is int and 0 <= told.priority <= 4 else 2
    return replace(told, sent_at=at, priority=priority)


def _plain(told: Any) -> Any:
    """Return a value whose texts have no control characters and are bounded."""
    news: dict[str, Any] = {}
    for field in fields(told):
        value = getattr(told, field.name)
        if isinstance(value, str):
            body = isinstance(told, Message) and field.name == "body"
            plain: Any = value[:_BODY] if body else line(value)
        elif isinstance(value, Mapping):
            plain = {line(key): line(v) if isinstance(v, str) else v for key, v in value.items()}
        else:
            continue
        if plain != value:
            news[field.name] = plain
    return replace(told, **news) if news else told


def _defect(outpost: str, what: str) -> PluginError:
    return PluginError(what, hint=f"outpost doctor {outpost}; this is a defect of its package")
