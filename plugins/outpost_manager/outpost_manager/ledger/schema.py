"""The tables of the ledger, and the way from every older version to this one.

Money is kept in whole nano-dollars, so that sums are exact and a cap is a cap. Moments are
seconds since the epoch, by this machine's clock unless a column says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

#: "OTPS": written into the file's header, so that another program's database is not taken.
APPLICATION_ID: Final = 0x4F545053

_TAKE: Final = (
    "INSERT INTO held VALUES (NEW.outpost, 1, NEW.cost_reserved) ON CONFLICT DO UPDATE"
    " SET slots = slots + 1, cost = cost + NEW.cost_reserved;"
)
_GIVE: Final = (
    "UPDATE held SET slots = slots - 1, cost = cost - OLD.cost_reserved"
    " WHERE outpost = OLD.outpost;"
)
_V1: Final = (
    # Every page that a reservation touches costs it time, so rows lie in their own key and there
    # are few indexes. `spawned_at` and `ended_at` are this machine's
    # knowledge; `started_at`, `told_at` (when it last knew something new) and
    # `finished_at` are the backend's words; `updated_at` is either.
    """CREATE TABLE workers (
        id TEXT PRIMARY KEY,
        issue TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        outpost TEXT NOT NULL,
        digest TEXT NOT NULL,
        state TEXT NOT NULL,
        detail TEXT NOT NULL DEFAULT '',
        title TEXT NOT NULL DEFAULT '',
        priority INTEGER NOT NULL DEFAULT 2,
        rig TEXT,
        agent TEXT NOT NULL DEFAULT '',
        created_at REAL NOT NULL,
        reserved_at REAL NOT NULL,
        spawned_at REAL,
        started_at REAL,
        updated_at REAL,
        told_at REAL,
        finished_at REAL,
        ended_at REAL,
        cost_reserved INTEGER NOT NULL DEFAULT 0 CHECK (cost_reserved >= 0),
        cost_settled INTEGER CHECK (cost_settled >= 0),
        cleaned INTEGER NOT NULL DEFAULT 0,
        owner TEXT NOT NULL DEFAULT '',
        missing_at REAL
    ) WITHOUT ROWID""",
    "CREATE INDEX workers_open ON workers (outpost) WHERE ended_at IS NULL",
    # Slots and money that open workers hold: kept by triggers, in the transaction of the change,
    # so that a reservation costs the same however many workers there are.
    """CREATE TABLE held (
        outpost TEXT PRIMARY KEY,
        slots INTEGER NOT NULL CHECK (slots >= 0),
        cost INTEGER NOT NULL CHECK (cost >= 0)
    ) WITHOUT ROWID""",
    f"""CREATE TRIGGER held_insert AFTER INSERT ON workers
        WHEN NEW.ended_at IS NULL BEGIN {_TAKE} END""",
    f"""CREATE TRIGGER held_delete AFTER DELETE ON workers
        WHEN OLD.ended_at IS NULL BEGIN {_GIVE} END""",
    f"""CREATE TRIGGER held_end AFTER UPDATE OF ended_at ON workers
        WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL BEGIN {_GIVE} END""",
    f"""CREATE TRIGGER held_move AFTER UPDATE OF outpost, cost_reserved ON workers
        WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NULL BEGIN {_GIVE} {_TAKE} END""",
    """CREATE INDEX workers_settled ON workers (outpost, ended_at, cost_settled)
        WHERE cost_settled > 0""",
    # Wide and rarely read, so apart from the rows that every listing walks through.
    """CREATE TABLE results (
        worker TEXT PRIMARY KEY REFERENCES workers,
        body TEXT NOT NULL
    )""",
    # Events outlive the worker that they tell of, so they hold its id and not a reference. Orders
    # and explanations are kept here, with the event that decided on them.
    """CREATE TABLE events (
        worker TEXT NOT NULL,
        n INTEGER NOT NULL,
        at REAL NOT NULL,
        kind TEXT NOT NULL,
        outpost TEXT NOT NULL,
        data TEXT NOT NULL,
        body TEXT,
        explanation TEXT,
        PRIMARY KEY (worker, n)
    ) WITHOUT ROWID""",
    """CREATE TABLE outposts (
        name TEXT PRIMARY KEY,
        reachable INTEGER NOT NULL,
        since REAL NOT NULL,
        detail TEXT NOT NULL,
        seen_at REAL,
        heard_at REAL NOT NULL
    ) WITHOUT ROWID""",
)

_V2: Final = (
    # Mail that was written here; see `outbox`. Kept with its text until it is delivered.
    """CREATE TABLE outbox (
        id TEXT PRIMARY KEY,
        outpost TEXT NOT NULL,
        recipient TEXT NOT NULL,
        subject TEXT NOT NULL,
        body TEXT NOT NULL,
        sender TEXT NOT NULL,
        priority INTEGER NOT NULL,
        written_at REAL NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '',
        tried_at REAL,
        next_try REAL NOT NULL DEFAULT 0,
        delivered_at REAL,
        failed_at REAL,
        owner TEXT NOT NULL DEFAULT '',
        claimed_until REAL NOT NULL DEFAULT 0
    )""",
    """CREATE INDEX outbox_waiting ON outbox (outpost, next_try, claimed_until)
        WHERE delivered_at IS NULL AND failed_at IS NULL""",
    # The few that were stopped before they began: see `givenup`.
    """CREATE INDEX workers_never_begun ON workers (outpost, digest)
        WHERE state = 'stopped' AND started_at IS NULL""",
)

_HOLDS: Final = (
    "{0}.cost_reserved + max(coalesce({0}.agent_reserved, 0), coalesce({0}.agent_spent, 0))"
)
_TAKE_ALL: Final = (
    f"INSERT INTO held VALUES (NEW.outpost, 1, {_HOLDS.format('NEW')})"  # noqa: S608
    " ON CONFLICT DO UPDATE"
    " SET slots = slots + 1, cost = cost + excluded.cost;"
)
_GIVE_ALL: Final = (
    f"UPDATE held SET slots = slots - 1, cost = cost - ({_HOLDS.format('OLD')})"  # noqa: S608
    " WHERE outpost = OLD.outpost;"
)
_V3: Final = (
    # What the agent spends, apart from what the outpost charges: its worst case (NULL: nobody
    # knows it), what was seen of it while it ran, and what counts in the end (NULL: not known).
    # An open worker holds the greater of worst case and seen, so that a cap hears of an overrun
    # at once. `usage` is the last that was seen of its tokens, as JSON.
    "ALTER TABLE workers ADD COLUMN agent_reserved INTEGER CHECK (agent_reserved >= 0)",
    "ALTER TABLE workers ADD COLUMN agent_spent INTEGER CHECK (agent_spent >= 0)",
    "ALTER TABLE workers ADD COLUMN agent_settled INTEGER CHECK (agent_settled >= 0)",
    "ALTER TABLE workers ADD COLUMN usage TEXT",
    # Older results say already what their agents spent.
    """UPDATE workers SET agent_settled = (
        SELECT CAST(round(json_extract(body, '$.usage.cost_usd') * 1000000000) AS INTEGER)
        FROM results WHERE worker = id
        AND json_extract(body, '$.usage.cost_usd') BETWEEN 0 AND 1000000
    ) WHERE ended_at IS NOT NULL""",
    "DROP TRIGGER held_insert",
    "DROP TRIGGER held_delete",
    "DROP TRIGGER held_end",
    "DROP TRIGGER held_move",
    f"""CREATE TRIGGER held_insert AFTER INSERT ON workers
        WHEN NEW.ended_at IS NULL BEGIN {_TAKE_ALL} END""",
    f"""CREATE TRIGGER held_delete AFTER DELETE ON workers
        WHEN OLD.ended_at IS NULL BEGIN {_GIVE_ALL} END""",
    f"""CREATE TRIGGER held_end AFTER UPDATE OF ended_at ON workers
        WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL BEGIN {_GIVE_ALL} END""",
    f"""CREATE TRIGGER held_move
        AFTER UPDATE OF outpost, cost_reserved, agent_reserved, agent_spent ON workers
        WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NULL
        AND (OLD.outpost <> NEW.outpost OR {_HOLDS.format("OLD")} <> {_HOLDS.format("NEW")})
        BEGIN {_GIVE_ALL} {_TAKE_ALL} END""",
    "DROP INDEX workers_settled",
    """CREATE INDEX workers_settled ON workers (outpost, ended_at, cost_settled, agent_settled)
        WHERE cost_settled > 0 OR agent_settled > 0""",
)
_V4: Final = (
    # Who this ledger is: made once, here, and in the names of the refs that its workers keep
    # unpushed work under. A copy of the file would be the same, so leases guard those refs too.
    "CREATE TABLE identity (id TEXT NOT NULL)",
    "INSERT INTO identity VALUES (lower(hex(randomblob(8))))",
)

_V5: Final = (
    # One log of all events, in the order of their commits: whoever follows it remembers the last
    # id that he has seen. Ids are `max(id) + 1`, and no event is ever removed, so none comes twice.
    # Of an older ledger the events come in the order of their moments, and those of one worker in
    # the order in which they were written, whatever its clock said.
    "ALTER TABLE events RENAME TO older_events",
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        worker TEXT NOT NULL,
        at REAL NOT NULL,
        kind TEXT NOT NULL,
        outpost TEXT NOT NULL,
        data TEXT NOT NULL,
        body TEXT,
        explanation TEXT
    )""",
    """INSERT INTO events (worker, at, kind, outpost, data, body, explanation)
        SELECT worker, at, kind, outpost, data, body, explanation FROM (
            SELECT *, max(at) OVER (PARTITION BY worker ORDER BY n) AS reached FROM older_events
        ) ORDER BY reached, worker, n""",
    "DROP TABLE older_events",
    "CREATE INDEX events_of_worker ON events (worker)",
    # How far each observer was told; see `cursors`.
    """CREATE TABLE observers (
        name TEXT PRIMARY KEY,
        told INTEGER NOT NULL,
        begun INTEGER NOT NULL DEFAULT 0,
        tries INTEGER NOT NULL DEFAULT 0,
        owner TEXT NOT NULL DEFAULT ''
    ) WITHOUT ROWID""",
)

