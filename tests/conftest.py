from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from peers import MissingError

CHECKOUT = Path(__file__).parents[1]
AGENTS = Path(os.environ.get("OUTPOST_AGENTS_DIR") or CHECKOUT / ".cache" / "agents").absolute()


def _folder(program: str, installed: Path, script: str) -> Path:
    found = shutil.which(program, path=f"{installed}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise MissingError(f"the real {program} is not installed: {script} installs it")
    return Path(found).parent


@pytest.fixture(scope="session")
def agents_path() -> str:
    """A PATH with the real `claude` and `codex` in front; for tests marked `agents`."""
    installed = AGENTS / "node_modules" / ".bin"
    folders = {_folder(name, installed, ".ci/install-agents") for name in ("claude", "codex")}
    return os.pathsep.join([*sorted(map(str, folders)), os.environ["PATH"]])


@pytest.fixture(scope="session")
def bd_path() -> str:
    """A PATH with the real `bd` in front; for tests marked `beads`."""
    return f"{_folder('bd', AGENTS / 'bin', '.ci/install-bd')}{os.pathsep}{os.environ['PATH']}"
