"""What is in the image, and how little it may where it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peers.containers import CONFINED, Containers, Image, podman


def test_the_far_side_alone_is_in_it(containers: Containers, plain: Image) -> None:
    absent = ("httpx", "h2", "google", "asyncssh", "yaml", "pip", "outpost_manager", "outpost_exec")
    script = (
        "import importlib.util as u, json, sys, outpost_worker, outpost_cloudrun.server\n"
        "from importlib.metadata import distributions\n"
        f"print(json.dumps([[n for n in {absent!r} if u.find_spec(n)],"
        " sorted(d.name for d in distributions())]))"
    )
    found, installed = json.loads(containers.run(plain.id, "python", "-c", script).stdout)
    assert found == []
    ours = ["agents", "cloudrun", "core", "k8s", "shared", "worker"]
    assert [name for name in installed if name.startswith("outpost")] == [
        f"outpost-{name}" for name in ours
    ]
    assert "granian" in installed
    programs = ("git", "git-lfs", "tmux", "python3", "ssh", "tini", "ps")
    for name in programs:
        assert containers.run(plain.id, "sh", "-c", f"command -v {name}").returncode == 0, name
    for name in ("node", "npm", "gcc", "claude"):
        done = containers.run(plain.id, "sh", "-c", f"command -v {name}", check=False)
        assert done.returncode != 0, name


def test_python_starts_compiled_although_nothing_can_be_written(
    containers: Containers, plain: Image
) -> None:
    """Else each start of a container, and of each worker, would compile all that it imports."""
    script = (
        "import sys, outpost_worker.verbs\n"
        "print([m.__name__ for m in sys.modules.values()"
        " if m.__name__.startswith('outpost') and not __import__('os').path.exists(m.__cached__)])"
    )
    assert containers.run(plain.id, "python", "-c", script).stdout == "[]\n"


def test_it_runs_as_nobody_in_particular_who_can_do_nothing(
    containers: Containers, plain: Image
) -> None:
    script = (
        "id -u; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | cut -f2;"
        "touch /usr/x || echo no; touch $HOME/x && echo yes; cat /proc/1/comm"
    )
    done = containers.run(plain.id, "sh", "-c", script)
    nothing = "0" * 16
    assert done.stdout.split() == ["10001", nothing, nothing, "1", "2", "no", "yes", "tini"]


@pytest.mark.parametrize(
    ("options", "root", "home"),
    [
        ((), "/home/worker/.outpost", "/home/worker"),  # Cloud Run: all of it can be written
        (CONFINED, "/tmp/outpost-10001", "/tmp/outpost-10001-home"),
        ((*CONFINED, "--env", "OUTPOST_ROOT=/tmp/mine"), "/tmp/mine", "/tmp/mine-home"),
    ],
)
def test_it_finds_where_state_can_be_kept(
    containers: Containers, plain: Image, options: tuple[str, ...], root: str, home: str
) -> None:
    script = (
        'echo "$OUTPOST_ROOT $OUTPOST_STATE_DIR $HOME";'
        ' python -m outpost_worker list "$OUTPOST_ROOT"'
    )
    done = containers.run(plain.id, "sh", "-c", script, options=options)
    assert done.stdout == f"{root} {root} {home}\n[]\n"


CLAIM = "import os; from outpost_shared import private; private.claim(os.environ['OUTPOST_ROOT'])"


def test_a_volume_of_kubernetes_at_its_place_is_a_place_for_state(
    containers: Containers, plain: Image, tmp_path: Path
) -> None:
    """An emptyDir belongs to root and everybody can write it: anywhere else that is refused."""
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    options = ("--read-only", "--cap-drop", "all")  # no tmpfs: the volume is all that there is
    in_place = (*options, "--volume", f"{volume}:/outpost/disk")
    done = containers.run(
        plain.id, "sh", "-c", f'echo $HOME; python -c "{CLAIM}"; ls /outpost/disk', options=in_place
    )
    assert done.stdout.split() == ["/outpost/disk/state-home", "state", "state-home"]
    elsewhere = (*options, "--volume", f"{volume}:/opt/place", "--env", "OUTPOST_ROOT=/opt/place/x")
    done = containers.run(plain.id, "python", "-c", CLAIM, options=elsewhere, check=False)
    assert "everybody can write it: '/opt/place'" in done.stderr


def test_without_a_place_it_says_what_to_give_it(containers: Containers, plain: Image) -> None:
    done = containers.run(
        plain.id, "true", options=("--read-only", "--read-only-tmpfs=false"), check=False
    )
    assert done.returncode == 1
    assert (
        "nothing can be written here: not /outpost/disk, not /home/worker, not /tmp" in done.stderr
    )
    assert "→ give the container a volume at /outpost/disk, or a tmpfs at /tmp" in done.stderr


def test_labels_say_what_it_is(containers: Containers, plain: Image, with_agents: Image) -> None:
    found = json.loads(podman(containers.env, "image", "inspect", with_agents.id).stdout)[0]
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "Outpost worker"
    assert labels["org.opencontainers.image.version"]
    assert labels["outpost.agents"] == "claude codex"
    assert with_agents.tag.endswith(labels["outpost.digest"])
    assert found["Config"]["User"] == "10001:10001"
    assert plain.size < 280e6
    assert with_agents.size < 900e6
