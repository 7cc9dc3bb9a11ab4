"""Somebody without beads who types what the pages tell him gets what they show."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from docswalk import File, Reader, Typed, elsewhere, escaped, has_commands, matches, steps, untyped
from guidestages import STAGES, nothing

from outpost_core.discovery import Plugins
from outpost_core.types import Limits
from outpost_manager.config import load_config

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted((DOCS / "start").glob("*.md")),
    *sorted((DOCS / "guides").glob("*.md")),
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
CALLED = {"mail": {"vm1": "local"}}
#: Why blocks of these pages are not typed, what shows the same, and how many they are.
UNTYPED = {
    "another page has it: docs/start/second-machine.md": 2,
    "an account has to be parked: tests/test_agents_parked.py": 1,
    "it builds an image: plugins/outpost_container/tests/test_image_command.py": 3,
    "it installs packages: scripts/wheels": 4,
    "it needs a cluster: plugins/outpost_k8s/tests/test_k8s_person.py": 3,
    "it needs a mayor that runs: plugins/outpost_mayor/tests/test_mayor_api.py": 1,
    "it needs a registry with a login": 1,
    "it needs an account at Google": 4,
    "it needs that image: plugins/outpost_container/tests/test_image_server.py": 1,
    "it needs that image: plugins/outpost_container/tests/test_image_worker.py": 1,
    "it needs the archive of a submodule: tests/test_git_submodules.py": 1,
    "it needs the systemd of a user: plugins/outpost_mayor/tests/test_mayor_install.py": 1,
    "it never ends": 1,
    "it never ends: plugins/outpost_cloudrun/tests/test_emulator_program.py": 1,
    "it takes half a minute: tests/cli/test_cli_plugin_new.py": 1,
    "it takes minutes: plugins/outpost_local/tests/test_conformance.py": 1,
    "it takes minutes: tests/test_testing_kubelab.py": 1,
}


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A reader with a short home (sockets), who can log in to a machine called `vm1`."""
    with tempfile.TemporaryDirectory(prefix="op") as folder:
        made = Reader(Path(folder))
        yield made
        made.leave()


@pytest.mark.apart
@pytest.mark.parametrize("page", [*filter(has_commands, PAGES)], ids=lambda page: page.stem)
def test_what_a_page_says_can_be_typed(page: Path, reader: Reader) -> None:
    todo = [*steps(page)]
    if page.parent.name == "guides":
        todo[:0] = [Typed(0, command, ()) for command in BEFORE.get(page.stem, ())]
    with STAGES.get(page.stem, nothing)(reader) as called:
        for step in todo:
            reader.do(step, {**called, **CALLED.get(page.stem, {})})


def test_what_is_not_typed_is_named_with_the_reason() -> None:
    assert Counter(why for page in PAGES for why in untyped(page)) == UNTYPED
    shown = [why.partition(": ")[2] for why in UNTYPED]  # "" is the root
    assert [path for path in shown if not (ROOT / path).exists()] == []
    assert [line for page in PAGES for line in elsewhere(page, ROOT)] == []
    assert [line for page in PAGES for line in escaped(page)] == []
    assert {*STAGES} <= {page.stem for page in PAGES}


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
