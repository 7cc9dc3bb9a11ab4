"""Who gives tokens: a metadata server, a key, a federated login, or one who acts as another.

All calls block and are made on threads. The metadata server is asked by ourselves, because
google-auth's way to it brings `requests`, and fixes its address when it is imported.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import google.auth.exceptions
import httpx

from outpost_cloudrun.connection import tokens
from outpost_cloudrun.connection.tokens import Token
from outpost_cloudrun.connection.web import GoogleRequest, Web
from outpost_core.errors import UnreachableError
from outpost_shared.harmless import clean

#: What access tokens are for; what they may is said by roles.
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
#: Seconds by which a clock may differ before it is named as the cause.
_CLOCK: Final = 300.0
#: Who acts as another, from the address in a file of credentials.
_ACTS_AS: Final = re.compile(r"/serviceAccounts/([^/:?#]+):generateAccessToken$")


class Source(Protocol):
    """Gives tokens of one identity. The calls block."""

    @property
    def whose(self) -> str:
        """Say in a few words whose identity it is."""

    def id_token(self, audience: str) -> Token:
        """Return an ID token for `audience`; raises UnreachableError."""

    def access_token(self) -> Token:
        """Return an access token; raises UnreachableError."""


class MetadataSource:
    """The service account of the machine, from its metadata server.

    See https://cloud.google.com/compute/docs/access/authenticate-workloads.
    """

    whose = "this machine's service account"

    def __init__(self, *, patience: float = 10.0) -> None:
        self._web = Web(direct=True, patience=patience)

    def id_token(self, audience: str) -> Token:
        """See `Source`."""
        query = urllib.parse.urlencode({"audience": audience, "format": "full"})
        text = self._get(f"instance/service-accounts/default/identity?{query}")
        return tokens.identity(text.strip(), skew=self._web.skew, whose=self.whose)

    def access_token(self) -> Token:
        """See `Source`."""
        text = self._get(f"instance/service-accounts/default/token?scopes={SCOPE}")
        return _access_of(text, self.whose, ("access_token", "expires_in"))

    def is_there(self) -> bool:
        """Whether this machine has one."""
        if os.environ.get("NO_GCE_CHECK") == "true":
            return False
        try:
            answer = self._web.ask(f"http://{metadata_host(by_number=True)}/", headers=_FLAVOR)
        except httpx.HTTPError:
            return False
        return bool(answer.headers.get("metadata-flavor") == "Google")

    def _get(self, path: str) -> str:
        url = f"http://{metadata_host()}/computeMetadata/v1/{path}"
        try:
            answer = self._web.ask(url, headers=_FLAVOR)
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the metadata server of this machine does not answer: {clean(str(error))}",
                hint="`auth: metadata` is for machines of Google; elsewhere use"
                " `auth: gcloud`, or `auth: service-account` with `key_file:`",
                sent=False,
            ) from None
        if answer.status_code == 404:
            raise UnreachableError(
                "this machine has no service account", sent=False,
                hint="start it with one, or use `auth: service-account` with `key_file:`",
            )  # fmt: skip
        if answer.status_code != 200 or answer.headers.get("metadata-flavor") != "Google":
            raise UnreachableError(
                f"the metadata server answered {answer.status_code} when asked for a token",
                sent=False,
            )
        return answer.text


_FLAVOR: Final = {"Metadata-Flavor": "Google"}


def metadata_host(*, by_number: bool = False) -> str:
    """Return where the metadata server is, with the variables that Google's own clients read."""
    if by_number and (number := os.environ.get("GCE_METADATA_IP")):
        return number
    given = os.environ.get("GCE_METADATA_HOST")
    return given or ("169.254.169.254" if by_number else "metadata.google.internal")


class GoogleSource:
    """A service account's key, a person's application default login, or a federated login.

    Args:
        info: what the file of credentials says.
        file: the file, for messages.
    """

    def __init__(self, info: dict[str, Any], file: Path) -> None:
        self._info = info
        self._file = file
        self._web = Web()

    @property
    def whose(self) -> str:
        """See `Source`."""
        who = self._info.get("client_email")
        return f"{who} ({self._file})" if isinstance(who, str) else f"the login in {self._file}"

    def id_token(self, audience: str) -> Token:
        """See `Source`. Only a service account's key gives one for an audience."""
        if self._info.get("type") != "service_account":
            raise UnreachableError(
                f"{self.whose} gives no ID tokens", sent=False,
                hint="let it act as a service account: `gcloud iam workload-identity-pools"
                " create-cred-config … --service-account=EMAIL`",
            )  # fmt: skip
        from google.oauth2 import service_account

        made = self._load(
            lambda: service_account.IDTokenCredentials.from_service_account_info(  # type: ignore[no-untyped-call]
                self._info, target_audience=audience
            )
        )
        value = self._refreshed(made)
        return tokens.identity(value, skew=self._web.skew, whose=self.whose)

    def access_token(self) -> Token:
        """See `Source`."""
        made = self._load(lambda: _load_access(self._info))
        value = self._refreshed(made)
        life = tokens.USUAL
        if isinstance(made.expiry, datetime):  # reckoned by google-auth with our own clock
            now = datetime.now(UTC).replace(tzinfo=made.expiry.tzinfo)  # its own is without a zone
            life = (made.expiry - now).total_seconds()
        return tokens.access(value, life, whose=self.whose)

    def _load(self, load: Any) -> Any:
        try:
            return load()
        except (ValueError, KeyError, TypeError, google.auth.exceptions.GoogleAuthError) as error:
            raise UnreachableError(
                f"{self._file} cannot be used as credentials: {_said(error)}", sent=False,
                hint="download the key again, or log in again: `gcloud auth application-default"
                " login`",
            ) from None  # fmt: skip

    def _refreshed(self, credentials: Any) -> str:
        try:
            credentials.refresh(GoogleRequest(self._web))
        except google.auth.exceptions.GoogleAuthError as error:
            hint = clock_hint(self._web.skew) or (
                "the key may have been deleted, or the login may have ended:"
                " `gcloud auth application-default login`, or a new key"
            )
            raise UnreachableError(
                f"{self.whose} was given no token: {_said(error)}", hint=hint, sent=False
            ) from None
        value = credentials.token
        return value if isinstance(value, str) else ""


