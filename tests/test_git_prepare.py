from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import farcode
import pytest

from outpost_core.errors import WorkerError
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.repository import fetching, git, mirror, remotestate
from outpost_worker.work.workspace import rebuild, repository


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "RETRY_DELAYS", (0.01,))


def mirror_of(rig: GitRig, url: str = "") -> Path:
    return Path(mirror.mirror_path(str(rig.root), url or str(rig.path)))


def fails(worker: GitWorker) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        worker.prepare()
    return caught.value


@pytest.mark.parametrize("form", ["{path}", "file://{path}", "{path}/"])
def test_a_tree_on_its_branch(rig: GitRig, form: str) -> None:
    worker = rig.worker(rig=form.format(path=rig.path))
    space = worker.prepare()
    assert (worker.work / "README").read_text() == "hello\n"
    assert worker.git("branch", "--show-current") == "polecat/gt-1"
    assert worker.git("status", "--porcelain") == ""
    assert worker.git("rev-parse", "HEAD", "origin/main").split() == [rig.tip("main")] * 2
    assert worker.git("rev-parse", "--abbrev-ref", "origin/HEAD") == "origin/main"
    assert worker.git("fsck", "--strict", "--no-dangling") == ""
    assert space == {
        "branch": "polecat/gt-1",
        "base_commit": rig.tip("main"),
        "base_branch": "main",
        "start_commit": rig.tip("main"),
        "remote_tip": None,
        "rig": worker.order["rig"],
        "beads": "",
    }


def test_a_working_repository_as_rig(rig: GitRig) -> None:
    worker = rig.worker(rig=str(rig.seed))
    worker.prepare()
    worker.write("new", "1")
    assert worker.deliver()["reason"] == "ok"
    assert rig.git("show", "polecat/gt-1:new") == "1"


def test_everything_is_private(rig: GitRig) -> None:
    worker = rig.worker()
    worker.prepare()
    for path in (rig.root / "rigs", mirror_of(rig)):
        assert path.stat().st_mode & 0o077 == 0
    assert (worker.work / ".git/config").stat().st_mode & 0o077 == 0


def test_a_later_worker_sees_what_came_since(rig: GitRig) -> None:
    rig.worker("gt-1").prepare()
    later = rig.commit({"later": "1"})
    worker = rig.worker("gt-2")
    assert worker.prepare()["base_commit"] == later
    assert (worker.work / "later").exists()


def test_nothing_is_fetched_when_the_base_is_there(rig: GitRig) -> None:
    rig.worker("gt-1").prepare()
    rig.commit({"x": "1"}, "elsewhere")
    worker = rig.worker("gt-2")
    worker.prepare()
    assert "fetching the rig" not in worker.reports
    # What is not there is not shown, rather than shown stale.
    shown = worker.git("for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes")
    assert shown.split() == ["HEAD", "main"]
    worker.git("fetch", "-q")
    assert worker.git("rev-parse", "origin/elsewhere") == rig.tip("elsewhere")


def test_a_forced_and_a_deleted_branch_are_followed(rig: GitRig) -> None:
    rig.commit({"x": "1"}, "a")
    rig.worker("gt-1", base="a").prepare()
    rig.git("push", "-q", "origin", ":a", "main:refs/heads/a/b")
    rig.git("checkout", "-q", "main")
    rig.git("branch", "-D", "a")
    moved = rig.commit({"y": "1"}, "a/b")
    assert rig.worker("gt-2", base="a/b").prepare()["base_commit"] == moved
    assert fails(rig.worker("gt-3", base="a")).reason == "base_not_found"


def test_the_default_branch_may_change(rig: GitRig) -> None:
    rig.worker("gt-1").prepare()
    tip = rig.commit({"x": "1"}, "trunk")
    rig.git("symbolic-ref", "HEAD", "refs/heads/trunk", cwd=rig.path)
    space = rig.worker("gt-2").prepare()
    assert (space["base_commit"], space["base_branch"]) == (tip, "trunk")


