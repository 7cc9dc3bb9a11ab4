"""The ledger under many processes, under SIGKILL, and on files and disks that are not as hoped."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from outpost_core import wire
from outpost_core.errors import LedgerError
from outpost_core.types import Agent, Issue, Order, State, WorkerStatus
from outpost_manager.ledger import Ledger, Outcome, Reservation, schema, store
from outpost_manager.ledger.store import Store

_opened: list[Ledger] = []


def open_ledger(folder: Path) -> Ledger:
    """Open a ledger that the end of the test closes."""
    _opened.append(Ledger(folder))
    return _opened[-1]


@pytest.fixture(autouse=True)
def _close_ledgers():
    yield
    while _opened:
        _opened.pop().close()


PROCESSES = 8

#: Begins every child: `take(n, …)` reserves the order number n.
PRELUDE = """
import json, os, sys
from pathlib import Path
from outpost_core import wire
from outpost_manager.ledger import Ledger, Reservation
from outpost_core.types import Agent, Issue, Order, Result, State, WorkerStatus
from outpost_core.errors import LedgerError

def item(name, **more):
    order = Order(issue=Issue(id=name), agent=Agent(argv=("true",)))
    return Reservation(order=order, outpost="local", digest=wire.digest(order), **more)

def ready():
    print("ready", flush=True)
    sys.stdin.readline()
"""


def item(name, **more):
    order = Order(issue=Issue(id=name), agent=Agent(argv=("true",)))
    return Reservation(order=order, outpost="local", digest=wire.digest(order), **more)


def start(code, *args, before=()):
    return subprocess.Popen(
        [*before, sys.executable, "-c", PRELUDE + code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def run(code, *args, before=()):
    child = start(code, *args, before=before)
    out, _ = child.communicate("\n", timeout=60)
    return child.returncode, out.removeprefix("ready\n")


def crowd(code, *args):
    """Run the code in 8 processes that begin together; return what each printed, as JSON."""
    children = [start(code, *args, number) for number in range(PROCESSES)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    printed = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0] * PROCESSES
    return [json.loads(text) for text in printed]


# --- many processes ----------------------------------------------------------------------------


def test_a_crowd_never_passes_max_workers(tmp_path):
    got = crowd(
        """
ready()
ledger = Ledger(Path(sys.argv[1]))
print(json.dumps([
    ledger.reserve([item(f"gt-{sys.argv[2]}-{n}", max_workers=20)])[0].outcome for n in range(25)
]))
""",
        tmp_path / "new",
    )
    outcomes = [outcome for one in got for outcome in one]
    assert outcomes.count("reserved") == 20
    assert outcomes.count("full") == PROCESSES * 25 - 20
    assert open_ledger(tmp_path / "new").active() == {"local": 20}


def test_a_crowd_that_comes_and_goes_never_passes_slots_or_cost_cap(tmp_path):
    got = crowd(
        """
ledger = Ledger(Path(sys.argv[1]))
ready()
seen = []
for n in range(25):
    one = item(f"gt-{sys.argv[2]}-{n}", max_workers=6, cost=0.1, cost_cap_hourly=2.5)
    answer = ledger.reserve([one])[0]
    seen.append(answer.outcome)
    if answer.outcome != "reserved":
        continue
    assert ledger.active()["local"] <= 6
    assert sum(ledger.spent(0).values()) <= 2.5 + 1e-9
    if n % 3 == 0:
        assert ledger.release(one.order.worker, "")
    else:
        ledger.record("local", [WorkerStatus(
            id=one.order.worker, state=State.DONE, digest=one.digest,
            result=Result(state=State.DONE, cost_usd=0.05 if n % 2 else None),
        )])
print(json.dumps(seen))
""",
        tmp_path,
    )
    assert {"reserved"} <= {outcome for one in got for outcome in one}
    ledger = open_ledger(tmp_path)
    assert ledger.active() == {}
    assert 0 < ledger.spent(0)["local"] <= 2.5


def test_a_crowd_that_wants_the_same_order_gets_one_worker(tmp_path):
    got = crowd(
        """
ready()
ledger = Ledger(Path(sys.argv[1]))
print(json.dumps([ledger.reserve([item(f"gt-{n}")])[0].outcome for n in range(20)]))
""",
        tmp_path,
    )
    for each in zip(*got, strict=True):
        assert sorted(each) == ["exists"] * (PROCESSES - 1) + ["reserved"]


def test_a_crowd_opens_a_new_ledger_together(tmp_path):
    got = crowd(
        """
ready()
ledger = Ledger(Path(sys.argv[1]) / "deep" / "state")
print(json.dumps(ledger.reserve([item(f"gt-{sys.argv[2]}")])[0].outcome))
ledger.close()
""",
        tmp_path,
    )
    assert got == ["reserved"] * PROCESSES
    assert len(open_ledger(tmp_path / "deep" / "state").workers()) == PROCESSES


def test_a_crowd_records_one_end_once(tmp_path):
    open_ledger(tmp_path).reserve([item("gt-1", cost=1.0)])
    got = crowd(
        """