_V6: Final = (
    # Orders that wait, one row an issue; it stays for further attempts, and once it has ended it
    # says how. Entries of one `kind` are placed alike; `avoid` is the outpost that the next attempt
    # must not go to. `worker` is the attempt that waits, runs, or ran last, `body` its order as
    # JSON (secrets by their names alone). `turn` is when its turn comes: the moment it was added,
    # later by a fixed time for each step of priority, so that nothing is starved. What happens to
    # the worker moves the row on, in the same transaction and whoever writes it: see the triggers.
    """CREATE TABLE queue (
        issue TEXT PRIMARY KEY,
        seq INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'settling', 'ended')),
        worker TEXT NOT NULL,
        digest TEXT NOT NULL,
        body TEXT NOT NULL,
        kind TEXT NOT NULL DEFAULT '',
        place TEXT,
        avoid TEXT NOT NULL DEFAULT '',
        title TEXT NOT NULL DEFAULT '',
        priority INTEGER NOT NULL,
        turn REAL NOT NULL,
        rig TEXT NOT NULL DEFAULT '',
        agent TEXT NOT NULL DEFAULT '',
        account TEXT NOT NULL DEFAULT '',
        model TEXT NOT NULL DEFAULT '',
        share TEXT NOT NULL DEFAULT '',
        labels TEXT NOT NULL DEFAULT '[]',
        batch TEXT NOT NULL DEFAULT '',
        not_before REAL NOT NULL DEFAULT 0,
        held INTEGER NOT NULL DEFAULT 0,
        waits_for INTEGER NOT NULL DEFAULT 0,
        tries INTEGER NOT NULL DEFAULT 0,
        retries INTEGER NOT NULL DEFAULT 0,
        why TEXT NOT NULL DEFAULT '',
        added_at REAL NOT NULL,
        moved_at REAL NOT NULL,
        outcome TEXT NOT NULL DEFAULT ''
    )""",
    "CREATE UNIQUE INDEX queue_seq ON queue (seq)",
    "CREATE INDEX queue_worker ON queue (worker)",
    """CREATE INDEX queue_waiting ON queue (share, turn, seq)
        WHERE state = 'waiting' AND held = 0 AND waits_for = 0""",
    "CREATE INDEX queue_running ON queue (share, rig, account) WHERE state = 'running'",
    "CREATE INDEX queue_settling ON queue (moved_at) WHERE state = 'settling'",
    "CREATE INDEX queue_batch ON queue (batch) WHERE batch <> ''",
    """CREATE TABLE queue_after (
        issue TEXT NOT NULL,
        needs TEXT NOT NULL,
        PRIMARY KEY (issue, needs)
    ) WITHOUT ROWID""",
    """CREATE TRIGGER queue_runs AFTER INSERT ON workers WHEN NEW.ended_at IS NULL BEGIN
        UPDATE queue SET state = 'running', moved_at = NEW.reserved_at, why = ''
        WHERE worker = NEW.id AND state = 'waiting'; END""",
    """CREATE TRIGGER queue_waits_again AFTER DELETE ON workers WHEN OLD.ended_at IS NULL BEGIN
        UPDATE queue SET state = 'waiting' WHERE worker = OLD.id AND state = 'running'; END""",
    """CREATE TRIGGER queue_settles AFTER UPDATE OF ended_at ON workers
        WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL BEGIN
        UPDATE queue SET state = 'settling', moved_at = NEW.ended_at
        WHERE worker = NEW.id AND state IN ('waiting', 'running'); END""",
    # Work that is done frees what waits for it, whether it came from the queue or not.
    """CREATE TRIGGER queue_frees AFTER UPDATE OF ended_at ON workers
        WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.state = 'done' BEGIN
        UPDATE queue SET waits_for = waits_for - 1
        WHERE issue IN (SELECT issue FROM queue_after WHERE needs = NEW.issue);
        DELETE FROM queue_after WHERE needs = NEW.issue; END""",
    "CREATE INDEX queue_needs ON queue_after (needs)",
    # How often something was decided in a day is asked at every decision.
    "CREATE INDEX events_decided ON events (at) WHERE kind = 'decided'",
    # What was switched by hand and holds for all processes, such as a queue that is paused.
    """CREATE TABLE switches (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL,
        at REAL NOT NULL
    ) WITHOUT ROWID""",
    # Accounts of models that take no more for a while ("" as a model: whatever model); `claims`
    # is how often in a row that was said.
    """CREATE TABLE parked (
        account TEXT NOT NULL,
        model TEXT NOT NULL,
        until REAL NOT NULL,
        since REAL NOT NULL,
        reason TEXT NOT NULL,
        worker TEXT NOT NULL DEFAULT '',
        claims INTEGER NOT NULL DEFAULT 1,
        PRIMARY KEY (account, model)
    ) WITHOUT ROWID""",
    # Circuit breakers of outposts and accounts (`kind`); no row: closed, and nothing has failed.
    """CREATE TABLE breakers (
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('closed', 'open', 'half-open')),
        failures INTEGER NOT NULL,
        since REAL NOT NULL,
        retry_at REAL NOT NULL DEFAULT 0,
        probe TEXT NOT NULL DEFAULT '',
        detail TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (kind, name)
    ) WITHOUT ROWID""",
    # The last firing of each schedule.
    """CREATE TABLE firings (
        schedule TEXT PRIMARY KEY,
        at REAL NOT NULL
    ) WITHOUT ROWID""",
    # Notifications that are to be delivered, each once at each target as far as one can know.
    """CREATE TABLE notices (
        id TEXT PRIMARY KEY,
        target TEXT NOT NULL,
        event INTEGER NOT NULL,
        body TEXT NOT NULL,
        written_at REAL NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        next_try REAL NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '',
        delivered_at REAL,
        failed_at REAL
    )""",
    """CREATE INDEX notices_waiting ON notices (next_try)
        WHERE delivered_at IS NULL AND failed_at IS NULL""",
    # Whose credentials a worker's agent uses, and the labels of its issue: budgets count by them.
    "ALTER TABLE workers ADD COLUMN account TEXT NOT NULL DEFAULT ''",
    """CREATE TABLE worker_labels (
        worker TEXT NOT NULL,
        label TEXT NOT NULL,
        PRIMARY KEY (worker, label)
    ) WITHOUT ROWID""",
    """CREATE TRIGGER labels_go AFTER DELETE ON workers BEGIN
        DELETE FROM worker_labels WHERE worker = OLD.id; END""",
    # All that a budget asks of what ended within its window, so that it reads no row.
    """CREATE INDEX workers_spent
        ON workers (ended_at, outpost, rig, account, cost_settled, agent_settled)
        WHERE cost_settled > 0 OR agent_settled > 0""",
    # Budgets of which it was told that they are nearly used up, until they have fallen well below.
    """CREATE TABLE warned (
        budget TEXT PRIMARY KEY,
        at REAL NOT NULL
    ) WITHOUT ROWID""",
)

