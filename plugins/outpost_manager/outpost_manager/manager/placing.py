"""Orders are placed, put into the queue, and explained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from outpost_core.errors import OutpostError, PlacementError
from outpost_manager.ledger.entries import WAITING, waits
from outpost_manager.manager.orders import Orders
from outpost_manager.workthread import WorkThread

if TYPE_CHECKING:
    from outpost_core.types import Candidate, Event, Explanation, Health, Order
    from outpost_manager.config.policy import Ranking
    from outpost_manager.ledger import Added
    from outpost_manager.orders.making import OrderRequest
    from outpost_manager.placing.pending import Spawned, Turn


class Placing(Orders):
    """What is done with orders."""

    async def spawn(
        self,
        order: Order,
        *,
        on: str | None = None,
        progress: Callable[[Event], None] | None = None,
    ) -> Spawned:
        """Place one order and start its worker, or adopt the one that is there.

        Args:
            order: what is to be done.
            on: the outpost to use; None lets the policy choose.
            progress: is told each step (`placed`, `reserved`, `starting`, `refused`, `spawned`).

        Raises:
            ConflictError: the id exists with another order.
            PlacementError: nobody could take it.
            UnreachableError: it may have been started; nobody can say now.
        """
        (answer,) = await self.spawn_many([order], on=on, progress=progress)
        if isinstance(answer, OutpostError):
            raise answer
        return answer

    async def spawn_many(
        self,
        orders: Sequence[Order],
        *,
        on: str | None = None,
        progress: Callable[[Event], None] | None = None,
        turns: Mapping[str, Turn] = MappingProxyType({}),
    ) -> list[Spawned | OutpostError]:
        """Place several orders at once; each answer is a worker or its own error.

        An outpost that seems to be full is asked first whether it still is.

        Args:
            orders: what is to be done.
            on: the outpost to use; None lets the policy choose.
            progress: as for `spawn`.
            turns: worker → what the queue says of it; of others nothing.
        """
        if on is not None:
            self.fleet.configured(on)
        amended = await self._amended(orders)
        sound = [order for order in amended if not isinstance(order, OutpostError)]
        placed = iter(await self._place(sound, on, progress, turns))
        return [each if isinstance(each, OutpostError) else next(placed) for each in amended]

    async def _amended(self, orders: Sequence[Order]) -> list[Order | OutpostError]:
        """Return each order as the plugins want it (`outpost_order`), or why it is not placed."""
        if not self.plugins.pm.hook.outpost_order.get_hookimpls():
            return [*orders]
        import asyncio

        from outpost_manager.placing.amending import amend_all, unanswered

        patience = self.config.defaults.spawn_timeout
        thread = WorkThread("amending")  # of its own: one that hangs holds up these orders alone
        try:
            return await asyncio.wait_for(
                thread.run(lambda: amend_all(self.plugins, orders)), patience
            )
        except TimeoutError:
            return [unanswered(self.plugins, order, patience) for order in orders]
        finally:
            thread.end(0.0)

    async def _place(
        self,
        orders: Sequence[Order],
        on: str | None,
        progress: Callable[[Event], None] | None,
        turns: Mapping[str, Turn],
    ) -> list[Spawned | OutpostError]:
        tight = await self.overview.tight(orders, time.time()) if orders else []
        if asked := [name for name in tight if on in (None, name)]:
            await self.watch.refresh(asked)

        await self.presence.consult(orders, lambda some: self._chosen(some, on))
        answers = await self.placement.spawn_many(orders, on=on, progress=progress, turns=turns)
        for order, answer in zip(orders, answers, strict=True):
            if isinstance(answer, PlacementError):
                self._advise(order, answer)
        return answers

    async def _chosen(
        self, orders: Sequence[Order], on: str | None, health: Mapping[str, Health] | None = None
    ) -> list[tuple[Ranking, Sequence[Candidate]]]:
        """Return what the policy says of orders; one whose policy fails is left out."""
        found: list[tuple[Ranking, Sequence[Candidate]]] = []
        sheets = await self.overview.sheets(orders, time.time(), health)
        for order, candidates in zip(orders, sheets, strict=True):
            with suppress(OutpostError):
                found.append((self.placement.assign(order, candidates, on), candidates))
        return found

    def _advise(self, order: Order, error: PlacementError) -> None:
        """Give the next step where the work is kept elsewhere, or an agent is missing."""
        if order.resume_at and "kept at" in error.message:
            error.hint = (
                f"outpost ping {order.resume_at}; --from-base starts from the base instead, and"
                " outpost show says where the work is"
            )
            return
        said = f": {order.agent.argv[0]} is not installed there"
        lines = [line.strip() for line in error.message.splitlines()]
        lacking = {line.removesuffix(said) for line in lines if line.endswith(said)}
        if lacking:
            from outpost_manager.hints import missing_agent

            images = {one.name for one in self.config.outposts if hasattr(one.options, "image")}
            preset = self.agents().get(order.agent.name)
            error.hint = missing_agent(order.agent.name, preset, lacking - images, lacking & images)

    async def enqueue(
        self,
        orders: Sequence[Order],
        *,
        on: str | None = None,
        batch: str = "",
        after: Sequence[str] = (),
        not_before: float = 0.0,
        retries: int = 0,
    ) -> list[Added]:
        """Put orders into the queue, all or none; see `Queue.add`.

        Args:
            orders: what is to be done.
            on: the one outpost for all of them; None lets the policy choose.
            batch: what they belong to; "" for nothing.
            after: issues that have to be done first.
            not_before: moment before which none is placed; 0 for none.
            retries: how often an attempt is repeated whose agent judged itself that it failed.

        Raises:
            ConflictError: an issue is in the queue with another order, or its attempt has ended.
            UsageError: a rig's URL has a password, or `after` cannot be.
        """
        from outpost_manager.placing.queueing import queue_items

        if on is not None:
            self.fleet.configured(on)
        amended = await self._amended(orders)
        for order in amended:
            if isinstance(order, OutpostError):
                raise order
        items = queue_items(
            self.config,
            [order for order in amended if not isinstance(order, OutpostError)],
            on=on,
            batch=batch,
            after=after,
            not_before=not_before,
            retries=retries,
        )
        return await self.ledger.queue.add(items)

    async def enqueue_requests(
        self,
        requests: Sequence[OrderRequest],
        *,
        on: str | None = None,
        batch: str = "",
        after: Sequence[str] = (),
        not_before: float = 0.0,
        retries: int = 0,
    ) -> list[Added]:
        """Make orders of requests and put them into the queue, all or none; see `enqueue`."""
        await self.look_at([request.issue for request in requests])
        orders = [await self.order(request) for request in requests]
        return await self.enqueue(
            orders, on=on, batch=batch, after=after, not_before=not_before, retries=retries
        )

    async def explain(self, order: Order, *, on: str | None = None) -> Explanation:
        """Say where an order would go and why, after asking every outpost; changes nothing.

        Raises:
            PluginError: a plugin that amends orders failed.
        """
        if on is not None:
            self.fleet.configured(on)
        (amended,) = await self._amended([order])
        if isinstance(amended, OutpostError):
            raise amended
        order = amended
        from outpost_core.types import Health

        answers = await self.ping()
        health = {name: a for name, a in answers.items() if isinstance(a, Health)}
        await self.presence.consult([order], lambda some: self._chosen(some, on, health))
        (sheets,) = await self.overview.sheets([order], time.time(), health)
        said = self.placement.assign(order, sheets, on).explain()
        return await self.placement.foreseen(order, said, sheets)

    async def explain_requests(
        self, requests: Sequence[OrderRequest], on: str | None
    ) -> list[tuple[str, str, Explanation]]:
        """Say where the orders of requests would go: issue, worker, and why; see `explain`.

        Of an issue of which nothing else is said, and whose order waits in the queue, that order
        is meant.
        """
        asked = [
            await self._waiting(request) or (await self.order(request), on, ())
            for request in requests
        ]
        found = []
        for order, place, notes in asked:
            said = await self.explain(order, on=on or place)
            said = replace(said, notes=(*notes, *said.notes))
            found.append((order.issue.id, order.worker, said))
        return found

    async def _waiting(
        self, request: OrderRequest
    ) -> tuple[Order, str | None, tuple[str, ...]] | None:
        """Return the order of an issue that waits, the one outpost for it, and why it waits."""
        if replace(request, rig=None) != type(request)(issue=request.issue):
            return None
        entry = await self.ledger.queue.entry(request.issue)
        order = None if entry is None else await self.ledger.queue.order(request.issue)
        if entry is None or order is None or entry.state != WAITING:
            return None
        why = waits(entry, time.time()) or "for its turn"
        return order, entry.place, (f"it waits in the queue: {why}",)