ledger = Ledger(Path(sys.argv[1]))
ready()
state = [State.DONE, State.FAILED][int(sys.argv[2]) % 2]
result = Result(state=state, cost_usd=float(sys.argv[2]))
status = WorkerStatus(id="gt-1.1", state=state, result=result)
print(json.dumps([worker.result.cost_usd for worker in ledger.record("local", [status])]))
""",
        tmp_path,
    )
    (winner,) = [costs for costs in got if costs]
    worker = open_ledger(tmp_path).worker("gt-1.1")
    assert [worker.cost_settled] == [worker.result.cost_usd] == winner
    assert worker.state is worker.result.state


# --- SIGKILL -----------------------------------------------------------------------------------

KILLED = """
ledger = Ledger(Path(sys.argv[1]))
left = int(sys.argv[2])

def step(sql):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)

ledger._store._db.set_trace_callback(step)
ledger.reserve([item("gt-2"), item("gt-3")])
ledger.mark_spawned([("local", WorkerStatus(id="gt-2.1", state=State.STARTING))])
print("finished")
"""


def test_sigkill_at_every_statement_leaves_all_or_nothing(tmp_path):
    open_ledger(tmp_path / "start").reserve([item("gt-1")])
    seen = set()
    for step in range(1, 100):
        folder = tmp_path / str(step)
        shutil.copytree(tmp_path / "start", folder)
        code, out = run(KILLED, folder, step)
        ledger = open_ledger(folder)
        found = {worker.id for worker in ledger.workers()}
        told = [event.kind for event in ledger.events("gt-2.1")]
        assert found in ({"gt-1.1"}, {"gt-1.1", "gt-2.1", "gt-3.1"})
        assert told in ([], ["reserved"], ["reserved", "spawned"])
        assert bool(told) is (len(found) == 3)
        assert {w.id for w in ledger.unspawned(0)} == found - ({"gt-2.1"} if told[1:] else set())
        assert ledger.reserve([item("gt-9")])[0].outcome is Outcome.RESERVED
        ledger.close()
        seen.add(tuple(told))
        if out == "finished\n":
            break
        assert code == -9
    assert seen == {(), ("reserved",), ("reserved", "spawned")}


def test_a_killed_holder_of_the_lock_blocks_nobody(tmp_path):
    open_ledger(tmp_path).close()
    child = start(
        """
ledger = Ledger(Path(sys.argv[1]))
with ledger._store.write() as db:
    db.execute("DELETE FROM workers")
    ready()
""",
        tmp_path,
    )
    assert child.stdout.readline() == "ready\n"
    impatient = Store(tmp_path, patience=0.05)
    with pytest.raises(LedgerError, match="locked by another process") as caught, impatient.write():
        pass
    assert "fuser" in caught.value.hint
    child.kill()
    child.communicate(timeout=60)
    with impatient.write():
        pass


# --- versions ----------------------------------------------------------------------------------


def test_a_ledger_of_an_older_version_is_brought_forward(tmp_path):
    open_ledger(tmp_path).reserve([item("gt-1")])
    newer = [*schema.MIGRATIONS, ["ALTER TABLE workers ADD COLUMN mood TEXT DEFAULT 'fine'"]]
    store = Store(tmp_path, migrations=newer)
    assert store.read("SELECT id, mood FROM workers") == [("gt-1.1", "fine")]
    assert store.read("PRAGMA user_version") == [(len(newer),)]
    store.close()
    Store(tmp_path, migrations=newer).close()


def test_a_migration_that_fails_changes_nothing(tmp_path):
    open_ledger(tmp_path).reserve([item("gt-1")])
    broken = [*schema.MIGRATIONS, ["ALTER TABLE workers ADD COLUMN mood", "NO SQL"]]
    with pytest.raises(LedgerError):
        Store(tmp_path, migrations=broken)
    ledger = open_ledger(tmp_path)
    assert [worker.id for worker in ledger.workers()] == ["gt-1.1"]
    assert ledger.reserve([item("gt-2")])[0].outcome is Outcome.RESERVED


def test_a_newer_ledger_is_left_as_it_is(tmp_path):
    newer = [*schema.MIGRATIONS, ["CREATE TABLE future (x)"]]
    Store(tmp_path, migrations=newer).close()
    before = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(LedgerError, match=f"version {len(newer)}") as caught:
        open_ledger(tmp_path)
    assert "upgrade" in caught.value.hint
    assert (tmp_path / "ledger.db").read_bytes() == before


def test_an_open_ledger_that_is_migrated_meanwhile_is_written_no_more(tmp_path):
    old = open_ledger(tmp_path)
    Store(tmp_path, migrations=[*schema.MIGRATIONS, ["CREATE TABLE future (x)"]]).close()
    with pytest.raises(LedgerError, match="upgrade"):
        old.reserve([item("gt-1")])
    assert old.workers() == []


# --- mishaps -----------------------------------------------------------------------------------


def test_another_programs_database_is_not_taken(tmp_path):
    db = sqlite3.connect(tmp_path / "ledger.db")
    db.execute("CREATE TABLE bookmarks (x)")
    db.close()
    with pytest.raises(LedgerError, match="another program"):
        open_ledger(tmp_path)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"my shopping list\n" * 100)
    with pytest.raises(LedgerError, match="damaged") as caught:
        open_ledger(tmp_path)
    assert "move it away" in caught.value.hint
    assert (tmp_path / "ledger.db").read_bytes() == b"my shopping list\n" * 100


def test_a_file_damaged_in_the_middle_is_told_when_it_is_met(tmp_path):
    ledger = open_ledger(tmp_path)
    ledger.reserve([item(f"gt-{n}") for n in range(200)])
    ledger.close()
    file = tmp_path / "ledger.db"
    size = file.stat().st_size
    with file.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(b"\xff" * (size - 4096))
    with pytest.raises(LedgerError, match="damaged"):
        open_ledger(tmp_path).workers()


def test_an_empty_file_becomes_a_ledger(tmp_path):
    (tmp_path / "ledger.db").touch()
    assert open_ledger(tmp_path).workers() == []


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(LedgerError, match="cannot be written") as caught:
        open_ledger(tmp_path)
    assert "OUTPOST_STATE" in caught.value.hint


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "state").touch()
    with pytest.raises(LedgerError, match="cannot be written"):
        open_ledger(tmp_path / "state")


@pytest.mark.parametrize("made", ["with a ledger", "empty"])
def test_a_folder_that_may_not_be_written(tmp_path, made):
    """Root may write everywhere: there the child becomes nobody first."""
    if made == "with a ledger":
        open_ledger(tmp_path).reserve([item("gt-1")])
    tmp_path.chmod(0o555)
    try:
        code, out = run(
            """
