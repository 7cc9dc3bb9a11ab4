"""Keepers of one user: whoever holds the lock is the keeper, and a lock that is gone is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from outpost_shared import keeping


def test_a_lock_is_held_until_its_file_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    fd = keeping.lock(path)
    assert fd is not None
    assert keeping.is_held(path, fd)
    assert keeping.lock(path) is None
    path.with_suffix(".lock").unlink()
    assert not keeping.is_held(path, fd)
    other = keeping.lock(path)
    assert other is not None
    assert keeping.is_held(path, other)
    assert not keeping.is_held(path, fd)
    os.close(fd)
    os.close(other)


def test_a_file_that_is_removed_while_it_is_being_locked_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock = tmp_path / "a.sock", keeping.fcntl.flock
    removed: list[int] = []

    def remove_first(fd: int, how: int) -> None:
        if not removed:
            removed.append(fd)
            path.with_suffix(".lock").unlink()
        flock(fd, how)

    monkeypatch.setattr(keeping.fcntl, "flock", remove_first)
    fd = keeping.lock(path)
    assert fd is not None
    assert keeping.is_held(path, fd)
    assert keeping.lock(path) is None
    os.close(fd)
