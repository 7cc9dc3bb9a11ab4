"""The ledger: the durable record of orders, workers, decisions, events and money.

Any number of `outpost` processes use it at once. What is certain here: slots and costs are
reserved in one transaction before a spawn, so no crowd passes `max_workers` or
`cost_cap_hourly`; a terminal state never changes; older news never replaces newer. All else is a
copy of what the outposts say, and can be learnt again from them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from outpost_core.errors import UsageError
from outpost_manager.ledger import clock, money, values
from outpost_manager.ledger.store import Store

if TYPE_CHECKING:  # what describes outposts needs none of it, and is waited for by a person
    import sqlite3

    from outpost_core.errors import LedgerError
    from outpost_core.types import Event, Explanation, Order, Worker, WorkerStatus
    from outpost_manager.ledger.accounts import Account, Taken
    from outpost_manager.ledger.breakers import Breakers
    from outpost_manager.ledger.budgets import Budget, Use
    from outpost_manager.ledger.claims import Claim
    from outpost_manager.ledger.cursors import Cursors
    from outpost_manager.ledger.firings import Firings
    from outpost_manager.ledger.forecast import Past, Waiting
    from outpost_manager.ledger.notices import Notices
    from outpost_manager.ledger.outbox import Outbox
    from outpost_manager.ledger.parking import Parking
    from outpost_manager.ledger.queue import Queue
    from outpost_manager.ledger.reserve import Answer, Reservation
    from outpost_manager.ledger.scaling import Scaling
    from outpost_manager.ledger.spend import Total

T = TypeVar("T")
#: id, state, detail, started_at, spawned_at, usage and missing_at of a worker that has not ended
Known: TypeAlias = tuple[Any, ...]

#: `OutpostNote.seen_at` may lag by this many seconds: answers without news are not all written.
SEEN_EVERY: Final = 15.0
#: So many ids are asked for in one statement.
_CHUNK: Final = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class OutpostNote:
    """What is known of an outpost's answers.

    Args:
        reachable: it answered when it was last asked.
        since: since when that is so.
        detail: what was wrong.
        seen_at: when it last answered, up to `SEEN_EVERY` seconds late; None for never.
        heard_at: when it last answered or did not, likewise.
    """

    reachable: bool
    since: float
    detail: str = ""
    seen_at: float | None = None
    heard_at: float = 0.0


class Ledger:
    """The ledger of one state folder. Methods may be called from any thread.

    Args:
        folder: the state folder; it and its file are made private and made when missing.

    Raises:
        LedgerError: from here and from every method: the file cannot be read or written, is
            damaged, or was written by a newer Outpost. Nothing was changed then.
    """

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder)
        self._id = ""
        #: the budgets that are configured now, of which is told when they are nearly used up
        self.watched: Callable[[], Sequence[Budget]] = tuple

    @property
    def path(self) -> Path:
        """Its file."""
        return self._store.path

    @property
    def outbox(self) -> Outbox:
        """The mail that was written here."""
        from outpost_manager.ledger.outbox import Outbox

        return Outbox(self._store)

    @property
    def queue(self) -> Queue:
        """The orders that wait for a place."""
        from outpost_manager.ledger.queue import Queue

        return Queue(self._store)

    @property
    def firings(self) -> Firings:
        """When each schedule fired last."""
        from outpost_manager.ledger.firings import Firings

        return Firings(self._store)

    @property
    def notices(self) -> Notices:
        """What is to be told to people."""
        from outpost_manager.ledger.notices import Notices

        return Notices(self._store)

    @property
    def cursors(self) -> Cursors:
        """How far each observer was told what happened."""
        from outpost_manager.ledger.cursors import Cursors

        return Cursors(self._store)

    @property
    def scaling(self) -> Scaling:
        """What is up of outposts that are brought up and down."""
        from outpost_manager.ledger.scaling import Scaling

        return Scaling(self._store)

    @property
    def parking(self) -> Parking:
        """The accounts whose provider takes no more for a while."""
        from outpost_manager.ledger.parking import Parking

        return Parking(self._store)

    @property
    def breakers(self) -> Breakers:
        """The circuit breakers of outposts and accounts."""
        from outpost_manager.ledger.breakers import Breakers

        return Breakers(self._store)

    def is_kept(self) -> bool:
        """Whether what is written is kept; where the disk was full, that is looked at again."""
        return self._store.back()

    @property
    def aside(self) -> LedgerError | None:
        """Why nothing that is written is kept, the disk being full or read-only; else None."""
        return self._store.aside

    @property
    def closed(self) -> str:
        """A sentence when others could write the state folder until now; else ""."""
        return self._store.closed

    @property
    def id(self) -> str:
        """Who this ledger is: 16 random hex digits, made once with the file."""
        if not self._id:
            ((self._id,),) = self._store.read("SELECT id FROM identity")
        return self._id

    def give_up(self) -> None:
        """Have whatever waits here for other processes fail now, and wait no more."""
        self._store.give_up()

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()

    # --- reserve, spawn, record -----------------------------------------------------------

    def reserve(self, items: Sequence[Reservation]) -> list[Answer]:
        """Reserve slot and cost for each, in one transaction, in their order.

        Returns:
            one answer for each item. A reserved worker is `starting` and not yet spawned.

        Raises:
            UsageError: a cost is not an amount of money.
        """
        from outpost_manager.ledger import reserve

        drafts = [reserve.Draft(item) for item in items]
        if not drafts:
            return []
        with self._store.write(only_here=True) as db:
            return [reserve.reserve(db, draft) for draft in drafts]

    def foresee(self, items: Sequence[Reservation]) -> list[Answer]:
        """Say what would refuse each now, besides slots and the outpost's own cap.

        Returns:
            one answer for each item; None where nothing would. Nothing is changed.
        """
        from outpost_manager.ledger import reserve

        return [reserve.foresee(self._store.read, reserve.Draft(item)) for item in items]

    def move(self, worker: str, to: Reservation) -> Answer:
        """Reserve at another outpost what this one refused; what is not reserved stays put.

        Returns:
            `RESERVED` with the moved worker. `EXISTS` when it was spawned meanwhile and can no
            longer be moved. A worker that was released meanwhile is reserved anew.

        Raises:
            UsageError: the cost is not an amount of money, or `to` is the order of another
                worker.
        """
        from outpost_manager.ledger import reserve

        if to.order.worker != worker:
            raise UsageError(f"{worker} cannot be moved with the order of {to.order.worker}")
        draft = reserve.Draft(to)
        with self._store.write(only_here=True) as db:
            return reserve.move(db, draft)

    def mark_spawned(self, items: Sequence[tuple[str, WorkerStatus]]) -> list[Worker | None]:
        """Write down that outposts have taken their workers, as (outpost, status).

        Returns:
            each worker as it is recorded now; None where there is none.
        """
        from outpost_manager.ledger import record

        durable = any(status.state.terminal for _, status in items)
        with self._store.write(durable=durable) as db:
            for outpost, status in items:
                record.take(db, outpost, status)
            self._warn(db, [status for _, status in items])
        found = {worker.id: worker for worker in self.workers(ids=[s.id for _, s in items])}
        return [found.get(status.id) for _, status in items]

    def _warn(self, db: sqlite3.Connection, statuses: Sequence[WorkerStatus]) -> None:
        """Tell of budgets that are nearly used up by what was just taken over."""
        if some := self.watched():
            from outpost_manager.ledger import overspend

            overspend.told(db, some, statuses, clock.now())

    def release(self, worker: str, owner: str) -> bool:
        """Give slot and cost back: no outpost took the worker. Its order stays in the events.

        Returns:
            False when there is no such worker, or it was spawned or has ended, or another owner
            has taken it over.
        """
        from outpost_manager.ledger import rows

        with self._store.write() as db:
            found = db.execute(
                "DELETE FROM workers"
                " WHERE id = ? AND owner = ? AND spawned_at IS NULL AND ended_at IS NULL"
                " RETURNING outpost",
                (worker, owner),
            ).fetchone()
            if found is None:
                return False
            rows.tell(db, "released", clock.now(), worker, found[0])
            return True

    def claim(self, worker: str, owner: str) -> Claim:
        """Take over a spawn that is not finished, unless a living process is at it.

        Args:
            worker: its id.
            owner: the word of this process (`worker.identity.me`), with `/` and whatever tells
                this spawn apart from others in it.
        """
        from outpost_manager.ledger import claims

        with self._store.write(durable=False, only_here=True) as db:
            return claims.claim(db, worker, owner)

    def claim_ended(self, worker: str, owner: str) -> Claim:
        """Take the row of an ended worker, so that `reserve` by that owner may replace it.

        Args:
            worker: its id.
            owner: as in `claim`, with `claims.RENEWING` in it.
        """
        from outpost_manager.ledger import claims

        with self._store.write(durable=False, only_here=True) as db:
            return claims.claim_ended(db, worker, owner)

    def disown(self, worker: str, owner: str) -> None:
        """Leave an unfinished spawn to whoever comes; nothing when it is not `owner`'s."""
        from outpost_manager.ledger import claims

        with self._store.write(durable=False) as db:
            claims.disown(db, worker, owner)

    def known(self, outpost: str) -> Sequence[Known]:
        """Return what `record` and `missing` compare with, so that both can do with one look."""
        return self._store.read(
            "SELECT id, state, detail, started_at, spawned_at, usage, missing_at FROM workers"
            " WHERE outpost = ? AND ended_at IS NULL",
            (outpost,),
        )

    def record(
        self,
        outpost: str,
        statuses: Sequence[WorkerStatus],
        asked_at: float | None = None,
        known: Sequence[Known] | None = None,
    ) -> list[Worker]:
        """Take over what an outpost says of its workers; settles the cost of those that ended.

        Args:
            outpost: its name.
            statuses: what it says.
            asked_at: when it was asked; what it said before a worker was tried again is about
                the try before.
            known: what `known` has just returned; None looks here.

        Ignored: what would change an ended worker, is older than what is known, belongs to a
        worker at another outpost or to another order under the same id, or has an id that is
        none. A worker that the ledger does not know is adopted.

        Returns:
            the workers that changed, and not only in what their agents have used so far.
        """
        from outpost_manager.ledger import record, rows

        there = {row[0]: row for row in (self.known(outpost) if known is None else known)}
        news = []
        for status in statuses:
            row = there.get(status.id)
            if (
                row is None
                or row[1] != status.state
                or row[2] != rows.text(status.detail)
                or (row[3] != status.started_at and status.started_at is not None)
                or row[4] is None
                or (status.usage is not None and row[5] != record.used(status))
            ):
                news.append(status)
        if news:
            news = self._without_strangers(news, there)
        if not news:
            return []
        durable = any(status.state.terminal for status in news)
        with self._store.write(durable=durable) as db:
            changed = [s.id for s in news if record.take(db, outpost, s, asked_at)]
            self._warn(db, news)
        return self.workers(ids=changed) if changed else []

    def _without_strangers(
        self, news: list[WorkerStatus], known: Collection[str]
    ) -> list[WorkerStatus]:
        """Leave out what ended or is elsewhere, so that it costs no transaction every time."""
        from outpost_core.types import split_worker_id

        unknown = [status.id for status in news if status.id not in known]
        if not unknown:
            return news
        strangers = set()
        for worker in unknown:
            try:
                split_worker_id(worker)
            except UsageError:
                strangers.add(worker)
        asked = [worker for worker in unknown if worker not in strangers]
        strangers |= self._among(asked, "SELECT id FROM workers WHERE id")
        return [status for status in news if status.id not in strangers]

    def missing(
        self,
        outpost: str,
        seen: Collection[str],
        before: float,
        known: Sequence[Known] | None = None,
    ) -> list[Worker]:
        """Return the workers that an outpost should have shown and twice did not.

        Once may be a list that was asked for before the worker was there, or a clock that was
        set back: such a worker is remembered, and must be missing in a later answer too.

        Args:
            outpost: its name.
            seen: ids that it showed.
            before: when it was asked: workers spawned since then could not be shown.
            known: what `known` has just returned; None looks here.
        """
        seen = seen if isinstance(seen, set | frozenset | dict) else set(seen)
        gone: list[str] = []
        news: list[tuple[float | None, str]] = []
        for worker, _, _, _, spawned_at, _, noted_at in (
            self.known(outpost) if known is None else known
        ):
            if worker in seen:
                if noted_at is not None:
                    news.append((None, worker))
                continue
            began = values.number(spawned_at)
            if began is None or began >= before:
                continue
            missing_at = values.number(noted_at)
            if missing_at is None:
                news.append((clock.now(), worker))
            elif missing_at < before:
                gone.append(worker)
        if news:
            with self._store.write(durable=False) as db:
                db.executemany("UPDATE workers SET missing_at = ? WHERE id = ?", news)
        return self.workers(ids=gone) if gone else []

    def forget(self, worker: str, rescued: str | None = None) -> bool:
        """Hide an ended worker, whose files were removed, from listings.

        Args:
            worker: its id.
            rescued: where its unpushed work is now.

        Returns:
            False when there is no such worker, or it runs, or was hidden before.
        """
        from outpost_manager.ledger import rows

        if self._store.aside is not None:
            known = self.worker(worker)
            if self._store.back() and known is not None:  # its removal made room
                self._relearn(known)
        # not waited for: one that is shown again after a power cut is cleaned again in vain
        with self._store.write(durable=False) as db:
            found = db.execute(
                "UPDATE workers SET cleaned = 1"
                " WHERE id = ? AND ended_at IS NOT NULL AND cleaned = 0 RETURNING outpost",
                (worker,),
            ).fetchone()
            if found is None:
                return False
            data = {"rescued": rescued} if rescued else {}
            rows.tell(db, "cleaned", clock.now(), worker, found[0], data)
            return True

    def _relearn(self, worker: Worker) -> None:
        """Take over what its outpost said of a worker when nothing could be kept."""
        from outpost_core.types import WorkerStatus

        status = WorkerStatus(
            id=worker.id,
            state=worker.state,
            digest=worker.digest,
            detail=worker.detail,
            started_at=worker.started_at,
            result=worker.result,
        )
        self.record(worker.outpost, [status])

    # --- outposts ----------------------------------------------------------------------------

    def set_reachable(self, outpost: str, reachable: bool, detail: str, at: float) -> bool:
        """Write down that an outpost answered, or did not; True when it was not so before.

        Args:
            outpost: its name.
            reachable: it answered.
            detail: what was wrong; "" when it answered.
            at: when it was asked. Older news than what is known is ignored.
        """
        from outpost_manager.ledger import rows

        detail = rows.text(detail)
        found = self._store.read(
            "SELECT reachable, detail, heard_at FROM outposts WHERE name = ?", (outpost,)
        )
        if found and found[0][:2] == (reachable, detail) and 0 <= at - found[0][2] < SEEN_EVERY:
            return False
        with self._store.write(durable=False) as db:
            changed = db.execute(
                "INSERT INTO outposts (name, reachable, since, detail, seen_at, heard_at)"
                " VALUES (:name, :reachable, :at, :detail, iif(:reachable, :at, NULL), :at)"
                " ON CONFLICT (name) DO UPDATE SET"
                " since = iif(reachable = excluded.reachable, since, excluded.since),"
                " reachable = excluded.reachable, detail = excluded.detail,"
                " seen_at = coalesce(excluded.seen_at, seen_at), heard_at = excluded.heard_at"
                # what is noted for the future was written before the clock was set back
                " WHERE heard_at < excluded.heard_at OR heard_at > :now",
                {
                    "name": outpost,
                    "reachable": reachable,
                    "detail": detail,
                    "at": at,
                    "now": clock.now(),
                },
            ).rowcount
            turned = changed > 0 and (not found or bool(found[0][0]) is not reachable)
            if turned:
                kind = "reachable" if reachable else "unreachable"
                rows.tell(db, kind, at, "", outpost, {"detail": detail})
            return turned

    def outposts(self) -> dict[str, OutpostNote]:
        """Return what is known of each outpost that was ever asked."""
        return {
            values.text(name): OutpostNote(
                reachable=bool(reachable),
                since=values.number(since) or 0.0,
                detail=values.text(detail),
                seen_at=values.number(seen_at),
                heard_at=values.number(heard_at) or 0.0,
            )
            for name, reachable, since, detail, seen_at, heard_at in self._store.read(
                "SELECT name, reachable, since, detail, seen_at, heard_at FROM outposts"
            )
        }

    # --- look ---------------------------------------------------------------------------------

    def worker(self, id: str) -> Worker | None:  # noqa: A002 - the word of the glossary
        """Return one worker, hidden or not; None when there is none."""
        found = self.workers(ids=[id])
        return found[0] if found else None

    def workers(
        self,
        *,
        outpost: str | None = None,
        active: bool | None = None,
        ids: Collection[str] | None = None,
        issue: str | None = None,
        limit: int | None = None,
        cleaned: bool = False,
        ended_since: float | None = None,
    ) -> list[Worker]:
        """Return workers, newest first.

        Args:
            outpost: only those there.
            active: True only those that have not ended, False only those that have.
            ids: only these, hidden ones too.
            issue: only attempts at that issue.
            limit: at most so many.
            cleaned: hidden ones too.
            ended_since: only those of whose end it was heard since that moment.
        """
        from outpost_manager.ledger import rows

        if ids is not None and len(ids) > _CHUNK:
            every = self.workers(outpost=outpost, active=active, issue=issue, cleaned=True)
            wanted = set(ids)
            return [worker for worker in every if worker.id in wanted][:limit]
        where: list[str] = []
        args: list[object] = []
        if ids is not None:
            where.append(f"w.id IN ({','.join('?' * len(ids))})")
            args += ids
        elif not cleaned:
            where.append("w.cleaned = 0")
        if outpost is not None:
            where.append("w.outpost = ?")
            args.append(outpost)
        if issue is not None:
            # The ids of an issue's attempts lie together: "gt-1." to "gt-1/".
            where.append("w.id > ? AND w.id < ? AND w.issue = ?")
            args += [f"{issue}.", f"{issue}/", issue]
        if ended_since is not None:
            where.append("w.ended_at >= ?")
            args.append(ended_since)
        if active is not None:
            where.append(f"w.ended_at IS {'' if active else 'NOT '}NULL")
        columns, tables = (
            (rows.OPEN_COLUMNS, rows.OPEN_TABLES) if active else (rows.COLUMNS, rows.TABLES)
        )
        found = self._store.read(
            f"SELECT {columns} FROM {tables} WHERE {' AND '.join(where) or '1'}"  # noqa: S608
            f"{'' if limit is None else f' ORDER BY {rows.NEWEST_FIRST} LIMIT {int(limit)}'}",
            args,
        )
        try:
            found.sort(key=rows.age, reverse=True)  # of all rows, far quicker than SQLite's sorter
        except TypeError:  # one of them says what cannot be
            found.sort(key=rows.plain_age, reverse=True)
        unreachable = self._unreachable()
        return [rows.worker(row, unreachable) for row in found]

    def attempts(self, issue: str) -> list[Worker]:
        """Return every attempt at an issue, hidden ones too, newest first."""
        return self.workers(issue=issue, cleaned=True)

    def unspawned(self, older_than: float) -> list[Worker]:
        """Return workers that were reserved more than `older_than` seconds ago and never spawned.

        Whoever reserved them has crashed, or is slow: ask the outpost.
        """
        found = self._store.read(
            "SELECT id FROM workers WHERE ended_at IS NULL AND spawned_at IS NULL"
            " AND reserved_at <= ?",
            (clock.now() - older_than,),
        )
        return self.workers(ids=[row[0] for row in found]) if found else []

    def unbegun(self, ids: Collection[str]) -> set[str]:
        """Return those of the ids whose worker failed, or was lost, before its agent began."""
        ended = self._among(ids, "SELECT id FROM workers WHERE state IN ('failed', 'lost') AND id")
        return {worker.id for worker in self.workers(ids=ended) if worker.unbegun}

    def orphans(self) -> list[Worker]:
        """Return workers that are not spawned and whose spawner is gone, newest first."""
        from outpost_shared import identity

        found = self._store.read(
            "SELECT id, owner FROM workers WHERE ended_at IS NULL AND spawned_at IS NULL"
        )
        owners = {worker: values.text(owner).partition("/")[0] for worker, owner in found}
        alive = {owner: identity.alive(owner) for owner in {*owners.values()}}
        gone = [worker for worker, owner in owners.items() if not alive[owner]]
        return self.workers(ids=gone) if gone else []

    def never_begun(self) -> dict[tuple[str, str], str]:
        """Return the digests of workers that were stopped before they began, by (outpost, id)."""
        found = self._store.read(
            "SELECT outpost, id, digest FROM workers WHERE state = 'stopped' AND started_at IS NULL"
        )
        return {(outpost, worker): digest for outpost, worker, digest in found}

    def order(self, id: str) -> Order | None:  # noqa: A002 - the word of the glossary
        """Return a worker's order, its secrets without values.

        None when it is not known, or what is kept of it cannot be read.
        """
        from outpost_core.types import Order

        return self._stored(Order, "body", id)

    def ordered(self, ids: Collection[str]) -> set[str]:
        """Return those of the ids that were ordered here; the others an outpost told of."""
        return self._among(ids, "SELECT worker FROM events WHERE body IS NOT NULL AND worker")

    def explanation(self, id: str) -> Explanation | None:  # noqa: A002 - the word of the glossary
        """Return why a worker went where it is; None when it is not known."""
        from outpost_core.types import Explanation

        return self._stored(Explanation, "explanation", id)

    def active(self) -> dict[str, int]:
        """Return how many workers hold a slot, by outpost."""
        found = self._store.read("SELECT outpost, slots FROM held WHERE slots > 0")
        return {outpost: slots for outpost, slots in found if isinstance(slots, int)}

    def spent(self, since: float) -> dict[str, float]:
        """Return USD by outpost: open reservations, and what was settled since that moment.

        What agents spend counts like what outposts charge.
        """
        held, machine, agent = map(values.counted, ("cost", "cost_settled", "agent_settled"))
        found = self._store.read(
            "SELECT outpost, sum(cost) FROM ("  # noqa: S608
            f" SELECT outpost, {held} AS cost FROM held WHERE slots > 0"
            " UNION ALL"
            f" SELECT outpost, {machine} + {agent} FROM workers"
            " WHERE (cost_settled > 0 OR agent_settled > 0) AND ended_at >= ?"
            ") GROUP BY outpost",
            (since,),
        )
        return {outpost: money.dollars(cost) for outpost, cost in found}

    def uses(self, budgets: Sequence[Budget]) -> list[Use]:
        """Return what the window of each budget that ends now holds."""
        from outpost_manager.ledger.budgets import meter

        now = clock.now()
        return [meter(budget).use(self._store.read, now) for budget in budgets]

    def taken(self, accounts: Sequence[Account]) -> list[Taken]:
        """Return what each account has taken of what it may."""
        from outpost_manager.ledger.accounts import taken

        now = clock.now()
        return [taken(self._store.read, account, now) for account in accounts]

    def accounts_in_use(self) -> dict[str, int]:
        """Return how many workers use each account now."""
        from outpost_manager.ledger.accounts import in_use

        return in_use(self._store.read)

    def waiting(self) -> list[Waiting]:
        """Return what waits in the queue, as a forecast needs it, in the order of its turns."""
        from outpost_manager.ledger import forecast

        return forecast.waiting(self._store)

    def past(self) -> Past:
        """Return what work has cost on average."""
        from outpost_manager.ledger import forecast

        return forecast.past(self._store)

    def pace(self, budget: Budget) -> float:
        """Return nano-dollars a second that a budget's workers have cost lately."""
        from outpost_manager.ledger import forecast

        return forecast.pace(self._store, budget)

    def account(self, id: str) -> str:  # noqa: A002 - the word of the glossary
        """Return whose credentials a worker uses; "" when nobody knows."""
        found = self._store.read("SELECT account FROM workers WHERE id = ?", (id,))
        return values.text(found[0][0]) if found else ""

    def accounts(self, ids: Sequence[str]) -> dict[str, str]:
        """Return whose credentials workers use, as `account` does; without those it knows not."""
        found = {worker: self.account(worker) for worker in ids}
        return {worker: account for worker, account in found.items() if account}

    def totals(self, by: str, since: float) -> list[Total]:
        """Add up what workers cost; see `spend.totals`."""
        from outpost_manager.ledger import spend

        return spend.totals(self._store, by, since)

    # --- events --------------------------------------------------------------------------------

    def note(self, event: Event) -> None:
        """Write down what changed nothing here: a request, an answer, a try that failed."""
        from outpost_manager.ledger import rows

        with self._store.write(durable=False) as db:
            rows.tell(db, event.kind, event.at, event.worker, event.outpost, event.data)

    def events(self, worker: str | None = None, limit: int = 1000) -> list[Event]:
        """Return the newest `limit` events, of one worker or of all, in the order they happened."""
        from outpost_manager.ledger import events

        return events.newest(self._store, worker, limit)

    def events_after(self, id: int, limit: int = 500) -> list[Event]:  # noqa: A002
        """Return the oldest `limit` events behind an id, oldest first. Cheap when there is none."""
        from outpost_manager.ledger import events

        return events.after(self._store, id, limit)

    def last_event(self) -> int:
        """Return the id of the newest event; 0 when there is none. Cheap."""
        from outpost_manager.ledger import events

        return events.last(self._store)

    # --- helpers -------------------------------------------------------------------------------

    def _unreachable(self) -> dict[str, float]:
        found = self._store.read("SELECT name, since FROM outposts WHERE NOT reachable")
        return {name: values.number(since) or 0.0 for name, since in found}

    def _among(self, ids: Collection[str], sql: str) -> set[str]:
        """Return those of the ids that a query finds, which ends in the column that has them."""
        asked, found = [*ids], set[str]()
        for start in range(0, len(asked), _CHUNK):
            part = asked[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            found.update(row[0] for row in self._store.read(f"{sql} IN ({marks})", part))
        return found

    def _stored(self, kind: type[T], column: str, worker: str) -> T | None:
        found = self._store.read(
            f"SELECT {column} FROM events WHERE worker = ? AND body IS NOT NULL"  # noqa: S608
            " ORDER BY id DESC LIMIT 1",
            (worker,),
        )
        if not found or found[0][0] is None:
            return None
        from outpost_manager.ledger import doubtful

        return doubtful.parsed(kind, found[0][0])
