from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from outpost_core.backend import Backend, Outpost, OutpostOptions, option
from outpost_core.errors import ConfigError, PluginError, UsageError
from outpost_core.types import Agent, Issue, Order
from outpost_manager.config import (
    Origin,
    find_config,
    load_config,
    new_config,
    option_fields,
    read,
    settings,
    trusted,
)
from outpost_manager.config.model import Config, Defaults

SEED = Path(__file__).parent / "data" / "outposts.yaml"
LOCAL = "outposts:\n  - name: local\n    type: local\n"


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True, kw_only=True)
class LocalOptions(OutpostOptions):
    memory_floor: int | None = option("free memory", default=None, unit="bytes")
    linger: float = option("a while", default=5.0, unit="duration", max=60)
    load: float = option("a load", default=1.0)
    socket: Path | None = option("a socket", default=None)
    key: str | None = option("a key", default=None, secret=True)
    pin: int | None = option("a number", default=None, secret=True)
    words: tuple[str, ...] = option("some words", default=())
    env: dict[str, str] = option("variables", default={})
    keep: bool = option("keep it", default=False)
    size: Size = option("how large", default=Size.SMALL)

    def __post_init__(self) -> None:
        if self.load > 100:
            raise UsageError("a load above 100 is a joke", hint="be serious")
        if self.load < 0:
            raise ValueError("a negative load")


@dataclass(frozen=True, kw_only=True)
class SshOptions(OutpostOptions):
    host: str = option("the machine")
    user: str | None = option("who", default=None)
    ssh_key: Path | None = option("key file", default=None)
    town_path: str = option("where the town is there", default="")


def _build(*_: object) -> Outpost:
    raise AssertionError("loading a configuration builds nothing")


