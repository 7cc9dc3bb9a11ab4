"""Claims, results and logs in a bucket, whatever the bucket does meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import smallbucket
from emulkit import emulated
from recordkit import OWNER, RecordChecks, claim, killed_everywhere, race_for_all
from smallbucket import SmallBucket

from outpost_cloudrun.server import bucket as module
from outpost_cloudrun.server import bucketrecord
from outpost_cloudrun.server.bucket import Bucket, PreconditionError
from outpost_cloudrun.testing.emulator import Emulator
from outpost_core.errors import UnreachableError, UsageError, WorkerError
from outpost_testing.gitrig import GitRig
from outpost_worker.record import places, segments, standing
from outpost_worker.record.kinds import Record, RecordBrokenError, RecordRefusedError
from outpost_worker.record.segments import KeptLog, LogKeeper

PLACE = "gs://rigs/of/mine"


@pytest.fixture
def peer() -> Iterator[SmallBucket]:
    with smallbucket.serving() as made:
        yield made


@pytest.fixture
def environ(peer: SmallBucket) -> dict[str, str]:
    return {"STORAGE_EMULATOR_HOST": f"http://{peer.host}"}


@pytest.fixture
def bucket(environ: dict[str, str]) -> Bucket:
    return Bucket(PLACE, environ)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 2.0)


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Emulator]:
    """The emulator, whose bucket Google's own client was tried with (`test_emulator_bucket`)."""
    with emulated(tmp_path / "google", buckets=("rigs",)) as running:
        yield running


@pytest.fixture
def emulators(google: Emulator) -> dict[str, str]:
    return {"STORAGE_EMULATOR_HOST": google.storage.server.url}


class TestInBucket(RecordChecks):
    """The record in a bucket."""

    @pytest.fixture
    def record(self, emulators: dict[str, str]) -> Record:
        return bucketrecord.records(PLACE, OWNER, emulators)


_MAKE = """
from outpost_cloudrun.server import bucketrecord
record = bucketrecord.records({place!r}, {owner!r}, {environ!r})
"""


def test_of_eight_instances_one_has_the_worker(emulators: dict[str, str]) -> None:
    make = _MAKE.format(place=PLACE, owner=OWNER, environ=emulators)
    race_for_all(make, bucketrecord.records(PLACE, OWNER, emulators))


def test_a_machine_that_dies_at_any_point_leaves_one_claim_and_one_result(
    emulators: dict[str, str],
) -> None:
    make = _MAKE.format(place=PLACE, owner=OWNER, environ=emulators)
    killed_everywhere(make, bucketrecord.records(PLACE, OWNER, emulators))


def test_the_machines_own_token_opens_the_bucket(google: Emulator) -> None:
    google.knobs.access_tokens = True
    bucket = Bucket(PLACE, google.tokens.environment)
    bucket._at = bucket._at._replace(scheme="http", netloc=google.storage.server.url[7:])
    bucket._context = None
    first = bucket.insert("a b/ü", b"1", "0")
    assert bucket.get("a b/ü", 10) == (first, b"1")
    assert [each.name for each in bucket.list("a")] == ["a b/ü"]
    bucket.delete("a b/ü", first)
    with pytest.raises(RecordRefusedError, match="Invalid Credentials"):
        Bucket(PLACE, {"STORAGE_EMULATOR_HOST": google.storage.server.url}).get("a", 1)


def test_an_object_is_made_once_changed_from_what_was_seen_and_listed_in_pages(
    bucket: Bucket, peer: SmallBucket
) -> None:
    first = bucket.insert("a b/ü", b"1", "0")
    assert "of/mine/a b/ü" in peer.objects
    with pytest.raises(PreconditionError):
        bucket.insert("a b/ü", b"2", "0")
    second = bucket.insert("a b/ü", b"2", first)
    assert bucket.get("a b/ü", 10) == (second, b"2")
    assert bucket.get("a b/ü", 0) == (second, None)
    assert bucket.get("a", 10) is None
    with pytest.raises(PreconditionError):
        bucket.delete("a b/ü", first)
    for number in range(8):
        bucket.insert(f"l/{number}", b"x" * number, "0")
    assert [(each.name, each.size) for each in bucket.list("l/")] == [
        (f"l/{number}", number) for number in range(8)
    ]
    assert [each.name for each in bucket.list("l/", "l/6")] == ["l/6", "l/7"]
    bucket.delete("a b/ü", second)
    bucket.delete("a b/ü", second)
    bucket.delete("a b/ü")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_bucket_that_is_busy_is_asked_again(
    bucket: Bucket, peer: SmallBucket, status: int
) -> None:
    peer.failures = [status, status]
    assert bucket.insert("a", b"1", "0")
    assert bucket.get("a", 10)


def test_a_write_whose_answer_was_lost_is_known_as_ours(bucket: Bucket, peer: SmallBucket) -> None:
    peer.loses = 1
    first = bucket.insert("a", b"1", "0")
    peer.loses = 1
    second = bucket.insert("a", b"2", first)
    assert bucket.get("a", 10) == (second, b"2")


def test_a_bucket_that_is_away_starts_nothing_for_certain(environ: dict[str, str]) -> None:
    gone = bucketrecord.records(PLACE, OWNER, {"STORAGE_EMULATOR_HOST": "127.0.0.1:9"})
    with pytest.raises(UnreachableError, match="nothing was started") as caught:
        gone.claim(claim())
    assert caught.value.sent is False


def test_a_bucket_that_is_slow_is_waited_for_only_so_long(
    bucket: Bucket, peer: SmallBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.3)
    monkeypatch.setattr(module, "_PATIENCE", 0.5)
    peer.delay = 1.0
    with pytest.raises(UnreachableError, match="timed out"):
        bucket.get("a", 10)


