"""From the body of a request to orders: the same fields as a line of `--from-file`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from outpost_core.errors import OutpostError, UsageError
from outpost_manager import jsonviews
from outpost_manager.config.accounts import secret_names
from outpost_manager.orders.fields import request_of
from outpost_manager.placing.room import mark, until_room
from outpost_mayor.api.guard import demand

if TYPE_CHECKING:
    from fastapi import Request

    from outpost_core.types import Order
    from outpost_manager.manager import Manager
    from outpost_manager.orders.making import OrderRequest
    from outpost_manager.placing.pending import Spawned

#: Orders of one request, at most.
_MOST: Final = 1000
#: The beginning of a URL, and of what ssh takes for one: `git@example.com:team/app.git`.
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/]+:", re.ASCII)


class Orders(BaseModel):
    """What is to be done."""

    model_config = ConfigDict(extra="forbid")

    requests: list[dict[str, Any]] = Field(
        min_length=1, max_length=_MOST,
        description="Each as a line of --from-file has it, with prompt in place of prompt_file.",
    )  # fmt: skip
    on: str | None = Field(None, description="At this outpost and no other.")


class Enqueue(Orders):
    """What is to wait for a place."""

    batch: str = Field("", description="What they belong to.", max_length=200)
    after: list[str] = Field([], description="Issues that are done first.", max_length=_MOST)
    not_before: str | None = Field(
        None, description="Start then or later: 2026-01-31T08:00:00Z, or in so long: 2h."
    )
    retries: int = Field(
        0, ge=0, le=1000, description="How often to repeat what an agent itself calls failed."
    )


async def orders_of(
    request: Request, manager: Manager, said: Sequence[dict[str, Any]]
) -> list[Order]:
    """Return the orders that a body says, checked as those of a command are.

    Args:
        request: who asks.
        manager: an open one.
        said: fields of each.

    Raises:
        UsageError: something in one is wrong.
        ForbiddenError: it needs another role.
    """
    wanted = [request_of(one, f"requests[{number}]: ") for number, one in enumerate(said)]
    for number, one in enumerate(wanted):
        _check(request, manager, one, f"requests[{number}]")
    await manager.look_at([one.issue for one in wanted])
    return [await manager.order(one) for one in wanted]


def _check(request: Request, manager: Manager, one: OrderRequest, where: str) -> None:
    """Refuse what reaches into the mayor's own machine, where whoever asks may not do that.

    Raises:
        UsageError: it names a file.
        ForbiddenError: it needs the role admin.
    """
    if one.prompt_file is not None:
        raise UsageError(
            f"{where}: prompt_file would be a file of the mayor's machine",
            hint="send what is in it as prompt",
        )
    if not one.no_rig and (one.rig is None or not _URL.match(one.rig)):
        demand(request, "admin", f"{where}: a rig that is a path of the mayor's machine")
    if one.pr_command is not None:
        demand(request, "admin", f"{where}: pr_command, which runs outside of the fence,")
    if more := sorted(set(one.secrets) - _named(manager, one)):
        names = ", ".join(more)[:200]
        demand(request, "admin", f"{where}: a secret that outposts.yaml does not name ({names})")


def _named(manager: Manager, one: OrderRequest) -> set[str]:
    """Return the variables that the configuration hands to agents anyway."""
    agent = one.agent or manager.config.defaults.agent
    preset = manager.agents().get(agent)
    given = secret_names(manager.config.accounts, agent)
    return {*(preset.secrets if preset is not None else ()), *given}


@dataclass(frozen=True, kw_only=True)
class Placing:
    """An order on its way.

    Args:
        order: what is to be done.
        on: the one outpost for it; None lets the policy choose.
    """

    order: Order
    on: str | None


async def spawned(
    request: Request,
    manager: Manager,
    placings: Sequence[Placing],
    wait: float,
    *,
    refused: Sequence[tuple[str, OutpostError]] = (),
    hints: Sequence[str] = (),
) -> dict[str, Any]:
    """Place orders; return the document that says what became of each.

    Args:
        request: who asks; what has to wait does not outlast him.
        manager: an open one.
        placings: what is to be placed.
        wait: seconds for which what finds everything full is tried again.
        refused: issues for which no order could be made, and why.
        hints: what is worth knowing besides.
    """

    async def place(some: Sequence[int]) -> list[Spawned | OutpostError]:
        answers: dict[int, Spawned | OutpostError] = {}
        for on in dict.fromkeys(placings[number].on for number in some):
            mine = [number for number in some if placings[number].on == on]
            found = await manager.spawn_many([placings[number].order for number in mine], on=on)
            answers |= dict(zip(mine, found, strict=True))
        return [answers[number] for number in some]

    async def gone() -> bool:
        return request.app.state.ended.is_set() or await request.is_disconnected()

    answers = await place(range(len(placings)))
    wanted = [(one.order, one.on) for one in placings]
    await mark(manager.placement, wanted, answers, unknown=False)
    if wait:
        await until_room(
            manager.placement, manager.wanting, wanted, answers, place, within=wait, gone=gone
        )
    pairs = [(one.order, answer) for one, answer in zip(placings, answers, strict=True)]
    return {
        "spawned": [
            jsonviews.spawned(each) for _, each in pairs if not isinstance(each, OutpostError)
        ],
        "refused": [
            *(jsonviews.refused(issue, error) for issue, error in refused),
            *(
                jsonviews.refused(order.issue.id, each)
                for order, each in pairs
                if isinstance(each, OutpostError)
            ),
        ],
        "hints": [*hints],
    }
