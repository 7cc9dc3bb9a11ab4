"""An agent that no fence holds rewrites the shared mirror: nothing of it is believed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path

import pytest

from outpost_core.errors import WorkerError
from outpost_shared import process
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.folder import exposed, guarded
from outpost_worker.repository import git, mirror, mirrorlock, proof, remotestate, store

NOTES = (store.HAVE, store.SNAPSHOT, store.SOUND)


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path, {"README": "hello\n", "src/code.py": "print('good')\n"})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "RETRY_DELAYS", (0.01,))


def mirror_of(rig: GitRig) -> Path:
    return Path(mirror.mirror_path(str(rig.root), str(rig.path)))


def first(rig: GitRig) -> GitWorker:
    """The worker whose agent attacks, without a fence; it has a branch to deliver."""
    exposed.mark(str(rig.root))
    worker = rig.worker("gt-1")
    worker.prepare()
    worker.commit("new", "1")
    return worker


def evil_of(rig: GitRig) -> Path:
    """A repository of the attacker, with another `main`."""
    evil = rig.folder / "evil.git"
    rig.git("clone", "-q", "--bare", str(rig.path), str(evil))
    rig.git("checkout", "-q", "--orphan", "evil")
    (rig.seed / "src/code.py").write_text("print('evil')\n")
    rig.git("add", "-A")
    rig.git("commit", "-q", "-m", "evil")
    rig.git("push", "-q", "-f", str(evil), "evil:main")
    rig.git("checkout", "-q", "-f", "main")
    return evil


def program(rig: GitRig, name: str = "p") -> tuple[Path, Path]:
    """A program of the attacker and the file by which its run is seen."""
    ran, path = rig.folder / f"{name}.ran", rig.folder / name
    path.write_text(f"#!/bin/sh\nenv >{ran}\nexit 1\n")
    path.chmod(0o755)
    return path, ran


def starts_well(rig: GitRig, issue: str = "gt-2") -> GitWorker:
    """The next worker gets what the rig has, and its work arrives there."""
    worker = rig.worker(issue)
    assert worker.prepare()["base_commit"] == rig.tip("main")
    assert (worker.work / "src/code.py").read_text() == "print('good')\n"
    assert worker.git("status", "--porcelain") == ""
    worker.commit("more", issue)
    done = worker.deliver()
    assert done["reason"] == "ok"
    assert rig.tip(f"polecat/{issue}") == done["commit"]
    return worker


# --- settings -------------------------------------------------------------------------------------


def instead(rig: GitRig, path: Path) -> None:
    rig.git("config", "-f", str(path / "config"), f"url.{evil_of(rig)}.insteadOf", str(rig.path))


def included(rig: GitRig, path: Path) -> None:
    more = rig.folder / "more"
    rig.git("config", "-f", str(more), f"url.{evil_of(rig)}.insteadOf", str(rig.path))
    rig.git("config", "-f", str(path / "config"), "include.path", str(more))


def push_url(rig: GitRig, path: Path) -> None:
    evil = str(evil_of(rig))
    rig.git("config", "-f", str(path / "config"), "remote.outpost.pushurl", evil)
    rig.git("config", "-f", str(path / "config"), f"remote.{rig.path}.url", evil)


def elsewhere(rig: GitRig, path: Path) -> None:
    evil = evil_of(rig)
    rig.git("config", "-f", str(evil / "config"), f"url.{evil}.insteadOf", str(rig.path))
    (path / "commondir").write_text(f"{evil}\n")


def as_a_link(rig: GitRig, path: Path) -> None:
    evil = evil_of(rig)
    rig.git("config", "-f", str(evil / "config"), f"url.{evil}.insteadOf", str(rig.path))
    (path / "config").unlink()
    (path / "config").symlink_to(evil / "config")


def as_a_fifo(rig: GitRig, path: Path) -> None:
    for name in ("config", "HEAD", "packed-refs", "shallow", *NOTES):
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name)


def as_a_folder(rig: GitRig, path: Path) -> None:
    for name in ("config", "HEAD", "packed-refs", "shallow", *NOTES):
        (path / name).unlink(missing_ok=True)
        (path / name / "deep/er").mkdir(parents=True)
    shutil.rmtree(path / "refs")
    os.mkfifo(path / "refs")


def rubbish(rig: GitRig, path: Path) -> None:
    for name in ("config", "HEAD", "packed-refs", "shallow", *NOTES):
        (path / name).write_bytes(b"[core\xff\0")


def ssh_command(rig: GitRig, path: Path) -> None:
    evil, _ = program(rig)
    for key in ("core.sshCommand", "core.gitProxy", "core.fsmonitor", "core.alternateRefsCommand"):
        rig.git("config", "-f", str(path / "config"), key, str(evil))
    rig.git("config", "-f", str(path / "config"), "extensions.partialClone", "origin")
    rig.git("config", "-f", str(path / "config"), "remote.origin.url", "host:x")
    (path / "hooks").mkdir()
    for hook in ("reference-transaction", "post-merge", "pre-auto-gc", "post-rewrite"):
        shutil.copy(evil, path / "hooks" / hook)


@pytest.mark.parametrize(
    "attack",
    [instead, included, push_url, elsewhere, as_a_link, as_a_fifo, as_a_folder, rubbish,
     ssh_command],
)  # fmt: skip
@pytest.mark.parametrize("moved", [True, False])
def test_settings_of_the_mirror_decide_nothing(
    rig: GitRig, attack: Callable[[GitRig, Path], None], moved: bool
) -> None:
    worker = first(rig)
    attack(rig, mirror_of(rig))
    if moved:  # so that there is something to fetch
        rig.commit({"later": "1"})
    assert worker.save()["pushed"]
    done = worker.deliver()
    assert done["reason"] == "ok"
    assert rig.tip("polecat/gt-1") == done["commit"]
    starts_well(rig)
    assert not (rig.folder / "p.ran").exists()
    assert (mirror_of(rig) / "config").read_text() == store.config(sha256=False)
    assert not (mirror_of(rig) / "config").is_symlink()


@pytest.mark.parametrize("attack", [instead, included, as_a_link])
def test_a_push_that_went_elsewhere_is_not_taken_for_one(
    rig: GitRig, attack: Callable[[GitRig, Path], None]
) -> None:
    """`done` is only said of what the rig itself shows."""
    worker = first(rig)
    attack(rig, mirror_of(rig))
    rig.git("config", f"url.{rig.folder}/evil.git.insteadOf", str(rig.path), cwd=worker.work)
    reason = ""
    try:
        reason = worker.deliver()["reason"]
    except WorkerError as error:
        reason = error.reason
    assert reason == "ok" or rig.tip("polecat/gt-1") is None
    assert reason in ("ok" if rig.tip("polecat/gt-1") else "", "verify_failed", "push_failed")


# --- what it says of the remote -------------------------------------------------------------------


def forge_snapshot(rig: GitRig) -> str:
    evil = rig.git("rev-parse", "refs/heads/main", cwd=evil_of(rig))
    for source in (rig.folder / "evil.git/objects").glob("??/*"):
        target = mirror_of(rig) / "objects" / source.parent.name / source.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    refs = f"ref: refs/heads/main\tHEAD\n{evil}\tHEAD\n{evil}\trefs/heads/main\n"
    (mirror_of(rig) / store.SNAPSHOT).write_text(f"{time.monotonic_ns() + 10**12}\n{refs}")
    (mirror_of(rig) / store.HAVE).write_text(evil)
    (mirror_of(rig) / "packed-refs").write_text(f"{evil} refs/heads/main\n")
    return evil


def test_a_forged_snapshot_leads_nobody_to_another_commit(rig: GitRig) -> None:
    first(rig)
    forge_snapshot(rig)
    starts_well(rig)


def test_a_snapshot_is_not_shared_where_agents_can_write_one(
    rig: GitRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written while the next worker waits, with just the right moment in it."""
    first(rig)
    path = mirror_of(rig)
    held = mirrorlock.Lock(str(path), lambda _: None)
    waits = threading.Event()
    worker = rig.worker("gt-2")

    def report(text: str) -> None:
        worker.reports.append(text)
        if text.startswith("waiting"):
            waits.set()

    from outpost_worker.work import workspace

    with held:
        thread = threading.Thread(
            target=lambda: worker.space.update(
                workspace.prepare(worker.order, str(rig.root), str(worker.folder), report)
            )
        )
        thread.start()
        assert waits.wait(60)
        evil = forge_snapshot(rig)
        text = (path / store.SNAPSHOT).read_text().partition("\n")[2]
        (path / store.SNAPSHOT).write_text(f"{time.monotonic_ns()}\n{text}")
    thread.join(60)
    assert worker.space["base_commit"] == rig.tip("main") != evil