@pytest.mark.parametrize(("status", "hint"), [(403, "roles/storage.objectUser"), (400, "describe")])
def test_a_bucket_that_refuses_says_what_to_do(
    environ: dict[str, str], peer: SmallBucket, status: int, hint: str
) -> None:
    peer.failures = [status] * 3
    with pytest.raises(RecordRefusedError, match="not now") as caught:
        bucketrecord.records(PLACE, OWNER, environ).claim(claim())
    assert hint in caught.value.hint


def test_a_bucket_that_is_not_there_is_to_be_made(environ: dict[str, str]) -> None:
    with pytest.raises(RecordRefusedError, match="does not exist") as caught:
        bucketrecord.records("gs://other", OWNER, environ).claim(claim())
    assert caught.value.hint == "make it: gcloud storage buckets create gs://other"


@pytest.mark.parametrize("name", ["", "gs://", "ab", "a/b", "gs://a b c", "gs://x\n"])
def test_what_is_no_name_of_a_bucket_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Bucket(name, {})


def test_the_machines_token_is_asked_for_once_and_again_when_it_is_turned_down(
    peer: SmallBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(PLACE, {"GCE_METADATA_HOST": peer.host})
    bucket._at = bucket._at._replace(scheme="http", netloc=peer.host)
    bucket._context = None
    peer.tokens = ["first"]
    bucket.insert("a", b"1", "0")
    bucket.get("a", 10)
    asked = f"GET {smallbucket.TOKENS}"
    assert peer.asked.count(asked) == 1
    peer.tokens.append("second")
    assert bucket.get("a", 10)
    assert peer.asked.count(asked) == 2


def test_what_others_put_there_is_not_believed(environ: dict[str, str], peer: SmallBucket) -> None:
    record = bucketrecord.records(PLACE, OWNER, environ)
    for planted in (b"{}", b"x" * (2 << 20), b"[" * 100_000):
        peer.objects[f"of/mine/{OWNER}/records/gt-1.1"] = (1, planted)
        with pytest.raises(RecordBrokenError, match="is not what Outpost wrote") as caught:
            record.claim(claim())
        assert f"gcloud storage rm {PLACE}/{OWNER}/records/gt-1.1" in caught.value.hint


def test_a_log_is_kept_while_the_bucket_comes_and_goes(
    environ: dict[str, str], peer: SmallBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    monkeypatch.setattr(segments, "FULL", 1)
    log = tmp_path / "output.log"
    keeper = LogKeeper(KeptLog(bucketrecord.logs(PLACE, environ), "gt-1.1", OWNER), 1, 0, str(log))
    for number in range(20):
        with log.open("ab") as file:
            file.write(os.urandom(number * 100 + 1))
        log.chmod(0o600)
        peer.failures = [503] * (2 * (number % 3 == 0))
        peer.loses = int(number % 4 == 0)
        try:
            keeper.step()
        except UnreachableError:
            continue
    peer.failures, peer.loses = [], 0
    assert keeper.step(whole=True)
    kept, got = KeptLog(bucketrecord.logs(PLACE, environ), "gt-1.1", OWNER), b""
    while data := kept.read(len(got), 777):
        got += data
    assert got == log.read_bytes()
    kept.forget()
    assert not peer.objects


def test_a_worker_asks_the_bucket_before_it_pushes(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = GitRig(tmp_path, {"README": "hello\n"})
    record = bucketrecord.records(PLACE, OWNER, environ)
    mine = record.claim(claim())
    ask = bucketrecord.command(PLACE, mine, environ)
    assert ask[1] == "-I"
    worker = rig.worker(owner=OWNER, record=standing.launched(mine, ask))
    worker.prepare()
    worker.write("a", "1")
    monkeypatch.chdir(worker.work)
    (worker.work / "json.py").write_text("raise SystemExit(0)")  # not what Python finds here
    found = record.read("gt-1.1")
    assert found is not None
    second = claim(instance=2, leg=2)
    assert places.delivered(found, str(rig.path)) is None
    record.take_over(second, found.seen)
    with pytest.raises(WorkerError, match="leg 2 runs it") as caught:
        worker.deliver()
    assert caught.value.reason == "superseded"
    assert rig.tip("polecat/gt-1") is None

    (worker.work / "json.py").unlink()
    worker.order["record"] = standing.launched(second, bucketrecord.command(PLACE, second, environ))
    done = worker.deliver()
    found = record.read("gt-1.1")
    assert found is not None
    assert found.delivered is None
    assert found.pushing is not None
    sure = places.delivered(found, str(rig.path))
    assert sure is not None
    assert sure.commit == done["commit"]
    rig.git("update-ref", "-d", "refs/heads/polecat/gt-1", cwd=rig.path)
    assert places.delivered(found, str(rig.path)) is None  # the push never arrived


def test_the_command_says_when_nobody_can_say(tmp_path: Path) -> None:
    away = {"STORAGE_EMULATOR_HOST": "127.0.0.1:9"}
    argv = bucketrecord.command(str(tmp_path / "volume"), claim(), away)
    assert json.loads(argv[-1]) == away
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "has no record any more" in done.stderr
    bucketrecord.records(str(tmp_path / "volume"), OWNER).claim(mine := claim())
    argv = bucketrecord.command(str(tmp_path / "volume"), mine, {})
    assert subprocess.run(argv, check=False).returncode == 0
    (tmp_path / "volume" / OWNER / "records" / "gt-1.1" / "000000000002").write_text("x")
    assert subprocess.run(argv, check=False, capture_output=True).returncode == 1
