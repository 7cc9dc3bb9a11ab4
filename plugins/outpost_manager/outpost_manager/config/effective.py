"""Every value of the configuration that holds, said in the file or built in; no secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outpost_core.options import option_fields
from outpost_manager.config.effects import HIDDEN, without_password
from outpost_manager.config.model import PRICE_KEYS, AgentOptions, Config
from outpost_manager.config.origin import BUILT_IN, Origin
from outpost_manager.config.retries import RetryOptions

if TYPE_CHECKING:
    from outpost_core.types import Json
    from outpost_manager.config.model import OutpostConfig

#: A key that may hold a secret, of a type that is not installed and so cannot say which do.
_TELLING: Final = re.compile(r"token|secret|passw|passphrase|credential|key", re.IGNORECASE)


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


def settings(config: Config) -> list[Setting]:
    """Return every value that holds, the built-in ones too, in the order of the file's sections."""
    return [
        Setting(key=key, value=_safe(value), origin=config.origins.get(key, BUILT_IN))
        for key, value in _values(config)
    ]


def _values(config: Config) -> Iterator[tuple[str, Json]]:
    for outpost in config.outposts:
        yield from _outpost(outpost)
    yield "policy.default_preference", [*config.policy.default_preference]
    for number, override in enumerate(config.policy.overrides):
        yield f"policy.overrides.{number}.condition", override.text
        yield f"policy.overrides.{number}.prefer", [*override.prefer]
    yield from _fields("defaults", config.defaults)
    yield from _agents(config.agents)
    yield from _fields("api", config.api)
    yield from _fields("queue", config.queue)
    yield from _fields("retries", config.retries, RetryOptions)
    for reason, times in config.retries.reasons.items():
        yield f"retries.reasons.{reason}", times
    sections: tuple[tuple[str, Sequence[Any]], ...] = (
        ("budgets", config.budgets), ("accounts", config.accounts),
        ("schedules", config.schedules), ("notify", config.notify),
    )  # fmt: skip
    for section, entries in sections:
        for entry in entries:
            yield from _fields(f"{section}.{entry.name}", entry)
    for model, price in config.prices.items():
        for word, usd in zip(PRICE_KEYS, price, strict=True):
            yield f"prices.{model}.{word}", usd


def _outpost(outpost: OutpostConfig) -> Iterator[tuple[str, Json]]:
    prefix = f"outposts.{outpost.name}"
    yield f"{prefix}.name", outpost.name
    yield f"{prefix}.type", outpost.type
    if outpost.options is None:
        for key, value in outpost.raw.items():
            if key not in ("name", "type", "scaling"):
                yield f"{prefix}.{key}", _guessed(key, value)
    else:
        yield from _fields(prefix, outpost.options)
    if outpost.scaling is not None:
        yield from _fields(f"{prefix}.scaling", outpost.scaling)


def _fields(prefix: str, values: object, of: type[Any] | None = None) -> Iterator[tuple[str, Json]]:
    for each in option_fields(of or type(values)):
        yield f"{prefix}.{each.name}", each.show(getattr(values, each.name))


def _agents(agents: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Json]]:
    known = {each.name: each for each in option_fields(AgentOptions)} if agents else {}
    for name, said in agents.items():
        for key, value in said.items():
            yield f"agents.{name}.{key}", known[key].show(value)


def _guessed(key: str, value: Json) -> Json:
    """Return a value of which nobody knows whether it is a secret."""
    if _TELLING.search(key):
        return HIDDEN
    if isinstance(value, dict):
        return {word: _guessed(word, said) for word, said in value.items()}
    return value


def _safe(value: Json) -> Json:
    """Return a value without the passwords of its URLs."""
    if isinstance(value, str):
        return without_password(value)
    if isinstance(value, list):
        return [*map(_safe, value)]
    if isinstance(value, dict):
        return {key: _safe(said) for key, said in value.items()}
    return value
