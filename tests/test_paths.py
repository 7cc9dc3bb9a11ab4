"""Where configuration and state are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from outpost_shared import paths


@pytest.mark.parametrize("find", [paths.config_dir, paths.state_dir])
@pytest.mark.parametrize("base", ["", ".", "here", "../x"])
def test_a_relative_base_folder_is_ignored(find: object, base: str) -> None:
    """Else the current folder, a stranger's clone perhaps, would hold what is ours."""
    assert callable(find)
    environ = {"HOME": "/home/me", "XDG_CONFIG_HOME": base, "XDG_STATE_HOME": base}
    assert str(find(environ)).startswith("/home/me/")


def test_an_absolute_base_folder_counts() -> None:
    environ = {"HOME": "/home/me", "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s"}
    assert paths.config_dir(environ) == Path("/c/outpost")
    assert paths.state_dir(environ) == Path("/s/outpost")
