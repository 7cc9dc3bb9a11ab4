"""The record of a worker on its rig: one claim, one result, whoever asks and however often."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from recordkit import (
    DIGEST,
    ON_RIG,
    ON_VOLUME,
    OWNER,
    RecordChecks,
    bare_rig,
    claim,
    hook,
    killed_everywhere,
    race_for_all,
    refs,
)

from outpost_core.errors import UnreachableError, UsageError
from outpost_worker.record import onrig
from outpost_worker.record.kinds import Claim, Record, RecordBrokenError, RecordRefusedError
from outpost_worker.record.onrig import put_commit
from outpost_worker.record.places import on_rig, on_volume
from outpost_worker.repository.git import Done

NAME = f"refs/outpost/{OWNER}/records/gt-1.1"


@pytest.fixture(params=["sha1", "sha256"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return bare_rig(tmp_path / "rig.git", f"--object-format={request.param}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def record(rig: Path, root: Path) -> Record:
    return on_rig(str(rig), str(root), OWNER)


@pytest.mark.parametrize(
    "wrong",
    [{"owner": "x"}, {"digest": ""}, {"leg": 0}, {"id": "../x"}, {"worker": "a/../b.1"}],
)
def test_a_claim_holds_nothing_that_could_lead_elsewhere(wrong: dict[str, object]) -> None:
    about: dict[str, object] = {"worker": "gt-1.1", "digest": DIGEST, "owner": OWNER}
    with pytest.raises(UsageError):
        Claim(**{**about, **wrong})  # type: ignore[arg-type]


def _at(store: str, tmp_path: Path, root: Path) -> tuple[str, Record]:
    """Return how a program makes a record at a place, and the record."""
    if store == "volume":
        path = str(tmp_path / "volume")
        return ON_VOLUME.format(path=path, owner=OWNER), on_volume(path, OWNER)
    rig = str(bare_rig(tmp_path / "race.git"))
    make = ON_RIG.format(rig=rig, root=str(root), owner=OWNER, credentials="")
    return make, on_rig(rig, str(root), OWNER)


@pytest.mark.parametrize("store", ["rig", "volume"])
def test_of_eight_instances_one_has_the_worker(store: str, tmp_path: Path, root: Path) -> None:
    make, record = _at(store, tmp_path, root)
    race_for_all(make, record)
    assert not (root / "staging").exists() or not list((root / "staging").iterdir())


@pytest.mark.parametrize("store", ["rig", "volume"])
def test_a_machine_that_dies_at_any_point_leaves_one_claim_and_one_result(
    store: str, tmp_path: Path, root: Path
) -> None:
    make, record = _at(store, tmp_path, root)
    killed_everywhere(make, record)


class TestOnRig(RecordChecks):
    """The record on a rig."""


class TestOnVolume(RecordChecks):
    """The record on a volume."""

    @pytest.fixture
    def record(self, tmp_path: Path) -> Record:
        return on_volume(str(tmp_path / "volume"), OWNER)


def test_a_rig_that_refuses_the_ref_is_told_of_in_its_own_words(record: Record, rig: Path) -> None:
    script = 'while read a b ref; do case $ref in refs/outpost/*) echo "no such refs here" >&2;'
    hook(rig, "pre-receive", script + " exit 1;; esac; done")
    with pytest.raises(RecordRefusedError) as caught:
        record.claim(claim())
    assert "pre-receive hook declined" in caught.value.message
    assert "no such refs here" in caught.value.message
    assert "refs/outpost/" in caught.value.hint
    assert refs(rig) == {}


def test_a_rig_that_cannot_be_reached_says_that_nothing_was_started(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onrig, "_PATIENCE", 0.5)
    away = on_rig("http://127.0.0.1:9/rig.git", str(root), OWNER)
    with pytest.raises(UnreachableError) as caught:
        away.claim(claim())
    assert caught.value.sent is False
    missing = on_rig(str(tmp_path / "nothing.git"), str(root), OWNER)
    with pytest.raises(RecordRefusedError, match="does not appear to be a git repository"):
        missing.claim(claim())


def test_an_answered_push_counts_once_the_ref_was_seen(
    record: Record, rig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onrig, "_PATIENCE", 0.5)
    hook(rig, "post-receive", f"git update-ref -d {NAME}")  # it answers, and keeps nothing
    with pytest.raises(UnreachableError, match=r"answered the push .* but does not show it"):
        record.claim(claim())


def _plant(rig: Path, value: str) -> None:
    subprocess.run(["git", "-C", str(rig), "update-ref", NAME, value], check=True)


def _length(rig: Path) -> int:
    told = subprocess.run(
        ["git", "-C", str(rig), "rev-parse", "--show-object-format"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return 64 if told.stdout.strip() == "sha256" else 40


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"worker":"gt-2.1"}',
        b"x" * (2 << 20),
        bytes([0, 255]) * 100,
        b'{"worker":"gt-1.1","digest":"d","owner":"%s","instance":"","leg":true,"id":"%s"}'
        % (OWNER.encode(), b"a" * 32),
        b'{"worker":"gt-1.1","digest":"d","owner":"%s","instance":"","leg":1,"id":"%s",'
        b'"result":{"state":"working"}}' % (OWNER.encode(), b"a" * 32),
    ],
    ids=lambda data: data[:8].hex(),  # the environment of what runs has no room for two megabytes
)
def test_what_others_put_there_is_not_believed(record: Record, rig: Path, data: bytes) -> None:
    _plant(rig, put_commit(str(rig), "planted", data, _length(rig)))
    with pytest.raises(RecordBrokenError, match=r"is not what Outpost wrote") as caught:
        record.read("gt-1.1")
    assert f"git push {rig} :{NAME}" in caught.value.hint
    with pytest.raises(RecordBrokenError):
        record.claim(claim())
    record.forget("gt-1.1")
    assert refs(rig) == {}


def test_a_ref_that_leads_to_anything_but_a_small_commit_is_broken(
    record: Record, rig: Path, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"".join(n.to_bytes(4, "big") + b"salt" for n in range(1_500_000)))
    told = subprocess.run(
        ["git", "-C", str(rig), "hash-object", "-w", str(big)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    _plant(rig, told.stdout.strip())
    with pytest.raises(RecordBrokenError, match="too large, or of another kind"):
        record.read("gt-1.1")


def test_what_is_fetched_is_bounded(
    record: Record, rig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    bounded = onrig._was_bounded

    def note(done: Done) -> bool:
        seen.append(bounded(done))
        return seen[-1]

    monkeypatch.setattr(onrig, "_was_bounded", note)
    _plant(rig, put_commit(str(rig), "large", os.urandom(8 << 20), _length(rig)))
    with pytest.raises(RecordBrokenError, match="too large, or of another kind"):
        record.read("gt-1.1")
    assert seen.pop()
    seen.clear()
    monkeypatch.setattr(onrig, "_MOST_MEMORY", 96 << 20)
    _plant(rig, put_commit(str(rig), "unpacks", bytes(256 << 20), _length(rig)))  # 250 KiB packed
    with pytest.raises(RecordBrokenError, match="too large, or of another kind"):
        record.read("gt-1.1")
    assert seen.pop()
