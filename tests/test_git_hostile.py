"""Nothing that an agent left in a repository runs in our git processes, or leads them elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from outpost_core.errors import WorkerError
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.repository import git

BRANCH = "polecat/gt-1"
REF = "refs/outpost/gt-1.1"
#: Settings of a repository by which git runs a program; `{}` is the program.
RUNS = {
    "filter.x.clean": "{}",
    "filter.x.smudge": "{}",
    "filter.x.process": "{}",
    "filter.lfs.clean": "{}",
    "filter.lfs.process": "{}",
    "lfs.extension.x.clean": "{} %f",
    "core.fsmonitor": "{}",
    "core.hooksPath": "{dir}/hooks",
    "core.sshCommand": "{}",
    "core.gitProxy": "{}",
    "core.askPass": "{}",
    "core.editor": "{}",
    "core.pager": "{}",
    "core.alternateRefsCommand": "{}",
    "sequence.editor": "{}",
    "credential.helper": "!{}",
    "gpg.program": "{}",
    "gpg.ssh.program": "{}",
    "diff.x.command": "{}",
    "diff.x.textconv": "{}",
    "diff.external": "{}",
    "merge.x.driver": "{}",
    "remote.outpost.uploadpack": "{}",
    "remote.outpost.receivepack": "{}",
    "remote.origin.uploadpack": "{}",
    "remote.origin.receivepack": "{}",
    "remote.outpost.vcs": "x",
    "uploadpack.packObjectsHook": "{}",
    "submodule.lib.update": "!{}",
    "pager.status": "{}",
    "alias.status": "!{}",
    "alias.push": "!{}",
    "trailer.x.command": "{}",
    "interactive.diffFilter": "{}",
    "include.path": "{dir}/more",
    "includeIf.gitdir:/.path": "{dir}/more",
    "includeIf.onbranch:**.path": "{dir}/more",
}
#: Settings that would have git read, or write, something else.
LEADS = {
    "core.worktree": "{private}",
    "core.attributesFile": "{dir}/attributes",
    "core.excludesFile": "{dir}/everything",
    "core.bare": "true",
    "core.ignoreCase": "true",
    "core.fileMode": "false",
    "core.symlinks": "false",
    "core.autocrlf": "true",
    "core.eol": "crlf",
    "core.precomposeUnicode": "true",
    "core.sparseCheckout": "true",
    "core.untrackedCache": "true",
    "core.checkStat": "minimal",
    "index.sparse": "true",
    "status.showUntrackedFiles": "no",
    "extensions.partialClone": "origin",
    "remote.origin.promisor": "true",
    "remote.outpost.pushurl": "{elsewhere}",
    "remote.outpost.url": "{elsewhere}",
    "remote.outpost.push": "refs/heads/x:refs/heads/main",
    "remote.outpost.mirror": "true",
    "remote.pushDefault": "elsewhere",
    "push.default": "matching",
    "push.pushOption": "x",
    "url.{elsewhere}.insteadOf": "{rig}",
    "url.{elsewhere}.pushInsteadOf": "{rig}",
    "transfer.hideRefs": "refs/heads",
    "fetch.fsckObjects": "true",
    "user.name": "somebody else",
    "author.email": "somebody@else",
    "commit.template": "{private}/key",
    "commit.cleanup": "scissors",
    "i18n.commitEncoding": "utf-16",
    "submodule.lib.url": "{elsewhere}",
    "submodule.lib.ignore": "all",
    "diff.ignoreSubmodules": "all",
}


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n\tname = me\n\temail = me@here\n[protocol.file]\n\tallow=always\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setattr(git, "RETRY_DELAYS", ())


class Lair:
    """What an attack uses: a program that leaves a mark, and somebody's private folder."""

    def __init__(self, folder: Path, rig: GitRig) -> None:
        self.folder = folder / "lair"
        self.rig = rig
        (self.folder / "hooks").mkdir(parents=True)
        self.mark = self.folder / "ran"
        self.program = self.folder / "program"
        self.program.write_text(f"#!/bin/sh\necho $0 $@ >>{self.mark}\ncat\n")
        self.program.chmod(0o755)
        for name in ("pre-commit", "post-commit", "pre-push", "post-index-change",
                     "reference-transaction", "post-checkout", "prepare-commit-msg"):  # fmt: skip
            (self.folder / "hooks" / name).symlink_to(self.program)
        (self.folder / "more").write_text(
            f'[filter "x"]\n\tclean = {self.program}\n\tprocess = {self.program}\n'
            f"[core]\n\tfsmonitor = {self.program}\n\tattributesFile = {self.folder}/attributes\n"
            f'[url "{folder}/elsewhere.git"]\n\tinsteadOf = {rig.path}\n'
        )
        (self.folder / "attributes").write_text("* filter=x diff=x merge=x\n")
        (self.folder / "everything").write_text("*\n")
        self.private = folder / "private"
        self.private.mkdir()
        (self.private / "key").write_text("secret-key\n")
        self.elsewhere = folder / "elsewhere.git"
        rig.git("clone", "-q", "--bare", str(rig.path), str(self.elsewhere))
        self.before = self.refs(self.elsewhere)

    def refs(self, path: Path) -> str:
        return self.rig.git("for-each-ref", cwd=path)

    def fill(self, text: str) -> str:
        known = {"dir": self.folder, "private": self.private, "elsewhere": self.elsewhere}
        return text.format(self.program, rig=self.rig.path, **known)

    def held(self) -> None:
        """Demand that nothing ran, and nothing went where it should not."""
        assert not self.mark.exists(), self.mark.read_text()
        assert self.refs(self.elsewhere) == self.before
        for repository in (self.rig.path, self.elsewhere):
            found = self.rig.git("log", "--all", "-S", "secret-key", "--format=%h", cwd=repository)
            assert found == ""
        assert os.listdir(self.private) == ["key"]
        for archive in (self.rig.root / "rescued").glob("*.tar"):
            assert b"secret-key" not in archive.read_bytes()


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path, {"README": "hello\n", "crlf": "a\r\nb\r\n", "run": "#!/bin/sh\n"})


