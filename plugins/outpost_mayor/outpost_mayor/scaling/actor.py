"""Does what was decided of one outpost, step by step, so that it can be killed between any two.

What is under way stands in the ledger: whoever comes next goes on there. Starting and stopping are
asked again then, which changes nothing where it was done. One process at a time is at it, by a
lock of the outpost.

An outpost is stopped only while nobody works there: it gets no more workers once it drains, the
ledger knows of none that has not ended, its own list shows none (of others neither), and work that
no remote has is rescued before. All of that is asked again right before the stop, by whoever goes
on with it. Where any of it cannot be seen, it stays up, and says why; one that seems to be off is
not told to stop: a line that is cut looks like that.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError, PluginError
from outpost_core.types import Scale, State, WorkerStatus
from outpost_manager.config.scaling import ScalingConfig
from outpost_manager.ledger.scaling import Phase, Scaled
from outpost_manager.offloop import off_loop
from outpost_manager.placing import references
from outpost_shared import faults
from outpost_shared.backoff import Backoff
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

_log = Logger("scale")
#: Where rescued work is when the rig has it.
_ON_RIG: Final = "refs/"
_SEEMS_OFF: Final = "it seems to be off, so it was not told to stop"


class Actor:
    """Brings outposts up and down.

    Args:
        manager: an open one.
        clock: seconds since the epoch.
    """

    def __init__(self, manager: Manager, clock: Callable[[], float] = time.time) -> None:
        self._manager = manager
        self._clock = clock

    async def look(self, name: str) -> Scale:
        """Ask an outpost how much of it is up.

        Raises:
            OutpostError: it cannot be said.
        """
        return await self._ask(name, None, self._manager.config.defaults.answer_timeout)

    async def act(self, name: str) -> bool:
        """Go on with what is under way at an outpost; return whether somebody else is at it.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        with self._alone(name) as alone:
            if not alone:
                return True
            row = (await self._manager.ledger.scaling.all()).get(name)
            if row is None:
                return False
            if row.phase is Phase.STARTING:
                await self._start(row)
            elif row.phase is Phase.DRAINING:
                if await self._drain(row):
                    await self._stop(row)
            elif row.phase is Phase.STOPPING:
                await self._stop(row)
            elif row.phase is Phase.UP and row.desired != row.running:
                await self._adjust(row)
            return False

    # --- steps ----------------------------------------------------------------------------------

    async def _start(self, row: Scaled) -> None:
        name, scaling = row.outpost, self._manager.ledger.scaling
        faults.point("scale.decided")
        try:
            told = await self._ask(name, row.desired, self._patience(name))
            if told.running < min(1, row.desired):
                raise PluginError(f"its start was answered, but nothing is up ({told.detail})")
            if not told.always:
                await self._answers(name)
        except OutpostError as error:
            _log.warning("%s could not be started: %s", name, error.message)
            await scaling.refused(name, Phase.DOWN, error.message, self._clock())
            return
        faults.point("scale.asked")
        price = price_of(self._manager, name, told, told.running)
        await scaling.done(name, told.running, self._clock(), always=told.always, price=price)
        _log.info("%s is up", name)
        await self._manager.watch.refresh([name])

    async def _adjust(self, row: Scaled) -> None:
        """Change how much is up of what takes work all the while."""
        name, scaling = row.outpost, self._manager.ledger.scaling
        faults.point("scale.decided")
        try:
            told = await self._ask(name, row.desired, self._patience(name))
        except OutpostError as error:
            _log.warning("%s could not be changed: %s", name, error.message)
            await scaling.refused(name, Phase.UP, error.message, self._clock())
            return
        faults.point("scale.asked")
        price = price_of(self._manager, name, told, told.target)
        await scaling.done(name, told.target, self._clock(), always=True, price=price)

    async def _drain(self, row: Scaled) -> bool:
        """Make sure that nothing is lost when the outpost stops; return whether it is to stop."""
        name, scaling = row.outpost, self._manager.ledger.scaling
        faults.point("scale.decided")
        if (await self._manager.ledger.active()).get(name):
            return False  # they end by themselves; it gets no others
        try:
            why = await self._rescued(await self._listed(name))
        except OutpostError as error:
            why = f"nobody knows what is there: {error.message}"
        if why:
            await self._stays(name, why)
            return False
        if not await scaling.empty(name, self._clock()):
            return False
        faults.point("scale.emptied")
        return True

    async def _stop(self, row: Scaled) -> None:
        """Stop an outpost, once the ledger and the outpost itself say again that it may be.

        It was drained by whoever was here before, which may be long ago.
        """
        name, scaling = row.outpost, self._manager.ledger.scaling
        if not await scaling.empty(name, self._clock()):
            await self._stays(name, "a worker there has not ended")
            return
        try:
            told = await self.look(name)
            if told.running <= row.desired:
                # or its line is cut, and somebody works there: whoever sees it up again stops it
                await self._stopped(row, told, _SEEMS_OFF)
                return
            if why := await self._rescued(await self._listed(name)):
                await self._stays(name, why)
                return
            told = await self._ask(name, row.desired, self._patience(name))
            faults.point("scale.asked")
            if told.running > row.desired:
                raise PluginError(f"its stop was answered, but it is up ({told.detail})")
        except OutpostError as error:
            await self._stays(name, error.message)
            return
        await self._stopped(row, told)

    async def _stopped(self, row: Scaled, told: Scale, why: str = "") -> None:
        price = price_of(self._manager, row.outpost, told, row.desired)
        scaling = self._manager.ledger.scaling
        await scaling.done(row.outpost, row.desired, self._clock(), price=price, why=why)
        _log.info("%s is %s", row.outpost, "down" if not row.desired else f"at {row.desired}")

    async def _stays(self, name: str, why: str) -> None:
        _log.warning("%s stays up: %s", name, why)
        scaling = self._manager.ledger.scaling
        await scaling.refused(name, Phase.UP, f"it stays up: {why}", self._clock())

    # --- what is there --------------------------------------------------------------------------

    async def _listed(self, name: str) -> list[WorkerStatus]:
        manager = self._manager
        await manager.watch.refresh([name])
        return [*await manager.fleet.list(name, timeout=manager.config.defaults.answer_timeout)]

    async def _rescued(self, there: list[WorkerStatus]) -> str:
        """Have all work there be where it outlives the outpost; say why it is not, or ""."""
        if running := _running(there):
            return f"{running[0].id} runs there"
        kept = [one for one in there if not _is_safe(one)]
        ours = await self._manager.ledger.ordered([one.id for one in kept])
        for one in kept:
            if one.id not in ours:
                return f"{one.id} of somebody else has work there that no remote took"
            try:
                cleaned = await self._manager.clean(references.exact(one.id))
            except OutpostError as error:
                return f"the work of {one.id} could not be rescued: {error.message}"
            if not cleaned.removed:
                return f"the work of {one.id} could not be rescued: {cleaned.detail}"
            if cleaned.rescued and not await self._is_elsewhere(cleaned.rescued):
                return f"the work of {one.id} is kept there alone: {cleaned.rescued}"
        return ""

    async def _is_elsewhere(self, rescued: str) -> bool:
        """Whether rescued work is on its rig, or in a file of this machine."""
        if rescued.startswith(_ON_RIG):
            return True
        return await off_loop(_is_under, self._manager.state, Path(rescued))

    async def _answers(self, name: str) -> None:
        """Wait until an outpost that was started answers.

        Raises:
            OutpostError: it does not, for as long as starting may take.
        """
        manager = self._manager
        again = Backoff(0.2, 5.0, growth=1.5, within=self._patience(name))
        while True:
            try:
                await manager.fleet.ping(name, timeout=manager.config.defaults.answer_timeout)
            except OutpostError:
                if again.over:
                    raise
            else:
                return
            await again.wait()

    # --- asking ---------------------------------------------------------------------------------

    async def _ask(self, name: str, to: int | None, timeout: float) -> Scale:
        return await self._manager.fleet.ask_for(
            Scale, name, "outpost_scale", timeout=timeout, to=to
        )

    def _patience(self, name: str) -> float:
        return rule_of(self._manager, name).patience

    @contextmanager
    def _alone(self, name: str) -> Iterator[bool]:
        """Be the only one who changes an outpost; yields False where somebody else is."""
        folder = self._manager.state / "mayor"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(folder / f"scale-{name}.lock", flags, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True
        finally:
            with suppress(OSError):
                os.close(fd)


def price_of(manager: Manager, name: str, told: Scale, units: int) -> float | None:
    """Return the USD an hour of so many units of an outpost; None when nobody knows.

    Args:
        manager: an open one.
        name: of the outpost.
        told: what it said of itself.
        units: how many.
    """
    own = rule_of(manager, name).price
    price = told.price if own is None else own
    return None if price is None else price * units


def cap_of(manager: Manager, name: str) -> float | None:
    """Return the USD that an outpost may cost in any hour; None for any."""
    options = manager.fleet.known(name).options
    return None if options is None else options.cost_cap_hourly


def rule_of(manager: Manager, name: str) -> ScalingConfig:
    """Return what is configured of an outpost; the defaults where nothing is."""
    return manager.fleet.known(name).scaling or ScalingConfig()


def _is_under(folder: Path, path: Path) -> bool:
    return path.exists() and path.resolve().is_relative_to(folder.resolve())


def _running(there: list[WorkerStatus]) -> list[WorkerStatus]:
    return [one for one in there if not one.state.terminal]


def _is_safe(status: WorkerStatus) -> bool:
    """Whether nothing of an ended worker is only where it ran."""
    result = status.result
    if result is None:
        return False
    if result.state is State.DONE or result.agent_began is False:
        return True
    return result.checkpoint is not None and result.checkpoint.startswith(_ON_RIG)
