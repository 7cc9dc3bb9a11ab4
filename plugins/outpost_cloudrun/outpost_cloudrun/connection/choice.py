"""Whose identity is used: what `auth` says, and what `auto` finds.

On a machine of Google a person's call would silently take the *machine's* identity, were the
metadata server asked first. So files of credentials are looked at before it, and the kind that
they say decides.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from outpost_cloudrun.connection import tokens
from outpost_cloudrun.connection.gcloud import GcloudSource
from outpost_cloudrun.connection.sources import (
    ActingSource,
    GoogleSource,
    MetadataSource,
    Source,
)
from outpost_cloudrun.connection.tokens import Token
from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_core.errors import UnreachableError

#: Bytes of a file of credentials; a key's has 2.3 KiB.
_LARGEST: Final = 1 << 16


class TokenSource:
    """Whoever has the token of a container that runs elsewhere; it is the same for ever.

    Args:
        file: the file with the token, read anew for each use, since it may be exchanged.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.expanduser()

    @property
    def whose(self) -> str:
        """See `Source`."""
        return f"the token in {self._file}"

    def id_token(self, audience: str) -> Token:  # noqa: ARG002 - it is the same for all
        """See `Source`."""
        try:
            with self._file.open(encoding="ascii") as opened:
                text = opened.read(_LARGEST)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no token"
            raise UnreachableError(
                f"{self._file} cannot be read: {why}", sent=False,
                hint="key_file is the file with the container's OUTPOST_TOKEN",
            ) from None  # fmt: skip
        return tokens.access(text.strip(), tokens.USUAL, whose=self.whose)

    def access_token(self) -> Token:
        """See `Source`."""
        raise UnreachableError(
            "auth is token, which is no login at Google", sent=False,
            hint="write auth: auto where Google's API is asked",
        )  # fmt: skip


class PersonSource:
    """A person who has logged in with `gcloud auth application-default login`.

    That login gives access tokens, and no ID tokens that a service takes: those come from gcloud.
    """

    def __init__(self, own: GoogleSource) -> None:
        self._own = own
        self._gcloud = GcloudSource()

    @property
    def whose(self) -> str:
        """See `Source`."""
        return self._gcloud.whose

    def id_token(self, audience: str) -> Token:
        """See `Source`."""
        return self._gcloud.id_token(audience)

    def access_token(self) -> Token:
        """See `Source`."""
        return self._own.access_token()


def choose(options: CloudRunOptions) -> Source | None:
    """Return who gives tokens, None where `auth` is none. Blocks for up to seconds.

    Raises:
        UnreachableError: nobody does, and what to do about it.
    """
    auth = options.auth
    if auth is Auth.NONE:
        return None
    if auth is Auth.METADATA:
        return MetadataSource()
    if auth is Auth.GCLOUD:
        return GcloudSource()
    if auth is Auth.TOKEN:
        assert options.key_file is not None  # the options are refused without
        return TokenSource(options.key_file)
    # `service-account` has a key file: the options are refused without.
    file = options.key_file or _given_file() or _known_file()
    if file is not None:
        return source_of(file)
    if os.environ.get("GCE_METADATA_HOST"):
        return MetadataSource()
    near = MetadataSource(patience=3.0)
    if near.is_there():
        return MetadataSource()
    if shutil.which("gcloud"):
        return GcloudSource()
    raise UnreachableError(
        "no Google login was found on this machine", sent=False,
        hint="`gcloud auth login`; or write `key_file:` of a service account; or `auth: none` for"
        " a service that needs none",
    )  # fmt: skip


def source_of(file: Path) -> Source:
    """Return who gives tokens by a file of credentials.

    Raises:
        UnreachableError: the file cannot be used.
    """
    info = _read(file)
    try:
        return _source_of(info, file)
    except (ValueError, TypeError, AttributeError) as error:
        raise UnreachableError(
            f"{file} cannot be used as credentials: {error}", sent=False
        ) from None


def _source_of(info: dict[str, Any], file: Path) -> Source:
    kind = info.get("type")
    acts_as = info.get("service_account_impersonation_url")
    if kind == "impersonated_service_account":
        own = _source_of(dict(info["source_credentials"]), file)
        return ActingSource(own, str(acts_as), list(info.get("delegates") or ()))
    if kind == "external_account" and acts_as:
        alone = {k: v for k, v in info.items() if not k.startswith("service_account_impersonation")}
        return ActingSource(GoogleSource(alone, file), str(acts_as), [])
    if kind == "authorized_user":
        return PersonSource(GoogleSource(info, file))
    if kind in ("service_account", "external_account"):
        return GoogleSource(info, file)
    raise ValueError(f"credentials of type {kind!r} are not known here")


def _read(file: Path) -> dict[str, Any]:
    file = file.expanduser()
    try:
        with file.open("rb") as opened:
            info = json.loads(opened.read(_LARGEST))
    except OSError as error:
        raise UnreachableError(
            f"{file} cannot be read: {error.strerror}", sent=False,
            hint="see `key_file:` and GOOGLE_APPLICATION_CREDENTIALS",
        ) from None  # fmt: skip
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict):
        raise UnreachableError(f"{file} is no file of credentials", sent=False)
    return info


def _given_file() -> Path | None:
    given = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return Path(given) if given else None


def _known_file() -> Path | None:
    """Return where `gcloud auth application-default login` writes, if there is something."""
    folder = os.environ.get("CLOUDSDK_CONFIG")
    base = Path(folder) if folder else Path.home() / ".config" / "gcloud"
    file = base / "application_default_credentials.json"
    return file if file.is_file() else None
