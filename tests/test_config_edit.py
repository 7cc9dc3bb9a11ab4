import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import pytest

from outpost_core.backend import Backend, Outpost, OutpostOptions, option
from outpost_core.errors import ConfigError, NotFoundError
from outpost_manager.config import add_outpost, load_config, remove_outpost

SEED = Path(__file__).parent / "data" / "outposts.yaml"


@dataclass(frozen=True, kw_only=True)
class SshOptions(OutpostOptions):
    host: str = option("the machine")
    key: Path | None = option("key file", default=None)
    wait: float = option("how long", default=5.0, unit="duration")
    words: tuple[str, ...] = option("some words", default=())
    user: str = option("who", default="")
    ssh_key: str = option("key", default="")
    town_path: str = option("town", default="")


def _build(*_: object) -> Outpost:
    raise AssertionError("editing a configuration builds nothing")


SSH = {"ssh": Backend(type="ssh", options=SshOptions, build=_build, summary="")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "outposts.yaml"
    path.write_text(SEED.read_text())
    return path


def names(path: Path) -> list[str]:
    return [outpost.name for outpost in load_config(path, {}).outposts]


def test_a_new_outpost_stands_at_the_end_of_the_list_and_nothing_else_changes(file: Path) -> None:
    add_outpost(file, "ssh", "vm2", {"host": "h", "max_workers": 3, "user": None}, SSH)
    cap = "    cost_cap_hourly: 5.00  # Optional spending limit\n"
    added = "\n  - name: vm2\n    type: ssh\n    host: h\n    max_workers: 3\n"
    assert file.read_text() == SEED.read_text().replace(cap, cap + added)


def test_values_come_back_as_they_were_given(file: Path) -> None:
    values = {
        "host": "a, {b}: [c] # 'd' \"e\" — é",
        "key": "/tmp/x y",
        "wait": "1h30m",
        "words": ["1", "true", "- x", "a,b", "*x", ""],
        "max_workers": "4",
        "cost_cap_hourly": 2.5,
        "user": "007",
    }
    add_outpost(file, "ssh", "vm2", values, SSH)
    assert load_config(file, SSH).outposts[-1].options == SshOptions(
        host=values["host"],
        key=Path("/tmp/x y"),
        wait=5400.0,
        words=("1", "true", "- x", "a,b", "*x", ""),
        max_workers=4,
        cost_cap_hourly=2.5,
        user="007",
    )


A = "{name: a, type: b}"
VM = "{name: vm, type: ssh, host: h}"
LOCAL = "{name: local, type: local}"
BLOCK = "  - name: vm\n    type: ssh\n    host: h\n"
FRESH = "outposts:\n  - name: local\n    type: local\n" + BLOCK


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("outposts: [A]\n", "outposts: [A, VM]\n"),
        ("outposts:\n  [\n    A  # x\n  ]\n", "outposts:\n  [\n    A,\n    VM  # x\n  ]\n"),
        ("outposts: [A,\n  {name: c, type: d},]", "outposts: [A,\n  {name: c, type: d},\n  VM,]"),
        ('{"outposts": [A]}', '{"outposts": [A, VM]}'),
        ('{"outposts": []}', '{"outposts": [LOCAL, VM]}'),
        ("{}", '{"outposts": [LOCAL, VM]}'),
        ('{"defaults": {}}', '{"outposts": [LOCAL, VM], "defaults": {}}'),
        (
            "outposts:\n- name: a\n  type: b",
            "outposts:\n- name: a\n  type: b\n- name: vm\n  type: ssh\n  host: h\n",
        ),
        ("outposts:\n- A # x\n# end\n", "outposts:\n- A # x\n- VM\n# end\n"),
        (
            "outposts:\n  - name: a\n    type: b\n    text: |\n      x\n\n      y\n\n# end\n",
            "outposts:\n  - name: a\n    type: b\n    text: |\n      x\n\n      y\n"
            + BLOCK
            + "\n# end\n",
        ),
        ("outposts: []  # x\npolicy:\n", FRESH.replace(":\n", ":  # x\n", 1) + "policy:\n"),
        ("outposts:  # none yet\n", FRESH.replace(":\n", ":  # none yet\n", 1)),
        ("policy: {}\n", "policy: {}\n\n" + FRESH),
        ("# only a comment\n", "# only a comment\n" + FRESH),
        ("", "# Where workers run. `outpost config check` checks this file.\n" + FRESH),
        (None, "# Where workers run. `outpost config check` checks this file.\n" + FRESH),
    ],
)  # fmt: skip
def test_adding_keeps_the_style_of_the_file(tmp_path: Path, before: str | None, after: str) -> None:
    path = tmp_path / "new" / "outposts.yaml"
    if before is not None:
        path.parent.mkdir()
        path.write_text(before.replace("A", A))
    add_outpost(path, "ssh", "vm", {"host": "h"}, SSH)
    assert path.read_text() == after.replace("LOCAL", LOCAL).replace("A", A).replace("VM", VM)
    assert names(path)[-1] == "vm"