@pytest.fixture
def lair(tmp_path: Path, rig: GitRig) -> Lair:
    return Lair(tmp_path, rig)


@pytest.fixture
def worker(rig: GitRig) -> GitWorker:
    worker = rig.worker()
    worker.prepare()
    return worker


#: Bytes that each of the settings above might change.
FILES = {"new": b"new\n", "crlf": b"x\r\ny\r\n", "dir/UPPER": b"1", "dir/data": b"\0\r\n$Id$\n"}


def work(worker: GitWorker) -> None:
    """Commit some, stage some, leave some, as an agent does."""
    for name, data in FILES.items():
        path = worker.work / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    worker.git("-c", "core.autocrlf=false", "add", "new")
    worker.git("commit", "-q", "-m", "mine")


def everything(worker: GitWorker) -> dict[str, object]:
    """Take all steps that run git on what an agent left; returns what the delivery said."""
    worker.save()
    (worker.work / "later").write_text("later")
    worker.save(ended=True)
    worker.unpushed()
    done = worker.deliver()
    (worker.work / "dir/data").write_bytes(FILES["dir/data"] + b"more")
    worker.unpushed()
    worker.save(ended=True)
    return done


def delivered(rig: GitRig, ref: str = BRANCH) -> dict[str, bytes]:
    """Return the files of a branch with their bytes."""
    listed = subprocess.run(
        ["git", "ls-tree", "-rz", ref], cwd=rig.path, capture_output=True, check=True
    ).stdout
    found = {}
    for entry in filter(None, listed.split(b"\0")):
        about, _, name = entry.partition(b"\t")
        if about.split()[1] == b"blob":
            argv = ["git", "cat-file", "blob", about.split()[2].decode()]
            blob = subprocess.run(argv, cwd=rig.path, capture_output=True, check=True)
            found[name.decode()] = blob.stdout
    return found


def exact(rig: GitRig, *, rescued: bool = True) -> None:
    """Demand that the delivered files are those of the working tree, byte for byte."""
    there = {"README": b"hello\n", "run": b"#!/bin/sh\n", **FILES, "later": b"later"}
    assert delivered(rig) == there
    if rescued:
        assert delivered(rig, REF) == {**there, "dir/data": FILES["dir/data"] + b"more"}


def write_config(worker: GitWorker, where: str, name: str, value: str) -> None:
    worker.git("config", "-f", str(worker.work / ".git" / where), name, value)


