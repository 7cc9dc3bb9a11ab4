"""`outpost plugin new`: what it makes can be installed, passes its own tests, and works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from outpost_manager.plugins.scaffold import KINDS

MAIN = "from outpost_manager.cli import main; main()"


def run(*words: str, cwd: Path, code: int = 0, **env: str) -> str:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("OUTPOST_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=keep | {"HOME": str(cwd)} | env,
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_installs_passes_its_tests_and_is_seen(tmp_path: Path, kind: str) -> None:
    made = json.loads(
        run("-c", MAIN, "plugin", "new", "my-thing", "--kind", kind, "--json", cwd=tmp_path)
    )
    folder = tmp_path / made["folder"]
    assert folder.name == made["package"] == "outpost-my-thing"
    assert {"pyproject.toml", "README.md", ".github/workflows/test.yml"} <= {*made["files"]}
    for file in made["files"]:
        assert not re.search(r"@\w+@", (folder / file).read_text()), file
    assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"]
    site = tmp_path / "site"
    run(
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"),
        *("--target", str(site), str(folder)), cwd=tmp_path,
    )  # fmt: skip
    run("-m", "pytest", "-q", "-W", "error", str(folder), cwd=folder, PYTHONPATH=str(site))
    state = ("--state", str(tmp_path / "state"))
    shown = run(
        "-c", MAIN, *state, "plugins", "my-thing", "--json", cwd=tmp_path, PYTHONPATH=str(site)
    )
    (plugin,) = json.loads(shown)["plugins"]
    assert (plugin["ok"], plugin["problems"], plugin["errors"]) == (True, [], [])
    assert plugin["package"] == "outpost-my-thing"
    given = {
        "outpost": plugin["types"], "agent": plugin["agents"], "command": plugin["commands"],
        "policy": plugin["roles"],
    }  # fmt: skip
    assert given[kind] == (["policy"] if kind == "policy" else ["my-thing"])


def test_what_is_made_is_clean_to_the_linter_and_typed(tmp_path: Path) -> None:
    for kind in KINDS:
        run("-c", MAIN, "plugin", "new", f"x-{kind}", "--kind", kind, cwd=tmp_path)
        folder = tmp_path / f"outpost-x-{kind}"
        ruff = ("-m", "ruff", "check", "--isolated", "--select", "E,F,I,B,UP")
        run(*ruff, "--line-length", "100", ".", cwd=folder)
        run("-m", "ruff", "format", "--isolated", "--line-length=100", "--check", ".", cwd=folder)


@pytest.mark.parametrize(
    "name", ["", "Big", "a_b", "-x", "../x", "x" * 60, "local", "outpost-core"]
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    out = run(
        "-c", MAIN, "plugin", "new", "--kind", "policy", "--json", "--", name, cwd=tmp_path, code=2
    )
    assert json.loads(out)["error"]["message"]
    assert [*tmp_path.iterdir()] == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "outpost-mine").mkdir()
    (tmp_path / "outpost-mine" / "precious").write_text("work")
    words = ("plugin", "new", "mine", "--kind", "policy", "--json")
    assert "not empty" in run("-c", MAIN, *words, cwd=tmp_path, code=2)
    assert [f.name for f in (tmp_path / "outpost-mine").iterdir()] == ["precious"]


def test_a_command_that_outpost_has_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    for name in ("list", "outpost-list"):
        said = run(
            "-c", MAIN, "plugin", "new", name, "--kind", "command", "--json", cwd=tmp_path, code=2
        )
        assert "already" in json.loads(said)["error"]["message"]
    assert not (tmp_path / "outpost-list").exists()
    run("-c", MAIN, "plugin", "new", "list", "--kind", "policy", cwd=tmp_path)
