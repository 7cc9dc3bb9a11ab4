"""Hearing that workers may have changed: one watch of their Jobs, and what is found out here.

A Job says when its pod begins, is ready and has ended. How an ended worker did is brought home
behind the list that saw it (`Behind`), which ends without a word of the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from outpost_k8s.api.watch import Reflector
from outpost_k8s.objects import names

if TYPE_CHECKING:
    from outpost_k8s.near.desk import Desk

#: Seconds in which changes are told together: a Job is changed several times when its pod ends.
_TOGETHER: Final = 0.1


async def changes(desk: Desk, found_out: asyncio.Event) -> AsyncIterator[None]:
    """Yield once the cluster is watched, and whenever workers may have changed; never ends.

    While the cluster does not answer nothing is told; what changed meanwhile is told afterwards.

    Args:
        desk: of the outpost.
        found_out: set when more is known here of a worker that has ended.
    """
    jobs = Reflector(desk.cluster(), desk.path("jobs"), names.SELECTOR, metadata_only=True)
    news = asyncio.Event()

    async def of_cluster() -> None:
        async with aclosing(jobs.changes()) as told:  # type: ignore[type-var]
            async for _ in told:
                news.set()

    async def of_here() -> None:
        while True:
            await found_out.wait()
            found_out.clear()
            news.set()

    async with jobs:
        tasks = [asyncio.create_task(of_cluster()), asyncio.create_task(of_here())]
        try:
            await jobs.listed.wait()
            yield
            while True:
                await news.wait()
                await asyncio.sleep(_TOGETHER)
                news.clear()
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
