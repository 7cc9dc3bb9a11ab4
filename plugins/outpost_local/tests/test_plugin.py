"""What the package says about itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pluggy
import pytest

from outpost_core import hookspecs
from outpost_core.backend import BuildContext
from outpost_local import plugin
from outpost_local.options import LocalOptions, Mode


def test_the_backend_is_found_through_its_hook():
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    (backend,) = manager.hook.outpost_backends()
    assert backend.type == "local"
    assert backend.options_class is LocalOptions
    assert plugin.OUTPOST_API == hookspecs.API_VERSION


@pytest.mark.parametrize("mode", Mode)
def test_an_outpost_has_every_hook_it_declares_and_opens_nothing(tmp_path, mode):
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    state = tmp_path / "state"
    outpost = plugin.outpost_backends().make(
        "local", LocalOptions(mode=mode), BuildContext(state_dir=state)
    )
    manager.register(outpost, name="local")
    manager.check_pending()
    implemented = {caller.name for caller in manager.get_hookcallers(outpost)}
    assert implemented >= set(hookspecs.REQUIRED)
    for capability in outpost.capabilities:
        assert capability in hookspecs.TRAITS or hookspecs.CAPABILITIES[capability] in implemented
    assert ("attach" in outpost.capabilities) is (mode is not Mode.PROCESS)
    assert not state.exists()


def test_without_tmux_attach_is_not_declared(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    outpost = plugin.outpost_backends().make(
        "local", LocalOptions(), BuildContext(state_dir=tmp_path)
    )
    assert "attach" not in outpost.capabilities
    assert "peek" in outpost.capabilities


def test_neither_the_entry_point_nor_an_outpost_imports_libtmux():
    code = (
        "import sys; from outpost_local import plugin; assert 'asyncio' not in sys.modules;"
        "from outpost_local import outpost; assert 'libtmux' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_paths_are_taken_relative_to_the_configuration(tmp_path):
    options = LocalOptions(state_path=Path("here"))
    outpost = plugin.outpost_backends().make(
        "l", options, BuildContext(state_dir=tmp_path, config_dir=tmp_path / "c")
    )
    assert outpost.root == tmp_path / "c" / "here"
