"""A file that was found by walking up counts when it is ours and was trusted, for its bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from outpost_core.errors import ConfigError
from outpost_manager.config import (
    Choice,
    add_outpost,
    choose,
    find_config,
    load_config,
    new_config,
    remove_outpost,
    trusted,
)
from outpost_manager.config.effects import differences, effects
from outpost_manager.config.places import Standing
from outpost_shared import faults
from outpost_testing.users import ME, OTHER, as_user, give

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two other users")
TEXT = "outposts:\n  - name: e\n    type: exec\n    command: [sh, -c, 'true']\n"


class Town:
    """A town with a configuration, and a user's own folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "work" / "town"
        self.file = self.root / "config" / "outposts.yaml"
        self.environ = {"HOME": str(folder / "home"), "XDG_CONFIG_HOME": str(folder / "home/c")}
        for each in (self.root / "mayor", self.file.parent, self.root / "sub", folder / "home"):
            each.mkdir(parents=True)
        (self.root / "mayor" / "town.json").write_text("{}")
        self.file.write_text(TEXT)

    def choose(self, cwd: Path | None = None) -> Choice:
        return choose(None, self.environ, cwd or self.root / "sub")

    def trust(self) -> None:
        trusted.trust(trusted.read_found(self.file), self.environ)

    @property
    def standing(self) -> Standing:
        return next(p.standing for p in self.choose().places if p.path == self.file)


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    made = Town(tmp_path)
    for name, value in made.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GT_ROOT", raising=False)
    monkeypatch.delenv("GT_TOWN_ROOT", raising=False)
    monkeypatch.delenv("OUTPOST_CONFIG", raising=False)
    return made


def test_a_found_file_counts_once_it_is_trusted(town: Town) -> None:
    choice = town.choose()
    assert (choice.path, choice.why, choice.data) == (None, "built in", None)
    (place, user) = choice.places
    assert (place.standing, user.standing) == (Standing.UNTRUSTED, Standing.MISSING)
    assert place.hint == f"outpost trust {town.file}"
    town.trust()
    choice = town.choose()
    assert (choice.path, choice.why, choice.data) == (town.file, "town", TEXT.encode())
    assert trusted.revoke(town.file, town.environ) is not None
    assert town.standing is Standing.UNTRUSTED
    assert trusted.revoke(town.file, town.environ) is None


def test_a_user_who_named_it_needs_no_trust(town: Town) -> None:
    assert choose(town.file, town.environ, town.root).path == town.file
    named = town.environ | {"OUTPOST_CONFIG": str(town.file)}
    assert choose(None, named, town.root).path == town.file


def test_variables_of_gas_town_are_no_word_of_the_user(town: Town, tmp_path: Path) -> None:
    environ = town.environ | {"GT_ROOT": str(town.root)}
    assert choose(None, environ, tmp_path).path is None
    town.trust()
    assert choose(None, environ, tmp_path).path == town.file
    (tmp_path / "link").symlink_to(town.root)
    environ["GT_ROOT"] = str(tmp_path / "link")
    assert choose(None, environ, tmp_path).path == tmp_path / "link/config/outposts.yaml"


def test_what_was_changed_since_is_refused_and_not_replaced_by_another(town: Town) -> None:
    town.trust()
    own = Path(town.environ["XDG_CONFIG_HOME"], "outpost", "outposts.yaml")
    own.write_text("policy: {}\n")
    town.file.write_text(TEXT.replace("true", "id"))
    choice = town.choose()
    assert choice.changed is not None
    assert choice.path == own, "what `config show` shows"
    with pytest.raises(ConfigError, match="has changed since you trusted it") as caught:
        find_config(None, town.environ, town.root)
    assert caught.value.hint == f"outpost trust {town.file}"
    town.file.write_text(TEXT)
    assert town.standing is Standing.USED


def test_the_bytes_that_were_looked_at_are_the_bytes_that_are_used(town: Town) -> None:
    town.trust()
    choice = town.choose()
    town.file.write_text(TEXT.replace("name: e", "name: swapped"))
    config = load_config(choice.path, {}, data=choice.data)
    assert [one.name for one in config.outposts] == ["e"]


