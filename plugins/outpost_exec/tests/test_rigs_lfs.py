"""Objects of git-lfs come home with the commits that name them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rigkit import Laptop, at_laptop

from outpost_core.types import State
from outpost_worker.work import lfs


def test_objects_come_home_before_the_branch(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        laptop.rig.commit({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
        order = laptop.order("head -c 1500000 /dev/zero >new.bin")
        status = await laptop.run(laptop.open(), order)
        assert status.state is State.DONE, status
        assert "oid sha256:" in laptop.rig.show("polecat/gt-1", "new.bin")
        oid = hashlib.sha256(bytes(1500000)).hexdigest()
        assert lfs.is_whole(lfs.object_path(str(laptop.rig.path / "lfs"), oid), oid)

    at_laptop(tmp_path, test)


def test_objects_of_the_base_travel_there(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        laptop.rig.git("lfs", "install", "--local")
        (laptop.rig.seed / "old.bin").write_bytes(b"large content\0" * 90000)
        laptop.rig.commit({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
        order = laptop.order("wc -c <old.bin; echo new >new.bin")
        status = await laptop.run(laptop.open(), order)
        assert status.state is State.DONE, status
        assert (laptop.far / "workers/gt-1.1/output.log").read_text().strip() == "1260000"

    at_laptop(tmp_path, test)
