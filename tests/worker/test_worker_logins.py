"""What git logs in with at a machine without a login: used by ours, and seen by no agent."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import githttp, sshd
from recordkit import ON_RIG, OWNER, RecordChecks, claim, race_for_all

from outpost_core.errors import UsageError, WorkerError
from outpost_core.types import Delivery, Issue, Order, State
from outpost_testing.gitrig import GitRig
from outpost_worker.folder import publish
from outpost_worker.record import standing
from outpost_worker.record.kinds import Record, RecordRefusedError
from outpost_worker.record.places import on_rig
from outpost_worker.repository import credentials, git, mirror
from outpost_worker.repository.git import Git
from outpost_worker.work import lfs

TOKEN = "ghs_aVeryLongTokenThatMustNotBeSeen0123456789"
_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nabcd\n-----END OPENSSH PRIVATE KEY-----"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the user who runs this, and no waiting."""
    (tmp_path / "gitconfig").write_text("")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setattr(git, "RETRY_DELAYS", ())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[githttp.GitHttp]:
    with githttp.serving(tmp_path / "served", "x-access-token", TOKEN) as made:
        yield made


@pytest.fixture
def rig(tmp_path: Path, server: githttp.GitHttp) -> GitRig:
    """A rig that a worker reaches by the server alone."""
    made = GitRig(tmp_path, {"README": "hello\n"})
    path = server.repository("rig.git")
    made.git("push", "-q", "--mirror", str(path), cwd=made.path)
    (path / "HEAD").write_text("ref: refs/heads/main\n")
    made.path = path
    return made


def root_of(rig: GitRig) -> Path:
    rig.root.mkdir(exist_ok=True)
    return rig.root


# --- what a login is -----------------------------------------------------------------------------

_HTTPS = ["https://github.com/a/b"]


@pytest.mark.parametrize(
    ("text", "rigs", "user", "password", "hosts"),
    [
        (f"{TOKEN}\n", _HTTPS, "x-access-token", TOKEN, ["https://github.com"]),
        (TOKEN, ["https://bitbucket.org/a/b"], "x-token-auth", TOKEN, ["https://bitbucket.org"]),
        (TOKEN, ["https://me@Git.Example:8443/a"], "x-access-token", TOKEN, ["https://git.example:8443"]),
        (TOKEN, [*_HTTPS, "https://gitlab.com/f"], "x-access-token", TOKEN, ["https://github.com", "https://gitlab.com"]),
        ("username=me\npassword=p=w\n", _HTTPS, "me", "p=w", ["https://github.com"]),
        ("protocol=https\nhost=h:1\nusername=me\npassword=pw", _HTTPS, "me", "pw", ["https://h:1"]),
        ("https://me:p%40w@h/x", _HTTPS, "me", "p@w", ["https://h"]),
    ],
)  # fmt: skip
def test_a_token_is_for_the_hosts_of_the_rig(
    text: str, rigs: list[str], user: str, password: str, hosts: list[str]
) -> None:
    login = credentials.understood(text, rigs)
    assert (login.user, login.password, login.hosts) == (user, password, hosts)
    assert password not in repr(login)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "a b",
        "a\nb",
        "a\0b",
        "tökén",
        "\x1b[31m",
        "x" * 70_000,
        "username=me",
        "https://h/x",
    ],
)
def test_what_is_no_login_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        credentials.understood(text, _HTTPS)
    assert not text.strip() or text not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [_KEY[:-3], f"x\n{_KEY}", f"{_KEY}\n{_KEY}", f"{_KEY}\nhost", _KEY.replace("abcd", "\x1b")],
)
def test_half_a_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="git cannot log in"):
        credentials.understood(text, ["git@github.com:a/b"])


def test_a_login_of_the_wrong_kind_is_told_before_anything_is_tried() -> None:
    with pytest.raises(UsageError, match="the rig is reached by https"):
        credentials.understood(_KEY, _HTTPS)
    with pytest.raises(UsageError, match="the rig is reached by ssh"):
        credentials.understood(TOKEN, ["git@github.com:a/b"])


