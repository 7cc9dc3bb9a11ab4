"""What a reader of a guide has before it, where commands alone do not make it.

Each stage is a context manager: given the reader, it yields what the page calls by names of its own
and what that is here, and leaves nothing.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from acmeagent import ACME
from docswalk import Reader
from peers.githttp import serving
from peers.sshd import Sshd, sshd

from outpost_cloudrun.testing.emulator import emulating
from outpost_cloudrun.testing.keepers import end_keeper

#: What the page about uninstalling names at a host.
HOST: Final = (".local/state/outpost/far", ".cache/outpost/far")
Names = Mapping[str, str]
Stage = Callable[[Reader], AbstractContextManager[Names]]

#: `gcloud`, as far as it starts and stops a machine and says whether it runs.
_GCLOUD: Final = """\
#!/bin/sh
case "$*" in
*" start "*) touch ~/.machine ;;
*" stop "*) rm -f ~/.machine ;;
*" describe "*) [ -e ~/.machine ] && echo RUNNING || echo TERMINATED ;;
esac
"""
#: `pip`, which installs from what is here, and into a folder of its own.
_PIP: Final = """\
#!/bin/sh
[ "$1" = install ] && exec {python} -m pip install --quiet --no-deps --no-build-isolation \\
  --no-index --target ~/site "$2"
"""


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def program(reader: Reader, name: str, text: str) -> None:
    """Put a program of a name on the reader's PATH."""
    path = reader.home / ".local" / "bin" / name
    path.write_text(text)
    path.chmod(0o755)


@contextmanager
def nothing(_: Reader) -> Iterator[Names]:
    """Nothing but what every reader has."""
    yield {}


@contextmanager
def host(reader: Reader) -> Iterator[Names]:
    """A machine to log in to, which the reader's SSH calls `vm1` and `gce-worker-1`.

    Outpost leaves there what the page about uninstalling says, and nothing else.
    """
    with sshd(reader.home / "sshd") as server:
        _known(reader, server)
        before = _files(server.home)
        yield {"--host 10.0.0.5 --user steve": "--host vm1 --trust-on-first-use"}
        reader.leave()
        assert not (left := _left(server.home, before, HOST)), left


