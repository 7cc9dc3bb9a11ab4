"""A program that stays: outposts that can be built after all, and a configuration that changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from managerkit import Make, order, run, until

from outpost_core.errors import ConfigError, NotFoundError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Order, State, WorkerStatus
from outpost_manager.fleet import fleet
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost


def write(folder: Path, *outposts: str, more: str = "") -> None:
    lines = "".join(f"  - {{{each}}}\n" for each in outposts)
    (folder / "outposts.yaml").write_text(f"outposts:\n{lines}{more}")


def test_an_outpost_that_could_not_be_built_is_tried_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "BUILD_AGAIN", 0.05)
    a = FakeOutpost("a")
    builds = []

    async def body(manager: Manager) -> None:
        backend = manager.plugins.backends["fake"]
        sound = backend.build

        def build(*args: object) -> FakeOutpost:
            builds.append(args)
            if len(builds) < 3:
                raise RuntimeError("no network yet")
            return sound(*args)

        object.__setattr__(backend, "build", build)
        for _ in range(20):
            await manager.refresh()
        (view,) = await manager.outposts()
        assert view.state == "broken"
        assert "no network yet" in view.detail
        assert len(builds) < 3, "not at every look"
        await until(lambda: not manager.fleet.resting("a"))
        for _ in range(100):
            await manager.refresh()
            if a.calls:
                break
            await asyncio.sleep(0.05)
        assert len(builds) == 3
        (view,) = await manager.outposts()
        assert view.state == "ready"
        assert (await manager.spawn(order())).worker.outpost == "a"

    run(make(a), body)


def test_new_changed_and_removed_outposts_count_from_the_reload_on(
    make: Make, tmp_path: Path
) -> None:
    a, b, c = FakeOutpost("a"), FakeOutpost("b"), FakeOutpost("c")

    async def body(manager: Manager) -> None:
        write(tmp_path, "name: a, type: fake", "name: b, type: fake, max_workers: 5")
        await manager.reload()
        await manager.refresh()
        same = manager.fleet.outpost("a")
        write(
            tmp_path, "name: a, type: fake", "name: b, type: fake, max_workers: 1",
            "name: c, type: fake", more="policy: {default_preference: [c]}\n"
            "defaults: {answer_timeout: 3}\n",
        )  # fmt: skip
        await manager.reload()
        assert manager.fleet.names == ["a", "b", "c"]
        assert manager.fleet.outpost("a") is same, "what did not change stays as it is"
        assert manager.watch.answer_timeout == manager.placement.answer_timeout == 3
        assert {view.name: view.max_workers for view in await manager.outposts()}["b"] == 1
        assert (await manager.spawn(order("gt-1"))).worker.outpost == "c", "the new policy"
        write(tmp_path, "name: a, type: fake")
        await manager.reload()
        assert (await manager.spawn(order("gt-2"))).worker.outpost == "a"
        with pytest.raises(NotFoundError):
            await manager.spawn(order("gt-3"), on="b")

    run(make(a, b, c, config="outposts:\n  - {name: a, type: fake}\n"), body)


def test_a_mistake_in_the_file_changes_nothing(make: Make, tmp_path: Path) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        before = manager.config
        (tmp_path / "outposts.yaml").write_text("outposts: 7\n")
        with pytest.raises(ConfigError):
            await manager.reload()
        assert manager.config is before
        assert (await manager.spawn(order())).worker.outpost == "a"

    run(make(a), body)


def test_workers_of_a_removed_outpost_are_followed_to_their_end(make: Make, tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-1"), on="b")
        waiting = asyncio.create_task(manager.wait(["gt-1"]))
        write(tmp_path, "name: a, type: fake")
        await manager.reload()
        assert [*manager.fleet.leaving] == ["b"]
        await manager.spawn(order("gt-2"))
        with pytest.raises(NotFoundError):
            await manager.spawn(order("gt-3"), on="b")
        b.write("gt-1.1", b"on its way\n")
        b.finish("gt-1.1")
        (worker,) = await waiting
        assert worker.state is State.DONE
        await manager.refresh()
        assert not manager.fleet.leaving, "nothing is left there to be followed"
        assert "b" not in manager.fleet.built

    run(make(a, b), body)


def test_what_is_under_way_at_a_changed_outpost_ends_there(make: Make, tmp_path: Path) -> None:
    class Slow(FakeOutpost):
        go: asyncio.Event
        begun = False
        closed = 0

        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            self.begun = True
            await self.go.wait()
            assert not self.closed
            return await super().outpost_spawn(order)

        @hookimpl
        async def outpost_close(self) -> None:
            self.closed += 1

    a = Slow("a")

    async def body(manager: Manager) -> None:
        a.go = asyncio.Event()
        spawning = asyncio.create_task(manager.spawn(order()))
        await until(lambda: a.begun)
        write(tmp_path, "name: a, type: fake, max_workers: 7")
        await manager.reload()
        assert not a.closed
        a.go.set()
        spawned = await spawning
        assert spawned.worker.outpost == "a"
        await until(lambda: a.closed == 1)
        assert (await manager.outposts())[0].max_workers == 7

    run(make(a), body)
