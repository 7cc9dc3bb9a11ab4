"""What people and the policy see of the outposts, without asking any."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError, PluginError, SpawnRefusedError
from outpost_core.isolation import contained, describe
from outpost_manager.config import spending
from outpost_manager.config.policy import requirements
from outpost_manager.fleet.fleet import mask
from outpost_manager.ledger import money
from outpost_manager.offloop import Breather
from outpost_manager.plugins.advice import missing_hint

if TYPE_CHECKING:
    from outpost_core.types import Candidate, Facts, Health, Order
    from outpost_manager.config.model import Config, OutpostConfig
    from outpost_manager.fleet.fleet import Fleet
    from outpost_manager.fleet.resources import Presence
    from outpost_manager.ledger import AsyncLedger, Breaker, Ledger, OutpostNote
    from outpost_manager.ledger.scaling import Scaled

#: After an outpost did not answer, placement passes it over for this long (seconds), so that one
#: dead host does not cost its whole timeout at every spawn.
AVOID_AFTER_FAILURE = 30.0


#: What is said of one that is down because nothing needs it.
WHEN_NEEDED: Final = "starts when needed"


@dataclass(frozen=True, kw_only=True)
class OutpostView:
    """One configured outpost as a person sees it.

    Args:
        name: its name.
        type: its type.
        package: the distribution that provides the type, or "".
        version: that distribution's version, or "".
        state: `ready`, `unknown` (never asked), `unhealthy`, `unreachable`, `missing` (nobody
            provides the type), `broken`, or, where it is brought up and down and nothing is placed
            there just now, `down`, `starting`, `draining` or `stopping`.
        detail: what it said, or why it is not ready.
        hint: the next step.
        active: workers there that have not ended.
        max_workers: its slots; None for no limit.
        slots_reason: where the number of slots comes from when the configuration does not say it.
        capabilities: what it declares.
        since: since when it has been reachable or not; None when never asked.
        heard_at: when it was last asked; None when never.
        spent: USD reserved or settled there in the last hour, what is standing included.
        standing: the part of it that the outpost costs an hour without a worker.
        cost_cap_hourly: USD; None for no cap.
        health: its last answer to ping in this process.
        breaker: its circuit breaker; None while nothing has failed.
        scaled: how much of it is up; None where nobody brings it up and down.
    """

    name: str
    type: str
    package: str = ""
    version: str = ""
    state: str = "unknown"
    detail: str = ""
    hint: str = ""
    active: int = 0
    max_workers: int | None = None
    slots_reason: str = ""
    capabilities: frozenset[str] = frozenset()
    since: float | None = None
    heard_at: float | None = None
    spent: float = 0.0
    standing: float = 0.0
    cost_cap_hourly: float | None = None
    health: Health | None = None
    breaker: Breaker | None = None
    scaled: Scaled | None = None


@dataclass(kw_only=True, eq=False)
class Overview:
    """Describes a fleet.

    Args:
        fleet: the outposts.
        ledger: what is known of them.
        presence: what is known of what they have.
    """

    fleet: Fleet
    ledger: AsyncLedger
    presence: Presence

    async def views(self, health: Mapping[str, Health] | None = None) -> list[OutpostView]:
        """Describe every outpost.

        Args:
            health: fresh answers to ping, by outpost; they win over what the ledger remembers.
        """
        notes, active, spent, breakers, scaled = await self.ledger.read(_known)
        found = [
            self._view(entry, notes.get(entry.name), active, spent, (health or {}).get(entry.name))
            for entry in self.fleet.config.outposts
        ]
        if breakers:
            found = [replace(view, breaker=breakers.get(view.name)) for view in found]
        return [_as_scaled(view, scaled.get(view.name)) for view in found] if scaled else found

    def _view(
        self,
        entry: OutpostConfig,
        note: OutpostNote | None,
        active: Mapping[str, int],
        spent: Mapping[str, float],
        health: Health | None,
    ) -> OutpostView:
        plugins = self.fleet.plugins
        home, backend = plugins.homes.get(entry.type), plugins.backends.get(entry.type)
        state, detail, hint = self._state(entry, note, health)
        slots, slots_reason = slots_of(entry, self.fleet.config)
        built = self.fleet.built.get(entry.name)
        declared = built.capabilities if built else backend.capabilities if backend else frozenset()
        standing = 0.0
        try:
            standing = self.standing(entry.name)
        except OutpostError as error:
            state, detail, hint = "broken", error.message, error.hint
        return OutpostView(
            name=entry.name,
            type=entry.type,
            package=home.package if home else "",
            version=home.version if home else "",
            state=state,
            detail=detail,
            hint=hint,
            active=active.get(entry.name, 0),
            max_workers=slots,
            slots_reason=slots_reason,
            capabilities=declared,
            since=note.since if note else None,
            heard_at=note.heard_at if note else None,
            spent=spent.get(entry.name, 0.0) + standing,
            standing=standing,
            cost_cap_hourly=entry.options.cost_cap_hourly if entry.options else None,
            health=health,
        )

    def _state(
        self, entry: OutpostConfig, note: OutpostNote | None, health: Health | None
    ) -> tuple[str, str, str]:
        """Return state, detail and hint."""
        if entry.problem:
            return "broken", entry.problem, f"outpost plugins says more of the type {entry.type!r}"
        if entry.options is None or entry.type not in self.fleet.plugins.backends:
            hint = missing_hint(self.fleet.plugins, entry.type)
            return "missing", f"nothing installed provides the type {entry.type!r}", hint
        if error := self.fleet.broken.get(entry.name):
            return "broken", error.message, error.hint
        if health is not None:
            return "ready" if health.ok else "unhealthy", health.detail, health.hint
        if note is None:
            return "unknown", "", ""
        if note.reachable:
            return "ready", note.detail, ""
        return "unreachable", note.detail, f"outpost doctor {entry.name}"

    async def sheets(
        self,
        orders: Sequence[Order],
        now: float,
        health: Mapping[str, Health] | None = None,
    ) -> list[tuple[Candidate, ...]]:
        """Make the policy's fact sheets for each order.

        Orders share their sheets where they cost the same, so that the policy can share its work
        too.
        """
        views = await self.views(health)
        reasons = [_unavailable(view, now) for view in views]
        facts = await self.presence.facts() if any(map(requirements, orders)) else {}
        found: list[tuple[Candidate, ...]] = []
        shared: dict[tuple[float | None, str], tuple[Candidate, ...]] = {}
        breather = Breather()
        for order in orders:
            key = (spending.worst_case(order), spending.uncounted(order))
            sheets = shared.get(key) or await self._sheets_of(
                order, views, reasons, facts, breather
            )
            if not any("price" in sheet.capabilities for sheet in sheets):
                shared[key] = sheets
            found.append(sheets)
        return found

    async def room(self) -> int | None:
        """Return how many workers find a slot, for all that the ledger knows; None: no limit."""
        active, free = await self.ledger.active(), 0
        for entry in self.fleet.config.outposts:
            if entry.options is None or entry.problem:
                continue
            slots, _ = slots_of(entry, self.fleet.config)
            if slots is None:
                return None
            free += max(0, slots - active.get(entry.name, 0))
        return free

    async def tight(self, orders: Sequence[Order], now: float) -> list[str]:
        """Return the outposts where orders may find no room, for all that the ledger knows.

        What runs there may have ended since it was last looked at, and free its slot and what
        it did not spend.
        """
        return [
            sheet.name
            for sheet in (await self.sheets(orders[:1], now))[0]
            if sheet.active and sheet.available and _is_tight(sheet, len(orders))
        ]

    async def _sheets_of(
        self,
        order: Order,
        views: list[OutpostView],
        reasons: list[str],
        facts: Mapping[str, Facts],
        breather: Breather,
    ) -> tuple[Candidate, ...]:
        from outpost_core.types import Candidate

        found = []
        agent, uncounted = spending.worst_case(order) or 0.0, spending.uncounted(order)
        for position, (view, unavailable) in enumerate(zip(views, reasons, strict=True)):
            await breather.breathe()
            reason, cost, capabilities = unavailable, 0.0, view.capabilities
            if not reason:
                try:
                    capabilities = self.fleet.outpost(view.name).capabilities
                    cost = self.price(view.name, order)
                except SpawnRefusedError as error:
                    reason = f"{error.message}; {error.hint}".removesuffix("; ")
                except OutpostError as error:
                    reason = f"broken: {error.message}"
            found.append(
                Candidate(
                    name=view.name,
                    type=view.type,
                    position=position,
                    available=not reason,
                    unavailable_reason=reason,
                    capabilities=capabilities,
                    active=view.active,
                    max_workers=view.max_workers,
                    cost=cost + agent,
                    agent_cost=agent,
                    uncounted=uncounted,
                    spent=view.spent,
                    cost_cap_hourly=view.cost_cap_hourly,
                    facts=facts.get(view.name),
                )
            )
        return tuple(found)

    def price(self, name: str, order: Order) -> float:
        """Return the worst-case USD of an order at an outpost; 0 where it names no price.

        Raises:
            SpawnRefusedError: the outpost says that it could not take the order.
            PluginError: the outpost cannot be built, or its price is no amount of money.
        """
        if not self.fleet.supports(name, "price"):
            return 0.0
        try:
            with contained(None):
                price = float(self.fleet.plugins.hook_of(name, "outpost_price")(order=order)[0])
                money.nano(price, "the price")
        except SpawnRefusedError as error:
            mask(error, order.secrets)
            raise
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its own
            self.fleet.blame(name, "outpost_price", error, order.secrets)
            trouble = PluginError(f"outpost_price failed: {type(error).__name__}: {error}")
            mask(trouble, order.secrets)
            raise trouble from None  # the cause's own text is not masked
        return price

    def standing(self, name: str) -> float:
        """Return the USD an hour that an outpost costs without a worker; 0 for a missing type.

        Raises:
            PluginError: its options cannot say it.
        """
        options = self.fleet.known(name).options
        if options is None:
            return 0.0
        try:
            with contained(None):
                standing = float(options.standing_cost())
                money.nano(standing, "it")
        except Exception as error:
            raise PluginError(f"standing_cost failed: {describe(error)}") from error
        return standing


def _known(
    ledger: Ledger,
) -> tuple[
    dict[str, OutpostNote],
    dict[str, int],
    dict[str, float],
    dict[str, Breaker],
    dict[str, Scaled],
]:
    """Return what is known of outposts: answers, workers, what was spent, breakers, what is up."""
    breakers = {one.name: one for one in ledger.breakers.all() if one.kind == "outpost"}
    spent = ledger.spent(time.time() - money.HOUR)
    return ledger.outposts(), ledger.active(), spent, breakers, ledger.scaling.all()


def _as_scaled(view: OutpostView, row: Scaled | None) -> OutpostView:
    """Return an outpost as it is seen where it may be meant not to answer."""
    if row is not None and row.phase != "down" and (more := (row.price or 0.0) - view.standing) > 0:
        view = replace(view, spent=view.spent + more, standing=view.standing + more)
    if row is None or row.phase == "up" or view.state in ("missing", "broken"):
        return replace(view, scaled=row)
    detail = row.error or WHEN_NEEDED if row.phase == "down" else row.reason
    return replace(view, scaled=row, state=row.phase.value, detail=detail, hint="")


def _is_tight(sheet: Candidate, more: int) -> bool:
    slots, cap = sheet.max_workers, sheet.cost_cap_hourly
    if slots is not None and sheet.active + more > slots:
        return True
    return cap is not None and sheet.spent + more * sheet.cost > cap


def slots_of(entry: OutpostConfig, config: Config) -> tuple[int | None, str]:
    """Return an outpost's slots, None for no limit, and where that comes from if not from its file.

    Where the type is missing, they are as its file says them. Nobody is limited unasked while
    there is no other outpost that could take what is over.
    """
    if entry.options is None:
        said = entry.raw.get("max_workers")
        return (said if isinstance(said, int) and not isinstance(said, bool) else None), ""
    if entry.options.max_workers is not None:
        return entry.options.max_workers, ""
    others = (other.options for other in config.outposts if other is not entry)
    if any(options is not None and options.max_workers != 0 for options in others):
        try:
            with contained(None):
                default = entry.options.default_slots()
            if default is not None:
                slots, reason = default
                return max(0, int(slots)), str(reason)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its own
            return None, f"type, which could not say how many ({describe(error)})"
    return None, ""


def _unavailable(view: OutpostView, now: float) -> str:
    """Return why an outpost is not to be tried, or ""."""
    if view.scaled is not None and view.scaled.phase != "up":
        return view.scaled.why()
    if view.state in ("missing", "broken", "unhealthy"):
        return f"{view.state}: {view.detail}"
    # by the distance alone: a clock that was set back must not avoid it for long
    recent = view.heard_at is not None and abs(now - view.heard_at) <= AVOID_AFTER_FAILURE
    return f"unreachable: {view.detail}" if view.state == "unreachable" and recent else ""
