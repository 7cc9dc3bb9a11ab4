"""Create or adopt, from any number of processes, killed anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import farcode
import pytest

from outpost_core import wire
from outpost_core.errors import ConflictError, OutpostError
from outpost_core.types import Agent, Issue, Order, Secrets
from outpost_shared import programs
from outpost_worker.folder import publish

CHECKOUT = Path(__file__).parents[2]
PUBLISH = f"""
import sys; sys.path += {farcode.ROOTS!r}
from pathlib import Path
from outpost_core.errors import ConflictError
from outpost_core.types import Agent, Issue, Order
from outpost_worker.folder import publish
root, title = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True); sys.stdin.readline()
for n in range(10):
    order = Order(issue=Issue(id=f"race-{{n}}", title=title), agent=Agent(argv=("true",)))
    try:
        print(publish.publish(root, order, {{}})[1])
    except ConflictError:
        print("conflict")
"""


def _order(**more):
    issue = more.pop("issue", Issue(id="p-1"))
    return Order(issue=issue, agent=Agent(argv=("/bin/true",)), **more)


def test_what_is_published(tmp_path):
    root = tmp_path / "a" / "root"
    secrets = Secrets({"TOKEN": "canary-value"})
    order = _order(prompt="do it\n", secrets=secrets, env={"A": "\udcff"})
    folder, new = publish.publish(root, order, {"PATH": "/bin"})
    assert new
    assert folder == root / "workers" / "p-1.1"
    assert folder.stat().st_mode & 0o777 == 0o700
    names = [".result.tmp", "exchange", "launch.json", "order.json", "secrets.json"]
    assert sorted(os.listdir(folder)) == names
    assert os.listdir(folder / "exchange") == ["prompt.md"]
    assert (folder / "exchange").stat().st_mode & 0o777 == 0o700
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert path.stat().st_mode & 0o777 == 0o600
        assert (b"canary" in path.read_bytes()) == (path.name == "secrets.json")
    data = json.loads((folder / "order.json").read_bytes())
    assert data["digest"] == wire.digest(order)
    assert wire.digest(wire.from_json(Order, data)) == wire.digest(order)
    assert (folder / "exchange/prompt.md").read_text() == "do it\n"
    assert list((root / "staging").iterdir()) == []
    (sealed,) = (root / "sealed").glob("p-1.1.*.json")
    assert sealed.stat().st_mode & 0o777 == 0o600
    assert sealed.parent.stat().st_mode & 0o777 == 0o700


def _unread(path: Path) -> tuple[int, ...]:
    """Return what `stat` tells of a file, but for when it was read."""
    told = path.stat()
    return told.st_ino, told.st_mode, told.st_size, told.st_mtime_ns, told.st_ctime_ns


def test_again_is_adopted_and_another_order_is_a_conflict(tmp_path):
    folder, _ = publish.publish(tmp_path, _order(), {})
    before = _unread(folder / "order.json")
    assert publish.publish(tmp_path, _order(), {"OTHER": "env"}) == (folder, False)
    assert _unread(folder / "order.json") == before
    with pytest.raises(ConflictError, match=r"p-1\.1"):
        publish.publish(tmp_path, _order(prompt="another"), {})
    assert publish.publish(tmp_path, _order(prompt="another", attempt=2), {})[1]


def test_a_folder_that_is_no_worker_is_not_touched(tmp_path):
    (tmp_path / "workers" / "p-1.1").mkdir(parents=True)
    (tmp_path / "workers" / "p-1.1" / "mine").touch()
    with pytest.raises(OutpostError, match="not the folder of a worker"):
        publish.publish(tmp_path, _order(), {})
    assert (tmp_path / "workers" / "p-1.1" / "mine").exists()


def test_many_processes_at_once(tmp_path):
    many = [
        subprocess.Popen(
            [sys.executable, "-I", "-c", PUBLISH, str(tmp_path), title],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for title in ("one", "one", "one", "two")
    ]
    for one in many:
        assert one.stdout.readline() == "ready\n"
    for one in many:
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.communicate(timeout=60)[0].split() for one in many]
    for words in zip(*said, strict=True):
        assert words.count("True") == 1
        if words[3] == "True":
            assert words[:3] == ("conflict",) * 3
        else:
            assert words[3] == "conflict"
            assert sorted(words[:3]) == ["False", "False", "True"]
    assert len(os.listdir(tmp_path / "workers")) == 10
    assert os.listdir(tmp_path / "staging") == []


@pytest.mark.parametrize("fault", ["local.staged", "local.published"])
def test_killed_at_each_fault_point(tmp_path, fault):
    env = {**os.environ, "OUTPOST_FAULT": fault}
    argv = [sys.executable, "-I", "-c", PUBLISH, str(tmp_path), "one"]
    killed = subprocess.run(argv, input="go\n", text=True, env=env, timeout=60, check=False)
    assert killed.returncode == -9
    there = (tmp_path / "workers" / "race-0.1").exists()
    assert there == (fault == "local.published")
    order = Order(issue=Issue(id="race-0", title="one"), agent=Agent(argv=("true",)))
    assert publish.publish(tmp_path, order, {})[1] != there
    left = list((tmp_path / "staging").iterdir())
    assert len(left) == (0 if there else 1)
    old = time.time() - publish.STALE - 1
    for path in left:
        os.utime(path, (old, old))
    publish.publish(tmp_path, _order(), {})
    assert list((tmp_path / "staging").iterdir()) == []


def test_what_another_publisher_is_making_is_not_swept(tmp_path):
    publish.publish(tmp_path, _order(), {})
    theirs = tmp_path / "staging" / f"{os.getpid()}.aa"
    fresh = tmp_path / "staging" / "999999999.aa"
    theirs.mkdir()
    fresh.mkdir()
    old = time.time() - publish.STALE - 1
    os.utime(theirs, (old, old))
    publish.publish(tmp_path, _order(attempt=2), {})
    assert theirs.exists()
    assert fresh.exists()


def test_the_longest_id(tmp_path):
    order = _order(issue=Issue(id="x" * 96), attempt=999999)
    folder, new = publish.publish(tmp_path, order, {})
    assert new
    assert folder.name == "x" * 96 + ".999999"
    shutil.rmtree(folder)


def test_the_base_of_the_environment():
    environ = {
        "PATH": "/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "XDG_CONFIG_HOME": "/c",
        "SSH_AUTH_SOCK": "/s",
        "https_proxy": "http://p",
        "CLAUDECODE": "1",
        "NODE_OPTIONS": "--inspect",
        "TMUX": "/tmp/tmux",
        "OUTPOST_CONFIG": "/x",
        "GIT_DIR": "/x",
        "AWS_SECRET_ACCESS_KEY": "s",
        "MINE": "1",
    }
    base = programs.base_env(environ, ("MINE", "MISSING"))
    assert set(base) == {
        "PATH", "HOME", "LC_ALL", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK", "https_proxy", "MINE",
    }  # fmt: skip


def test_the_command_names_nothing_but_the_folder(tmp_path):
    argv = publish.command(tmp_path / "x.1", "recover")
    assert argv[:5] == [sys.executable, "-I", "-S", "-X", "utf8"]
    assert argv[-3].endswith("boot.py")
    assert argv[-2:] == ["recover", str(tmp_path / "x.1")]