@pytest.mark.parametrize(
    ("what", "mode"),
    [("file", 0o666), ("config", 0o777), ("root", 0o777), ("root/..", 0o777), ("root", 0o757)],
)
def test_what_everybody_can_write_does_not_count(town: Town, what: str, mode: int) -> None:
    path = {"file": town.file, "config": town.file.parent}.get(what)
    path = path or (town.root / what.removeprefix("root").lstrip("/")).resolve()
    path.chmod(mode)
    assert town.standing is Standing.UNSAFE
    with pytest.raises(PermissionError):
        town.trust()
    path.chmod(mode & 0o755)
    town.trust()
    assert town.standing is Standing.USED
    path.chmod(mode)
    assert town.standing is Standing.UNSAFE
    with pytest.raises(ConfigError, match="everybody can write it"):
        find_config(None, town.environ, town.root)  # the user counts on it
    path.chmod(mode & 0o755)


def test_a_sticky_folder_is_a_way_to_what_is_ours(town: Town) -> None:
    town.trust()
    town.root.parent.chmod(0o1777)
    assert town.standing is Standing.USED


def test_a_link_is_followed_and_both_places_are_looked_at(town: Town, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    real = elsewhere / "x.yaml"
    town.file.rename(real)
    town.file.symlink_to(real)
    town.trust()
    assert town.standing is Standing.USED
    elsewhere.parent.chmod(0o777)
    assert town.standing is Standing.UNSAFE
    elsewhere.parent.chmod(0o755)
    other = elsewhere / "y.yaml"
    shutil.copy(real, other)
    town.file.unlink()
    town.file.symlink_to(other)  # the same bytes somewhere else
    assert town.standing is Standing.CHANGED


def test_a_clone_that_links_to_a_trusted_file_is_not_trusted(town: Town, tmp_path: Path) -> None:
    town.trust()
    clone = tmp_path / "clone"
    (clone / "mayor").mkdir(parents=True)
    (clone / "config").mkdir()
    (clone / "mayor" / "town.json").write_text("{}")
    (clone / "config" / "outposts.yaml").symlink_to(town.file)
    choice = town.choose(clone)
    assert [p.standing for p in choice.places if p.why == "town"] == [Standing.UNTRUSTED]


@pytest.mark.parametrize("what", ["fifo", "folder", "large"])
def test_what_is_no_small_regular_file_is_passed_over(town: Town, what: str) -> None:
    town.file.unlink()
    if what == "fifo":
        os.mkfifo(town.file, 0o600)
    elif what == "folder":
        town.file.mkdir()
    else:
        town.file.write_bytes(b"#" * (trusted.MOST + 1))
    assert town.standing is Standing.UNREADABLE


@needs_root
def test_of_another_user_nothing_counts_wherever_it_lies() -> None:
    place = _open_place()
    try:
        (place / "tmp").mkdir()
        (place / "tmp").chmod(0o1777)
        mine = Town(give_folder(place / "tmp" / "mine", ME))
        give(place / "tmp" / "mine", ME)
        evil = Town(give_folder(place / "tmp" / "evil", OTHER))
        give(place / "tmp" / "evil", OTHER)
        (evil.root / "mine").mkdir()
        give(evil.root / "mine", ME)

        def stand(town: Town, folder: Path, standing_of: Town) -> Callable[[], object]:
            def code() -> object:
                choice = choose(None, town.environ, folder)
                return {p.path: (p.standing, p.detail) for p in choice.places}[standing_of.file]

            return code

        def trusts() -> None:
            trusted.trust(trusted.read_found(mine.file), mine.environ)

        assert as_user(ME, stand(mine, mine.root, mine))[0] is Standing.UNTRUSTED  # type: ignore[index]
        as_user(ME, trusts)
        assert as_user(ME, stand(mine, mine.root, mine))[0] is Standing.USED  # type: ignore[index]
        # in a folder of my own inside of his
        standing, detail = as_user(ME, stand(mine, evil.root / "mine", evil))  # type: ignore[misc]
        assert standing is Standing.UNSAFE
        assert f"belongs to the user {OTHER}" in detail
        # and root does not take it either
        assert stand(mine, evil.root, evil)()[0] is Standing.UNSAFE  # type: ignore[index]
        # one of root's would do, once it is trusted
        give(mine.root.parent, 0)
        assert as_user(ME, stand(mine, mine.root, mine))[0] is Standing.CHANGED  # type: ignore[index]
        as_user(ME, trusts)
        assert as_user(ME, stand(mine, mine.root, mine))[0] is Standing.USED  # type: ignore[index]
    finally:
        shutil.rmtree(place)


@needs_root
def test_a_town_in_a_shared_folder_catches_nobody(town: Town) -> None:
    """Whoever writes to /tmp makes it a town for all who work below it."""
    shared = town.root.parent
    shared.chmod(0o1777)
    (shared / "mayor").mkdir()
    (shared / "mayor" / "town.json").write_text("{}")
    (shared / "config").mkdir()
    (shared / "config" / "outposts.yaml").write_text(TEXT)
    give(shared / "mayor", OTHER)
    give(shared / "config", OTHER)
    town.trust()
    choice = town.choose()
    assert choice.path == town.file
    town.file.unlink()
    places = town.choose().places
    assert [p.standing for p in places if p.why == "town"] == [Standing.MISSING, Standing.UNSAFE]
    assert new_config(town.environ, shared).is_relative_to(town.environ["HOME"])


@needs_root
def test_a_group_of_others_counts_as_others_and_a_group_of_ones_own_does_not(town: Town) -> None:
    town.trust()
    os.chown(town.root, 0, 0)  # nobody but root is in root's group
    town.root.chmod(0o775)
    assert town.standing is Standing.USED
    os.chown(town.root, 0, OTHER)
    assert town.standing is Standing.UNSAFE


@needs_root
def test_what_others_could_have_written_is_no_word_of_the_user(town: Town) -> None:
    town.trust()
    (record,) = Path(town.environ["XDG_CONFIG_HOME"], "outpost", "trusted").iterdir()
    assert record.stat().st_mode & 0o777 == 0o600
    assert record.parent.stat().st_mode & 0o777 == 0o700
    os.chown(record, OTHER, OTHER)
    assert town.standing is Standing.UNTRUSTED


def test_the_users_own_file_is_refused_when_others_can_write_it(town: Town) -> None:
    own = Path(town.environ["XDG_CONFIG_HOME"], "outpost", "outposts.yaml")
    own.parent.mkdir(parents=True)
    own.write_text(TEXT)
    assert find_config(None, town.environ, town.root.parent) == (own, "user")
    own.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="everybody can write it") as caught:
        find_config(None, town.environ, town.root.parent)
    assert caught.value.hint == f"chmod go-w {own.parent}"


