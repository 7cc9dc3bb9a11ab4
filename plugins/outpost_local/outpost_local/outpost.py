"""The local outpost: each worker is a folder and a supervisor process, seen through tmux.

What is true about a worker is in its folder and in whether its supervisor lives. tmux only shows
it: the supervisor ignores the hang-up of its terminal, so a tmux server that is killed takes no
work with it. Every method can be called by any number of programs at once.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outpost_agents.presets import PRESETS
from outpost_core.agents import logged_in
from outpost_core.backend import BuildContext
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Facts, Finding, Health, Message, Order, Step
from outpost_local import fencing, resources
from outpost_local.options import CAPABILITIES, Fence, LocalOptions, Mode
from outpost_local.tmux import Tmux
from outpost_shared import paths, programs, terminfo
from outpost_shared.viewer import attach
from outpost_worker.console.outpost import Console
from outpost_worker.system import fitness

if TYPE_CHECKING:
    from outpost_core.agents import AgentPreset
    from outpost_local.mail import Mailbox


class LocalOutpost(Console):
    """Workers on this machine.

    Args:
        name: the configured name.
        options: its options.
        context: where it keeps its state unless `state_path` says so.
    """

    type = "local"
    options: LocalOptions

    def __init__(self, name: str, options: LocalOptions, context: BuildContext) -> None:
        root = _resolve(options.state_path, context) or context.state_dir.absolute()
        tmux = options.mode is Mode.TMUX or (
            options.mode is Mode.AUTO and shutil.which("tmux") is not None
        )
        super().__init__(
            name,
            options,
            context,
            root=root,
            tmux=Tmux(root) if tmux else None,
            tmux_only=options.mode is not Mode.AUTO,
        )
        self.capabilities = CAPABILITIES if tmux else CAPABILITIES - {"attach"}
        self._agent_env = self._make_agent_env(context)
        self._tmux_version = ""
        self._fence_here: dict[str, Any] = {}  # what was found out of it, once

    def _make_agent_env(self, context: BuildContext) -> dict[str, str]:
        env = programs.base_env(os.environ, self.options.pass_env)
        if self.options.agent_path:
            own = [str(Path(folder).expanduser()) for folder in self.options.agent_path]
            env["PATH"] = os.pathsep.join([*own, env.get("PATH", os.defpath)])
        # What people install for themselves is not on the PATH of every login.
        home = paths.home(os.environ)
        user = str(home / ".local" / "bin") if home else ""
        if user and user not in (path := env.get("PATH", os.defpath)).split(os.pathsep):
            env["PATH"] = os.pathsep.join([path, user])
        if term := terminfo.known(os.environ):
            env["TERM"] = term
        if town := _resolve(self.options.town_path, context):
            env["GT_ROOT"] = env["GT_TOWN_ROOT"] = str(town)
        return env

    # --- what it is as an outpost over a folder -------------------------------------------------

    def admit(self, order: Order) -> None:
        """Refuse a worker for which memory, disk or the fence is short."""
        resources.check(self.root, self.options.memory_floor, self.options.disk_floor)
        if self.options.fence is Fence.REQUIRED:
            self._fence_here = self._fence_here or fencing.probe()
            fencing.require(self._fence_here, order.worker, self.name)

    def agent_env(self) -> Mapping[str, str]:
        """Return the environment of every agent here."""
        return self._agent_env

    def fence(self, order: Order) -> dict[str, Any]:  # noqa: ARG002
        """Return the fence that is configured."""
        own = self.options
        return self.fence_settings(
            own.fence.value, write=own.fence_write, hide=own.fence_hide, show=own.fence_show
        )

    # --- hooks ------------------------------------------------------------------------------------

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say whether a worker could be started here now, without starting anything."""
        memory = resources.available_memory()
        why = resources.shortage(self.root, self.options.memory_floor, self.options.disk_floor)
        hint = "outpost clean, or lower the floor" if why else ""
        if unfit := fitness.unfit():
            return Health(ok=False, detail=unfit, hint=fitness.ELSEWHERE, free_memory=memory)
        if self._tmux is None:
            detail = "detached processes"
        elif shutil.which("tmux") is None:
            why, hint = "tmux is not installed", "sudo apt install tmux"
        else:
            self._tmux_version = self._tmux_version or await _tmux_version()
            detail = self._tmux_version
        detail = "; ".join(filter(None, (why or detail, self.closed)))
        return Health(ok=not why, detail=detail, hint=hint, free_memory=memory)

    @hookimpl
    async def outpost_attach(self, worker: str) -> int:
        """Show the worker's tmux session on the caller's terminal; headless ones read-only.

        Raises:
            UsageError: the caller has no terminal.
            OutpostError: what `viewer` raises.
        """
        return await attach(worker, await self.viewer(worker))

    @hookimpl
    async def outpost_mail(self, message: Message) -> None:
        """Deliver a message through `gt` where a town has it, else into its file.

        Raises:
            UsageError: it can never be delivered.
            UnreachableError: it was not, or nobody can say; it may come again.
        """
        await asyncio.to_thread(self._mailbox().deliver, message)

    @hookimpl
    async def outpost_inbox(self, identity: str) -> Sequence[Message]:
        """Return the messages for someone here, oldest first; "" for everybody's."""
        return await asyncio.to_thread(self._mailbox().inbox, identity)

    @hookimpl
    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        """Say how much this machine has, and where agents' programs are, as a worker finds them."""
        path = self._agent_env.get("PATH", os.defpath)
        found = {name: shutil.which(name, path=path) or "" for name in programs}
        logins = {}
        for preset in PRESETS.values():
            program = (preset.headless or preset.interactive or ("",))[0]
            seen = logged_in(preset, self._agent_env) if found.get(program) else None
            if seen is not None:
                logins[program] = seen
        return Facts(
            cpus=resources.cores(), memory=resources.whole_memory(), programs=found, logins=logins
        )

    @hookimpl
    async def outpost_doctor(self, rig: str | None) -> Sequence[Finding]:
        """Look at everything that a worker needs on this machine."""
        from outpost_local import doctor

        path = self._agent_env.get("PATH", os.defpath)
        return await doctor.examine(self.root, self.options, path, rig, installs=self.agent_install)

    def agent_install(self, agent: AgentPreset) -> str:
        """Return the command that installs an agent here, for who reads the doctor's findings."""
        return agent.install

    @hookimpl
    async def outpost_bootstrap(self, agents: Sequence[str], dry_run: bool) -> AsyncIterator[Step]:
        """Install what a worker needs on this machine, as far as that goes without a password."""
        from outpost_local.setup.here import HereShell, bootstrap

        async for step in bootstrap(
            HereShell(),
            agents,
            dry_run,
            town=_resolve(self.options.town_path, self.context),
            doctor=lambda: self.outpost_doctor(rig=None),
        ):
            yield step

    # --- inside ------------------------------------------------------------------------------

    def _mailbox(self) -> Mailbox:
        from outpost_local.mail import Mailbox

        return Mailbox(self.root, _resolve(self.options.town_path, self.context), self._agent_env)


def _resolve(path: Path | None, context: BuildContext) -> Path | None:
    if path is None:
        return None
    return ((context.config_dir or paths.here(os.environ)) / path.expanduser()).absolute()


async def _tmux_version() -> str:
    from outpost_local.doctor import output

    return await output("tmux", "-V") or "tmux"
