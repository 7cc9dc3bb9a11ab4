"""Check a parsed `outposts.yaml` and turn it into a `Config`.

Every mistake is one `ConfigError` with file, line, column and the nearest right word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_agents import registry
from outpost_core.backend import Backend, OutpostOptions
from outpost_core.errors import ConfigError, OutpostError, PluginError
from outpost_core.isolation import contained
from outpost_core.nearest import suggest
from outpost_core.options import OptionField, option_fields
from outpost_core.types import check_env_name
from outpost_manager.config.accounts import read_accounts
from outpost_manager.config.api import read_api
from outpost_manager.config.budgets import read_budgets
from outpost_manager.config.convert import OptionError, convert
from outpost_manager.config.model import (
    PRICE_KEYS,
    AgentOptions,
    Config,
    Defaults,
    OutpostConfig,
    built_in_local,
    options_problem,
)
from outpost_manager.config.notify import read_notify
from outpost_manager.config.origin import Origin
from outpost_manager.config.policy import Override, PolicyConfig
from outpost_manager.config.queue import QueueConfig, mistake
from outpost_manager.config.retries import read_retries
from outpost_manager.config.scaling import read_scaling
from outpost_manager.config.schedules import read_schedules
from outpost_manager.config.yamlnodes import Document, Node, caret, plain

if TYPE_CHECKING:
    from outpost_core.types import Price
    from outpost_manager.config.conditions import Condition
    from outpost_manager.config.reading import Reading

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)
_SECTIONS: Final = (
    *("outposts", "policy", "defaults", "agents", "prices"),
    *("budgets", "accounts", "queue", "retries", "schedules", "notify", "api"),
)
#: The fields of an entry of `prices`.
PRICE_FIELDS: Final = tuple(
    OptionField(
        name=name,
        type=float,
        required=name != "cached",
        help=f"USD for a million {what} tokens",
        min=0,
        max=1_000_000,
    )
    for name, what in zip(PRICE_KEYS, ("input", "cached input", "output"), strict=True)
)
_POLICY_KEYS: Final = ("default_preference", "overrides")
_OVERRIDE_KEYS: Final = ("condition", "prefer")


def parse_config(
    document: Document,
    backends: Mapping[str, Backend],
    path: Path,
    presets: Callable[[], Collection[str]] | None = None,
) -> Config:
    """Check a parsed file.

    Args:
        document: the file.
        backends: installed outpost types.
        path: of the file.
        presets: see `load_config`.

    Raises:
        ConfigError: it has a mistake.
    """
    return _Reader(document, backends, presets).config(path)


def reading(document: Document) -> Reading:
    """Return the way from YAML to values for another file than a configuration."""
    return _Reader(document, {}, None)


class _Reader:
    """Walks one document from the top and collects where everything was written."""

    def __init__(
        self,
        document: Document,
        backends: Mapping[str, Backend],
        presets: Callable[[], Collection[str]] | None,
    ) -> None:
        self.document = document
        self.backends = backends
        self.presets = presets
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
            agents=self.agents(root.get("agents")),
            prices=self.prices(root.get("prices")),
            budgets=read_budgets(self, root.get("budgets")),
            retries=read_retries(self, root.get("retries")),
            accounts=read_accounts(self, root.get("accounts")),
            queue=self.queue(root.get("queue")),
            schedules=read_schedules(self, root.get("schedules"), tuple(names)),
            notify=read_notify(self, root.get("notify")),
            api=read_api(self, root.get("api")),
            path=path,
            origins=self.origins,
        )

    # --- sections

    def outposts(self, node: Node | None) -> tuple[OutpostConfig, ...]:
        if node is None or node.kind == "null" or (node.kind == "list" and not node.items):
            return (built_in_local(self.backends),)
        if node.kind != "list":
            raise self.error(
                "outposts is a list, one '- name: …' an outpost",
                node,
                hint="begin each outpost with '- '",
            )
        found: dict[str, OutpostConfig] = {}
        for item in node.items:
            outpost = self.outpost(item)
            if outpost.name in found:
                raise self.error(
                    f"the name {outpost.name!r} is used twice, first in line"
                    f" {found[outpost.name].origin.line}",
                    item.get("name") or item,
                    hint="give each outpost its own name",
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
                hint="use 1 to 63 letters, digits, '-' or '_', starting with a letter or digit",
            )
        kind = self.required_word(
            node,
            "type",
            f"outpost {name!r} needs a type",
            hint=f"installed: {', '.join(sorted(self.backends))}"
            if self.backends
            else "for example: type: local",
        )
        prefix = f"outposts.{name}"
        for key, (_, value) in node.entries.items():
            self.origins[f"{prefix}.{key}"] = self.origin(value)
            if key == "scaling":
                self.keep_origins(f"{prefix}.{key}", value)
        raw = plain(node)
        assert isinstance(raw, dict)
        origin = self.origins[prefix] = self.origin(node)
        options, problem = self.options(node, name, kind)
        return OutpostConfig(
            name=name,
            type=kind,
            options=options,
            raw=raw,
            origin=origin,
            problem=problem,
            scaling=read_scaling(self, f"outpost {name!r}", node.get("scaling")),
        )

    def options(self, node: Node, name: str, kind: str) -> tuple[OutpostOptions | None, str]:
        """Return the options of an outpost, or how the code of its type failed."""
        backend = self.backends.get(kind)
        if backend is None:
            return None, ""
        where = f"outpost {name!r} (type {kind})"
        values = self.values(
            node, where, option_fields(backend.options_class), known=("name", "type", "scaling")
        )
        try:
            with contained():
                made: OutpostOptions = backend.options_class(**values)
            return made, ""
        except PluginError as error:
            return None, options_problem(kind, error)
        except OutpostError as error:
            # what is about one option begins with its name
            about = node.get(error.message.partition(" ")[0].rstrip(":")) or node
            raise self.error(f"{where}: {error.message}", about, hint=error.hint) from None
        except ValueError as error:
            raise self.error(f"{where}: {error}", node) from None
        except Exception as error:  # noqa: BLE001 - a defect of its package breaks nobody else
            return None, options_problem(kind, error)

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

    def agents(self, node: Node | None) -> dict[str, dict[str, Any]]:
        if node is None or node.kind == "null":
            return {}
        if node.entries is None:
            raise self.error("agents is a map of names, each with at least headless", node)
        known = None if self.presets is None else self.presets()
        return {
            name: self.agent(name, *entry, known=known is None or name in known)
            for name, entry in node.entries.items()
        }

    def agent(self, name: str, mark: Node, node: Node, *, known: bool) -> dict[str, Any]:
        if not _NAME.fullmatch(name) or name == "command":
            raise self.error(
                f"{name[:80]!a} is not a name for an agent",
                mark,
                hint="use 1 to 63 letters, digits, '-' or '_', and not the word command",
            )
        what = f"the agent {name!r}"
        said = self.values(node, what, option_fields(AgentOptions))
        for key, (_, value) in (node.entries or {}).items():
            self.origins[f"agents.{name}.{key}"] = self.origin(value)
        argvs = [key for key in ("headless", "interactive") if said.get(key)]
        if not argvs and not known:
            raise self.error(
                f"{what} needs a command", node, hint="headless: [program, argument, …]"
            )
        for key in ("headless", "interactive", "resume"):
            if key in said and said[key] is not None and (not said[key] or not said[key][0]):
                raise self.error(f"{what}: {key} is empty", node.get(key) or node)
        output = said.get("output", registry.PLAIN)
        if output != registry.PLAIN and not registry.known(output):
            raise self.error(
                f"{what}: no installed package reads the output {output[:80]!a}",
                node.get("output") or node,
                hint=suggest(output, [registry.PLAIN, *registry.BUILT_IN, *registry.installed()]),
            )
        for key in ("env", "secrets", "forward"):
            listed = node.get(key)
            for word in said.get(key, ()):
                try:
                    check_env_name(word)
                except OutpostError as error:
                    hint = "a secret is named here, and its value stays in your environment"
                    raise self.error(
                        f"{what}: {key}: {error.message if key != 'secrets' else 'not a name'}",
                        listed or node,
                        hint=hint if key == "secrets" else error.hint,
                    ) from None
        return said

    def prices(self, node: Node | None) -> dict[str, Price]:
        if node is None or node.kind == "null":
            return {}
        if node.entries is None:
            raise self.error("prices is a map of models, each with input, cached and output", node)
        found: dict[str, Price] = {}
        for model, (_, value) in node.entries.items():
            said = self.values(value, f"the price of {model[:80]!a}", PRICE_FIELDS)
            for key, (_, each) in (value.entries or {}).items():
                self.origins[f"prices.{model}.{key}"] = self.origin(each)
            # what comes from a cache costs no less, where nobody says so
            found[model] = (said["input"], said.get("cached", said["input"]), said["output"])
        return found

    def queue(self, node: Node | None) -> QueueConfig:
        if node is None or node.kind == "null":
            return QueueConfig()
        made = QueueConfig(**self.values(node, "queue", option_fields(QueueConfig)))
        for key, (_, value) in (node.entries or {}).items():
            self.origins[f"queue.{key}"] = self.origin(value)
        if found := mistake(made):
            raise self.error(f"queue: {found[1]}", node.get(found[0]) or node)
        return made

    # --- pieces

    def entries(self, node: Node | None, complaint: str) -> Sequence[Node]:
        """Return the maps of a list; none where the section is missing or empty."""
        if node is None or node.kind == "null":
            return ()
        if node.kind != "list":
            raise self.error(complaint, node, hint="begin each entry with '- '")
        for item in node.items:
            if item.entries is None:
                raise self.error(complaint, item)
        return node.items

    def name_of(self, node: Node, what: str, taken: Collection[str]) -> str:
        """Return `name` of an entry, checked, and not one of those that are taken."""
        name = self.required_word(node, "name", f"{what} needs a name")
        at = node.get("name") or node
        if not _NAME.fullmatch(name):
            raise self.error(
                f"{name[:80]!a} is not a name for {what}",
                at,
                hint="use 1 to 63 letters, digits, '-' or '_', starting with a letter or digit",
            )
        if name in taken:
            raise self.error(f"the name {name!r} is used twice", at, hint="give each its own name")
        return name

    def keep_origins(self, prefix: str, node: Node) -> None:
        """Remember where each value of a map was written."""
        for key, (_, value) in (node.entries or {}).items():
            self.origins[f"{prefix}.{key}"] = self.origin(value)

    def secret_error(self, message: str, node: Node, *, hint: str = "") -> ConfigError:
        """Return a mistake with its place, and without the line that may hold a secret."""
        return self.document.error(message, node.start, hint=hint, secret=True)

    def keys(self, node: Node, what: str, allowed: Iterable[str]) -> None:
        """Refuse what is no map, and keys that it cannot have."""
        choices = [*allowed]
        if node.entries is None:
            raise self.error(f"{what} is a map with the keys {', '.join(choices)}", node)
        for key, (mark, _) in node.entries.items():
            if key not in choices:
                raise self.error(
                    f"{what} has no key {key[:80]!a}", mark, hint=suggest(key, choices)
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
                        error.message, error.node.start, hint=error.hint, secret=each.secret
                    ) from None
            elif each.required:
                raise self.error(f"{what} needs {each.name}: {each.help or each.expects}", node)
        return found

    def required_word(self, node: Node, key: str, complaint: str, hint: str = "") -> str:
        value = node.get(key)
        if value is None:
            raise self.error(complaint, node, hint=hint)
        try:
            return str(convert(OptionField(name=key, type=str, required=True), value))
        except OptionError as error:
            raise self.error(error.message, error.node, hint=error.hint) from None

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
                    hint=suggest(item.text, known),
                )
            found[item.text] = None
        return tuple(found)

    def condition(self, text: str, node: Node) -> Condition:
        from outpost_manager.config.conditions import ConditionError, parse

        try:
            return parse(text)
        except ConditionError as error:
            start = node.start + (1 if node.quoted else 0)
            if self.document.text.startswith(text, start):
                raise self.document.error(
                    f"condition: {error.message}", start + error.position
                ) from None
            # Written with escapes or over several lines: show the text that was read instead.
            whole = self.error(f"condition: {error.message}", node)
            whole.snippet = caret(text, error.position)
            raise whole from None

    def origin(self, node: Node) -> Origin:
        line, column = self.document.place(node.start)
        return Origin(file=self.document.file, line=line, column=column)

    def error(self, message: str, node: Node, *, hint: str = "") -> ConfigError:
        return self.document.error(message, node.start, hint=hint)
