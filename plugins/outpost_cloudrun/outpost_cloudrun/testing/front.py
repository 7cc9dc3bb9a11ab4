"""Google's front before a service: takes requests, and hands them to one of its containers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from http.cookies import CookieError, SimpleCookie
from typing import Final

import httpx

from outpost_cloudrun.testing import borders, tokens
from outpost_cloudrun.testing.cloud import Cloud, last, region_of
from outpost_cloudrun.testing.exchanges import Headers, Reply, Request, answer
from outpost_cloudrun.testing.forward import relay
from outpost_cloudrun.testing.httpd import Server
from outpost_cloudrun.testing.pool import Instance, NoInstanceError, Pool

#: The cookie of session affinity.
_COOKIE: Final = "GAESA"


class Front:
    """The front of one service.

    Args:
        cloud: where it belongs.
        name: the service's whole name.
        pool: its containers.
        audiences: for whom tokens of callers may be; None where everybody may call.
    """

    def __init__(
        self, cloud: Cloud, name: str, pool: Pool, audiences: Callable[[], set[str] | None]
    ) -> None:
        self.cloud = cloud
        self.name = name
        self.pool = pool
        self.server = Server(self._handle)
        self._audiences = audiences
        cloud.go(borders.cut_while_away(cloud, name, self.server))

    async def close(self) -> None:
        """End, with all containers."""
        await self.server.close()
        await self.pool.close()

    async def _handle(self, request: Request, reply: Reply) -> None:
        cloud = self.cloud
        refused = borders.refuse(cloud, self.name, request)
        if refused is not None:
            self._note(request, refused.status, "")
            await answer(reply, refused.status, refused.body, [*refused.headers, *self._always()])
            return
        audiences = self._audiences()
        if audiences is not None and cloud.knobs.tokens:
            refusal = tokens.check(cloud, request, audiences)
            if refusal is not None:
                self._note(request, refusal.status, "")
                await answer(
                    reply, refusal.status, refusal.body, [*refusal.headers, *self._always()]
                )
                return
        seconds = cloud.knobs.request_timeout or self.pool.revision.timeout
        try:
            async with asyncio.timeout(seconds):
                await self._serve(request, reply)
        except TimeoutError:
            self._note(request, 504, "")
            if reply.started:
                raise ConnectionResetError("the request timed out") from None
            await self._say(reply, 504, b"upstream request timeout")

    async def _serve(self, request: Request, reply: Reply) -> None:
        cookie = _cookie(request)
        try:
            instance = await self.pool.take(cookie)
        except NoInstanceError as error:
            self._note(request, error.status, "")
            await self._say(reply, error.status, str(error).encode())
            return
        if request.method == "POST" and self.cloud.knobs.duplicates > 0:
            self.cloud.knobs.duplicates -= 1
            self.cloud.go(self._again(request, instance))
        if request.method == "POST" and self.cloud.knobs.kill_on_post > 0:
            self.cloud.knobs.kill_on_post -= 1
            assert instance.container is not None
            instance.container.kill()
            await instance.container.ended()
        extra: Headers = self._always()
        if self.pool.revision.affinity and cookie != instance.id:
            extra = [*extra, ("set-cookie", f"{_COOKIE}={instance.id}; path=/; HttpOnly")]
        try:
            assert instance.line is not None
            async with instance.line.ask(request, request.header("host")) as response:
                self._note(request, response.status_code, instance.id)
                await relay(response, reply, extra)
        except httpx.HTTPError as error:
            self._note(request, 503, instance.id)
            if reply.started:
                raise ConnectionResetError("the container is gone") from error
            await self._say(reply, 503, b"Service Unavailable")
        finally:
            self.pool.leave(instance)

    async def _again(self, request: Request, first: Instance) -> None:
        """Deliver a request a second time; nobody hears the answer."""
        try:
            instance = await self.pool.take(avoid=first)
        except NoInstanceError:
            self.cloud.journal.write("duplicate.refused", path=request.target)
            return
        self.cloud.journal.write(
            "duplicate.delivered", path=request.target, id=instance.id, first=first.id
        )
        try:
            assert instance.line is not None
            async with (
                asyncio.timeout(self.cloud.knobs.request_timeout or self.pool.revision.timeout),
                instance.line.ask(request, request.header("host")) as response,
            ):
                assert isinstance(response.stream, httpx.AsyncByteStream)
                async for _ in response.stream:
                    pass
        except (httpx.HTTPError, TimeoutError):
            pass
        finally:
            self.pool.leave(instance)

    def _always(self) -> Headers:
        now = self.cloud.tokens.now()
        return [("date", formatdate(now, usegmt=True)), ("server", "Google Frontend")]

    async def _say(self, reply: Reply, status: int, text: bytes) -> None:
        kind = ("content-type", "text/plain")
        await answer(reply, status, text, [kind, *self._always()])

    def _note(self, request: Request, status: int, instance: str) -> None:
        self.cloud.journal.write(
            "request", service=last(self.name), region=region_of(self.name), method=request.method,
            path=request.target, status=status, id=instance, version=request.version,
        )  # fmt: skip


def _cookie(request: Request) -> str:
    try:
        found = SimpleCookie(request.header("cookie")).get(_COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
