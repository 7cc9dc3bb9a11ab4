"""One API server, in dicts: all that is asked of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from outpost_k8s.api import bodies, config, paging, streams
from outpost_k8s.api.asking import PATIENCE, Asking, Object
from outpost_k8s.api.errors import AbsentError
from outpost_k8s.api.paging import METADATA
from outpost_k8s.api.paths import path
from outpost_k8s.api.process import Process
from outpost_k8s.api.transport import JSON, Transport
from outpost_shared import border

if TYPE_CHECKING:
    from outpost_k8s.settings import Settings

_PATCHES: Final = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
#: Who owns the fields that a server-side apply sets, and made what was created.
MANAGER: Final = "outpost"
Patch: TypeAlias = Literal["merge", "apply", "json", "strategic"]


class Cluster:
    """The API server of one cluster. Connects when it is first asked; close it at the end.

    Args:
        place: which cluster, and who we are there (`config.find`).
        outpost: the outpost's name, for messages and hints.
        kubeconfig: the file that was configured, to be read again when a login has run out.
        use_proxy: heed HTTPS_PROXY and NO_PROXY.
        patience: seconds for which a question is asked again.

    Attributes:
        namespace: where our things are.
        server: URL of the API server.
        context: name of the context, or `in-cluster`.
        peer: its name in messages.
    """

    def __init__(
        self,
        place: config.Place,
        *,
        outpost: str = "",
        kubeconfig: Path | None = None,
        use_proxy: bool = True,
        patience: float = PATIENCE,
    ) -> None:
        self.place = place
        self.namespace = place.namespace
        self.server = place.server
        self.context = place.context
        self.place = place
        shown = border.line(place.context, 80)
        self.peer = f"{outpost} (cluster {shown})" if outpost else f"the cluster {shown}"
        self._transport = Transport(
            place, self.peer, outpost=outpost, kubeconfig=kubeconfig, use_proxy=use_proxy
        )
        self._asking = Asking(self._transport, patience)

    @classmethod
    def of(cls, options: Settings, name: str) -> Cluster:
        """Return the cluster that an outpost's options mean.

        Args:
            options: of the outpost.
            name: its name.

        Raises:
            UsageError: there is no such kubeconfig or context.
        """
        place = config.find(
            kubeconfig=options.kubeconfig, context=options.context, namespace=options.namespace
        )
        return cls(place, outpost=name, kubeconfig=options.kubeconfig, use_proxy=options.use_proxy)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    @property
    def heard(self) -> float:
        """`time.monotonic()` of the last answer of the server; 0 when there was none yet."""
        return self._transport.heard

    @property
    def skew(self) -> float | None:
        """By how many seconds the server's clock is ahead of ours; None before an answer."""
        return self._transport.skew

    # --- verbs --------------------------------------------------------------------------------

    async def get(self, path: str) -> Object:
        """Return one thing.

        Args:
            path: its address (`paths.path`).

        Raises:
            AbsentError: there is none.
            ApiError, UnavailableError: as all verbs.
        """
        return await self._asking.ask("GET", path)

    async def items(
        self,
        path: str,
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        page: int = 500,
    ) -> AsyncGenerator[Object, None]:
        """Yield all things of a kind, a page at a time; each once.

        Args:
            path: address of the kind.
            labels: label selector.
            fields: field selector.
            metadata_only: leave spec and status at the server.
            page: things of one request.
        """
        pages = self.pages(
            path, labels=labels, fields=fields, metadata_only=metadata_only, page=page
        )
        async for _, found in pages:
            for item in found:
                yield item

    def pages(
        self,
        path: str,
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        page: int = 500,
    ) -> AsyncGenerator[tuple[Object, list[Object]], None]:
        """Yield metadata and things of each page; see `items`.

        When the server has forgotten the moment that the first pages are of, the rest is of now:
        what was told once is not told again.
        """
        asked = [("limit", str(page)), ("labelSelector", labels), ("fieldSelector", fields)]
        query = [(key, value) for key, value in asked if value]
        return paging.pages(self._asking, path, query, METADATA if metadata_only else JSON)

    async def create(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Create a thing; asked again when no answer came, since its name is its own.

        Args:
            path: address of its kind.
            body: the thing.
            dry_run: only say what would come of it.

        Raises:
            ExistsError: the name is taken, maybe by an earlier try whose answer was lost.
            RefusedError: it certainly was not made.
        """
        query = [("fieldManager", MANAGER), *_dry(dry_run)]
        return await self._asking.ask("POST", path, query=query, body=body)

    async def patch(
        self,
        path: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        kind: Patch = "merge",
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Change a thing; asked again when no answer came, unless it is a list of operations.

        Args:
            path: its address; with a subresource, only that is changed.
            body: what is to be different; with `json` the operations.
            kind: how it is meant; `apply` also creates it.
            force: with `apply`, take fields from whoever owns them.
            dry_run: only say what would come of it.

        Raises:
            AbsentError: there is none.
            ChangedError: it is not as `resourceVersion` or `uid` of the body say, or with `apply`
                somebody else owns a field.
        """
        query = [("fieldManager", MANAGER), *_dry(dry_run)]
        if kind == "apply":
            query.append(("force", "true" if force else "false"))
        return await self._asking.ask(
            "PATCH", path, query=query, body=body, content=_PATCHES[kind], harmless=kind != "json"
        )

    async def delete(
        self,
        path: str,
        *,
        uid: str = "",
        version: str = "",
        propagation: str = "Background",
        grace: float | None = None,
        dry_run: bool = False,
    ) -> bool:
        """Delete a thing; return whether it was there.

        Args:
            path: its address.
            uid: only if it is this one; without it, it is not asked again when no answer came.
            version: only if it is as it was at this version.
            propagation: what comes of what it owns.
            grace: seconds that a pod has to end; None for its own.
            dry_run: only say what would come of it.

        Raises:
            ChangedError: it is another one by now.
        """
        only = {"uid": uid, "resourceVersion": version}
        options = bodies.delete_options(only, propagation, grace, dry_run=dry_run)
        try:
            await self._asking.ask("DELETE", path, body=options, harmless=bool(uid or version))
        except AbsentError:
            return False
        return True

    # --- pods ---------------------------------------------------------------------------------

    async def exec(
        self,
        pod: str,
        argv: Sequence[str],
        *,
        stdin: bool = True,
        tty: bool = False,
        container: str = "worker",
    ) -> Process:
        """Start a program in a pod of our namespace; close it in any case.

        Args:
            pod: name of the pod.
            argv: program and arguments.
            stdin: it gets input.
            tty: it gets a terminal.
            container: in which container.

        Raises:
            AbsentError: there is no such pod.
            ApiError: it cannot be, for example since the container does not run.
        """
        address = path("pods", self.namespace, pod, "exec")
        return await Process.start(
            self._transport, address, argv, container=container, stdin=stdin, tty=tty
        )

    async def log(
        self,
        pod: str,
        *,
        container: str = "worker",
        since: float | str = "",
        tail: int | None = None,
        follow: bool = False,
        limit: int | None = None,
        timestamps: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the log of a container of our namespace, as it is at the node.

        It ends where the log does; with `follow` it may also end when the node begins a new file:
        ask again while the container runs.

        Args:
            pod: name of the pod.
            container: which container.
            since: seconds back from now, or a moment as of `timestamps`.
            tail: begin so many lines before the end.
            follow: go on as it grows.
            limit: bytes at most.
            timestamps: begin each line with its moment (RFC 3339, nanoseconds).

        Raises:
            AbsentError: there is no such pod.
            ApiError: it has no log, for example since it waits for its image.
            UnavailableError: the line broke, or the server stands still.
        """
        asked: list[tuple[str, object]] = [
            ("container", container),
            ("sinceTime", since if isinstance(since, str) else ""),
            ("sinceSeconds", max(1, round(since)) if isinstance(since, float | int) else ""),
            ("tailLines", tail if tail is not None else ""),
            ("limitBytes", limit if limit is not None else ""),
            ("follow", "true" if follow else ""),
            ("timestamps", "true" if timestamps else ""),
        ]
        query = [(name, str(value)) for name, value in asked if value != ""]
        address = path("pods", self.namespace, pod, "log")
        pieces = streams.chunks(self._transport, address, query, accept="*/*")
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    # --- watching -----------------------------------------------------------------------------

    async def watch(
        self,
        path: str,
        version: str,
        *,
        labels: str = "",
        metadata_only: bool = False,
        seconds: float = 300.0,
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """Yield kind (ADDED, MODIFIED, DELETED, BOOKMARK) and thing of each change.

        `watch.Reflector` does all that is to be done around it.

        Args:
            path: address of the kind.
            version: changes after this one (`resourceVersion` of a list).
            labels: label selector.
            metadata_only: leave spec and status at the server.
            seconds: after which the server ends it.

        Raises:
            ExpiredError: that version is no longer kept.
            UnavailableError: the line broke, or the server stands still.
        """
        query = [
            ("watch", "true"),
            ("resourceVersion", version),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(max(1, round(seconds)))),
            *([("labelSelector", labels)] if labels else []),
        ]
        accept = METADATA.replace("MetadataList", "Metadata") if metadata_only else JSON
        events = streams.events(self._transport, path, query, accept=accept)
        async with aclosing(events):
            async for event in events:
                yield event

    # --- about the cluster --------------------------------------------------------------------

    async def may(
        self,
        verb: str,
        resource: str,
        subresource: str = "",
        group: str = "",
        namespace: str | None = None,
    ) -> bool:
        """Whether we may do something.

        Args:
            verb: such as `create`.
            resource: plural name.
            subresource: such as `exec`.
            group: API group, such as `batch`; "" for the core one.
            namespace: None for ours; "" for what belongs to the whole cluster.
        """
        where = self.namespace if namespace is None else namespace
        body = bodies.access_review(verb, resource, subresource, group, where)
        answer = await self._asking.ask("POST", path("selfsubjectaccessreviews"), body=body)
        status = answer.get("status")
        return isinstance(status, dict) and status.get("allowed") is True

    async def version(self) -> str:
        """Return the server's version, such as `v1.36.3`."""
        answer = await self._asking.ask("GET", "/version")
        return border.line(str(answer.get("gitVersion") or ""), 60)

    async def serves(self, group: str) -> str:
        """Return group and version that the server prefers; "" when the group is not there.

        Args:
            group: such as `kueue.x-k8s.io`.
        """
        try:
            answer = await self._asking.ask("GET", f"/apis/{group}")
        except AbsentError:
            return ""
        preferred = answer.get("preferredVersion")
        said = preferred.get("groupVersion") if isinstance(preferred, dict) else None
        return border.line(str(said or ""), 100)


def _dry(dry_run: bool) -> list[tuple[str, str]]:
    return [("dryRun", "All")] if dry_run else []