BACKENDS = {
    "local": Backend(type="local", options=LocalOptions, build=_build, summary=""),
    "ssh": Backend(type="ssh", options=SshOptions, build=_build, summary=""),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "outposts.yaml"


def load(file: Path, text: str) -> Config:
    file.write_text(text)
    return load_config(file, BACKENDS)


def local(file: Path, lines: str) -> LocalOptions:
    options = load(file, LOCAL + lines).outposts[0].options
    assert isinstance(options, LocalOptions)
    return options


def test_the_seed_loads_as_it_stands() -> None:
    config = load_config(SEED, BACKENDS)
    assert [(o.name, o.type) for o in config.outposts] == [
        ("local", "local"), ("gce-worker-1", "ssh"), ("cloudrun-burst", "cloudrun"),
    ]  # fmt: skip
    here, vm, burst = config.outposts
    assert here.options == LocalOptions(max_workers=4)
    assert vm.options == SshOptions(
        host="10.0.0.5",
        user="steve",
        ssh_key=Path("~/.ssh/gce_worker").expanduser(),
        town_path="/home/steve/ai",
        max_workers=8,
    )
    assert burst.options is None  # nobody provides it here: listed as missing, not an error
    assert burst.raw["cost_cap_hourly"] == 5.0
    policy = config.policy
    assert policy.default_preference == ("local", "gce-worker-1", "cloudrun-burst")
    assert [(o.text, o.prefer) for o in policy.overrides] == [
        ("priority >= P3", ("cloudrun-burst",)), ("estimated_duration > 30m", ("gce-worker-1",)),
    ]  # fmt: skip
    long = Order(issue=Issue(id="a", estimate=3600), agent=Agent(argv=("true",)))
    assert [o.condition.matches(long) for o in policy.overrides] == [False, True]
    assert config.origins["outposts.local.max_workers"] == Origin(file=str(SEED), line=6, column=18)
    assert load_config(SEED, {}).outposts[0].options is None


@pytest.mark.parametrize("text", [None, "policy: {}\n", "outposts: []\n", "outposts:\n"])
def test_with_no_outposts_there_is_the_local_one(file: Path, text: str | None) -> None:
    config = load_config(None, BACKENDS) if text is None else load(file, text)
    (only,) = config.outposts
    assert (only.name, only.type, only.options) == ("local", "local", LocalOptions())
    assert str(only.origin) == "built in"


def test_values_become_what_the_options_say(file: Path) -> None:
    options = local(
        file,
        "    memory_floor: 1.5GiB\n    linger: 30s\n    load: 2\n    socket: /run/x\n"
        "    words: [a, 007, 'b c']\n    env: {A: 1, B: x}\n    keep: yes\n    size: large\n"
        "    max_workers: 010\n    cost_cap_hourly: 1e1\n    key: 12345678901234567890\n",
    )
    assert options == LocalOptions(
        memory_floor=1536 * 1024**2,
        linger=30.0,
        load=2.0,
        socket=Path("/run/x"),
        words=("a", "007", "b c"),
        env={"A": "1", "B": "x"},
        keep=True,
        size=Size.LARGE,
        max_workers=10,
        cost_cap_hourly=10.0,
        key="12345678901234567890",
    )
    assert isinstance(options.load, float)
    assert local(file, "    words: one\n    max_workers: null\n").words == ("one",)


def test_defaults_and_lists_of_preferences(file: Path) -> None:
    config = load(
        file,
        LOCAL + "  - {name: vm, type: ssh, host: h}\n"
        "defaults:\n  agent: codex\n  timeout: 2h\n  grace: 3\n  log_bytes: 1MiB\n"
        "  pass_env: [TOKEN, HOME]\n  pr_command: [gh, pr, create]\n"
        "policy:\n  default_preference: vm\n"
        "  overrides:\n    - {condition: type == bug, prefer: [vm, local, vm]}\n",
    )
    assert config.defaults == Defaults(
        agent="codex",
        timeout=7200.0,
        grace=3.0,
        log_bytes=1024**2,
        pass_env=("TOKEN", "HOME"),
        pr_command=("gh", "pr", "create"),
    )
    assert config.policy.default_preference == ("vm",)
    assert config.policy.overrides[0].prefer == ("vm", "local")


def test_aliases_and_a_byte_order_mark_are_fine(file: Path) -> None:
    config = load(
        file,
        "\ufeffoutposts:\n  - {name: a, type: ssh, host: &h example.org}\n"
        "  - {name: b, type: ssh, host: *h}\n",
    )
    assert [o.raw["host"] for o in config.outposts] == ["example.org"] * 2
    assert config.outposts[0].origin.line == 2


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "a: &a " + "[" * 40 + "]" * 40 + "\nb: &b " + "[" * 9 + "*a" + "]" * 9
CHAIN += "\nc:  " + "[" * 20 + "*b" + "]" * 20 + "\n"
POLICY = LOCAL + "policy:\n"
OVERRIDES = POLICY + "  overrides:\n"


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        # keys
        ("outpost: []\n", "1:1", "the file has no key 'outpost'", "did you mean 'outposts'?"),
        (LOCAL + "    max_worker: 4\n", "4:5", "no key 'max_worker'", "'max_workers'"),
        (LOCAL + "    zzz: 4\n", "4:5", "no key 'zzz'", "name, type, scaling, max_workers"),
        (POLICY + "  default_preferences: x\n", "5:3", "policy has no key", "'default_preference'"),
        (OVERRIDES + "    - {condition: type == x, prefers: a}\n", "6:30", "no key", "'prefer'"),
        (LOCAL + "defaults:\n  agnt: x\n", "5:3", "defaults has no key 'agnt'", "'agent'"),
        (LOCAL + "    name: x\n", "4:5", "'name' is given twice, first in line 2", "keep one"),
        (LOCAL + "    ? [a]\n    : 3\n", "4:7", "a key must be a word", ""),
        ("outposts:\n  - <<: {name: x}\n", "2:5", "merge keys", "write the keys out"),
        # types
        (LOCAL + "    max_workers: four\n", "4:18", "a whole number was expected, not 'four'", ""),
        (LOCAL + '    max_workers: "4"\n', "4:18", "a whole number", "without quotes"),
        (LOCAL + "    max_workers: 1.5\n", "4:18", "a whole number was expected", ""),
        (LOCAL + "    max_workers: yes\n", "4:18", "a whole number was expected", ""),
        (LOCAL + "    max_workers: -1\n", "4:18", "must be at least 0, not -1", ""),
        (LOCAL + "    max_workers: 1" + "0" * 5000 + "\n", "4:18", "a whole number", ""),
        (LOCAL + "    max_workers: 1" + "0" * 400 + "\n", "4:18", "a whole number", ""),
        (LOCAL + "    max_workers: [4]\n", "4:18", "a whole number was expected, not a list", ""),
        (LOCAL + "    load: .nan\n", "4:11", "a number was expected", ""),
        (LOCAL + "    load: .inf\n", "4:11", "a number was expected", ""),
        (LOCAL + "    load:\n", "4:10", "load has no value; a number was expected", ""),
        (LOCAL + "    load: 101\n", "2:5", "a load above 100 is a joke", "be serious"),
        (LOCAL + "    load: -1\n", "2:5", "a negative load", ""),
        (LOCAL + "    linger: 2m\n", "4:13", "linger must be at most 1m, not 2m", ""),
        (LOCAL + "    linger: a while\n", "4:13", "'a while' is not a duration: write 30m", ""),
        (LOCAL + "    memory_floor: lots\n", "4:19", "'lots' is not a size: write 2GiB", ""),
        (LOCAL + "    words: {a: b}\n", "4:12", "a list of words was expected, not a map", ""),
        (LOCAL + "    words: [a, [b]]\n", "4:16", "a list of words was expected, not a list", ""),
        (LOCAL + "    env: [a]\n", "4:10", "a map of words to words was expected", ""),
        (LOCAL + "    keep: 3\n", "4:11", "true or false was expected, not '3'", ""),
        (LOCAL + "    size: larg\n", "4:11", "is not one of small, large", "did you mean 'large'?"),
        (LOCAL + "    socket: ~nobody-has-this-name/x\n", "4:13", "no home folder here", ""),
        (LOCAL + "    socket: true\n", "4:13", "a path was expected", "in quotes"),
        (LOCAL + '    socket: "a\\0b"\n', "4:13", "NUL character", ""),
        (LOCAL + "defaults:\n  timeout: 1:30\n", "5:12", "'1:30' is not a duration", ""),
        (LOCAL + "defaults:\n  depth: 0\n", "5:10", "must be at least 1, not 0", ""),
        (LOCAL + "defaults:\n  pass_env: [OK, A-B]\n", "5:18", "name of an environment", ""),
        (LOCAL + "defaults: 3\n", "4:11", "defaults is a map with the keys agent", ""),
        # outposts
        ("outposts: 3\n", "1:11", "outposts is a list", "'- '"),
        ("outposts:\n  name: x\n", "2:3", "outposts is a list", "begin each outpost with '- '"),
        ("outposts:\n  - x\n", "2:5", "an outpost is a map", ""),
        ("outposts:\n  - type: x\n", "2:5", "an outpost needs a name", ""),
        ("outposts:\n  - name: x\n", "2:5", "outpost 'x' needs a type", "installed: local, ssh"),
        ("outposts:\n  - {name: x, type: ssh}\n", "2:5", "needs host: the machine", ""),
        ("outposts:\n  - {name: a b, type: x}\n", "2:12", "'a b' is not a name", "1 to 63 letters"),
        ("outposts:\n  - {name: null, type: x}\n", "2:12", "name has no value", ""),
        (LOCAL + "  - name: local\n    type: x\n", "4:11", "twice, first in line 2", "own name"),
        # policy
        (POLICY + "  default_preference: lokal\n", "5:23", "'lokal' is not the name", "'local'"),
        (POLICY + "  default_preference: [local, vm]\n", "5:31", "'vm' is not the name", "local"),
        (POLICY + "  default_preference: [[local]]\n", "5:24", "is not the name", ""),
        (POLICY + "  default_preference: {a: b}\n", "5:23", "name or a list of names", ""),
        (OVERRIDES + "    - {condition: type == x, prefer: lcal}\n", "6:38", "'lcal'", "'local'"),
        (OVERRIDES + "    - {prefer: local}\n", "6:7", "an override needs a condition", ""),
        (OVERRIDES + "    - {condition: type == x}\n", "6:7", "an override needs prefer", ""),
        (OVERRIDES + "    x: y\n", "6:5", "overrides is a list", ""),
        (POLICY.replace("policy:", "policy: []"), "4:9", "policy is a map with the keys", ""),
        # YAML
        ("", "1:1", "is empty", "write 'outposts:'"),
        ("# nothing\n\n", "1:1", "is empty", "write 'outposts:'"),
        ("just text", "1:1", "the file is a map", ""),
        (LOCAL + "\tmax_workers: 3\n", "4:1", "a tab is used for indentation", "with spaces"),
        ("outposts:\n\t- name: x\n", "2:1", "a tab is used for indentation", "with spaces"),
        ("outposts: [\n", "2:1", "not valid YAML: did not find expected node content", ""),
        ("a: b: c\n", "1:5", "not valid YAML: mapping values are not allowed", ""),
        ("a: 'x\n", "2:1", "(while scanning a quoted scalar that began in line 1)", ""),
        ("---\na: 1\n---\nb: 1\n", "3:1", "another document", ""),
        ("[" * 5000, "1:1001", "exceeded maximum nesting depth", ""),
        ("a: " + "[" * 60 + "]" * 60, "1:54", "nested too deeply", ""),
        (CHAIN, "3:23", "nested too deeply", ""),
        ("a: \x07\n", "1:4", "the character U+0007 is not allowed", "a text file?"),
        ("a: *b\n", "1:4", "found undefined alias", ""),
        ("a: &a [*a]\n", "1:4", "contains itself", ""),
        ("a: !!python/object/apply:os.system [x]\n", "1:4", "tag !!python/object/apply", "plain"),
        (BOMB, "1:1", "aliases make this more than 50000 values", "write the values out"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_with_its_place(
    file: Path, text: str, place: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    shown = str(caught.value)
    assert shown.startswith(f"{file}:{place}: "), shown
    assert message in shown
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_caret_stands_under_the_mistake(file: Path, end: str) -> None:
    file.write_bytes((LOCAL + "    größe: 'x'\n    max_worker: 4\n").replace("\n", end).encode())
    with pytest.raises(ConfigError) as caught:
        load_config(file, BACKENDS)
    assert (caught.value.line, caught.value.column) == (4, 5)
    assert caught.value.snippet == "        größe: 'x'\n        ^"


def test_a_long_line_is_cut_around_the_caret(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, "{" + " " * 500 + "outpost: [], x: " + "y" * 500 + "}")
    text, mark = caught.value.snippet.split("\n")
    assert len(text) < 120
    assert text[mark.index("^") :].startswith("outpost:")


def test_a_bad_condition_has_its_caret_inside_the_condition(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            file,
            OVERRIDES + '    - condition: "type == bug and priorty >= P3"\n      prefer: local\n',
        )
    assert (caught.value.line, caught.value.column) == (6, 35)
    assert "'priorty' is not a field; did you mean 'priority'?" in caught.value.message
    text, mark = caught.value.snippet.split("\n")
    assert text[mark.index("^") :].startswith("priorty >= P3")


def test_a_bad_condition_over_several_lines_is_shown_as_it_was_read(file: Path) -> None:
    text = (
        OVERRIDES
        + "    - condition: >\n        type == bug and\n        priorty > 1\n      prefer: local\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    assert (caught.value.line, caught.value.column) == (6, 18)
    shown, mark = caught.value.snippet.split("\n")
    assert shown == "    type == bug and priorty > 1 "
    assert shown[mark.index("^") :].startswith("priorty")


@pytest.mark.parametrize("line", ["key: [canary]", "pin: canary", "pin: 'canary'"])
def test_a_secret_is_in_no_error(file: Path, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        local(file, f"    {line}\n")
    assert caught.value.line == 4
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        (b"outposts:\n  - name: \xff\n", ":2:11", "byte 0xff cannot be read"),
        ("outposts:\n".encode("utf-16"), ":1:1", "is not UTF-8"),
        (b"\0\0\0", ":1:1", "U+0000 is not allowed"),
        (b"# " + b"x" * 10_000_000, ":1:1", "is larger than 1024 KiB"),
    ],
)
def test_a_file_that_is_no_text(file: Path, data: bytes, place: str, message: str) -> None:
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_config(file, BACKENDS)
    assert str(caught.value).startswith(f"{file}{place}: ")
    assert message in caught.value.message
    assert caught.value.hint


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(kind: type[OSError], number: int) -> ConfigError:
        def refuse(*_: object, **__: object) -> None:
            raise kind(number, "no")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)  # the suite may run as root, who may read all
            with pytest.raises(ConfigError) as caught:
                load_config(tmp_path / "x", {})
        return caught.value

    with pytest.raises(ConfigError, match="is a folder, not a file"):
        load_config(tmp_path, {})
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "none", {})
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        load_config(tmp_path / "a\0b", {})
    assert "no permission" in str(failing(PermissionError, 13))
    assert "Input/output error" in str(failing(OSError, 5))


def test_large_files_load_fast_enough_to_be_used(file: Path) -> None:
    names = [f"n{n}" for n in range(5000)]
    text = "outposts:\n" + "".join(
        f"  - {{name: {n}, type: ssh, host: h, max_workers: 3}}\n" for n in names
    )
    config = load(file, text + f"policy: {{default_preference: [{', '.join(names)}]}}\n")
    assert len(config.outposts) == 5000
    assert config.origins["outposts.n4999.host"].line == 5001


# --- where it is found


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LOCAL)
    return path


