"""Which cluster is meant, and how it is logged in to: kubeconfigs, or the pod that this runs in.

`find` reads files and decides; it starts and asks nobody. `credentials` hands the decision to the
official client, after plug-ins of the kubeconfig were run for what they know.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import UnreachableError, UsageError
from outpost_core.nearest import suggest
from outpost_k8s.api import execplugin
from outpost_shared import border

if TYPE_CHECKING:
    from kubernetes.aio.client.configuration import Configuration

#: Where a pod finds the account that it runs as.
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: Name of the context that is the pod that this runs in.
IN_CLUSTER: Final = "in-cluster"
#: Longest kubeconfig, in bytes: certificates are in it, nothing larger.
_LONGEST: Final = 4 << 20
_LISTS: Final = ("clusters", "contexts", "users")
#: Values that are paths, relative to the file that they stand in.
_PATHS: Final = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cluster, and who we are there.

    Args:
        server: URL of the API server.
        context: name of the context, or `in-cluster`.
        namespace: where our things are.
        user: name of the user of the kubeconfig.
        files: the kubeconfigs that were read.
        insecure: the server's certificate is not looked at.
        cluster: the cluster as the kubeconfig has it, its paths absolute.
        login: the user as the kubeconfig has it, its paths absolute.
    """

    server: str
    context: str
    namespace: str = "default"
    user: str = ""
    files: tuple[str, ...] = ()
    insecure: bool = False
    cluster: Mapping[str, Any] = field(default_factory=dict, repr=False)
    login: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def how(self) -> str:
        """How we log in, in words."""
        if self.context == IN_CLUSTER:
            return f"the token of this pod's service account in {ACCOUNT} is not accepted"
        where = f"user {self.user!r} of {', '.join(self.files)}"
        plugin = self.login.get("exec")
        if isinstance(plugin, Mapping):
            return f"{where} logs in by {border.line(str(plugin.get('command')), 100)!r}"
        return f"{where} is not accepted any more"


# --- which one --------------------------------------------------------------------------------


def find(
    *,
    kubeconfig: Path | None = None,
    context: str = "",
    namespace: str = "",
    env: Mapping[str, str] | None = None,
) -> Place:
    """Return the cluster that is meant.

    Args:
        kubeconfig: the file; None for those of `$KUBECONFIG`, then `~/.kube/config`, then the pod
            that this runs in.
        context: of it; "" for its current one.
        namespace: "" for the context's own.
        env: the environment; None for this process's.

    Raises:
        UsageError: there is no such file, context, cluster or user, or a file is none.
    """
    env = os.environ if env is None else env
    files = _files(kubeconfig, env)
    if not files:
        return _pod(context, namespace, env)
    merged, current = _merged(files)
    wanted = context or current
    shown = ", ".join(map(str, files))
    if not wanted:
        raise UsageError(
            f"{shown} has no current context",
            hint=f"set `context` of the outpost; {suggest('', merged['contexts'])}",
        )
    if wanted not in merged["contexts"]:
        raise UsageError(
            f"there is no context {wanted!r} in {shown}", hint=suggest(wanted, merged["contexts"])
        )
    chosen = merged["contexts"][wanted]
    cluster = _named(merged["clusters"], chosen.get("cluster"), "cluster", wanted, shown)
    user = chosen.get("user") or ""
    login = _named(merged["users"], user, "user", wanted, shown) if user else {}
    return Place(
        server=_server(cluster, wanted, shown),
        context=wanted,
        namespace=namespace or str(chosen.get("namespace") or "default"),
        user=str(user),
        files=tuple(map(str, files)),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        cluster=cluster,
        login=login,
    )


def contexts(kubeconfig: Path | None = None, env: Mapping[str, str] | None = None) -> list[str]:
    """Return the contexts that there are, the current one first.

    Args:
        kubeconfig: as of `find`.
        env: as of `find`.

    Raises:
        UsageError: a file cannot be read.
    """
    files = _files(kubeconfig, os.environ if env is None else env)
    if not files:
        return []
    merged, current = _merged(files)
    return sorted(merged["contexts"], key=lambda name: (name != current, name))


def _files(kubeconfig: Path | None, env: Mapping[str, str]) -> list[Path]:
    if kubeconfig is not None:
        return [kubeconfig.expanduser()]
    said = env.get("KUBECONFIG", "")
    if said:
        named = [Path(part).expanduser() for part in said.split(os.pathsep) if part]
        files = [path for path in named if path.exists()]
        if not files and not _in_pod(env):
            raise UsageError(
                f"$KUBECONFIG names {border.line(said, 300)}, and there is no such file",
                hint="correct or unset it, or set `kubeconfig` of the outpost",
            )
        return files
    usual = Path(env.get("HOME") or "~").expanduser() / ".kube" / "config"
    return [usual] if usual.exists() else []