class TestSettings:
    """Each setting, in each file of the agent's repository that git would read it from."""

    @pytest.mark.parametrize("name", [*RUNS, *LEADS])
    def test_in_the_configuration(
        self, rig: GitRig, lair: Lair, worker: GitWorker, name: str
    ) -> None:
        work(worker)
        (worker.work / ".git/info/attributes").write_text("* filter=x diff=x merge=x\n")
        write_config(worker, "config", lair.fill(name), lair.fill({**RUNS, **LEADS}[name]))
        worker.write("later", "later")
        assert worker.deliver()["reason"] == "ok"
        lair.held()
        exact(rig, rescued=False)
        assert rig.git("log", "-1", "--format=%an <%ae>", BRANCH, cwd=rig.path) == "me <me@here>"

    @pytest.mark.parametrize("file", ["config", "config.worktree"])
    @pytest.mark.parametrize("kind", [RUNS, LEADS])
    def test_all_together_at_every_step(
        self, rig: GitRig, lair: Lair, worker: GitWorker, file: str, kind: dict[str, str]
    ) -> None:
        work(worker)
        worker.git("config", "core.repositoryFormatVersion", "1")
        worker.git("config", "extensions.worktreeConfig", "true")
        (worker.work / ".git/info/attributes").write_text("* filter=x diff=x merge=x\n")
        for name, value in kind.items():
            write_config(worker, file, lair.fill(name), lair.fill(value))
        assert everything(worker)["reason"] == "ok"
        lair.held()
        exact(rig)

    @pytest.mark.parametrize("folder", ["git", "work/.git"])
    def test_planted_in_our_own_folder_by_an_agent_that_no_fence_keeps_in(
        self, rig: GitRig, lair: Lair, worker: GitWorker, folder: str
    ) -> None:
        work(worker)
        place = worker.folder / folder
        (place / "info").mkdir(exist_ok=True)
        for name, value in {**RUNS, **LEADS}.items():
            for file in ("config", "config.worktree"):
                rig.git("config", "-f", str(place / file), lair.fill(name), lair.fill(value))
        (place / "info/attributes").write_text("* filter=x\n")
        (place / "info/grafts").write_text("")
        (place / "hooks").mkdir(exist_ok=True)
        (place / "hooks/pre-commit").symlink_to(lair.program)
        alternates = place / "objects/info/alternates"
        alternates.write_text(alternates.read_text() + f"{lair.elsewhere}/objects\n")
        assert everything(worker)["reason"] == "ok"
        lair.held()
        exact(rig)


def index_with(worker: GitWorker, name: bytes) -> None:
    """Let the agent's index name a path that git itself would never write there."""
    path = worker.work / ".git/index"
    blob = bytes.fromhex(worker.git("rev-parse", "HEAD:README"))
    path.write_bytes(_index_with(path.read_bytes(), name, blob))


def _index_with(data: bytes, name: bytes, blob: bytes) -> bytes:
    from hashlib import sha1

    count = int.from_bytes(data[8:12], "big") + 1
    entry = bytes(24) + bytes.fromhex("000081a4") + bytes(12) + blob
    entry += len(name).to_bytes(2, "big") + name
    entry += bytes(8 - len(entry) % 8)
    body = data[:8] + count.to_bytes(4, "big") + entry + data[12:-20]
    return body + sha1(body).digest()


