"""Of the official client only what is used is imported, and whoever wants all of it gets that."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import aiohttp
import apikit
import pytest

from outpost_k8s.api import official

_LEAN = """
import sys
from outpost_k8s.api.official import official
from outpost_k8s.api.client import Cluster
parts = official()
parts.configuration()
beside = {"google", "kubernetes", "kubernetes.client", "pydantic", "requests", "urllib3"}
print(sorted(beside & sys.modules.keys()))
"""
_ALL_AFTERWARDS = """
import kubernetes
import kubernetes.aio.client.rest
assert kubernetes.client.CoreV1Api and kubernetes.config.load_kube_config
assert kubernetes.aio.client.Configuration is not None
assert kubernetes.aio.client.rest.RESTClientObject.__mro__[0] not in parts.rest.__mro__
"""
_ALL_BEFORE = """
import kubernetes
from kubernetes.aio.client.rest import RESTClientObject
from outpost_k8s.api.official import official
assert issubclass(official().rest, RESTClientObject)
assert kubernetes.client.CoreV1Api
"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_but_what_is_used_is_imported_and_all_of_it_can_be_afterwards() -> None:
    assert run(_LEAN + _ALL_AFTERWARDS) == "[]"


def test_who_has_all_of_it_already_keeps_that() -> None:
    run(_ALL_BEFORE)


def test_what_a_pod_is_told_of_its_cluster_is_read_by_the_official_client() -> None:
    parts = official.official()
    with pytest.raises(parts.config_error):  # this is no pod
        parts.load_pod(client_configuration=parts.configuration())


def test_a_release_whose_modules_are_elsewhere_is_imported_whole() -> None:
    script = (
        "import sys\n"
        "from outpost_k8s.api import official\n"
        "official._AROUND = (*official._AROUND, 'kubernetes.is_no_more')\n"
        "parts = official.official()\n"
        "assert 'kubernetes.client' in sys.modules\n"
        "assert parts.configuration and parts.rest"
    )
    run(script)


def test_the_end_of_the_connections_waits_for_nobody(tmp_path: Path) -> None:
    """A TLS connection that is closed waits for the other side's word; it never says it here."""
    certificate = apikit.certificate(tmp_path, "server")
    context = certificate.server()
    held: list[socket.socket] = []

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listening.accept()
                there = context.wrap_socket(plain, server_side=True)
                there.recv(65536)
                there.sendall(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
                )
                held.append(there)  # and is not heard of again

    async def ask(port: int) -> None:
        trusted = ssl.create_default_context(cafile=certificate.certificate)
        connector = official._Connector(ssl=trusted)
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get(f"https://127.0.0.1:{port}/") as answer:
                assert await answer.read() == b"ok"
            (opened,) = connector._opened
            own = opened.get_extra_info("socket")
            await asyncio.sleep(0.1)
            assert own.fileno() >= 0, "it waits for the other side"
        for _ in range(5):
            await asyncio.sleep(0)
        assert own.fileno() == -1

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        asyncio.run(ask(listening.getsockname()[1]))
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(30)
    for one in held:
        one.close()