class TestBase:
    def test_branch(self, rig: GitRig) -> None:
        tip = rig.commit({"x": "1"}, "dev/one")
        space = rig.worker(base="dev/one").prepare()
        assert (space["base_commit"], space["base_branch"]) == (tip, "dev/one")

    @pytest.mark.parametrize("how", [["v1"], ["-a", "-m", "text", "v1"]])
    def test_tag(self, rig: GitRig, how: list[str]) -> None:
        first = rig.tip("main")
        rig.git("tag", *how)
        rig.git("push", "-q", "origin", "v1")
        rig.commit({"x": "1"})
        worker = rig.worker(base="v1")
        space = worker.prepare()
        assert (space["base_commit"], space["base_branch"]) == (first, "main")
        assert worker.git("rev-parse", "v1^{commit}") == first
        assert worker.git("status", "--porcelain") == ""

    @pytest.mark.parametrize("length", [40, 8])
    def test_commit(self, rig: GitRig, length: int) -> None:
        first = rig.tip("main")
        assert first
        rig.commit({"x": "1"})
        assert rig.worker(base=first[:length]).prepare()["base_commit"] == first

    def test_commit_on_no_branch(self, rig: GitRig) -> None:
        loose = rig.commit({"x": "1"}, "gone")
        rig.git("push", "-q", "origin", ":gone")
        rig.git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=rig.path)
        assert rig.worker(base=loose).prepare()["base_commit"] == loose

    @pytest.mark.parametrize(
        "base", ["nope", "deadbeef", "0" * 40, "-x", "main~1", "@{-1}", "a..b", "refs/x", ""]
    )
    def test_missing(self, rig: GitRig, base: str) -> None:
        error = fails(rig.worker(base=base))
        assert error.reason == "base_not_found"
        assert "main" in error.hint

    def test_default_branch_unborn(self, rig: GitRig) -> None:
        rig.git("symbolic-ref", "HEAD", "refs/heads/unborn", cwd=rig.path)
        assert fails(rig.worker()).reason == "base_not_found"

    def test_rig_with_a_detached_head(self, rig: GitRig) -> None:
        first = rig.tip("main")
        rig.commit({"x": "1"})
        rig.git("checkout", "-q", "--detach", str(first))
        assert rig.worker(rig=str(rig.seed)).prepare()["base_commit"] == first
        shallow = rig.worker("gt-2", rig=f"file://{rig.seed}", depth=1)
        assert shallow.prepare()["base_commit"] == first

    @pytest.mark.parametrize("depth", [None, 1])
    def test_a_ref_that_is_no_branch(self, rig: GitRig, depth: int | None) -> None:
        tip = rig.commit({"x": "1"}, "side")
        rig.git("push", "-q", "origin", "side:refs/pull/7/head", ":side")
        worker = rig.worker(base="refs/pull/7/head", rig=f"file://{rig.path}", depth=depth)
        space = worker.prepare()
        assert (space["base_commit"], space["base_branch"]) == (tip, "main")

    @pytest.mark.parametrize("depth", [None, 1])
    def test_a_head_on_no_branch(self, rig: GitRig, depth: int | None) -> None:
        rig.git("checkout", "-q", "--detach")
        rig.git("commit", "-q", "--allow-empty", "-m", "loose")
        loose = rig.git("rev-parse", "HEAD")
        worker = rig.worker(rig=f"file://{rig.seed}", depth=depth)
        assert worker.prepare()["base_commit"] == loose


class TestEmptyRig:
    def test_work_begins_its_history(self, tmp_path: Path) -> None:
        rig = GitRig(tmp_path, files={})
        worker = rig.worker()
        space = worker.prepare()
        assert space["base_commit"] is None
        assert worker.git("branch", "--show-current") == "polecat/gt-1"
        worker.write("first", "1")
        done = worker.deliver()
        assert done["reason"] == "ok"
        assert rig.files("polecat/gt-1") == ["first"]
        assert not worker.unpushed()

    def test_a_checkpoint_without_a_base(self, tmp_path: Path) -> None:
        rig = GitRig(tmp_path, files={})
        worker = rig.worker()
        worker.prepare()
        assert worker.save()["nothing"]
        worker.write("first", "1")
        assert worker.save()["pushed"]
        assert rig.show("refs/outpost/gt-1.1", "first") == "1"

    def test_nothing_done(self, tmp_path: Path) -> None:
        worker = GitRig(tmp_path, files={}).worker()
        worker.prepare()
        assert worker.deliver()["reason"] == "nothing_to_commit"

    def test_a_base_is_not_there(self, tmp_path: Path) -> None:
        error = fails(GitRig(tmp_path, files={}).worker(base="main"))
        assert error.reason == "base_not_found"
        assert "empty" in error.hint


