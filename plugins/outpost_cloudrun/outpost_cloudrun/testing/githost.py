"""Repositories over HTTP on loopback: what GitHub and the like are to workers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from outpost_cloudrun.testing.exchanges import Reply, Request, answer
from outpost_cloudrun.testing.httpd import Server
from outpost_cloudrun.testing.journal import Journal


class GitHost:
    """Bare repositories in a folder, by git's own program for the smart protocol.

    Args:
        folder: where they are: `NAME.git`.
        journal: where requests are noted.

    Attributes:
        token: the password that callers need; "" for none.
    """

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder = folder
        self.token = ""
        self.server = Server(self._handle)
        self._journal = journal

    def url(self, name: str) -> str:
        """Return the address of a repository."""
        return f"{self.server.url}/{name}.git"

    def make(self, name: str) -> str:
        """Make an empty repository that may be pushed to; return its address."""
        path = self.folder / f"{name}.git"
        path.mkdir(parents=True)
        for words in (
            ("init", "--quiet", "--bare", "--initial-branch=main"),
            ("config", "http.receivepack", "true"),
        ):
            subprocess.run(["git", *words], cwd=path, env=_environment(), check=True)
        return self.url(name)

    async def _handle(self, request: Request, reply: Reply) -> None:
        if self.token and not self._may(request):
            self._journal.write("git", path=request.target, status=401)
            challenge = ("www-authenticate", 'Basic realm="git"')
            await answer(reply, 401, b"", [challenge])
            return
        url = urlsplit(request.target)
        process = await asyncio.create_subprocess_exec(
            "git", "http-backend", env=self._cgi(request, url.path, url.query),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            output, _ = await process.communicate(request.body)
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        head, _, body = output.partition(b"\r\n\r\n")
        status, headers = 200, []
        for line in head.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(": ")
            if name.lower() == "status":
                status = int(value.split()[0])
            elif name:
                headers.append((name.lower(), value))
        self._journal.write("git", method=request.method, path=request.target, status=status)
        await answer(reply, status if head else 500, body, headers)

    def _may(self, request: Request) -> bool:
        scheme, _, given = request.header("authorization").partition(" ")
        try:
            password = base64.b64decode(given).decode().partition(":")[2]
        except ValueError:
            return False
        return scheme.lower() == "basic" and hmac.compare_digest(password, self.token)

    def _cgi(self, request: Request, path: str, query: str) -> dict[str, str]:
        """Return what git's program is told (git-http-backend(1))."""
        told = {
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.header("content-type"),
            "CONTENT_LENGTH": str(len(request.body)),
            "REMOTE_USER": "worker",
            "GIT_PROTOCOL": request.header("git-protocol"),
        }
        if encoding := request.header("content-encoding"):
            told["HTTP_CONTENT_ENCODING"] = encoding
        return {**_environment(), **told}


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return {**kept, "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C"}
