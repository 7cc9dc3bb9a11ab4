"""What a folder says about its worker."""

from __future__ import annotations

import os
import shutil

import pytest

from outpost_core import wire
from outpost_core.errors import NotFoundError
from outpost_core.types import State
from outpost_shared import plain
from outpost_worker.folder import files, outcome, seal, status
from outpost_worker.recovery import recover


def test_a_life(far, tmp_path):
    go = tmp_path / "go"
    order = far.shell(f"until test -e {go}; do sleep 0.01; done")
    folder = far.publish(order)
    found = status.read(folder)
    assert (found.id, found.state) == (order.worker, State.QUEUED)
    assert (found.digest, found.started_at, found.result) == (wire.digest(order), None, None)
    assert not status.started(folder)
    assert not status.alive(folder)
    running = far.start(folder)
    found = far.working(folder)
    assert status.started(folder)
    assert status.alive(folder)
    assert found.started_at <= found.updated_at
    go.touch()
    running.wait(30)
    found = status.read(folder)
    assert (found.state, found.result.exit_code) == (State.DONE, 0)
    assert found.digest == wire.digest(order)
    assert status.started(folder)
    assert not status.alive(folder)
    assert not status.needs_recovery(folder)


def test_nothing_there(tmp_path):
    with pytest.raises(NotFoundError, match=r"x-1\.1"):
        status.read(tmp_path / "x-1.1")
    assert status.scan(tmp_path, {}) == []


def test_a_scan_reads_ended_workers_once(far, monkeypatch):
    ended = [far.publish(far.order("/bin/true")) for _ in range(20)]
    for folder in ended:
        made = outcome.result("done", "ok")
        files.store_result(str(folder), {**made, "finished_at": 1.0})
    waiting = far.publish(far.order("/bin/true"))
    cache = {}
    first = {found.id: found for found in status.scan(far.root, cache)}
    assert len(first) == 21
    assert first[waiting.name].state is State.QUEUED
    read = []
    for name in ("folder", "inner"):
        opened = getattr(plain, name)
        note = lambda *where, opened=opened: read.append(where[-1]) or opened(*where)  # noqa: E731
        monkeypatch.setattr(plain, name, note)
    again = {found.id: found for found in status.scan(far.root, cache)}
    assert again == first
    read = {os.path.basename(folder) for folder in read}
    assert read - {far.root.name, files.WORKERS, seal.SEALED} == {waiting.name}


def test_a_scan_sees_what_was_removed_and_made_anew(far):
    order = far.order("/bin/true")
    folder, _ = far.run(order)
    cache = {}
    assert [found.state for found in status.scan(far.root, cache)] == [State.DONE]
    shutil.rmtree(folder)
    assert status.scan(far.root, cache) == []
    assert cache == {}
    far.run(order)
    status.scan(far.root, cache)
    # made anew between two scans
    shutil.rmtree(folder)
    (far.root / "workers" / "keeps-the-inode").mkdir()
    far.publish(order)
    assert [found.state for found in status.scan(far.root, cache)] == [State.QUEUED]


def test_foreign_things_among_the_workers_are_passed_over(far):
    far.run(far.order("/bin/true"))
    (far.root / "workers" / "notes.txt").write_text("hello")
    (far.root / "workers" / "folder").mkdir()
    assert len(status.scan(far.root, {})) == 1


def test_a_result_that_is_not_its_supervisors_is_not_believed(far):
    """It is as if there were none: a recovery looks what became of the work."""
    folder, result = far.run(far.order("/bin/true"))
    (folder / "result.json").write_text('{"state": "dancing"}')
    found = status.read(folder)
    assert (found.state, found.result.reason) == (State.LOST, "lost_process")
    assert "result.json was not written by its supervisor" in found.result.message
    assert found.result.finished_at is None
    assert status.needs_recovery(folder)
    again = recover.recover(folder)
    assert (again.state, again.exit_code) == (result.state, result.exit_code)
    assert status.read(folder).result == again