class TestFiles:
    """What else git would follow in the agent's repository or tree."""

    def test_an_index_that_names_a_file_outside(
        self, rig: GitRig, lair: Lair, worker: GitWorker
    ) -> None:
        for issue, name in (
            ("gt-2", os.path.relpath(lair.private / "key", worker.work)),
            ("gt-3", str(lair.private / "key")),
            ("gt-4", f"README/../{os.path.relpath(lair.private / 'key', worker.work)}"),
        ):
            worker = rig.worker(issue)
            worker.prepare()
            index_with(worker, os.fsencode(name))
            worker.write("new", "1")
            worker.save()
            assert worker.deliver()["reason"] == "ok"
            assert rig.files(f"polecat/{issue}") == ["README", "crlf", "new", "run"]
        lair.held()

    @pytest.mark.parametrize("step", ["deliver", "save"])
    def test_the_working_tree_is_a_link(
        self, rig: GitRig, lair: Lair, worker: GitWorker, step: str
    ) -> None:
        worker.write("new", "1")
        worker.work.rename(worker.folder / "old")
        worker.work.symlink_to(lair.private)
        with pytest.raises(WorkerError, match="symbolic link") as caught:
            worker.deliver() if step == "deliver" else worker.save(ended=True)
        assert caught.value.reason == "broken"
        assert caught.value.hint
        assert worker.unpushed()
        lair.held()

    def test_the_repository_is_a_link(self, rig: GitRig, lair: Lair, worker: GitWorker) -> None:
        mine = rig.folder / "mine"
        rig.git("clone", "-q", str(rig.path), str(mine))
        before = (lair.refs(mine), rig.git("rev-parse", "HEAD", cwd=mine))
        index = (mine / ".git/index").read_bytes()
        worker.write("new", "1")
        shutil.rmtree(worker.work / ".git")
        (worker.work / ".git").symlink_to(mine / ".git")
        with pytest.raises(WorkerError, match="symbolic link") as caught:
            worker.save()
        with pytest.raises(WorkerError, match="symbolic link") as caught:
            worker.deliver()
        assert caught.value.reason == "broken"
        assert rig.tip(BRANCH) is None
        assert worker.save(ended=True)["pushed"]
        assert rig.show(REF, "new") == "1"
        assert not worker.unpushed()
        assert (lair.refs(mine), rig.git("rev-parse", "HEAD", cwd=mine)) == before
        assert (mine / ".git/index").read_bytes() == index
        assert (mine / ".git/HEAD").exists()

    @pytest.mark.parametrize(
        "name",
        ["HEAD", "index", "packed-refs", "refs", "refs/heads", "objects", "objects/pack", "logs",
         "shallow", "info", "worktrees", "MERGE_HEAD", "refs/heads/polecat/gt-1"],
    )  # fmt: skip
    @pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
    def test_a_part_of_it_is_something_else(
        self, rig: GitRig, lair: Lair, worker: GitWorker, name: str, kind: str
    ) -> None:
        """The work is delivered or rescued, in a moment, and nothing else is."""
        worker.commit("mine", "1")
        worker.write("new", "1")
        path = worker.work / ".git" / name
        (lair.private / path.name).write_text("ref: refs/heads/main\n")
        if path.is_dir():
            path.rename(path.with_name("moved"))
        elif path.exists():
            path.unlink()
        if kind == "link":
            path.symlink_to(lair.private / path.name)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        worker.save(ended=True)
        worker.deliver()
        assert rig.show(BRANCH, "new") == "1"
        assert not worker.unpushed()
        (lair.private / path.name).unlink()
        lair.held()

    @pytest.mark.parametrize("name", [".gitattributes", ".gitignore", ".gitmodules", "dir/.git"])
    @pytest.mark.parametrize("kind", ["link", "pipe"])
    def test_a_file_of_git_in_the_tree_is_something_else(
        self, rig: GitRig, lair: Lair, worker: GitWorker, name: str, kind: str
    ) -> None:
        path = worker.work / name
        path.parent.mkdir(exist_ok=True)
        worker.write("dir/new", "1")
        worker.write("new", "1")
        if kind == "link":
            path.symlink_to(lair.private / "key")
        else:
            os.mkfifo(path)
        worker.save(ended=True)
        worker.deliver()
        assert rig.show(BRANCH, "new") == "1"
        lair.held()

    def test_objects_that_stand_for_others(
        self, rig: GitRig, lair: Lair, worker: GitWorker
    ) -> None:
        mine = worker.commit("new", "good")
        base = str(worker.space["base_commit"])
        bad = worker.git("commit-tree", "HEAD^{tree}", "-m", "bad")
        worker.git("update-ref", f"refs/replace/{mine}", bad)
        worker.git("update-ref", f"refs/replace/{base}", bad)
        (worker.work / ".git/info/grafts").write_text(f"{mine}\n")
        worker.write("more", "1")
        worker.save()
        worker.deliver()
        assert rig.git("rev-parse", f"{BRANCH}~2", cwd=rig.path) == base
        assert rig.git("for-each-ref", "refs/replace", cwd=rig.path) == ""

    def test_an_object_that_is_not_what_it_is_called(self, rig: GitRig, worker: GitWorker) -> None:
        worker.commit("new", "good")
        blob = worker.git("rev-parse", "HEAD:new")
        worker.write("evil", "evil")
        evil = worker.git("hash-object", "-w", "evil")
        (worker.work / "evil").unlink()
        objects = worker.work / ".git/objects"
        path = objects / blob[:2] / blob[2:]
        path.chmod(0o600)
        path.write_bytes((objects / evil[:2] / evil[2:]).read_bytes())
        worker.write("more", "1")
        worker.save(ended=True)
        done = worker.deliver()
        assert done["reason"] == "ok"
        assert rig.show(BRANCH, "new") == "good"
        assert rig.git("fsck", "--no-dangling", cwd=rig.path) == ""

    @pytest.mark.parametrize("what", ["", "^{tree}", ":old", ":staged"])
    @pytest.mark.parametrize("how", ["missing", "garbage", "another"])
    @pytest.mark.parametrize("left", [True, False])
    def test_objects_that_are_gone_or_broken(
        self, rig: GitRig, worker: GitWorker, what: str, how: str, left: bool
    ) -> None:
        """What can be delivered is, or else the work is rescued."""
        worker.write("old", "good")
        then = (worker.work / "old").stat().st_mtime - 100
        os.utime(worker.work / "old", (then, then))
        worker.git("add", "old")
        worker.git("commit", "-q", "-m", "old")
        worker.write("staged", "staged")
        os.utime(worker.work / "staged", (then, then))
        worker.git("add", "staged")
        name = worker.git("rev-parse", what if what == ":staged" else f"HEAD{what}")
        path = worker.work / ".git/objects" / name[:2] / name[2:]
        path.chmod(0o600)
        if how == "missing":
            path.unlink()
        elif how == "garbage":
            path.write_bytes(path.read_bytes()[:-4] + b"none")
        else:
            worker.write("x", "evil")
            made = worker.git("hash-object", "-w", "--no-filters", "x")
            (worker.work / "x").unlink()
            path.write_bytes((path.parents[1] / made[:2] / made[2:]).read_bytes())
        if left:
            worker.write("new", "1")
        try:
            ref = str(worker.deliver()["branch"])
        except WorkerError:
            assert rig.tip(BRANCH) is None
            assert worker.save(ended=True)["pushed"]
            ref = REF
        expected = ["README", "crlf", "new", "old", "run", "staged"]
        assert rig.files(ref) == [name for name in expected if left or name != "new"]
        assert rig.show(ref, "old") == "good"
        assert rig.show(ref, "staged") == "staged"
        assert rig.git("fsck", "--no-dangling", cwd=rig.path) == ""
        assert not worker.unpushed()

    def test_objects_lent_from_somebodys_repository(
        self, rig: GitRig, lair: Lair, worker: GitWorker
    ) -> None:
        rig.git("init", "-q", str(lair.private))
        rig.git("add", "key", cwd=lair.private)
        rig.git("commit", "-q", "-m", "private", cwd=lair.private)
        theirs = rig.git("rev-parse", "HEAD", cwd=lair.private)
        alternates = worker.work / ".git/objects/info/alternates"
        alternates.write_text(alternates.read_text() + f"{lair.private}/.git/objects\n")
        worker.write("new", "1")
        worker.git("update-ref", "refs/heads/private", theirs)
        with pytest.raises(WorkerError, match="missing object"):
            worker.deliver()
        assert worker.save(ended=True)["pushed"]
        assert rig.show(REF, "new") == "1"
        assert not worker.unpushed()
        shutil.rmtree(lair.private / ".git")
        lair.held()

    def test_no_filter_of_the_agent_for_attributes_in_the_tree(
        self, rig: GitRig, lair: Lair, worker: GitWorker
    ) -> None:
        worker.git("config", "filter.x.clean", str(lair.program))
        worker.write(".gitattributes", "*.x filter=x\n")
        worker.write("a.x", "1")
        worker.write("new", "1")
        done = worker.deliver()
        assert done["reason"] == "filter_missing"
        assert rig.files(BRANCH) == [".gitattributes", "README", "crlf", "new", "run"]
        lair.held()