def test_the_keys_of_hosts_are_those_that_they_publish(tmp_path: Path) -> None:
    (tmp_path / "known").write_text(credentials.PUBLISHED)
    told = subprocess.run(
        ["ssh-keygen", "-lf", str(tmp_path / "known")], check=True, capture_output=True, text=True
    )
    assert [line.split()[1:3] for line in told.stdout.splitlines()] == [
        ["SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU", "github.com"],
        ["SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM", "github.com"],
        ["SHA256:eUXGGm1YGsMAS7vkcx6JOJdOGHPem5gQp4taiCfCLB8", "gitlab.com"],
        ["SHA256:HbW3g8zUjNSksFbqTiUWPWg2Bq1x8xdGUrliXFzSnUw", "gitlab.com"],
        ["SHA256:ybgmFkzwOSotHTHLJgHO0QN8L0xErw6vd0VhFA9m3SM", "bitbucket.org"],
        ["SHA256:FC73VB6C4OQLSCrjEayhMp9UMxS97caD/Yyi2bhW/J0", "bitbucket.org"],
    ]


# --- by HTTP -------------------------------------------------------------------------------------


def test_a_worker_clones_saves_and_delivers_with_a_token(
    rig: GitRig, server: githttp.GitHttp
) -> None:
    url = f"{server.url}/rig.git"
    path = credentials.store(str(root_of(rig)), "gt-1.1", TOKEN, [url])
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    record = on_rig(url, str(rig.root), OWNER, path)
    mine = record.claim(claim())
    worker = rig.worker(rig=url, owner=OWNER, record=standing.launched(mine))
    worker.prepare()
    worker.write("a", "1")
    assert worker.save()["pushed"]
    assert worker.deliver()["commit"] == rig.tip("polecat/gt-1")
    found = record.read("gt-1.1")
    assert found is not None
    assert found.delivered is not None  # with the branch, in one transaction
    about = (worker.work / ".git" / "config").read_text()
    assert "credential" not in about
    for name in worker.folder.rglob("*"):
        if name.is_file():
            assert TOKEN.encode() not in name.read_bytes(), name
    credentials.remove(str(rig.root), "gt-1.1")
    assert not (rig.root / "logins" / "gt-1.1").exists()


def test_without_or_with_an_expired_token_the_hint_says_where_to_look(
    rig: GitRig, server: githttp.GitHttp
) -> None:
    url = f"{server.url}/rig.git"
    worker = rig.worker(rig=url)
    with pytest.raises(WorkerError, match="could not read Username"):
        worker.prepare()
    path = credentials.store(str(rig.root), "gt-1.1", "expired", [url])
    for _ in range(2):  # it is not forgotten since it was turned down
        with pytest.raises(WorkerError, match="Authentication failed") as caught:
            worker.prepare()
        assert "git_credentials" in caught.value.hint
        assert "expired" not in caught.value.message
    with pytest.raises(RecordRefusedError, match="Authentication failed") as refused:
        on_rig(url, str(rig.root), OWNER, path).claim(claim())
    assert "git_credentials" in refused.value.hint
    credentials.store(str(rig.root), "gt-1.1", TOKEN, [url])  # a fresh one is used at once
    worker.prepare()


def test_a_token_goes_to_no_other_host(
    tmp_path: Path, rig: GitRig, server: githttp.GitHttp
) -> None:
    url = f"{server.url}/rig.git"
    path = credentials.store(str(root_of(rig)), "gt-1.1", TOKEN, [url])
    with githttp.serving(tmp_path / "other", "x-access-token", TOKEN) as other:
        other.repository("rig.git")
        elsewhere = Git("/dev/null", credentials=path, rig=f"{other.url}/rig.git")
        assert elsewhere.run("ls-remote", "--", elsewhere.url).code
        server.redirects["/moved.git"] = f"{other.url}/rig.git"
        moved = Git("/dev/null", credentials=path, rig=f"{server.url}/moved.git")
        assert moved.run("ls-remote", "--", moved.url).code
        assert {who for _, _, who in other.requests} == {"nobody"}
    ours = mirror.asking(url, path)
    assert ours.run("ls-remote", "--", ours.url).code == 0


def test_the_helper_answers_for_its_hosts_alone(tmp_path: Path) -> None:
    path = credentials.store(str(tmp_path), "gt-1.1", TOKEN, _HTTPS)
    program = Path(credentials.__file__).with_name("credentialhelper.py")

    def ask(verb: str, text: str) -> str:
        argv = [sys.executable, "-I", "-S", str(program), path, verb]
        return subprocess.run(argv, input=text, check=True, capture_output=True, text=True).stdout

    good = "protocol=https\nhost=github.com\n"
    assert ask("get", good) == f"username=x-access-token\npassword={TOKEN}\n"
    assert ask("get", good + "username=me\n") == f"username=me\npassword={TOKEN}\n"
    for bad in ("protocol=http\nhost=github.com\n", "protocol=https\nhost=github.com.evil\n", "\n"):
        assert ask("get", bad) == ""
    for verb in ("store", "erase"):
        assert ask(verb, good) == ""
    assert ask("get", good)