def test_the_search_order(tmp_path: Path) -> None:
    home, cwd = tmp_path / "home", tmp_path / "town" / "rig" / "polecats"
    cwd.mkdir(parents=True)
    environ = {"HOME": str(home)}
    assert find_config(None, environ, cwd) == (None, "built in")
    assert new_config(environ, cwd) == home / ".config" / "outpost" / "outposts.yaml"

    user = touch(home / ".config" / "outpost" / "outposts.yaml")
    assert find_config(None, environ, cwd) == (user, "user")
    xdg = touch(tmp_path / "xdg" / "outpost" / "outposts.yaml")
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert find_config(None, environ, cwd) == (xdg, "user")

    touch(tmp_path / "town" / "mayor" / "town.json")
    assert find_config(None, environ, cwd) == (xdg, "user")  # a town without the file
    town = tmp_path / "town" / "config" / "outposts.yaml"
    assert new_config(environ, cwd) == town
    touch(town)
    assert find_config(None, environ, cwd) == (xdg, "user")  # it was found, and nobody trusted it
    trusted.trust(trusted.read_found(town), environ)
    touch(tmp_path / "town" / "rig" / "mayor" / "town.json")  # a nearer town without the file
    assert find_config(None, environ, cwd) == (town, "town")
    nearer = touch(tmp_path / "town" / "rig" / "config" / "outposts.yaml")
    assert find_config(None, environ, cwd) == (town, "town")
    trusted.trust(trusted.read_found(nearer), environ)
    assert find_config(None, environ, cwd) == (nearer, "town")  # the nearest one counts
    trusted.revoke(nearer, environ)
    elsewhere = environ | {"GT_ROOT": str(tmp_path / "town")}
    assert find_config(None, elsewhere, tmp_path) == (town, "town")

    named = touch(tmp_path / "named.yaml")
    environ["OUTPOST_CONFIG"] = "../../../named.yaml"
    path, why = find_config(None, environ, cwd)
    assert (path and path.resolve(), why) == (named, "$OUTPOST_CONFIG")
    assert find_config(named, environ, cwd) == (named, "--config")


