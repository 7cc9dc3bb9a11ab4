"""What the configuration says of money and accounts, as reservations are held to it.

The order names the secrets of its agent's accounts, and has no values for them: which account it
uses is known once it is reserved, and its values are read when the order is handed to its outpost.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError, UsageError
from outpost_core.types import Secrets
from outpost_manager.config import spending
from outpost_manager.config.accounts import model_of, secret_names
from outpost_manager.config.patterns import fits
from outpost_manager.config.retries import Park
from outpost_manager.ledger import Account, Budget
from outpost_shared import access

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_manager.config.accounts import AccountConfig
    from outpost_manager.config.model import Config
    from outpost_manager.fleet.fleet import Fleet
    from outpost_manager.fleet.overview import Overview
    from outpost_manager.ledger import Reservation

#: Bytes of a file with a secret.
_LONGEST: Final = 64 * 1024


@dataclass(kw_only=True, eq=False)
class Purse:
    """Budgets and accounts, as they are configured now.

    Args:
        fleet: the outposts, and the configuration.
        overview: says what outposts cost without a worker.
        environ: where secrets by `env:NAME` come from.
    """

    fleet: Fleet
    overview: Overview
    environ: Mapping[str, str]
    _of: Config | None = field(default=None, init=False)
    _budgets: tuple[Budget, ...] = field(default=(), init=False)

    def budgets(self) -> tuple[Budget, ...]:
        """Return all budgets, each with what its outposts cost without a worker."""
        config = self.fleet.config
        if config is not self._of:
            self._budgets = tuple(
                Budget(
                    name=one.name,
                    window=one.window.value,
                    usd=one.usd,
                    outpost=one.outpost,
                    rig=one.rig,
                    label=one.label,
                    account=one.account,
                    # what stands belongs to no repository, label or account
                    standing=()
                    if one.rig or one.label or one.account
                    else self._standing(one.outpost),
                )
                for one in config.budgets
            )
            self._of = config
        return self._budgets

    def _standing(self, patterns: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
        found = []
        for outpost in self.fleet.config.outposts:
            if not patterns or fits(outpost.name, patterns):
                try:
                    usd = self.overview.standing(outpost.name)
                except OutpostError:  # whoever lists outposts says so; it takes no order
                    continue
                if usd:
                    found.append((outpost.name, usd))
        return tuple(found)

    def accounts(self, agent: str) -> tuple[Account, ...]:
        """Return the accounts of an agent, in the order of preference; none: it has none."""
        return tuple(map(limits_of, self._configured(agent)))

    def held_to(self, reservation: Reservation, own: str = "") -> Reservation:
        """Return a reservation with all that it has to pass.

        Args:
            reservation: as it was made of an order.
            own: the one account that it is to use, as long as it is configured; "" for any.
        """
        budgets, order = self.budgets(), reservation.order
        accounts = self.accounts(order.agent.name)
        return replace(
            reservation,
            budgets=budgets,
            accounts=tuple(one for one in accounts if one.name == own) or accounts,
            model=model_of(order),
            uncounted=spending.uncounted(order) if reservation.agent_cost is None else "",
            parking=self.fleet.config.retries.park is Park.ON,
            rules=self.fleet.config.queue.rules() if reservation.entry else None,
        )

    def lacks(self, order: Order) -> str:
        """Return which secrets of its accounts an order does not name; "" when it names all."""
        wanted = secret_names(self.fleet.config.accounts, order.agent.name)
        return ", ".join(sorted(name for name in wanted if name not in order.secrets))

    def equipped(self, order: Order, account: str) -> Order:
        """Return an order with the values of an account's secrets.

        Args:
            order: names them; its other secrets stay as they are.
            account: the account that it is reserved with.

        Raises:
            UsageError: a value cannot be had.
        """
        configured = self._configured(order.agent.name)
        chosen = next((one for one in configured if one.name == account), None)
        if chosen is None:
            if configured and any(not value for value in order.secrets.values()):
                raise UsageError(
                    f"{order.worker} uses the account {account}, which is no longer configured"
                )
            return order
        if not chosen.secrets:
            return order
        values = {name: self._value(chosen.name, name, at) for name, at in chosen.secrets.items()}
        kept = {name: value for name, value in order.secrets.items() if name not in values}
        return replace(order, secrets=Secrets({**kept, **values}))

    def _value(self, account: str, name: str, reference: str) -> str:
        kind, _, where = reference.partition(":")
        what = f"the secret {name} of the account {account}"
        if kind == "env":
            value = self.environ.get(where, "")
            if not value:
                raise UsageError(
                    f"{what} is not there: {where} is not set in this environment",
                    hint=f"export {where}=… where outpost runs",
                )
            return value
        return read_secret(where, what)

    def _configured(self, agent: str) -> list[AccountConfig]:
        return [one for one in self.fleet.config.accounts if one.agent == agent]


def limits_of(account: AccountConfig) -> Account:
    """Return an account as the ledger holds reservations to it."""
    return Account(
        name=account.name,
        max_workers=account.max_workers,
        usd=tuple((window.value, usd) for window, usd in account.usd()),
        tokens=tuple((window.value, most) for window, most in account.tokens()),
    )


def read_secret(where: str, what: str) -> str:
    """Return what a file says that nobody else can read, without its last line end.

    Raises:
        UsageError: there is no such file, others can read it, or it holds no secret.
    """
    path = Path(where).expanduser()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"{what} cannot be read from {path}: {error.strerror}") from None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{what}: {path} is no file")
        if found.st_mode & 0o077:
            raise UsageError(
                f"{what}: others can read {path} (mode {stat.S_IMODE(found.st_mode):04o})",
                hint=f"chmod 600 {path}",
            )
        if found.st_uid not in (os.geteuid(), 0):
            raise UsageError(f"{what}: {path} belongs to {access.name_of(found.st_uid)}")
        data = file.read(_LONGEST + 1)
    try:
        value = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        value = ""
    if not value or len(data) > _LONGEST or "\0" in value:
        raise UsageError(f"{what}: {path} holds no secret: one line of text is expected")
    return value