_V7: Final = (
    # Outposts that are brought up and down, and how far each is; see `scaling`. `price` is what
    # the units that are wanted cost an hour.
    """CREATE TABLE scaling (
        outpost TEXT PRIMARY KEY,
        phase TEXT NOT NULL
            CHECK (phase IN ('down', 'starting', 'up', 'draining', 'stopping')),
        desired INTEGER NOT NULL,
        running INTEGER NOT NULL,
        since REAL NOT NULL,
        decision TEXT NOT NULL DEFAULT '',
        reason TEXT NOT NULL DEFAULT '',
        price INTEGER,
        failures INTEGER NOT NULL DEFAULT 0,
        retry_at REAL NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '',
        busy_at REAL NOT NULL DEFAULT 0
    ) WITHOUT ROWID""",
    # A page of the queue, and how many entries are in each state, however many there are.
    "CREATE INDEX queue_listed ON queue (state, turn, seq)",
)

_V8: Final = (
    # For who lists the queue alone: the planner took the index of before for all that asks for a
    # state, so that each reservation looked at every entry that waits. See `entries.LISTED`.
    "DROP INDEX queue_listed",
    "CREATE INDEX queue_listed ON queue (state || '', turn, seq)",
    # When the next one that is deferred may start, however many wait.
    """CREATE INDEX queue_deferred ON queue (not_before)
        WHERE not_before > 0 AND state = 'waiting' AND held = 0 AND waits_for = 0""",
)

#: `MIGRATIONS[v]` brings a ledger from version `v` to `v + 1`; the last one makes it current.
MIGRATIONS: Final[Sequence[Sequence[str]]] = (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8)


class NewerSchemaError(Exception):
    """The file was written by a newer Outpost; `args[0]` is its version."""


class ForeignFileError(Exception):
    """The file is a database of another program."""


def version(db: sqlite3.Connection) -> int:
    """Return the schema version of the open file, 0 for an empty one."""
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    return found


def check(db: sqlite3.Connection, current: int) -> bool:
    """Say whether the file is at the version `current`; False when it must be migrated.

    Raises:
        NewerSchemaError: it is newer.
        ForeignFileError: it is not a ledger.
    """
    found = version(db)
    if found > current:
        raise NewerSchemaError(found)
    application = db.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID and (
        found or application or db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    ):
        raise ForeignFileError
    return found == current


def migrate(db: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """Bring the file to the newest version. The caller holds a write transaction.

    The version is read again inside it: another process may have been faster. A crash on the way
    leaves the old version, whole.
    """
    if check(db, len(migrations)):
        return
    for step in migrations[version(db) :]:
        for statement in step:
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {len(migrations)}")