class TestDepth:
    @pytest.fixture
    def long(self, rig: GitRig) -> GitRig:
        for number in range(5):
            rig.commit({"file": str(number)})
        return rig

    def test_shallow(self, long: GitRig) -> None:
        long.commit({"big": "1"}, "other")
        worker = long.worker(rig=f"file://{long.path}", depth=2)
        worker.prepare()
        assert worker.git("rev-list", "--count", "HEAD") == "2"
        assert worker.git("fsck", "--no-dangling") == ""
        worker.write("new", "1")
        assert worker.deliver()["reason"] == "ok"
        assert long.git("rev-list", "--count", "polecat/gt-1", cwd=long.path) == "7"
        worker.write("newer", "1")
        assert worker.save()["pushed"]

    def test_shallow_again_later(self, long: GitRig) -> None:
        url = f"file://{long.path}"
        first = long.worker("gt-1", rig=url, depth=1)
        first.prepare()
        tip = long.commit({"file": "later"})
        other = long.commit({"x": "1"}, "other")
        assert long.worker("gt-2", rig=url, depth=1).prepare()["base_commit"] == tip
        assert long.worker("gt-3", rig=url, depth=1, base="other").prepare()["base_commit"] == other
        assert first.git("fsck", "--no-dangling") == ""
        first.write("new", "1")
        assert first.deliver()["reason"] == "ok"

    def test_all_history_when_somebody_asks_for_it(self, long: GitRig) -> None:
        url = f"file://{long.path}"
        first = long.worker("gt-1", rig=url, depth=1)
        first.prepare()
        whole = long.worker("gt-2", rig=url)
        whole.prepare()
        assert whole.git("rev-list", "--count", "HEAD") == "6"
        third = long.worker("gt-3", rig=url, depth=1)
        third.prepare()
        assert third.git("rev-list", "--count", "HEAD") == "6"
        assert first.git("rev-list", "--count", "HEAD") == "1"
        assert first.git("fsck", "--no-dangling") == ""

    def test_tag_and_commit(self, long: GitRig) -> None:
        url = f"file://{long.path}"
        long.git("tag", "-a", "-m", "x", "v1", "HEAD~1")
        long.git("push", "-q", "origin", "v1")
        tagged = long.git("rev-parse", "HEAD~1")
        assert long.worker("gt-1", rig=url, depth=1, base="v1").prepare()["base_commit"] == tagged
        deep = long.git("rev-parse", "HEAD~3")
        worker = long.worker("gt-2", rig=url, depth=1, base=deep)
        assert worker.prepare()["base_commit"] == deep
        assert worker.git("rev-list", "--count", "HEAD") == "1"


PREPARE = """
import json, sys
from outpost_worker.work import workspace
order, root, folder = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.stdin.readline()
tell = lambda text: print(text, file=sys.stderr)
print(json.dumps(workspace.prepare(order, root, folder, tell)))
"""


