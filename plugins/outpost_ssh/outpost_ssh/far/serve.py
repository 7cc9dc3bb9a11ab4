"""The far server: the local outpost of that machine, served over stdin and stdout.

All names of outposts on all near sides see the same workers: the state root belongs to the far
login, not to a connection or to who configured it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core import __version__, wire
from outpost_core.backend import BuildContext
from outpost_core.errors import UsageError
from outpost_core.hookspecs import hookimpl
from outpost_local.options import Fence, LocalOptions, Mode
from outpost_local.outpost import LocalOutpost
from outpost_shared import faults, programs
from outpost_ssh.far import login
from outpost_worker.hosting import methods
from outpost_worker.hosting.outpost import Hosting
from outpost_worker.serving import server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outpost_core.agents import AgentPreset
    from outpost_core.types import Finding, Health, Json, Order, WorkerStatus

#: Programs that a worker needs; one that sshd's PATH lacks may be in the login's.
_NEEDED: Final = ("tmux", "git")


@dataclass(frozen=True, kw_only=True)
class FarOptions:
    """What the near side says in its hello.

    Args:
        controller: identity of the near program's state, for its own repositories.
        mode: see `outpost_local.options.Mode`.
        state_path: where workers live, instead of the login's own place.
        town_path: as for a local outpost, and so are all others but the last.
        agent_path: see `town_path`.
        pass_env: see `town_path`.
        fence: see `outpost_local.options.Fence`.
        fence_write: see `town_path`.
        fence_hide: see `town_path`.
        fence_show: see `town_path`.
        memory_floor: see `town_path`.
        disk_floor: see `town_path`.
        fault: in tests, the point at which to die.
    """

    controller: str = ""
    mode: str = "auto"
    state_path: str | None = None
    town_path: str | None = None
    agent_path: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    fence: str = "auto"
    fence_write: tuple[str, ...] = ()
    fence_hide: tuple[str, ...] = ()
    fence_show: tuple[str, ...] = ()
    memory_floor: int | None = None
    disk_floor: int = 256 * 1024 * 1024
    fault: str = ""


class FarOutpost(Hosting, LocalOutpost):
    """The workers of a far machine's login, on that machine."""

    type = "ssh-far"

    def __init__(self, name: str, options: LocalOptions, context: BuildContext) -> None:
        self._entered = False
        self._entering = asyncio.Lock()
        for variable in login.OF_THE_CONNECTION:
            os.environ.pop(variable, None)
        if any(shutil.which(program) is None for program in _NEEDED):
            self._take(login.environment(os.environ), options)
        super().__init__(name, options, context)
        self.disk_floor = options.disk_floor

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Spawn, with the environment of a login."""
        await self.log_in()
        return await super().outpost_spawn(order)

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say also which Python it is that runs here."""
        health = await super().outpost_ping()
        detail = f"{health.detail}, Python {platform.python_version()}"
        return dataclasses.replace(health, detail=detail) if health.ok else health

    @hookimpl
    async def outpost_doctor(self, rig: str | None) -> Sequence[Finding]:
        """Look at everything that a worker needs on this machine, as a worker would see it."""
        await self.log_in()
        return await super().outpost_doctor(rig)

    def agent_install(self, agent: AgentPreset) -> str:
        """Return the command of the near side: who reads the findings sits there."""
        return f"outpost bootstrap {self.name} --agent {agent.name}"

    async def log_in(self) -> None:
        """Give the agents that start from now on what a login shell sets up; once."""
        async with self._entering:
            if not self._entered:
                told = await asyncio.to_thread(login.environment, os.environ)
                self._take(told, self.options)
                self._agent_env = self._make_agent_env(self.context)

    def _take(self, told: Mapping[str, str], options: LocalOptions) -> None:
        os.environ.update(programs.base_env(told, options.pass_env))
        self._entered = True


def build(name: str, options: Mapping[str, Json]) -> FarOutpost:
    """Build the outpost that the near side asks for.

    Raises:
        UsageError: the options are not what they should be.
    """
    asked = wire.from_json(FarOptions, dict(options))
    try:
        mode = Mode(asked.mode)
    except ValueError:
        raise UsageError(f"mode: {asked.mode!a} is none of {', '.join(Mode)}") from None
    try:
        fence = Fence(asked.fence)
    except ValueError:
        raise UsageError(f"fence: {asked.fence!a} is none of {', '.join(Fence)}") from None
    if asked.fault:
        faults.arm(asked.fault)
    local = LocalOptions(
        mode=mode,
        town_path=_there(asked.town_path),
        agent_path=asked.agent_path,
        pass_env=asked.pass_env,
        fence=fence,
        fence_write=asked.fence_write,
        fence_hide=asked.fence_hide,
        fence_show=asked.fence_show,
        memory_floor=asked.memory_floor,
        disk_floor=asked.disk_floor,
    )
    # found before a profile is asked: the place must not depend on what is installed
    root = _there(asked.state_path) or state_root(os.environ)
    context = BuildContext(state_dir=root.absolute(), config_dir=Path.home())
    outpost = FarOutpost(name, local, context)
    outpost.controller = asked.controller
    return outpost


def _there(path: str | None) -> Path | None:
    """Return a folder as the login here means it: `~` and relative ones are in its home."""
    return Path.home() / Path(path).expanduser() if path else None


def state_root(environ: Mapping[str, str]) -> Path:
    """Return where a far login keeps its workers: one place, whatever the outpost is called."""
    base = environ.get("XDG_STATE_HOME", "")
    folder = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return folder / "outpost" / "far"


def main() -> int:
    """Serve until the near side hangs up; workers keep running."""
    return server.main(build, server=f"outpost-ssh {__version__}", extra=methods.METHODS)