def test_what_the_mirror_is_said_to_have_and_has_not_is_fetched(rig: GitRig) -> None:
    first(rig)
    tip = rig.commit({"later": "1"})
    (mirror_of(rig) / store.HAVE).write_text(f"{tip}\n{'0' * 40}\n../x\n--all\n")
    worker = starts_well(rig)
    assert (worker.work / "later").exists()
    assert worker.git("fsck", "--no-dangling") == ""


def test_a_ref_that_is_said_to_be_there_breaks_no_worker(rig: GitRig) -> None:
    side = rig.commit({"x": "1"}, "side")
    rig.git("checkout", "-q", "main")
    worker = first(rig)
    rig.git("push", "-q", "-f", "origin", "main:side")
    worker.git("fetch", "-q", ok=False)
    later = rig.commit({"y": "1"}, "other")
    with (mirror_of(rig) / store.HAVE).open("a") as file:
        file.write(f"\n{side}\n{later}\n")
    starts_well(rig)


@pytest.mark.parametrize(
    "line",
    [
        "{tip}\trefs/heads/../../../config",
        "{tip}\trefs/heads/x\\ny",
        "ref: refs/heads/../../x\tHEAD",
        "-x\trefs/heads/x",
        "{tip}\t--upload-pack=x",
        "{tip}\trefs/heads/x.lock",
        "{tip}\trefs/heads/.x",
        "{tip}\trefs/heads/a b",
        "{tip} refs/heads/main",
        "\x1b]0;x\x07{tip}\trefs/heads/x",
    ],
)
def test_names_and_hashes_that_are_none_are_not_taken(rig: GitRig, line: str) -> None:
    tip = rig.tip("main")
    seen = remotestate.RemoteState(str(mirror_of(rig)))
    seen.learn(line.format(tip=tip) + f"\n{tip}\trefs/heads/main\n", 1)
    assert (seen.refs, seen.default) == ({"refs/heads/main": tip}, None)


