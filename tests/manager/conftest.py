"""Managers over fake outposts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from managerkit import Make
from ourplugins import ours

from outpost_core.discovery import PluginReport
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost, fake_backend


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a maker of managers; calling it again is another process on the same state."""

    def build(
        *fakes: FakeOutpost,
        config: str = "",
        environ: dict[str, str] | None = None,
        plugin: Any = None,
    ) -> Manager:
        backend = fake_backend({fake.name: fake for fake in fakes})
        plugins = ours()
        plugins.backends["fake"] = backend
        plugins.homes["fake"] = PluginReport(
            entry_point="fake", package="outpost-fake", version="1"
        )
        if plugin is not None:
            plugins.add(plugin, PluginReport(entry_point="extra"))
        names = "".join(
            f"  - {{name: {f.name}, type: fake, max_workers: {f.options.max_workers or 99}}}\n"
            for f in fakes
        )
        file = tmp_path / "outposts.yaml"
        file.write_text(config or f"outposts:\n{names}")
        return Manager.open(
            config=file,
            state=tmp_path / "state",
            environ=environ or {},
            cwd=tmp_path,
            plugins=plugins,
        )

    return build
