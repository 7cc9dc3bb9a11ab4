"""The packages of the examples as if they were installed, for the programs that the kit starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [str(each) for each in sorted(Path(__file__).parent.iterdir()) if each.is_dir()]
    more = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*folders, *([more] if more else [])]))