@pytest.mark.parametrize("path", ["none.yaml", "~nobody-has-this-name/x", "/dev/null/x"])
def test_a_named_file_must_exist(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="no such file, which --config names"):
        find_config(Path(path), {}, tmp_path)
    with pytest.raises(ConfigError, match=r"which \$OUTPOST_CONFIG names"):
        find_config(None, {"OUTPOST_CONFIG": path}, tmp_path)


# --- what is shown and described


def test_settings_say_where_each_value_came_from(file: Path) -> None:
    config = load(file, LOCAL + "    key: canary\n    linger: 90ms\ndefaults:\n  timeout: 90m\n")
    shown = {s.key: (s.value, s.origin) for s in settings(config)}
    built_in = Origin()
    assert shown["outposts.local.linger"] == ("90ms", Origin(file=str(file), line=5, column=13))
    assert shown["outposts.local.key"] == ("***", Origin(file=str(file), line=4, column=10))
    assert shown["outposts.local.size"] == ("small", built_in)
    assert shown["defaults.timeout"] == ("1h30m", Origin(file=str(file), line=7, column=12))
    assert shown["defaults.log_bytes"] == ("256MiB", built_in)
    assert shown["defaults.pr_command"] == ([], built_in)
    assert shown["policy.default_preference"] == ([], built_in)
    assert "canary" not in str(shown)
    assert all(s.origin == built_in for s in settings(load_config(None, BACKENDS)))