import sqlite3
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    Ledger(Path("."))
except LedgerError as error:
    print(type(error).__name__, error.hint)
""",
            tmp_path,
        )
    finally:
        tmp_path.chmod(0o755)
    assert code == 0
    assert out.startswith("LedgerError make ")


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path):
    ledger = open_ledger(tmp_path)
    ledger.reserve([item("gt-1")])
    pages = ledger._store.read("PRAGMA page_count")[0][0]
    ledger._store.read(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match="no space is left") as caught:
        ledger.reserve([item(f"gt-full-{n}") for n in range(500)])
    assert "free some space" in caught.value.hint
    assert [worker.id for worker in ledger.workers()] == ["gt-1.1"]
    ledger._store.read("PRAGMA max_page_count = 1000000")
    assert ledger.reserve([item("gt-2")])[0].outcome is Outcome.RESERVED


def test_a_disk_too_full_even_to_open_it_is_told_as_such(tmp_path, monkeypatch):
    """SQLite calls it an I/O error when its shared index cannot grow."""

    def on_a_full_disk(*_, **__):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
        raise error

    monkeypatch.setattr(sqlite3, "connect", on_a_full_disk)
    with pytest.raises(LedgerError, match="cannot be written"):
        open_ledger(tmp_path)
    full = os.statvfs_result((4096, 4096, 100, 3, 3, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(LedgerError, match="no space is left"):
        open_ledger(tmp_path)


def test_a_ledger_does_not_cross_a_fork(tmp_path):
    code, out = run(
        """
import warnings
warnings.simplefilter("ignore")
ledger = Ledger(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    try:
        ledger.workers()
    except LedgerError as error:
        os.write(1, error.message.encode())
    os._exit(0)
os.waitpid(child, 0)
assert ledger.workers() == []
""",
        tmp_path,
    )
    assert (code, out) == (0, "the ledger was opened before this process was forked")


def test_a_database_that_cannot_be_shared_is_refused(tmp_path, monkeypatch):
    real = sqlite3.connect

    def on_a_network_disk(path, **more):
        return real(":memory:", **more)  # answers "memory" where "wal" is asked for

    monkeypatch.setattr(sqlite3, "connect", on_a_network_disk)
    with pytest.raises(LedgerError, match="cannot share it") as caught:
        open_ledger(tmp_path)
    assert "local disk" in caught.value.hint


def test_threads_of_one_process_share_a_ledger(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    ledger = open_ledger(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: ledger.reserve([item(f"gt-{n}", max_workers=10)])[0], range(40))
        )
    assert [answer.outcome for answer in answers].count(Outcome.RESERVED) == 10
    status = WorkerStatus(id="gt-0.1", state=State.WORKING)
    assert len(ledger.record("local", [status])) == 1
    assert store.FILE == "ledger.db"
