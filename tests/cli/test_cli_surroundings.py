"""A command line in odd surroundings: no folder, no home, other files than expected."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from outpost_shared import terminfo
from outpost_testing.gitrig import GitRig

OUTPOST = [sys.executable, "-c", "from outpost_manager.cli import main; main()"]


def run(*words: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OUTPOST, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_a_folder_that_was_removed_stops_only_what_needs_it(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd {gone}; rmdir {gone}; exec "$@"'
    env = {**os.environ, "OUTPOST_STATE": str(tmp_path / "state"), "HOME": str(tmp_path)}

    def there(*words: str) -> subprocess.CompletedProcess[str]:
        gone.mkdir(exist_ok=True)
        argv = ["sh", "-c", script, "sh", *OUTPOST, *words]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)

    assert there("workers").returncode == 0
    assert there("config", "check").returncode == 0
    refused = there("spawn", "gt-1", "--", "true")
    assert refused.returncode == 2
    assert f"the current folder, {gone}, is not there any more" in refused.stderr
    done = there("spawn", "gt-2", "--no-rig", "--wait", "--", "true")
    assert done.returncode == 0, done.stderr


def test_without_a_home_folder_the_state_has_to_be_named(tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp())  # below no folder of root's alone
    place.chmod(0o1777)
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "OUTPOST_STATE")}
    env = {k: v for k, v in env.items() if not k.startswith("XDG_")} | {"PYTHONPATH": _path()}
    nobody = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]

    def as_nobody(private: bool = False, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*nobody, *OUTPOST, "workers"], env=env | more, capture_output=True, text=True,
            cwd=tmp_path if private else place, timeout=60,
        )  # fmt: skip

    refused = as_nobody()
    assert refused.returncode == 2, refused.stderr
    assert "nobody knows your home folder" in refused.stderr
    assert "OUTPOST_STATE" in refused.stderr
    for private in (False, True):  # also below folders that it may not look into
        done = as_nobody(private, OUTPOST_STATE=str(place / "state"))
        assert done.returncode == 0, done.stderr
    shutil.rmtree(place)


def _path() -> str:
    return os.pathsep.join(part for part in sys.path if part)


def test_a_byte_order_mark_is_no_part_of_an_issue_or_prompt(outpost) -> None:
    Path("issues").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    Path("prompt").write_bytes(b"\xef\xbb\xbfdo it")
    words = ("--no-rig", "--prompt-file", "prompt", "--on", "here", "--", "true")
    said = outpost.json("spawn", "--from-file", "issues", *words)
    assert [one["worker"]["id"] for one in said["spawned"]] == ["a.1", "b.1"]
    assert outpost.here.order("a.1").prompt == "do it"
    Path("issues").write_bytes("a\n".encode("utf-16"))
    error = outpost.json("spawn", "--from-file", "issues", *words, code=2)["error"]
    assert error["hint"] == "save it as UTF-8"


def test_a_terminal_that_nobody_knows_is_taken_for_a_usual_one() -> None:
    assert terminfo.known({"TERM": "xterm-of-nobody"}) in ("xterm-256color", "xterm")
    assert terminfo.known({"TERM": "../../etc"}) in ("xterm-256color", "xterm")
    assert terminfo.known({"TERM": "xterm"}) == "xterm"
    assert terminfo.known({}) == ""


def test_what_stays_behind_is_said(outpost, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", "-b", "main", "repo"], check=True)
    os.chdir("repo")
    Path("new").write_text("1")
    said = outpost.json("spawn", "gt-1", "--on", "here", "--", "true")
    assert said["hints"] == ["the worker starts from main; 1 file is changed here"]
    assert "1 file is changed here" in outpost.run("spawn", "gt-2", "--", "true").stderr
    assert outpost.json("spawn", "gt-3", "--no-rig", "--", "true")["hints"] == []


def test_the_doctor_names_a_repository_that_nothing_may_be_pushed_from(outpost) -> None:
    subprocess.run(["git", "init", "-q", "repo"], check=True)
    os.chdir("repo")
    subprocess.run(["git", "remote", "add", "origin", "https://h/x.git"], check=True)
    subprocess.run(["git", "config", "remote.origin.pushurl", "no_push"], check=True)
    found = outpost.json("doctor", "here", code=1)["findings"]
    (told,) = [one for one in found if one["check"] == "rig"]
    assert "nothing is to be pushed from" in told["detail"]
    without = outpost.run("--json", "doctor", "here", "--no-rig").stdout
    assert "nothing is to be pushed" not in without


def test_a_locale_that_is_not_utf8_changes_no_name_and_no_text(tmp_path: Path) -> None:
    """As with LC_ALL=…ISO-8859-1: Python would take every name for something else."""
    rig = GitRig(tmp_path)
    rig.git("clone", "-q", str(rig.path), "wörk", cwd=tmp_path)
    env = {
        **os.environ, "OUTPOST_STATE": str(tmp_path / "state"), "HOME": str(tmp_path),
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
    }  # fmt: skip
    words = ("--prompt", "Dö☃", "--branch", "b/ü", "--wait", "--json")
    agent = ("--", "sh", "-c", "printf %s {prompt} >ß")
    done = run("spawn", "gt-1", *words, *agent, folder=tmp_path / "wörk", env=env)
    assert done.returncode == 0, done.stdout
    assert rig.git("show", "b/ü:ß", cwd=rig.path) == "Dö☃"
