"""What is taken over of a repository: valid or refused, whatever its files hold."""

from __future__ import annotations

import contextlib
import os
import subprocess
import zlib
from hashlib import sha1
from pathlib import Path

import pytest
from fuzzkit import many
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.folder.folders import StrangeError, copy, open_folder, text
from outpost_worker.repository import gitdirs, index, objects, ownrefs
from outpost_worker.repository.git import Git
from outpost_worker.repository.repostate import Said, UnusableError, is_hash, is_ref

FUZZ = hypothesis(
    max_examples=many(100),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HASH = "0123456789abcdef" * 2 + "01234567"
LINES = st.lists(
    st.sampled_from(
        [HASH, "f" * 40, "a" * 64, "ref: refs/heads/main", "ref: ../../x", "refs/heads/x",
         "^" + HASH,
         f"{HASH} refs/heads/../x", f"{HASH} refs/heads/a\tb", f"{HASH} {HASH} me <a@b> 1 +0 x",
         f"{HASH} refs/heads/main", f"{HASH} refs/replace/{HASH}", "--output=x", "\0", "\x85", ""]
    )
    | st.text(max_size=30),
    max_size=6,
)  # fmt: skip
CONTENT = LINES.map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")) | st.binary(
    max_size=60
)
NAMES = ("HEAD", "packed-refs", "refs/heads/main", "refs/stash", "shallow", "logs/refs/stash",
         "info/exclude", "MERGE_HEAD", "MERGE_MODE", "CHERRY_PICK_HEAD", "worktrees/w/HEAD",
         "worktrees/w/gitdir")  # fmt: skip


def repository(folder: Path) -> Path:
    path = folder / "repository"
    for name in ("refs/heads", "logs/refs", "info", "worktrees/w", "objects"):
        (path / name).mkdir(parents=True, exist_ok=True)
    (path / "HEAD").write_text("ref: refs/heads/main\n")
    return path


