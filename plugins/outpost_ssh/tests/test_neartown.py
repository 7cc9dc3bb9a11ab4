"""Which town of this machine `outpost bootstrap` takes to another one."""

from __future__ import annotations

from pathlib import Path

from outpost_manager.config import trusted
from outpost_manager.config.town import is_trusted
from outpost_ssh import neartown


def test_a_town_that_was_found_goes_nowhere_before_it_is_trusted(tmp_path: Path) -> None:
    """Its files, and what its `origin` says, would be at the next host that is set up."""

    def make(folder: Path) -> Path:
        (folder / "mayor").mkdir(parents=True)
        (folder / "mayor" / "town.json").write_text("{}")
        (folder / "mayor" / "rigs.json").write_text('{"rigs": {}}')
        return folder

    environ = {"HOME": str(tmp_path / "home")}

    def trusts(town: Path) -> bool:
        return is_trusted(town, environ)

    def near_town(config_dir: Path | None, environ: dict[str, str], cwd: Path) -> Path | None:
        return neartown.near_town(config_dir, environ, cwd, trusts)

    def passed_over(cwd: Path) -> Path | None:
        return neartown.passed_over(cwd, trusts)

    (tmp_path / "home").mkdir()
    outer = make(tmp_path / "outer")
    clone = make(outer / "work" / "clone")
    inside = clone / "src"
    inside.mkdir()
    assert near_town(None, environ, inside) is None
    assert passed_over(inside) == clone
    # what the user names counts as it is, and a stranger's clone does not go before it
    named = {**environ, "GT_TOWN_ROOT": str(make(tmp_path / "named"))}
    assert near_town(None, named, inside) == tmp_path / "named"
    assert near_town(outer / "config", environ, inside) == outer
    # the nearest of those that are trusted
    trusted.trust(trusted.read_found(outer / "mayor" / "rigs.json"), environ)
    assert near_town(None, named, inside) == outer
    assert passed_over(inside) is None
    trusted.trust(trusted.read_found(clone / "mayor" / "rigs.json"), environ)
    assert near_town(None, environ, inside) == clone
    # not as it is now, and not where others could have written it
    (clone / "mayor" / "rigs.json").write_text('{"rigs": {"x": {}}}')
    assert near_town(None, environ, inside) == outer
    (outer / "mayor").chmod(0o777)
    assert near_town(None, environ, inside) is None
