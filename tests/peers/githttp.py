"""A real git server over HTTP for tests: `git http-backend`, a login, and git-lfs.

What is in its folder are bare repositories; `<url>/NAME` is one of them. Logins can be exchanged
while it runs, as tokens expire; every request is noted.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_LFS = re.compile(r"/(?P<rig>[^/]+)/info/lfs/objects/(?P<what>batch|[0-9a-f]{64})")


class GitHttp:
    """One server.

    Args:
        folder: Where its repositories are.
        user: Who may log in; "" for everybody.
        password: With what.
        address: Where it listens.
    """

    def __init__(
        self, folder: Path, user: str = "", password: str = "", address: str = "127.0.0.1"
    ) -> None:
        self.folder = folder
        self.user, self.password = user, password
        self.requests: list[tuple[str, str, str]] = []  # method, path, who it was
        self.redirects: dict[str, str] = {}  # beginning of a path → URL to go to instead
        folder.mkdir(parents=True, exist_ok=True)
        server = self

        class Handler(_Handler):
            peer = server

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Its address, without a `/` at its end."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def repository(self, name: str, *options: str) -> Path:
        """Make an empty repository that may be pushed to; returns its path."""
        path = self.folder / name
        subprocess.run(["git", "init", "-q", "--bare", *options, str(path)], check=True)
        subprocess.run(["git", "-C", str(path), "config", "http.receivepack", "true"], check=True)
        return path

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def admits(self, told: str) -> str | None:
        """Return who a request comes from by its `Authorization`; None for nobody."""
        if not self.user:
            return ""
        kind, _, value = told.partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            user, _, password = base64.b64decode(value).decode().partition(":")
        except ValueError:
            return None
        return user if (user, password) == (self.user, self.password) else None


class _Handler(BaseHTTPRequestHandler):
    peer: GitHttp
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self._body()
        told = self.headers.get("Authorization", "")
        who = self.peer.admits(told)
        self.peer.requests.append((self.command, self.path, "nobody" if who is None else who))
        for begin, goal in self.peer.redirects.items():
            if self.path.startswith(begin):
                self._send(302, {"Location": goal + self.path[len(begin) :]}, b"")
                return
        if who is None:
            realm = {"WWW-Authenticate": 'Basic realm="rigs"'}
            self._send(401, realm, b"who are you?\n")
            return
        path, _, query = self.path.partition("?")
        lfs = _LFS.fullmatch(path)
        if lfs:
            self._lfs(self.peer.folder / lfs["rig"], lfs["what"], body, told)
        else:
            self._git(path, query, body, who)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _git(self, path: str, query: str, body: bytes, who: str) -> None:
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.peer.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_USER": who,
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=env, capture_output=True, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        status = int(headers.pop("Status", "200" if head else "500").split(" ")[0])
        self._send(status, headers, content)

    def _lfs(self, rig: Path, what: str, body: bytes, told: str) -> None:
        objects = rig / "lfs" / "objects"
        if what != "batch":
            path = objects / what[:2] / what[2:4] / what
            if self.command == "PUT":
                assert hashlib.sha256(body).hexdigest() == what
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)
            found = path.exists()
            content = path.read_bytes() if self.command == "GET" and found else b""
            self._send(200 if found else 404, {}, content)
            return
        asked: dict[str, Any] = json.loads(body)
        answers = []
        for each in asked["objects"]:
            oid = each["oid"]
            there = (objects / oid[:2] / oid[2:4] / oid).exists()
            action = {
                "href": f"{self.peer.url}/{rig.name}/info/lfs/objects/{oid}",
                "header": {"Authorization": told} if told else {},
            }
            answer = {"oid": oid, "size": each["size"], "authenticated": True}
            if asked["operation"] == "download" and not there:
                answer["error"] = {"code": 404, "message": "it is not here"}
            elif (asked["operation"] == "upload") != there:
                answer["actions"] = {asked["operation"]: action}
            answers.append(answer)
        kind = {"Content-Type": "application/vnd.git-lfs+json"}
        self._send(200, kind, json.dumps({"transfer": "basic", "objects": answers}).encode())

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)


@contextlib.contextmanager
def serving(folder: Path, user: str = "", password: str = "") -> Iterator[GitHttp]:
    """Serves git over HTTP while the block runs."""
    server = GitHttp(folder, user, password)
    server.start()
    try:
        yield server
    finally:
        server.stop()