def test_local_itself_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "outposts.yaml"
    add_outpost(path, "local", "local", {"max_workers": 2}, {})
    assert names(path) == ["local"]
    assert load_config(path, {}).outposts[0].raw["max_workers"] == 2


def test_a_new_file_and_folder_are_private(tmp_path: Path) -> None:
    path = tmp_path / "outpost" / "outposts.yaml"
    add_outpost(path, "ssh", "vm", {"host": "h"}, SSH)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("kind", "name", "values", "message", "hint"),
    [
        ("ssh", "local", {"host": "h"}, "there is an outpost 'local' already", "another name"),
        ("ssh", "a b", {"host": "h"}, "nothing was added: 'a b' is not a name", "letters"),
        ("ssh", "vm", {}, "nothing was added: outpost 'vm' (type ssh) needs host", ""),
        ("ssh", "vm", {"hosst": "h"}, "has no key 'hosst'", "did you mean 'host'?"),
        ("ssh", "vm", {"host": "h", "max_workers": "x"}, "a whole number was expected", ""),
    ],
)
def test_what_is_wrong_changes_nothing(
    file: Path,
    kind: str,
    name: str,
    values: dict[str, str],
    message: str,
    hint: str,
) -> None:
    with pytest.raises(ConfigError) as caught:
        add_outpost(file, kind, name, values, SSH)
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert file.read_text() == SEED.read_text()
    assert os.listdir(file.parent) == ["outposts.yaml"]


def test_a_file_with_a_mistake_is_not_touched(file: Path) -> None:
    file.write_text("outposts:\n  - nam: x\n")
    for edit in (
        lambda: add_outpost(file, "x", "y", {}, {}),
        lambda: remove_outpost(file, "x", {}),
    ):
        with pytest.raises(ConfigError, match="an outpost needs a name"):
            edit()
    assert file.read_text() == "outposts:\n  - nam: x\n"


def test_an_anchor_that_is_needed_is_left_to_a_person(file: Path) -> None:
    text = "outposts:\n  - name: a\n    type: b\n    x: &x {c: d}\n  - {name: e, type: b, x: *x}\n"
    file.write_text(text)
    add_outpost(file, "b", "new", {}, {})
    assert names(file) == ["a", "e", "new"]
    with pytest.raises(ConfigError, match="cannot be edited safely"):
        remove_outpost(file, "a", {})
    assert names(file) == ["a", "e", "new"]


@pytest.mark.parametrize("preference", ["[*v, a]", "[a, *v]", "*v", "*l", "\n    - a\n    - *v\n"])
def test_a_preference_through_an_alias_is_left_to_a_person(file: Path, preference: str) -> None:
    text = (
        "outposts:\n  - {name: a, type: b, x: &l [vm, a]}\n  - {name: &v vm, type: b}\n"
        f"policy:\n  default_preference: {preference}\n"
    )
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"alias|edited safely"):
        remove_outpost(file, "vm", {}, prune=True)
    assert file.read_text() == text


# --- remove


