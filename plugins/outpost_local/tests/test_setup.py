"""Bootstrap of this machine, its scripts in real shells, and the question whether a rig is ours."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from peers import MissingError

from outpost_core.backend import BuildContext
from outpost_core.errors import UnreachableError
from outpost_core.types import Finding, Step
from outpost_local import rigcheck
from outpost_local.options import LocalOptions
from outpost_local.outpost import LocalOutpost
from outpost_local.setup import runner, steps, town
from outpost_local.setup.here import HereShell
from outpost_testing.processes import entries

SCRIPTS = sorted(
    file.name.removesuffix(".sh")
    for file in files("outpost_local.setup").iterdir()
    if file.name.endswith(".sh") and file.name != "common.sh"
)
#: shellcheck comes with the development packages
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
SHELLS = (("dash",), ("busybox", "sh"))
#: packages that each system's manager is asked for, and what it says
MANAGERS = {
    "apt-get": "apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 git",
    "dnf": "dnf install -y git",
    "apk": "apk add git",
    "pacman": "pacman -S --noconfirm --needed git",
    "zypper": "zypper --non-interactive install git",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_clean_for_every_posix_shell(name: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole.sh"
    whole.write_text(runner.script(name))
    # those: what only another step uses
    checks = [[*shell, "-n"] for shell in SHELLS] + [
        ["shellcheck", "-s", "sh", "-e", "SC2317,SC2329"]
    ]
    for check in checks:
        program = shutil.which(check[0], path=PATH)
        if program is None:
            raise MissingError(f"{check[0]} is missing: scripts/setup test installs it")
        done = subprocess.run(
            [program, *check[1:], whole], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


class Machine:
    """A PATH with basics alone, and a HOME; scripts run in one real shell."""

    def __init__(self, folder: Path, shell: tuple[str, ...]) -> None:
        self.bin = folder / "bin"
        self.home = folder / "home"
        self.bin.mkdir()
        self.home.mkdir()
        for name in ("sh", "cat", "sed", "head", "tail", "uname", "id", "mkdir", "dirname",
                     "basename", "ls", "mv", "rm", "rmdir", "base64", "wc", "env", "sleep",
                     "touch", "chmod"):  # fmt: skip
            (self.bin / name).symlink_to(shutil.which(name) or name)
        program = shutil.which(shell[0])
        if program is None:
            raise MissingError(f"{shell[0]} is missing: scripts/setup test installs it")
        self.env = {"HOME": str(self.home), "PATH": str(self.bin)}
        self.shell = HereShell(self.env, (program, *shell[1:]))

    def ask(self, name: str, *args: str) -> runner.Answer:
        return asyncio.run(runner.ask(self.shell, name, *args))

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, request.param)


@pytest.mark.parametrize("manager", MANAGERS)
def test_each_systems_package_manager_is_asked_in_its_words(machine: Machine, manager: str) -> None:
    asked = machine.home / "asked"
    machine.program(
        manager,
        f'echo "{manager} $*" >>"{asked}"\n'
        f'printf "#!/bin/sh\\necho git version 2.40.1\\n" >"{machine.bin}/git"\n'
        f'chmod +x "{machine.bin}/git"',
    )
    looked = machine.ask("program", "look", "git", "--version", "2.25")
    assert looked.state == "would"
    assert manager in looked.detail
    assert not asked.exists()
    done = machine.ask("program", "apply", "git", "--version", "2.25")
    assert (done.state, done.detail) == ("done", "installed: git version 2.40.1")
    assert asked.read_text().splitlines() == [MANAGERS[manager]]


def test_what_apt_was_killed_in_is_finished_first(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ("dash",))  # busybox has a dpkg of its own
    asked = machine.home / "asked"
    machine.program("dpkg", f'echo "dpkg $*" >>"{asked}"; touch "{machine.home}/mended"')
    machine.program(
        "apt-get",
        f'case "$*" in *--fix-broken) echo "apt-get $1 --fix-broken" ;; *) echo "apt-get $1" ;;'
        f' esac >>"{asked}"\n[ -e "{machine.home}/mended" ] || exit 100\n'
        f'printf "#!/bin/sh\\necho tmux 3.3a\\n" >"{machine.bin}/tmux"\n'
        f'chmod +x "{machine.bin}/tmux"',
    )
    assert machine.ask("program", "apply", "tmux", "-V", "3.0").state == "done"
    words = asked.read_text().splitlines()
    assert words == [
        "apt-get install",
        "dpkg --configure -a",
        "apt-get install --fix-broken",
        "apt-get update",
        "apt-get install",
    ]


@pytest.mark.parametrize(
    ("said", "state"),
    [("tmux 3.3a", "ok"), ("tmux 3.0", "ok"), ("tmux next-3.5", "ok"), ("tmux 2.9a", "failed")],
)
def test_versions_are_compared_as_numbers(machine: Machine, said: str, state: str) -> None:
    machine.program("tmux", f"echo {said}")
    machine.program("apt-get", ":")
    assert machine.ask("program", "apply", "tmux", "-V", "3.0").state == state


def test_the_newest_python_that_is_there_is_found(machine: Machine) -> None:
    machine.program("python3", 'case "$*" in *version_info*) exit 1 ;; esac')
    (machine.bin / "python3.12").symlink_to(os.path.realpath(sys.executable))
    answer = machine.ask("python", "look", "python3")
    assert answer.state == "ok"
    assert answer.facts["python"] == "python3.12"


def test_a_python_that_nothing_starts_is_not_enough(machine: Machine) -> None:
    # As a package manager that was killed leaves it. An old `python3` would hand over.
    (machine.bin / "python3.12").symlink_to(os.path.realpath(sys.executable))
    answer = machine.ask("python", "look", "python3")
    assert (answer.state, answer.hint) == ("skipped", f"name it: python: {machine.bin}/python3.12")
    assert answer.detail.startswith("not installed; python3.12 is there")
    assert machine.ask("python", "look", "python3.12").state == "ok"
    machine.program(
        "apt-get",
        f'printf "#!/bin/sh\\nexec python3.12 \\"\\$@\\"\\n" >"{machine.bin}/python3"\n'
        f'chmod +x "{machine.bin}/python3"',
    )
    assert machine.ask("python", "apply", "python3").state == "done"


def test_a_python_without_its_library_is_not_enough(machine: Machine) -> None:
    real = os.path.realpath(sys.executable)
    machine.program("python3", f'case "$*" in *asyncio*) exit 1 ;; esac; exec {real} "$@"')
    asked = machine.home / "asked"
    machine.program("apt-get", f'echo "$*" >>"{asked}"; exit 100')
    answer = machine.ask("python", "apply", "python3")
    assert answer.state == "failed"
    assert answer.detail.startswith("python3 lacks parts of its standard library")
    assert asked.read_text().splitlines()[0].endswith(" python3")
    (machine.bin / "python3.12").symlink_to(real)  # nothing hands over to it
    assert machine.ask("python", "apply", "python3").hint.startswith("name it: python: ")


LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"


@pytest.mark.parametrize("busy", [2, 99])
def test_whoever_fetches_the_lists_of_packages_is_waited_for(tmp_path: Path, busy: int) -> None:
    machine = Machine(tmp_path, ("dash",))
    asked = machine.home / "asked"
    (machine.bin / "sleep").unlink()
    machine.program("sleep", ":")  # the wait between two tries
    machine.program(
        "apt-get",
        f'echo "$1" >>"{asked}"; tries=$(sed -n /update/p "{asked}" | wc -l)\n'
        f'if [ "$1" = update ]; then [ "$tries" -gt {busy} ] ||'
        f' {{ echo "{LOCKED}" >&2; exit 100; }}'
        f'\nelif [ "$tries" -gt {busy} ]; then printf "#!/bin/sh\\necho tmux 3.3a\\n" '
        f'>"{machine.bin}/tmux"; chmod +x "{machine.bin}/tmux"\n'
        'else echo "E: Unable to locate package tmux" >&2; exit 100; fi',
    )
    answer = machine.ask("program", "apply", "tmux", "-V", "3.0")
    tries = asked.read_text().splitlines().count("update")
    if busy == 2:
        assert (answer.state, tries) == ("done", 3), answer
    else:
        assert (answer.state, tries) == ("failed", 13), answer
        assert "could not be fetched: E: Could not get lock" in answer.detail
        assert "apt-get update" in answer.hint


def test_lists_that_cannot_be_fetched_are_not_a_system_that_has_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ("dash",))
    asked = machine.home / "asked"
    machine.program(  # apt says so, and ends with 0
        "apt-get",
        f'echo "$1" >>"{asked}"; [ "$1" != update ] || {{\n'
        'echo "W: Failed to fetch http://mirror.test/InRelease  Could not connect" >&2\n'
        'echo "W: Some index files failed to download." >&2; exit 0; }\n'
        'echo "E: Unable to locate package" >&2; exit 100',
    )
    for step in (("program", "apply", "git", "--version", "2.25"), ("python", "apply", "python3")):
        asked.unlink(missing_ok=True)
        answer = machine.ask(*step)
        assert answer.state == "failed"
        assert "could not be fetched: W: Failed to fetch http://mirror.test" in answer.detail
        assert "from 3.11 on" not in answer.detail
        assert asked.read_text().splitlines().count("update") == 1  # for all names of Python


def test_a_system_whose_python_is_too_old_says_which_it_has(machine: Machine) -> None:
    old = 'case "$*" in *exit*) exit 1 ;; *print*) echo 3.9.2 ;; esac'
    machine.program(
        "apt-get",
        f'case "$*" in *python3) ;; *) exit 100 ;; esac\n'
        f'cat >"{machine.bin}/python3" <<"END"\n#!/bin/sh\n{old}\nEND\n'
        f'chmod +x "{machine.bin}/python3"',
    )
    answer = machine.ask("python", "apply", "python3")
    assert answer.state == "failed"
    assert answer.detail.startswith("3.9.2 is too old, and this system has none from 3.11 on")


def test_where_there_is_no_sudo_nobody_is_told_to_use_it(machine: Machine) -> None:
    (machine.bin / "id").unlink()
    machine.program("id", "case $1 in -u) echo 1000 ;; *) echo steve ;; esac")
    machine.program("apt-get", ":")
    answer = machine.ask("program", "apply", "git", "--version", "2.25")
    assert answer.detail == "not installed, and there is no sudo here"
    assert answer.hint == "as root: apt-get install -y git"


def test_parameters_are_never_read_as_shell(machine: Machine) -> None:
    hostile = "x'; touch $HOME/owned; $(touch $HOME/owned) `touch $HOME/owned`\n#"
    answer = machine.ask("town", "look", hostile, hostile)
    assert answer.state == "would"
    assert not (machine.home / "owned").exists()


def test_a_file_in_pieces_is_whole_or_absent(machine: Machine) -> None:
    assert machine.ask("receive", "a/b", "0", "more", "YWJj").state == "done"
    assert not (machine.home / "a" / "b").exists()
    assert machine.ask("receive", "a/b", "7", "last", "ZGVm").state == "failed"
    assert machine.ask("receive", "a/b", "3", "last", "ZGVm").state == "done"
    assert (machine.home / "a" / "b").read_text() == "abcdef"
    assert (machine.home / "a" / "b").stat().st_mode & 0o777 == 0o600


def test_an_agent_that_does_not_run_is_said_so(machine: Machine) -> None:
    machine.program("npm", f'mkdir -p "{machine.home}/.local/bin"')
    machine.program("claude", "exit 1")
    answer = machine.ask("agent", "apply", "claude", "@anthropic-ai/claude-code")
    assert answer.state == "failed"
    assert "claude --version" in answer.hint


NPM_SAYS = """npm ERR! code 1
npm ERR! SyntaxError: Unexpected token '.'
npm ERR!     at wrapSafe (internal/modules/cjs/loader.js:915:16)
npm ERR!     at internal/main/run_main_module.js:17:47

