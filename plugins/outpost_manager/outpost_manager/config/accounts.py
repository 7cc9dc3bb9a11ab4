"""The section `accounts`: whose credentials agents work with, and what each may take.

Secrets are named by where they are (`env:NAME`, `file:PATH`); their values are in no file of
Outpost, and are read when an order is handed to its outpost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.backend import option
from outpost_core.errors import OutpostError
from outpost_core.options import option_fields
from outpost_core.types import check_env_name
from outpost_manager.config.budgets import Window

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_manager.config.reading import Reading
    from outpost_manager.config.yamlnodes import Node


@dataclass(frozen=True, kw_only=True)
class AccountConfig:
    """An entry of the section `accounts`."""

    name: str = option("how messages, budgets and `outpost accounts` call it")
    agent: str = option("the agent that works with it; of several accounts the first with room")
    secrets: dict[str, str] = option(
        "variable to where its value is: env:NAME of the environment of whoever places, or"
        " file:PATH (a file of mode 0600); never values. The same variables for all of an agent",
        default={},
    )
    max_workers: int | None = option(
        "workers that may use it at a time; no limit if none", default=None, min=0
    )
    usd_per_hour: float | None = option(
        "USD that its agents may spend in any hour, the worst case of running ones included",
        default=None,
        min=0.000001,
    )
    usd_per_day: float | None = option("likewise in any 24 hours", default=None, min=0.000001)
    usd_per_week: float | None = option("likewise in any 7 days", default=None, min=0.000001)
    tokens_per_hour: int | None = option(
        "tokens, in and out, after which nothing more is placed on it; running workers go on",
        default=None,
        min=1,
    )
    tokens_per_day: int | None = option("likewise in any 24 hours", default=None, min=1)
    tokens_per_week: int | None = option("likewise in any 7 days", default=None, min=1)

    def usd(self) -> Iterator[tuple[Window, float]]:
        """Yield its limits in USD, each with its window."""
        for window, limit in zip(
            Window, (self.usd_per_hour, self.usd_per_day, self.usd_per_week), strict=False
        ):
            if limit is not None:
                yield window, limit

    def tokens(self) -> Iterator[tuple[Window, int]]:
        """Yield its limits in tokens, each with its window."""
        for window, limit in zip(
            Window, (self.tokens_per_hour, self.tokens_per_day, self.tokens_per_week), strict=False
        ):
            if limit is not None:
                yield window, limit


_ENTRY: Final = "accounts is a list, one '- name: …' an account"
_REFERENCE: Final = "write env:NAME or file:/absolute/path; a value does not belong in this file"


def read_accounts(reading: Reading, node: Node | None) -> tuple[AccountConfig, ...]:
    """Read the section.

    Raises:
        ConfigError: it has a mistake; what may be the value of a secret is not in it.
    """
    found: dict[str, AccountConfig] = {}
    for item in reading.entries(node, _ENTRY):
        name = reading.name_of(item, "an account", found)
        what = f"the account {name!r}"
        secrets = item.get("secrets")
        for key, (mark, value) in (secrets.entries or {}).items() if secrets else ():
            try:
                check_env_name(key)
            except OutpostError as error:
                raise reading.error(f"{what}: secrets: {error.message}", mark) from None
            if value.kind in ("list", "map") or not is_reference(value.text):
                raise reading.secret_error(
                    f"{what}: secrets: {key} does not say where its value is",
                    value,
                    hint=_REFERENCE,
                )
        values = reading.values(item, what, option_fields(AccountConfig))
        account = AccountConfig(**values)
        reading.keep_origins(f"accounts.{name}", item)
        _check_names(reading, item, account, found)
        found[name] = account
    return tuple(found.values())


def secret_names(accounts: Sequence[AccountConfig], agent: str) -> tuple[str, ...]:
    """Return the variables that the accounts of an agent give; an order of it names them."""
    return next((tuple(one.secrets) for one in accounts if one.agent == agent), ())


def model_of(order: Order) -> str:
    """Return the model that an order tells its agent to use; "" when it tells none."""
    argv = order.agent.argv
    for at, word in enumerate(argv):
        if word == "--":
            break
        if word in ("--model", "-m") and at + 1 < len(argv) and order.agent.name != "command":
            return argv[at + 1]
        if word.startswith("--model=") and order.agent.name != "command":
            return word.removeprefix("--model=")
    return ""


def is_reference(text: str) -> bool:
    """Whether a text says where a secret is."""
    kind, _, where = text.partition(":")
    if kind == "env":
        try:
            check_env_name(where)
        except OutpostError:
            return False
        return True
    return kind == "file" and (where.startswith("~/") or Path(where).is_absolute())


def _check_names(
    reading: Reading, node: Node, account: AccountConfig, earlier: Mapping[str, AccountConfig]
) -> None:
    """Refuse accounts of one agent that give different variables.

    The names are part of an order, which is the same order whichever account it uses.
    """
    for other in earlier.values():
        if other.agent == account.agent and set(other.secrets) != set(account.secrets):
            raise reading.error(
                f"the accounts {other.name!r} and {account.name!r} of the agent"
                f" {account.agent!r} give different variables",
                node.get("secrets") or node,
                hint="name the same variables under secrets of both; to change between two ways"
                " of login, define another agent under agents",
            )
