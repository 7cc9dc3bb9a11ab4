"""`outpost image build` where it cannot build, and what it asks of podman and docker."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from peers import containers as peer
from peers.containers import CONFINED, Containers, Image, podman

from outpost_container import registries

OUTPOST = Path(sys.executable).with_name("outpost")


def outpost(
    tmp_path: Path, *words: str, path: str | None = None, **env: str
) -> tuple[int, str, str]:
    done = subprocess.run(
        [OUTPOST, "--state", tmp_path / "state", "image", "build", *words],
        env={**os.environ, **env, **({"PATH": path} if path is not None else {})},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def program(tmp_path: Path, name: str, script: str) -> str:
    """Make a program that stands for an engine; return a PATH with it alone."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(stat.S_IRWXU)
    return str(folder)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--agent", "clod"), "'clod' is not an agent that the image can be built with", "FROM"),
        (("--agent", "claude@1 2"), "'1 2' is not a version", "--agent claude"),
        (("--agent", "codex", "--agent", "codex@1.0"), "codex is asked for twice", "once"),
        (("--push",), "--push needs a name that begins with a registry", "--tag"),
        (("--push", "--tag", "mine"), "--push needs a name that begins with a registry", "--tag"),
        (("--agent", "claude", "--agents-from", "."), "has no package @anthropic", "npm install"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_built(
    tmp_path: Path, words: tuple[str, ...], message: str, hint: str
) -> None:
    code, out, err = outpost(tmp_path, *words, path=str(tmp_path))
    assert (code, out) == (2, "")
    assert message in err
    assert hint in err.partition("→")[2]
    assert "Traceback" not in err


def test_without_an_engine_it_says_what_to_do(tmp_path: Path) -> None:
    code, _, err = outpost(tmp_path, path=str(tmp_path))
    assert code == 2
    assert "neither podman nor docker was found" in err
    assert "apt-get install podman" in err
    assert "--context FOLDER" in err
    code, _, err = outpost(tmp_path, "--engine", "docker", path=str(tmp_path))
    assert (code, "docker was not found" in err) == (2, True)


def test_the_folder_can_be_written_for_a_build_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    code, out, _ = outpost(tmp_path, "--context", str(folder), "--agent", "codex@0.169.0", "--json")
    answer = json.loads(out)
    assert (code, answer["context"], answer["id"]) == (0, str(folder), None)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"Containerfile", "enter", "pick", "requirements.txt"} < names
    assert sum(name.endswith(".whl") for name in names) == 6
    _, out, _ = outpost(tmp_path, "--context", str(tmp_path / "there"), "--agent", "codex@0.169.0")
    assert "--build-arg NPM_PACKAGES='@openai/codex@0.169.0'" in out


def test_a_base_that_is_nowhere_is_named_with_what_to_do(
    tmp_path: Path, containers: Containers
) -> None:
    base = "localhost:1/debian:nowhere"
    code, out, err = outpost(tmp_path, "--engine", "podman", "--base", base, **containers.env)
    assert (code, out) == (1, "")
    assert f"{base}, which the image begins from, cannot be had" in err
    assert "--base IMAGE" in err


@pytest.mark.parametrize("name", ["podman", "docker"])
def test_a_build_that_fails_shows_the_end_of_what_was_said(tmp_path: Path, name: str) -> None:
    path = program(
        tmp_path,
        name,
        "echo '[1/2] STEP 1/5: FROM x AS python'; echo '#12 [python 3/8] RUN apt-get install'\n"
        "echo '#9 [stage-3 2/7] RUN apt-get install'\n"
        "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo line $i; done\n"
        "printf 'E: \\033[31mno space\\n' >&2; exit 7",
    )
    code, _, err = outpost(tmp_path, "--engine", name, path=f"{path}:/bin:/usr/bin")
    assert code == 1
    assert f"the image could not be built by {name}; it said:" in err
    told = err.splitlines()
    assert told[:2] == ["installing the far side of Outpost", "putting the image together"]
    assert "line 40" in err
    assert "line 20" not in err
    assert "\x1b" not in err


