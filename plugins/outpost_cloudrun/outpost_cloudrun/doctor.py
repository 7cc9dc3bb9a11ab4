"""`outpost doctor` of a Cloud Run outpost: what is missing, each with its mend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outpost_agents.presets import PRESETS
from outpost_cloudrun import health
from outpost_cloudrun.admin import changes
from outpost_cloudrun.admin.factory import admin_client
from outpost_cloudrun.bootstrap import INVOKE, invoker, look, planned, try_one
from outpost_cloudrun.connection.identity import Identity
from outpost_cloudrun.options import Auth, Mode
from outpost_core.errors import OutpostError
from outpost_core.names import redact
from outpost_core.types import Finding

if TYPE_CHECKING:
    from outpost_cloudrun.admin.answers import Service
    from outpost_cloudrun.admin.client import AdminClient
    from outpost_cloudrun.options import CloudRunOptions

#: Seconds of difference between the clocks that are worth a word, and that make tokens be refused.
WORTH_SAYING: Final = 5.0
WRONG: Final = 300.0
#: Google's reasons for a service that is not ready → what is in the way.
_REASONS: Final = {
    "CONTAINER_MISSING": "image",
    "CONTAINER_PERMISSION_DENIED": "image",
    "CONTAINER_IMAGE_UNAUTHORIZED": "image",
    "CONTAINER_IMAGE_AUTHORIZATION_CHECK_FAILED": "image",
    "SECRETS_ACCESS_CHECK_FAILED": "secret",
    "VPC_NETWORK_NOT_FOUND": "network",
}
_MENDS: Final = {
    "image": "push the image and see that Cloud Run may read it (roles/artifactregistry.reader)",
    "secret": "create the secret, and give the service account"
    " roles/secretmanager.secretAccessor on it",
    "network": "correct `vpc`: gcloud compute networks list",
    "service": "Google's console shows the container's log",
}


async def examine(name: str, options: CloudRunOptions, rig: str | None) -> list[Finding]:
    """Return what was found.

    Args:
        name: the outpost's name.
        options: its options.
        rig: a repository; whether a container may push there, only a worker finds out.
    """
    identity = Identity(options)
    found: list[Finding] = []
    url = options.url
    if options.project:
        admin = admin_client(options, None if options.auth is Auth.NONE else identity)
        try:
            found += await _google(options, admin)
            service = None
            if options.mode is Mode.SERVICE and all(each.ok is not False for each in found):
                service = await look(options, admin)
                found += await _service(name, options, admin, service, identity)
            elif found[-1].ok:
                found.append(await _tried(options, admin))
            url = url or (service.url if service is not None else "")
        except OutpostError as error:
            found.append(_bad("api", error))
        finally:
            await admin.aclose()
    if url and options.mode is Mode.SERVICE:
        found += await _container(name, options, url, identity)
    if rig is not None:
        detail = f"whether a container may push to {redact(rig)} is seen by the first worker"
        found.append(Finding(check="rig", ok=None, detail=detail, hint=_credentials(options)))
    return found


async def _google(options: CloudRunOptions, admin: AdminClient) -> list[Finding]:
    """Look at the API, the login, the region and the clock, by one question."""
    kind = f"{options.mode.value}s"
    try:
        await admin.reach(kind)
    except OutpostError as error:
        found = [_bad(_check_of(error, options), error)]
    else:
        detail = f"{kind} of {options.project} in {options.region} can be seen"
        found = [Finding(check="api", ok=True, detail=detail)]
    if admin.skew is not None:
        found.insert(0, _clock(admin.skew))
    return found


def _check_of(error: OutpostError, options: CloudRunOptions) -> str:
    """Return what an answer of the API is about."""
    if "gcloud services enable" in error.hint:
        return "api"
    if "roles/" in error.hint:
        return "role"
    if "(429" in error.message:
        return "quota"
    if "log in" in error.hint or "login" in error.message or "gcloud auth" in error.hint:
        return "login"
    if "(404" in error.message or options.region in error.hint:
        return "region"
    return "api"


def _clock(skew: float) -> Finding:
    """Say how far the clock here is from Google's (`Date` of an answer, to a second)."""
    if abs(skew) <= WORTH_SAYING:
        return Finding(check="clock", ok=True, detail="as Google's")
    side = "behind" if skew > 0 else "ahead of"
    return Finding(
        check="clock",
        ok=None if abs(skew) <= WRONG else False,
        detail=f"this machine is {abs(skew):.0f} s {side} Google"
        + ("" if abs(skew) <= WRONG else ", so that its tokens are refused"),
        hint="sudo timedatectl set-ntp true",
    )