def traps(worker: GitWorker, lair: Lair, path: Path) -> None:
    """Set every trap in the configuration of another repository of the agent."""
    for name, value in {**RUNS, **LEADS}.items():
        if name not in ("core.bare", "core.worktree", "extensions.partialClone"):
            worker.rig.git("config", "-f", str(path / "config"), lair.fill(name), lair.fill(value))
    (path / "info").mkdir(exist_ok=True)
    (path / "info/attributes").write_text("* filter=x diff=x merge=x\n")
    (path / "hooks").mkdir(exist_ok=True)
    for name in ("pre-commit", "post-index-change"):
        (path / "hooks" / name).unlink(missing_ok=True)
        (path / "hooks" / name).symlink_to(lair.program)


class TestOtherRepositories:
    @pytest.fixture
    def lib(self, rig: GitRig) -> Path:
        lib, seed = rig.folder / "lib.git", rig.folder / "lib-seed"
        rig.git("init", "-q", "--bare", "-b", "main", str(lib))
        rig.git("clone", "-q", str(lib), str(seed))
        (seed / "base").write_text("lib")
        rig.git("add", "-A", cwd=seed)
        rig.git("commit", "-q", "-m", "lib", cwd=seed)
        rig.git("push", "-q", "origin", "HEAD:main", cwd=seed)
        rig.git("submodule", "--quiet", "add", str(lib), "lib")
        rig.commit({})
        return lib

    def test_a_submodule(self, rig: GitRig, lib: Path, lair: Lair) -> None:
        worker = rig.worker()
        worker.prepare()
        worker.git("submodule", "--quiet", "update", "--init")
        worker.write("lib/f", "committed")
        worker.git("-C", "lib", "add", "-A")
        worker.git("-C", "lib", "commit", "-q", "-m", "f")
        worker.write("lib/g", "left")
        worker.write("new", "1")
        traps(worker, lair, worker.work / ".git/modules/lib")
        traps(worker, lair, worker.work / ".git")
        worker.save()
        worker.save(ended=True)
        done = worker.deliver()
        assert (done["reason"], done["checkpoint"]) == ("ok", None)
        assert not worker.unpushed()
        lair.held()
        linked = rig.git("rev-parse", f"{BRANCH}:lib", cwd=rig.path)
        assert rig.git("show", f"{linked}:g", cwd=lib) == "left"
        assert rig.git("show", f"{linked}:f", cwd=lib) == "committed"

    def test_one_in_the_tree(self, rig: GitRig, lair: Lair, worker: GitWorker) -> None:
        worker.git("init", "-q", "inner")
        worker.write("inner/f", "committed")
        worker.git("-C", "inner", "add", "-A")
        worker.git("-C", "inner", "commit", "-q", "-m", "f")
        worker.write("inner/g", "left")
        traps(worker, lair, worker.work / "inner/.git")
        worker.save()
        worker.save(ended=True)
        assert worker.deliver()["reason"] == "ok"
        assert {"inner/f", "inner/g"} <= set(rig.files(BRANCH))
        assert not worker.unpushed()
        lair.held()

    @pytest.mark.parametrize("name", ["../../private/key", "link/key"])
    def test_one_in_the_tree_whose_index_leads_out(
        self, rig: GitRig, lair: Lair, worker: GitWorker, name: str
    ) -> None:
        worker.git("init", "-q", "inner")
        worker.write("inner/f", "1")
        worker.git("-C", "inner", "add", "f")
        (worker.work / "inner/link").symlink_to(lair.private)
        if name.startswith(".."):
            name = os.path.relpath(lair.private / "key", worker.work / "inner")
        path = worker.work / "inner/.git/index"
        path.write_bytes(
            _index_with(path.read_bytes(), os.fsencode(name), path.read_bytes()[52:72])
        )
        worker.save()
        worker.save(ended=True)
        worker.deliver()
        assert "inner/f" in rig.files(BRANCH)
        assert not worker.unpushed()
        lair.held()

    @pytest.mark.parametrize("where", ["side", "../beside"])
    def test_a_linked_working_tree(
        self, rig: GitRig, lair: Lair, worker: GitWorker, where: str
    ) -> None:
        worker.git("worktree", "add", "-q", where, "-b", "side")
        worker.write(f"{where}/f", "work")
        own = worker.work / ".git/worktrees" / Path(where).name
        traps(worker, lair, own)
        (own / "config").rename(own / "config.worktree")
        traps(worker, lair, worker.work / ".git")
        worker.save()
        worker.save(ended=True)
        worker.deliver()
        assert not worker.unpushed()
        assert rig.show(f"{REF}^2", "f") == "work"
        lair.held()

    def test_a_linked_working_tree_that_is_somebodys_folder(
        self, rig: GitRig, lair: Lair, worker: GitWorker
    ) -> None:
        worker.git("worktree", "add", "-q", "side")
        own = worker.work / ".git/worktrees/side"
        for place in (lair.private, worker.work / "link"):
            (own / "gitdir").write_text(f"{place}/.git\n")
            if place != lair.private:
                place.symlink_to(lair.private)
            worker.save()
            worker.save(ended=True)
            worker.deliver()
        lair.held()

    @pytest.mark.parametrize("kind", ["file", "link"])
    def test_a_submodule_that_is_somebodys_repository(
        self, rig: GitRig, lib: Path, lair: Lair, kind: str
    ) -> None:
        worker = rig.worker()
        worker.prepare()
        mine = rig.folder / "lib-seed"
        traps(worker, lair, mine / ".git")
        before = lair.refs(mine)
        if kind == "file":
            (worker.work / "lib/.git").write_text(f"gitdir: {mine}/.git\n")
        else:
            (worker.work / "lib/.git").symlink_to(mine / ".git")
        worker.write("lib/f", "work")
        worker.save()
        with pytest.raises(WorkerError) as caught:
            worker.deliver()
        assert caught.value.reason == "submodule_unpushed"
        assert "which is not the worker's" in caught.value.message
        assert lair.refs(mine) == before
        lair.held()

    def test_the_folder_of_a_submodule_is_a_link(self, rig: GitRig, lib: Path, lair: Lair) -> None:
        worker = rig.worker()
        worker.prepare()
        (worker.work / "lib").rmdir()
        (worker.work / "lib").symlink_to(lair.private)
        (worker.work / ".git/modules").symlink_to(lair.private.parent)
        worker.write("new", "1")
        worker.save()
        worker.save(ended=True)
        worker.deliver()
        assert rig.git("ls-tree", BRANCH, "lib", cwd=rig.path).startswith("120000")
        lair.held()


