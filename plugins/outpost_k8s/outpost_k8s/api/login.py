"""How a cluster is logged in to: what the official client is told of a place.

Plug-ins of the kubeconfig are run for what they know. What the TLS library takes from files only is
in files for a moment.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outpost_core.errors import UnreachableError, UsageError
from outpost_k8s.api import certificates, execplugin
from outpost_k8s.api.config import IN_CLUSTER, Place
from outpost_k8s.api.official import official
from outpost_shared import border


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a connection needs.

    Args:
        configuration: the official client's own.
        token: that goes with each request, or "".
        line: all that connections depend on; when it changes, new ones are needed.
        headers: that go with each request: who we want to act as.
        expires: when the credentials end, seconds since the epoch; None when that is not known.
        certificate_ends: when the client's certificate ends, likewise.
    """

    configuration: Any
    token: str = field(default="", repr=False)
    line: tuple[object, ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    expires: float | None = None
    certificate_ends: float | None = None


@contextmanager
def credentials(place: Place, answer: execplugin.Answer | None) -> Iterator[Credentials]:
    """Make the official client's configuration of a place; files in it exist within the block.

    Args:
        place: the cluster.
        answer: of the kubeconfig's plug-in, where it has one.

    Raises:
        UsageError: the kubeconfig asks for what is not there.
    """
    configuration: Any = official().configuration()
    # Python's stricter look at certificates refuses those of clusters that every other client takes
    configuration.disable_strict_ssl_verification = True
    with tempfile.TemporaryDirectory(prefix="outpost-k8s-") as folder:
        if place.context == IN_CLUSTER:
            _load_pod(configuration)
        else:
            login = _login(place, answer)
            _load(configuration, place, _in_files(login, Path(folder)))
        yield Credentials(
            configuration=configuration,
            token=configuration.api_key.get("BearerToken", ""),
            line=_line(configuration),
            headers=_acting_as(place.login),
            expires=answer.expires if answer is not None else None,
            certificate_ends=certificates.ends(_content(configuration.cert_file)),
        )


def _line(configuration: Any) -> tuple[object, ...]:
    """Return what a connection depends on; files by what is in them."""
    files = (configuration.cert_file, configuration.key_file, configuration.ssl_ca_cert)
    names = ("host", "verify_ssl", "tls_server_name", "proxy", "ca_cert_data")
    return (*map(_content, files), *(getattr(configuration, name) for name in names))


def _content(file: str | None) -> bytes:
    if not file:
        return b""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{file}, which the kubeconfig names, cannot be read: {error.strerror}",
            hint="let your cluster's tool write the kubeconfig anew",
        ) from error


def _load_pod(configuration: Any) -> None:
    try:
        official().load_pod(client_configuration=configuration)
    except (official().config_error, OSError) as error:
        raise UnreachableError(
            f"the service account of this pod cannot be used: {error}",
            hint="see `automountServiceAccountToken` of the pod",
            sent=False,
        ) from error


def _load(configuration: Any, place: Place, login: Mapping[str, Any]) -> None:
    """Fill the official client's configuration.

    Its own loader for kubeconfigs is asynchronous for plug-ins and tokens alone, which are no part
    of this one any more; these are the fields that it would set.
    """
    cluster = place.cluster
    configuration.host = place.server
    configuration.verify_ssl = not place.insecure
    configuration.tls_server_name = cluster.get("tls-server-name")
    configuration.proxy = cluster.get("proxy-url")
    configuration.ssl_ca_cert = cluster.get("certificate-authority")
    if authority := cluster.get("certificate-authority-data"):
        configuration.ssl_ca_cert = None
        configuration.ca_cert_data = _decoded(authority, "certificate-authority-data").decode()
    configuration.cert_file = login.get("client-certificate")
    configuration.key_file = login.get("client-key")
    if token := login.get("token"):
        configuration.api_key["BearerToken"] = f"Bearer {token}"
    elif "username" in login and "password" in login:
        pair = f"{login['username']}:{login['password']}".encode()
        configuration.api_key["BearerToken"] = f"Basic {base64.b64encode(pair).decode()}"


def _login(place: Place, answer: execplugin.Answer | None) -> dict[str, Any]:
    """Return the user of a place, with what is only told by files and plug-ins."""
    login = dict(place.login)
    where = f"user {place.user!r} of {', '.join(place.files)}"
    if answer is not None:
        login.update(answer.login)
    elif "auth-provider" in login:
        login["token"] = _provided(login["auth-provider"], where)
    if not login.get("token") and (path := login.get("tokenFile")):
        try:
            login["token"] = Path(path).read_text().strip()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"the token of {where} cannot be read: {error}", hint="log in again"
            ) from error
    return login


def _provided(provider: object, where: str) -> str:
    """Return the token that an old login provider has left in the kubeconfig."""
    said = provider if isinstance(provider, Mapping) else {}
    name, config = said.get("name"), said.get("config")
    token = config.get("id-token") if isinstance(config, Mapping) else None
    if name == "oidc" and isinstance(token, str):
        return token
    raise UsageError(
        f"{where} logs in by `auth-provider` {border.line(str(name), 40)!r}, which Kubernetes has"
        " given up",
        hint="let your cluster's tool write the kubeconfig anew, so that it names a plug-in (exec)",
    )


def _in_files(login: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Put what the TLS library takes from files only into files that nobody else can read."""
    for key in ("client-certificate", "client-key"):
        if data := login.get(f"{key}-data"):
            path = folder / key
            path.touch(0o600)
            path.write_bytes(_decoded(data, f"{key}-data"))
            login[key] = str(path)
    return login


def _decoded(data: object, what: str) -> bytes:
    try:
        return base64.b64decode(str(data), validate=False)
    except binascii.Error as error:
        raise UsageError(f"`{what}` of the kubeconfig is no base64: {error}") from None


def _acting_as(login: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of who acts as somebody else (`as` of a user in a kubeconfig)."""
    headers = {}
    for key, header in (("as", "Impersonate-User"), ("as-uid", "Impersonate-Uid")):
        if login.get(key):
            headers[header] = str(login[key])
    if login.get("as-groups") or login.get("as-user-extra"):
        raise UsageError(
            "a user that acts with the groups of another (`as-groups`, `as-user-extra`) is not"
            " supported",
            hint="name a user of its own for Outpost in the kubeconfig",
        )
    return headers


async def log_in(place: Place) -> execplugin.Answer | None:
    """Run the kubeconfig's plug-in, where it has one.

    Raises:
        UnreachableError: it cannot be run, failed, or said nothing that can be used.
    """
    plugin = place.login.get("exec")
    if not isinstance(plugin, Mapping):
        return None
    return await execplugin.run(plugin, place.user, place.server, place.cluster)
