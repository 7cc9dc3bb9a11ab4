"""What Google's refusals mean here: each HTTP answer becomes an error with its cause and its mend.

A question that got no answer is an `UnreachableError` (law 2), whatever the status says: a 403 on
a list tells nothing of the workers. A change that was refused is a `SpawnRefusedError`, since
Google says that it did nothing; one that was answered by 5xx may have happened.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx

from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)
from outpost_shared.protocol import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Characters of Google's own words that are shown.
_SHOWN: Final = 400
#: Permission, as an answer names it → the role that has it.
_ROLES: Final[Mapping[str, str]] = {
    "run.services.get": "roles/run.viewer",
    "run.services.list": "roles/run.viewer",
    "run.jobs.get": "roles/run.viewer",
    "run.jobs.list": "roles/run.viewer",
    "run.executions.get": "roles/run.viewer",
    "run.executions.list": "roles/run.viewer",
    "run.tasks.list": "roles/run.viewer",
    "run.operations.get": "roles/run.viewer",
    "run.routes.invoke": "roles/run.invoker",
    "iam.serviceaccounts.actAs": "roles/iam.serviceAccountUser",
    "artifactregistry.repositories.downloadArtifacts": "roles/artifactregistry.reader",
    "secretmanager.versions.access": "roles/secretmanager.secretAccessor",
}
#: What creates and changes services, jobs and instances.
_DEVELOPER: Final = "roles/run.developer"


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What an answer of Google says went wrong.

    Args:
        status: the HTTP status.
        word: the canonical code (`PERMISSION_DENIED`); "" when the answer has none.
        message: Google's own words, harmless and short.
        reason: the `ErrorInfo` reason (`SERVICE_DISABLED`); "" for none.
        permission: the permission that is missing; "" when it is not named.
        fields: what is wrong with a request: field and words.
    """

    status: int
    word: str = ""
    message: str = ""
    reason: str = ""
    permission: str = ""
    fields: tuple[tuple[str, str], ...] = field(default=())


def trouble(status: int, body: bytes) -> Trouble:
    """Return what an error answer says; a body that is no error of Google's is quoted."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, list) and said:  # some of Google's fronts answer with a list of one
        said = said[0]
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        text = body[: _SHOWN * 4].decode("utf-8", "replace")
        return Trouble(status=status, message="" if "<html" in text.lower() else _short(text))
    reason, permission, fields = _details(error.get("details"))
    return Trouble(
        status=status,
        word=str(error.get("status") or "")[:64],
        message=_short(str(error.get("message") or "")),
        reason=reason,
        permission=permission or _quoted_permission(str(error.get("message") or "")),
        fields=fields,
    )


def _short(text: str) -> str:
    return " ".join(clean(text, _SHOWN).split())


def _details(details: object) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Return reason, permission and violated fields of an error's details."""
    reason = permission = ""
    fields: list[tuple[str, str]] = []
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        kind = str(detail.get("@type", ""))
        if kind.endswith("ErrorInfo"):
            reason = _short(str(detail.get("reason") or ""))
            about = detail.get("metadata")
            if isinstance(about, dict):
                permission = _short(str(about.get("permission") or ""))
        if kind.endswith("BadRequest") and isinstance(detail.get("fieldViolations"), list):
            fields += [
                (_short(str(each.get("field", ""))), _short(str(each.get("description", ""))))
                for each in detail["fieldViolations"][:5]
                if isinstance(each, dict)
            ]
    return reason, permission, tuple(fields)


def _quoted_permission(message: str) -> str:
    """Return the permission in `Permission 'run.jobs.create' denied on …`; "" without one."""
    head, _, rest = message.partition("'")
    name = rest.partition("'")[0]
    return name if head.strip().lower().endswith("permission") and "." in name else ""


def refusal(
    what: str, found: Trouble, *, starting: bool, project: str, region: str
) -> OutpostError:
    """Return the error that an answer means.

    Args:
        what: the step, for the message: `create the job gt-1-1`.
        found: what the answer says.
        starting: it would have created or changed something, which it certainly did not when it
            was refused; otherwise a refusal only means that nothing is known.
        project: for the hints.
        region: for the hints.
    """
    said = f": {found.message}" if found.message else ""
    fields = "".join(f"; {name}: {text}" for name, text in found.fields)
    message = f"Cloud Run could not {what} ({found.status}{said}{fields})"
    hint = _hint(found, project, region)
    if found.status == 404:
        return NotFoundError(message, hint=hint)
    if found.status == 409 or found.word in ("ALREADY_EXISTS", "ABORTED"):
        return ConflictError(message, hint=hint)
    if found.status >= 500 or not starting:
        return UnreachableError(message, hint=hint)
    if found.status == 400:
        return UsageError(message, hint=hint)
    return SpawnRefusedError(message, hint=hint)


def _hint(found: Trouble, project: str, region: str) -> str:
    if found.reason == "SERVICE_DISABLED" or "has not been used in project" in found.message:
        return f"gcloud services enable run.googleapis.com --project {project}"
    if found.reason == "BILLING_DISABLED":
        return f"link a billing account to the project {project} in Google's console"
    if found.status == 401:
        return "log in again: gcloud auth login, or look at `auth` and `key_file`"
    if found.status == 403:
        role = _ROLES.get(found.permission, _DEVELOPER)
        named = f" (it has {found.permission})" if found.permission else ""
        return (
            f"give your account {role}{named}: gcloud projects add-iam-policy-binding {project}"
            f" --member user:YOU --role {role}"
        )
    if found.status == 404:
        return f"look at project ({project}), region ({region}) and the name"
    if found.status == 429:
        return (
            f"a quota of {project} in {region} is used up: it comes back within a minute, or ask"
            " for more under IAM & Admin › Quotas"
        )
    if found.status == 400 and "/secrets/" in f"{found.message} {found.fields}":
        return (
            "make the secret (gcloud secrets create), give the container's account"
            " roles/secretmanager.secretAccessor on it, or correct `secrets`"
        )
    if found.status == 400:
        return "correct the option that it names"
    if found.status >= 500:
        return "it is tried again; https://status.cloud.google.com shows Google's own trouble"
    return ""


def not_answered(what: str, error: httpx.HTTPError, *, region: str) -> UnreachableError:
    """Return the error of a call that got no answer.

    Args:
        what: the step.
        error: how the call ended.
        region: for the hint.
    """
    sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    why = _short(str(error)) or type(error).__name__
    return UnreachableError(
        f"Cloud Run could not be asked to {what}: {why}",
        hint=f"look at the network, at `region` ({region}) and at `endpoint`",
        sent=sent,
    )


def strange(what: str, data: Any) -> UnreachableError:
    """Return the error of an answer that is not what the API promises."""
    shown = _short(repr(data)[:_SHOWN])
    return UnreachableError(
        f"Cloud Run was asked to {what} and answered what is no such thing: {shown}",
        hint="look at `endpoint`: something else may answer there",
    )