SCRIPT = """
import json, sys
from outpost_shared import faults
from outpost_worker.work import checkpoint, deliver
point, call, order, folder, space = json.loads(sys.stdin.read())
faults.arm(point)
if call == "deliver":
    deliver.deliver(order, folder, space, lambda _: None)
else:
    checkpoint.save(order, folder, space, ended=call == "ended")
"""


@pytest.mark.parametrize("point", ["worker.git_taking", "worker.git_taken"])
@pytest.mark.parametrize("call", ["save", "ended", "deliver"])
def test_killed_while_it_takes_over(rig: GitRig, worker: GitWorker, point: str, call: str) -> None:
    import json

    worker.commit("one", "1")
    worker.save()
    worker.git("branch", "-m", "renamed")
    worker.git("checkout", "-q", "-b", "other/deep")
    tip = worker.commit("two", "1")
    worker.git("checkout", "-q", "-B", BRANCH)
    worker.git("branch", "-D", "other/deep", "renamed")
    worker.git("branch", "other")
    worker.write("three", "1")
    worker.git("add", "three")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([point, call, worker.order, str(worker.folder), worker.space]),
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    if call != "deliver":
        assert worker.save(ended=call == "ended")["pushed"]
        assert rig.show(REF, "three") == "1"
    assert worker.deliver()["reason"] == "ok"
    assert rig.files(BRANCH) == ["README", "crlf", "one", "run", "three", "two"]
    assert rig.git("rev-parse", f"{BRANCH}~1", cwd=rig.path) == tip
    assert worker.own("for-each-ref", "--format=%(refname)", "refs/heads").split() == [
        "refs/heads/other", f"refs/heads/{BRANCH}"]  # fmt: skip
    assert not worker.unpushed()


def test_a_worker_of_a_version_without_our_own_folder(rig: GitRig, worker: GitWorker) -> None:
    mine = worker.commit("mine", "1")
    shutil.rmtree(worker.folder / "git")
    worker.write("new", "1")
    assert worker.save()["pushed"]
    assert worker.deliver()["reason"] == "ok"
    assert rig.git("rev-parse", f"{BRANCH}~1", cwd=rig.path) == mine


def test_the_agents_repository_is_left_as_it_is(rig: GitRig, worker: GitWorker) -> None:
    worker.commit("mine", "1")
    worker.write("new", "1")

    def state() -> dict[str, bytes]:
        top = worker.work / ".git"
        return {str(p): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}

    before = state()
    worker.save()
    worker.deliver()
    assert state() == before
    worker.commit("later", "1")  # whoever continues there is not forgotten either
    assert worker.unpushed()
    worker.save(ended=True)
    assert "later" in rig.files(REF)
