"""`outpost bootstrap` over a real sshd, on a machine that lacks everything.

The login's PATH is one folder of links to what any POSIX machine has. Package managers and npm
are fakes there, as they must not run in tests; they write down what they were asked, and link the
real program.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from peers.sshd import Sshd, sshd

from outpost_core.backend import BuildContext
from outpost_core.types import Finding, Step
from outpost_manager.config import trusted
from outpost_manager.config.town import is_trusted
from outpost_ssh.options import SshOptions
from outpost_ssh.outpost import SshOutpost

BASICS = (
    *("sh", "cat", "sed", "head", "tail", "uname", "id", "ls", "mkdir", "mv", "rm", "rmdir"),
    *("dirname", "basename", "base64", "wc", "env", "sleep", "kill", "ln", "touch", "date"),
)
APT = """#!/bin/sh
# A package manager that has everything: links the real program.
echo "apt-get $*" >>"$HOME/../asked"
[ ! -e "$HOME/../apt-fails" ] || { echo "E: Unable to locate package" >&2; exit 100; }
for word in "$@"; do
  case $word in
    git | tmux) ln -sf "$(cat "$HOME/../real/$word")" "$HOME/../bin/$word" ;;
    python3) ln -sf "$(cat "$HOME/../real/python3")" "$HOME/../bin/python3" ;;
    npm) printf '%s' "$NPM" >"$HOME/../bin/npm" && chmod +x "$HOME/../bin/npm" ;;
  esac
