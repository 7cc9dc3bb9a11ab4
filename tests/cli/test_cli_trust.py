"""`outpost trust`, and what commands say and refuse in a folder with a file that is not trusted."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from outpost_testing.users import OTHER, give

MAIN = "from outpost_manager.cli import main; main()"
SEED = Path(__file__).parent.parent / "data" / "outposts.yaml"


class Place:
    """A clone that looks like a town, with a configuration that runs a command when it is used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.town = folder / "work" / "clone"
        self.file = self.town / "config" / "outposts.yaml"
        self.ran = folder / "ran"
        for each in (self.town / "mayor", self.file.parent, self.town / "sub", folder / "home"):
            each.mkdir(parents=True)
        (self.town / "mayor" / "town.json").write_text("{}")
        self.write(f"id >{self.ran}; sleep 1")
        keep = {
            k: v for k, v in os.environ.items() if not k.startswith(("OUTPOST_", "XDG_", "GT_"))
        }
        self.env = {
            **keep,
            "HOME": str(folder / "home"),
            "OUTPOST_STATE": str(folder / "state"),
            "NO_COLOR": "1",
            "OUTPOST_KEEP": "0",
        }

    def write(self, command: str, more: str = "") -> None:
        self.file.write_text(
            f"outposts:\n  - name: e\n    type: exec\n    command: [sh, -c, {command!r}]\n{more}"
        )

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", MAIN, *words], cwd=cwd or self.town / "sub", env=self.env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def on_terminal(self, *words: str, answer: str, after: str = "trust what") -> tuple[int, str]:
        """Run on a terminal, answer the first question, and return code and all that was shown."""
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir(self.town / "sub")
            os.execve(sys.executable, [sys.executable, "-c", MAIN, *words], self.env)
        shown, until, answered = b"", time.monotonic() + 90, False
        while time.monotonic() < until:
            if not select.select([fd], [], [], 1)[0]:
                continue
            try:
                piece = os.read(fd, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
            if not answered and after.encode() in shown and shown.rstrip().endswith(b"[y/N]:"):
                os.write(fd, f"{answer}\n".encode())
                answered = True
        os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode(errors="replace")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    "words", [("status",), ("list",), ("ping",), ("workers",), ("doctor", "--no-rig")]
)
def test_nothing_of_an_untrusted_file_runs_and_the_next_in_line_is_used(
    place: Place, words: tuple[str, ...]
) -> None:
    done = place.run(*words)
    assert not place.ran.exists()
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr.count("is not used") == 1
    assert f"note: {place.file} is not used: it was found here, and you have not trusted" in (
        done.stderr
    )
    assert f"→ outpost trust {place.file}" in done.stderr
    assert "(built in)" in place.run("config", "show").stdout


def test_one_trust_and_it_counts_for_its_owner(place: Place) -> None:
    done = place.run("trust")
    assert done.returncode == 0, done.stderr
    assert 'outposts.e.command: ["sh", "-c", ' in done.stderr
    assert done.stdout == f"{place.file}: trusted\n"
    place.run("status")
    assert place.ran.exists()


def test_the_seed_loads_after_one_trust(place: Place) -> None:
    shutil.copy(SEED, place.file)
    assert "gce-worker-1" not in place.run("list").stdout
    assert place.run("trust", str(place.town)).returncode == 0
    listed = place.run("list")
    assert "gce-worker-1" in listed.stdout
    assert "not used" not in listed.stderr
    shown = place.run("config", "show").stdout.splitlines()
    assert shown[0] == f"{place.file} (town)"
    assert shown[1].endswith("outpost/outposts.yaml (user): not there")