def _merged(files: list[Path]) -> tuple[dict[str, dict[str, dict[str, Any]]], str]:
    """Return what the files say together, as kubectl does: the first that names a thing wins."""
    found: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in _LISTS}
    current = ""
    for path in files:
        said = _read(path)
        current = current or str(said.get("current-context") or "")
        for kind in _LISTS:
            for name, value in _entries(said, kind, path):
                found[kind].setdefault(name, value)
    return found, current


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
    except OSError as error:
        raise UsageError(
            f"the kubeconfig {path} cannot be read: {error.strerror}",
            hint="correct `kubeconfig` of the outpost, or $KUBECONFIG",
        ) from error
    if len(data) > _LONGEST:
        raise UsageError(f"{path} is no kubeconfig: it has more than {_LONGEST >> 20} MiB")
    try:
        said = yaml.load(data, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        at = f":{where.line + 1}" if where is not None else ""
        raise UsageError(
            f"{path}{at} is no kubeconfig: {border.line(str(error), 200)}",
            hint="see what is wrong with it: kubectl config view",
        ) from None
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        raise UsageError(f"{path} is no kubeconfig: it is no mapping")
    return said


def _entries(
    said: Mapping[str, Any], kind: str, path: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and content of the entries of a list, paths made absolute."""
    entries = said.get(kind) or []
    if not isinstance(entries, list):
        raise UsageError(f"{path} is no kubeconfig: `{kind}` is no list")
    for entry in entries:
        value = entry.get(kind[:-1]) if isinstance(entry, Mapping) else None
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise UsageError(f"{path} is no kubeconfig: an entry of `{kind}` has no name")
        if value is not None and not isinstance(value, Mapping):
            raise UsageError(
                f"{path} is no kubeconfig: `{kind[:-1]}` of {entry['name']!r} is no mapping"
            )
        yield entry["name"], _absolute(dict(value or {}), path.absolute().parent)


def _absolute(value: dict[str, Any], folder: Path) -> dict[str, Any]:
    for key in _PATHS:
        if isinstance(value.get(key), str) and value[key]:
            value[key] = str(folder / value[key])
    plugin = value.get("exec")
    command = plugin.get("command") if isinstance(plugin, Mapping) else None
    if isinstance(command, str) and os.sep in command:
        # as kubectl does: a name is looked for in $PATH, a path stands beside the kubeconfig
        value["exec"] = {**value["exec"], "command": str(folder / command)}
    return value


def _named(
    found: Mapping[str, dict[str, Any]], name: object, kind: str, context: str, shown: str
) -> dict[str, Any]:
    if not isinstance(name, str) or name not in found:
        raise UsageError(
            f"context {context!r} of {shown} has the {kind} {name!r}, which is not there",
            hint=suggest(str(name or ""), found),
        )
    return found[name]


def _server(cluster: Mapping[str, Any], context: str, shown: str) -> str:
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith(("https://", "http://")):
        raise UsageError(
            f"the cluster of context {context!r} in {shown} has no URL as its `server`",
            hint="https://HOST:PORT",
        )
    return server.rstrip("/")


# --- the pod that this runs in ----------------------------------------------------------------


def _in_pod(env: Mapping[str, str]) -> bool:
    return bool(env.get("KUBERNETES_SERVICE_HOST")) and (ACCOUNT / "token").is_file()


def _pod(context: str, namespace: str, env: Mapping[str, str]) -> Place:
    if not _in_pod(env):
        raise UsageError(
            "there is no kubeconfig: neither $KUBECONFIG nor ~/.kube/config, and this is no pod"
            " with a service account",
            hint="set `kubeconfig` of the outpost, or let your cluster's tool write"
            " ~/.kube/config (kind export kubeconfig, gcloud container clusters get-credentials,"
            " aws eks update-kubeconfig)",
        )
    if context not in ("", IN_CLUSTER):
        raise UsageError(
            f"there is no context {context!r}: there is no kubeconfig, only the pod that this"
            " runs in",
            hint="take `context` out of the outpost's options, or set `kubeconfig`",
        )
    host, port = env["KUBERNETES_SERVICE_HOST"], env.get("KUBERNETES_SERVICE_PORT") or "443"
    own = ACCOUNT / "namespace"
    return Place(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        context=IN_CLUSTER,
        namespace=namespace or (own.read_text().strip() if own.is_file() else "default"),
        user="service account",
    )


# --- logging in -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a connection needs.

    Args:
        configuration: the official client's own.
        token: that goes with each request, or "".
        line: all that connections depend on; when it changes, new ones are needed.
        headers: that go with each request: who we want to act as.
        expires: when the credentials end, seconds since the epoch; None when that is not known.
    """

    configuration: Configuration
    token: str = field(default="", repr=False)
    line: tuple[object, ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    expires: float | None = None


@contextmanager
def credentials(place: Place, answer: execplugin.Answer | None) -> Iterator[Credentials]:
    """Make the official client's configuration of a place; files in it exist within the block.

    Args:
        place: the cluster.
        answer: of the kubeconfig's plug-in, where it has one.

    Raises:
        UsageError: the kubeconfig asks for what is not there.
    """
    from kubernetes.aio.client.configuration import Configuration

    configuration: Any = Configuration()
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
        )


def _line(configuration: Any) -> tuple[object, ...]:
    """Return what a connection depends on; files by what is in them."""
    files = (configuration.cert_file, configuration.key_file, configuration.ssl_ca_cert)
    names = ("host", "verify_ssl", "tls_server_name", "proxy", "ca_cert_data")
    try:
        contents = [Path(file).read_bytes() if file else b"" for file in files]
    except OSError as error:
        raise UsageError(
            f"{error.filename}, which the kubeconfig names, cannot be read: {error.strerror}",
            hint="let your cluster's tool write the kubeconfig anew",
        ) from error
    return (*contents, *(getattr(configuration, name) for name in names))


def _load_pod(configuration: Any) -> None:
    from kubernetes.aio.config import incluster_config
    from kubernetes.aio.config.config_exception import ConfigException

    load: Any = incluster_config.load_incluster_config
    try:
        load(client_configuration=configuration)
    except (ConfigException, OSError) as error:
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


def again(place: Place, kubeconfig: Path | None, env: Mapping[str, str] | None = None) -> Place:
    """Read the same place anew: somebody may have logged in meanwhile."""
    if place.context == IN_CLUSTER:
        return place
    fresh = find(kubeconfig=kubeconfig, context=place.context, env=env)
    return replace(fresh, namespace=place.namespace)
