"""The outpost object at the near end: repeats what may be repeated, and never guesses."""

from __future__ import annotations

import asyncio

import pytest
from remotekit import STATUS, Inner, Scripted, answers, breaks, fails, raised, silence
from stdiokit import Served, order, served

from outpost_core.discovery import Plugins
from outpost_core.errors import ConflictError, SpawnRefusedError, UnreachableError, UnsupportedError
from outpost_core.types import Message, Secrets, State
from outpost_exec.stdio.client import Client
from outpost_shared import silence as silence_rule
from outpost_shared.protocol import BrokenChannelError


def test_it_is_an_outpost_that_registers() -> None:
    Plugins.load([]).register_outpost(Served(Inner()))


def test_callers_share_one_connection_and_one_try_to_connect() -> None:
    async def run() -> None:
        async with served(Inner()) as outpost:
            await asyncio.gather(*(outpost.outpost_ping() for _ in range(100)))
            assert outpost.connects == 1

    asyncio.run(run())


def test_one_that_leaves_while_connecting_does_not_take_it_from_the_others() -> None:
    async def run() -> None:
        async with served(Inner()) as outpost:
            first = asyncio.create_task(outpost.outpost_ping())
            second = asyncio.create_task(outpost.outpost_ping())
            await asyncio.sleep(0)
            first.cancel()
            assert (await second).ok
            assert outpost.connects == 1

    asyncio.run(run())


def test_after_a_break_the_next_call_connects_anew() -> None:
    async def run() -> None:
        async with served(Inner()) as outpost:
            await outpost.outpost_ping()
            outpost.break_line()
            assert (await outpost.outpost_ping()).ok
            assert outpost.connects == 2

    asyncio.run(run())


def test_a_spawn_whose_answer_is_lost_is_repeated_once() -> None:
    async def run() -> None:
        outpost = Scripted(breaks, answers(STATUS))
        status = await outpost.outpost_spawn(order())
        assert (status.id, status.state) == ("gt-1.1", State.WORKING)
        await outpost.end()

    asyncio.run(run())


def test_two_breaks_are_unreachable_and_the_request_may_have_arrived() -> None:
    error = raised("outpost_spawn", breaks, breaks, order=order())
    assert isinstance(error, UnreachableError)
    assert error.sent


def test_a_break_and_then_no_connection_leaves_the_doubt() -> None:
    error = raised("outpost_spawn", breaks, order=order())
    assert isinstance(error, UnreachableError)
    assert error.sent
    assert "vm1 is off" in error.message


def test_no_connection_at_all_is_certain() -> None:
    error = raised("outpost_spawn", order=order())
    assert isinstance(error, UnreachableError)
    assert not error.sent


@pytest.mark.parametrize("kind", ["refused", "usage", "unsupported", "unreachable"])
def test_a_refusal_of_the_repeated_spawn_proves_nothing(kind: str) -> None:
    second = fails(kind=kind, message="full", sent=False)
    error = raised("outpost_spawn", breaks, second, order=order())
    assert isinstance(error, UnreachableError)
    assert error.sent
    assert "full" in error.message


def test_a_refusal_of_the_first_spawn_is_what_it_is() -> None:
    error = raised("outpost_spawn", fails(kind="refused", message="full"), order=order())
    assert isinstance(error, SpawnRefusedError)


def test_a_conflict_is_one_also_at_the_second_try() -> None:
    second = fails(kind="conflict", message="another order")
    assert isinstance(raised("outpost_spawn", breaks, second, order=order()), ConflictError)


def test_a_nudge_is_never_typed_twice() -> None:
    error = raised("outpost_nudge", breaks, worker="gt-1.1", text="yes")
    assert isinstance(error, UnreachableError)
    assert error.sent


def test_mail_with_an_id_is_handed_over_again_and_without_one_is_not() -> None:
    async def run() -> None:
        outpost = Scripted(breaks, answers(None))
        await outpost.outpost_mail(Message(to="a/b", subject="s", id="m1"))
        await outpost.end()

    asyncio.run(run())
    error = raised("outpost_mail", breaks, message=Message(to="a/b", subject="s"))
    assert isinstance(error, UnreachableError)


def test_an_order_that_is_too_long_for_a_line_is_refused_for_certain() -> None:
    error = raised(
        "outpost_spawn", silence, hello={"max_frame": 5000}, order=order(prompt="x" * 6000)
    )
    assert isinstance(error, SpawnRefusedError)


def test_secrets_go_to_no_program_that_does_not_offer_them() -> None:
    async def run() -> None:
        outpost = Scripted(silence)
        with pytest.raises(UnsupportedError, match="'secrets'"):
            await outpost.outpost_spawn(order(secrets=Secrets({"A": "x"})))
        await outpost.end()

    asyncio.run(run())


def test_a_call_given_up_after_silence_drops_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence_rule, "ANSWER", 0.05)

    async def run() -> None:
        outpost = Scripted(silence, answers({"ok": True}))
        await outpost.client()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(outpost.outpost_ping(), 0.2)
        assert len(outpost.given) == 1
        assert (await outpost.outpost_ping()).ok
        await outpost.end()

    asyncio.run(run())


def test_a_call_given_up_soon_keeps_the_line() -> None:
    async def run() -> None:
        outpost = Scripted(silence)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(outpost.outpost_ping(), 0.05)
        assert outpost.given == []
        assert not (await outpost.client()).closed.is_set()
        await outpost.end()

    asyncio.run(run())


def test_what_a_channel_stands_on_is_made_anew_once_and_by_nobody_else() -> None:
    class Stale(Scripted):
        tried = 0
        broken = 1

        async def connect(self) -> Client:
            self.tried += 1
            if self.tried <= self.broken:
                raise BrokenChannelError("the connection to vm1 broke", sent=False)
            return await super().connect()

    async def run() -> None:
        outpost = Stale(answers({"ok": True}))
        assert (await outpost.outpost_ping()).ok
        assert outpost.tried == 2
        await outpost.end()
        gone = Stale()
        gone.broken = 9
        with pytest.raises(UnreachableError, match="broke") as caught:
            await gone.outpost_ping()
        assert not caught.value.sent
        assert gone.tried == 2
        await gone.end()

    asyncio.run(run())