def test_removing_takes_the_outpost_its_comment_and_its_preferences(file: Path) -> None:
    remove_outpost(file, "gce-worker-1", {}, prune=True)
    lines = SEED.read_text().splitlines(keepends=True)
    expected = "".join(lines[:7] + lines[16:34])
    expected = expected.replace("[local, gce-worker-1, cloudrun-burst]", "[local, cloudrun-burst]")
    assert file.read_text() == expected


@pytest.mark.parametrize(
    ("name", "line", "column"),
    [("local", 29, 24), ("gce-worker-1", 29, 31), ("cloudrun-burst", 29, 45)],
)
def test_a_policy_that_names_it_is_in_the_way(
    file: Path, name: str, line: int, column: int
) -> None:
    with pytest.raises(ConfigError, match=f"the policy still names '{name}'") as caught:
        remove_outpost(file, name, {})
    assert (caught.value.line, caught.value.column) == (line, column)
    assert f"outpost remove {name} --prune" in caught.value.hint
    assert file.read_text() == SEED.read_text()


def test_outposts_go_in_any_order_and_the_other_comments_stay(file: Path) -> None:
    for order in permutations(["local", "gce-worker-1", "cloudrun-burst"]):
        file.write_text(SEED.read_text())
        left = [*order]
        for name in order[:2]:
            remove_outpost(file, name, {}, prune=True)
            left.remove(name)
            assert sorted(names(file)) == sorted(left)
        text = file.read_text()
        for comment in ("~/ai/config/outposts.yaml", "Work assignment policy", "Try local first"):
            assert f"# {comment}" in text
        assert "\n\n\n" not in text
        assert not text.startswith("outposts:\n\n")


def test_the_last_outpost_leaves_an_empty_list_and_the_local_one(file: Path) -> None:
    file.write_text("# top\noutposts:  # all\n  # mine\n  - name: vm\n    type: ssh\n\n# end\n")
    remove_outpost(file, "vm", {})
    assert file.read_text() == "# top\noutposts: []  # all\n\n# end\n"
    assert names(file) == ["local"]
    with pytest.raises(ConfigError, match="always there"):
        remove_outpost(file, "local", {})


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("a", "outposts: [{name: b, type: t},\n  {name: c, type: t}]  # x\n"),
        ("b", "outposts: [{name: a, type: t}, {name: c, type: t}]  # x\n"),
        ("c", "outposts: [{name: a, type: t}, {name: b, type: t}]  # x\n"),
    ],
)
def test_removing_from_a_list_in_brackets(file: Path, name: str, after: str) -> None:
    file.write_text(
        "outposts: [{name: a, type: t}, {name: b, type: t},\n  {name: c, type: t}]  # x\n"
    )
    remove_outpost(file, name, {})
    assert file.read_text() == after


def test_comments_further_in_go_with_their_outpost_and_others_stay(file: Path) -> None:
    file.write_text(
        "outposts:\n"
        "  # first\n"
        "  - name: a\n    type: t\n    # option: 1\n"
        "  # second, about b\n"
        "  # over two lines\n"
        "  -\n    name: b  # b itself\n    type: t\n    # option: 2\n"
        "  # third - not a dash\n"
        "  - name: c\n    type: t\n"
    )
    remove_outpost(file, "b", {})
    assert file.read_text() == (
        "outposts:\n"
        "  # first\n"
        "  - name: a\n    type: t\n    # option: 1\n"
        "  # third - not a dash\n"
        "  - name: c\n    type: t\n"
    )


