"""What the fences of many agents have in common is found once, and again when it has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outpost_worker.fence import looks, places


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    for folder in (".ssh", ".config", ".claude", ".cache", "go"):
        (made / folder).mkdir(parents=True)
    (made / ".netrc").write_text("")
    return made


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    places._kept.clear()
    yield
    places._kept.clear()


def environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin", "UNUSED": "x"}


def wanted(home: Path) -> places.Wanted:
    folder = home / ".local/state/outpost/workers/gt-1.1"
    return places.Wanted(str(folder), str(folder.parent.parent), environment(home), None, {})


def remember(home: Path) -> looks.Looks:
    """Remember what can be, once nothing has changed for a moment."""
    env = environment(home)
    end = time.monotonic() + 30
    while not (kept := places._kept.get(places._depends_on(env))) or not kept[0].hold():
        assert time.monotonic() < end
        places.remember(env)
        time.sleep(0.02)
    return kept[0]


def found(home: Path) -> tuple[list[tuple[str, str]], bool]:
    """Return the rules, and whether what was kept was used for them."""
    asked = []
    find = places._find_usual

    def finding(*args, **more):
        asked.append(args)
        return find(*args, **more)

    places._find_usual = finding
    try:
        return places.rules(wanted(home)), not asked
    finally:
        places._find_usual = find


def test_what_is_kept_is_what_would_be_found(home: Path) -> None:
    places.rules(wanted(home))  # which makes what is missing
    fresh = places.rules(wanted(home))
    seen = remember(home)
    assert found(home) == (fresh, True)
    assert found(home) == (fresh, True)
    assert (f"{home}/.ssh", places.HIDE) in fresh
    assert seen.hold()


def _swap(home: Path) -> None:
    (home / ".ssh").rename(home / "away")
    (home / ".ssh").symlink_to("away")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a secret": lambda home: (home / ".pgpass").write_text("x"),
    "a secret in a folder": lambda home: (home / ".config/gh").mkdir(),
    "a folder that became a link": _swap,
    "settings": lambda home: (home / ".claude/mcp.json").write_text("{}"),
    "settings that became a link": lambda home: (
        (home / ".claude/hooks").rmdir(), (home / ".claude/hooks").symlink_to("/etc"),
    ),
    "a file of a shell": lambda home: (home / ".cache/p10k-x").write_text(""),
    "a tool's folder": lambda home: (home / "go/pkg").mkdir(),
    "a tool": lambda home: (
        (home / "bin").mkdir(), (home / "bin/npm").write_text(""), (home / "bin/npm").chmod(0o755),
    ),
    "a folder less": lambda home: (home / ".ssh").rename(home.parent / "ssh"),
    "another home": lambda home: (
        home.rename(home.parent / "old"), (home.parent / "old/.netrc").unlink(),
        home.symlink_to("old"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_it_is_found_anew(home: Path, change: str) -> None:
    places.rules(wanted(home))
    remember(home)
    assert found(home)[1]
    CHANGES[change](home)
    kept = dict(places._kept)
    rules, used = found(home)
    places._kept.clear()
    assert not used
    assert rules == places.rules(wanted(home))
    assert not next(iter(kept.values()))[0].hold()


def test_a_time_that_was_set_back_hides_no_change(home: Path) -> None:
    places.rules(wanted(home))
    remember(home)
    before = (home / ".claude").stat()
    (home / ".claude/mcp.json").write_text("{}")
    os.utime(home / ".claude", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not found(home)[1]


def test_what_has_only_just_changed_is_not_kept(home: Path) -> None:
    """A second change at the same tick of the clock would not show."""
    places.rules(wanted(home))
    remember(home)
    seen = looks.start()
    try:
        (home / ".ssh/config").write_text("")
        seen.note(f"{home}/.ssh/config")
    finally:
        looks.stop()
    assert not seen.keep()


def test_nothing_is_kept_for_long(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places.rules(wanted(home))
    seen = remember(home)
    monkeypatch.setattr(looks, "_LONGEST", 0.0)
    assert not seen.hold()
    assert not found(home)[1]


def test_it_depends_on_the_variables_that_are_looked_at_and_on_no_other(home: Path) -> None:
    asked: set[str] = set()

    class Asked(dict[str, str]):
        def get(self, name, default=None):  # type: ignore[no-untyped-def, override]
            asked.add(name)
            return super().get(name, default)

        def __getitem__(self, name: str) -> str:
            asked.add(name)
            return super().__getitem__(name)

    places._find_usual(Asked(environment(home)), exact=True)
    assert {"HOME", "PATH"} < asked <= set(places._OF_USE)


def test_another_environment_is_found_by_itself(home: Path, tmp_path: Path) -> None:
    places.rules(wanted(home))
    remember(home)
    (tmp_path / "cache").mkdir()
    other = wanted(home)
    other.env = {**environment(home), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert (str(tmp_path / "cache"), places.WRITE) in places.rules(other)
    assert (str(tmp_path / "cache"), places.WRITE) not in places.rules(wanted(home))
