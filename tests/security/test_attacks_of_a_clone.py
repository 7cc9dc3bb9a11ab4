"""A repository that somebody has sent, and a folder that others can write, bring a config."""

from __future__ import annotations

import os

import pytest

from tests.security.conftest import Desk


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path, "auto")
    yield made
    made.close()


def plant(desk, folder):
    (folder / "mayor").mkdir(parents=True)
    (folder / "config").mkdir()
    (folder / "sub").mkdir()
    (folder / "mayor" / "town.json").write_text("{}\n")
    program = desk.trap("program")
    (folder / "config" / "outposts.yaml").write_text(
        "outposts:\n"
        f"  - {{name: e, type: exec, command: [sh, -c, 'exec {program} </dev/null']}}\n"
        f"  - {{name: s, type: ssh, host: localhost, config: {folder}/ssh}}\n"
    )
    (folder / "ssh").write_text(f"Host *\n  ProxyCommand {program}\n  Match exec {program}\n")


COMMANDS = (("status",), ("workers",), ("ping",), ("doctor",), ("config", "show"))


@pytest.mark.parametrize("below", [False, True], ids=["in it", "below it"])
def test_a_clone_with_a_configuration_runs_nothing_that_it_names(desk, below):
    clone = desk.home / "clone"
    plant(desk, clone)
    for words in COMMANDS:
        desk.run(*words, at=clone / "sub" if below else clone)
    done = desk.run(
        "spawn", "t-1", "--rig", str(desk.rig), "--title", "t", "--wait", "--", "true", at=clone
    )
    desk.nothing_ran()
    assert "not used" in done.stderr
    assert desk.status("t-1.1") == "done", "one's own configuration holds"


def test_a_shared_folder_catches_nobody_below_it(desk):
    shared = desk.folder / "shared"
    plant(desk, shared)
    os.chmod(shared, 0o1777)
    own = shared / "mine"
    own.mkdir()
    for words in COMMANDS:
        desk.run(*words, at=own)
    desk.nothing_ran()
