"""A terminal of a pod on one of this machine: a real API server and node between them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from nearkit import Near
from peers import containers
from peers.kubelab import Cluster as Lab
from peers.relay import Relay

pytestmark = pytest.mark.kube

#: A program that attaches on its own terminal.
NEAR = """
import asyncio, json, sys
from pathlib import Path
from outpost_core.errors import OutpostError
from outpost_k8s.api import config
from outpost_k8s.api.client import Cluster
from outpost_k8s.api.terminal import attach

kubeconfig, namespace, argv = json.loads(sys.argv[1])

async def main():
    cluster = Cluster(config.find(kubeconfig=Path(kubeconfig), namespace=namespace))
    try:
        return await attach(cluster, "p", argv, worker="gt-1.1", name="k1")
    finally:
        await cluster.aclose()

try:
    code = asyncio.run(main())
except OutpostError as error:
    print(error, file=sys.stderr)
    code = error.exit_code
print("the shell continues")
sys.exit(code)
"""

#: The beginning of every far program.
FAR = """
import os, select, signal, sys, termios, time, tty
def say(text): os.write(1, text.encode())
def size():
    s = os.get_terminal_size(0)
    return f"<{s.columns}x{s.lines}>"
"""

FULL_SCREEN = """
tty.setraw(0)
say("\\x1b[?1049h\\x1b[2J\\x1b[?1000;1006h\\x1b[?2004h\\x1b[?25l\\x1b[31m")
def end(*_):
    open("/tmp/hung-up", "w").close()
    os._exit(0)
signal.signal(signal.SIGHUP, end)
say("<go>")
while os.read(0, 1) != b"":
    pass
end()
"""


@pytest.fixture(scope="module")
def ns(cluster: Lab) -> Iterator[str]:
    """A namespace with a pod that waits."""
    image = cluster.load_image(containers.image().tag, containers.base())
    with cluster.namespace() as name:
        container = {"name": "worker", "image": image, "imagePullPolicy": "Never",
                     "command": ["sleep", "3600"]}  # fmt: skip
        spec = {"terminationGracePeriodSeconds": 1, "containers": [container]}
        pods = f"/api/v1/namespaces/{name}/pods"
        cluster.admin.post(pods, {"metadata": {"name": "p"}, "spec": spec})
        cluster.admin.until(f"{pods}/p", lambda pod: pod["status"]["phase"] == "Running")
        yield name


@pytest.fixture
def attach(cluster: Lab, ns: str, tmp_path: Path) -> Iterator[Callable[..., Near]]:
    """Attach to the text of a program in Python, or to an argv, on a new near terminal."""
    opened: list[Near] = []

    def one(far: str | list[str], relay: Relay | None = None, **env: str) -> Near:
        argv = ["python", "-I", "-S", "-c", FAR + far] if isinstance(far, str) else far
        kubeconfig = through(cluster.kubeconfig, relay, tmp_path)
        script = tmp_path / "near.py"
        script.write_text(NEAR)
        said = json.dumps([str(kubeconfig), ns, argv])
        environ = {name: value for name, value in os.environ.items() if name != "TMUX"}
        environ |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | env
        near = Near([sys.executable, str(script), said], environ, 90, 30)
        opened.append(near)
        return near

    yield one
    for near in opened:
        near.close()


def through(kubeconfig: Path, relay: Relay | None, folder: Path) -> Path:
    """Return a kubeconfig that reaches its server through a relay."""
    if relay is None:
        return kubeconfig
    said: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    place = said["clusters"][0]["cluster"]
    place["tls-server-name"] = place["server"].removeprefix("https://").split(":")[0]
    place["server"] = f"https://{relay.host}:{relay.port}"
    path = folder / "through.kubeconfig"
    path.write_text(yaml.safe_dump(said))
    return path


def server(cluster: Lab) -> tuple[str, int]:
    host, port = cluster.server.removeprefix("https://").split(":")
    return host, int(port)


def test_every_byte_passes_both_ways(attach: Callable[..., Near]) -> None:
    near = attach(
        """