async def _service(
    name: str,
    options: CloudRunOptions,
    admin: AdminClient,
    service: Service | None,
    identity: Identity,
) -> list[Finding]:
    if service is None:
        return [
            Finding(
                check="service", ok=False,
                detail=f"there is no {options.service} in {options.region}",
                hint=f"outpost bootstrap {name}",
            )
        ]  # fmt: skip
    if service.failure is not None:
        check = _REASONS.get(service.failure.reason, "service")
        detail = service.failure.message or service.failure.reason
        return [Finding(check=check, ok=False, detail=detail, hint=_MENDS[check])]
    found = [Finding(check="service", ok=True, detail=f"{options.service} at {service.url}")]
    if left := changes.differences(service.body, planned(options, service)):
        told = "; ".join(map(str, left[:3])) + (f" and {len(left) - 3} more" if left[3:] else "")
        found.append(
            Finding(
                check="configuration", ok=None, detail=f"not deployed yet: {told}",
                hint=f"outpost bootstrap {name}",
            )
        )  # fmt: skip
    if options.auth is Auth.NONE:
        return found
    if INVOKE in await admin.allowed("services", options.service, (INVOKE,)):
        found.append(Finding(check="role", ok=True, detail=f"{identity.whose} may call it"))
    else:
        detail = f"{identity.whose} may not call {options.service}"
        found.append(Finding(check="role", ok=False, detail=detail, hint=invoker(options)))
    return found


async def _tried(options: CloudRunOptions, admin: AdminClient) -> Finding:
    what = options.mode.value
    try:
        await try_one(options, admin)
    except OutpostError as error:
        lower = error.message.lower()
        check = next((word for word in ("secret", "image") if word in lower), what)
        return _bad(check, error, hint=_MENDS.get(check, ""))
    return Finding(check=what, ok=True, detail=f"Google would take one of {options.image}")


async def _container(
    name: str, options: CloudRunOptions, url: str, identity: Identity
) -> list[Finding]:
    """Ask the program in a container: address, token, protocol, and the agents in its image."""
    agents = {preset.name: preset.headless[0] for preset in PRESETS.values() if preset.headless}
    try:
        said = await health.ask(options, url, identity, sorted({*agents.values(), "git"}))
    except OutpostError as error:
        return [_bad("container", error)]
    if said.protocol != health.PROTOCOL:
        detail = f"its image speaks protocol {said.protocol}, and this Outpost {health.PROTOCOL}"
        hint = f"outpost image build, push it, and outpost bootstrap {name}"
        return [Finding(check="container", ok=False, detail=detail, hint=hint)]
    told = f"Outpost {said.version} answers" + (f": {said.detail}" if said.detail else "")
    found = [Finding(check="container", ok=said.ok, detail=told)]
    for agent, program in agents.items():
        path = said.programs.get(program, "")
        found.append(
            Finding(
                check=f"agent {agent}", ok=True if path else None,
                detail=path or "not installed",
                hint="" if path else f"outpost image build --agent {agent}, and push it",
            )
        )  # fmt: skip
    return found


def _credentials(options: CloudRunOptions) -> str:
    if options.git_credentials or "OUTPOST_GIT_CREDENTIALS" in options.secrets:
        return ""
    return "git at the worker has no login: see `git_credentials`, or a secret"


def _bad(check: str, error: OutpostError, *, hint: str = "") -> Finding:
    return Finding(check=check, ok=False, detail=error.message, hint=hint or error.hint)