def start(worker: GitWorker, **env: str) -> subprocess.Popen[str]:
    import json

    argv = [sys.executable, "-c", PREPARE, json.dumps(worker.order)]
    return subprocess.Popen(
        [*argv, str(worker.rig.root), str(worker.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": farcode.PYTHONPATH, **env},
    )


def test_twenty_at_once_fetch_once(rig: GitRig) -> None:
    workers = [rig.worker(f"gt-{number}") for number in range(20)]
    running = [start(worker) for worker in workers]
    for process in running:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 20, ends
    said = "".join(err for _, err in ends)
    assert said.count("fetching the rig") == 1
    assert said.count("asking the rig") < 20
    for worker in workers:
        assert worker.git("rev-parse", "HEAD") == rig.tip("main")
        assert worker.git("status", "--porcelain") == ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_holder_of_the_lock(rig: GitRig, tmp_path: Path) -> None:
    # A fetch that hangs: the rig's upload-pack is reached through a script that sleeps.
    slow = tmp_path / "slow"
    slow.mkdir()
    mark = tmp_path / "hanging"
    real = subprocess.run(["git", "--exec-path"], capture_output=True, text=True).stdout.strip()
    script = slow / "git-upload-pack"
    script.write_text(
        f"#!/bin/sh\nif [ -e {tmp_path}/asked ]; then echo $$ > {mark}; sleep 600; fi\n"
        f'touch {tmp_path}/asked\nexec {real}/git-upload-pack "$@"\n'
    )
    script.chmod(0o755)
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nshift\nPATH={slow}:$PATH\neval "exec $*"\n')
    ssh.chmod(0o755)
    url = f"host:{rig.path}"
    first = start(rig.worker("gt-1", rig=url), GIT_SSH=str(ssh), GIT_SSH_VARIANT="simple")
    assert first.stdin
    first.stdin.write("go\n")
    first.stdin.flush()
    deadline = time.monotonic() + 30
    while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    hanging = int(mark.read_text())
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    assert alive(hanging)
    path = mirror_of(rig, url)
    (path / "packed-refs.lock").touch()
    (path / "refs/heads").mkdir(exist_ok=True)
    (path / "refs/heads/main.lock").touch()
    script.unlink()

    second = rig.worker("gt-2", rig=url)
    process = start(second, GIT_SSH=str(ssh), GIT_SSH_VARIANT="simple")
    _, err = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, err
    assert second.git("rev-parse", "HEAD") == rig.tip("main")
    deadline = time.monotonic() + 30
    while alive(hanging) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(hanging)


def test_hooks_and_filters_of_the_user_do_not_run(
    rig: GitRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    ran = tmp_path / "ran"
    names = ["post-checkout", "pre-commit", "commit-msg", "post-commit"]
    for name in [*names, "prepare-commit-msg", "pre-push", "post-index-change", "pre-auto-gc"]:
        (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {ran}\nexit 1\n")
        (hooks / name).chmod(0o755)
    template = tmp_path / "template"
    (template / "hooks").mkdir(parents=True)
    (template / "hooks/pre-commit").write_text(f"#!/bin/sh\necho template >> {ran}\nexit 1\n")
    (template / "hooks/pre-commit").chmod(0o755)
    config = tmp_path / "gitconfig"
    config.write_text(
        f"[core]\n\thooksPath = {hooks}\n\tfsmonitor = touch {ran}\n"
        f"[init]\n\ttemplateDir = {template}\n[commit]\n\tgpgSign = true\n"
        "[push]\n\tgpgSign = true\n[core]\n\tsafecrlf = true\n\tautocrlf = input\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    worker = rig.worker()
    worker.prepare()
    worker.write("new", "a\r\n")
    assert worker.save()["pushed"]
    assert worker.deliver()["reason"] == "ok"
    assert not ran.exists()


def test_the_callers_git_variables_do_not_lead_astray(
    rig: GitRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    worker = rig.worker()
    worker.prepare()
    worker.write("new", "1")
    worker.deliver()
    monkeypatch.undo()
    assert rig.show("polecat/gt-1", "new") == "1"


def test_no_repository_around_is_taken_for_the_workers(tmp_path: Path) -> None:
    GitRig(tmp_path)
    town = tmp_path / "seed" / "state"
    town.mkdir()
    rig = GitRig(town)
    worker = rig.worker()
    worker.prepare()
    worker.write("new", "1")
    worker.deliver()
    assert rig.show("polecat/gt-1", "new") == "1"


@pytest.mark.parametrize("rig_url", ["/nowhere/x.git", "file:///nowhere/x.git"])
def test_no_repository_there(rig: GitRig, rig_url: str) -> None:
    error = fails(rig.worker(rig=rig_url))
    assert error.reason == "workspace_failed"
    assert "does not" in error.message


def test_a_hostile_order_is_refused(rig: GitRig, tmp_path: Path) -> None:
    evil = fails(rig.worker("gt-1", rig=f"ext::sh -c 'touch {tmp_path}/evil'"))
    assert evil.reason == "workspace_failed"
    assert fails(rig.worker("gt-2", branch="--force")).reason == "workspace_failed"
    assert not (tmp_path / "evil").exists()


def test_prepare_never_overwrites(rig: GitRig) -> None:
    worker = rig.worker()
    worker.prepare()
    worker.write("work", "1")
    assert fails(worker).reason == "workspace_failed"
    assert (worker.work / "work").read_text() == "1"


def test_sha256(tmp_path: Path) -> None:
    rig = GitRig(tmp_path, files={})
    rig.git("init", "-q", "--bare", "-b", "main", "--object-format=sha256", "big", cwd=tmp_path)
    rig.git("init", "-q", "--object-format=sha256", "clone", cwd=tmp_path)
    rig.git("remote", "add", "origin", str(tmp_path / "big"), cwd=tmp_path / "clone")
    (tmp_path / "clone/a").write_text("1")
    for command in (["add", "a"], ["commit", "-qm", "a"], ["push", "-q", "origin", "HEAD:main"]):
        rig.git(*command, cwd=tmp_path / "clone")
    worker = rig.worker(rig=str(tmp_path / "big"))
    assert len(worker.prepare()["base_commit"]) == 64
    worker.write("new", "1")
    assert len(worker.deliver()["commit"]) == 64


def test_submodules_and_odd_names(rig: GitRig) -> None:
    rig.git("submodule", "--quiet", "add", str(rig.path), "lib")
    rig.commit({"with space/ü\n'\"": "x", "-dash": "y"})
    worker = rig.worker()
    worker.prepare()
    worker.write(":(top)x", "z")
    assert worker.deliver()["reason"] == "ok"
    assert rig.git("ls-tree", "polecat/gt-1", "lib", cwd=rig.path).startswith("160000")
    assert rig.git("show", "polecat/gt-1::(top)x", cwd=rig.path) == "z"


def test_many_fetches_do_not_leave_many_packs(rig: GitRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MANY_PACKS", 3)
    first = rig.worker("gt-1")
    first.prepare()
    orphan = rig.commit({"orphan": "1"}, "side")
    rig.worker("gt-2", base="side").prepare()
    rig.git("push", "-q", "origin", ":side")
    for number in range(6):
        rig.commit({"file": str(number)})
        rig.worker(f"gt-a{number}").prepare()
    packs = list((mirror_of(rig) / "objects/pack").glob("*.pack"))
    assert len(packs) <= 4
    # What a worker may still borrow is not lost, though no ref needs it any more.
    assert rig.git("cat-file", "-t", orphan, cwd=mirror_of(rig)) == "commit"
    assert first.git("fsck", "--no-dangling") == ""


class TestPassword:
    URL = "http://me:hunter22secret@127.0.0.1:1/a/rig.git"

    def test_shows_nowhere(self, rig: GitRig, monkeypatch: pytest.MonkeyPatch) -> None:
        argvs: list[str] = []
        run = git.run

        def watched(argv: list[str], env: object, **more: object) -> git.Done:
            argvs.append(" ".join(argv) + str(env))
            return run(argv, env, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(git, "run", watched)
        worker = rig.worker(rig=self.URL)
        error = fails(worker)
        assert error.reason == "workspace_failed"
        said = str(error) + "".join(worker.reports) + "".join(argvs)
        said += "".join(str(path) for path in rig.root.rglob("*"))
        assert argvs
        assert "hunter22secret" not in said
        for path in (rig.root / "rigs").rglob("*"):
            assert not path.is_file() or "hunter22secret" not in path.read_text(errors="replace")
        stored = worker.folder / "git-credentials"
        assert stored.read_text() == "http://me:hunter22secret@127.0.0.1:1\n"
        assert stored.stat().st_mode & 0o077 == 0

    def test_is_given_by_gits_own_means(self, rig: GitRig) -> None:
        worker = rig.worker(rig=self.URL)
        fails(worker)
        asked = rig.folder / "asked"
        asked.write_text("protocol=http\nhost=127.0.0.1:1\n\n")
        worker.work.mkdir()
        rebuild(
            worker.order, str(worker.folder), remotestate.RemoteState(str(mirror_of(rig, self.URL)))
        )
        filled = repository(worker.order, str(worker.folder)).run(
            "credential", "fill", stdin=str(asked)
        )
        assert "password=hunter22secret" in filled.text
        # The agent may push too, as in a clone of that URL.
        agents = git.Git(str(worker.work / ".git"), str(worker.work))
        assert "password=hunter22secret" in agents.run("credential", "fill", stdin=str(asked)).text
        config = (worker.work / ".git/config").read_text()
        assert "hunter22" not in config
        assert '[credential "http://127.0.0.1:1"]' in config


def test_run_ends_a_command_that_hangs() -> None:
    done = git.run(["sh", "-c", "echo out; sleep 600"], os.environ, timeout=0.2)
    assert (done.code, done.text) == (-9, "out")
    assert "no end within" in done.err


def test_run_does_not_wait_for_what_stays_behind() -> None:
    done = git.run(["sh", "-c", "sleep 600 & echo $!"], os.environ, timeout=60)
    os.kill(int(done.text), signal.SIGKILL)
    assert done.code == 0


def test_run_without_the_program() -> None:
    assert git.run(["/nowhere/git"], os.environ).code == 127


def test_without_git_nothing_is_tried_again(rig: GitRig, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = rig.worker()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(WorkerError, match="git is not installed") as caught:
        worker.prepare()
    assert caught.value.hint == "install git on the outpost"
    assert not any("trying again" in text for text in worker.reports)
