"""`outposts.yaml` → typed, with where each value was written.

Every mistake is one `ConfigError` with file, line, column and the nearest right word. The types
of the file's values are those of the dataclasses: a backend's options, and `Defaults` here.
PyYAML and the language of conditions are imported when a file needs them, not before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.backend import Backend, OutpostOptions, option
from outpost_core.errors import ConfigError, OutpostError
from outpost_core.nearest import suggest
from outpost_core.options import (
    BUILT_IN,
    OptionError,
    OptionField,
    Origin,
    convert,
    option_fields,
)
from outpost_core.policy import Override, PolicyConfig
from outpost_core.types import Json, check_env_name

if TYPE_CHECKING:
    from outpost_core.conditions import Condition
    from outpost_core.yamlmarks import Document, Node

__all__ = [
    "BUILT_IN",
    "Config",
    "Defaults",
    "OptionField",
    "Origin",
    "OutpostConfig",
    "Override",
    "PolicyConfig",
    "Setting",
    "add_outpost",
    "find_config",
    "load_config",
    "new_config",
    "option_fields",
    "parse_config",
    "remove_outpost",
    "settings",
]

FILE_NAME: Final = "outposts.yaml"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)
_SECTIONS: Final = ("outposts", "policy", "defaults")
_POLICY_KEYS: Final = ("default_preference", "overrides")
_OVERRIDE_KEYS: Final = ("condition", "prefer")


@dataclass(frozen=True, kw_only=True)
class OutpostConfig:
    """One configured outpost.

    Args:
        name: how it is called.
        type: which backend builds it.
        options: the backend's validated options; None when no installed package has the type.
        raw: what the file says, `name` and `type` included.
        origin: where it was written.
    """

    name: str
    type: str
    options: OutpostOptions | None
    raw: Mapping[str, Json] = field(default_factory=dict)
    origin: Origin = BUILT_IN


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """The section `defaults`: what holds for every order that does not say otherwise."""

    agent: str = option("the agent preset that does the work", default="claude")
    branch: str = option("the branch to deliver; {issue} is replaced", default="polecat/{issue}")
    base: str | None = option("branch to start from; the remote's default if none", default=None)
    depth: int | None = option("history depth of a first clone; all if none", default=None, min=1)
    commit_message: str = option(
        "message for work left uncommitted; {issue} and {title} are replaced",
        default="{issue}: {title}",
    )
    author_name: str = option("author of that commit; git's own if empty", default="")
    author_email: str = option("e-mail of that author; git's own if empty", default="")
    pr_command: tuple[str, ...] = option(
        "command that opens a pull request, one word an item", default=()
    )
    timeout: float | None = option(
        "wall-clock limit of a worker; none if not given", default=None, unit="duration", min=1
    )
    idle_timeout: float | None = option(
        "how long a worker may print nothing", default=None, unit="duration", min=1
    )
    grace: float = option("time between TERM and KILL", default=10.0, unit="duration", min=0)
    checkpoint_every: float = option(
        "time between checkpoints of unpushed work; 0 for none",
        default=300.0,
        unit="duration",
        min=0,
    )
    log_bytes: int = option(
        "where a worker's log is cut", default=256 * 1024 * 1024, unit="bytes", min=4096
    )
    pass_env: tuple[str, ...] = option(
        "names of environment variables handed to every agent", default=()
    )
    answer_timeout: float = option(
        "time an outpost may take to answer list and ping", default=10.0, unit="duration", min=0.05
    )
    spawn_timeout: float = option(
        "time an outpost may take to accept a worker", default=120.0, unit="duration", min=0.05
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration.

    Args:
        outposts: in file order; never empty.
        policy: where orders go.
        defaults: what orders get.
        path: the file; None when everything is built in.
        origins: dotted key (`outposts.local.max_workers`) → where it was written; a key that
            is not in it is built in.
    """

    outposts: tuple[OutpostConfig, ...]
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    defaults: Defaults = field(default_factory=Defaults)
    path: Path | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of `outpost config show`.

    Args:
        key: dotted.
        value: as it would be written in the file; a secret is `***`.
        origin: where it was written, or built in.
    """

    key: str
    value: Json
    origin: Origin


def find_config(
    explicit: Path | None, environ: Mapping[str, str], cwd: Path
) -> tuple[Path | None, str]:
    """Find the configuration file.

    Args:
        explicit: what `--config` said.
        environ: `OUTPOST_CONFIG`, `GT_TOWN_ROOT`, `GT_ROOT`, `XDG_CONFIG_HOME` and `HOME` count.
        cwd: the town is looked for from here upward.

    Returns:
        The path, None when there is no file; and why it is that one: `--config`,
        `$OUTPOST_CONFIG`, `town`, `user` or `built in`.

    Raises:
        ConfigError: a file that was named does not exist.
    """
    named = environ.get("OUTPOST_CONFIG")
    for path, why in ((explicit, "--config"), (Path(named) if named else None, "$OUTPOST_CONFIG")):
        if path is not None:
            found = cwd / _expanded(path)
            if not _exists(found):
                raise ConfigError(f"there is no such file, which {why} names", file=str(found))
            return found, why
    for path, why in _usual_places(environ, cwd):
        if _exists(path):
            return path, why
    return None, "built in"


def new_config(environ: Mapping[str, str], cwd: Path) -> Path:
    """Return where a configuration belongs while there is none: the town, else the user's."""
    return _usual_places(environ, cwd)[0][0]