WHOLE = """\
outposts:
  - {name: vm, type: toy, password: hunter2, deep: {api_key: hunter2, size: 3}, town: /t,
     scaling: {max: 3, cooldown: 5m}}
policy: {default_preference: vm}
defaults: {grace: 5s, pr_command: [open, "https://bot:hunter2@git.example/"]}
agents: {mine: {headless: [mine]}}
prices: {big: {input: 1, cached: 1, output: 2}}
budgets: [{name: day, window: day, usd: 5}]
accounts: [{name: a, agent: claude, secrets: {ANTHROPIC_API_KEY: "env:KEY"}}]
queue: {aging: 2h, per_rig: {"*": 2}}
retries: {per_order: 4, reasons: {timeout: 2}}
schedules: [{name: n, cron: "0 3 * * *", order: {title: x, rig: "https://bot:hunter2@h/r.git"}}]
notify: [{name: ops, to: slack, url: "https://hooks.slack.com/services/T/B/hunter2"}]
api: {listen: "127.0.0.1:8080"}
"""


def test_config_show_has_all_that_holds_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "outposts.yaml"
    file.write_text(WHOLE)
    found = settings(load_config(file, {}))
    shown = {s.key: s.value for s in found}
    assert "hunter2" not in repr(found)
    assert {key.partition(".")[0] for key in shown} == {*read._SECTIONS}
    assert shown["outposts.vm.deep"] == {"api_key": "***", "size": 3}
    assert shown["outposts.vm.scaling.max"] == 3
    assert shown["outposts.vm.scaling.idle"]  # built in
    assert shown["queue.per_rig"] == {"*": 2}
    assert (shown["retries.per_order"], shown["retries.reasons.timeout"]) == (4, 2)
    assert shown["schedules.n.order"]["rig"] == "https://***@h/r.git"
    assert {s.key for s in found if s.origin.line == 3} == {
        "outposts.vm.scaling.max", "outposts.vm.scaling.cooldown"
    }  # fmt: skip


