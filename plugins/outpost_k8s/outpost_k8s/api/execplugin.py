"""Runs the login plug-in that a kubeconfig names (`exec`), such as gke-gcloud-auth-plugin.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outpost_core.errors import UnreachableError, UsageError
from outpost_shared import border, children

#: Seconds that a plug-in may take: some ask a web service, none is there to be talked to.
_PATIENCE: Final = 60.0
#: Bytes of its answer, and of its complaints, that are read.
_LONGEST: Final = 1 << 20
_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a plug-in said.

    Args:
        login: as fields of a user in a kubeconfig.
        expires: when it ends, seconds since the epoch; None when it does not say.
    """

    login: Mapping[str, Any] = field(repr=False)
    expires: float | None = None


async def run(
    plugin: Mapping[str, Any], user: str, server: str, cluster: Mapping[str, Any]
) -> Answer:
    """Run a plug-in and return what it says.

    Args:
        plugin: `exec` of the user.
        user: its name, for messages.
        server: URL of the API server, for plug-ins that ask for it.
        cluster: the cluster as the kubeconfig has it.

    Raises:
        UsageError: the kubeconfig does not say which program.
        UnreachableError: it cannot be started, failed, or said nothing that can be used.
    """
    command, version = plugin.get("command"), plugin.get("apiVersion")
    if not isinstance(command, str) or not command or version not in _VERSIONS:
        raise UsageError(
            f"`exec` of user {user!r} in the kubeconfig needs a `command`, and an `apiVersion`:"
            f" {' or '.join(_VERSIONS)}",
            hint="let your cluster's tool write the kubeconfig anew",
        )
    name = border.line(command, 200)
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *[str(argument) for argument in plugin.get("args") or ()],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(plugin, str(version), server, cluster),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        hint = border.lines(str(plugin.get("installHint") or ""), 600)
        raise UnreachableError(
            f"the login plug-in {name!r} of user {user!r} cannot be run: "
            + (getattr(error, "strerror", None) or str(error)),
            hint=hint or "install it, or correct the kubeconfig",
            sent=False,
        ) from error
    try:
        async with asyncio.timeout(_PATIENCE):
            out, said = await asyncio.gather(_all(process.stdout), _all(process.stderr))
            await children.gone(process, _PATIENCE)
    except TimeoutError:
        raise _failed(name, f"did not end within {_PATIENCE:g} s") from None
    finally:
        await children.end(process)
    if process.returncode:
        complaint = border.line(said[-2000:].decode("utf-8", "replace"), 500)
        raise _failed(name, f"ended with {process.returncode}: {complaint}")
    return _answer(out, name)


async def _all(stream: asyncio.StreamReader | None) -> bytes:
    """Return the first part of what comes, until the end."""
    assert stream is not None
    kept = b""
    while data := await stream.read(1 << 16):
        kept = (kept + data)[:_LONGEST]
    return kept


def _environment(
    plugin: Mapping[str, Any], version: str, server: str, cluster: Mapping[str, Any]
) -> dict[str, str]:
    env = dict(os.environ)
    for pair in plugin.get("env") or ():
        if isinstance(pair, Mapping) and isinstance(pair.get("name"), str):
            env[pair["name"]] = str(pair.get("value", ""))
    spec: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        known = ("tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data",
                 "proxy-url")  # fmt: skip
        spec["cluster"] = {"server": server} | {k: cluster[k] for k in known if k in cluster}
        if path := cluster.get("certificate-authority"):
            with contextlib.suppress(OSError):  # said when we come to it ourselves
                data = _base64(Path(path).read_bytes())
                spec["cluster"].setdefault("certificate-authority-data", data)
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    return env | {"KUBERNETES_EXEC_INFO": json.dumps(info)}


def _answer(out: bytes, name: str) -> Answer:
    try:
        said = json.loads(out)
        status = said["status"]
        login: dict[str, Any] = {}
        if token := status.get("token"):
            login["token"] = str(token)
        if certificate := status.get("clientCertificateData"):
            login["client-certificate-data"] = _base64(certificate.encode())
            login["client-key-data"] = _base64(status["clientKeyData"].encode())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _failed(name, "said nothing that can be used (no ExecCredential)") from None
    if not login:
        raise _failed(name, "gave neither a token nor a certificate")
    return Answer(login=login, expires=_moment(status.get("expirationTimestamp")))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _moment(said: object) -> float | None:
    try:
        moment = dt.datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


def _failed(name: str, why: str) -> UnreachableError:
    return UnreachableError(
        f"the login plug-in {name!r} {why}",
        hint="log in with your cluster's tool, then try: kubectl get namespaces",
        sent=False,
    )
