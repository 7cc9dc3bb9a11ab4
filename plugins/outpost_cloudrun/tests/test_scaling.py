"""How many containers are kept warm, at the emulator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulkit import options

from outpost_cloudrun import bootstrap
from outpost_cloudrun.options import CloudRunOptions, Mode
from outpost_cloudrun.outpost import CloudRunOutpost
from outpost_cloudrun.testing.emulator import Emulator, emulating
from outpost_core.backend import BuildContext
from outpost_core.errors import OutpostError, SpawnRefusedError
from outpost_core.types import Scale


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with emulating(tmp_path / "google", tokens=True, access_tokens=True) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def scaled(said: CloudRunOptions, folder: Path, *counts: int | None) -> list[Scale]:
    outpost = CloudRunOutpost("burst", said, BuildContext(state_dir=folder))
    assert "scale" in outpost.capabilities

    async def work() -> list[Scale]:
        return [await outpost.outpost_scale(to) for to in counts]

    return asyncio.run(asyncio.wait_for(work(), 120))


def deploy(said: CloudRunOptions) -> None:
    async def work() -> None:
        async for _ in bootstrap.bootstrap("burst", said, (), dry_run=False):
            pass

    asyncio.run(asyncio.wait_for(work(), 120))


def test_so_many_containers_are_kept_warm_as_are_said_and_nothing_else_changes(
    google: Emulator, tmp_path: Path
) -> None:
    said = options(google, max_workers=8, concurrency=2)
    deploy(said)
    (service,) = google.cloud.services.values()
    before, image = service.scaling.max_instance_count, service.template.containers[0].image
    found = scaled(said, tmp_path, None, 1, 1, None)
    assert [one.running for one in found] == [0, 1, 1, 1]
    assert {(one.limit, one.always) for one in found} == {(4, True)}
    assert found[0].price
    assert found[0].price > 0
    (service,) = google.cloud.services.values()
    assert service.scaling.min_instance_count == 1
    assert service.scaling.max_instance_count == before
    assert service.template.containers[0].image == image
    assert [one.running for one in scaled(said, tmp_path, 0)] == [0]


def test_what_cannot_be_is_refused_and_what_google_refuses_is_told(
    google: Emulator, tmp_path: Path
) -> None:
    said = options(google, max_workers=8, concurrency=2)
    with pytest.raises(OutpostError):  # there is no service yet
        scaled(said, tmp_path, 1)
    deploy(said)
    with pytest.raises(SpawnRefusedError, match="4 containers at most"):
        scaled(said, tmp_path, 5)
    google.knobs.denied = {"run.services.update"}
    with pytest.raises(OutpostError, match=r"run\.services\.update"):
        scaled(said, tmp_path, 1)


@pytest.mark.parametrize("more", [{"mode": Mode.JOB}, {"mode": Mode.INSTANCE}])
def test_only_a_service_is_scaled(google: Emulator, tmp_path: Path, more: dict[str, Any]) -> None:
    outpost = CloudRunOutpost("burst", options(google, **more), BuildContext(state_dir=tmp_path))
    assert "scale" not in outpost.capabilities