done
"""
NPM = """#!/bin/sh
echo "npm $*" >>"$HOME/../asked"
mkdir -p "$HOME/.local/bin"
printf '#!/bin/sh\\necho 1.0\\n' >"$HOME/.local/bin/claude"
chmod +x "$HOME/.local/bin/claude"
"""
SUDO = """#!/bin/sh
echo "sudo: a password is required" >&2
exit 1
"""


class Bare:
    """A machine without git, tmux and Python, reached over a real sshd."""

    def __init__(self, folder: Path, server: Sshd) -> None:
        self.folder = folder
        self.server = server
        self.bin = folder / "bin"
        self.home = server.home

    def options(self, **more: object) -> SshOptions:
        return SshOptions(
            host=self.server.host,
            port=self.server.port,
            user=self.server.user,
            ssh_key=self.server.key,
            known_hosts=self.server.known_hosts,
            config=Path(os.devnull),
            **more,
        )

    def outpost(self, config_dir: Path | None = None, **more: object) -> SshOutpost:
        context = BuildContext(
            state_dir=self.folder / "near",
            config_dir=config_dir,
            trusts=lambda town: is_trusted(town, os.environ),
        )
        return SshOutpost("vm1", self.options(**more), context)

    def bootstrap(
        self, *, dry_run: bool = False, config_dir: Path | None = None, **more: object
    ) -> dict[str, Step]:
        """Run it and return the last word of each step."""

        async def main() -> dict[str, Step]:
            outpost = self.outpost(config_dir, **more)
            try:
                stream = outpost.outpost_bootstrap(agents=["claude"], dry_run=dry_run)
                return {step.name: step async for step in stream}
            finally:
                await outpost.outpost_close()

        return asyncio.run(main())

    def asked(self) -> str:
        file = self.folder / "asked"
        return file.read_text() if file.exists() else ""

    def listing(self) -> list[str]:
        return sorted(str(path) for top in (self.home, self.bin) for path in top.rglob("*"))

    def have(self, *programs: str) -> None:
        for program in programs:
            where = sys.executable if program == "python3" else shutil.which(program)
            assert where, program
            (self.bin / program).symlink_to(os.path.realpath(where))


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    folder = tmp_path / "far"
    (folder / "bin").mkdir(parents=True)
    (folder / "real").mkdir()
    with sshd(folder, home=folder / "home", env={"PATH": str(folder / "bin")}) as server:
        machine = Bare(folder, server)
        for name in BASICS:
            if where := shutil.which(name):
                (machine.bin / name).symlink_to(where)
        for name in ("git", "tmux"):
            (folder / "real" / name).write_text(shutil.which(name) or "")
        (folder / "real" / "python3").write_text(os.path.realpath(sys.executable))
        chmod = shutil.which("chmod") or ""
        (machine.bin / "chmod").symlink_to(chmod)
        npm = "NPM=$(cat <<'END'\n" + NPM + "END\n)\n"
        program(machine.bin / "apt-get", APT.replace("#!/bin/sh\n", "#!/bin/sh\n" + npm, 1))
        (folder / "asked").touch()
        yield machine


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """A town with a remote of its own, and files that git does not carry."""
    town = tmp_path / "town"
    (town / "mayor").mkdir(parents=True)
    (town / "config").mkdir()
    (town / "mayor" / "town.json").write_text("{}")
    (town / "config" / "outposts.yaml").write_text("outposts: []\n")
    (town / "config" / "agents.json").write_text('{"tracked": true}')
    git(town, "init", "-q", "-b", "main")
    git(town, "add", "mayor", "config/agents.json")
    git(town, "commit", "-qm", "town")
    (town / "config" / "extra.json").write_text('{"extra": true}')
    (town / "config" / "api-token.json").write_text("{}")
    (town / "config" / "plain.txt").write_text("api_key = abcdefghijklmnop\n")
    return town


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(
        ["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def states(steps: dict[str, Step]) -> dict[str, str]:
    return {name: step.state for name, step in steps.items()}


def test_a_bare_machine_gets_everything_and_a_second_run_finds_it_there(bare: Bare) -> None:
    first = bare.bootstrap()
    assert "python" in first, first
    for name in ("python", "git", "tmux", "package", "agent claude"):
        assert first[name].state == "done", first
    assert first["doctor"].state == "ok", first["doctor"]
    assert "apt-get" in bare.asked()
    assert "@anthropic-ai/claude-code" in bare.asked()
    before = bare.asked()
    again = states(bare.bootstrap())
    assert {again[name] for name in ("python", "git", "tmux", "package", "agent claude")} == {"ok"}
    assert bare.asked() == before


def test_a_dry_run_changes_nothing(bare: Bare, town: Path) -> None:
    before = bare.listing()
    said = bare.bootstrap(dry_run=True, config_dir=town / "config", town_path="~/ai")
    for name in ("python", "git", "tmux", "package", "agent claude", "town", "town config"):
        assert said[name].state == "would", said
    assert bare.listing() == before
    assert bare.asked() == ""


def test_what_the_system_does_not_have_is_named_with_its_hint(bare: Bare) -> None:
    (bare.folder / "apt-fails").touch()
    said = bare.bootstrap()
    assert said["python"].state == "failed"
    assert "python: /path/to" in said["python"].hint
    assert "Unable to locate package" in said["git"].detail
    assert said["package"].state == "skipped"
    assert "python" in said["package"].detail
    assert said["doctor"].state == "skipped"


def test_without_a_package_manager_nothing_is_tried(bare: Bare) -> None:
    (bare.bin / "apt-get").unlink()
    said = bare.bootstrap()
    assert said["git"].state == "skipped"
    assert "install git" in said["git"].hint


def test_no_password_is_asked_for(bare: Bare) -> None:
    (bare.bin / "id").unlink()
    program(bare.bin / "id", "#!/bin/sh\ncase $1 in -u) echo 1000 ;; *) echo steve ;; esac\n")
    program(bare.bin / "sudo", SUDO)
    said = bare.bootstrap()
    assert said["git"].state == "skipped"
    assert said["git"].hint == "sudo apt-get install -y git"
    assert bare.asked() == ""


def test_a_town_without_a_remote_goes_as_a_bundle_with_its_config(bare: Bare, town: Path) -> None:
    big = os.urandom(400_000)
    (town / "mayor" / "big").write_bytes(big)
    git(town, "add", "mayor")
    git(town, "commit", "-qm", "big")
    bare.have("python3", "git", "tmux")
    said = bare.bootstrap(config_dir=town / "config", town_path="~/ai")
    assert states(said)["town"] == "done", said
    far = bare.home / "ai"
    assert (far / "mayor" / "big").read_bytes() == big
    assert git(far, "rev-parse", "HEAD") == git(town, "rev-parse", "HEAD")
    assert git(far, "remote") == ""
    extra = far / "config" / "extra.json"
    assert extra.read_text() == '{"extra": true}'
    assert extra.stat().st_mode & 0o777 == 0o600
    kept = sorted(path.name for path in (far / "config").iterdir())
    assert kept == ["agents.json", "extra.json"]
    assert "api-token.json" in said["town config"].detail
    assert not (bare.home / ".cache" / "outpost" / "town.bundle").exists()
    again = bare.bootstrap(config_dir=town / "config", town_path="~/ai")
    assert states(again)["town"] == states(again)["town config"] == "ok"


def test_a_town_is_cloned_from_its_address(bare: Bare, town: Path, tmp_path: Path) -> None:
    remote = tmp_path / "town.git"
    git(town, "clone", "-q", "--bare", ".", str(remote))
    bare.have("python3", "git", "tmux")
    said = bare.bootstrap(town_path=str(bare.home / "deep" / "ai"), town_url=f"file://{remote}")
    assert said["town"].state == "done", said
    assert git(bare.home / "deep" / "ai", "remote", "get-url", "origin") == f"file://{remote}"


def test_a_town_that_was_only_found_is_not_cloned_there(
    bare: Bare, town: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A clone of a stranger's repository may look like a town, and name any address."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(town / "mayor")
    said = bare.bootstrap(dry_run=True, town_path="~/ai")
    assert said["town"].state == "skipped", said
    assert "have not trusted it" in said["town"].detail
    assert said["town"].hint == f"outpost trust {town}"
    assert "town config" not in said
    trusted.trust(trusted.read_found(town / "config" / "outposts.yaml"), os.environ)
    said = bare.bootstrap(dry_run=True, town_path="~/ai")
    assert said["town"].state == "would", said


def test_another_folder_at_town_path_is_left_alone(bare: Bare, town: Path) -> None:
    bare.have("python3", "git", "tmux")
    (bare.home / "ai").mkdir()
    (bare.home / "ai" / "mine").touch()
    said = bare.bootstrap(config_dir=town / "config", town_path="~/ai")
    assert said["town"].state == "failed"
    assert "move it away" in said["town"].hint
    assert [path.name for path in (bare.home / "ai").iterdir()] == ["mine"]


def test_what_is_no_town_is_not_kept(bare: Bare, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "x")
    bare.have("python3", "git", "tmux")
    said = bare.bootstrap(town_path="~/ai", town_url=f"file://{other}")
    assert said["town"].state == "failed"
    assert "no Gas Town workspace" in said["town"].detail
    assert [path.name for path in bare.home.iterdir() if "ai" in path.name] == []


def test_killed_in_the_middle_of_a_clone_it_is_completed_by_the_next_run(
    bare: Bare, town: Path
) -> None:
    bare.have("python3", "tmux")
    real = shutil.which("git")
    stuck = bare.folder / "stuck"
    # A git whose clone never ends: it has made half of the folder.
    program(
        bare.bin / "git",
        f'#!/bin/sh\ncase "$*" in *clone*) for last; do :; done; mkdir -p "$last/half"\n'
        f'touch "{stuck}"; exec sleep 60 ;; esac\nexec {real} "$@"\n',
    )

    async def killed() -> None:
        outpost = bare.outpost(town / "config", town_path="~/ai")

        async def go() -> None:
            async for _ in outpost.outpost_bootstrap(agents=[], dry_run=False):
                pass

        task = asyncio.create_task(go())
        while not stuck.exists():
            await asyncio.sleep(0.02)
            assert not task.done(), task
        assert bare.server.drop_sessions()  # kills the shell and its git
        await task  # the step has failed
        await outpost.outpost_close()

    asyncio.run(killed())
    assert not (bare.home / "ai").exists()
    (bare.bin / "git").unlink()
    bare.have("git")
    said = bare.bootstrap(config_dir=town / "config", town_path="~/ai")
    assert said["town"].state == "done", said
    left = [path.name for path in bare.home.iterdir() if path.name.startswith(".ai")]
    assert left == []


def test_an_unreachable_host_is_one_failed_step(bare: Bare) -> None:
    bare.server.stop()
    said = bare.bootstrap()
    assert states(said) == {"connect": "failed"}
    assert said["connect"].hint


def test_doctor_answers_where_python_is_missing(bare: Bare) -> None:
    async def main() -> dict[str, object]:
        outpost = bare.outpost()
        try:
            return {f.check: f for f in await outpost.outpost_doctor(rig=None)}
        finally:
            await outpost.outpost_close()

    found = asyncio.run(main())
    assert found["line"].ok is True
    for check in ("far side", "python", "git"):
        assert found[check].ok is False, found
    assert found["tmux"].ok is None
    assert "outpost bootstrap vm1" in found["python"].hint


def test_doctor_finds_a_key_beside_the_configuration_and_lets_a_public_one_be_read(
    bare: Bare,
) -> None:
    bare.server.key.chmod(0o600)
    public = bare.server.key.with_suffix(".pub")
    public.chmod(0o644)

    async def main(key: str) -> Finding:
        context = BuildContext(state_dir=bare.folder / "near", config_dir=bare.server.folder)
        options = replace(bare.options(), ssh_key=Path(key))
        outpost = SshOutpost("vm1", options, context)
        try:
            return (await outpost.outpost_doctor(rig=None))[0]
        finally:
            await outpost.outpost_close()

    for key in (bare.server.key.name, public.name):
        found = asyncio.run(main(key))
        assert found.check == "key"
        assert found.ok is True, found


def test_doctor_tells_of_the_line_and_of_push_rights(bare: Bare, tmp_path: Path) -> None:
    bare.have("python3", "git", "tmux")
    rig = tmp_path / "rig.git"
    git(tmp_path, "init", "-q", "--bare", str(rig))
    bare.server.key.chmod(0o600)

    async def main(asked: str | None) -> dict[str, object]:
        outpost = bare.outpost()
        try:
            return {f.check: f for f in await outpost.outpost_doctor(rig=asked)}
        finally:
            await outpost.outpost_close()

    found = asyncio.run(main(f"file://{rig}"))
    for check in ("key", "line", "latency", "clock", "package", "git", "rig"):
        assert found[check].ok is True, found[check]
    assert "can be pushed" in found["rig"].detail
    assert "pushed from here" in asyncio.run(main(str(rig)))["rig"].detail
    gone = asyncio.run(main(f"file://{rig}-none"))["rig"]
    assert gone.ok is False
    assert git(rig, "for-each-ref") == ""
