"""`diff` and `checkout`, on real repositories."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.cli.conftest import MAIN, git

SCRIPT = 'echo more >>one; echo "$OUTPOST_ISSUE" >new'


@pytest.fixture
def worked(rig, outpost):
    """`x` delivered a branch into the bare repository."""
    done = rig("spawn", "x", "--rig", str(rig.bare), "--wait", "--", "sh", "-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    rig.branch = done.stdout.split("→ ")[1].split()[0]
    rig.elsewhere = outpost.folder / "elsewhere"
    rig.elsewhere.mkdir()
    return rig


def state_of(clone):
    """Return all refs, and what the tree says."""
    return (
        git("for-each-ref", cwd=clone),
        git("symbolic-ref", "HEAD", cwd=clone),
        git("status", "--porcelain", cwd=clone),
    )


def test_diff_works_anywhere_and_changes_no_clone(worked):
    before = state_of(worked.clone)
    for folder in (worked.elsewhere, worked.clone):
        done = worked("diff", "x", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "+more" in done.stdout
        assert "new file mode" in done.stdout
    assert state_of(worked.clone) == before
    assert "one" in worked("diff", "x", "--stat").stdout
    assert worked("diff", "x.1", "--name-only").stdout.split() == ["new", "one"]
    said = json.loads(worked("diff", "x", "--json").stdout)
    assert said["worker"] == "x.1"
    assert said["branch"] == worked.branch
    assert said["base"] == git("rev-parse", "main", cwd=worked.bare)
    assert said["commit"] == git("rev-parse", worked.branch, cwd=worked.bare)
    assert "+more" in said["diff"]


def test_diff_is_the_workers_own_however_the_base_goes_on(worked):
    (worked.clone / "other").write_text("o\n")
    git("add", "other", cwd=worked.clone)
    git("commit", "-q", "-m", "other", cwd=worked.clone)
    git("push", "-q", "origin", "main", cwd=worked.clone)
    assert worked("diff", "x", "--name-only").stdout.split() == ["new", "one"]
    git("branch", "-D", worked.branch, cwd=worked.bare)  # gone, and its commit still there
    git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=worked.bare)
    assert worked("diff", "x", "--name-only").stdout.split() == ["new", "one"]


def test_diff_of_what_is_merged_says_so(worked):
    git("fetch", "-q", "origin", cwd=worked.clone)
    git("merge", "-q", "--ff-only", f"origin/{worked.branch}", cwd=worked.clone)
    git("push", "-q", "origin", "main", cwd=worked.clone)
    done = worked("diff", "x")
    assert (done.returncode, done.stdout) == (0, "")
    assert "is in its base already" in done.stderr


def test_diff_of_rescued_work(worked):
    done = worked("spawn", "y", "--rig", str(worked.bare), "--wait", "--", "sh", "-c",
                  "echo half >half; exit 3")  # fmt: skip
    assert done.returncode == 1
    assert worked("diff", "y", "--name-only").stdout.split() == ["half"]
    refused = worked("checkout", "y", cwd=worked.clone)
    assert refused.returncode == 2
    assert "git switch --detach FETCH_HEAD" in refused.stderr


def test_diff_refuses_what_left_nothing(worked):
    done = worked("spawn", "n", "--no-rig", "--wait", "--", "true")
    assert done.returncode == 0
    assert worked("diff", "n").returncode == 4
    assert worked("diff", "nobody").returncode == 4
    assert worked("diff", "x", "--stat", "--name-only").returncode == 2


def test_diff_uses_gits_pager_and_colours_on_a_terminal(worked, outpost):
    main, side = pty.openpty()
    words = ["--config", str(outpost.config), "--state", str(outpost.state), "diff", "x"]
    env = {**os.environ, "TERM": "xterm", "GIT_PAGER": "sed s/^/PAGED:/"}
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words], stdin=side, stdout=side, stderr=side, env=env
    )
    os.close(side)
    seen = b""
    with process:
        while True:
            try:
                chunk = os.read(main, 65536)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
    os.close(main)
    assert b"PAGED:" in seen
    assert b"\x1b[32m+" in seen


def test_checkout_switches_to_the_branch_and_follows_it(worked):
    done = worked("checkout", "x", cwd=worked.clone)
    assert done.returncode == 0, done.stderr
    assert git("symbolic-ref", "--short", "HEAD", cwd=worked.clone) == worked.branch
    assert (worked.clone / "new").read_text() == "x\n"
    upstream = git("rev-parse", "--abbrev-ref", "@{u}", cwd=worked.clone)
    assert upstream == f"origin/{worked.branch}"
    assert worked("continue", "x", "more", "--wait").returncode == 0
    said = json.loads(worked("checkout", "x", "--json", cwd=worked.clone).stdout)
    assert said["commit"] == git("rev-parse", worked.branch, cwd=worked.bare)
    assert (worked.clone / "one").read_text() == "1\nmore\nmore\n"
    git("switch", "-q", "main", cwd=worked.clone)
    assert worked("checkout", "x", cwd=worked.clone).returncode == 0


def test_checkout_refuses_a_dirty_tree_another_folder_and_own_commits(worked):
    refused = worked("checkout", "x", cwd=worked.elsewhere)
    assert refused.returncode == 2
    assert "no clone" in refused.stderr
    (worked.clone / "one").write_text("dirty\n")
    before = state_of(worked.clone)
    refused = worked("checkout", "x", cwd=worked.clone)
    assert refused.returncode == 2
    assert "git stash" in refused.stderr
    assert state_of(worked.clone) == before
    assert (worked.clone / "one").read_text() == "dirty\n"
    git("checkout", "-q", "--", "one", cwd=worked.clone)
    git("checkout", "-q", "-b", worked.branch, cwd=worked.clone)
    (worked.clone / "mine").write_text("m\n")
    git("add", "mine", cwd=worked.clone)
    git("commit", "-q", "-m", "mine", cwd=worked.clone)
    mine = git("rev-parse", "HEAD", cwd=worked.clone)
    git("switch", "-q", "main", cwd=worked.clone)
    refused = worked("checkout", "x", cwd=worked.clone)
    assert refused.returncode == 2
    assert "have gone apart" in refused.stderr
    assert git("rev-parse", worked.branch, cwd=worked.clone) == mine


def test_checkout_where_the_repository_itself_is_the_rig(rig, outpost):
    alone = outpost.folder / "alone"
    git("clone", "-q", str(rig.bare), str(alone))
    git("remote", "remove", "origin", cwd=alone)
    done = rig("spawn", "z", "--wait", "--", "sh", "-c", SCRIPT, cwd=alone)
    assert done.returncode == 0, done.stderr
    assert rig("diff", "z", "--name-only", cwd=alone).stdout.split() == ["new", "one"]
    done = rig("checkout", "z", cwd=alone)
    assert done.returncode == 0, done.stderr
    assert (alone / "new").exists()


@pytest.mark.parametrize("kind", ["pipe", "endless", "plain"])
def test_what_a_clone_calls_its_shallow_list_is_read_if_it_is_a_file(tmp_path, kind):
    from outpost_manager.review import _borrow

    lender, folder = tmp_path / "lender", tmp_path / "look"
    lender.mkdir()
    folder.mkdir()
    shallow = lender / "shallow"
    if kind == "pipe":
        os.mkfifo(shallow)
    elif kind == "endless":
        shallow.symlink_to("/dev/zero")
    else:
        shallow.write_text("f" * 40 + "\n")
    _borrow(folder, lender)
    assert (folder / "shallow").exists() == (kind == "plain")