def test_settings_of_a_type_that_nobody_provides() -> None:
    keys = [s.key for s in settings(load_config(SEED, {}))]
    assert "outposts.cloudrun-burst.region" in keys
    assert "policy.overrides.1.prefer" in keys


def test_options_describe_themselves() -> None:
    fields = {each.name: each for each in option_fields(LocalOptions)}
    assert fields["size"].choices == ("small", "large")
    assert fields["size"].expects == "one of small, large"
    assert fields["linger"].expects == "a duration such as 30m or 1h30m"
    assert (fields["max_workers"].type, fields["max_workers"].optional) == (int, True)
    assert (fields["words"].type, fields["env"].type) == (tuple, dict)
    (host,) = [each for each in option_fields(SshOptions) if each.required]
    assert (host.name, host.help, host.default) == ("host", "the machine", None)


def test_an_option_of_an_unknown_type_is_a_defect_of_the_backend() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bad(OutpostOptions):
        when: complex = 0j

    with pytest.raises(PluginError, match=r"the option 'when' of .* has the type .*complex"):
        option_fields(Bad)


def test_an_option_can_be_whatever_yaml_says(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Free(OutpostOptions):
        anything: object = option("help", default=None)

    backend = Backend(type="free", options=Free, build="x:y", summary="")
    file = tmp_path / "outposts.yaml"
    file.write_text(
        "outposts:\n  - name: a\n    type: free\n    anything: {b: [1, 2.5, true, 'x', null]}\n"
    )
    made = load_config(file, {"free": backend}).outposts[0].options
    assert isinstance(made, Free)
    assert made.anything == {"b": [1, 2.5, True, "x", None]}
    (field,) = [each for each in option_fields(Free) if each.name == "anything"]
    assert field.show(made.anything) == made.anything
    assert field.expects == "a value of YAML"