@pytest.mark.parametrize("filling", ["x", "\x01", "ü"])
def test_a_large_file_can_be_trusted(town: Town, filling: str) -> None:
    comment = (f"# {filling * 99}\n".encode() * 20_000)[: trusted.MOST - 2 * len(TEXT)]
    for size in (len(comment), trusted.MOST // 8 - len(TEXT)):
        town.file.write_bytes(comment[:size].rpartition(b"\n")[0] + b"\n" + TEXT.encode())
        town.trust()
        assert town.standing is Standing.USED
        assert trusted.recorded(town.file, town.environ) is not None


def test_nothing_is_written_down_where_others_could_write(town: Town) -> None:
    own = Path(town.environ["XDG_CONFIG_HOME"], "outpost")
    own.mkdir(parents=True)
    own.chmod(0o777)
    with pytest.raises(ConfigError, match="cannot be written down there: everybody can write it"):
        town.trust()
    assert own.stat().st_mode & 0o777 == 0o777
    assert [*own.iterdir()] == []


# --- edits of our own ----------------------------------------------------------------------------


def test_our_own_edit_of_a_trusted_file_keeps_it_trusted(town: Town) -> None:
    town.trust()
    add_outpost(town.file, "local", "more", {}, {})
    assert town.standing is Standing.USED
    remove_outpost(town.file, "more", {})
    assert town.standing is Standing.USED


def test_our_own_edit_of_an_untrusted_file_does_not_trust_it(town: Town) -> None:
    add_outpost(town.file, "local", "more", {}, {})
    assert town.standing is Standing.UNTRUSTED
    town.trust()
    town.file.write_text(town.file.read_text() + "# by somebody else\n")
    add_outpost(town.file, "local", "yet-more", {}, {})
    assert town.standing is Standing.CHANGED


def test_a_file_that_we_make_is_trusted_at_once(town: Town) -> None:
    shutil.rmtree(town.file.parent)
    assert new_config(town.environ, town.root) == town.file
    before = os.umask(0)
    try:
        add_outpost(town.file, "local", "more", {}, {})
    finally:
        os.umask(before)
    assert town.standing is Standing.USED
    assert town.file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("trap", ["there", "link", "folder"])
def test_no_file_is_made_where_a_town_leads_astray(town: Town, tmp_path: Path, trap: str) -> None:
    own = Path(town.environ["XDG_CONFIG_HOME"], "outpost", "outposts.yaml")
    if trap == "link":
        town.file.unlink()
        town.file.symlink_to(tmp_path / "home" / ".profile")
    elif trap == "folder":
        shutil.rmtree(town.file.parent)
        town.file.parent.symlink_to(tmp_path / "home")
    assert new_config(town.environ, town.root) == own


@pytest.mark.parametrize("point", faults.CONFIG)
def test_killed_in_an_edit_the_file_is_as_meant_and_at_worst_asked_about(
    town: Town, point: str
) -> None:
    town.trust()
    code = (
        "import sys; from pathlib import Path; from outpost_manager.config import add_outpost;"
        "add_outpost(Path(sys.argv[1]), 'local', 'more', {}, {})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(town.file)],
        env={**os.environ, "OUTPOST_FAULT": point}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -9
    assert "name: more" in town.file.read_text()
    meant = {"config.written": Standing.CHANGED, "config.trusted": Standing.USED}
    assert town.standing is meant[point]
    town.trust()
    assert town.standing is Standing.USED


# --- what is shown -------------------------------------------------------------------------------


def test_what_a_file_would_do_is_shown_and_what_changed_of_it() -> None:
    path = Path("/t/config/outposts.yaml")
    before = effects(path, TEXT.encode(), {})
    assert before == {"outposts.e.type": "exec", "outposts.e.command": '["sh", "-c", "true"]'}
    after = effects(
        path, TEXT.replace("true", "id").encode() + b"defaults: {pr_command: [evil]}\n", {}
    )
    assert differences(before, after) == [
        ("-", "outposts.e.command", '["sh", "-c", "true"]'),
        ("+", "outposts.e.command", '["sh", "-c", "id"]'),
        ("+", "defaults.pr_command", '["evil"]'),
    ]
    with pytest.raises(ConfigError):
        effects(path, b"outposts: [", {})


def _open_place() -> Path:
    """Return a folder that every user can enter, below none of one user alone."""
    import tempfile

    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    return place


def give_folder(path: Path, user: int) -> Path:
    path.mkdir()
    return give(path, user)


def test_no_value_hides_in_what_looks_like_a_password_or_behind_a_name(tmp_path):
    said = effects(
        tmp_path / "outposts.yaml",
        b"outposts:\n"
        b"- {name: e, type: exec, command: [sh, -c, 'curl http://$(touch${IFS}pwn)@host']}\n"
        b"- {name: e, type: exec, command: [second]}\n"
        b"defaults: {x: 'https://me:hunter2@host/'}\n",
        {},
    )
    assert "$(touch${IFS}pwn)" in said["outposts.e.command"]
    assert "second" in said["outposts.e.command (again)"]
    assert said["defaults.x"] == "https://***@host/"
