"""Other ways to a pod: exec without the newer protocol, and a proxy in between."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import k8snearkit as kit
import pytest
from peers.kubelab import Cluster
from test_k8s_near_pods import printed
from test_k8s_rigs_lab import image as image  # noqa: PLC0414 - a fixture
from test_k8s_rigs_lab import rig as rig  # noqa: PLC0414 - a fixture
from test_k8s_rigs_lab import said as said  # noqa: PLC0414 - a fixture
from test_k8s_rigs_lab import test_a_repository_of_this_machine_is_worked_on_in_a_pod as travels

from outpost_core.types import State
from outpost_k8s.api import process
from outpost_k8s.api.transport import Transport
from outpost_k8s.options import K8sOptions
from outpost_k8s.outpost import K8sOutpost
from outpost_testing.gitrig import GitRig

pytestmark = pytest.mark.kube

_V4 = "v4.channel.k8s.io"


def test_a_server_that_only_knows_the_older_protocol_of_exec_will_do(
    cluster: Cluster, said: K8sOptions, rig: GitRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PROTOCOLS", (_V4,))
    spoken: list[str | None] = []
    websocket = Transport.websocket

    @contextlib.asynccontextmanager
    async def heard(*args: Any, **more: Any) -> Any:
        async with websocket(*args, **more) as line:
            spoken.append(line.protocol)
            yield line

    monkeypatch.setattr(Transport, "websocket", heard)
    travels(cluster, said, rig, tmp_path)
    assert set(spoken) == {_V4}
    assert kit.objects(cluster, kit.JOBS, said.namespace) == []


class Connects(threading.Thread):
    """A proxy that knows CONNECT and nothing else."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.asked: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and (piece := near.recv(4096)):
                head += piece
            verb, _, rest = head.partition(b" ")
            self.asked.append(head)
            if verb != b"CONNECT":
                near.sendall(b"HTTP/1.1 405 No\r\n\r\n")
                return
            host, _, port = rest.partition(b" ")[0].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as far:
                near.sendall(b"HTTP/1.1 200 Yes\r\n\r\n")
                back = threading.Thread(target=self._copy, args=(far, near), daemon=True)
                back.start()
                self._copy(near, far)
                back.join()

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(1 << 16):
                other.sendall(piece)
            other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.join()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connects]:
    made = Connects()
    made.start()
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", made.url)
    yield made
    made.close()


def test_a_worker_s_life_goes_through_a_proxy_unless_that_is_switched_off(
    said: K8sOptions, proxy: Connects, tmp_path: Path
) -> None:
    async def life(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=kit.order("way", "echo up; sleep 300"))
        await printed(mine, "way.1", b"up")
        await mine.outpost_stop(worker="way.1", grace=1.0)
        status = await kit.ended(mine, "way.1")
        assert status.state is State.STOPPED, status
        assert (await mine.outpost_clean(worker="way.1", force=False)).removed

    async def look(mine: K8sOutpost) -> None:
        assert await mine.outpost_list() == []

    kit.with_outpost(said, tmp_path, life)
    assert len(proxy.asked) >= 2, "its questions, and the line into its pod"
    assert all(head.startswith(b"CONNECT ") for head in proxy.asked)
    proxy.asked.clear()
    kit.with_outpost(replace(said, use_proxy=False), tmp_path, look)
    assert proxy.asked == []