class ActingSource:
    """One who acts as a service account, through the IAM Credentials API.

    See https://cloud.google.com/iam/docs/reference/credentials/rest.

    Args:
        own: who acts.
        url: address of `generateAccessToken`, as it is in a file of credentials.
        delegates: the service accounts in between.

    Raises:
        ValueError: `url` names no service account.
    """

    def __init__(self, own: Source, url: str, delegates: list[str]) -> None:
        found = _ACTS_AS.search(url)
        if not found or not (url.startswith("https://") or _loopback(url)):
            raise ValueError(f"{url!r} is not the address of a service account")
        self._own = own
        self._begin = url.removesuffix(":generateAccessToken")
        self._email = urllib.parse.unquote(found[1])
        self._delegates = delegates
        self._web = Web()

    @property
    def whose(self) -> str:
        """See `Source`."""
        return f"{self._email}, acted as by {self._own.whose}"

    def id_token(self, audience: str) -> Token:
        """See `Source`."""
        text = self._post("generateIdToken", {"audience": audience, "includeEmail": True})
        value = _json(text, self.whose).get("token")
        return tokens.identity(str(value), skew=self._web.skew, whose=self.whose)

    def access_token(self) -> Token:
        """See `Source`."""
        text = self._post("generateAccessToken", {"scope": [SCOPE], "lifetime": "3600s"})
        value = _json(text, self.whose).get("accessToken")
        return tokens.access(str(value), tokens.USUAL, whose=self.whose)

    def _post(self, verb: str, asked: dict[str, object]) -> str:
        headers = {
            "authorization": f"Bearer {self._own.access_token().value}",
            "content-type": "application/json",
        }
        if self._delegates:
            asked["delegates"] = self._delegates
        try:
            answer = self._web.ask(
                f"{self._begin}:{verb}",
                method="POST",
                headers=headers,
                content=json.dumps(asked).encode(),
            )
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the IAM Credentials API does not answer: {clean(str(error))}", sent=False
            ) from None
        if answer.status_code == 403:
            raise UnreachableError(
                f"{self._own.whose} may not act as {self._email}", sent=False,
                hint=f"grant it roles/iam.serviceAccountTokenCreator on {self._email}, and see that"
                " the IAM Service Account Credentials API is on",
            )  # fmt: skip
        if answer.status_code != 200:
            raise UnreachableError(
                f"the IAM Credentials API answered {answer.status_code}", sent=False
            )
        return answer.text


def clock_hint(skew: float | None) -> str:
    """Return what to do about a clock that is wrong, "" where it is right or unknown."""
    if skew is None or abs(skew) < _CLOCK:
        return ""
    much = f"{abs(skew) / 3600:.1f} h" if abs(skew) >= 3600 else f"{abs(skew) / 60:.0f} min"
    way = "behind" if skew > 0 else "ahead of"
    return f"this machine's clock is {much} {way} Google's: set it (`timedatectl set-ntp true`)"


def _load_access(info: dict[str, Any]) -> Any:
    """Return google-auth's credentials that give access tokens."""
    kind = info.get("type")
    if kind == "service_account":
        from google.oauth2 import service_account

        return service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call]
    if kind == "authorized_user":
        from google.oauth2.credentials import Credentials

        return Credentials.from_authorized_user_info(info)  # type: ignore[no-untyped-call]
    if kind == "external_account":
        if "executable" in (info.get("credential_source") or {}):
            from google.auth import pluggable

            return pluggable.Credentials.from_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call]
        from google.auth import identity_pool

        return identity_pool.Credentials.from_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call]
    raise ValueError(f"credentials of type {kind!r} are not known here")


def _access_of(text: str, whose: str, names: tuple[str, str]) -> Token:
    found = _json(text, whose)
    life = tokens.number(found.get(names[1]))
    seconds = tokens.USUAL if life is None else life
    return tokens.access(str(found.get(names[0])), seconds, whose=whose)


def _json(text: str, whose: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UnreachableError(f"{whose} gave something that is not a token", sent=False)
    return found


def _said(error: Exception) -> str:
    """Return the first thing that an error of google-auth says; the rest may be an answer."""
    return clean(str(error.args[0] if error.args else error))[:300]


def _loopback(url: str) -> bool:
    return urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
