"""The configuration is read again while a program stays."""

from __future__ import annotations

from outpost_core.errors import OutpostError
from outpost_manager.config import choose, load_config
from outpost_manager.manager.parts import Parts, mark_of
from outpost_manager.offloop import off_loop
from outpost_manager.orders.presets import offered
from outpost_shared.log import Logger

_log = Logger("manager")


class Reloading(Parts):
    """What a program that stays asks: whether another configuration counts, and to read it."""

    async def config_changed(self) -> bool:
        """Say whether another configuration counts than when this was asked or one was read last.

        That is so for a file that was edited, made, removed, or trusted since.
        """

        def look() -> object:
            try:
                return mark_of(choose(self._config_file, self._environ, self._cwd))
            except OutpostError as error:
                return str(error)

        before, self._mark = self._mark, await off_loop(look)
        return self._mark != before

    async def reload(self) -> None:
        """Read the configuration again; what it says now holds from now on.

        Outposts whose entry is the same stay as they are, with all that is under way there. Of
        one whose entry has changed, what is under way ends at the outpost as it was. One that is
        gone takes no more orders, and is known until the workers there have ended.

        Raises:
            ConfigError: it has a mistake, or the file has changed since the user trusted it;
                nothing was changed.
        """
        choice = await off_loop(choose, self._config_file, self._environ, self._cwd)
        choice.demand()
        config = await self._ask(
            lambda: load_config(
                choice.path,
                self.plugins.backends,
                data=choice.data,
                presets=lambda: offered(self.plugins),
            )
        )
        live = await self.ledger.active()
        self.config = config
        self.fleet.reload(config, live)
        self._register_own()
        defaults = config.defaults
        if self._placement is not None:
            self._placement.spawn_timeout = defaults.spawn_timeout
            self._placement.answer_timeout = defaults.answer_timeout
        if self._recovery is not None:
            self._recovery.patience = defaults.answer_timeout
        if self._presence is not None:
            self._presence.patience = defaults.answer_timeout
        _log.info("the configuration was read again: %s", ", ".join(self.fleet.names))