# --- objects --------------------------------------------------------------------------------------


def unpack(path: Path) -> None:
    """Let all objects of a mirror lie under their names."""
    packs = path / "objects/pack"
    away = path.parent / "away"
    away.mkdir()
    for file in list(packs.iterdir()):
        file.rename(away / file.name)
    for file in away.glob("*.pack"):
        with file.open("rb") as stream:
            subprocess.run(["git", "unpack-objects", "-q"], cwd=path, stdin=stream, check=True)


def loose(path: Path, name: str) -> Path:
    file = path / "objects" / name[:2] / name[2:]
    file.parent.mkdir(exist_ok=True)
    if file.exists():
        file.chmod(0o600)
    return file


def forge(path: Path, name: str, kind: str, content: bytes) -> None:
    """Put something else under the name of an object."""
    data = zlib.compress(f"{kind} {len(content)}".encode() + b"\0" + content)
    loose(path, name).write_bytes(data)


def other_file(rig: GitRig, path: Path) -> None:
    unpack(path)
    forge(path, rig.git("rev-parse", "main:src/code.py"), "blob", b"print('evil')\n")


def other_tree(rig: GitRig, path: Path) -> None:
    unpack(path)
    evil = b"print('evil')\n"
    blob = sha1(f"blob {len(evil)}".encode() + b"\0" + evil).digest()
    forge(path, blob.hex(), "blob", evil)
    forge(path, rig.git("rev-parse", "main:src"), "tree", b"100644 code.py\0" + blob)


def other_commit(rig: GitRig, path: Path) -> None:
    unpack(path)
    evil = rig.git("rev-parse", "main", cwd=evil_of(rig))
    rig.git("push", "-q", str(path), "evil:refs/heads/evil")
    text = rig.git("cat-file", "commit", evil).encode() + b"\n"
    forge(path, str(rig.tip("main")), "commit", text)


def index_of_another_pack(rig: GitRig, path: Path) -> None:
    """A pack whose index gives the file's name to another file of the same length."""
    unpack(path)
    wanted = rig.git("rev-parse", "main:src/code.py")
    for file in loose(path, wanted).parent.iterdir():
        file.unlink()
    evil = b"print('evil')\n"
    made = rig.folder / "made"
    made.write_bytes(evil)
    blob = rig.git("hash-object", "-w", str(made), cwd=path)
    name = subprocess.run(
        ["git", "pack-objects", "-q", "objects/pack/pack"],
        cwd=path, input=f"{blob}\n", text=True, capture_output=True, check=True,
    ).stdout.strip()  # fmt: skip
    index = path / "objects/pack" / f"pack-{name}.idx"
    index.chmod(0o600)
    data = bytearray(index.read_bytes())
    fan = int(wanted[:2], 16)
    for number in range(256):
        data[8 + 4 * number : 12 + 4 * number] = (int(number >= fan)).to_bytes(4, "big")
    start = 8 + 1024
    data[start : start + 20] = bytes.fromhex(wanted)
    index.write_bytes(data)


