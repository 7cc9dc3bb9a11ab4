"""The fleet: each outpost asked alone, and whatever it does stays its own trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from outpost_core.discovery import Plugins
from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    PluginError,
    SpawnRefusedError,
    UnreachableError,
    UnsupportedError,
)
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Cleaned, Health
from outpost_manager.config.model import Config, OutpostConfig
from outpost_manager.config.origin import BUILT_IN
from outpost_manager.fleet.fleet import Fleet, NotBuiltError, mask
from outpost_testing import FakeOutpost, fake_backend
from outpost_testing.fake import FakeOptions


def fleet_of(*fakes: FakeOutpost) -> Fleet:
    plugins = Plugins.load([])
    plugins.backends["fake"] = fake_backend({fake.name: fake for fake in fakes})
    outposts = tuple(
        OutpostConfig(name=f.name, type="fake", options=f.options, raw={}, origin=BUILT_IN)
        for f in fakes
    )
    return Fleet(config=Config(outposts=outposts), plugins=plugins, state_dir=Path("/nonexistent"))


def run(fleet: Fleet, body: Callable[[], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        try:
            return await body()
        finally:
            await fleet.close()

    return asyncio.run(whole())


class Pings(FakeOutpost):
    """Answers a ping with whatever a test wants."""

    answer: Any = None
    error: BaseException | None = None
    asked = False
    cancelled = False

    @hookimpl
    async def outpost_ping(self) -> Any:
        if self.error is not None:
            raise self.error
        self.asked = True
        try:
            await asyncio.sleep(self._world.delay)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return self.answer


def test_an_outpost_is_built_when_first_used_and_once() -> None:
    fleet = fleet_of(FakeOutpost("a"), FakeOutpost("b"))
    assert fleet.built == {}
    assert fleet.outpost("a") is fleet.outpost("a")
    assert [*fleet.built] == ["a"]
    with pytest.raises(NotFoundError) as caught:
        fleet.outpost("aa")
    assert "did you mean a?" in caught.value.hint


def test_one_that_cannot_be_built_breaks_no_other_and_says_so_each_time() -> None:
    class Unfit(FakeOutpost):
        outpost_list = None  # type: ignore[assignment]

    fleet = fleet_of(Unfit("a"), FakeOutpost("b"))

    async def body() -> None:
        for _ in range(2):
            with pytest.raises(NotBuiltError, match="outpost_list is missing"):
                await fleet.ping("a", timeout=30)
        assert (await fleet.ping("b", timeout=30)).ok
        assert [*fleet.broken] == ["a"]

    run(fleet, body)


def test_one_that_cannot_be_hashed_is_refused_before_it_breaks_the_others() -> None:
    class Equal(FakeOutpost):
        def __eq__(self, other: object) -> bool:
            return self is other

    fleet = fleet_of(Equal("a"), FakeOutpost("b"))

    async def body() -> None:
        with pytest.raises(NotBuiltError, match="hashed"):
            await fleet.ping("a", timeout=30)
        assert (await fleet.ping("b", timeout=30)).ok

    run(fleet, body)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnreachableError("no route"), UnreachableError),
        (SpawnRefusedError("no"), SpawnRefusedError),
        (ValueError("a defect"), PluginError),
        (asyncio.CancelledError(), UnreachableError),
        (TimeoutError("its own"), PluginError),
    ],
)
def test_what_it_raises_is_told_with_its_name(error: BaseException, kind: type[Exception]) -> None:
    a = Pings("a")
    a.error = error

    async def body() -> None:
        with pytest.raises(kind):
            await fleet.ping("a", timeout=30)

    fleet = fleet_of(a)
    run(fleet, body)


@pytest.mark.parametrize("answer", [None, "pong", True, Cleaned(removed=True)])
def test_an_answer_of_another_kind_is_its_defect(answer: Any) -> None:
    a = Pings("a")
    a.answer = answer
    fleet = fleet_of(a)

    async def body() -> None:
        with pytest.raises(PluginError, match="outpost_ping of 'a' answered a"):
            await fleet.ping("a", timeout=30)

    run(fleet, body)


def test_a_ping_is_timed_and_a_hanging_one_is_cancelled() -> None:
    a = Pings("a")
    a.answer = Health(ok=True)
    fleet = fleet_of(a)

    async def body() -> None:
        health = await fleet.ping("a", timeout=30)
        assert health.latency is not None
        a.slow(3600)
        with pytest.raises(UnreachableError, match=r"within 0\.05 s"):
            await fleet.ping("a", timeout=0.05)
        async with asyncio.timeout(30):
            while fleet._left:
                await asyncio.sleep(0)
        assert a.cancelled

    run(fleet, body)


def test_a_cancelled_question_is_cancelled_there_too() -> None:
    a = Pings("a")
    a.slow(3600)
    fleet = fleet_of(a)

    async def body() -> None:
        task = asyncio.ensure_future(fleet.ping("a", timeout=60))
        while not a.asked:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert a.cancelled

    run(fleet, body)


class Speaks(FakeOutpost):
    """Yields what a test wants, and hangs at None."""

    chunks: tuple[Any, ...] = ()
    closed = False

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> Any:
        try:
            for chunk in self.chunks:
                if chunk is None:
                    await asyncio.sleep(3600)
                yield chunk
        finally:
            self.closed = True


def read_of(a: Speaks, *, follow: bool = False, most: int = 99, timeout: float = 30) -> list[bytes]:
    fleet = fleet_of(a)
    got: list[bytes] = []

    async def body() -> None:
        stream = fleet.logs("a", "gt-1.1", 0, follow=follow, timeout=timeout)
        async for chunk in stream:
            got.append(chunk)
            if len(got) == most:
                await stream.aclose()  # type: ignore[attr-defined]
                break
        assert a.closed

    run(fleet, body)
    return got


def test_logs_are_yielded_as_they_come_and_closed() -> None:
    for follow in (False, True):
        a = Speaks("a")
        a.chunks = (b"one", b"", bytearray(b"two"))
        assert read_of(a, follow=follow) == [b"one", b"", b"two"]
        a = Speaks("a")
        a.chunks = (b"one", None)
        assert read_of(a, follow=follow, most=1) == [b"one"]


def test_logs_that_hang_are_unreachable_unless_they_are_followed() -> None:
    a = Speaks("a")
    a.chunks = (b"one", None, b"never")
    with pytest.raises(UnreachableError, match="did not answer logs"):
        read_of(a, timeout=0.1)
    a = Speaks("a")
    a.chunks = ("text",)
    with pytest.raises(PluginError, match="yielded a str"):
        read_of(a)


def test_an_undeclared_capability_is_refused_before_it_is_asked() -> None:
    a = FakeOutpost("a", FakeOptions(capabilities=("clean",)))
    fleet = fleet_of(a)
    fleet.require("a", "clean")
    with pytest.raises(UnsupportedError, match="cannot attach") as caught:
        fleet.require("a", "attach")
    assert caught.value.hint.startswith("it can: clean; outpost doctor ")
    assert a.calls == []


def test_closing_forgets_all_also_when_one_breaks() -> None:
    class Breaks(FakeOutpost):
        @hookimpl
        async def outpost_close(self) -> None:
            raise RuntimeError("no")

    fleet = fleet_of(Breaks("a"), FakeOutpost("b"))

    async def body() -> None:
        await fleet.ping("a", timeout=30)
        await fleet.ping("b", timeout=30)

    run(fleet, body)
    assert fleet.built == {}
    assert not fleet.plugins.pm.has_plugin("a")


def test_masking_takes_the_longest_first_and_leaves_short_words() -> None:
    error = OutpostError("abcdefgh abcd it", hint="export K=abcdefgh")
    mask(error, {"A": "abcd", "B": "abcdefgh", "C": "it"})
    assert (error.message, error.hint) == ("*** *** it", "export K=***")
    assert error.args == ("*** *** it",)
