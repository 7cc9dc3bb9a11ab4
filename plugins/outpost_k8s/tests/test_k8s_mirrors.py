"""What fills `rig_cache`: the program that keeps mirrors, run for real, and its CronJob."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from peers.githttp import GitHttp, serving
from peers.kubelab import Cluster

from outpost_k8s.api.paths import path
from outpost_k8s.far.place import mirror_of
from outpost_k8s.objects import difference
from outpost_k8s.options import K8sOptions

FOLDER = Path(__file__).parents[3] / "deploy/k8s/mirrors"
TOKEN = "a-token-that-reads"


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(server: GitHttp, folder: Path, text: str) -> str:
    clone = folder / "clone"
    if not clone.exists():
        git(folder, "init", "-q", "-b", "main", str(clone))
    (clone / "file").write_text(text)
    git(clone, "add", ".")
    git(clone, "commit", "-qm", text)
    git(clone, "push", "-q", str(server.folder / "app.git"), "HEAD:main")
    return git(clone, "rev-parse", "HEAD")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitHttp]:
    with serving(tmp_path / "served", "bot", TOKEN) as running:
        running.repository("app.git")
        yield running


class Mirrors:
    """A list of repositories, and the folder of their mirrors."""

    def __init__(self, folder: Path, server: GitHttp) -> None:
        self.list, self.folder = folder / "rigs.txt", folder / "mirrors"
        self.credentials = folder / "credentials"
        host = server.url.removeprefix("http://")
        self.credentials.write_text(f"http://bot:{TOKEN}@{host}\n")
        self.credentials.chmod(0o400)
        self.url = f"{server.url}/app.git"

    def start(self, *lines: str) -> subprocess.Popen[str]:
        self.list.write_text("\n".join(lines or (self.url,)))
        self.folder.mkdir(exist_ok=True)
        files = (self.list, self.folder, self.credentials)
        return subprocess.Popen(
            ["sh", str(FOLDER / "update.sh"), *map(str, files)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        )  # fmt: skip

    def run(self, *lines: str) -> tuple[int, str]:
        program = self.start(*lines)
        said, _ = program.communicate(timeout=60)
        return program.returncode, said

    def has(self, what: str) -> bool:
        found = mirror_of(str(self.folder), self.url)
        return bool(found) and git(Path(found), "rev-parse", "refs/heads/main") == what


def test_a_mirror_is_made_where_workers_look_and_follows_its_repository(
    tmp_path: Path, server: GitHttp
) -> None:
    mirrors = Mirrors(tmp_path, server)
    first = commit(server, tmp_path, "first")
    assert mirrors.run("# a comment", "", mirrors.url) == (0, "127.0.0.1/app.git: up to date\n")
    assert mirrors.has(first)
    second = commit(server, tmp_path, "second")
    assert mirrors.run()[0] == 0
    assert mirrors.has(second)
    for file in mirrors.folder.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_killed_at_any_moment_a_mirror_is_whole_or_not_there(
    tmp_path: Path, server: GitHttp
) -> None:
    mirrors = Mirrors(tmp_path, server)
    head = commit(server, tmp_path, "x" * 100_000)
    for pause in (0.0, 0.01, 0.02, 0.04, 0.08):
        program = mirrors.start()
        time.sleep(pause)
        os.killpg(program.pid, signal.SIGKILL)
        program.communicate(timeout=60)
        if mirror_of(str(mirrors.folder), mirrors.url):
            assert mirrors.has(head)
    assert mirrors.run()[0] == 0
    assert mirrors.has(head)


@pytest.mark.parametrize(
    "line",
    ["--upload-pack=touch x", "ext::touch x", "/etc", "file:///etc", "https://h/../../x",
     "https://h/a;touch x", "https://h/.git/hooks", "https://h//x", "http://h/$(touch x)"],
)  # fmt: skip
def test_a_line_that_is_no_address_is_passed_over_and_the_others_are_not(
    tmp_path: Path, server: GitHttp, line: str
) -> None:
    mirrors = Mirrors(tmp_path, server)
    head = commit(server, tmp_path, "first")
    code, said = mirrors.run(line, mirrors.url)
    assert code == 1
    assert f"{line}: passed over" in said
    assert mirrors.has(head)
    assert not (tmp_path / "x").exists()
    assert [each.name for each in mirrors.folder.iterdir()] == ["127.0.0.1"]


@pytest.mark.kube
def test_a_real_api_server_takes_the_cron_job_and_it_fills_what_workers_read(
    cluster: Cluster,
) -> None:
    sent = yaml.safe_load((FOLDER / "cronjob.yaml").read_text())
    with cluster.namespace() as namespace:
        where = path("cronjobs", namespace, sent["metadata"]["name"], group="batch/v1")
        taken = cluster.admin.patch(
            where, sent, kind="apply", fieldManager="test", dryRun="All", fieldValidation="Strict"
        )
        assert not difference.missing(sent, taken)
        pod = sent["spec"]["jobTemplate"]["spec"]["template"]
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try"}, **pod}
        body["metadata"] = {"name": "try"}
        cluster.admin.post(path("pods", namespace), body, dryRun="All")  # restricted admits it
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"]
              if "persistentVolumeClaim" in v]  # fmt: skip
    assert claims == [K8sOptions(image="worker", rig_cache="outpost-mirrors").rig_cache]
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert names["configMapGenerator"] == [
        {"name": "outpost-mirrors", "files": ["rigs.txt", "update.sh"]}
    ]
