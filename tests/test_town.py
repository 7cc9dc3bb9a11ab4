"""Which rig is meant in the folders of a Gas Town."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from outpost_core.errors import UsageError
from outpost_manager.config import trusted
from outpost_manager.config.town import rig_of_town, town_around

WIDGETS = "https://example.org/widgets.git"
GADGETS = "https://example.org/gadgets.git"


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A town as gastown 1.0 makes it, with two rigs and a clone in one of them; it is trusted."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    root = tmp_path / "gt"
    for folder in (".git", ".beads", "mayor", "widgets/mayor/rig/.git", "widgets/mayor/rig/src",
                   "widgets/crew", "gadgets"):  # fmt: skip
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "mayor" / "town.json").write_text("{}")
    rigs = {
        "widgets": {"git_url": WIDGETS, "beads": {"repo": "local", "prefix": "wi"}},
        "gadgets": {"git_url": GADGETS},
        "broken": {"git_url": 7},
    }
    (root / "mayor" / "rigs.json").write_text(json.dumps({"version": 1, "rigs": rigs}))
    (root / ".beads" / "routes.jsonl").write_text(
        '{"prefix":"hq-","path":"."}\nnonsense\n{"prefix":"ga-","path":"gadgets/mayor/rig"}\n'
        '{"prefix":"wi-x-","path":"gadgets"}\n'
    )
    trusted.trust(trusted.read_found(root / "mayor" / "rigs.json"), os.environ)
    return root


@pytest.mark.parametrize(
    ("folder", "issue", "rig"),
    [
        ("widgets", "anything-1", WIDGETS),
        ("widgets/crew", "ga-1", WIDGETS),
        ("gadgets", "wi-1", GADGETS),
        ("", "wi-587", WIDGETS),
        ("mayor", "ga-2", GADGETS),
        ("", "wi-x-1", GADGETS),
        ("widgets/mayor/rig", "ga-1", None),
        ("widgets/mayor/rig/src", "ga-1", None),
        ("..", "wi-1", None),
    ],
)
def test_the_rig_of_a_folder(town: Path, folder: str, issue: str, rig: str | None) -> None:
    assert rig_of_town((town / folder).resolve(), issue) == rig


@pytest.mark.parametrize("issue", ["hq-1", "zz-1", "wi"])
def test_an_issue_of_no_rig_is_refused_with_the_rigs_that_there_are(town: Path, issue: str) -> None:
    with pytest.raises(UsageError, match="own repository is no rig") as caught:
        rig_of_town(town, issue)
    assert "gadgets, widgets" in caught.value.hint


@pytest.mark.parametrize("content", ["", "[]", '{"rigs": []}', '{"rigs": 5}', None])
def test_a_broken_list_of_rigs_names_none(town: Path, content: str | None) -> None:
    file = town / "mayor" / "rigs.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match="own repository is no rig"):
        rig_of_town(town, "wi-1")


def test_of_a_town_in_a_town_the_nearer_one_counts(town: Path) -> None:
    (town / "widgets" / "mayor" / "town.json").write_text("{}")
    assert town_around(town / "widgets" / "mayor") == town / "widgets"
    assert town_around(town / "gadgets") == town
    assert town_around(town.parent) is None


def test_a_list_of_rigs_leads_nowhere_before_it_is_trusted(town: Path) -> None:
    file = town / "mayor" / "rigs.json"
    file.write_text(file.read_text().replace("example.org", "user:word@evil.example"))
    with pytest.raises(UsageError, match=r"evil\.example.*has changed since you trusted") as caught:
        rig_of_town(town, "wi-1")
    assert "word" not in str(caught.value)
    trusted.revoke(file, os.environ)
    with pytest.raises(UsageError, match="you have not trusted it") as caught:
        rig_of_town(town / "widgets", "wi-1")
    assert f"outpost trust {file}" in caught.value.hint
    assert rig_of_town(town / "widgets" / "mayor" / "rig", "wi-1") is None


def test_a_town_that_others_can_write_is_none(town: Path) -> None:
    (town / "mayor").chmod(0o777)
    assert town_around(town / "gadgets") is None
    assert rig_of_town(town, "wi-1") is None


@pytest.mark.parametrize("kind", ["endless", "pipe", "open to others"])
def test_routes_of_a_strangers_repository_are_no_endless_reading(town: Path, kind: str) -> None:
    """Git carries links: one that leads to a device would be read until memory ends."""
    routes = town / ".beads" / "routes.jsonl"
    if kind == "open to others":
        routes.chmod(0o666)
    else:
        routes.unlink()
        os.mkfifo(routes) if kind == "pipe" else routes.symlink_to("/dev/zero")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from outpost_manager.config.town import rig_of_town\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "print(rig_of_town(Path(sys.argv[1]), 'wi-x-1'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(town)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == WIDGETS, done.stderr[-500:]
