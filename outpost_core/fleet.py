"""The configured outposts as objects: built when first used, asked one by one, each with its own
timeout and its own error, so that a dead or hanging one never delays or breaks the others.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outpost_core.backend import BuildContext, Outpost
from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    PluginError,
    UnreachableError,
    UnsupportedError,
)
from outpost_core.hookspecs import CAPABILITIES
from outpost_core.types import Candidate, Health, Order

if TYPE_CHECKING:
    import asyncio  # at run time where it is used: describing outposts is quicker without

    from outpost_core.config import Config, OutpostConfig
    from outpost_core.ledger import Ledger, OutpostNote
    from outpost_core.plugins import Plugins

#: After an outpost did not answer, placement passes it over for this long (seconds), so that one
#: dead host does not cost its whole timeout at every spawn.
AVOID_AFTER_FAILURE = 30.0


@dataclass(frozen=True, kw_only=True)
class OutpostView:
    """One configured outpost as a person sees it.

    Args:
        name: its name.
        type: its type.
        package: the distribution that provides the type, or "".
        version: that distribution's version, or "".
        state: `ready`, `unknown` (never asked), `unhealthy`, `unreachable`, `missing` (nobody
            provides the type) or `broken`.
        detail: what it said, or why it is not ready.
        mend: the next step.
        active: workers there that have not ended.
        max_workers: its slots; None for no limit.
        capabilities: what it declares.
        since: since when it has been reachable or not; None when never asked.
        spent: USD reserved or settled there in the last hour.
        cost_cap_hourly: USD; None for no cap.
        health: its last answer to ping in this process.
    """

    name: str
    type: str
    package: str = ""
    version: str = ""
    state: str = "unknown"
    detail: str = ""
    mend: str = ""
    active: int = 0
    max_workers: int | None = None
    capabilities: frozenset[str] = frozenset()
    since: float | None = None
    spent: float = 0.0
    cost_cap_hourly: float | None = None
    health: Health | None = None


@dataclass(kw_only=True, eq=False)
class Fleet:
    """The outposts of one configuration.

    Args:
        config: the configuration.
        plugins: where backends come from and outposts are registered.
        state_dir: the state folder.
    """

    config: Config
    plugins: Plugins
    state_dir: Path
    _built: dict[str, Outpost] = field(default_factory=dict)
    _errors: dict[str, PluginError] = field(default_factory=dict)
    _left: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def names(self) -> list[str]:
        """The configured names, in the order of the file."""
        return [outpost.name for outpost in self.config.outposts]

    @property
    def broken(self) -> frozenset[str]:
        """Outposts that could not be built in this process."""
        return frozenset(self._errors)

    def configured(self, name: str) -> OutpostConfig:
        """Return the configuration of one outpost.

        Raises:
            NotFoundError: no outpost has that name.
        """
        for outpost in self.config.outposts:
            if outpost.name == name:
                return outpost
        from difflib import get_close_matches

        near = get_close_matches(name, self.names, n=1)
        raise NotFoundError(
            f"there is no outpost named {name!a}",
            mend=f"did you mean {near[0]}?" if near else f"there are: {', '.join(self.names)}",
        )

    def outpost(self, name: str) -> Outpost:
        """Return the outpost object, built and registered when first asked for.

        Raises:
            NotFoundError: no outpost has that name.
            PluginError: its type is missing, or it could not be built.
        """
        if name in self._built:
            return self._built[name]
        if name in self._errors:
            raise self._errors[name]
        entry = self.configured(name)
        try:
            built = self._build(entry)
        except PluginError as error:
            self._errors[name] = error
            raise
        self._built[name] = built
        return built

    def _build(self, entry: OutpostConfig) -> Outpost:
        backend = self.plugins.backends.get(entry.type)
        if backend is None or entry.options is None:
            raise PluginError(
                f"nothing installed provides the type {entry.type!r} of outpost {entry.name!r}",
                mend=self.plugins.missing_mend(entry.type),
            )
        path = self.config.path
        context = BuildContext(
            state_dir=self.state_dir / "outposts" / entry.name,
            config_dir=path.parent if path else None,
        )
        try:
            built = backend.build(entry.name, entry.options, context)
            self.plugins.register_outpost(built)
        except PluginError:
            raise
        except Exception as error:
            raise PluginError(
                f"outpost {entry.name!r} could not be built: {type(error).__name__}: {error}",
                mend="outpost backends shows its package; outpost config check its options",
            ) from error
        return built

    def supports(self, name: str, capability: str) -> bool:
        """Whether the outpost declares the capability."""
        return capability in self.outpost(name).capabilities

    def require(self, name: str, capability: str) -> None:
        """Raise UnsupportedError, in words for people, unless the capability is declared."""
        outpost = self.outpost(name)
        if capability not in outpost.capabilities:
            can = sorted(c for c in outpost.capabilities if c in CAPABILITIES)
            raise UnsupportedError(
                f"outpost {name!r} (type {outpost.type}) cannot {capability}",
                mend=f"it can: {', '.join(can) or 'spawn, list, ping, logs and stop'}",
            )

    async def ask(self, name: str, hook: str, *, timeout: float, **arguments: Any) -> Any:
        """Call one hook of one outpost and await it.

        Args:
            name: the outpost.
            hook: the hook's name.
            timeout: seconds; a hanging call is left behind, cancelled.
            arguments: the hook's.

        Raises:
            UnreachableError: no answer in time.
            OutpostError: what the outpost raised, as it is.
            PluginError: it raised something else, or cannot be built.
        """
        self.outpost(name)
        answers = self.plugins.hook_of(name, hook)(**arguments)
        if not answers:
            raise PluginError(f"outpost {name!r} answered nothing to {hook}")
        return await self._bounded(name, hook, answers[0], timeout)

    async def _bounded(self, name: str, hook: str, answer: Awaitable[Any], timeout: float) -> Any:
        import asyncio

        task = asyncio.ensure_future(answer)
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            task.cancel()
            self._left.add(task)  # it may ignore the cancellation; nobody waits for it
            task.add_done_callback(self._forget)
            raise UnreachableError(
                f"outpost {name!r} did not answer {hook.removeprefix('outpost_')} within"
                f" {timeout:g} s",
                mend=f"outpost doctor {name}",
            )
        try:
            return task.result()
        except OutpostError:
            raise
        except Exception as error:
            raise PluginError(
                f"outpost {name!r} failed in {hook}: {type(error).__name__}: {error}",
                mend=f"outpost doctor {name}; this is a defect of its package",
            ) from error

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not complain at exit

    async def ask_all(
        self, names: Iterable[str], hook: str, *, timeout: float, **arguments: Any
    ) -> dict[str, Any]:
        """Ask several outposts at once; each value is the answer or its OutpostError."""
        import asyncio

        names = list(names)
        answers = await asyncio.gather(
            *(self.ask(name, hook, timeout=timeout, **arguments) for name in names),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, OutpostError):
                raise answer
        return dict(zip(names, answers, strict=True))

    def logs(self, name: str, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Return the outpost's stream of a worker's output."""
        self.outpost(name)
        caller = self.plugins.hook_of(name, "outpost_logs")
        stream: AsyncIterator[bytes] = caller(worker=worker, offset=offset, follow=follow)[0]
        return stream

    async def close(self) -> None:
        """Let every built outpost go of what it holds."""
        for name, outpost in self._built.items():
            if hasattr(outpost, "outpost_close"):
                await self.ask(name, "outpost_close", timeout=5.0)
            self.plugins.pm.unregister(name=name)
        self._built.clear()

    # --- what people and the policy see -----------------------------------------------------

    def views(self, ledger: Ledger, health: dict[str, Health] | None = None) -> list[OutpostView]:
        """Describe every outpost without asking any."""
        notes, active = ledger.outposts(), ledger.active()
        spent = ledger.spent(time.time() - 3600)
        return [
            self._view(entry, notes.get(entry.name), active, spent, (health or {}).get(entry.name))
            for entry in self.config.outposts
        ]

    def _view(
        self,
        entry: OutpostConfig,
        note: OutpostNote | None,
        active: dict[str, int],
        spent: dict[str, float],
        health: Health | None,
    ) -> OutpostView:
        home = self.plugins.homes.get(entry.type)
        backend = self.plugins.backends.get(entry.type)
        state, detail, mend = "unknown", "", ""
        if backend is None or entry.options is None:
            state, detail = "missing", f"nothing installed provides the type {entry.type!r}"
            mend = self.plugins.missing_mend(entry.type)
        elif error := self._errors.get(entry.name):
            state, detail, mend = "broken", error.message, error.mend
        elif health is not None:
            state, detail, mend = "ready" if health.ok else "unhealthy", health.detail, health.mend
        elif note is not None:
            state, detail = "ready" if note.reachable else "unreachable", note.detail
        built = self._built.get(entry.name)
        declared = built.capabilities if built else backend.capabilities if backend else frozenset()
        return OutpostView(
            name=entry.name,
            type=entry.type,
            package=home.package if home else "",
            version=home.version if home else "",
            state=state,
            detail=detail,
            mend=mend,
            active=active.get(entry.name, 0),
            max_workers=entry.options.max_workers if entry.options else None,
            capabilities=declared,
            since=note.since if note else None,
            spent=spent.get(entry.name, 0.0),
            cost_cap_hourly=entry.options.cost_cap_hourly if entry.options else None,
            health=health,
        )

    def candidates(
        self, order: Order, views: list[OutpostView], now: float
    ) -> tuple[Candidate, ...]:
        """Make the policy's fact sheets for one order."""
        sheets = []
        for position, view in enumerate(views):
            reason = ""
            stale = view.since is not None and now - view.since > AVOID_AFTER_FAILURE
            if view.state in ("missing", "broken", "unhealthy"):
                reason = f"{view.state}: {view.detail}"
            elif view.state == "unreachable" and not stale:
                reason = f"unreachable: {view.detail}"
            cost, capabilities = 0.0, view.capabilities
            if not reason:
                try:
                    cost = self.price(view.name, order)
                    capabilities = self.outpost(view.name).capabilities
                except OutpostError as error:
                    reason = f"broken: {error.message}"
            sheets.append(
                Candidate(
                    name=view.name,
                    type=view.type,
                    position=position,
                    available=not reason,
                    unavailable_reason=reason,
                    capabilities=capabilities,
                    active=view.active,
                    max_workers=view.max_workers,
                    cost=cost,
                    spent=view.spent,
                    cost_cap_hourly=view.cost_cap_hourly,
                )
            )
        return tuple(sheets)

    def price(self, name: str, order: Order) -> float:
        """Return the worst-case USD of an order at an outpost; 0 where it names no price.

        Raises:
            PluginError: the outpost cannot be built, or its price is no number ≥ 0.
        """
        if not self.supports(name, "price"):
            return 0.0
        try:
            price = float(self.plugins.hook_of(name, "outpost_price")(order=order)[0])
        except Exception as error:
            raise PluginError(f"outpost_price failed: {type(error).__name__}: {error}") from error
        if not 0 <= price < float("inf"):
            raise PluginError(f"outpost_price answered {price}")
        return price
