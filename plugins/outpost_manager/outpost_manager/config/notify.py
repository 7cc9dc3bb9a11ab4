"""The section `notify`: who is told of what happens, and by which way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from outpost_core.backend import option
from outpost_core.options import option_fields
from outpost_manager.config.accounts import is_reference

if TYPE_CHECKING:
    from outpost_core.errors import ConfigError
    from outpost_manager.config.reading import Reading
    from outpost_manager.config.yamlnodes import Node


class Way(StrEnum):
    """By which way somebody is told."""

    COMMAND = "command"
    WEBHOOK = "webhook"
    NTFY = "ntfy"
    SLACK = "slack"
    DESKTOP = "desktop"


class About(StrEnum):
    """What somebody is told of."""

    DONE = "done"
    FAILED = "failed"
    NEEDS_YOU = "needs_you"
    PARKED = "parked"
    BUDGET = "budget"


@dataclass(frozen=True, kw_only=True)
class NotifyConfig:
    """An entry of the section `notify`."""

    name: str = option("how messages and `outpost notify test` call it")
    to: Way = option(
        "the way: a command that gets JSON on standard input; a webhook that gets it, signed; an"
        " ntfy topic; Slack, or what takes its JSON; this desktop"
    )
    on: tuple[str, ...] = option(
        "of what it is told: done, failed, needs_you, parked, budget",
        default=("failed", "needs_you", "budget"),
    )
    command: tuple[str, ...] = option(
        "program and arguments, with to: command; one word an item, no shell", default=()
    )
    url: str | None = option(
        "https address of webhook, topic or Slack hook; env:NAME or file:/path where it is secret",
        default=None,
        secret=True,
    )
    secret: str | None = option(
        "where the key is that signs a webhook's body: env:NAME or file:/path", default=None
    )
    token: str | None = option(
        "where the token of an ntfy topic is: env:NAME or file:/path", default=None
    )
    outpost: tuple[str, ...] = option(
        "only of workers at these outposts; * and ? stand for any text and any character",
        default=(),
    )
    rig: tuple[str, ...] = option(
        "only of workers on these repositories, by URL, path or last name, likewise", default=()
    )
    timeout: float = option(
        "how long one try may take", default=10.0, unit="duration", min=0.1, max=300
    )


_ENTRY: Final = "notify is a list, one '- name: …' a target"
_REFERENCE: Final = "write env:NAME or file:/absolute/path; a value does not belong in this file"
_WITH_URL: Final = (Way.WEBHOOK, Way.NTFY, Way.SLACK)


def read_notify(reading: Reading, node: Node | None) -> tuple[NotifyConfig, ...]:
    """Read the section.

    Raises:
        ConfigError: it has a mistake; what may be secret is not in it.
    """
    found: dict[str, NotifyConfig] = {}
    for item in reading.entries(node, _ENTRY):
        name = reading.name_of(item, "a target", found)
        what = f"the target {name!r}"
        one = NotifyConfig(**reading.values(item, what, option_fields(NotifyConfig)))
        about = item.get("on") or item
        for word, mark in zip(one.on, about.items or (about,), strict=False):
            if word not in [*About]:
                known = ", ".join(About)
                raise reading.error(f"{what}: on: {word[:40]!a} is none of {known}", mark)
        for key, value in (("secret", one.secret), ("token", one.token)):
            if value is not None and not is_reference(value):
                raise reading.secret_error(
                    f"{what}: {key} does not say where it is", item.get(key) or item,
                    hint=_REFERENCE,
                )  # fmt: skip
        if mistake := _mistake(reading, what, one, item):
            raise mistake
        reading.keep_origins(f"notify.{name}", item)
        found[name] = one
    return tuple(found.values())


def _mistake(reading: Reading, what: str, one: NotifyConfig, item: Node) -> ConfigError | None:
    """Return what does not fit together."""
    if (one.to is Way.COMMAND) is not bool(one.command and one.command[0]):
        return reading.error(
            f"{what}: command is for to: command, which needs one", item.get("command") or item,
            hint="command: [program, argument, …]",
        )  # fmt: skip
    if (one.to in _WITH_URL) is not bool(one.url):
        return reading.secret_error(
            f"{what}: url is for to: {', '.join(_WITH_URL)}, which need one",
            item.get("url") or item, hint="url: https://…, or env:NAME, or file:/path",
        )  # fmt: skip
    if one.secret and one.to is not Way.WEBHOOK:
        return reading.error(f"{what}: secret is for to: webhook", item.get("secret") or item)
    if one.token and one.to is not Way.NTFY:
        return reading.error(f"{what}: token is for to: ntfy", item.get("token") or item)
    if one.url and not is_reference(one.url) and (why := url_mistake(one.url)):
        return reading.secret_error(f"{what}: url: {why}", item.get("url") or item)
    return None


#: Hosts that plain http may be sent to: it stays on this machine.
HERE: Final[Sequence[str]] = ("127.0.0.1", "::1", "localhost")


def url_mistake(url: str) -> str:
    """Return why nothing is sent to an address; "" for nothing. It is not repeated."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is no address"
    if not url.isascii() or any(c <= " " for c in url) or not host:
        return "it is no address"
    if parts.username is not None or parts.password is not None:
        return "a name and password in it would be shown; use token or secret"
    if parts.scheme == "https" or (parts.scheme == "http" and host in HERE):
        return ""
    return "it must begin with https:// (http:// to this machine only)"
