"""The outbox: nothing that was written is lost, nor delivered twice where that is known."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outpost_core.discovery import PluginReport, Plugins
from outpost_core.errors import LedgerError, OutpostError, UnreachableError, UsageError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Message
from outpost_manager.config import load_config
from outpost_manager.ledger import Ledger, schema
from outpost_manager.ledger.store import Store
from outpost_manager.manager import Manager
from outpost_shared.message import MAX_BODY, check, is_for
from outpost_testing import FakeOutpost, fake_backend

HELLO = Message(to="gastown/polecat", subject="hello", body="text")


def manage(folder: Path, *outposts: FakeOutpost) -> Manager:
    backend = fake_backend({outpost.name: outpost for outpost in outposts})

    class Package:
        @hookimpl
        def outpost_backends(self):
            return {"fake": backend}

    plugins = Plugins.load([])
    plugins.add(Package(), PluginReport(entry_point="fake"))
    path = folder / "outposts.yaml"
    entries = ", ".join(f"{{name: {outpost.name}, type: fake}}" for outpost in outposts)
    path.write_text(f"outposts: [{entries}]\n")
    config = load_config(path, plugins.backends)
    return Manager(config, plugins, folder / "state", {}, folder)


def use(folder: Path, work, *outposts: FakeOutpost):
    async def edge():
        async with manage(folder, *outposts) as manager:
            return await work(manager)

    return asyncio.run(edge())


def test_a_message_is_delivered_and_marked(tmp_path):
    here = FakeOutpost("here")
    letter = use(tmp_path, lambda m: m.send_mail("here", HELLO), here)
    assert letter.state == "delivered"
    assert [(one.id, one.body) for one in here.mails] == [(letter.id, "text")]


def test_what_finds_nobody_waits_and_goes_when_the_outpost_answers_again(tmp_path):
    here = FakeOutpost("here")

    async def work(manager):
        await manager.ping()
        here.cut()
        letter = await manager.send_mail("here", HELLO)
        assert (letter.state, letter.tries) == ("waiting", 1)
        assert "the line is cut" in letter.error
        assert letter.next_try > time.time()
        here.restore()
        await manager.refresh()
        return await manager.outbox(all=True)

    (letter,) = use(tmp_path, work, here)
    assert letter.state == "delivered"
    assert len(here.mails) == 1


def test_older_mail_goes_first(tmp_path):
    here = FakeOutpost("here")

    async def work(manager):
        here.cut()
        await manager.send_mail("here", HELLO)
        here.restore()
        await manager.send_mail("here", Message(to="mayor/", subject="second"))

    use(tmp_path, work, here)
    assert [one.subject for one in here.mails] == ["hello", "second"]


def test_what_is_refused_for_ever_is_not_tried_again(tmp_path):
    class Picky(FakeOutpost):
        @hookimpl
        async def outpost_mail(self, message: Message) -> None:
            raise UsageError("nobody has that address")

    async def work(manager):
        letter = await manager.send_mail("here", HELLO)
        assert letter.state == "failed"
        assert await manager.flush_mail() == []
        assert (await manager.drop_mail(letter.id[:6])).id == letter.id
        return await manager.outbox(all=True)

    assert use(tmp_path, work, Picky("here")) == []


def test_one_bad_letter_fails_alone(tmp_path):
    """What an outpost says of one letter, for good or for now, keeps no other from going."""

    class Picky(FakeOutpost):
        @hookimpl
        async def outpost_mail(self, message: Message) -> None:
            if message.subject == "nobody":
                raise UsageError("unknown recipient")
            if message.subject == "later":
                raise OutpostError("gt mail send failed: database is locked")
            await super().outpost_mail(message)

    here = Picky("here")

    async def work(manager):
        here.cut()
        for subject in ("nobody", "later", "good"):
            await manager.send_mail("here", Message(to="mayor/", subject=subject))
        here.restore()
        await manager.flush_mail()
        return {one.message.subject: one.state for one in (await manager.outbox(all=True))}

    states = use(tmp_path, work, here)
    assert states == {"nobody": "failed", "later": "waiting", "good": "delivered"}


@pytest.mark.parametrize(
    "message",
    [
        Message(to="", subject="x"),
        Message(to="a\nb", subject="x"),
        Message(to="../x", subject="x"),
        Message(to="-x", subject="x"),
        Message(to="mayor/", subject=""),
        Message(to="mayor/", subject="a\nb"),
        Message(to="mayor/", subject="a\x1b[2J"),
        Message(to="mayor/", subject="a\ud800"),
        Message(to="mayor/", subject="a", body="\0"),
        Message(to="mayor/", subject="a", body="\udcff"),
        Message(to="mayor/", subject="a", body="x" * (MAX_BODY + 1)),
        Message(to="mayor/", subject="a", body="\x01" * MAX_BODY),
        Message(to="mayor/", subject="a", priority=5),
        Message(to="mayor/", subject="a", sender="x y"),
    ],
)
def test_what_can_not_be_mail_is_refused_before_anything_is_written(tmp_path, message):
    async def work(manager):
        with pytest.raises(UsageError):
            await manager.send_mail("here", message)
        assert (await manager.outbox(all=True)) == []

    use(tmp_path, work, FakeOutpost("here"))


def test_the_longest_body_is_taken():
    check(Message(to="mayor/", subject="a", body="ü" * (MAX_BODY // 2)))


def test_a_rig_reads_what_is_for_all_of_it():
    assert is_for("gastown/", "gastown/Toast")
    assert is_for("gastown/polecats/Toast", "gastown/Toast")
    assert is_for("mayor", "mayor/")
    assert not is_for("gastown/Toast", "gastown/Other")


def test_two_flushers_at_once_deliver_once(tmp_path):
    here = FakeOutpost("here")
    calls = []

    async def work(manager):
        here.cut()
        for number in range(5):
            await manager.send_mail("here", Message(to="mayor/", subject=f"n{number}"))
        here.restore()
        here.slow(0.01)
        calls.clear()
        here.calls.clear()
        await asyncio.gather(*(manager.flush_mail() for _ in range(4)))

    use(tmp_path, work, here)
    assert [hook for hook, _ in here.calls].count("outpost_mail") == 5
    assert [one.subject for one in here.mails] == [f"n{n}" for n in range(5)]


def test_a_claim_is_kept_from_others_until_it_runs_out(tmp_path):
    from outpost_shared import identity

    outbox = Ledger(tmp_path).outbox
    outbox.post("here", Message(id="a1", to="mayor/", subject="x"), f"{identity.me()}/1", 60.0)
    assert outbox.claim(f"{identity.me()}/2", 60.0, outposts={"here"}) == []
    outbox.post("here", Message(id="a2", to="mayor/", subject="x"), f"{identity.me()}/1", -1.0)
    assert [one.id for one in outbox.claim(f"{identity.me()}/2", 60.0, outposts={"here"})] == ["a2"]
    assert not outbox.renew("a2", f"{identity.me()}/1", 60.0)


KILLED = """
import sys
from pathlib import Path
from outpost_manager.manager import Manager
from outpost_core.types import Message
import asyncio
async def work():
    async with Manager.open(config=Path(sys.argv[1]), state=Path(sys.argv[2])) as manager:
        await manager.send_mail("here", Message(to="mayor/", subject="once", body="b"))
