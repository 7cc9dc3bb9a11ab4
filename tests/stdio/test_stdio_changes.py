"""Hearing of changes through a channel: nothing is missed, and a broken one is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from remotekit import REQUIRED, Inner, Scripted, answers
from stdiokit import PATIENCE, served

from outpost_core.errors import OutpostError, PluginError, UnreachableError, UnsupportedError
from outpost_worker.serving.news import News


class Telling(Inner):
    """Tells of a change whenever a test says so."""

    capabilities = frozenset({"changes"})

    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Event()
        self.listeners = 0
        self.broken = False

    def change(self) -> None:
        self.changed.set()

    async def outpost_changes(self) -> AsyncIterator[None]:
        self.listeners += 1
        try:
            yield
            while True:
                await self.changed.wait()
                self.changed.clear()
                if self.broken:
                    raise OutpostError("nobody can watch here any more")
                yield
        finally:
            self.listeners -= 1


async def heard(changes: AsyncIterator[None]) -> None:
    await asyncio.wait_for(anext(changes), PATIENCE)


def test_each_change_is_heard_and_none_is_invented() -> None:
    async def run() -> None:
        inner = Telling()
        async with served(inner) as outpost:
            changes = outpost.outpost_changes()
            await heard(changes)
            for _ in range(3):
                later = asyncio.ensure_future(anext(changes))
                for _ in range(200):
                    await asyncio.sleep(0)
                assert not later.done()
                inner.change()
                await asyncio.wait_for(later, PATIENCE)
            assert inner.listeners == 1
            assert (await outpost.outpost_ping()).ok, "others are answered meanwhile"
            await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())


def test_what_changes_between_two_requests_is_told_at_once() -> None:
    async def run() -> None:
        inner = Telling()
        news = News(inner)
        first = await news.after("", 0.0 + PATIENCE)
        assert await news.after(first, 0.01) == first, "nothing is new"
        inner.change()
        while inner.changed.is_set():
            await asyncio.sleep(0)
        second = await news.after(first, PATIENCE)
        assert second != first
        assert await news.after("of another server", PATIENCE) == second
        await news.aclose()
        assert inner.listeners == 0

    asyncio.run(run())


def test_one_that_can_watch_no_more_says_so_and_watches_again() -> None:
    async def run() -> None:
        inner = Telling()
        news = News(inner)
        first = await news.after("", PATIENCE)
        inner.broken = True
        inner.change()
        with pytest.raises(OutpostError, match="nobody can watch here any more"):
            await news.after(first, PATIENCE)
        inner.broken = False
        assert await news.after(first, PATIENCE) != first, "what was missed is not known"
        await news.aclose()

    asyncio.run(run())


def test_a_client_that_goes_takes_its_watch_along() -> None:
    async def run() -> None:
        inner = Telling()
        async with served(inner) as outpost:
            await heard(outpost.outpost_changes())
            assert inner.listeners == 1
            outpost.break_line()
            while inner.listeners:
                await asyncio.sleep(0.01)
            await heard(outpost.outpost_changes())
            assert outpost.connects == 2

    asyncio.run(run())


@pytest.mark.parametrize("answer", [None, {}, {"now": 3}, {"now": "x" * 10_000}])
def test_an_odd_answer_is_a_defect_of_the_program(answer: object) -> None:
    async def run() -> None:
        outpost = Scripted(answers(answer), methods=[*REQUIRED, "changes"])
        with pytest.raises(PluginError, match="answered changes with something odd"):
            await heard(outpost.outpost_changes())
        await outpost.end()

    asyncio.run(run())


def test_who_cannot_tell_says_so() -> None:
    async def run() -> None:
        old = Scripted(answers(None))
        with pytest.raises(UnsupportedError, match="has no method 'changes'"):
            await heard(old.outpost_changes())
        await old.end()
        narrow = Scripted(answers(None), methods=[*REQUIRED, "changes"], inflight=1)
        with pytest.raises(UnsupportedError, match="one request at a time"):
            await heard(narrow.outpost_changes())
        await narrow.end()
        gone = Scripted()
        with pytest.raises(UnreachableError):
            await heard(gone.outpost_changes())
        await gone.end()

    asyncio.run(run())
