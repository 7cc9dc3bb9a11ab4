from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from outpost_core.errors import NotFoundError, OutpostError
from outpost_core.types import Issue
from outpost_manager.orders import beads
from outpost_manager.orders.beads import find, parse_bd_show

# The fields of bd v1.0.5, which are those of v0.47.1 and some more.
BEAD = {
    "id": "gt-cdt",
    "title": "Fix the bug",
    "description": "Long text\n\nwith two paragraphs",
    "design": "Small.",
    "acceptance_criteria": "It works",
    "notes": "Seen on Tuesday",
    "status": "open",
    "priority": 1,
    "issue_type": "bug",
    "owner": "ada@example.org",
    "estimated_minutes": 90,
    "created_at": "2026-11-24T14:25:39.150275577Z",
    "metadata": {"team": "core"},
    "labels": ["a", "b"],
    "dependencies": [],
    "parent": "gt-epic",
}
EXPECTED = Issue(
    id="gt-cdt",
    title="Fix the bug",
    text="Long text\n\nwith two paragraphs\n\n## Design\n\nSmall.\n\n## Acceptance criteria\n\n"
    "It works\n\n## Notes\n\nSeen on Tuesday",
    priority=1,
    estimate=5400.0,
    labels=("a", "b"),
    kind="bug",
)


@pytest.mark.parametrize(
    "shape",
    [
        [BEAD],
        BEAD,
        {"schema_version": 1, "data": [BEAD]},
        {"schema_version": 1, "data": BEAD},
    ],
    ids=["array", "object", "envelope of an array", "envelope of an object"],
)
def test_every_shape_of_bd_show(shape: object) -> None:
    assert parse_bd_show(json.dumps(shape, indent=2)) == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Error: no",
        "[]",
        "null",
        "3",
        "[1]",
        '{"schema_version":1,"data":[]}',
        '{"error":"no issue found"}',
        '[{"id":"../x"}]',
        '[{"id":7}]',
        "[" * 100_000,
    ],
)
def test_what_holds_no_issue(text: str) -> None:
    assert parse_bd_show(text) is None


@pytest.mark.parametrize(
    ("written", "priority"),
    [(0, 0), (4, 4), ("P0", 0), ("p3", 3), ("2", 2), (None, 2), (9, 2), ("high", 2)],
)
def test_priority_is_a_number_or_a_word(written: object, priority: int) -> None:
    found = parse_bd_show(json.dumps({"id": "a-1", "priority": written}))
    assert found == Issue(id="a-1", priority=priority)


def test_a_bare_issue_has_the_usual_values() -> None:
    odd = {"id": "a-1", "labels": None, "estimated_minutes": 0, "title": " two\nlines ", "notes": 3}
    assert parse_bd_show(json.dumps(odd)) == Issue(id="a-1", title="two lines")


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a rig beside it with beads and a sub-folder."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "rig" / ".beads").mkdir(parents=True)
    (tmp_path / "rig" / "deep").mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def put_bd(town: Path, script: str) -> None:
    program = town / "bin" / "bd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def running(stat: Path) -> bool:
    try:
        return stat.read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ask(issue: str, rig: str | None) -> Issue | None:
    found = find(issue, rig)
    assert found is None or isinstance(found, Issue)
    return found