@FUZZ
@given(files=st.dictionaries(st.sampled_from(NAMES), CONTENT, max_size=5))
def test_whatever_its_files_hold_what_is_taken_is_valid(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    path = repository(tmp_path)
    for name in NAMES:
        (path / name).unlink(missing_ok=True)
    (path / "HEAD").write_text("ref: refs/heads/main\n")
    for name, content in files.items():
        (path / name).write_bytes(content)
    try:
        said = Said(open_folder(str(path)))
    except UnusableError:
        return
    assert all(is_ref(name) and is_hash(value) for name, value in said.refs.items())
    assert not any(name.startswith("refs/replace/") for name in said.refs)
    assert is_hash(said.head) or is_ref(said.head.removeprefix("ref: "))
    assert all(map(is_hash, said.shallow.split()))
    assert all(is_hash(line.split(" ")[1]) for line in said.stash.splitlines() if line)
    assert said.commit == "" or is_hash(said.commit)
    for each in said.linked.values():
        assert is_hash(each.head) or is_ref(each.head.removeprefix("ref: "))
        assert each.tree == "" or each.tree.startswith("/")


@FUZZ
@given(name=st.text(max_size=40) | st.sampled_from(["refs/heads/a", "refs/a.lock/b", "refs//a"]))
def test_a_name_is_a_ref_where_git_says_so(name: str) -> None:
    if "\0" in name or any("\ud800" <= c <= "\udfff" for c in name):
        return
    for whole in (name, f"refs/heads/{name}"):
        told = subprocess.run(["git", "check-ref-format", whole], check=False).returncode == 0
        if is_ref(whole):
            assert told
        elif whole.startswith("refs/"):
            assert not told


@FUZZ
@given(data=st.binary(max_size=300), count=st.integers(0, 5))
def test_an_index_of_any_bytes_is_read_or_left_to_git(
    tmp_path: Path, data: bytes, count: int
) -> None:
    path = tmp_path / "index"
    path.write_bytes(b"DIRC\0\0\0\2" + count.to_bytes(4, "big") + data)
    git = Git(str(tmp_path), str(tmp_path))
    assert index.leads_out(git, str(path)) in (True, False)


class TestObjects:
    @pytest.fixture
    def places(self, tmp_path: Path) -> tuple[Path, Path]:
        there, ours = tmp_path / "there", tmp_path / "ours"
        (there / "objects").mkdir(parents=True)
        ours.mkdir()
        return there, ours

    def bring(self, places: tuple[Path, Path]) -> list[str]:
        there, ours = places
        top = open_folder(str(there))
        return objects.bring(top, str(ours), 40, open_folder(str(there.parent)))

    def put(self, places: tuple[Path, Path], content: bytes, *, name: str = "") -> Path:
        whole = b"blob %d\0" % len(content) + content
        name = name or sha1(whole, usedforsecurity=False).hexdigest()
        path = places[0] / "objects" / name[:2] / name[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(zlib.compress(whole))
        return path

    def test_what_is_whole_is_copied_once(self, places: tuple[Path, Path]) -> None:
        large = os.urandom(3 << 20) + bytes(5 << 20)
        paths = [self.put(places, b""), self.put(places, b"x"), self.put(places, large)]
        assert self.bring(places) == []
        for path in paths:
            ours = places[1] / path.parent.name / path.name
            assert ours.read_bytes() == path.read_bytes()
            assert not os.path.samefile(ours, path)
            path.write_bytes(b"changed afterwards")
        assert self.bring(places) == []
        assert not list(places[1].rglob("*.new"))

    @pytest.mark.parametrize("how", ["name", "cut", "more", "garbage", "empty"])
    def test_what_is_not_what_it_is_called_stays(self, places: tuple[Path, Path], how: str) -> None:
        path = self.put(places, b"content", name="a" * 40 if how == "name" else "")
        data = path.read_bytes()
        changed = {"cut": data[:-1], "more": data + b"x", "garbage": b"garbage", "empty": b""}
        path.write_bytes(changed.get(how, data))
        assert self.bring(places) == [path.parent.name + path.name]
        assert not list((places[1] / path.parent.name).iterdir())

    @pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
    @pytest.mark.parametrize("where", ["objects", "loose", "object", "pack", "index"])
    def test_nothing_is_followed(self, places: tuple[Path, Path], kind: str, where: str) -> None:
        there = places[0]
        path = self.put(places, b"x")
        packs = there / "objects/pack"
        packs.mkdir()
        pack = packs / f"pack-{'a' * 40}.pack"
        pack.write_bytes(b"PACK")
        pack.with_suffix(".idx").write_bytes(b"index")
        goal = {"objects": there / "objects", "loose": path.parent, "object": path, "pack": pack,
                "index": pack.with_suffix(".idx")}[where]  # fmt: skip
        if goal.is_dir():
            if kind == "folder":
                return
            goal.rename(there / "moved")
        else:
            goal.unlink()
        if kind == "link":
            goal.symlink_to("/etc")
        elif kind == "pipe":
            os.mkfifo(goal)
        else:
            goal.mkdir()
        if where == "index" or (where == "pack" and kind == "folder"):
            with contextlib.suppress(StrangeError):
                self.bring(places)
            assert not (places[1] / "pack" / pack.with_suffix(".idx").name).is_dir()
        else:
            with pytest.raises(StrangeError, match="cannot be used"):
                self.bring(places)

    @pytest.mark.parametrize("copied", [0, 1 << 20])
    def test_packs_come_with_their_index(
        self, rig: GitRig, worker: GitWorker, monkeypatch: pytest.MonkeyPatch, copied: int
    ) -> None:
        monkeypatch.setattr(objects, "_COPIED", copied)
        for number in range(3):
            worker.commit(f"f{number}", "1")
        worker.git("repack", "-q", "-a", "-d", "-l")
        worker.git("prune-packed")
        assert worker.save()["pushed"]
        links = {path.stat().st_nlink for path in (worker.folder / "git/objects/pack").iterdir()}
        assert links == ({1} if copied else {2})
        assert rig.files("refs/outpost/gt-1.1") == ["README", "f0", "f1", "f2"]
        worker.git("repack", "-q", "-a", "-d", "-l", "-f")
        worker.commit("f3", "1")
        assert worker.deliver()["reason"] == "ok"
        assert "f3" in rig.files("polecat/gt-1")

    def test_what_a_repository_in_the_tree_lends(self, rig: GitRig, worker: GitWorker) -> None:
        """`git clone --shared` of a repository that the agent made itself."""
        worker.git("init", "-q", "inner")
        worker.write("inner/f", "1")
        worker.git("-C", "inner", "add", "f")
        worker.git("-C", "inner", "commit", "-q", "-m", "f")
        worker.git("clone", "-q", "--shared", "inner", "other")
        assert worker.deliver()["reason"] == "ok"
        assert {"inner/f", "other/f"} <= set(rig.files("polecat/gt-1"))
        assert not worker.unpushed()


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path)


@pytest.fixture
def worker(rig: GitRig) -> GitWorker:
    worker = rig.worker()
    worker.prepare()
    return worker


class TestRefs:
    def heads(self, worker: GitWorker) -> list[str]:
        return worker.own("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads").split()

    def test_they_follow(self, worker: GitWorker) -> None:
        worker.git("branch", "a")
        worker.save()
        assert self.heads(worker) == ["a", "polecat/gt-1"]
        worker.git("branch", "-D", "a")
        worker.git("branch", "a/b")
        worker.git("symbolic-ref", "refs/heads/same", "refs/heads/a/b")
        worker.git("symbolic-ref", "refs/heads/dangling", "refs/heads/nothing")
        worker.save()
        assert self.heads(worker) == ["a/b", "polecat/gt-1", "same"]
        worker.git("symbolic-ref", "--delete", "refs/heads/same")
        worker.git("branch", "-D", "a/b")
        worker.git("branch", "a")
        worker.git("pack-refs", "--all")
        worker.save()
        assert self.heads(worker) == ["a", "polecat/gt-1"]
        worker.git("branch", "-D", "a")
        worker.save()
        assert self.heads(worker) == ["polecat/gt-1"]

    def test_what_is_ours_stays(self, worker: GitWorker) -> None:
        worker.write("new", "1")
        commit = worker.deliver()["commit"]
        worker.git("branch", "another")
        worker.save(ended=True)
        assert worker.own("rev-parse", "HEAD") == commit
        assert worker.own("rev-parse", "another") == worker.space["base_commit"]

    def test_very_many(self, worker: GitWorker) -> None:
        base = worker.space["base_commit"]
        lines = "".join(f"{base} refs/heads/many/{n:05}\n" for n in range(20_000))
        packed = worker.work / ".git/packed-refs"
        packed.write_text(packed.read_text() + lines)
        worker.save()
        assert len(self.heads(worker)) == 20_001
        worker.write("new", "1")
        assert worker.deliver()["reason"] == "ok"
        assert not worker.unpushed()

    def test_the_commit_that_is_checked_out(self, worker: GitWorker) -> None:
        ours = str(worker.folder / "git")
        assert ownrefs.tip(ours) == worker.space["base_commit"]
        worker.git("checkout", "-q", "--detach")
        worker.save()
        assert ownrefs.tip(ours) == worker.space["base_commit"]
        worker.git("checkout", "-q", "--orphan", "fresh")
        worker.save()
        assert ownrefs.tip(ours) == ""


class TestFolders:
    def test_only_what_is_real_is_entered(self, tmp_path: Path) -> None:
        (tmp_path / "a/b").mkdir(parents=True)
        (tmp_path / "a/link").symlink_to("b")
        (tmp_path / "a/file").write_text("x" * 100)
        os.mkfifo(tmp_path / "a/pipe")
        top = open_folder(str(tmp_path))
        assert top.walk("a/b") is not None
        assert top.walk("a/none") is None
        for path in ("a/link", "a/file", "a/pipe", "a/../a", "a//b", ""):
            with pytest.raises(StrangeError):
                top.walk(path)
        inside = top.enter("a")
        assert inside is not None
        assert inside.read("file") == b"x" * 100
        assert inside.read("none") is None
        with pytest.raises(StrangeError, match="more than 99 bytes"):
            inside.read("file", 99)
        for name in ("link", "b", "pipe"):
            with pytest.raises(StrangeError):
                inside.read(name)
        assert text(str(tmp_path / "a/pipe")) == text(str(tmp_path / "a/link")) == ""

    def test_somebody_elses(self, tmp_path: Path) -> None:
        theirs = Path("/etc")
        if os.geteuid() == 0:
            theirs = tmp_path / "theirs"
            theirs.mkdir()
            os.chown(theirs, 12345, -1)
        with pytest.raises(StrangeError, match="another user"):
            open_folder(str(theirs))

    def test_a_copy_is_as_old(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("1")
        os.utime(tmp_path / "a", (5, 5))
        fd = os.open(tmp_path / "a", os.O_RDONLY)
        copy(fd, str(tmp_path / "b"))
        os.close(fd)
        assert (tmp_path / "b").stat().st_mtime == 5
        assert os.listdir(tmp_path).count("b") == 1


def test_a_path_below_leads_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    assert gitdirs.is_below(str(tmp_path), "a/x")
    assert gitdirs.is_below(str(tmp_path), "link")
    assert not gitdirs.is_below(str(tmp_path), "link/passwd")
    assert not gitdirs.is_below(str(tmp_path), "../x")
    assert not gitdirs.is_below(str(tmp_path), "/etc/passwd")
