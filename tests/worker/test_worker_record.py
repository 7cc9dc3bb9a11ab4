"""The record of a worker on its rig: one claim, one result, whoever asks and however often."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from recordkit import DIGEST, ON_RIG, OWNER, bare_rig, claim, hook, program, race, refs, start

from outpost_core.errors import UnreachableError, UsageError
from outpost_core.types import Result, State
from outpost_worker.record import onrig
from outpost_worker.record.kinds import (
    TAIL,
    Claim,
    Record,
    RecordBrokenError,
    RecordRefusedError,
    SupersededError,
)
from outpost_worker.record.onrig import put_commit
from outpost_worker.record.places import on_rig

NAME = f"refs/outpost/{OWNER}/records/gt-1.1"
DONE = Result(state=State.DONE, commit="c" * 40, branch="outpost/gt-1")
_ACT = """
def act(record, verb, instance, seen=""):
    mine = Claim(worker="gt-1.1", digest={digest!r}, owner={owner!r}, instance=instance,
                 leg=2 if verb == "take_over" else 1)
    if verb == "take_over":
        there = record.take_over(mine, seen)
    else:
        there = record.claim(mine)
    return {{"won": there.id == mine.id, "id": there.id, "leg": there.leg}}
"""
_FINISH = """
def act(record, number):
    import os
    mine = Claim(**json.loads(os.environ["CLAIM"]))
    return {"message": record.finish(mine, Result(state=State.DONE, message=number), b"").message}
"""


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


def test_a_worker_is_claimed_once_and_its_end_is_said_once(record: Record, rig: Path) -> None:
    first, second = claim(instance=1), claim(instance=2)
    assert record.read("gt-1.1") is None
    assert record.claim(first) == first
    assert record.claim(second) == first
    assert record.claim(first) == first  # whoever was cut off asks again
    assert list(refs(rig)) == [NAME]
    found = record.read("gt-1.1")
    assert found is not None
    assert (found.claim, found.result, found.stop) == (first, None, None)
    tail = bytes(range(256)) * 400
    assert record.finish(first, DONE, tail) == DONE
    again = record.finish(first, Result(state=State.FAILED), b"")
    assert again == DONE
    found = record.read("gt-1.1")
    assert found is not None
    assert (found.result, found.tail) == (DONE, tail[-TAIL:])
    assert record.claim(second) == first
    with pytest.raises(SupersededError, match="has ended already: ok"):
        record.beat(first)
    record.forget("gt-1.1")
    assert refs(rig) == {}
    record.forget("gt-1.1")


def test_each_beat_is_another_word_and_brings_a_stop_that_was_asked_for(record: Record) -> None:
    mine = record.claim(claim())
    words = {record.beat(mine).seen for _ in range(3)}
    found = record.read("gt-1.1")
    assert found is not None
    assert len(words) == 3
    assert found.seen in words
    record.ask_stop("gt-1.1", 7.5)
    record.ask_stop("gt-1.1", 7.5)
    assert record.beat(mine).stop == 7.5
    record.ask_stop("gt-1.1", 0.0)
    assert record.beat(mine).stop == 0.0


def test_a_silent_owner_is_taken_over_and_says_nothing_more(record: Record) -> None:
    first, second = claim(instance=1), claim(instance=2, leg=2)
    record.claim(first)
    before = record.read("gt-1.1")
    assert before is not None
    record.beat(first)
    assert record.take_over(second, before.seen) == first  # it was not silent
    found = record.read("gt-1.1")
    assert found is not None
    assert record.take_over(second, found.seen) == second
    assert record.take_over(second, found.seen) == second  # asked again after a cut
    with pytest.raises(SupersededError, match="leg 2 runs it, this was leg 1"):
        record.beat(first)
    with pytest.raises(SupersededError, match="leg 2"):
        record.finish(first, DONE, b"")
    assert record.finish(second, DONE, b"") == DONE
    assert record.finish(first, Result(state=State.FAILED), b"") == DONE
    third = claim(instance=3, leg=3)
    found = record.read("gt-1.1")
    assert found is not None
    assert record.take_over(third, found.seen) == second  # it has ended
    record.forget("gt-1.1")
    with pytest.raises(SupersededError, match="no record any more"):
        record.beat(second)
    with pytest.raises(SupersededError, match="no record any more"):
        record.take_over(third, found.seen)


def test_another_order_takes_nothing_over_and_legs_are_not_left_out(record: Record) -> None:
    first = record.claim(claim())
    found = record.read("gt-1.1")
    assert found is not None
    assert record.take_over(claim(leg=2, digest="e" * 64), found.seen) == first
    with pytest.raises(UsageError, match="after leg 1 comes no leg 3"):
        record.take_over(claim(leg=3), found.seen)


@pytest.mark.parametrize(
    "wrong",
    [{"owner": "x"}, {"digest": ""}, {"leg": 0}, {"id": "../x"}, {"worker": "a/../b.1"}],
)
def test_a_claim_holds_nothing_that_could_lead_elsewhere(wrong: dict[str, object]) -> None:
    about: dict[str, object] = {"worker": "gt-1.1", "digest": DIGEST, "owner": OWNER}
    with pytest.raises(UsageError):
        Claim(**{**about, **wrong})  # type: ignore[arg-type]


def test_of_twenty_instances_one_has_the_worker(rig: Path, root: Path) -> None:
    make = ON_RIG.format(rig=str(rig), root=str(root), owner=OWNER, credentials="")
    text = program(make, _ACT.format(digest=DIGEST, owner=OWNER))
    told = race([lambda n=n: start(text, "claim", f"{n:02x}") for n in range(20)])  # type: ignore[misc]
    assert sum(bool(each.get("won")) for each in told) == 1, told
    assert len({each["id"] for each in told}) == 1
    record = on_rig(str(rig), str(root), OWNER)
    found = record.read("gt-1.1")
    assert found is not None
    assert found.claim.id == told[0]["id"]

    told = race([lambda n=n: start(text, "take_over", f"{n:02x}", found.seen) for n in range(20)])  # type: ignore[misc]
    assert sum(bool(each.get("won")) for each in told) == 1, told
    assert {each["leg"] for each in told} == {2}

    owner = record.read("gt-1.1")
    assert owner is not None
    about = {name: getattr(owner.claim, name) for name in Claim.__dataclass_fields__}
    text = program(make, _FINISH)
    environ = {"CLAIM": json.dumps(about)}
    told = race([lambda n=n: start(text, str(n), environ=environ) for n in range(20)])  # type: ignore[misc]
    assert len({each["message"] for each in told}) == 1, told
    found = record.read("gt-1.1")
    assert found is not None
    assert found.result is not None
    assert found.result.message == told[0]["message"]
    assert not list((root / "staging").iterdir())


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
