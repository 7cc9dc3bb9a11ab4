"""Who asks for a worker gets it: made here, followed here, or told where it is.

Whatever instance is asked, and however often, an attempt runs once (law 1): nothing is started but
for the one claim that stands.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from weakref import WeakValueDictionary

from outpost_cloudrun.server import elsewhere
from outpost_cloudrun.server.asked import Asked
from outpost_cloudrun.server.following import Following
from outpost_cloudrun.server.here import TERMINATED, Here, Pace
from outpost_cloudrun.server.instance import Instance
from outpost_cloudrun.server.lines import Numbered
from outpost_cloudrun.server.places import Place, place_of
from outpost_cloudrun.server.settings import Settings
from outpost_cloudrun.server.stopping import NEVER_BEGAN
from outpost_cloudrun.server.watching import Watching
from outpost_core import wire
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)
from outpost_core.names import RIG_CREDENTIAL, checkpoint_ref
from outpost_core.types import Order, Result, State, WorkerStatus
from outpost_shared.backoff import every
from outpost_worker.container import reference
from outpost_worker.container.claims import Claims, Known
from outpost_worker.folder import files
from outpost_worker.record.kinds import Claim, Found, SupersededError
from outpost_worker.record.places import pushed_to
from outpost_worker.record.standing import launched
from outpost_worker.repository import credentials
from outpost_worker.repository.mirror import asking
from outpost_worker.run import stop
from outpost_worker.serving.request import mask

#: Seconds for what a worker of an earlier leg has left here to be gone.
_GONE: Final = 15.0
#: Seconds that an agent has to end by itself when this instance ends.
_LAST_GRACE: Final = 2.0
#: Seconds that a rig has to say where a checkpoint is.
_ANSWER: Final = 60.0


class Taking:
    """Takes work, and finds what was taken.

    Args:
        settings: of this program.
        instance: this instance.
        watching: looks at the folders.
        final: the end of this instance is the end of its workers: no other one goes on.
    """

    def __init__(
        self, settings: Settings, instance: Instance, watching: Watching, *, final: bool = False
    ) -> None:
        self._settings = settings
        self._instance = instance
        self._watching = watching
        look = settings.look
        self._pace = Pace(look=look * 3, beat=look * 10, followed=look * 30, unrecorded=look * 20)
        self._final = final
        self._claims = Claims(settings.root)
        self._here: dict[str, Here] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._unwanted: Counter[tuple[str, str]] = Counter()
        self.moving = False

    async def resume(self) -> None:
        """Go on with what an earlier process of this state folder had claimed."""
        for worker in await asyncio.to_thread(self._claims.workers):
            with suppress(OutpostError, OSError):
                (await self.here(worker)).begin()

    async def here(self, worker: str) -> Here:
        """Return a worker of this instance.

        Raises:
            NotFoundError: it is not here.
        """
        status = await asyncio.to_thread(self._instance.status_of, worker)
        found = self._here.get(worker)
        if found is None:
            known = await asyncio.to_thread(self._claims.read, worker)
            place = None if known is None else await asyncio.to_thread(self._place_again, worker)
            if place is None:
                known = None
            found = self._here.setdefault(worker, self._made(place, known, status))
        return found

    async def follow(self, worker: str, after: int, offset: int) -> AsyncGenerator[bytes, None]:
        """Return the stream of a worker of this instance.

        Raises:
            NotFoundError: it is not here.
        """
        return self._stream(await self.here(worker), after, offset)

    async def take(self, wanted: Asked) -> AsyncGenerator[bytes, None]:
        """Make or find a worker, and return its stream.

        Raises:
            ConflictError: it is there, with another order.
            NotFoundError: it is nowhere, and nothing was to be started.
            SpawnRefusedError: it was certainly not started.
            UnreachableError: nobody knows.
        """
        async with self.lock(wanted.order.worker):
            try:
                return await self._take(wanted)
            except OutpostError as error:
                mask(error, wanted.order.secrets)
                raise

    def lock(self, worker: str) -> asyncio.Lock:
        """Return what is held while a worker is made, stopped or removed here."""
        lock = self._locks.get(worker)
        if lock is None:
            lock = self._locks[worker] = asyncio.Lock()
        return lock

    @contextmanager
    def unwanted(self, worker: str, owner: str) -> Iterator[None]:
        """Begin no agent of a worker within the block: whoever wants its end waits for its lock.

        Args:
            worker: its id.
            owner: whose.
        """
        self._unwanted[worker, owner] += 1
        try:
            yield
        finally:
            self._unwanted -= Counter([(worker, owner)])

    async def workers(self) -> list[WorkerStatus]:
        """Return the workers of this instance, each as its stream tells it.

        One whose leg here is over is none of them: another instance has it, or will.
        """
        found = []
        for status in await self._instance.outpost_list():
            here = await self._found(status.id)
            if here is None:
                continue
            shown = here.as_shown(status)
            if not here.superseded and here.moved is None:
                found.append(shown)
        return found

    async def forget(self, worker: str) -> None:
        """Know nothing of a worker any more whose files are gone."""
        here = self._here.pop(worker, None)
        if here is not None:
            await here.end()
        await asyncio.to_thread(self._claims.forget, worker)
        await asyncio.to_thread(self.drop_login, worker)

    def drop_login(self, worker: str) -> None:
        """Keep no login of a worker that does not run here."""
        credentials.remove(str(self._instance.root), worker)

    def place(self, order: Order, git_credentials: str) -> Place | None:
        """Return where an order's record is; None where nothing outlives this instance."""
        return place_of(self._settings, order, self._login(order, git_credentials))

    async def move(self, within: float) -> None:
        """End all that runs here, with its work pushed, so that another instance can go on.

        Args:
            within: seconds; whatever was not pushed by then is said not to be.
        """
        self.moving = True
        end = time.monotonic() + within
        workers = [one.id for one in await self._instance.outpost_list() if one.result is None]
        await asyncio.gather(*(asyncio.to_thread(self._terminate, one) for one in workers))
        heres = [here for worker in workers if (here := await self._found(worker)) is not None]
        async for _ in every(0.05, within=end - time.monotonic()).rounds():
            ends = await asyncio.to_thread(self._ends, heres)
            if all(map(_is_told, heres, ends)):
                return
        for here, result in zip(heres, ends, strict=True):
            if here.settled is None and here.moved is None and not here.superseded:
                here.move(result)

    async def _found(self, worker: str) -> Here | None:
        try:
            return await self.here(worker)
        except OutpostError:  # it was removed at this moment
            return None

    def _ends(self, heres: Sequence[Here]) -> Sequence[Result | None]:
        """Return how each worker has ended here; None for one that has not, or is gone."""
        ends: list[Result | None] = []
        for here in heres:
            try:
                ends.append(self._instance.status_of(here.worker).result)
            except OutpostError:
                ends.append(None)
        return ends

    def _terminate(self, worker: str) -> None:
        with suppress(OutpostError, OSError):
            stop.request(self._instance.folder_of(worker), _LAST_GRACE, TERMINATED)

    # --- inside ---------------------------------------------------------------------------------

    def _made(self, place: Place | None, known: Known | None, status: WorkerStatus) -> Here:
        return Here(
            self._instance, self._watching, self._claims, place, known, status, self._pace,
            final=self._final,
        )  # fmt: skip

    def _stream(self, here: Here, after: int, offset: int) -> AsyncGenerator[bytes, None]:
        return self._lines(here, self._numbered(after, offset))

    def _numbered(self, after: int, offset: int) -> Numbered:
        return Numbered(after, offset, {"instance": self._instance.id})

    async def _lines(self, here: Here, numbered: Numbered) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a worker here, and where another instance takes it over, of that."""
        status = await asyncio.to_thread(self._instance.status_of, here.worker)
        beat = self._settings.beat
        following = Following(self._instance, self._watching, here, numbered, beat)
        async for line in following.lines(status):
            yield line
        if here.superseded and here.place is not None:
            found = await asyncio.to_thread(here.place.record.read, here.worker)
            if found is not None:
                look = self._settings.look
                async for line in elsewhere.lines(here.place, found, numbered, beat, look):
                    yield line

    async def _take(self, wanted: Asked) -> AsyncGenerator[bytes, None]:
        order, digest = wanted.order, wire.digest(wanted.order)
        try:
            here = await self.here(order.worker)
        except NotFoundError:
            here = None
        if here is not None:
            await self._check_owner(here, wanted)
        if here is not None and not self._is_over(here, wanted):
            await asyncio.to_thread(self._instance.find, order)
            if not wanted.attach and not self.moving:
                await self._instance.outpost_spawn(order=order)  # it may not have begun
            here.begin()
            if wanted.git_credentials and here.settled is None:
                await asyncio.to_thread(self._renew_login, order, wanted.git_credentials)
            return self._stream(here, wanted.after, wanted.offset)
        if self.moving:
            raise UnreachableError("this instance is going away", sent=False)
        place = await asyncio.to_thread(self.place, order, wanted.git_credentials)
        if place is None:
            return await self._without_record(wanted)
        claim, found = await self._claimed(wanted, place, digest)
        if claim is None:
            await asyncio.to_thread(self.drop_login, order.worker)
            return self._elsewhere(place, found, wanted)
        result = await asyncio.to_thread(place.delivered, found) if found else None
        if result is None and wanted.attach:
            result = await asyncio.to_thread(self._lost, order, place)
        elif result is None and claim.leg == 1 and (order.worker, order.owner) in self._unwanted:
            result = NEVER_BEGAN
        if result is not None:
            await asyncio.to_thread(place.record.finish, claim, result, b"")
            await self.forget(order.worker)
            return self._elsewhere(
                place, await asyncio.to_thread(place.record.read, order.worker), wanted
            )
        return await self._spawn(wanted, place, claim)

    async def _check_owner(self, here: Here, wanted: Asked) -> None:
        """Refuse who asks for a worker of his own where that of another machine is.

        Raises:
            ConflictError: it cannot be started here.
            UnreachableError: it is said to run, or to have run, in another container.
        """
        try:
            await asyncio.to_thread(here.check_owner, wanted.order.owner)
        except ConflictError as error:
            if wanted.attach or wanted.take_over:
                raise UnreachableError(error.message, hint=error.hint, sent=False) from error
            raise

    def _is_over(self, here: Here, wanted: Asked) -> bool:
        """Whether the leg that was here has ended, and the record says who goes on."""
        if here.known is None:
            return False
        return here.superseded or (
            here.moved is not None and wanted.take_over == here.known.claim.id
        )

    async def _without_record(self, wanted: Asked) -> AsyncGenerator[bytes, None]:
        """Start a worker that nothing outside of this instance knows of."""
        order = wanted.order
        if wanted.attach:
            raise NotFoundError(f"{order.worker} is not here, and has no record elsewhere")
        if not self._settings.single:
            raise SpawnRefusedError(
                f"{order.worker} has neither a rig nor a bucket where it could be claimed, so"
                " several instances might run it",
                hint="give the order a rig, configure a `bucket`, or let the service have one"
                " instance at most",
            )
        status = await self._instance.outpost_spawn(order=order)
        here = self._here[order.worker] = self._made(None, None, status)
        return self._stream(here, wanted.after, wanted.offset)

    async def _claimed(
        self, wanted: Asked, place: Place, digest: str
    ) -> tuple[Claim | None, Found | None]:
        """Claim a worker; return the claim when it is ours, and what stood before or stands.

        Raises:
            NotFoundError: nothing stands, and nothing was to be started.
            ConflictError: another order has its id.
        """
        order, record = wanted.order, place.record
        found = None
        known = await asyncio.to_thread(self._claims.read, order.worker)
        ours = known.claim if known else None
        if ours is not None and (ours.digest, ours.owner) != (digest, order.owner):
            ours = None
        if wanted.take_over or wanted.attach:
            found = await asyncio.to_thread(record.read, order.worker)
            self._check_digest(found, digest)
            if found is None and wanted.attach:
                raise NotFoundError(f"nobody has {order.worker}")
        if found is None:
            claim = ours or self._claim(order, digest, wanted.leg)
            await asyncio.to_thread(self._claims.write, Known(claim=claim))
            stands = await asyncio.to_thread(record.claim, claim)
            if stands.id == claim.id:
                return claim, None
        elif found.result is None and ours == found.claim and not wanted.attach:
            return ours, found  # it is ours since before this process began
        elif found.result is not None or not _is_meant(found, wanted):
            return None, found
        elif (next_one := await self._taken_over(order, place, found)) is not None:
            return next_one, found
        await asyncio.to_thread(self._claims.forget, order.worker)
        found = await asyncio.to_thread(record.read, order.worker)
        self._check_digest(found, digest)
        return None, found

    async def _taken_over(self, order: Order, place: Place, found: Found) -> Claim | None:
        """Begin the leg after one that is over; None where another instance was faster."""
        claim = self._claim(order, found.claim.digest, found.claim.leg + 1)
        await self._clear(order.worker)
        await asyncio.to_thread(self._claims.write, Known(claim=claim))
        try:
            stands = await asyncio.to_thread(place.record.take_over, claim, found.seen)
        except SupersededError:
            return None
        return claim if stands.id == claim.id else None

    async def _clear(self, worker: str) -> None:
        """Remove what an earlier leg of a worker has left on this instance.

        Raises:
            UnreachableError: it is not over yet.
        """
        why = ""
        async for _ in every(0.2, within=_GONE).rounds():
            cleaned = await self._instance.outpost_clean(worker=worker, force=False)
            if cleaned.removed:
                await self.forget(worker)
                return
            why = cleaned.detail
        raise UnreachableError(
            f"what an earlier leg of {worker} left here cannot be removed: {why}", sent=False
        )

    def _claim(self, order: Order, digest: str, leg: int) -> Claim:
        return Claim(
            worker=order.worker,
            digest=digest,
            owner=order.owner,
            instance=self._instance.id,
            leg=leg,
        )

    def _check_digest(self, found: Found | None, digest: str) -> None:
        if found is not None and found.claim.digest != digest:
            raise ConflictError(
                f"worker {found.claim.worker} is there already, with another order",
                hint="use --again for a further attempt, or the very same order to adopt it",
            )

    def _elsewhere(
        self, place: Place, found: Found | None, wanted: Asked
    ) -> AsyncGenerator[bytes, None]:
        if found is None:
            raise UnreachableError(
                f"the record of {wanted.order.worker} was removed while it was asked", sent=False
            )
        numbered = self._numbered(wanted.after, wanted.offset)
        return elsewhere.lines(place, found, numbered, self._settings.beat, self._settings.look)

    async def _spawn(
        self, wanted: Asked, place: Place, claim: Claim
    ) -> AsyncGenerator[bytes, None]:
        """Start the worker of a claim that is ours."""
        order = wanted.order
        base = 0
        if claim.leg > 1:
            kept = place.log(order.worker, order.owner)
            base = wanted.offset
            if kept is not None:
                base = await asyncio.to_thread(kept.begin, claim.leg, wanted.offset)
        known = Known(claim=claim, base=base)
        if base:
            await asyncio.to_thread(self._claims.write, known)
        more: dict[str, Any] = {}
        if claim.leg > 1 and wanted.timeout_left is not None:
            more["timeout"] = wanted.timeout_left
        if self._settings.rig_reference and order.rig:
            await asyncio.to_thread(self._begin_mirror, order.rig)
        self._instance.run_by(order.worker, {**launched(claim, place.ask(claim)), **more})
        try:
            status = await self._instance.outpost_spawn(order=order)
        except SpawnRefusedError:
            if claim.leg == 1:  # nothing runs, and another instance may be luckier
                await asyncio.to_thread(place.record.forget, order.worker)
            await self.forget(order.worker)
            raise
        finally:
            self._instance.run_by(order.worker, None)
        here = self._here[order.worker] = self._made(place, known, status)
        here.begin()
        if self.moving:  # since it was claimed
            await asyncio.to_thread(self._terminate, order.worker)
        return self._stream(here, wanted.after, wanted.offset)

    def _begin_mirror(self, rig: str) -> None:
        """Let the first worker of a rig find what the container has of it; else it clones."""
        root, place = str(self._instance.root), self._settings.rig_reference
        if why := reference.begin(root, rig, place, lambda _: None):
            sys.stderr.write(f"outpost: OUTPOST_RIG_REFERENCE is not used: {why}\n")

    def _lost(self, order: Order, place: Place) -> Result:
        """Return how a worker ended whose instance is gone, with the checkpoint that it left.

        Raises:
            UnreachableError: its rig cannot be asked.
        """
        ref, checkpoint = checkpoint_ref(order.worker, order.owner), None
        if place.goal:
            git = asking(place.goal, place.credentials)
            done = git.run("ls-remote", "--", git.url, ref, timeout=_ANSWER)
            if done.code:
                raise UnreachableError(f"the rig of {order.worker} does not answer: {done.text}")
            checkpoint = ref if done.text.partition("\t")[2].strip() == ref else None
        return Result(
            state=State.LOST,
            reason="lost_process",
            message="its instance was taken away",
            checkpoint=checkpoint,
            agent_began=True,
        )

    def _place_again(self, worker: str) -> Place | None:
        """Return where the record of a worker is whose folder is here."""
        try:
            order = wire.from_json(Order, self._instance.order_of(worker))
        except UsageError:
            return None
        return place_of(self._settings, order, self._kept_login(worker))

    def _login(self, order: Order, git_credentials: str) -> str:
        """Keep what git logs in with for an order; return it as `Git` has it.

        What came with the order goes first, then what its rig's URL held, then the container's.

        Raises:
            SpawnRefusedError: it is no login.
        """
        root, of_rig = str(self._instance.root), order.secrets.get(RIG_CREDENTIAL, "")
        text = git_credentials or ("" if of_rig else self._settings.git_credentials)
        if text and order.rig is not None:
            rigs = [rig for rig in (order.rig, pushed_to(order)) if rig]
            try:
                return credentials.store(root, order.worker, text, rigs)
            except UsageError as error:
                raise SpawnRefusedError(error.message, hint=error.hint) from error
        if of_rig:
            return self._claims.keep_login(order.worker, of_rig)
        return self._kept_login(order.worker)

    def _renew_login(self, order: Order, git_credentials: str) -> None:
        """Let a worker that is here use what came now: the token of an app lives for an hour.

        What is no login changes nothing; nor does one for a worker that began without any.
        """
        root = str(self._instance.root)
        if credentials.of_worker(root, order.worker):
            rigs = [rig for rig in (order.rig, pushed_to(order)) if rig]
            with suppress(UsageError, OSError):
                credentials.store(root, order.worker, git_credentials, rigs)

    def _kept_login(self, worker: str) -> str:
        """Return what git logs in with for a worker that is here, or is just being made here."""
        root = self._instance.root
        own = root / files.WORKERS / worker / files.CREDENTIALS
        if found := credentials.of_worker(str(root), worker) or self._claims.login(worker):
            return found
        return str(own) if own.exists() else ""


def _is_meant(found: Found, wanted: Asked) -> bool:
    """Whether what stands is what is to be taken over."""
    return found.claim.id == wanted.take_over and wanted.seen in ("", found.seen)


def _is_told(here: Here, result: Result | None) -> bool:
    """Whether how a worker ends here is known to whoever follows it."""
    if here.known is None:
        return result is not None
    told = here.settled is not None or here.moved is not None
    return told or here.superseded or here.unrecorded
