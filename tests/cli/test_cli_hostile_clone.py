"""A repository that somebody has sent, `.git` and all: looking at it runs nothing that it names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from outpost_manager.orders import localgit, unpushed
from tests.cli.conftest import git

SECRET = "of-the-caller"


@pytest.fixture
def trap(rig, outpost, monkeypatch):
    """The user's clone, after a stranger has configured it; `ran()` says what has run."""
    loot = outpost.folder / "loot"
    loot.mkdir()
    monkeypatch.setenv("A_TOKEN", SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    clone = rig.clone

    def program(name):
        path = outpost.folder / f"trap-{name}"
        path.write_text(f'#!/bin/sh\nenv >"{loot}/{name}.$$"\ncat 2>/dev/null\nexit 0\n')
        path.chmod(0o755)
        return str(path)

    def config(key, value):
        git("config", "--add", key, value, cwd=clone)

    for key in (
        *("core.fsmonitor", "core.sshCommand", "core.gitProxy", "core.alternateRefsCommand"),
        *(
            "core.pager",
            "core.editor",
            "core.askPass",
            "pager.status",
            "pager.config",
            "pager.diff",
        ),
        *(
            "diff.external",
            "diff.x.textconv",
            "diff.x.command",
            "filter.x.clean",
            "filter.x.smudge",
        ),
        *("filter.a=b.clean", "filter.a=b.process", "credential.helper", "gpg.program"),
        *("uploadpack.packObjectsHook", "interactive.diffFilter", "sequence.editor"),
        "merge.x.driver",
    ):
        config(key, program(key.replace(".", "-").replace("=", "-")))
    (clone / ".gitattributes").write_text("* filter=x diff=x merge=x\n*.b filter=a=b\n")
    (clone / "x.b").write_text("b\n")
    git("-c", "core.fsmonitor=false", "-c", "filter.x.clean=", "-c", "filter.x.smudge=", "add",
        "-A", cwd=clone)  # fmt: skip
    hooks = clone / ".git/hooks"
    shutil.rmtree(hooks, ignore_errors=True)
    hooks.mkdir()
    for name in ("post-index-change", "post-checkout", "reference-transaction", "pre-auto-gc",
                 "fsmonitor-watchman", "query-watchman", "pre-commit", "post-merge"):  # fmt: skip
        shutil.copy(program(f"hook-{name}"), hooks / name)
    config("core.hooksPath", str(hooks))
    # so that every look compares contents
    (clone / "one").write_text("2\n")
    os.utime(clone / "one", (1, 1))
    shutil.rmtree(loot)
    loot.mkdir()

    def ran():
        return sorted(path.name.partition(".")[0] for path in loot.iterdir())

    rig.ran, rig.loot = ran, loot
    return rig


def test_the_trap_works(trap):
    git("status", cwd=trap.clone)
    assert trap.ran()


@pytest.mark.parametrize(
    "words",
    [("status",), ("workers",), ("list",), ("explain", "x"), ("config", "show"), ("history",)],
)
def test_looking_from_within_it_runs_nothing(trap, words):
    trap(*words, cwd=trap.clone)
    assert trap.ran() == []


def test_a_spawn_from_within_it_runs_nothing(trap):
    done = trap("spawn", "x", "--wait", "--", "sh", "-c", "echo new >new", cwd=trap.clone)
    assert done.returncode == 0, done.stderr
    assert "changed here" in done.stderr  # the working tree was looked at
    assert trap.ran() == []
    shown = trap("diff", "x", cwd=trap.clone)
    assert "+new" in shown.stdout
    assert json.loads(trap("diff", "x", "--json", cwd=trap.clone).stdout)["branch"]
    trap("spawn", "y", "--base", "HEAD", "--", "true", cwd=trap.clone)
    trap("retry", "x", cwd=trap.clone)
    assert trap.ran() == []


def test_a_spawn_for_it_runs_nothing_before_its_work_is_pushed(trap, outpost):
    """As the rig itself: what pushing there runs, an ordinary `git push` would run, too."""
    done = trap("spawn", "x", "--rig", ".", "--wait", "--", "true", cwd=trap.clone)
    assert done.returncode == 0, done.stderr
    assert trap.ran() == []


def test_objects_that_are_missing_are_fetched_from_nowhere(trap, outpost):
    """A partial clone names a remote, and how to reach it, for whatever is not there."""
    clone = trap.clone
    ssh = outpost.folder / "ssh"
    ssh.write_text(f"#!/bin/sh\ntouch {trap.loot}/ssh\nexit 1\n")
    ssh.chmod(0o755)
    for key, value in (
        ("core.sshCommand", str(ssh)),
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "evil"),
        ("remote.evil.url", "host:x"),
        ("remote.evil.promisor", "true"),
    ):
        git("config", "--replace-all", key, value, cwd=clone)
    blob = git("rev-parse", "HEAD:one", cwd=clone)
    (clone / ".git/objects" / blob[:2] / blob[2:]).unlink()
    for words in (("rev-list", "--objects", "HEAD"), ("cat-file", "-p", blob)):
        localgit.git(clone, *words)
    local = localgit.LocalGit(clone, os.environ)
    unpushed.left(local, None)
    trap("spawn", "x", "--", "true", cwd=clone)
    assert trap.ran() == []
    subprocess.run(["git", "cat-file", "-p", blob], cwd=clone, check=False, capture_output=True)
    assert trap.ran() == ["ssh"]  # that is what would have happened


def test_no_key_of_the_caller_is_in_a_git_that_looks_around(trap, outpost, monkeypatch):
    real = shutil.which("git")
    bin_ = outpost.folder / "bin"
    bin_.mkdir()
    (bin_ / "git").write_text(f'#!/bin/sh\nenv >>"{trap.loot}/env"\nexec {real} "$@"\n')
    (bin_ / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    local = localgit.LocalGit(trap.clone, os.environ)
    assert local.around() is not None
    assert unpushed.left(local, None) is not None
    seen = (trap.loot / "env").read_text()
    assert "GIT_ALLOW_PROTOCOL=none" in seen
    assert SECRET not in seen


def test_what_the_user_has_for_files_of_some_kind_is_not_run_on_the_work(rig, outpost):
    """Attributes in an agent's commit choose among the drivers of the user's own configuration."""
    loot = outpost.folder / "ran"
    (outpost.folder / ".gitconfig").write_text(
        f'[diff "pdf"]\n\ttextconv = "touch {loot}; cat"\n[diff]\n\texternal = "touch {loot}"\n'
        f"[core]\n\tattributesFile = {outpost.folder}/attributes\n"
    )
    (outpost.folder / "attributes").write_text("* diff=pdf\n")
    script = "echo new >new; printf '* diff=pdf\\n' >.gitattributes"
    done = rig("spawn", "x", "--rig", str(rig.bare), "--wait", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert "+new" in rig("diff", "x").stdout
    assert not loot.exists()