def _files(folder: Path) -> set[str]:
    """Return what is below a folder and no folder itself."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def _left(home: Path, before: set[str], known: tuple[str, ...]) -> set[str]:
    """Return the files that came to a home, without known ones, and settings that say nothing."""
    came = {path for path in _files(home) - before if not path.startswith(known)}
    inert = {
        path
        for path in came
        if path.startswith(".claude/") and (home / path).read_bytes() in (b"", b"{}\n")
    }
    return came - inert


@contextmanager
def clone(reader: Reader) -> Iterator[Names]:
    """A clone with something that is not committed, which stays as it is, as its branches do."""
    reader.typed("echo 'not committed' > notes; git add notes; git stash -q; echo mine > mine")
    before = reader.typed("git rev-parse main stash@{0}; git ls-remote origin main")
    yield {}
    assert reader.typed("git rev-parse main stash@{0}; git ls-remote origin main") == before
    assert reader.typed("cat mine; git diff HEAD --name-only; git branch --show-current") == (
        "mine\nmain\n"
    )
    refs = {line.split()[1] for line in reader.typed("git ls-remote origin").splitlines()}
    ours = ("refs/heads/outpost/", "refs/outpost/")
    assert {ref for ref in refs if not ref.startswith(ours)} == {"HEAD", "refs/heads/main"}


@contextmanager
def used(reader: Reader) -> Iterator[Names]:
    """An Outpost that has delivered and failed; at the end, what is left of it is what is said."""
    before = _files(reader.home)
    reader.typed("outpost spawn done --title It --wait")
    reader.typed("! outpost spawn broken --title It --wait -- sh -c 'echo half > half; exit 1'")
    assert "refs/outpost/" in reader.typed("git ls-remote origin")
    yield {}
    assert not (left := _left(reader.home, before, ("app/", "app.git/"))), left
    refs = {line.split()[1] for line in reader.typed("git ls-remote origin").splitlines()}
    assert refs == {"HEAD", "refs/heads/main", "refs/heads/outpost/done"}


def _known(reader: Reader, server: Sshd) -> None:
    reader.settle(server.home)
    folder = reader.home / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text(
        f"Host vm1 gce-worker-1\n  HostName {server.host}\n  Port {server.port}\n"
        f"  User {server.user}\n  IdentityFile {server.key}\n"
    )
    (folder / "known_hosts").write_text(
        f"[{server.host}]:{server.port} {server.host_key}\n"
        f"[gce-worker-1]:{server.port} {server.host_key}\n"
    )


@contextmanager
def machine(reader: Reader) -> Iterator[Names]:
    """A machine at Google that is off, and the program that starts it."""
    program(reader, "gcloud", _GCLOUD)
    with host(reader) as names:
        yield names


@contextmanager
def package(reader: Reader) -> Iterator[Names]:
    """An agent called `acme`, and a `pip` that needs no network."""
    program(reader, "acme", ACME)
    program(reader, "pip", _PIP.format(python=sys.executable))
    reader.env["PYTHONPATH"] = str(reader.home / "site")
    yield {}


@contextmanager
def github(reader: Reader) -> Iterator[Names]:
    """A repository at a host whose name says that it is GitHub."""
    with serving(reader.home / "git") as git:
        git.repository("app.git", "--initial-branch=main")
        url = git.url.replace("127.0.0.1", "github.localhost") + "/app.git"
        reader.typed(f"git remote set-url origin {url} && git push -q origin HEAD:main")
        yield {"GH_TOKEN=…": "GH_TOKEN=gho_word"}


@contextmanager
def mayor(reader: Reader) -> Iterator[Names]:
    """A mayor that listens, a token, and a repository that has a URL."""
    at = f"127.0.0.1:{free_port()}"
    with serving(reader.home / "git") as git, contextlib.ExitStack() as ended:
        ended.callback(reader.leave)
        git.repository("app.git", "--initial-branch=main")
        for command in (
            f"git remote set-url origin {git.url}/app.git && git push -q origin HEAD:main",
            (
                "mkdir -p ~/.config/outpost && printf 'outposts:\\n- {name: local, type: local}\\n"
                f'api: {{listen: "{at}"}}\\n\' > ~/.config/outpost/outposts.yaml'
            ),
            (
                "umask 077; outpost token add me --role work --json | jq -er .token"
                " > ~/.config/outpost/token"
            ),
            "(setsid outpost serve > ~/serve.log 2>&1 &)",
            "until curl -s --fail http://" + at + "/healthz; do sleep 0.1; done",
        ):
            reader.typed(command)
        yield {"https://mayor.example.com:8765": f"http://{at}"}


@contextmanager
def google(reader: Reader) -> Iterator[Names]:
    """A Cloud Run of this machine, and a repository that its containers reach."""
    with emulating(reader.home / "google") as region:
        (region.folder / "rigs").mkdir(exist_ok=True)
        (region.folder / "rigs" / "app.git").symlink_to(reader.home / "app.git")
        reader.typed("git -C ~/app.git config http.receivepack true")
        reader.typed(f"git remote set-url origin {region.rigs.url('app')}")
        reader.env.update(region.environment)
        region.cloud.secrets["projects/my-gcp-project/secrets/anthropic-key"] = ["a key"]
        region.cloud.surroundings["PATH"] = reader.env["PATH"]
        yield {
            "--service gastown-worker": "--service gastown-worker --auth metadata --endpoint "
            + region.admin,
            "service: gastown-worker": "service: gastown-worker\n    auth: metadata\n    endpoint: "
            + region.admin,
        }
        end_keeper(reader.home / ".local" / "state" / "outpost" / "outposts" / "burst")


_SPENT: Final = """\
outposts: [{name: local, type: local}]
budgets: [{name: daily, window: day, usd: 40}]
accounts:
"""
_TEAM: Final = """\
- {name: team, agent: claude, usd_per_day: 30, max_workers: 6,
   secrets: {ANTHROPIC_API_KEY: "file:~/.secrets/team"}}
"""
_SPARE: Final = """\
- {name: spare, agent: claude, secrets: {ANTHROPIC_API_KEY: "env:SPARE_KEY"}}
"""


@contextmanager
def money(reader: Reader) -> Iterator[Names]:
    """Money that was spent, an account that is parked, and orders that wait."""
    config = reader.home / ".config" / "outpost" / "outposts.yaml"
    config.parent.mkdir(parents=True)
    (reader.home / ".secrets").mkdir()
    (reader.home / ".secrets" / "team").write_text("a key")
    (reader.home / ".secrets" / "team").chmod(0o600)
    config.write_text(_SPENT + _SPARE)
    reader.typed(
        "! SPARE_KEY=used-up outpost spawn first --title It --no-rig --max-agent-cost 1 --wait"
    )
    config.write_text(_SPENT + _TEAM + _SPARE)
    reader.typed("outpost spawn done --no-rig --max-agent-cost 24.99 --wait -- true")
    reader.typed("outpost spawn runs --no-rig --max-agent-cost 6 -- sleep 300")
    reader.typed(
        """seq -f '{"issue": "w-%g", "title": "Work"}' 12"""
        " | outpost queue add --from-file - --max-agent-cost 2"
    )
    yield {}


#: page → what its reader has.
STAGES: Final[Mapping[str, Stage]] = {
    "README": clone,
    "add-an-agent": package,
    "cloudrun": google,
    "cost": money,
    "install": used,
    "review": github,
    "scaling": machine,
    "second-machine": host,
    "ssh": host,
    "team": mayor,
}
