"""`outpost bootstrap` of a Cloud Run outpost: the service is deployed, and read back.

Each step can be repeated: what is as the options say is left alone, and a killed one is gone on
with. What would change is shown before it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outpost_agents.presets import PRESETS
from outpost_cloudrun import health
from outpost_cloudrun.admin import changes, specs
from outpost_cloudrun.admin.answers import Service
from outpost_cloudrun.admin.factory import admin_client
from outpost_cloudrun.connection.identity import Identity
from outpost_cloudrun.options import Auth, Mode
from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.types import Step
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from outpost_cloudrun.admin.client import AdminClient
    from outpost_cloudrun.options import CloudRunOptions

#: Seconds that a deployment may take: Google gives a container four minutes to listen.
DEPLOYED: Final = 600.0
#: Seconds until a deployed service must show what was sent.
_SHOWN: Final = 60.0
#: The permission that calling a service takes.
INVOKE: Final = "run.routes.invoke"


async def bootstrap(
    name: str, options: CloudRunOptions, agents: Sequence[str], *, dry_run: bool
) -> AsyncIterator[Step]:
    """Yield the steps of deploying what an outpost needs.

    Args:
        name: the outpost's name.
        options: its options; they name a project.
        agents: names of presets that the image has to have the programs of.
        dry_run: change nothing; yield what would be done.
    """
    identity = Identity(options)
    admin = admin_client(options, None if options.auth is Auth.NONE else identity)
    try:
        kind = f"{options.mode.value}s"
        yield Step(name="api", state="doing")
        try:
            await admin.reach(kind)
        except OutpostError as error:
            yield _failed("api", error)
            return
        yield Step(name="api", state="ok", detail=f"{kind} in {options.region} as {identity.whose}")
        if options.mode is Mode.SERVICE:
            async for step in _service(name, options, admin, identity, agents, dry_run=dry_run):
                yield step
        else:
            async for step in _tried(options, admin):
                yield step
    finally:
        await admin.aclose()


async def _tried(options: CloudRunOptions, admin: AdminClient) -> AsyncIterator[Step]:
    """See whether Google would take a job or an instance; each worker makes its own."""
    what = options.mode.value
    yield Step(name=what, state="doing")
    try:
        await try_one(options, admin)
    except OutpostError as error:
        yield _failed(what, error)
        return
    detail = f"Google would take one; each worker has {'an' if what[0] in 'aeiou' else 'a'}"
    yield Step(name=what, state="ok", detail=f"{detail} {what} of its own")


async def try_one(options: CloudRunOptions, admin: AdminClient) -> None:
    """Have Google check a job or instance of the options, and create none.

    Raises:
        OutpostError: what is wrong with it.
    """
    labels = {"outpost-try": "1"}
    if options.mode is Mode.JOB:
        await admin.try_job("outpost-try", specs.job_body(options, {}, labels, 600.0))
    else:
        await admin.try_instance("outpost-try", specs.instance_body(options, {}, labels))


async def _service(
    name: str,
    options: CloudRunOptions,
    admin: AdminClient,
    identity: Identity,
    agents: Sequence[str],
    *,
    dry_run: bool,
) -> AsyncIterator[Step]:
    yield Step(name="service", state="doing")
    try:
        there = await look(options, admin)
        wanted = planned(options, there)
    except OutpostError as error:
        yield _failed("service", error)
        return
    before = there.body if there is not None else {}
    found = changes.differences(before, wanted)
    new = there is None
    if dry_run:
        async for step in _would(options, admin, wanted, found, new=new):
            yield step
        return
    if found or new:
        told = "; ".join(map(str, found))
        yield Step(name="changes", state="ok", detail=f"{'a new service: ' if new else ''}{told}")
        yield Step(name="service", state="doing")
        try:
            there = await deploy(options, admin, there, wanted)
        except OutpostError as error:
            yield _failed("service", error)
            return
        yield Step(name="service", state="done", detail=f"{options.service} at {there.url}")
    else:
        assert there is not None
        yield Step(
            name="service", state="ok", detail=f"{options.service} at {there.url} is as configured"
        )
    async for step in _usable(name, options, admin, there, identity, agents):
        yield step


async def _would(
    options: CloudRunOptions,
    admin: AdminClient,
    wanted: dict[str, object],
    found: list[changes.Change],
    *,
    new: bool,
) -> AsyncIterator[Step]:
    if not (found or new):
        yield Step(name="service", state="ok", detail=f"{options.service} is as configured")
        return
    try:
        await admin.patch_service(options.service, wanted, validate=True)
    except OutpostError as error:
        yield _failed("service", error)
        return
    verb = "create" if new else "change"
    yield Step(name="service", state="would", detail=f"{verb} {options.service}")
    for change in found:
        yield Step(name="service", state="would", detail=str(change))


async def look(options: CloudRunOptions, admin: AdminClient) -> Service | None:
    """Return the service as it is; None where there is none.

    Raises:
        OutpostError: nobody can say.
    """
    try:
        return await admin.service(options.service)
    except NotFoundError:
        return None


def planned(options: CloudRunOptions, there: Service | None) -> dict[str, object]:
    """Return the service as it is to be; without the option `image` its image stays.

    Raises:
        UsageError: there is no image.
    """
    if not options.image and there is not None:
        containers = there.body.get("template", {}).get("containers") or [{}]
        options = replace(options, image=str(containers[0].get("image") or ""))
    before = there.body if there is not None else {}
    return changes.changed(before, specs.service_body(options))


async def deploy(
    options: CloudRunOptions,
    admin: AdminClient,
    there: Service | None,
    wanted: dict[str, object],
) -> Service:
    """Make a service as it is to be, wait for it, and read it back.

    Raises:
        OutpostError: it did not become so; the message says why.
    """
    before = there.body if there is not None else {}
    fields = changes.mask(before, wanted)
    body = {name: wanted[name] for name in fields if name in wanted}
    if there is not None:
        body["etag"] = there.etag  # somebody else's change is not undone
    made = await admin.patch_service(options.service, body, fields if there is not None else ())
    ended = await admin.wait(made, DEPLOYED)
    if ended.failure is not None:
        raise UsageError(
            f"Google could not deploy {options.service}: {ended.failure.message}",
            hint=f"gcloud run services describe {options.service} --region {options.region}",
        )
    pauses = Backoff(0.5, 5.0, within=_SHOWN)
    why = "it does not show what was sent"
    async for _ in pauses.rounds():
        now = await admin.service(options.service)
        left = changes.differences(now.body, changes.changed(now.body, specs_of(wanted)))
        if now.failure is not None:
            why = now.failure.message or now.failure.reason
        elif not now.reconciling and not left and now.url:
            return now
        elif left:
            why = f"it does not show {left[0]}"
    raise UsageError(
        f"{options.service} was deployed and is not ready: {why}",
        hint=f"gcloud run services describe {options.service} --region {options.region}",
    )


def specs_of(wanted: dict[str, object]) -> dict[str, object]:
    """Return of a service what was sent, without what only Google says."""
    kept = ("labels", "launchStage", "scaling", "template", "customAudiences")
    return {name: wanted[name] for name in kept if name in wanted}


async def _usable(
    name: str,
    options: CloudRunOptions,
    admin: AdminClient,
    service: Service,
    identity: Identity,
    agents: Sequence[str],
) -> AsyncIterator[Step]:
    """See that the service can be called, and that what answers is Outpost's."""
    if options.auth is not Auth.NONE:
        yield Step(name="invoke", state="doing")
        try:
            allowed = await admin.allowed("services", options.service, (INVOKE,))
        except OutpostError as error:
            yield _failed("invoke", error)
            return
        if INVOKE not in allowed:
            yield Step(
                name="invoke", state="failed",
                detail=f"{identity.whose} may not call {options.service}",
                hint=invoker(options),
            )  # fmt: skip
            return
        yield Step(name="invoke", state="ok", detail=f"{identity.whose} may call it")
    async for step in _container(name, options, options.url or service.url, identity, agents):
        yield step