asyncio.run(work())
"""


@pytest.mark.parametrize("fault", ["mail.posted", "mail.delivered", "local.mailed"])
def test_mail_whose_sender_is_killed_is_delivered_once(tmp_path, fault):
    config = tmp_path / "outposts.yaml"
    config.write_text("outposts: [{name: here, type: local, mode: process}]\n")
    state = tmp_path / "state"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(config), str(state)],
        env={"OUTPOST_FAULT": fault, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        check=False,
    )
    assert ended.returncode == -9

    async def work():
        async with Manager.open(config=config, state=state) as manager:
            (waiting,) = await manager.outbox()
            assert waiting.state == "waiting"
            (letter,) = await manager.flush_mail()
            assert letter.state == "delivered"
            return (await manager.inbox())["here"]

    assert [one.subject for one in asyncio.run(work())] == ["once"]


def test_a_ledger_of_version_1_gets_an_outbox_and_keeps_its_rows(tmp_path):
    old = Store(tmp_path, migrations=schema.MIGRATIONS[:1])
    with old.write() as db:
        db.execute("INSERT INTO outposts VALUES ('here', 1, 1.0, '', 1.0, 1.0)")
    old.close()
    ledger = Ledger(tmp_path)
    assert ledger.outposts()["here"].reachable
    assert ledger.outbox.letters(all=True) == []
    ledger.close()
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
    db.close()
    with pytest.raises(LedgerError, match=f"version {len(schema.MIGRATIONS)}"):
        Store(tmp_path, migrations=schema.MIGRATIONS[:1])


def test_an_inbox_that_is_out_of_reach_does_not_hide_the_others(tmp_path):
    here, there = FakeOutpost("here"), FakeOutpost("there")
    there.cut()

    async def work(manager):
        await manager.send_mail("here", HELLO)
        return await manager.inbox(identity="gastown/polecat")

    found = use(tmp_path, work, here, there)
    assert [one.subject for one in found["here"]] == ["hello"]
    assert isinstance(found["there"], UnreachableError)
