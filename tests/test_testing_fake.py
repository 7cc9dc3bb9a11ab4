"""FakeOutpost does as it is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pluggy
import pytest

from outpost_core import hookspecs
from outpost_core.backend import BuildContext
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    SpawnRefusedError,
    UnreachableError,
)
from outpost_core.types import Agent, Issue, Order, Result, State
from outpost_testing import FakeOptions, FakeOutpost, Script, fake, fake_backend

if TYPE_CHECKING:
    from pathlib import Path


def an_order(issue: str = "gt-1", *argv: str) -> Order:
    return Order(issue=Issue(id=issue), agent=Agent(argv=argv or ("true",)))


async def read(outpost: FakeOutpost, worker: str, offset: int = 0, follow: bool = False) -> bytes:
    return b"".join([chunk async for chunk in outpost.outpost_logs(worker, offset, follow)])


def test_spawn_is_create_or_adopt() -> None:
    async def main() -> None:
        outpost = FakeOutpost()
        first = await outpost.outpost_spawn(an_order())
        assert await outpost.outpost_spawn(an_order()) == first
        with pytest.raises(ConflictError):
            await outpost.outpost_spawn(an_order("gt-1", "false"))
        assert [status.id for status in await outpost.outpost_list()] == ["gt-1.1"]

    asyncio.run(main())


def test_a_script_decides_output_and_end() -> None:
    async def main() -> None:
        outpost = FakeOutpost()
        end = Result(state=State.FAILED, reason="agent_failed", exit_code=3)
        outpost.script("gt-1.1", Script(output=b"hello\n", after=0.05, result=end))
        await outpost.outpost_spawn(an_order())
        assert await read(outpost, "gt-1.1", follow=True) == b"hello\n"
        assert await read(outpost, "gt-1.1", offset=2) == b"llo\n"
        (status,) = await outpost.outpost_list()
        assert status.state is State.FAILED
        assert status.result is not None
        assert status.result.exit_code == 3
        assert status.result.log_bytes == 6
        await outpost.outpost_stop("gt-1.1", 0)
        assert (await outpost.outpost_list())[0] == status

    asyncio.run(main())


def test_a_cut_line_says_nothing_of_the_workers() -> None:
    async def main() -> None:
        outpost = FakeOutpost()
        await outpost.outpost_spawn(an_order())
        outpost.cut("cable")
        with pytest.raises(UnreachableError, match="cable"):
            await outpost.outpost_list()
        with pytest.raises(UnreachableError):
            await read(outpost, "gt-1.1")
        outpost.restore()
        assert (await outpost.outpost_list())[0].state is State.WORKING

    asyncio.run(main())


def test_a_refusal_keeps_known_workers() -> None:
    async def main() -> None:
        outpost = FakeOutpost()
        await outpost.outpost_spawn(an_order())
        outpost.refuse("no room")
        with pytest.raises(SpawnRefusedError, match="no room"):
            await outpost.outpost_spawn(an_order("gt-2"))
        await outpost.outpost_spawn(an_order())
        assert not (await outpost.outpost_ping()).ok

    asyncio.run(main())


def test_logs_and_stop_of_an_unknown_worker() -> None:
    async def main() -> None:
        outpost = FakeOutpost()
        await outpost.outpost_stop("gt-9.1", 1)
        with pytest.raises(NotFoundError):
            await read(outpost, "gt-9.1")

    asyncio.run(main())


def test_a_thousand_workers_are_listed_without_work() -> None:
    async def main() -> None:
        outpost = FakeOutpost.holding("a", 1000)
        assert await outpost.outpost_list() is await outpost.outpost_list()
        assert len(await outpost.outpost_list()) == 1000

    asyncio.run(main())


def test_the_backend_shares_memory_by_folder_and_gives_out_ready_objects(tmp_path: Path) -> None:
    async def main() -> None:
        scripted = FakeOutpost("mine")
        backend = fake_backend({"mine": scripted})
        options = FakeOptions(exit_code=1, run_for=0)
        context = BuildContext(state_dir=tmp_path)
        assert backend.make("mine", options, context) is scripted
        one, two = (backend.make("x", options, context) for _ in range(2))
        assert isinstance(one, FakeOutpost)
        assert isinstance(two, FakeOutpost)
        await one.outpost_spawn(an_order())
        (status,) = await two.outpost_list()
        assert status.state is State.FAILED

    asyncio.run(main())


def test_the_module_is_a_backend_package_and_outposts_are_valid_plugins() -> None:
    pm = pluggy.PluginManager(hookspecs.PROJECT)
    pm.add_hookspecs(hookspecs)
    pm.register(fake)
    pm.register(FakeOutpost("one"), "one")
    pm.check_pending()
    (types,) = pm.hook.outpost_backends()
    assert set(types) == {"fake"}