def test_large_files_go_the_same_way(rig: GitRig, server: githttp.GitHttp) -> None:
    url = f"{server.url}/rig.git"
    assert shutil.which("git-lfs"), "scripts/setup test installs it"
    credentials.store(str(root_of(rig)), "gt-1.1", TOKEN, [url])
    rig.git("remote", "set-url", "origin", str(rig.path))
    rig.git("lfs", "install", "--local")
    rig.commit({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    worker = rig.worker(rig=url)
    worker.prepare()
    worker.write("new.bin", "large\n")
    assert worker.deliver()["reason"] == "ok"
    there = [path for path in (rig.path / "lfs" / "objects").rglob("*") if path.is_file()]
    assert [lfs.is_whole(str(path), path.name) for path in there] == [True]
    assert ("PUT", "x-access-token") in {(how, who) for how, _, who in server.requests}
    credentials.store(str(rig.root), "gt-2.1", TOKEN, [url])
    other = rig.worker("gt-2", rig=url, base="polecat/gt-1")
    other.prepare()
    assert (other.work / "new.bin").read_text() == "large\n"


def _hosted(rig: GitRig, server: githttp.GitHttp, name: str, inside: str = "") -> None:
    """Put a repository on the server, perhaps with a submodule of its own."""
    path, seed = server.repository(f"{name}.git"), rig.folder / f"{name}-seed"
    rig.git("init", "-q", "-b", "main", str(seed))
    (seed / "base").write_text(name)
    rig.git("add", "-A", cwd=seed)
    if inside:
        _link(rig, seed, inside, f"../{inside}.git", server.folder / f"{inside}.git")
        rig.git("add", ".gitmodules", cwd=seed)
    rig.git("commit", "-q", "-m", name, cwd=seed)
    rig.git("push", "-q", str(path), "HEAD:main", cwd=seed)


def _link(rig: GitRig, tree: Path, path: str, url: str, source: Path) -> None:
    """Add a submodule to a working tree without fetching it."""
    commit = rig.git("rev-parse", "main", cwd=source)
    with (tree / ".gitmodules").open("a") as file:
        file.write(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n')
    rig.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}", cwd=tree)


def test_submodules_of_the_same_host_are_there_and_are_pushed(
    tmp_path: Path, rig: GitRig, server: githttp.GitHttp
) -> None:
    url = f"{server.url}/rig.git"
    _hosted(rig, server, "inner")
    _hosted(rig, server, "lib", inside="inner")
    with githttp.serving(tmp_path / "elsewhere", "x", "y") as other:
        _link(rig, rig.seed, "lib", "../lib.git", server.folder / "lib.git")
        _link(rig, rig.seed, "far", f"{other.url}/far.git", server.folder / "lib.git")
        _link(rig, rig.seed, "gone", "../gone.git", server.folder / "lib.git")
        rig.git("remote", "set-url", "origin", str(rig.path))
        rig.git("add", ".gitmodules")
        rig.git("commit", "-q", "-m", "submodules")
        rig.git("push", "-q", "origin", "HEAD:main")
        credentials.store(str(root_of(rig)), "gt-1.1", TOKEN, [url])
        worker = rig.worker(rig=url)
        worker.prepare()
        assert other.requests == []
    assert (worker.work / "lib" / "base").read_text() == "lib"
    assert (worker.work / "lib" / "inner" / "base").read_text() == "inner"
    assert list((worker.work / "far").iterdir()) == []
    assert list((worker.work / "gone").iterdir()) == []
    assert any("submodule gone is not there" in said for said in worker.reports)
    assert worker.git("status", "--porcelain") == ""
    assert worker.git("submodule", "status", "lib")[0] not in "-+U"
    worker.write("lib/new", "work")
    assert worker.deliver()["reason"] == "ok"
    lib = rig.git("rev-parse", "polecat/gt-1", cwd=server.folder / "lib.git")
    assert rig.git("show", f"{lib}:new", cwd=server.folder / "lib.git") == "work"
    assert lib in rig.git("ls-tree", "polecat/gt-1", "lib", cwd=rig.path)


class TestOnHttp(RecordChecks):
    """The record on a rig that is reached over HTTP with a token."""

    @pytest.fixture
    def record(self, rig: GitRig, server: githttp.GitHttp) -> Record:
        url = f"{server.url}/rig.git"
        path = credentials.store(str(root_of(rig)), "gt-1.1", TOKEN, [url])
        return on_rig(url, str(rig.root), OWNER, path)


@pytest.mark.slow
def test_of_eight_instances_one_has_the_worker_over_http(
    rig: GitRig, server: githttp.GitHttp
) -> None:
    url = f"{server.url}/rig.git"
    path = credentials.store(str(root_of(rig)), "gt-1.1", TOKEN, [url])
    make = ON_RIG.format(rig=url, root=str(rig.root), owner=OWNER, credentials=path)
    race_for_all(make, on_rig(url, str(rig.root), OWNER, path))


# --- by ssh --------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Iterator[sshd.Sshd]:
    made = sshd.Sshd(tmp_path / "host")
    made.start()
    try:
        yield made
    finally:
        made.kill()


def test_a_worker_and_its_record_go_by_ssh_with_a_key_and_known_hosts(
    tmp_path: Path, host: sshd.Sshd
) -> None:
    rig = GitRig(tmp_path, {"README": "hello\n"})
    rig.root = tmp_path / "a state 100%"
    url = f"ssh://{host.user}@{host.host}:{host.port}{rig.path}"
    text = host.key.read_text() + host.known_hosts.read_text()
    path = credentials.store(str(root_of(rig)), "gt-1.1", text, [url])
    for name in (credentials.KEY, credentials.KNOWN_HOSTS):
        assert stat.S_IMODE(os.stat(Path(path).with_name(name)).st_mode) == 0o600
    record = on_rig(url, str(rig.root), OWNER, path)
    mine = record.claim(claim())
    worker = rig.worker(rig=url, owner=OWNER, record=standing.launched(mine))
    worker.prepare()
    worker.write("a", "1")
    assert worker.deliver()["commit"] == rig.tip("polecat/gt-1")
    found = record.read("gt-1.1")
    assert found is not None
    assert found.delivered is not None


def test_a_host_whose_key_nobody_knows_is_refused(tmp_path: Path, host: sshd.Sshd) -> None:
    rig = GitRig(tmp_path, {"README": "hello\n"})
    url = f"ssh://{host.user}@{host.host}:{host.port}{rig.path}"
    credentials.store(str(root_of(rig)), "gt-1.1", host.key.read_text(), [url])
    worker = rig.worker(rig=url)
    with pytest.raises(WorkerError, match="Host key verification failed") as caught:
        worker.prepare()
    assert "known_hosts" in caught.value.hint


# --- the agent -----------------------------------------------------------------------------------

_LOOKS = """
cat {root}/logins/*/* 2>/dev/null
env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'
grep -rs {begin} {root} . "$OUTPOST_WORKER_DIR" 2>/dev/null
printf 'protocol=http\\nhost={host}\\n\\n' | git credential fill 2>/dev/null
echo looked; echo 1 > a
"""


@pytest.mark.parametrize("way", ["namespace", "landlock", ""])
def test_an_agent_behind_a_fence_finds_no_login(
    far: Any, rig: GitRig, server: githttp.GitHttp, way: str
) -> None:
    url = f"{server.url}/rig.git"
    credentials.store(str(far.root), "gt-1.1", TOKEN, [url])
    script = _LOOKS.format(root=far.root, begin=TOKEN[:20], host=url.split("/")[2])
    order: Order = far.shell(
        script, rig=url, owner=OWNER, issue=Issue(id="gt-1"),
        delivery=Delivery(branch="polecat/gt-1", message="m"),
    )  # fmt: skip
    env = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": os.environ["GIT_CONFIG_GLOBAL"],
        "GIT_TERMINAL_PROMPT": "0",
        "HOME": str(far.root.parent),
    }
    fence = {"mode": "required", "only": [way]} if way else {"mode": "off"}
    folder, _ = publish.publish(far.root, order, env, fence=fence)
    far.start(folder).wait(60)
    result = far.result(folder)
    assert (result.state, result.reason) == (State.DONE, "ok"), result
    assert rig.tip("polecat/gt-1")
    log = (folder / "output.log").read_bytes()
    assert b"looked" in log
    # without a fence, an agent is this user and reads what this user may: docs/security.md says so
    assert (TOKEN.encode() in log) == (not way)