def test_without_bd_or_without_beads_nothing_is_known(
    town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bd(town, "touch ran; exit 1")
    assert ask("gt-cdt", None) is None
    assert ask("gt-cdt", "https://example.org/" + "x" * 300) is None
    assert ask("gt-cdt", str(town / "bin")) is None
    assert not (town / "bin" / "ran").exists()
    monkeypatch.setenv("PATH", str(town / "nowhere"))
    assert ask("gt-cdt", str(town / "rig")) is None


def test_bd_is_asked_in_the_rig_then_in_the_current_folder(
    town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (town / "bead.json").write_text(json.dumps([BEAD]))
    put_bd(town, f'pwd >>{town}/asked; echo "$@" >>{town}/asked; cat {town}/bead.json')
    assert ask("gt-cdt", str(town / "rig" / "deep")) == EXPECTED
    assert (town / "asked").read_text() == f"{town}/rig\nshow gt-cdt --json\n"
    monkeypatch.chdir(town / "rig")
    assert ask("gt-cdt", "https://example.org/repo.git") == EXPECTED
    with pytest.raises(NotFoundError, match="cdt is not a whole id; bd knows gt-cdt") as caught:
        ask("cdt", None)
    assert caught.value.hint == "outpost spawn gt-cdt"


def test_an_unknown_issue_is_none_and_a_broken_bd_is_an_error(town: Path) -> None:
    put_bd(town, """echo '{"error": "no issue found matching"}'; exit 1""")
    assert ask("gt-1", str(town / "rig")) is None
    put_bd(town, "echo 'database is locked' >&2; exit 3")
    with pytest.raises(OutpostError, match=r"exit code 3 .*database is locked") as caught:
        ask("gt-1", str(town / "rig"))
    assert caught.value.hint


def test_a_bd_that_hangs_is_ended_with_its_children(
    town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beads, "BD_TIMEOUT", 2.0)
    put_bd(town, "sleep 600 & echo $! >pid; wait")
    with pytest.raises(OutpostError, match="did not show gt-1 within 2 s"):
        ask("gt-1", str(town / "rig"))
    child = Path("/proc") / (town / "rig" / "pid").read_text().strip() / "stat"
    deadline = time.monotonic() + 20
    while running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running(child)


def test_a_clone_without_a_database_does_not_hide_the_beads_above_it(
    town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `<rig>/mayor/rig` of a Gas Town: bd stops at the root of the clone."""
    clone = town / "rig" / "mayor" / "rig"
    (clone / ".beads").mkdir(parents=True)
    (town / "bead.json").write_text(json.dumps([BEAD]))
    put_bd(
        town,
        f"""case $PWD in {clone}) echo 'Error: no beads database found' >&2; exit 1 ;; esac
        cat {town}/bead.json""",
    )
    monkeypatch.chdir(clone)
    assert ask("gt-cdt", "https://example.org/repo.git") == EXPECTED
    assert ask("gt-cdt", str(clone)) == EXPECTED


def test_in_a_town_every_folder_up_to_its_root_is_asked(
    town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (town / "mayor").mkdir()
    (town / "mayor" / "town.json").write_text("{}")
    (town / ".beads").mkdir()
    (town / "bead.json").write_text(json.dumps([BEAD]))
    put_bd(
        town,
        f"""case $PWD in {town}) cat {town}/bead.json; exit 0 ;; esac
        echo '{{"error": "no issue found matching"}}'; exit 1""",
    )
    monkeypatch.chdir(town / "rig" / "deep")
    assert ask("gt-cdt", None) == EXPECTED
    (town / "mayor" / "town.json").unlink()
    assert ask("gt-cdt", None) is None, "outside of a town, the nearest beads decide"


@pytest.mark.parametrize(
    ("description", "text"),
    [
        (
            "attached_molecule: w\nattached_at: now\ndispatched_by: mayor\n\nDo it.\nmode: dark",
            "Do it.\nmode: dark",
        ),
        ("attached-args: x", ""),
        ("mode: dark\nis what we want", "mode: dark\nis what we want"),
        ("Do it.\nattached_at: now", "Do it.\nattached_at: now"),
    ],
)
def test_what_gt_sling_wrote_at_the_head_is_not_for_the_prompt(description: str, text: str) -> None:
    found = parse_bd_show(json.dumps({"id": "wi-1", "description": description}))
    assert found == Issue(id="wi-1", text=text)


@pytest.mark.beads
def test_the_real_bd(town: Path, bd_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = town / "rig"
    (rig / ".beads").rmdir()
    monkeypatch.setenv("PATH", bd_path)
    monkeypatch.setenv("HOME", str(town))
    monkeypatch.setenv("BEADS_NO_DAEMON", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)

    def run(*argv: str) -> str:
        done = subprocess.run(
            argv, cwd=rig, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        )
        return done.stdout

    run("git", "init", "-q")
    run("bd", "init", "--prefix", "gt", "--quiet")
    words = ("-d", "Long text\n\nwith two paragraphs", "--design", "Small.", "-p", "1", "-t", "bug")
    more = ("--acceptance", "It works", "--notes", "Seen on Tuesday", "-e", "90", "-l", "a,b")
    made = json.loads(run("bd", "create", "Fix the bug", *words, *more, "--json"))

    found = ask(made["id"], str(rig))
    assert found is not None
    assert found == Issue(
        id=made["id"],
        title=EXPECTED.title,
        text=EXPECTED.text,
        priority=1,
        estimate=5400.0,
        labels=("a", "b"),
        kind="bug",
    )
    assert ask("gt-nope", str(rig)) is None
    assert not (rig / ".beads" / "daemon.pid").exists()


def test_beads_that_others_could_write_are_not_asked(
    town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (town / "bead.json").write_text(json.dumps([BEAD]))
    put_bd(town, f"cat {town}/bead.json; touch {town}/asked")
    monkeypatch.chdir(town / "rig" / "deep")
    (town / "rig" / ".beads").chmod(0o777)
    assert ask("gt-cdt", None) is None
    assert not (town / "asked").exists()
    (town / "rig" / ".beads").chmod(0o755)
    assert ask("gt-cdt", None) == EXPECTED


def test_bd_gets_no_secrets_of_the_caller(town: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (town / "bead.json").write_text(json.dumps([BEAD]))
    put_bd(town, f"env >{town}/env; cat {town}/bead.json")
    monkeypatch.chdir(town / "rig" / "deep")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("BEADS_DOLT_PASSWORD", "for-bd")
    assert ask("gt-cdt", None) == EXPECTED
    told = (town / "env").read_text()
    assert "canary" not in told
    assert "BEADS_DOLT_PASSWORD=for-bd" in told
