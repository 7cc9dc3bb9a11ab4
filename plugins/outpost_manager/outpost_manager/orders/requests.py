"""From a request to an order: which agent, which issue, which attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from outpost_core.agents import AgentPreset
from outpost_core.errors import ConflictError, OutpostError, PluginError, UsageError
from outpost_core.types import Issue, Order, Worker, check_issue_id
from outpost_manager.orders import presets
from outpost_manager.orders.making import OrderRequest, Surroundings, make_order

if TYPE_CHECKING:
    from outpost_core.discovery import Plugins
    from outpost_core.types import Price
    from outpost_manager.config.accounts import AccountConfig
    from outpost_manager.config.model import Defaults
    from outpost_manager.ledger import AsyncLedger, Ledger
    from outpost_manager.orders.localgit import LocalGit

#: Seconds that a source of issues may take: it may ask a server.
_ISSUE_PATIENCE = 60.0


@dataclass(kw_only=True, eq=False)
class OrderBuilder:
    """Takes requests.

    Args:
        defaults: of the configuration.
        plugins: who is asked for presets and issues.
        ledger: what attempts there were.
        environ: where secrets come from.
        cwd: where relative paths start.
        trouble: is told a plugin's name and what it raised.
        local: asks git about `cwd`.
        prices: of models, as the configuration says.
        configured: agents, as the configuration says; see `Config.agents`.
        accounts: as the configuration says.
    """

    defaults: Defaults
    plugins: Plugins
    ledger: AsyncLedger
    environ: Mapping[str, str]
    cwd: Path
    trouble: Callable[[str, Exception], None]
    local: LocalGit
    prices: Mapping[str, Price] = field(default_factory=dict)
    configured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    accounts: Sequence[AccountConfig] = ()

    def agents(self) -> dict[str, AgentPreset]:
        """Return every agent preset: of packages, and what the configuration says over them."""
        known = presets.offered(self.plugins, self.trouble)
        for name, said in self.configured.items():
            base = known.get(name) or AgentPreset(name=name, headless=None, interactive=None)
            known[name] = replace(base, **said)
        return known

    def find_issue(self, issue: str, rig: str | None) -> Issue | None:
        """Ask the plugins what an issue is, beads as the last; None when nobody knows it.

        Raises:
            OutpostError: one of them is responsible for it, and failed.
        """
        hook = "outpost_issue"
        asked = self.plugins.answers(
            hook, self.trouble, patience=_ISSUE_PATIENCE, raises=OutpostError,
            issue_id=issue, rig=rig,
        )  # fmt: skip
        for plugin, answer in asked:
            if isinstance(answer, Issue):
                return answer
            self._blame(plugin, hook, f"it answered a {type(answer).__name__}, not an Issue")
        return None

    def _blame(self, plugin: str, hook: str, said: str) -> None:
        """Keep what is wrong with an answer of a plugin, which is left out."""
        error = PluginError(said)
        self.plugins.blame(plugin, hook, error)
        self.trouble(plugin, error)

    def order(self, request: OrderRequest) -> Order:
        """Build and check the order of a request; chooses the attempt.

        Without `attempt` and `again` it is the last attempt there was (so that asking twice is
        the same worker), else the first.

        Raises:
            UsageError: something in it is wrong.
            ConflictError: `again` while the last attempt still runs.
        """
        attempt, kept = self._attempt(request)
        around = Surroundings(
            defaults=self.defaults,
            presets=self.agents(),
            find_issue=self.find_issue,
            environ=self.environ,
            cwd=self.cwd,
            attempt=attempt,
            resume=kept.ref,
            resume_at=kept.at,
            local=self.local,
            prices=self.prices,
            owner=self.ledger.direct.id,
            accounts=self.accounts,
        )
        return make_order(request, around)

    def _attempt(self, request: OrderRequest) -> tuple[int, Kept]:
        if request.attempt is not None:
            if request.again:
                raise UsageError(
                    "both --attempt and --again were given", hint="give one of the two"
                )
            if not 1 <= request.attempt <= 999_999:
                raise UsageError(f"attempt {request.attempt} is not between 1 and 999999")
        check_issue_id(request.issue)
        earlier = {w.attempt: w for w in self.ledger.direct.attempts(request.issue)}
        last = max(earlier, default=0)
        if request.again and last and not earlier[last].state.terminal:
            raise ConflictError(
                f"{earlier[last].id} still runs at {earlier[last].outpost}",
                hint=f"outpost stop {earlier[last].id} first, or follow it: outpost logs -f"
                f" {earlier[last].id}",
            )
        attempt = request.attempt or (last + 1 if request.again else max(last, 1))
        kept = Kept() if request.from_base else kept_work(self.ledger.direct, earlier, attempt)
        return attempt, kept


class Kept(NamedTuple):
    """Work of an earlier attempt that a further one continues from.

    Args:
        ref: its ref, or None when there is none.
        at: the outpost that alone has it, since the rig did not take it; "" when the rig has it.
    """

    ref: str | None = None
    at: str = ""


def kept_work(ledger: Ledger, earlier: Mapping[int, Worker], attempt: int) -> Kept:
    """Return the newest checkpoint of the attempts before, back to a delivered one.

    Only what was ordered here counts: another one's work may have the same id. What is in a bundle
    has the same ref in it, and is at the outpost of its worker alone.
    """
    from outpost_core.names import checkpoint_ref, owner_of

    for number in range(attempt - 1, 0, -1):
        worker = earlier.get(number)
        result = worker.result if worker is not None else None
        if worker is None or result is None:
            continue
        if result.commit is not None:
            return Kept()
        if result.checkpoint is None:
            continue
        order = ledger.order(worker.id)
        owner = owner_of(result.checkpoint, worker.id)
        if owner is not None and (order is not None or owner == ledger.id):
            return Kept(result.checkpoint)
        if order is not None and result.checkpoint.endswith(".bundle"):
            return Kept(checkpoint_ref(worker.id, order.owner), worker.outpost)
    return Kept()


def passed_over(ledger: Ledger, order: Order) -> str:
    """Say which work of earlier attempts a further one does not continue from; "" for none.

    Args:
        ledger: what attempts there were.
        order: the further attempt.
    """
    earlier = {worker.attempt: worker for worker in ledger.attempts(order.issue.id)}
    for number in range(order.attempt - 1, 0, -1):
        worker = earlier.get(number)
        result = worker.result if worker is not None else None
        if worker is None or result is None or not result.checkpoint:
            continue
        if result.commit is not None or kept_work(ledger, {number: worker}, number + 1).ref:
            return ""  # delivered, or it is what this one continues from
        start = order.resume or "the base"
        return (
            f"{worker.id} left work in {result.checkpoint} at {worker.outpost}, which nothing can"
            f" continue from by itself (it was not ordered here, or is an archive): {order.worker}"
            f" starts from {start}"
        )
    return ""