def test_a_push_that_is_not_allowed_says_how_to_log_in(tmp_path: Path) -> None:
    script = (
        'case $1 in build) for word; do [ "$last" != --iidfile ] || echo sha256:1 >"$word";'
        " last=$word; done ;; image) echo 5 ;; push) echo 'unauthorized: no'; exit 125 ;; esac"
    )
    path = program(tmp_path, "podman", script)
    tag = "registry.example/me/worker"
    code, out, err = outpost(tmp_path, "--tag", tag, "--push", path=f"{path}:/bin:/usr/bin")
    assert (code, out) == (1, "")
    assert f"{tag} could not be pushed by podman; it said:\n  unauthorized: no" in err
    assert "podman login registry.example" in err
    assert "gcloud auth configure-docker registry.example" in err


def test_what_reaches_a_registry_is_no_argument_and_no_variable_of_the_build(
    tmp_path: Path,
) -> None:
    """It may hold passwords: files that others cannot read, gone when the build has ended."""
    noted = tmp_path / "noted"
    script = (
        f'[ "$1" = build ] || exit 0; echo "$@" >{noted}\n'
        f'for word; do case $word in *id=settings,src=*) cat "${{word#*src=}}" >>{noted};'
        f' ls -l "${{word#*src=}}" >>{noted} ;; esac; done; exit 1'
    )
    path = program(tmp_path, "podman", script)
    index = "https://me:secret@index.example/simple"
    outpost(tmp_path, path=f"{path}:/bin:/usr/bin", PIP_INDEX_URL=index, HOME=str(tmp_path))
    argv, *rest = noted.read_text().splitlines()
    assert "secret@" not in argv
    assert f"PIP_INDEX_URL={index}" in rest
    assert rest[-1].startswith("-rw------- ")
    assert not Path(rest[-1].split()[-1]).exists()


def test_settings_of_pip_are_taken_from_its_files_and_its_variables(tmp_path: Path) -> None:
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    file = tmp_path / ".config" / "pip" / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://a.example/simple\ncert = /nowhere\ntimeout = 9\n"
        "[install]\nextra-index-url =\n  https://b.example\n  https://c.example/it's\n"
    )
    environ = {"HOME": str(tmp_path), "PIP_INDEX_URL": "https://d.example", "PIP_CERT": "/nowhere"}
    text = registries.settings(environ)
    told = "for name in INDEX_URL EXTRA_INDEX_URL DEFAULT_TIMEOUT; do eval echo \\$PIP_$name; done"
    done = subprocess.run(
        ["sh", "-c", f"{text}\n{told}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "https://d.example", "https://b.example https://c.example/it's", "9",
    ]  # fmt: skip
    file.write_bytes(b"[glo\xff")
    assert "PIP_INDEX_URL" in registries.settings(environ)


@pytest.mark.slow
def test_without_a_folder_of_agents_npm_fetches_them(containers: Containers) -> None:
    env, tag = peer.base(), "localhost/outpost-test-npm:1"
    pinned = (peer.CHECKOUT / ".ci" / "install-agents").read_text()
    version = pinned.partition("\nCODEX=")[2].partition("\n")[0]
    answer = peer.build(env, "--agent", f"codex@{version}", "--tag", tag)
    try:
        assert answer["agents"] == [f"codex@{version}"]
        done = containers.run(tag, "sh", "-c", "codex --version; command -v node npm || echo none")
        assert done.stdout.splitlines() == [f"codex-cli {version}", "none"]
    finally:
        podman(env, "rmi", "--force", tag)


def test_ones_own_tools_go_in_by_an_image_that_begins_from_it(
    containers: Containers, plain: Image, tmp_path: Path
) -> None:
    """As docs/guides/container.md says."""
    guide = (peer.CHECKOUT / "docs" / "guides" / "container.md").read_text()
    text = guide.partition("```dockerfile\n")[2].partition("```")[0]
    assert text.startswith("FROM outpost-worker:")
    _, _, rest = text.partition("\n")
    (tmp_path / "Containerfile").write_text(f"FROM {plain.tag}\n{rest}")
    env = peer.base()
    tag = "localhost/outpost-test-own:1"
    podman(env, "build", "--tag", tag, str(tmp_path))
    try:
        done = containers.run(tag, "sh", "-c", "make --version; id -u", options=CONFINED)
        assert done.stdout.startswith("GNU Make")
        assert done.stdout.endswith("\n10001\n")
    finally:
        podman(env, "rmi", "--force", tag)
