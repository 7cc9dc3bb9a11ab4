"""A worker is put at the cluster: its Secret, then its Job, each created or found.

::

    Secret of that name ──▶ Job of that name ──▶ Secret owned by the Job ──▶ noted here

Killed anywhere, or with an answer lost, the same again leads to the same worker: the names are made
from its id, and whoever is second finds what the first has made. Nothing runs before the Job is
there; a Secret without one is removed an hour later.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any, Final

from outpost_core import wire
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
)
from outpost_k8s.near import seen
from outpost_k8s.near.codes import REASONS
from outpost_k8s.near.resuming import bundle_for
from outpost_k8s.near.waiting import of_refusal
from outpost_k8s.objects import job as objects
from outpost_k8s.objects import names, standing
from outpost_shared import faults

if TYPE_CHECKING:
    from outpost_core.types import Json, Order
    from outpost_k8s.near.desk import Desk
    from outpost_k8s.near.seen import Object

#: Seconds for which it is known what the cluster's webhooks make of a Job.
_ADMISSION: Final = 600.0


class Placing:
    """Puts workers at the cluster of one outpost.

    Args:
        desk: of the outpost.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asked_until = 0.0
        self._asking = asyncio.Lock()

    async def place(self, order: Order, git_credentials: str, *, hosted: bool) -> Object:
        """Create or adopt the Job of an order; return it.

        Args:
            order: what is to be done.
            git_credentials: what git at the worker logs in with; "" for nothing.
            hosted: its repository is on this machine, and travels.

        Raises:
            ConflictError: the worker is there with another order.
            SpawnRefusedError: it was certainly not started.
            UnreachableError: nothing is known, unless it says `sent=False`.
        """
        desk, options = self._desk, self._desk.options
        body = objects.job(options, order, hosted=hosted)
        secret = objects.secret(options, order, git_credentials, await self._bundle(order))
        await asyncio.to_thread(desk.keeping.claim)
        await self._stands(body)
        made = await self._have_secret(secret)
        faults.point("kube.secret_created")
        job = await self._have_job(order, body, made)
        faults.point("kube.job_created")
        try:
            await self._own(made, job)
        except UnreachableError as error:
            error.sent = True  # the Job is there, whatever became of the question
            raise
        faults.point("kube.secret_owned")
        order_told: Json = json.loads(body["metadata"]["annotations"][names.ORDER])
        await asyncio.to_thread(
            desk.keeping.of(order.worker).accept,
            digest=wire.digest(order), uid=seen.uid(job), server=desk.address(), hosted=hosted,
            order=order_told,
        )  # fmt: skip
        return job

    async def _bundle(self, order: Order) -> bytes:
        """Return the work that an order goes on from, where it is in a bundle here.

        Raises:
            SpawnRefusedError: it cannot travel, or cannot be read.
        """
        state, volume = self._desk.context.state_dir, bool(self._desk.options.volume)
        try:
            return await asyncio.to_thread(bundle_for, order, state, volume=volume)
        except OSError as error:
            raise SpawnRefusedError(
                f"the work that {order.worker} goes on from cannot be read: {error}"
            ) from error

    async def _stands(self, body: dict[str, Any]) -> None:
        """Ask, once a while, what the cluster's webhooks would make of a worker's Job.

        Nothing is made by that. What is refused is told by the creation itself.

        Raises:
            SpawnRefusedError: they would change what a worker stands on.
            UnreachableError: nobody answers; nothing was asked for.
        """
        async with self._asking:  # of many at once the first one asks
            if time.monotonic() >= self._asked_until:
                await self._ask_what_stands(body)

    async def _ask_what_stands(self, body: dict[str, Any]) -> None:
        try:
            found = await self._desk.cluster().create(self._desk.path("jobs"), body, dry_run=True)
        except UnreachableError as error:
            error.sent = False
            raise
        except OutpostError:  # also of webhooks that cannot be asked for nothing
            return
        if changed := standing.undone(body, found):
            raise SpawnRefusedError(
                f"the cluster changes what a worker stands on: {'; '.join(changed[:3])}",
                hint="have its admission webhooks leave alone what is labelled"
                f" {names.MANAGED_BY}={names.MANAGER} in the namespace"
                f" {self._desk.cluster().namespace}",
            )
        self._asked_until = time.monotonic() + _ADMISSION

    # --- the Secret -----------------------------------------------------------------------------

    async def _have_secret(self, body: dict[str, Any]) -> Object:
        """Create the Secret, or find the one of an earlier try and bring it up to date."""
        cluster, path = self._desk.cluster(), self._desk.path
        name = body["metadata"]["name"]
        try:
            return await cluster.create(path("secrets"), body)
        except ConflictError:
            pass
        except NotFoundError as error:
            raise self._no_namespace(error) from error
        except SpawnRefusedError as error:
            raise self._with_hint(error) from error
        except UnreachableError as error:
            error.sent = False  # no Job was asked for
            raise
        try:
            found = await cluster.get(path("secrets", name))
            self._check(found, body, "Secret")
            # values of secrets and logins may be others by now; the order is the same
            only = {"metadata": {"uid": seen.uid(found)}, "data": body["data"]}
            return await cluster.patch(path("secrets", name), only)
        except (NotFoundError, UnreachableError) as error:
            raise UnreachableError(error.message, hint=error.hint, sent=False) from error

    # --- the Job --------------------------------------------------------------------------------

    async def _have_job(self, order: Order, body: dict[str, Any], secret: Object) -> Object:
        cluster, path = self._desk.cluster(), self._desk.path
        try:
            return await cluster.create(path("jobs"), body)
        except ConflictError:
            pass
        except NotFoundError as error:
            raise self._no_namespace(error) from error
        except SpawnRefusedError as error:
            await self._drop(secret)
            raise self._with_hint(error) from error
        except UnreachableError as error:
            if not error.sent:
                raise
            return await self._answered_by_name(body, error)
        try:
            found = await cluster.get(path("jobs", body["metadata"]["name"]))
        except NotFoundError as error:
            raise UnreachableError(
                f"the Job of {order.worker} was there and is not", hint="it is tried again"
            ) from error
        self._check(found, body, "Job")
        if seen.is_going(found):
            raise UnreachableError(
                f"the Job of {order.worker} is being removed at the cluster",
                hint="it is tried again",
            )
        return found

    def _with_hint(self, error: SpawnRefusedError) -> SpawnRefusedError:
        """Return a refusal with what helps against it."""
        hint = REASONS[of_refusal(error.message)].hint.replace("{outpost}", self._desk.name)
        return SpawnRefusedError(error.message, hint=hint)

    def _no_namespace(self, error: NotFoundError) -> SpawnRefusedError:
        """Return how it is told that there is no place for anything of a worker."""
        return SpawnRefusedError(
            error.message, hint=f"outpost bootstrap {self._desk.name} makes it"
        )

    async def _answered_by_name(self, body: dict[str, Any], error: UnreachableError) -> Object:
        """Return the Job whose creation was not answered, when it is there.

        Raises:
            UnreachableError: it is not, or not yet.
        """
        try:
            found = await self._desk.cluster().get(
                self._desk.path("jobs", body["metadata"]["name"])
            )
        except OutpostError:
            raise error from None
        self._check(found, body, "Job")
        return found

    def _check(self, found: Object, body: dict[str, Any], kind: str) -> None:
        """Make sure that what is there under a worker's name is the same order's.

        Raises:
            ConflictError: it is not.
        """
        wanted = body["metadata"]["annotations"]
        name = body["metadata"]["name"]
        if seen.annotation(found, names.DIGEST) == wanted[names.DIGEST]:
            return
        raise ConflictError(
            f"the {kind} {name} at {self._desk.name} is {wanted[names.ID]} with another order",
            hint=f"outpost show {wanted[names.ID]}; outpost spawn --again for another attempt, or"
            " another issue id",
        )

    async def _own(self, secret: Object, job: Object) -> None:
        """Let the Secret go with the Job."""
        uid = seen.uid(job)
        if any(
            seen.text(owner, "uid") == uid
            for owner in seen.parts(secret, "metadata", "ownerReferences")
        ):
            return
        with contextlib.suppress(NotFoundError):  # somebody has removed it: the pod says so
            await self._desk.cluster().patch(
                self._desk.path("secrets", seen.name(secret)), objects.owned(secret, uid)
            )

    async def _drop(self, secret: Object) -> None:
        """Remove the Secret of a worker whose Job is refused, unless another one owns it."""
        if seen.parts(secret, "metadata", "ownerReferences"):
            return
        with contextlib.suppress(OutpostError):
            await self._desk.cluster().delete(
                self._desk.path("secrets", seen.name(secret)), uid=seen.uid(secret)
            )