def load_config(path: Path | None, backends: Mapping[str, Backend]) -> Config:
    """Read and check a configuration.

    Args:
        path: the file; None for what is built in, one outpost `local` of type `local`.
        backends: installed outpost types.

    Raises:
        ConfigError: the file cannot be read or has a mistake.
    """
    if path is None:
        return Config(outposts=(_built_in_local(backends),))
    from outpost_core.yamlmarks import read

    return parse_config(read(path), backends, path)


def parse_config(document: Document, backends: Mapping[str, Backend], path: Path) -> Config:
    """Check a parsed file.

    Raises:
        ConfigError: it has a mistake.
    """
    return _Reader(document, backends).config(path)


def settings(config: Config) -> list[Setting]:
    """Return every value that holds, the built-in ones too, in the order of the file's sections."""
    found: list[Setting] = []

    def add(key: str, value: Json) -> None:
        found.append(Setting(key=key, value=value, origin=config.origins.get(key, BUILT_IN)))

    for outpost in config.outposts:
        prefix = f"outposts.{outpost.name}"
        add(f"{prefix}.name", outpost.name)
        add(f"{prefix}.type", outpost.type)
        if outpost.options is None:
            for key, value in outpost.raw.items():
                if key not in ("name", "type"):
                    add(f"{prefix}.{key}", value)
            continue
        for each in option_fields(type(outpost.options)):
            add(f"{prefix}.{each.name}", each.show(getattr(outpost.options, each.name)))
    add("policy.default_preference", [*config.policy.default_preference])
    for number, override in enumerate(config.policy.overrides):
        add(f"policy.overrides.{number}.condition", override.text)
        add(f"policy.overrides.{number}.prefer", [*override.prefer])
    for each in option_fields(Defaults):
        add(f"defaults.{each.name}", each.show(getattr(config.defaults, each.name)))
    return found


def add_outpost(
    path: Path,
    type: str,  # noqa: A002 - the word of the file
    name: str,
    values: Mapping[str, Json],
    backends: Mapping[str, Backend],
) -> None:
    """Write one more outpost into the file; see `config_edit.add`."""
    from outpost_core import config_edit

    config_edit.add(path, type, name, values, backends)


def remove_outpost(
    path: Path, name: str, backends: Mapping[str, Backend], *, prune: bool = False
) -> None:
    """Take an outpost out of the file; see `config_edit.remove`."""
    from outpost_core import config_edit

    config_edit.remove(path, name, backends, prune=prune)


def _exists(path: Path) -> bool:
    """Whether something is there, even when it cannot be looked at: reading then says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return True


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # ~nobody/outposts.yaml
        return path


def _usual_places(environ: Mapping[str, str], cwd: Path) -> list[tuple[Path, str]]:
    places: list[tuple[Path, str]] = []
    town = _town(environ, cwd)
    if town is not None:
        places.append((town / "config" / FILE_NAME, "town"))
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    base = environ.get("XDG_CONFIG_HOME", "")
    user = Path(base) if base.startswith("/") else home / ".config"
    return [*places, (user / "outpost" / FILE_NAME, "user")]


def _town(environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The outermost folder upward that is a Gas Town, else what Gas Town's variables say."""
    for folder in reversed((cwd, *cwd.parents)):
        if (folder / "mayor" / "town.json").is_file():
            return folder
    named = environ.get("GT_TOWN_ROOT") or environ.get("GT_ROOT")
    return Path(named) if named else None


