"""A real kubelet that rotates a container's output away, in the middle of lines, while it runs.

Whoever follows reads it out of the pod, and gets every byte; whoever comes when the pod has ended
gets what the kubelet still has, at its own offsets, and is told how much is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import k8snearkit as kit
import pytest
from k8snearkit import PODS
from peers import containers
from peers.kubelab import Lab, Options, own_lab

from outpost_core.types import State
from outpost_k8s.outpost import K8sOutpost

pytestmark = [pytest.mark.kube, pytest.mark.slow]

#: The kubelet looks every 3 s, the least that it takes, for files above 64 KiB, and keeps two.
ROTATES = """containerLogMaxSize: 64Ki
containerLogMaxFiles: 2
containerLogMonitorInterval: 3s
"""
#: Lines of 50,000 bytes: a runtime cuts them into pieces of 16 KiB, between which it rotates.
LINES = 40
SCRIPT = f"""python3 -u -c '
import sys, time
for n in range({LINES}):
    sys.stdout.write("%06d" % n + "abcdefghij" * 2500)
    sys.stdout.flush()
    time.sleep(0.25)
    sys.stdout.write("klmnopqrst" * 2500 + "\\r\\n")
    sys.stdout.flush()
    time.sleep(0.25)
'"""
WHOLE = b"".join(
    b"%06d" % n + b"abcdefghij" * 2500 + b"klmnopqrst" * 2500 + b"\r\n" for n in range(LINES)
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with own_lab(Options(fake_nodes=0, kubelet=ROTATES)) as running:
        yield running


def test_a_follower_has_every_byte_and_a_late_one_is_told_what_is_missing(
    lab: Lab, tmp_path: Path
) -> None:
    image = lab.load_image(containers.image().tag, containers.base())

    async def follow(mine: K8sOutpost) -> bytes:
        await mine.outpost_spawn(order=kit.order("turns", SCRIPT))
        return b"".join([p async for p in mine.outpost_logs("turns.1", 0, True)])

    async def late(mine: K8sOutpost) -> bytes:
        status = await kit.ended(mine, "turns.1")
        assert status.state is State.DONE, status
        assert status.result is not None
        assert status.result.log_bytes == len(WHOLE)
        return b"".join([p async for p in mine.outpost_logs("turns.1", 0, False)])

    with lab.namespace() as namespace:
        said = kit.options(lab, namespace, image=image, cpu=0.5, memory=256 << 20)
        followed = kit.with_outpost(said, tmp_path / "follows", follow)
        assert len(followed) == len(WHOLE)
        assert followed == WHOLE
        [pod] = lab.admin.get(PODS.format(namespace))["items"]
        got = kit.with_outpost(said, tmp_path / "late", late)
    told = re.match(rb"\[outpost: (\d+) bytes of output before this are not kept: [^\n]*\n", got)
    assert told, got[:200]
    missing = int(told.group(1))
    assert 0 < missing < len(WHOLE), pod["metadata"]["name"]
    assert got[told.end() :] == WHOLE[missing:], "its offsets are those of the output"
