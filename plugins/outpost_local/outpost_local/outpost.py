"""The local outpost: each worker is a folder and a supervisor process, seen through tmux.

What is true about a worker is in its folder and in whether its supervisor lives. tmux only shows
it: the supervisor ignores the hang-up of its terminal, so a tmux server that is killed takes no
work with it. Every method can be called by any number of programs at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outpost_agents.presets import PRESETS
from outpost_core.agents import logged_in
from outpost_core.backend import BuildContext, Outpost
from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
    UnsupportedError,
    UsageError,
)
from outpost_core.hookspecs import hookimpl
from outpost_core.types import (
    Cleaned,
    Facts,
    Finding,
    Health,
    Message,
    Order,
    State,
    Step,
    WorkerStatus,
    split_worker_id,
)
from outpost_local import console, fencing, resources
from outpost_local.detached import Detached
from outpost_local.dialogs import question
from outpost_local.launcher import Launcher
from outpost_local.options import CAPABILITIES, Fence, LocalOptions, Mode
from outpost_local.starting import (
    Starter,
    fault,
    interactive,
    is_without_terminal,
    terminal_gone,
    without_terminal,
)
from outpost_local.tmux import Tmux
from outpost_shared import access, faults, paths, private, programs, terminfo
from outpost_worker.folder import files, logs, publish, status
from outpost_worker.recovery import cleaning
from outpost_worker.run import stop

if TYPE_CHECKING:
    from outpost_core.agents import AgentPreset
    from outpost_local.mail import Mailbox

#: Seconds after which a supervisor that has not begun, or a recovery that left no result, is
#: started again: both may have been killed in their first milliseconds.
AGAIN = 30.0
#: Seconds after which it is looked again whether nobody else can write the state folder.
LOOK_AGAIN = 1.0


class LocalOutpost(Outpost):
    """Workers on this machine.

    Args:
        name: the configured name.
        options: its options.
        context: where it keeps its state unless `state_path` says so.
    """

    type = "local"
    options: LocalOptions

    def __init__(self, name: str, options: LocalOptions, context: BuildContext) -> None:
        super().__init__(name, options, context)
        self._root = _resolve(options.state_path, context) or context.state_dir.absolute()
        self._looked = -inf  # time.monotonic() when nobody else could have written it
        self._closed = ""  # said when others could write it until then
        tmux = options.mode is Mode.TMUX or (
            options.mode is Mode.AUTO and shutil.which("tmux") is not None
        )
        self.capabilities = CAPABILITIES if tmux else CAPABILITIES - {"attach"}
        self._agent_env = self._make_agent_env(context)
        self._tmux = Tmux(self._root) if tmux else None
        self._detached = Detached()
        self._starter = Starter(name, self._root, options.mode, self._tmux, self._detached)
        self._launcher = Launcher(self._starter.start)
        self._scanning = threading.Lock()
        self._scanned: dict[str, Any] = {}
        self._try_again: dict[tuple[str, str], float] = {}  # (verb, worker) → time.monotonic()
        self._tmux_version = ""
        self._fence_here: dict[str, Any] = {}  # what was found out of it, once

    def kept_under(self) -> Path | None:
        """Return its folder: its workers are on this machine."""
        return self._root

    @property
    def root(self) -> Path:
        """The state folder: asked for what is in it once nobody else could have written it.

        Raises:
            UnreachableError: somebody else could have.
        """
        now = time.monotonic()
        if now > self._looked + LOOK_AGAIN:
            try:
                closed = private.claim(str(self._root), make=False)
            except access.NotPrivateError as error:
                raise self._refused(error) from error
            except OSError:  # whoever uses it says what is wrong
                return self._root
            self._looked, self._closed = now, closed or self._closed
        return self._root

    def _refused(self, error: access.NotPrivateError) -> UnreachableError:
        where = "" if error.path == str(self._root) else f"{error.path}: "
        return UnreachableError(
            f"the state folder {self._root} of {self.name} is refused: {where}{error.why}",
            hint=error.hint,
        )

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

    # --- required -------------------------------------------------------------------------

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Publish the order as a worker's folder, and start its supervisor.

        Raises:
            ConflictError: the id exists with another order.
            SpawnRefusedError: memory or disk is short, or no worker can run here.
            UnreachableError: the folder is there, but the disk failed under it.
        """
        try:
            folder = self._folder(order.worker)
        except UnreachableError as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error
        if not folder.exists():
            resources.check(self.root, self.options.memory_floor, self.options.disk_floor)
            await asyncio.to_thread(self._check_fence, order.worker)
        try:
            await asyncio.to_thread(
                publish.publish,
                self.root,
                order,
                self._agent_env,
                rig=self._rig(order),
                fence=fencing.settings(self.options, self.context, self.root),
            )
        except OSError as error:
            why = f"{folder} cannot be written: {error.strerror}"
            if folder.exists():
                raise UnreachableError(why, hint=f"outpost doctor {self.name}") from error
            raise SpawnRefusedError(why, hint=f"outpost doctor {self.name}") from error
        # Not begun: it is new, or its first spawner ended between the two steps.
        if not (status.started(folder) or status.needs_recovery(folder)):
            self._try_again["run", order.worker] = time.monotonic() + AGAIN
            if not order.agent.interactive:
                with contextlib.suppress(OSError):  # then it gets a terminal, which it never needs
                    without_terminal(folder)
            await self._launcher.launch(folder)
            faults.point("local.launched")
        return self._looked_at(status.read(folder))

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers; those whose supervisor vanished are recovered from now on."""
        self._detached.reap()
        return await asyncio.to_thread(self._list)

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say whether a worker could be started here now, without starting anything."""
        memory = resources.available_memory()
        why = resources.shortage(self.root, self.options.memory_floor, self.options.disk_floor)
        hint = "outpost clean, or lower the floor" if why else ""
        if unfit := resources.unfit():
            return Health(ok=False, detail=unfit, hint=resources.ELSEWHERE, free_memory=memory)
        if self._tmux is None:
            detail = "detached processes"
        elif shutil.which("tmux") is None:
            why, hint = "tmux is not installed", "sudo apt install tmux"
        else:
            self._tmux_version = self._tmux_version or await _tmux_version()
            detail = self._tmux_version
        detail = "; ".join(filter(None, (why or detail, self._closed)))
        return Health(ok=not why, detail=detail, hint=hint, free_memory=memory)

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield the worker's output from byte `offset` on.

        Raises:
            NotFoundError: there is no such worker.
        """
        async for chunk in logs.follow(self._known(worker), offset, follow):
            yield chunk

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Ask the worker's supervisor to end its whole tree; an unknown worker is fine."""
        with contextlib.suppress(NotFoundError):
            folder = self._known(worker)
            await asyncio.to_thread(stop.request, folder, grace)
            self._looked_at(status.read(folder))  # without a supervisor, its recovery ends it

    # --- optional ---------------------------------------------------------------------------

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove an ended worker's files, after its unpushed work was rescued."""
        try:
            folder = self._known(worker)
        except NotFoundError:
            # gone, unless an earlier try could not remove all of it
            left = await asyncio.to_thread(cleaning.leftovers, self.root, worker)
            return Cleaned(removed=force or not left, detail=left)
        cleaned = await asyncio.to_thread(cleaning.clean, self.root, folder, force=force)
        if cleaned.removed:
            with self._scanning:
                self._scanned.pop(worker, None)
                for verb in ("run", "recover"):
                    self._try_again.pop((verb, worker), None)
        return cleaned

    @hookimpl
    async def outpost_attach(self, worker: str) -> int:
        """Show the worker's tmux session on the caller's terminal; headless ones read-only.

        Raises:
            UsageError: the caller has no terminal.
            OutpostError: what `viewer` raises.
        """
        return await console.attach(worker, await self.viewer(worker))

    @hookimpl
    async def outpost_nudge(self, worker: str, text: str) -> None:
        """Type `text` and Enter into an interactive worker.

        Raises:
            NotFoundError: there is no such worker.
            UnsupportedError: it is headless.
            UsageError: it has ended.
            OutpostError: it does not listen.
        """
        folder = self._known(worker)
        console.check_interactive(worker, interactive(folder))
        self._check_running(worker, folder)
        if self._tmux and not is_without_terminal(folder):
            screen = await asyncio.to_thread(self._tmux.capture, worker, 50)
            if asked := question(screen or ""):
                raise OutpostError(
                    f"{worker} shows a dialog, and a line of text does not answer it: {asked}",
                    hint=f"outpost attach {worker}",
                )
        await console.nudge(worker, folder, text)

    @hookimpl
    async def outpost_peek(self, worker: str, lines: int) -> str:
        """Return the last lines of an interactive worker's screen, else those of its log.

        Raises:
            NotFoundError: there is no such worker.
        """
        folder = self._known(worker)
        if self._tmux and interactive(folder) and not is_without_terminal(folder):
            screen = await asyncio.to_thread(self._tmux.capture, worker, lines)
            if screen is not None:
                return screen
        kept = files.load_text(str(folder), files.SCREEN) if interactive(folder) else ""
        if kept:  # it has ended
            shown = kept.splitlines()[-lines:]
            return "\n".join(map(console.plain, shown)) + "\n"
        return await asyncio.to_thread(console.tail, folder / files.LOG, lines)

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

    @hookimpl
    async def outpost_close(self) -> None:
        """Collect ended children; nothing is held open between calls."""
        self._detached.reap()

    async def viewer(self, worker: str) -> list[str]:
        """Return the command that shows the worker's tmux session; headless ones read-only.

        Raises:
            NotFoundError: there is no such worker.
            UnsupportedError: it runs without tmux.
            UsageError: it has ended.
            OutpostError: its terminal is gone.
        """
        folder = self._known(worker)
        self._check_running(worker, folder)
        typed = interactive(folder)
        if self._tmux is None or (typed and is_without_terminal(folder)):
            raise UnsupportedError(
                f"{worker} runs without tmux, so there is nothing to attach to",
                hint=f"outpost logs -f {worker}",
            )
        if not typed:
            await asyncio.to_thread(self._starter.show, folder)
        elif not await asyncio.to_thread(self._tmux.has, worker):
            raise OutpostError(
                f"the terminal of {worker} is gone (its tmux session was ended); the work goes on",
                hint=f"outpost logs -f {worker}",
            )
        return self._tmux.attach_argv(worker, read_only=not typed)

    # --- inside ------------------------------------------------------------------------------

    def _rig(self, order: Order) -> str | None:  # noqa: ARG002 - one who inherits looks at it
        """Return where the order's rig is on this machine; None when the order itself says it."""
        return None

    def _check_fence(self, worker: str) -> None:
        """Refuse a worker where its agent would have no fence, and one is required.

        Raises:
            SpawnRefusedError: none can be made here.
        """
        if self.options.fence is not Fence.REQUIRED:
            return
        self._fence_here = self._fence_here or fencing.probe()
        if not self._fence_here["fence"]:
            raise SpawnRefusedError(
                f"{worker} would have no fence, and `fence: required` asks for one:"
                f" {fencing.why_not(self._fence_here)}",
                hint=self._fence_here["hint"] or f"outpost doctor {self.name}",
            )

    def _mailbox(self) -> Mailbox:
        from outpost_local.mail import Mailbox

        return Mailbox(self.root, _resolve(self.options.town_path, self.context), self._agent_env)

    def _folder(self, worker: str) -> Path:
        return self.root / files.WORKERS / worker

    def _known(self, worker: str) -> Path:
        """Return the folder of a worker that is there.

        Raises:
            NotFoundError: it is not.
            UnreachableError: nothing can be known of it, since there is no `/proc`.
        """
        try:
            split_worker_id(worker)
            folder = self._folder(worker)
        except UsageError:
            folder = None
        if folder is None or not os.path.lexists(folder):
            raise NotFoundError(
                f"{ascii(worker)[1:-1]} is not a worker of {self.name}",
                hint="outpost workers --all",
            )
        self._check_system(worker)
        return folder

    def _check_system(self, worker: str) -> None:
        """Tell nothing of a worker where its living supervisor would be taken for a dead one."""
        if why := resources.unfit():
            raise UnreachableError(f"nothing can be known of {worker}: {why}", hint="mount /proc")

    def _check_running(self, worker: str, folder: Path) -> None:
        state = self._looked_at(status.read(folder)).state
        if state.terminal:
            raise UsageError(f"{worker} has ended ({state})", hint=f"outpost logs {worker}")

    def _list(self) -> list[WorkerStatus]:
        if resources.unfit():
            workers = self.root / files.WORKERS
            for folder in workers.iterdir() if workers.is_dir() else ():
                self._check_system(folder.name)
            return []
        try:
            with self._scanning:
                return [self._looked_at(found) for found in status.scan(self.root, self._scanned)]
        except OSError as error:  # not one is missing, nobody can say
            raise UnreachableError(
                f"the workers at {self.root} cannot be read: {error.strerror}",
                hint=f"outpost doctor {self.name}",
            ) from error

    def _looked_at(self, found: WorkerStatus) -> WorkerStatus:
        """Return a status as it may be told: never an end that is not certain."""
        if found.result is not None:
            # One whose supervisor vanished ends with its recovery, which may find it done.
            vanished = found.result.finished_at is None
            return self._recover(found) if vanished else found
        if found.started_at is None:
            self._launch_forgotten(found)
            return dataclasses.replace(found, state=State.QUEUED)
        if terminal_gone(self._folder(found.id)):
            detail = f"{found.detail}; terminal gone" if found.detail else "terminal gone"
            return dataclasses.replace(found, detail=detail)
        return found

    def _launch_forgotten(self, found: WorkerStatus) -> None:
        """Launch what was published long ago and has not begun: whoever was to do it is gone.

        Nothing runs twice by this: the first supervisor that begins claims the attempt for ever.
        """
        folder = self._folder(found.id)
        try:
            age = time.time() - (folder / files.ORDER).lstat().st_mtime
        except FileNotFoundError:  # cleaned meanwhile
            return
        if age > AGAIN and self._is_due("run", found.id):
            self._starter.start([folder])

    def _recover(self, found: WorkerStatus) -> WorkerStatus:
        """Start the recovery of a vanished supervisor's worker, unless one is at it."""
        folder = self._folder(found.id)
        with cleaning.locked(folder) as free:
            start = free and self._is_due("recover", found.id)
        if start:
            env = programs.own_env(os.environ) | fault()
            self._detached.start(publish.command(folder, "recover"), env)
        return dataclasses.replace(
            found,
            state=State.QUEUED if found.started_at is None else State.WORKING,
            detail=f"{found.detail}; recovering",
            result=None,
        )

    def _is_due(self, verb: str, worker: str) -> bool:
        """Whether a verb may be started again for a worker; then not soon once more."""
        now = time.monotonic()
        due = now >= self._try_again.get((verb, worker), now)
        if due:
            self._try_again[verb, worker] = now + AGAIN
        return due


def _resolve(path: Path | None, context: BuildContext) -> Path | None:
    if path is None:
        return None
    return ((context.config_dir or paths.here(os.environ)) / path.expanduser()).absolute()


async def _tmux_version() -> str:
    from outpost_local.doctor import output

    return await output("tmux", "-V") or "tmux"
