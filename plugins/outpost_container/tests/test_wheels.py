"""Wheels of what is installed: the same bytes each time, complete, and nothing of this machine."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from outpost_container import wheels
from outpost_container.folder import lay_out
from outpost_core.errors import PluginError, UsageError

CHECKOUT = Path(__file__).parents[3]


def test_pip_installs_them_into_an_empty_place_where_they_work(tmp_path: Path) -> None:
    paths = []
    for name in wheels.FAR:
        file, content = wheels.wheel(name)
        (tmp_path / file).write_bytes(content)
        paths.append(str(tmp_path / file))
    target = tmp_path / "target"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index",
         "--target", target, *paths],
        check=True,
    )  # fmt: skip
    script = (
        "import outpost_worker.verbs, outpost_agents.registry\n"
        "from importlib.metadata import distribution\n"
        "print(distribution('outpost-worker').version, outpost_worker.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": os.pathsep.join([str(target), *_site_packages()])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{wheels.version()} {target}/outpost_worker/__init__.py\n"


def _site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def test_they_are_the_same_bytes_each_time_and_name_no_folder_of_this_machine() -> None:
    for name in wheels.FAR:
        file, content = wheels.wheel(name)
        assert wheels.wheel(name) == (file, content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                assert str(CHECKOUT).encode() not in archive.read(entry), entry
                assert "direct_url" not in entry.filename
                assert "__pycache__" not in entry.filename


def test_what_the_far_side_needs_is_what_it_asks_for_and_the_server() -> None:
    names = [one.partition(">")[0].partition("=")[0] for one in wheels.requirements()]
    assert names == ["granian", "importlib-metadata", "pluggy"]


def test_a_part_that_is_not_installed_is_named() -> None:
    with pytest.raises(PluginError, match="outpost-nowhere, which goes into the image") as caught:
        wheels.wheel("outpost-nowhere")
    assert caught.value.hint.startswith("pip install outpost-nowhere")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(UsageError, match="is not empty"):
        lay_out(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert lay_out(tmp_path / "a").digest == lay_out(tmp_path / "b").digest


def test_the_containerfile_in_deploy_is_the_one_of_the_package() -> None:
    link = CHECKOUT / "deploy" / "container" / "Containerfile"
    package = CHECKOUT / "plugins" / "outpost_container" / "outpost_container"
    assert link.resolve() == package / "image" / "Containerfile"
