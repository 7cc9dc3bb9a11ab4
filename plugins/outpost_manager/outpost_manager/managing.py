"""What commands ask of a manager, whether it is the one here or that of a server.

A command that is written for `Managing` works with `--server`, too. What is not here is asked of
the machine itself alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from outpost_core.errors import OutpostError
    from outpost_core.types import (
        Cleaned,
        Event,
        Explanation,
        Health,
        Message,
        Order,
        Usage,
        Worker,
    )
    from outpost_manager.fleet.overview import OutpostView
    from outpost_manager.ledger import Added, Budget, Entry, Letter
    from outpost_manager.ledger.budgets import Use
    from outpost_manager.ledger.entries import Decided
    from outpost_manager.ledger.spend import Total
    from outpost_manager.orders.making import OrderRequest
    from outpost_manager.placing.accountviews import AccountView
    from outpost_manager.placing.forecast import Forecast


@dataclass(frozen=True, kw_only=True)
class Glimpse:
    """What only its outpost can say of a worker, as far as it answers.

    Args:
        tree: path of its working tree, on its own machine; "" when there is none.
        text: the last lines that its agent printed, or that its screen shows, as they are.
        usage: what the agent of a running worker has used so far; None when nobody knows.
        fence: what keeps its agent to its work; "" when nobody knows.
    """

    tree: str = ""
    fence: str = ""
    text: str = ""
    usage: Usage | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Everything about a worker.

    Args:
        worker: as it is known.
        glimpse: what its outpost says of it now.
        order: what was to be done; None where it was not ordered here.
        explanation: why it is where it is; None likewise.
        attempts: all at its issue.
        events: what happened to it.
        decisions: what was decided after attempts at its issue had ended.
        entry: of the queue; None where its issue was never in it.
        accounts: attempt → whose credentials it uses, as far as that is known.
    """

    worker: Worker
    glimpse: Glimpse
    order: Order | None
    explanation: Explanation | None
    attempts: Sequence[Worker]
    events: Sequence[Event]
    decisions: Sequence[Decided]
    entry: Entry | None
    accounts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What was spent, and what it is held to.

    Args:
        begin: when the totals begin; 0 for all there ever was.
        totals: one for each day, outpost, agent or rig.
        standing: outpost → USD an hour that it costs without a worker.
        budgets: each with what its window holds.
        outlook: what waits will cost; None where nobody asked.
    """

    begin: float
    totals: Sequence[Total]
    standing: Mapping[str, float]
    budgets: Sequence[tuple[Budget, Use]]
    outlook: Forecast | None


def kept_where(worker: Worker, events: Sequence[Event]) -> Worker:
    """Return a worker with the place of its kept work: cleaning moves what lay in its folder."""
    for event in reversed(events):
        rescued = event.data.get("rescued") if event.kind == "cleaned" else None
        if worker.result is not None and isinstance(rescued, str) and rescued:
            return replace(worker, result=replace(worker.result, checkpoint=rescued))
    return worker


class Managing(Protocol):
    """A manager, here or at a server; `manager.Manager` says what each method does."""

    # --- outposts and accounts ----------------------------------------------------------------

    async def outposts(self) -> list[OutpostView]:
        """Describe every configured outpost without asking any."""

    async def refresh(self, names: Iterable[str] | None = None) -> list[OutpostView]:
        """Ask outposts for their workers; describe all of them."""

    async def look(self, names: Iterable[str] | None = None) -> dict[str, OutpostError]:
        """Ask outposts for their workers; return why each told nothing that told nothing."""

    async def ping(self, names: Iterable[str] | None = None) -> Mapping[str, Health | OutpostError]:
        """Ask outposts whether they would take a worker now."""

    async def reset_breaker(self, kind: str, name: str) -> object:
        """Close the circuit breaker of an outpost or account."""

    async def accounts(self) -> list[AccountView]:
        """Return the accounts."""

    async def unpark(self, account: str) -> object:
        """Let a parked account be used again at once."""

    async def spending(self, by: str, seconds: float, forecast: bool) -> Spending:
        """Say what was spent.

        Args:
            by: day, outpost, agent or rig.
            seconds: of workers that ended so long ago or later; 0 for all.
            forecast: also what the queue will cost.
        """

    # --- orders -------------------------------------------------------------------------------

    async def explain_requests(
        self, requests: Sequence[OrderRequest], on: str | None
    ) -> list[tuple[str, str, Explanation]]:
        """Say where orders would go and why: issue, worker, and the explanation."""

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
        """Put requests into the queue, all or none; see `Manager.enqueue`."""

    # --- workers ------------------------------------------------------------------------------

    async def workers(
        self,
        *,
        all: bool = False,  # noqa: A002
        refresh: bool = True,
    ) -> list[Worker]:
        """Return workers, newest first; without `all` those that have not ended."""

    async def ended_since(self, moment: float) -> list[Worker]:
        """Return the workers that ended then or later."""

    async def those(self, ids: Sequence[str]) -> list[Worker]:
        """Return workers by their ids, as far as they are known."""

    async def find(self, ref: str) -> Worker:
        """Return a worker without asking its outpost."""

    async def worker(self, ref: str) -> Worker:
        """Return a worker after asking its outpost."""

    async def shown(self, ref: str) -> Shown:
        """Return everything about a worker."""

    async def order_of(self, worker: str) -> Order | None:
        """Return the order of a worker, by its id; None where it was not ordered here."""

    async def was_cleaned(self, worker: str) -> bool:
        """Say whether the files of a worker were removed, by its id."""

    def logs(self, ref: str, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """Yield a worker's output from byte `offset` on; `follow` until it has ended."""

    async def wait(
        self,
        ids: Sequence[str],
        *,
        timeout: float | None = None,
        on_change: Callable[[Worker], None] | None = None,
    ) -> list[Worker]:
        """Wait until workers have ended."""

    async def stop(self, ref: str, grace: float | None = None) -> Worker:
        """Ask for the end of a worker."""

    async def forget(self, ref: str) -> Worker:
        """Give a worker up whose outpost is no longer configured."""

    async def nudge(self, ref: str, text: str) -> None:
        """Type text and Enter into an interactive worker."""

    async def peek(self, ref: str, lines: int = 50) -> str:
        """Return what the worker's terminal shows."""

    async def ordered_here(self, ids: Sequence[str]) -> set[str]:
        """Return those of the workers that were ordered by this manager."""

    async def clean_many(
        self, names: Sequence[str], *, force: bool = False, purge: bool = False
    ) -> dict[str, Cleaned | OutpostError]:
        """Remove the files of ended workers; unpushed work is rescued first."""

    # --- what happened ------------------------------------------------------------------------

    async def newest_events(self, of: str | None, limit: int) -> tuple[list[Event], int]:
        """Return the newest events, oldest first, and the id of the newest of all.

        Args:
            of: only those of this worker; None for all.
            limit: at most so many.
        """

    async def events_after(self, after: int, of: str | None, limit: int) -> tuple[list[Event], int]:
        """Return what happened behind an event, oldest first, and where to go on."""

    def events(self, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Yield what happens; never ends."""

    # --- mail ---------------------------------------------------------------------------------

    async def send_mail(self, outpost: str, message: Message) -> Letter:
        """Keep a message in the outbox and try to deliver it to someone at an outpost."""

    async def inbox(
        self, names: Iterable[str] | None = None, identity: str = ""
    ) -> dict[str, Sequence[Message] | OutpostError]:
        """Ask outposts for the mail that waits there."""

    async def outbox(self, *, all: bool = False) -> list[Letter]:  # noqa: A002
        """Return the mail that is not delivered, oldest first; `all`: also what lately was."""

    async def flush_mail(self, names: Iterable[str] | None = None) -> list[Letter]:
        """Try all mail that waits, now; return what was tried, as it is afterwards."""

    async def drop_mail(self, ref: str) -> Letter:
        """Forget mail by its id or the beginning of it."""
