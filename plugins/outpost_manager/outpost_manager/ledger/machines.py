"""What the machines of outposts cost that are brought up and down, as budgets count it.

Each event that changes what is up of an outpost says what it costs an hour from there on, and what
it did before. A budget's window holds what they have cost within it, and what those that are up
cost in the hour to come: so long a machine may be needed once more is placed on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from outpost_manager.ledger import money, rows, values

if TYPE_CHECKING:
    import sqlite3

    from outpost_core.types import Json
    from outpost_manager.ledger.values import Ask

#: Nano-dollars an hour that what is up of an outpost costs.
COSTS: Final = "coalesce((SELECT price FROM scaling WHERE outpost = ? AND phase <> 'down'), 0)"
#: In events: USD an hour from there on, and until then.
_AFTER: Final = "usd_hourly"
_BEFORE: Final = "usd_hourly_before"
#: Events of outposts, so many in one question, the newest first and from the first id on.
_PAGE: Final = 256
_LAST: Final = 2**63 - 1
_EVENTS: Final = (
    "SELECT id, at, outpost, data FROM events INDEXED BY events_of_worker"
    " WHERE worker = '' AND id < ? ORDER BY id DESC LIMIT ?"
)


def hourly(db: sqlite3.Connection, outpost: str) -> int:
    """Return the nano-dollars an hour that what is up of an outpost costs."""
    ((found,),) = db.execute(f"SELECT {COSTS}", (outpost,)).fetchall()
    return values.nano(found)


def tell(
    db: sqlite3.Connection,
    kind: str,
    now: float,
    outpost: str,
    data: dict[str, Json],
    before: int,
) -> None:
    """Write an event that may have changed what an outpost costs, inside a write transaction.

    Args:
        db: the connection.
        kind: see `types.Event`; "" tells nothing unless that has changed.
        now: when it happened.
        outpost: which one.
        data: what else the event says.
        before: nano-dollars an hour that it cost before.
    """
    after = hourly(db, outpost)
    if kind or after != before:
        told = data | {_AFTER: money.dollars(after), _BEFORE: money.dollars(before)}
        rows.tell(db, kind or "priced", now, "", outpost, told)


def cost(
    ask: Ask,
    counts: Callable[[str], bool],
    seconds: float,
    now: float,
    besides: Callable[[str], int],
) -> int:
    """Return the nano-dollars that machines take of a window that ends now.

    Args:
        ask: asks the ledger, inside a write transaction where something depends on it.
        counts: whether an outpost, by its name, counts.
        seconds: the length of the window.
        now: seconds since the epoch.
        besides: nano-dollars an hour of an outpost that count already.
    """
    rates = {
        values.text(outpost): values.nano(price)
        for outpost, price in ask("SELECT outpost, iif(phase <> 'down', price, 0) FROM scaling", ())
        if counts(values.text(outpost))
    }
    if not rates:
        return 0
    changes: dict[str, list[tuple[float, int]]] = {name: [] for name in rates}
    for at, outpost, before in _changes(ask, now - seconds):
        if outpost in changes:
            changes[outpost].append((min(at, now), before))
    found = 0
    for name, rate in rates.items():
        # as it is, and as it will be in an hour if nothing is brought down
        found += max(
            _spent(changes[name][::-1], rate, now - seconds + more, now + more, besides(name))
            for more in (0.0, money.HOUR)
        )
    return found


def _spent(
    changes: Iterable[tuple[float, int]], rate: int, since: float, end: float, besides: int
) -> int:
    """Add up what an outpost costs from a moment to another one, beside what counts already."""
    nano, at = 0.0, since
    for moment, before in changes:
        if moment > at:
            nano += max(0, before - besides) * (moment - at) / money.HOUR
            at = moment
    nano += max(0, rate - besides) * max(0.0, end - at) / money.HOUR
    return round(nano)


def _changes(ask: Ask, since: float) -> Iterator[tuple[float, str, int]]:
    """Yield what changed a price since a moment, the newest first: when, where, and from what."""
    page = ask(_EVENTS, (_LAST, _PAGE))
    while page:
        for _, at, outpost, body in page:
            moment = values.number(at)
            if moment is not None and moment >= since and f'"{_BEFORE}"' in values.text(body):
                before = values.data(body).get(_BEFORE)
                usd = float(before) if isinstance(before, int | float) else None
                yield moment, values.text(outpost), money.counted(usd) or 0
        last, at, *_ = page[-1]
        if len(page) < _PAGE or (values.number(at) or 0.0) < since:
            return
        page = ask(_EVENTS, (last, _PAGE))