CHANGES = {
    "a command": "    cwd: /\n",
    "an agent": "agents:\n  claude:\n    headless: [sh, -c, 'id >{ran}']\n",
    "a pull request": "defaults:\n  pr_command: [sh, -c, 'id >{ran}']\n",
    "a host": "  - {{name: far, type: ssh, host: evil.example, config: ./ssh_config}}\n",
    "variables": "defaults:\n  pass_env: [AWS_SECRET_ACCESS_KEY]\n",
    "a comment": "# harmless\n",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused_where_nobody_can_be_asked(place: Place, change: str) -> None:
    place.run("trust")
    with place.file.open("a") as file:
        file.write(CHANGES[change].format(ran=place.ran))
    (place.file.parent / "ssh_config").write_text(
        f"Match exec 'id >{place.ran}'\n  ProxyCommand sh -c 'id >{place.ran}'\n"
    )
    for words in (("status",), ("spawn", "x-1", "--no-rig", "--title", "t", "--", "true")):
        done = place.run(*words)
        assert done.returncode == 2
        assert "has changed since you trusted it" in done.stderr
        assert f"→ outpost trust {place.file}" in done.stderr
    assert not place.ran.exists()
    checked = place.run("config", "check")
    assert checked.returncode == 0, "what is checked is what would be trusted"
    assert str(place.file) in checked.stdout
    assert not place.ran.exists()
    again = place.run("trust", "--json")
    assert again.returncode == 0
    place.run("status")
    assert place.ran.exists()


def test_on_a_terminal_a_change_is_shown_and_asked_about(place: Place) -> None:
    code, shown = place.on_terminal("trust", answer="n")
    assert (code, "nothing was trusted" in shown) == (1, True)
    assert place.run("trust", "--list").stdout == ""
    code, shown = place.on_terminal("trust", answer="y")
    assert code == 0, shown
    place.write(f"touch {place.ran}")
    code, shown = place.on_terminal("status", answer="n")
    assert code == 2, shown
    assert not place.ran.exists()
    assert "has changed since you trusted it:" in shown
    assert f'+ outposts.e.command: ["sh", "-c", "touch {place.ran}"]' in shown.replace("\r\n", "")
    code, shown = place.on_terminal("status", answer="y")
    assert place.ran.exists(), shown


def test_a_file_with_escape_sequences_is_shown_without(place: Place) -> None:
    place.file.write_text('outposts:\n  - {name: "e\\e]0;owned\\a", type: "x\\e[31m"}\n')
    done = place.run("trust", "--yes")
    assert "\x1b" not in done.stderr + done.stdout
    assert "owned" in done.stderr


def test_revoke_and_list(place: Place) -> None:
    assert place.run("trust", "--revoke").returncode == 4
    place.run("trust")
    assert place.run("trust", "--list").stdout == f"{place.file}: trusted\n"
    place.file.write_text("policy: {}\n")
    assert "changed since it was trusted" in place.run("trust", "--list").stdout
    place.file.unlink()
    assert place.run("trust", "--list").stdout == f"{place.file}: gone\n"
    assert place.run("trust", "--revoke").stdout == f"{place.file}: revoked\n"
    assert place.run("trust", "--list").stdout == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("trust", "/"), 4, "is in no Gas Town"),
        (("trust", "no/such/file"), 4, "there is no"),
        (("trust", "/etc/passwd"), 2, "is no file that is found by walking up"),
        (("trust", "--list", "x"), 2, "--list takes nothing else"),
    ],
)
def test_what_cannot_be_trusted_is_told(
    place: Place, words: tuple[str, ...], code: int, said: str
) -> None:
    done = place.run(*words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_broken_file_is_not_trusted(place: Place) -> None:
    place.file.write_text("outposts: [\n")
    done = place.run("trust")
    assert done.returncode == 2
    assert place.run("trust", "--list").stdout == ""


def test_the_list_of_rigs_is_trusted_with_its_town(place: Place) -> None:
    rigs = place.town / "mayor" / "rigs.json"
    rigs.write_text('{"rigs": {"sub": {"git_url": "https://u:word@evil.example/x.git"}}}')
    order = ("explain", "x-1", "--title", "t", "--", "true")
    done = place.run(*order)
    assert done.returncode == 2
    assert "you have not trusted it" in done.stderr
    assert "word" not in done.stderr
    told = place.run("trust", str(rigs))
    assert "rigs.sub.git_url: https://***@evil.example/x.git" in told.stderr
    assert place.run(*order).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make files of another user")
def test_a_file_of_another_user_in_a_shared_folder_is_passed_over(place: Place) -> None:
    shared = place.town.parent
    shared.chmod(0o1777)
    give(place.town, OTHER)
    done = place.run("status")
    assert not place.ran.exists()
    assert f"is not used: {place.town}: it belongs to the user {OTHER}" in done.stderr
    assert place.run("trust").returncode == 2
    shown: Any = place.run("config", "show").stdout
    assert f"not {place.file} (town): {place.town}: it belongs to the user {OTHER}" in shown


def test_completion_says_and_asks_nothing(place: Place) -> None:
    place.run("trust")
    place.write("true", "# changed\n")
    env = place.env | {
        "_OUTPOST_COMPLETE": "bash_complete", "COMP_WORDS": "outpost ping ", "COMP_CWORD": "2",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MAIN], cwd=place.town / "sub", env=env, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""


# --- what Python finds in the current folder -----------------------------------------------------


@pytest.mark.parametrize("way", ["module", "script with an empty PYTHONPATH", "module with one"])
def test_no_module_and_no_plugin_comes_from_the_current_folder(place: Place, way: str) -> None:
    here = place.town / "sub"
    mark = f"open({str(place.ran)!r}, 'w')\n"
    for name in ("evil", "click", "yaml", "pluggy"):
        (here / f"{name}.py").write_text(mark)
    package = here / "evil-1.dist-info"
    package.mkdir()
    (package / "entry_points.txt").write_text("[outpost]\nevil = evil\n")
    (package / "METADATA").write_text("Name: evil\nVersion: 1\n")
    if way != "module":
        place.env["PYTHONPATH"] = ":/nowhere"
    script = Path(sys.executable).parent / "outpost"
    argv = [str(script)] if "script" in way else [sys.executable, "-m", "outpost_manager"]
    done = subprocess.run(
        [*argv, "backends"], cwd=here, env=place.env, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "evil" not in done.stdout
    assert not place.ran.exists()


def test_nothing_is_hidden_behind_much_that_is_harmless(place: Place) -> None:
    """All that a file says is shown: the last line, and the end of a long one."""
    many = "".join(f"  - {{name: l{n}, type: local, max_workers: 1}}\n" for n in range(40))
    place.write("true", many + "  - {name: z, type: exec, command: [the-last]}\n")
    shown = place.run("trust").stderr
    assert "the-last" in shown
    place.write(f": {'x' * 2000}; the-end")
    assert "the-end" in place.run("trust").stderr
    place.write(f": {'x' * 2000}; another-end")
    code, said = place.on_terminal("status", answer="n")
    assert code == 2
    assert "another-end" in said
    assert "says nothing new" not in said
    assert not place.ran.exists()