async def _container(
    name: str, options: CloudRunOptions, url: str, identity: Identity, agents: Sequence[str]
) -> AsyncIterator[Step]:
    yield Step(name="container", state="doing")
    try:
        programs = {agent: _program(agent) for agent in agents}
        said = await health.ask(options, url, identity, [*programs.values()])
    except OutpostError as error:
        yield _failed("container", error)
        return
    if said.protocol != health.PROTOCOL:
        yield Step(
            name="container", state="failed",
            detail=f"its image speaks version {said.protocol} of the protocol, this Outpost"
            f" {health.PROTOCOL}",
            hint=f"outpost image build, push it, and outpost bootstrap {name} again",
        )  # fmt: skip
        return
    yield Step(name="container", state="ok", detail=f"Outpost {said.version} answers")
    for agent in agents:
        path = said.programs.get(programs[agent], "")
        if path:
            yield Step(name=agent, state="ok", detail=path)
        else:
            yield Step(
                name=agent, state="failed", detail="is not in the image",
                hint=f"outpost image build --agent {agent}, and push it",
            )  # fmt: skip


def _program(agent: str) -> str:
    preset = PRESETS.get(agent)
    return preset.headless[0] if preset is not None and preset.headless else agent


def invoker(options: CloudRunOptions) -> str:
    """Return the command that lets somebody call the service."""
    return (
        f"gcloud run services add-iam-policy-binding {options.service} --region {options.region}"
        f" --project {options.project} --member user:YOU --role roles/run.invoker"
    )


def _failed(name: str, error: OutpostError) -> Step:
    return Step(name=name, state="failed", detail=error.message, hint=error.hint)