def _built_in_local(backends: Mapping[str, Backend]) -> OutpostConfig:
    backend = backends.get("local")
    return OutpostConfig(
        name="local",
        type="local",
        options=backend.options() if backend else None,
        raw={"name": "local", "type": "local"},
    )


class _Reader:
    """Walks one document from the top and collects where everything was written."""

    def __init__(self, document: Document, backends: Mapping[str, Backend]) -> None:
        self.document = document
        self.backends = backends
        self.origins: dict[str, Origin] = {}

    def config(self, path: Path) -> Config:
        root = self.document.root
        self.keys(root, "the file", _SECTIONS)
        outposts = self.outposts(root.get("outposts"))
        names = [outpost.name for outpost in outposts]
        policy = self.policy(root.get("policy"), names)
        return Config(
            outposts=outposts,
            policy=policy,
            defaults=self.defaults(root.get("defaults")),
            path=path,
            origins=self.origins,
        )

    # --- sections

    def outposts(self, node: Node | None) -> tuple[OutpostConfig, ...]:
        if node is None or node.kind == "null" or (node.kind == "list" and not node.items):
            return (_built_in_local(self.backends),)
        if node.kind != "list":
            raise self.error(
                "outposts is a list, one '- name: …' an outpost",
                node,
                mend="begin each outpost with '- '",
            )
        found: dict[str, OutpostConfig] = {}
        for item in node.items:
            outpost = self.outpost(item)
            if outpost.name in found:
                raise self.error(
                    f"the name {outpost.name!r} is used twice, first in line"
                    f" {found[outpost.name].origin.line}",
                    item.get("name") or item,
                    mend="give each outpost its own name",
                )
            found[outpost.name] = outpost
        return tuple(found.values())

    def outpost(self, node: Node) -> OutpostConfig:
        if node.entries is None:
            raise self.error("an outpost is a map with at least name and type", node)
        name = self.required_word(node, "name", "an outpost needs a name")
        if not _NAME.fullmatch(name):
            raise self.error(
                f"{name[:80]!a} is not a name for an outpost",
                node.entries["name"][1],
                mend="use 1 to 63 letters, digits, '-' or '_', starting with a letter or digit",
            )
        kind = self.required_word(
            node,
            "type",
            f"outpost {name!r} needs a type",
            mend=f"installed: {', '.join(sorted(self.backends))}"
            if self.backends
            else "for example: type: local",
        )
        prefix = f"outposts.{name}"
        for key, (_, value) in node.entries.items():
            self.origins[f"{prefix}.{key}"] = self.origin(value)
        from outpost_core.yamlmarks import plain

        raw = plain(node)
        assert isinstance(raw, dict)
        origin = self.origins[prefix] = self.origin(node)
        options = self.options(node, name, kind)
        return OutpostConfig(name=name, type=kind, options=options, raw=raw, origin=origin)

    def options(self, node: Node, name: str, kind: str) -> OutpostOptions | None:
        backend = self.backends.get(kind)
        if backend is None:
            return None
        where = f"outpost {name!r} (type {kind})"
        values = self.values(node, where, option_fields(backend.options), known=("name", "type"))
        try:
            made: OutpostOptions = backend.options(**values)
            return made
        except OutpostError as error:
            raise self.error(f"{where}: {error.message}", node, mend=error.mend) from None
        except ValueError as error:
            raise self.error(f"{where}: {error}", node) from None

    def policy(self, node: Node | None, names: Sequence[str]) -> PolicyConfig:
        if node is None or node.kind == "null":
            return PolicyConfig()
        self.keys(node, "policy", _POLICY_KEYS)
        preference = node.get("default_preference")
        listed = node.get("overrides")
        if preference is not None:
            self.origins["policy.default_preference"] = self.origin(preference)
        if listed is not None and listed.kind not in ("list", "null"):
            raise self.error("overrides is a list, one '- condition: …' an override", listed)
        return PolicyConfig(
            default_preference=self.names(preference, "default_preference", names),
            overrides=tuple(
                self.override(item, number, names)
                for number, item in enumerate(listed.items if listed else ())
            ),
        )

    def override(self, node: Node, number: int, names: Sequence[str]) -> Override:
        self.keys(node, "an override", _OVERRIDE_KEYS)
        text = self.required_word(node, "condition", "an override needs a condition")
        prefer = node.get("prefer")
        if prefer is None or prefer.kind == "null":
            raise self.error("an override needs prefer, an outpost's name or a list", node)
        for key, value in (("condition", node.get("condition")), ("prefer", prefer)):
            assert value is not None
            self.origins[f"policy.overrides.{number}.{key}"] = self.origin(value)
        return Override(
            condition=self.condition(text, node.get("condition") or node),
            text=text,
            prefer=self.names(prefer, "prefer", names),
            origin=self.origin(node),
        )

    def defaults(self, node: Node | None) -> Defaults:
        if node is None or node.kind == "null":
            return Defaults()
        values = self.values(node, "defaults", option_fields(Defaults))
        assert node.entries is not None
        for key, (_, value) in node.entries.items():
            self.origins[f"defaults.{key}"] = self.origin(value)
        passed = node.get("pass_env")
        for item in (passed.items or (passed,)) if passed else ():
            try:
                check_env_name(item.text)
            except OutpostError as error:
                raise self.error(error.message, item) from None
        return Defaults(**values)

    # --- pieces

    def keys(self, node: Node, what: str, allowed: Iterable[str]) -> None:
        """Refuse what is no map, and keys that it cannot have."""
        choices = [*allowed]
        if node.entries is None:
            raise self.error(f"{what} is a map with the keys {', '.join(choices)}", node)
        for key, (mark, _) in node.entries.items():
            if key not in choices:
                raise self.error(
                    f"{what} has no key {key[:80]!a}", mark, mend=suggest(key, choices)
                )

    def values(
        self,
        node: Node,
        what: str,
        fields: Sequence[OptionField],
        known: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Convert the entries of a map to the fields of a dataclass."""
        self.keys(node, what, [*known, *(each.name for each in fields)])
        found: dict[str, Any] = {}
        for each in fields:
            value = node.get(each.name)
            if value is not None:
                try:
                    found[each.name] = convert(each, value)
                except OptionError as error:
                    raise self.document.error(
                        error.message, error.node.start, mend=error.mend, secret=each.secret
                    ) from None
            elif each.required:
                raise self.error(f"{what} needs {each.name}: {each.help or each.expects}", node)
        return found

    def required_word(self, node: Node, key: str, complaint: str, mend: str = "") -> str:
        value = node.get(key)
        if value is None:
            raise self.error(complaint, node, mend=mend)
        try:
            return str(convert(OptionField(name=key, type=str, required=True), value))
        except OptionError as error:
            raise self.error(error.message, error.node, mend=error.mend) from None

    def names(self, node: Node | None, what: str, known: Sequence[str]) -> tuple[str, ...]:
        """A name or a list of names of configured outposts."""
        if node is None or node.kind == "null":
            return ()
        if node.kind == "map":
            raise self.error(f"{what} is an outpost's name or a list of names", node)
        found: dict[str, None] = {}
        for item in node.items if node.kind == "list" else (node,):
            if item.kind in ("list", "map") or item.text not in known:
                shown = ascii(item.text[:80]) if item.kind not in ("list", "map") else "this"
                raise self.error(
                    f"{what}: {shown} is not the name of an outpost",
                    item,
                    mend=suggest(item.text, known),
                )
            found[item.text] = None
        return tuple(found)

    def condition(self, text: str, node: Node) -> Condition:
        from outpost_core.conditions import ConditionError, parse

        try:
            return parse(text)
        except ConditionError as error:
            start = node.start + (1 if node.quoted else 0)
            if self.document.text.startswith(text, start):
                raise self.document.error(
                    f"condition: {error.message}", start + error.position
                ) from None
            # Written with escapes or over several lines: show the text that was read instead.
            from outpost_core.yamlmarks import caret

            whole = self.error(f"condition: {error.message}", node)
            whole.snippet = caret(text, error.position)
            raise whole from None

    def origin(self, node: Node) -> Origin:
        line, column = self.document.place(node.start)
        return Origin(file=self.document.file, line=line, column=column)

    def error(self, message: str, node: Node, *, mend: str = "") -> ConfigError:
        return self.document.error(message, node.start, mend=mend)