@pytest.mark.parametrize(
    ("policy", "after"),
    [
        ("  default_preference: vm  # x\n", "  default_preference: []  # x\n"),
        ("  default_preference: [vm]\n", "  default_preference: []\n"),
        ("  default_preference:\n    - vm  # x\n    - a\n", "  default_preference:\n    - a\n"),
        ("  default_preference:\n    - vm\n", "  default_preference: []\n"),
        ("  default_preference: [vm, a, vm]\n", "  default_preference: [a]\n"),
        (
            "  overrides:\n    # why\n    - {condition: attempt > 1, prefer: [a, vm]}\n",
            "  overrides:\n    # why\n    - {condition: attempt > 1, prefer: [a]}\n",
        ),
        (
            "  overrides:\n  - {condition: cpu>1, prefer: vm}\n  - {condition: cpu>2, prefer: a}",
            "  overrides:\n  - {condition: cpu>2, prefer: a}",
        ),
    ],
)
def test_pruning_takes_a_name_out_of_every_preference(file: Path, policy: str, after: str) -> None:
    outposts = "outposts:\n  - {name: a, type: t}\n"
    file.write_text(outposts + "  - {name: vm, type: t}\npolicy:\n" + policy)
    remove_outpost(file, "vm", {}, prune=True)
    assert file.read_text() == outposts + "policy:\n" + after


def test_an_unknown_name_or_file(file: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        remove_outpost(file, "gce-worker", {})
    assert caught.value.hint == "did you mean 'gce-worker-1'?"
    with pytest.raises(ConfigError, match="there is no such file"):
        remove_outpost(tmp_path / "none" / "none.yaml", "x", {})
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="no regular file"):
        add_outpost(tmp_path, "ssh", "x", {}, {})


# --- the file itself


def test_adding_and_removing_gives_the_file_back(file: Path) -> None:
    add_outpost(file, "ssh", "vm2", {"host": "h"}, SSH)
    remove_outpost(file, "vm2", SSH)
    assert file.read_text() == SEED.read_text()


def test_line_ends_byte_order_mark_and_mode_are_kept(file: Path) -> None:
    windows = ("\ufeff" + SEED.read_text()).replace("\n", "\r\n").encode()
    file.write_bytes(windows)
    file.chmod(0o640)
    add_outpost(file, "ssh", "vm2", {"host": "h"}, SSH)
    assert b"\r\n  - name: vm2\r\n" in file.read_bytes()
    assert file.read_bytes().count(b"\n") == file.read_bytes().count(b"\r\n")
    remove_outpost(file, "vm2", SSH)
    assert file.read_bytes() == windows
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "outposts.yaml"
    link.parent.mkdir()
    link.symlink_to(file)
    add_outpost(link, "ssh", "vm2", {"host": "h"}, SSH)
    assert link.is_symlink()
    assert names(file)[-1] == "vm2"
    dangling = tmp_path / "dangling.yaml"
    dangling.symlink_to(tmp_path / "target.yaml")
    add_outpost(dangling, "ssh", "vm", {"host": "h"}, SSH)
    assert dangling.is_symlink()
    assert names(tmp_path / "target.yaml") == ["local", "vm"]
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    with pytest.raises(ConfigError, match="cannot be"):
        add_outpost(loop, "ssh", "vm", {"host": "h"}, SSH)


def test_a_write_that_fails_leaves_the_file_and_no_litter(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="cannot be changed: No space left on device"):
        add_outpost(file, "ssh", "vm2", {"host": "h"}, SSH)
    assert file.read_text() == SEED.read_text()
    assert os.listdir(file.parent) == ["outposts.yaml"]


ADD = """
import sys
from pathlib import Path
from outpost_manager.config import add_outpost, remove_outpost
path, me = Path(sys.argv[1]), sys.argv[2]
for n in range(8):
    add_outpost(path, "fake", f"{me}-{n}", {"max_workers": n}, {})
remove_outpost(path, f"{me}-0", {})
"""


def test_edits_at_once_lose_nothing(file: Path) -> None:
    home = os.pathsep.join(sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, str(file), f"p{n}"], env={**os.environ, "PYTHONPATH": home}
        )
        for n in range(4)
    ]
    assert [process.wait(60) for process in processes] == [0] * 4
    want = {f"p{p}-{n}" for p in range(4) for n in range(1, 8)}
    assert set(names(file)) == want | {"local", "gce-worker-1", "cloudrun-burst"}
    assert len(names(file)) == len(want) + 3
    assert os.listdir(file.parent) == ["outposts.yaml"]