tty.setraw(0)
say("<go>")
keys = b""
while len(keys) < 1024:
    keys += os.read(0, 4096)
os.write(1, keys + b"<end>")
"""
    )
    near.until(b"<go>")
    every = bytes(range(256)) * 4
    near.type(every)
    assert near.until(b"<end>") == every + b"<end>"
    assert near.end() == 0
    assert b"the shell continues" in near.seen
    assert near.as_before()


def test_the_size_and_its_changes_arrive_and_the_exit_code_comes_back(
    attach: Callable[..., Near],
) -> None:
    near = attach(
        """
signal.signal(signal.SIGWINCH, lambda *_: say(size()))
say(size() + os.environ["TERM"] + str(os.environ.get("COLORTERM")) + "<go>")
while not select.select([0], [], [], 0.05)[0]:
    pass
sys.exit(7)
""",
        COLORTERM="truecolor",
    )
    assert b"<90x30>xterm-256colortruecolor" in near.until(b"<go>")
    near.resize(120, 40)
    near.until(b"<120x40>")
    near.type(b"yes\r")
    assert near.end() == 7
    assert near.as_before()


def test_a_viewer_that_is_missing_is_told_with_its_name(attach: Callable[..., Near]) -> None:
    near = attach(["/nowhere/tmux", "attach"])
    assert near.end() == 1
    assert b"/nowhere/tmux is not installed" in near.seen
    assert b"outpost logs -f gt-1.1" in near.seen
    assert near.as_before()


def undone(seen: bytes) -> bool:
    told = (b"?1000l", b"?1006l", b"?2004l", b"?25h", b"[0m")
    return all(part in seen for part in told) and seen.index(b"?1049l") > seen.index(b"?2004l")


def test_a_dropped_line_gives_the_terminal_back_and_says_what_goes_on(
    cluster: Lab, attach: Callable[..., Near]
) -> None:
    with Relay(*server(cluster)) as relay:
        near = attach(FULL_SCREEN, relay)
        near.until(b"<go>")
        relay.cut()
        assert near.end() == 5
    assert undone(near.seen)
    assert b"the connection to k1 broke" in near.seen
    assert b"gt-1.1 keeps running" in near.seen
    assert near.seen.index(b"?1049l") < near.seen.index(b"the connection")
    assert near.as_before()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back_before_it_ends_the_program(
    attach: Callable[..., Near], number: int
) -> None:
    near = attach(FULL_SCREEN)
    near.until(b"<go>")
    near.process.send_signal(number)
    near.end()
    assert near.process.returncode == -number
    assert undone(near.seen)
    assert near.as_before()


def test_a_worker_in_tmux_is_seen_typed_to_and_left(
    attach: Callable[..., Near], cluster: Lab, ns: str
) -> None:
    start = "tmux -L t -f /dev/null new-session -d -x 90 -y 30 'echo ready; cat'"
    attach(["sh", "-c", start]).end()
    near = attach(["tmux", "-L", "t", "attach"])
    near.until(b"ready")
    near.type("hällo\r".encode())
    near.until("hällo".encode())
    near.resize(100, 40)
    near.type(b"\x02d")
    assert near.end() == 0
    assert b"detached" in near.seen
    assert near.as_before()
    assert asyncio.run(still_there(cluster.kubeconfig, ns)) == 0


async def still_there(kubeconfig: Path, namespace: str) -> int:
    from outpost_k8s.api import config
    from outpost_k8s.api.client import Cluster

    api = Cluster(config.find(kubeconfig=kubeconfig, namespace=namespace))
    process = await api.exec("p", ["tmux", "-L", "t", "has-session"])
    try:
        return await process.ended()
    finally:
        await process.close()
        await api.aclose()
