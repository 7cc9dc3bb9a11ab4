"""A small bucket on loopback: objects with generations, as Cloud Storage's JSON API has them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKENS = "/computeMetadata/v1/instance/service-accounts/default/token"


class SmallBucket:
    """One bucket, `gs://rigs`, and the metadata server of its machine.

    Attributes:
        failures: statuses that the next requests are answered with, in place of the bucket.
        loses: the answers to so many writes that were done.
        delay: seconds that each answer takes.
        tokens: tokens that are good; the metadata server gives the last; empty: none is asked for.
        asked: method and path of each request.
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.failures: list[int] = []
        self.loses = 0
        self.delay = 0.0
        self.tokens: list[str] = []
        self.asked: list[str] = []
        self.generation = 1_000
        self.lock = threading.Lock()
        bucket = self

        class Handler(_Handler):
            peer = bucket

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    peer: SmallBucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        peer = self.peer
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(whole.query).items()}
        peer.asked.append(f"{self.command} {self.path}")
        if whole.path == TOKENS:
            assert self.headers["Metadata-Flavor"] == "Google"
            about = {"access_token": peer.tokens[-1], "expires_in": 3599, "token_type": "Bearer"}
            self._send(200, json.dumps(about).encode())
            return
        time.sleep(peer.delay)
        if peer.failures:
            self._error(peer.failures.pop(0), "not now")
            return
        told = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if peer.tokens and told != peer.tokens[-1]:
            self._error(401, "Invalid Credentials")
            return
        with peer.lock:
            self._object(whole.path, asked, body)

    def _object(self, path: str, asked: dict[str, str], body: bytes) -> None:
        peer, place = self.peer, "/storage/v1/b/rigs/o"
        upload = path == f"/upload{place}"
        if not (upload or path == place or path.startswith(f"{place}/")):
            self._error(404, "The specified bucket does not exist.")
            return
        if path == place:
            self._list(asked)
            return
        name = asked["name"] if upload else unquote(path.removeprefix(f"{place}/"))
        there = peer.objects.get(name, (0, b""))
        if "ifGenerationMatch" in asked and int(asked["ifGenerationMatch"]) != there[0]:
            self._error(412, "At least one of the pre-conditions you specified did not hold.")
        elif upload:
            assert asked["uploadType"] == "media"
            peer.generation += 1
            peer.objects[name] = (peer.generation, body)
            md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            about = {"name": name, "generation": str(peer.generation), "md5Hash": md5}
            if peer.loses:
                peer.loses -= 1
                self.close_connection = True
                self.connection.close()
                return
            self._send(200, json.dumps(about).encode())
        elif not there[0]:
            self._error(404, f"No such object: rigs/{name}")
        elif self.command == "DELETE":
            del peer.objects[name]
            self._send(204, b"")
        else:
            assert asked["alt"] == "media"
            self._send(200, there[1], {"x-goog-generation": str(there[0])})

    def _list(self, asked: dict[str, str]) -> None:
        start = asked.get("pageToken") or asked.get("startOffset", "")
        names = sorted(
            name
            for name in self.peer.objects
            if name.startswith(asked.get("prefix", "")) and name >= start
        )
        most = min(int(asked.get("maxResults", "1000")), 3)  # so that there are pages
        about: dict[str, object] = {
            "items": [
                {"name": name, "size": str(len(self.peer.objects[name][1]))}
                for name in names[:most]
            ]
        }
        if names[most:]:
            about["nextPageToken"] = names[most]
        self._send(200, json.dumps(about).encode())

    def _error(self, status: int, said: str) -> None:
        self._send(status, json.dumps({"error": {"code": status, "message": said}}).encode())

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@contextlib.contextmanager
def serving() -> Iterator[SmallBucket]:
    """Serves a bucket while the block runs."""
    made = SmallBucket()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()
