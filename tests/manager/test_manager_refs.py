"""A name that means two things is refused with both, and each can be said."""

from __future__ import annotations

import pytest

from outpost_core.errors import NotFoundError, UsageError
from outpost_core.types import State, WorkerStatus
from outpost_manager.ledger import Ledger
from outpost_manager.placing import references


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path)
    ids = ("ep.1", "ep.1.1", "ep.1.2", "gt-1.1")
    told = [WorkerStatus(id=id_, state=State.WORKING, digest=id_) for id_ in ids]
    made.record("local", told)
    yield made
    made.close()


def test_both_readings_and_how_to_say_each(ledger):
    with pytest.raises(UsageError) as caught:
        references.find(ledger, "ep.1")
    said = f"{caught.value.message} {caught.value.hint}"
    for part in ("attempt 1 at the issue ep", "ep.1.2", "worker:ep.1", "issue:ep.1"):
        assert part in said


@pytest.mark.parametrize(
    ("ref", "worker"),
    [
        ("worker:ep.1", "ep.1"),
        ("issue:ep.1", "ep.1.2"),
        ("ep.1.1", "ep.1.1"),
        ("ep", "ep.1"),
        ("issue:ep", "ep.1"),
        ("gt-1", "gt-1.1"),
        ("gt-1.1", "gt-1.1"),
    ],
)
def test_what_is_not_ambiguous(ledger, ref, worker):
    assert references.find(ledger, ref).id == worker


@pytest.mark.parametrize("ref", ["worker:ep", "issue:gt-1.1", "worker:", "\udcff", "none"])
def test_what_is_not_there(ledger, ref):
    with pytest.raises(NotFoundError):
        references.find(ledger, ref)


def test_without_a_ledger():
    ids = ["ep.1", "ep.1.1", "gt-1.1"]
    with pytest.raises(UsageError):
        references.among(ids, "ep.1")
    assert references.among(ids, "worker:ep.1") == ["ep.1"]
    assert references.among(ids, "issue:ep.1") == ["ep.1.1"]
    assert references.among(ids, "gt-1") == ["gt-1.1"]