def missing_file(rig: GitRig, path: Path) -> None:
    unpack(path)
    loose(path, rig.git("rev-parse", "main:src/code.py")).unlink()


def nothing_left(rig: GitRig, path: Path) -> None:
    shutil.rmtree(path / "objects")


def waiting_file(rig: GitRig, path: Path) -> None:
    unpack(path)
    file = loose(path, rig.git("rev-parse", "main:src/code.py"))
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "attack",
    [other_file, other_tree, other_commit, index_of_another_pack, missing_file, nothing_left,
     waiting_file],
)  # fmt: skip
def test_the_next_worker_starts_from_what_the_hash_says(
    rig: GitRig, attack: Callable[[GitRig, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "STALL", 1.0)
    first(rig)
    attack(rig, mirror_of(rig))
    starts_well(rig)
    kept = list(mirror_of(rig).parent.glob("*.aside-*"))
    assert len(kept) == 2
    assert all("made anew" in note.read_text() for note in kept if note.suffix == ".txt")


def test_what_lends_objects_to_the_mirror_is_gone(rig: GitRig) -> None:
    first(rig)
    info = mirror_of(rig) / "objects/info"
    (info / "alternates").write_text(f"{evil_of(rig)}/objects\n")
    (info / "commit-graphs").mkdir()
    (info / "commit-graph").write_bytes(b"CGPH")
    pack = mirror_of(rig) / "objects/pack"
    (pack / "multi-pack-index").write_bytes(b"MIDX")
    (pack / f"pack-{'0' * 40}.pack").symlink_to("/etc/passwd")
    os.mkfifo(pack / f"pack-{'1' * 40}.idx")
    starts_well(rig)
    assert list(info.iterdir()) == []
    assert not [path for path in pack.iterdir() if path.is_symlink() or not path.is_file()]


def test_what_is_fenced_off_is_proved_once(rig: GitRig, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs: list[list[str]] = []
    real = proof.prove

    def counted(git: git.Git, commits: list[str], others: set[str]) -> set[str]:
        proofs.append(commits)
        return real(git, commits, others)

    monkeypatch.setattr(proof, "prove", counted)

    def go() -> None:
        url, tip = str(rig.path), rig.tip("main")
        seen = mirror.sync(str(rig.root), url, None, None, "", lambda _: None)
        assert seen.base == tip
        assert tip in seen.have

    go()
    go()
    assert len(proofs) == 1
    rig.commit({"later": "1"})
    go()
    go()
    assert len(proofs) == 2
    forge(mirror_of(rig), str(rig.tip("main")), "commit", b"x")  # somebody was at it
    go()
    assert len(proofs) == 3


def test_what_an_attempt_goes_on_from_is_what_its_hash_says(rig: GitRig) -> None:
    worker = first(rig)
    worker.write("src/more.py", "print('more')\n")
    saved = worker.save()
    assert saved["pushed"]
    path = mirror_of(rig)
    # the objects of the checkpoint, one of them another one, where the next attempt borrows
    rig.git("fetch", "-q", str(rig.path), saved["ref"])
    rig.git("push", "-q", str(path), f"{saved['commit']}:refs/heads/x")
    unpack(path)
    forge(path, rig.git("rev-parse", f"{saved['commit']}:src/more.py"), "blob", b"print('evil')\n")
    later = rig.worker("gt-1", attempt=2, resume=saved["ref"])
    with pytest.raises(WorkerError):
        later.prepare()
    assert not (later.work / "src/more.py").exists()
    shutil.rmtree(path)
    again = rig.worker("gt-1", attempt=3, resume=saved["ref"])
    again.prepare()
    assert (again.work / "src/more.py").read_text() == "print('more')\n"


# --- the folder and its lock ----------------------------------------------------------------------


def test_a_mirror_that_became_a_link_is_put_aside(rig: GitRig) -> None:
    worker = first(rig)
    path = mirror_of(rig)
    evil = evil_of(rig)
    rig.git("config", "-f", str(evil / "config"), f"url.{evil}.insteadOf", str(rig.path))
    before = sorted(str(p) for p in evil.rglob("*"))
    path.rename(path.with_suffix(".away"))
    path.symlink_to(evil)
    rig.commit({"later": "1"})
    starts_well(rig)
    assert path.is_dir()
    assert not path.is_symlink()
    assert sorted(str(p) for p in evil.rglob("*")) == before
    # the first worker borrows from the same place, where all is again
    assert worker.deliver()["reason"] == "ok"


@pytest.mark.parametrize("inner", ["objects", "objects/pack", "objects/info"])
def test_a_folder_in_it_that_became_a_link_is_put_aside(rig: GitRig, inner: str) -> None:
    first(rig)
    path, evil = mirror_of(rig), evil_of(rig)
    before = sorted(str(p) for p in evil.rglob("*"))
    (path / inner).rename(rig.folder / "away")
    (path / inner).symlink_to(evil / inner)
    rig.commit({"later": "1"})
    starts_well(rig)
    assert sorted(str(p) for p in evil.rglob("*")) == before


def as_link(path: Path) -> None:
    precious = path.parent / "precious"
    precious.write_text("1 2\n")
    path.symlink_to(precious)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, as_link, lambda path: path.symlink_to("/dev/tty"),
     lambda path: path.symlink_to("nowhere"),
     lambda path: (path.with_name("precious").write_text("x"),
                   os.link(path.with_name("precious"), path))],
)  # fmt: skip
def test_a_lock_that_is_something_else_is_put_aside(
    rig: GitRig, make: Callable[[Path], None]
) -> None:
    first(rig)
    lock = mirror_of(rig).with_suffix(".lock")
    lock.unlink()
    make(lock)
    rig.commit({"later": "1"})
    starts_well(rig)
    assert lock.is_file()
    assert not lock.is_symlink()
    precious = lock.with_name("precious")
    assert not precious.exists() or precious.read_text() in ("1 2\n", "x")


def test_a_lock_that_somebody_holds_for_ever_ends_with_words(
    rig: GitRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first(rig)
    monkeypatch.setattr(mirrorlock, "PATIENCE", 0.3)
    worker = rig.worker("gt-2")
    with (
        mirrorlock.Lock(str(mirror_of(rig)), lambda _: None),
        pytest.raises(WorkerError, match="is held by another process") as caught,
    ):
        worker.prepare()
    assert "fuser" in caught.value.hint


def test_a_note_in_the_lock_ends_no_other_process(rig: GitRig) -> None:
    first(rig)
    argv = [sys.executable, "-c", "import time; time.sleep(600)", "git"]
    other = subprocess.Popen(argv, start_new_session=True)
    try:
        note = f"{other.pid} {process.start_time(other.pid)}\n"
        mirror_of(rig).with_suffix(".lock").write_text(note)
        rig.commit({"later": "1"})
        starts_well(rig)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("note", [b"\xff\xfe", b"1 1\n", b"-1 5", b"99999999999 3", b"x" * 200])
def test_rubbish_in_the_lock_is_none(rig: GitRig, note: bytes) -> None:
    first(rig)
    mirror_of(rig).with_suffix(".lock").write_bytes(note)
    starts_well(rig)


def test_what_a_killed_fetch_has_left_goes(rig: GitRig) -> None:
    first(rig)
    path = mirror_of(rig)
    left = path.parent / f".{path.name}.1.00"
    (left / "refs/heads").mkdir(parents=True)
    (left / "config").write_text("x")
    rig.commit({"later": "1"})
    starts_well(rig)
    assert not list(path.parent.glob(".*"))


# --- reading --------------------------------------------------------------------------------------


def test_only_a_plain_file_of_ours_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert guarded.text(str(file)) == ""
    file.write_text("text")
    assert guarded.text(str(file)) == "text"
    assert guarded.text(str(file), 3) == ""
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "."):
        assert guarded.text(str(tmp_path / name)) == ""
    if os.geteuid() == 0:
        os.chown(file, 54321, 54321)
        assert guarded.text(str(file)) == ""


def test_a_short_name_of_a_commit_that_somebody_planted_is_none(rig: GitRig) -> None:
    first(rig)
    path = mirror_of(rig)
    evil_of(rig)
    rig.git("push", "-q", str(path), "evil:refs/heads/evil")
    planted = rig.git("rev-parse", "evil")
    with pytest.raises(WorkerError) as caught:
        rig.worker("gt-2", base=planted[:10]).prepare()
    assert caught.value.reason == "base_not_found"
