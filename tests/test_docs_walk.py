"""Somebody without beads who types what the pages tell him gets what they show."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docswalk import File, Reader, Typed, has_commands, matches, steps, untyped
from peers.sshd import sshd

from outpost_core.discovery import Plugins
from outpost_core.types import Limits
from outpost_manager.config import load_config

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted((DOCS / "start").glob("*.md")),
    *(
        DOCS / "guides" / f"{name}.md"
        for name in (
            *("add-a-command", "agents", "issues", "keys", "local", "mail", "policy", "review"),
            *("simulate", "trust", "unattended", "watch-events", "write-a-policy"),
        )
    ),
]
_WORKED = "outpost spawn {0} --title 'The start takes 4 seconds' --wait"
#: What a reader of a page has done before it.
BEFORE = {
    "agents": (_WORKED.format("gt-1"),),
    "policy": (_WORKED.format("faster-start"),),
    "review": (_WORKED.format("gt-1"),),
    "simulate": ("printf 'outposts:\\n- {name: local, type: local}\\n' > other.yaml",),
    "trust": (
        "mkdir -p ~/gt/mayor ~/gt/config; echo '{}' > ~/gt/mayor/town.json",
        "printf 'outposts:\\n- {name: local, type: local}\\n' > ~/gt/config/outposts.yaml",
    ),
    "unattended": (
        """echo '{"issue": "typos", "title": "Correct the spelling"}' > issues.jsonl""",
    ),
    "watch-events": (_WORKED.format("gt-abc12"),),
}
#: What pages call by a name of their own, which any reader has another name for.
CALLED = {"mail": ("vm1", "local")}
#: Pages that nobody types from top to bottom, and what shows the same, or what they would need.
ELSEWHERE = {
    "add-an-agent": "a package that is installed: tests/test_authors.py",
    "cloudrun": "plugins/outpost_cloudrun/tests/test_service_cli.py",
    "container": "plugins/outpost_container/tests/test_image_command.py",
    "cost": "amounts of many days: tests/test_cost_e2e.py",
    "kubernetes": "plugins/outpost_k8s/tests/test_k8s_person.py",
    "kubernetes-lab": "tests/test_testing_kubelab.py",
    "plugins": "a package that is installed: tests/test_authors.py",
    "programs-that-stay": "plugins/outpost_mayor/tests/test_mayor_serve.py",
    "scaling": "plugins/outpost_mayor/tests/test_mayor_scale_whole.py",
    "ssh": "docs/start/second-machine.md",
    "team": "plugins/outpost_mayor/tests/test_mayor_remote.py",
    "write-an-outpost": "plugins/outpost_local/tests/test_conformance.py",
}
#: Why blocks of pages that are typed are not, and how many.
UNTYPED = {
    "an account has to be parked": 1,
    "it needs a mayor that runs": 1,
    "it needs the systemd of a user": 1,
    "it never ends": 1,
    "it opens a pull request at GitHub": 2,
}


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A reader with a short home (sockets), who can log in to a machine called `vm1`."""
    with tempfile.TemporaryDirectory(prefix="op") as folder:
        made = Reader(Path(folder))
        yield made
        made.leave()


@pytest.mark.apart
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_says_can_be_typed(page: Path, reader: Reader, tmp_path: Path) -> None:
    own, ours = CALLED.get(page.stem, ("", ""))
    todo = [
        replace(step, command=step.command.replace(own, ours))
        if own and isinstance(step, Typed)
        else step
        for step in steps(page)
    ]
    if page.parent.name == "guides":
        todo[:0] = [Typed(0, command, ()) for command in BEFORE.get(page.stem, ())]
    if not any("vm1" in step.command for step in todo if isinstance(step, Typed)):
        for step in todo:
            reader.do(step)
        return
    with sshd(tmp_path / "sshd") as host:
        reader.settle(host.home)
        config = reader.home / ".ssh" / "config"
        config.parent.mkdir(mode=0o700)
        config.write_text(
            f"Host vm1\n  HostName {host.host}\n  Port {host.port}\n  User {host.user}\n"
            f"  IdentityFile {host.key}\n"
        )
        for step in todo:
            reader.do(step)


def test_what_is_not_typed_is_named_with_the_reason() -> None:
    guides = {page.stem: page for page in (DOCS / "guides").glob("*.md")}
    told = {name for name, page in guides.items() if has_commands(page)}
    assert told - {page.stem for page in PAGES if page.parent.name == "guides"} == set(ELSEWHERE)
    shown = [word.rpartition(": ")[2] for word in ELSEWHERE.values()]
    assert [path for path in shown if not (ROOT / path).exists()] == []
    assert Counter(why for page in PAGES for why in untyped(page)) == UNTYPED


def test_a_step_that_shows_something_else_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '```json title="a.jsonl"\n{}\n```\n```console\n$ echo \\\n  two\ntwo\n$ true\n```\n'
    )
    file, echo, true = steps(page)
    assert isinstance(file, File)
    assert (file.name, file.text) == ("a.jsonl", "{}\n")
    assert isinstance(echo, Typed)
    assert isinstance(true, Typed)
    assert echo.shown == ("two",)
    assert matches(("…", "b  c …"), "a\nx\nb c at 12:00\n")
    assert not matches(("b",), "a\nb\n")
    assert not matches(("a …",), "a\n")


def test_relative_links_of_the_first_screen_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert len(links) > 30
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_pages_that_say_how_to_install_say_the_same() -> None:
    said = {
        block.group(0)
        for page in (ROOT / "README.md", DOCS / "index.md", DOCS / "start" / "install.md")
        for block in re.finditer(r"^```sh\n.*?^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    }
    assert len(said) == 1


def test_nothing_is_limited_unless_it_is_said() -> None:
    """The warning of the first screen, word by word."""
    assert Limits().timeout is None
    assert Limits().idle_timeout is None
    config = load_config(None, Plugins.load().backends)
    assert config.defaults.max_agent_cost_usd is None
    assert config.defaults.timeout is None
    assert config.budgets == ()
