"""Which cluster is meant, and who we are there: kubeconfigs, or the pod that this runs in.

Files are read here; nothing is started, and nobody is asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from outpost_core.errors import UsageError
from outpost_core.nearest import suggest
from outpost_shared import border

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


def again(place: Place, kubeconfig: Path | None, env: Mapping[str, str] | None = None) -> Place:
    """Read the same place anew: somebody may have logged in meanwhile."""
    if place.context == IN_CLUSTER:
        return place
    fresh = find(kubeconfig=kubeconfig, context=place.context, env=env)
    return replace(fresh, namespace=place.namespace)


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