npm ERR! A complete log of this run can be found in:
npm ERR!     /home/steve/.npm/_logs/2026-11-27T09_15_21_257Z-debug.log"""


def test_an_agent_that_node_is_too_old_for_says_so(machine: Machine) -> None:
    machine.program("npm", f"cat >&2 <<'END'\n{NPM_SAYS}\nEND\nexit 1")
    machine.program("node", "echo v12.22.12")
    answer = machine.ask("agent", "apply", "claude", "@anthropic-ai/claude-code")
    assert answer.state == "failed"
    assert "Node.js v12.22.12, which may be too old" in answer.detail
    assert answer.detail.endswith("SyntaxError: Unexpected token '.'")
    assert "Node.js 22" in answer.hint


def test_a_script_that_hangs_is_ended_with_all_that_it_started(machine: Machine) -> None:
    pid = machine.home / "pid"
    text = f'echo $$ >"{pid}"; sleep 60 & wait'
    for seconds in (0.5, 2.0, 8.0, 30.0):
        with pytest.raises(UnreachableError, match="did not end within"):
            asyncio.run(machine.shell.run(text, [], seconds))
        if pid.exists():  # else it had no time to begin
            break
    assert running(int(pid.read_text())) == []


def test_noise_is_no_answer_and_a_password_is_not_shown(machine: Machine) -> None:
    machine.program("git", 'echo "fatal: no https://me:hunter2@example.com/x" >&2; exit 128')
    answer = machine.ask("town", "apply", "~/ai", "https://example.com/x")
    assert answer.state == "failed"
    assert "fatal: no" in answer.detail
    assert "hunter2" not in answer.detail


def running(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    found = []
    for entry in entries():
        try:
            state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(entry.name)
    return found


def run(outpost: LocalOutpost, *, dry_run: bool) -> list[Step]:
    async def main() -> list[Step]:
        return [step async for step in outpost.outpost_bootstrap(agents=["x"], dry_run=dry_run)]

    return asyncio.run(main())


def test_this_machine_is_looked_at_and_left_alone(tmp_path: Path) -> None:
    context = BuildContext(state_dir=tmp_path / "state")
    outpost = LocalOutpost("local", LocalOptions(), context)
    said = run(outpost, dry_run=True)
    assert [step.name for step in said if step.state == "doing"][:3] == ["system", "git", "tmux"]
    states = {step.name: step.state for step in said}
    assert states["git"] == states["tmux"] == "ok"
    assert states["agent x"] == "skipped"  # a plugin's: nobody here knows how it is installed
    assert not (tmp_path / "state").exists()


def test_the_last_step_says_what_is_still_missing() -> None:
    well = Finding(check="tmux", ok=None, detail="not installed")
    bad = Finding(check="git", ok=False, detail="not installed", hint="apt install git")
    assert steps.verdict([well]).state == "ok"
    answer = steps.verdict([well, bad])
    assert (answer.state, answer.hint) == ("failed", "apt install git")
    assert "git: not installed" in answer.detail
    agent = Finding(check="agent claude", ok=None, detail="not installed", hint="npm install …")
    assert steps.verdict([well, agent], ["codex"]).state == "ok"
    silent = Finding(check="agent claude", ok=None, detail="/bin/claude; no login of it was seen")
    assert steps.verdict([well, silent], ["claude"]).state == "ok", "keys come along with orders"
    answer = steps.verdict([well, agent], ["claude"])
    assert (answer.state, answer.hint) == ("failed", "npm install …"), "it was asked for"


NPM_REFUSED = """npm error code EACCES
npm error syscall mkdir
npm error path /usr/lib/node_modules
npm error errno -13
npm error Error: EACCES: permission denied, mkdir '/usr/lib/node_modules'
npm error The operation was rejected by your operating system.
npm error It is likely you do not have the permissions to access this file."""


def test_what_npm_says_first_is_shown_and_not_its_advice(machine: Machine) -> None:
    machine.program("npm", f"cat >&2 <<'END'\n{NPM_REFUSED}\nEND\nexit 243")
    machine.program("node", "echo v22.1.0")
    answer = machine.ask("agent", "apply", "claude", "@anthropic-ai/claude-code")
    assert answer.state == "failed"
    assert "npm: code EACCES; syscall mkdir; path /usr/lib/node_modules" in answer.detail
    assert "likely" not in answer.detail


def test_a_password_of_the_towns_address_stays_here(tmp_path: Path) -> None:
    source = asyncio.run(town.find_source("https://me:hunter2@example.com/hq.git", None))
    assert source is not None
    assert source.url == "https://example.com/hq.git"


# --- the right to push --------------------------------------------------------------------


def bare(path: Path) -> Path:
    subprocess.run(["git", "init", "-q", "--bare", path], check=True)
    return path


def test_a_rig_that_takes_pushes_is_left_as_it_was(tmp_path: Path) -> None:
    rig = bare(tmp_path / "rig.git")
    for said in (str(rig), f"file://{rig}"):
        finding = rigcheck.push_rights(said)
        assert finding.ok is True, finding
    refs = subprocess.run(["git", "-C", rig, "for-each-ref"], capture_output=True, check=True)
    assert refs.stdout == b""


def test_a_rig_that_is_not_there_is_named_with_a_hint(tmp_path: Path) -> None:
    finding = rigcheck.push_rights(str(tmp_path / "none.git"))
    assert finding.ok is False
    assert "cannot be read" in finding.detail
    assert finding.hint


def test_a_rig_that_refuses_pushes_is_told_from_one_that_can_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = bare(tmp_path / "rig.git")
    ssh = tmp_path / "ssh"  # a git host that lets this key read alone
    ssh.write_text(
        '#!/bin/sh\ncase "$*" in *receive-pack*) echo "remote: read only key" >&2; exit 1 ;; esac\n'
        'for last; do :; done\neval "$last"\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")
    finding = rigcheck.push_rights(f"ssh://git@example.com{rig}")
    assert finding.ok is False
    assert "not pushed to" in finding.detail
    assert "read only key" in finding.detail
    assert "ssh-keygen" in finding.hint


def test_a_password_is_used_and_not_shown() -> None:
    finding = rigcheck.push_rights("https://me:hunter2@127.0.0.1:9/x.git", timeout=60)
    assert finding.ok is False
    assert "hunter2" not in finding.detail + finding.hint
    assert "127.0.0.1:9/x.git" in finding.detail
