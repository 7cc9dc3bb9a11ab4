"""Work in submodules whose URL is a path of the near machine is kept at the host, and said so."""

from __future__ import annotations

import tarfile
from pathlib import Path

from rigkit import Laptop, at_laptop

from outpost_core.types import State


def test_a_path_of_the_near_machine_is_not_pushed_to(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        rig, lib = laptop.rig, tmp_path / "lib.git"
        rig.git("init", "-q", "--bare", "-b", "main", str(lib))
        rig.git("push", "-q", str(lib), "main")
        rig.git("submodule", "--quiet", "add", str(lib), "lib")
        rig.commit({})
        order = laptop.order(
            "git -c protocol.file.allow=always submodule --quiet update --init"
            " && echo work >lib/f && echo own >own"
        )
        status = await laptop.run(laptop.open(), order)
        assert status.state is State.FAILED, status
        result = status.result
        assert result is not None
        assert result.reason == "submodule_unpushed"
        assert "a path of the rig's machine, and the worker ran on another" in result.message
        archive = laptop.far / "rescued/gt-1.1.tar"
        assert str(archive) in result.message
        with tarfile.open(archive) as tar:
            assert "repositories/lib.bundle" in tar.getnames()
        assert result.checkpoint is not None
        assert rig.show(result.checkpoint, "own") == "own"
        assert rig.git("for-each-ref", "--format=%(refname)", cwd=lib) == "refs/heads/main"

    at_laptop(tmp_path, test)
